"""What can be wrong with the files of a data folder: one function for each kind of thing.

Nothing here stops at the first defect, and nothing prints: a function looks at one thing and returns what it
found. A finding says which file, what was found there and how to mend it, and how bad it is: an *error* would
stop a run or spoil its numbers, a *warning* makes numbers differ from the release's or is worth a look, a
*note* says aloud what is as intended.

`told` turns an exception's sentence into a finding; `check_frame` looks at a photograph and its mask and
`check_frames` at many of them, `check_labels` at what a mask holds, `check_flow` at what the release wants beside
the masks. Processes that only look at files import this module and nothing heavy with it.

What can be wrong with the annotations of YouTube-VIS beyond what a scan complains about.

A scan tells of videos, annotations and categories that cannot be used. `ytvis_form` comes before it and says
whether the file has the entries that a scan reads at all; `check_ytvis` comes after it and looks at what can be
used but should not be so: objects that are in no frame, and another number of videos than the edition has.

`check_layout` compares a folder with the layout that its dataset is read from, before anything else looks into it.

What a fold can be drawn from, and what base training has seen of it.

Few-shot numbers mean something only if the novel classes are new and if there is enough to draw from. The
benchmarks are not as strict as one would think: where other classes count as background, base training sees
novel objects without their names. All of that is counted here and said aloud.

`check_coverage` asks whether every novel class can be drawn with the shots asked, `check_leakage` what base
training shares with the episodes of a fold, `check_draws` what the way of drawing means, and `check_names` whether
training on another corpus has named novel classes.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from ttilib.datasets.base import Dataset, FrameFiles
from ttilib.datasets.catalog import Fold, coco_name
from ttilib.datasets.masks import decode
from ttilib.episodes.sampling import Draw, shared_classes
from ttilib.files import read_json
from ttilib.images import read_image, read_labels

ERROR, WARNING, NOTE = "error", "warning", "note"
FETCH = "fetch the file again"
MANY, VERY_MANY = 500, 5000
"""So many frames take long enough for a bar; so many, for other processes to be worth their start."""


@dataclass(frozen=True)
class Finding:
    """One thing that was noticed: how bad it is, in which file, what was found, how to mend it."""

    severity: str
    file: str
    found: str
    mend: str


def told(error: Exception, place: Path | str) -> Finding:
    """An error's sentence "FILE: what was found; what to do" as a finding, about `place` if it names no file."""
    if isinstance(error, OSError) and error.filename is not None:
        about = error.strerror or type(error).__name__
        return Finding(ERROR, str(error.filename), about.lower(), "see that it exists and may be read")
    if not isinstance(error, ValueError | OSError):  # a file of another form than anybody thought of
        return Finding(ERROR, str(place), f"another form than expected ({type(error).__name__}: {error})", FETCH)
    file, colon, rest = str(error).partition(": ")
    file, rest = (file, rest) if colon else (str(place), str(error))
    found, semicolon, mend = rest.rpartition("; ")
    return Finding(ERROR, file, found, mend) if semicolon else Finding(ERROR, file, rest, "see what is there")


def check_frame(shown: FrameFiles, thorough: bool = False) -> list[Finding]:
    """Photograph and mask are there, not empty, not cut off, and of one size; `thorough`: decode the photograph.

    Without `thorough` sizes come from the headers and a JPEG is whole if it ends in its end mark.
    """
    findings, sizes = [], {}
    for path, other in ((shown.picture, shown.mask), (shown.mask, shown.picture)):
        if path is None:
            continue
        try:
            if not path.exists():
                findings.append(_missing(path, other, "mask" if path is shown.mask else "picture"))
            else:
                sizes[path] = _mask_size(path) if path is shown.mask else _picture_size(path, thorough)
        except (ValueError, OSError) as error:
            findings.append(told(error, path))
    if shown.size is not None and sizes.get(shown.picture, shown.size) != shown.size:
        about = f"picture is {size_text(sizes[shown.picture])} pixels, its annotations say {size_text(shown.size)}"
        findings.append(Finding(ERROR, str(shown.picture), about, "fetch pictures and annotations of one edition"))
    if len(set(sizes.values())) > 1:
        about = f"picture is {size_text(sizes[shown.picture])}, its mask {size_text(sizes[shown.mask])} pixels"
        findings.append(Finding(ERROR, str(shown.picture), about, "fetch picture and mask of one edition"))
    return findings


def check_frames(
    frames: Sequence[FrameFiles], what: str, thorough: bool = False, workers: int = 1
) -> Iterator[list[Finding]]:
    """What is wrong with the files of each frame: looked at here, or, if there are many, by fresh processes."""
    job = partial(check_frame, thorough=thorough)
    bar = tqdm(total=len(frames), desc=what, unit=" frames", mininterval=1.0, disable=len(frames) <= MANY)
    with bar, ExitStack() as stack:
        work: Iterator[list[Finding]] = map(job, frames)
        if workers > 1 and len(frames) > VERY_MANY:
            fresh = multiprocessing.get_context("spawn")
            pool = ProcessPoolExecutor(workers, fresh, initializer=cv2.setNumThreads, initargs=(1,))
            stack.callback(pool.shutdown, cancel_futures=True)
            work = pool.map(job, frames, chunksize=64)
        for findings in work:
            bar.update()
            yield findings


def _missing(path: Path, other: Path | None, what: str) -> Finding:
    if other is None or not other.exists():
        return Finding(ERROR, str(path), f"no such {what}, though it is listed", "copy it, or mend the list")
    about = "a frame without a mask" if what == "mask" else "a mask without its picture"
    return Finding(ERROR, str(path), f"no such {what}: {about}", "copy it, or take the other file away")


def size_text(size: Sequence[int]) -> str:
    """Height and width for people."""
    return f"{size[0]} x {size[1]}"


def _picture_size(path: Path, thorough: bool) -> tuple[int, int]:
    """Height and width; whatever looks odd is decoded, so that it is refused with the reader's own sentence."""
    if not thorough and path.stat().st_size > 2:
        with path.open("rb") as file:
            file.seek(-2, os.SEEK_END)
            whole = file.read(2) == b"\xff\xd9"
            file.seek(0)
            if whole and (size := _header_size(file)) is not None:
                return size
    height, width, _ = read_image(path).shape
    return height, width


def _mask_size(path: Path) -> tuple[int, int]:
    height, width = _header_size(path) or read_labels(path).shape
    return height, width


def _header_size(file: Any) -> tuple[int, int] | None:
    try:
        with Image.open(file) as image:
            return image.height, image.width
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        return None


def check_labels(
    path: Path, counts: Mapping[int, int], allowed: Collection[int], unjudged: Collection[int], severity: str = ERROR
) -> list[Finding]:
    """A mask holds `allowed` labels only, and some pixel that is not `unjudged`; `counts`: pixels per label."""
    findings = []
    if strange := {label: n for label, n in counts.items() if label not in allowed}:
        named = ", ".join(map(str, list(strange)[:6])) + (", ..." if len(strange) > 6 else "")
        about = f"labels {named} ({sum(strange.values())} pixels) are no classes of the table"
        mend = "save class ids as indices, without smoothing; 0 is background, 255 not judged"
        findings.append(Finding(severity, str(path), about, mend))
    if not set(counts) - set(unjudged):
        about = f"no judged pixel: all {sum(counts.values())} are {' or '.join(map(str, sorted(counts)))}"
        findings.append(Finding(WARNING, str(path), about, "look at it; it can neither teach nor score anything"))
    return findings


def check_flow(folder: Path, frames: Mapping[str, Sequence[str]]) -> list[Finding]:
    """Flow of the frames of each sequence: the release leaves out frames that have none, and never reads any."""
    findings, single = [], 0
    for name, there in frames.items():
        missing = [frame for frame in there if not (folder / name / "flow" / f"{frame}.pkl.pkl").is_file()]
        if len(missing) == 1 and missing[0] in (there[0], there[-1]):  # flow needs a neighbour
            single += 1
        elif missing:
            about = f"{len(missing)} of {len(there)} frames have no flow, first {missing[0]}; they are left out"
            mend = "fetch the flow files, or expect other episodes than the published ones"
            findings.append(Finding(WARNING, str(folder / name / "flow"), about, mend))
    if single:
        about = f"{single} of {len(frames)} sequences have no flow for their first or last frame, which is left out"
        findings.append(Finding(NOTE, str(folder), about, "nothing to do: as in the release"))
    return findings


ENTRIES = {
    "videos": {"id": int, "height": int, "width": int, "file_names": list},
    "annotations": {"id": int, "video_id": int, "category_id": int, "segmentations": list},
    "categories": {"id": int, "name": str},
}
"""What is read of train.json: its lists, and the entries of each item."""

EDITION = "use the train.json of the 2019 edition's train part"


def ytvis_form(path: Path) -> list[Finding]:
    """The three lists are there, and each of their items has the entries that are read."""
    content = read_json(path)
    if not isinstance(content, dict) or not all(isinstance(content.get(part), list) for part in ENTRIES):
        named = sorted(content) if isinstance(content, dict) else type(content).__name__
        about = f"found {str(named)[:60]}, expected the lists {', '.join(ENTRIES)}"
        return [Finding(ERROR, str(path), about, EDITION)]
    findings = []
    for part, needed in ENTRIES.items():
        for place, item in enumerate(content[part]):
            if wrong := [key for key, kind in needed.items() if not _has(item, key, kind)]:
                about = f"item {place} of {part} has no {', '.join(wrong)} of the kind expected"
                findings.append(Finding(ERROR, str(path), about, FETCH))
    return findings


def _has(item: Any, key: str, kind: type) -> bool:
    entry = item.get(key) if isinstance(item, dict) else None
    return isinstance(entry, kind) and (key != "file_names" or all(isinstance(file, str) for file in entry))


def check_ytvis(index: Mapping[str, Any], expected: int | None = None, thorough: bool = False) -> Iterator[Finding]:
    """Objects that are in no frame, and a number of videos other than `expected`; `thorough`: paint every outline.

    `index`: what `ytvis_index` returns.
    """
    path = str(index["path"])
    if expected is not None and len(index["videos"]) != expected:
        about = f"{len(index['videos'])} usable videos, the 2019 edition has {expected}"
        yield Finding(WARNING, path, about, f"{EDITION}, or expect other episodes than the published ones")
    for name, tracks in index["annotations"].items():
        video = index["videos"][name]
        for track in tracks:
            about = f"annotation {track['id']} of video {name}"
            if not any(track["segmentations"]):
                yield Finding(WARNING, path, f"{about} is in no frame", "nothing to do: it is never drawn")
            elif thorough:
                for frame, wrong in _unreadable(video, track["segmentations"]):
                    yield Finding(ERROR, path, f"{about} cannot be painted in frame {frame} ({wrong})", FETCH)


def _unreadable(video: Mapping[str, Any], outlines: list[Any]) -> Iterator[tuple[str, str]]:
    for frame, outline in zip(video["frames"], outlines, strict=True):
        try:
            if outline:
                decode(outline, video["height"], video["width"])
        except (ValueError, TypeError) as error:
            yield frame, str(error)


def tree(dataset: Dataset, root: Path | str) -> str:
    """The layout of a dataset in one line."""
    return f"lay {root} out so: {', '.join(dataset.layout)}"


def check_layout(dataset: Dataset, root: Path) -> list[Finding]:
    """Of everything that a dataset is read from there is at least one file."""
    findings = []
    for name, without in dataset.layout.items():
        if not any(_any_file(root, pattern) for pattern in name.split(" or ")):
            mend = "copy it, if that is not intended" if without else tree(dataset, root)
            if dataset.make_masks and name.endswith(".png"):
                mend = f"draw the masks: python -m ttilib prepare {dataset.name} --root {root}"
            about = "no such file" + (f", {without}" if without else "")
            findings.append(Finding(WARNING if without else ERROR, str(root / name), about, mend))
    return findings


def _any_file(root: Path, pattern: str) -> bool:
    parts = pattern.split("/")
    names = [f"*{part.rpartition('>')[2]}" if part.startswith("<") else part for part in parts]
    return any(path.is_file() for path in root.glob("/".join(names)))


AS_RELEASED = "nothing to do: as in the release; know it when you compare"
EVERY_CLASS = ("v1", "v2")
"""Draws that go through the classes; the others go through the videos and never meet a class without any."""


def check_coverage(query: Fold, support: Fold, draws: str, shots: Sequence[int]) -> Iterator[Finding]:
    """Every novel class has a video to be asked about, and enough others to draw the support from.

    `draws`: how the benchmark draws. "sequences" draw a support video again if need be, so one other is enough.
    """
    place, same = f"{query.corpus} fold {query.index}", query is support
    ids = {c: c for c in query.novel} if same else shared_classes(support, query)
    for number in query.novel:
        name = f"class {number} {query.names[number]}"
        asked = len(query.presence.get(number, {}))
        if number not in ids:
            about = f"{name} is none of the novel classes of {support.corpus}, so it is never asked for"
            yield Finding(NOTE, place, about, "nothing to do: classes are matched by name")
        elif not asked and draws not in EVERY_CLASS:
            about = f"{name} is in no {_unit(query)}, so it is never asked for"
            missing = "if it should be, fetch the missing part of the data"
            yield Finding(WARNING if same else NOTE, place, about, missing)
        else:
            found = len(support.presence.get(ids[number], {}))
            needed = {k: 2 if draws == "sequences" else k + same for k in shots}
            if short := [k for k in shots if found < needed[k]]:
                about = f"{name} can be drawn from {_count(found, support)}, {short[0]}-shot episodes need "
                about += str(needed[short[0]])
                yield Finding(ERROR, place, about, "ask for fewer shots, or fetch the missing part of the data")


def check_leakage(fold: Fold, shows: Mapping[str, Collection[int]], ignored: bool) -> Iterator[Finding]:
    """What base training on a corpus shares with the episodes of the same fold.

    `shows`: for each video, every class that is anywhere in it. `ignored`: training ignores pixels of classes
    that are not base; otherwise they are background. A corpus of which nothing is trained on gives nothing.
    """
    place, novel, unit = f"{fold.corpus} fold {fold.index}", set(fold.novel), _unit(fold)
    base = {fold.names[number]: number for number in fold.base}
    for number in fold.novel:
        if fold.names[number] in base:
            about = f"novel class {number} {fold.names[number]} is base class {base[fold.names[number]]} as well"
            yield Finding(ERROR, place, about, "mend the class table: base and novel classes are different things")
    train, val, asked = set(fold.train), set(fold.val), _asked(fold)
    if both := train & val:
        about = f"{_count(len(both), fold)} both trained and validated on, first {min(both)}"
        yield Finding(ERROR, place, about, "take them out of train.txt, or the scores are of what was trained on")
    seen = [{video for video in part if novel & set(shows.get(video, ()))} for part in (train, val)]
    if any(seen):
        about = f"{len(seen[0])} of {len(train)} {unit} of base training and {len(seen[1])} of {len(val)} of its "
        about += "validation show novel objects, " + ("which are ignored" if ignored else "as background")
        yield Finding(NOTE if ignored else WARNING, place, about, AS_RELEASED)
    if shared := (train - val) & asked:
        about = f"{len(shared)} of {len(asked)} {unit} of the episodes are in base training, without their novel names"
        yield Finding(WARNING, place, about, AS_RELEASED)


def check_draws(query: Fold, support: Fold, draws: str, drawn: Iterable[Draw] = ()) -> Iterator[Finding]:
    """Where support and query come from, and what auxiliary training sees; none that is drawn may support itself."""
    place, asked = f"{query.corpus} fold {query.index}", len(_asked(query))
    if query is support:
        again = ", and some are asked about more than once" if draws == "v2" else ""
        about = f"support and queries come from the same {asked} {_unit(query)}{again}; a query never supports itself"
        yield Finding(NOTE, place, about, AS_RELEASED)
        for video in sorted({d.video for d in drawn if d.video in {frame.split("/")[0] for frame in d.support}}):
            yield Finding(ERROR, place, f"{video} is drawn as support and query of one episode", "mend the draws")
    if draws in EVERY_CLASS:
        about = f"DCL's auxiliary training uses these {asked} videos of the novel classes, without labels"
        yield Finding(NOTE, place, about, "compare DCL weights with a baseline that may use them too")


def check_names(query: Fold, trained_on: str, trained: Collection[str]) -> Iterator[Finding]:
    """Whether training on another corpus has named novel classes of this one; `trained`: its base classes."""
    for number in query.novel:
        name = query.names[number]
        if {name, coco_name(name)} & set(trained):
            about = f"novel class {number} {name} is a base class of {trained_on} fold {query.index}, so it is not new"
            mend = "take the mended benchmark if there is one; the release's own table has this flaw"
            yield Finding(WARNING, f"{query.corpus} fold {query.index}", about, mend)


def visible(fold: Fold) -> dict[str, set[int]]:
    """Video to the classes in it, as far as the fold knows."""
    shows: dict[str, set[int]] = {}
    for number, videos in fold.presence.items():
        for video in videos:
            shows.setdefault(video, set()).add(number)
    return shows


def _asked(fold: Fold) -> set[str]:
    return {video for number in fold.novel for video in fold.presence.get(number, {})}


def _count(number: int, fold: Fold) -> str:
    return f"{number} {_unit(fold)}".removesuffix("s" if number == 1 else "")


def _unit(fold: Fold) -> str:
    return "videos" if any("/" in frame for names in fold.frames.values() for frame in names[:1]) else "stills"

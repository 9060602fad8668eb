"""Checks of the data, one function per kind of defect; they yield `Finding`s.

An *error* would stop a run or invalidate its results; a *warning* changes results against the release or needs
attention; a *note* states something intended.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from ttilib.datasets.base import Dataset, FrameFiles
from ttilib.datasets.catalog import Fold, coco_name
from ttilib.datasets.masks import decode
from ttilib.episodes.sampling import Sample, shared_classes
from ttilib.files import parallel_map, read_json
from ttilib.images import read_image, read_labels

ERROR, WARNING, NOTE = "error", "warning", "note"
FETCH = "fetch the file again"
AS_RELEASED = "nothing to do: as in the release; know it when you compare"
MANY, VERY_MANY = 500, 5000
"""More frames than these: a progress bar is shown, several processes are used."""


@dataclass(frozen=True)
class Finding:
    """One defect: severity, file, what was found, how to fix it."""

    severity: str
    file: str
    found: str
    mend: str


def finding_of(error: Exception, place: Path | str) -> Finding:
    """A finding from an error "FILE: what was found; what to do"; `place` stands in for a missing file name."""
    if isinstance(error, OSError) and error.filename is not None:
        about = error.strerror or type(error).__name__
        return Finding(ERROR, str(error.filename), about.lower(), "see that it exists and may be read")
    if not isinstance(error, ValueError | OSError):
        return Finding(ERROR, str(place), f"unexpected form ({type(error).__name__}: {error})", FETCH)
    file, colon, rest = str(error).partition(": ")
    file, rest = (file, rest) if colon else (str(place), str(error))
    found, semicolon, fix = rest.rpartition("; ")
    return Finding(ERROR, file, found, fix) if semicolon else Finding(ERROR, file, rest, "see what is there")


def layout_text(dataset: Dataset, root: Path | str) -> str:
    """The layout of a dataset in one line."""
    return f"arrange {root} so: {', '.join(dataset.layout)}"


def check_layout(dataset: Dataset, root: Path) -> Iterator[Finding]:
    """Every pattern of files of a dataset matches at least one file."""
    for name, without in dataset.layout.items():
        if not any(_any_file(root, pattern) for pattern in name.split(" or ")):
            fix = "copy it, if that is not intended" if without else layout_text(dataset, root)
            if dataset.make_masks and name.endswith(".png"):
                fix = f"draw the masks: python -m ttilib prepare {dataset.name} --root {root}"
            about = "no such file" + (f", {without}" if without else "")
            yield Finding(WARNING if without else ERROR, str(root / name), about, fix)


def _any_file(root: Path, pattern: str) -> bool:
    names = [f"*{part.rpartition('>')[2]}" if part.startswith("<") else part for part in pattern.split("/")]
    return any(path.is_file() for path in root.glob("/".join(names)))


def check_frame(frame: FrameFiles, thorough: bool = False) -> list[Finding]:
    """Image and mask exist, are complete, and have one size.

    `thorough`: decode the image; otherwise sizes come from the headers, and a complete JPEG has its end mark.
    """
    findings, sizes = [], {}
    for path, other, what in ((frame.picture, frame.mask, "image"), (frame.mask, frame.picture, "mask")):
        if path is None:
            continue
        try:
            if path.exists():
                # Decode what looks damaged, to report the error of the reader.
                header = _header_size(path) if what == "mask" or not thorough and _complete(path) else None
                sizes[what] = header or (read_image if what == "image" else read_labels)(path).shape[:2]
                continue
            about, fix = "though it is listed", "copy it, or fix the list"
            if other is not None and other.exists():
                about = "though its mask exists" if what == "image" else "though its image exists"
                fix = "copy it, or remove the other file"
            findings.append(Finding(ERROR, str(path), f"no such {what}, {about}", fix))
        except (ValueError, OSError) as error:
            findings.append(finding_of(error, path))
    for other, size in (("annotations", frame.size), ("mask", sizes.get("mask"))):
        if size and sizes.get("image", size) != size:
            (h, w), (own_h, own_w) = size, sizes["image"]
            about = f"image is {own_h} x {own_w} pixels, {other} {h} x {w}"
            findings.append(Finding(ERROR, str(frame.picture), about, f"fetch image and {other} of one edition"))
    return findings


def check_frames(
    frames: Sequence[FrameFiles], what: str, thorough: bool = False, workers: int = 1
) -> Iterator[list[Finding]]:
    """The findings of each frame; many frames are read by `workers` processes."""
    check = partial(check_frame, thorough=thorough)
    work = parallel_map(check, frames, workers if len(frames) > VERY_MANY else 1, chunk=64)
    bar = tqdm(total=len(frames), desc=what, unit=" frames", mininterval=1.0, disable=len(frames) <= MANY)
    with bar, closing(work):
        for findings in work:
            bar.update()
            yield findings


def _complete(path: Path) -> bool:
    """Whether a file ends with the JPEG end mark."""
    with path.open("rb") as file:
        file.seek(max(file.seek(0, os.SEEK_END) - 2, 0))
        return file.read() == b"\xff\xd9"


def _header_size(path: Path) -> tuple[int, int] | None:
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (OSError, SyntaxError, ValueError):
        return None


def check_labels(
    path: Path, counts: Mapping[int, int], allowed: Collection[int], ignored: Collection[int], severity: str = ERROR
) -> Iterator[Finding]:
    """A mask has `allowed` labels only, and not only `ignored` ones; `counts`: pixels per label."""
    if strange := {label: n for label, n in counts.items() if label not in allowed}:
        named = ", ".join(map(str, list(strange)[:6])) + (", ..." if len(strange) > 6 else "")
        about = f"labels {named} ({sum(strange.values())} pixels) are no classes of the table"
        fix = "save class ids as indices, without smoothing; 0 is background, 255 the ignore label"
        yield Finding(severity, str(path), about, fix)
    if not set(counts) - set(ignored):
        about = f"only ignored pixels: all {sum(counts.values())} are {' or '.join(map(str, sorted(counts)))}"
        yield Finding(WARNING, str(path), about, "look at it; it is useless for training and evaluation")


def check_flow(folder: Path, frames: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    """Every frame has a flow file: the release leaves out frames without, though it never reads the files."""
    single = 0
    for name, there in frames.items():
        missing = [frame for frame in there if not (folder / name / "flow" / f"{frame}.pkl.pkl").is_file()]
        if len(missing) == 1 and missing[0] in (there[0], there[-1]):  # flow needs a neighbouring frame
            single += 1
        elif missing:
            about = f"{len(missing)} of {len(there)} frames have no flow, first {missing[0]}; they are left out"
            fix = "fetch the flow files, or expect other episodes than the published ones"
            yield Finding(WARNING, str(folder / name / "flow"), about, fix)
    if single:
        about = f"{single} of {len(frames)} sequences have no flow for their first or last frame, which is left out"
        yield Finding(NOTE, str(folder), about, "nothing to do: as in the release")


ENTRIES = {
    "videos": {"id": int, "height": int, "width": int, "file_names": list},
    "annotations": {"id": int, "video_id": int, "category_id": int, "segmentations": list},
    "categories": {"id": int, "name": str},
}
"""Required lists of train.json and entries of their items."""

EDITION = "use the train.json of the 2019 edition's train part"


def check_ytvis_form(path: Path) -> Iterator[Finding]:
    """The three lists of train.json exist, and their items have the required entries."""
    content = read_json(path)
    if not isinstance(content, dict) or not all(isinstance(content.get(part), list) for part in ENTRIES):
        yield Finding(ERROR, str(path), f"expected the lists {', '.join(ENTRIES)}", EDITION)
        return
    for part, needed in ENTRIES.items():
        for index, item in enumerate(content[part]):
            entries = item if isinstance(item, dict) else {}
            if wrong := [key for key, kind in needed.items() if not isinstance(entries.get(key), kind)]:
                about = f"item {index} of {part} has no {', '.join(wrong)} of the type expected"
                yield Finding(ERROR, str(path), about, FETCH)


def check_ytvis(index: Mapping[str, Any], expected: int | None = None, thorough: bool = False) -> Iterator[Finding]:
    """Objects in no frame, a wrong number of videos, `thorough`: undecodable masks. `index`: see `ytvis_index`."""
    path = str(index["path"])
    if expected is not None and len(index["videos"]) != expected:
        about = f"{len(index['videos'])} usable videos, the 2019 edition has {expected}"
        yield Finding(WARNING, path, about, f"{EDITION}, or expect other episodes than the published ones")
    for name, tracks in index["annotations"].items():
        video = index["videos"][name]
        for track in tracks:
            about = f"annotation {track['id']} of video {name}"
            if not any(track["segmentations"]):
                yield Finding(WARNING, path, f"{about} is in no frame", "nothing to do: it is never sampled")
                continue
            for frame, outline in zip(video["frames"], track["segmentations"] if thorough else (), strict=False):
                try:
                    if outline:
                        decode(outline, video["height"], video["width"])
                except (ValueError, TypeError) as error:
                    yield Finding(ERROR, path, f"{about} cannot be decoded in frame {frame} ({error})", FETCH)


EVERY_CLASS = ("v1", "v2")
"""Samplings over classes; the others are over videos, and skip a class without any."""


def check_coverage(query: Fold, support: Fold, draws: str, shots: Sequence[int]) -> Iterator[Finding]:
    """Every novel class has a query video, and enough other videos for the support.

    `draws`: sampling of the benchmark; "sequences" may use a support video twice, so one other video is enough.
    """
    place, same = f"{query.corpus} fold {query.index}", query is support
    ids = {c: c for c in query.novel} if same else shared_classes(support, query)
    for number in query.novel:
        name = f"class {number} {query.names[number]}"
        found = len(support.presence.get(ids.get(number, -1), {}))
        needed = {k: 2 if draws == "sequences" else k + same for k in shots}
        if number not in ids:
            about = f"{name} is none of the novel classes of {support.corpus}, so it is never a query"
            yield Finding(NOTE, place, about, "nothing to do: classes are matched by name")
        elif not query.presence.get(number) and draws not in EVERY_CLASS:
            about, fix = f"{name} is in no {_unit(query)}, so it is never a query", "fetch it, if it should be one"
            yield Finding(WARNING if same else NOTE, place, about, fix)
        elif short := [k for k in shots if found < needed[k]]:
            about = f"{name} is in {_count(found, support)}, {short[0]}-shot episodes need {needed[short[0]]}"
            yield Finding(ERROR, place, about, "ask for fewer shots, or fetch the missing part of the data")


def check_leakage(fold: Fold, shows: Mapping[str, Collection[int]], ignored: bool) -> Iterator[Finding]:
    """Overlap of base training with the episodes of the same fold.

    `shows`: for each video, all classes in it. `ignored`: whether training ignores pixels of classes that are not base
    classes; otherwise they are background.
    """
    place, novel, unit = f"{fold.corpus} fold {fold.index}", set(fold.novel), _unit(fold)
    base = {fold.names[number]: number for number in fold.base}
    for number in fold.novel:
        if fold.names[number] in base:
            about = f"novel class {number} {fold.names[number]} is base class {base[fold.names[number]]} as well"
            yield Finding(ERROR, place, about, "fix the class table: a class is either base or novel")
    train, val, queries = set(fold.train), set(fold.val), query_videos(fold)
    if both := train & val:
        about = f"{_count(len(both), fold)} both trained and validated on, first {min(both)}"
        yield Finding(ERROR, place, about, "take them out of train.txt, or the scores are of training data")
    seen = [{video for video in part if novel & set(shows.get(video, ()))} for part in (train, val)]
    if any(seen):
        about = f"{len(seen[0])} of {len(train)} {unit} of base training and {len(seen[1])} of {len(val)} of its "
        about += "validation contain novel objects, " + ("which are ignored" if ignored else "as background")
        yield Finding(NOTE if ignored else WARNING, place, about, AS_RELEASED)
    if shared := (train - val) & queries:
        about = f"{len(shared)} of {len(queries)} {unit} of the episodes are in base training, without novel labels"
        yield Finding(WARNING, place, about, AS_RELEASED)


def check_draws(query: Fold, support: Fold, draws: str, drawn: Iterable[Sample] = ()) -> Iterator[Finding]:
    """Sources of support and query, overlap with auxiliary training, and videos that support themselves."""
    place, queries = f"{query.corpus} fold {query.index}", len(query_videos(query))
    if query is support:
        again = ", and some are a query more than once" if draws == "v2" else ""
        about = f"support and queries come from the same {queries} {_unit(query)}{again}; a query never supports itself"
        yield Finding(NOTE, place, about, AS_RELEASED)
        for video in sorted({d.video for d in drawn if d.video in {frame.split("/")[0] for frame in d.support}}):
            about = f"{video} is support and query of one episode"
            yield Finding(ERROR, place, about, "report this error of the library")
    if draws in EVERY_CLASS:
        about = f"DCL's auxiliary training uses these {queries} videos of the novel classes, without labels"
        yield Finding(NOTE, place, about, "compare DCL weights with a baseline that may use them too")


def check_names(query: Fold, trained_on: str, trained: Iterable[str]) -> Iterator[Finding]:
    """Novel classes that base training on another dataset has used, by name; `trained`: its base classes."""
    known = {coco_name(name) for name in trained}
    for number in query.novel:
        if coco_name(query.names[number]) in known:
            about = f"novel class {number} {query.names[number]} is a base class of {trained_on} fold {query.index}"
            fix = "use the mended benchmark if there is one; the release's own table has this flaw"
            yield Finding(WARNING, f"{query.corpus} fold {query.index}", f"{about}, so it is not new", fix)


def query_videos(fold: Fold) -> set[str]:
    """The videos that contain a novel class."""
    return {video for number in fold.novel for video in fold.presence.get(number, {})}


def _count(number: int, fold: Fold) -> str:
    return f"{number} {_unit(fold)}".removesuffix("s" if number == 1 else "")


def _unit(fold: Fold) -> str:
    return "videos" if any("/" in frame for names in fold.frames.values() for frame in names[:1]) else "images"

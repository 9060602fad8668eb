"""Checks of the data, one function per kind of defect; they yield `Finding`s.

An *error* would stop a run or invalidate its results; a *warning* changes results against the release or needs
attention; a *note* states something intended.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ttilib.datasets.base import Dataset, FrameFiles, OnError
from ttilib.datasets.catalog import Fold, coco_name
from ttilib.datasets.sequences import FLOW, minivspw_listed, vspw_folder
from ttilib.datasets.youtube_vis import YtvisIndex
from ttilib.episodes.sampling import query_videos, shared_classes
from ttilib.files import natural_key
from ttilib.images import header_size, read_image, read_labels

ERROR, WARNING, NOTE = "error", "warning", "note"
AS_RELEASED = "as in the release; know it when you compare"


@dataclass(frozen=True)
class Finding:
    """One defect: severity, file, what was found, how to fix it."""

    severity: str
    file: str
    found: str
    fix: str


def finding_of(error: Exception, file: Path | str) -> Finding:
    """A finding from an error "FILE: what was found; what to do"; `file`: if the error names none."""
    if isinstance(error, OSError) and error.filename is not None:
        about = error.strerror or type(error).__name__
        return Finding(ERROR, str(error.filename), about.lower(), "check that it exists and can be read")
    named, colon, rest = str(error).partition(": ")
    if not colon:
        named, rest = str(file), str(error)
    found, semicolon, fix = rest.rpartition("; ")
    return Finding(ERROR, named, found, fix) if semicolon else Finding(ERROR, named, rest, "check this path")


def layout_text(dataset: Dataset, root: Path | str) -> str:
    """The layout of a dataset in one line."""
    return f"expected in {root}: {', '.join(dataset.layout)}"


def check_layout(dataset: Dataset, root: Path) -> Iterator[Finding]:
    """Every pattern of files of a dataset matches at least one file."""
    for name, without in dataset.layout.items():
        patterns = re.sub(r"<\w+>", "*", name).split(" or ")
        if not any(path.is_file() for pattern in patterns for path in root.glob(pattern)):
            fix = "copy it, if that is not intended" if without else layout_text(dataset, root)
            if dataset.make_masks and name.endswith(".png"):
                fix = f"write the masks: python -m ttilib prepare {dataset.name} --root {root}"
            about = "no such file" + (f", {without}" if without else "")
            yield Finding(WARNING if without else ERROR, str(root / name), about, fix)


def check_frame(frame: FrameFiles, thorough: bool = False) -> list[Finding]:
    """Image and mask exist, are complete, and have one size.

    `thorough`: decode the image; otherwise sizes come from the headers, and a complete JPEG has its end mark.
    """
    findings, sizes = [], {}
    files = {"image": frame.image} | ({"mask": frame.mask} if frame.mask else {})
    for what, path in files.items():
        if not path.exists():
            about, fix = "though it is listed", "copy it, or fix the list"
            if partner := next((name for name, file in files.items() if file.exists()), ""):
                about, fix = f"though its {partner} exists", "copy it, or remove the other file"
            findings.append(Finding(ERROR, str(path), f"no such {what}, {about}", fix))
            continue
        try:
            # What looks damaged is decoded, for the reader's error message.
            complete = what == "mask" or not thorough and _ends_as_jpeg(path)
            header = header_size(path, frame.upright) if complete else None
            read = partial(read_image if what == "image" else read_labels, upright=frame.upright)
            sizes[what] = header or read(path).shape[:2]
        except (ValueError, OSError) as error:
            findings.append(finding_of(error, path))
    for other, size in (("annotations", frame.size), ("mask", sizes.get("mask"))):
        if size and sizes.get("image", size) != size:
            about = "image is {} x {} pixels, {} {} x {}".format(*sizes["image"], other, *size)
            findings.append(Finding(ERROR, str(frame.image), about, f"fetch image and {other} of one edition"))
    return findings


def _ends_as_jpeg(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(max(file.seek(0, os.SEEK_END) - 2, 0))
        return file.read() == b"\xff\xd9"


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
        yield Finding(WARNING, str(path), about, "check it: it is useless for training and evaluation")


def check_flow(root: Path, table: Mapping[str, Any], on_error: OnError) -> Iterator[Finding]:
    """Every listed frame has a flow file: the release leaves out frames without, though it never reads the files.

    A folder without any flow file is reported by `check_layout`.
    """
    folder, single, frames = vspw_folder(root), 0, dict[str, set[str]]()
    if not any(folder.glob(f"*/flow/*{FLOW}")):
        return
    for novel in table["novel"]:
        for name, listed in minivspw_listed(root, novel, table["ignored"], on_error)[0].items():
            frames.setdefault(name, set()).update(frame.split("/")[1] for frame in listed)
    for name, found in frames.items():
        ordered = sorted(found, key=natural_key)
        missing = [frame for frame in ordered if not (folder / name / "flow" / f"{frame}{FLOW}").is_file()]
        if len(missing) == 1 and missing[0] in (ordered[0], ordered[-1]):  # flow needs a neighbouring frame
            single += 1
        elif missing:
            about = f"{len(missing)} of {len(ordered)} frames have no flow, first {missing[0]}; they are left out"
            fix = "fetch the flow files, or expect other episodes than the published ones"
            yield Finding(WARNING, str(folder / name / "flow"), about, fix)
    if single:
        about = f"{single} of {len(frames)} sequences have no flow for their first or last frame, which is left out"
        yield Finding(NOTE, str(folder), about, "as in the release")


def check_ytvis(index: YtvisIndex, expected: int | None = None) -> Iterator[Finding]:
    """Objects in no frame, and a number of videos that is not `expected`."""
    path = str(index.path)
    if expected is not None and len(index.videos) != expected:
        about = f"{len(index.videos)} usable videos, the 2019 edition has {expected}"
        fix = "use the train.json of the 2019 edition's train part, or expect other episodes than the published ones"
        yield Finding(WARNING, path, about, fix)
    for name, tracks in index.tracks.items():
        for track in tracks:
            if not any(track.segmentations):
                about = f"annotation {track.id} of video {name} is in no frame"
                yield Finding(NOTE, path, about, "it is never sampled")


EVERY_CLASS = ("v1", "v2")  # sampling over classes; otherwise over videos, which skips a class without any


def check_coverage(query: Fold, support: Fold, draws: str, shots: Sequence[int]) -> Iterator[Finding]:
    """Every novel class has a query video, and enough other videos for the support.

    `draws`: sampling of the benchmark; "sequences" may use a support video twice, so one other video is enough.
    """
    same, ids = query is support, shared_classes(support, query)
    for number in query.novel:
        name = f"class {number} {query.names[number]}"
        found = len(support.presence.get(ids.get(number, -1), {}))
        needed = {k: 2 if draws == "sequences" else k + same for k in shots}
        if number not in ids:
            about = f"{name} is none of the novel classes of {support.corpus}, so it is never a query"
            yield Finding(NOTE, _name(query), about, "classes are matched by name")
        elif not query.presence.get(number) and draws not in EVERY_CLASS:
            about, fix = f"{name} is in no {_unit(query)}, so it is never a query", "fetch more data, if it should be"
            yield Finding(WARNING if same else NOTE, _name(query), about, fix)
        elif short := [k for k in shots if found < needed[k]]:
            about = f"{name} is in {_count(found, support)}, {short[0]}-shot episodes need {needed[short[0]]}"
            yield Finding(ERROR, _name(query), about, "request fewer shots, or fetch the missing part of the data")


def check_leakage(fold: Fold, labels: Mapping[str, Collection[int]], ignored: bool) -> Iterator[Finding]:
    """Overlap of base training with the episodes of the same fold.

    `labels`: all classes in each video. `ignored`: whether training ignores pixels of classes that are not base
    classes; otherwise they are background.
    """
    name, novel, unit = _name(fold), set(fold.novel), _unit(fold)
    base = {fold.names[number]: number for number in fold.base}
    for number in fold.novel:
        if fold.names[number] in base:
            about = f"novel class {number} {fold.names[number]} is base class {base[fold.names[number]]} as well"
            yield Finding(ERROR, name, about, "fix the class table: a class is either base or novel")
    train, val, queries = set(fold.train), set(fold.val), {video for video, _ in query_videos(fold)}
    if both := train & val:
        about = f"{_count(len(both), fold)} in both training and validation, first {min(both)}"
        yield Finding(ERROR, name, about, "remove them from train.txt, or the scores are of training data")
    seen = [{video for video in part if novel & set(labels.get(video, ()))} for part in (train, val)]
    if any(seen):
        about = f"{len(seen[0])} of {len(train)} {unit} of base training and {len(seen[1])} of {len(val)} of its "
        about += "validation contain novel objects, " + ("which are ignored" if ignored else "as background")
        yield Finding(NOTE, name, about, AS_RELEASED)
    if shared := (train - val) & queries:
        about = f"{len(shared)} of {len(queries)} {unit} of the episodes are in base training, without novel labels"
        yield Finding(NOTE, name, about, AS_RELEASED)


def check_draws(query: Fold, support: Fold, draws: str) -> Iterator[Finding]:
    """Sources of support and query, overlap with auxiliary training, no queries."""
    name, queries = _name(query), len(list(query_videos(query)))
    if not queries:
        about = f"no {_unit(query)} of any novel class, so no episode can be drawn"
        yield Finding(ERROR, name, about, "fetch the missing part of the data, or correct its lists")
    if query is support:
        again = ", and some are a query more than once" if draws == "v2" else ""
        about = f"support and queries come from the same {queries} {_unit(query)}{again}; a query never supports itself"
        yield Finding(NOTE, name, about, AS_RELEASED)
    if draws in EVERY_CLASS:
        about = f"DCL's auxiliary training uses these {queries} videos of the novel classes, without labels"
        yield Finding(NOTE, name, about, "compare DCL encoders with a baseline that may use them too")


def check_names(query: Fold, trained_on: str, trained: Iterable[str]) -> Iterator[Finding]:
    """Novel classes that base training on another dataset has used, by name; `trained`: its base classes."""
    known = {coco_name(name) for name in trained}
    for number in query.novel:
        if coco_name(query.names[number]) in known:
            about = f"novel class {number} {query.names[number]} is a base class of {trained_on} fold {query.index}"
            fix = "use the benchmark ...-mended if there is one; the release's own table has this flaw"
            yield Finding(WARNING, _name(query), f"{about}, so it is not new", fix)


def _name(fold: Fold) -> str:
    return f"{fold.corpus} fold {fold.index}"


def _count(number: int, fold: Fold) -> str:
    return f"{number} {_unit(fold)}".removesuffix("s" if number == 1 else "")


def _unit(fold: Fold) -> str:
    return "videos" if any("/" in frame for names in fold.frames.values() for frame in names[:1]) else "images"

"""The annotation files of COCO 2014: which stills they list, and the masks that are painted from them.

`coco_annotations` parses one, `coco_lines` makes the list of a split, `make_masks` paints what is missing under a
data folder, by the released rule or in full (see `coco_masks`). Source: protocol sections 1.2 and 6 (Q33).
"""

from __future__ import annotations

import json
import multiprocessing
import os
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, suppress
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from tqdm import tqdm

from ttilib.corpora.corpus import Names, OnError, stop
from ttilib.corpora.painting import RULES, Object, coco_masks
from ttilib.files import read_json
from ttilib.images import write_labels

PARTS = {"train": "train2014", "val": "val2014"}
"""Split to its name in the edition: the folder of the photographs, and a part of every file name."""

FOLDERS = dict(zip(RULES, ("{}", "{}_full"), strict=True))
"""Rule of painting to the folder of a split's masks."""

MANY = 500
"""So many masks take long enough for a bar, and for other processes to be worth their start."""

_lists: dict[Path, tuple[int, Names, Names]] = {}
"""What is kept of a parsed file: its time of change, stills, category names."""


class Outlined(NamedTuple):
    """A still and its objects in the order of the annotation file."""

    name: str
    height: int
    width: int
    objects: list[Object]


def coco_annotations(root: Path, split: str, on_error: OnError = stop) -> list[Outlined]:
    """The stills of "train" or "val" that show an object which is no crowd, in the order of the annotation file.

    A label is 1 + the place of the category in the file. An annotation of no listed image or category is told to
    `on_error` and left out. The file is parsed at every call (train2014: 10 s, 1 GB).
    """
    path = _file(root, split)
    stamp, content = _stamp(path), _read(path)
    try:
        labels = {category["id"]: place for place, category in enumerate(content["categories"], start=1)}
        names = tuple(category["name"] for category in content["categories"])
        stills = {image["id"]: _still(image) for image in content["images"]}
        for entry in content["annotations"]:
            if entry["image_id"] not in stills or entry["category_id"] not in labels:
                about = f"image {entry['image_id']}, category {entry['category_id']}"
                on_error(ValueError(f"{path}: annotation {entry['id']} is of {about}, not both listed; fetch it again"))
            elif not entry["iscrowd"]:
                found = entry["id"], labels[entry["category_id"]], entry["segmentation"]
                stills[entry["image_id"]].objects.append(found)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: not the instances of COCO 2014 ({error!r}); fetch it again") from error
    if odd := [still.name for still in stills.values() if not still.name.startswith(f"COCO_{PARTS[split]}_")]:
        raise ValueError(f"{path}: an image is called {odd[0]}, not COCO_{PARTS[split]}_<id>; use the 2014 edition")
    kept = [still for still in stills.values() if still.objects]
    _lists[path] = stamp, tuple(still.name for still in kept), names
    return kept


def _file(root: Path, split: str) -> Path:
    return root / "annotations" / f"instances_{PARTS[split]}.json"


def _stamp(path: Path) -> int:
    return path.stat().st_mtime_ns if path.is_file() else 0


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes().decode(), object_hook=_slim)
    except (OSError, ValueError):
        return read_json(path)  # says what is wrong with it


def _slim(entry: dict[str, Any]) -> dict[str, Any]:
    """An annotation while the file is parsed: what is needed of it, polygons as arrays, half of the memory."""
    if "segmentation" not in entry:
        return entry
    slim = {key: entry[key] for key in ("id", "image_id", "category_id", "iscrowd", "segmentation") if key in entry}
    if isinstance(slim["segmentation"], list):
        with suppress(TypeError):  # not numbers: whoever paints it tells
            slim["segmentation"] = [array("d", polygon) for polygon in slim["segmentation"]]
    return slim


def _still(image: Mapping[str, Any]) -> Outlined:
    return Outlined(PurePosixPath(image["file_name"]).stem, int(image["height"]), int(image["width"]), [])


def split_of(frame: str) -> str:
    """The split of a still, which its name tells."""
    for split, part in PARTS.items():
        if frame.startswith(f"COCO_{part}_"):
            return split
    raise ValueError(f"{frame}: no still of COCO 2014; expected COCO_train2014_<id> or COCO_val2014_<id>")


def coco_lines(root: Path, split: str, on_error: OnError = stop) -> Names:
    """The list of a split, in the order of the annotation file; the release has the same lines in an arbitrary one.

    The file is not parsed again while it is unchanged.
    """
    return tuple(list_line(still) for still in _listed(root, split, on_error)[0])


def coco_categories(root: Path, split: str) -> Names:
    """The names of the categories, in the order of the annotation file: the labels 1, 2, ... of the masks."""
    return _listed(root, split, stop)[1]


def _listed(root: Path, split: str, on_error: OnError) -> tuple[Names, Names]:
    path = _file(root, split)
    if not _fresh(path):
        coco_annotations(root, split, on_error)
    return _lists[path][1:]


def _fresh(path: Path) -> bool:
    return path in _lists and _lists[path][0] == _stamp(path) != 0


def list_line(still: str) -> str:
    """How a list names a still: photograph, then mask."""
    split = split_of(still)
    return f"{PARTS[split]}/{still}.jpg {split}/{still}.png"


def make_masks(root: Path, rule: str = "first", on_error: OnError = stop, workers: int = 1) -> dict[str, int]:
    """Paint the masks that are missing under `root`; returns how many of each split were painted.

    A mask is written whole or not at all, so that a run that was stopped goes on where it was. A split without
    annotation file and objects that cannot be painted are told to `on_error` and left out. `workers`: processes to
    paint in (fresh interpreters, so a script needs its `__main__` guard).
    """
    made = {}
    for split in PARTS:
        folder = root / FOLDERS[rule].format(split)
        try:
            due = _missing(root, split, folder, on_error)
        except FileNotFoundError as error:
            on_error(error)
            continue
        paint = partial(_paint, folder, rule)
        bar = tqdm(
            total=len(due), desc=f"painting {folder.name}", unit=" masks", mininterval=1.0, disable=len(due) <= MANY
        )
        with bar, closing(_work(paint, due, workers)) as work:
            for still, complaints in zip(due, work, strict=True):
                for complaint in complaints:
                    on_error(complaint)
                if complaints:  # and still here: so be it
                    _paint(folder, rule, still, tolerant=True)
                bar.update()
        made[split] = len(due)
    return made


def _missing(root: Path, split: str, folder: Path, on_error: OnError) -> list[Outlined]:
    """The stills of a split without a mask; the annotations are not parsed if there are known to be none."""
    there = {mask.name for mask in os.scandir(folder) if mask.stat().st_size} if folder.is_dir() else set()
    path = _file(root, split)
    if _fresh(path) and there.issuperset(f"{still}.png" for still in _lists[path][1]):
        return []
    return [still for still in coco_annotations(root, split, on_error) if f"{still.name}.png" not in there]


def _work(
    paint: Callable[[Outlined], list[ValueError]], due: Sequence[Outlined], workers: int
) -> Iterator[list[ValueError]]:
    """Paint in this process, or in fresh ones; in order either way."""
    if workers <= 1 or len(due) <= MANY:
        yield from map(paint, due)
        return
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))
    try:
        yield from pool.map(paint, due, chunksize=64)
    finally:
        pool.shutdown(cancel_futures=True)


def _paint(folder: Path, rule: str, still: Outlined, tolerant: bool = False) -> list[ValueError]:
    """Write the mask of a still unless an object cannot be painted: whether to go on without is not ours to say."""
    complaints: list[ValueError] = []
    labels = coco_masks(still.objects, still.height, still.width, rule, complaints.append, still.name)
    if tolerant or not complaints:
        write_labels(folder / f"{still.name}.png", labels)
    return complaints

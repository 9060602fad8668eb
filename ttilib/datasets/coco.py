"""COCO 2014 as a corpus of stills: the photographs as they come, label maps painted once by `make_masks`.

`scan_coco` and `CocoReader` are for the released masks, which show of each object its first polygon only;
`scan_coco_full` and `CocoFullReader` are for full ones. Source: protocol section 1.2.

From COCO's outlines to a label map, to the pixel as the released masks were painted, or in full.

`coco_masks` paints the objects of one still over each other. The released masks hold of every object its first
polygon only, filled by the rules of an OpenCV that no longer is; `fill_polygon` keeps those rules.
Source: protocol section 6 (Q33).

The annotation files of COCO 2014: which stills they list, and the masks that are painted from them.

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
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Int32, UInt8
from tqdm import tqdm

from ttilib.datasets.base import Dataset, FrameFiles, Names, OnError, Scan, stop
from ttilib.datasets.masks import decode
from ttilib.datasets.pascal import PascalReader, scan_stills, text_lines
from ttilib.files import read_json
from ttilib.images import write_labels

Object = tuple[Any, int, Any]
"""Annotation id, label, segmentation: polygons or run lengths."""

RULES = ("first", "full")


def coco_masks(
    objects: Sequence[Object],
    height: int,
    width: int,
    rule: str = "first",
    on_error: OnError = stop,
    where: str = "outlines",
) -> UInt8[np.ndarray, "{height} {width}"]:
    """The label map of a still: its objects in the order given, later ones over earlier ones.

    "first": as released, of each object the first polygon alone, its corners cut down to whole pixels, outline
    included; run lengths, which stop the released program, are painted in full. "full": all of each object, as
    COCO's own tools paint it. An object that cannot be painted is told to `on_error` and left out; complaints begin
    with `where`.
    """
    if rule not in RULES:
        raise ValueError(f"rule {rule!r} is not known; choose one of {', '.join(RULES)}")
    canvas = np.zeros((height, width), dtype=np.uint8)
    for number, label, segmentation in objects:
        about = f"{where}: annotation {number}"
        polygons = segmentation if isinstance(segmentation, list) else []
        try:
            corners = [_corners(polygon, about) for polygon in polygons[: 1 if rule == "first" else None]]
            if corners and rule == "first":
                fill_polygon(canvas, corners[0], label)
            elif corners or isinstance(segmentation, dict):
                canvas[decode(segmentation, height, width, about)] = label
            else:
                raise ValueError(f"{about}: found {str(segmentation)[:40]!r}; expected polygons or run lengths")
        except ValueError as error:
            on_error(error)
    return canvas


def _corners(polygon: Any, where: str) -> Int32[np.ndarray, "n 2"]:
    """Corners (x, y) of a polygon, cut down to whole pixels."""
    try:
        numbers = np.array(polygon, dtype=np.float64)
        good = numbers.ndim == 1 and numbers.size > 0 and numbers.size % 2 == 0 and (abs(numbers) < 1e6).all()
    except (TypeError, ValueError):
        good = False
    if not good:
        raise ValueError(f"{where}: found {str(polygon)[:40]!r}; expected the corners of a polygon, x1, y1, x2, ...")
    return numbers.reshape(-1, 2).astype(np.int32)


def fill_polygon(canvas: UInt8[np.ndarray, "h w"], corners: Int32[np.ndarray, "n 2"], label: int) -> None:
    """Paint a polygon on the canvas, inside by the even-odd rule and outline, as OpenCV's fillPoly did up to 4.7.

    From 4.8 to 4.10 OpenCV painted most polygons a few pixels differently, and since then those that leave the
    picture. What it did before, row by row: every pixel from an edge to the next of the row, edges stepping down in
    1/65536 of a pixel; then the outline, which no version changed.
    """
    height, width = canvas.shape
    start, end = corners.astype(np.int64), np.roll(corners, -1, axis=0).astype(np.int64)
    falls = (start[:, 1] < end[:, 1])[:, None]
    top, bottom = np.where(falls, start, end), np.where(falls, end, start)
    run, rise = (bottom - top).T
    top, run, rise = top[rise > 0], run[rise > 0], rise[rise > 0]
    slope = np.sign(run) * ((abs(run) << 16) // rise)  # rounded towards zero, as C divides
    first, last = np.clip(top[:, 1], 0, height), np.clip(top[:, 1] + rise, 0, height)  # the last row is the next edge's
    edge = np.repeat(np.arange(len(rise)), last - first)
    y = np.arange(len(edge)) - np.repeat(np.cumsum(last - first) - last, last - first)
    x = (top[edge, 0] << 16) + (y - top[edge, 1]) * slope[edge]
    order = np.lexsort((x, y))
    rows, left, right = y[order][::2], x[order][::2], x[order][1::2]
    left, right = np.clip(-(-left >> 16), 0, width), np.clip((right >> 16) + 1, 0, width)
    for row, begin, beyond in zip(rows.tolist(), left.tolist(), right.tolist(), strict=True):
        canvas[row, begin:beyond] = label
    cv2.polylines(canvas, [corners], True, label)


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


def coco_list(root: Path, split: str, table: Mapping[str, Any], on_error: OnError = stop) -> Names:
    """The stills of a split: of <root>/<split>.txt, or without that file of the annotations, if these are there.

    A line that cannot be read, and a split that has neither file, is told to `on_error` and left out.
    """
    path = root / f"{split}.txt"
    try:
        lines = text_lines(path) if path.is_file() else coco_lines(root, split, on_error)
    except FileNotFoundError as error:
        on_error(error)
        return ()
    if not path.is_file():
        check_categories(root, split, table)
    stills = []
    for number, line in enumerate(lines, start=1):
        try:
            still = PurePosixPath(line.split(" ")[0]).stem
            if line != list_line(still):
                raise ValueError(f"found {line!r}; expected {list_line(still)}")
            stills.append(still)
        except ValueError as error:
            on_error(ValueError(f"{path}, line {number}: {error}"))
    return tuple(stills)


def check_categories(root: Path, split: str, table: Mapping[str, Any]) -> None:
    """Refuse annotations whose categories are not the classes of the table: labels are places in that list."""
    named = [table["classes"][number] for number in sorted(table["classes"])]
    found = coco_categories(root, split)
    for place, (name, expected) in enumerate(zip_longest(found, named), start=1):
        if name != expected:
            about = f"category {place} is {name!r}, the class table says {expected!r}"
            raise ValueError(f"{root}: {about}; use the 2014 edition, or give the folder its own lists.json")


def scan_coco(
    root: Path,
    table: Mapping[str, Any],
    base: Sequence[int],
    novel: Sequence[int],
    on_error: OnError = stop,
) -> Scan:
    """Which stills show which class in the released masks: the rule of `scan_stills` on the lists of `coco_list`."""
    return _scan(CocoReader(root), table, base, novel, on_error)


def scan_coco_full(
    root: Path,
    table: Mapping[str, Any],
    base: Sequence[int],
    novel: Sequence[int],
    on_error: OnError = stop,
) -> Scan:
    """Which stills show which class in the full masks; otherwise as `scan_coco`."""
    return _scan(CocoFullReader(root), table, base, novel, on_error)


class CocoReader(PascalReader):
    """COCO 2014: {train,val}2014/COCO_*.jpg, and masks of the first polygons in {train,val}/COCO_*.png."""

    colours = None
    masks, corpus = FOLDERS["first"], "coco"

    def picture_path(self, frame: str) -> Path:
        """The file of a frame's photograph; the name tells its folder."""
        return self.root / f"{PARTS[split_of(frame)]}/{frame}.jpg"

    def mask_path(self, frame: str) -> Path:
        """The file of a frame's label map."""
        return self.root / f"{self.masks.format(split_of(frame))}/{frame}.png"


class CocoFullReader(CocoReader):
    """COCO 2014 with masks of every polygon in {train,val}_full/COCO_*.png."""

    masks, corpus = FOLDERS["full"], "coco-full"


def _scan(
    reader: CocoReader, table: Mapping[str, Any], base: Sequence[int], novel: Sequence[int], on_error: OnError
) -> Scan:
    train, val = (coco_list(reader.root, split, table, on_error) for split in PARTS)
    for folder in {reader.mask_path(still).parent: None for still in train + val}:
        if not folder.is_dir():
            command = f"python -m ttilib lists {reader.corpus} --root {reader.root}"
            raise FileNotFoundError(f"{folder}: no such folder of masks; paint them with `{command}`")
    return scan_stills(reader, train, val, table, base, novel, on_error)


def _files(reader: type[CocoReader], root: Path, table: Mapping[str, Any], on_error: OnError) -> dict[str, FrameFiles]:
    """Image and mask of every still in both lists."""
    source = reader(root)
    stills = [still for split in PARTS for still in coco_list(root, split, table, on_error)]
    return {still: FrameFiles(source.picture_path(still), source.mask_path(still)) for still in stills}


COCO = Dataset(
    name="coco",
    reader=CocoReader,
    scan=scan_coco,
    folders=("coco", "COCO"),
    signs=("annotations", "train2014", "val2014"),
    sampling="stills",
    others_ignored=True,
    layout={
        "train.txt or annotations/instances_train2014.json": "",
        "val.txt or annotations/instances_val2014.json": "",
        "train2014/<name>.jpg": "",
        "val2014/<name>.jpg": "",
        "train/<name>.png": "",
        "val/<name>.png": "",
    },
    files=partial(_files, CocoReader),
    make_masks=lambda root, on_error, workers: make_masks(root, "first", on_error, workers),
)
COCO_FULL = replace(
    COCO,
    name="coco-full",
    table="coco",
    reader=CocoFullReader,
    scan=scan_coco_full,
    layout={name.replace("/<name>.png", "_full/<name>.png"): "" for name in COCO.layout},
    files=partial(_files, CocoFullReader),
    make_masks=lambda root, on_error, workers: make_masks(root, "full", on_error, workers),
)

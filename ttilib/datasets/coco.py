"""COCO 2014: images, and label maps that `make_masks` writes once from the annotation files.

Masks hold an object's first polygon (released) or all of it, no crowds. Source: protocol sections 1.2 and 6 (Q33).
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence
from contextlib import closing, suppress
from functools import lru_cache, partial
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Int32, UInt8
from tqdm import tqdm

from ttilib.datasets.base import Dataset, FrameFiles, Ids, Names, OnError, Scan, Table, published_lines, stop
from ttilib.datasets.masks import MANY, decode
from ttilib.datasets.pascal import PascalReader, published_names, read_list, scan_stills
from ttilib.files import Stamp, file_names, file_stamp, parallel_map, read_json
from ttilib.images import write_labels

Object = tuple[Any, int, Any]
"""Annotation id, label, segmentation (polygons or run lengths)."""

PARTS = {"train": "train2014", "val": "val2014"}
"""Split to image folder, which is also part of every file name."""

FOLDERS = {"first": "{}", "full": "{}_full"}
"""Rule (which polygons are drawn) to the folder of a split's masks."""


def coco_masks(
    objects: Sequence[Object],
    height: int,
    width: int,
    rule: str = "first",
    on_error: OnError = stop,
    where: str = "outlines",
) -> UInt8[np.ndarray, "{height} {width}"]:
    """The label map of an image: objects in the given order, later ones over earlier ones. ValueError for another rule.

    "first": the first polygon of each object by cv2.fillPoly with its outline, corners truncated to integers; run
    lengths (where the release stops) in full. "full": all parts, by pycocotools. `on_error` gets invalid objects.
    """
    if rule not in FOLDERS:
        raise ValueError(f"rule {rule!r} is not known; choose one of {', '.join(FOLDERS)}")
    canvas = np.zeros((height, width), dtype=np.uint8)
    for number, label, segmentation in objects:
        about = f"{where}: annotation {number}"
        polygons = segmentation if isinstance(segmentation, list) else []
        try:
            corners = [_corners(polygon, about) for polygon in polygons[: 1 if rule == "first" else None]]
            if corners and rule == "first":
                cv2.fillPoly(canvas, corners, label)
            elif corners or isinstance(segmentation, dict):
                canvas[decode(segmentation, height, width, about)] = label
            else:
                raise ValueError(f"{about}: found {str(segmentation)[:40]!r}; expected polygons or run lengths")
        except ValueError as error:
            on_error(error)
    return canvas


def _corners(polygon: Any, where: str) -> Int32[np.ndarray, "n 2"]:
    """Corners (x, y) of a polygon, truncated to integers."""
    try:
        numbers = np.array(polygon, dtype=np.float64)
        good = numbers.ndim == 1 and numbers.size > 0 and numbers.size % 2 == 0 and (abs(numbers) < 1e6).all()
    except (TypeError, ValueError):
        good = False
    if not good:
        raise ValueError(f"{where}: found {str(polygon)[:40]!r}; expected the corners of a polygon, x1, y1, x2, ...")
    return numbers.reshape(-1, 2).astype(np.int32)


class AnnotatedImage(NamedTuple):
    """An image and its objects in file order."""

    name: str
    height: int
    width: int
    objects: list[Object]


class Annotations(NamedTuple):
    """Images with an object that is no crowd, in file order; category names from label 1; errors of annotations."""

    images: list[AnnotatedImage]
    categories: Names
    problems: list[ValueError]


def coco_annotations(root: Path, split: str) -> Annotations:
    """Read the annotations of "train" or "val" (train2014: 10 s, 1 GB). ValueError if they are not of COCO 2014."""
    path, problems = _file(root, split), []
    content = read_json(path, _needed)
    try:
        labels = {category["id"]: place for place, category in enumerate(content["categories"], start=1)}
        names = tuple(category["name"] for category in content["categories"])
        images = {}
        for entry in content["images"]:
            name, height, width = PurePosixPath(entry["file_name"]).stem, int(entry["height"]), int(entry["width"])
            images[entry["id"]] = AnnotatedImage(name, height, width, [])
        for entry in content["annotations"]:
            if entry["image_id"] not in images or entry["category_id"] not in labels:
                about = f"image {entry['image_id']}, category {entry['category_id']}"
                about = f"annotation {entry['id']} is of {about}, not both listed"
                problems.append(ValueError(f"{path}: {about}; fetch it again"))
            elif not entry["iscrowd"]:
                found = entry["id"], labels[entry["category_id"]], entry["segmentation"]
                images[entry["image_id"]].objects.append(found)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: not the instances of COCO 2014 ({error!r}); fetch it again") from error
    if odd := [image.name for image in images.values() if not image.name.startswith(f"COCO_{PARTS[split]}_")]:
        raise ValueError(f"{path}: an image is called {odd[0]}, not COCO_{PARTS[split]}_<id>; use the 2014 edition")
    return Annotations([image for image in images.values() if image.objects], names, problems)


def _file(root: Path, split: str) -> Path:
    return root / "annotations" / f"instances_{PARTS[split]}.json"


def _needed(entry: dict[str, Any]) -> dict[str, Any]:
    """The entries of an annotation that are needed, polygons as arrays: half of the memory."""
    if "segmentation" not in entry:
        return entry
    kept = {key: entry[key] for key in ("id", "image_id", "category_id", "iscrowd", "segmentation") if key in entry}
    if isinstance(kept["segmentation"], list):
        with suppress(TypeError):  # not numbers: reported when it is drawn
            kept["segmentation"] = [array("d", polygon) for polygon in kept["segmentation"]]
    return kept


@lru_cache(maxsize=8)
def _listed(root: Path, split: str, stamp: Stamp | None) -> tuple[Names, Names, tuple[ValueError, ...]]:
    """Image names, category names and problems of an annotation file, cached while it is unchanged."""
    content = coco_annotations(root, split)
    return tuple(image.name for image in content.images), content.categories, tuple(content.problems)


def split_of(frame: str) -> str:
    """The split of an image, from its name. ValueError if it is no name of COCO 2014."""
    for split, part in PARTS.items():
        if frame.startswith(f"COCO_{part}_"):
            return split
    raise ValueError(f"{frame}: no image of COCO 2014; expected COCO_train2014_<id> or COCO_val2014_<id>")


def make_masks(root: Path, rule: str = "first", on_error: OnError = stop, workers: int = 1) -> dict[str, int]:
    """Write the missing masks; returns their number per split. `on_error` gets what cannot be read or drawn."""
    made = {}
    for split in PARTS:
        folder = root / FOLDERS[rule].format(split)
        there = {mask.name for mask in os.scandir(folder) if mask.stat().st_size} if folder.is_dir() else set()
        try:
            content = coco_annotations(root, split)
        except FileNotFoundError as error:
            on_error(error)
            continue
        for problem in content.problems:
            on_error(problem)
        due = [image for image in content.images if f"{image.name}.png" not in there]
        few = len(due) <= MANY
        bar = tqdm(total=len(due), desc=f"drawing {folder.name}", unit=" masks", mininterval=1.0, disable=few)
        work = parallel_map(partial(_draw, folder, rule), due, 1 if few else workers, chunk=64)
        with bar, closing(work):
            for image, problems in zip(due, work, strict=True):
                for problem in problems:
                    on_error(problem)
                if problems:  # on_error did not raise: write the mask without these objects
                    _draw(folder, rule, image, tolerant=True)
                bar.update()
        made[split] = len(due)
    return made


def _draw(folder: Path, rule: str, image: AnnotatedImage, tolerant: bool = False) -> list[ValueError]:
    """Write the mask of an image; unless `tolerant`, only if all objects can be drawn. Returns the problems."""
    problems: list[ValueError] = []
    labels = coco_masks(image.objects, image.height, image.width, rule, problems.append, image.name)
    if tolerant or not problems:
        write_labels(folder / f"{image.name}.png", labels)
    return problems


def coco_list(reader: CocoReader, split: str, table: Table, on_error: OnError = stop) -> Names:
    """Images of <root>/<split>.txt, else of the published val list (not with a lists.json), else of the annotations."""
    root, part = reader.root, PARTS[split]
    path = root / f"{split}.txt"
    if path.is_file():
        ids = read_list(path, f"{part}/COCO_{part}_{{}}.jpg {split}/COCO_{part}_{{}}.png", on_error)
        return tuple(f"COCO_{part}_{number}" for number in ids)
    if split == "val" and not (root / "lists.json").is_file():
        published = {line.split(" ")[0] for line in published_lines("coco/val")}
        if any(f"{part}/{image}.jpg" in published for image in file_names(root / part, ".jpg")):
            return published_names(reader, "coco/val", on_error)
    try:
        names, categories, problems = _listed(root, split, file_stamp(_file(root, split)))
    except FileNotFoundError as error:
        on_error(error)
        return ()
    for problem in problems:
        on_error(problem)
    classes = [name for _, name in sorted(table["classes"].items())]
    for place, (name, expected) in enumerate(zip_longest(categories, classes), start=1):
        if name != expected:  # labels are indices of this list
            about = f"category {place} is {name!r}, the class table says {expected!r}"
            raise ValueError(f"{root}: {about}; use the 2014 edition, or give the folder its own lists.json")
    return names


class CocoReader(PascalReader):
    """COCO 2014: images {train,val}2014/COCO_*.jpg, masks of the first polygons {train,val}/COCO_*.png."""

    colours = None
    rule, dataset = "first", "coco"

    def image_path(self, frame: str) -> Path:
        """The image file of a frame; its name determines the folder."""
        return self.root / f"{PARTS[split_of(frame)]}/{frame}.jpg"

    def mask_path(self, frame: str) -> Path:
        """The label map of a frame."""
        return self.root / f"{FOLDERS[self.rule].format(split_of(frame))}/{frame}.png"


class CocoFullReader(CocoReader):
    """COCO 2014 with masks of all polygons, {train,val}_full/COCO_*.png."""

    rule, dataset = "full", "coco-full"


def scan_coco(
    kind: type[CocoReader], root: Path, table: Table, base: Ids, novel: Ids, on_error: OnError = stop
) -> Scan:
    """Which images contain which class in a reader's masks: `scan_stills` on the images of `coco_list`."""
    reader = kind(root)
    for split in PARTS:
        folder, sources = root / FOLDERS[kind.rule].format(split), (_file(root, split), root / f"{split}.txt")
        if not folder.is_dir() and any(source.is_file() for source in sources):
            command = f"python -m ttilib prepare {reader.dataset} --root {root}"
            raise FileNotFoundError(f"{folder}: no such folder of masks; draw them with `{command}`")
    train, val = (coco_list(reader, split, table, on_error) for split in PARTS)
    return scan_stills(reader, train, val, table, base, novel, on_error)


def coco_files(kind: type[CocoReader], root: Path, table: Table, on_error: OnError) -> dict[str, FrameFiles]:
    """Image and mask files of both lists."""
    reader = kind(root)
    return reader.files(name for split in PARTS for name in coco_list(reader, split, table, on_error))


def _dataset(kind: type[CocoReader]) -> Dataset:
    masks = [FOLDERS[kind.rule].format(split) + "/<name>.png" for split in PARTS]
    lists = "train.txt or annotations/instances_train2014.json"
    return Dataset(
        name=kind.dataset,
        table="coco",
        reader=kind,
        scan=partial(scan_coco, kind),
        folders=("coco", "COCO"),
        signs=("annotations", "train2014", "val2014"),
        sampling="stills",
        others_ignored=True,
        layout=dict.fromkeys([lists, "train2014/<name>.jpg", "val2014/<name>.jpg", *masks], ""),
        files=partial(coco_files, kind),
        make_masks=lambda root, on_error, workers: make_masks(root, kind.rule, on_error, workers),
    )


COCO, COCO_FULL = _dataset(CocoReader), _dataset(CocoFullReader)

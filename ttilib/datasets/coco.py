"""COCO 2014: images, and label maps that `make_masks` writes once from the annotation files.

Masks contain an object's first polygon (released) or all of it, no crowds. Source: docs/protocol.md 1.2 and 6, Q33.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import closing
from functools import lru_cache, partial
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

import cv2
import msgspec
import numpy as np
from jaxtyping import UInt8

from ttilib.datasets.base import Dataset, Names, OnError, Side, Table, raise_first
from ttilib.datasets.masks import Category, Numbered, entries_by_id, fill, map_files, read_entries, read_segmentation
from ttilib.datasets.pascal import PascalReader, listed_files, published_names, read_list, scan_images
from ttilib.files import Stamp, file_stamp, read_json
from ttilib.images import write_labels

Object = tuple[Any, int, Any]  # annotation id, label, segmentation (JSON, polygons or run lengths)
SPLITS = ("train", "val")
FOLDERS = {"first": "{}", "full": "{}_full"}  # which polygons are drawn: folder of a split's masks


def coco_masks(
    objects: Sequence[Object],
    height: int,
    width: int,
    rule: str = "first",
    on_error: OnError = raise_first,
    where: str = "image",
) -> UInt8[np.ndarray, "{height} {width}"]:
    """The label map of an image: objects in the given order, later ones over earlier ones.

    "first": the first polygon of each object by cv2.fillPoly with its border, corners truncated to integers; run
    lengths (where the release stops) in full. "full": all parts, by pycocotools. `on_error` gets invalid objects.
    """
    canvas = np.zeros((height, width), dtype=np.uint8)
    for number, label, segmentation in objects:
        about = f"{where}: annotation {number}"
        try:
            found = read_segmentation(segmentation, height, width, about)
            if not found:
                raise ValueError(f"{about}: no segmentation; fix the annotations or fetch them again")
            if isinstance(found, list) and rule == "first":
                cv2.fillPoly(canvas, [np.array(found[0]).reshape(-1, 2).astype(np.int32)], label)
            else:
                canvas[fill(found, height, width)] = label
        except ValueError as error:
            on_error(error)
    return canvas


class CocoImage(Numbered):
    """An entry of "images" of an annotation file."""

    height: Side
    width: Side
    file_name: str


class CocoObject(Numbered):
    """An entry of "annotations"; the segmentation stays JSON until it is drawn."""

    image_id: int
    category_id: int
    iscrowd: Literal[0, 1]
    segmentation: msgspec.Raw


class CocoFile(msgspec.Struct):
    """An annotation file. Labels are places in the list of categories, so all of these must be right."""

    images: list[msgspec.Raw]
    annotations: list[msgspec.Raw]
    categories: list[Category]


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
    problems: list[Exception]


def coco_annotations(root: Path, split: str) -> Annotations:
    """Read the annotations of "train" or "val". ValueError if they are not of COCO 2014."""
    path = _file(root, split)
    content = read_json(path, CocoFile)
    problems: list[Exception] = []
    labels = {category.id: label for label, category in enumerate(content.categories, start=1)}
    listed = entries_by_id(content.images, CocoImage, f"{path}: images", problems.append)
    images = {n: AnnotatedImage(PurePosixPath(i.file_name).stem, i.height, i.width, []) for n, i in listed.items()}
    for entry in read_entries(content.annotations, CocoObject, f"{path}: annotations", problems.append):
        if entry.image_id not in images or entry.category_id not in labels:
            about = f"is of image {entry.image_id}, category {entry.category_id}, not both listed"
            problems.append(ValueError(f"{path}: annotation {entry.id} {about}; fetch it again"))
        elif not entry.iscrowd:
            images[entry.image_id].objects.append((entry.id, labels[entry.category_id], entry.segmentation))
    if odd := [image.name for image in images.values() if not image.name.startswith(f"COCO_{split}2014_")]:
        raise ValueError(f"{path}: an image is called {odd[0]}, not COCO_{split}2014_<id>; use the 2014 edition")
    names = tuple(category.name for category in content.categories)
    return Annotations([image for image in images.values() if image.objects], names, problems)


def _file(root: Path, split: str) -> Path:
    return root / "annotations" / f"instances_{split}2014.json"


@lru_cache(maxsize=8)
def _listed(root: Path, split: str, stamp: Stamp) -> tuple[Names, Names, list[Exception]]:
    """Image names, category names and problems of an annotation file, cached for all folds while it is unchanged."""
    content = coco_annotations(root, split)
    return tuple(image.name for image in content.images), content.categories, content.problems


def split_of(frame: str) -> str:
    """The split of an image, from its name. ValueError if it is no name of COCO 2014."""
    if match := re.match("COCO_(train|val)2014_", frame):
        return match[1]
    raise ValueError(f"{frame}: no image of COCO 2014; expected COCO_train2014_<id> or COCO_val2014_<id>")


def make_masks(root: Path, rule: str = "first", on_error: OnError = raise_first, workers: int = 1) -> dict[str, int]:
    """Write the missing masks; returns their number per split. `on_error` gets what cannot be read or drawn."""
    made = {}
    for split in SPLITS:
        folder = root / FOLDERS[rule].format(split)
        present = {mask.name for mask in os.scandir(folder) if mask.stat().st_size} if folder.is_dir() else set()
        try:
            content = coco_annotations(root, split)
        except FileNotFoundError as error:
            on_error(error)
            continue
        for problem in content.problems:
            on_error(problem)
        due = [image for image in content.images if f"{image.name}.png" not in present]
        with closing(map_files(partial(_draw, folder, rule), due, workers, f"drawing {folder.name}")) as drawn:
            for image, problems in drawn:
                for problem in problems:
                    on_error(problem)
                if problems:  # on_error did not raise: write the mask without these objects
                    _draw(folder, rule, image, tolerant=True)
        made[split] = len(due)
    return made


def _draw(folder: Path, rule: str, image: AnnotatedImage, tolerant: bool = False) -> list[Exception]:
    """Write the mask of an image; unless `tolerant`, only if all objects can be drawn. Returns the problems."""
    problems: list[Exception] = []
    where = f"{_file(folder.parent, split_of(image.name))}: {image.name}"
    labels = coco_masks(image.objects, image.height, image.width, rule, problems.append, where)
    if tolerant or not problems:
        write_labels(folder / f"{image.name}.png", labels)
    return problems


class CocoReader(PascalReader):
    """COCO 2014: images {train,val}2014/COCO_*.jpg, masks of the first polygons {train,val}/COCO_*.png."""

    colours = None
    rule, dataset = "first", "coco"

    def check_folders(self) -> None:
        for split in SPLITS:
            folder = self.root / FOLDERS[self.rule].format(split)
            listed = _file(self.root, split).is_file() or (self.root / f"{split}.txt").is_file()
            if listed and not folder.is_dir():
                command = f"python -m ttilib prepare {self.dataset} --root {self.root}"
                raise FileNotFoundError(f"{folder}: no such folder of masks; draw them with `{command}`")

    def names(self, split: str, table: Table, on_error: OnError) -> Names:
        """Images of <root>/<split>.txt, else of the published val list (not with a lists.json), else annotated ones."""
        root, part = self.root, f"{split}2014"
        if (path := root / f"{split}.txt").is_file():
            ids = read_list(path, f"{part}/COCO_{part}_{{}}.jpg {split}/COCO_{part}_{{}}.png", on_error)
            return tuple(f"COCO_{part}_{number}" for number in ids)
        missing: list[Exception] = []
        own = split == "train" or (root / "lists.json").is_file()
        if names := () if own else published_names(self, "coco/val", missing.append):
            for problem in missing:
                on_error(problem)
            return names
        try:
            names, categories, problems = _listed(root, split, file_stamp(_file(root, split)))
        except FileNotFoundError as error:
            on_error(error)
            return ()
        for problem in problems:
            on_error(problem)
        classes = [name for _, name in sorted(table["classes"].items())]
        for label, (name, expected) in enumerate(zip_longest(categories, classes), start=1):
            if name != expected:  # labels are indices of this list
                about = f"category {label} is {name!r}, the class table says {expected!r}"
                raise ValueError(f"{root}: {about}; use the 2014 edition, or give the folder its own lists.json")
        return names

    def image_path(self, frame: str) -> Path:
        return self.root / f"{split_of(frame)}2014/{frame}.jpg"

    def mask_path(self, frame: str) -> Path:
        return self.root / f"{FOLDERS[self.rule].format(split_of(frame))}/{frame}.png"


class CocoFullReader(CocoReader):
    """COCO 2014 with masks of all polygons, {train,val}_full/COCO_*.png."""

    rule, dataset = "full", "coco-full"


def _dataset(kind: type[CocoReader]) -> Dataset:
    masks = [FOLDERS[kind.rule].format(split) + "/<name>.png" for split in SPLITS]
    lists = "train.txt or annotations/instances_train2014.json"
    return Dataset(
        name=kind.dataset,
        table="coco",
        reader=kind,
        scan=partial(scan_images, kind),
        folders=("coco", "COCO"),
        signs=("annotations", "train2014", "val2014"),
        sampling="stills",
        others_ignored=True,
        layout=dict.fromkeys([lists, "train2014/<name>.jpg", "val2014/<name>.jpg", *masks], ""),
        files=partial(listed_files, kind),
        make_masks=lambda root, on_error, workers: make_masks(root, kind.rule, on_error, workers),
    )


COCO, COCO_FULL = _dataset(CocoReader), _dataset(CocoFullReader)

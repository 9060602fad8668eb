"""COCO 2014 as a corpus of stills: the photographs as they come, label maps painted once by `make_masks`.

`scan_coco` and `CocoReader` are for the released masks, which show of each object its first polygon only;
`scan_coco_full` and `CocoFullReader` are for full ones. Source: protocol section 1.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import Any

from ttilib.corpora.corpus import Names, OnError, Scan, stop
from ttilib.corpora.instances import FOLDERS, PARTS, coco_categories, coco_lines, list_line, make_masks, split_of
from ttilib.corpora.painting import coco_masks
from ttilib.corpora.stills import PascalReader, scan_stills, text_lines

__all__ = [
    "CocoFullReader",
    "CocoReader",
    "coco_lines",
    "coco_list",
    "coco_masks",
    "make_masks",
    "scan_coco",
    "scan_coco_full",
]


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

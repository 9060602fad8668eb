"""Pascal VOC with SBD masks, and what other label maps share with it. Source: protocol sections 1.1 and 7."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import UInt8

from ttilib.datasets.base import (
    IGNORE_LABEL,
    LISTED,
    Dataset,
    FrameFiles,
    FramesByClass,
    Ids,
    Names,
    OnError,
    ResizeRule,
    Scan,
    Table,
    large,
    only_present,
    published_lines,
    stop,
)
from ttilib.datasets.masks import census
from ttilib.datasets.transforms import resize_top_left
from ttilib.files import file_names, read_lines
from ttilib.images import Colours, read_image, read_labels


def voc_colour(label: int) -> tuple[int, int, int]:
    """VOC's RGB colour of a label: its bits 3 n, 3 n + 1, 3 n + 2 are bit 7 - n of red, green, blue."""
    red, green, blue = (sum((label >> 3 * deal + channel & 1) << 7 - deal for deal in range(3)) for channel in range(3))
    return red, green, blue


VOC_COLOURS: Colours = {voc_colour(label): label for label in range(256)}
"""RGB to label: black 0, (128, 0, 0) 1, ..., 255 the cream of the void border."""


def read_list(path: Path, form: str, on_error: OnError = stop) -> Names:
    """The ids, {} in `form`, of the lines of a list; `on_error` gets lines of another form."""
    first, *others = (re.escape(part) for part in form.split("{}"))
    pattern = f"{first}(?P<id>[^/ ]+)" + "(?P=id)".join(others)
    ids = []
    for number, line in enumerate(read_lines(path), start=1):
        if match := re.fullmatch(pattern, " ".join(line.split())):
            ids.append(match["id"])
        else:
            about = f"found {line!r}; expected two fields, {form.replace('{}', '<id>')}"
            on_error(ValueError(f"{path}, line {number}: {about}"))
    return tuple(ids)


def published_names(reader: PascalReader, name: str, on_error: OnError = stop) -> Names:
    """The images of a published list, such as "pascal/val", whose image and mask exist."""
    names = [PurePosixPath(line.split()[0]).stem for line in published_lines(name)]
    images = file_names(reader.image_path(names[0]).parent, ".jpg")
    masks = file_names(reader.mask_path(names[0]).parent, ".png")
    return only_present(names, set(images).intersection(masks), name, reader.root, on_error)


def pascal_list(root: Path, split: str, on_error: OnError = stop) -> Names:
    """Images of <root>/<split>.txt, else of the published list (not for a folder with its own lists.json)."""
    path = root / f"{split}.txt"
    if path.is_file():
        return read_list(path, LISTED["pascal"].replace("{0}", "{}"), on_error)
    if (root / "lists.json").is_file():
        lines = "'JPEGImages/<id>.jpg SegmentationClassAug/<id>.png'"
        raise FileNotFoundError(f"{path}: no such list; a folder with its own lists.json needs one with lines {lines}")
    return published_names(PascalReader(root), f"pascal/{split}", on_error)


def known(path: Path, counts: Mapping[int, int], table: Table) -> Mapping[int, int]:
    """The counts, unchanged. ValueError if a label is no class of the table, background or ignore label."""
    if odd := counts.keys() - {0, IGNORE_LABEL, *table["classes"]}:
        raise ValueError(f"{path}: label {min(odd)} is no class of the table; use class ids, 0, {IGNORE_LABEL}")
    return counts


def scan_pascal(root: Path, table: Table, base: Ids, novel: Ids, on_error: OnError = stop) -> Scan:
    """Which images of the train and val lists contain which class, see `scan_stills`."""
    reader = PascalReader(root)
    if not (root / reader.masks).is_dir():
        raise FileNotFoundError(f"{root / reader.masks}: no such folder; expected a label map <id>.png for each image")
    train, val = (pascal_list(root, split, on_error) for split in ("train", "val"))
    return scan_stills(reader, train, val, table, base, novel, on_error)


def scan_stills(
    reader: PascalReader, train: Names, val: Names, table: Table, base: Ids, novel: Ids, on_error: OnError = stop
) -> Scan:
    """Which images contain which class, and which of them base training and episodes may use.

    A class is present where it is `large`: a base class in both lists, a novel class only in `val`. Images with a base
    class are for training or validation. Images with a large novel class are queries, for any novel class in them
    (`shown`). An image whose mask is missing, damaged or has an unknown label is left out and reported to `on_error`.
    """
    paths = {still: reader.mask_path(still) for still in train + val}
    counts = census(list(paths.values()), on_error, kept=reader.root / "lists" / "census.json", colours=reader.colours)
    listed: dict[str, set[int]] = {}
    for still, path in paths.items():
        if path in counts:
            try:
                listed[still] = large(known(path, counts[path], table), table)
            except ValueError as error:
                on_error(error)
    train, val = ([still for still in names if still in listed] for names in (train, val))
    presence: FramesByClass = {number: {} for number in table["classes"]}
    for names, classes in ((train, set(base)), (val, set(presence))):
        for still in names:
            for number in listed[still] & classes:
                presence[number][still] = (still,)
    queries = [still for still in val if listed[still] & set(novel)]
    shown = {still: tuple(sorted(counts[paths[still]].keys() & novel)) for still in queries}
    kept = [tuple(still for still in names if listed[still] & set(base)) for names in (train, val)]
    return Scan({still: (still,) for still in listed}, presence, *kept, shown)


class PascalReader:
    """Pascal VOC: images JPEGImages/<id>.jpg, class ids SegmentationClassAug/<id>.png."""

    episode_rule = training_rule = ResizeRule(resize_top_left, False)
    pictures, masks = "JPEGImages", "SegmentationClassAug"
    colours: Colours | None = VOC_COLOURS
    """Colour to label, for label maps saved as RGB; None if colours have no meaning."""
    others = IGNORE_LABEL
    """The training label of classes that are not base."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def image_path(self, frame: str) -> Path:
        """The image file of a frame."""
        return self.root / f"{self.pictures}/{frame}.jpg"

    def mask_path(self, frame: str) -> Path:
        """The label map of a frame."""
        return self.root / f"{self.masks}/{frame}.png"

    def files(self, frames: Iterable[str]) -> dict[str, FrameFiles]:
        """The image and the label map of each frame."""
        return {frame: FrameFiles(self.image_path(frame), self.mask_path(frame)) for frame in frames}

    def image(self, frame: str) -> UInt8[np.ndarray, "h w 3"]:
        """The RGB image of a frame."""
        return read_image(self.image_path(frame))

    def mask(self, frame: str, class_id: int) -> UInt8[np.ndarray, "h w"]:
        """1 on the class, 0 elsewhere, `IGNORE_LABEL` where the mask has the ignore label."""
        stored = read_labels(self.mask_path(frame), self.colours)
        return np.where(stored == IGNORE_LABEL, IGNORE_LABEL, stored == class_id).astype(np.uint8)

    def labels(self, frame: str, base: Ids) -> UInt8[np.ndarray, "h w"]:
        """Base classes numbered from 1 in the given order; other classes get the label `others`."""
        table = np.full(256, self.others, dtype=np.uint8)
        table[[0, *base]] = range(len(base) + 1)
        return table[read_labels(self.mask_path(frame), self.colours)]


def pascal_files(root: Path, table: Table, on_error: OnError) -> dict[str, FrameFiles]:
    """Image and mask files of both lists."""
    names = [name for split in ("train", "val") for name in pascal_list(root, split, on_error)]
    return PascalReader(root).files(names)


PASCAL = Dataset(
    name="pascal",
    reader=PascalReader,
    scan=scan_pascal,
    folders=("pascal", "voc", "VOC2012", "VOCdevkit/VOC2012"),
    signs=("JPEGImages", "SegmentationClassAug"),
    sampling="stills",
    others_ignored=True,
    layout={"JPEGImages/<id>.jpg": "", "SegmentationClassAug/<id>.png": ""},
    files=pascal_files,
)

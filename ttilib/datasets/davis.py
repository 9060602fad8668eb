"""DAVIS: one object per sequence, in the editions its authors publish or with Pascal's class ids in the masks.

The official editions, known by a folder of a resolution (JPEGImages/480p/<sequence>/<frame>.jpg and
Annotations/480p/<sequence>/<frame>.png), mark an object without saying what it is: 255 on black in 2016, a number
per part in 2017. The class table says what it is, sequence by sequence, and leaves out those whose masks mix
things or show no Pascal class. Without such a folder the masks hold class ids, 255 is the ignore label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from ttilib.datasets.base import (
    IGNORED,
    Dataset,
    FrameFiles,
    Ids,
    LabelRule,
    Names,
    OnError,
    Rule,
    Scan,
    Table,
    class_labels,
    large,
    stop,
)
from ttilib.datasets.masks import Counts
from ttilib.datasets.pascal import PascalReader, known
from ttilib.datasets.transforms import centred
from ttilib.datasets.vspw import counted, keep, sequence_files, sequence_folders, sequence_frames
from ttilib.images import read_labels

RESOLUTIONS = ("480p", "Full-Resolution", "1080p")
"""Folders of the official editions, in the order they are preferred."""


def davis_edition(root: Path) -> str:
    """The resolution folder of an official edition; empty if the masks hold class ids."""
    return next((name for name in RESOLUTIONS if (root / "JPEGImages" / name).is_dir()), "")


def scan_davis(root: Path, table: Table, base: Ids, novel: Ids, on_error: OnError = stop) -> Scan:
    """Where each class is visible, base or novel alike: nothing is ever trained on DAVIS.

    Of an official edition only sequences whose class the table names are there; every label but 0 is the object.
    """
    reader = DavisReader(root)
    images = root / reader.pictures
    names = sequence_folders(images)
    if reader.edition:
        classes = _classes(images, names, table)
        names = [name for name in names if name in classes]
    frames = sequence_frames(images, names, "", ".jpg", on_error)
    frames, counts = counted(root, frames, reader.mask_path, on_error)
    if reader.edition:
        shown = {frame: _object(classes[frame.split("/")[0]], found, table) for frame, found in counts.items()}
    else:
        shown = _labelled(reader, frames, counts, table, on_error)
        frames = keep(frames, shown.__contains__)
    presence = {number: keep(frames, lambda frame, c=number: c in shown[frame]) for number in table["classes"]}
    return Scan(frames, presence, (), ())


def _classes(place: Path, names: Sequence[str], table: Table) -> dict[str, int]:
    """The class of each sequence that the table names; those it leaves out have a reason there."""
    ids = {name: number for number, name in table["classes"].items()}
    found = {name: kind for name, kind in table.get("sequences", {}).items() if name in set(names)}
    if not found:
        about = f"the class table names the class of none of its {len(names)} sequences"
        raise ValueError(f"{place}: {about}; take lists/davis.json or name them under sequences")
    if unknown := sorted(set(found.values()) - ids.keys()):
        raise ValueError(f"{place}: classes {unknown} of the class table's sequences have no id; add them to classes")
    return {name: ids[kind] for name, kind in found.items()}


def _object(number: int, found: Counts, table: Table) -> set[int]:
    pixels = sum(count for label, count in found.items() if label)
    return large({0: found.get(0, 0), number: pixels}, table) & {number}


def _labelled(
    reader: DavisReader, frames: Mapping[str, Names], counts: Mapping[str, Counts], table: Table, on_error: OnError
) -> dict[str, set[int]]:
    """The classes in each frame whose labels are all classes of the table."""
    shown = {}
    for there in frames.values():
        labels = set().union(*(counts[frame] for frame in there))
        if IGNORED in labels and labels <= {0, IGNORED}:
            about = f"its masks hold only 0 and {IGNORED}, so no class"
            advice = f"put an official edition into JPEGImages/480p and Annotations/480p of {reader.root}"
            on_error(ValueError(f"{reader.mask_path(there[0]).parent}: {about}; {advice}"))
            continue
        for frame in there:
            try:
                shown[frame] = large(known(reader.mask_path(frame), counts[frame], table), table)
            except ValueError as error:
                on_error(error)
    return shown


class DavisReader(PascalReader):
    """DAVIS: JPEGImages and Annotations with a folder per sequence, those of an official edition in 480p or the like.

    An official mask does not say of which class its object is, so it is returned whatever the class.
    """

    # Not in the release: resized and padded like other videos, and the padding does not count.
    episode_rule = training_rule = Rule(centred, False)
    colours = None

    def __init__(self, root: Path | str) -> None:
        super().__init__(root)
        self.edition = davis_edition(self.root)
        self.pictures, self.masks = f"JPEGImages/{self.edition}", f"Annotations/{self.edition}"

    def mask(self, frame: str, class_id: int) -> UInt8[np.ndarray, "h w"]:
        """1 on the class, 0 elsewhere, `IGNORED` at the ignore label; in an official edition 1 on the object."""
        if not self.edition:
            return super().mask(frame, class_id)
        return (read_labels(self.mask_path(frame)) > 0).astype(np.uint8)

    def labels(self, frame: str, base: Ids) -> UInt8[np.ndarray, "h w"]:
        """Base classes numbered from 1; classes that are not base get the ignore label."""
        if not self.edition:
            return super().labels(frame, base)
        raise ValueError(f"{self.mask_path(frame)}: names no class; DAVIS cannot be trained on, take other videos")


def davis_files(root: Path, table: Table, on_error: OnError) -> dict[str, FrameFiles]:
    """The frames of all sequences; of an official edition, of those that the class table names."""
    reader = DavisReader(root)
    names = sequence_folders(root / reader.pictures)
    return sequence_files(reader, [n for n in names if not reader.edition or n in table.get("sequences", ())])


def davis_labels(root: Path, table: Table) -> LabelRule:
    """In the masks of an official edition, every label but 0 is the object."""
    return LabelRule(range(256), ()) if davis_edition(root) else class_labels(root, table)


DAVIS = Dataset(
    name="davis",
    reader=DavisReader,
    scan=scan_davis,
    folders=("davis", "DAVIS"),
    signs=("JPEGImages", "Annotations"),
    layout={
        "JPEGImages/480p/<sequence>/<frame>.jpg or JPEGImages/<sequence>/<frame>.jpg": "",
        "Annotations/480p/<sequence>/<frame>.png or Annotations/<sequence>/<frame>.png": "",
    },
    files=davis_files,
    labels=davis_labels,
)

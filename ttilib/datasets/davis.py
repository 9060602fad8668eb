"""DAVIS: one object per sequence, in an official edition or with Pascal's class ids in the masks.

An official edition (folder JPEGImages/480p or another resolution) marks an object without its class: the class table
gives the class of each sequence, and leaves out those of several things or of no Pascal class.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from ttilib.datasets import vspw
from ttilib.datasets.base import (
    IGNORE_LABEL,
    Dataset,
    FrameFiles,
    Ids,
    LabelRule,
    OnError,
    ResizeRule,
    Scan,
    Table,
    class_labels,
)
from ttilib.datasets.masks import Counts, large_labels
from ttilib.datasets.pascal import PascalReader, classes_in
from ttilib.datasets.transforms import letterbox

RESOLUTIONS = ("480p", "Full-Resolution", "1080p")
"""Folders of the official editions, preferred first."""


def davis_edition(root: Path) -> str:
    """The resolution folder of an official edition; "" if masks contain class ids."""
    return next((name for name in RESOLUTIONS if (root / "JPEGImages" / name).is_dir()), "")


def scan_davis(root: Path, table: Table, base: Ids, novel: Ids, on_error: OnError) -> Scan:
    """The frames that contain each class; of an official edition, only sequences whose class the table names."""
    reader = DavisReader(root)
    images = root / reader.images
    names = vspw.sequence_folders(images)
    if reader.edition:
        classes = _classes(images, names, table)
        names = [name for name in names if name in classes]
    frames = vspw.sequence_frames(images, names, "", ".jpg", on_error)
    frames, counts = vspw.count_labels(reader, frames, on_error)
    if reader.edition:
        shown = {frame: _object(classes[frame.split("/")[0]], found, table) for frame, found in counts.items()}
    else:
        shown = classes_in(reader, counts, table, on_error)
        frames = vspw.filter_frames(frames, shown)
    return Scan(frames, vspw.frames_by_class(frames, shown, table["classes"]), (), ())


def _classes(images: Path, names: Sequence[str], table: Table) -> dict[str, int]:
    """The class of each sequence that the table names; the table gives a reason for the others."""
    ids = {name: number for number, name in table["classes"].items()}
    found = {name: kind for name, kind in table.get("sequences", {}).items() if name in set(names)}
    if not found:
        about = f"the class table names the class of none of its {len(names)} sequences"
        raise ValueError(f"{images}: {about}; take lists/davis.json or name them under sequences")
    if unknown := sorted(set(found.values()) - ids.keys()):
        raise ValueError(f"{images}: classes {unknown} of the class table's sequences have no id; add them to classes")
    return {name: ids[kind] for name, kind in found.items()}


def _object(number: int, found: Counts, table: Table) -> set[int]:
    """The class of a sequence, if all its labels together are large enough in a frame."""
    pixels = sum(count for label, count in found.items() if label)
    return large_labels({0: found.get(0, 0), number: pixels}, table) & {number}


class DavisReader(PascalReader):
    """DAVIS: JPEGImages and Annotations by sequence; an official mask names no class, so it is returned for any."""

    # Not in the release: letterboxed like other videos, padding and void are ignored.
    episode_rule = training_rule = ResizeRule(letterbox, False)
    void = IGNORE_LABEL
    colours = None

    def __init__(self, root: Path | str) -> None:
        super().__init__(root)
        self.edition = davis_edition(self.root)
        self.images, self.masks = f"JPEGImages/{self.edition}", f"Annotations/{self.edition}"

    def mask(self, frame: str, class_id: int) -> UInt8[np.ndarray, "h w"]:
        if not self.edition:
            return super().mask(frame, class_id)
        return (self.stored(frame) > 0).astype(np.uint8)

    def labels(self, frame: str, base: Ids) -> UInt8[np.ndarray, "h w"]:
        if not self.edition:
            return super().labels(frame, base)
        raise ValueError(f"{self.mask_path(frame)}: names no class; DAVIS cannot be trained on, take other videos")


def davis_files(root: Path, table: Table, on_error: OnError) -> dict[str, FrameFiles]:
    """Files of all frames; of an official edition, only of sequences in the class table."""
    reader = DavisReader(root)
    names = vspw.sequence_folders(root / reader.images)
    return vspw.sequence_files(reader, [n for n in names if not reader.edition or n in table.get("sequences", ())])


def davis_labels(root: Path, table: Table) -> LabelRule:
    """An official edition may use every label: all but 0 are the object."""
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

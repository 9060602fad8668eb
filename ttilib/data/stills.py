"""Stills with a label map each: Pascal VOC with SBD masks.

`pascal_list` reads a list of stills, `scan_pascal` tells which classes each still shows, `PascalReader` reads
photographs and masks. Source: protocol section 1.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import UInt8

from ttilib.data.augmentation import flip
from ttilib.data.corpus import IGNORED, OnError, Rule, Scan, large, stop
from ttilib.data.transforms import static
from ttilib.images import label_counts, read_image, read_labels


def pascal_list(root: Path, name: str) -> tuple[str, ...]:
    """The stills of a list in file order; lines are JPEGImages/<id>.jpg SegmentationClassAug/<id>.png."""
    path = root / name
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such list; expected lines 'JPEGImages/<id>.jpg <mask path>'")
    names = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        fields = line.split()
        still = PurePosixPath(fields[0]).stem if fields else ""
        if fields != [f"JPEGImages/{still}.jpg", f"SegmentationClassAug/{still}.png"]:
            raise ValueError(
                f"{path}, line {number}: found {line!r}; expected two fields, "
                "JPEGImages/<id>.jpg SegmentationClassAug/<id>.png"
            )
        names.append(still)
    return tuple(names)


def known(path: Path, counts: Mapping[int, int], table: Mapping[str, Any]) -> Mapping[int, int]:
    for label in counts:
        if label not in (0, IGNORED) and label not in table["classes"]:
            raise ValueError(f"{path}: label {label} is no class of the table; use class ids, 0, {IGNORED}")
    return counts


def scan_pascal(
    root: Path,
    table: Mapping[str, Any],
    base: Sequence[int],
    novel: Sequence[int],
    on_error: OnError = stop,
) -> Scan:
    train, val = pascal_list(root, "train.txt"), pascal_list(root, "val.txt")
    listed = {}
    for still in dict.fromkeys(train + val):
        path = root / "SegmentationClassAug" / f"{still}.png"
        listed[still] = large(known(path, label_counts(path), table), table)
    pools = {number: train + val if number in base else val for number in table["classes"]}
    presence = {c: {s: (s,) for s in pool if c in listed[s]} for c, pool in pools.items()}
    kept = [tuple(s for s in names if listed[s] & set(base)) for names in (train, val)]
    return Scan({still: (still,) for still in listed}, presence, *kept)


class PascalReader:
    """Pascal stills: JPEGImages/<id>.jpg with class ids in SegmentationClassAug/<id>.png."""

    episode_rule = training_rule = Rule(static, False)
    vary = staticmethod(flip)
    pictures, masks = "JPEGImages", "SegmentationClassAug"

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def image(self, frame: str) -> UInt8[np.ndarray, "h w 3"]:
        """The photograph of a frame, red green blue."""
        return read_image(self.root / self.pictures / f"{frame}.jpg")

    def mask(self, frame: str, class_id: int) -> UInt8[np.ndarray, "h w"]:
        """1 on the class, 0 on everything else that was judged, `IGNORED` on the rest."""
        stored = read_labels(self.root / self.masks / f"{frame}.png")
        return np.where(stored == IGNORED, IGNORED, stored == class_id).astype(np.uint8)

    def labels(self, frame: str, base: Sequence[int]) -> UInt8[np.ndarray, "h w"]:
        """Base classes numbered from 1; classes that are not base are ignored, as is what nobody judged."""
        table = np.full(256, IGNORED, dtype=np.uint8)
        table[[0, *base]] = range(len(base) + 1)
        return table[read_labels(self.root / self.masks / f"{frame}.png")]

"""Predicted masks on disk, so that a figure of them needs no second run.

A line of JSON holds the masks of one episode under one method, each frame as run lengths in COCO's compressed form: a
few hundred bytes per frame. Lines are written as rows are (see `records`), so a killed writer loses its own line only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from pycocotools import mask as runs
from torch import Tensor

from ttilib.corpora.outlines import decode
from ttilib.scores.metrics import Masks, as_masks
from ttilib.scores.records import append_row

NAMES = ("key", "index", "method")


def append_masks(path: Path | str, row_key: Mapping[str, Any], masks: Masks) -> None:
    """Add the masks of one episode and method to the file, under the row's `key`, `index` and `method`.

    `row_key` may be the whole row.
    Raises ValueError if one of the three is missing or the masks are not bool [T, H, W].
    """
    missing = [name for name in NAMES if name not in row_key]
    if missing:
        raise ValueError(f"{path}: masks without {missing[0]!r}; name them by {', '.join(NAMES)}")
    (array,) = as_masks(masks)
    frames = [runs.encode(np.asfortranarray(frame, dtype=np.uint8))["counts"].decode("ascii") for frame in array]
    append_row(path, {name: row_key[name] for name in NAMES} | {"size": list(array.shape[1:]), "frames": frames})


def read_masks(path: Path | str, key: str, index: int, method: str) -> Bool[Tensor, "T H W"]:
    """The masks of one episode and method; of several lines about it, the last.

    A last line that is not whole is not there yet. Raises FileNotFoundError if there is no such file, ValueError if it
    does not hold these masks, saying what it holds of the episode, or if a line about the episode is broken.
    """
    path, found = Path(path), {}
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of masks; evaluate the episodes and keep their masks first")
    for row in _lines(path, key):
        if row.get("key") == key and row.get("index") == index:
            found[row["method"]] = row
    if method not in found:
        others = f"there are those of {', '.join(found)}" if found else "the episode is not in it"
        raise ValueError(f"{path}: no masks of episode {key} (index {index}) by {method!r}; {others}")
    return _decoded(found[method])


def _lines(path: Path, key: str) -> Iterator[dict[str, Any]]:
    """The rows whose text holds the key; only these are taken apart, for the file may be large."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if key.encode() not in line:
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                if not line.endswith(b"\n"):
                    return  # its writer was killed, or is writing this moment
                raise ValueError(f"{path}: line {number} is not whole; remove that line and evaluate again") from error
            yield row


def _decoded(row: Mapping[str, Any]) -> Bool[Tensor, "T H W"]:
    size = row["size"]
    masks = np.zeros((len(row["frames"]), *size), dtype=bool)
    for frame, counts in zip(masks, row["frames"], strict=True):
        frame[:] = decode({"size": size, "counts": counts}, *size)
    return torch.from_numpy(masks)

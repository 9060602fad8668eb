"""COCO outlines: polygons, or run lengths plain or compressed, as one mask.

Annotation files of the COCO family say where an object is in one of three ways. `decode` paints any of them,
`misfit` says at a glance whether one can belong to a picture, `packed` keeps run lengths in little memory.
"""

from __future__ import annotations

import threading
import warnings
from typing import Any

import numpy as np
from jaxtyping import Bool
from pycocotools import mask as coco

ONE_AT_A_TIME = threading.Lock()
"""Warning filters belong to the whole process; two threads that change them at once leave them changed."""


def decode(outline: Any, height: int, width: int, where: str = "outline") -> Bool[np.ndarray, "{height} {width}"]:
    """The inside of a COCO outline: polygons, or run lengths plain or compressed.

    Raises ValueError, beginning with `where`, if the outline is of none of the three kinds or another size.
    """
    if wrong := misfit(outline, height, width):
        raise ValueError(f"{where}: {wrong}; mend the annotations or fetch them again")
    if isinstance(outline, list):
        polygons = [polygon for polygon in outline if len(polygon) >= 6]  # two corners have no inside
        if not polygons:
            return np.zeros((height, width), dtype=bool)
        return _inside(coco.merge(coco.frPyObjects(polygons, height, width)))
    if not isinstance(outline["counts"], str | bytes):
        outline = coco.frPyObjects(outline, height, width)
    return _inside(outline)


def misfit(outline: Any, height: int, width: int) -> str:
    """What keeps an outline from being one of a picture of this size; empty if nothing does."""
    if isinstance(outline, list):
        return ""
    if not isinstance(outline, dict) or not {"size", "counts"} <= outline.keys():
        return f"found {str(outline)[:40]!r}, expected polygons or run lengths"
    if list(outline["size"]) != [height, width]:
        return f"size is {list(outline['size'])}, the picture's {[height, width]}"
    if isinstance(outline["counts"], str | bytes):
        return ""
    counts = np.asarray(outline["counts"])
    if counts.dtype.kind not in "iu" or counts.min(initial=0) < 0:
        return "run lengths are not whole numbers from 0 up"
    total = int(counts.sum())
    return "" if total == height * width else f"run lengths add up to {total}, not {height * width}"


def packed(outline: Any) -> Any:
    """The same outline with plain run lengths as an array, a tenth of the memory of a list; anything else as it is.

    Meant for `json.loads(..., object_hook=packed)`: the lists of a large file then never exist all at once.
    """
    if not isinstance(outline, dict) or not isinstance(outline.get("counts"), list):
        return outline
    counts = np.asarray(outline["counts"])
    fits = counts.dtype.kind == "i" and counts.min(initial=0) >= 0
    return {**outline, "counts": counts.astype(np.uint32)} if fits else outline


def _inside(lengths: dict[str, Any]) -> Bool[np.ndarray, "h w"]:
    with ONE_AT_A_TIME, warnings.catch_warnings():  # pycocotools builds its array in a way that NumPy 2 complains about
        warnings.simplefilter("ignore", DeprecationWarning)
        return coco.decode(lengths).astype(bool)

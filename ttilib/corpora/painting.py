"""From COCO's outlines to a label map, to the pixel as the released masks were painted, or in full.

`coco_masks` paints the objects of one still over each other. The released masks hold of every object its first
polygon only, filled by the rules of an OpenCV that no longer is; `fill_polygon` keeps those rules.
Source: protocol section 6 (Q33).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from jaxtyping import Int32, UInt8

from ttilib.corpora.corpus import OnError, stop
from ttilib.corpora.outlines import decode

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

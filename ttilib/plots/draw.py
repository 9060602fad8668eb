"""Masks drawn on an image in a notebook: brush, eraser, polygon, box, and GrabCut in a box."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import anywidget
import cv2
import numpy as np
import traitlets
from msgspec import Meta, Struct

from ttilib.files import convert
from ttilib.images import read_image, read_labels, write_labels
from ttilib.plots.overlays import CELL, SUPPORT, Mask, Pixels, overlay, zoom_for

UNDONE = 30  # strokes that can be undone
Coordinate = Annotated[float, Meta(ge=-1e5, le=1e5)]


class Stroke(Struct):
    """What the browser sends: a tool, its points (x, y in pixels of the image), the width of the brush in pixels."""

    tool: Literal["brush", "eraser", "polygon", "box", "grabcut", "undo", "clear"]
    points: Annotated[list[tuple[Coordinate, Coordinate]], Meta(max_length=100_000)]
    width: Annotated[float, Meta(ge=1, le=5000)] = 1.0


def mask_after(mask: Mask, stroke: Stroke, image: Pixels) -> Mask:
    """The mask after a stroke. `grabcut` adds what GrabCut finds in a box; what is drawn in it is the object."""
    if not stroke.points:
        return mask & (stroke.tool != "clear")
    canvas = np.zeros(mask.shape, np.uint8)
    points = np.floor([*stroke.points, stroke.points[-1]]).astype(np.int32)  # a click is a line of length 0
    if stroke.tool in ("brush", "eraser"):
        cv2.polylines(canvas, [points], False, 1, round(stroke.width))
    elif stroke.tool == "polygon":
        cv2.fillPoly(canvas, [points], 1)
    else:
        cv2.rectangle(canvas, points.min(axis=0).tolist(), points.max(axis=0).tolist(), 1, cv2.FILLED)
    if stroke.tool == "eraser":
        return mask & (canvas == 0)
    return mask | (_cut(mask, canvas, image) if stroke.tool == "grabcut" else canvas > 0)


def _cut(mask: Mask, box: np.ndarray, image: Pixels) -> Mask:
    """The object in a box, against a rim around it of half its size; the box itself where there is no rim."""
    x, y, w, h = cv2.boundingRect(box)
    window = slice(max(y - h // 2, 0), y + h + h // 2), slice(max(x - w // 2, 0), x + w + w // 2)
    labels = np.where(box, np.where(mask, cv2.GC_FGD, cv2.GC_PR_FGD), cv2.GC_BGD).astype(np.uint8)[window]
    found, background = box > 0, labels == cv2.GC_BGD
    if min(background.sum(), (~background).sum()) >= 5:  # one pixel for each Gaussian
        cv2.setRNGSeed(0)  # OpenCV's k-means starts at random
        models = np.zeros((1, 65)), np.zeros((1, 65))  # parameters of two mixtures of five Gaussians
        cv2.grabCut(np.ascontiguousarray(image[window]), labels, None, *models, 5, cv2.GC_INIT_WITH_MASK)
        found[window] = (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
    return found


class MaskDrawing(anywidget.AnyWidget):
    """An image to draw a mask on. Every stroke writes the PNG file `path` (0 and 255) atomically, and nothing else.
    A mask in `path` is continued. Needs a running kernel. Raises ValueError if `path` is the image, is no .png, or
    holds a mask of another size; else as `read_image` and `read_labels`.
    """

    _esm = Path(__file__).with_suffix(".js")
    view = traitlets.Bytes().tag(sync=True)  # JPEG of the image with its mask
    size = traitlets.List().tag(sync=True)  # height and width of the image in pixels
    done = traitlets.Int(0).tag(sync=True)  # number of strokes
    text = traitlets.Unicode().tag(sync=True)

    def __init__(self, image: Path | str, path: Path | str) -> None:
        self._path, self._pixels = Path(path), read_image(image)
        if self._path.suffix != ".png" or self._path.resolve() == Path(image).resolve():
            raise ValueError(f"{path}: cannot hold the mask of {image}; name another file that ends in .png")
        self.mask = read_labels(path) > 0 if self._path.is_file() else np.zeros(self._pixels.shape[:2], bool)
        self._earlier: list[Mask] = []
        super().__init__(size=list(self._pixels.shape[:2]))
        self._show()
        self.on_msg(lambda _, content, __: self.draw(content))

    def draw(self, content: dict[str, Any]) -> None:
        """Apply one `Stroke` and write the mask. Raises ValueError for anything else."""
        stroke = convert(content, Stroke, f"{self._path}: a stroke")
        if stroke.tool != "undo":
            self._earlier = [*self._earlier[1 - UNDONE :], self.mask]
            self.mask = mask_after(self.mask, stroke, self._pixels)
        elif self._earlier:
            self.mask = self._earlier.pop()
        write_labels(self._path, self.mask.astype(np.uint8) * 255)
        self._show()
        self.done += 1

    def _show(self) -> None:
        shown = overlay(self._pixels, self.mask, colour=SUPPORT, zoom=zoom_for(self._pixels, CELL))
        if (share := 2 * CELL / max(shown.shape)) < 1:
            shown = cv2.resize(shown, None, fx=share, fy=share, interpolation=cv2.INTER_AREA)
        self.view = cv2.imencode(".jpg", cv2.cvtColor(shown, cv2.COLOR_RGB2BGR))[1].tobytes()
        self.text = f"{self._path}: {100 * self.mask.mean():.1f} % of the image"

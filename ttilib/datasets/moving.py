"""Moving images: each Pascal image of `val` becomes a short clip by a camera path, and its mask moves with it.

A benchmark for choosing settings: all 20 classes, hundreds of clips, exact masks, support from other images. The motion
is that of a camera over a flat image: nothing deforms, turns or is hidden behind something else.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from ttilib.datasets.base import Dataset, Ids, OnError, ResizeRule, Scan, Table
from ttilib.datasets.pascal import PASCAL, PascalReader, scan_images
from ttilib.datasets.transforms import letterbox
from ttilib.files import digest

FRAMES = 10
ZOOM = (0.7, 0.95)
"""Side of the view at the two ends of the path, as a proportion of the image's."""
SKEW = 0.06
"""Largest shift of a corner of the view, as a proportion of the view: rotation and perspective."""
EXPOSURE = 0.15
"""Largest relative change of brightness from the first frame to the last, half of it on either side of the image's."""
NOISE = 3.0
"""Standard deviation of the noise, in grey levels."""


def camera(image: str, size: tuple[int, int], t: float) -> tuple[Float[np.ndarray, "4 2"], float]:
    """Corners (x, y) of the view in an image of `size` (height, width) at time t in [0, 1], and its brightness.

    corners(t) = corners(0) + s(t) (corners(1) - corners(0)), s(t) = t^2 (3 - 2 t); both ends are quadrilaterals inside
    the image, drawn from its name.
    """
    rng = np.random.default_rng(int(digest(image), 16))
    corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1)], dtype=np.float64)
    zooms, places, skews = rng.uniform(*ZOOM, 2), rng.uniform(size=(2, 2)), rng.uniform(-SKEW, SKEW, (2, 4, 2))
    ends = [z * (corners + skew) + (1 - z) * place for z, place, skew in zip(zooms, places, skews, strict=True)]
    first, last = (end.clip(0, 1) * (size[1] - 1, size[0] - 1) for end in ends)
    brightness = 1 + rng.uniform(-EXPOSURE, EXPOSURE) * (t - 0.5)
    return first + t * t * (3 - 2 * t) * (last - first), brightness


class MovingReader(PascalReader):
    """Frames "<image>/<number>" of clips made from Pascal's images; no state, the same name gives the same pixels."""

    # As for DAVIS: letterboxed, padding and void are ignored.
    episode_rule = training_rule = ResizeRule(letterbox, False)

    def image(self, frame: str) -> UInt8[np.ndarray, "h w 3"]:
        image, number = frame.split("/")
        view, brightness = self._view(super().image(image), frame, cv2.INTER_LINEAR)
        noise = np.random.default_rng(int(digest(frame), 16)).normal(0, NOISE, view.shape)
        return (view * brightness + noise).round().clip(0, 255).astype(np.uint8)

    def stored(self, frame: str) -> UInt8[np.ndarray, "h w"]:
        return self._view(super().stored(frame.split("/")[0]), frame, cv2.INTER_NEAREST)[0]

    def labels(self, frame: str, base: Ids) -> UInt8[np.ndarray, "h w"]:
        raise ValueError(f"{self.mask_path(frame.split('/')[0])}: moving images are for evaluation; train on pascal")

    def _view(
        self, pixels: UInt8[np.ndarray, "*shape"], frame: str, how: int
    ) -> tuple[UInt8[np.ndarray, "*shape"], float]:
        """What the camera sees, as large as the image, and its brightness."""
        image, number = frame.split("/")
        height, width = pixels.shape[:2]
        corners, brightness = camera(image, (height, width), int(number) / (FRAMES - 1))
        whole = np.array([(0, 0), (width - 1, 0), (width - 1, height - 1), (0, height - 1)], dtype=np.float32)
        matrix = cv2.getPerspectiveTransform(corners.astype(np.float32), whole)
        return cv2.warpPerspective(pixels, matrix, (width, height), flags=how), brightness


def scan_moving(root: Path, table: Table, base: Ids, novel: Ids, on_error: OnError) -> Scan:
    """A clip of each `val` image with a large novel class, which all its frames are taken to contain."""
    stills = scan_images(PascalReader, root, table, base, novel, on_error)
    frames = {image: tuple(f"{image}/{number}" for number in range(FRAMES)) for image in stills.shown}
    presence = {c: {i: frames[i] for i in stills.presence[c]} if c in novel else {} for c in table["classes"]}
    return Scan(frames, presence, (), ())


MOVING = Dataset(
    name="moving-pascal",
    reader=MovingReader,
    scan=scan_moving,
    folders=PASCAL.folders,
    signs=PASCAL.signs,
    table="pascal",
    layout=PASCAL.layout,
    files=PASCAL.files,
)

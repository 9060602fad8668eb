"""Images to measure on: photographs with detail at every scale, and masks."""

from __future__ import annotations

import cv2
import numpy as np
from pycocotools import mask as coco

HEIGHT, WIDTH = 720, 1280


def photograph(rng: np.random.Generator) -> np.ndarray:
    """Detail at every scale, weaker the finer it is: a quarter of a byte a pixel as JPEG, like photographs."""
    image = np.full((HEIGHT, WIDTH, 3), 128.0)
    for octave in range(9):
        coarse = rng.normal(0, 60 * 0.7**octave, (2 + 3 * 2**octave, 2 + 5 * 2**octave, 3))
        image += cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    return np.clip(image, 0, 255).astype(np.uint8)


def silhouette(rng: np.random.Generator, reach: float = 0.3) -> np.ndarray:
    """A wavy blob, uint8 0 and 1, whose radius is about `reach` of the height."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    rows, columns = rows - HEIGHT * rng.uniform(0.4, 0.6), columns - WIDTH * rng.uniform(0.4, 0.6)
    waves = 1 + 0.2 * np.sin(rng.integers(5, 15) * np.arctan2(rows, columns))
    return (np.hypot(rows, columns) < reach * HEIGHT * waves).astype(np.uint8)


def outline(mask: np.ndarray) -> dict:
    """Compressed COCO run lengths."""
    lengths = coco.encode(np.asfortranarray(mask))
    return {"size": list(lengths["size"]), "counts": lengths["counts"].decode()}

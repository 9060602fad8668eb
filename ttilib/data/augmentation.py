"""From one labelled picture to another: how training pictures are varied.

`augment` is the rule of the video corpora, `flip` that of the stills; each draws from the generator it is given.
Source: protocol section 2.
"""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from ttilib.data.transforms import Labels, Picture


def augment(
    image: Picture, labels: Labels, rng: np.random.Generator
) -> tuple[Float[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]]:
    """Another picture of the same scene: a little cropped, scaled, sheared, turned, lit, perhaps mirrored.

    Crop 0 to 10% per side, scale 0.95 to 1.05, shear and rotation within 10 and 15 degrees, in one warp
    about the centre; then contrast times U(0.97, 1.03) plus U(-5, 5) grey values (of 255), not clipped; then
    a mirror with probability 1/2. What comes into view is black and background.
    Source: protocol section 2, YTVIS-style training, applied here to every frame alike.
    """
    height, width = labels.shape
    matrix = _warp(height, width, rng)
    new = cv2.warpAffine(image.astype(np.float32), matrix, (width, height), flags=cv2.INTER_LINEAR)
    new = new * np.float32(rng.uniform(0.97, 1.03)) + np.float32(rng.uniform(-5, 5))
    labels = cv2.warpAffine(labels, matrix, (width, height), flags=cv2.INTER_NEAREST)
    if rng.random() < 0.5:
        new, labels = new[:, ::-1], labels[:, ::-1]
    return np.ascontiguousarray(new), np.ascontiguousarray(labels)


def _warp(height: int, width: int, rng: np.random.Generator) -> Float[np.ndarray, "2 3"]:
    """Crop (stretched back to full size), then scale, shear and rotation about the centre, as one matrix."""
    top, bottom, left, right = rng.uniform(0.0, 0.1, size=4)
    scale, shear, angle = rng.uniform(0.95, 1.05), *np.deg2rad(rng.uniform((-10, -15), (10, 15)))
    stretch = np.diag([1 / (1 - left - right), 1 / (1 - top - bottom)])
    corner = np.array([left * width, top * height])
    centre = np.array([width, height]) / 2
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = scale * turn @ np.array([[1.0, np.tan(shear)], [0.0, 1.0]])
    offset = centre - linear @ (centre + stretch @ corner)
    return np.hstack([linear @ stretch, offset[:, None]])


def flip(
    image: Picture, labels: Labels, rng: np.random.Generator
) -> tuple[Picture, UInt8[np.ndarray, "h w"]]:
    """The Pascal variation: a horizontal and a vertical mirror, each with probability 1/2."""
    for axis in (1, 0):
        if rng.random() < 0.5:
            image, labels = np.flip(image, axis), np.flip(labels, axis)
    return np.ascontiguousarray(image), np.ascontiguousarray(labels)

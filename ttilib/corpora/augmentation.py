"""From labelled pictures to others of the same scenes: how training pictures are varied.

`augment_clip` is the rule of the video corpora, `augment` its one-frame case, `flip` the rule of the stills; each
draws from the generator it is given. Mirrors are torchvision's. The warp is OpenCV's: the release's (imgaug) is
equal to neither to the bit, one matrix holds the crop's stretch as well, which v2's affine has no argument for,
and v2's takes seven times as long. Source: protocol section 2.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from torchvision.transforms.v2 import functional as v2
from torchvision.tv_tensors import Image, Mask

from ttilib.corpora.transforms import ImageTensor, Labels, image_tensor, mask_tensor, pixels


def augment(
    image: ImageTensor, labels: Labels, rng: np.random.Generator
) -> tuple[Float[Image, "3 _ _"], UInt8[Mask, "_ _"]]:
    """Another picture of the same scene: `augment_clip` for a clip of this frame, which is not spared."""
    images, masks = augment_clip([image], [labels], rng, spare_first=False)
    return images[0], masks[0]


def augment_clip(
    images: Sequence[Image], labels: Sequence[Mask], rng: np.random.Generator, spare_first: bool = True
) -> tuple[list[Image], list[Mask]]:
    """A clip a little cropped, scaled, sheared, turned, lit, perhaps mirrored: every frame in the same way.

    A portrait or square clip is laid on its side first. Crop 0 to 10% per side, scale 0.95 to 1.05, shear
    and rotation within 10 and 15 degrees, in one warp about the centre, for every frame but the first
    (`spare_first`; the release leaves it as it is); then contrast times U(0.97, 1.03) plus U(-5, 5) grey values
    (of 255), not clipped; then a mirror with probability 1/2. What comes into view is black and background.
    Pictures become float32 before they are warped, and are not rounded.
    Source: protocol section 2, YTVIS-style training.
    """
    if labels[0].shape[0] >= labels[0].shape[1]:
        images, labels = [Image(image.mT) for image in images], [Mask(mask.mT) for mask in labels]
    matrix = _warp(*labels[0].shape, rng)
    contrast, offset = np.float32(rng.uniform(0.97, 1.03)), np.float32(rng.uniform(-5, 5))
    mirrored = rng.random() < 0.5
    new_images, new_labels = [], []
    for place, (image, mask) in enumerate(zip(images, labels, strict=True)):
        if place > 0 or not spare_first:
            image, mask = _warped(image, mask, matrix)
        image = image_tensor(pixels(image).astype(np.float32) * contrast + offset)
        new_images.append(v2.horizontal_flip(image) if mirrored else image)
        new_labels.append(v2.horizontal_flip(mask) if mirrored else mask)
    return new_images, new_labels


def _warped(
    image: ImageTensor, labels: Labels, matrix: Float[np.ndarray, "2 3"]
) -> tuple[Float[Image, "3 h w"], Labels]:
    """Both under one affine map, the picture by the bilinear rule in float32, labels by the nearest rule."""
    height, width = labels.shape
    source = pixels(image).astype(np.float32)
    new = cv2.warpAffine(source, matrix, (width, height), flags=cv2.INTER_LINEAR)
    moved = np.ascontiguousarray(labels.numpy())
    moved = cv2.warpAffine(moved, matrix, (width, height), flags=cv2.INTER_NEAREST)
    return image_tensor(new), mask_tensor(moved)


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
    image: ImageTensor, labels: Labels, rng: np.random.Generator
) -> tuple[ImageTensor, Labels]:
    """The Pascal variation: a horizontal and a vertical mirror, each with probability 1/2."""
    for mirror in (v2.horizontal_flip, v2.vertical_flip):
        if rng.random() < 0.5:
            image, labels = mirror(image), mirror(labels)
    return image, labels

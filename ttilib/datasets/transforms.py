"""Resize and pad images and masks to the network input, bit-identical to the release; augment training data.

Resizing and warping use OpenCV, as the release does: torchvision's v2 differs by up to 0.03 of 255 (bilinear) and by a
pixel for one pair of lengths in thirteen (nearest). Source: docs/protocol.md 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor
from torchvision.transforms.v2 import functional as v2
from torchvision.tv_tensors import Image, Mask

Size = tuple[int, int]
Pixels = UInt8[np.ndarray, "h w 3"] | Float[np.ndarray, "h w 3"]
ImageTensor = UInt8[Image, "3 h w"] | Float[Image, "3 h w"]
Labels = UInt8[Mask, "h w"]
Canvas = Float[Image, "3 H W"] | UInt8[Mask, "H W"]

MEAN = (0.485, 0.456, 0.406)  # of ImageNet, RGB, values in [0, 1]
STD = (0.229, 0.224, 0.225)


def image_tensor(pixels: Pixels) -> ImageTensor:
    """An image [h, w, 3] as torchvision's [3, h, w]; shares memory where possible."""
    return Image(_shared(pixels).permute(2, 0, 1))


def mask_tensor(labels: UInt8[np.ndarray, "h w"]) -> Labels:
    """A label map as torchvision's; shares memory where possible."""
    return Mask(_shared(labels))


def to_numpy_hwc(image: ImageTensor) -> Pixels:
    """The inverse of `image_tensor`: OpenCV's [h, w, 3], contiguous."""
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


def _shared(array: np.ndarray) -> Tensor:
    # torch refuses negative strides and warns of read-only memory.
    unfit = not array.flags.writeable or min(array.strides) < 0
    return torch.from_numpy(array.copy() if unfit else array)


@dataclass(frozen=True)
class Placement:
    """Scale and offset of a frame in pixels: resized to height x width, its corner at (top, left) of the canvas."""

    height: int
    width: int
    top: int
    left: int
    canvas: Size

    @property
    def inside(self) -> tuple[slice, slice]:
        """Row and column slices of the frame on the canvas."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)

    def scale(self, frame: ImageTensor | Labels, rounded: bool = False) -> Float[Image, "3 _ _"] | UInt8[Mask, "_ _"]:
        """Resize an image (bilinear, same range, float32; `rounded`: in bytes) or labels (nearest)."""
        size = (self.width, self.height)
        if isinstance(frame, Image):
            source = to_numpy_hwc(frame) if rounded else to_numpy_hwc(frame).astype(np.float32, copy=False)
            part = cv2.resize(source, size, interpolation=cv2.INTER_LINEAR)
            return image_tensor(part.astype(np.float32, copy=False))
        labels = frame.numpy()
        if labels.flags.f_contiguous:  # decoded run lengths: resize the transpose, which needs no copy
            return mask_tensor(cv2.resize(labels.T, size[::-1], interpolation=cv2.INTER_NEAREST).T)
        return mask_tensor(cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST))

    def fit(self, frame: ImageTensor | Labels, padding: int = 0, rounded: bool = False) -> Canvas:
        """The frame resized by `scale` and padded with `padding` to the canvas."""
        below, right = self.canvas[0] - self.top - self.height, self.canvas[1] - self.left - self.width
        return v2.pad(self.scale(frame, rounded), [self.left, self.top, right, below], fill=padding)

    def unpad(self, mask: Bool[np.ndarray, "H W"], size: Size) -> Bool[np.ndarray, "h w"]:
        """Resize a mask on the canvas to the frame's size (height, width), nearest pixel."""
        part = mask[self.inside].astype(np.uint8)
        # By pixel centres: INTER_NEAREST (the release's, in `fit`) is shifted up and left.
        return cv2.resize(part, (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT).astype(bool)


def letterbox(height: int, width: int, canvas: Size) -> Placement:
    """Letterbox (videos): f = min(H / h, W / w), sides int(f h), int(f w), centred; odd padding is below and right.

    480 x 853 becomes 234 x 417 at row 91 of 417 x 417. Source: docs/protocol.md 2, Rescale.
    """
    factor = min(canvas[0] / height, canvas[1] / width)
    # Keep this expression: another order of operations rounds some sizes to one pixel more.
    new_height, new_width = max(int(factor * height), 1), max(int(factor * width), 1)
    return Placement(new_height, new_width, (canvas[0] - new_height) // 2, (canvas[1] - new_width) // 2, canvas)


def resize_top_left(height: int, width: int, canvas: Size) -> Placement:
    """Resize and pad top-left (Pascal): one side fills the canvas, then both are cut to multiples of 8.

    On a square canvas of side s the longest side becomes s, the other int(other (s / longest)); otherwise s is the side
    that fills first. 480 x 853 becomes 232 x 416 on 417 x 417. Source: docs/protocol.md 2, Resize ("longest").
    """
    # Keep this expression: int(other * s / longest) gives 8 pixels more for a few sizes.
    if height * canvas[1] >= width * canvas[0]:
        new_height, new_width = canvas[0], int(width * (canvas[0] / height))
    else:
        new_height, new_width = int(height * (canvas[1] / width)), canvas[1]
    return Placement(max(new_height // 8 * 8, 1), max(new_width // 8 * 8, 1), 0, 0, canvas)


def normalise(images: Float[Tensor, "*N 3 H W"]) -> Float[Tensor, "*N 3 H W"]:
    """(x - mean) / std per channel with ImageNet's values; images in [0, 1]."""
    return v2.normalize(images, MEAN, STD)


def denormalise(images: Float[Tensor, "*N 3 H W"]) -> Float[Tensor, "*N 3 H W"]:
    """The inverse of `normalise`: x std + mean, in [0, 1] up to rounding."""
    return v2.normalize(images, [-mean / std for mean, std in zip(MEAN, STD, strict=True)], [1 / std for std in STD])


def augment(
    image: ImageTensor, labels: Labels, rng: np.random.Generator
) -> tuple[Float[Image, "3 _ _"], UInt8[Mask, "_ _"]]:
    """`augment_clip` for one image, which is warped too."""
    images, masks = augment_clip([image], [labels], rng, skip_first_frame=False)
    return images[0], masks[0]


def augment_clip(
    images: Sequence[Image], labels: Sequence[Mask], rng: np.random.Generator, skip_first_frame: bool = True
) -> tuple[list[Image], list[Mask]]:
    """Augment all frames of a clip in the same way; images become float32 and are not rounded.

    Portrait and square clips are transposed. Crop 0 to 10% per side, resized to the full size, then `affine_matrix`
    with scale 0.95 to 1.05, shear within 10 and rotation within 15 degrees, filled with 0; both resample bytes, and
    neither the first frame if `skip_first_frame`, as released. Contrast U(0.97, 1.03), then offset U(-5, 5) grey values
    of 255, not clipped. Horizontal flip with probability 1/2. Source: docs/protocol.md 2, YTVIS-style training; C5.
    """
    if labels[0].shape[0] >= labels[0].shape[1]:
        images, labels = [Image(image.mT) for image in images], [Mask(mask.mT) for mask in labels]
    height, width = labels[0].shape
    crop = np.rint(rng.uniform(0.0, 0.1, size=4) * (height, height, width, width)).astype(int)
    scale, (shear, angle) = rng.uniform(0.95, 1.05), rng.uniform((-10, -15), (10, 15))
    matrix = affine_matrix(height, width, scale, shear, angle)
    contrast, offset = np.float32(rng.uniform(0.97, 1.03)), np.float32(rng.uniform(-5, 5))
    mirrored = rng.random() < 0.5
    new_images, new_labels = [], []
    for index, (image, mask) in enumerate(zip(images, labels, strict=True)):
        pixels = to_numpy_hwc(image)
        if index > 0 or not skip_first_frame:
            pixels = _warp(pixels, crop, matrix, cv2.INTER_AREA, cv2.INTER_LINEAR)
            mask = mask_tensor(_warp(mask.numpy(), crop, matrix, cv2.INTER_NEAREST, cv2.INTER_NEAREST))
        image = image_tensor(pixels.astype(np.float32) * contrast + offset)
        new_images.append(v2.horizontal_flip(image) if mirrored else image)
        new_labels.append(v2.horizontal_flip(mask) if mirrored else mask)
    return new_images, new_labels


def affine_matrix(height: int, width: int, scale: float, shear: float, angle: float) -> Float[np.ndarray, "2 3"]:
    """Matrix from stored to new pixels (x, y) about the centre of the image; shear and angle in degrees.

    scale R(angle) [[1, -t], [0, 1]] [[1, 0], [t, 1]] with t = tan(shear): imgaug 0.4.0 gives the shear of a range to
    both axes, so that it is nearly a rotation. Source: docs/protocol.md C5.
    """
    t, (sin, cos) = np.tan(np.deg2rad(shear)), (np.sin(np.deg2rad(angle)), np.cos(np.deg2rad(angle)))
    linear = scale * np.array([[cos, -sin], [sin, cos]]) @ np.array([[1 - t * t, -t], [t, 1.0]])
    centre = np.array([width - 1, height - 1]) / 2
    return np.hstack([linear, (centre - linear @ centre)[:, None]])


def _warp(
    stored: UInt8[np.ndarray, "h w *c"], crop: Int64[np.ndarray, " 4"], matrix: np.ndarray, resize: int, resample: int
) -> UInt8[np.ndarray, "h w *c"]:
    """Cut off `crop` pixels above, below, left and right, resize to the full size, and move by the matrix, in bytes."""
    (height, width), (top, bottom, left, right) = stored.shape[:2], crop
    part = np.ascontiguousarray(stored[top : height - bottom, left : width - right])
    full = cv2.resize(part, (width, height), interpolation=resize)  # enlarging, "area" is another bilinear rule
    return np.asarray(cv2.warpAffine(full, matrix, (width, height), flags=resample))


def flip(image: ImageTensor, labels: Labels, rng: np.random.Generator) -> tuple[ImageTensor, Labels]:
    """Pascal's augmentation: a horizontal and a vertical flip, each with probability 1/2."""
    for mirror in (v2.horizontal_flip, v2.vertical_flip):
        if rng.random() < 0.5:
            image, labels = mirror(image), mirror(labels)
    return image, labels


AUGMENTATIONS = {"clip": augment, "image": flip}
"""Function of one image by `Dataset.augmentation`; clips use `augment_clip`."""

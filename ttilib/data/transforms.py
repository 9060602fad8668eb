"""From a picture of any size to the network's canvas, and from pictures to more pictures.

The network sees one canvas of H x W pixels. A frame is scaled to fit and laid on it, either in the centre
(the video rule: black bars around it) or in the upper left corner with sides cut to multiples of 8 (the
Pascal rule). `Placement` is where it came to lie, so that masks can also travel back to the original frame.
Pictures are scaled with OpenCV's bilinear rule in float32, without rounding; labels with its nearest rule.

`fit_centred` and `fit_static` do it in one call; `normalise` and `denormalise` are the ImageNet scaling the
networks were trained with.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, tensor

Size = tuple[int, int]
Picture = UInt8[np.ndarray, "h w 3"] | Float[np.ndarray, "h w 3"]
Labels = UInt8[np.ndarray, "h w"]
Canvas = Float[np.ndarray, "H W 3"] | UInt8[np.ndarray, "H W"]

MEAN = (0.485, 0.456, 0.406)  # of ImageNet, red green blue, for values in [0, 1]
STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Placement:
    """Where a frame lies on the canvas: scaled to height x width with its corner at (top, left), pixels."""

    height: int
    width: int
    top: int
    left: int
    canvas: Size

    @property
    def inside(self) -> tuple[slice, slice]:
        """The part of the canvas that the frame covers, as row and column slices."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)

    def fit(self, array: Picture | Labels, padding: int = 0) -> Canvas:
        """Lay a picture (bilinear, float32, same range) or labels (nearest) on a canvas of `padding`."""
        shape = (self.width, self.height)
        if array.ndim == 3:
            part = cv2.resize(array.astype(np.float32), shape, interpolation=cv2.INTER_LINEAR)
        else:
            part = cv2.resize(array, shape, interpolation=cv2.INTER_NEAREST)
        canvas = np.full((*self.canvas, *array.shape[2:]), padding, dtype=part.dtype)
        canvas[self.inside] = part
        return canvas

    def valid(self) -> Bool[np.ndarray, "H W"]:
        """True where the canvas shows the frame, False on the padding."""
        canvas = np.zeros(self.canvas, dtype=bool)
        canvas[self.inside] = True
        return canvas

    def back(self, mask: Bool[np.ndarray, "H W"], size: Size) -> Bool[np.ndarray, "h w"]:
        """Carry a mask on the canvas back to the frame's own size (height, width), nearest pixel."""
        part = mask[self.inside].astype(np.uint8)
        # By pixel centres: OpenCV's plain nearest rule (the release's, in `fit`) leans up and left.
        return cv2.resize(part, (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT).astype(bool)


def centred(height: int, width: int, canvas: Size) -> Placement:
    """The video rule: the largest scale at which the frame fits, laid in the middle.

    f = min(H / h, W / w); sides int(f h), int(f w); the odd pixel of padding goes below and right. A
    480 x 853 frame becomes 234 x 417 at row 91 of a 417 x 417 canvas. Source: protocol section 2, Rescale.
    """
    factor = min(canvas[0] / height, canvas[1] / width)
    # Kept in this float expression: another order of operations rounds some sizes to one pixel more.
    new_height, new_width = max(int(factor * height), 1), max(int(factor * width), 1)
    return Placement(
        new_height, new_width, (canvas[0] - new_height) // 2, (canvas[1] - new_width) // 2, canvas
    )


def static(height: int, width: int, canvas: Size) -> Placement:
    """The Pascal rule: one side fills the canvas, then both are cut to multiples of 8; upper left corner.

    On a square canvas of side s the longest side becomes s and the other int(other s / longest). A 480 x 853
    frame becomes 232 x 416 on 417 x 417. On other canvases the side that fills first takes that part.
    Source: protocol section 2, Resize ("longest").
    """
    if height * canvas[1] >= width * canvas[0]:
        new_height, new_width = canvas[0], int(width * canvas[0] / height)
    else:
        new_height, new_width = int(height * canvas[1] / width), canvas[1]
    return Placement(max(new_height // 8 * 8, 1), max(new_width // 8 * 8, 1), 0, 0, canvas)


def fit_centred(array: Picture | Labels, size: Size, padding: int = 0) -> Canvas:
    """A picture or labels on the canvas by the video rule; see `centred`."""
    return centred(*array.shape[:2], size).fit(array, padding)


def fit_static(array: Picture | Labels, size: Size, padding: int = 0) -> Canvas:
    """A picture or labels on the canvas by the Pascal rule; see `static`."""
    return static(*array.shape[:2], size).fit(array, padding)


def normalise(images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N 3 H W"]:
    """Pictures in [0, 1] as the networks expect them: (x - mean) / std per colour of ImageNet."""
    mean, std = (tensor(values, dtype=images.dtype, device=images.device) for values in (MEAN, STD))
    return (images - mean[:, None, None]) / std[:, None, None]


def denormalise(images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N 3 H W"]:
    """The way back from `normalise`: x std + mean, in [0, 1] up to rounding."""
    mean, std = (tensor(values, dtype=images.dtype, device=images.device) for values in (MEAN, STD))
    return images * std[:, None, None] + mean[:, None, None]

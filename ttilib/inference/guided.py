"""Masks that end where the picture does: probabilities filtered along the colours of the frame.

A feature cell is eight pixels wide, so upsampled probabilities are smooth where an object ends at once. The guided
filter says of every window of pixels that the probability in it is a linear function of colour, and averages what the
windows around a pixel say. Where the colours of a window are all alike it is a mean; along an edge it follows the edge.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

Plane = Float32[np.ndarray, "H W"]
Planes = list[Plane]

WELL = 1e-3  # eps from which single precision does for an inverse by minors


def guided_filter(
    probabilities: Float[Tensor, "T H W"], guide: Float[Tensor, "T 3 H W"], radius: int = 8, eps: float = 1e-3
) -> Float[Tensor, "T H W"]:
    """Foreground probability per pixel, smooth where the frame is and with edges where the frame has them.

    q_i = mean over the windows k that hold pixel i of (a_k · I_i + b_k), clipped to [0, 1], where
    a_k = (cov_k(I, I) + eps)^-1 cov_k(I, p) and b_k = mean_k(p) - a_k · mean_k(I): the line that fits window k best.
    `guide` is the frames' colours I in [0, 1], a window 2 `radius` + 1 pixels wide, the picture mirrored at its border;
    `eps` is the variance of colour below which a window counts as even. A frame without any probability stays without.

    OpenCV's contributed modules filter where they are installed, box filters elsewhere: the same to 1e-4 or so. Below
    an `eps` of 0.001 it is always box filters, for OpenCV's inverses lose digits there on pictures without colour.
    Raises ValueError for a radius below 1, an eps that is not above 0, or frames that are not those of the guide.
    Source: He, Sun and Tang, Guided Image Filtering, ECCV 2010, equations 11 to 13, with a guide in colour.
    """
    if radius < 1:
        raise ValueError(f"radius={radius}: a window reaches at least 1 pixel to each side")
    if not eps > 0:
        raise ValueError(f"eps={eps}: the variance below which colours count as even is above 0; 0.001 is usual")
    frames, *size = probabilities.shape
    if tuple(guide.shape) != (frames, 3, *size):
        raise ValueError(
            f"the guide is {list(guide.shape)}, the probabilities {[frames, *size]}; "
            "give the frames [T, 3, H, W] that the probabilities [T, H, W] are of"
        )
    contributed, filtered = _contributed() if eps >= WELL else None, torch.zeros_like(probabilities)
    for result, chance, frame in zip(filtered, probabilities.detach(), guide.detach(), strict=True):
        if chance.any():  # an absent object: nothing to place, and it must not come back
            # About grey and in units of sqrt(eps), which changes nothing but that eps is 1: in their own units OpenCV
            # takes the windows of even colour, half of a photograph, for singular and blurs them.
            planes, p = [*((frame.float() - 0.5) / eps**0.5).cpu().numpy()], chance.float().cpu().numpy()
            q = contributed(cv2.merge(planes), p, radius, 1.0) if contributed else _by_boxes(planes, p, radius)
            result.copy_(torch.from_numpy(q.clip(0, 1)))
    return filtered


def _contributed() -> Callable[[np.ndarray, np.ndarray, int, float], np.ndarray] | None:
    """The guided filter of OpenCV's contributed modules; None where they are not installed."""
    return getattr(getattr(cv2, "ximgproc", None), "guidedFilter", None)


def _by_boxes(planes: Planes, p: Plane, radius: int) -> Plane:
    """The same by means over windows, for an eps of 1; the time does not depend on how large windows are."""

    def mean(plane: Plane) -> Plane:
        return cv2.blur(plane, (2 * radius + 1, 2 * radius + 1), borderType=cv2.BORDER_REFLECT)

    means, share = [mean(plane) for plane in planes], mean(p)
    pairs = [(i, j) for i in range(3) for j in range(i + 1)]
    products = [mean(planes[i] * planes[j]) - means[i] * means[j] + (i == j) for i, j in pairs]
    along = [mean(plane * p) - middle * share for plane, middle in zip(planes, means, strict=True)]
    slopes = _solved(products, along)
    offset = share - sum(a * middle for a, middle in zip(slopes, means, strict=True))
    return sum((mean(a) * plane for a, plane in zip(slopes, planes, strict=True)), mean(offset))


def _solved(matrix: Planes, side: Planes) -> Planes:
    """x of M x = y at every pixel; M symmetric and positive definite, given as M11, M21, M22, M31, M32, M33.

    M = L D L^T written out. The inverse by minors loses digits on grey pictures, whose channels are all alike.
    """
    m11, m21, m22, m31, m32, m33 = matrix
    y1, y2, y3 = side
    l21, l31 = m21 / m11, m31 / m11
    d2, rest = m22 - l21 * m21, m32 - l21 * m31
    l32 = rest / d2
    d3, y2 = m33 - l31 * m31 - l32 * rest, y2 - l21 * y1
    x3 = (y3 - l31 * y1 - l32 * y2) / d3
    x2 = y2 / d2 - l32 * x3
    return [y1 / m11 - l21 * x2 - l31 * x3, x2, x3]

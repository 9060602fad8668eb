"""Masks aligned with image edges, where upsampled probabilities are too smooth: guided filter and GrabCut."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, UInt8
from torch import Tensor

Plane = Float32[np.ndarray, "H W"]
Planes = list[Plane]

OPENCV = getattr(getattr(cv2, "ximgproc", None), "guidedFilter", None)  # None without the contributed modules
WELL = 1e-3  # smallest eps for which OpenCV's float32 is exact enough


def guided_filter(
    probabilities: Float[Tensor, "T H W"], guide: Float[Tensor, "T 3 H W"], radius: int = 8, eps: float = 1e-3
) -> Float[Tensor, "T H W"]:
    """Foreground probability per pixel, with edges where the frame has edges.

    q_i = mean over the windows k that contain pixel i of (a_k · I_i + b_k), clipped to [0, 1], with
    a_k = (cov_k(I, I) + eps)^-1 cov_k(I, p) and b_k = mean_k(p) - a_k · mean_k(I).
    `guide`: colours I in [0, 1]. Windows are 2 `radius` + 1 pixels wide, borders mirrored. `eps`: colour variance below
    which a window counts as uniform. Frames with probability 0 everywhere stay so.
    Uses OpenCV's contributed modules if installed, else box filters (equal to about 1e-4); below an `eps` of 0.001
    always box filters, because OpenCV is inexact there on grey images.
    Raises ValueError for radius < 1, eps <= 0, or another shape of `guide`. Source: He, Sun and Tang, Guided Image
    Filtering, ECCV 2010, equations 11 to 13, with a colour guide.
    """
    if radius < 1 or not eps > 0:
        raise ValueError(f"radius={radius} and eps={eps}: give a radius of 1 pixel or more and an eps above 0")
    _check_guide(guide, probabilities)
    opencv = OPENCV if eps >= WELL else None
    filtered = torch.zeros_like(probabilities)
    for result, chance, frame in zip(filtered, probabilities.detach(), guide.detach(), strict=True):
        if chance.any():  # an absent object stays absent
            # Centred and scaled so that eps is 1, with the same result: else OpenCV treats uniform windows as singular.
            planes, p = [*((frame.float() - 0.5) / eps**0.5).cpu().numpy()], chance.float().cpu().numpy()
            q = opencv(cv2.merge(planes), p, radius, 1.0) if opencv else _by_boxes(planes, p, radius)
            result.copy_(torch.from_numpy(q.clip(0, 1)))
    return filtered


def _check_guide(guide: Tensor, frames: Tensor) -> None:
    count, *size = frames.shape
    if tuple(guide.shape) != (count, 3, *size):
        raise ValueError(f"the guide is {list(guide.shape)}; give the frames {[count, 3, *size]} in colour")


def _by_boxes(planes: Planes, p: Plane, radius: int) -> Plane:
    """The guided filter by box filters, for eps = 1; the time does not depend on the radius."""

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
    """x of M x = y per pixel by M = L D L^T (M11, M21, M22, M31, M32, M33); minors are inexact on grey images."""
    m11, m21, m22, m31, m32, m33 = matrix
    y1, y2, y3 = side
    l21, l31 = m21 / m11, m31 / m11
    d2, rest = m22 - l21 * m21, m32 - l21 * m31
    l32 = rest / d2
    d3, y2 = m33 - l31 * m31 - l32 * rest, y2 - l21 * y1
    x3 = (y3 - l31 * y1 - l32 * y2) / d3
    x2 = y2 / d2 - l32 * x3
    return [y1 / m11 - l21 * x2 - l31 * x3, x2, x3]


GAUSSIANS = 65  # parameters of OpenCV's mixture of five Gaussians


def grabcut_refine(
    masks: Bool[Tensor, "T H W"], guide: Float[Tensor, "T 3 H W"], band: int = 16, steps: int = 2
) -> Bool[Tensor, "T H W"]:
    """Masks with their border moved to colour edges by GrabCut, by at most `band` pixels; deterministic.

    Pixels farther than `band` inside the mask are foreground, those farther outside are background; `steps` rounds of
    GrabCut decide between, initialised with the mask. `guide`: colours in [0, 1]. A frame with an empty mask, or
    without pixels far outside, stays unchanged. Raises ValueError for band < 1, steps < 1, or another shape of `guide`.
    Source: Rother, Kolmogorov and Blake, GrabCut, SIGGRAPH 2004, in OpenCV.
    """
    if band < 1 or steps < 1:
        raise ValueError(f"band={band} and steps={steps}: a border moves by 1 pixel or more in 1 step or more")
    _check_guide(guide, masks)
    colours = (guide.detach().float() * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
    found = masks.cpu().numpy().copy()
    for mask, colour in zip(found, colours, strict=True):
        mask[:] = _cut(mask, colour, band, steps)
    return torch.from_numpy(found).to(masks.device)


def _cut(
    mask: Bool[np.ndarray, "H W"], colours: UInt8[np.ndarray, "H W 3"], band: int, steps: int
) -> Bool[np.ndarray, "H W"]:
    """`grabcut_refine` for one frame."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * band + 1, 2 * band + 1))
    outside = cv2.dilate(mask.astype(np.uint8), kernel) == 0
    if not mask.any() or not outside.any():
        return mask
    labels = np.where(mask, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[cv2.erode(mask.astype(np.uint8), kernel) > 0] = cv2.GC_FGD
    labels[outside] = cv2.GC_BGD
    cv2.setRNGSeed(0)  # OpenCV's k-means starts at random
    models = np.zeros((1, GAUSSIANS)), np.zeros((1, GAUSSIANS))
    cv2.grabCut(colours, labels, None, *models, steps, cv2.GC_INIT_WITH_MASK)
    return (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)

"""Masks aligned with image edges, where upsampled probabilities are too smooth: guided filter and GrabCut."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, UInt8
from torch import Tensor

Plane = Float32[np.ndarray, "H W"]
Planes = list[Plane]

GAUSSIANS = 65  # parameters of GrabCut's mixture of five Gaussians


def guided_filter(
    probabilities: Float[Tensor, "T H W"], guide: Float[Tensor, "T 3 H W"], radius: int = 8, eps: float = 1e-3
) -> Float[Tensor, "T H W"]:
    """Foreground probability per pixel, with edges where the frame has edges.
    q_i = mean over the windows k that contain pixel i of (a_k · I_i + b_k), clipped to [0, 1], with
    a_k = (cov_k(I, I) + eps)^-1 cov_k(I, p) and b_k = mean_k(p) - a_k · mean_k(I).
    `guide`: colours I in [0, 1]. Windows are 2 `radius` + 1 pixels wide, borders mirrored. `eps`: colour variance below
    which a window counts as uniform. Frames with probability 0 everywhere stay so.
    By box filters: OpenCV's contributed modules have another one, which is inexact on grey images.
    Source: He, Sun and Tang, Guided Image Filtering, ECCV 2010, equations 11 to 13, with a colour guide.
    """
    filtered = torch.zeros_like(probabilities)
    for result, probability, frame in zip(filtered, probabilities.detach(), guide.detach(), strict=True):
        if probability.any():  # an absent object stays absent
            # Shifted and scaled so that eps is 1, with the same result.
            planes, p = [*((frame.float() - 0.5) / eps**0.5).cpu().numpy()], probability.float().cpu().numpy()
            result.copy_(torch.from_numpy(_box_filters(planes, p, radius).clip(0, 1)))
    return filtered


def _box_filters(planes: Planes, p: Plane, radius: int) -> Plane:
    """The guided filter by box filters, for eps = 1; the time does not depend on the radius."""

    def mean(plane: Plane) -> Plane:
        return cv2.blur(plane, (2 * radius + 1, 2 * radius + 1), borderType=cv2.BORDER_REFLECT)

    means, mean_p = [mean(plane) for plane in planes], mean(p)
    pairs = [(i, j) for i in range(3) for j in range(i + 1)]
    variances = [mean(planes[i] * planes[j]) - means[i] * means[j] + (i == j) for i, j in pairs]
    covariances = [mean(plane * p) - middle * mean_p for plane, middle in zip(planes, means, strict=True)]
    a = _solve(variances, covariances)
    b = mean_p - sum(slope * middle for slope, middle in zip(a, means, strict=True))
    return sum((mean(slope) * plane for slope, plane in zip(a, planes, strict=True)), mean(b))


def _solve(matrix: Planes, y: Planes) -> Planes:
    """x of M x = y per pixel by M = L D L^T (M11, M21, M22, M31, M32, M33); minors are inexact on grey images."""
    m11, m21, m22, m31, m32, m33 = matrix
    y1, y2, y3 = y
    l21, l31 = m21 / m11, m31 / m11
    d2, rest = m22 - l21 * m21, m32 - l21 * m31
    l32 = rest / d2
    d3, y2 = m33 - l31 * m31 - l32 * rest, y2 - l21 * y1
    x3 = (y3 - l31 * y1 - l32 * y2) / d3
    x2 = y2 / d2 - l32 * x3
    return [y1 / m11 - l21 * x2 - l31 * x3, x2, x3]


def grabcut_refine(
    masks: Bool[Tensor, "T H W"], guide: Float[Tensor, "T 3 H W"], band: int = 16, steps: int = 2
) -> Bool[Tensor, "T H W"]:
    """Masks with their border moved to colour edges by GrabCut, by at most `band` pixels; deterministic.
    Pixels farther than `band` inside the mask are foreground, those farther outside are background; `steps` iterations
    of GrabCut, initialised with the mask, decide between them. `guide`: colours in [0, 1]. A frame with an empty mask,
    or without pixels far outside, stays unchanged. Source: Rother, Kolmogorov and Blake, GrabCut, SIGGRAPH 2004, in
    OpenCV.
    """
    colours = (guide.detach().float() * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
    refined = masks.cpu().numpy().copy()
    for mask, frame in zip(refined, colours, strict=True):
        mask[:] = _grabcut(mask, frame, band, steps)
    return torch.from_numpy(refined).to(masks.device)


def _grabcut(
    mask: Bool[np.ndarray, "H W"], frame: UInt8[np.ndarray, "H W 3"], band: int, steps: int
) -> Bool[np.ndarray, "H W"]:
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * band + 1, 2 * band + 1))
    outside = cv2.dilate(mask.astype(np.uint8), kernel) == 0
    if not mask.any() or not outside.any():
        return mask
    labels = np.where(mask, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[cv2.erode(mask.astype(np.uint8), kernel) > 0] = cv2.GC_FGD
    labels[outside] = cv2.GC_BGD
    return grabcut(frame, labels, steps)


def grabcut(frame: UInt8[np.ndarray, "H W 3"], labels: UInt8[np.ndarray, "H W"], steps: int) -> Bool[np.ndarray, "H W"]:
    """The foreground after `steps` iterations of GrabCut from `labels`, of cv2.GC_*; deterministic."""
    cv2.setRNGSeed(0)  # OpenCV's k-means starts at random
    models, found = (np.zeros((1, GAUSSIANS)), np.zeros((1, GAUSSIANS))), labels.copy()
    cv2.grabCut(frame, found, None, *models, steps, cv2.GC_INIT_WITH_MASK)
    return (found == cv2.GC_FGD) | (found == cv2.GC_PR_FGD)

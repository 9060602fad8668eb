"""Masks aligned with image edges, where upsampled probabilities are too smooth: guided filter and colour models."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor

Plane = Float32[np.ndarray, "H W"]
Planes = list[Plane]

BINS = 32  # of each colour channel


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
            planes, p = _planes(frame.float().cpu().numpy(), eps), probability.float().cpu().numpy()
            result.copy_(torch.from_numpy(_box_filters(planes, p, radius).clip(0, 1)))
    return filtered


def _planes(frame: Float32[np.ndarray, "3 H W"], eps: float) -> Planes:
    """Colours shifted and scaled so that eps is 1, with the same result."""
    return [*((frame - 0.5) / np.float32(eps**0.5))]


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


def colour_refine(
    probabilities: Float[Tensor, "T H W"], guide: Float[Tensor, "T 3 H W"], band: int = 16, eps: float = 1e-4
) -> Bool[Tensor, "T H W"]:
    """Masks p > 1/2 with their border moved to colour edges, by at most `band` pixels; deterministic.
    Mean field in the band around the border. From the colours of each frame inside and outside its mask, histograms h1
    and h0 of 32 x 32 x 32 cells, smoothed; then four times, with r = 0 at first and q = p outside the band:
        z = log(h1(I) / h0(I)) / 2 + logit(p) / 5 + 3 r,    q = guided filter of sigmoid(z),    r = logit(q)
    The mask is q > 1/2. Radius of the filter: `band`; `guide`, `eps`: as in `guided_filter`. A frame with an empty
    mask, or without pixels far outside, stays unchanged. Sources: colour models of Rother, Kolmogorov and Blake,
    GrabCut, SIGGRAPH 2004; filters as messages of Kraehenbuehl and Koltun, NeurIPS 2011.
    """
    refined = (probabilities > 0.5).cpu().numpy()
    for mask, p, frame in zip(refined, probabilities.detach(), guide.detach(), strict=True):
        mask[:] = _colour_refine(mask, p.float().cpu().numpy(), frame.float().cpu().numpy(), band, eps)
    return torch.from_numpy(refined).to(probabilities.device)


def _colour_refine(
    mask: Bool[np.ndarray, "H W"], p: Plane, frame: Float32[np.ndarray, "3 H W"], band: int, eps: float
) -> Bool[np.ndarray, "H W"]:
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * band + 1, 2 * band + 1))
    near = cv2.dilate(mask.astype(np.uint8), kernel) > 0
    if not mask.any() or near.all():
        return mask
    rows, columns = (np.flatnonzero(near.any(axis)) for axis in (1, 0))
    box = tuple(slice(max(at[0] - 2 * band, 0), at[-1] + 1 + 2 * band) for at in (rows, columns))  # what can matter
    undecided = (near & (cv2.erode(mask.astype(np.uint8), kernel) == 0))[box]
    fixed, start = mask[box].astype(np.float32), _logit(p[box])
    evidence = _colour_evidence(mask, frame)[box] / 2 + start / 5
    planes, z = _planes(frame[:, box[0], box[1]], eps), evidence
    for _ in range(4):
        q = _box_filters(planes, np.where(undecided, 1 / (1 + np.exp(-z)), fixed), band)
        z = evidence + 3 * _logit(q)
    refined = mask.copy()
    refined[box] = np.where(undecided, q > 0.5, mask[box])
    return refined


def _logit(p: Plane) -> Plane:
    """log(p / (1 - p)) of probabilities, finite at 0 and 1."""
    p = p.clip(0, 1)
    return np.log((p + 0.02) / (1.02 - p))


def _colour_evidence(mask: Bool[np.ndarray, "H W"], frame: Float32[np.ndarray, "3 H W"]) -> Plane:
    """log(h1 / h0) of the colour of every pixel."""
    cells = np.ravel_multi_index((frame * BINS).astype(np.int64).clip(0, BINS - 1), (BINS,) * 3)
    logs = []
    for part in (mask, ~mask):
        histogram = np.float32(np.bincount(cells[part], minlength=BINS**3) / part.sum())
        for _ in range(3):  # along one axis, then the next
            blurred = cv2.GaussianBlur(histogram.reshape(BINS, -1), (1, 7), sigmaX=0, sigmaY=1)
            histogram = blurred.reshape((BINS,) * 3).transpose(1, 2, 0)
        logs.append(np.log(histogram.ravel() + 0.5 / BINS**3)[cells])
    return logs[0] - logs[1]

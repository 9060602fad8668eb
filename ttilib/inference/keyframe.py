"""Keyframe refinement: trust the query frame whose object looks most like the support, and learn from it.

The frame's own prediction becomes a pseudo-label, and every frame's classifier takes a few small steps of
cross-entropy on that one frame. Source: protocol section 5.1; solver quirks 28 to 34.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from ttilib.inference.classifier import EPSILON, Classifier


def choose_keyframe(
    query: Float[Tensor, "T C h w"], pool: Float[Tensor, "T h w"], reference: Float[Tensor, " C"]
) -> tuple[int | None, Float[Tensor, " T"]]:
    """The frame whose predicted object is most like `reference`, and every frame's cosine to it.

    q_t = normalised sum_i pool_i f_i, pool = hard prediction times feature length; argmax_t cos(q_t, reference),
    the first on ties. None when no frame predicts any foreground: then there is nothing to learn from.
    """
    prototypes = F.normalize(torch.einsum("tchw,thw->tc", query, pool), dim=1)
    cosines = prototypes @ F.normalize(reference, dim=0)
    predicted = pool.flatten(1).any(dim=1)
    if not predicted.any():
        return None, cosines
    return int(torch.where(predicted, cosines, -2.0).argmax()), cosines


def pseudo_mask(
    mask: Bool[Tensor, "H W"], ring: float = 0.2
) -> tuple[Bool[Tensor, "H W"], Bool[Tensor, "H W"]]:
    """What the keyframe teaches: its predicted foreground, and the pixels that count.

    Pixels farther than ring * sqrt(H^2 + W^2) from the foreground are taught as background; those nearer are
    left out, for the prediction is least sure at its border. An empty mask teaches nothing.
    """
    if not mask.any():
        return mask, torch.zeros_like(mask)
    distance = cv2.distanceTransform((~mask).byte().cpu().numpy(), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    far = torch.from_numpy(distance > ring * float(np.hypot(*mask.shape))).to(mask.device)
    return mask, mask | far


def cell_counts(pixels: Bool[Tensor, "H W"], grid: tuple[int, int]) -> Float[Tensor, "h w"]:
    """How many of `pixels` fall on each feature cell, pixel i belonging to cell floor(i * h / H).

    The release upsamples probabilities by nearest, so every pixel of a cell has the cell's probability and a
    loss over pixels is a loss over cells with these counts.
    """
    height, width = pixels.shape
    rows = torch.arange(height, device=pixels.device) * grid[0] // height
    columns = torch.arange(width, device=pixels.device) * grid[1] // width
    counts = torch.zeros(grid, device=pixels.device)
    cells = (rows[:, None] * grid[1] + columns[None, :]).flatten()
    return counts.view(-1).index_add_(0, cells, pixels.flatten().float()).view(grid)


def refine(
    classifier: Classifier,
    features: Float[Tensor, "C h w"],
    foreground: Float[Tensor, "h w"],
    counted: Float[Tensor, "h w"],
    valid: Bool[Tensor, "T h w"],
    steps: int = 9,
    learning_rate: float = 0.0025,
) -> Classifier:
    """Every frame's classifier after `steps` of cross-entropy on the keyframe's pseudo-label.

    CE_t = -1/N_t sum_i v_ti [n1_i log p_i + n0_i log(1 - p_i)], n1 = `foreground` and n1 + n0 = `counted`
    pixels per cell of the keyframe; v_t is frame t's own padding, as released.
    """
    cells = features.flatten(1)
    weighed = valid.flatten(1) * counted.flatten()
    positive = valid.flatten(1) * foreground.flatten()
    total = weighed.sum(dim=1, keepdim=True).clamp_min(1)
    weight, bias = classifier.weight, classifier.bias
    for _ in range(steps):
        norm = weight.norm(dim=1, keepdim=True).clamp_min(EPSILON)
        direction = weight / norm
        p = torch.sigmoid(classifier.temperature * direction @ cells - bias[:, None])
        dz = (p * weighed - positive) / total
        along = dz @ cells.T
        tangent = along - direction * (direction * along).sum(dim=1, keepdim=True)
        weight = weight - learning_rate * classifier.temperature * tangent / norm
        bias = bias + learning_rate * dz.sum(dim=1)
    return Classifier(weight, bias, classifier.temperature)

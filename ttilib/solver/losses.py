"""The terms of the objective, as formulas: what the notebooks plot and the solver's gradients are checked against.

L = sum over frames t of  ce_weight CE_t + kl_weight KL_t + entropy_weight H_t + temporal_weight (L_t + G_t)

Every function is pure, differentiable, and returns one value per frame, in nats or as a plain number.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from ttilib.solver.classifier import EPSILON

Divisor = Literal["batch", "video"]
Negative = Literal["all", "background"]


def ce(
    p: Float[Tensor, "K T h w"], masks: Bool[Tensor, "K h w"], valid: Bool[Tensor, "K h w"]
) -> Float[Tensor, " T"]:
    """How badly each frame's classifier fits the support: mean cross-entropy over valid cells of all shots, in nats.

    CE_t = -1/|V| sum_i [y_i log p_ti + (1 - y_i) log(1 - p_ti)]
    Source: RePRI equation 1, first term.
    """
    log_likelihood = torch.where(masks[:, None], (p + EPSILON).log(), (1 - p + EPSILON).log())
    return -(log_likelihood * valid[:, None]).sum(dim=(0, 2, 3)) / valid.sum().clamp_min(1)


def entropy(p: Float[Tensor, "T h w"], valid: Bool[Tensor, "T h w"]) -> Float[Tensor, " T"]:
    """Uncertainty of the query prediction: mean binary entropy over valid cells, in nats.

    H_t = -1/|V_t| sum_i [p log p + (1 - p) log(1 - p)]
    Source: RePRI equation 1, second term.
    """
    nats = -(p * (p + EPSILON).log() + (1 - p) * (1 - p + EPSILON).log())
    return (nats * valid).sum(dim=(1, 2)) / valid.sum(dim=(1, 2)).clamp_min(1)


def marginal(p: Float[Tensor, "T h w"], valid: Bool[Tensor, "T h w"]) -> Float[Tensor, " T"]:
    """Foreground proportion that the classifier predicts now: mean probability over valid cells, in [0, 1]."""
    return (p * valid).sum(dim=(1, 2)) / valid.sum(dim=(1, 2)).clamp_min(1)


def kl(marginal: Float[Tensor, " T"], prior: Float[Tensor, " T"]) -> Float[Tensor, " T"]:
    """Distance of the predicted foreground proportion from the one aimed at, D(marginal || prior), in nats.

    KL_t = m log(m / pi) + (1 - m) log((1 - m) / (1 - pi))
    Source: RePRI equation 1, third term.
    """
    foreground = torch.xlogy(marginal, marginal) - marginal * (prior + EPSILON).log()
    background = torch.xlogy(1 - marginal, 1 - marginal) - (1 - marginal) * (1 - prior + EPSILON).log()
    return foreground + background


def local_temporal(marginal: Float[Tensor, " T"], window: int = 3) -> Float[Tensor, " T"]:
    """How much the foreground proportion jumps within a window; zero on the last window - 1 frames.

    L_t = 1/n^2 sum over ordered pairs (i, j) of the window t..t+n-1 of 2 |m_i - m_j|,  n = window;
    the factor 2 is the sum over the two classes. A video shorter than the window has no term.
    Source: TTI's local term; protocol section 5.1.
    """
    terms = torch.zeros_like(marginal)
    count = len(marginal) - window + 1
    if count < 1:
        return terms
    windows = marginal.unfold(0, window, 1)
    pairs = (windows[:, :, None] - windows[:, None, :]).abs()
    return torch.cat([2 * pairs.mean(dim=(1, 2)), terms[count:]])


def soft_prototypes(
    p: Float[Tensor, "T h w"], query: Float[Tensor, "T C h w"], pool: Float[Tensor, "T h w"]
) -> Float[Tensor, "T C"]:
    """Direction of each frame's predicted foreground: unit vector along sum_i p_i pool_i f_i."""
    return F.normalize(torch.einsum("tchw,thw->tc", query, p * pool), dim=1)


def global_positive(
    prototypes: Float[Tensor, "T C"], mean_weight: Float[Tensor, " C"], batch_frames: int
) -> Float[Tensor, " T"]:
    """Disagreement of the frames' foregrounds with the one classifier of the video; the same value on every frame.

    G+_t = 1/B sum_s (1 - cos(q_s, w_mean)),  B = frames of the batch as released, of the video as written.
    Source: TTI's global term; protocol section 5.1.
    """
    total = (1 - prototypes @ F.normalize(mean_weight, dim=0)).sum() / batch_frames
    return total.expand(len(prototypes))


def global_negative(
    p: Float[Tensor, "T h w"],
    query: Float[Tensor, "T C h w"],
    valid: Bool[Tensor, "T h w"],
    mean_weight: Float[Tensor, " C"],
    weighting: Negative = "all",
) -> Float[Tensor, " T"]:
    """How much the video's mean classifier fires where it should not.

    G-_t = sum_i a_i relu(cos(f_i, w_mean)) / sum_i a_i  over valid cells,
    a_i = 1 - p_i for "background", the text's intention. The release sums 1 - p over both classes, so there
    a_i = 1 ("all") and the term does not depend on the prediction.
    Source: TTI's global term; solver quirk 18.
    """
    cosine = torch.einsum("tchw,c->thw", query, F.normalize(mean_weight, dim=0))
    share = valid * (1 - p) if weighting == "background" else valid.to(p.dtype)
    return (share * cosine.relu()).sum(dim=(1, 2)) / (share.sum(dim=(1, 2)) + EPSILON)

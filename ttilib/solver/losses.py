"""The terms of the objective as pure functions of one value per frame, for plots and for tests of the gradients.

L = sum over frames t of  ce_weight CE_t + kl_weight KL_t + entropy_weight H_t + temporal_weight (L_t + G_t)
A new entry of `TERMS` is weighted by `SolverConfig(added_terms=("mine",), added_weights=(0.5,))`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from ttilib.solver.classifier import EPSILON, Classifier
from ttilib.solver.task import Task

Divisor = Literal["batch", "video"]
Negative = Literal["all", "background"]


def ce(
    p: Float[Tensor, "K T h w"], masks: Bool[Tensor, "K h w"], valid: Bool[Tensor, "K h w"]
) -> Float[Tensor, " T"]:
    """Mean cross-entropy of each frame's classifier over the valid support cells of all shots, in nats.
    CE_t = -1/|V| sum_i [y_i log p_ti + (1 - y_i) log(1 - p_ti)]. Source: RePRI equation 1, first term.
    """
    log_likelihood = torch.where(masks[:, None], (p + EPSILON).log(), (1 - p + EPSILON).log())
    return -(log_likelihood * valid[:, None]).sum(dim=(0, 2, 3)) / valid.sum().clamp_min(1)


def entropy(p: Float[Tensor, "T h w"], valid: Bool[Tensor, "T h w"]) -> Float[Tensor, " T"]:
    """Mean binary entropy of the query prediction over valid cells, in nats.
    H_t = -1/|V_t| sum_i [p log p + (1 - p) log(1 - p)]. Source: RePRI equation 1, second term.
    """
    nats = -(p * (p + EPSILON).log() + (1 - p) * (1 - p + EPSILON).log())
    return (nats * valid).sum(dim=(1, 2)) / valid.sum(dim=(1, 2)).clamp_min(1)


def marginal(p: Float[Tensor, "T h w"], valid: Bool[Tensor, "T h w"]) -> Float[Tensor, " T"]:
    """Predicted foreground proportion: mean probability over valid cells, in [0, 1]."""
    return (p * valid).sum(dim=(1, 2)) / valid.sum(dim=(1, 2)).clamp_min(1)


def kl(marginal: Float[Tensor, " T"], prior: Float[Tensor, " T"]) -> Float[Tensor, " T"]:
    """Divergence of the predicted foreground proportion from the prior, D(marginal || prior), in nats.
    KL_t = m log(m / pi) + (1 - m) log((1 - m) / (1 - pi)). Source: RePRI equation 1, third term.
    """
    foreground = torch.xlogy(marginal, marginal) - marginal * (prior + EPSILON).log()
    background = torch.xlogy(1 - marginal, 1 - marginal) - (1 - marginal) * (1 - prior + EPSILON).log()
    return foreground + background


def local_temporal(marginal: Float[Tensor, " T"], window: int = 3) -> Float[Tensor, " T"]:
    """Change of the foreground proportion within a window of n frames; zero on the last n - 1 frames.
    L_t = 1/n^2 sum over ordered pairs (i, j) in t..t+n-1 of 2 |m_i - m_j|, the 2 for the two classes.
    Zero for a video shorter than the window. Source: TTI's local term; docs/protocol.md 5.1, S22 to S25.
    """
    terms = 0 * marginal  # differentiable also without a window
    count = len(marginal) - window + 1
    if count < 1:
        return terms
    windows = marginal.unfold(0, window, 1)
    pairs = (windows[:, :, None] - windows[:, None, :]).abs()
    return torch.cat([2 * pairs.mean(dim=(1, 2)), terms[count:]])


def soft_prototypes(
    p: Float[Tensor, "T h w"], query: Float[Tensor, "T C h w"], weight: Float[Tensor, "T h w"]
) -> Float[Tensor, "T C"]:
    """Prototype of each frame's predicted foreground: q_t = normalised sum_i p_i weight_i f_i."""
    return F.normalize(torch.einsum("tchw,thw->tc", query, p * weight), dim=1)


def global_positive(
    prototypes: Float[Tensor, "T C"], mean_weight: Float[Tensor, " C"], batch_frames: int
) -> Float[Tensor, " T"]:
    """Distance of the frames' foreground prototypes from the video's mean classifier; equal for all frames.
    G+_t = 1/B sum_s (1 - cos(q_s, w_mean)),  B = frames of the batch as released, of the video as written.
    Source: TTI's global term; docs/protocol.md 5.1, S21.
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
    """Mean positive response of the video's mean classifier, weighted by a_i.
    G-_t = sum_i a_i relu(cos(f_i, w_mean)) / sum_i a_i  over valid cells,
    a_i = 1 - p_i for "background", as written. As released, 1 - p is summed over both classes: a_i = 1 ("all"), which
    does not depend on the prediction. Source: TTI's global term; docs/protocol.md S18.
    """
    cosine = torch.einsum("tchw,c->thw", query, F.normalize(mean_weight, dim=0))
    a = valid * (1 - p) if weighting == "background" else valid.to(p.dtype)
    return (a * cosine.relu()).sum(dim=(1, 2)) / (a.sum(dim=(1, 2)) + EPSILON)


@dataclass(frozen=True)
class Point:
    """All that a term may depend on: `p`, `support_p` are probabilities, `batch_frames` is the divisor B of G+."""

    task: Task
    classifier: Classifier
    p: Float[Tensor, "T h w"]
    support_p: Float[Tensor, "K T h w"]
    prior: Float[Tensor, " T"]
    batch_frames: int
    window: int = 3
    negative: Negative = "all"

    @cached_property
    def marginal(self) -> Float[Tensor, " T"]:
        """Predicted foreground proportion."""
        return marginal(self.p, self.task.query_valid)

    @property
    def mean_weight(self) -> Float[Tensor, " C"]:
        """Mean classifier of the video."""
        return self.classifier.weight.mean(dim=0)


@dataclass(frozen=True)
class Term:
    """A term of the objective: axis label, plot colour, formula (TeX), and value per frame."""

    label: str
    colour: str
    formula: str
    value: Callable[[Point], Float[Tensor, " T"]]


TERMS = {
    "ce": Term(
        "cross-entropy CE [nats]", "#0072B2",
        r"\mathrm{CE}_t = -\frac{1}{|V|} \sum_{i \in V} y_i \log p_{ti} + (1 - y_i) \log (1 - p_{ti})",
        lambda at: ce(at.support_p, at.task.support_masks, at.task.support_valid),
    ),
    "entropy": Term(
        "entropy H [nats]", "#56B4E9",
        r"H_t = -\frac{1}{|V_t|} \sum_{i \in V_t} p_i \log p_i + (1 - p_i) \log (1 - p_i)",
        lambda at: entropy(at.p, at.task.query_valid),
    ),
    "kl": Term(
        "KL divergence KL [nats]", "#D55E00",
        r"\mathrm{KL}_t = m_t \log \frac{m_t}{\pi_t} + (1 - m_t) \log \frac{1 - m_t}{1 - \pi_t}, \qquad "
        r"m_t = \frac{1}{|V_t|} \sum_{i \in V_t} p_i",
        lambda at: kl(at.marginal, at.prior),
    ),
    "local_temporal": Term(
        "local temporal L", "#E69F00",
        r"L_t = \frac{1}{n^2} \sum_{i, j \in \{t, \dots, t + n - 1\}} 2\, |m_i - m_j|",
        lambda at: local_temporal(at.marginal, at.window),
    ),
    "global_positive": Term(
        "global positive G+", "#009E73",
        r"G^+ = \frac{1}{B} \sum_s 1 - \cos(q_s, \bar w), \qquad q_s \propto \sum_i p_{si} f_{si}",
        lambda at: global_positive(
            soft_prototypes(at.p, at.task.query, at.task.query_weight), at.mean_weight, at.batch_frames
        ),
    ),
    "global_negative": Term(
        "global negative G\u2212", "#CC79A7",
        r"G^-_t = \frac{\sum_i a_i \max(0, \cos(f_i, \bar w))}{\sum_i a_i}, \qquad "
        r"a_i = 1 - p_i \text{ (as written)}, \quad a_i = 1 \text{ (as released)}",
        lambda at: global_negative(at.p, at.task.query, at.task.query_valid, at.mean_weight, at.negative),
    ),
}  # fmt: skip
BUILT_IN = tuple(TERMS)  # terms with a gradient in closed form in `Objective`

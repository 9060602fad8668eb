"""The cosine classifier fitted to an episode: one weight vector and one bias per query frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ttilib.solver.task import Task

EPSILON = 1e-10  # added to divisions and inside logarithms, as released

BiasStart = Literal["query-mean", "query-top"]
TOP = 0.02  # proportion of the query's cells that are taken as foreground at the start


@dataclass(frozen=True)
class Classifier:
    """p(x) = sigmoid(temperature cos(f(x), w_t) - b_t) for frame t. Source: RePRI 3.2; docs/protocol.md 5.1."""

    weight: Float[Tensor, "T C"]
    bias: Float[Tensor, " T"]
    temperature: float = 20.0

    def scores(self, features: Float[Tensor, "T C h w"]) -> Float[Tensor, "T h w"]:
        """temperature * cos(f, w_t) of unit features, without the bias."""
        cosine = torch.bmm(F.normalize(self.weight, dim=1)[:, None], features.flatten(2))
        return self.temperature * cosine.view(len(features), *features.shape[2:])

    def probabilities(self, features: Float[Tensor, "T C h w"]) -> Float[Tensor, "T h w"]:
        """Foreground probability in [0, 1] at feature size."""
        return torch.sigmoid(self.scores(features) - self.bias[:, None, None])

    def scores_on(self, support: Float[Tensor, "K C h w"]) -> Float[Tensor, "K T h w"]:
        """`scores` of every support cell under every frame's classifier."""
        cosine = torch.matmul(F.normalize(self.weight, dim=1), support.flatten(2))
        return self.temperature * cosine.unflatten(2, support.shape[2:])


def prototype(task: Task) -> Float[Tensor, " C"]:
    """Mean support feature over the foreground cells of all shots: w = sum_i y_i f_i / sum_i y_i; 0 without any.
    Shots are pooled, not averaged one by one. Source: docs/protocol.md 5.1, S11, S14.
    """
    foreground = task.support_masks & task.support_valid
    weights = foreground * torch.as_tensor(task.support_norm, dtype=task.support.dtype)
    total = torch.einsum("kchw,khw->c", task.support, weights)
    return total / (foreground.sum() + EPSILON)


def start(
    task: Task, temperature: float = 20.0, bias_start: BiasStart = "query-mean", midpoint: float | None = 0.5
) -> Classifier:
    """The initial classifier: the prototype for every frame, and a bias by one of two rules.
    "query-mean", as released: b_t = mean of temperature * cos(f, w) over all cells of frame t, padding included (S12).
    The initial foreground proportion is about one half, whatever the object's size.
    "query-top": b = z0 + midpoint (z1 - z0) for all frames; z0 is the mean score of the support's background, z1 the
    score that 2% of the video's valid cells exceed; z0 = z1 without background. Initial proportions may differ between
    frames. The support's own foreground is no measure: it scores higher under its own prototype than other images.
    midpoint None is 1/2 - 1/(10K).
    Without foreground in the support, the bias is infinite: probability 0 everywhere (C3).
    """
    weight = prototype(task).expand(len(task.query), -1).contiguous()
    if task.support_vanished:
        return Classifier(weight, weight.new_full((len(weight),), float("inf")), temperature)
    unbiased = Classifier(weight, weight.new_zeros(len(weight)), temperature)
    if bias_start == "query-mean":
        return Classifier(weight, unbiased.scores(task.query).mean(dim=(1, 2)), temperature)
    if midpoint is None:
        midpoint = 0.5 - 0.1 / task.shots
    scores = Classifier(weight[:1], unbiased.bias[:1], temperature).scores_on(task.support)[:, 0]
    outside, query = task.support_valid & ~task.support_masks, unbiased.scores(task.query)[task.query_valid]
    top = query.kthvalue(len(query) - int(TOP * len(query))).values
    background = scores[outside].mean() if outside.any() else top
    bias = background + midpoint * (top - background)
    return Classifier(weight, bias.expand(len(weight)).clone(), temperature)

"""The objective of one episode: its value by the formulas of `losses`, its gradient in closed form.

The two are the same function, tied together by a test against autograd in float64. The gradient needs no graph
and no copy of the features: with z the logit of a cell and s = p (1 - p),

    dCE/dz = (p - y) / |V|      dH/dz = -s z / |V|      dm/dz = s / |V|      dz/dw = tau (f - u cos) / |w|

so cross-entropy and entropy need no logarithm, KL and the local term enter through one number per frame, and the
projection on w is done once per frame on the summed features. All products with one frame's features are made
while that frame is still in the processor's cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ttilib.solver import losses
from ttilib.solver.classifier import EPSILON, Classifier
from ttilib.solver.task import Task

CACHE_BYTES = 8 * 2**20  # query features handled at once on a CPU: two frames of 512 x 31 x 54


class Weights(NamedTuple):
    """What each term counts in this step."""

    ce: float
    kl: float
    entropy: float
    temporal: float


@dataclass(frozen=True)
class Terms:
    """The objective taken apart, one value per frame, and the foreground proportion predicted now."""

    ce: Float[Tensor, " T"]
    kl: Float[Tensor, " T"]
    entropy: Float[Tensor, " T"]
    local_temporal: Float[Tensor, " T"]
    global_positive: Float[Tensor, " T"]
    global_negative: Float[Tensor, " T"]
    total: Float[Tensor, " T"]
    marginal: Float[Tensor, " T"]


@dataclass(frozen=True)
class Objective:
    """What a classifier is asked to do on one task: the weighted terms, the prior aimed at, the variants chosen.

    `divisor` and `negative` choose between the release and the paper's text (see `losses`).
    `local_weight` and `global_weight` take the temporal term apart; both are 1 in the release.
    Every query frame must have a valid cell; the solver takes the others out beforehand.
    """

    task: Task
    prior: Float[Tensor, " T"]
    weights: Weights
    window: int = 3
    divisor: losses.Divisor = "batch"
    negative: losses.Negative = "all"
    local_weight: float = 1.0
    global_weight: float = 1.0

    @property
    def local_share(self) -> float:
        """What the local term counts in this step."""
        return self.weights.temporal * self.local_weight

    @property
    def global_share(self) -> float:
        """What the global term counts in this step."""
        return self.weights.temporal * self.global_weight

    @property
    def positive_frames(self) -> int:
        """B, the divisor of the global positive term."""
        frames = len(self.task.query)
        return frames if self.divisor == "video" else self.task.batch_frames or frames

    @property
    def pool(self) -> Float[Tensor, "T h w"]:
        """Weight of each query cell when features are averaged: its length where it counts, else 0."""
        return self.task.query_valid * torch.as_tensor(self.task.query_norm, dtype=self.task.query.dtype)

    def terms(self, classifier: Classifier) -> Terms:
        """Value of every term at `classifier`; differentiable, and slower than `gradient` by far."""
        task, weights = self.task, self.weights
        p, mean_weight = classifier.probabilities(task.query), classifier.weight.mean(dim=0)
        marginal = losses.marginal(p, task.query_valid)
        prototypes = losses.soft_prototypes(p, task.query, self.pool)
        ce = losses.ce(classifier.on_support(task), task.support_masks, task.support_valid)
        kl = losses.kl(marginal, self.prior)
        entropy = losses.entropy(p, task.query_valid)
        local = losses.local_temporal(marginal, self.window)
        positive = losses.global_positive(prototypes, mean_weight, self.positive_frames)
        negative = losses.global_negative(p, task.query, task.query_valid, mean_weight, self.negative)
        total = weights.ce * ce + weights.kl * kl + weights.entropy * entropy
        temporal = self.local_weight * local + self.global_weight * positive + self.global_weight * negative
        total = total + weights.temporal * temporal
        return Terms(ce, kl, entropy, local, positive, negative, total, marginal)

    def gradient(self, classifier: Classifier) -> tuple[Float[Tensor, "T C"], Float[Tensor, " T"]]:
        """d/d(weight, bias) of the sum over frames of `terms(classifier).total`, without autograd."""
        direction = F.normalize(classifier.weight, dim=1)
        along, bias = self._support_gradient(classifier, direction)
        shared = 0.0
        if any(self.weights[1:]):
            query = _QueryGradient(self, classifier, direction)
            along, bias = along + query.along, bias + query.bias
            shared = query.mean_weight / len(along)
        tangent = along - direction * (direction * along).sum(dim=1, keepdim=True)
        return classifier.temperature * tangent / classifier.weight.norm(dim=1, keepdim=True) + shared, bias

    def _support_gradient(self, classifier: Classifier, direction: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy: sum over support cells of dCE/dz f, and -sum of dCE/dz."""
        task = self.task
        support, valid = task.support.flatten(2), task.support_valid.flatten(1)[:, None]
        p = torch.matmul(direction, support).mul_(classifier.temperature).sub_(classifier.bias[:, None]).sigmoid_()
        dz = p.sub_(task.support_masks.flatten(1)[:, None].to(p.dtype)).mul_(valid)
        dz.mul_(self.weights.ce / valid.sum(dtype=dz.dtype).clamp_min(1))  # a whole number would divide in float32
        return torch.matmul(dz, support.mT).sum(dim=0), -dz.sum(dim=(0, 2))


class _QueryGradient:
    """Gradient of the query terms, gathered over chunks of frames.

    `along` [T, C] is the sum over cells of dL/dz f, `bias` [T] minus the sum of dL/dz, and `mean_weight` [C] the
    gradient with respect to the mean classifier of the video. Whatever needs no features is done for all frames at
    once, before or after the loop: on few cells a call costs more than its arithmetic.
    """

    def __init__(self, objective: Objective, classifier: Classifier, direction: Tensor) -> None:
        self.objective, task = objective, objective.task
        mean_weight = classifier.weight.mean(dim=0)
        self.mean_norm, self.mean = mean_weight.norm() + EPSILON, F.normalize(mean_weight, dim=0)
        self.mean_weight = torch.zeros_like(mean_weight)
        scaled = classifier.temperature * direction
        asked = [scaled, self.mean.expand_as(scaled)] if objective.global_share else [scaled]
        self.directions, self.offset = torch.stack(asked, dim=1), classifier.bias[:, None]
        self.valid, self.pool = task.query_valid.flatten(1).to(direction.dtype), objective.pool.flatten(1)
        self.share = self.valid / self.valid.sum(dim=1, keepdim=True)
        self.query = task.query.flatten(2)
        frame_bytes = self.query[0].numel() * self.query.element_size()
        chunk = len(self.query) if self.query.is_cuda else max(1, CACHE_BYTES // frame_bytes)
        frames = [slice(i, i + chunk) for i in range(0, len(self.query), chunk)]
        p, pulls, along = (torch.cat(part) for part in zip(*map(self._chunk, frames), strict=True))
        pull = self._marginal_gradient((p * self.share).sum(dim=1))[:, None]
        self.along = along[:, 0] + pull * along[:, 1]
        sums = pulls.sum(dim=2)
        self.bias = -(sums[:, 0] + pull[:, 0] * sums[:, 1])

    def _chunk(self, at: slice) -> tuple[Tensor, Tensor, Tensor]:
        """All products with these frames' features.

        Probabilities [n, cells], then what pulls on each cell [n, 2, cells] and the same summed over the features
        [n, 2, C]: first entropy and the global term, second dm/dz, which KL and the local term will scale.
        """
        weights, query = self.objective.weights, self.query[at]
        cosine = torch.bmm(self.directions[at], query)
        z = cosine[:, 0] - self.offset[at]
        p = torch.sigmoid(z)
        curve = p - p * p
        slope = curve * self.share[at]
        rest = z.mul_(slope).mul_(-weights.entropy)
        if self.objective.global_share:
            rest += curve * self._global(query, p, cosine[:, 1], at)
        pulls = torch.stack([rest, slope], dim=1)
        return p, pulls, torch.bmm(pulls, query.mT)

    def _global(self, query: Tensor, p: Tensor, cosine: Tensor, at: slice) -> Float[Tensor, "n cells"]:
        """d(weighted global term)/dp of every cell; adds the frames' share of its gradient on the mean classifier."""
        objective, pool, fires = self.objective, self.pool[at], cosine.relu()
        background = objective.negative == "background"
        mass = self.valid[at] * (1 - p) if background else self.valid[at]
        total = mass.sum(dim=1, keepdim=True) + EPSILON
        mass = mass / total
        both = torch.stack([p * pool, mass * fires.sign()], dim=1)
        seen, fired = torch.bmm(both, query.mT).unbind(dim=1)
        length = seen.norm(dim=1, keepdim=True).clamp_min(EPSILON)
        prototype = seen / length
        agreement = (prototype @ self.mean)[:, None]
        value = (mass * fires).sum(dim=1, keepdim=True)
        weight = objective.global_share
        positive = weight * len(self.query) / objective.positive_frames
        pulled = positive * (prototype - agreement * self.mean)
        pushed = weight * (fired - value * self.mean)
        self.mean_weight += (pushed - pulled).sum(dim=0) / self.mean_norm
        turn = positive * (agreement * prototype - self.mean) / length
        dp = pool * torch.bmm(turn[:, None], query)[:, 0]
        if background:
            dp += weight * self.valid[at] * (value - fires) / total
        return dp

    def _marginal_gradient(self, marginal: Float[Tensor, " T"]) -> Float[Tensor, " T"]:
        """d(KL and local term)/dm of every frame."""
        objective, prior = self.objective, self.objective.prior
        m, rest = marginal.clamp_min(EPSILON), (1 - marginal).clamp_min(EPSILON)
        odds = (m / (prior + EPSILON)).log() - (rest / (1 - prior + EPSILON)).log()
        pull = objective.weights.kl * odds
        window, count = objective.window, len(marginal) - objective.window + 1
        if not objective.local_share or count < 1:
            return pull
        windows = marginal.unfold(0, window, 1)
        signs = (windows[:, :, None] - windows[:, None, :]).sign().sum(dim=2) * (4 / window**2)
        for offset in range(window):
            pull[offset : offset + count] += objective.local_share * signs[:, offset]
        return pull

"""The objective of one episode: its value by the formulas of `losses`, its gradient in closed form.

Tested against autograd in float64. With z the logit of a cell and s = p (1 - p):

    dCE/dz = (p - y) / |V|      dH/dz = -s z / |V|      dm/dz = s / |V|      dz/dw = tau (f - u cos) / |w|

The gradient needs no graph and no copy of the features. A CPU handles frames in chunks that fit into its cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ttilib.solver.classifier import EPSILON, Classifier
from ttilib.solver.losses import TERMS, Point
from ttilib.solver.settings import SolverConfig
from ttilib.solver.task import Task

CACHE_BYTES = 8 * 2**20  # query features per chunk on a CPU: two frames of 512 x 31 x 54


class Weights(NamedTuple):
    """Weight of each term in one step."""

    ce: float
    kl: float
    entropy: float
    temporal: float


class Terms(SimpleNamespace):
    """Values per frame: every term by name, their weighted `total`, and the predicted proportion `marginal`."""


@dataclass(frozen=True)
class Objective:
    """The objective of one step: task, prior, weights and configuration. Every query frame needs a valid cell."""

    task: Task
    prior: Float[Tensor, " T"]
    weights: Weights
    config: SolverConfig = SolverConfig()

    @property
    def shares(self) -> dict[str, float]:
        """Weight of every term by name in this step."""
        weights, config = self.weights, self.config
        local, both = weights.temporal * config.local_weight, weights.temporal * config.global_weight
        return {
            "ce": weights.ce, "kl": weights.kl, "entropy": weights.entropy, "local_temporal": local,
            "global_positive": both, "global_negative": both, **config.added,
        }  # fmt: skip

    @property
    def positive_frames(self) -> int:
        """B, the divisor of the global positive term."""
        frames = len(self.task.query)
        return frames if self.config.divisor == "video" else self.task.batch_frames or frames

    def at(self, classifier: Classifier) -> Point:
        """All that the terms are computed from."""
        p, support_p = classifier.probabilities(self.task.query), classifier.on_support(self.task)
        config = self.config
        return Point(
            self.task, classifier, p, support_p, self.prior, self.positive_frames, config.window, config.negative
        )

    def terms(self, classifier: Classifier) -> Terms:
        """Value of every term at `classifier`; differentiable, much slower than `gradient`."""
        at, shares = self.at(classifier), self.shares
        values = {name: TERMS[name].value(at) for name in shares}
        total = sum(share * values[name] for name, share in shares.items())
        return Terms(**values, total=total, marginal=at.marginal)

    def gradient(self, classifier: Classifier) -> tuple[Float[Tensor, "T C"], Float[Tensor, " T"]]:
        """d/d(weight, bias) of the sum over frames of `terms(classifier).total`; autograd for added terms only."""
        direction = F.normalize(classifier.weight, dim=1)
        along, bias = self._support_gradient(classifier, direction)
        shared = 0.0
        if any(self.weights[1:]):
            query = _QueryGradient(self, classifier, direction)
            along, bias = along + query.along, bias + query.bias
            shared = query.mean_weight / len(along)
        tangent = along - direction * (direction * along).sum(dim=1, keepdim=True)
        weight = classifier.temperature * tangent / classifier.weight.norm(dim=1, keepdim=True) + shared
        if self.config.added:
            added = self._added_gradient(classifier)
            return weight + added[0], bias + added[1]
        return weight, bias

    def _added_gradient(self, classifier: Classifier) -> tuple[Tensor, Tensor]:
        """Gradient of the added terms by autograd."""
        with torch.enable_grad():
            variables = [part.detach().requires_grad_() for part in (classifier.weight, classifier.bias)]
            at = self.at(Classifier(*variables, classifier.temperature))
            total = sum(share * TERMS[name].value(at).sum() for name, share in self.config.added.items())
            return torch.autograd.grad(total, variables, materialize_grads=True)

    def _support_gradient(self, classifier: Classifier, direction: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy: sum over support cells of dCE/dz f, and -sum of dCE/dz."""
        task = self.task
        support, valid = task.support.flatten(2), task.support_valid.flatten(1)[:, None]
        p = torch.matmul(direction, support).mul_(classifier.temperature).sub_(classifier.bias[:, None]).sigmoid_()
        dz = p.sub_(task.support_masks.flatten(1)[:, None].to(p.dtype)).mul_(valid)
        dz.mul_(self.weights.ce / valid.sum(dtype=dz.dtype).clamp_min(1))  # an integer would divide in float32
        return torch.matmul(dz, support.mT).sum(dim=0), -dz.sum(dim=(0, 2))


class _QueryGradient:
    """Gradient of the query terms: `along` [T, C] = sum dL/dz f, `bias` [T] = -sum dL/dz, `mean_weight` [C]."""

    def __init__(self, objective: Objective, classifier: Classifier, direction: Tensor) -> None:
        self.objective, self.shares, task = objective, objective.shares, objective.task
        mean_weight = classifier.weight.mean(dim=0)
        self.mean_norm, self.mean = mean_weight.norm() + EPSILON, F.normalize(mean_weight, dim=0)
        self.mean_weight = torch.zeros_like(mean_weight)
        scaled = classifier.temperature * direction
        asked = [scaled, self.mean.expand_as(scaled)] if self.shares["global_positive"] else [scaled]
        self.directions, self.offset = torch.stack(asked, dim=1), classifier.bias[:, None]
        self.valid, self.pool = task.query_valid.flatten(1).to(direction.dtype), task.pool.flatten(1)
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
        """p [n, cells]; dL/dz [n, 2, cells], row 1 being dm/dz, to be scaled; and dL/dz times the features [n, 2, C].
        """
        weights, query = self.objective.weights, self.query[at]
        cosine = torch.bmm(self.directions[at], query)
        z = cosine[:, 0] - self.offset[at]
        p = torch.sigmoid(z)
        curve = p - p * p
        slope = curve * self.share[at]
        rest = z.mul_(slope).mul_(-weights.entropy)
        if self.shares["global_positive"]:
            rest += curve * self._global(query, p, cosine[:, 1], at)
        pulls = torch.stack([rest, slope], dim=1)
        return p, pulls, torch.bmm(pulls, query.mT)

    def _global(self, query: Tensor, p: Tensor, cosine: Tensor, at: slice) -> Float[Tensor, "n cells"]:
        """d(weighted global terms)/dp per cell; adds these frames' gradient w.r.t. the mean classifier."""
        objective, pool, fires = self.objective, self.pool[at], cosine.relu()
        background = objective.config.negative == "background"
        mass = self.valid[at] * (1 - p) if background else self.valid[at]
        total = mass.sum(dim=1, keepdim=True) + EPSILON
        mass = mass / total
        both = torch.stack([p * pool, mass * fires.sign()], dim=1)
        seen, fired = torch.bmm(both, query.mT).unbind(dim=1)
        length = seen.norm(dim=1, keepdim=True).clamp_min(EPSILON)
        prototype = seen / length
        agreement = (prototype @ self.mean)[:, None]
        value = (mass * fires).sum(dim=1, keepdim=True)
        weight = self.shares["global_positive"]
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
        """d(weighted KL and local term)/dm per frame."""
        objective, prior = self.objective, self.objective.prior
        m, rest = marginal.clamp_min(EPSILON), (1 - marginal).clamp_min(EPSILON)
        odds = (m / (prior + EPSILON)).log() - (rest / (1 - prior + EPSILON)).log()
        pull = objective.weights.kl * odds
        window, count = objective.config.window, len(marginal) - objective.config.window + 1
        if not self.shares["local_temporal"] or count < 1:
            return pull
        windows = marginal.unfold(0, window, 1)
        signs = (windows[:, :, None] - windows[:, None, :]).sign().sum(dim=2) * (4 / window**2)
        for offset in range(window):
            pull[offset : offset + count] += self.shares["local_temporal"] * signs[:, offset]
        return pull

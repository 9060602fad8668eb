"""The objective of one episode: its value by the formulas of `losses`, its gradient in closed form, without a graph.

With z the logit of a cell and s = p (1 - p); a CPU handles frames in chunks that fit into its cache:
    dCE/dz = (p - y) / |V|      dH/dz = -s z / |V|      dm/dz = s / |V|      dz/dw = tau (f - u cos) / |w|
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
    """Weight of each part of the objective in one step."""

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
    def term_weights(self) -> dict[str, float]:
        """Weight of every term by name in this step."""
        weights, config = self.weights, self.config
        local, both = weights.temporal * config.local_weight, weights.temporal * config.global_weight
        return {
            "ce": weights.ce, "kl": weights.kl, "entropy": weights.entropy, "local_temporal": local,
            "global_positive": both, "global_negative": both, **config.added,
        }  # fmt: skip

    @property
    def batch_frames(self) -> int:
        """B, the divisor of the global positive term."""
        frames = len(self.task.query)
        return frames if self.config.divisor == "video" else self.task.batch_frames or frames

    def at(self, classifier: Classifier) -> Point:
        """All that the terms are computed from."""
        task, config = self.task, self.config
        p = classifier.probabilities(task.query)
        support_p = torch.sigmoid(classifier.scores_on(task.support) - classifier.bias[:, None, None])
        return Point(task, classifier, p, support_p, self.prior, self.batch_frames, config.window, config.negative)

    def terms(self, classifier: Classifier) -> Terms:
        """Value of every term at `classifier`; differentiable, much slower than `gradient`."""
        at, weights = self.at(classifier), self.term_weights
        values = {name: TERMS[name].value(at) for name in weights}
        total = sum(weight * values[name] for name, weight in weights.items())
        return Terms(**values, total=total, marginal=at.marginal)

    def gradient(self, classifier: Classifier) -> tuple[Float[Tensor, "T C"], Float[Tensor, " T"]]:
        """d/d(weight, bias) of the sum over frames of `terms(classifier).total`; autograd for added terms only."""
        direction = F.normalize(classifier.weight, dim=1)
        dweights, dbias = self._support_gradient(classifier, direction)
        dmean: Tensor | float = 0.0
        if any(self.weights[1:]):
            query = _QueryGradient(self, classifier, direction)
            dweights, dbias = dweights + query.dweights, dbias + query.dbias
            dmean = query.dmean / len(dweights)
        tangent = dweights - direction * (direction * dweights).sum(dim=1, keepdim=True)
        weight = classifier.temperature * tangent / classifier.weight.norm(dim=1, keepdim=True) + dmean
        if self.config.added:
            added = self._added_gradient(classifier)
            return weight + added[0], dbias + added[1]
        return weight, dbias

    def _added_gradient(self, classifier: Classifier) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            weight, bias = classifier.weight.detach().requires_grad_(), classifier.bias.detach().requires_grad_()
            at = self.at(Classifier(weight, bias, classifier.temperature))
            values = [factor * TERMS[name].value(at).sum() for name, factor in self.config.added.items()]
            return torch.autograd.grad(torch.stack(values).sum(), (weight, bias), materialize_grads=True)

    def _support_gradient(self, classifier: Classifier, direction: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy: sum over support cells of dCE/dz f, and -sum of dCE/dz."""
        task = self.task
        support, valid = task.support.flatten(2), task.support_valid.flatten(1)[:, None]
        p = torch.matmul(direction, support).mul_(classifier.temperature).sub_(classifier.bias[:, None]).sigmoid_()
        dlogits = p.sub_(task.support_masks.flatten(1)[:, None].to(p.dtype)).mul_(valid)
        dlogits.mul_(self.weights.ce / valid.sum(dtype=p.dtype).clamp_min(1))  # an integer would divide in float32
        return torch.matmul(dlogits, support.mT).sum(dim=0), -dlogits.sum(dim=(0, 2))


class _QueryGradient:
    """Gradient of the query terms: `dweights` [T, C] = sum over cells of dL/dz f, `dbias` [T] = -sum of dL/dz, and
    `dmean` [C] with respect to the mean classifier of the video.
    """

    def __init__(self, objective: Objective, classifier: Classifier, direction: Tensor) -> None:
        task, mean = objective.task, classifier.weight.mean(dim=0)
        self.objective, self.term_weights = objective, objective.term_weights
        self.mean_norm, self.mean, self.dmean = mean.norm() + EPSILON, F.normalize(mean, dim=0), torch.zeros_like(mean)
        scaled = classifier.temperature * direction
        directions = [scaled, self.mean.expand_as(scaled)] if self.term_weights["global_positive"] else [scaled]
        self.directions, self.bias = torch.stack(directions, dim=1), classifier.bias[:, None]
        self.valid, self.weight = task.query_valid.flatten(1).to(direction.dtype), task.query_weight.flatten(1)
        self.fraction = self.valid / self.valid.sum(dim=1, keepdim=True)  # 1 / |V| where valid
        self.query = task.query.flatten(2)
        frame_bytes = self.query[0].numel() * self.query.element_size()
        chunk = len(self.query) if self.query.is_cuda else max(1, CACHE_BYTES // frame_bytes)
        chunks = [slice(i, i + chunk) for i in range(0, len(self.query), chunk)]
        p, dlogits, dweights = (torch.cat(part) for part in zip(*map(self._chunk, chunks), strict=True))
        dmarginal = self._marginal_gradient((p * self.fraction).sum(dim=1))[:, None]
        self.dweights = dweights[:, 0] + dmarginal * dweights[:, 1]
        sums = dlogits.sum(dim=2)
        self.dbias = -(sums[:, 0] + dmarginal[:, 0] * sums[:, 1])

    def _chunk(self, at: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Gradient of the query terms for one chunk of frames: p [n, hw]; dL/dz [n, 2, hw], the derivative with respect
        to the logits z; and dL/dw [n, 2, C] = sum over cells of dL/dz f. Row 0: entropy and global terms. Row 1: dm/dz,
        the derivative of the marginal, later scaled by dKL/dm and by dL/dm of the local temporal term.
        """
        query = self.query[at]
        cosines = torch.bmm(self.directions[at], query)
        z = cosines[:, 0] - self.bias[at]
        p = torch.sigmoid(z)
        dsigmoid = p - p * p
        dmarginal = dsigmoid * self.fraction[at]
        dother = z.mul_(dmarginal).mul_(-self.objective.weights.entropy)
        if self.term_weights["global_positive"]:
            dother += dsigmoid * self._global(query, p, cosines[:, 1], at)
        dlogits = torch.stack([dother, dmarginal], dim=1)
        return p, dlogits, torch.bmm(dlogits, query.mT)

    def _global(self, query: Tensor, p: Tensor, cosine: Tensor, at: slice) -> Float[Tensor, "n cells"]:
        """d(weighted G+ and G-)/dp per cell; adds these frames' part to `dmean`. `cosine`: cos(f, mean classifier)."""
        objective, response = self.objective, cosine.relu()
        background = objective.config.negative == "background"
        a = self.valid[at] * (1 - p) if background else self.valid[at]
        total = a.sum(dim=1, keepdim=True) + EPSILON
        a = a / total
        coefficients = torch.stack([p * self.weight[at], a * response.sign()], dim=1)
        foreground, responding = torch.bmm(coefficients, query.mT).unbind(dim=1)
        length = foreground.norm(dim=1, keepdim=True).clamp_min(EPSILON)
        prototype = foreground / length
        similarity = (prototype @ self.mean)[:, None]
        value = (a * response).sum(dim=1, keepdim=True)
        weight = self.term_weights["global_positive"]
        positive = weight * len(self.query) / objective.batch_frames
        dmean_positive = positive * (prototype - similarity * self.mean)
        dmean_negative = weight * (responding - value * self.mean)
        self.dmean += (dmean_negative - dmean_positive).sum(dim=0) / self.mean_norm
        dforeground = positive * (similarity * prototype - self.mean) / length
        dp = self.weight[at] * torch.bmm(dforeground[:, None], query)[:, 0]
        if background:
            dp += weight * self.valid[at] * (value - response) / total
        return dp

    def _marginal_gradient(self, m: Float[Tensor, " T"]) -> Float[Tensor, " T"]:
        """d(weighted KL and local term)/dm per frame."""
        prior, config = self.objective.prior, self.objective.config
        foreground, background = m.clamp_min(EPSILON), (1 - m).clamp_min(EPSILON)
        log_odds = (foreground / (prior + EPSILON)).log() - (background / (1 - prior + EPSILON)).log()
        dmarginal = self.objective.weights.kl * log_odds
        count = len(m) - config.window + 1
        if not self.term_weights["local_temporal"] or count < 1:
            return dmarginal
        windows = m.unfold(0, config.window, 1)
        signs = (windows[:, :, None] - windows[:, None, :]).sign().sum(dim=2) * (4 / config.window**2)
        for offset in range(config.window):
            dmarginal[offset : offset + count] += self.term_weights["local_temporal"] * signs[:, offset]
        return dmarginal

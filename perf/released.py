"""The released optimization written down again from docs/protocol.md 5.1 and S1 to S25, with the released cost.

No code is copied. As released, the support is repeated for every frame, lengths of features are computed anew in every
step, both classes have probabilities, gradients are torch's, and the mean classifier is one per frame (T x T x C).
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ttilib.solver.classifier import EPSILON, Classifier, start
from ttilib.solver.task import Task

STEPS, UPDATE = 49, 9  # without and with temporal terms: 9 and 40


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU seconds of this process for one call."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def _probabilities(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Both classes of images [T, K, C, h, w]: [T, K, 2, h, w]."""
    lengths = features.norm(dim=2) * weight.norm(dim=1)[:, None, None, None] + EPSILON
    p = torch.sigmoid(20 * torch.einsum("tkchw,tc->tkhw", features, weight) / lengths - bias[:, None, None, None])
    return torch.stack([1 - p, p], dim=2)


def _mean(values: Tensor, counted: Tensor) -> Tensor:
    return (values * counted).sum(dim=(1, 2, 3)) / counted.sum(dim=(1, 2, 3))


def _temporal(query: Tensor, p: Tensor, valid: Tensor, m: Tensor, weight: Tensor) -> Tensor:
    """Local and global terms per frame; probabilities of both classes in the global negative one (S18)."""
    windows = m.unfold(0, 3, 1)
    local = F.pad((windows[..., None] - windows[..., None, :]).abs().mean(dim=(2, 3)).sum(dim=1), (0, 2))
    means = weight.expand(len(weight), -1, -1).mean(dim=1)
    prototypes = F.normalize((query * (p[:, 0, 1:] * valid)).sum(dim=(2, 3)), dim=1)
    positive = (1 - F.cosine_similarity(prototypes[:, None], means[None], dim=2)).mean(dim=0)
    response = F.cosine_similarity(query, means[:, :, None, None], dim=1).relu()[:, None, None]
    others = (1 - p) * valid[:, :, None]
    return local + positive + (response * others).sum(dim=(1, 2, 3, 4)) / others.sum(dim=(1, 2, 3, 4))


def solve_as_released(task: Task, steps: int = STEPS, update: int = UPDATE) -> Classifier:
    """`steps` of TTI, temporal after `update`; for videos of three frames and more."""
    frames, shots, first = len(task.query), task.shots, start(task)
    support, query = task.support.repeat(frames, 1, 1, 1, 1), task.query[:, None]
    truth = torch.stack([~task.support_masks, task.support_masks], dim=1).float().expand(frames, -1, -1, -1, -1)
    counted, valid = task.support_valid.float().expand(frames, -1, -1, -1), task.query_valid.float()[:, None]
    weight, bias = first.weight.clone().requires_grad_(), first.bias.clone().requires_grad_()
    descent, kl_weight = torch.optim.SGD([weight, bias], lr=0.025), 1 / shots

    def proportion(p: Tensor) -> Tensor:
        return (p * valid[:, :, None]).sum(dim=(1, 3, 4)) / valid.sum(dim=(1, 2, 3))[:, None]

    prior = proportion(_probabilities(query, weight, bias)).detach()
    for step in range(steps):
        if step == update:
            prior, kl_weight = proportion(_probabilities(query, weight, bias)).detach(), kl_weight + 1
        p_support, p = _probabilities(support, weight, bias), _probabilities(query, weight, bias)
        m = proportion(p)
        loss = -_mean((truth * (p_support + EPSILON).log()).sum(dim=2), counted)
        loss = loss - _mean((p * (p + EPSILON).log()).sum(dim=2), valid) / shots
        loss = loss + kl_weight * (m * (m / (prior + EPSILON)).log()).sum(dim=1)
        if step >= update:
            loss = loss + _temporal(task.query, p, valid, m, weight) / shots
        descent.zero_grad()
        loss.sum().backward()
        descent.step()
    return Classifier(weight.detach(), bias.detach())


def seconds_as_released(task: Task, steps: int) -> float:
    """CPU seconds of the 49 steps, from `steps` of each kind without what comes before them."""
    before = cpu_seconds(lambda: solve_as_released(task, 0))
    plain, temporal = (cpu_seconds(lambda u=u: solve_as_released(task, steps, u)) - before for u in (steps, 0))
    return before + (UPDATE * plain + (STEPS - UPDATE) * temporal) / steps

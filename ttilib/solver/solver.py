"""Fits one classifier per frame by gradient descent: fine-tune, RePRI, TTI and TTI + keyframe.

`iterate` yields every state, `solve` returns the solution. In keyframe refinement, the prediction of the frame most
similar to the support is the pseudo-label of a few more steps. Source: docs/protocol.md 5.1, S1 to S10, S28 to S34.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from ttilib.solver import losses
from ttilib.solver.classifier import EPSILON, Classifier, prototype, start
from ttilib.solver.objective import Objective, Terms, Weights
from ttilib.solver.settings import SolverConfig
from ttilib.solver.task import Task, downsample


def choose_keyframe(
    query: Float[Tensor, "T C h w"], weight: Float[Tensor, "T h w"], reference: Float[Tensor, " C"]
) -> tuple[int | None, Float[Tensor, " T"]]:
    """The frame whose predicted object is most similar to `reference`, and every frame's cosine to it.
    q_t = normalised sum_i weight_i f_i, weight = predicted mask times length; argmax_t cos(q_t, reference), first on
    ties. None if no frame has predicted foreground.
    """
    prototypes = F.normalize(torch.einsum("tchw,thw->tc", query, weight), dim=1)
    cosines = prototypes @ F.normalize(reference, dim=0)
    predicted = weight.flatten(1).any(dim=1)
    if not predicted.any():
        return None, cosines
    return int(torch.where(predicted, cosines, -2.0).argmax()), cosines


def pseudo_mask(mask: Bool[Tensor, "H W"], ring: float = 0.2) -> tuple[Bool[Tensor, "H W"], Bool[Tensor, "H W"]]:
    """The keyframe's pseudo-label: predicted foreground, and valid pixels (none if the mask is empty).
    Pixels farther than ring * sqrt(H^2 + W^2) from the foreground are background; nearer ones are ignored (S29).
    """
    if not mask.any():
        return mask, torch.zeros_like(mask)
    distance = cv2.distanceTransform((~mask).byte().cpu().numpy(), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    far = torch.from_numpy(distance > ring * float(np.hypot(*mask.shape))).to(mask.device)
    return mask, mask | far


def cell_counts(pixels: Bool[Tensor, "H W"], grid: tuple[int, int]) -> Float[Tensor, "h w"]:
    """Number of `pixels` per feature cell; pixel i belongs to cell floor(i * h / H).
    As released, upsampling is nearest neighbour: a loss over pixels is one over cells with these counts (S30, S31).
    """
    height, width = pixels.shape
    rows = torch.arange(height, device=pixels.device) * grid[0] // height
    columns = torch.arange(width, device=pixels.device) * grid[1] // width
    cells = rows[:, None] * grid[1] + columns
    return torch.bincount(cells[pixels], minlength=grid[0] * grid[1]).view(grid).float()


def refine(
    classifier: Classifier,
    features: Float[Tensor, "C h w"],
    label: tuple[Bool[Tensor, "H W"], Bool[Tensor, "H W"]],
    valid: Bool[Tensor, "T h w"],
    steps: int = 9,
    learning_rate: float = 0.0025,
) -> Classifier:
    """Every frame's classifier after `steps` of cross-entropy on the keyframe's pseudo-label (foreground, valid).
    CE_t = -1/N_t sum_i v_ti [n1_i log p_i + n0_i log(1 - p_i)], n1 foreground and n0 background pixels per cell of the
    keyframe; v_t is frame t's own padding, as released (S30).
    """
    cells, grid = features.flatten(1), (features.shape[1], features.shape[2])
    positive, both = (valid.flatten(1) * cell_counts(pixels, grid).flatten() for pixels in label)
    total = both.sum(dim=1, keepdim=True).clamp_min(1)
    weight, bias = classifier.weight, classifier.bias
    for _ in range(steps):
        norm = weight.norm(dim=1, keepdim=True).clamp_min(EPSILON)
        direction = weight / norm
        p = torch.sigmoid(classifier.temperature * direction @ cells - bias[:, None])
        dlogits = (p * both - positive) / total
        dweights = dlogits @ cells.T
        tangent = dweights - direction * (direction * dweights).sum(dim=1, keepdim=True)
        weight = weight - learning_rate * classifier.temperature * tangent / norm
        bias = bias + learning_rate * dlogits.sum(dim=1)
    return Classifier(weight, bias, classifier.temperature)


@dataclass(frozen=True)
class State:
    """The optimization before step `step` (0 is the start): the classifier, and the objective of that step."""

    step: int
    classifier: Classifier
    objective: Objective

    @property
    def prior(self) -> Float[Tensor, " T"]:
        """Target foreground proportion per frame."""
        return self.objective.prior

    def terms(self) -> Terms:
        """Value of every term of the objective."""
        return self.objective.terms(self.classifier)


@dataclass(frozen=True)
class Solution:
    """The result: classifiers, the prior of the last step, and the scores of the query frames.
    `history`: the states before each step and after the last, without frames that are only padding. `keyframe`,
    `similarity` [T] and `pseudo_mask` (foreground, valid pixels) belong to the refinement.
    """

    classifier: Classifier
    prior: Float[Tensor, " T"]
    scores: Float[Tensor, "T h w"]
    size: tuple[int, int]
    history: tuple[State, ...]
    keyframe: int | None = None
    similarity: Float[Tensor, " T"] | None = None
    pseudo_mask: tuple[Bool[Tensor, "H W"], Bool[Tensor, "H W"]] | None = None

    def probabilities(self, size: tuple[int, int] | None = None) -> Float[Tensor, "T H W"]:
        """Foreground probability per pixel: scores upsampled bilinearly (corners aligned), then the sigmoid."""
        return upsampled_probabilities(self.scores, self.classifier.bias, size or self.size)

    def masks(self, size: tuple[int, int] | None = None) -> Bool[Tensor, "T H W"]:
        """Predicted masks: probability above one half; ties are background."""
        return self.probabilities(size) > 0.5


def upsampled_probabilities(
    scores: Float[Tensor, "T h w"], bias: Float[Tensor, " T"], size: tuple[int, int]
) -> Float[Tensor, "T H W"]:
    """sigmoid(upsampled score - bias); the bias is subtracted last, so that an infinite one gives 0."""
    full = F.interpolate(scores[:, None], size=size, mode="bilinear", align_corners=True)[:, 0]
    return torch.sigmoid(full - bias[:, None, None])


@torch.no_grad()
def iterate(
    task: Task, config: SolverConfig | None = None, prior: Float[Tensor, " T"] | None = None
) -> Iterator[State]:
    """The state before every step and after the last: config.steps + 1 states, one if the support vanished (C3).
    `prior` is an oracle foreground proportion, fixed; without it the prior is the marginal at the start, and again
    after `prior_update` steps. Frames without a valid cell are left out. Added terms use autograd, with a warning.
    Raises ValueError naming the episode if the query has no valid cell, the support vanished and is to be refused, or
    `prior` is not a proportion in [0, 1] for each of the T frames.
    """
    config = config or SolverConfig()
    if prior is not None:
        prior = torch.as_tensor(prior).to(task.query)
        if prior.shape != task.query.shape[:1] or not ((prior >= 0) & (prior <= 1)).all():
            about = f"the prior is {prior.tolist()}; give a proportion in [0, 1] for each of {len(task.query)} frames"
            raise ValueError(f"episode {task.name}: {about}")
    if config.vanished_support == "refuse":
        task.check_support()
    if config.added_terms:
        about = "no closed form, so its gradient is computed by autograd, which is slower"
        warnings.warn(f"added_terms={'+'.join(config.added_terms)}: {about}", stacklevel=2)
    task, prior = _without_padding_frames(task, prior)
    classifier = start(task, config.temperature, config.bias_start, config.midpoint)
    oracle = prior is not None
    if prior is None:
        prior = losses.marginal(classifier.probabilities(task.query), task.query_valid)
    chosen = config.ce_weight, config.kl_weight, config.entropy_weight, config.temporal_weight
    weights = Weights(*(1 / task.shots if weight is None else weight for weight in chosen))
    temporal_start = _temporal_start(config, oracle)
    steps = 0 if task.support_vanished else config.steps
    for step in range(steps + 1):
        if not oracle and weights.kl and step == config.prior_update:
            prior = losses.marginal(classifier.probabilities(task.query), task.query_valid)
            weights = weights._replace(kl=weights.kl + config.kl_boost)
        now = weights if step >= temporal_start else weights._replace(temporal=0.0)
        objective = Objective(task, prior, now, config)
        yield State(step, classifier, objective)
        if step < steps:
            weight, bias = objective.gradient(classifier)
            weight = classifier.weight - config.learning_rate * weight
            classifier = Classifier(weight, classifier.bias - config.learning_rate * bias, config.temperature)


@torch.no_grad()
def solve(task: Task, config: SolverConfig | None = None, prior: Float[Tensor, " T"] | None = None) -> Solution:
    """The solution of a task: the last state of `iterate`, then keyframe refinement if configured.
    Frames that are only padding get the prototype, an infinite bias (probability 0) and prior 0. Raises ValueError as
    `iterate` does, FloatingPointError naming the episode if the optimization runs into infinity or NaN.
    """
    config = config or SolverConfig()
    history = tuple(iterate(task, config, prior))
    valid, classifier, final_prior = _has_valid_cell(task), history[-1].classifier, history[-1].prior
    if not valid.all():
        weight = prototype(task).expand(len(valid), -1).clone()
        bias, full_prior = weight.new_full((len(valid),), float("inf")), weight.new_zeros(len(valid))
        weight[valid], bias[valid], full_prior[valid] = classifier.weight, classifier.bias, final_prior
        classifier, final_prior = Classifier(weight, bias, classifier.temperature), full_prior
    solution = Solution(classifier, final_prior, classifier.scores(task.query), task.size, history)
    return refine_solution(task, _checked(task, solution), config)


def _checked(task: Task, solution: Solution) -> Solution:
    """The solution, if the classifiers of all frames with a valid cell are finite; else FloatingPointError."""
    valid, classifier = _has_valid_cell(task), solution.classifier
    lengths, bias = classifier.weight[valid].norm(dim=1), classifier.bias[valid]
    if not task.support_vanished and not (lengths.isfinite() & bias.isfinite()).all():
        about = f"the optimization of episode {task.name} ran into infinity or NaN"
        raise FloatingPointError(f"{about}; check the encoder, or give a smaller learning rate")
    return solution


def _temporal_start(config: SolverConfig, oracle: bool) -> float:
    """First step with temporal terms; infinity if, as released, there is none (S4)."""
    if config.temporal_start is not None:
        return config.temporal_start
    if oracle or config.kl_weight == 0 or config.prior_update is None:
        return float("inf")
    return config.prior_update


def _has_valid_cell(task: Task) -> Bool[Tensor, " T"]:
    """Whether each query frame has a valid cell; False for frames that are only padding."""
    return task.query_valid.flatten(1).any(dim=1)


def _without_padding_frames(task: Task, prior: Float[Tensor, " T"] | None) -> tuple[Task, Float[Tensor, " n"] | None]:
    """The task and its oracle prior without frames that are only padding."""
    valid = _has_valid_cell(task)
    if valid.all():
        return task, prior
    if not valid.any():
        raise ValueError(f"episode {task.name}: every query frame is padding only; check the query's size and masks")
    norm = task.query_norm[valid] if isinstance(task.query_norm, Tensor) else task.query_norm
    task = replace(task, query=task.query[valid], query_valid=task.query_valid[valid], query_norm=norm)
    return task, None if prior is None else prior[valid]


@torch.no_grad()
def refine_solution(task: Task, solution: Solution, config: SolverConfig) -> Solution:
    """The solution of `config.unrefined` after the keyframe refinement of `config`; unchanged if there is none, or no
    frame has predicted foreground. Raises FloatingPointError as `solve` does.
    """
    if config.keyframe is None:
        return solution
    masks = solution.masks()
    predicted = downsample(masks, task.grid)
    reference = prototype(task) if config.keyframe == "support" else solution.classifier.weight.mean(dim=0)
    keyframe, similarity = choose_keyframe(task.query, predicted * task.query_weight, reference)
    if keyframe is None:
        return replace(solution, similarity=similarity)
    label = pseudo_mask(masks[keyframe], config.ring)
    steps, rate = config.refine_steps, config.refine_learning_rate
    classifier = refine(solution.classifier, task.query[keyframe], label, task.query_valid, steps, rate)
    scores = classifier.scores(task.query)
    found = replace(solution, classifier=classifier, scores=scores, keyframe=keyframe, similarity=similarity)
    return _checked(task, replace(found, pseudo_mask=label))

"""Fitting one classifier per frame to an episode by gradient descent: fine-tune, RePRI, TTI and TTI + keyframe.

`iterate` shows every step of the descent, `solve` keeps the last one; they are the same loop. The settings
live in one frozen `SolverConfig`, whose defaults are those of the release.

Keyframe refinement: trust the query frame whose object looks most like the support, and learn from it.

The frame's own prediction becomes a pseudo-label, and every frame's classifier takes a few small steps of
cross-entropy on that one frame. Source: protocol section 5.1; solver quirks 28 to 34.

What a descent leaves behind: its states, and the solution they lead to.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from ttilib.solver import losses
from ttilib.solver.classifier import EPSILON, BiasStart, Classifier, prototype, start
from ttilib.solver.objective import Objective, Terms, Weights
from ttilib.solver.settings import check
from ttilib.solver.task import Task


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


@dataclass(frozen=True)
class State:
    """The descent before step number `step` (0 is the start): the classifier and what is asked of it next."""

    step: int
    classifier: Classifier
    objective: Objective

    @property
    def prior(self) -> Float[Tensor, " T"]:
        """Foreground proportion aimed at, per frame."""
        return self.objective.prior

    def terms(self) -> Terms:
        """Value of every term of the objective here."""
        return self.objective.terms(self.classifier)


@dataclass(frozen=True)
class Solution:
    """What came out: the classifiers, the prior they aimed at, and the scores they give the video.

    `history` holds the state before each step and after the last; a frame that is all padding is not in it.
    `keyframe`, `similarity` [T] and `pseudo_mask` (foreground, pixels that count) belong to the refinement.
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
        """Predicted object: probability above one half; a tie is background."""
        return self.probabilities(size) > 0.5


def upsampled_probabilities(
    scores: Float[Tensor, "T h w"], bias: Float[Tensor, " T"], size: tuple[int, int]
) -> Float[Tensor, "T H W"]:
    """sigmoid(upsampled score - bias); the bias comes off last so that an infinite one means absent."""
    full = F.interpolate(scores[:, None], size=size, mode="bilinear", align_corners=True)[:, 0]
    return torch.sigmoid(full - bias[:, None, None])


@dataclass(frozen=True)
class SolverConfig:
    """Everything one may change about the descent. The defaults are TTI as released.

    A weight of None is 1/K. Raises ValueError for values that cannot be. Source: protocol section 5.1.
    """

    temperature: float = 20.0
    bias_start: BiasStart = "query-mean"  # or on the way from the support's background to its foreground
    midpoint: float | None = 0.5  # how far on that way; None: 1/2 - 1/(5K), see classifier.start
    steps: int = 49  # the release writes 50 and counts from 1
    learning_rate: float = 0.025
    ce_weight: float = 1.0
    kl_weight: float | None = None
    entropy_weight: float | None = None
    temporal_weight: float | None = None
    local_weight: float = 1.0  # factors inside the temporal term; the release has neither
    global_weight: float = 1.0
    prior_update: int | None = 9  # the prior becomes the marginal after so many steps; None: never
    kl_boost: float = 1.0  # added to the KL weight when the prior is updated
    temporal_start: int | None = None  # step from which the temporal terms act; None: as released, with the
    #                                    prior update, hence never under an oracle prior
    window: int = 3  # frames over which foreground proportions should agree; the release can only do 3
    divisor: losses.Divisor = "batch"
    negative: losses.Negative = "all"
    keyframe: Literal["support", "global"] | None = None  # what the keyframe is chosen to resemble; None: off
    refine_steps: int = 9  # the release writes 10 and counts from 1
    refine_learning_rate: float = 0.0025
    ring: float = 0.2  # width of the ignored ring around the pseudo-mask, in image diagonals

    def __post_init__(self) -> None:
        check(self, positive=("temperature", "window"))

    @classmethod
    def finetune(cls) -> SolverConfig:
        """Cross-entropy on the support only."""
        return cls(kl_weight=0.0, entropy_weight=0.0, temporal_weight=0.0)

    @classmethod
    def repri(cls) -> SolverConfig:
        """RePRI: the support, entropy and the foreground prior, frame by frame."""
        return cls(temporal_weight=0.0)

    @classmethod
    def tti(cls) -> SolverConfig:
        """TTI as released: RePRI and the temporal terms."""
        return cls()

    @classmethod
    def tti_keyframe(cls, criterion: Literal["support", "global"] = "support") -> SolverConfig:
        """TTI, then keyframe refinement."""
        return cls(keyframe=criterion)

    @classmethod
    def frozen(cls) -> SolverConfig:
        """For an encoder that was never trained on base classes: the bias starts from the support, and the temporal
        terms act from the first step. Give it centred features (see `recipe`)."""
        return cls(bias_start="support-midpoint", midpoint=None, temporal_start=0)

    @classmethod
    def as_written(cls) -> SolverConfig:
        """TTI as the paper's text has it: background-weighted negative term, positive term per video."""
        return cls(divisor="video", negative="background")


CONFIGS = {
    "fine-tune": SolverConfig.finetune(),
    "RePRI": SolverConfig.repri(),
    "TTI": SolverConfig.tti(),
    "TTI+keyframe": SolverConfig.tti_keyframe(),
}


@torch.no_grad()
def iterate(
    task: Task, config: SolverConfig | None = None, prior: Float[Tensor, " T"] | None = None
) -> Iterator[State]:
    """The state before every step, and the one after the last: config.steps + 1 of them.

    `prior` is an oracle foreground proportion, kept throughout; without it the prior is the marginal at the
    start and once more after `prior_update` steps. Frames without a valid cell are left out.
    Raises ValueError naming the episode when the support shows no foreground at feature size.
    """
    config = config or SolverConfig()
    task, prior = _with_pixels(task, prior)
    classifier = start(task, config.temperature, config.bias_start, config.midpoint)
    oracle = prior is not None
    if prior is None:
        prior = losses.marginal(classifier.probabilities(task.query), task.query_valid)
    base = _weights(config, task.shots)
    temporal_start = _temporal_start(config, oracle)
    for step in range(config.steps + 1):
        if not oracle and base.kl and step == config.prior_update:
            prior = losses.marginal(classifier.probabilities(task.query), task.query_valid)
            base = base._replace(kl=base.kl + config.kl_boost)
        weights = base if step >= temporal_start else base._replace(temporal=0.0)
        objective = Objective(task, prior, weights, config.window, config.divisor, config.negative,
                              config.local_weight, config.global_weight)  # fmt: skip
        yield State(step, classifier, objective)
        if step < config.steps:
            weight, bias = objective.gradient(classifier)
            classifier = Classifier(
                classifier.weight - config.learning_rate * weight,
                classifier.bias - config.learning_rate * bias,
                config.temperature,
            )


@torch.no_grad()
def solve(
    task: Task, config: SolverConfig | None = None, prior: Float[Tensor, " T"] | None = None
) -> Solution:
    """Fit the task and return the solution; `iterate` with the last state kept, then keyframe refinement.

    A query frame that is all padding is answered as absent: an infinite bias, hence probability 0 everywhere.
    Raises ValueError as `iterate` does.
    """
    config = config or SolverConfig()
    history = tuple(iterate(task, config, prior))
    solution = _solution(task, history[-1], history)
    return solution if config.keyframe is None else _refined(task, solution, config)


def _weights(config: SolverConfig, shots: int) -> Weights:
    """The weights of the first step, None read as 1/K."""
    chosen = config.ce_weight, config.kl_weight, config.entropy_weight, config.temporal_weight
    return Weights(*(1 / shots if weight is None else weight for weight in chosen))


def _temporal_start(config: SolverConfig, oracle: bool) -> int | float:
    """First step with temporal terms; infinity when the release would never switch them on."""
    if config.temporal_start is not None:
        return config.temporal_start
    never = oracle or config.kl_weight == 0 or config.prior_update is None
    return float("inf") if never else config.prior_update


def _present(task: Task) -> Bool[Tensor, " T"]:
    """Which query frames have a valid cell at all."""
    return task.query_valid.flatten(1).any(dim=1)


def _with_pixels(
    task: Task, prior: Float[Tensor, " T"] | None
) -> tuple[Task, Float[Tensor, " n"] | None]:
    """The task and its oracle prior without the frames that are all padding."""
    present = _present(task)
    if present.all():
        return task, prior
    if not present.any():
        raise ValueError(f"episode {task.name}: every query frame is padding only; check the query's size and masks")
    norm = task.query_norm[present] if isinstance(task.query_norm, Tensor) else task.query_norm
    seen = replace(task, query=task.query[present], query_valid=task.query_valid[present], query_norm=norm)
    return seen, None if prior is None else prior[present]


def _solution(task: Task, last: State, history: tuple[State, ...]) -> Solution:
    """The last state as a solution of the whole task: frames that are all padding have the support's prototype
    as weight, an infinite bias (probability 0) and prior 0."""
    present, classifier, prior = _present(task), last.classifier, last.prior
    if not present.all():
        weight = prototype(task).expand(len(present), -1).clone()
        bias, full_prior = weight.new_full((len(present),), float("inf")), weight.new_zeros(len(present))
        weight[present], bias[present], full_prior[present] = classifier.weight, classifier.bias, prior
        classifier, prior = Classifier(weight, bias, classifier.temperature), full_prior
    return Solution(classifier, prior, classifier.scores(task.query), task.size, history)


def _refined(task: Task, solution: Solution, config: SolverConfig) -> Solution:
    """The solution after keyframe refinement; itself, with keyframe None, when no frame predicts an object."""
    grid = (task.query.shape[-2], task.query.shape[-1])
    masks = solution.masks()
    predicted = F.interpolate(masks[:, None].float(), size=grid, mode="nearest")[:, 0]
    reference = prototype(task) if config.keyframe == "support" else solution.classifier.weight.mean(dim=0)
    chosen, similarity = choose_keyframe(task.query, predicted * task.query_valid * task.query_norm, reference)
    if chosen is None:
        return replace(solution, similarity=similarity)
    foreground, counted = pseudo_mask(masks[chosen], config.ring)
    classifier = refine(
        solution.classifier,
        task.query[chosen],
        cell_counts(foreground, grid),
        cell_counts(counted, grid),
        task.query_valid,
        config.refine_steps,
        config.refine_learning_rate,
    )
    return replace(
        solution,
        classifier=classifier,
        scores=classifier.scores(task.query),
        keyframe=chosen,
        similarity=similarity,
        pseudo_mask=(foreground, counted),
    )

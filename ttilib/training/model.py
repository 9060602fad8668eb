"""Losses, contrastive loss, optimizer and learning rate of base training.

A supervised loss is a map [N, H, W], 0 at the ignore label. It is weighted by `pixel_weights`, summed, and divided by
the sum of weights over all parts and processes, so that splitting a batch does not change the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from ttilib.datasets.base import IGNORE_LABEL
from ttilib.encoders.pspnet import PSPNet, seeded
from ttilib.solver.task import downsample
from ttilib.training import distributed
from ttilib.training.config import TrainConfig

EPSILON = 1e-10  # avoids 0 / 0; as released


def smoothed_cross_entropy(
    logits: Float[Tensor, "N K H W"], labels: Int64[Tensor, "N H W"], smoothing: float
) -> Float[Tensor, "N H W"]:
    """Cross-entropy with label smoothing, per pixel, in nats; 0 at the ignore label.

    -sum_c q_c log softmax_c with q = 1 - smoothing on the true class, smoothing / (K - 1) on each other one.
    torch smooths over all K classes, so its value is K / (K - 1) times ours. Source: docs/protocol.md 4.
    """
    spread = smoothing * logits.shape[1] / (logits.shape[1] - 1)
    return F.cross_entropy(_wide(logits), labels, ignore_index=IGNORE_LABEL, label_smoothing=spread, reduction="none")


def iou_loss(
    logits: Float[Tensor, "N K H W"], labels: Int64[Tensor, "N H W"], smoothing: float, background: bool = True
) -> Float[Tensor, "N H W"]:
    """Soft IoU loss per pixel, in [0, 1]: mean over classes of 1 - r_c; 0 at the ignore label.

    r_c = q_c p_c / (q_c + p_c - q_c p_c + 1e-10),  p = softmax, q as in `smoothed_cross_entropy`; class 0 only with
    `background`. Source: docs/protocol.md 4, training_loss iou.
    """
    classes = torch.arange(logits.shape[1], device=logits.device).view(1, -1, 1, 1)
    p = _wide(logits).softmax(1)
    q = torch.where(labels[:, None] == classes, 1 - smoothing, smoothing / (logits.shape[1] - 1)).to(p)
    both = q * p
    ratio = both / (q + p - both + EPSILON)
    return (1 - ratio[:, 0 if background else 1 :]).mean(1) * (labels != IGNORE_LABEL)


Loss = Callable[[Tensor, Tensor, float], Tensor]
TERMS: dict[str, dict[str, Loss]] = {
    "ce": {"ce": smoothed_cross_entropy},
    "iou": {"iou": iou_loss},
    "ce+iou": {"ce": smoothed_cross_entropy, "iou": partial(iou_loss, background=False)},
}
"""Terms of each loss setting: functions of (logits, labels, smoothing) to a map [N, H, W]."""


def pixel_weights(labels: Int64[Tensor, "N H W"], foreground_weight: float = 1.0) -> Float[Tensor, "N H W"]:
    """Weight of each pixel: 1 on background, `foreground_weight` on a class, 0 at the ignore label."""
    return torch.where(labels > 0, foreground_weight, 1.0) * (labels != IGNORE_LABEL)


def confusion(logits: Float[Tensor, "N K H W"], labels: Int64[Tensor, "N H W"]) -> Int64[Tensor, "K K"]:
    """Confusion matrix in pixels, true class (row) by class of the highest logit (column), without ignored pixels."""
    classes = logits.shape[1]
    found = logits.max(dim=1).indices  # the first of equal ones; three times faster than argmax
    pairs = labels * classes + found  # those of the ignore label are counted behind all others, and cut off
    counts = torch.bincount(pairs.flatten(), minlength=(IGNORE_LABEL + 1) * classes)
    return counts[: classes**2].reshape(classes, classes)


def class_iou(counts: Int64[Tensor, "K K"]) -> Float[Tensor, " K"]:
    """IoU per class: sum I / (sum U + 1e-10), 0 without pixels, as released. Source: docs/protocol.md 4."""
    both = counts.diagonal().double()
    return both / (counts.sum(0) + counts.sum(1) - both + EPSILON)


def training_scores(counts: Int64[Tensor, "K K"]) -> dict[str, float]:
    """Mean IoU, share of correct pixels, and the same averaged over classes (0 for one without pixels, as released)."""
    correct = counts.diagonal().double()
    return {
        "train_miou": float(class_iou(counts).mean()),
        "train_accuracy": float(correct.sum() / (counts.sum() + EPSILON)),
        "train_class_accuracy": float((correct / (counts.sum(1) + EPSILON)).mean()),
    }


def _wide(x: Tensor) -> Tensor:
    """Cast to at least single precision, for logarithms and ratios."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


POOL = 7  # cells per side of a pooled map, as released
CHUNK = 4  # pairs of frames per matrix of P x P similarities


def contrastive(
    first: Float[Tensor, "N C h w"], second: Float[Tensor, "N C h w"], temperature: float
) -> Float[Tensor, "N P"]:
    """Dense contrastive loss of each of the P = h w cells of `first` against its best match in `second`, in nats.

    l_i = -log [ exp(s_i+) / sum_j exp(s_ij) ],  s_ij = f_i . g_j / temperature,  s_i+ = max_j s_ij;  in [0, log P].
    Features are not normalised (docs/protocol.md Q23), so single precision also under autocast.
    Source: docs/protocol.md 4, DCL auxiliary; Wang et al. 2021, DenseCL.
    """
    with torch.autocast(first.device.type, enabled=False):
        f, g = (_wide(x.flatten(2)) for x in (first, second))
        losses = []
        for a, b in zip(f.split(CHUNK), g.split(CHUNK), strict=True):
            similarity = a.transpose(1, 2) @ b / temperature
            best = similarity.max(dim=2, keepdim=True).values  # gradient to one of equal maxima, unlike amax
            losses.append((similarity - best).logsumexp(dim=2))  # subtract first: both may be in the thousands
        return torch.cat(losses)


def contrast_head(channels: int, width: int) -> nn.Sequential:
    """Projection head [N, C, h, w] -> [N, D, h + 4, w + 4]: two 1x1 convolutions.

    Each convolution pads by one cell, as released. Parameters are named as in the released `cl_proj_head`.
    Source: docs/protocol.md 4, Q23.
    """
    return nn.Sequential(
        nn.Conv2d(channels, width, 1, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, width, 1, padding=1, bias=False),
    )


HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Batch:
    """The images of one step, or of a part of it.

    `pairs` are unlabelled windows, `valid` is False on their padding; `mixed` is the order of mixup's second images.
    """

    images: Float[Tensor, "N 3 H W"]
    labels: Int64[Tensor, "N H W"]
    pairs: Float[Tensor, "M window 3 H W"] | None = None
    valid: Bool[Tensor, "M window H W"] | None = None
    mixed: Int64[Tensor, " N"] | None = None
    share: float = 1.0

    @classmethod
    def of(cls, parts: Sequence[Tensor], device: torch.device | str) -> Batch:
        """From a loader's images (or clips), labels and, if any, pairs by sample and their `valid`."""
        images, labels, *rest = (part.to(device, non_blocking=True) for part in parts)
        images = images.flatten(0, -4).to(memory_format=torch.channels_last)  # 5 to 20 % faster on a CPU
        pairs, valid = (part.flatten(0, 1) for part in rest) if rest else (None, None)
        return cls(images, labels.flatten(0, -3), pairs, valid)

    def split(self, parts: int) -> list[Batch]:
        """Split into batches of equal size."""
        tensors = (self.images, self.labels, self.pairs, self.valid)
        pieces = ((None,) * parts if tensor is None else tensor.chunk(parts) for tensor in tensors)
        return [Batch(*piece) for piece in zip(*pieces, strict=True)]

    def mixup(self, alpha: float, rng: np.random.Generator) -> Batch:
        """Mixup: share * images + (1 - share) * images[order], share ~ Beta(alpha, alpha), order a permutation.

        The loss is share * loss(labels) + (1 - share) * loss(labels[order]), each over its own valid pixels.
        Source: Zhang et al. 2018; docs/protocol.md 4, mixup.
        """
        share = float(rng.beta(alpha, alpha))
        order = torch.from_numpy(rng.permutation(len(self.images)).astype(np.int64)).to(self.images.device)
        images = share * self.images + (1 - share) * self.images[order]
        return replace(self, images=images, mixed=order, share=share)


class Outcome(NamedTuple):
    """Weighted loss of a batch, its parts before weighting, and the confusion matrix."""

    loss: Float[Tensor, ""]
    parts: dict[str, Tensor]
    counts: Int64[Tensor, "K K"]


class Learner(nn.Module):
    """Network, loss and projection head in one module, as needed for DDP and torch.compile."""

    def __init__(self, network: PSPNet, config: TrainConfig) -> None:
        super().__init__()
        self.network, self.config, self.head = network, config, None
        contrast = config.contrast
        if contrast is not None and contrast.project:
            inner = contrast.features == "stage3"
            channels = network.architecture.channels(3) if inner else network.architecture.features
            with seeded(config.seed):
                self.head = contrast_head(channels, contrast.width).to(network.classifier.weight)

    def forward(self, batch: Batch, pixels: Tensor | float) -> Outcome:
        """Loss of a batch. `pixels`, the weight of all pixels of the whole step, divides the supervised part."""
        config = self.config
        with self.autocast(batch.images.device):
            logits = self.network.logits(batch.images)
        parts = self.supervised(logits, batch.labels, pixels)
        if batch.mixed is not None:
            others = self.supervised(logits, batch.labels[batch.mixed], pixels)
            parts = {name: batch.share * parts[name] + (1 - batch.share) * others[name] for name in parts}
        loss = torch.stack(list(parts.values())).sum()
        if batch.pairs is not None:
            parts["contrast"] = self.contrast(batch) / config.accumulate
            loss = loss + config.contrast.weight * parts["contrast"]
        return Outcome(loss, parts, confusion(logits.detach(), batch.labels))

    def supervised(
        self, logits: Float[Tensor, "N K H W"], labels: Int64[Tensor, "N H W"], pixels: Tensor | float
    ) -> dict[str, Tensor]:
        """The terms of the loss, summed over pixels and divided by `pixels`."""
        weight, smoothing = pixel_weights(labels, self.config.foreground_weight), self.config.label_smoothing
        terms = TERMS[self.config.loss]
        return {name: (term(logits, labels, smoothing) * weight).sum() / pixels for name, term in terms.items()}

    def contrast(self, batch: Batch) -> Float[Tensor, ""]:
        """Contrastive loss of the first two frames of each window: mean over the valid cells of all processes.
        Source: docs/protocol.md 4, C4 (running statistics) and C7 (pooling).
        """
        settings, pairs, valid = self.config.contrast, batch.pairs, batch.valid
        frames = pairs.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        network = self.network
        with self.autocast(pairs.device):
            features = network.stage3(frames) if settings.features == "stage3" else network(frames)
            if settings.features == "stage3" and settings.statistics == "all":
                with torch.no_grad():  # only moves the running statistics of the later layers
                    network.bottleneck(network.ppm(network.layer4(features)))
            if self.head is not None:
                features = self.head(F.adaptive_avg_pool2d(features, POOL) if settings.pooled else features)
        features = features.unflatten(0, pairs.shape[:2])
        losses = contrastive(features[:, 0], features[:, 1], settings.temperature)
        counted = downsample(valid[:, 0], (features.shape[-2], features.shape[-1])).flatten(1)
        return (losses * counted).sum() / distributed.total(counted.sum()).clamp_min(1)

    def autocast(self, device: torch.device) -> torch.autocast:
        """Mixed precision, if configured."""
        precision = self.config.precision
        return torch.autocast(device.type, HALF.get(precision), enabled=precision in HALF)


BACKBONE = ("layer0", "layer1", "layer2", "layer3", "layer4")


def build_optimizer(network: nn.Module, head: nn.Module | None, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer, with one group per stage of the backbone and per new layer (and `head`), as released.

    `scale` of a group is the factor of the learning rate: 1 or `new_layers_rate`. Weight decay is on all parameters.
    `network` must not be wrapped or compiled. Source: docs/protocol.md 4.
    """
    groups: list[dict[str, Any]] = []
    for name, part in {**dict(network.named_children()), "head": head}.items():
        if part is not None and (parameters := list(part.parameters())):
            scale = 1.0 if name in BACKBONE else config.new_layers_rate
            groups.append({"params": parameters, "lr": config.learning_rate * scale, "scale": scale})
    rate, decay = config.learning_rate, config.weight_decay
    if config.optimizer == "sgd":
        nesterov = config.momentum > 0  # torch refuses it without momentum
        return torch.optim.SGD(groups, rate, config.momentum, weight_decay=decay, nesterov=nesterov)
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, rate, weight_decay=decay)


def learning_rate(step: int, per_epoch: int, config: TrainConfig, scale: float = 1.0) -> float:
    """Learning rate of a step, counted from 0, of a group of parameters with the factor `scale`.

    cosine: from the first to `last_learning_rate` at the end of the last epoch, whatever the factor, as released (C7),
    or with `last_rates` "scaled" times it; step: times `decay_factor` every `step_epochs`; multi-step: after each of
    the `milestones`. A resumed run continues it (differs from Q30).
    """
    epoch, first = step // per_epoch, config.learning_rate * scale
    if config.schedule == "cosine":
        fall = (1 + math.cos(math.pi * step / (per_epoch * config.epochs))) / 2
        last = config.last_learning_rate * (scale if config.last_rates == "scaled" else 1.0)
        return last + (first - last) * fall
    if config.schedule == "step":
        passed = epoch // config.step_epochs
    else:
        passed = sum(epoch >= end for end in config.milestones)
    return first * config.decay_factor**passed

"""One batch in, one loss out: the network under training with everything that is minimised.

A module of its own, so that a single call goes forward through labelled pictures and unlabelled pairs alike, which
is what wrappers for many processes and for compilation expect.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from ttilib.networks.models import PSPNet, seeded
from ttilib.training import processes
from ttilib.training.contrast import ContrastHead, contrastive, known_cells, pooled
from ttilib.training.objectives import TERMS, confusion, mix, weights
from ttilib.training.settings import TrainConfig

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Batch:
    """The pictures of one step, or of a part of it.

    `pairs` are windows of unlabelled frames, `known` where they show something; `mixed` is how mixup shuffled the
    pictures, whose second labels weigh 1 - `share`.
    """

    images: Float[Tensor, "N 3 H W"]
    labels: Int64[Tensor, "N H W"]
    pairs: Float[Tensor, "M window 3 H W"] | None = None
    known: Bool[Tensor, "M window H W"] | None = None
    mixed: Int64[Tensor, " N"] | None = None
    share: float = 1.0

    @classmethod
    def of(cls, parts: Sequence[Tensor], device: torch.device | str) -> Batch:
        """From what a loader gives: pictures (or clips) and labels, and perhaps pairs (by item) and where known."""
        images, labels, *rest = (part.to(device, non_blocking=True) for part in parts)
        images = images.flatten(0, -4).to(memory_format=torch.channels_last)  # 5 to 20 % faster on a CPU
        return cls(images, labels.flatten(0, -3), *(part.flatten(0, 1) for part in rest))

    def split(self, parts: int) -> list[Batch]:
        """The same pictures as equally many batches in a row."""
        tensors = (self.images, self.labels, self.pairs, self.known)
        pieces = ((None,) * parts if tensor is None else tensor.chunk(parts) for tensor in tensors)
        return [Batch(*piece) for piece in zip(*pieces, strict=True)]

    def mixup(self, alpha: float, rng: np.random.Generator) -> Batch:
        """Each picture under another one of the batch, as `objectives.mix` draws them."""
        images, order, share = mix(self.images, alpha, rng)
        return replace(self, images=images, mixed=order, share=share)


class Outcome(NamedTuple):
    """What a batch says: the weighted loss, its parts in nats, and pixels by true and found class."""

    loss: Float[Tensor, ""]
    parts: dict[str, Tensor]
    counts: Int64[Tensor, "K K"]


class Learner(nn.Module):
    """A network with the loss it is trained by, and the head that the contrast alone needs."""

    def __init__(self, network: PSPNet, config: TrainConfig) -> None:
        super().__init__()
        self.network, self.config, self.head = network, config, None
        contrast = config.contrast
        if contrast is not None and contrast.project:
            inner = contrast.features == "stage3"
            channels = network.architecture.stage3_channels if inner else network.architecture.features
            with seeded(config.seed):
                self.head = ContrastHead(channels, contrast.width).to(network.classifier.weight)

    def forward(self, batch: Batch, pixels: Tensor | float) -> Outcome:
        """The loss of a batch whose supervised part is a sum over pixels divided by `pixels`.

        `pixels` is the weight of the known pixels of the whole step, so that parts and processes add up to the mean
        over all of it.
        """
        config, kind = self.config, batch.images.device.type
        with torch.autocast(kind, HALF.get(config.precision), enabled=config.precision in HALF):
            logits = self.network.logits(batch.images)
        parts = self.supervised(logits, batch.labels, pixels)
        if batch.mixed is not None:
            others = self.supervised(logits, batch.labels[batch.mixed], pixels)
            parts = {name: batch.share * parts[name] + (1 - batch.share) * others[name] for name in parts}
        loss = torch.stack(list(parts.values())).sum()
        if batch.pairs is not None:
            parts["contrast"] = self.contrast(batch.pairs, batch.known) / config.accumulate
            loss = loss + config.contrast.weight * parts["contrast"]
        counts = confusion(logits.detach().argmax(1), batch.labels, self.network.classes)
        return Outcome(loss, parts, counts)

    def supervised(
        self, logits: Float[Tensor, "N K H W"], labels: Int64[Tensor, "N H W"], pixels: Tensor | float
    ) -> dict[str, Tensor]:
        """Cross-entropy, IoU loss or both, summed over known pixels and divided by `pixels`."""
        weight, smoothing = weights(labels, self.config.foreground_weight), self.config.label_smoothing
        terms = TERMS[self.config.loss]
        return {name: (term(logits, labels, smoothing) * weight).sum() / pixels for name, term in terms.items()}

    def contrast(
        self, pairs: Float[Tensor, "M window 3 H W"], known: Bool[Tensor, "M window H W"]
    ) -> Float[Tensor, ""]:
        """How much a cell of a window's first frame resembles more than its best match in the second one.

        The mean over the known cells of all processes.
        """
        settings = self.config.contrast
        frames = pairs.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        with torch.autocast(pairs.device.type, HALF.get(self.config.precision), enabled=self.config.precision in HALF):
            features = self.network.stage3(frames) if settings.features == "stage3" else self.network(frames)
            features = pooled(features) if settings.pooled else features
            features = features if self.head is None else self.head(features)
        features = features.unflatten(0, pairs.shape[:2])
        rows = contrastive(features[:, 0], features[:, 1], settings.temperature)
        counted = known_cells(known[:, 0], tuple(features.shape[-2:]))
        return (rows * counted).sum() / processes.total(counted.sum()).clamp_min(1)

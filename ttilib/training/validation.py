"""Validation during training: a metric that selects the best encoder. Processes share the work.

`validate`: IoU of the base classes on held-out images, as released for YouTube-VIS and Pascal. `validate_episodes`:
episodes of a benchmark, as released for MiniVSPW with classes of neither training nor test (docs/protocol.md 4).
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from statistics import fmean
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from ttilib.encoders.pspnet import PSPNet
from ttilib.episodes.benchmarks import BenchmarkData, draw_episodes
from ttilib.episodes.clips import load_clip
from ttilib.results.metrics import intersection_union, pooled_iou
from ttilib.solver.extraction import FeatureExtractor
from ttilib.solver.methods import METHODS
from ttilib.training import distributed
from ttilib.training.config import TrainConfig
from ttilib.training.model import class_iou, confusion, smoothed_cross_entropy

Device = torch.device | str
STRIDE, FRAMES = 5, 20  # episodic validation takes every fifth query frame, at most 20


class ValidationResult(NamedTuple):
    """Result of a validation: mIoU, higher is better, and the loss in nats if measured."""

    miou: float
    loss: float | None = None
    failed: int = 0  # episodes that could not be evaluated and are left out


@torch.no_grad()
def validate(
    network: PSPNet, held_out: Dataset, batch: int = 8, device: Device = "cpu", workers: int = 0
) -> tuple[Float[Tensor, " K"], float]:
    """IoU of background and every base class over all held-out images, and the loss; the mean IoU is the mIoU.

    The loss is cross-entropy without smoothing, in nats, averaged over pixels (the release divides the sum of the batch
    means by the number of images). Leaves the network in eval mode.
    """
    network.eval()
    counts = torch.zeros(network.classes, network.classes, dtype=torch.int64, device=device)
    loss = torch.zeros((), dtype=torch.float64, device=device)
    mine = Subset(held_out, range(distributed.rank(), len(held_out), distributed.count()))
    loader = DataLoader(mine, batch_size=batch, num_workers=workers, generator=torch.Generator())
    for images, labels in loader:
        images, labels = images.flatten(0, -4), labels.flatten(0, -3).to(device)  # the frames of clips are images
        logits = network.logits(images.to(device))
        counts += confusion(logits, labels)
        loss += smoothed_cross_entropy(logits, labels, 0.0).sum(dtype=torch.float64)
    counts, loss = distributed.total(counts), distributed.total(loss)
    return class_iou(counts.cpu()), float(loss / counts.sum().clamp_min(1))


def validate_episodes(
    network: PSPNet, epoch: int, data: BenchmarkData, size: tuple[int, int], config: TrainConfig, device: Device = "cpu"
) -> ValidationResult:
    """Mean class IoU of 1-shot RePRI on shortened episodes of run number `epoch`, at most `validation_episodes`.

    Leaves the network in eval mode. Warns of episodes that raise an error, and leaves them out: a validation must not
    end days of training.
    """
    method, extractor = METHODS["RePRI"], FeatureExtractor(network.eval(), device=device)
    sampled = draw_episodes(data, 1, config.seed, epoch)
    numbers = np.linspace(0, len(sampled) - 1, min(config.validation_episodes or len(sampled), len(sampled)))
    chosen = [sampled[round(number)] for number in numbers]  # evenly spaced: episodes are ordered by class
    classes = sorted({episode.class_id for episode in chosen})
    sums = torch.zeros(len(classes) + 1, 2, dtype=torch.int64, device=device)  # the last row: failures
    for episode in chosen[distributed.rank() :: distributed.count()]:
        short = replace(episode, query=episode.query[::STRIDE][:FRAMES])
        try:
            clip = load_clip(short, data.query_root, size, data.support_root)
            counts = intersection_union(method.predict(clip, extractor).masks, clip.truth, clip.query_valid)
        except Exception as error:  # any: see above
            sums[-1] += 1
            about = f"episode {episode.key} is left out ({type(error).__name__}: {error})"
            warnings.warn(f"validation {epoch}: {about}", stacklevel=2)
            continue
        sums[classes.index(episode.class_id)] += sums.new_tensor([int(each.sum()) for each in counts])
    *rows, (failed, _) = distributed.total(sums).tolist()
    iou = pooled_iou((number, *row) for number, row in zip(classes, rows, strict=True))
    return ValidationResult(fmean(iou.values()), failed=failed)

"""How good is the encoder so far? Two answers, each one number that is larger when the encoder is better.

`validate` asks for the classes that were trained, in held-out pictures, as the release does for YouTube-VIS and
Pascal. `Quickly` solves short episodes of a benchmark, as the release does for MiniVSPW, whose validation classes
are neither trained nor tested. Many processes share the work.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from ttilib.encoders.pspnet import PSPNet
from ttilib.episodes.benchmarks import BenchmarkData, draw_episodes, read_benchmark
from ttilib.episodes.clips import load_clip
from ttilib.results.metrics import intersection_union, pooled_iou
from ttilib.solver.solver import SolverConfig, solve
from ttilib.solver.task import extract
from ttilib.training import distributed
from ttilib.training.model import class_iou, confusion, smoothed_cross_entropy

STRIDE, FRAMES = 5, 20
"""Of a query, quick validation takes every fifth frame and twenty of those. Source: protocol section 4."""


class Verdict(NamedTuple):
    """What a validation says: mIoU, larger is better, and where it has one its loss in nats."""

    miou: float
    loss: float | None = None


@torch.no_grad()
def validate(
    network: PSPNet, held_out: Dataset, batch: int = 8, device: torch.device | str = "cpu", workers: int = 0
) -> tuple[Float[Tensor, " K"], float]:
    """How well each base class is found in all held-out pictures, background first; and the loss there.

    The mean over classes is the mIoU. The loss is cross-entropy without smoothing, the mean over known pixels, in nats
    (the release divides the sum of its batches' means by the number of pictures). Leaves the network in evaluation
    mode. Source: protocol section 4, standard validation.
    """
    network.eval()
    counts = torch.zeros(network.classes, network.classes, dtype=torch.int64, device=device)
    loss = torch.zeros((), dtype=torch.float64, device=device)
    mine = Subset(held_out, range(distributed.rank(), len(held_out), distributed.count()))
    loader = DataLoader(mine, batch_size=batch, num_workers=workers, generator=torch.Generator())
    for images, labels in loader:
        images, labels = images.flatten(0, -4), labels.flatten(0, -3).to(device)  # clips are as many pictures
        logits = network.logits(images.to(device))
        counts += confusion(logits.argmax(1), labels, network.classes)
        loss += smoothed_cross_entropy(logits, labels, 0.0).sum(dtype=torch.float64)
    counts, loss = distributed.total(counts), distributed.total(loss)
    return class_iou(counts.cpu()), float(loss / counts.sum().clamp_min(1))


@dataclass(frozen=True)
class Quickly:
    """Mean class IoU of RePRI with one support picture, on episodes of a benchmark cut short.

    Every fifth frame of a query, twenty at most. The episodes of an epoch are those of a run of that number.
    Source: protocol section 4, quick validation.
    """

    data: BenchmarkData
    size: tuple[int, int]
    seed: int
    limit: int = 0  # at most so many episodes; 0: all

    @classmethod
    def of(cls, benchmark: str, fold: int, root: Path | str, size: tuple[int, int], seed: int, limit: int) -> Quickly:
        """Of a benchmark by name, in the data folder of the training corpus or one with a folder per corpus."""
        return cls(read_benchmark(benchmark, fold, root), size, seed, limit)

    def __call__(self, network: PSPNet, epoch: int, device: torch.device | str = "cpu") -> Verdict:
        """Leaves the network in evaluation mode."""
        network.eval()
        drawn = draw_episodes(self.data, 1, self.seed, epoch)
        few = np.linspace(0, len(drawn) - 1, min(self.limit or len(drawn), len(drawn)))
        chosen = [drawn[round(place)] for place in few]  # evenly, since a class follows a class
        classes = sorted({episode.class_id for episode in chosen})
        sums = torch.zeros(len(classes), 2, dtype=torch.int64, device=device)
        for episode in chosen[distributed.rank() :: distributed.count()]:
            short = replace(episode, query=episode.query[::STRIDE][:FRAMES])
            clip = load_clip(short, self.data.query_root, self.size, self.data.support_root)
            masks = solve(extract(network, clip, device), SolverConfig.repri()).masks(clip.size)
            counts = intersection_union(masks.cpu(), clip.truth, clip.query_valid)
            sums[classes.index(episode.class_id)] += torch.tensor([int(each.sum()) for each in counts], device=device)
        rows = distributed.total(sums).tolist()
        return Verdict(fmean(pooled_iou((number, *row) for number, row in zip(classes, rows, strict=True)).values()))

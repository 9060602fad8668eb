"""Base training: the encoder learns to label the base classes, and never hears of the novel ones.

`train` is a generator that yields one `Progress` per step, so a notebook can draw the curve while it grows.
It can be killed at any moment: called again with the same folder it goes on by itself (see `runs`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ttilib.data.datasets import TrainingFrames
from ttilib.data.lists import Fold
from ttilib.files import digest
from ttilib.networks.models import PSPNet, build_encoder
from ttilib.networks.runs import Progress, Run, TrainConfig
from ttilib.networks.supervision import validate

__all__ = ["Progress", "TrainConfig", "batches", "fit", "train"]


def train(
    fold: Fold,
    root: Path | str,
    folder: Path | str,
    config: TrainConfig | None = None,
    size: tuple[int, int] = (241, 425),
    device: torch.device | str = "cpu",
) -> Iterator[Progress]:
    """Train an encoder on a fold's base classes, or go on where an earlier call was stopped.

    Yields the state after every step; a finished run yields its last one again and is done. `size` is (H, W)
    in pixels; no `config` means the paper's. Raises ValueError if `folder` holds a run with other settings or
    if there are too few frames for a batch, FloatingPointError if the loss stops being a number.
    """
    config = config or TrainConfig()
    frames, held_out = (
        TrainingFrames(fold, root, split, size, config.seed, config.every) for split in ("train", "val")
    )
    network = build_encoder(config.encoder, 1 + len(fold.base), config.pretrained, config.seed)
    about = {
        "corpus": fold.corpus,
        "fold": fold.index,
        "base": [fold.names[c] for c in fold.base],
        "size": list(size),
        "videos": digest(fold.train, fold.val),
    }
    yield from fit(network, frames, held_out, folder, config, about, device)


def fit(
    network: PSPNet,
    frames: Dataset,
    held_out: Dataset,
    folder: Path | str,
    config: TrainConfig,
    about: dict[str, Any],
    device: torch.device | str = "cpu",
) -> Iterator[Progress]:
    """`train` for any two data sets with `set_epoch`; `about` says what they are, for the encoder's page."""
    if len(frames) < config.batch or len(held_out) == 0:
        raise ValueError(
            f"{folder}: {len(frames)} frames to train on and {len(held_out)} to validate are too few for a "
            f"batch of {config.batch}; lower `batch` or `every`, or add videos"
        )
    run = Run(network, Path(folder), config, about, len(frames) // config.batch, device)
    progress = run.resume()
    if progress.step == run.steps:
        yield progress
    while progress.step < run.steps:
        for images, labels in batches(frames, config, *divmod(progress.step, run.per_epoch)):
            progress = run.advance(images, labels)
            epoch, rest = divmod(progress.step, run.per_epoch)
            if rest == 0 and (epoch % config.validate_every == 0 or progress.step == run.steps):
                run.judge(float(validate(network, held_out, config.batch, device).mean()))
            progress = run.record()
            yield progress


def batches(frames: Dataset, config: TrainConfig, epoch: int, done: int = 0) -> DataLoader:
    """The batches of an epoch, without the first `done`, in an order that depends on (seed, epoch) only.

    Frames that do not fill the last batch are left out; another epoch leaves out others.
    """
    frames.set_epoch(epoch)
    order = np.random.default_rng([config.seed, epoch]).permutation(len(frames))
    full = order[: len(frames) // config.batch * config.batch].reshape(-1, config.batch)
    generator = torch.Generator()  # the loader would otherwise draw from torch's shared one
    return DataLoader(
        frames, batch_sampler=full[done:].tolist(), num_workers=config.workers, generator=generator
    )

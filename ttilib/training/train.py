"""Base training of an encoder on the base classes of a fold.

`train` yields one `Progress` per step and resumes in the same folder. Under torchrun, every process calls it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ttilib.datasets.catalog import Fold, find_root
from ttilib.datasets.transforms import denormalise
from ttilib.encoders.pspnet import PSPNet, build_encoder
from ttilib.episodes.benchmarks import read_benchmark
from ttilib.files import check_writable, digest, file_lock
from ttilib.plots.curves import training_figure
from ttilib.plots.overlays import pairs_sheet, sample_sheet
from ttilib.training import distributed, log
from ttilib.training.config import LEAK, ContrastConfig, TrainConfig
from ttilib.training.data import TrainingClips, TrainingFrames, VideoPairs, base_videos, leaked_test_videos, vspw_beside
from ttilib.training.run import Progress, Run
from ttilib.training.validation import ValidationResult, validate, validate_episodes

Validator = Callable[[PSPNet, int], ValidationResult]  # of (network, epoch)
SHOWN = 4  # images, and pairs, that are plotted


class Items(Dataset):
    """Labelled samples, optionally each with windows of unlabelled frames: (images, labels[, pairs, valid])."""

    def __init__(self, labelled: Dataset, pairs: Dataset | None = None) -> None:
        self.labelled, self.pairs = labelled, pairs

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which determines the random numbers of every sample."""
        for part in filter(None, (self.labelled, self.pairs)):
            part.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.labelled)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        rest = () if self.pairs is None else self.pairs[index]  # taken modulo the number of videos
        return *self.labelled[index], *rest


def train(
    fold: Fold,
    root: Path | str,
    folder: Path | str,
    config: TrainConfig | None = None,
    size: tuple[int, int] = (241, 425),
    device: torch.device | str = "cpu",
) -> Iterator[Progress]:
    """Train an encoder on a fold's base classes, or resume an earlier run.

    Yields the progress of every step; a finished run yields its last one again. `size` is (H, W) in pixels; `config`
    defaults to the released settings. Raises ValueError if `folder` holds another run or there are too few samples,
    FloatingPointError if the loss is not finite, OSError if the disk is full; the last checkpoint stays.
    """
    config = config or TrainConfig.released(fold.corpus)
    items, held_out = Items(_labelled(fold, root, "train", size, config)), _labelled(fold, root, "val", size, config)
    about = {
        "corpus": fold.corpus,
        "fold": fold.index,
        "base": [fold.names[c] for c in fold.base],
        "size": list(size),
        "videos": digest(fold.train, fold.val),
    }
    if config.contrast is not None:
        items.pairs = unlabelled_pairs(fold, root, size, config)
        about["pairs"] = digest(items.pairs.videos)
        if config.contrast.videos == LEAK:
            about["leak"] = "trained on the unlabelled query videos of the novel classes"
    with distributed.process_group(device) as device:
        network = build_encoder(config.encoder, 1 + len(fold.base), config.pretrained, config.seed)
        validate_epoch = None
        if config.validation != "classes":
            data = read_benchmark(config.validation, fold.index, root)
            validate_epoch = partial(validate_episodes, data=data, size=size, config=config, device=device)
        yield from fit(network, items, held_out, folder, config, about, device, validate_epoch)


def fit(
    network: PSPNet,
    items: Dataset,
    held_out: Dataset,
    folder: Path | str,
    config: TrainConfig,
    about: dict[str, Any],
    device: torch.device | str = "cpu",
    validate_epoch: Validator | None = None,
) -> Iterator[Progress]:
    """`train` for any two datasets, the first with `set_epoch`; `about` goes into the encoder's metadata file.

    Without `validate_epoch`, the best encoder has the highest mean IoU of the classes, background included, on
    `held_out`.
    """
    folder, device = Path(folder), torch.device(device)
    if len(items) < config.batch or len(held_out) == 0:
        found = f"{len(items)} samples to train on and {len(held_out)} to validate are too few"
        raise ValueError(f"{folder}: {found} for a batch of {config.batch}; lower `batch` or `every`, or add videos")
    if config.batch % (shares := config.accumulate * distributed.count()):
        found = f"batch={config.batch} cannot be divided evenly among {distributed.count()} processes"
        raise ValueError(f"{found} in {config.accumulate} parts; give a multiple of {shares}")

    def validate_classes(network: PSPNet, epoch: int) -> ValidationResult:
        iou, loss = validate(network, held_out, config.batch, device, config.workers)
        return ValidationResult(float(iou.mean()), loss)

    run = Run(network, folder, config, about, len(items) // config.batch, device)
    check_writable(folder / "train.lock")
    with file_lock(folder / "train", wait=False) if distributed.rank() == 0 else nullcontext():
        yield from _steps(run, items, held_out, validate_epoch or validate_classes)


def _steps(run: Run, items: Dataset, held_out: Dataset, validate_epoch: Validator) -> Iterator[Progress]:
    """The steps that are left, logged, plotted and saved; of a finished run the last one."""
    config, folder, first = run.config, run.folder, distributed.rank() == 0
    progress = run.resume()
    if progress.step == run.steps:
        yield progress
    plotted = first and config.show_every > 0
    board = log.tensorboard(folder, progress.step) if plotted else None
    with board or nullcontext():
        while progress.step < run.steps:
            for parts, waited in batches(items, config, *divmod(progress.step, run.per_epoch), run.device):
                progress = run.training_step(parts, waited)
                epoch, rest = divmod(progress.step, run.per_epoch)
                last = progress.step == run.steps
                if rest == 0 and (epoch % config.validate_every == 0 or last):
                    run.record_validation(validate_epoch(run.eval_network, epoch))
                progress = run.progress
                if first:
                    log.append(folder, asdict(progress), board)
                if plotted and rest == 0 and (epoch % config.show_every == 0 or last):
                    show(run, items, held_out, board)
                run.save()  # after the log, so that every saved step is logged
                yield progress


def batches(
    items: Dataset, config: TrainConfig, epoch: int, done: int = 0, device: torch.device | str = "cpu"
) -> Iterator[tuple[Sequence[Tensor], float]]:
    """This process's batches of an epoch, each with the seconds spent waiting for it.
    They are shuffled by (seed, epoch), without the first `done` and a partial last one.
    """
    items.set_epoch(epoch)
    order = np.random.default_rng([config.seed, epoch]).permutation(len(items))
    steps, processes = len(items) // config.batch, distributed.count()
    # Each of `accumulate` parts of a batch is divided among the processes in order.
    parts = order[: steps * config.batch].reshape(steps, config.accumulate, processes, -1)
    mine = parts[done:, :, distributed.rank()].reshape(-1, config.batch // processes)
    generator = torch.Generator()  # otherwise the loader uses torch's global generator
    pinned = torch.device(device).type == "cuda"
    began = time.perf_counter()
    for batch in DataLoader(
        items, batch_sampler=mine.tolist(), num_workers=config.workers, generator=generator, pin_memory=pinned
    ):
        yield batch, time.perf_counter() - began
        began = time.perf_counter()


def unlabelled_pairs(fold: Fold, root: Path | str, size: tuple[int, int], config: TrainConfig) -> VideoPairs:
    """Windows for the contrastive loss, from the dataset's own videos or from VSPW (`config.contrast.root`)."""
    contrast = config.contrast or ContrastConfig()
    if contrast.root:
        fold, root = vspw_beside(fold, contrast.root), find_root("vspw", contrast.root)
    videos = leaked_test_videos(fold) if contrast.videos == LEAK else base_videos(fold)
    return VideoPairs(fold, root, videos, size, config.seed, contrast)


@torch.no_grad()
def show(run: Run, items: Dataset, held_out: Dataset, board: log.Board = None) -> None:
    """Plot the curves, predictions on a few held-out images, and a few unlabelled pairs into the run's folder."""
    indices = np.linspace(0, len(held_out) - 1, min(SHOWN, len(held_out))).astype(int)
    samples = [held_out[int(index)] for index in indices]
    images = torch.stack([image.reshape(-1, *image.shape[-3:])[0] for image, _ in samples])  # a clip's first frame
    truth = torch.stack([labels.reshape(-1, *labels.shape[-2:])[0] for _, labels in samples])
    found = run.eval_network.eval().logits(images.to(run.device)).argmax(1).cpu()
    names = ["background", *run.about.get("base", [f"class {n}" for n in range(1, run.network.classes)])]
    epoch, folder = run.progress.epoch, run.folder / log.SAMPLES
    figure = sample_sheet(denormalise(images).clamp(0, 1), truth, found, names, f"after epoch {epoch}")
    log.save_figure(figure, folder / f"epoch_{epoch:03d}.png", board, epoch)
    if getattr(items, "pairs", None) is not None:
        pairs = torch.cat([items.pairs[n][0][:1, :2] for n in range(min(SHOWN, len(items.pairs)))])
        figure = pairs_sheet(denormalise(pairs).clamp(0, 1), f"unlabelled pairs of epoch {epoch}")
        log.save_figure(figure, folder / f"pairs_{epoch:03d}.png", board, epoch)
    log.write_epochs(run.folder)
    figure = training_figure(log.read_log(run.folder), f"step {run.progress.step} of {run.steps}")
    log.save_figure(figure, run.folder / "curves.png")


def _labelled(fold: Fold, root: Path | str, split: str, size: tuple[int, int], config: TrainConfig) -> Dataset:
    about = fold, root, split, size, config.seed, config.every
    rules: dict[str, Any] = {"order": config.frame_order, "void": config.void}
    if not config.clip_frames:
        return TrainingFrames(*about, **rules)
    return TrainingClips(*about, config.clip_frames, config.repeats, **rules)

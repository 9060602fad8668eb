"""Base training: the encoder learns to label the base classes, and never hears of the novel ones.

`train` is a generator that yields one `Progress` per step, so a notebook can draw the curve while it grows.
It can be killed at any moment: called again with the same folder it goes on by itself (see `runs`). Under torchrun
every process calls it, and each takes its share of every batch (see `processes`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ttilib.datasets.catalog import Fold, find_root
from ttilib.encoders.pspnet import PSPNet, build_encoder
from ttilib.files import digest
from ttilib.training import distributed, log
from ttilib.training.config import LEAK, TrainConfig
from ttilib.training.data import TrainingClips, TrainingFrames, VideoPairs, base_videos, leaked_test_videos, vspw_beside
from ttilib.training.run import Progress, Run
from ttilib.training.validation import Quickly, Verdict, validate

Judge = Callable[[PSPNet, int], Verdict]  # of a network after an epoch
SHOWN = 4  # held-out pictures whose predictions are kept after every epoch


class Items(Dataset):
    """Labelled items, each perhaps with a window of unlabelled frames: (pictures, labels[, pairs, known])."""

    def __init__(self, labelled: Dataset, pairs: Dataset | None = None) -> None:
        self.labelled, self.pairs = labelled, pairs

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, and with it the random variation of every item."""
        for part in filter(None, (self.labelled, self.pairs)):
            part.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.labelled)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        rest = () if self.pairs is None else self.pairs[index]  # any index: other items, other windows
        return *self.labelled[index], *rest


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
    in pixels; no `config` means the released settings. Raises ValueError if `folder` holds a run with other settings
    or if there are too few pictures for a batch, FloatingPointError if the loss stops being a number, OSError if the
    disk is full; what was saved last stays.
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
            about["leak"] = "unlabelled videos of the novel classes, which episodes ask about, were trained on"
    with distributed.joined(device) as place:
        network = build_encoder(config.encoder, 1 + len(fold.base), config.pretrained, config.seed)
        judge = None
        if config.validation != "classes":
            limit = config.validation_episodes
            quickly = Quickly.of(config.validation, fold.index, root, size, config.seed, limit)
            judge = partial(quickly, device=place)
        yield from fit(network, items, held_out, folder, config, about, place, judge)


def fit(
    network: PSPNet,
    items: Dataset,
    held_out: Dataset,
    folder: Path | str,
    config: TrainConfig,
    about: dict[str, Any],
    device: torch.device | str = "cpu",
    judge: Judge | None = None,
) -> Iterator[Progress]:
    """`train` for any two data sets, the first with `set_epoch`; `about` says what they are, for the encoder's page.

    Without a `judge` the encoder is chosen by the mean IoU of its classes on `held_out`.
    """
    folder, device = Path(folder), torch.device(device)
    if len(items) < config.batch or len(held_out) == 0:
        raise ValueError(
            f"{folder}: {len(items)} items to train on and {len(held_out)} to validate are too few for a "
            f"batch of {config.batch}; lower `batch` or `every`, or add videos"
        )
    distributed.check_batch(config.batch, config.accumulate)
    judge = judge or partial(_by_classes, held_out=held_out, config=config, device=device)
    run = Run(network, folder, config, about, len(items) // config.batch, device)
    progress = run.resume()
    if progress.step == run.steps:
        yield progress
    watched = bool(config.show_every) and distributed.rank() == 0
    with log.Board(folder, progress.step) if watched else log.Nowhere() as board:
        while progress.step < run.steps:
            for parts, waited in timed(batches(items, config, *divmod(progress.step, run.per_epoch), device)):
                progress = run.advance(parts, waited)
                epoch, rest = divmod(progress.step, run.per_epoch)
                if rest == 0 and (epoch % config.validate_every == 0 or progress.step == run.steps):
                    run.judge(judge(run.judged, epoch))
                progress = run.progress
                if distributed.rank() == 0:
                    log.append(folder, asdict(progress))
                board.step(progress)
                if watched and rest == 0 and (epoch % config.show_every == 0 or progress.step == run.steps):
                    show(run, items, held_out, board)
                run.save()  # last: what is saved as done has been written down
                yield progress


def batches(
    items: Dataset, config: TrainConfig, epoch: int, done: int = 0, device: torch.device | str = "cpu"
) -> DataLoader:
    """This process's share of the batches of an epoch, without the first `done`; the order depends on (seed, epoch).

    Items that do not fill the last batch are left out; another epoch leaves out others.
    """
    items.set_epoch(epoch)
    order = np.random.default_rng([config.seed, epoch]).permutation(len(items))
    full = order[: len(items) // config.batch * config.batch].reshape(-1, config.batch)
    mine = distributed.parts_of(full, config.accumulate)[done:]
    generator = torch.Generator()  # the loader would otherwise draw from torch's shared one
    pinned = torch.device(device).type == "cuda"
    return DataLoader(
        items, batch_sampler=mine.tolist(), num_workers=config.workers, generator=generator, pin_memory=pinned
    )


def timed(loader: DataLoader) -> Iterator[tuple[Sequence[Tensor], float]]:
    """Each batch with the seconds that passed until it was there."""
    began = time.perf_counter()
    for batch in loader:
        yield batch, time.perf_counter() - began
        began = time.perf_counter()


def unlabelled_pairs(fold: Fold, root: Path | str, size: tuple[int, int], config: TrainConfig) -> VideoPairs:
    """What `config.contrast` compares: windows of the corpus's own videos, or of VSPW's beside it."""
    contrast = config.contrast
    if contrast.root:
        fold, root = vspw_beside(fold, contrast.root), find_root("vspw", contrast.root)
    videos = leaked_test_videos(fold) if contrast.videos == LEAK else base_videos(fold)
    windows = {"every": contrast.every, "window": contrast.window, "count": contrast.pairs}
    return VideoPairs(fold, root, videos, size, config.seed, **windows)


@torch.no_grad()
def show(run: Run, items: Dataset, held_out: Dataset, board: log.Board) -> None:
    """Curves so far, and what the network finds in a few held-out pictures, into the run's folder."""
    places = np.linspace(0, len(held_out) - 1, min(SHOWN, len(held_out))).astype(int)
    pictures, labels = zip(*(held_out[int(place)] for place in places), strict=True)
    images = torch.stack([picture.reshape(-1, *picture.shape[-3:])[0] for picture in pictures])  # a clip's first frame
    truth = torch.stack([label.reshape(-1, *label.shape[-2:])[0] for label in labels])
    run.judged.eval()
    found = run.judged.logits(images.to(run.device)).argmax(1).cpu()
    names = ["background", *run.about.get("base", [f"class {n}" for n in range(1, run.network.classes)])]
    epoch = run.progress.epoch
    board.picture(log.write_samples(run.folder, epoch, images, truth, found, names), epoch)
    if getattr(items, "pairs", None) is not None:
        pairs = torch.cat([items.pairs[n][0][:1, :2] for n in range(min(SHOWN, len(items.pairs)))])
        board.picture(log.write_pairs(run.folder, epoch, pairs), epoch)
    log.write_epochs(run.folder)
    log.write_curves(run.folder)


def _labelled(fold: Fold, root: Path | str, split: str, size: tuple[int, int], config: TrainConfig) -> Dataset:
    if not config.clip_frames:
        return TrainingFrames(fold, root, split, size, config.seed, config.every)
    return TrainingClips(fold, root, split, size, config.seed, config.every, config.clip_frames, config.repeats)


def _by_classes(network: PSPNet, epoch: int, held_out: Dataset, config: TrainConfig, device: torch.device) -> Verdict:
    iou, loss = validate(network, held_out, config.batch, device, config.workers)
    return Verdict(float(iou.mean()), loss)

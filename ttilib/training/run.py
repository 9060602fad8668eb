"""One training run: a learner, its optimiser, and the folder that remembers both.

What is learned depends on the data, the configuration and nothing else: the order of the pictures, their
variation, mixup and the dropout of every step are functions of (seed, epoch, step), so there is no state of a random
generator to be kept. A run can be killed at any moment; the next one in the same folder goes on from the last saved
state and ends with the same weights, bit for bit on a CPU with the same number of threads and processes.

The folder holds `last.pt` (what the next step depends on), `best.safetensors` and `last.safetensors` (the encoders of
the best and of the last validation, each with a page beside it) and what `journal` writes for people.

Where a training run stands: what a step hands to bars, curves and logs.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ttilib.encoders.checkpoints import load_state, save_encoder, save_state
from ttilib.encoders.pspnet import PSPNet, seeded
from ttilib.training import distributed, log
from ttilib.training.config import UNRELATED, TrainConfig
from ttilib.training.model import (
    Batch,
    Learner,
    build_optimizer,
    class_accuracy,
    class_iou,
    parameter_groups,
    pixel_accuracy,
    rate,
    weights,
)
from ttilib.training.validation import Verdict


@dataclass(frozen=True)
class Progress:
    """Where a run stands after a step; the last four are there where they were measured."""

    epoch: int  # from 1
    step: int  # from 1, over all epochs
    steps: int  # of the whole run
    loss: float  # of this step's batch
    parts: dict[str, float]  # of the loss, before they are weighted: ce, iou, contrast; in nats
    learning_rate: float  # used in this step
    seconds: float  # of work so far, earlier calls included
    waited: float  # seconds of this step spent waiting for pictures
    eta: float  # seconds still to come
    val_miou: float | None = None
    val_loss: float | None = None  # of held-out pictures, without smoothing; in nats
    train_miou: float | None = None  # of this epoch's pictures as they were trained on
    train_accuracy: float | None = None  # share of pixels
    train_class_accuracy: float | None = None  # the same, class by class


@dataclass
class Run:
    """Takes steps, and writes down what the next one depends on."""

    network: PSPNet
    folder: Path
    config: TrainConfig
    about: dict[str, Any]
    per_epoch: int
    device: torch.device
    learner: Learner = field(init=False)
    best: float = field(init=False, default=-1.0)  # below every mIoU

    def __post_init__(self) -> None:
        config = self.config
        self.network.to(self.device, memory_format=torch.channels_last)
        self.learner = distributed.share(Learner(self.network, config), self.device, config.shared_norm).to(self.device)
        self.optimizer = build_optimizer(parameter_groups(self.network, self.learner.head, config), config)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "fp16")
        averaging = {"multi_avg_fn": get_ema_multi_avg_fn(config.ema), "use_buffers": True}
        self.averaged = AveragedModel(self.network, **averaging) if config.ema else None
        self.called = _wrapped(self.learner, self.device, config)
        self.steps = self.per_epoch * config.epochs
        self.counts = torch.zeros(self.network.classes, self.network.classes, dtype=torch.int64, device=self.device)
        self.progress = Progress(0, 0, self.steps, 0.0, {}, config.learning_rate, 0.0, 0.0, 0.0)
        self.saved = self.began = time.perf_counter()  # began: minus the seconds of earlier calls, once resumed

    @property
    def judged(self) -> PSPNet:
        """The network that is validated and kept: with `ema`, the averaged one."""
        return self.network if self.averaged is None else self.averaged.module

    def advance(self, items: Sequence[Tensor], waited: float = 0.0) -> Progress:
        """One step of descent, with the dropout of (seed, step).

        Raises FloatingPointError before the weights are touched if loss or gradient are not finite.
        """
        step, config = self.progress.step, self.config
        self.learner.train()
        self.optimizer.zero_grad()
        loss, parts, counts = self._gradients(Batch.of(items, self.device), step)
        self._check(step + 1, loss)
        learning_rate = rate(step, self.per_epoch, config)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group["scale"]
        if config.clip_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.learner.parameters(), config.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.averaged is not None:
            self.averaged.update_parameters(self.network)
        epoch, place = divmod(step, self.per_epoch)
        self.counts = counts if place == 0 else self.counts + counts
        seconds = time.perf_counter() - self.began
        eta = seconds / (step + 1) * (self.steps - step - 1)
        about = (epoch + 1, step + 1, self.steps, loss, parts, learning_rate, seconds, waited, eta)
        self.progress = Progress(*about)
        if place + 1 == self.per_epoch:
            self.progress = replace(self.progress, **_accuracies(self.counts))
        return self.progress

    def _gradients(self, whole: Batch, step: int) -> tuple[float, dict[str, float], Int64[Tensor, "K K"]]:
        """Leave the step's gradient in the parameters; loss, its parts and the pixel counts, over all processes."""
        config = self.config
        pixels = distributed.total(weights(whole.labels, config.foreground_weight).sum()).clamp_min(1)
        seed = np.random.SeedSequence([config.seed, step]).generate_state(1, np.uint64)[0]
        sums: dict[str, Tensor] = {}
        pieces = whole.split(config.accumulate)
        with seeded(int(seed), self.device):
            for place, piece in enumerate(pieces):
                if config.mixup:
                    seeds = [config.seed, step, place, distributed.rank()]
                    piece = piece.mixup(config.mixup, np.random.default_rng(seeds))
                last = place + 1 == len(pieces)
                with nullcontext() if last or distributed.count() == 1 else self.called.no_sync():
                    loss, parts, counts = self.called(piece, pixels)
                    self.scaler.scale(loss * distributed.count()).backward()  # DDP averages over processes
                for name, value in {"": loss, **parts, "counts": counts}.items():
                    sums[name] = sums.get(name, 0) + value.detach()
        sums = {name: distributed.total(value) for name, value in sums.items()}
        loss, counts = sums.pop("").item(), sums.pop("counts")
        return loss, {name: value.item() for name, value in sums.items()}, counts

    def _check(self, step: int, loss: float) -> None:
        scaled = self.scaler.is_enabled()  # then it is the scaler that skips steps whose gradient is too large
        finite = torch.stack([p.grad.isfinite().all() for p in self.learner.parameters()]).all() | scaled
        if scaled and self.scaler.get_scale() < 1e-4:
            finite = torch.tensor(False)
        if not (math.isfinite(loss) and finite):
            raise FloatingPointError(
                f"{self.folder}: the loss of step {step} is {loss:.3g}, or its gradient is not finite (what was "
                f"saved is from before); train in a new folder with a learning_rate below {self.config.learning_rate:g}"
            )

    def judge(self, verdict: Verdict) -> None:
        """Note a validation and keep the encoder: as the last, and as the best if strictly better, as released."""
        self.progress = replace(self.progress, val_miou=verdict.miou, val_loss=verdict.loss)
        kept = ("last", "best") if verdict.miou > self.best else ("last",)
        self.best = max(verdict.miou, self.best)
        metrics = {"val_miou": verdict.miou, "epoch": self.progress.epoch, "step": self.progress.step}
        page = {**self.about, "metrics": metrics, "config": asdict(self.config)}
        for name in kept if distributed.rank() == 0 else ():
            save_encoder(self.folder / f"{name}.safetensors", self.judged, page)

    def save(self) -> None:
        """Save the state at the end of an epoch, or if the last time is too long ago."""
        late = time.perf_counter() - self.saved >= self.config.save_seconds
        if distributed.rank() == 0 and (late or self.progress.step % self.per_epoch == 0):
            states = {name: part.state_dict() for name, part in self._kept().items()}
            told = {"identity": self.identity(), "best": self.best, "progress": asdict(self.progress)}
            save_state(self.folder / "last.pt", {**states, **told, "counts": self.counts})
            self.saved = time.perf_counter()

    def resume(self) -> Progress:
        """Go back to the last saved state and forget what was logged after it; start fresh if there is none.

        Raises ValueError if the folder belongs to a run with other settings, or its state is damaged.
        """
        path = self.folder / "last.pt"
        if path.is_file():
            state = load_state(path)
            same_run(path, state["identity"], self.identity())
            for name, part in self._kept().items():
                part.load_state_dict(state[name])
            self.best, self.progress = state["best"], Progress(**state["progress"])
            self.counts = state["counts"].to(self.device)
            self.began = time.perf_counter() - self.progress.seconds
        if distributed.rank() == 0:
            log.trim(self.folder, self.progress.step)
        return self.progress

    def _kept(self) -> dict[str, Any]:
        """Everything with a state that the next step depends on."""
        kept = {"learner": self.learner, "optimizer": self.optimizer, "scaler": self.scaler}
        return kept if self.averaged is None else {**kept, "averaged": self.averaged}

    def identity(self) -> dict[str, Any]:
        """What must be equal for two calls to be the same run, as plain JSON values."""
        settings = {name: value for name, value in asdict(self.config).items() if name not in UNRELATED}
        if settings["contrast"]:
            del settings["contrast"]["root"]  # data may move
        shape = {"architecture": asdict(self.network.architecture), "classes": self.network.classes}
        return json.loads(json.dumps({**self.about, **settings, **shape, "steps": self.steps}))


def same_run(path: Path, saved: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise ValueError unless the run on disk is the one asked for, naming what differs."""
    other = [name for name in {**saved, **wanted} if saved.get(name) != wanted.get(name)]
    if other:
        said = ", ".join(f"{name} {saved.get(name)!r}, not {wanted.get(name)!r}" for name in other)
        raise ValueError(f"{path}: belongs to a run with {said}; use another folder or the settings it began with")


def _wrapped(learner: Learner, device: torch.device, config: TrainConfig) -> nn.Module:
    """The learner as it is called: among many processes their gradients are averaged."""
    if distributed.count() > 1:
        places = [device] if device.type == "cuda" else None
        learner = DistributedDataParallel(learner, device_ids=places, broadcast_buffers=not config.shared_norm)
    return torch.compile(learner) if config.compile else learner


def _accuracies(counts: Int64[Tensor, "K K"]) -> dict[str, float]:
    measured = {"train_miou": class_iou, "train_accuracy": pixel_accuracy, "train_class_accuracy": class_accuracy}
    return {name: float(measure(counts.cpu()).mean()) for name, measure in measured.items()}

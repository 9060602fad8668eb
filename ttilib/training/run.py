"""One training run: its steps and its folder, which has the encoders of the best and the last validation.

All random numbers of a step are functions of (seed, epoch, step): a killed run resumes from `last.pt` and ends with the
same weights, bit-identical on a CPU with as many threads and processes.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Int64
from msgspec import Meta, Struct
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ttilib.encoders.checkpoints import load_state, save_encoder, save_state
from ttilib.encoders.pspnet import PSPNet, seeded
from ttilib.files import convert
from ttilib.solver.extraction import means_path
from ttilib.training import distributed, log
from ttilib.training.config import UNRELATED, TrainConfig
from ttilib.training.log import Progress
from ttilib.training.model import Batch, Learner, build_optimizer, learning_rate, pixel_weights, training_scores
from ttilib.training.validation import ValidationResult


class _State(Struct):
    """The content of last.pt: what is compared, what is restored, and the states of `Run._parts`."""

    identity: dict[str, Any]
    best: Annotated[float, Meta(ge=-1, le=1)]
    progress: Progress
    counts: Any
    learner: dict[str, Any]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    averaged: dict[str, Any] = {}


@dataclass
class Run:
    """Takes training steps and saves what the next step depends on."""

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
        self.network.to(memory_format=torch.channels_last)
        self.learner = Learner(self.network, config)
        distributed.share_layers(self.learner, self.device, config.shared_norm)
        self.learner.to(self.device)
        self.optimizer = build_optimizer(self.network, self.learner.head, config)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "fp16")
        average = get_ema_multi_avg_fn(config.ema)
        self.averaged = AveragedModel(self.network, multi_avg_fn=average, use_buffers=True) if config.ema else None
        self.called: Any = self.learner  # as called: wrapped in DDP, compiled
        if distributed.count() > 1:
            ids = [self.device] if self.device.type == "cuda" else None
            broadcast = not config.shared_norm
            self.called = DistributedDataParallel(self.called, device_ids=ids, broadcast_buffers=broadcast)
        if config.compile:
            self.called = torch.compile(self.called)
        self.steps = self.per_epoch * config.epochs
        self.counts = torch.zeros(self.network.classes, self.network.classes, dtype=torch.int64, device=self.device)
        self.progress = Progress(0, 0, self.steps, 0.0, {}, config.learning_rate, 0.0, 0.0, 0.0)
        self.saved = self.began = time.perf_counter()  # began: minus the seconds of earlier calls, once resumed

    @property
    def eval_network(self) -> PSPNet:
        """The network that is validated and saved: with `ema`, the averaged one."""
        return self.network if self.averaged is None else self.averaged.module

    def training_step(self, items: Sequence[Tensor], waited: float = 0.0) -> Progress:
        """One training step. Raises FloatingPointError before any update if loss or gradient is not finite."""
        step, config = self.progress.step, self.config
        self.learner.train()
        self.optimizer.zero_grad()
        loss, parts, counts = self._gradients(Batch.of(items, self.device), step)
        self._check(step + 1, loss)
        rate = learning_rate(step, self.per_epoch, config)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, self.per_epoch, config, group["scale"])
        if config.clip_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.learner.parameters(), config.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.averaged is not None:
            self.averaged.update_parameters(self.network)
        epoch, number = divmod(step, self.per_epoch)
        self.counts = counts if number == 0 else self.counts + counts
        seconds = time.perf_counter() - self.began
        eta = seconds / (step + 1) * (self.steps - step - 1)
        scores = training_scores(self.counts.cpu()) if number + 1 == self.per_epoch else {}
        self.progress = Progress(epoch + 1, step + 1, self.steps, loss, parts, rate, seconds, waited, eta, **scores)
        return self.progress

    def _gradients(self, batch: Batch, step: int) -> tuple[float, dict[str, float], Int64[Tensor, "K K"]]:
        """Accumulate the step's gradients; returns loss, its parts and the confusion matrix, over all processes."""
        config = self.config
        pixels = distributed.total(pixel_weights(batch.labels, config.foreground_weight).sum()).clamp_min(1)
        seed = np.random.SeedSequence([config.seed, step]).generate_state(1, np.uint64)[0]
        sums: dict[str, Tensor] = {}
        pieces = batch.split(config.accumulate)
        with seeded(int(seed), self.device):
            for number, piece in enumerate(pieces):
                if config.mixup:
                    seeds = [config.seed, step, number, distributed.rank()]
                    piece = piece.mixup(config.mixup, np.random.default_rng(seeds))
                last = number + 1 == len(pieces)
                with nullcontext() if last or distributed.count() == 1 else self.called.no_sync():
                    loss, parts, counts = self.called(piece, pixels)
                    self.scaler.scale(loss * distributed.count()).backward()  # DDP averages over processes
                for name, value in {"loss": loss, "counts": counts, **parts}.items():
                    sums[name] = sums.get(name, 0) + value.detach()
        sums = {name: distributed.total(value) for name, value in sums.items()}
        loss, counts = sums.pop("loss").item(), sums.pop("counts")
        return loss, {name: value.item() for name, value in sums.items()}, counts

    def _check(self, step: int, loss: float) -> None:
        finite = math.isfinite(loss)
        if self.scaler.is_enabled():  # it skips steps with overflowing gradients, and lowers its scale
            finite &= self.scaler.get_scale() >= 1e-4
        else:
            finite &= bool(torch.stack([p.grad.isfinite().all() for p in self.learner.parameters()]).all())
        if not finite:
            about = f"the loss of step {step} is {loss:.3g}, or its gradient is not finite"
            advice = f"train in a new folder with a learning_rate below {self.config.learning_rate:g}"
            raise FloatingPointError(f"{self.folder}: {about} (the last checkpoint is from before); {advice}")

    def record_validation(self, result: ValidationResult) -> None:
        """Record a validation and save the encoder as the last, and as the best if strictly better, as released."""
        self.progress = replace(self.progress, val_miou=result.miou, val_loss=result.loss)
        names = ("last", "best") if result.miou > self.best else ("last",)
        self.best = max(result.miou, self.best)
        metrics = {"val_miou": result.miou, "epoch": self.progress.epoch, "step": self.progress.step}
        metadata = {**self.about, "metrics": metrics, "config": asdict(self.config)}
        if result.failed:
            metrics["failed_episodes"] = result.failed
        for name in names if distributed.rank() == 0 else ():
            means_path(str(self.folder / f"{name}.safetensors")).unlink(missing_ok=True)  # of the weights replaced here
            save_encoder(self.folder / f"{name}.safetensors", self.eval_network, metadata)

    def save(self) -> None:
        """Save a checkpoint at the end of an epoch, or `save_seconds` after the previous one."""
        late = time.perf_counter() - self.saved >= self.config.save_seconds
        if distributed.rank() == 0 and (late or self.progress.step % self.per_epoch == 0):
            states = {name: part.state_dict() for name, part in self._parts().items()}
            values = {"identity": self.identity(), "best": self.best, "progress": asdict(self.progress)}
            save_state(self.folder / "last.pt", {**states, **values, "counts": self.counts})
            self.saved = time.perf_counter()

    def resume(self) -> Progress:
        """Restore the last checkpoint, if any, and trim the log. Raises ValueError if it is damaged or from another
        run, or if the best encoder is gone.
        """
        path = self.folder / "last.pt"
        if path.is_file():
            state, mine = convert(load_state(path), _State, str(path)), self.identity()
            saved = state.identity
            if other := [name for name in {**saved, **mine} if saved.get(name) != mine.get(name)]:
                found = ", ".join(f"{name} {saved.get(name)!r}, not {mine.get(name)!r}" for name in other)
                raise ValueError(f"{path}: belongs to a run with {found}; use another folder or its settings")
            self._restore(state, path)
            best = self.folder / "best.safetensors"
            if self.best >= 0 and not (best.is_file() and best.with_suffix(".json").is_file()):
                raise ValueError(f"{best}: it or its .json is gone; restore it, or remove last.pt to train again")
        if distributed.rank() == 0:
            log.trim(self.folder, self.progress.step, self.progress.step // self.per_epoch)
        return self.progress

    def _restore(self, state: _State, path: Path) -> None:
        """Continue from a saved state. Raises ValueError if it does not fit."""
        state.optimizer["param_groups"] = self.optimizer.state_dict()["param_groups"]  # they follow from the settings
        try:
            for name, part in self._parts().items():
                part.load_state_dict(getattr(state, name))
            self.counts.copy_(state.counts)
        except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path}: does not fit this run; remove the file to start again") from error
        self.best, self.progress = state.best, state.progress
        self.began = time.perf_counter() - self.progress.seconds

    def _parts(self) -> dict[str, Any]:
        """Everything whose state the next step depends on."""
        parts = {"learner": self.learner, "optimizer": self.optimizer, "scaler": self.scaler}
        return parts if self.averaged is None else {**parts, "averaged": self.averaged}

    def identity(self) -> dict[str, Any]:
        """What must be equal for two calls to be the same run, as JSON values."""
        settings = {name: value for name, value in asdict(self.config).items() if name not in UNRELATED}
        if settings["contrast"]:
            del settings["contrast"]["root"]  # the folder of the dataset may change
        shape = {"architecture": asdict(self.network.architecture), "classes": self.network.classes}
        return json.loads(json.dumps({**self.about, **settings, **shape, "steps": self.steps}))

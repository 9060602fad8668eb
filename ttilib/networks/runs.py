"""One training run: a network, its optimiser, and the folder that remembers both.

What is learned depends on the data, the configuration and nothing else: the order of the pictures, their
augmentation and the dropout of every step are functions of (seed, epoch, step). A run can therefore be killed
at any moment; the next one in the same folder goes on from the last saved state and ends with the same
weights, bit for bit on a CPU with the same number of threads.

The folder holds `last.pt` (what the next step depends on), `best.safetensors` with `best.json` (the encoder
of the best validation) and `log.jsonl` (one line per step).
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ttilib.files import write_text
from ttilib.networks.checkpoints import load_state, save_encoder, save_state
from ttilib.networks.models import PSPNet, seeded
from ttilib.networks.supervision import smoothed_cross_entropy

UNRELATED = ("workers", "save_seconds")  # settings that change how a run proceeds but not what it learns


@dataclass(frozen=True)
class TrainConfig:
    """How a network is trained; the defaults are the paper's on YouTube-VIS. Source: protocol section 4."""

    encoder: str = "resnet50"
    pretrained: bool = False  # start from ImageNet weights; torchvision has them for plain stems only
    epochs: int = 90  # passes over the frames; the release shows each video's 5.5 or so 50 times in 10 epochs
    batch: int = 30  # pictures; the release takes 6 clips of 5 frames
    every: int = 5  # use every 5th frame of a video, as released
    learning_rate: float = 2.5e-3  # of the first step, as released; so are the next four
    last_learning_rate: float = 1e-6  # where the cosine ends
    momentum: float = 0.9  # Nesterov's
    weight_decay: float = 1e-4  # on all parameters
    label_smoothing: float = 0.1  # probability taken from the true class and spread over the others
    foreground_weight: float = 1.0  # of a pixel of a class beside one of background; all alike, as released
    validate_every: int = 9  # epochs; makes 10 validations, as released
    seed: int = 2020  # as released
    workers: int = 0  # processes that read pictures; no influence on the result
    save_seconds: float = 120.0  # at most this much work is lost; no influence on the result

    @classmethod
    def mini(cls) -> TrainConfig:
        """For the embedded corpus: a small network learns from scratch in three minutes on two cores."""
        return cls(
            encoder="resnet18-mini",
            epochs=3,  # 513 steps; more of them learn the few videos by heart
            batch=8,
            every=2,  # neighbouring frames are nearly alike
            learning_rate=0.1,  # nothing pretrained is to be kept, so steps can be 40 times longer
            weight_decay=5e-4,  # few videos, easily learned by heart
            foreground_weight=4.0,  # without it the first minutes go into calling everything background
            validate_every=1,
            save_seconds=20.0,
        )

    def __post_init__(self) -> None:
        if self.batch < 2:
            raise ValueError(
                f"TrainConfig: batch is {self.batch}; batch norm compares pictures, give 2 or more"
            )
        if min(self.epochs, self.every, self.validate_every) < 1:
            raise ValueError("TrainConfig: epochs, every and validate_every count from 1; give 1 or more")


@dataclass(frozen=True)
class Progress:
    """Where a run stands after a step."""

    epoch: int  # from 1
    step: int  # from 1, over all epochs
    steps: int  # of the whole run
    loss: float  # of this step's batch, in nats
    learning_rate: float  # used in this step
    seconds: float  # of work so far, earlier calls included
    eta: float  # seconds still to come
    val_miou: float | None = None  # where it was measured


class Run:
    """Takes steps, and writes down what the next one depends on."""

    def __init__(
        self,
        network: PSPNet,
        folder: Path,
        config: TrainConfig,
        about: dict[str, Any],
        per_epoch: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.network = network.to(device, memory_format=torch.channels_last)  # 5 to 20 % faster on a CPU
        self.folder, self.config, self.about, self.device = folder, config, about, device
        self.per_epoch, self.steps = per_epoch, per_epoch * config.epochs
        decay = config.weight_decay
        self.optimizer = torch.optim.SGD(
            network.parameters(), config.learning_rate, config.momentum, weight_decay=decay, nesterov=True
        )
        self.progress = Progress(0, 0, self.steps, math.nan, config.learning_rate, 0.0, math.nan)
        self.best = -1.0  # below every mIoU
        self.saved = time.perf_counter()
        self.began = self.saved  # minus the seconds of earlier calls, once resumed

    def advance(self, images: Float[Tensor, "N 3 H W"], labels: Int64[Tensor, "N H W"]) -> Progress:
        """One step of descent, with the dropout of (seed, step).

        Raises FloatingPointError before the weights are touched if loss or gradient are not finite.
        """
        step, config = self.progress.step, self.config
        seed = np.random.SeedSequence([config.seed, step]).generate_state(1, np.uint64)[0]
        self.network.train()
        with seeded(int(seed), self.device):
            logits = self.network.logits(images.to(self.device, memory_format=torch.channels_last))
        labels = labels.to(self.device)
        loss = smoothed_cross_entropy(logits, labels, config.label_smoothing, config.foreground_weight)
        self.optimizer.zero_grad()
        loss.backward()
        finite = torch.stack([p.grad.isfinite().all() for p in self.network.parameters()]).all()
        if not (loss.isfinite() and finite):
            raise FloatingPointError(
                f"{self.folder}: the loss of step {step + 1} is {loss.item():.3g}, or its gradient is not "
                f"finite (what was saved is from before); train in a new folder with a learning_rate below "
                f"{config.learning_rate:g}"
            )
        rate = cosine_rate(step, self.steps, config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        seconds = time.perf_counter() - self.began
        eta = seconds / (step + 1) * (self.steps - step - 1)
        epoch = step // self.per_epoch + 1
        self.progress = Progress(epoch, step + 1, self.steps, loss.item(), rate, seconds, eta)
        return self.progress

    def judge(self, miou: float) -> None:
        """Note a validation, and keep the encoder if it is strictly better than all before, as released."""
        self.progress = replace(self.progress, val_miou=miou)
        if miou > self.best:
            self.best = miou
            metrics = {"val_miou": miou, "epoch": self.progress.epoch, "step": self.progress.step}
            page = {**self.about, "metrics": metrics, "config": asdict(self.config)}
            save_encoder(self.folder / "best.safetensors", self.network, page)

    def record(self) -> Progress:
        """Log the step; save the state at the end of an epoch, or if the last time is too long ago."""
        row = asdict(self.progress)
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "log.jsonl", "a", encoding="utf-8") as log:
            log.write(json.dumps(row) + "\n")
        late = time.perf_counter() - self.saved >= self.config.save_seconds
        if late or self.progress.step % self.per_epoch == 0:
            state = {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}
            told = {"identity": self.identity(), "best": self.best, "progress": row}
            save_state(self.folder / "last.pt", {**state, **told})
            self.saved = time.perf_counter()
        return self.progress

    def resume(self) -> Progress:
        """Go back to the last saved state and forget what was logged after it; start fresh if there is none.

        Raises ValueError if the folder belongs to a run with other settings, or its state is damaged.
        """
        path, log = self.folder / "last.pt", self.folder / "log.jsonl"
        if path.is_file():
            state = load_state(path)
            same_run(path, state["identity"], self.identity())
            self.network.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.best, self.progress = state["best"], Progress(**state["progress"])
            self.began = time.perf_counter() - self.progress.seconds
        lines = log.read_text(encoding="utf-8").splitlines(keepends=True) if log.is_file() else []
        write_text(log, "".join(lines[: self.progress.step]))  # one line per step
        return self.progress

    def identity(self) -> dict[str, Any]:
        """What must be equal for two calls to be the same run, as plain JSON values."""
        settings = {name: value for name, value in asdict(self.config).items() if name not in UNRELATED}
        shape = {"architecture": asdict(self.network.architecture), "classes": self.network.classes}
        return json.loads(json.dumps({**self.about, **settings, **shape, "steps": self.steps}))


def same_run(path: Path, saved: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise ValueError unless the run on disk is the one asked for, naming what differs."""
    other = [name for name in {**saved, **wanted} if saved.get(name) != wanted.get(name)]
    if other:
        said = ", ".join(f"{name} {saved.get(name)!r}, not {wanted.get(name)!r}" for name in other)
        raise ValueError(
            f"{path}: belongs to a run with {said}; use another folder or the settings it began with"
        )


def cosine_rate(step: int, steps: int, config: TrainConfig) -> float:
    """Learning rate of a step counted from 0: half a cosine, reaching `last_learning_rate` at `steps`."""
    fall = (1 + math.cos(math.pi * step / steps)) / 2
    return config.last_learning_rate + (config.learning_rate - config.last_learning_rate) * fall

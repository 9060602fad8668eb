"""A task trained in seconds."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ttilib.encoders.pspnet import Architecture, build_encoder
from ttilib.training.config import TrainConfig
from ttilib.training.train import Items, fit

TINY = Architecture("tiny", "basic", (1, 1, 1, 1), (8, 8, 16, 16), stem="plain", pyramid=4, features=16)
QUICK = TrainConfig(
    encoder="resnet18-mini", pretrained="", epochs=6, batch=4, clip_frames=0, every=1, learning_rate=0.05,
    validate_every=2, show_every=0,
)  # fmt: skip


class Squares(Dataset):
    """Red squares: class 1, green: 2; image 7 is infinite from epoch `poisoned` on; `ignored`: columns, more in later
    images."""

    def __init__(self, length: int, seed: int, poisoned: int = 999, ignored: int = 0) -> None:
        self.length, self.seed, self.poisoned, self.ignored, self.epoch = length, seed, poisoned, ignored, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index >= self.length:
            raise IndexError(index)
        rng = np.random.default_rng([self.seed, self.epoch, index])
        image, labels = rng.normal(0, 0.1, (3, 33, 33)).astype(np.float32), np.zeros((33, 33), np.int64)
        for kind in (1, 2):
            y, x = rng.integers(0, 20, 2)
            labels[y : y + 13, x : x + 13] = kind
        for kind in (1, 2):
            image[kind - 1][labels == kind] += 2
        if index == 7 and self.epoch >= self.poisoned:
            image[:] = np.inf
        if self.ignored:
            labels[:, : self.ignored * (index + 1) % 30] = 255
        return torch.from_numpy(image), torch.from_numpy(labels)


class Windows(Squares):
    """Two noisy images of the same squares, without labels; a border is not valid. Any index will do."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = Squares(self.length, self.seed)[index % self.length][0]
        rng = np.random.default_rng([self.seed, self.epoch, index])
        noise = torch.from_numpy(rng.normal(0, 0.2, (1, 2, 3, 33, 33)).astype(np.float32))
        valid = torch.ones(1, 2, 33, 33, dtype=torch.bool)
        valid[:, :, : index % 20] = False
        return image + noise, valid


class Exactly(Items):
    """The same items with images in double precision."""

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return tuple(part.double() if part.dtype == torch.float32 else part for part in super().__getitem__(index))


def learn(folder: Path, config: TrainConfig, double: bool = False, **squares: int):
    """A run on them, step by step; in double precision, processes and parts differ by rounding errors only."""
    network = build_encoder(TINY, 3, seed=config.seed)
    network = network.double() if double else network
    kind = Exactly if double else Items
    shown = kind(Squares(24, 0, **squares), Windows(10, 5) if config.contrast else None)
    yield from fit(network, shown, kind(Squares(8, 1)), folder, config, {"corpus": "squares", "fold": 0})

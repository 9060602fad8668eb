"""Feature cache on disk: each batch of images is encoded once, for all methods, shots and settings.

Cached features are bit-identical to computed ones. Files may be removed at any time, also by other processes.
"""

from __future__ import annotations

import hashlib
import os
import struct
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ttilib.files import atomic

SLACK = 0.1  # of the limit: freed in addition, and written before the folder size is checked again
EXACT = (torch.float32, torch.float16, torch.bfloat16)  # types that float32 holds without rounding


class CachedEncoder:
    """An encoder [N, 3, H, W] -> [N, C, h, w] with features cached in `folder`/`weights`/<hash>.npy.

    `weights` is the fingerprint of the encoder. The hash covers the batch of images, its shape and type, the kind of
    device and the version of torch, because devices and versions round differently. Files hold float32; features that
    float32 cannot hold exactly, or of another type than the images, are not cached.
    `hits` and `misses` count batches. `seconds` is the computing time of all batches, as first measured for those read
    from the cache. Above `limit_gb` (10^9 bytes) the least recently used files are removed.
    Raises ValueError if `weights` cannot name a folder or the limit is not above 0.
    """

    def __init__(
        self, encoder: Callable[[Tensor], Tensor], weights: str, folder: Path | str, limit_gb: float = 20.0
    ) -> None:
        if not weights or Path(weights).name != weights or weights.startswith("."):
            raise ValueError(f"weights {weights!r} cannot name a folder; give the fingerprint of the encoder")
        if not limit_gb > 0:
            raise ValueError(f"limit_gb is {limit_gb}; give a size above 0, or use the encoder without a cache")
        self.encoder, self.folder, self.weights = encoder, Path(folder), weights
        self.limit = int(limit_gb * 10**9)  # bytes
        self.hits, self.misses, self.seconds = 0, 0, 0.0
        self.writable, self.unseen = True, 0  # bytes written since the last check of the folder size
        self._tidy()

    def __call__(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N C h w"]:
        """Features of a batch of normalised images."""
        path = self.folder / self.weights / f"{self._name(images)}.npy"
        kept = self._read(path, len(images))
        if kept is not None:
            self.hits, self.seconds = self.hits + 1, self.seconds + kept[1]
            return torch.from_numpy(kept[0]).to(images.device, images.dtype)
        begin = time.perf_counter()
        features = self.encoder(images).detach().contiguous()  # the memory layout of a cached tensor
        if features.is_cuda:
            torch.cuda.synchronize(features.device)
        took = time.perf_counter() - begin
        self.misses, self.seconds = self.misses + 1, self.seconds + took
        if self.writable and features.dtype == images.dtype and features.dtype in EXACT:
            self._write(path, features.float().cpu().numpy(), took)
        return features

    @property
    def layers(self) -> tuple[str, ...]:
        """Layers of a `MultiLayerEncoder` encoder."""
        return self.encoder.layers

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels per layer of a `MultiLayerEncoder` encoder."""
        return self.encoder.channels

    @staticmethod
    def _name(images: Tensor) -> str:
        """Hash of all that the features depend on besides the weights: 32 hex digits."""
        about = f"{tuple(images.shape)} {images.dtype} {images.device.type} {torch.__version__};"
        total = hashlib.blake2b(about.encode(), digest_size=16)
        total.update(images.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        return total.hexdigest()

    @staticmethod
    def _read(path: Path, count: int) -> tuple[np.ndarray, float] | None:
        """Features and computing time in the file; None if it is missing or unusable."""
        try:
            with path.open("rb") as file:
                features = np.lib.format.read_array(file, allow_pickle=False)
                (took,) = struct.unpack("<d", file.read())
        except Exception:  # a damaged file can raise anything; it is written again
            return None
        if features.dtype != np.float32 or features.ndim != 4 or len(features) != count:
            return None
        with suppress(OSError):  # in a read-only folder, or removed in the meantime
            os.utime(path)
        return features, took

    def _write(self, path: Path, features: np.ndarray, took: float) -> None:
        """Write the features, then the seconds in 8 bytes that other .npy readers ignore; on failure warn once."""
        try:
            with atomic(path) as temporary, temporary.open("wb") as file:
                np.lib.format.write_array(file, features, allow_pickle=False)
                file.write(struct.pack("<d", took))
        except FileNotFoundError:  # removed by another process in the meantime
            return
        except OSError as error:
            self.writable = False
            about = f"{self.folder}: features cannot be kept here ({error.strerror or error})"
            warnings.warn(f"{about}; they are computed each time, which is slower", stacklevel=3)
            return
        self.unseen += features.nbytes
        if self.unseen > SLACK * self.limit:
            self._tidy()

    def _tidy(self) -> None:
        """Above the limit, remove the least recently used files until the folder is SLACK below it."""
        self.unseen, files = 0, []
        for parent, _, names in os.walk(self.folder):  # unlike rglob, tolerates folders that vanish
            for path in (Path(parent, name) for name in names if name.endswith(".npy")):
                with suppress(OSError):  # already removed
                    about = path.stat()
                    files.append((about.st_mtime_ns, about.st_size, path))
        total = sum(size for _, size, _ in files)
        goal = self.limit if total <= self.limit else (1 - SLACK) * self.limit
        for _, size, path in sorted(files):
            if total <= goal:
                break
            with suppress(OSError):
                path.unlink()
            total -= size

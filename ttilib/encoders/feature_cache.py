"""Feature cache on disk: each batch of images is encoded once, for all methods, shots and settings.

Cached features are bit-identical to computed ones: every file carries its checksum, and one that does not match is
computed again. Files may be removed at any time, also by other processes.
"""

from __future__ import annotations

import hashlib
import io
import os
import struct
import time
import warnings
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ttilib.files import atomic

END = struct.Struct("<dI")  # behind the array, where other readers of .npy do not look: seconds, CRC-32 of all before
LIMIT = 20 * 10**9  # bytes in the folder
SLACK = 0.1  # of the limit: freed in addition, and written before the folder size is checked again
FORM = 2  # of networks in inference: another one rounds differently
EXACT = (torch.float32, torch.float16, torch.bfloat16)  # types that float32 holds without rounding


class CachedEncoder:
    """An encoder [N, 3, H, W] -> [N, C, h, w] with features cached in `folder`/`fingerprint`/<hash>.npy.

    `fingerprint` is that of the encoder. Files hold float32; features that float32 cannot hold exactly, or of another
    type than the images, are not cached. `hits` and `misses` count batches. `seconds` is the computing time of all
    batches, as first measured for those read from the cache. Above `LIMIT` bytes the least recently used files are
    removed. `layers` and `channels` are those of a `MultiLayerEncoder`. Raises ValueError without a fingerprint.
    """

    def __init__(self, encoder: Callable[[Tensor], Tensor], fingerprint: str, folder: Path | str) -> None:
        if not fingerprint:
            advice = "give the fingerprint of the encoder, or use the encoder without a cache"
            raise ValueError(f"feature cache in {folder}: fingerprint ''; {advice}")
        self.encoder, self.root, self.folder = encoder, Path(folder), Path(folder) / fingerprint
        self.layers, self.channels = getattr(encoder, "layers", ()), getattr(encoder, "channels", ())
        self.hits, self.misses, self.seconds = 0, 0, 0.0
        self.writable, self.unchecked = True, 0  # bytes written since the last check of the folder size
        self._evict()

    def __call__(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N C h w"]:
        """Features of a batch of normalised images."""
        path = self.folder / f"{cache_key(images)}.npy"
        cached = _read(path)
        if cached is not None:
            self.hits, self.seconds = self.hits + 1, self.seconds + cached[1]
            return torch.from_numpy(cached[0]).to(images.device, images.dtype)
        begin = time.perf_counter()
        features = self.encoder(images).detach().contiguous()  # the memory layout of a cached tensor
        if features.is_cuda:
            torch.cuda.synchronize(features.device)
        seconds = time.perf_counter() - begin
        self.misses, self.seconds = self.misses + 1, self.seconds + seconds
        if self.writable and features.dtype == images.dtype and features.dtype in EXACT:
            self._write(path, features.float().cpu().numpy(), seconds)
        return features

    def _write(self, path: Path, features: np.ndarray, seconds: float) -> None:
        """Write the features, then seconds and checksum; on failure warn once."""
        content = io.BytesIO()
        np.lib.format.write_array(content, features, version=(1, 0), allow_pickle=False)
        content.write(struct.pack("<d", seconds))
        content.write(struct.pack("<I", _checksum(path, content.getbuffer())))
        try:
            with atomic(path) as temporary:
                temporary.write_bytes(content.getbuffer())
        except FileNotFoundError:  # removed by another process in the meantime
            return
        except OSError as error:
            self.writable = False
            found = f"{self.root}: features cannot be cached here ({error.strerror or error})"
            warnings.warn(f"{found}; they are computed each time, which is slower", stacklevel=3)
            return
        self.unchecked += features.nbytes
        if self.unchecked > SLACK * LIMIT:
            self._evict()

    def _evict(self) -> None:
        """Above the limit, remove the least recently used files until the folder is SLACK below it."""
        self.unchecked, files = 0, []
        for parent, _, names in os.walk(self.root):  # unlike rglob, tolerates folders that vanish
            for path in (Path(parent, name) for name in names if name.endswith(".npy")):
                with suppress(OSError):  # already removed
                    found = path.stat()
                    files.append((found.st_mtime_ns, found.st_size, path))
        total = sum(size for _, size, _ in files)
        goal = LIMIT if total <= LIMIT else (1 - SLACK) * LIMIT
        for _, size, path in sorted(files):
            if total <= goal:
                break
            with suppress(OSError):
                path.unlink()
            total -= size


def cache_key(images: Tensor) -> str:
    """Hash of the batch, its shape and type, the kind of device, `FORM` and the version of torch: 32 hex digits.
    Devices and versions of torch round differently.
    """
    about = f"{tuple(images.shape)} {images.dtype} {images.device.type} {torch.__version__} {FORM};"
    found = hashlib.blake2b(about.encode(), digest_size=16)
    found.update(images.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _read(path: Path) -> tuple[np.ndarray, float] | None:
    """Features and computing time in the file; None if it is missing, or not what was written under this name."""
    try:
        content = np.fromfile(path, np.uint8)
    except OSError:
        return None
    if len(content) < END.size:
        return None
    seconds, checksum = END.unpack(content[-END.size :].tobytes())
    if _checksum(path, content[:-4].data) != checksum:
        return None
    begin = io.BytesIO(content[:1024].tobytes())
    np.lib.format.read_magic(begin)
    shape, _, _ = np.lib.format.read_array_header_1_0(begin)
    with suppress(OSError):  # in a read-only folder, or removed in the meantime
        os.utime(path)
    return content[begin.tell() : -END.size].view(np.float32).reshape(shape), seconds


def _checksum(path: Path, content: memoryview) -> int:
    """CRC-32 of the names of folder (encoder) and file (batch), and of the content: half a second per gigabyte."""
    return zlib.crc32(content, zlib.crc32("/".join(path.parts[-2:]).encode()))

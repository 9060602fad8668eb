"""Cached features are bit-identical to computed ones, whatever happens to the folder."""

import os
import shutil
import warnings
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import pytest
import torch
from tasks import FRESH, LIMIT

from ttilib.encoders import feature_cache
from ttilib.encoders.feature_cache import CachedEncoder, cache_key


class Counting:
    """A small convolution that counts how often it is called."""

    def __init__(self, seed: int = 0, dtype: torch.dtype | None = None) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.kernel, self.dtype, self.calls = torch.randn(6, 3, 3, 3, generator=generator), dtype, 0

    def __call__(self, images):
        self.calls += 1
        kernel = self.kernel.to(images.device, images.dtype)
        features = torch.nn.functional.conv2d(images, kernel, stride=2)
        return features if self.dtype is None else features.to(self.dtype)


def batch(seed: int = 0, count: int = 2, size: tuple[int, int] = (17, 25)) -> torch.Tensor:
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(seed))


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.npy"))


def test_what_was_computed_once_is_read_bit_by_bit(tmp_path):
    plain, encoder = Counting(), Counting()
    cached = CachedEncoder(encoder, "0123abcd", tmp_path)
    for _ in range(2):
        assert torch.equal(cached(batch()), plain(batch())) and cached(batch()).dtype == torch.float32
        assert encoder.calls == 1
    assert (cached.hits, cached.misses) == (3, 1)
    (path,) = files(tmp_path)
    assert path.parent == tmp_path / "0123abcd" and np.load(path).dtype == np.float32
    again = CachedEncoder(encoder, "0123abcd", str(tmp_path))  # another process, another day
    assert torch.equal(again(batch()), plain(batch())) and encoder.calls == 1
    assert again.seconds == pytest.approx(cached.seconds / 4) and again.seconds > 0  # as long as computing took


def test_other_weights_pixels_and_shapes_are_other_features(tmp_path):
    one, other, images = Counting(0), Counting(1), batch(size=(17, 25))
    assert not torch.equal(CachedEncoder(one, "a", tmp_path)(images), CachedEncoder(other, "b", tmp_path)(images))
    cached = CachedEncoder(one, "a", tmp_path)
    assert cached(images.reshape(2, 3, 25, 17)).shape == (2, 6, 12, 8)  # the same bytes
    assert torch.equal(cached(images.to(memory_format=torch.channels_last)), cached(images)) and cached.misses == 1
    assert cached(images.double()).dtype == torch.float64  # the same numbers
    torch.testing.assert_close(cached(images[:1]), cached(images)[:1])  # a batch of another size rounds otherwise
    assert len(files(tmp_path)) == 4  # float32 cannot hold float64


def test_a_single_bit_makes_another_key():
    for bit in range(0, 32 * batch(size=(4, 5)).numel(), 7):
        changed = batch(size=(4, 5))
        changed.view(-1).view(torch.int32)[bit // 32] ^= -(2**31) if bit % 32 == 31 else 1 << bit % 32
        assert cache_key(changed) != cache_key(batch(size=(4, 5)))


def test_a_file_that_is_not_as_written_is_computed_again(tmp_path):
    """Cut, with any bit flipped, of another batch, or of another encoder."""
    encoder = Counting()
    cached = CachedEncoder(encoder, "w", tmp_path / "features")
    expected, (path,) = cached(batch()), files(tmp_path)
    content, other = path.read_bytes(), tmp_path / "features" / "v" / path.name
    CachedEncoder(Counting(1), "v", tmp_path / "features")(batch())
    cached(batch(1))
    (second,) = set(files(tmp_path)) - {path, other}
    damaged = [b"", content[:40], content[:-1], content + b"x", other.read_bytes(), second.read_bytes()]
    for bit in range(3, 8 * len(content), 1567):
        byte, flipped = bit // 8, bytes([content[bit // 8] ^ 1 << bit % 8])
        damaged.append(content[:byte] + flipped + content[byte + 1 :])
    for damage in damaged:
        path.write_bytes(damage)
        calls = encoder.calls
        assert torch.equal(cached(batch()), expected) and encoder.calls == calls + 1, damage[:30]
        assert path.read_bytes()[:-12] == content[:-12]  # then seconds and checksum
    shutil.rmtree(tmp_path / "features")
    assert torch.equal(cached(batch()), expected) and encoder.calls == calls + 2


def test_the_least_recently_used_is_removed_first(tmp_path, monkeypatch):
    names, large = [], CachedEncoder(Counting(), "a", tmp_path)
    for seed in range(4):
        large(batch(seed))
        names += set(files(tmp_path)) - set(names)
        os.utime(names[seed], (1e9 + seed, 1e9 + seed))
    note = tmp_path / "a" / "note.txt"
    note.write_text("x" * 100_000)
    large(batch(0))  # read: the oldest becomes the youngest
    monkeypatch.setattr(feature_cache, "LIMIT", 3.5 * names[0].stat().st_size)
    for _ in range(2):  # four are too many; three are 86 % of the limit
        CachedEncoder(Counting(), "b", tmp_path)
        assert set(files(tmp_path)) == {names[0], names[2], names[3]} and note.exists()


def test_a_folder_that_cannot_be_written_is_reported_once(tmp_path):
    (tmp_path / "file").write_text("a file where a folder should be")
    cached = CachedEncoder(Counting(), "w", tmp_path / "file")
    with pytest.warns(UserWarning, match="features cannot be cached here") as found:
        for seed in (1, 1, 2):
            assert torch.equal(cached(batch(seed)), Counting()(batch(seed)))
    assert len(found) == 1 and cached.encoder.calls == 3


def crowd(folder: Path, stride: int, together: Barrier) -> None:
    warnings.simplefilter("error")
    feature_cache.LIMIT = 20_000  # in this process
    cached = CachedEncoder(lambda images: images * 2, "w", folder)
    images = [torch.full((1, 3, 17, 25), float(seed)) for seed in range(7)]
    together.wait(LIMIT)
    for step in range(200):
        image = images[step * stride % 7]
        assert torch.equal(cached(image), image * 2)
    assert cached.misses > 1


def test_processes_may_empty_the_folder_for_each_other(tmp_path):
    together = FRESH.Barrier(2)
    processes = [FRESH.Process(target=crowd, args=(tmp_path, stride, together)) for stride in (2, 3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(LIMIT)
    assert [process.exitcode for process in processes] == [0, 0]
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 1.3 * 20_000

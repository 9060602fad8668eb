"""Remembered features are the computed ones, bit by bit, whatever happens to the folder they lie in."""

import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ttilib.encoders.feature_cache import CachedEncoder
from ttilib.encoders.pspnet import build_encoder
from ttilib.episodes.clips import synthetic_clip
from ttilib.solver.task import extract

ROOT = Path(__file__).resolve().parents[1]


class Counting:
    """A small convolution that counts how often it is asked."""

    def __init__(self, seed: int = 0, dtype: torch.dtype | None = None) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.kernel, self.dtype, self.calls = torch.randn(6, 3, 3, 3, generator=generator), dtype, 0

    def __call__(self, images):
        self.calls += 1
        kernel = self.kernel.to(images.device, images.dtype)
        features = torch.nn.functional.conv2d(images, kernel, stride=2)
        return features if self.dtype is None else features.to(self.dtype)


def pictures(seed: int = 0, count: int = 2, size: tuple[int, int] = (17, 25)) -> torch.Tensor:
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(seed))


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.npy"))


def test_what_was_computed_once_is_read_back_bit_by_bit(tmp_path):
    plain, encoder = Counting(), Counting()
    cached = CachedEncoder(encoder, "0123abcd", tmp_path)
    for expected_calls in (1, 1):
        found = cached(pictures())
        assert torch.equal(found, plain(pictures())) and found.dtype == torch.float32
        assert encoder.calls == expected_calls
    assert (cached.hits, cached.misses) == (1, 1)
    (path,) = files(tmp_path)
    assert path.parent == tmp_path / "0123abcd" and np.load(path).dtype == np.float32
    again = CachedEncoder(encoder, "0123abcd", str(tmp_path))  # another process, another day
    assert torch.equal(again(pictures()), plain(pictures())) and encoder.calls == 1


def test_the_task_is_the_same_with_and_without_a_cache(tmp_path):
    network = build_encoder("resnet18-mini").eval().requires_grad_(False)
    clip = synthetic_clip(frames=5, shots=2)
    plain = extract(network, clip, chunk=2)
    cached = CachedEncoder(network, "w", tmp_path)
    for _ in range(2):
        task = extract(cached, clip, chunk=2)
        assert torch.equal(task.query, plain.query) and torch.equal(task.support, plain.support)
    assert (cached.hits, cached.misses) == (4, 4)  # one batch of support images, three of frames


def test_other_weights_pixels_and_shapes_are_other_features(tmp_path):
    one, other = Counting(0), Counting(1)
    images = pictures(size=(17, 25))
    assert not torch.equal(CachedEncoder(one, "a", tmp_path)(images), CachedEncoder(other, "b", tmp_path)(images))
    cached = CachedEncoder(one, "a", tmp_path)
    turned = images.reshape(2, 3, 25, 17)  # the same bytes
    assert cached(turned).shape == (2, 6, 12, 8) and cached(images).shape == (2, 6, 8, 12)
    assert cached(images.double()).dtype == torch.float64  # the same numbers
    torch.testing.assert_close(cached(images[:1]), cached(images)[:1])  # a batch of another size rounds otherwise
    assert len(files(tmp_path)) == 4  # float64 has no place in a file of float32


@settings(deadline=None, max_examples=50)
@given(place=st.integers(0, 2 * 3 * 4 * 5 - 1), bit=st.integers(0, 31))
def test_a_single_bit_makes_another_picture(place, bit):
    images = pictures(size=(4, 5))
    changed = images.clone()
    changed.view(-1).view(torch.int32)[place] ^= -(2**31) if bit == 31 else 2**bit
    assert CachedEncoder._name(changed) != CachedEncoder._name(images)


def test_the_layout_in_memory_does_not_matter(tmp_path):
    cached = CachedEncoder(Counting(), "w", tmp_path)
    images = pictures()
    first = cached(images)
    assert torch.equal(cached(images.to(memory_format=torch.channels_last)), first) and cached.hits == 1
    assert torch.equal(cached(torch.cat([images, images])[:2]), first) and cached.hits == 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_comes_back_as_it_was(tmp_path, dtype):
    images, plain = pictures().to(dtype), Counting()
    cached = CachedEncoder(Counting(), "w", tmp_path)
    cached(images)
    assert torch.equal(cached(images), plain(images)) and cached(images).dtype == dtype and cached.hits == 2


def test_an_answer_in_another_type_than_the_pictures_is_passed_on_and_not_kept(tmp_path):
    cached = CachedEncoder(Counting(dtype=torch.float16), "w", tmp_path)
    assert cached(pictures()).dtype == cached(pictures()).dtype == torch.float16
    assert cached.misses == 2 and not files(tmp_path)


def test_seconds_are_those_of_computing_also_for_what_is_read_back(tmp_path):
    def slow(images):
        time.sleep(0.05)
        return images[:, :, ::2]

    first = CachedEncoder(slow, "w", tmp_path)
    first(pictures()), first(pictures(1))
    assert 0.1 <= first.seconds < 1
    second = CachedEncoder(Counting(), "w", tmp_path)  # never asked
    second(pictures()), second(pictures(1)), second(pictures(1))
    assert second.hits == 3 and second.encoder.calls == 0
    assert second.seconds >= 0.15 and first.seconds < second.seconds < 2 * first.seconds


def damages(path: Path):
    whole = path.read_bytes()
    yield b""
    yield whole[:40]
    yield whole[:-1]
    yield b"x" * len(whole)
    yield whole[:10] + b"{'descr': (((" + whole[23:]
    yield whole + b"x"
    yield whole[:-8]
    yield b"PK\x03\x04" + whole
    for features in (np.zeros((2, 6, 8, 12)), np.zeros((3, 6, 8, 12), np.float32), np.zeros((2, 6), np.float32)):
        np.save(path, features)
        yield path.read_bytes() + bytes(8)
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    yield path.read_bytes()


def test_a_file_that_cannot_be_used_is_made_again(tmp_path):
    encoder = Counting()
    cached = CachedEncoder(encoder, "w", tmp_path)
    expected = cached(pictures())
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    for number, damage in enumerate(list(damages(path)), start=2):
        path.write_bytes(damage)
        assert torch.equal(cached(pictures()), expected) and encoder.calls == number, damage[:30]
        repaired = path.read_bytes()  # the last 8 bytes are the seconds it took
        assert repaired[:-8] == whole[:-8] and len(repaired) == len(whole)


def test_files_and_folders_may_vanish_at_any_moment(tmp_path):
    encoder = Counting()
    cached = CachedEncoder(encoder, "w", tmp_path / "features")
    expected = cached(pictures())
    files(tmp_path)[0].unlink()
    assert torch.equal(cached(pictures()), expected)
    files(tmp_path)[0].unlink()
    (tmp_path / "features" / "w").rmdir()
    (tmp_path / "features").rmdir()
    assert torch.equal(cached(pictures()), expected) and encoder.calls == 3
    assert torch.equal(cached(pictures()), expected) and encoder.calls == 3


def age(path: Path, hours: float) -> None:
    then = path.stat().st_mtime - 3600 * hours
    os.utime(path, (then, then))


def test_what_was_used_longest_ago_goes_first(tmp_path):
    names = {}
    roomy = CachedEncoder(Counting(), "a", tmp_path)
    for seed in range(4):
        before = set(files(tmp_path))
        roomy(pictures(seed))
        (names[seed],) = set(files(tmp_path)) - before
    for seed, path in names.items():
        age(path, hours=10 - seed)
    note = tmp_path / "a" / "note.txt"
    note.write_text("x" * 100_000)
    roomy(pictures(0))  # read: the oldest becomes the youngest
    size = names[0].stat().st_size
    CachedEncoder(Counting(), "b", tmp_path, limit_gb=3.5 * size / 1e9)  # four are too many; three are 86 % of it
    assert set(files(tmp_path)) == {names[0], names[2], names[3]} and note.exists()
    CachedEncoder(Counting(), "b", tmp_path, limit_gb=3.5 * size / 1e9)  # at 86 % nothing has to go
    assert len(files(tmp_path)) == 3


def test_a_small_limit_is_kept_while_writing_and_the_answers_stay_right(tmp_path):
    plain, encoder = Counting(), Counting()
    size = plain(pictures()).numel() * 4
    cached = CachedEncoder(encoder, "w", tmp_path, limit_gb=5 * (size + 128) / 1e9)
    for seed in range(20):
        assert torch.equal(cached(pictures(seed)), plain(pictures(seed)))
        assert len(files(tmp_path)) <= 5
    calls = encoder.calls
    cached(pictures(19))
    assert encoder.calls == calls  # the last one is still there


def test_a_folder_that_cannot_be_written_is_done_without_and_said_once(tmp_path):
    (tmp_path / "features").write_text("a file where a folder should be")
    encoder = Counting()
    cached = CachedEncoder(encoder, "w", tmp_path / "features")
    with pytest.warns(UserWarning, match=r"features: features cannot be kept here"):
        first = cached(pictures())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(cached(pictures()), first) and encoder.calls == 2


FULL = """
import resource, sys, warnings
from pathlib import Path
import torch
from ttilib.encoders.feature_cache import CachedEncoder
def encoder(images):
    return images[:, :, ::2] * 2
def images(seed):
    return torch.rand(2, 3, 17, 25, generator=torch.Generator().manual_seed(seed))
folder = Path(sys.argv[1])
kept = CachedEncoder(encoder, "w", folder)(images(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    cached = CachedEncoder(encoder, "w", folder)
    for seed in (0, 0, 2):
        assert torch.equal(cached(images(seed)), encoder(images(seed)))
    assert torch.equal(cached(images(1)), kept) and cached.hits == 1, "what is there is still of use"
assert len(said) == 1 and "cannot be kept here" in str(said[0].message), said
assert len(list(folder.rglob("*.npy"))) == 1, "nothing half written is left"
"""


def test_a_full_disk_stops_the_keeping_and_nothing_else(tmp_path):
    pytest.importorskip("resource")
    subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], cwd=ROOT, check=True, timeout=100)


CROWD = """
import sys
from pathlib import Path
import torch
from ttilib.encoders.feature_cache import CachedEncoder
cached = CachedEncoder(lambda images: images * 2, "w", sys.argv[1], limit_gb=2e-5)
images = [torch.full((1, 3, 17, 25), float(seed)) for seed in range(7)]
Path(sys.argv[2]).touch()
for step in range(300):
    assert torch.equal(cached(images[step * 2 % 7]), images[step * 2 % 7] * 2)
"""


def test_processes_that_empty_the_folder_for_each_other_stay_right(tmp_path):
    ready, folder, steps = tmp_path / "ready", tmp_path / "features", 0
    other = subprocess.Popen([sys.executable, "-W", "error", "-c", CROWD, str(folder), str(ready)], cwd=ROOT)
    cached = CachedEncoder(lambda images: images * 2, "w", folder, limit_gb=2e-5)
    images = [torch.full((1, 3, 17, 25), float(seed)) for seed in range(7)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        while other.poll() is None:
            if ready.exists():
                steps += 1
                assert torch.equal(cached(images[steps * 3 % 7]), images[steps * 3 % 7] * 2)
            else:
                time.sleep(0.01)
    assert other.returncode == 0 and steps > 10 and cached.misses > 1
    assert sum(path.stat().st_size for path in files(folder)) <= 1.3 * 20_000


@pytest.mark.parametrize("weights", ["", "..", "a/b", ".hidden", "/"])
def test_weights_that_cannot_name_a_folder_are_refused(tmp_path, weights):
    with pytest.raises(ValueError, match="cannot name a folder"):
        CachedEncoder(Counting(), weights, tmp_path)


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan")])
def test_a_limit_must_leave_room(tmp_path, limit):
    with pytest.raises(ValueError, match="limit_gb"):
        CachedEncoder(Counting(), "w", tmp_path, limit)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_features_come_back_on_the_device_and_those_of_the_processor_are_not_taken(tmp_path):
    encoder = Counting()
    cached = CachedEncoder(encoder, "w", tmp_path)
    images = pictures()
    cached(images)
    first = cached(images.to("cuda"))
    assert first.is_cuda and encoder.calls == 2
    assert torch.equal(cached(images.to("cuda")), first) and cached(images.to("cuda")).is_cuda and encoder.calls == 2

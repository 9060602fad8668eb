"""The mean of an encoder, its subtraction, layers and cache: against the formulas cell by cell in float64."""

from __future__ import annotations

import time
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import real
import torch
from folds import fold
from safetensors.torch import save_file
from torch import Tensor, nn

from ttilib.__main__ import main
from ttilib.datasets.transforms import letterbox, normalise
from ttilib.encoders.checkpoints import fingerprint, load_encoder, save_encoder
from ttilib.encoders.layers import MultiLayerEncoder
from ttilib.encoders.pspnet import build_encoder
from ttilib.episodes.clips import USER_VIDEO_RULE, Clip, Frames, synthetic_clip
from ttilib.images import write_image
from ttilib.solver.extraction import (
    FeatureExtractor,
    FeatureMean,
    MeanCentered,
    image_folder,
    load_extractor,
    load_means,
    means_path,
    measure_means,
    save_means,
)
from ttilib.solver.settings import PipelineConfig
from ttilib.solver.task import Task, extract

POOL, EPISODE = PipelineConfig(centring="pool"), PipelineConfig(centring="episode")
BOTH = ("early", "late")
ID = "0123abcd"


class Stages(nn.Module):
    """Two layers of positive features on two grids; records the batch sizes it gets, and the time of each."""

    def __init__(self, pause: float = 0.0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.default_generator.manual_seed(1)
            self.early = nn.Sequential(nn.Conv2d(3, 5, 3, 4, 1), nn.Softplus())
            self.late = nn.Sequential(nn.Conv2d(5, 8, 3, 2, 1), nn.Softplus())
        self.eval().requires_grad_(False)
        self.pause, self.seen, self.took = pause, [], []

    def forward(self, images: Tensor) -> Tensor:
        begin = time.perf_counter()
        time.sleep(self.pause)
        features = self.late(self.early(images))
        if images.any():  # not the image of zeros that finds the number of channels
            self.seen.append(len(images))
            self.took.append(time.perf_counter() - begin)
        return features


def padded_clip(seed: int = 0) -> Clip:
    """Nine frames, one more than a batch; a bar of each frame is not valid."""
    clip = synthetic_clip(seed, frames=9, shots=2, size=(41, 57))
    valid = clip.query_valid.clone()
    valid[:, :, :12] = False
    return replace(clip, query_valid=valid)


def random_images(count: int = 5, size: tuple[int, int] = (41, 57), name: str = "image") -> Frames:
    """Random images wider than the network input, so that there are bars above and below them."""

    def read(index: int) -> tuple[np.ndarray, np.ndarray]:
        image = np.random.default_rng(index).integers(0, 255, (20, 40, 3), dtype=np.uint8)
        return image, np.zeros((20, 40), dtype=np.uint8)

    return Frames(tuple(f"{name} {index}" for index in range(count)), read, size, USER_VIDEO_RULE)


def unreadable(frames: Frames) -> Frames:
    """The same frames, which must not be read."""
    return replace(frames, read=lambda index: pytest.fail(f"image {index} was read"))


def assert_same(found: Task, expected: Task) -> None:
    for field in fields(Task):
        a, b = getattr(found, field.name), getattr(expected, field.name)
        same = torch.equal(a, b) and a.dtype == b.dtype if isinstance(a, Tensor) else a == b
        assert same, field.name


def assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected.float(), atol=2e-5, rtol=0)


def mean_of(encoder: Stages, images: list[tuple[Tensor, Tensor]], layers: tuple[str, ...] = ()) -> Tensor:
    """Mean unit feature of the valid cells, layer after layer, in float64."""
    tapped = MultiLayerEncoder(encoder, layers)
    total, cells = torch.zeros(sum(tapped.channels), dtype=torch.float64), 0
    for image, valid in images:
        features = tapped(normalise(image[None]))[0].double()
        rows, columns = (torch.arange(n) * m // n for n, m in zip(features.shape[1:], valid.shape, strict=True))
        counted = valid[rows[:, None], columns]
        parts = [part / part.norm(dim=0) for part in features.split(tapped.channels)]
        total, cells = total + torch.cat(parts)[:, counted].sum(1), cells + int(counted.sum())
    return total / cells


def centred(encoder: Stages, images: Tensor, mean: Tensor, layers: tuple[str, ...] = (), weights=()) -> Tensor:
    """f <- f/|f| - mean, f <- w f/|f| per layer, concatenated and divided by the length, in float64."""
    tapped, done = MultiLayerEncoder(encoder, layers), []
    parts = tapped(normalise(images)).double().split(tapped.channels, dim=1)
    for part, middle, weight in zip(parts, mean.split(tapped.channels), weights or (1,) * len(parts), strict=True):
        part = part / part.norm(dim=1, keepdim=True) - middle[:, None, None]
        done.append(weight * part / part.norm(dim=1, keepdim=True))
    joined = torch.cat(done, 1)
    return joined / joined.norm(dim=1, keepdim=True)


def some_means(layers: tuple[str, ...] = (), channels: tuple[int, ...] = (8,), seed: int = 0) -> FeatureMean:
    values = 0.1 + 0.2 * torch.rand(sum(channels), generator=torch.Generator().manual_seed(seed))
    return FeatureMean(ID, layers, channels, values, 7)


# --- measuring a mean ---


@pytest.mark.parametrize("layers", [(), BOTH])
def test_the_mean_is_that_of_all_valid_cells_however_they_are_batched(layers) -> None:
    encoder = Stages()
    images = [(image, valid) for image, _, valid in random_images(11)]
    expected = mean_of(encoder, images, layers)
    everywhere = mean_of(encoder, [(image, torch.ones_like(valid)) for image, valid in images], layers)
    assert (expected - everywhere).abs().max() > 0.01  # the bars matter
    tapped, batch = MultiLayerEncoder(encoder, layers), tuple(map(torch.stack, zip(*images, strict=True)))
    encoder.seen.clear()
    for stream in ([(image[None], valid[None]) for image, valid in images], iter([batch])):
        means = measure_means(tapped, ID, stream)
        torch.testing.assert_close(means.values, expected.float(), atol=1e-6, rtol=0)
        assert (means.encoder, means.layers, means.channels, means.images) == (ID, layers, tapped.channels, 11)
    assert encoder.seen == [1] * 11 + [8, 3]  # at most 8 images in memory


def test_sums_are_in_float64() -> None:
    """A constant feature is its own mean to the last bit, after any number of cells."""
    feature = torch.tensor([3.0, 4.0, 12.0]).view(1, 3, 1, 1)  # of length 13, without rounding
    encoder = MultiLayerEncoder(lambda images: feature.expand(len(images), 3, *images.shape[-2:]).clone())
    images = [(torch.zeros(2, 3, 61, 67), torch.ones(2, 61, 67, dtype=torch.bool))] * 40
    assert torch.equal(measure_means(encoder, "", images).values, (feature / feature.norm(dim=1)).flatten())


def test_too_few_images_and_features_that_are_not_finite_are_refused() -> None:
    image, valid = torch.rand(1, 3, 17, 25), torch.ones(1, 17, 25, dtype=torch.bool)
    padding = (image.expand(4, -1, -1, -1), torch.zeros(4, 17, 25, dtype=torch.bool))
    for images, count in (([], 0), ([(image, valid), padding], 1)):
        with pytest.raises(ValueError, match=f"means of {count} images"):
            measure_means(MultiLayerEncoder(Stages()), "", images)
    for length in (float("nan"), float("inf"), 1e30):  # the last would be divided by an infinite length
        with pytest.raises(ValueError, match="encoder function: gives infinity or NaN"):
            measure_means(MultiLayerEncoder(lambda images, length=length: length * images), "", [(image, valid)] * 2)


# --- subtracting it ---


def test_a_zero_feature_has_no_direction_and_minus_the_mean_remains() -> None:
    means = FeatureMean("", (), (3,), torch.tensor([0.6, 0.0, 0.3]), 2)
    found = MeanCentered(lambda images: 0 * images, means)(torch.rand(1, 3, 4, 5))
    torch.testing.assert_close(found[0, :, 0, 0], -means.values / means.values.norm())
    assert not MeanCentered(lambda images: 0 * images, None)(torch.rand(1, 3, 4, 5)).any()


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 1.0, 1.0), (-1.0, 1.0), (0.0, 0.0), (float("nan"), 1.0)])
def test_weights_that_do_not_fit_the_layers_are_refused(weights: tuple) -> None:
    with pytest.raises(ValueError, match="give 2, one per layer"):
        MeanCentered(MultiLayerEncoder(Stages(), BOTH), None, weights)


def test_means_of_other_layers_are_refused() -> None:
    for other in (MultiLayerEncoder(Stages()), Stages(), MultiLayerEncoder(Stages(), BOTH[::-1])):
        with pytest.raises(ValueError, match="means of layers early late .* the encoder gives"):
            MeanCentered(other, some_means(BOTH, (5, 8)))


# --- files ---


def test_means_survive_their_file_and_others_are_refused(tmp_path: Path) -> None:
    path, means = tmp_path / "deep" / "own.means.safetensors", some_means(BOTH, (5, 8))
    save_means(path, means)
    for found in (load_means(path), load_means(str(path), ID, list(BOTH)), load_means(path, None, BOTH)):
        assert torch.equal(found.values, means.values) and replace(found, values=means.values) == means
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    for expected in ((ID[:4] + "0000", BOTH), ("", BOTH), (ID, ("early",)), (ID, ()), (ID, BOTH[::-1])):
        with pytest.raises(ValueError, match=r"own\.means\.safetensors: means of encoder 0123abcd, layers early late"):
            load_means(path, *expected)
    save_means(path, replace(means, encoder=""))
    with pytest.raises(ValueError, match="no fingerprint"):
        load_means(path, ID)


def test_other_and_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(FileNotFoundError, match=r"a\.safetensors: no such file of means"):
        load_means(path)
    save_means(path, some_means(BOTH, (5, 8)))
    intact = path.read_bytes()
    damaged = [b"", b"not at all", intact[:30], intact[:-4], intact.replace(b'channels\\": [5', b'channels\\": [6')]
    damaged += [intact.replace(b"means of an", b"beans of an"), intact.replace(b'layers\\": [', b'layers\\": 7 ')]
    for index, content in enumerate(damaged):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.safetensors: not a file of means"):
            load_means(path)
        assert content != intact, index
    save_file({"values": torch.ones(3)}, path)
    with pytest.raises(ValueError, match="not a file of means"):
        load_means(path)


def test_means_lie_beside_the_checkpoint(tmp_path: Path) -> None:
    assert means_path("run/best.safetensors") == Path("run/best.means.safetensors")
    assert means_path("published/best.pth") == Path("published/best.means.safetensors")
    assert means_path(str(tmp_path)) == tmp_path / "best.means.safetensors"
    assert means_path("resnet50", "a.safetensors") == Path("a.safetensors")
    for spec in ("resnet50", "encoder.py:load"):
        with pytest.raises(ValueError, match=f"encoder {spec}: .*--out"):
            means_path(spec)
    with pytest.raises(ValueError, match=r"a\.npz"):
        save_means(tmp_path / "a.npz", some_means())


# --- features of a pipeline ---


@pytest.mark.parametrize("pipeline", [None, PipelineConfig(guided=0.1, guided_eps=0.1, cut=0.1)])
@pytest.mark.parametrize("cached", [False, True])
def test_as_released_the_features_are_those_of_the_encoder(tmp_path, pipeline, cached) -> None:
    encoder, clip = Stages(), padded_clip()
    extractor = FeatureExtractor(encoder, ID, tmp_path if cached else None)
    for _ in range(2):
        assert_same(extractor.task(clip, pipeline), extract(encoder, clip))
    assert_same(FeatureExtractor(encoder.forward).task(clip, pipeline), extract(encoder, clip))  # any callable


def test_the_mean_is_read_from_its_file_once(tmp_path) -> None:
    encoder, clip, path, means = Stages(), padded_clip(), tmp_path / "any.safetensors", some_means()
    save_means(path, means)
    extractor = FeatureExtractor(encoder, ID, None, path, unreadable(random_images()))
    task = extractor.task(clip, POOL)
    assert_close(task.support, centred(encoder, clip.support, means.values.double()))
    assert_close(task.query, centred(encoder, clip.query, means.values.double()))
    plain = extract(encoder, clip)
    assert_same(replace(task, support=plain.support, query=plain.query), plain)  # nothing else differs
    path.unlink()
    assert not torch.equal(extractor.task(padded_clip(1), POOL).query, extract(encoder, padded_clip(1)).query)
    save_means(path, some_means(("late",)))
    for identity, layers in ((ID, ()), (ID, BOTH), ("9999ffff", ("late",))):
        with pytest.raises(ValueError, match=r"any\.safetensors: means of encoder 0123abcd, layers late"):
            FeatureExtractor(encoder, identity, None, path).task(clip, PipelineConfig("pool", layers))


def test_the_mean_is_measured_once_and_cached(tmp_path) -> None:
    encoder, clip, images = Stages(), padded_clip(), random_images()
    expected = centred(encoder, clip.query, mean_of(encoder, [(image, valid) for image, _, valid in images]))
    encoder.seen.clear()
    extractor = FeatureExtractor(encoder, ID, tmp_path, mean_images=images)
    task = extractor.task(clip, POOL)
    extractor.task(padded_clip(1), POOL)
    assert encoder.seen == [1] * 5 + [2, 8, 1] * 2
    assert_close(task.query, expected)
    (path,) = (tmp_path / "means").iterdir()
    assert load_means(path, ID, ()).images == 5
    again = FeatureExtractor(encoder, ID, tmp_path, mean_images=unreadable(images))
    assert_same(again.task(clip, POOL), task)
    assert encoder.seen == [1] * 5 + [2, 8, 1] * 2  # features were cached as well
    others = [("9999ffff", images, ()), (ID, images, BOTH), (ID, random_images(name="frame"), ())]
    others += [(ID, random_images(count=4), ()), (ID, random_images(size=(49, 57)), ())]
    for number, (identity, frames, layers) in enumerate(others, start=2):
        FeatureExtractor(encoder, identity, tmp_path, mean_images=frames).task(clip, replace(POOL, layers=layers))
        assert len(list((tmp_path / "means").iterdir())) == number
    with pytest.raises(ValueError, match="centring=pool: .* ttilib means"):
        FeatureExtractor(encoder, ID, tmp_path).task(clip, POOL)


def test_the_mean_of_an_episode_is_that_of_its_own_images_from_cached_features(tmp_path) -> None:
    encoder, clip = Stages(), padded_clip()
    images, valid = torch.cat([clip.support, clip.query]), torch.cat([clip.support_valid, clip.query_valid])
    own = list(zip(images, valid, strict=True))
    mean = mean_of(encoder, own)
    assert all((mean - mean_of(encoder, part)).abs().max() > 1e-4 for part in (own[:2], own[2:]))
    encoder.seen.clear()
    extractor = FeatureExtractor(encoder, ID, tmp_path, mean_images=unreadable(random_images()))
    plain, task = extractor.task(clip), extractor.task(clip, EPISODE)
    assert encoder.seen == [2, 8, 1] and not torch.equal(task.query, plain.query)
    assert_close(task.query, centred(encoder, clip.query, mean))
    assert_close(task.support, centred(encoder, clip.support, mean))
    other = padded_clip(1)
    assert_same(extractor.task(other, EPISODE), FeatureExtractor(encoder).task(other, EPISODE))
    found = extractor.means(PipelineConfig("episode", BOTH), clip)
    assert (found.encoder, found.layers, found.images) == (ID, BOTH, 11)


def test_layers_are_concatenated_with_their_weights() -> None:
    encoder, clip, images = Stages(), padded_clip(), random_images()
    extractor = FeatureExtractor(encoder, mean_images=images)
    mean = mean_of(encoder, [(image, valid) for image, _, valid in images], BOTH)
    for weights in ((), (0.7, 1.0), (0.0, 2.0)):
        for centring, middle in (("none", torch.zeros(13)), ("pool", mean)):
            task = extractor.task(clip, PipelineConfig(centring, BOTH, weights))
            assert task.query.shape == (9, 13, 11, 15) and task.query_valid.shape == (9, 11, 15)  # the finer grid
            assert_close(task.query, centred(encoder, clip.query, middle, BOTH, weights))
            assert_close(task.support, centred(encoder, clip.support, middle, BOTH, weights))
    with pytest.raises(ValueError, match=r"layer 'erly': .* did you mean early"):
        extractor.task(clip, PipelineConfig(layers=("erly",)))


def test_features_of_several_layers_are_cached_separately(tmp_path) -> None:
    encoder, clip = Stages(), padded_clip()
    pipelines = [PipelineConfig(layers=layers) for layers in ((), ("late",), BOTH, BOTH[::-1])]
    expected = [FeatureExtractor(encoder).task(clip, pipeline) for pipeline in pipelines]
    encoder.seen.clear()
    for _ in range(2):
        for pipeline, task in zip(pipelines, expected, strict=True):
            assert_same(FeatureExtractor(encoder, ID, tmp_path).task(clip, pipeline), task)
    assert encoder.seen == [2, 8, 1] * 4 and len(list(tmp_path.iterdir())) == 4


def test_methods_with_the_same_features_share_the_task_of_the_last_clip() -> None:
    encoder, clips = Stages(), (padded_clip(), padded_clip(1))
    extractor = FeatureExtractor(encoder)
    tasks = [extractor.task(clips[0], each) for each in (EPISODE, replace(EPISODE, guided=0.1), EPISODE)]
    assert tasks[0] is tasks[1] is tasks[2]
    assert all(extractor.task(clips[0], each) is not tasks[0] for each in (None, replace(EPISODE, layers=BOTH)))
    encoder.seen.clear()
    for clip in (clips[1], clips[0]):
        extractor.task(clip)
    assert encoder.seen == [2, 8, 1] * 2


@pytest.mark.parametrize("pipeline", [PipelineConfig(), POOL, EPISODE])
def test_seconds_count_the_clip_once_per_task_whether_computed_or_cached(tmp_path, pipeline) -> None:
    encoder, clips = Stages(pause=0.01), [padded_clip(), padded_clip(1)]
    first = FeatureExtractor(encoder, ID, tmp_path, mean_images=random_images())
    first.task(clips[0], pipeline)
    once = first.seconds
    assert once >= sum(encoder.took[-3:])
    first.task(clips[1], pipeline)
    both, calls = first.seconds, len(encoder.took)
    again = FeatureExtractor(encoder, ID, tmp_path, mean_images=random_images())
    for clip in (clips[1], clips[0], clips[0]):
        again.task(clip, pipeline)
    assert again.seconds == pytest.approx(both + once) and len(encoder.took) == calls
    uncached = FeatureExtractor(encoder, mean_images=random_images())
    uncached.task(clips[0], pipeline)
    assert uncached.seconds >= sum(encoder.took[-3:])


# --- by an encoder's name ---


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    about = {"corpus": "ytvis", "fold": 1, "base": ["kind_9", "kind_2", "kind_3"]}
    save_encoder(tmp_path / "run" / "best.safetensors", build_encoder("resnet18-mini", 4, seed=3), about)
    return tmp_path / "run" / "best.safetensors"


def test_the_mean_beside_a_checkpoint_is_used_unless_another_is_named(tmp_path, checkpoint) -> None:
    clip, extractor = padded_clip(), load_extractor(checkpoint, tmp_path / "features")
    assert extractor.fingerprint == fingerprint(extractor.encoder) and not extractor.encoder.training
    assert_same(extractor.task(clip), extract(extractor.encoder, clip))
    assert [path.name for path in (tmp_path / "features").iterdir()] == [extractor.fingerprint]
    with pytest.raises(ValueError, match="centring=pool: no means"):
        extractor.task(clip, POOL)
    channels, files = MultiLayerEncoder(extractor.encoder).channels, {}
    for seed, path in enumerate((checkpoint.with_name("best.means.safetensors"), tmp_path / "own.safetensors")):
        means = some_means((), channels, seed)
        save_means(path, replace(means, encoder=extractor.fingerprint, values=means.values / 8))
        files[path] = FeatureExtractor(extractor.encoder, extractor.fingerprint, None, path).task(clip, POOL)
    beside, own = files.values()
    for spec in (checkpoint, str(checkpoint.parent)):
        assert_same(load_extractor(spec, mean_images=unreadable(random_images())).task(clip, POOL), beside)
    assert_same(load_extractor(checkpoint, means=tmp_path / "own.safetensors").task(clip, POOL), own)
    assert not torch.equal(beside.query, own.query)
    with pytest.raises(ValueError, match="kind_9, novel in ytvis fold 0"):
        load_extractor(checkpoint, fold=replace(fold(), base=(2,), novel=(9,)))


def test_an_encoder_without_fingerprint_is_not_cached_and_has_nothing_beside_it(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("def load():\n    return lambda images: images[:, :, ::8, ::8] + 5\n")
    save_means("mine.means.safetensors", replace(some_means((), (3,)), encoder=""))
    extractor, clip = load_extractor("mine.py:load", "cache", mean_images=random_images()), padded_clip()
    assert extractor.fingerprint == "" and extractor.folder is None and extractor.means_file in ("", None)
    assert_same(extractor.task(clip), extract(lambda images: images[:, :, ::8, ::8] + 5, clip))
    task = extractor.task(clip, POOL)
    assert not Path("cache").exists() and extractor.seconds > 0
    save_means("own.safetensors", extractor.means(POOL, clip))
    assert_same(load_extractor("mine.py:load", "cache", "own.safetensors").task(clip, POOL), task)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("pipeline", [POOL, EPISODE])
def test_cuda_gives_the_features_of_the_cpu(tmp_path, checkpoint, pipeline) -> None:
    expected = load_extractor(checkpoint, mean_images=random_images()).task(padded_clip(), pipeline)
    for folder in (None, tmp_path):
        task = load_extractor(checkpoint, folder, "", random_images(), "cuda").task(padded_clip(), pipeline)
        assert task.query.is_cuda and task.support_masks.is_cuda
        torch.testing.assert_close(task.query.cpu(), expected.query, atol=2e-2, rtol=0)


# --- a folder of images, and the command ---


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images of two shapes in two subfolders, a text and hidden files."""
    folder = tmp_path / "images"
    for index in range(12):
        image = np.random.default_rng(index).integers(0, 255, (30, 40, 3) if index % 3 else (40, 30, 3), dtype=np.uint8)
        write_image(folder / "ab"[index % 2] / f"{index}.{'jpg' if index % 2 else 'PNG'}", image)
    (folder / "read.me").write_text("no image")
    (folder / "a" / "._0.PNG").write_text("no image")
    return folder


def test_a_folder_of_images_is_read_in_order_and_evenly_subsampled(folder: Path) -> None:
    names = [f"a/{index}.PNG" for index in range(0, 12, 2)] + [f"b/{index}.jpg" for index in range(1, 12, 2)]
    assert list(image_folder(folder, (33, 49)).names) == list(image_folder(folder, (33, 49), 99).names) == names
    assert list(image_folder(folder, (33, 49), 5).names) == [names[index] for index in (0, 2, 4, 7, 9)]
    image, _, valid = image_folder(folder, (33, 49))[0]
    inside = letterbox(40, 30, (33, 49)).inside
    assert valid[inside].all() and valid.sum() == valid[inside].numel() and not image[:, ~valid].any()


def test_the_command_measures_what_the_library_measures(folder, checkpoint, tmp_path, capsys) -> None:
    words = ["means", str(folder), "--size", "33", "49", "--limit", "5", "--encoder"]
    assert main([*words, str(checkpoint.parent), "--layers", "layer2", "layer3"]) == 0
    beside, encoder = checkpoint.with_name("best.means.safetensors"), load_encoder(checkpoint)
    assert str(beside) in capsys.readouterr().out
    found = load_means(beside, fingerprint(encoder), ("layer2", "layer3"))
    chosen = [(image[None], valid[None]) for image, _, valid in image_folder(folder, (33, 49), 5)]
    expected = measure_means(MultiLayerEncoder(encoder, ("layer2", "layer3")), "", chosen)
    assert torch.equal(found.values, expected.values) and found.channels == (32, 64) and found.images == 5
    assert main([*words, "torch.nn:Identity", "--out", str(tmp_path / "own.npz")]) == 2
    assert "own.npz" in capsys.readouterr().err and not list(tmp_path.glob("own*"))


@pytest.mark.skipif(not real.available(), reason=real.MISSING)
def test_real_features_have_one_common_direction_until_they_are_centred() -> None:
    frames = image_folder(real.FOLDER / "voc" / "JPEGImages", (97, 129), 12)
    images = [(image[None], valid[None]) for image, _, valid in frames]
    encoder = MultiLayerEncoder(real.load(), ["layer2", "layer3"])
    means = measure_means(encoder, "", images[::2])
    held_out = torch.cat([normalise(image) for image, _ in images[1::2]])

    def mean_cosine(features: Tensor) -> float:
        return features.movedim(1, 0).flatten(1).mean(1).square().sum().item()

    assert mean_cosine(MeanCentered(encoder, None)(held_out)) > 0.25
    assert mean_cosine(MeanCentered(encoder, means)(held_out)) < 0.06

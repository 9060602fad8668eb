"""The mean of an encoder, its subtraction, layers and cache: against the formulas cell by cell in float64."""

from dataclasses import replace
from operator import eq
from pathlib import Path

import numpy as np
import pytest
import torch
from folds import fold
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ttilib.__main__ import main
from ttilib.datasets.transforms import normalise
from ttilib.encoders.checkpoints import fingerprint, load_encoder, save_encoder
from ttilib.encoders.layers import MultiLayerEncoder, for_inference
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
    measure_means,
    save_means,
)
from ttilib.solver.settings import PipelineConfig
from ttilib.solver.task import Task, downsample, extract

POOL, EPISODE = PipelineConfig(centring="pool"), PipelineConfig(centring="episode")
BOTH = ("early", "late")
ID = "0123abcd"


class Stages(nn.Module):
    """Two layers of positive features on two grids; records the batch sizes it gets."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.default_generator.manual_seed(1)
            self.early = nn.Sequential(nn.Conv2d(3, 5, 3, 4, 1), nn.Softplus())
            self.late = nn.Sequential(nn.Conv2d(5, 8, 3, 2, 1), nn.Softplus())
        self.eval().requires_grad_(False)
        self.seen = []

    def forward(self, images: Tensor) -> Tensor:
        if images.any():  # not the image of zeros that finds the number of channels
            self.seen.append(len(images))
        return self.late(self.early(images))


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
    for name, value in vars(expected).items():
        same = torch.equal if isinstance(value, Tensor) else eq
        assert same(getattr(found, name), value), name


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


def test_features_that_are_not_finite_and_means_of_other_layers_are_refused() -> None:
    image, valid = torch.rand(1, 3, 17, 25), torch.ones(1, 17, 25, dtype=torch.bool)
    for length in (float("nan"), 1e30):  # the last would be divided by an infinite length
        with pytest.raises(ValueError, match="encoder function: .*NaN"):
            measure_means(MultiLayerEncoder(lambda images, length=length: length * images), "", [(image, valid)] * 2)
    with pytest.raises(ValueError, match="means of layers early late .* the encoder gives"):
        MeanCentered(MultiLayerEncoder(Stages(), BOTH[::-1]), some_means(BOTH, (5, 8)))


def test_means_survive_their_file_and_others_or_damaged_ones_are_refused(tmp_path: Path) -> None:
    path, means = tmp_path / "deep" / "own.means.safetensors", some_means(BOTH, (5, 8))
    with pytest.raises(FileNotFoundError, match=r"own\.means\.safetensors"):
        load_means(path)
    save_means(path, means)
    found = load_means(str(path), ID, list(BOTH))
    assert torch.equal(found.values, means.values) and replace(found, values=means.values) == means
    for expected in ((ID[:4] + "0000", BOTH), ("", BOTH), (ID, ("early",)), (ID, BOTH[::-1])):
        with pytest.raises(ValueError, match=r"own\.means\.safetensors: means of encoder 0123abcd, layers early late"):
            load_means(path, *expected)
    intact = path.read_bytes()
    path.write_bytes(intact[:-4] + bytes([intact[-4] ^ 1]) + intact[-3:])  # of a value; only the checksum notices
    with pytest.raises(ValueError, match=r"own\.means\.safetensors: not a file of means"):
        load_means(path)


def test_the_mean_is_measured_once_and_cached(tmp_path) -> None:
    encoder, clip, images = Stages(), padded_clip(), random_images()
    expected = centred(encoder, clip.query, mean_of(encoder, [(image, valid) for image, _, valid in images]))
    encoder.seen.clear()
    extractor = FeatureExtractor(encoder, ID, tmp_path, mean_images=images)
    task = extractor.task(clip, POOL)
    extractor.task(padded_clip(1), POOL)
    assert_close(task.query, expected)
    (path,) = (tmp_path / "means").iterdir()
    assert load_means(path, ID, ()).images == 5
    again = FeatureExtractor(encoder, ID, tmp_path, mean_images=unreadable(images))
    assert_same(again.task(clip, POOL), task)
    assert encoder.seen == [1] * 5 + [2, 8, 1] * 2  # features were cached as well
    others = [("9999ffff", images, ()), (ID, images, BOTH), (ID, random_images(name="frame"), ())]
    others += [(ID, random_images(size=(49, 57)), ())]
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
    encoder.seen.clear()
    extractor = FeatureExtractor(encoder, ID, tmp_path, mean_images=unreadable(random_images()))
    plain, task = extractor.task(clip), extractor.task(clip, EPISODE)
    assert extractor.task(clip, replace(EPISODE, guided=0.1)) is task  # the same features
    assert encoder.seen == [2, 8, 1]
    assert_same(plain, extract(encoder, clip))
    assert_close(task.query, centred(encoder, clip.query, mean))
    assert_close(task.support, centred(encoder, clip.support, mean))
    assert not torch.equal(extractor.task(padded_clip(1), EPISODE).query, task.query)  # of another clip


def test_scaled_images_give_a_finer_grid_for_the_same_masks(tmp_path) -> None:
    encoder, clip, extractor = Stages(), padded_clip(), FeatureExtractor(Stages(), ID, tmp_path)
    images = interpolate(torch.cat([clip.support, clip.query]), (61, 85), mode="bicubic", antialias=True)
    valid = torch.cat([clip.support_valid, clip.query_valid])
    mean = mean_of(encoder, list(zip(images, valid, strict=True)))
    for centring, middle in (("none", torch.zeros(8)), ("episode", mean)):
        task = extractor.task(clip, PipelineConfig(centring, scale=1.5))
        assert task.size == (41, 57) and torch.equal(task.query_valid, downsample(clip.query_valid, (8, 11)))
        assert_close(task.query, centred(encoder, images[2:], middle))
        assert_close(task.support, centred(encoder, images[:2], middle))


def test_layers_are_concatenated_with_their_weights_and_cached_separately(tmp_path) -> None:
    encoder, clip, images = Stages(), padded_clip(), random_images()
    extractor = FeatureExtractor(encoder, mean_images=images)
    mean = mean_of(encoder, [(image, valid) for image, _, valid in images], BOTH)
    for weights in ((), (0.7, 1.0), (0.0, 2.0)):
        for centring, middle in (("none", torch.zeros(13)), ("pool", mean)):
            task = extractor.task(clip, PipelineConfig(centring, BOTH, weights))
            assert task.query.shape == (9, 13, 11, 15) and task.query_valid.shape == (9, 11, 15)  # the finer grid
            assert_close(task.query, centred(encoder, clip.query, middle, BOTH, weights))
            assert_close(task.support, centred(encoder, clip.support, middle, BOTH, weights))
    pipelines = [PipelineConfig(layers=layers) for layers in ((), ("late",), BOTH, BOTH[::-1])]
    expected = [extractor.task(clip, pipeline) for pipeline in pipelines]
    encoder.seen.clear()
    for pipeline, task in zip(2 * pipelines, 2 * expected, strict=True):
        assert_same(FeatureExtractor(encoder, ID, tmp_path).task(clip, pipeline), task)
    assert encoder.seen == [2, 8, 1] * 4 and len(list(tmp_path.iterdir())) == 4


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    about = {"corpus": "ytvis", "fold": 1, "base": ["kind_9", "kind_2", "kind_3"]}
    save_encoder(tmp_path / "run" / "best.safetensors", build_encoder("resnet18-mini", 4, seed=3), about)
    return tmp_path / "run" / "best.safetensors"


def test_the_mean_beside_a_checkpoint_is_used_unless_another_is_named(tmp_path, checkpoint, monkeypatch) -> None:
    clip, extractor = padded_clip(), load_extractor(checkpoint, tmp_path / "features")
    assert_same(extractor.task(clip), extract(for_inference(extractor.encoder), clip))
    assert [path.name for path in (tmp_path / "features").iterdir()] == [extractor.fingerprint]
    beside, own = checkpoint.with_name("best.means.safetensors"), tmp_path / "own.safetensors"
    sources = {beside: {"mean_images": unreadable(random_images())}, own: {"means": own}}
    for seed, (path, named) in enumerate(sources.items()):
        means = some_means((), (128,), seed)
        save_means(path, replace(means, encoder=extractor.fingerprint, values=means.values / 8))
        expected = centred(extractor.encoder, clip.query, means.values / 8)
        assert_close(load_extractor(str(checkpoint.parent), **named).task(clip, POOL).query, expected)
    deep = replace(POOL, layers=("layer2",))  # other layers than in the file
    found = load_extractor(checkpoint, mean_images=random_images()).task(clip, deep).query
    assert_same(found, FeatureExtractor(extractor.encoder, mean_images=random_images()).task(clip, deep).query)
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("def load():\n    return lambda images: images[:, :, ::8, ::8] + 5\n")
    save_means("mine.means.safetensors", replace(some_means((), (3,)), encoder=""))  # not beside a checkpoint
    mine = load_extractor("mine.py:load", "cache")
    assert (mine.fingerprint, mine.folder, mine.means_file) == ("", None, "")  # no weights, so nothing is cached
    with pytest.raises(ValueError, match="kind_9, novel in ytvis fold 0"):
        load_extractor(checkpoint, fold=replace(fold(), base=(2,), novel=(9,)))


def test_the_command_measures_what_the_library_measures(checkpoint, tmp_path, capsys) -> None:
    folder = tmp_path / "images"
    names = [f"a/{index}.PNG" for index in range(6)] + [f"b/{index}.jpg" for index in range(6)]
    for index, name in enumerate(names):
        write_image(folder / name, np.random.default_rng(index).integers(0, 255, (30, 40, 3), dtype=np.uint8))
    (folder / "a" / "._0.PNG").write_text("no image")
    images = image_folder(folder, (33, 49), 5)
    assert list(image_folder(folder, (33, 49)).names) == names  # in order, evenly subsampled
    assert list(images.names) == [names[index] for index in (0, 2, 4, 7, 9)]
    words = ["means", str(folder), "--size", "33", "49", "--limit", "5", "--encoder"]
    assert main([*words, str(checkpoint.parent), "--layers", "layer2", "layer3"]) == 0
    beside, encoder = checkpoint.with_name("best.means.safetensors"), load_encoder(checkpoint)
    found = load_means(beside, fingerprint(encoder), ("layer2", "layer3"))
    chosen = [(image[None], valid[None]) for image, _, valid in images]
    expected = measure_means(for_inference(encoder, ("layer2", "layer3")), "", chosen)
    assert torch.equal(found.values, expected.values) and found.channels == (32, 64) and found.images == 5
    assert main([*words, "torch.nn:Identity", "--out", str(tmp_path / "own.npz")]) == 2
    assert "own.npz" in capsys.readouterr().err and not list(tmp_path.glob("own*"))

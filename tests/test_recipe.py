"""A recipe decides which features the solver is given and what becomes of its probabilities, and nothing else."""

from __future__ import annotations

import time
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from folds import fold
from torch import Tensor, nn

from ttilib.datasets.transforms import normalise
from ttilib.encoders.checkpoints import fingerprint, save_encoder
from ttilib.encoders.layers import MultiLayerEncoder
from ttilib.encoders.pspnet import build_encoder
from ttilib.episodes.clips import USER_VIDEO_RULE, Clip, Frames, synthetic_clip
from ttilib.solver.classifier import Classifier
from ttilib.solver.edges import grabcut_refine, guided_filter
from ttilib.solver.extraction import (
    FeatureExtractor,
    FeatureMean,
    load_extractor,
    load_means,
    measure_means,
    save_means,
)
from ttilib.solver.methods import PipelineConfig, refine_masks
from ttilib.solver.solver import Solution, SolverConfig, solve
from ttilib.solver.task import Task, extract

POOL, EPISODE = PipelineConfig(centring="pool"), PipelineConfig(centring="episode")
BOTH = ("early", "late")


class Stages(nn.Module):
    """Two layers of positive features on two grids; remembers the images it was shown, and what each time took."""

    def __init__(self, seed: int = 1, pause: float = 0.0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.default_generator.manual_seed(seed)
            self.early = nn.Sequential(nn.Conv2d(3, 5, 3, 4, 1), nn.Softplus())
            self.late = nn.Sequential(nn.Conv2d(5, 8, 3, 2, 1), nn.Softplus())
        self.eval().requires_grad_(False)
        self.pause, self.seen, self.took = pause, [], []

    def forward(self, images: Tensor) -> Tensor:
        begin = time.perf_counter()
        time.sleep(self.pause)
        features = self.late(self.early(images))
        if images.any():  # not the image of zeros by which layers are looked at
            self.seen.append(len(images))
            self.took.append(time.perf_counter() - begin)
        return features


def clip_of(seed: int = 0) -> Clip:
    """Nine frames, one more than are given to the encoder together; a bar of each frame does not count."""
    clip = synthetic_clip(seed, frames=9, shots=2, size=(41, 57))
    valid = clip.query_valid.clone()
    valid[:, :, :12] = False
    return replace(clip, query_valid=valid)


def pool_of(seed: int = 0, count: int = 5, size: tuple[int, int] = (41, 57), name: str = "still") -> Frames:
    """Images of chance, wider than the canvas, so that there are bars above and below them."""

    def read(place: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng([seed, place])
        return rng.integers(0, 255, (20, 40, 3), dtype=np.uint8), np.zeros((20, 40), dtype=np.uint8)

    return Frames(tuple(f"{name} {place}" for place in range(count)), read, size, USER_VIDEO_RULE)


def unreadable(pool: Frames) -> Frames:
    """The same pool with images that must not be looked at."""

    def read(place: int) -> tuple[np.ndarray, np.ndarray]:
        raise AssertionError(f"image {place} was read")

    return replace(pool, read=read)


def assert_same(found: Task, expected: Task) -> None:
    """Every field, bit by bit."""
    for field in fields(Task):
        a, b = getattr(found, field.name), getattr(expected, field.name)
        same = torch.equal(a, b) and a.dtype == b.dtype if isinstance(a, Tensor) else a == b
        assert same, field.name


def mean_of(encoder: Stages, pictures: list[tuple[Tensor, Tensor]], layers: tuple[str, ...] = ()) -> Tensor:
    """Mean unit feature of the cells that count, layer after layer, in float64."""
    tapped = MultiLayerEncoder(encoder, layers)
    total, cells = torch.zeros(sum(tapped.channels), dtype=torch.float64), 0
    for image, valid in pictures:
        features = tapped(normalise(image[None]))[0].double()
        rows, columns = (torch.arange(n) * m // n for n, m in zip(features.shape[1:], valid.shape, strict=True))
        counts = valid[rows[:, None], columns]
        parts = [part / part.norm(dim=0) for part in features.split(tapped.channels)]
        total, cells = total + torch.cat(parts)[:, counts].sum(1), cells + int(counts.sum())
    return total / cells


def letterbox(encoder: Stages, images: Tensor, mean: Tensor, layers: tuple[str, ...] = (), weights=()) -> Tensor:
    """f <- f/|f| - mean, f <- w f/|f| layer by layer, joined and divided by their length, in float64."""
    tapped = MultiLayerEncoder(encoder, layers)
    parts = tapped(normalise(images)).double().split(tapped.channels, dim=1)
    done = []
    for part, middle, weight in zip(parts, mean.split(tapped.channels), weights or (1,) * len(parts), strict=True):
        part = part / part.norm(dim=1, keepdim=True) - middle[:, None, None]
        done.append(weight * part / part.norm(dim=1, keepdim=True))
    joined = torch.cat(done, 1)
    return joined / joined.norm(dim=1, keepdim=True)


def assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected.float(), atol=2e-5, rtol=0)


def solution_of(scores: Tensor, size: tuple[int, int]) -> Solution:
    """One whose scores are these, half of them above the bias."""
    frames = len(scores)
    classifier = Classifier(torch.ones(frames, 2), scores.flatten(1).median(dim=1).values)
    return Solution(classifier, torch.full((frames,), 0.5), scores, size, ())


def numbers(seed: int, count: int = 8) -> Tensor:
    return 0.1 + 0.2 * torch.rand(count, generator=torch.Generator().manual_seed(seed))


# --- the release ---


@pytest.mark.parametrize("recipe", [None, PipelineConfig(), PipelineConfig(guided=0.1, guided_eps=0.1, cut=0.1)])
@pytest.mark.parametrize("kept", [False, True])
def test_a_plain_recipe_gives_the_features_of_the_encoder_itself(tmp_path, recipe, kept) -> None:
    encoder, clip = Stages(), clip_of()
    source = FeatureExtractor(encoder, "0123abcd", tmp_path if kept else None)
    for _ in range(2):
        assert_same(source.task(clip, recipe), extract(encoder, clip))
    assert_same(FeatureExtractor(encoder.forward).task(clip, recipe), extract(encoder, clip))  # any callable will do


def test_recipes_share_features_unless_they_differ_in_what_decides_these() -> None:
    recipe = PipelineConfig("pool", BOTH, (0.7, 1.0), 0.03, 1e-4, 0.03)
    for other in (replace(recipe, guided=0), replace(recipe, guided_eps=0.1), replace(recipe, cut=0)):
        assert other != recipe and other.features == recipe.features
    unlike = [replace(recipe, centring="none"), replace(recipe, centring="episode"), replace(recipe, layers=("early",))]
    unlike += [replace(recipe, layers=BOTH[::-1]), replace(recipe, layer_weights=()), PipelineConfig()]
    assert len({each.features for each in [recipe, *unlike]}) == 7


# --- centring ---


def test_the_mean_of_a_pool_is_read_from_its_file(tmp_path) -> None:
    encoder, clip, path = Stages(), clip_of(), tmp_path / "any.safetensors"
    means = FeatureMean("0123abcd", (), (8,), numbers(0), 7)
    save_means(path, means)
    source = FeatureExtractor(encoder, "0123abcd", None, path, unreadable(pool_of()))
    task = source.task(clip, POOL)
    for images, found in ((clip.support, task.support), (clip.query, task.query)):
        assert_close(found, letterbox(encoder, images, means.values.double()))
    plain = extract(encoder, clip)
    assert_same(replace(task, support=plain.support, query=plain.query), plain)  # nothing else is different
    path.unlink()  # once is enough
    assert_same(source.task(clip, POOL), task)


@pytest.mark.parametrize("layers", [(), ("early",), BOTH])
def test_the_mean_of_a_pool_is_measured_where_there_is_no_file(layers) -> None:
    encoder, clip, pool = Stages(), clip_of(), pool_of()
    mean = mean_of(encoder, [(image, valid) for image, _, valid in pool], layers)
    everywhere = mean_of(encoder, [(image, torch.ones_like(valid)) for image, _, valid in pool], layers)
    assert (mean - everywhere).abs().max() > 0.01  # the bars matter
    task = FeatureExtractor(encoder, pool=pool).task(clip, replace(POOL, layers=layers))
    assert_close(task.query, letterbox(encoder, clip.query, mean, layers))
    assert_close(task.support, letterbox(encoder, clip.support, mean, layers))


def test_a_pool_is_looked_at_once_and_then_found_in_the_folder(tmp_path) -> None:
    encoder, clip, pool = Stages(), clip_of(), pool_of()
    first = FeatureExtractor(encoder, "0123abcd", tmp_path, pool=pool)
    task = first.task(clip, POOL)
    assert encoder.seen == [1] * 5 + [2, 8, 1]
    first.task(clip_of(1), POOL)
    assert encoder.seen == [1] * 5 + [2, 8, 1] * 2
    (path,) = (tmp_path / "means").iterdir()
    assert load_means(path, "0123abcd", ()).images == 5
    again = FeatureExtractor(encoder, "0123abcd", tmp_path, pool=unreadable(pool))
    assert_same(again.task(clip, POOL), task)
    assert encoder.seen == [1] * 5 + [2, 8, 1] * 2  # features were kept as well
    assert not list((tmp_path / "means").glob("*.npy"))


def test_means_of_other_pools_encoders_and_layers_lie_in_other_files(tmp_path) -> None:
    clip, means = clip_of(), tmp_path / "means"
    others = [
        ("0123abcd", pool_of(), ()), ("9999ffff", pool_of(), ()), ("0123abcd", pool_of(), ("late",)),
        ("0123abcd", pool_of(), BOTH), ("0123abcd", pool_of(name="frame"), ()), ("0123abcd", pool_of(count=4), ()),
        ("0123abcd", pool_of(size=(49, 57)), ()),
    ]  # fmt: skip
    for place, (weights, pool, layers) in enumerate(others):
        FeatureExtractor(Stages(), weights, tmp_path, pool=pool).task(clip, replace(POOL, layers=layers))
        assert len(list(means.iterdir())) == place + 1
    for weights, pool, layers in others:
        FeatureExtractor(Stages(), weights, tmp_path, pool=unreadable(pool)).task(clip, replace(POOL, layers=layers))


def test_the_mean_of_an_episode_is_that_of_its_own_pictures() -> None:
    encoder, clip = Stages(), clip_of()
    images, valid = torch.cat([clip.support, clip.query]), torch.cat([clip.support_valid, clip.query_valid])
    own = list(zip(images, valid, strict=True))
    mean = mean_of(encoder, own)
    assert all((mean - mean_of(encoder, some)).abs().max() > 1e-4 for some in (own[:2], own[2:]))
    source = FeatureExtractor(encoder, pool=unreadable(pool_of()))
    task = source.task(clip, EPISODE)
    assert_close(task.query, letterbox(encoder, clip.query, mean))
    assert_close(task.support, letterbox(encoder, clip.support, mean))
    other = clip_of(1)  # each episode has its own
    assert_same(source.task(other, EPISODE), FeatureExtractor(encoder).task(other, EPISODE))
    pictures = [(clip.support, clip.support_valid), (clip.query, clip.query_valid)]
    expected = measure_means(MultiLayerEncoder(encoder, BOTH), "0123abcd", pictures)
    found = FeatureExtractor(encoder, "0123abcd").means(PipelineConfig("episode", BOTH), clip)
    assert torch.equal(found.values, expected.values) and replace(found, values=expected.values) == expected
    assert (found.encoder, found.layers, found.images) == ("0123abcd", BOTH, 11)


def test_an_episode_of_known_features_is_not_computed_again(tmp_path) -> None:
    encoder, clip = Stages(), clip_of()
    source = FeatureExtractor(encoder, "0123abcd", tmp_path)
    plain = source.task(clip)
    assert encoder.seen == [2, 8, 1]
    task = source.task(clip, EPISODE)
    assert encoder.seen == [2, 8, 1]
    assert_same(task, FeatureExtractor(encoder).task(clip, EPISODE))
    assert not torch.equal(task.query, plain.query)
    FeatureExtractor(encoder, "9999ffff", tmp_path).task(clip)  # others' features are others'
    assert encoder.seen == [2, 8, 1] * 4


def test_without_pool_and_file_one_is_told_what_to_do(tmp_path) -> None:
    for folder in (None, tmp_path):
        with pytest.raises(ValueError, match="centring=pool: no means of this .* ttilib means, or .* centring=episode"):
            FeatureExtractor(Stages(), "0123abcd", folder).task(clip_of(), POOL)


def test_means_of_another_encoder_or_other_layers_are_refused(tmp_path) -> None:
    path, clip = tmp_path / "a.safetensors", clip_of()
    save_means(path, FeatureMean("0123abcd", ("late",), (8,), numbers(0), 7))
    FeatureExtractor(Stages(), "0123abcd", None, path).task(clip, PipelineConfig("pool", ("late",)))
    with pytest.raises(ValueError, match=r"a\.safetensors: means of the encoder 0123abcd, not of 9999ffff"):
        FeatureExtractor(Stages(), "9999ffff", None, path).task(clip, PipelineConfig("pool", ("late",)))
    for layers, said in (((), "the output"), (BOTH, "layers early late")):
        with pytest.raises(ValueError, match=f"means of layers late, not of {said}"):
            FeatureExtractor(Stages(), "0123abcd", None, path).task(clip, PipelineConfig("pool", layers))
    with pytest.raises(FileNotFoundError, match=r"b\.safetensors: no such file of means"):
        FeatureExtractor(Stages(), "0123abcd", None, tmp_path / "b.safetensors", pool_of()).task(clip, POOL)


# --- layers ---


def test_layers_are_joined_with_their_weights() -> None:
    encoder, clip, pool = Stages(), clip_of(), pool_of()
    source, nothing = FeatureExtractor(encoder, pool=pool), torch.zeros(13)
    mean = source.means(PipelineConfig("pool", BOTH), clip).values.double()
    found = {}
    for weights in ((), (0.7, 1.0), (0.0, 2.0)):
        for centring, middle in (("none", nothing), ("pool", mean)):
            task = source.task(clip, PipelineConfig(centring, BOTH, weights))
            assert task.query.shape == (9, 13, 11, 15)  # the finer grid
            assert task.query_valid.shape == (9, 11, 15) and task.support_masks.shape == (2, 11, 15)
            assert_close(task.query, letterbox(encoder, clip.query, middle, BOTH, weights))
            assert_close(task.support, letterbox(encoder, clip.support, middle, BOTH, weights))
            found[weights, centring] = task.query
    shares = found[(0.7, 1.0), "pool"].split((5, 8), 1)
    assert_close(shares[0].norm(dim=1), torch.full((9, 11, 15), 0.7 / 1.49**0.5))
    backwards = source.task(clip, PipelineConfig("none", BOTH[::-1], (1.0, 0.7))).query
    torch.testing.assert_close(backwards.roll(5, 1), found[(0.7, 1.0), "none"])


def test_layers_and_weights_that_do_not_fit_are_refused() -> None:
    source, clip = FeatureExtractor(Stages(), pool=pool_of()), clip_of()
    with pytest.raises(ValueError, match=r"layer 'erly': .* did you mean early"):
        source.task(clip, PipelineConfig(layers=("erly",)))
    with pytest.raises(ValueError, match=r"there are 2 layers; give one weight for each"):
        source.task(clip, PipelineConfig(layers=BOTH, layer_weights=(1.0,)))
    with pytest.raises(ValueError, match=r"there are 1 layers; give one weight for each"):
        source.task(clip, PipelineConfig("pool", layer_weights=(1.0, 1.0)))
    with pytest.raises(ValueError, match="no layers inside"):
        FeatureExtractor(Stages().forward).task(clip, PipelineConfig(layers=BOTH))


@pytest.mark.parametrize("centring", ["none", "pool", "episode"])
@pytest.mark.parametrize("layers, weights", [((), ()), (("early",), ()), (BOTH, ()), (BOTH, (0.2, 3.0))])
def test_features_are_of_unit_length_whatever_the_recipe(tmp_path, centring, layers, weights) -> None:
    source, clip = FeatureExtractor(Stages(), "0123abcd", tmp_path, pool=pool_of()), clip_of()
    for _ in range(2):
        task = source.task(clip, PipelineConfig(centring, layers, weights))
        for features in (task.support, task.query):
            assert_close(features.norm(dim=1), torch.ones_like(features[:, 0]))
        assert task.query_norm == task.support_norm == 1.0


def test_features_of_several_layers_are_kept_by_themselves(tmp_path) -> None:
    encoder, clip = Stages(), clip_of()
    recipes = [PipelineConfig(layers=layers) for layers in ((), ("late",), BOTH, BOTH[::-1])]
    expected = [FeatureExtractor(encoder).task(clip, recipe) for recipe in recipes]
    encoder.seen.clear()
    for _ in range(2):
        for recipe, task in zip(recipes, expected, strict=True):
            assert_same(FeatureExtractor(encoder, "0123abcd", tmp_path).task(clip, recipe), task)
    FeatureExtractor(encoder, "0123abcd", tmp_path).task(clip, PipelineConfig("episode", BOTH, (1.0, 0.5)))
    assert encoder.seen == [2, 8, 1] * 4
    assert len(list(tmp_path.iterdir())) == 4


# --- what it cost ---


@pytest.mark.parametrize("recipe", [PipelineConfig(), POOL, EPISODE, PipelineConfig("episode", BOTH)])
def test_seconds_are_those_of_the_encoder_however_often_it_was_asked(tmp_path, recipe) -> None:
    """Each task counts its own images once, whether computed, read back, or asked for a mean before."""
    encoder, clips = Stages(pause=0.01), [clip_of(), clip_of(1)]
    first = FeatureExtractor(encoder, "0123abcd", tmp_path, pool=pool_of())
    first.task(clips[0], recipe)
    once, own = first.seconds, sum(encoder.took[-3:])
    assert once >= own and encoder.seen[-3:] == [2, 8, 1]
    first.task(clips[1], recipe)
    both = first.seconds
    assert both - once >= sum(encoder.took[-3:])
    calls = len(encoder.took)
    again = FeatureExtractor(encoder, "0123abcd", tmp_path, pool=pool_of())
    again.task(clips[1], recipe)
    assert again.seconds == pytest.approx(both - once)
    again.task(clips[0], recipe)
    again.task(clips[0], recipe)
    assert again.seconds == pytest.approx(both + once) and len(encoder.took) == calls
    plain = FeatureExtractor(encoder, "0123abcd", tmp_path)
    plain.task(clips[0], PipelineConfig(layers=recipe.layers))
    assert plain.seconds == pytest.approx(once)  # as much as without its mean


@pytest.mark.parametrize("recipe", [PipelineConfig(), POOL, EPISODE])
def test_seconds_without_a_folder_are_those_of_the_tasks_too(recipe) -> None:
    encoder, clip = Stages(pause=0.1), clip_of()
    source = FeatureExtractor(encoder, pool=pool_of())
    assert source.seconds == 0
    source.task(clip, recipe)
    own = sum(encoder.took[-3:])
    assert own <= source.seconds < own + 0.28  # a mean costs 0.3 or more
    before = source.seconds
    source.task(clip, recipe)
    assert source.seconds - before >= sum(encoder.took[-3:])


# --- by an encoder's name ---


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A small encoder in its two files."""
    path = tmp_path_factory.mktemp("run") / "best.safetensors"
    about = {"corpus": "ytvis", "fold": 1, "base": ["kind_9", "kind_2", "kind_3"]}
    save_encoder(path, build_encoder("resnet18-mini", 4, seed=3), about)
    return path


def test_the_mean_beside_a_checkpoint_is_taken(tmp_path, checkpoint) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for path in checkpoint.parent.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    clip, spec = clip_of(), folder / "best.safetensors"
    with pytest.raises(ValueError, match="centring=pool: no means"):
        load_extractor(spec).task(clip, POOL)
    encoder = load_extractor(spec).encoder
    weights, channels = fingerprint(encoder), MultiLayerEncoder(encoder).channels
    assert not encoder.training
    measured = load_extractor(spec, pool=pool_of()).task(clip, POOL)
    files = {}
    for seed, path in enumerate((folder / "best.means.safetensors", tmp_path / "own.safetensors")):
        save_means(path, FeatureMean(weights, (), channels, numbers(seed, *channels) / 8, 2))
        files[path.name] = FeatureExtractor(encoder, weights, None, path).task(clip, POOL)
    for place in (spec, folder, str(folder), str(spec)):
        assert_same(load_extractor(place).task(clip, POOL), files["best.means.safetensors"])
    for means in (tmp_path / "own.safetensors", str(tmp_path / "own.safetensors")):
        assert_same(load_extractor(spec, means=means).task(clip, POOL), files["own.safetensors"])
    assert_same(load_extractor(spec, pool=unreadable(pool_of())).task(clip, POOL), files["best.means.safetensors"])
    queries = [task.query for task in (measured, *files.values())]
    assert not any(torch.equal(a, b) for a, b in ((queries[0], queries[1]), (queries[1], queries[2])))


def test_a_named_encoder_is_kept_under_its_fingerprint(tmp_path, checkpoint) -> None:
    clip = clip_of()
    source = load_extractor(checkpoint, tmp_path)
    task = source.task(clip)
    assert_same(task, extract(source.encoder, clip))
    assert source.weights == fingerprint(source.encoder) and [p.name for p in tmp_path.iterdir()] == [source.weights]
    again = load_extractor(checkpoint, tmp_path)
    assert_same(again.task(clip), task)
    assert again.seconds == pytest.approx(source.seconds)
    with pytest.warns(UserWarning, match="untrained weights"):
        assert load_extractor("resnet18-mini").weights not in ("", source.weights)


def test_only_what_lies_beside_a_checkpoint_is_taken_unasked(tmp_path, monkeypatch) -> None:
    """A name that is no file has nothing beside it, even if some file is called so."""
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("def load():\n    return lambda images: images[:, :, ::8, ::8] + 5\n")
    for name in ("mine", "resnet18-mini", "best"):
        save_means(f"{name}.means.safetensors", FeatureMean("", (), (3,), numbers(0, 3), 2))
    with pytest.raises(ValueError, match="centring=pool: no means"):
        load_extractor("mine.py:load").task(clip_of(), POOL)
    with pytest.warns(UserWarning, match="untrained"), pytest.raises(ValueError, match="centring=pool: no means"):
        load_extractor("resnet18-mini").task(clip_of(), POOL)


def test_an_encoder_of_other_classes_is_refused(checkpoint) -> None:
    with pytest.raises(ValueError, match="base classes include kind_9, novel in ytvis fold 0"):
        load_extractor(checkpoint, fold=replace(fold(), base=(2,), novel=(9,)))
    load_extractor(checkpoint, fold=replace(fold(), base=(9,), novel=(1,)))


def test_an_encoder_whose_weights_nobody_can_see_is_not_kept(tmp_path) -> None:
    """Its features may change from day to day; a file of means is for one without fingerprint."""
    (tmp_path / "mine.py").write_text("def load():\n    return lambda images: images[:, :, ::8, ::8] + 5\n")
    spec, kept, clip = f"{tmp_path / 'mine.py'}:load", tmp_path / "kept", clip_of()
    source = load_extractor(spec, kept, pool=pool_of())
    assert source.weights == "" and source.folder is None
    plain, task = source.task(clip), source.task(clip, POOL)
    assert_same(plain, extract(lambda images: images[:, :, ::8, ::8] + 5, clip))
    assert not torch.equal(task.query, plain.query)
    assert not kept.exists() and source.seconds > 0
    path = tmp_path / "mine.safetensors"
    save_means(path, source.means(POOL, clip))
    assert_same(load_extractor(spec, kept, path).task(clip, POOL), task)


def test_nothing_is_written_without_a_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = FeatureExtractor(Stages(), "0123abcd", pool=pool_of())
    for recipe in (PipelineConfig(), POOL, EPISODE, PipelineConfig("pool", BOTH)):
        source.task(clip_of(), recipe)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_device_gives_what_the_processor_gives(tmp_path, checkpoint) -> None:
    for recipe in (POOL, EPISODE):
        for folder in (None, tmp_path):
            task = load_extractor(checkpoint, folder, pool=pool_of(), device="cuda").task(clip_of(), recipe)
            assert task.query.is_cuda and task.support_masks.is_cuda
            expected = load_extractor(checkpoint, pool=pool_of()).task(clip_of(), recipe)
            torch.testing.assert_close(task.query.cpu(), expected.query, atol=2e-2, rtol=0)


# --- what becomes of the probabilities ---


def test_masks_are_finished_as_far_as_asked() -> None:
    """Radii are shares of the diagonal, which is 70.2 pixels here."""
    clip = clip_of()
    solution = solve(extract(Stages(), clip), SolverConfig(steps=5))
    smooth = {eps: guided_filter(solution.probabilities(), clip.query, 4, eps) > 0.5 for eps in (1e-3, 1e-1)}
    expected = {
        PipelineConfig(): solution.masks(),
        PipelineConfig(guided_eps=0.1): solution.masks(),
        PipelineConfig(guided=0.06): smooth[1e-3],
        PipelineConfig(guided=0.06, guided_eps=0.1): smooth[1e-1],
        PipelineConfig(cut=0.07): grabcut_refine(solution.masks(), clip.query, 5),
        PipelineConfig(cut=0.13): grabcut_refine(solution.masks(), clip.query, 9),
        PipelineConfig(guided=0.06, guided_eps=0.1, cut=0.07): grabcut_refine(smooth[1e-1], clip.query, 5),
        PipelineConfig(guided=1e-4): guided_filter(solution.probabilities(), clip.query, 1) > 0.5,  # not nothing
        PipelineConfig(cut=1e-4): grabcut_refine(solution.masks(), clip.query, 1),
    }
    for recipe, masks in expected.items():
        assert torch.equal(refine_masks(solution, clip, recipe), masks), recipe
        around = replace(recipe, centring="pool", layers=BOTH, layer_weights=(1.0, 2.0))
        assert torch.equal(refine_masks(solution, clip, around), masks), recipe
    assert torch.equal(refine_masks(solution, clip), solution.masks())
    assert len({masks.numpy().tobytes() for masks in expected.values()}) == 8


def test_a_recipe_means_the_same_on_a_larger_canvas() -> None:
    """16 pixels of the usual 241 x 425 are 0.033 of its diagonal, and 3 of 41 x 81."""
    generator = torch.Generator().manual_seed(0)
    for size, pixels in (((241, 425), 16), ((41, 81), 3)):
        coarse = torch.rand(1, 5, 9, generator=generator)
        solution = solution_of(8 * coarse, size)
        guide = torch.rand(1, 3, *size, generator=generator)
        clip = replace(synthetic_clip(frames=1, size=size), query=guide)
        found = refine_masks(solution, clip, PipelineConfig(guided=0.033, cut=0.033))
        smooth = guided_filter(solution.probabilities(), guide, pixels) > 0.5
        assert torch.equal(found, grabcut_refine(smooth, guide, pixels)), size


def test_the_truth_is_out_of_reach() -> None:
    """Whatever is around the solver sees the same with and without an answer."""
    clip, encoder = clip_of(), Stages()
    blind = replace(clip, truth=None)
    for recipe in (PipelineConfig(), POOL, PipelineConfig("episode", BOTH)):
        tasks = [FeatureExtractor(encoder, pool=pool_of()).task(each, recipe) for each in (clip, blind)]
        assert_same(*tasks)
    solution = solve(tasks[0], SolverConfig.frozen())
    recipe = PipelineConfig(guided=0.06, cut=0.07)
    assert torch.equal(refine_masks(solution, clip, recipe), refine_masks(solution, blind, recipe))


def test_weights_of_layers_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match="there are 1 layers; give one weight for each"):
        FeatureExtractor(torch.nn.Conv2d(3, 4, 8, 8)).task(
            synthetic_clip(frames=2, size=(33, 57)), PipelineConfig(layer_weights=(0.7, 1.0))
        )

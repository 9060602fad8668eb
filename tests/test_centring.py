"""The constant mean of an encoder: measured as the formula says, kept whole, refused by others, taken off."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import real
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ttilib.__main__ import _parser, main
from ttilib.datasets.transforms import letterbox, normalise
from ttilib.encoders.checkpoints import fingerprint, load_encoder, save_encoder
from ttilib.encoders.layers import MultiLayerEncoder
from ttilib.encoders.pspnet import build_encoder
from ttilib.episodes.clips import synthetic_clip
from ttilib.images import write_image
from ttilib.solver.extraction import FeatureMean, MeanCentered, load_means, means_path, measure_means, pool, save_means
from ttilib.solver.task import extract


def random(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def two_layers() -> MultiLayerEncoder:
    """One layer of halved, one of quartered resolution; all features positive, much as after a ReLU."""
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(1)
        stages = [nn.Sequential(nn.Conv2d(c, d, 3, 2, 1), nn.Softplus()) for c, d in ((3, 5), (5, 8))]
    return MultiLayerEncoder(nn.Sequential(*stages).eval().requires_grad_(False), ["0", "1"])


def batches(count: int = 5, size: tuple[int, int] = (17, 25)) -> list[tuple[Tensor, Tensor]]:
    """Images in [0, 1], one at a time, each with bars of another width that do not count."""
    valid = torch.ones(count, 1, *size, dtype=torch.bool)
    for place in range(count):
        valid[place, :, : 2 * (place % 5)] = False
    return [(random(place, 1, 3, *size), valid[place]) for place in range(count)]


def brute(encoder: MultiLayerEncoder, pictures: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, int]:
    """The formula cell by cell, in float64."""
    total, cells = torch.zeros(sum(encoder.channels), dtype=torch.float64), 0
    for image, valid in pictures:
        features = encoder(normalise(image))[0].double()
        rows, columns = features.shape[1:]
        for i in range(rows):
            for j in range(columns):
                if valid[0, i * valid.shape[1] // rows, j * valid.shape[2] // columns]:
                    parts = features[:, i, j].split(encoder.channels)
                    total += torch.cat([part / part.norm().clamp_min(1e-12) for part in parts])
                    cells += 1
    return total / cells, cells


# --- measuring ---


def test_the_mean_is_that_of_all_cells_that_count() -> None:
    encoder, pictures = two_layers(), batches()
    assert brute(encoder, pictures)[1] < 5 * 9 * 13  # the bars matter
    pictures[1] = (random(8, 1, 3, 24, 14), random(9, 1, 24, 14) > 0.4)  # a pool may be of any sizes
    expected, _ = brute(encoder, pictures)
    means = measure_means(encoder, "0123abcd", pictures)
    torch.testing.assert_close(means.values, expected.float(), atol=1e-6, rtol=0)
    assert (means.encoder, means.layers, means.channels, means.images) == ("0123abcd", ("0", "1"), (5, 8), 5)
    assert all(0 < part.norm() <= 1 + 1e-6 for part in means.values.split((5, 8)))


def test_it_does_not_matter_how_the_pool_is_handed_over() -> None:
    encoder, pictures = two_layers(), batches(11)
    images, valid = (torch.cat(each) for each in zip(*pictures, strict=True))
    alone = measure_means(encoder, "", pictures)
    together = measure_means(encoder, "", iter([(images, valid)]))
    backwards = measure_means(encoder, "", reversed(pictures))
    for other in (together, backwards):
        torch.testing.assert_close(other.values, alone.values, atol=1e-6, rtol=0)
        assert other.images == 11


def test_the_memory_does_not_grow_with_the_pool_nor_the_batch() -> None:
    """At most a few images are asked for at once, and none is kept."""
    seen = []

    def encoder(images: Tensor) -> Tensor:
        seen.append(len(images))
        return images[:, :, ::4, ::4] + 5

    def stream():
        for _ in range(3):
            yield random(0, 21, 3, 9, 9), torch.ones(21, 9, 9, dtype=torch.bool)

    assert measure_means(MultiLayerEncoder(encoder), "", stream()).images == 63
    assert max(seen) == 8 and sum(seen[1:]) == 63


def test_sums_are_kept_in_double_numbers() -> None:
    """A constant feature has itself as mean, to the last bit, after however many cells."""
    feature = torch.tensor([3.0, 4.0, 12.0]).view(1, 3, 1, 1)  # of length 13, without rounding

    def encoder(images: Tensor) -> Tensor:
        return feature.expand(len(images), 3, *images.shape[-2:]).clone()

    pictures = [(torch.zeros(2, 3, 61, 67), torch.ones(2, 61, 67, dtype=torch.bool))] * 40
    means = measure_means(MultiLayerEncoder(encoder), "", pictures)
    assert torch.equal(means.values, (feature / feature.norm(dim=1)).flatten())


def test_a_pool_of_one_picture_is_refused() -> None:
    encoder, pictures = two_layers(), batches()
    empty = (random(9, 4, 3, 17, 25), torch.zeros(4, 17, 25, dtype=torch.bool))
    for few, count in (([], 0), (pictures[:1], 1), ([pictures[0], empty], 1)):
        with pytest.raises(ValueError, match=f"means of {count} images"):
            measure_means(encoder, "", few)
    assert measure_means(encoder, "", [*pictures[:2], empty]).images == 2


def test_features_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="infinite or not numbers"):
        measure_means(MultiLayerEncoder(lambda images: images / 0), "", batches())


# --- taking it off ---


def means_of(encoder: MultiLayerEncoder) -> FeatureMean:
    return measure_means(encoder, "", batches())


def test_features_are_centred_layer_by_layer_and_then_joined() -> None:
    encoder = two_layers()
    means, images = means_of(encoder), normalise(random(7, 2, 3, 17, 25))
    features = encoder(images).double()
    parts, both = [], means.values.double().split((5, 8))
    for part, mean, weight in zip(features.split((5, 8), 1), both, (0.7, 1), strict=True):
        part = part / part.norm(dim=1, keepdim=True) - mean[:, None, None]
        parts.append(weight * part / part.norm(dim=1, keepdim=True))
    expected = torch.cat(parts, 1) / (0.7**2 + 1) ** 0.5
    found = MeanCentered(encoder, means, (0.7, 1))(images)
    torch.testing.assert_close(found, expected.float(), atol=1e-5, rtol=1e-5)
    alike = MeanCentered(encoder, means)(images)
    torch.testing.assert_close(alike[:, :5].norm(dim=1), torch.full((2, 9, 13), 0.5**0.5))
    second = MeanCentered(encoder, means, (0, 2))(images)
    assert not second[:, :5].any()
    torch.testing.assert_close(second[:, 5:], parts[1].float(), atol=1e-5, rtol=1e-5)


def test_without_means_layers_are_joined_and_nothing_is_taken_off() -> None:
    encoder, images = two_layers(), normalise(random(7, 2, 3, 17, 25))
    features = encoder(images)
    expected = torch.cat([nn.functional.normalize(part, dim=1) * w for part, w in zip(
        features.split((5, 8), 1), (0.6, 0.8), strict=True)], 1)  # fmt: skip
    torch.testing.assert_close(MeanCentered(encoder, None, (3, 4))(images), expected)
    whole = MeanCentered(encoder.__call__, None)(images)
    torch.testing.assert_close(whole, nn.functional.normalize(features, dim=1))


def test_what_all_pictures_share_is_gone() -> None:
    """Positive features all look alike; centred, those of unlike images do not, and the mean is near nought."""
    encoder = two_layers()
    means, images = means_of(encoder), torch.cat([normalise(image) for image, _ in batches()])

    def likeness(features: Tensor) -> float:
        cells = nn.functional.normalize(features, dim=1).movedim(1, 0).flatten(1)
        return cells.mean(1).square().sum().item()  # mean cosine of all pairs

    assert likeness(MeanCentered(encoder, None)(images)) > 0.5 and likeness(MeanCentered(encoder, means)(images)) < 0.1


def test_a_dead_feature_is_a_number_too() -> None:
    """Where a layer gives nothing at all there is no direction; what is taken off remains."""
    means = FeatureMean("", (), (3,), torch.tensor([0.6, 0.0, 0.3]), 2)
    found = MeanCentered(lambda images: 0 * images, means)(random(0, 1, 3, 4, 5))
    torch.testing.assert_close(found[0, :, 0, 0], -means.values / means.values.norm())
    assert not MeanCentered(lambda images: 0 * images, None)(random(0, 1, 3, 4, 5)).any()


def test_type_of_numbers_and_task_are_as_with_any_encoder() -> None:
    encoder = two_layers()
    centring = MeanCentered(encoder, means_of(encoder), (0.7, 1))
    task = extract(centring, synthetic_clip(frames=3, shots=2))
    torch.testing.assert_close(task.query.norm(dim=1), torch.ones_like(task.query[:, 0]))
    encoder.encoder.double()
    assert centring(random(1, 1, 3, 17, 25).double()).dtype == torch.float64


@pytest.mark.parametrize("weights", [(1,), (1, 1, 1), (-1, 1), (0, 0), (float("nan"), 1), (float("inf"), 1)])
def test_weights_that_make_no_sense_are_refused(weights: tuple) -> None:
    encoder = two_layers()
    with pytest.raises(ValueError, match="weights .*(give one weight|none may be negative)"):
        MeanCentered(encoder, means_of(encoder), weights)


def test_means_and_encoder_have_to_fit() -> None:
    encoder = two_layers()
    means, inner = means_of(encoder), encoder.encoder
    tapped = MultiLayerEncoder(inner, ["0.0", "1"])
    others = {"the output": MultiLayerEncoder(inner), "the output ": inner, "layers 0.0 1": tapped}
    for found, other in others.items():
        with pytest.raises(ValueError, match=f"means of layers 0 1 .* the encoder gives {found}"):
            MeanCentered(other, means)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_device_gives_what_the_processor_gives() -> None:
    encoder, images = two_layers(), normalise(random(7, 2, 3, 17, 25))
    means = means_of(encoder)
    expected = MeanCentered(encoder, means)(images)
    encoder.encoder.to("cuda")
    there = measure_means(encoder, "", batches(), "cuda")
    torch.testing.assert_close(there.values, means.values, atol=1e-4, rtol=0)
    found = MeanCentered(encoder, there)(images.to("cuda"))
    assert found.is_cuda
    torch.testing.assert_close(found.cpu(), expected, atol=1e-2, rtol=0)  # TF32 in convolutions


# --- files ---


def test_means_come_back_as_they_were(tmp_path: Path) -> None:
    path, means = tmp_path / "deep" / "own.means.safetensors", means_of(two_layers())
    save_means(path, replace(means, encoder="0123abcd"))
    for found in (load_means(path), load_means(str(path), "0123abcd", ["0", "1"]), load_means(path, None, ("0", "1"))):
        assert torch.equal(found.values, means.values) and found.values.dtype == torch.float32
        assert (found.encoder, found.layers, found.channels, found.images) == ("0123abcd", ("0", "1"), (5, 8), 5)
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    save_means(path, replace(means, layers=(), channels=(13,)))
    assert load_means(path, "", ()).channels == (13,)


def test_means_of_others_are_refused(tmp_path: Path) -> None:
    path, means = tmp_path / "a.safetensors", replace(means_of(two_layers()), encoder="0123abcd")
    save_means(path, means)
    with pytest.raises(ValueError, match=r"a\.safetensors: means of the encoder 0123abcd, not of 9999; measure them"):
        load_means(path, "9999")
    with pytest.raises(ValueError, match="not of one without fingerprint"):
        load_means(path, "")
    for layers, said in ((("0",), "layers 0"), ((), "the output"), (("1", "0"), "layers 1 0")):
        with pytest.raises(ValueError, match=f"means of layers 0 1, not of {said}; measure them again"):
            load_means(path, "0123abcd", layers)
    save_means(path, replace(means, encoder=""))
    with pytest.raises(ValueError, match="means of an encoder without fingerprint, not of 0123abcd"):
        load_means(path, "0123abcd")


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(FileNotFoundError, match=r"a\.safetensors: no such file of means"):
        load_means(path)
    means = means_of(two_layers())
    save_means(path, means)
    whole = path.read_bytes()
    damages = [b"", b"not at all", whole[:30], whole[:-4], whole.replace(b'channels\\": [5', b'channels\\": [6')]
    damages += [whole.replace(b"means of an", b"beans of an"), whole.replace(b'layers\\": [', b'layers\\": 7 ')]
    for place, damage in enumerate(damages):
        path.write_bytes(damage)
        with pytest.raises(ValueError, match=r"a\.safetensors: not a (complete )?file of means"):
            load_means(path)
        assert damage != whole, place
    save_file({"values": means.values}, path)
    with pytest.raises(ValueError, match="not a file of means"):
        load_means(path)
    with pytest.raises(ValueError, match=r"a\.npz: means are saved as \.safetensors"):
        save_means(tmp_path / "a.npz", means)


def test_where_means_lie_by_default(tmp_path: Path) -> None:
    assert means_path("run/best.safetensors") == Path("run/best.means.safetensors")
    assert means_path("published/best.pth") == Path("published/best.means.safetensors")
    assert means_path(str(tmp_path)) == tmp_path / "best.means.safetensors"
    assert means_path("resnet50", "a.safetensors") == Path("a.safetensors")
    for spec in ("resnet50", "encoder.py:load", "ttilib.networks.imagenet:resnet50"):
        with pytest.raises(ValueError, match=f"encoder {spec}: no file beside which .*--out"):
            means_path(spec)


# --- pools and the command ---


def pictures(folder: Path, count: int = 12) -> Path:
    """Images of two shapes in two folders, a text and a hidden image."""
    for place in range(count):
        size = (30, 40) if place % 3 else (40, 30)
        grey = np.random.default_rng(place).integers(0, 255, (*size, 3), dtype=np.uint8)
        write_image(folder / ("b" if place % 2 else "a") / f"{place}.{'jpg' if place % 2 else 'PNG'}", grey)
    (folder / "read.me").write_text("no image")
    (folder / ".trash").mkdir()
    (folder / ".trash" / "x.png").write_text("no image")
    (folder / "a" / "._0.PNG").write_text("no image")
    return folder


def test_a_pool_is_read_in_order_and_evenly_thinned(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "pool")
    everything = [f"a/{place}.PNG" for place in range(0, 12, 2)] + [f"b/{place}.jpg" for place in range(1, 12, 2)]
    assert list(pool(folder, (33, 49)).names) == list(pool(folder, (33, 49), 99).names) == everything
    assert list(pool(folder, (33, 49), 4).names) == everything[::3]
    assert list(pool(folder, (33, 49), 5).names) == [everything[place] for place in (0, 2, 4, 7, 9)]
    image, _, valid = pool(folder, (33, 49))[0]
    inside = letterbox(40, 30, (33, 49)).inside
    assert image.shape == (3, 33, 49) and image[:, inside[0], inside[1]].mean() > 0.3
    assert valid[inside].all() and valid.sum() == valid[inside].numel() and not image[:, ~valid].any()


def test_a_folder_without_pictures_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing: no such folder"):
        pool(tmp_path / "nothing", (33, 49))
    with pytest.raises(ValueError, match="no image in this folder"):
        pool(tmp_path, (33, 49))


def test_the_command_measures_what_the_library_measures(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder, weights = pictures(tmp_path / "pool"), tmp_path / "run" / "best.safetensors"
    save_encoder(weights, build_encoder("resnet18-mini", 3))
    words = ["means", str(folder), "--encoder", str(weights.parent), "--size", "33", "49", "--limit", "5"]
    assert main([*words, "--layers", "layer2", "layer3"]) == 0
    beside = weights.with_name("best.means.safetensors")
    assert f"mean of layer2 layer3, 96 channels, over 5 images: {beside}" in capsys.readouterr().out
    encoder = load_encoder(weights)
    found = load_means(beside, fingerprint(encoder), ("layer2", "layer3"))
    chosen = [(image[None], valid[None]) for image, _, valid in pool(folder, (33, 49), 5)]
    expected = measure_means(MultiLayerEncoder(encoder, ("layer2", "layer3")), "", chosen)
    assert torch.equal(found.values, expected.values) and found.channels == (32, 64) and found.images == 5
    assert main([*words, "--out", str(tmp_path / "own.safetensors")]) == 0
    assert load_means(tmp_path / "own.safetensors").layers == ()
    assert load_encoder(weights)  # what lies beside it does not disturb


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--encoder", "resnet18-mini"], "no file beside which"),
        (["--encoder", "torch.nn:Identity", "--out", "own.npz"], "own.npz: means are saved as .safetensors"),
        (["--encoder", "torch.nn:Identity", "--out", "o.safetensors", "--layers", "a"], "has no layers"),
        (["--encoder", "torch.nn:Identity", "--out", "o.safetensors", "--limit", "1"], "means of 1 images"),
    ],
)
def test_the_command_says_what_is_wrong(more, sentence, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["means", str(pictures(tmp_path / "pool", 3)), "--size", "33", "49", *more]) == 2
    assert sentence in capsys.readouterr().err and not list(tmp_path.glob("o*"))


def test_the_commands_of_the_documentation_are_understood(repository: Path) -> None:
    page = (repository / "docs" / "encoders.md").read_text(encoding="utf-8").replace("\\\n", "")
    commands = re.findall(r"^python -m ttilib (means .+?)$", page, re.MULTILINE)
    parsed = [_parser().parse_args(shlex.split(command)) for command in commands]
    assert len(parsed) >= 3 and [options.out is None for options in parsed].count(True) == 1


@pytest.mark.skipif(not real.available(), reason=real.MISSING)
def test_real_features_all_point_one_way_until_they_are_centred() -> None:
    stills = sorted((real.FOLDER / "voc" / "JPEGImages").glob("*.jpg"))
    frames = pool(stills[0].parent, (97, 129), 12)
    shown = [(image[None], valid[None]) for image, _, valid in frames]
    encoder = MultiLayerEncoder(real.load(), ["layer2", "layer3"])
    means = measure_means(encoder, "", shown[::2])
    other = torch.cat([normalise(image) for image, _ in shown[1::2]])  # images that the mean has not seen

    def cosine(features: Tensor) -> float:
        return features.movedim(1, 0).flatten(1).mean(1).square().sum().item()

    assert cosine(MeanCentered(encoder, None)(other)) > 0.25 and cosine(MeanCentered(encoder, means)(other)) < 0.06

"""One's own images in, masks at their own size out, by the library and by the shell."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from ttilib.__main__ import main
from ttilib.datasets.transforms import letterbox
from ttilib.encoders.checkpoints import fingerprint, load_encoder, save_encoder
from ttilib.encoders.layers import MultiLayerEncoder
from ttilib.encoders.pspnet import build_encoder
from ttilib.episodes.clips import clip_from_files
from ttilib.images import read_image, read_labels, write_image, write_labels
from ttilib.plots.video import read_frames
from ttilib.segment import segment
from ttilib.solver.extraction import FeatureExtractor, FeatureMean, measure_means, save_means
from ttilib.solver.methods import read_method, refine_masks
from ttilib.solver.solver import solve

REAL = Path(__file__).resolve().parent.parent.parent / "shared" / "real"

COLOURS = '''
import torch
import torch.nn.functional as F


def load():
    """Mean colour of every 8 x 8 pixels, and their products: enough to tell red from green."""
    def encode(images):
        c = F.interpolate(images, size=tuple((s + 7) // 8 for s in images.shape[2:]), mode="area")
        return torch.cat([c, c.relu(), (-c).relu(), torch.ones_like(c[:, :1])], dim=1)
    return encode
'''


@pytest.fixture
def pictures(tmp_path):
    """Two stills and a short video of a red disk that moves over green grass, 90 x 160 pixels."""
    rng = np.random.default_rng(0)

    def scene(x, y):
        image = np.full((90, 160, 3), (40, 140, 50), np.uint8)
        mask = cv2.circle(np.zeros((90, 160), np.uint8), (x, y), 18, 1, -1)
        image[mask > 0] = (200, 40, 40)
        return np.clip(image + rng.normal(0, 8, image.shape), 0, 255).astype(np.uint8), mask

    for k, (x, y) in enumerate([(50, 40), (110, 50)]):
        image, mask = scene(x, y)
        write_image(tmp_path / f"still{k}.jpg", image)
        write_labels(tmp_path / f"still{k}.png", mask * 255)
    truth = []
    for t in range(5):
        image, mask = scene(40 + 15 * t, 45)
        write_image(tmp_path / "video" / f"{t + 8}.jpg", image)
        truth.append(mask > 0)
    (tmp_path / "colours.py").write_text(COLOURS)
    return tmp_path, truth


def arguments(folder):
    stills, masks = ([str(folder / f"still{k}.{end}") for k in (0, 1)] for end in ("jpg", "png"))
    return stills, masks, folder / "video", folder / "out", f"{folder}/colours.py:load"


def test_masks_lie_on_the_disk_at_the_videos_size_in_the_order_people_count(pictures):
    folder, truth = pictures
    summary = segment(*arguments(folder), size=(97, 161))
    names = [f"{t + 8}.png" for t in range(5)]  # 8, 9, 10, 11, 12: not 10 before 8
    for name, true in zip(names, truth, strict=True):
        mask = read_labels(folder / "out" / "masks" / name) > 0
        assert mask.shape == (90, 160)
        assert (mask & true).sum() / (mask | true).sum() > 0.6, name
    assert summary["frames"] == 5 and summary["keyframe"] is None
    assert json.loads((folder / "out" / "summary.json").read_text()) == summary
    assert (folder / "out" / summary["overlay"]).stat().st_size > 1000


def written(folder, out="out"):
    return np.stack([read_labels(folder / out / "masks" / f"{t + 8}.png") for t in range(5)]) > 0


def by_hand(folder, spec, text, file=None):
    """The same by the steps of the library, with the means in a file if the method wants a pool's."""
    stills, masks, video, _, _ = arguments(folder)
    clip = clip_from_files(stills, masks, list(read_frames(video)), (97, 161))
    encoder, weights, method = load_encoder(spec), "", read_method(text)
    if isinstance(encoder, torch.nn.Module):
        encoder, weights = encoder.eval(), fingerprint(encoder)
    source = FeatureExtractor(encoder, weights, means=file)
    solution = solve(source.task(clip, method.recipe), method.config)
    place = letterbox(90, 160, (97, 161))
    found = refine_masks(solution, clip, method.recipe)
    return np.stack([place.unpad(mask, (90, 160)) for mask in found.numpy()]), solution


@pytest.fixture
def means(pictures):
    """The mean of the frames under the encoder of colours, in a file, and the encoder's name."""
    folder, _ = pictures
    *_, spec = arguments(folder)
    frames = np.stack(list(read_frames(folder / "video"))).transpose(0, 3, 1, 2)[:, :, :89, :153] / 255
    valid = torch.ones((5, 89, 153), dtype=torch.bool)
    found = measure_means(MultiLayerEncoder(load_encoder(spec)), "", [(torch.from_numpy(frames).float(), valid)])
    save_means(folder / "named.means.safetensors", found)
    return found


def test_without_means_those_of_the_pictures_given_are_taken_and_the_method_is_called_so(pictures):
    folder, _ = pictures
    summary = segment(*arguments(folder), size=(97, 161))
    assert summary["method"] == "frozen centring=episode" and summary["means"] is None
    masks, _ = by_hand(folder, summary["encoder"], summary["method"])
    assert np.array_equal(written(folder), masks)
    summary = segment(*arguments(folder), "frozen  steps = 20", size=(97, 161))
    assert summary["method"] == "frozen steps=20 centring=episode"
    with pytest.raises(ValueError, match="centring=pool: no means of this encoder"):
        segment(*arguments(folder), "frozen centring=pool", size=(97, 161))


def test_means_that_are_named_are_taken(pictures, means):
    folder, _ = pictures
    *_, spec = arguments(folder)
    file = folder / "named.means.safetensors"
    summary = segment(*arguments(folder), size=(97, 161), means=file)
    assert summary["method"] == "frozen" and summary["means"] == str(file)
    right = written(folder)
    assert np.array_equal(right, by_hand(folder, spec, "frozen", file)[0])
    save_means(file, replace(means, values=-means.values))  # others lead elsewhere
    segment(*arguments(folder), size=(97, 161), means=file)
    assert not np.array_equal(written(folder), right)
    assert segment(*arguments(folder), "TTI", size=(97, 161), means=file)["means"] is None  # not looked at
    assert segment(*arguments(folder), "frozen centring=episode", size=(97, 161), means=file)["means"] is None


def test_means_that_are_missing_or_of_another_encoder_are_refused(pictures, means):
    folder, _ = pictures
    with pytest.raises(FileNotFoundError, match=r"none\.means\.safetensors: no such file of means"):
        segment(*arguments(folder), size=(97, 161), means=folder / "none.means.safetensors")
    save_means(folder / "other.means.safetensors", replace(means, encoder="0123456789abcdef"))
    with pytest.raises(ValueError, match=r"other\.means\.safetensors: means of the encoder 0123456789abcdef, not of"):
        segment(*arguments(folder), size=(97, 161), means=folder / "other.means.safetensors")
    assert not (folder / "out").exists()


def test_means_beside_a_checkpoint_are_found_and_used(pictures):
    folder, _ = pictures
    network = build_encoder("resnet18-mini", 10, seed=1).eval()
    save_encoder(folder / "best.safetensors", network)
    arguments_here = (*arguments(folder)[:4], str(folder / "best.safetensors"))
    assert segment(*arguments_here, size=(97, 161))["method"] == "frozen centring=episode"
    channels = MultiLayerEncoder(network).channels
    values = torch.rand(sum(channels), generator=torch.Generator().manual_seed(0)) / sum(channels) ** 0.5
    beside = folder / "best.means.safetensors"
    save_means(beside, FeatureMean(fingerprint(network), (), channels, values, 2))
    summary = segment(*arguments_here, size=(97, 161))
    assert summary["method"] == "frozen" and summary["means"] == str(beside)
    masks, _ = by_hand(folder, folder / "best.safetensors", "frozen", beside)
    assert np.array_equal(written(folder), masks)


@pytest.mark.parametrize("text", ["TTI", "TTI+keyframe window=5", "frozen centring=episode guided=0"])
def test_any_method_gives_the_masks_that_the_library_gives(pictures, text):
    folder, _ = pictures
    *_, spec = arguments(folder)
    summary = segment(*arguments(folder), text, size=(97, 161))
    masks, solution = by_hand(folder, spec, text)
    assert summary["method"] == text and np.array_equal(written(folder), masks)
    assert summary["keyframe"] == (None if solution.keyframe is None else str(solution.keyframe + 8))
    assert summary["foreground"] == [round(float(mask.mean()), 4) for mask in masks]


def test_masks_are_fitted_to_the_frames(pictures):
    folder, truth = pictures
    ious = []
    for text in ("frozen guided=0 cut=0", "frozen"):
        segment(*arguments(folder), text, size=(97, 161))
        masks = written(folder)
        ious.append((masks & truth).sum() / (masks | truth).sum())
    assert ious[1] > ious[0] + 0.05


@pytest.mark.parametrize("text", ["oracle", "TTI prior=oracle noise=0.2"])
def test_a_method_that_needs_the_ground_truth_is_refused(pictures, text):
    folder, _ = pictures
    with pytest.raises(ValueError, match=f"{text} needs the ground truth"):
        segment(*arguments(folder), text, size=(97, 161))
    assert not (folder / "out").exists()


def test_the_shell_says_what_it_made_and_what_is_wrong(pictures, capsys):
    folder, _ = pictures
    stills, masks, video, out, encoder = arguments(folder)
    command = ["segment", "--support", *stills, "--masks", *masks, "--video", str(video), "--out", str(out)]
    assert main([*command, "--encoder", encoder, "--size", "97", "161"]) == 0
    assert "5 masks" in capsys.readouterr().out
    assert json.loads((out / "summary.json").read_text())["method"] == "frozen centring=episode"
    assert main([*command, "--encoder", encoder, "--method", "magic"]) == 2
    assert "there is no method 'magic'; choose one of fine-tune" in capsys.readouterr().err
    assert main([*command, "--encoder", encoder, "--means", str(folder / "none.safetensors")]) == 2
    assert capsys.readouterr().err.count("none.safetensors: no such file of means") == 1
    assert main([*command, "--encoder", encoder, "--size", "97", "161", "--method", "TTI window=5"]) == 0
    said = capsys.readouterr()
    assert said.out.count("\n") == 1 and not said.err
    assert json.loads((out / "summary.json").read_text())["method"] == "TTI window=5"
    assert main([*command[:-3], str(folder / "none"), "--out", str(out), "--encoder", encoder]) == 2
    assert "none" in capsys.readouterr().err
    assert main(["run", str(folder / "none.ipynb"), str(folder / "out.ipynb")]) == 2
    assert "no such notebook" in capsys.readouterr().err


@pytest.mark.skipif(not REAL.is_dir(), reason="no real images beside the checkout (../shared/real)")
def test_a_short_real_episode(tmp_path):
    """Stills of buses, a bus in six frames, a network trained on real images: a mask a person accepts."""
    stills = [line.split() for line in (REAL / "voc" / "train.txt").read_text().splitlines()]
    buses = []
    for image, mask in stills:
        labels = read_labels(REAL / "voc" / mask)
        if set(np.unique(labels)) <= {0, 6, 255} and (labels == 6).mean() > 0.1:
            buses.append((str(REAL / "voc" / image), str(REAL / "voc" / mask)))
    frames = sorted((REAL / "davis" / "JPEGImages" / "bus").glob("*.jpg"))[:12:2]
    for path in frames:
        write_image(tmp_path / "video" / path.name, read_image(path))
    images, masks = zip(*buses[:5], strict=True)
    segment(images, masks, tmp_path / "video", tmp_path / "out", f"{REAL}/encoder.py:load", size=(161, 281), label=6)
    inside = united = 0
    for path in frames:
        true = read_labels(REAL / "davis" / "Annotations" / "bus" / f"{path.stem}.png") == 6
        mask = read_labels(tmp_path / "out" / "masks" / f"{path.stem}.png") > 0
        inside, united = inside + (mask & true).sum(), united + (mask | true).sum()
    assert inside / united > 0.45

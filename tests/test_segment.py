"""A user's own images in, masks at the video's size out, by the library and by the command."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import real
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
from ttilib.solver.extraction import FeatureExtractor, FeatureMean, save_means
from ttilib.solver.methods import read_method

SIZE = (97, 161)
ENCODER = '''
import torch
import torch.nn.functional as F


def load():
    """Mean colour of every 8 x 8 pixels, and what is above and below 0: enough to distinguish red from green."""
    def encode(images):
        c = F.interpolate(images, size=tuple((s + 7) // 8 for s in images.shape[2:]), mode="area")
        return torch.cat([c, c.relu(), (-c).relu(), torch.ones_like(c[:, :1])], dim=1)
    return encode
'''


@pytest.fixture
def folder(tmp_path):
    """Two support images and a video of a red disk that moves over grass, 90 x 160 pixels; masks with 2 labels."""
    rng = np.random.default_rng(0)

    def write(path, x, y):
        image = np.full((90, 160, 3), (40, 140, 50), np.uint8)
        mask = cv2.circle(np.zeros((90, 160), np.uint8), (x, y), 18, 3, -1)
        image[mask > 0] = (200, 40, 40)
        write_image(path.with_suffix(".jpg"), np.clip(image + rng.normal(0, 8, image.shape), 0, 255).astype(np.uint8))
        mask[-9:, -9:] = 5  # another object
        write_labels(path.with_suffix(".png"), mask)

    for k, (x, y) in enumerate([(50, 40), (110, 50)]):
        write(tmp_path / f"image{k}", x, y)
    for t in range(8, 12):  # 8, 9, 10, 11: not 10 before 8
        write(tmp_path / "video" / f"{t}", 3 * t, 45)
        (tmp_path / "video" / f"{t}.png").rename(tmp_path / f"{t}.png")
    (tmp_path / "encoder.py").write_text(ENCODER)
    return tmp_path


def run(folder, method="frozen", encoder=None, label=3, **options):
    """The summary, and the masks that were written."""
    images, masks = ([folder / f"image{k}.{end}" for k in (0, 1)] for end in ("jpg", "png"))
    encoder = encoder or f"{folder}/encoder.py:load"
    summary = segment(
        images, masks, folder / "video", folder / "out", encoder, method, SIZE, label=label, **options
    )
    return summary, np.stack([read_labels(folder / "out" / "masks" / f"{t}.png") for t in range(8, 12)]) > 0


def by_steps(folder, text, spec=None, means=None, label=3):
    """The same by the steps of the library."""
    images, masks = ([folder / f"image{k}.{end}" for k in (0, 1)] for end in ("jpg", "png"))
    clip = clip_from_files(images, masks, list(read_frames(folder / "video")), SIZE, label=label)
    encoder = load_encoder(spec or f"{folder}/encoder.py:load")
    identity = fingerprint(encoder.eval()) if isinstance(encoder, torch.nn.Module) else ""
    found = read_method(text).predict(clip, FeatureExtractor(encoder, identity, means=means))
    placement = letterbox(90, 160, SIZE)
    return np.stack([placement.unpad(mask, (90, 160)) for mask in found.masks.numpy()]), found.solution


def test_masks_lie_on_the_object_at_the_size_of_the_video(folder):
    truth = np.stack([read_labels(folder / f"{t}.png") == 3 for t in range(8, 12)])
    ious = {}
    for text in ("frozen guided=0 cut=0", "frozen"):
        summary, masks = run(folder, text)
        ious[text] = (masks & truth).sum() / (masks | truth).sum()
    assert masks.shape == (4, 90, 160) and ious["frozen"] > max(0.8, ious["frozen guided=0 cut=0"] + 0.05)
    assert summary["frames"] == 4 and summary["keyframe"] is None
    assert summary["foreground"] == [round(float(mask.mean()), 4) for mask in masks]
    assert json.loads((folder / "out" / "summary.json").read_text()) == summary
    assert (folder / "out" / summary["overlay"]).stat().st_size > 1000
    assert not np.array_equal(run(folder, label=5)[1], masks)
    with pytest.raises(ValueError, match="label"):
        run(folder, label=None)


@pytest.mark.parametrize("text", ["TTI+keyframe window=5", "frozen centring=episode guided=0"])
def test_any_method_gives_the_masks_of_the_library(folder, text):
    summary, masks = run(folder, text)
    expected, solution = by_steps(folder, text)
    assert summary["method"] == text and np.array_equal(masks, expected) and summary["means"] is None
    assert summary["keyframe"] == (None if solution.keyframe is None else str(solution.keyframe + 8))


def test_without_a_mean_the_clip_gives_one_and_the_method_is_named_so(folder):
    summary, masks = run(folder, "frozen  steps = 20")
    assert summary["method"] == "frozen steps=20 centring=episode" and summary["means"] is None
    assert np.array_equal(masks, by_steps(folder, summary["method"])[0])
    with pytest.raises(ValueError, match="centring=pool: no means of this encoder"):
        run(folder, "frozen centring=pool")
    with pytest.raises(ValueError, match="oracle needs the ground truth"):
        run(folder, "oracle")


def test_a_mean_is_read_from_the_named_file_or_the_one_beside_the_checkpoint(folder):
    network, spec = build_encoder("resnet18-mini", 10, seed=1).eval(), folder / "best.safetensors"
    save_encoder(spec, network)
    channels = MultiLayerEncoder(network).channels
    values = torch.rand(sum(channels), generator=torch.Generator().manual_seed(0)) / sum(channels) ** 0.5
    means = FeatureMean(fingerprint(network), (), channels, values, 2)
    beside, named = folder / "best.means.safetensors", folder / "named.means.safetensors"
    save_means(beside, means)
    save_means(named, replace(means, values=-values))
    for path, options in ((beside, {}), (named, {"means": named})):
        summary, masks = run(folder, "frozen steps=9", str(spec), **options)
        assert summary["method"] == "frozen steps=9" and summary["means"] == str(path)
        assert np.array_equal(masks, by_steps(folder, "frozen steps=9", spec, path)[0])
    with pytest.raises(ValueError, match=r"named\.means\.safetensors: no mean is subtracted by TTI"):
        run(folder, "TTI", str(spec), means=named)
    save_means(named, replace(means, encoder="0123456789abcdef"))
    with pytest.raises(ValueError, match=r"named\.means\.safetensors: .*0123456789abcdef"):
        run(folder, "frozen", str(spec), means=named)
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors"):
        run(folder, means=folder / "none.safetensors")


def test_the_command_reports_what_it_wrote_and_what_is_wrong(folder, capsys):
    words = ["segment", "--support", *(str(folder / f"image{k}.jpg") for k in (0, 1)), "--masks"]
    words += [*(str(folder / f"image{k}.png") for k in (0, 1)), "--video", str(folder / "video"), "--label", "3"]
    words += ["--out", str(folder / "out"), "--encoder", f"{folder}/encoder.py:load", "--size", "97", "161"]
    assert main([*words, "--method", "TTI window=5"]) == 0
    captured = capsys.readouterr()
    assert "4 masks" in captured.out and captured.out.count("\n") == 1 and not captured.err
    assert json.loads((folder / "out" / "summary.json").read_text())["method"] == "TTI window=5"
    for wrong, word in ((["--method", "magic"], "'magic'"), (["--means", "none.safetensors"], "none.safetensors")):
        assert main([*words, *wrong]) == 2
        assert word in capsys.readouterr().err


@pytest.mark.skipif(not real.available(), reason=real.MISSING)
def test_a_short_real_episode(tmp_path):
    """Images of buses, a bus in six frames, a network trained on ImageNet."""
    voc, davis = real.FOLDER / "voc", real.FOLDER / "davis"
    pairs = [[voc / name for name in line.split()] for line in (voc / "train.txt").read_text().splitlines()]
    labels = [read_labels(mask) for _, mask in pairs]
    fits = [set(np.unique(each)) <= {0, 6, 255} and (each == 6).mean() > 0.1 for each in labels]
    buses = [pair for pair, fit in zip(pairs, fits, strict=True) if fit][:5]
    frames = sorted((davis / "JPEGImages" / "bus").glob("*.jpg"))[:12:2]
    for path in frames:
        write_image(tmp_path / "video" / path.name, read_image(path))
    images, masks = zip(*buses, strict=True)
    encoder = f"{real.FOLDER}/encoder.py:load"
    segment(images, masks, tmp_path / "video", tmp_path / "out", encoder, size=(161, 281), label=6)
    truth = np.stack([read_labels(davis / "Annotations" / "bus" / f"{path.stem}.png") == 6 for path in frames])
    found = np.stack([read_labels(tmp_path / "out" / "masks" / f"{path.stem}.png") > 0 for path in frames])
    assert (found & truth).sum() / (found | truth).sum() > 0.45

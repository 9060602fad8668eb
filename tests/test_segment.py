"""One's own pictures in, masks at their own size out, by the library and by the shell."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from ttilib.__main__ import main
from ttilib.images import read_image, read_labels, write_image, write_labels
from ttilib.segment import segment

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
    assert summary["frames"] == 5 and summary["keyframe"] in {"8", "9", "10", "11", "12"}
    assert json.loads((folder / "out" / "summary.json").read_text()) == summary
    assert (folder / "out" / summary["overlay"]).stat().st_size > 1000


def test_the_shell_says_what_it_made_and_what_is_wrong(pictures, capsys):
    folder, _ = pictures
    stills, masks, video, out, encoder = arguments(folder)
    command = ["segment", "--support", *stills, "--masks", *masks, "--video", str(video), "--out", str(out)]
    assert main([*command, "--encoder", encoder, "--size", "97", "161"]) == 0
    assert "5 masks" in capsys.readouterr().out
    assert main([*command, "--encoder", encoder, "--method", "magic"]) == 2
    assert "method 'magic' is not known; choose one of fine-tune" in capsys.readouterr().err
    assert main([*command[:-3], str(folder / "none"), "--out", str(out), "--encoder", encoder]) == 2
    assert "none" in capsys.readouterr().err
    assert main(["run", str(folder / "none.ipynb"), str(folder / "out.ipynb")]) == 2
    assert "no such notebook" in capsys.readouterr().err


@pytest.mark.skipif(not REAL.is_dir(), reason="no real pictures beside the checkout (../shared/real)")
def test_a_short_real_episode(tmp_path):
    """Stills of buses, a bus in six frames, a network trained on real pictures: a mask a person accepts."""
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

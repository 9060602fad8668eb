"""Moving images: the mask moves with the image, the same name gives the same pixels, no clip supports itself."""

import numpy as np
import pytest
from corpora import pascal
from PIL import Image

from ttilib.datasets.pascal import FRAMES, MovingReader, camera
from ttilib.episodes.benchmarks import draw_episodes, read_benchmark


@pytest.fixture
def root(tmp_path):
    """Three images of one class: a bright square on black, where the mask is."""
    masks = {name: np.zeros((60, 80), dtype=np.uint8) for name in ("a", "b", "c")}
    for mask in masks.values():
        mask[20:44, 28:56] = 1
    root = pascal(tmp_path / "pascal", masks, tuple(masks))
    for name, mask in masks.items():
        Image.fromarray(200 * np.dstack([mask] * 3)).save(root / "JPEGImages" / f"{name}.jpg", quality=95)
    return root


def test_the_mask_moves_with_the_image(root):
    reader, seen = MovingReader(root), []
    for number in range(FRAMES):
        image, mask = reader.image(f"a/{number}"), reader.mask(f"a/{number}", 1) == 1
        bright = image.mean(axis=2) > 100
        assert (bright & mask).sum() > 0.93 * (bright | mask).sum() and mask.any()
        np.testing.assert_array_equal(image, MovingReader(root).image(f"a/{number}"))
        seen.append(mask)
    assert (seen[0] != seen[-1]).any()
    for t in (0, 0.3, 1):
        corners, _ = camera("a", (60, 80), t)
        assert (corners >= 0).all() and (corners <= (79, 59)).all()


@pytest.mark.parametrize("draws", ["released", "independent"])
def test_the_support_is_of_other_images(root, draws):
    data = read_benchmark("moving-pascal", 0, root.parent)
    episodes = draw_episodes(data, 2, draws=draws)
    assert [len(episode.query) for episode in episodes] == [FRAMES] * 3
    for episode in episodes:
        assert {*episode.support, episode.query[0].split("/")[0]} == {"a", "b", "c"}

"""Masks drawn on an image: the pixels of each tool, the file that is written, and no other."""

import numpy as np
import pytest

from ttilib.images import read_labels, write_image
from ttilib.plots.draw import MaskDrawing


@pytest.fixture
def drawing(tmp_path):
    """An orange rectangle, rows 20 to 39 and columns 30 to 54, on blue ground, both noisy."""
    pixels = np.full((60, 90, 3), (40, 90, 150))
    pixels[20:40, 30:55] = 200, 80, 50
    pixels += np.random.default_rng(0).integers(0, 20, pixels.shape)
    write_image(tmp_path / "a.png", pixels.astype(np.uint8))
    return MaskDrawing(tmp_path / "a.png", tmp_path / "a.mask.png")


def pixels_of(*boxes):
    mask = np.zeros((60, 90), bool)
    for rows, columns in boxes:
        mask[rows, columns] = True
    return mask


def test_each_stroke_changes_its_pixels_and_the_file(drawing, tmp_path):
    found, small, corner = (slice(20, 40), slice(30, 55)), (slice(5, 8), slice(70, 81)), (slice(0, 11), slice(0, 6))
    for tool, points, expected in (
        ("grabcut", [[25.5, 15.2], [60, 45]], [found]),
        ("box", [[80.9, 7.1], [70.2, 5.8]], [found, small]),
        ("polygon", [[-9, -9], [5, -9], [5, 10], [-9, 10]], [found, small, corner]),
        ("undo", [], [found, small]),
        ("eraser", [[69, 5], [90, 5]], [found, (slice(6, 8), slice(70, 81))]),
        ("brush", [[69, 5], [90, 5]], [found, (slice(6, 8), slice(70, 81)), (slice(5, 6), slice(69, 90))]),
        ("clear", [], []),
        ("grabcut", [[-5, -5], [500, 500]], [(slice(60), slice(90))]),  # no ground is left to compare with
    ):
        drawing.draw({"tool": tool, "points": points})
        assert np.array_equal(drawing.mask, pixels_of(*expected)), tool
        assert np.array_equal(read_labels(tmp_path / "a.mask.png"), 255 * drawing.mask)
    assert drawing.done == 8 and MaskDrawing(tmp_path / "a.png", tmp_path / "a.mask.png").mask.all()


@pytest.mark.parametrize("change", [{"tool": "rm"}, {"points": [[1e9, 1]]}, {"points": [[np.nan, 1]]}, {"width": 0}])
def test_what_is_no_stroke_changes_nothing(drawing, tmp_path, change):
    with pytest.raises(ValueError, match=r"a\.mask\.png.*(tool|points|width)"):
        drawing.draw({"tool": "brush", "points": [[1, 1]], "width": 3, **change})
    with pytest.raises(ValueError, match=r"a\.png: cannot hold"):
        MaskDrawing(tmp_path / "a.png", tmp_path / "x" / ".." / "a.png")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]

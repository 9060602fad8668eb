"""Segmentations decode to the right masks; every mask is counted right, and again only when its file changes."""

import json
import os

import msgspec
import numpy as np
import pytest
from corpora import block, broken_png, compressed, palette_png, polygon, run_lengths
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ttilib.datasets import masks as module
from ttilib.datasets.masks import census, decode, large_labels
from ttilib.images import write_labels


@given(arrays.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_both_run_lengths_of_any_mask_give_it_back(mask):
    for segmentation in (run_lengths(mask), compressed(mask)):
        np.testing.assert_array_equal(decode(segmentation, *mask.shape), mask)
        np.testing.assert_array_equal(decode(msgspec.Raw(json.dumps(segmentation).encode()), *mask.shape), mask)


def test_polygons_by_hand():
    rectangle = decode(polygon(2, 5, 6, 9) + polygon(12, 1, 2, 3), 18, 32)
    assert rectangle[2:8, 5:14].all() and rectangle.sum() == 54 + 6
    triangle = decode([[2.0, 2.0, 10.0, 2.0, 2.0, 10.0], [2.0, 2.0, 10.0, 2.0]], 12, 14)
    assert triangle[3, 3] and not triangle[9, 9] and 24 <= triangle.sum() <= 40  # half of 8 x 8, more or less an edge
    assert not decode([[1.0, 1.0, 2.0, 2.0]], 18, 32).any()  # two corners have no inside


@pytest.mark.parametrize(
    ("segmentation", "word"),
    [
        ({"size": [5, 4], "counts": [20]}, "size"),
        ({"size": [4, 5], "counts": [19]}, "add up to 19"),
        ({"size": [4, 5], "counts": "0"}, "add up to 0"),
        ([[1, 2, float("nan"), 4, 5, 6]], "outside"),
        ([[0, 0, 9, 9] * 10**5], "longer"),
    ],
)
def test_segmentations_that_do_not_fit_are_refused(segmentation, word):
    with pytest.raises(ValueError, match=f"^here: .*{word}"):
        decode(segmentation, 4, 5, "here")


def masks(folder, labels=(3, 5, 255)):
    """Maps of 18 x 32 = 576 pixels with a rectangle of 4 * (place + 1) pixels of each label."""
    paths = [folder / f"{place}.png" for place in range(len(labels))]
    for place, label in enumerate(labels):
        write_labels(paths[place], block(label, 2, 3, place + 1, 4))
    return paths


def test_masks_are_counted_in_order_and_a_failure_is_not_remembered(tmp_path):
    first, second, third = masks(tmp_path)
    broken_png(second, "cut off")
    with pytest.raises(ValueError, match=r"1\.png"):
        census([first, second])
    palette_png(second, block(6, 0, 0, 2, 2))
    found = census([third, first, second, third])
    assert list(found.items()) == [(third, {0: 564, 255: 12}), (first, {0: 572, 3: 4}), (second, {0: 572, 6: 4})]


def test_large_labels_by_hand():
    counts = {0: 60, 1: 20, 2: 15, 255: 5}
    assert large_labels(counts, {}) == {0, 1, 2, 255}
    assert large_labels(counts, {"min_pixels": 16}) == large_labels(counts, {"min_share": 0.2}) == {0, 1}


def test_saved_counts_are_used_while_the_file_is_unchanged_and_move_with_the_folder(tmp_path, monkeypatch):
    paths = masks(tmp_path / "here" / "data" / "a b")
    cached = tmp_path / "here" / "lists" / "census.json"
    counts = census(paths[:2], cached=cached, save=True)
    assert [*json.loads(cached.read_text())] == ["../data/a b"]
    cached.write_text(cached.read_text().replace("568,5,8", "575,77,1"))  # so that it is seen which are read
    (tmp_path / "here").rename(tmp_path / "there")
    moved = [tmp_path / "there" / path.relative_to(tmp_path / "here") for path in paths]
    monkeypatch.setattr(module, "_counted", {})
    found = census(moved, cached=tmp_path / "there" / "lists" / "census.json")
    assert list(found.values()) == [counts[paths[0]], {0: 575, 77: 1}, {0: 564, 255: 12}]
    before = moved[1].stat()
    write_labels(moved[1], block(4, 2, 3, 2, 4))
    os.utime(moved[1], ns=(before.st_atime_ns, before.st_mtime_ns))
    assert moved[1].stat()[6:9:2] == before[6:9:2]  # the same size and time: only the system's own time tells
    for _ in range(2):
        assert census(moved, cached=tmp_path / "there" / "lists" / "census.json")[moved[1]] == {0: 568, 4: 8}
        monkeypatch.setattr(module, "_counted", {})


@pytest.mark.parametrize("text", ["{", '{".": {"0.png": [1, 2, 3, "0", 576]}}'])
def test_two_processes_count_like_one_and_damaged_counts_are_reported_and_not_used(tmp_path, monkeypatch, text):
    monkeypatch.setattr(module, "MANY", 6)
    paths, cached, errors = masks(tmp_path, range(1, 10)), tmp_path / "census.json", []
    cached.write_text(text)
    broken = [broken_png(paths[n], "empty") for n in (2, 7)]
    found = census(paths, errors.append, workers=2, cached=cached)
    assert found == {path: {0: 572 - 4 * n, n + 1: 4 * n + 4} for n, path in enumerate(paths) if path not in broken}
    assert [str(error).split(": ")[0] for error in errors] == [str(path) for path in (cached, *broken)]

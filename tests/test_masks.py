"""Segmentations decode to the right masks; every mask is counted right, and again only when its file changes."""

import json
import os

import numpy as np
import pytest
from corpora import block, broken_png, compressed, palette_png, polygon, run_lengths
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ttilib.datasets import masks as module
from ttilib.datasets.masks import census, count, decode, large_labels, rle_error, rle_to_array
from ttilib.images import write_labels


@given(arrays.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_both_run_lengths_of_any_mask_give_it_back(mask):
    plain = run_lengths(mask)
    read = json.loads(json.dumps({"outer": [plain, None]}), object_hook=rle_to_array)["outer"][0]
    assert isinstance(read["counts"], np.ndarray) and read["size"] == list(mask.shape)
    for segmentation in (plain, read, compressed(mask)):
        np.testing.assert_array_equal(decode(segmentation, *mask.shape), mask)


def test_polygons_by_hand():
    rectangle = decode(polygon(2, 5, 6, 9) + polygon(12, 1, 2, 3), 18, 32)
    assert rectangle[2:8, 5:14].all() and rectangle.sum() == 54 + 6
    triangle = decode([[2.0, 2.0, 10.0, 2.0, 2.0, 10.0], [2.0, 2.0, 10.0, 2.0]], 12, 14)
    assert triangle[3, 3] and not triangle[9, 9] and 24 <= triangle.sum() <= 40  # half of 8 x 8, more or less an edge
    assert not decode([[1.0, 1.0, 2.0, 2.0]], 18, 32).any()  # two corners have no inside


@pytest.mark.parametrize(
    ("segmentation", "wrong"),
    [
        ({"size": [4, 5], "counts": [20]}, ""),
        ([[0.0, 0.0, 1.0]], ""),
        ({"size": [5, 4], "counts": [20]}, "size"),
        ({"size": [4, 5], "counts": [19]}, "add up to 19"),
        ({"size": [4, 5], "counts": [25, -5]}, "whole numbers"),
        ({"size": [4, 5], "counts": [19.5, 0.5]}, "whole numbers"),
        ({"counts": [20]}, "expected polygons"),
    ],
)
def test_what_a_segmentation_must_fit(segmentation, wrong):
    for form in (segmentation, rle_to_array(segmentation) if isinstance(segmentation, dict) else segmentation):
        assert bool(rle_error(form, 4, 5)) == bool(wrong)
        if wrong:
            with pytest.raises(ValueError, match=f"^here: .*{wrong}"):
                decode(form, 4, 5, "here")


def masks(folder, labels=(3, 5, 255)):
    """Maps of 18 x 32 = 576 pixels with a rectangle of 4 * (place + 1) pixels of each label."""
    paths = []
    for place, label in enumerate(labels):
        paths.append(folder / f"{place}.png")
        write_labels(paths[-1], block(label, 2, 3, place + 1, 4))
    return paths


@given(arrays.arrays(np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, max_side=40)))
def test_counts_are_those_of_a_slow_program(labels):
    values, pixels = np.unique(labels, return_counts=True)
    assert list(count(labels).items()) == list(zip(values.tolist(), pixels.tolist(), strict=True))


def test_large_labels_by_hand():
    counts = {0: 60, 1: 20, 2: 15, 255: 5}
    assert large_labels(counts, {}) == {0, 1, 2, 255}
    assert large_labels(counts, {"min_pixels": 16}) == large_labels(counts, {"min_share": 0.2}) == {0, 1}


def test_masks_are_counted_in_the_order_given(tmp_path, capfd):
    first, second, third = masks(tmp_path)
    palette_png(second, block(6, 0, 0, 2, 2))
    found = census([third, first, second, third])
    assert list(found.items()) == [(third, {0: 564, 255: 12}), (first, {0: 572, 3: 4}), (second, {0: 572, 6: 4})]
    assert capfd.readouterr().err == "" and len(list(tmp_path.iterdir())) == 3  # no progress bar, no file


@pytest.mark.parametrize("how", ["missing", "cut off"])
def test_an_unreadable_mask_is_raised_or_reported(tmp_path, how):
    paths = masks(tmp_path)
    broken_png(paths[1], how)
    with pytest.raises((ValueError, FileNotFoundError), match=r"1\.png"):
        census(paths)
    errors = []
    assert census(paths, errors.append) == {paths[0]: {0: 572, 3: 4}, paths[2]: {0: 564, 255: 12}}
    assert len(errors) == 1 and str(errors[0]).startswith(f"{paths[1]}: ")
    write_labels(paths[1], block(8, 0, 0, 1, 1))  # repaired: the failure is not remembered
    assert census(paths)[paths[1]] == {0: 575, 8: 1}


def test_a_changed_mask_is_counted_again_and_an_unchanged_one_is_not(tmp_path):
    (path,) = masks(tmp_path, (3,))
    census([path])
    before = path.stat()
    write_labels(path, block(4, 2, 3, 1, 4))  # the same size on disk
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert census([path]) == {path: {0: 572, 4: 4}}
    write_labels(path, block(5, 2, 3, 1, 4))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))  # pretends to be unchanged
    assert census([path]) == {path: {0: 572, 4: 4}}


def test_saved_counts_are_used_while_size_and_time_agree_and_move_with_the_folder(tmp_path, monkeypatch):
    paths = masks(tmp_path / "here" / "data" / "a b")
    cached = tmp_path / "here" / "lists" / "census.json"
    counts = census(paths[:2], cached=cached, save=True)
    content = json.loads(cached.read_text())
    stamp = paths[1].stat()
    assert content == {"../data/a b": content["../data/a b"]}
    assert content["../data/a b"]["1.png"] == [stamp.st_size, stamp.st_mtime_ns, 0, 568, 5, 8]
    cached.write_text(cached.read_text().replace("568,5,8", "575,77,1"))  # so that it is seen which are read
    (tmp_path / "here").rename(tmp_path / "there")
    moved = [tmp_path / "there" / path.relative_to(tmp_path / "here") for path in paths]
    monkeypatch.setattr(module, "_counted", {})
    found = census(moved, cached=tmp_path / "there" / "lists" / "census.json")
    assert list(found.values()) == [counts[paths[0]], {0: 575, 77: 1}, {0: 564, 255: 12}]
    os.utime(moved[1], ns=(0, 12345))
    assert census(moved, cached=tmp_path / "there" / "lists" / "census.json")[moved[1]] == {0: 568, 5: 8}


@pytest.mark.parametrize("text", ["{", "[]", '{".": {"0.png": 7}}'])
def test_a_damaged_file_of_counts_is_reported_and_not_used(tmp_path, text):
    paths, errors = masks(tmp_path), []
    (tmp_path / "census.json").write_text(text)
    assert census(paths, errors.append, cached=tmp_path / "census.json")[paths[0]] == {0: 572, 3: 4}
    assert len(errors) == 1 and "census.json" in str(errors[0]) and "delete" in str(errors[0])


def test_two_processes_count_like_one(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MANY", 6)
    paths = [tmp_path / f"{n}.png" for n in range(9)]
    for n, path in enumerate(paths):
        write_labels(path, np.full((3, 5), n, dtype=np.uint8))
    broken, errors = [broken_png(paths[n], "empty") for n in (2, 7)], []
    found = census(paths, errors.append, workers=2)
    assert found == {path: {n: 15} for n, path in enumerate(paths) if path not in broken}
    assert [str(error).split(": ")[0] for error in errors] == [str(path) for path in broken]

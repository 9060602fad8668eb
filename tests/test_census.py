"""Every mask is counted right, counted once while it is unchanged, and counted again when it is not."""

import json
import os

import numpy as np
import pytest
from corpora import block, broken_png, palette_png
from hypothesis import given
from hypothesis.extra import numpy as arrays

from ttilib.datasets import masks as room
from ttilib.datasets.masks import census, count, write_census
from ttilib.images import write_labels


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


def test_counts_are_exact_where_float32_is_not():
    labels = np.zeros((4097, 4096), dtype=np.uint8)
    labels[7, 7] = 200
    assert count(labels) == {0: 4097 * 4096 - 1, 200: 1}  # 16781311 is odd and above 2 ** 24
    labels[:4095] = labels[4095, 0] = 9  # 2 ** 24 - 4095 pixels in all but the last rows
    assert count(labels[:4096]) == {0: 4095, 9: 4095 * 4096 + 1}


def test_many_masks_by_hand_in_the_order_given(tmp_path, capfd):
    first, second, third = masks(tmp_path)
    palette_png(second, block(6, 0, 0, 2, 2))
    found = census([third, first, second, third])
    assert list(found.items()) == [(third, {0: 564, 255: 12}), (first, {0: 572, 3: 4}), (second, {0: 572, 6: 4})]
    assert census([]) == {} and capfd.readouterr().err == ""  # a few masks need no bar
    assert len(list(tmp_path.iterdir())) == 3  # nothing is written unless it is asked for


@pytest.mark.parametrize("how", ["missing", "empty", "cut off", "not an image"])
def test_a_mask_that_cannot_be_read_stops_or_is_told_and_left_out(tmp_path, how):
    paths = masks(tmp_path)
    broken_png(paths[1], how)
    with pytest.raises((ValueError, FileNotFoundError), match=r"1\.png: "):
        census(paths)
    errors = []
    assert census(paths, errors.append) == {paths[0]: {0: 572, 3: 4}, paths[2]: {0: 564, 255: 12}}
    assert len(errors) == 1 and str(errors[0]).startswith(f"{paths[1]}: ")
    write_labels(paths[1], block(8, 0, 0, 1, 1))  # mended: the failure is not remembered
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
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))  # pretends to be unchanged: nobody looks
    assert census([path]) == {path: {0: 572, 4: 4}}


def test_kept_counts_spare_the_reading_while_size_and_time_agree(tmp_path):
    paths = masks(tmp_path / "data" / "seq" / "mask")
    kept = tmp_path / "lists" / "census.json"
    write_census(kept, {path: {77: 1} for path in paths[:2]})  # wrong on purpose: so it is seen which are read
    os.utime(paths[1], ns=(0, 12345))
    found = census(paths, kept=kept)
    assert found == {paths[0]: {77: 1}, paths[1]: {0: 568, 5: 8}, paths[2]: {0: 564, 255: 12}}
    assert census(paths, kept=tmp_path / "absent.json") == found


def test_kept_counts_go_along_with_the_folder(tmp_path):
    (path,) = masks(tmp_path / "here" / "data" / "seq" / "mask", (3,))
    write_census(tmp_path / "here" / "lists" / "census.json", {path: {77: 1}})
    there = (tmp_path / "here").rename(tmp_path / "there")
    (moved,) = (there / "data").rglob("*.png")
    assert census([moved], kept=there / "lists" / "census.json") == {moved: {77: 1}}
    text = (there / "lists" / "census.json").read_text()
    assert str(tmp_path) not in text and list(json.loads(text)) == ["../data/seq/mask"]


def test_what_is_written_is_what_was_counted(tmp_path):
    paths = [*masks(tmp_path / "a b"), *masks(tmp_path / "c")]
    kept, counts = tmp_path / "lists" / "census.json", census(paths)
    os.utime(paths[0], ns=(0, 99))  # changed after it was counted: what is written must not speak for it
    write_census(kept, counts)
    content = json.loads(kept.read_text())
    assert set(content) == {"../a b", "../c"} and content["../c"]["0.png"][2:] == [0, 572, 3, 4]
    stamp = paths[4].stat()
    assert content["../c"]["1.png"] == [stamp.st_size, stamp.st_mtime_ns, 0, 568, 5, 8]
    assert content["../a b"]["0.png"][1] != 99
    assert len(kept.read_text().splitlines()) == 2
    write_census(kept, {})
    assert json.loads(kept.read_text()) == {} and [path.name for path in kept.parent.iterdir()] == ["census.json"]


@pytest.mark.parametrize("text", ["{", "[]", '{"..": []}', '{"..": {"0.png": 7}}', ""])
def test_a_kept_file_that_is_none_is_told_and_done_without(tmp_path, text):
    paths = masks(tmp_path)
    kept = tmp_path / "lists" / "census.json"
    kept.parent.mkdir()
    kept.write_text(text)
    errors = []
    assert census(paths, errors.append, kept=kept)[paths[0]] == {0: 572, 3: 4}
    assert len(errors) == 1 and "census.json: not a file of label counts" in str(errors[0])
    assert "delete it" in str(errors[0])


def test_two_processes_count_like_one_show_a_bar_and_tell_errors_in_order(tmp_path, capfd):
    paths = [tmp_path / f"{n}.png" for n in range(room.MANY + 40)]
    for n, path in enumerate(paths):
        write_labels(path, np.full((3, 5), n % 251, dtype=np.uint8))
    broken = [paths[20], paths[400]]
    for path in broken:
        broken_png(path, "empty")
    errors = []
    found = census(paths, errors.append, workers=2)
    assert list(found) == [path for path in paths if path not in broken]
    assert all(found[path] == {n % 251: 15} for n, path in enumerate(paths) if path not in broken)
    assert [str(error).split(": ")[0] for error in errors] == [str(path) for path in broken]
    said = capfd.readouterr()
    assert "counting labels" in said.err and f"/{len(paths)}" in said.err and said.out == ""

"""Masks come back from disk as they were written, and what is not there is named."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ttilib.results.records import append_masks, read_masks


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < 0.4


def named(key="abc", index=0, method="TTI") -> dict:
    return {"key": key, "index": index, "method": method}


@settings(deadline=None, max_examples=60)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9)), seed=st.integers(0, 99),
    fill=st.sampled_from([None, True, False]),
)  # fmt: skip
def test_masks_of_any_size_come_back(tmp_path_factory, shape, seed, fill):
    path = tmp_path_factory.mktemp("masks") / "masks.jsonl"
    masks = noise(seed, *shape) if fill is None else torch.full(shape, fill)
    append_masks(path, named(), masks)
    found = read_masks(path, "abc", 0, "TTI")
    assert found.dtype == torch.bool and torch.equal(found, masks)


def test_numpy_masks_a_whole_row_and_no_frames_at_all(tmp_path):
    path = tmp_path / "new" / "masks.jsonl"
    append_masks(str(path), named() | {"j": 0.5, "made": {}}, noise(1, 3, 8, 5).numpy())
    assert torch.equal(read_masks(str(path), "abc", 0, "TTI"), noise(1, 3, 8, 5))
    assert json.loads(path.read_text()).keys() == {"key", "index", "method", "size", "frames"}
    append_masks(path, named(index=1), np.zeros((0, 8, 5), dtype=bool))
    assert read_masks(path, "abc", 1, "TTI").shape == (0, 8, 5)


def test_a_frame_takes_a_few_hundred_bytes(tmp_path):
    y, x = np.mgrid[:241, :425]
    disk = (y - 120) ** 2 + (x - 200) ** 2 < 90**2
    append_masks(tmp_path / "masks.jsonl", named(), np.stack([disk] * 10))
    assert (tmp_path / "masks.jsonl").stat().st_size < 10 * 800


def test_each_episode_and_method_has_its_own_and_the_last_line_counts(tmp_path):
    path = tmp_path / "masks.jsonl"
    names = [named(), named(index=1), named(method="RePRI"), named(key="def"), named(key="TTI", method="abc")]
    for seed, name in enumerate(names):
        append_masks(path, name, noise(seed, 2, 6, 7))
    for seed, name in enumerate(names):
        assert torch.equal(read_masks(path, **name), noise(seed, 2, 6, 7))
    append_masks(path, named(), noise(9, 2, 6, 7))
    assert torch.equal(read_masks(path, **named()), noise(9, 2, 6, 7))


def test_what_is_missing_is_named(tmp_path):
    path = tmp_path / "masks.jsonl"
    with pytest.raises(FileNotFoundError, match=r"masks\.jsonl: no such file of masks"):
        read_masks(path, "abc", 0, "TTI")
    append_masks(path, named(), noise(0, 1, 4, 4))
    append_masks(path, named(method="RePRI"), noise(0, 1, 4, 4))
    with pytest.raises(ValueError, match=r"episode abc \(index 0\) by 'TTY'; there are those of TTI, RePRI"):
        read_masks(path, "abc", 0, "TTY")
    for key, index in (("abd", 0), ("abc", 3), ("TTI", 0), ("", 0)):
        with pytest.raises(ValueError, match=r"masks\.jsonl: no masks of episode .*the episode is not in it"):
            read_masks(path, key, index, "TTI")


@pytest.mark.parametrize("missing", ["key", "index", "method"])
def test_masks_need_a_name_and_a_shape(tmp_path, missing):
    name = named()
    del name[missing]
    with pytest.raises(ValueError, match=f"masks without '{missing}'"):
        append_masks(tmp_path / "masks.jsonl", name, noise(0, 1, 4, 4))
    with pytest.raises(Exception, match="bool|[Tt]ype-check"):
        append_masks(tmp_path / "masks.jsonl", named(), np.zeros((4, 4), dtype=bool))
    assert not (tmp_path / "masks.jsonl").exists()


def test_a_torn_last_line_is_not_there_yet_and_a_broken_one_before_is_named(tmp_path):
    path = tmp_path / "masks.jsonl"
    append_masks(path, named(), noise(0, 2, 6, 7))
    whole = path.read_bytes()
    path.write_bytes(whole + whole.replace(b"TTI", b"RePRI")[:-9])
    with pytest.warns(UserWarning, match="line 2 is unfinished"):
        assert torch.equal(read_masks(path, "abc", 0, "TTI"), noise(0, 2, 6, 7))
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="no masks .* by 'RePRI'"):
        read_masks(path, "abc", 0, "RePRI")
    with pytest.warns(UserWarning, match="cut off"):
        append_masks(path, named(method="RePRI"), noise(1, 2, 6, 7))
    assert torch.equal(read_masks(path, "abc", 0, "RePRI"), noise(1, 2, 6, 7))
    path.write_bytes(whole[:-9] + b"\n" + whole)
    with pytest.raises(ValueError, match=r"masks\.jsonl: line 1 is not a JSON object"):
        read_masks(path, "abc", 0, "TTI")
    path.write_bytes(whole[:-9] + b"\n" + whole.replace(b"abc", b"xyz"))
    assert torch.equal(read_masks(path, "xyz", 0, "TTI"), noise(0, 2, 6, 7))  # another episode's line harms nobody

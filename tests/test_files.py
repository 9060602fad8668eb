"""Files are whole or absent, JSON survives the round trip, names are ordered as people count."""

import json
import os
import stat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ttilib.files import atomic, digest, natural_key, read_json, write_json, write_text

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)
)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "deep" / "result.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), atomic(path) as temporary:
        temporary.write_text("half of the new")
        assert temporary.parent == path.parent and temporary.suffix == ".txt"
        raise RuntimeError("stopped")
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == ["result.txt"]


@settings(max_examples=25, deadline=None)
@given(old=st.text(), new=st.text(), fails=st.booleans())
def test_a_write_takes_place_wholly_or_not_at_all(tmp_path_factory, old, new, fails):
    path = tmp_path_factory.mktemp("atomic") / "file.json"
    path.write_text(old, encoding="utf-8", newline="")
    try:
        with atomic(path) as temporary:
            temporary.write_text(new, encoding="utf-8", newline="")
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert path.read_bytes().decode() == (old if fails else new)
    assert os.listdir(path.parent) == ["file.json"]


def test_atomic_says_when_nothing_was_written_or_a_folder_is_in_the_way(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing was written"), atomic(tmp_path / "a.txt"):
        pass
    with pytest.raises(IsADirectoryError, match="is a folder"), atomic(tmp_path):
        pass


def test_written_files_have_ordinary_permissions(tmp_path):
    plain = tmp_path / "plain"
    plain.write_text("")
    write_text(tmp_path / "ours.txt", "text")
    assert stat.S_IMODE((tmp_path / "ours.txt").stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


@settings(max_examples=80, deadline=None)
@given(value=values)
def test_json_round_trip(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("json") / "value.json"
    write_json(path, value)
    assert read_json(path) == value
    assert path.read_bytes().endswith(b"\n")


def test_json_keeps_the_order_given_and_refuses_nan(tmp_path):
    path = tmp_path / "value.json"
    write_json(path, {"b": 1, "a": [1, 2]})
    assert path.read_text() == '{\n "b": 1,\n "a": [\n  1,\n  2\n ]\n}\n'
    with pytest.raises(ValueError, match="value.json"):
        write_json(path, {"x": float("nan")})
    with pytest.raises(TypeError, match="value.json"):
        write_json(path, {"x": object()})
    assert json.loads(path.read_text()) == {"b": 1, "a": [1, 2]}


def test_broken_json_is_reported_with_name_line_and_column(tmp_path):
    path = tmp_path / "broken.json"
    path.write_text('{"a": 1,\n "b": }\n')
    with pytest.raises(ValueError, match=r"broken\.json: not valid JSON at line 2, column 7"):
        read_json(path)
    path.write_bytes(b"\xff\xfe{")
    with pytest.raises(ValueError, match=r"broken\.json: not UTF-8"):
        read_json(path)
    with pytest.raises(FileNotFoundError, match=r"absent\.json: no such file"):
        read_json(tmp_path / "absent.json")
    with pytest.raises(FileNotFoundError, match="is a folder"):
        read_json(tmp_path)


def test_digest_is_known_and_ignores_only_what_json_ignores():
    # printf '[{"a":2,"b":1}]' | sha256sum
    assert digest({"b": 1, "a": 2}) == "82c9656ed6aa58d0"
    assert digest({"a": 2, "b": 1}) == digest({"b": 1, "a": 2})
    assert digest((1, 2)) == digest([1, 2]) != digest(1, 2)


@given(st.lists(st.integers(0, 10**6), unique=True))
def test_natural_order_counts(numbers):
    names = [f"frame{n}.jpg" for n in numbers]
    assert sorted(names, key=natural_key) == [f"frame{n}.jpg" for n in sorted(numbers)]


@given(st.lists(st.text(), unique=True))
def test_natural_order_is_total_and_independent_of_the_start(names):
    assert sorted(names, key=natural_key) == sorted(names[::-1], key=natural_key)


def test_natural_order_by_hand():
    names = ["a10", "a9", "b1", "a09", "10", "9", "a"]
    assert sorted(names, key=natural_key) == ["9", "10", "a", "a09", "a9", "a10", "b1"]

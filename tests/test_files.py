"""Files are complete or absent, JSON survives the round trip, names sort naturally, similar names are suggested."""

import errno
import hashlib
import json
import os
import pathlib
import socket
import stat
import subprocess
import sys
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ttilib.files import (
    atomic,
    check_writable,
    convert,
    digest,
    file_names,
    file_stamp,
    fingerprint,
    natural_key,
    parallel_map,
    read_json,
    read_lines,
    suggest,
    write_json,
    write_text,
)

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(scalars, lambda one: st.lists(one, max_size=4) | st.dictionaries(st.text(), one, max_size=4))


@pytest.mark.parametrize("error", [None, RuntimeError("stopped"), KeyboardInterrupt(), OSError(errno.ENOSPC, "full")])
def test_a_write_happens_completely_or_not_at_all(tmp_path, error):
    path = tmp_path / "deep" / "result.txt"
    write_text(path, "old\r\n")
    try:
        with atomic(path) as temporary:
            assert temporary.parent == path.parent and temporary.suffix == ".txt"
            temporary.write_text("new")
            if error:
                raise error
    except (RuntimeError, KeyboardInterrupt, OSError) as caught:
        assert caught is error or (error.errno == errno.ENOSPC and str(path) in str(caught))
    assert path.read_bytes() == (b"old\r\n" if error else b"new")
    assert os.listdir(path.parent) == ["result.txt"]


def test_atomic_reports_a_missing_write_and_a_folder_in_the_way(tmp_path):
    with pytest.raises(FileNotFoundError, match="a.txt: nothing was written"), atomic(tmp_path / "a.txt"):
        pass
    with pytest.raises(IsADirectoryError, match="is a folder"), atomic(tmp_path):
        pass


def test_written_files_have_ordinary_permissions(tmp_path):
    plain = tmp_path / "plain"
    plain.write_text("")
    write_text(tmp_path / "ours.txt", "text")
    assert stat.S_IMODE((tmp_path / "ours.txt").stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


@settings(max_examples=40, deadline=None)
@given(value=values)
def test_json_round_trip(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("json") / "value.json"
    write_json(path, value)
    assert read_json(path) == value and path.read_bytes().endswith(b"\n")


def test_json_keeps_the_order_and_refuses_nan(tmp_path):
    path = tmp_path / "value.json"
    write_json(path, {"b": 1, "a": [1, 2]})
    assert path.read_text() == '{\n "b": 1,\n "a": [\n  1,\n  2\n ]\n}\n'
    with pytest.raises(ValueError, match="value.json"):
        write_json(path, {"x": float("nan")})
    assert json.loads(path.read_text()) == {"b": 1, "a": [1, 2]}


@dataclass
class Video:
    id: int
    names: list[str]


@pytest.mark.parametrize(
    "content, word",
    [
        (b'{"a": [], "b": }', "byte 15"), (b"\xff\xfe{", "JSON"),
        (b'{"a": ' + b"[" * 10**5, "array|recursion"),
        (b'{"id": NaN}', "id|byte 7|array"),
        (b'{"videos": [{"id": 1, "names": ["a", 5]}]}', r"\[0\]\.names\[1\]"), (b"null", "null"),
        (b'{"videos": [{"names": []}]}', "id"), (b'{"videos": [{"id": %s, "names": []}]}' % (b"9" * 5000), "id"),
    ],
)  # fmt: skip
def test_wrong_json_is_one_sentence_with_file_and_value(tmp_path, content, word):
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"broken\.json: .*{word}") as caught:
        read_json(path, dict[str, list[Video]])
    assert "\n" not in str(caught.value)
    assert convert({"id": 1, "names": ["a"]}, Video, "here") == Video(1, ["a"])


def test_text_is_read_without_its_mark_and_refused_if_not_utf8(tmp_path):
    path = tmp_path / "names.txt"
    path.write_bytes(b"\xef\xbb\xbfa\r\nb\n")
    assert read_lines(path) == ["a", "b"]
    path.write_bytes(b"\xff\xfe{")
    with pytest.raises(ValueError, match=r"names\.txt: not UTF-8"):
        read_lines(path)
    with pytest.raises(FileNotFoundError, match=r"absent\.json"):
        read_json(tmp_path / "absent.json")


def test_the_next_process_removes_what_a_killed_one_left(tmp_path):
    script = """if True:
        import os, sys
        from ttilib.files import atomic
        with atomic(sys.argv[1]) as temporary:
            temporary.write_text("half")
            os._exit(9)
    """
    for name in ("a.txt", "b"):
        subprocess.run([sys.executable, "-c", script, tmp_path / "run" / name], check=False)
    alive = tmp_path / "run" / f".c.{socket.gethostname()}-{os.getppid()}-0123abcd.txt"
    alive.touch()
    assert len(os.listdir(alive.parent)) == 2  # the second process has removed the file of the first
    write_text(alive.parent / "d.txt", "new")
    assert sorted(os.listdir(alive.parent)) == [alive.name, "d.txt"]


def test_what_cannot_be_written_is_known_before_the_work(tmp_path, monkeypatch):
    check_writable(tmp_path / "deep" / "a.txt")
    assert not os.listdir(tmp_path / "deep")
    with pytest.raises(ValueError, match="UTF-8"):
        check_writable(tmp_path / "o\udcfe.txt")

    def refuse(path):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(pathlib.Path, "touch", refuse)  # root may write into any folder
    with pytest.raises(OSError, match=r"/a\.txt: cannot be written .*folder"):
        check_writable(tmp_path / "a.txt")


def test_digests_are_known(tmp_path):
    assert digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1}) == "82c9656ed6aa58d0"  # sha256 of [{"a":2,"b":1}]
    assert digest((1, 2)) == digest([1, 2]) != digest(1, 2)
    path, content = tmp_path / "a", os.urandom(2**20 + 5)
    path.write_bytes(content)
    assert fingerprint(path) == hashlib.sha256(content).hexdigest()
    for length in (0, 7, 2**20 + 1, 2**30):
        assert fingerprint(path, length) == hashlib.sha256(content[:length]).hexdigest()
    assert file_stamp(path)[0] == len(content) and file_stamp(tmp_path / "b") is None


@given(st.lists(st.text(), unique=True), st.lists(st.integers(0, 10**6), unique=True))
def test_natural_order_is_total_and_counts(names, numbers):
    assert sorted(names, key=natural_key) == sorted(names[::-1], key=natural_key)
    assert sorted((f"f{n}.jpg" for n in numbers), key=natural_key) == [f"f{n}.jpg" for n in sorted(numbers)]


def test_natural_order_by_hand(tmp_path):
    names = ["a10", "a9", "b1", "a09", "10", "9", "a"]
    assert sorted(names, key=natural_key) == ["9", "10", "a", "a09", "a9", "a10", "b1"]
    for name in (*names, ".hidden"):
        (tmp_path / f"{name}.png").touch()
    assert file_names(tmp_path, ".png") == ["9", "10", "a", "a09", "a9", "a10", "b1"]


def test_parallel_map_keeps_the_order():
    assert list(parallel_map(abs, range(-5, 3), 2, chunk=3)) == list(parallel_map(abs, range(-5, 3)))


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("mimi", "did you mean mini?"),
        ("ytvis-v3", "did you mean ytvis-v2 or ytvis-v1?"),
        ("tti", "did you mean TTI?"),
        ("zzz", "choose one of mini, ytvis-v1, ytvis-v2, TTI"),
    ],
)
def test_similar_names_are_suggested(word, hint):
    assert suggest(word, ("mini", "ytvis-v1", "ytvis-v2", "TTI")) == hint
    assert suggest("ytvis-v3", iter(["ytvis-v1", "ytvis-v2"]), most=1) == "did you mean ytvis-v2?"
    assert suggest("zzz", ["mini"], "give an address") == "give an address"

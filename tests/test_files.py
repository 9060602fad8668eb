"""Files are complete or absent, JSON survives the round trip, names sort naturally."""

import contextlib
import errno
import hashlib
import os
import stat
import time
from dataclasses import dataclass

import av
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ttilib import files
from ttilib.files import atomic, digest, fingerprint, natural_key, read_json, write_json, write_text

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(scalars, lambda one: st.lists(one, max_size=4) | st.dictionaries(st.text(), one, max_size=4))


@pytest.mark.parametrize("error", [None, RuntimeError("stopped"), KeyboardInterrupt(), OSError(errno.ENOSPC, "full"),
                                   av.error.OSError(errno.ENOSPC, "full")])  # fmt: skip
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
    (plain := tmp_path / "plain").touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)
    with pytest.raises(FileNotFoundError, match="a.txt: nothing was written"), atomic(tmp_path / "a.txt"):
        pass
    for below in (plain / "a.txt", plain / "b" / "a.txt"):
        with pytest.raises(OSError, match="a file is in the place of its folder"), atomic(below):
            pass


@settings(max_examples=40)
@given(value=values)
def test_json_round_trip(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("json") / "value.json"
    write_json(path, value)
    assert repr(read_json(path)) == repr(value) and path.read_bytes().endswith(b"\n")
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"x": float("nan")})
    assert read_json(path) == value


@dataclass
class Video:
    id: int
    names: list[str]


@pytest.mark.parametrize(
    "content, word",
    [
        (b'{"a": [], "b": }', "byte 15"), (b'{"a": ' + b"[" * 10**5, "array|recursion"),
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


def test_what_a_killed_process_left_is_removed_a_day_later(tmp_path):
    for name, days in (("old", 2), ("new", 0)):
        with contextlib.suppress(ZeroDivisionError), atomic(tmp_path / f"{name}.txt") as temporary:
            temporary.write_text("half")
            os.utime(temporary, (time.time() - days * 24 * 3600,) * 2)
            (tmp_path / f".{name}").hardlink_to(temporary)
            1 / 0  # noqa: B018
        (tmp_path / f".{name}").rename(temporary)  # as if it had been killed
    files._remove_leftovers.cache_clear()
    write_text(tmp_path / "a.txt", "new")
    assert sorted(path.name[:4] for path in tmp_path.iterdir()) == [".new", "a.tx"]


def test_digests_are_known(tmp_path):
    assert digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1}) == "82c9656ed6aa58d0"  # sha256 of [{"a":2,"b":1}]
    assert digest((1, 2)) == digest([1, 2]) != digest(1, 2)
    path, content = tmp_path / "a", os.urandom(2**20 + 5)
    path.write_bytes(content)
    assert fingerprint(path) == hashlib.sha256(content).hexdigest()
    assert files.file_stamp(path)[0] == len(content) and not files.file_stamp(tmp_path / "b")


@given(st.permutations(["9", "10", "a", "a09", "a9", "a10", "b1"]))
def test_natural_order_by_hand(names):
    assert sorted(names, key=natural_key) == ["9", "10", "a", "a09", "a9", "a10", "b1"]

"""Nothing recorded is lost: several writers, a writer killed in mid-line, a torn file."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from ttilib.results import records

ROOT = Path(__file__).resolve().parents[1]


def start(code, *arguments):
    """Another Python process that can import ttilib."""
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT)


def await_file(path):
    """Wait until another process has made this file."""
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} never came"
        time.sleep(0.02)


def test_rows_come_back_as_written(tmp_path):
    path = tmp_path / "new" / "folder" / "rows.jsonl"
    rows = [
        {"episode": "ytvis/f0/giant panda/ü", "iou": 0.1 + 0.2, "n": 3},
        {"vc": [1, None], "a": {"b": True}},
    ]
    for row in rows:
        records.append_row(path, row)
    assert records.read_rows(path) == records.read_rows(str(path)) == rows
    assert path.read_bytes().count(b"\n") == 2 and path.read_bytes().endswith(b"\n")


def test_numbers_of_every_kind_become_plain_json(tmp_path):
    path = tmp_path / "rows.jsonl"
    records.append_row(
        path,
        {
            "i": np.int64(3), "f": np.float32(0.5), "b": np.bool_(True), "nan": float("nan"),
            "inf": np.float64("inf"), "tensor": torch.tensor([1.0, float("nan")]),
            "path": Path("a") / "b", 5: (1, 2),
        },
    )  # fmt: skip
    text = path.read_text()
    assert "NaN" not in text and "Infinity" not in text
    assert json.loads(text) == {
        "i": 3, "f": 0.5, "b": True, "nan": None, "inf": None, "tensor": [1.0, None],
        "path": str(Path("a") / "b"), "5": [1, 2],
    }  # fmt: skip


def test_a_value_without_json_form_leaves_the_file_alone(tmp_path):
    path = tmp_path / "rows.jsonl"
    records.append_row(path, {"a": 1})
    with pytest.raises(TypeError, match=r"rows\.jsonl.*complex"):
        records.append_row(path, {"a": 1j})
    assert records.read_rows(path) == [{"a": 1}]


@pytest.mark.parametrize("torn", ['{"a": 2, "b": [1,', "{", '{"a": "ü'.encode()[:-1].decode("latin1"), "12"])
def test_a_torn_last_line_is_left_out_and_reported(tmp_path, torn):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n\n' + torn.encode("latin1"))
    with pytest.warns(UserWarning, match=r"rows\.jsonl: line 3"):
        assert records.read_rows(path) == [{"a": 1}]
    with pytest.warns(UserWarning, match="cut off"):
        records.append_row(path, {"a": 3})
    assert records.read_rows(path) == [{"a": 1}, {"a": 3}]


def test_a_whole_row_without_line_end_is_kept(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}')
    assert records.read_rows(path) == [{"a": 1}, {"a": 2}]
    records.append_row(path, {"a": 3})
    assert records.read_rows(path) == [{"a": 1}, {"a": 2}, {"a": 3}]


def test_a_long_torn_line_is_cut_off_whole(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"a": "' + "x" * 10_000)
    with pytest.warns(UserWarning, match="cut off 10007 bytes"):
        records.append_row(path, {"a": 2})
    assert records.read_rows(path) == [{"a": 1}, {"a": 2}]
    only = tmp_path / "only.jsonl"
    only.write_text("{" * 9000)
    with pytest.warns(UserWarning, match="cut off 9000 bytes"):
        records.append_row(only, {"a": 1})
    assert records.read_rows(only) == [{"a": 1}]


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"a": \n{"a": 3}\n')
    with pytest.raises(ValueError, match=r"rows\.jsonl: line 2 is not a JSON object"):
        records.read_rows(path)


def test_missing_file_and_empty_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"rows\.jsonl"):
        records.read_rows(tmp_path / "rows.jsonl")
    (tmp_path / "rows.jsonl").touch()
    assert records.read_rows(tmp_path / "rows.jsonl") == []


WRITER = """
import sys
from pathlib import Path
from ttilib.results.records import append_row
path, name, count, ready = sys.argv[1:]
Path(ready).touch()
for i in range(int(count)):
    append_row(path, {"writer": name, "i": i, "filling": "x" * (i * 97 % 9000)})
"""


def test_several_writers_lose_nothing(tmp_path):
    path, count = tmp_path / "rows.jsonl", 60
    writers = [start(WRITER, path, name, count, tmp_path / name) for name in "abc"]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0, 0]
    rows = records.read_rows(path)
    assert len(rows) == 3 * count
    for name in "abc":  # each writer's rows are all there, whole and in its order
        assert [(r["i"], len(r["filling"])) for r in rows if r["writer"] == name] == [
            (i, i * 97 % 9000) for i in range(count)
        ]


# writes half of a long row under the lock, says so, and waits to be killed
STUCK = """
import sys, time
from pathlib import Path
from ttilib.results import records
with records.file_lock(sys.argv[1]), open(sys.argv[1], "ab") as file:
    file.write(b'{"writer": "killed", "filling": "xxxxx')
    file.flush()
    Path(sys.argv[2]).touch()
    time.sleep(60)
"""


def test_a_writer_killed_in_mid_line_harms_nobody(tmp_path):
    path = tmp_path / "rows.jsonl"
    records.append_row(path, {"writer": "first", "i": 0})
    stuck = start(STUCK, path, tmp_path / "stuck")
    try:
        await_file(tmp_path / "stuck")
        torn = path.read_bytes()
        waiting = start(WRITER, path, "second", 2, tmp_path / "second")
        await_file(tmp_path / "second")  # it has to wait for the lock, not write into the line
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(timeout=1)
        assert path.read_bytes() == torn
    finally:
        stuck.kill()
        stuck.wait(timeout=60)
    assert waiting.wait(timeout=60) == 0  # the lock died with its holder
    assert [(r["writer"], r["i"]) for r in records.read_rows(path)] == [
        ("first", 0),
        ("second", 0),
        ("second", 1),
    ]


# holds the file's work, notes when it begins and ends, and is killed or goes on
HOLDER = """
import sys, time
from pathlib import Path
from ttilib.results.records import append_row, file_lock
path, name, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
Path(path + "." + name).touch()
with file_lock(path):
    append_row(path, {"name": name, "does": "begin"})
    time.sleep(seconds)
    append_row(path, {"name": name, "does": "end"})
"""


def test_two_processes_with_the_same_work_do_it_one_after_the_other(tmp_path):
    path = tmp_path / "new" / "rows.jsonl"
    path.parent.mkdir()
    workers = [start(HOLDER, path, name, 0.4) for name in "ab"]
    assert [worker.wait(timeout=60) for worker in workers] == [0, 0]
    names = [row["name"] for row in records.read_rows(path)]
    assert names in (list("aabb"), list("bbaa"))


def test_work_whose_holder_was_killed_is_taken_over(tmp_path):
    path = tmp_path / "rows.jsonl"
    stuck = start(HOLDER, path, "stuck", 60)
    try:
        await_file(path)
        waiting = start(HOLDER, path, "next", 0)
        await_file(Path(f"{path}.next"))
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(timeout=1)
    finally:
        stuck.kill()
        stuck.wait(timeout=60)
    assert waiting.wait(timeout=60) == 0
    assert [row["name"] for row in records.read_rows(path)] == ["stuck", "next", "next"]


def test_holding_ends_with_an_error_and_makes_the_folder(tmp_path):
    path = tmp_path / "new" / "rows.jsonl"
    for _ in range(2):  # the second would wait for ever
        with pytest.raises(ZeroDivisionError), records.file_lock(str(path)):
            1 / 0  # noqa: B018
    assert not path.exists() and (tmp_path / "new" / "rows.jsonl.lock").read_bytes() == b""

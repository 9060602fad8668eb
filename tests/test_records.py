"""Rows and masks come back as written or are refused, several writers lose nothing, and provenance is exact."""

import json
import shutil
import time
from contextlib import redirect_stderr
from pathlib import Path

import numpy as np
import pytest
import torch
from tasks import FRESH, LIMIT, eventually

from ttilib.files import file_lock, write_json
from ttilib.results import records
from ttilib.results.records import append_masks, append_row, read_index, read_masks, read_rows
from ttilib.results.tables import score_table


def row(**more):
    return {
        "benchmark": "mine", "shots": 1, "encoder": "toy", "method": "TTI", "fold": 0, "run": 0, "episode": "e",
        "key": "abc", "index": 0, "class_id": 7, "class_name": "giant panda/ü", "video": "v", "frames": 2,
        "intersection": 3, "union": 9, "predicted": 4, "true": 8, "intersections": [1, 2], "unions": [4, 5],
        "j": 0.1 + 0.2, "seconds": 1.5, "made": {"code": "c"}, **more,
    }  # fmt: skip


def rows_file(tmp_path, *rows):
    path = tmp_path / "rows" / "r.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"{each if isinstance(each, str) else json.dumps(each)}\n" for each in rows))
    return path


def test_rows_come_back_as_plain_json_with_fields_of_any_name(tmp_path):
    path = tmp_path / "new" / "folder" / "rows.jsonl"
    pairs = [
        ("i", np.int64(3), 3), ("b", np.bool_(True), True), ("nan", np.nan, None), ("inf", np.float64("inf"), None),
        ("tensor", torch.tensor([1.0, float("nan")]), [1.0, None]), ("5", (1, 2), [1, 2]), ("g", np.float32(0.5), 0.5),
        ("path", Path("a") / "b", str(Path("a") / "b")), ("a", {"b": None}, {"b": None}),
    ]  # fmt: skip
    append_row(path, row(**{name: value for name, value, _ in pairs}))
    append_row(path, row(index=1))
    assert read_rows(path) == [row(**{name: value for name, _, value in pairs}), row(index=1)]
    with pytest.raises(TypeError):
        append_row(path, {"a": 1j})
    assert len(read_rows(path)) == 2


@pytest.mark.parametrize("torn", ['{"a": "ü'.encode()[:-1], b"null", b'{"a": "' + b"x" * 10_000])
@pytest.mark.parametrize("before", [records.as_line(row()).encode() + b"\n", b""])
def test_an_incomplete_last_line_is_left_out_and_removed(tmp_path, torn, before):
    path = rows_file(tmp_path)
    path.write_bytes(before + torn + b"\n" + before)
    with pytest.raises(ValueError, match=r"r\.jsonl: line"):  # it is incomplete, but not the last
        read_rows(path)
    path.write_bytes(before + torn)
    with pytest.warns(UserWarning, match=r"r\.jsonl: line"):
        assert read_rows(path) == [row()] * bool(before)
    with pytest.warns(UserWarning, match=f"{len(torn)} bytes"):
        append_row(path, {"a": 3})
    assert path.read_bytes() == before + b'{"a": 3}\n'
    path.write_bytes(records.as_line(row()).encode()[:-1])  # only the line end is missing
    append_row(path, row(index=1))
    assert read_rows(path) == [row(), row(index=1)]


@pytest.mark.parametrize(
    "change, found",
    [({"intersection": 10**15}, "intersection.*10{15}"), ({"j": 1e15}, "j: .*10{15}"), ({"fold": "0"}, "fold: .*str"),
     ({"true": 10}, "'true': 10"), ({"unions": [4, 4]}, "'union': 8")],
)  # fmt: skip
def test_an_impossible_row_is_refused_with_file_line_and_value(tmp_path, change, found):
    with pytest.raises(ValueError, match=rf"r\.jsonl: line 2: .*{found}"):
        read_rows(rows_file(tmp_path, row(), row(**change)))
    if "unions" not in change:
        with pytest.raises(ValueError, match=f"row 2: .*{found}"):
            score_table([row(), row(episode="f", **change)])


def write(path, name, log):
    """Write twenty rows once the lock is free; what is said meanwhile goes to `log`."""
    with log.open("w", buffering=1) as file, redirect_stderr(file), file_lock(path):
        for i in range(20):
            append_row(path, {"writer": name, "i": i, "filling": "x" * (i * 97 % 9000)})


def write_half(path, begun):
    with file_lock(path), open(path, "ab") as file:
        file.write(b'{"writer": "killed", "filling": "xxxxx')
        file.flush()
        begun.set()
        time.sleep(LIMIT)


def start(function, *arguments):
    process = FRESH.Process(target=function, args=arguments)
    process.start()
    return process


def test_writers_name_the_one_they_wait_for_and_take_over_when_it_is_killed(tmp_path):
    path, begun, logs = tmp_path / "rows.jsonl", FRESH.Event(), {name: tmp_path / name for name in "ab"}
    append_row(path, {"writer": "first", "i": 0})
    stuck = start(write_half, path, begun)
    assert begun.wait(LIMIT)
    torn = path.read_bytes()
    waiting = [start(write, path, name, log) for name, log in logs.items()]
    for log in logs.values():
        eventually(lambda log=log: log.is_file() and f"in use by process {stuck.pid} on " in log.read_text())
    assert path.read_bytes() == torn and all(writer.is_alive() for writer in waiting)
    stuck.kill()  # the lock dies with its holder
    for writer in waiting:
        writer.join(LIMIT)
        assert writer.exitcode == 0
    rows = [(each["writer"], each["i"]) for each in map(json.loads, path.read_text().splitlines())]
    blocks = [[(name, i) for i in range(20)] for name in "ab"]
    assert rows[:1] == [("first", 0)] and sorted([rows[1:21], rows[21:]]) == blocks


def noise(seed, *shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < 0.4


def named(key="abc", index=0, method="TTI"):
    return {"key": key, "index": index, "method": method}


def test_each_episode_and_method_has_its_own_masks_and_the_last_line_counts(tmp_path):
    path = tmp_path / "masks.jsonl"
    names = [named(), named(index=1), named(method="RePRI"), named(key="def"), named(key="TTI", method="abc")]
    for seed, name in enumerate(names):
        append_masks(path, name | {"j": 0.5, "made": {}}, noise(seed, 2, 6, 7))
    assert all(torch.equal(read_masks(path, **name), noise(seed, 2, 6, 7)) for seed, name in enumerate(names))
    line = path.read_bytes().splitlines(keepends=True)[0]
    assert json.loads(line).keys() == {"key", "index", "method", "size", "frames"}
    for shape in ((2, 6, 7), (0, 1, 9), (3, 1, 1), (1, 9, 1)):
        append_masks(path, named(), noise(9, *shape).numpy())
        assert torch.equal(read_masks(path, **named(), shape=shape), noise(9, *shape))
    with pytest.raises(ValueError, match=r"masks\.jsonl: .*\[1, 9, 1\].*\[3, 6, 7\]"):
        read_masks(path, **named(), shape=(3, 6, 7))
    path.write_bytes(line[:-9] + b"\n" + line.replace(b"abc", b"xyz"))  # only lines of the episode are parsed
    with pytest.raises(ValueError, match=r"masks\.jsonl: line 1"):
        read_masks(path, "abc", 0, "TTI")
    assert torch.equal(read_masks(path, "xyz", 0, "TTI"), noise(0, 2, 6, 7))


def test_nothing_leads_outside_the_run_folder(tmp_path):
    out = tmp_path / "out"
    for name in ("../../../x", "a/b", "..", "", "a\\b", "a\0"):
        with pytest.raises(ValueError, match="name"):
            records.write_index(out, name, "", [], [], {})
    index = {"title": "", "lines": [row()], "masks": {}, "manifests": {}, "code": "", "weights": {}}
    write_json(out / "rows" / "t.json", index | {"files": ["../r.jsonl"]})
    with pytest.raises(ValueError, match=r"r\.jsonl.*outside"):
        read_index(out, "t")
    with pytest.raises(FileNotFoundError, match=r"mini\.json: no such file; choose one of t$"):
        read_index(out, "mini")
    (out / "masks").symlink_to(tmp_path)
    with pytest.raises(ValueError, match=r"masks.*outside"):
        records.masks_beside(out / "rows" / "r.jsonl")


def append(path, text):
    path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")


def test_the_code_digest_covers_what_predicts_masks_and_no_docstrings_or_line_ends(tmp_path, monkeypatch):
    copy = tmp_path / "ttilib"
    shutil.copytree(records.HOME, copy, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    monkeypatch.setattr(records, "HOME", copy)
    digests = [records.code_digest()]
    for name in (
        "plots/overlays.py", "results/metrics.py", "results/records.py", "results/tables.py", "training/data.py",
        "sweep/driver.py", "__init__.py",
    ):  # fmt: skip
        append(copy / name, "\nMORE = 1\n")
    solver, again = copy / "solver" / "settings.py", copy / "solver" / "again.py"
    _, old, rest = solver.read_text(encoding="utf-8").split('"""', 2)
    solver.write_bytes(f'"""Other words.{old}"""{rest}# comment\n'.encode().replace(b"\n", b"\r\n"))
    append(copy / "episodes" / "benchmarks.py", '\n"""Words under a constant."""\n')
    again.write_text("MORE = 1\n")
    assert records.code_digest() == digests[0]
    for path, text in (
        (solver, "\nfrom ttilib.solver import again\n"), (again, "MORE = 2\n"), (copy / "files.py", "\nMORE = 1\n"),
        (copy / "datasets" / "transforms.py", "\nMORE = 1\n"), (copy / "results" / "evaluation.py", "\nMORE = 1\n"),
    ):  # fmt: skip
        append(path, text)
        digests.append(records.code_digest())
    assert len(set(digests)) == 6

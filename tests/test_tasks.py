"""A task is done when its record says so and nothing of it is lost; otherwise it is run, with a real kernel."""

import json
import random

import nbformat
import pytest

from ttilib.sweep.driver import forecast, pooled_iou
from ttilib.sweep.expand import Expansion, SweepPaths, TaskSpec
from ttilib.sweep.tables import Setting
from ttilib.sweep.tasks import Task, finish, is_done, notebook_text, read_record, record_path, run_notebook, run_task

KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
WORK = """
import json
import sys
from pathlib import Path

Path(rows).parent.mkdir(exist_ok=True)
print("a line of the notebook")
print("a warning", file=sys.stderr)
found = Path(rows).read_text() if Path(rows).is_file() else ""
with open(rows, "a") as file:
    for method in methods:
        for episode in range(2):
            row = {"method": method, "intersection": len(method) + episode, "union": 10 * episode + 10}
            if json.dumps(row) not in found:
                file.write(json.dumps(row) + chr(10))
assert "bad" not in methods, "a bad method"
"""


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    """A notebook that writes two rows of each method, unless they exist."""
    cells = [nbformat.v4.new_code_cell('rows: str = ""  # file\nmethods: list = []  # which'),
             nbformat.v4.new_code_cell(WORK)]  # fmt: skip
    cells[0].metadata["tags"] = ["parameters"]
    path = tmp_path_factory.mktemp("notebook") / "solve.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=KERNEL), path)
    return path


@pytest.fixture
def make(notebook, tmp_path):
    """The run folder, and its task for some methods."""
    rows, output = str(tmp_path / "rows" / "k.jsonl"), str(tmp_path / "tasks" / "k.ipynb")

    def task(*methods):
        return Task("k", "a task", str(notebook), output, {"rows": rows, "methods": list(methods)}, 9.0, methods, rows)

    return tmp_path, task


def methods(task):
    with open(task.rows) as file:
        return [json.loads(line)["method"] for line in file]


def test_a_task_leaves_rows_notebook_log_and_record_and_methods_are_added(make):
    folder, task = make
    first = task("RePRI")
    assert not is_done(folder, first) and read_record(folder, "k") is None
    about = run_task(first, folder)
    assert is_done(folder, first) and methods(first) == ["RePRI"] * 2
    record = read_record(folder, "k")
    assert record.seconds == about["seconds"] > 0 and record.cost == 9.0 and record.parts == ("RePRI",)
    log = (folder / "logs" / "k.log").read_text()
    assert "a line of the notebook" in log and "a warning" in log
    assert pooled_iou(first) == {"RePRI": pytest.approx((5 + 6) / 30)}
    before = (folder / "tasks" / "k.ipynb").read_bytes()
    assert run_task(first, folder) == {"seconds": 0.0} and (folder / "tasks" / "k.ipynb").read_bytes() == before
    assert not is_done(folder, task("RePRI", "TTI"))
    run_task(task("TTI"), folder)
    assert methods(first) == ["RePRI"] * 2 + ["TTI"] * 2
    assert all(is_done(folder, task(*some)) for some in (("RePRI",), ("TTI",), ("RePRI", "TTI")))
    assert pooled_iou(task("TTI")) == {"TTI": pytest.approx(7 / 30)}
    whole = (folder / "rows" / "k.jsonl").read_text()
    (folder / "rows" / "k.jsonl").write_text("".join(whole.splitlines(keepends=True)[:3]))  # a row is lost
    run_task(task("TTI"), folder)
    assert (folder / "rows" / "k.jsonl").read_text() == whole and is_done(folder, task("TTI"))


@pytest.fixture
def done(make):
    """A finished task, without a kernel."""
    folder, task = make
    (folder / "rows").mkdir()
    (folder / "tasks").mkdir()
    (folder / "rows" / "k.jsonl").write_text('{"method": "TTI"}\n{"method": "TTI"}\n')
    (folder / "tasks" / "k.ipynb").write_text("{}")
    finish(folder, task("TTI"), {"seconds": 1.5, "machine": "here"})
    assert is_done(folder, task("TTI"))
    return folder, task("TTI")


@pytest.mark.parametrize(
    ("path", "change", "expected"),
    [
        ("rows/k.jsonl", lambda text: text + '{"method": "RePRI"}\n', True),  # rows of another method
        ("rows/k.jsonl", lambda text: text.replace("TTI", "TTI again"), True),  # the same rows, scored again
        ("rows/k.jsonl", lambda text: text[:-5], False),  # torn
        ("rows/k.jsonl", lambda text: None, False),
        ("tasks/k.ipynb", lambda text: None, False),
        ("tasks/k.json", lambda text: text[:-5], False),
        ("tasks/k.json", lambda text: text.replace('"parts"', '"bytes": "5", "parts"'), True),  # of an earlier version
    ],
)
def test_a_task_is_done_unless_something_of_it_is_lost(done, path, change, expected):
    folder, task = done
    text = change((folder / path).read_text())
    (folder / path).unlink()
    if text is not None:
        (folder / path).write_text(text)
    assert is_done(folder, task) == expected


def test_a_damaged_record_only_repeats_its_task(done):
    """Two hundred records with an odd value, without a field, or torn: read, forecast and written again."""
    folder, task = done
    path, odd = record_path(folder, "k"), random.Random(0)
    good = json.loads(path.read_text())
    values = [None, 5, -1, 1e300, True, "", "5", [], [None], [[1]], {}, {"a": 1}, "x" * 100, 10**30]
    spec = TaskSpec(task, Setting("ytvis-v1", 1), 0, 1, 1, path, "")
    paths = SweepPaths(folder, folder, "")
    for n in range(200):
        record = good | {odd.choice(list(good)): odd.choice(values)}
        record.pop(odd.choice([*good, *[""] * 5]), None)
        whole = json.dumps(record if n % 9 else odd.choice(values))
        path.write_text(whole[: odd.randrange(len(whole))] if n % 7 == 0 else whole)
        assert is_done(folder, task) in (True, False)
        assert "tasks to run" in forecast([], Expansion((spec,), {}), paths, 1)
        finish(folder, task, {"seconds": 1.5})
        assert is_done(folder, task) and read_record(folder, "k").seconds == 1.5


def test_a_failure_names_the_cell_and_the_log_and_leaves_no_record(make):
    folder, task = make
    with pytest.raises(RuntimeError, match=r"solve\.ipynb: cell .*a bad method.*k\.log"):
        run_task(task("bad"), folder)
    assert not record_path(folder, "k").exists() and "Traceback" in (folder / "logs" / "k.log").read_text()
    assert methods(task()) == ["bad", "bad"]  # what was recorded before the failure stays
    assert (folder / "tasks" / "k.failed.ipynb").is_file()


@pytest.mark.parametrize("text", ["{}", "[]", "{", '{"cells": null}', '{"nbformat": 99}', "\ud8ff", "5 cells"])
def test_what_is_no_notebook_is_named(notebook, tmp_path, text):
    path, good = tmp_path / "odd.ipynb", json.loads(notebook.read_text())
    if text == "5 cells":
        text = json.dumps(good | {"nbformat_minor": 4, "cells": [{"cell_type": "code", "metadata": {}, "source": 5}]})
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ValueError, match=r"odd\.ipynb"):
        notebook_text(path)
    with pytest.raises(OSError, match="folder"):
        run_notebook(notebook, tmp_path)

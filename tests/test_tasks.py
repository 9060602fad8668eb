"""A task is done when its record says so and nothing of it is lost; otherwise it is run, with a real kernel."""

import json
from dataclasses import replace

import pytest
from tasks import write_notebook

from ttilib.sweep.driver import Outcome, _result, forecast
from ttilib.sweep.expand import Expansion, SweepPaths, TaskSpec
from ttilib.sweep.tables import Setting
from ttilib.sweep.tasks import Task, finish, is_done, read_record, record_path, run_task

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


@pytest.fixture
def make(tmp_path):
    """The run folder, and its task for some methods: a notebook that writes two rows of each, unless they exist."""
    work, rows, output = (str(tmp_path / name) for name in ("solve.ipynb", "rows/k.jsonl", "tasks/k.ipynb"))
    write_notebook(work, 'rows: str = ""  # file\nmethods: list = []  # which', WORK)

    def task(*some):
        return Task("k", "a task", work, output, {"rows": rows, "methods": list(some)}, 9.0, some, rows, 2)

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
    assert _result(Outcome(first, about))[1].endswith("(RePRI 36.7)")  # pixels of both rows: (5 + 6) / 30
    more = replace(first, episodes=3)  # one could not be read
    assert not is_done(folder, more) and "; episodes left out: 1 of 3, see " in _result(Outcome(more, about))[1]
    record = read_record(folder, "k")
    assert record.seconds == about["seconds"] > 0 and record.cost == 9.0 and record.parts == ("RePRI",)
    log = (folder / "logs" / "k.log").read_text()
    assert "a line of the notebook" in log and "a warning" in log
    before = (folder / "tasks" / "k.ipynb").read_bytes()
    assert run_task(first, folder) == {"seconds": 0.0} and (folder / "tasks" / "k.ipynb").read_bytes() == before
    assert not is_done(folder, task("RePRI", "TTI"))
    run_task(task("TTI"), folder)
    assert methods(first) == ["RePRI"] * 2 + ["TTI"] * 2 and is_done(folder, task("RePRI", "TTI"))
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
        ("tasks/k.json", lambda text: text.replace("1.5", "-1"), False),
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
    expansion = Expansion((TaskSpec(task, Setting("ytvis-v1", 1), 0, 1, folder, ""),), {})
    assert f"{int(not expected)} of 1 tasks to run" in forecast([], expansion, SweepPaths(folder, folder, ""), 1)


def test_a_failure_names_cell_and_log_and_leaves_no_record(make):
    folder, task = make
    with pytest.raises(RuntimeError, match=r"solve\.ipynb: cell .*a bad method.*k\.log"):
        run_task(task("bad"), folder)
    assert not record_path(folder, "k").exists() and "Traceback" in (folder / "logs" / "k.log").read_text()
    assert methods(task()) == ["bad", "bad"]  # what was recorded before the failure stays
    assert (folder / "tasks" / "k.failed.ipynb").is_file()

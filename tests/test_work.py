"""What a worker does with a task, with a real kernel: rows, log, note; again only if something is missing."""

import json
import re

import nbformat
import pytest

from ttilib.sweep.tasks import Task, is_done, log_path, note, run_task, summary

KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
WORK = """
import json
import sys
from pathlib import Path

Path(rows).parent.mkdir(exist_ok=True)
print("opening", rows)
print("a warning", file=sys.stderr)
there = Path(rows).read_text() if Path(rows).is_file() else ""
with open(rows, "a") as file:
    for method in methods:
        if f'"{method}"' not in there:
            row = {"method": method, "intersection": len(method), "union": 10}
            file.write(json.dumps(row) + chr(10))
assert "bad" not in methods, "a bad method"
"""


@pytest.fixture
def make(tmp_path):
    """Tasks of a small notebook that writes a row for each method it has none of."""
    told = "rows: str = \"\"  # file\nmethods: list = []  # which"
    cells = [nbformat.v4.new_code_cell(told), nbformat.v4.new_code_cell(WORK)]
    cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=KERNEL), tmp_path / "solve.ipynb")
    rows, output = str(tmp_path / "rows" / "k.jsonl"), str(tmp_path / "tasks" / "k.ipynb")

    def task(*methods):
        told = {"rows": rows, "methods": list(methods)}
        return Task("k", "a piece", str(tmp_path / "solve.ipynb"), output, told, 9.0, methods, rows)

    return tmp_path, task


def methods(task):
    with open(task.rows) as file:
        return [json.loads(line)["method"] for line in file]


def test_a_task_leaves_rows_notebook_log_and_note(make):
    folder, task = make
    about = run_task(task("RePRI", "TTI"), folder)
    assert is_done(folder, task("RePRI", "TTI")) and methods(task()) == ["RePRI", "TTI"]
    noted = note(folder, "k")
    assert noted["seconds"] == about["seconds"] > 0 and noted["machine"] and noted["cost"] == 9.0
    log = log_path(folder, "k").read_text()
    assert re.search(r"a piece on .*\n.*opening .*k\.jsonl(.|\n)*a warning(.|\n)*done in \d", log)
    assert summary(task("RePRI", "TTI")) == "RePRI 50.0, TTI 30.0" and summary(task("TTI")) == "TTI 30.0"


def test_done_work_is_left_alone_and_a_new_method_is_added(make):
    folder, task = make
    run_task(task("RePRI"), folder)
    written = (folder / "tasks" / "k.ipynb").stat().st_mtime_ns
    assert run_task(task("RePRI"), folder) == {"seconds": 0.0}
    assert (folder / "tasks" / "k.ipynb").stat().st_mtime_ns == written
    run_task(task("RePRI", "TTI"), folder)
    assert methods(task()) == ["RePRI", "TTI"] and note(folder, "k")["parts"] == ["RePRI", "TTI"]


def test_damaged_rows_are_kept_aside_and_made_again(make):
    folder, task = make
    run_task(task("RePRI", "TTI"), folder)
    with open(task().rows, "r+") as file:
        file.truncate(30)
    run_task(task("RePRI", "TTI"), folder)
    assert methods(task()) == ["RePRI", "TTI"] and is_done(folder, task("RePRI", "TTI"))
    (aside,) = (folder / "rows").glob("k.damaged-*")
    assert aside.stat().st_size == 30
    assert "damaged rows are now" in log_path(folder, "k").read_text()


def test_a_failure_names_the_log_and_notes_nothing(make):
    folder, task = make
    with pytest.raises(RuntimeError, match=r"solve\.ipynb: cell .*a bad method.*\(log: .*k\.log\)"):
        run_task(task("bad"), folder)
    assert note(folder, "k") is None and "Traceback" in log_path(folder, "k").read_text()
    assert methods(task()) == ["bad"]  # what was recorded before it failed stays

"""A task is done when its record says so and nothing of it is lost; otherwise it is run, with a real kernel."""

import json

import nbformat
import pytest

from ttilib.sweep.driver import pooled_iou
from ttilib.sweep.tasks import Task, finish, is_done, read_record, record_path, run_task

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


def test_a_task_leaves_rows_notebook_log_and_record(make):
    folder, task = make
    both = task("RePRI", "TTI")
    assert not is_done(folder, both) and read_record(folder, "k") == {}
    about = run_task(both, folder)
    assert is_done(folder, both) and methods(both) == ["RePRI"] * 2 + ["TTI"] * 2
    record = read_record(folder, "k")
    assert record["seconds"] == about["seconds"] > 0 and record["cost"] == 9.0 and record["parts"] == ["RePRI", "TTI"]
    log = (folder / "logs" / "k.log").read_text()
    assert "a line of the notebook" in log and "a warning" in log
    assert pooled_iou(both) == {"RePRI": pytest.approx((5 + 6) / 30), "TTI": pytest.approx((3 + 4) / 30)}
    assert pooled_iou(task("TTI")) == {"TTI": pytest.approx(7 / 30)}


def test_a_finished_task_is_left_alone_and_methods_are_added(make):
    folder, task = make
    run_task(task("RePRI"), folder)
    before = (folder / "tasks" / "k.ipynb").read_bytes()
    assert run_task(task("RePRI"), folder) == {"seconds": 0.0}
    assert (folder / "tasks" / "k.ipynb").read_bytes() == before
    assert not is_done(folder, task("RePRI", "TTI"))
    run_task(task("TTI"), folder)
    assert methods(task()) == ["RePRI"] * 2 + ["TTI"] * 2
    assert all(is_done(folder, task(*some)) for some in (("RePRI",), ("TTI",), ("RePRI", "TTI")))


@pytest.fixture
def done(make):
    """A finished task, without a kernel."""
    folder, task = make
    (folder / "rows").mkdir()
    (folder / "tasks").mkdir()
    (folder / "rows" / "k.jsonl").write_text('{"method": "TTI"}\n{"method": "TTI"}\n')
    (folder / "tasks" / "k.ipynb").write_text("{}")
    finish(folder, task("TTI"), {})
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
        ("tasks/k.json", lambda text: "[1, 2]", False),
    ],
)
def test_a_task_is_done_unless_something_of_it_is_lost(done, path, change, expected):
    folder, task = done
    text = change((folder / path).read_text())
    (folder / path).unlink()
    if text is not None:
        (folder / path).write_text(text)
    assert is_done(folder, task) == expected


def test_lost_rows_are_computed_again(make):
    folder, task = make
    run_task(task("TTI"), folder)
    whole = (folder / "rows" / "k.jsonl").read_text()
    (folder / "rows" / "k.jsonl").write_text(whole.splitlines(keepends=True)[0])
    run_task(task("TTI"), folder)
    assert (folder / "rows" / "k.jsonl").read_text() == whole and is_done(folder, task("TTI"))


def test_a_failure_names_the_cell_and_the_log_and_leaves_no_record(make):
    folder, task = make
    with pytest.raises(RuntimeError, match=r"solve\.ipynb: cell .*a bad method.*k\.log"):
        run_task(task("bad"), folder)
    assert not record_path(folder, "k").exists() and "Traceback" in (folder / "logs" / "k.log").read_text()
    assert methods(task()) == ["bad", "bad"]  # what was recorded before the failure stays
    assert (folder / "tasks" / "k.failed.ipynb").is_file()

"""A task is done when its note says so and what it left is as it was; anything else is done again."""

import json

import pytest

from ttilib.sweep.tasks import Task, finish, is_done, note, note_path


@pytest.fixture
def solved(tmp_path):
    """A folder and a task whose notebook has run: two rows are there."""
    rows, output = tmp_path / "rows" / "k.jsonl", tmp_path / "tasks" / "k.ipynb"
    rows.parent.mkdir()
    output.parent.mkdir()
    rows.write_text('{"method": "RePRI"}\n{"method": "TTI"}\n')
    output.write_text("{}")
    return tmp_path, Task("k", "a piece", "04.ipynb", str(output), {}, 30.0, ("RePRI", "TTI"), str(rows))


def more(task, *parts):
    return Task(task.key, task.name, task.notebook, task.output, {}, 30.0, parts, task.rows)


def test_done_after_the_note_and_not_before(solved):
    folder, task = solved
    assert note(folder, "k") is None and not is_done(folder, task)
    finish(folder, task, {"seconds": 12.5})
    assert is_done(folder, task)
    assert note(folder, "k")["seconds"] == 12.5 and note(folder, "k")["parts"] == ["RePRI", "TTI"]


def test_fewer_methods_are_done_too_and_more_are_not(solved):
    folder, task = solved
    finish(folder, task, {})
    assert is_done(folder, more(task, "TTI")) and not is_done(folder, more(task, "TTI", "oracle"))


def test_methods_added_later_leave_the_earlier_ones_done(solved):
    folder, task = solved
    finish(folder, task, {})
    with open(task.rows, "a") as file:
        file.write('{"method": "oracle"}\n')
    assert is_done(folder, task)  # the file has grown by rows of a method that is not noted yet
    finish(folder, more(task, "oracle"), {})
    assert is_done(folder, more(task, "RePRI", "TTI", "oracle")) and is_done(folder, task)


@pytest.mark.parametrize(
    "harm",
    [
        lambda text: text[:-5],  # torn
        lambda text: text.replace("TTI", "TTX"),  # a damaged disk
        lambda text: "",
    ],
)
def test_damaged_rows_are_noticed(solved, harm):
    folder, task = solved
    finish(folder, task, {})
    with open(task.rows) as file:
        text = file.read()
    with open(task.rows, "w") as file:
        file.write(harm(text))
    assert not is_done(folder, task)


@pytest.mark.parametrize("gone", ["rows", "output"])
def test_a_lost_file_means_not_done(solved, gone):
    folder, task = solved
    finish(folder, task, {})
    (folder / {"rows": "rows/k.jsonl", "output": "tasks/k.ipynb"}[gone]).unlink()
    assert not is_done(folder, task)


@pytest.mark.parametrize("spoilt", ["", '{"parts": ["RePRI"', "[1, 2]", '"done"'])
def test_a_spoilt_note_is_none(solved, spoilt):
    folder, task = solved
    finish(folder, task, {})
    note_path(folder, "k").write_text(spoilt)
    assert note(folder, "k") is None and not is_done(folder, task)
    finish(folder, task, {"seconds": 1.0})
    assert json.loads(note_path(folder, "k").read_text())["seconds"] == 1.0

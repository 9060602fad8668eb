"""The runner refuses what papermill lets pass, and a failed run loses nothing."""

import nbformat
import pytest

from ttilib.notebooks import check_parameters, notebook_parameters, run_notebook

KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}


@pytest.fixture
def notebook(tmp_path):
    """A small real notebook: five parameters, and a file written from them."""
    parameters = nbformat.v4.new_code_cell(
        'shots: int = 5  # K\nrate: float = 0.5  # of a step\nname: str = "x"  # of the file\n'
        "fast: bool = False  # hurry\nfolds: list = [0]  # which"
    )
    parameters.metadata["tags"] = ["parameters"]
    work = nbformat.v4.new_code_cell(
        'from pathlib import Path\nassert shots < 9, "too many shots"\n'
        'Path(f"{name}.txt").write_text(str(shots * rate))'
    )
    path = tmp_path / "small.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[parameters, work], metadata=KERNEL), path)
    return path


def test_parameters_are_read_with_type_default_and_meaning(notebook):
    known = notebook_parameters(notebook)
    assert list(known) == ["shots", "rate", "name", "fast", "folds"]
    assert known["shots"] == {"type": "int", "default": "5", "help": "K"}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"shot": 1}, "no parameter 'shot'; did you mean shots"),
        ({"colour": 1}, "no parameter 'colour'; choose one of shots, rate"),
        ({"shots": 1.5}, "'shots' is 1.5, a float; it must be a int"),
        ({"shots": True}, "must be a int"),
        ({"name": 3}, "must be a str"),
        ({"folds": 0}, "must be a list"),
    ],
)
def test_wrong_parameters_are_refused_before_anything_runs(notebook, tmp_path, parameters, message):
    with pytest.raises(ValueError, match=message):
        run_notebook(notebook, tmp_path / "out.ipynb", parameters)
    assert not (tmp_path / "out.ipynb").exists() and not list(tmp_path.glob("*.txt"))


def test_an_int_is_a_float_but_a_missing_notebook_is_nothing(notebook, tmp_path):
    check_parameters(notebook, {"rate": 1, "folds": [1, 2]})
    with pytest.raises(FileNotFoundError, match="no such notebook"):
        notebook_parameters(tmp_path / "none.ipynb")


def test_a_notebook_runs_in_its_own_folder_with_its_parameters(notebook, tmp_path):
    run_notebook(notebook, tmp_path / "deep" / "out.ipynb", {"shots": 8, "name": "y"})
    assert (tmp_path / "y.txt").read_text() == "4.0"
    executed = nbformat.read(tmp_path / "deep" / "out.ipynb", as_version=4)
    assert executed.metadata["papermill"]["parameters"] == {"shots": 8, "name": "y"}


def test_a_failed_run_keeps_what_ran_and_the_earlier_result(notebook, tmp_path):
    output = tmp_path / "out.ipynb"
    run_notebook(notebook, output, {"shots": 2})
    before = output.read_bytes()
    with pytest.raises(RuntimeError, match=r"small\.ipynb: cell .* AssertionError: too many shots.*out\.failed\.ipynb"):
        run_notebook(notebook, output, {"shots": 9})
    assert output.read_bytes() == before
    assert "too many shots" in (tmp_path / "out.failed.ipynb").read_text()


def test_a_cell_that_does_not_end_is_stopped(notebook, tmp_path):
    cells = [nbformat.v4.new_code_cell("import time\ntime.sleep(60)")]
    cells[0].metadata["tags"] = ["parameters"]
    path = tmp_path / "slow.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=KERNEL), path)
    with pytest.raises(RuntimeError, match="longer than 2 s"):
        run_notebook(path, tmp_path / "out.ipynb", timeout=2)

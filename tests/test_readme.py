"""README and docs: commands are understood, tables agree with the code, the notebooks run."""

import re
import shlex
from pathlib import Path

import pytest

from ttilib.__main__ import _parser, literal
from ttilib.datasets.catalog import base_classes
from ttilib.episodes.benchmarks import BENCHMARKS
from ttilib.results.export import read_table
from ttilib.sweep.tables import TABLES
from ttilib.sweep.tasks import check_parameters, run_notebook
from ttilib.training.config import LEAK, TrainConfig, changed

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
COMMAND = re.compile(r"(?:^|`)(?:python|\.venv/bin/python|torchrun [^`\n]+?) -m ttilib (\w[^`#\n]*)", re.MULTILINE)


def commands(page):
    """The ttilib commands of a page, as words; those that are shortened by "..." are not complete."""
    words = map(shlex.split, COMMAND.findall(page.read_text().replace("\\\n", "")))
    return [each for each in words if len(each) > 1 and "..." not in each]


def rows_of(page, header):
    """The cells of the first table that begins with these words; the header is the first row."""
    table = re.search(rf"^\| {re.escape(header)}.+?(?=\n\n|\Z)", page.read_text(), re.DOTALL | re.MULTILINE)[0]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return [lines[0], *lines[2:]]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_and_scripts_exist(page):
    for words in commands(page):
        options = _parser().parse_args(words)
        if words[0] == "run":
            check_parameters(ROOT / options.notebook, {name: literal(value) for name, value in options.p})
        assert words[0] != "sweep" or set(options.tables) <= set(TABLES), words
    for script in re.findall(r"python ((?:tests|perf|docs)/\w+\.py)", page.read_text()):
        assert (ROOT / script).is_file(), script


def test_the_readme_is_short_and_every_notebook_has_its_command():
    assert len(PAGES[0].read_text().split()) <= 1500
    run = {Path(words[1]).name for words in commands(DOCS / "notebooks.md") if words[0] == "run"}
    assert run == {path.name for path in (ROOT / "notebooks").glob("*.ipynb")}


def test_tables_of_names_and_settings_are_those_of_the_code():
    for page, header, names in (PAGES[0], "benchmark |", BENCHMARKS), (DOCS / "tables.md", "table |", TABLES):
        assert [name for row in rows_of(page, header) for name in re.findall(r"`(.+?)`", row[0])] == list(names)
    for dataset, items, epochs, size, classes, _ in rows_of(DOCS / "training.md", "dataset | items per step")[1:]:
        config = TrainConfig.released(name := dataset.strip("`"))
        numbers = [config.batch, *([config.clip_frames, config.every] if config.clip_frames else [])]
        assert [int(number) for number in re.findall(r"\d+", items)] == numbers
        assert (int(re.match(r"\d+", epochs)[0]), int(classes)) == (config.epochs, 1 + len(base_classes(name, 0)))
        assert size in {"{} x {}".format(*plan.size) for plan in BENCHMARKS.values() if plan.trained_on == name}
    given = re.findall(r"`-p (contrast\.\w+) (\S+)`", (DOCS / "training.md").read_text())
    base, leak, root = (changed(TrainConfig(), dict([each])).contrast for each in given)
    assert (base.videos, leak.videos, root.root) == ("base", LEAK, "DATA")


@pytest.mark.parametrize(
    ("file", "header"),
    [("mini", "method | mIoU | D"), ("mini-paired", "difference | mIoU"), ("pascal2davis", "encoder | method"),
     ("pascal2davis-paired", "encoder | difference"), ("pascal-frozen", "method | mIoU | p")],
)  # fmt: skip
def test_results_are_those_of_the_committed_tables(file, header):
    columns = {"difference": "method", "spread over samplings": "mIoU spread"}
    head, *rows = rows_of(DOCS / "results.md", f"shots | {header}")
    for cells, (_, line) in zip(rows, read_table(ROOT / "outputs" / "tables" / f"{file}.csv").iterrows(), strict=True):
        for before, name, cell in zip(["", *head[:-1]], head, cells, strict=True):
            names = [f"{before} low", f"{before} high"] if name == "interval" else [columns.get(name, name)]
            value = [line[each] for each in names]
            for part, number in zip(cell.split(" to "), value, strict=True):
                assert part == number if isinstance(number, str) else abs(float(part) - number) < 0.051, (name, cell)


@pytest.mark.study
def test_notebooks_on_another_layout_and_fold(mini, tmp_path):
    """A few steps and two methods on the VSPW layout."""
    small = {"benchmark": "minivspw", "out": str(tmp_path), "height": 65, "width": 113}
    steps = {
        "02_train": {**small, "fold": 1, "epochs": 1, "every": 12, "batch": 4, "loss": "ce+iou", "contrast": "base"},
        "04_evaluate": {**small, "folds": [1], "shots": [1], "limit": 2, "methods": ["RePRI", "TTI"], "name": "small"},
        "05_tables": {"name": "small", "samples": 50, "out": str(tmp_path)},
    }
    for name, parameters in steps.items():
        run_notebook(ROOT / "notebooks" / f"{name}.ipynb", tmp_path / f"{name}.ipynb", parameters)
    assert list(read_table(tmp_path / "tables" / "small.csv")["method"]) == ["RePRI", "TTI"]
    assert "collapsed" not in (tmp_path / "05_tables.ipynb").read_text()  # Matplotlib's warning: a figure is too small

"""README and docs: commands are understood, tables agree with the code, the example and the notebooks run."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import ttilib as tti
from ttilib.__main__ import _parser, literal
from ttilib.datasets.catalog import base_classes
from ttilib.encoders.checkpoints import save_encoder
from ttilib.episodes.benchmarks import BENCHMARKS
from ttilib.episodes.episode import select_episodes, write_episodes
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


def test_the_readme_is_short_and_has_its_headings():
    text = PAGES[0].read_text()
    assert len(text.split()) <= 1500
    headings = "Install, Try it, Segment your own video, Reproduce the paper, Train, Extend, Limits, Cite"
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == headings.split(", ")
    assert {words[0] for words in commands(PAGES[0])} == {"segment", "means", "doctor", "sweep", "train"}
    run = {Path(words[1]).name for words in commands(DOCS / "notebooks.md") if words[0] == "run"}
    assert run == {path.name for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert (DOCS / "teaser.webp").stat().st_size < 400_000


def test_tables_of_names_and_settings_are_those_of_the_code():
    for page, header, names in (PAGES[0], "benchmark |", BENCHMARKS), (DOCS / "tables.md", "table |", TABLES):
        assert [name for row in rows_of(page, header) for name in re.findall(r"`(.+?)`", row[0])] == list(names)
    for dataset, items, epochs, size, classes, _ in rows_of(DOCS / "training.md", "dataset | items per step")[1:]:
        config = TrainConfig.released(name := dataset.strip("`"))
        numbers = [config.batch, *([config.clip_frames, config.every] if config.clip_frames else [])]
        assert [int(number) for number in re.findall(r"\d+", items)] == numbers
        assert (int(re.match(r"\d+", epochs)[0]), int(classes)) == (config.epochs, 1 + len(base_classes(name, 0)))
        assert size in {"{} x {}".format(*plan.size) for plan in BENCHMARKS.values() if plan.trained_on == name}
    base, leak, root = re.findall(r"`-p (contrast\.\w+) (\S+)`", (DOCS / "training.md").read_text())
    assert [changed(TrainConfig(), dict([each])).contrast.videos for each in (base, leak)] == ["base", LEAK]
    assert changed(TrainConfig(), dict([root])).contrast.root == "DATA"


@pytest.mark.parametrize(
    ("file", "header"),
    [("mini", "method | mIoU | D"), ("mini-paired", "difference | mIoU"), ("pascal2davis", "method | mIoU | s")],
)
def test_results_are_those_of_the_committed_tables(file, header):
    columns = {"difference": "method", "spread over samplings": "mIoU spread"}
    head, *rows = rows_of(DOCS / "results.md", f"shots | {header}")
    for cells, (_, line) in zip(rows, read_table(ROOT / "outputs" / "tables" / f"{file}.csv").iterrows(), strict=True):
        for name, cell in zip(head, cells, strict=True):
            value = [line["mIoU low"], line["mIoU high"]] if name == "interval" else [line[columns.get(name, name)]]
            for part, number in zip(cell.split(" to "), value, strict=True):
                assert part == number if isinstance(number, str) else abs(float(part) - number) < 0.051, (name, cell)


def test_the_example_runs(mini, tmp_path, monkeypatch, capsys):
    """With an untrained network; the study's tests compare the numbers."""
    ((code, shown),) = re.findall(r"```python\n(.+?)```\n\n```\n(.+?)```", PAGES[0].read_text(), re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) == 10
    save_encoder(tmp_path / "best.safetensors", tti.build_encoder("resnet18-mini", 10))
    monkeypatch.chdir(ROOT)
    code = code.replace("outputs/mini/train/ytvis-f0/best.safetensors", str(tmp_path / "best.safetensors"))
    exec(compile(code, "README.md", "exec"), {})
    assert all(re.fullmatch(r"IoU \d\.\d{3}  VC_3 \d\.\d{3}\n", text) for text in (capsys.readouterr().out, shown))


@pytest.mark.study
def test_notebooks_on_another_layout_and_fold(mini, tmp_path):
    """A few steps, two episodes, two methods, on the VSPW layout: every notebook of the study with small parameters."""
    small = {"benchmark": "minivspw", "out": str(tmp_path), "height": 65, "width": 113}
    pair = select_episodes(tti.draw_episodes(tti.read_benchmark("minivspw", 1, mini), 2), limit=2)
    write_episodes(tmp_path / "two.json", pair)
    steps = {
        "01_data": {"benchmark": "pascal2minivspw", "shots": 1, "out": str(tmp_path)},
        "02_train": {**small, "fold": 1, "epochs": 1, "every": 12, "batch": 4, "loss": "ce+iou", "contrast": "base"},
        "03_episode": {**small, "fold": 1, "index": 1, "manifest": str(tmp_path / "two.json"), "headless": True},
        "04_evaluate": {**small, "folds": [1], "shots": [1], "limit": 2, "methods": ["RePRI", "TTI"], "name": "small"},
        "05_tables": {"name": "small", "samples": 50, "out": str(tmp_path)},
    }
    for name, parameters in steps.items():
        run_notebook(ROOT / "notebooks" / f"{name}.ipynb", tmp_path / f"{name}.ipynb", parameters)
    assert f"{pair[1].name} supported by {' '.join(pair[1].support)}" in (tmp_path / "03_episode.ipynb").read_text()
    assert list(read_table(tmp_path / "tables" / "small.csv")["method"]) == ["RePRI", "TTI"]


@pytest.mark.study
def test_a_sweep_of_another_table(mini, tmp_path):
    """A line that can run in one fold only; again, nothing runs."""
    save_encoder(tmp_path / "ytvis-f1.safetensors", tti.build_encoder("resnet18-mini", 10))
    words = [*f"-m ttilib sweep ablation-window --mini --runs 1 --limit 2 --root {mini} --out {tmp_path}/out".split(),
             "--encoders", f"{tmp_path}/{{corpus}}-f{{fold}}.safetensors"]  # fmt: skip
    first, again = (subprocess.check_output([sys.executable, *words], cwd=ROOT, text=True) for _ in range(2))
    assert "no encoder at" in first and "0 tasks failed" in first and again.count("up to date") == 2
    table = read_table(tmp_path / "out" / "tables" / "mini-ablation-window.csv").set_index("method")["mIoU"]
    assert list(table.index) == [line.label for line in TABLES["ablation-window"].lines] and table.notna().all()

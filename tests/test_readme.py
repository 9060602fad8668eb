"""The README's own code and commands: they run, and they name parameters that exist."""

import json
import re
import shlex
import subprocess
import sys

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

COST = ("seconds", "memory_mb")


def readme(repository):
    return (repository / "README.md").read_text()


def notebook_commands(repository):
    return [shlex.split(line)[3:] for line in re.findall(r"`(python -m ttilib run .+?)`", readme(repository))]


def test_every_notebook_has_a_command_whose_parameters_it_knows(repository):
    commands = notebook_commands(repository)
    assert len(commands) == 7
    for command in commands:
        options = _parser().parse_args(command)
        parameters = {name: literal(value) for name, value in options.p}
        assert parameters
        check_parameters(repository / options.notebook, parameters)


def test_the_segment_command_is_understood(repository):
    command = re.search(r"python -m ttilib (segment .+?)```", readme(repository).replace("\\\n", ""), re.DOTALL)[1]
    options = _parser().parse_args(shlex.split(command))
    assert options.support == ["a.jpg", "b.jpg"] and options.video == "clip.mp4"


def test_the_data_commands_are_understood(repository):
    text = readme(repository).replace("\\\n", "")
    commands = re.findall(r"^python -m ttilib ((?:doctor|prepare|episodes) .+?)(?:  +#.*)?$", text, re.MULTILINE)
    parsed = [_parser().parse_args(shlex.split(command)) for command in commands]
    assert [options.benchmark for options in parsed] == ["ytvis-v1", "minivspw", "pascal2minivspw"]
    (run,) = re.findall(r"^python -m ttilib (run .+)$", text, re.MULTILINE)
    options = _parser().parse_args(shlex.split(run))
    check_parameters(repository / options.notebook, {name: literal(value) for name, value in options.p})


def test_the_training_commands_are_understood(repository):
    pattern = r"^(?:python|torchrun .+?) -m ttilib (train .+?)(?:  +#.*)?$"
    commands = re.findall(pattern, readme(repository), re.MULTILINE)
    parsed = [_parser().parse_args(shlex.split(command)) for command in commands if "..." not in command]
    assert [options.benchmark for options in parsed] == ["ytvis-v1", "minivspw"] and len(commands) == 3
    settings = re.findall(r"`-p\s+(contrast\.\w+) (\S+)`", readme(repository))
    chosen = [changed(TrainConfig(), {name: value}).contrast for name, value in settings]
    assert [each.videos for each in chosen[:2]] == ["base", LEAK] and chosen[2].root == "DATA"


def test_the_table_of_settings_is_the_released_configuration(repository):
    (table,) = re.findall(r"\| corpus \| items per step .+?\n\n", readme(repository), re.DOTALL)
    for line in table.strip().splitlines()[2:]:
        corpus, items, epochs, size, classes, _ = (cell.strip() for cell in line.strip("|").split("|"))
        config = TrainConfig.released(corpus.strip("`"))
        trained = [plan for plan in BENCHMARKS.values() if plan.trained_on == corpus.strip("`")]
        assert (int(items.split()[0]), int(re.match(r"\d+", epochs)[0])) == (config.batch, config.epochs)
        assert ("clips" in items) == bool(config.clip_frames)
        numbers = re.findall(r"\d+", items)[1:]
        assert numbers == ([str(config.clip_frames), str(config.every)] if config.clip_frames else [])
        assert size in {f"{plan.size[0]} x {plan.size[1]}" for plan in trained}
        assert int(classes) == 1 + len(base_classes(corpus.strip("`"), 0))


def test_the_table_of_benchmarks_is_the_registry(repository):
    (table,) = re.findall(r"\| benchmark \| support .+?\n\n", readme(repository), re.DOTALL)
    rows = [line.split("|")[1] for line in table.strip().splitlines()[2:]]
    assert [name for row in rows for name in re.findall(r"`(.+?)`", row)] == list(BENCHMARKS)


def test_the_page_on_tables_names_every_table_and_its_commands_are_understood(repository):
    page = (repository / "docs" / "tables.md").read_text()
    (table,) = re.findall(r"\| table \| lines .+?\n\n", page, re.DOTALL)
    rows = [line.split("|")[1] for line in table.strip().splitlines()[2:]]
    assert [name for row in rows for name in re.findall(r"`(.+?)`", row)] == list(TABLES)
    text = page + readme(repository)
    commands = re.findall(r"python -m ttilib (sweep [^#`\n]+)", text)
    parsed = [_parser().parse_args(shlex.split(command)) for command in commands]
    assert len(parsed) >= 4 and all(name in TABLES for options in parsed for name in options.tables)
    for words in re.findall(r"`((?:--[a-z-]+ [^`]*)+)`", page):  # options shown by themselves
        if not words.startswith(("--on", "--nthreads")):
            _parser().parse_args(["sweep", "mini", *shlex.split(words)])


def test_every_file_the_readme_points_to_exists(repository):
    text = readme(repository)
    for path in re.findall(r"!\[.*?\]\((.+?)\)", text) + re.findall(r"`((?:tests|benchmarks|notebooks)/[\w./]+)", text):
        assert (repository / path).exists(), path


def test_the_ten_lines_run_as_printed(repository, tmp_path, monkeypatch, capsys):
    """With the small network of a few steps in place of the study's weights."""
    (code,) = re.findall(r"```python\n(.+?)```", readme(repository), re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) == 10
    weights = tmp_path / "best.safetensors"
    save_encoder(weights, tti.build_encoder("resnet18-mini", 10))
    code = code.replace("outputs/mini/train/ytvis-f0/best.safetensors", str(weights))
    monkeypatch.chdir(repository)
    exec(compile(code, "README.md", "exec"), {})
    assert re.fullmatch(r"IoU 0\.\d{3}  VC_3 [01]\.\d{3}\n", capsys.readouterr().out)


@pytest.mark.study
@pytest.mark.parametrize("benchmark", ["pascal", "pascal2minivspw"])
def test_the_data_notebook_reads_every_layout(repository, tmp_path, benchmark):
    run_notebook(
        repository / "notebooks" / "01_data.ipynb",
        tmp_path / "01.ipynb",
        {"benchmark": benchmark, "shots": 1, "out": str(tmp_path)},
    )
    assert (tmp_path / "episodes" / f"{benchmark}-f0-1shot.json").stat().st_size > 1000
    assert json.loads((tmp_path / "doctor" / f"{benchmark}.json").read_text())["benchmark"] == benchmark


@pytest.mark.study
def test_training_evaluation_and_tables_on_another_layout_and_fold(repository, tmp_path):
    """A few steps, two episodes, two methods, on the VSPW layout: every notebook in the chain with small parameters."""
    data = {"benchmark": "minivspw", "out": str(tmp_path), "height": 65, "width": 113}
    manifest = tmp_path / "two.json"
    corpus = tti.generate(repository / "data" / "mini")
    drawn = tti.draw_episodes(tti.read_benchmark("minivspw", 1, corpus), 2)
    write_episodes(manifest, select_episodes(drawn, limit=2))
    chain = {
        "02_train": {
            **data, "fold": 1, "epochs": 1, "every": 12, "batch": 4, "loss": "ce+iou", "contrast": "base", "workers": 1,
        },
        "03_episode": {**data, "fold": 1, "index": 1, "manifest": str(manifest), "steps": 12, "headless": True},
        "04_evaluate": {
            **data, "folds": [1], "shots": [1], "runs": 2, "limit": 2, "methods": ["RePRI", "TTI"],
            "name": "small", "keep_going": True,
        },
        "05_tables": {"name": "small", "samples": 50, "out": str(tmp_path)},
    }  # fmt: skip
    for name, parameters in chain.items():
        run_notebook(repository / "notebooks" / f"{name}.ipynb", tmp_path / f"{name}.ipynb", parameters)
    said = f"{drawn[1].name} supported by {' '.join(drawn[1].support)}"
    assert said in (tmp_path / "03_episode.ipynb").read_text()  # replayed, not drawn again
    table = (tmp_path / "tables" / "small.csv").read_text()
    assert "RePRI" in table and "TTI" in table
    first, second = sorted((tmp_path / "rows").glob("small-f1-1shot-run*.jsonl"))
    before = second.read_bytes()
    assert len(before.splitlines()) == 4 == len(first.read_bytes().splitlines())
    second.write_bytes(before[: before.rindex(b'{"benchmark"') + 40])  # killed while writing the last row
    run_notebook(repository / "notebooks" / "04_evaluate.ipynb", tmp_path / "04.ipynb", chain["04_evaluate"])
    kept, again = before.splitlines()[:3], second.read_bytes().splitlines()
    assert again[:3] == kept and len(again) == 4
    assert {k: v for k, v in json.loads(again[3]).items() if k not in COST} == {
        k: v for k, v in json.loads(before.splitlines()[3]).items() if k not in COST
    }


@pytest.mark.study
def test_a_sweep_of_another_table_on_the_embedded_corpus(repository, tmp_path):
    """Two settings, one that can run and one without weights; again, nothing runs; more methods, rows are added."""
    corpus = tti.generate(repository / "data" / "mini")
    save_encoder(tmp_path / "ytvis-f1.safetensors", tti.build_encoder("resnet18-mini", 10))
    command = [
        sys.executable, "-m", "ttilib", "sweep", "ablation-window", "--mini", "--root", str(corpus), "--runs", "1",
        "--out", str(tmp_path / "out"), "--encoders", f"{tmp_path}/{{corpus}}-f{{fold}}.safetensors", "--limit", "2",
    ]  # fmt: skip

    def say(*more):
        return subprocess.run([*command, *more], cwd=repository, capture_output=True, text=True, check=True).stdout

    planned = say("--dry-run")
    assert "1 of 1 tasks to run, about" in planned and "not in fold 0: no encoder at" in planned
    said = say()
    assert "5-shot resnet18-mini cannot run: not in fold 0: no encoder at" in said and "0 tasks failed" in said
    table = read_table(tmp_path / "out" / "tables" / "mini-ablation-window.csv")
    assert list(table["method"]) == [line.label for line in TABLES["ablation-window"].lines]
    notebook = tmp_path / "out" / "05_tables-mini-ablation-window.ipynb"
    assert "no local term: TTI local_weight=0" in notebook.read_text()
    assert table["mIoU"].notna().all() and table["note"].str.contains("not in fold 0: no encoder at").all()
    (rows,) = (tmp_path / "out" / "rows").glob("*.jsonl")
    before = rows.read_bytes()
    again = say()
    assert again.count("up to date") == 2 and rows.read_bytes() == before
    tex = (tmp_path / "out" / "tables" / "mini-ablation-window.tex").read_text()
    assert r"\toprule" in tex and (tmp_path / "out" / "figures" / "05_mini-ablation-window-paired.pdf").is_file()

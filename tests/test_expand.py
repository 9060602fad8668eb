"""From tables to tasks: every episode once, and keys that change with what changes a number and with nothing else."""

from dataclasses import replace
from pathlib import Path

import pytest
from corpora import block, minivspw, pascal, ytvis

from ttilib.episodes.episode import group_by_batch, read_episodes
from ttilib.sweep.expand import SweepPaths, begin, expand, requested_tables, split_parameters
from ttilib.sweep.tables import Line, Setting, Table

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
SETTING = Setting("ytvis-v1", 1, folds=(0,), runs=2, label="small", size=(17, 33))


def plan(*methods, setting=SETTING, name="small"):
    return Table(name, "A small table", tuple(Line(setting, method, method) for method in methods), methods[0])


@pytest.fixture(autouse=True)
def code(monkeypatch):
    """The library is read once in all, not once for every expansion."""
    monkeypatch.setattr("ttilib.sweep.expand.code_digest", lambda: "this")


@pytest.fixture
def paths(tmp_path):
    """Six videos of class 1 with five frames each, three of class 5 with two; both are novel in fold 0."""
    shows = {f"a{n}": [[1]] * 5 for n in range(6)} | {f"b{n}": [[5]] * 2 for n in range(3)}
    ytvis(tmp_path / "ytvis", shows | {f"c{n}": [[2], [3], [4]] for n in range(3)})
    for corpus in ("ytvis", "pascal"):
        (tmp_path / f"{corpus}-resnet50-f0").write_bytes(corpus.encode())
    encoders = f"{tmp_path}/{{corpus}}-{{encoder}}-f{{fold}}"
    return SweepPaths(tmp_path, tmp_path / "out", encoders, NOTEBOOKS, frames=12)


def keys(table, paths):
    return [task.key for task in expand([table], paths).tasks]


def test_tasks_cover_every_run_once(paths):
    specs = expand([plan("RePRI", "TTI")], paths).specs
    for run in range(2):
        ours = [spec for spec in specs if f"-run{run}-" in spec.manifest.name]
        sampled = read_episodes(ours[0].manifest)
        assert len(sampled) == 5 + 2 and {(e.run, e.fold) for e in sampled} == {(run, 0)}
        spans = [(spec.task.parameters["first"], spec.task.parameters["last"]) for spec in ours]
        assert [n for first, last in spans for n in range(first, last)] == list(range(7))
        assert [spec.task.episodes for spec in ours] == [last - first for first, last in spans]
        assert all(spec.frames >= 12 for spec in ours[:-1]) and len(ours) > 1
    assert sum(spec.frames for spec in specs) == 2 * (5 * 5 + 2 * 2)
    assert len({spec.task.key for spec in specs}) == len(specs)
    limited = expand([plan("TTI")], replace(paths, limit=2)).specs
    assert [spec.task.episodes for spec in limited] == [2, 2] and len(read_episodes(limited[0].manifest)) == 2


def test_parameters_of_a_task_that_tables_share(paths, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("import torch\n\ndef load():\n    return torch.nn.AvgPool2d(8)\n")
    monkeypatch.chdir(tmp_path)  # of the command; notebooks run elsewhere
    more = replace(paths, more={"supports": "own"}, device="cuda", encoders="mine.py:load")
    specs = expand([plan("RePRI", "TTI"), plan("TTI", "TTI window=5", name="other")], more).specs
    assert [spec.task.key for spec in specs] == keys(plan("TTI"), more)  # not a matter of the methods
    task, found = specs[0].task, specs[0].task.parameters
    assert task.parts == ("RePRI", "TTI", "TTI window=5") == tuple(found["methods"]) and found["rows"] == task.rows
    assert (found["height"], found["width"], found["device"], found["supports"]) == (17, 33, "cuda", "own")
    assert found["encoder"] == f"{tmp_path / 'mine.py'}:load" and len(specs[0].fingerprint) >= 8


def test_what_changes_a_number_changes_every_key_and_nothing_else_does(paths, monkeypatch, tmp_path):
    (tmp_path / "mini.json").write_text('{"version": 3}')
    before = keys(plan("TTI"), paths)
    fields = {"seed": 7, "size": (25, 33), "label": "else", "shots": 2, "draws": "independent", "seen_classes": True}
    for change in [{name: value} for name, value in fields.items()]:
        assert not set(before).intersection(keys(plan("TTI", setting=replace(SETTING, **change)), paths)), change
    other = paths.encoders.replace("{corpus}", "pascal")
    for change in ({"device": "cuda"}, {"more": {"supports": "own"}}, {"encoders": other}):
        assert not set(before).intersection(keys(plan("TTI"), replace(paths, **change))), change
    assert keys(plan("TTI"), replace(paths, out=tmp_path / "elsewhere", more={"keep_going": True})) == before
    (means := tmp_path / "ytvis-resnet50-f0.means.safetensors").write_bytes(b"mean")  # what `frozen` subtracts
    assert not set(before).intersection(keys(plan("TTI"), paths))
    means.unlink()
    first = keys(plan("TTI", setting=replace(SETTING, runs=1)), paths)
    assert first == before[: len(first)]
    (tmp_path / "mini.json").write_text('{"version": 4}')
    again = keys(plan("TTI"), paths)
    monkeypatch.setattr("ttilib.sweep.expand.code_digest", lambda: "other")
    assert not set(before).intersection(again) and not set(again).intersection(keys(plan("TTI"), paths))


def test_an_episode_sampled_twice_is_two_tasks(tmp_path, paths):
    """V2 samples with replacement, and with this seed one twice."""
    shows = {f"a{n}": [[1]] for n in range(3)} | {f"b{n}": [[5]] for n in range(2)}
    ytvis(tmp_path / "few" / "ytvis", shows | {f"c{n}": [[2], [3], [4]] for n in range(3)})
    setting = Setting("ytvis-v2", 1, folds=(0,), runs=1, seed=12, size=(17, 33))
    specs = expand([plan("TTI", setting=setting)], replace(paths, root=tmp_path / "few", frames=1)).specs
    episodes = read_episodes(specs[0].manifest)
    assert len(set(episodes)) < len({spec.task.key for spec in specs}) == len(specs) == len(episodes) == 3


def test_frames_that_the_release_solves_together_stay_together(tmp_path):
    masks = {f"v{n}": [block(1, 2, 2, 8, 8)] * 3 for n in range(4)}
    minivspw(tmp_path / "minivspw", masks, {"kind_1": "1"})
    pascal(tmp_path / "pascal", {f"s{n}": block(1, 2, 2, 8, 8) for n in range(4)}, tuple(f"s{n}" for n in range(4)))
    (tmp_path / "w").write_bytes(b"w")
    setting = Setting("pascal2minivspw", 1, folds=(0,), runs=1, size=(17, 33))
    paths = SweepPaths(tmp_path, tmp_path / "out", str(tmp_path / "w"), NOTEBOOKS, frames=1)
    specs = expand([plan("TTI", setting=setting)], paths).specs
    sampled = read_episodes(specs[0].manifest)
    assert len(group_by_batch(sampled)) == len(specs) == 100 and len(sampled) > 100
    for spec in specs:
        first, last = (spec.task.parameters[name] for name in ("first", "last"))
        assert len({episode.batch for episode in sampled[first:last]}) == 1 and spec.frames == 100


def test_what_cannot_run_has_a_reason_and_the_rest_runs(paths):
    half, images, many = replace(SETTING, folds=(0, 1)), Setting("coco", 1), replace(SETTING, shots=9)
    expansion = expand([plan("TTI", setting=setting) for setting in (half, images, many)], paths)
    assert expansion.tasks and {spec.fold for spec in expansion.specs} == {0}
    assert expansion.reason(half).startswith("not in fold 1: ") and "resnet50-f1" in expansion.reason(half)
    assert "coco" in expansion.reason(images) and "kind_1" in expansion.reason(many)
    assert {fold for setting, fold in expansion.unavailable if setting == images} == {0, 1, 2, 3}


def test_requests_are_checked_before_anything_runs(paths, tmp_path):
    (table,) = requested_tables(["ytvis-v2"], {"folds": [1], "runs": 2}, mini=True)
    assert {(s.folds, s.runs, s.name) for s in table.settings} == {((1,), 2, "mini-ytvis-v2")}
    settings, more = split_parameters(NOTEBOOKS, {"seed": 7, "keep_going": True, "draws": "independent"})
    assert settings == {"seed": 7, "draws": "independent"} and more == {"keep_going": True}
    for refused in ({"methods": ["TTI"]}, {"only": ["fish"]}):  # the manifest of a task has all its episodes
        with pytest.raises(ValueError, match="table"):
            split_parameters(NOTEBOOKS, refused)
    (tmp_path / "mini.json").write_text('{"version": 3}')
    for change, word in (({"frames": 0}, "--frames"), ({"out": tmp_path / "mini.json" / "deep"}, "another folder")):
        with pytest.raises((ValueError, OSError), match=word):
            begin(replace(paths, **change), [plan("TTI")])
    with pytest.raises(ValueError, match="ytvis-v1.*--mini"):  # rows of synthetic data under the name of a benchmark
        begin(paths, requested_tables(["ytvis-v1"], {}))
    begin(paths, requested_tables(["ytvis-v1"], {}, mini=True))
    assert (paths.out / "sweep.json").is_file()

"""From tables to tasks: each piece once, keys that change with what counts and with nothing else, reasons kept."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from corpora import block, minivspw, pascal, ytvis
from tqdm import tqdm

from ttilib.episodes.episode import group_by_batch, read_episodes, slices
from ttilib.results.export import read_table
from ttilib.results.records import code_digest
from ttilib.sweep.driver import forecast, index, table_tasks
from ttilib.sweep.expand import (
    SweepPaths,
    begin,
    default_paths,
    expand,
    requested_tables,
    split_parameters,
    with_encoders,
)
from ttilib.sweep.tables import Line, Setting, Table, changed
from ttilib.sweep.tasks import finish

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
SETTING = Setting("ytvis-v1", 1, folds=(0,), runs=2, label="small", size=(17, 33))


def plan(*methods, setting=SETTING, name="small"):
    labels = {"TTI": "ours"}
    lines = tuple(Line(setting, method, labels.get(method, "")) for method in methods)
    return Table(name, "A small table", lines, methods[0])


@pytest.fixture(autouse=True)
def code(monkeypatch):
    """The library is read once in all, not once for every expansion."""
    monkeypatch.setattr("ttilib.sweep.expand.code_digest", lambda: "this")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Six videos of class 1 with five frames each, three of class 5 with two; both are novel in fold 0."""
    root = tmp_path_factory.mktemp("data")
    shows = {f"a{n}": [[1]] * 5 for n in range(6)} | {f"b{n}": [[5]] * 2 for n in range(3)}
    ytvis(root / "ytvis", shows | {f"c{n}": [[2], [3], [4]] for n in range(3)})
    return root


@pytest.fixture
def place(data, tmp_path):
    (tmp_path / "weights").mkdir()
    for corpus in ("ytvis", "pascal"):
        (tmp_path / "weights" / f"{corpus}-resnet50-f0").write_bytes(corpus.encode())
    encoders = f"{tmp_path}/weights/{{corpus}}-{{encoder}}-f{{fold}}"
    return SweepPaths(data, tmp_path / "out", encoders, NOTEBOOKS, frames=12)


def test_pieces_cover_every_pass_once(place):
    pieces = expand([plan("RePRI", "TTI")], place).pieces
    for run in range(2):
        ours = [piece for piece in pieces if f"-run{run}-" in piece.manifest.name]
        drawn = read_episodes(ours[0].manifest)
        assert len(drawn) == 5 + 2 and {e.run for e in drawn} == {run} and {e.fold for e in drawn} == {0}
        spans = [(piece.task.parameters["first"], piece.task.parameters["last"]) for piece in ours]
        assert [n for first, last in spans for n in range(first, last)] == list(range(7))
        assert all(piece.frames >= 12 for piece in ours[:-1]) and len(ours) > 1
    assert sum(piece.frames for piece in pieces) == 2 * (5 * 5 + 2 * 2)
    assert len({piece.task.key for piece in pieces}) == len(pieces)
    assert all(piece.task.parts == ("RePRI", "TTI") for piece in pieces)


def test_a_task_has_the_parameters_and_the_cost_of_its_piece(place):
    (piece, *_) = expand([plan("RePRI", "TTI")], replace(place, more={"only": ["a1"]}, device="cuda")).pieces
    parameters = piece.task.parameters
    assert (parameters["height"], parameters["width"]) == (17, 33) and parameters["methods"] == ["RePRI", "TTI"]
    assert parameters["encoder"].endswith("weights/ytvis-resnet50-f0") and parameters["only"] == ["a1"]
    assert parameters["device"] == "cuda" and parameters["rows"] == piece.task.rows
    assert piece.task.cost == pytest.approx(12 + piece.frames * (2 + 2 * 0.08) * 17 * 33 / (241 * 425))
    (piece, *_) = expand([plan("TTI", setting=replace(SETTING, size=(0, 0)))], place).pieces
    assert (piece.task.parameters["height"], piece.task.parameters["width"]) == (241, 425)


def test_tables_that_ask_the_same_share_their_tasks(place):
    both = expand([plan("RePRI", "TTI"), plan("TTI", "TTI window=5", name="other")], place)
    alone = expand([plan("TTI")], place)
    assert [t.key for t in both.tasks] == [t.key for t in alone.tasks]  # a method more, the same piece
    assert both.tasks[0].parts == ("RePRI", "TTI", "TTI window=5")
    assert both.tasks[0].parameters["methods"] == ["RePRI", "TTI", "TTI window=5"]


@pytest.mark.parametrize(
    "other",
    [
        lambda place: (plan("TTI", setting=replace(SETTING, seed=7)), place),
        lambda place: (plan("TTI", setting=replace(SETTING, size=(25, 33))), place),
        lambda place: (plan("TTI", setting=replace(SETTING, label="else")), place),
        lambda place: (plan("TTI", setting=replace(SETTING, shots=2)), place),
        lambda place: (plan("TTI", setting=replace(SETTING, draws="independent")), place),
        lambda place: (plan("TTI", setting=replace(SETTING, seen_classes=True)), place),
        lambda place: (plan("TTI"), replace(place, device="cuda")),
        lambda place: (plan("TTI"), replace(place, more={"keep_going": True})),
        lambda place: (plan("TTI"), replace(place, encoders=place.encoders.replace("{corpus}", "pascal"))),
    ],
)
def test_what_changes_numbers_changes_every_key(place, other):
    table, elsewhere = other(place)
    before = {task.key for task in expand([plan("TTI")], place).tasks}
    after = {task.key for task in expand([table], elsewhere).tasks}
    assert after and not before & after


def test_what_changes_no_number_changes_no_key(place, tmp_path):
    before = [task.key for task in expand([plan("TTI")], place).tasks]
    moved = replace(place, out=tmp_path / "elsewhere")
    assert [task.key for task in expand([plan("TTI")], moved).tasks] == before
    first = expand([plan("TTI", setting=replace(SETTING, runs=1))], place).tasks
    assert [task.key for task in first] == before[: len(first)]  # fewer runs are some of the same


def test_another_program_text_changes_every_key(place, monkeypatch):
    before = {task.key for task in expand([plan("TTI")], place).tasks}
    monkeypatch.setattr("ttilib.sweep.expand.code_digest", lambda: "other")
    assert not before & {task.key for task in expand([plan("TTI")], place).tasks}


def test_the_same_episode_drawn_twice_is_two_pieces(tmp_path, place):
    """V2 draws with replacement; a row is known by its place in the pass as well."""
    root = tmp_path / "few"
    shows = {f"a{n}": [[1]] for n in range(3)} | {f"b{n}": [[5]] for n in range(2)}
    ytvis(root / "ytvis", shows | {f"c{n}": [[2], [3], [4]] for n in range(3)})
    here = replace(place, root=root, frames=1)
    for seed in range(40):
        setting = Setting("ytvis-v2", 1, folds=(0,), runs=1, seed=seed, size=(17, 33))
        pieces = expand([plan("TTI", setting=setting)], here).pieces
        episodes = read_episodes(pieces[0].manifest)
        if len(set(episodes)) < len(episodes):
            assert len({piece.task.key for piece in pieces}) == len(pieces) == len(episodes) == 3
            return
    raise AssertionError("no seed draws the same episode twice")


def test_another_embedded_corpus_changes_every_key(data, place):
    before = {task.key for task in expand([plan("TTI")], place).tasks}
    (data / "mini.json").write_text('{"version": 3}')
    try:
        assert not before & {task.key for task in expand([plan("TTI")], place).tasks}
    finally:
        (data / "mini.json").unlink()


def test_a_limit_keeps_the_first_episodes_of_every_pass(place):
    pieces = expand([plan("TTI")], replace(place, limit=2)).pieces
    assert [piece.episodes for piece in pieces] == [2, 2] and len(read_episodes(pieces[0].manifest)) == 2


def test_what_cannot_run_says_why_and_the_rest_runs(place):
    tables = [
        plan("TTI", setting=replace(SETTING, folds=(0, 1))),
        plan("TTI", setting=Setting("coco", 1), name="stills"),
        plan("TTI", setting=replace(SETTING, shots=9), name="many"),
    ]
    expansion = expand(tables, place)
    assert expansion.tasks and {piece.fold for piece in expansion.pieces} == {0}
    reasons = {(setting.benchmark, setting.shots, fold): why for (setting, fold), why in expansion.refusals.items()}
    assert "no encoder at" in reasons["ytvis-v1", 1, 1] and "resnet50-f1" in reasons["ytvis-v1", 1, 1]
    assert "coco" in reasons["coco", 1, 0] and len([key for key in reasons if key[0] == "coco"]) == 4
    assert "kind_1" in reasons["ytvis-v1", 9, 0]


def test_an_unknown_method_is_an_error_not_a_reason(place):
    with pytest.raises(ValueError, match="did you mean TTI"):
        expand([plan("TTI+keyfrane")], place)


def test_batches_are_never_cut(tmp_path):
    """Frames of several videos that the release solves together stay in one piece."""
    data, weights = tmp_path / "data", tmp_path / "w"
    masks = {f"v{n}": [block(1, 2, 2, 8, 8)] * 3 for n in range(4)}
    minivspw(data / "minivspw", masks, {"kind_1": "1"})
    pascal(data / "pascal", {f"s{n}": block(1, 2, 2, 8, 8) for n in range(4)}, tuple(f"s{n}" for n in range(4)))
    weights.write_bytes(b"w")
    setting = Setting("pascal2minivspw", 1, folds=(0,), runs=1, size=(17, 33))
    place = SweepPaths(data, tmp_path / "out", str(weights), NOTEBOOKS, frames=1)
    pieces = expand([plan("TTI", setting=setting)], place).pieces
    drawn = read_episodes(pieces[0].manifest)
    assert len(group_by_batch(drawn)) == len(pieces) == 100 and len(drawn) > 100
    for piece in pieces:
        first, last = (piece.task.parameters[name] for name in ("first", "last"))
        assert len({e.batch for e in drawn[first:last]}) == 1 and piece.frames == 100
    assert [part.start for part in slices(drawn, 250)] == [part.start for part in group_by_batch(drawn)][::3]


def test_the_index_says_what_is_there_and_what_is_missing(place):
    table = plan("RePRI", "TTI", setting=replace(SETTING, folds=(0, 1)))
    expansion = expand([table], place)
    lines = forecast([table], expansion, place, workers=2).splitlines()
    assert "0 of 6 tasks done; not in fold 1: no encoder" in lines[1] and lines[-1].startswith("6 of 6 tasks to run")
    task = expansion.tasks[0]
    for path in (Path(task.rows), Path(task.output)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}\n")
    finish(place.out, task, {"seconds": 2 * task.cost})
    written = index(table, expansion, place)
    found = json.loads(written.read_text())
    assert found["files"] == [f"rows/{task.key}.jsonl"] and found["code"] == code_digest()
    assert found["masks"] == {f"rows/{task.key}.jsonl": f"masks/{task.key}.jsonl"}
    assert found["manifests"][found["files"][0]]["path"].startswith("episodes/small-f0-1shot-run0-")
    assert [(line["method"], line["label"]) for line in found["lines"]] == [("RePRI", "RePRI"), ("TTI", "ours")]
    assert all("not in fold 1" in line["why"] and "5 of 6 tasks" in line["why"] for line in found["lines"])
    _, line, last = forecast([table], expansion, place, workers=2).splitlines()
    left = sum(task.cost for task in expansion.tasks[1:]) / 2 * 2  # two workers, each half as fast as was expected
    assert "1 of 6 tasks done" in line and "judged by 1 finished task" in last
    left = tqdm.format_interval(left)
    assert last.startswith(f"5 of 6 tasks to run, about {left} (hours:minutes:seconds) with 2 workers")


def test_a_table_of_which_nothing_can_run_is_written_with_the_reasons(place):
    table = plan("RePRI", "TTI", setting=Setting("coco", 5), name="stills")
    assert table_tasks([table], expand([table], place), place) == []
    written = read_table(place.out / "tables" / "stills.csv")
    assert list(written["method"]) == ["RePRI", "ours"]  # as readers call it
    assert written["note"].str.startswith(f"{place.root}: no coco").all()
    assert {path.suffix for path in (place.out / "tables").iterdir()} == {".csv", ".md", ".tex"}


def test_requests_are_checked_before_anything():
    assert [t.name for t in requested_tables(["mini", "cost", "mini"], {})] == ["mini", "cost"]
    (table,) = requested_tables(["ytvis-v2"], {"folds": [1], "runs": 2}, mini=True)
    assert {(s.folds, s.runs, s.name) for s in table.settings} == {((1,), 2, "mini-ytvis-v2")}
    assert table == changed(table, folds=(1,))
    for changes in ({"folds": [4]}, {"folds": []}, {"runs": 0}):
        with pytest.raises(ValueError, match="folds|runs"):
            requested_tables(["mini"], changes)


def test_parameters_are_those_of_the_notebook_and_of_nobody_else():
    settings, more = split_parameters(NOTEBOOKS, {"seed": 7, "keep_going": True, "draws": "independent"})
    assert settings == {"seed": 7, "draws": "independent"} and more == {"keep_going": True}
    for given, message in (
        ({"sead": 7}, "did you mean seed"), ({"seed": "7"}, "must be a int"), ({"methods": ["TTI"]}, "table decides"),
        ({"limit": 3}, "--limit"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            split_parameters(NOTEBOOKS, given)


def test_a_run_folder_that_cannot_be_written_is_refused_at_once(place, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot be written there.*--out"):
        begin(replace(place, out=tmp_path / "file" / "deep"), [plan("TTI")])
    begin(place, [plan("TTI")])
    assert (place.out / "sweep.json").is_file()


def test_rows_of_the_embedded_corpus_cannot_be_named_after_a_benchmark(place, data):
    (data / "mini.json").write_text("{}")
    try:
        with pytest.raises(ValueError, match="must not be taken for ytvis-v1; give --mini"):
            begin(place, requested_tables(["ytvis-v1"], {}))
        begin(place, requested_tables(["ytvis-v1"], {}, mini=True))
    finally:
        (data / "mini.json").unlink()


def test_one_path_for_several_encoders_is_refused_and_a_plugin_names_its_rows():
    tables = requested_tables(["pascal2minivspw", "minivspw"], {})
    with pytest.raises(ValueError, match="same for all encoders.*resnet101, resnet50; put {encoder}"):
        with_encoders(tables, "weights/f{fold}.pth")
    assert with_encoders(tables, "weights/{encoder}-f{fold}.pth") == tables
    assert with_encoders(tables[1:], "weights/f{fold}.pth") == tables[1:]
    ours = with_encoders(tables, "some/where.py:load")
    assert {s.encoder for plan in ours for s in plan.settings} == {"where.py:load"}
    assert len(ours[0].lines) == len(tables[0].lines) / 2  # ResNet-50 and 101 have become one


def test_a_plugin_is_found_from_wherever_the_notebook_runs(place, tmp_path, monkeypatch):
    code = "import torch\n\ndef load():\n    return torch.nn.Conv2d(3, 4, 8, 8)\n"
    (tmp_path / "mine.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    expansion = expand([plan("TTI")], replace(place, encoders="mine.py:load"))
    assert expansion.tasks[0].parameters["encoder"] == f"{tmp_path / 'mine.py'}:load"
    assert len(expansion.pieces[0].weights) >= 8


def test_the_usual_places():
    assert default_paths(True).out == Path("outputs/mini") and "{fold}" in default_paths(True).encoders
    assert default_paths(False, out="x").out == Path("x") and "{encoder}" in default_paths(False).encoders
    assert default_paths(False, encoders="a.py:load").encoders == "a.py:load"

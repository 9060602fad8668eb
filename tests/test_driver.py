"""Tasks through a real scheduler: each once, and at most a window of them."""

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from itertools import count
from pathlib import Path

import psutil
import pytest
from distributed import Client
from tasks import LIMIT, eventually, write_notebook

from ttilib.results.export import read_table
from ttilib.sweep import driver
from ttilib.sweep.driver import drive, execute, forecast, index, table_tasks
from ttilib.sweep.expand import Expansion, SweepPaths, TaskSpec
from ttilib.sweep.tables import Line, Setting, Table
from ttilib.sweep.tasks import Task, finish

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
SETTING = Setting("ytvis-v1", 1, folds=(0, 1), runs=1, label="small")
OTHER = Setting("coco", 5)
RAN: list[str] = []
GATE = threading.Event()


@pytest.fixture(scope="module")
def client():
    """Two workers in this process: the scheduler is the real one, and what they do can be watched."""
    with Client(processes=False, n_workers=2, threads_per_worker=1, dashboard_address=None) as client:
        yield client


@pytest.fixture(autouse=True)
def fresh():
    RAN.clear()
    GATE.clear()


def task(key, do="nothing"):
    return Task(str(key), f"task {key}", "n.ipynb", "o.ipynb", {"do": do}, 1.0)


def perform(task):
    """What a worker does here; functions of a module go to workers by name, so they share RAN with the test."""
    RAN.append(task.key)
    match task.parameters["do"]:
        case "fail":
            raise ValueError("this video is black")
        case "fail once" if RAN.count(task.key) == 1:
            raise OSError("disk is away")
        case "wait":
            assert GATE.wait(LIMIT)
    return "fine"


def test_at_most_a_window_is_read_and_every_task_runs_once(client):
    read, found, submitted = count(), [], 2 * 2 + 2
    outcomes = execute((task(next(read)) for _ in range(40)), client, perform)
    for done in range(1, 8):
        found.append(next(outcomes))
        assert len(RAN) < done + submitted
    assert next(read) == 6 + submitted  # six replaced
    found += outcomes
    assert {o.task.key: (o.value, o.error) for o in found} == dict.fromkeys(RAN, ("fine", None))
    assert len(found) == len(RAN) == 40


def test_results_come_at_once_and_a_closed_generator_cancels_what_has_not_begun(client):
    waiting = [task(f"c{n}", "wait") for n in range(40)]
    outcomes = execute([task("slow", "wait"), task("first"), *waiting], client, perform)
    assert next(outcomes).task.key == "first"
    outcomes.close()
    eventually(lambda: not client.cluster.scheduler.tasks)  # it has forgotten them, and then the workers do
    eventually(lambda: sum(len(worker.state.tasks) for worker in client.cluster.workers.values()) <= 2)  # one each
    GATE.set()
    assert client.submit(sum, [1, 2]).result(timeout=LIMIT) == 3
    assert sum(key.startswith("c") for key in RAN) <= 2  # of 4 submitted


def test_a_failing_task_is_retried_and_the_others_go_on(client):
    tasks = [task("bad", "fail"), task("good"), task("shaky", "fail once")]
    found = {o.task.key: (o.value, o.error) for o in execute(tasks, client, perform, retries=2)}
    assert found == {"bad": (None, "ValueError: this video is black"), "good": ("fine", None), "shaky": ("fine", None)}
    assert [RAN.count(key) for key in ("bad", "good", "shaky")] == [3, 1, 2]


def test_damaged_rows_fail_their_task_only(client, tmp_path, monkeypatch):
    monkeypatch.setattr(driver, "run_task", lambda task, folder: {"seconds": 70.0, "value": perform(task)})
    good, lines = '{"method": "TTI", "intersection": 1, "union": 4}\n', []
    files = {"torn": good + "{\n", "null": good + "null\n", "no-method": good + '{"union": 2}\n', "end": good * 2}
    for name, text in files.items():
        (tmp_path / f"{name}.jsonl").write_text(text)
    tasks = [replace(task(n), rows=str(tmp_path / f"{n}.jsonl"), parts=("TTI",)) for n in files]
    errors = {o.task.key: o.error for o in drive(tasks, client, tmp_path, lines.append, retries=0)}
    assert set(errors) == set(files) - {"end"} and all(f"{name}.jsonl" in errors[name] for name in errors), errors
    assert any("end" in line and "01:10" in line and "TTI 25.0" in line for line in lines)


def test_the_index_the_forecast_and_when_a_table_is_made_again(tmp_path, monkeypatch):
    """One of two tasks is done, in twice the expected time, and fold 1 cannot run."""
    monkeypatch.setattr("ttilib.results.records.code_digest", lambda: "this")
    paths, specs = SweepPaths(tmp_path, tmp_path / "out", "w", NOTEBOOKS), []
    for n in range(2):
        rows, output = tmp_path / "out" / f"rows/k{n}.jsonl", tmp_path / "out" / f"tasks/k{n}.ipynb"
        size = {"height": 17, "width": 33}
        one = Task(f"k{n}", f"task {n}", "04.ipynb", str(output), size, 100.0 + n, ("RePRI", "TTI"), str(rows))
        specs.append(TaskSpec(one, SETTING, 0, 12, tmp_path / "out" / "episodes" / "m.json", "abc"))
    first = specs[0].task
    for path in (Path(first.rows), Path(first.output)):
        path.parent.mkdir(parents=True)
        path.write_text("{}\n")
    finish(paths.out, first, {"seconds": 200.0})
    unavailable = {(SETTING, 1): "no encoder"} | {(OTHER, fold): "no coco" for fold in OTHER.folds}
    expansion = Expansion(tuple(specs), unavailable)
    table = Table("small", "A table", (Line(SETTING, "RePRI", "RePRI"), Line(SETTING, "TTI", "ours")))
    found = index(table, expansion, paths)
    assert found["files"] == ["rows/k0.jsonl"] and found["weights"] == {"resnet50, ytvis fold 0": "abc"}
    assert found["manifests"]["rows/k0.jsonl"] == {"path": "episodes/m.json", "benchmark": "ytvis-v1", "size": [17, 33]}
    assert all("fold 1: no encoder; 1 of 2 tasks are not finished" in line["why"] for line in found["lines"])
    last = forecast([table], expansion, paths, workers=2).splitlines()[-1]
    assert last.startswith("1 of 2 tasks to run, about 0:03:22 ")  # 101 s, twice as slow; a second worker does not help
    empty = Table("images", "A table", (Line(OTHER, "RePRI", "RePRI"), Line(OTHER, "oracle", "true prior")))
    (before,) = table_tasks([empty, table], expansion, paths)
    assert set(read_table(paths.out / "tables" / "images.csv")["note"]) == {"no coco"}
    assert table_tasks([table], expansion, paths) == [before]
    Path(first.rows).write_text("{}\n{}\n")
    (after,) = table_tasks([table], expansion, paths)
    assert after.key != before.key and after.output == before.output
    newer = replace(specs[0], task=replace(first, key="new", rows=str(tmp_path / "out/rows/new.jsonl")))
    with pytest.warns(UserWarning, match="small: there are no rows of this code .* rows before, of code this"):
        assert table_tasks([table], Expansion((newer,), unavailable), paths) == [after]


WORK = """
import json, os, time
from pathlib import Path
from filelock import FileLock

here, rows = Path(folder), Path(f"{folder}/rows/{number}.jsonl")
with FileLock(f"{rows}.lock"):  # another process with the same task waits, as in notebook 04
    done = len(rows.read_text().splitlines()) if rows.is_file() else 0
    for episode in range(done, 4):
        if episode < 3:
            row = {"method": "TTI", "task": number, "episode": episode, "intersection": 1, "union": 2}
            with rows.open("a") as file:
                file.write(json.dumps(row) + chr(10))
        with (here / "diary").open("a") as file:
            file.write(f"{number} {os.getppid()}" + chr(10))
        while not ((here / "all").is_file() or (here / "two").is_file() and len(list(here.glob("tasks/*.json"))) < 2):
            time.sleep(0.02)
"""
SWEEP = """
import sys
from ttilib.sweep.clusters import cluster
from ttilib.sweep.driver import drive
from ttilib.sweep.tasks import Task

folder, tasks = sys.argv[1], []
for n in range(6):
    output, rows = f"{folder}/tasks/key{n}.ipynb", f"{folder}/rows/{n}.jsonl"
    told = {"folder": folder, "number": n}
    tasks.append(Task(f"key{n}", f"task {n}", f"{folder}/small.ipynb", output, told, 2.0, ("TTI",), rows))
with cluster("local", workers=2, log_folder=f"{folder}/logs") as client:
    sys.exit(len(drive(tasks, client, folder, print)))
"""


@pytest.mark.study
def test_a_killed_sweep_continues_and_repeats_nothing(tmp_path):
    """Tasks wait after each row: before the file two exists, then once two tasks are recorded, until all exists."""
    write_notebook(tmp_path / "small.ipynb", 'folder: str = ""  # run\nnumber: int = 0  # task', WORK)
    for name in ("rows", "tasks", "temporary"):
        (tmp_path / name).mkdir()
    log, diary, own = tmp_path / "log", tmp_path / "diary", os.environ | {"TMPDIR": str(tmp_path / "temporary")}
    diary.touch()

    def start():
        with log.open("a") as file:
            return subprocess.Popen([sys.executable, "-c", SWEEP, str(tmp_path)], stdout=file, stderr=file, env=own)

    def begun():
        """(task, worker) by row, and at the end."""
        return [tuple(map(int, line.split())) for line in diary.read_text().splitlines()]

    def recorded():
        return {int(path.stem.removeprefix("key")) for path in (tmp_path / "tasks").glob("key*.json")}

    process, family = start(), []
    try:
        (_, worker), *_ = eventually(begun, process)
        os.kill(worker, signal.SIGKILL)
        (tmp_path / "two").touch()
        eventually(lambda: len(recorded()) >= 2 and {n for n, _ in begun()} - recorded(), process)
        family = psutil.Process(process.pid).children(recursive=True)
    finally:
        process.kill()
        process.wait()
    eventually(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in family))
    done, before = recorded(), len(begun())
    assert 2 <= len(done) < 6
    (tmp_path / "all").touch()
    assert start().wait(timeout=LIMIT) == 0, log.read_text()
    assert not done & {n for n, _ in begun()[before:]}
    rows = [json.loads(line) for path in (tmp_path / "rows").glob("*.jsonl") for line in path.read_text().splitlines()]
    assert sorted((row["task"], row["episode"]) for row in rows) == [(n, e) for n in range(6) for e in range(3)]
    assert recorded() == set(range(6)) and "Traceback" not in log.read_text()

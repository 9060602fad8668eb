"""Tasks through a real scheduler: each once, at most a window of them, and after everything they need."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from itertools import count
from pathlib import Path

import nbformat
import psutil
import pytest
from distributed import Client

from ttilib.results.export import read_table
from ttilib.sweep import driver
from ttilib.sweep.driver import drive, execute, forecast, index, table_tasks
from ttilib.sweep.expand import Expansion, SweepPaths, TaskSpec
from ttilib.sweep.tables import Line, Setting, Table
from ttilib.sweep.tasks import Task, finish

LIMIT = 300  # seconds after which a test gives up
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


def ran(prefix):
    """How many tasks with such keys have begun; some of an earlier test may still begin."""
    return sum(key.startswith(prefix) for key in RAN)


def eventually(condition, process=None):
    end = time.monotonic() + LIMIT
    while not (found := condition()):
        assert process is None or process.poll() is None, "the driver has ended"
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)
    return found


def task(key, do="nothing", after=()):
    return Task(str(key), f"task {key}", "n.ipynb", "o.ipynb", {"do": do}, 1.0, after=after)


def perform(task):
    """What a worker does here; functions of a module go to workers by name, so they share RAN with the test."""
    RAN.append(task.key)
    match task.parameters["do"]:
        case "double":
            return 2 * int(task.key)
        case "fail":
            raise ValueError("this video is black")
        case "fail once" if RAN.count(task.key) == 1:
            raise OSError("disk is away")
        case "wait":
            assert GATE.wait(LIMIT)
        case "take time":
            time.sleep(0.05)
    return "fine"


@pytest.mark.parametrize(("window", "submitted"), [(3, 3), (None, 2 * 2 + 2)])
def test_at_most_a_window_is_read_and_every_task_runs_once(client, window, submitted):
    read = count()
    outcomes = execute((task(next(read), "double") for _ in range(40)), client, perform, window=window)
    found = []
    for done in range(1, 8):
        found.append(next(outcomes))
        assert len(RAN) < done + submitted
    assert next(read) == 6 + submitted + 1  # six replaced, and one read ahead
    found += outcomes
    assert {o.task.key: (o.value, o.error) for o in found} == {key: (2 * int(key), None) for key in RAN}
    assert len(found) == len(RAN) == 40


def test_results_come_at_once_and_a_closed_generator_cancels_what_has_not_begun(client):
    outcomes = execute([task("slow", "wait"), task("first"), *(task(f"c{n}", "wait") for n in range(40))], client,
                       perform, window=20)  # fmt: skip
    assert next(outcomes).task.key == "first"
    outcomes.close()
    eventually(lambda: not client.cluster.scheduler.tasks)  # it has forgotten them, and then the workers do
    workers = client.cluster.workers.values()  # each waits in one task
    eventually(lambda: sum(len(worker.state.tasks) for worker in workers) <= 2)
    GATE.set()
    assert client.submit(sum, [1, 2]).result(timeout=LIMIT) == 3
    assert ran("c") <= 2  # of 18 submitted


def test_a_failing_task_is_retried_and_the_others_go_on(client):
    tasks = [task("bad", "fail"), task("good"), task("shaky", "fail once")]
    found = {o.task.key: (o.value, o.error) for o in execute(tasks, client, perform, retries=2)}
    assert found == {"bad": (None, "ValueError: this video is black"), "good": ("fine", None), "shaky": ("fine", None)}
    assert [RAN.count(key) for key in ("bad", "good", "shaky")] == [3, 1, 2]


@pytest.mark.parametrize("window", [1, None])
def test_a_task_runs_after_everything_it_needs_and_not_if_that_failed(client, window):
    tasks = [
        task("data", "take time"), task("f0", after=("data",)), task("f1", after=("data",)), task("train", "fail"),
        task("both", after=("f0", "f1")), *(task(f"n{n}", after=("train",)) for n in range(9)),
        task("table", after=("n3",)),
    ]  # fmt: skip
    errors = {o.task.key: o.error for o in execute(tasks, client, perform, retries=0, window=window)}
    assert len(errors) == 15 and sorted(RAN) == ["both", "data", "f0", "f1", "train"] and errors["both"] is None
    assert "train" in errors["n0"] and "n3" in errors["table"]
    for earlier, later in (("data", "f0"), ("data", "f1"), ("f0", "both"), ("f1", "both")):
        assert RAN.index(earlier) < RAN.index(later), RAN


def test_the_bar_advances_by_cost_and_failures_come_back(client, tmp_path, monkeypatch):
    """What comes after these tasks is part of the length of the bar; damaged rows fail their task only."""
    updates, lines = [], []
    monkeypatch.setattr(driver, "run_task", lambda task, folder: {"seconds": 70.0, "value": perform(task)})
    monkeypatch.setattr(driver.tqdm, "update", lambda bar, n=1: updates.append((n, bar.total)))
    good = '{"method": "TTI", "intersection": 1, "union": 4}\n'
    files = {"torn": good + "{\n", "null": good + "null\n", "no-method": good + '{"union": 2}\n',
             "no-area": good + '{"method": "RePRI", "intersection": null, "union": 2}\n', "end": good * 2}  # fmt: skip
    for name, text in files.items():
        (tmp_path / f"{name}.jsonl").write_text(text)
    rows = {name: {"rows": str(tmp_path / f"{name}.jsonl"), "parts": ("TTI",)} for name in files}
    tasks = [replace(task("bad", "fail"), cost=4.0), *(replace(task(n), cost=2.0, **rows[n]) for n in files)]
    failures = drive(tasks, client, tmp_path, lines.append, retries=0, later=10.0)
    errors = {outcome.task.key: outcome.error for outcome in failures}
    assert set(errors) == {"bad", *files} - {"end"} and len(lines) == len(tasks)
    assert all(f"{name}.jsonl" in error for name, error in errors.items() if name != "bad"), errors
    assert any("bad" in line and "this video is black" in line for line in lines)
    assert any("end" in line and "01:10" in line and "TTI 25.0" in line for line in lines)
    assert sorted(updates) == [(2.0, 24.0)] * 5 + [(4.0, 24.0)]


# Index and forecast ------------------------------------------------------------------------------------------------

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
SETTING = Setting("ytvis-v1", 1, folds=(0, 1), runs=1, label="small")
OTHER = Setting("coco", 5)


@pytest.fixture
def half(tmp_path, monkeypatch):
    """A table of which one of two tasks is done, in twice the expected time, and fold 1 cannot run."""
    monkeypatch.setattr("ttilib.results.records.code_digest", lambda: "this")
    paths, specs = SweepPaths(tmp_path, tmp_path / "out", "w", NOTEBOOKS), []
    for n in range(2):
        rows, output = tmp_path / "out" / f"rows/k{n}.jsonl", tmp_path / "out" / f"tasks/k{n}.ipynb"
        parameters = {"height": 17, "width": 33}
        one = Task(f"k{n}", f"task {n}", "04.ipynb", str(output), parameters, 100.0 + n, ("RePRI", "TTI"), str(rows))
        specs.append(TaskSpec(one, SETTING, 0, 3, 12, tmp_path / "out" / "episodes" / "m.json", "abc"))
    for path in (Path(specs[0].task.rows), Path(specs[0].task.output)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}\n")
    finish(paths.out, specs[0].task, {"seconds": 200.0})
    unavailable = {(SETTING, 1): "no encoder", **{(OTHER, fold): "no coco" for fold in OTHER.folds}}
    table = Table("small", "A table", (Line(SETTING, "RePRI", "RePRI"), Line(SETTING, "TTI", "ours")))
    return table, Expansion(tuple(specs), unavailable), paths


def test_the_index_the_forecast_and_when_a_table_is_made_again(half):
    """The forecast is scaled by the speed of finished tasks; a table without rows says why."""
    table, expansion, paths = half
    found = json.loads(index(table, expansion, paths).read_text())
    assert found["files"] == ["rows/k0.jsonl"] and found["weights"] == {"resnet50, ytvis fold 0": "abc"}
    about = found["manifests"]["rows/k0.jsonl"]
    assert about == {"path": "episodes/m.json", "benchmark": "ytvis-v1", "size": [17, 33]}
    assert [(line["method"], line["label"]) for line in found["lines"]] == [("RePRI", "RePRI"), ("TTI", "ours")]
    assert all("fold 1: no encoder" in line["why"] and "1 of 2 tasks" in line["why"] for line in found["lines"])
    title, line, last = forecast([table], expansion, paths, workers=2).splitlines()
    assert "6 episodes, 24 frames" in line and "1 of 2 tasks done" in line and "fold 1: no encoder" in line
    assert last.startswith("1 of 2 tasks to run, about 03:22 ")  # 101 s, twice as slow; a second worker does not help
    empty = Table("images", "A table", (Line(OTHER, "RePRI", "RePRI"), Line(OTHER, "oracle", "true prior")))
    (first,) = table_tasks([empty, table], expansion, paths)
    written = read_table(paths.out / "tables" / "images.csv")
    assert list(written["method"]) == ["RePRI", "true prior"] and set(written["note"]) == {"no coco"}
    assert table_tasks([table], expansion, paths) == [first]
    with open(expansion.specs[0].task.rows, "a") as file:
        file.write("{}\n")
    (second,) = table_tasks([table], expansion, paths)
    assert second.key != first.key and second.output == first.output


# A sweep that loses a worker and then its driver, and is started again ---------------------------------------------

KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
TASKS = 6
WORK = """
import fcntl
import json
import os
import time
from pathlib import Path

def note(word):
    with open(folder + "/diary.txt", "a") as file:
        file.write(f"{word} {number} {os.getppid()} {os.getpid()}" + chr(10))

rows = f"{folder}/rows/{number}.jsonl"
with open(rows + ".lock", "w") as lock:  # another process with the same task waits, as in notebook 04
    fcntl.flock(lock, fcntl.LOCK_EX)
    done = len(Path(rows).read_text().splitlines()) if Path(rows).is_file() else 0
    for episode in range(done, 3):
        with open(rows, "a") as file:
            row = {"method": "TTI", "task": number, "episode": episode, "intersection": 1, "union": 2}
            file.write(json.dumps(row) + chr(10))
        if episode == done:
            note("begin")
            while not Path(f"{folder}/go-{number}").is_file():
                time.sleep(0.02)
    note("end")
"""
SCRIPT = """
import sys
from functools import partial
from pathlib import Path

from ttilib.__main__ import COMMANDS, main
from ttilib.sweep.clusters import cluster
from ttilib.sweep.driver import execute
from ttilib.sweep.tasks import Task, is_done, run_task

def make(n):
    told = {"folder": str(folder), "number": n}
    output = str(folder / "tasks" / f"key{n}.ipynb")
    return Task(f"key{n}", f"task {n}", str(folder / "small.ipynb"), output, told, 2.0, ("TTI",),
                str(folder / "rows" / f"{n}.jsonl"))

def small(options):
    with cluster("local", workers=2, log_folder=folder / "logs") as client:
        todo = [task for task in map(make, range(int(sys.argv[2]))) if not is_done(folder, task)]
        outcomes = list(execute(todo, client, partial(run_task, folder=str(folder))))
    return "; ".join(outcome.error for outcome in outcomes if outcome.error) or 0

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    COMMANDS["small"] = small, ()
    sys.exit(main(["small"]))
"""


@pytest.fixture
def folder(tmp_path):
    """A run folder with the notebook; its task n continues after the first row once the file go-n exists."""
    cells = [nbformat.v4.new_code_cell('folder: str = ""  # run\nnumber: int = 0  # task'),
             nbformat.v4.new_code_cell(WORK)]  # fmt: skip
    cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=KERNEL), tmp_path / "small.ipynb")
    (tmp_path / "sweep.py").write_text(SCRIPT)
    for name in ("rows", "tasks", "temporary"):
        (tmp_path / name).mkdir()
    return tmp_path


def start(folder):
    command = [sys.executable, str(folder / "sweep.py"), str(folder), str(TASKS)]
    with (folder / "errors.txt").open("a") as errors:
        environment = os.environ | {"TMPDIR": str(folder / "temporary")}
        return subprocess.Popen(command, stderr=errors, env=environment, start_new_session=True)


def diary(folder, wanted):
    """(task, worker, kernel) of the lines with one word."""
    path = folder / "diary.txt"
    lines = [line.split() for line in path.read_text().splitlines()] if path.is_file() else []
    return [tuple(map(int, rest)) for word, *rest in lines if word == wanted]


def under_way(folder):
    """(task, worker) of notebooks that have begun and not ended, in living kernels."""
    ended = {kernel for *_, kernel in diary(folder, "end")}
    return [(n, worker) for n, worker, kernel in diary(folder, "begin")
            if kernel not in ended and psutil.pid_exists(kernel)]  # fmt: skip


def recorded(folder):
    return {int(path.stem.removeprefix("key")) for path in (folder / "tasks").glob("key*.json")}


def release(folder, numbers):
    for n in numbers:
        (folder / f"go-{n}").touch()


def ended(processes):
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)


@pytest.mark.study
def test_ctrl_c_ends_with_130_and_leaves_no_process(folder):
    process = start(folder)
    eventually(lambda: under_way(folder), process)
    family = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    release(folder, range(TASKS))
    assert process.wait(timeout=LIMIT) == 130 and "stopped" in (folder / "errors.txt").read_text()
    eventually(lambda: ended(family))


@pytest.mark.study
def test_a_killed_sweep_continues_and_repeats_nothing(folder):
    process = start(folder)
    family = []
    try:
        number, worker = eventually(lambda: under_way(folder), process)[0]
        os.kill(worker, signal.SIGKILL)
        released = {number}

        def two_recorded():
            released.update(n for n, _ in under_way(folder))
            release(folder, released)
            return len(recorded(folder)) >= 2

        eventually(two_recorded, process)
        eventually(lambda: {n for n, _ in under_way(folder)} - released, process)
        family = psutil.Process(process.pid).children(recursive=True)
    finally:
        process.kill()
        process.wait()
    eventually(lambda: ended(family))
    done, before = recorded(folder), len(diary(folder, "begin"))
    assert 2 <= len(done) < TASKS
    release(folder, range(TASKS))
    process = start(folder)
    assert process.wait(timeout=LIMIT) == 0, (folder / "errors.txt").read_text()
    assert not done & {n for n, *_ in diary(folder, "begin")[before:]}
    rows = [json.loads(line) for path in (folder / "rows").glob("*.jsonl") for line in path.read_text().splitlines()]
    assert sorted((row["task"], row["episode"]) for row in rows) == [(n, e) for n in range(TASKS) for e in range(3)]
    assert recorded(folder) == set(range(TASKS)) and "Traceback" not in (folder / "errors.txt").read_text()
    assert not list((folder / "temporary").glob("ttilib-*"))  # the killed sweep's folder, too

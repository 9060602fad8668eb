"""A real sweep of small notebooks that loses a worker and then its driver, and is started again."""

import json
import os
import signal
import subprocess
import sys
import time

import nbformat
import psutil
import pytest

KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
TASKS, EPISODES = 8, 4
WORK = """
import fcntl
import json
import os
import time
from pathlib import Path

def say(word):
    with open(diary, "a") as file:
        file.write(f"{word} {number} {os.getppid()} {os.getpid()}" + chr(10))

with open(rows + ".lock", "w") as lock:  # another process given the same work waits, as in the real notebook
    fcntl.flock(lock, fcntl.LOCK_EX)
    done = len(Path(rows).read_text().splitlines()) if Path(rows).is_file() else 0
    say("begin")
    for episode in range(done, episodes):
        time.sleep(seconds)
        row = {"method": "TTI", "task": number, "episode": episode, "intersection": number + episode, "union": 10}
        with open(rows, "a") as file:
            file.write(json.dumps(row) + chr(10))
    say("end")
"""
DRIVER = """
import sys
from functools import partial
from pathlib import Path

from ttilib.__main__ import COMMANDS, main
from ttilib.sweep.clusters import cluster
from ttilib.sweep.driver import execute
from ttilib.sweep.tasks import Task, run_task, is_done

def tasks(folder):
    for n in range({tasks}):
        rows = str(folder / "rows" / f"{{n}}.jsonl")
        told = {{"rows": rows, "diary": str(folder / "diary.txt"), "number": n, "episodes": {episodes}}}
        output = str(folder / "tasks" / f"key{{n}}.ipynb")
        yield Task(f"key{{n}}", f"task {{n}}", str(folder / "small.ipynb"), output, told, 2.0, ("TTI",), rows)

def small(options):
    with cluster("local", workers=2, log_folder=folder / "logs") as client:
        todo = [task for task in tasks(folder) if not is_done(folder, task)]
        print("todo", *(task.parameters["number"] for task in todo), flush=True)
        outcomes = list(execute(todo, client, partial(run_task, folder=str(folder))))
    errors = [outcome.error for outcome in outcomes if outcome.error]
    return "; ".join(errors) or 0

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    COMMANDS["small"] = small, ()
    sys.exit(main(["small"]))
"""


@pytest.fixture
def folder(tmp_path):
    """A folder with the notebook, the driver's script and room for what they leave."""
    told = [
        'rows: str = ""  # file', 'diary: str = ""  # file', "number: int = 0  # which",
        "episodes: int = 1  # rows to write", "seconds: float = 0.3  # for each",
    ]  # fmt: skip
    cells = [nbformat.v4.new_code_cell("\n".join(told)), nbformat.v4.new_code_cell(WORK)]
    cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=KERNEL), tmp_path / "small.ipynb")
    (tmp_path / "sweep.py").write_text(DRIVER.format(tasks=TASKS, episodes=EPISODES))
    for name in ("rows", "tasks", "temporary"):
        (tmp_path / name).mkdir()
    return tmp_path


def start(folder):
    environment = os.environ | {"TMPDIR": str(folder / "temporary")}
    command = [sys.executable, str(folder / "sweep.py"), str(folder)]
    with (folder / "said.txt").open("a") as said, (folder / "complaints.txt").open("a") as complaints:
        return subprocess.Popen(command, stdout=said, stderr=complaints, env=environment, start_new_session=True)


def diary(folder):
    """(word, task, worker, kernel) of every line."""
    path = folder / "diary.txt"
    lines = [line.split() for line in path.read_text().splitlines()] if path.is_file() else []
    return [(word, *map(int, rest)) for word, *rest in lines]


def under_way(folder):
    """(task, worker) of notebooks that have begun and not ended, in living kernels."""
    ended = {kernel for word, _, _, kernel in diary(folder) if word == "end"}
    lines = [(task, worker, kernel) for word, task, worker, kernel in diary(folder) if word == "begin"]
    return [(task, worker) for task, worker, kernel in lines if kernel not in ended and psutil.pid_exists(kernel)]


def begun(folder, number):
    return len([1 for word, task, *_ in diary(folder) if (word, task) == ("begin", number)])


def recorded(folder):
    return {int(path.stem.removeprefix("key")) for path in (folder / "tasks").glob("key*.json")}


def rows(folder):
    found = [json.loads(line) for path in (folder / "rows").glob("*.jsonl") for line in path.read_text().splitlines()]
    return sorted((row["task"], row["episode"], row["intersection"]) for row in found)


def eventually(condition, process=None, seconds=300):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert process is None or process.poll() is None, "the driver has ended"
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)
    return found


@pytest.mark.study
def test_ctrl_c_ends_with_130_and_leaves_no_process(folder):
    driver = start(folder)
    eventually(lambda: under_way(folder), driver)
    family = psutil.Process(driver.pid).children(recursive=True)
    os.killpg(driver.pid, signal.SIGINT)  # as a terminal does
    assert driver.wait(timeout=120) == 130
    eventually(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in family))
    assert "goes on where it stood" in (folder / "complaints.txt").read_text()


@pytest.mark.study
def test_whoever_is_killed_the_table_is_the_same_and_nothing_is_done_twice(folder):
    driver = start(folder)
    family = []
    try:
        task, worker = eventually(lambda: under_way(folder), driver)[0]
        os.kill(worker, signal.SIGKILL)
        eventually(lambda: not psutil.pid_exists(worker), driver)
        eventually(lambda: begun(folder, task) == 2, driver)  # by another worker, perhaps after all others
        eventually(lambda: len(recorded(folder)) >= 2 and under_way(folder), driver)
        family = psutil.Process(driver.pid).children(recursive=True)
        assert len(family) >= 4  # two workers, a kernel or two, multiprocessing's tracker
    finally:
        driver.kill()
        driver.wait()
    eventually(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in family))
    done, length = recorded(folder), len(diary(folder))
    assert begun(folder, task) == 2 and 2 <= len(done) < TASKS

    driver = start(folder)
    assert driver.wait(timeout=600) == 0, (folder / "complaints.txt").read_text()
    again = {task for _, task, *_ in diary(folder)[length:]}
    assert again == set(range(TASKS)) - done
    expected = [(task, episode, task + episode) for task in range(TASKS) for episode in range(EPISODES)]
    assert rows(folder) == expected  # what a killed notebook had written was kept, and nothing was written twice
    assert recorded(folder) == set(range(TASKS))
    left = " ".join(str(task) for task in sorted(again))
    assert (folder / "said.txt").read_text() == f"todo 0 1 2 3 4 5 6 7\ntodo {left}\n"
    assert "Traceback" not in (folder / "complaints.txt").read_text()

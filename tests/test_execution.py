"""Tasks through a real scheduler: each once, few at a time, failures again, dependants after what they need."""

import threading
import time
from dataclasses import replace
from itertools import count

import pytest
from distributed import Client

from ttilib.sweep import driver
from ttilib.sweep.driver import drive, execute
from ttilib.sweep.tasks import Task

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
            assert GATE.wait(30)
        case "take time":
            time.sleep(0.1)
    return "fine"


def test_every_task_runs_once_and_its_value_comes_back(client):
    outcomes = list(execute((task(n, "double") for n in range(30)), client, perform))
    assert sorted(RAN, key=int) == [str(n) for n in range(30)]
    assert {o.task.key: o.value for o in outcomes} == {str(n): 2 * n for n in range(30)}
    assert all(o.error is None for o in outcomes)


def test_no_more_than_the_window_is_read_or_under_way(client):
    read = count()
    flow = execute((task(f"w{next(read)}") for _ in range(40)), client, perform, window=3)
    for _ in range(10):
        next(flow)
    assert next(read) <= 9 + 3 + 1  # nine replaced, three at the start, one looked at
    assert len(RAN) <= 12
    flow.close()


def test_without_a_window_there_are_two_tasks_for_every_worker_and_two_more(client):
    read = count()
    flow = execute((task(f"d{next(read)}") for _ in range(40)), client, perform)
    next(flow)
    assert next(read) == 2 * 2 + 2 + 1
    flow.close()


def test_results_come_while_others_still_run(client):
    flow = execute([task("slow", "wait"), task("quick")], client, perform)
    assert next(flow).task.key == "quick"
    GATE.set()
    assert next(flow).task.key == "slow"


@pytest.mark.parametrize("retries", [0, 2])
def test_a_failing_task_is_tried_again_and_the_others_go_on(client, retries):
    tasks = [task(f"bad{retries}", "fail"), task(f"good{retries}")]
    bad, good = sorted(execute(tasks, client, perform, retries=retries), key=lambda outcome: outcome.task.key)
    assert good.value == "fine"
    assert bad.error == "ValueError: this video is black" and bad.value is None
    assert RAN.count(bad.task.key) == retries + 1


def test_a_task_that_fails_once_is_well_again(client):
    (outcome,) = execute([task("shaky", "fail once")], client, perform, retries=1)
    assert (outcome.value, outcome.error) == ("fine", None) and RAN == ["shaky", "shaky"]


@pytest.mark.parametrize("window", [1, 2, None])
def test_dependants_run_after_what_they_need_however_small_the_window(client, window):
    tasks = [
        task("corpus", "take time"), task("f0", after=("corpus",)), task("f1", after=("corpus",)), task("free"),
        task("both", after=("f0", "f1")),
    ]  # fmt: skip
    assert len(list(execute(tasks, client, perform, window=window))) == len(RAN) == 5
    for earlier, later in (("corpus", "f0"), ("corpus", "f1"), ("f0", "both"), ("f1", "both")):
        assert RAN.index(earlier) < RAN.index(later), RAN


def test_what_needs_a_failed_task_is_not_run(client):
    tasks = [task("train", "fail"), task("solve", after=("train",)), task("table", after=("solve",)), task("other")]
    outcomes = {o.task.key: o for o in execute(tasks, client, perform, retries=0)}
    assert set(RAN) == {"train", "other"}
    assert "train failed" in outcomes["solve"].error
    assert "solve failed" in outcomes["table"].error and outcomes["other"].error is None


def test_closing_the_flow_starts_nothing_more(client):
    flow = execute((task(f"c{n}", "take time") for n in range(50)), client, perform, window=6)
    next(flow)
    flow.close()
    time.sleep(0.5)
    assert len(RAN) <= 5


def test_tasks_after_some_that_cannot_run_are_still_read(client):
    tasks = [task("first", "fail"), *(task(f"n{n}", after=("first",)) for n in range(9)), task("last")]
    outcomes = {o.task.key: o for o in execute(tasks, client, perform, retries=0, window=2)}
    assert len(outcomes) == 11 and outcomes["last"].value == "fine" and set(RAN) == {"first", "last"}


def test_the_time_left_is_shown_by_cost_and_failures_come_back(client, tmp_path, capsys, monkeypatch):
    """The bar goes on by what a task cost, failed or not; what comes after these tasks is part of its length."""
    shown = []

    def work(task, folder):
        return {"seconds": 70.0} | dict.fromkeys([perform(task)])

    monkeypatch.setattr(driver, "run_task", work)
    monkeypatch.setattr(driver.tqdm, "update", lambda bar, n=1: shown.append((n, bar.total)))
    tasks = [replace(task("bad", "fail"), cost=4.0), replace(task("good"), cost=6.0), replace(task("end"), cost=20.0)]
    said = []
    failures = drive(tasks, client, tmp_path, said.append, retries=0, later=10.0)
    assert [outcome.task.key for outcome in failures] == ["bad"]
    assert "task bad: failed: ValueError: this video is black" in said and "task end: done in 01:10" in said
    assert sorted(shown) == [(4.0, 40.0), (6.0, 40.0), (20.0, 40.0)]

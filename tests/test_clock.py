"""How long it will take: hand-made sweeps whose true end is known, and the line that tells."""

import io
import sys
import threading
import time
from itertools import count

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ttilib.sweep import driver as module
from ttilib.sweep.driver import Clock, ticking, words


class Time:
    """A time that stands still until it is moved."""

    def __init__(self):
        self.seconds = 1000.0

    def __call__(self):
        return self.seconds


def simulate(costs, workers, slowness, told=None, ahead=3, prior=120.0):
    """A sweep in which each task takes `slowness` x its cost; yields (what the clock says is left, what is left).

    Tasks are handed over `ahead` more than there are workers, as the driver does.
    """
    now = Time()
    clock = Clock(sum(costs), prior, workers=workers if told is None else told, now=now)
    todo = list(enumerate(costs))
    queue, busy, said = [], {}, []
    while todo or queue or busy:
        while todo and len(queue) + len(busy) < workers + ahead:
            queue.append(todo.pop(0))
            clock.started(str(queue[-1][0]), queue[-1][1])
        while queue and len(busy) < workers:
            key, cost = queue.pop(0)
            busy[key] = now.seconds + slowness * cost
        said.append((now.seconds, clock.left()))
        key = min(busy, key=busy.get)
        now.seconds = busy.pop(key)
        clock.finished(str(key))
    assert clock.left() == pytest.approx(0, abs=1e-6)
    return [(left, now.seconds - at) for at, left in said]


def test_before_anything_has_run_the_expected_cost_is_shared_among_the_workers():
    assert Clock(600.0).left() == 600
    assert Clock(600.0, workers=4).left() == 150
    assert Clock(600.0, workers=lambda: 3).left() == 200
    assert Clock(600.0, workers=lambda: 0).left() == 600  # a queue may still be long
    assert Clock(0.0).left() == 0


def test_the_speed_by_hand():
    now = Time()
    clock = Clock(1000.0, prior_seconds=100, workers=1, now=now)
    clock.started("a", 100.0)
    now.seconds += 300
    clock.finished("a")
    # speed = (100 + 100) / (100 + 300) = 1/2; 900 of cost are left
    assert clock.left() == pytest.approx(1800)
    clock.started("b", 200.0)
    now.seconds += 100  # half as fast: 50 of b are done
    assert clock.left() == pytest.approx((900 - 50) / 0.5)
    now.seconds += 10_000  # b takes much longer than thought, and has not ended: 5 per cent of it are left
    assert clock.left() == pytest.approx((700 + 10) / 0.5)


def test_with_more_workers_it_takes_more_tasks_to_change_ones_mind():
    now = Time()
    clock = Clock(1000.0, prior_seconds=100, workers=4, now=now)
    clock.started("a", 100.0)
    now.seconds += 300
    clock.finished("a")
    # speed = (4 x 100 + 100) / (4 x 100 + 300) = 5/7; 900 of cost are left, for four
    assert clock.left() == pytest.approx(900 / 4 * 7 / 5)


def test_a_steady_sweep_is_told_right_after_a_while():
    for workers in (1, 2, 8):
        pairs = simulate([60.0] * 80 * workers, workers, slowness=3)
        for told, true in pairs[len(pairs) // 2 : -2 * workers]:
            assert told == pytest.approx(true, rel=0.1)


def test_a_wrong_number_of_workers_puts_itself_right():
    for told in (1, 8):
        pairs = simulate([60.0] * 400, 4, slowness=1, told=told, ahead=10)
        for left, true in pairs[200:380]:
            assert left == pytest.approx(true, rel=0.1, abs=120)  # two tasks


def test_what_waits_is_not_under_way():
    now = Time()
    clock = Clock(300.0, workers=1, now=now)
    for key in "abc":
        clock.started(key, 100.0)
    now.seconds += 50
    assert clock.left() == pytest.approx(250)


def test_the_last_long_task_is_not_shared_among_workers_that_are_free():
    now = Time()
    clock = Clock(100.0, workers=10, now=now)
    clock.started("long", 100.0)
    now.seconds += 20
    assert clock.left() == pytest.approx(80)


def test_workers_that_come_later_count_from_then_on():
    now, there = Time(), [0]
    clock = Clock(400.0, workers=lambda: there[0], now=now)
    for key in "abcd":
        clock.started(key, 100.0)
    now.seconds += 3600  # in the queue
    assert clock.left() == 400
    there[0] = 4
    assert clock.left() == 100
    now.seconds += 40
    assert clock.left() == pytest.approx(60)


def test_a_task_that_is_tried_again_begins_anew_and_counts_once():
    now = Time()
    clock = Clock(200.0, now=now)
    clock.started("a", 100.0)
    now.seconds += 60
    clock.started("a", 100.0)
    assert clock.left() == pytest.approx(200)
    clock.finished("a")
    clock.started("b", 100.0)
    clock.finished("b")
    assert clock.left() == 0


def test_a_task_that_never_started_can_be_taken_off():
    clock = Clock(300.0)
    clock.finished("a", 100.0)
    assert clock.left() == pytest.approx(200 / (220 / 120))
    clock.finished("unknown")
    assert clock.left() == pytest.approx(200 / (220 / 120))


@given(
    costs=st.lists(st.floats(0.0, 1e4), max_size=30),
    workers=st.integers(1, 5),
    slowness=st.floats(0.0, 50),
    prior=st.sampled_from([0.0, 120.0]),
)
@example(costs=[5e-324, 1.0], workers=1, slowness=0.0, prior=0.0)
def test_it_is_never_negative_nor_endless(costs, workers, slowness, prior):
    for told, _ in simulate(costs, workers, slowness, prior=prior):
        assert 0 <= told < float("inf")


def test_times_as_people_say_them():
    said = {
        0: "0 s", -5: "0 s", 41.4: "41 s", 59.6: "1 min 00 s", 247: "4 min 07 s", 3599.4: "59 min 59 s",
        3599.6: "1 h 00 min", 7500: "2 h 05 min", 7199: "2 h 00 min", 86399: "1 d 00 h",
        3 * 86400 + 4 * 3600: "3 d 04 h",
    }  # fmt: skip
    assert {seconds: words(seconds) for seconds in said} == said


class Terminal(io.StringIO):
    """Something that says it is a terminal."""

    def isatty(self):
        return True


def wait_for(something):
    """Look again and again, for a busy machine may take its time."""
    end = time.monotonic() + 20
    while not something():
        assert time.monotonic() < end
        time.sleep(0.01)


def ticks():
    return [thread for thread in threading.enumerate() if thread.name == "clock"]


def test_without_a_terminal_there_are_plain_lines_now_and_then(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(module, "EVERY", 0.1)
    numbers = count()
    begin = time.monotonic()
    with ticking(Clock(1.0), lambda: f"line {next(numbers)}") as clear:
        wait_for(lambda: "line 2" in sys.stderr.getvalue())
        assert time.monotonic() - begin > 0.15  # the first at once, then one every 0.1 s
        clear()
        assert ticks()
    said = sys.stderr.getvalue().splitlines()
    assert said == [f"line {n}" for n in range(len(said))]
    assert not ticks()


def test_on_a_terminal_one_line_is_written_over_and_taken_back(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("COLUMNS", "20")
    with ticking(Clock(1.0), lambda: "a line that is wider than that") as clear:
        wait_for(lambda: sys.stderr.getvalue().endswith("\r"))
        shown = sys.stderr.getvalue()
        clear()
    assert "\n" not in sys.stderr.getvalue()
    assert shown == "\ra line that is wide\x1b[K\r"  # 19 letters
    assert sys.stderr.getvalue().endswith("\r\x1b[K")


def test_the_line_ends_with_a_block_that_raises(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    begin = time.monotonic()
    with pytest.raises(ZeroDivisionError), ticking(Clock(1.0), lambda: "line"):
        1 / 0  # noqa: B018
    assert not ticks() and time.monotonic() - begin < 5

"""What is left of a sweep: expected costs, the speed measured so far, and a line that says so.

A task's cost is the time it took where the study was timed. Each worker gets through `speed` of it in a second,
which is 1 until tasks have ended that say otherwise:

    speed = (prior + cost of what has ended) / (prior + time it took)
    left  = cost of what has not ended / (speed x workers)

and never less than the longest task under way still needs. Tasks handed over wait their turn: as many run as there
are workers, in the order they came. A wrong number of workers puts itself right, for tasks then seem to take longer
or shorter than they do.
"""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

EVERY = 30.0  # seconds between lines where there is no terminal
ALMOST = 0.95  # of its cost is the most that a task which has not ended counts


class Clock:
    """Tells how long tasks of `total` cost will still take, in seconds; may be asked from another thread.

    `prior_seconds` is how long each worker must have worked before its own speed counts as much as the expected.
    `workers` is their number, or a function that counts them; `now` is the time in seconds.
    """

    def __init__(
        self,
        total: float,
        prior_seconds: float = 120.0,
        workers: int | Callable[[], int] = 1,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.prior, self.now = total, prior_seconds, now
        self.count = workers if callable(workers) else lambda: workers
        self.ended, self.took = 0.0, 0.0  # cost and time of what has ended
        self.waiting: dict[str, float] = {}  # cost of what has been handed over, in that order
        self.running: dict[str, tuple[float, float]] = {}  # cost, and since when
        self.lock = threading.Lock()

    def started(self, key: str, cost: float) -> None:
        """A task was handed to the workers; one that is tried again begins anew."""
        with self.lock:
            self.running.pop(key, None)
            self.waiting[key] = cost
            self._advance()

    def finished(self, key: str, cost: float = 0.0) -> None:
        """A task has ended, well or not; `cost` counts for one that never started."""
        with self.lock:
            cost, since = self.running.pop(key, (self.waiting.pop(key, cost), self.now()))
            self.ended, self.took = self.ended + cost, self.took + self.now() - since
            self._advance()

    def left(self) -> float:
        """Seconds until everything has ended, as far as one can tell."""
        with self.lock:
            workers = self._advance()
            prior = self.prior * workers
            speed = (prior + self.ended) / max(prior + self.took, 1e-9)
            speed = speed if speed > 1e-6 else 1.0  # what ended cost nothing, and tells nothing
            rests = [cost - min(speed * (self.now() - since), ALMOST * cost) for cost, since in self.running.values()]
            running = sum(cost for cost, _ in self.running.values())
            rest = max(self.total - self.ended - running, 0.0) + sum(rests)
            return max(rest / workers, *rests, 0.0) / speed

    def _advance(self) -> int:
        """Let waiting tasks run on free workers; how many workers there are, at least one."""
        workers = self.count()
        while self.waiting and len(self.running) < workers:
            key = next(iter(self.waiting))
            self.running[key] = self.waiting.pop(key), self.now()
        return max(workers, 1)


def words(seconds: float) -> str:
    """A time as people say it, in its two largest units: "41 s", "4 min 07 s", "2 h 05 min", "3 d 04 h"."""
    whole = max(round(seconds), 0)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(whole / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(minutes / 60)
    return f"{hours // 24} d {hours % 24:02d} h"


@contextmanager
def ticking(clock: Clock, line: Callable[[], str]) -> Iterator[Callable[[], None]]:
    """Show `line()` on standard error inside the block: always fresh on a terminal, else now and every 30 s.

    The line may tell of `clock`. Yields a function that empties the terminal's line, to be called before other
    things are printed.
    """
    live = sys.stderr.isatty()
    over = threading.Event()

    def clear() -> None:
        if live:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def tick() -> None:
        while True:
            text = line()
            if live:  # no wider than the terminal, or it could not be taken back; the cursor waits at the beginning
                text = f"\r{text[: shutil.get_terminal_size().columns - 1]}\x1b[K\r"
            sys.stderr.write(text if live else f"{text}\n")
            sys.stderr.flush()
            if over.wait(1.0 if live else EVERY):
                return

    thread = threading.Thread(target=tick, name="clock", daemon=True)
    thread.start()
    try:
        yield clear
    finally:
        over.set()
        thread.join()
        clear()

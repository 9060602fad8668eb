"""Tasks through a cluster: few at a time, lost ones again, results as they come.

The scheduler is dask's; this is the driver's side of it. Only a window of tasks is with the scheduler at any time
and nothing is kept of a finished one, so that a hundred thousand tasks need no more memory than a hundred. A task
whose worker dies is run again by the scheduler; one that fails is tried again here, then given back with its error,
and the others go on.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from distributed import Client, Future, as_completed

from ttilib.sweep.tasks import Task


@dataclass(frozen=True)
class Outcome:
    """How a task ended: with what it returned, or with an error in words after so many attempts."""

    task: Task
    value: Any = None
    error: str | None = None
    attempts: int = 1


def execute(
    tasks: Iterable[Task],
    client: Client,
    carry_out: Callable[[Task], Any],
    window: int | None = None,
    retries: int = 1,
    on_start: Callable[[Task], object] = lambda task: None,
) -> Iterator[Outcome]:
    """Carry out the tasks on the client's workers and yield each outcome when it is there.

    At most `window` tasks are with the scheduler at a time; None is two for every worker and two more. A task with
    `after` waits for these (which must come earlier in `tasks`), and is not run if one of them failed. Closing the
    generator cancels what has not begun.

    Raises OSError if the scheduler is lost; what was recorded stays.
    """
    flow = _Flow(iter(tasks), client, carry_out, window, retries, on_start)
    try:
        yield from flow.outcomes()
    finally:
        client.cancel(list(flow.sent))


def counted(client: Client, every: float = 2.0) -> Callable[[], int]:
    """How many workers a client has, asked again at most every so many seconds; workers come and go."""
    asked, found = -float("inf"), 0

    def count() -> int:
        nonlocal asked, found
        if time.monotonic() > asked + every:
            asked, found = time.monotonic(), len(client.nthreads())
        return found

    return count


class _Flow:
    """The tasks that are neither finished nor still unread."""

    def __init__(self, source, client, carry_out, window, retries, on_start) -> None:
        self.source, self.client, self.carry_out = source, client, carry_out
        self.window, self.retries, self.on_start = window, retries, on_start
        self.sent: dict[Future, tuple[Task, int]] = {}  # with the scheduler, and which attempt it is
        self.waiting: deque[Task] = deque()  # for others
        self.failed: dict[str, str] = {}  # key and name
        self.completed = as_completed(loop=client.loop)
        self.workers = counted(client)

    def outcomes(self) -> Iterator[Outcome]:
        """Every outcome, in the order in which tasks end."""
        while True:
            yield from self._refill()
            if not self.sent:
                return
            future = next(self.completed)
            task, attempt = self.sent.pop(future)
            if future.status == "finished":
                yield Outcome(task, future.result(), attempts=attempt)
            elif future.status in ("cancelled", "lost"):
                raise OSError(f"the scheduler was lost while {task.name} ran; the same command goes on where it stood")
            elif attempt <= self.retries:
                self._send(task, attempt + 1)
            else:
                self.failed[task.key] = task.name
                error = future.exception()
                yield Outcome(task, error=f"{type(error).__name__}: {error}", attempts=attempt)
            future.release()

    def _refill(self) -> Iterator[Outcome]:
        """Hand over what may start; tasks that wait for a failed one end here."""
        for _ in range(len(self.waiting)):
            yield from self._start(self.waiting.popleft())
        while len(self.sent) + len(self.waiting) < self._window():
            task = next(self.source, None)
            if task is None:
                return
            yield from self._start(task)

    def _start(self, task: Task) -> Iterator[Outcome]:
        if broken := [self.failed[key] for key in task.after if key in self.failed]:
            self.failed[task.key] = task.name
            yield Outcome(task, error=f"not run, because {', '.join(broken)} failed", attempts=0)
        elif self._unfinished().intersection(task.after):
            self.waiting.append(task)
        else:
            self._send(task, 1)

    def _unfinished(self) -> set[str]:
        return {task.key for task, _ in self.sent.values()} | {task.key for task in self.waiting}

    def _send(self, task: Task, attempt: int) -> None:
        # Two drivers that send the same attempt of the same task to one scheduler share it: keys are names of work.
        # Their first word is the same for all, because dask keeps a record of every first word for ever.
        future = self.client.submit(self.carry_out, task, key=f"task-{task.key}-{attempt}")
        self.sent[future] = (task, attempt)
        self.completed.add(future)
        self.on_start(task)

    def _window(self) -> int:
        """How many tasks may be under way."""
        return 2 * self.workers() + 2 if self.window is None else self.window

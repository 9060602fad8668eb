"""Driving a sweep: what is to run, on which workers, what came out, what is left; and the tables at the end.

What is left of a sweep: expected costs, the speed measured so far, and a line that says so.

A task's cost is the time it took where the study was timed. Each worker gets through `speed` of it in a second,
which is 1 until tasks have ended that say otherwise:

    speed = (prior + cost of what has ended) / (prior + time it took)
    left  = cost of what has not ended / (speed x workers)

and never less than the longest task under way still needs. Tasks handed over wait their turn: as many run as there
are workers, in the order they came. A wrong number of workers puts itself right, for tasks then seem to take longer
or shorter than they do.

Tasks through a cluster: few at a time, lost ones again, results as they come.

The scheduler is dask's; this is the driver's side of it. Only a window of tasks is with the scheduler at any time
and nothing is kept of a finished one, so that a hundred thousand tasks need no more memory than a hundred. A task
whose worker dies is run again by the scheduler; one that fails is tried again here, then given back with its error,
and the others go on.

Where a sweep stands: the index of a table as far as it has been recorded, and a forecast of the rest.

Both can be asked for at any time. A line of the plan that is empty or not whole has the reason beside it.
"""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from distributed import Client, Future, as_completed

from ttilib.datasets.base import OnError, stop
from ttilib.episodes.benchmarks import benchmark
from ttilib.files import digest, fingerprint, read_json
from ttilib.results.export import write_all
from ttilib.results.provenance import HOME
from ttilib.results.records import Source, write_index
from ttilib.results.tables import METHOD, planned
from ttilib.solver.methods import read_method
from ttilib.sweep.expand import Expansion, Piece, Place, expand
from ttilib.sweep.tables import Line, Setting, Table
from ttilib.sweep.tasks import Task, is_done, note, summary, worker

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


def index(table: Table, expansion: Expansion, place: Place) -> Path:
    """Write <out>/rows/<table>.json with what has been recorded so far, and return it."""
    settings = set(table.settings)
    pieces = [p for p in expansion.pieces if p.setting in settings and Path(p.task.rows).is_file()]
    lines = [_line(line, expansion, place) for line in table.lines]
    weights = {f"{p.setting.encoder}, {_trained(p.setting)} fold {p.fold}": p.weights for p in pieces}
    return write_index(place.out, table.name, table.title, lines, [_source(piece) for piece in pieces], weights)


def forecast(tables: Sequence[Table], expansion: Expansion, place: Place, workers: int) -> str:
    """What would run and about how long it would take, setting by setting, in words."""
    lines = []
    for table in tables:
        lines.append(f"{table.name}: {table.title}")
        lines += [_forecast(setting, expansion, place) for setting in table.settings]
    todo = [task for task in expansion.tasks if not is_done(place.out, task)]
    speed, judged = _speed(expansion, place)
    left = sum(task.cost for task in todo) / speed / max(workers, 1)
    left = max(left, max((task.cost / speed for task in todo), default=0.0))
    count = f"{len(todo)} of {len(expansion.tasks)} tasks to run"
    lines.append(f"{count}, about {words(left)} with {workers} workers ({judged})")
    return "\n".join(lines)


def _forecast(setting: Setting, expansion: Expansion, place: Place) -> str:
    pieces = [piece for piece in expansion.pieces if piece.setting == setting]
    why = refusal(setting, expansion)
    name = f"  {setting.name} {setting.shots}-shot {setting.encoder}"
    if not pieces:
        return f"{name}: cannot run: {why}"
    done = sum(is_done(place.out, piece.task) for piece in pieces)
    counts = f"{sum(p.episodes for p in pieces)} episodes, {sum(p.frames for p in pieces)} frames"
    methods = f"{len(pieces[0].task.parts)} methods"
    return f"{name}: {methods}, {counts}, {done} of {len(pieces)} tasks done" + (f"; {why}" if why else "")


def _speed(expansion: Expansion, place: Place) -> tuple[float, str]:
    """Seconds of expected cost per second of a worker, and by what that was judged."""
    noted = [note(place.out, task.key) for task in expansion.tasks]
    timed = [n for n in noted if n and n.get("seconds", 0) > 0]
    if not timed:
        return 1.0, "guessed from one processor core; finished tasks will tell better"
    return sum(n["cost"] for n in timed) / sum(n["seconds"] for n in timed), f"judged by {len(timed)} finished tasks"


def _line(line: Line, expansion: Expansion, place: Place) -> dict[str, Any]:
    """A line of the plan and why it is empty or not whole."""
    setting, method = line.setting, read_method(line.method).name
    tasks = [piece.task for piece in expansion.pieces if piece.setting == setting]
    missing = sum(not is_done(place.out, task) for task in tasks)
    reasons = [refusal(setting, expansion), f"{missing} of {len(tasks)} tasks are still to run" if missing else ""]
    return {
        "benchmark": setting.name, "shots": setting.shots, "encoder": setting.encoder, "method": method,
        "label": line.label or method, "folds": list(setting.folds), "runs": setting.runs,
        "why": "; ".join(filter(None, reasons)),
    }  # fmt: skip


def refusal(setting: Setting, expansion: Expansion) -> str:
    """Why a setting cannot run, in all folds or in some of them; empty if it can."""
    refused = expansion.refusals
    reasons = {fold: refused[setting, fold] for fold in setting.folds if (setting, fold) in refused}
    if not reasons:
        return ""
    first = next(iter(reasons.values()))
    if len(reasons) == len(setting.folds):
        return first
    return f"not in fold {', '.join(map(str, reasons))}: {first}"


def _source(piece: Piece) -> Source:
    told = piece.task.parameters
    return Source(Path(piece.task.rows), piece.manifest, piece.setting.benchmark, (told["height"], told["width"]))


def _trained(setting: Setting) -> str:
    return benchmark(setting.benchmark).trained_on


TABLES = "05_tables.ipynb"
COST = 40.0  # seconds that drawing a table takes on one core
MANY = 20  # tasks that are named one by one when they are up to date

Say = Callable[[str], object]


def drive(
    tasks: Iterable[Task], client: Client, folder: Path | str, say: Say, retries: int = 1, later: float = 0.0
) -> list[Outcome]:
    """Run the tasks that are not done, say of each how it ended, and return those that failed.

    What is left is shown all the while; `later` is the expected cost of what comes after these tasks, seconds.
    """
    todo, done = [], []
    for task in tasks:
        (done if is_done(folder, task) else todo).append(task)
    for text in [f"{len(done)} tasks"] if len(done) > MANY else [task.name for task in done]:
        say(f"{text}: up to date")
    if not todo:
        return []
    clock = Clock(sum(task.cost for task in todo) + later, workers=counted(client))
    failures, ended = [], 0

    def line() -> str:
        return f"{ended} of {len(todo)} tasks done, about {words(clock.left())} left in all"

    def started(task: Task) -> None:
        clock.started(task.key, task.cost)

    with ticking(clock, line) as clear:
        for outcome in execute(todo, client, worker(folder), retries=retries, on_start=started):
            clock.finished(outcome.task.key, outcome.task.cost)
            ended += 1
            clear()
            say(_told(outcome))
            if outcome.error:
                failures.append(outcome)
    return failures


def _told(outcome: Outcome) -> str:
    """How a task ended, in a line."""
    if outcome.error:
        return f"{outcome.task.name}: failed: {outcome.error}"
    found, took = summary(outcome.task), words(outcome.value["seconds"])
    return f"{outcome.task.name}: done in {took}" + (f" ({found})" if found else "")


def table_tasks(tables: Sequence[Table], expansion: Expansion, place: Place) -> list[Task]:
    """The last notebook on each table that has any rows, as tasks; indexes are written for all tables.

    The key names the rows, so that a table is drawn again when more have been recorded. A table without any row needs
    no notebook: its lines and why they are empty are written here.
    """
    tasks = []
    for table in tables:
        written = index(table, expansion, place)
        settings = set(table.settings)
        rows = [Path(piece.task.rows) for piece in expansion.pieces if piece.setting in settings]
        rows = [path for path in rows if path.is_file()]
        if not rows:
            _write_empty(table, written, place)
        else:
            notebook = (place.notebooks / TABLES).resolve()
            told = {"name": table.name, "baseline": table.baseline, "method": table.shown}
            told |= {"root": str(place.root.resolve()), "out": str(place.out.resolve())}
            library = [path.read_text(encoding="utf-8") for path in (notebook, written, *sorted(HOME.rglob("*.py")))]
            key = digest(library, told, [fingerprint(path) for path in rows])
            output = str(place.out.resolve() / f"05_tables-{table.name}.ipynb")
            tasks.append(Task(key, f"table {table.name}", str(notebook), output, told, COST))
    return tasks


def _write_empty(table: Table, written: Path, place: Place) -> None:
    """The lines of a table without rows, as readers call them, and why they are empty."""
    lines = [line | {"method": line["label"]} for line in read_json(written)["lines"]]
    write_all(place.out / "tables", table.name, planned(pd.DataFrame(columns=METHOD), lines))


def sweep(
    tables: Sequence[Table],
    place: Place,
    client: Client,
    say: Say,
    retries: int = 1,
    on_error: OnError = stop,
    only_tables: bool = False,
) -> list[Outcome]:
    """Run whatever of the tables has not been recorded, then draw them; what failed.

    What cannot run is told and stays in its table with the reason. `only_tables` draws what has been recorded so far,
    perhaps while somebody else goes on with the rest.
    """
    expansion = expand(tables, place, on_error)
    for setting in dict.fromkeys(setting for setting, _ in expansion.refusals):
        say(f"{setting.name} {setting.shots}-shot {setting.encoder} cannot run: {refusal(setting, expansion)}")
    tasks = () if only_tables else expansion.tasks
    failures = drive(tasks, client, place.out, say, retries, later=COST * len(tables))
    return failures + drive(table_tasks(tables, expansion, place), client, place.out, say, retries)

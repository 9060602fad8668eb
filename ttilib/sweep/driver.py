"""Runs a sweep on dask workers: selects the tasks to run, collects their results, then makes the tables.

Only a window of tasks is with the scheduler, so memory does not grow with their number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from distributed import Client, Future, as_completed
from tqdm import tqdm

from ttilib.datasets.base import OnError, raise_first
from ttilib.episodes.benchmarks import benchmark
from ttilib.files import digest, fingerprint, read_json
from ttilib.results.export import write_all
from ttilib.results.records import HOME, RowsFile, write_index
from ttilib.results.tables import METHOD, align_with_plan
from ttilib.solver.methods import read_method
from ttilib.sweep.expand import Expansion, SweepPaths, expand
from ttilib.sweep.tables import Line, Setting, Table
from ttilib.sweep.tasks import Task, is_done, note, run_task, summary

TABLES = "05_tables.ipynb"
COST = 40.0  # seconds per table on one core
MANY = 20  # maximum number of finished tasks listed by name

Say = Callable[[str], object]


@dataclass(frozen=True)
class Outcome:
    """A finished task, with its return value or error message."""

    task: Task
    value: Any = None
    error: str | None = None


def execute(
    tasks: Iterable[Task], client: Client, work: Callable[[Task], Any], retries: int = 1, window: int | None = None
) -> Iterator[Outcome]:
    """Run `work` on the client's workers and yield outcomes as they arrive; failures are retried `retries` times.

    At most `window` tasks are submitted at a time (None: two per worker and two more). A task runs once those in its
    `after` (earlier in `tasks`) are done, and not at all if one failed. Closing the generator cancels pending tasks.
    Raises OSError if the scheduler is lost; recorded results stay.
    """
    source = iter(tasks)
    upcoming = next(source, None)
    waiting: list[Task] = []
    sent: dict[Future, Task] = {}
    failed: dict[str, str] = {}  # key and name
    completed = as_completed(loop=client.loop)
    try:
        while upcoming or waiting or sent:
            most = window or 2 * len(client.nthreads()) + 2
            while upcoming and len(sent) + len(waiting) < most:
                waiting.append(upcoming)
                upcoming = next(source, None)
            for task in tuple(waiting):
                if broken := [failed[key] for key in task.after if key in failed]:
                    waiting.remove(task)
                    failed[task.key] = task.name
                    yield Outcome(task, error=f"not run, because {', '.join(broken)} failed")
                elif not {other.key for other in (*waiting, *sent.values())}.intersection(task.after):
                    waiting.remove(task)
                    # Equal keys share one run. One prefix for all, because dask stores every prefix forever.
                    future = client.submit(work, task, key=f"task-{task.key}", retries=retries)
                    sent[future] = task
                    completed.add(future)
            if sent:
                future = next(completed)
                outcome = _outcome(future, sent.pop(future))
                future.release()
                if outcome.error:
                    failed[outcome.task.key] = outcome.task.name
                yield outcome
    finally:
        client.cancel(list(sent))


def _outcome(future: Future, task: Task) -> Outcome:
    if future.status == "finished":
        return Outcome(task, future.result())
    if future.status == "error":
        error = future.exception()
        return Outcome(task, error=f"{type(error).__name__}: {error}")
    raise OSError(f"the scheduler was lost while {task.name} ran; the same command goes on where it stood")


def drive(
    tasks: Iterable[Task], client: Client, folder: Path | str, say: Say, retries: int = 1, later: float = 0.0
) -> list[Outcome]:
    """Run the tasks that are not done, report each result with `say`, and return the failures.

    A progress bar shows the remaining time by cost; `later` is the cost of what follows these tasks, in seconds.
    """
    todo, done = [], []
    for task in tasks:
        (done if is_done(folder, task) else todo).append(task)
    for text in [f"{len(done)} tasks"] if len(done) > MANY else [task.name for task in done]:
        say(f"{text}: up to date")
    if not todo:
        return []
    failures = []
    shape = "{desc} |{bar}| {elapsed}, about {remaining} left"
    total = sum(task.cost for task in todo) + later
    with tqdm(total=total, bar_format=shape, smoothing=0, desc=f"0 of {len(todo)} tasks") as bar:
        for count, outcome in enumerate(execute(todo, client, partial(run_task, folder=str(folder)), retries), 1):
            with bar.external_write_mode():
                say(_told(outcome))
            bar.set_description_str(f"{count} of {len(todo)} tasks", refresh=False)
            bar.update(outcome.task.cost)
            if outcome.error:
                failures.append(outcome)
    return failures


def _told(outcome: Outcome) -> str:
    """One line on how a task ended."""
    if outcome.error:
        return f"{outcome.task.name}: failed: {outcome.error}"
    found = summary(outcome.task)
    took = tqdm.format_interval(outcome.value["seconds"])
    return f"{outcome.task.name}: done in {took}" + (f" ({found})" if found else "")


def index(table: Table, expansion: Expansion, place: SweepPaths) -> Path:
    """Write <out>/rows/<table>.json for the rows recorded so far, and return its path."""
    settings = set(table.settings)
    pieces = [p for p in expansion.pieces if p.setting in settings and Path(p.task.rows).is_file()]
    sources, weights = [], {}
    for piece in pieces:
        setting, parameters = piece.setting, piece.task.parameters
        size = parameters["height"], parameters["width"]
        sources.append(RowsFile(Path(piece.task.rows), piece.manifest, setting.benchmark, size))
        trained_on = benchmark(setting.benchmark).trained_on
        weights[f"{setting.encoder}, {trained_on} fold {piece.fold}"] = piece.weights
    lines = [_line(line, expansion, place) for line in table.lines]
    return write_index(place.out, table.name, table.title, lines, sources, weights)


def _line(line: Line, expansion: Expansion, place: SweepPaths) -> dict[str, Any]:
    """A line of the table as JSON, with the reason why it is empty or incomplete."""
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
    """Why a setting cannot run in all or some folds; empty if it can."""
    refused = expansion.refusals
    reasons = {fold: refused[setting, fold] for fold in setting.folds if (setting, fold) in refused}
    first = next(iter(reasons.values()), "")
    if len(reasons) in (0, len(setting.folds)):
        return first
    return f"not in fold {', '.join(map(str, reasons))}: {first}"


def forecast(tables: Sequence[Table], expansion: Expansion, place: SweepPaths, workers: int) -> str:
    """Per setting, what would run; and an estimate of the time, scaled by the speed of finished tasks."""
    lines = []
    for table in tables:
        lines.append(f"{table.name}: {table.title}")
        lines += [_forecast(setting, expansion, place) for setting in table.settings]
    notes = [note(place.out, task.key) for task in expansion.tasks]
    timed = [noted for noted in notes if noted and noted.get("seconds", 0) > 0]
    speed, judged = 1.0, "guessed from one processor core; finished tasks will tell better"
    if timed:
        speed = sum(noted["cost"] for noted in timed) / sum(noted["seconds"] for noted in timed)
        judged = f"judged by {len(timed)} finished tasks"
    costs = [task.cost for task in expansion.tasks if not is_done(place.out, task)]
    left = tqdm.format_interval(max(sum(costs) / max(workers, 1), max(costs, default=0.0)) / speed)
    count = f"{len(costs)} of {len(expansion.tasks)} tasks to run"
    return "\n".join([*lines, f"{count}, about {left} (hours:minutes:seconds) with {workers} workers ({judged})"])


def _forecast(setting: Setting, expansion: Expansion, place: SweepPaths) -> str:
    pieces = [piece for piece in expansion.pieces if piece.setting == setting]
    why = refusal(setting, expansion)
    name = f"  {setting.name} {setting.shots}-shot {setting.encoder}"
    if not pieces:
        return f"{name}: cannot run: {why}"
    done = sum(is_done(place.out, piece.task) for piece in pieces)
    counts = f"{sum(p.episodes for p in pieces)} episodes, {sum(p.frames for p in pieces)} frames"
    methods = f"{len(pieces[0].task.parts)} methods"
    return f"{name}: {methods}, {counts}, {done} of {len(pieces)} tasks done" + (f"; {why}" if why else "")


def table_tasks(tables: Sequence[Table], expansion: Expansion, place: SweepPaths) -> list[Task]:
    """Notebook 05 for each table with rows, as tasks that depend on these rows; writes all indexes and empty tables."""
    tasks = []
    for table in tables:
        written = index(table, expansion, place)
        settings = set(table.settings)
        rows = [Path(piece.task.rows) for piece in expansion.pieces if piece.setting in settings]
        rows = [path for path in rows if path.is_file()]
        if not rows:
            lines = [line | {"method": line["label"]} for line in read_json(written)["lines"]]
            write_all(place.out / "tables", table.name, align_with_plan(pd.DataFrame(columns=METHOD), lines))
            continue
        notebook, out = (place.notebooks / TABLES).resolve(), place.out.resolve()
        parameters = {"name": table.name, "baseline": table.baseline, "method": table.shown}
        parameters |= {"root": str(place.root.resolve()), "out": str(out)}
        library = [path.read_text(encoding="utf-8") for path in (notebook, written, *sorted(HOME.rglob("*.py")))]
        key = digest(library, parameters, [fingerprint(path) for path in rows])
        output = str(out / f"05_tables-{table.name}.ipynb")
        tasks.append(Task(key, f"table {table.name}", str(notebook), output, parameters, COST))
    return tasks


def sweep(
    tables: Sequence[Table],
    place: SweepPaths,
    client: Client,
    say: Say,
    retries: int = 1,
    on_error: OnError = raise_first,
    only_tables: bool = False,
) -> list[Outcome]:
    """Run the tasks that are not done, unless `only_tables`, and make the tables; returns the failures."""
    expansion = expand(tables, place, on_error)
    for setting in dict.fromkeys(setting for setting, _ in expansion.refusals):
        say(f"{setting.name} {setting.shots}-shot {setting.encoder} cannot run: {refusal(setting, expansion)}")
    tasks = () if only_tables else expansion.tasks
    failures = drive(tasks, client, place.out, say, retries, later=COST * len(tables))
    return failures + drive(table_tasks(tables, expansion, place), client, place.out, say, retries)

"""Driving a sweep: what is to run, on which workers, what came out, what is left; and the tables at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pandas as pd
from distributed import Client

from ttilib.corpora.corpus import OnError, stop
from ttilib.files import digest, fingerprint, read_json
from ttilib.scores.origins import HOME
from ttilib.scores.tables import METHOD, planned
from ttilib.scores.typeset import write_all
from ttilib.sweep.clock import Clock, ticking, words
from ttilib.sweep.execution import Outcome, counted, execute
from ttilib.sweep.expansion import Expansion, Place, expand
from ttilib.sweep.overview import index, refusal
from ttilib.sweep.plan import Table
from ttilib.sweep.tasks import Task, is_done
from ttilib.sweep.work import summary, worker

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

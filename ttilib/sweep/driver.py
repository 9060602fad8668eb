"""Runs a sweep, or the study, on dask workers: selects the tasks to run, collects their results, makes the tables.

Only a window of tasks is with the scheduler, so memory does not grow with their number. Finished tasks run again only
if they, their parameters or the library change; others resume inside their notebook.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
from distributed import Client, Future, as_completed
from tqdm import tqdm

from ttilib.datasets.base import OnError, raise_first
from ttilib.episodes.benchmarks import benchmark, read_training
from ttilib.episodes.clips import pool_frames
from ttilib.files import digest, fingerprint
from ttilib.results.export import write_all
from ttilib.results.metrics import pooled_iou
from ttilib.results.records import HOME, Counted, RowsFile, read_index, read_rows, write_index
from ttilib.results.tables import METHOD, align_with_plan
from ttilib.solver.extraction import load_extractor, load_means, means_path, measure_means, save_means
from ttilib.solver.methods import read_method
from ttilib.sweep.clusters import cluster, default_workers
from ttilib.sweep.expand import Expansion, SweepPaths, default_paths, expand
from ttilib.sweep.tables import TABLES, Line, Setting, Table
from ttilib.sweep.tasks import Task, is_done, notebook_text, read_record, run_task
from ttilib.synthetic import generate

NOTEBOOK = "05_tables.ipynb"
TABLE_SECONDS = 40.0  # per table, on one core
MAX_LISTED = 20  # finished tasks listed by name
MAX_RETRIES = 100

Report = Callable[[str], object]


@dataclass(frozen=True)
class Outcome:
    """A finished task, with its return value or error message."""

    task: Task
    value: Any = None
    error: str | None = None


def execute(tasks: Iterable[Task], client: Client, work: Callable[[Task], Any], retries: int = 1) -> Iterator[Outcome]:
    """Run `work` on the client's workers and yield outcomes as they arrive; failures are retried `retries` times.

    Two tasks per worker and two more are submitted at a time. Closing the generator cancels pending tasks.
    Raises OSError if the scheduler is lost; recorded results stay.
    """
    source, sent, completed = iter(tasks), dict[Future, Task](), as_completed(loop=client.loop)
    try:
        while True:
            for task in islice(source, max(2 * len(client.nthreads()) + 2 - len(sent), 0)):
                # Equal keys share one run. One prefix for all, because dask stores every prefix forever.
                future = client.submit(work, task, key=f"task-{task.key}", retries=retries)
                sent[future] = task
                completed.add(future)
            if not sent:
                return
            future = next(completed)
            task = sent.pop(future)
            if future.status == "finished":
                outcome = Outcome(task, future.result())
            elif future.status == "error":
                error = future.exception()
                outcome = Outcome(task, error=f"{type(error).__name__}: {error}")
            else:
                raise OSError(f"the scheduler was lost while {task.name} ran; the same command continues")
            future.release()
            yield outcome
    finally:
        client.cancel(list(sent))


def drive(
    tasks: Iterable[Task], client: Client, folder: Path | str, report: Report, retries: int = 1, later: float = 0.0
) -> list[Outcome]:
    """Run the tasks that are not done, `report` each result, and return the failures.

    A progress bar shows the remaining time by cost; `later` is the cost of what follows these tasks, in seconds.
    """
    states = [(task, is_done(folder, task)) for task in tasks]
    todo, done = [task for task, ready in states if not ready], [task.name for task, ready in states if ready]
    for text in done if len(done) <= MAX_LISTED else [f"{len(done)} tasks"]:
        report(f"{text}: up to date")
    if not todo:
        return []
    failures = []
    shape = "{desc} |{bar}| {elapsed}, about {remaining} left"
    total = sum(task.cost for task in todo) + later
    with tqdm(total=total, bar_format=shape, smoothing=0, desc=f"0 of {len(todo)} tasks") as bar:
        for count, outcome in enumerate(execute(todo, client, partial(run_task, folder=str(folder)), retries), 1):
            outcome, line = _result(outcome)
            with bar.external_write_mode():
                report(line)
            bar.set_description_str(f"{count} of {len(todo)} tasks", refresh=False)
            bar.update(outcome.task.cost)
            if outcome.error:
                failures.append(outcome)
    return failures


def _result(outcome: Outcome) -> tuple[Outcome, str]:
    """The outcome, a failure if its rows are damaged; and a line: the error, or IoU by method and what was left out."""
    task = outcome.task
    try:
        rows = read_rows(task.rows, Counted) if task.rows and not outcome.error else []
    except (ValueError, OSError) as error:  # the other tasks go on
        outcome = replace(outcome, error=str(error))
    if outcome.error:
        return outcome, f"{task.name}: failed: {outcome.error}"
    counts = [(row["method"], row["intersection"], row["union"]) for row in rows if row["method"] in task.parts]
    scores = ", ".join(f"{name} {100 * iou:.1f}" for name, iou in pooled_iou(counts).items()) if counts else ""
    line = f"{task.name}: done in {tqdm.format_interval(outcome.value['seconds'])}" + (f" ({scores})" if scores else "")
    left_out = task.episodes - len(counts) // max(len(task.parts), 1)
    lost = f"; episodes left out: {left_out} of {task.episodes}, see {task.output}" if left_out > 0 else ""
    return outcome, line + lost


def index(table: Table, expansion: Expansion, paths: SweepPaths) -> dict[str, Any]:
    """Write <out>/rows/<table>.json for the rows recorded so far, and return its content.

    If there are none, an earlier index of rows of other code or settings stays, with a warning: no table is lost.
    """
    sources, weights = [], {}
    for spec in expansion.of(table.settings):
        if not Path(spec.task.rows).is_file():
            continue
        setting, parameters = spec.setting, spec.task.parameters
        size = parameters["height"], parameters["width"]
        sources.append(RowsFile(Path(spec.task.rows), spec.manifest, setting.benchmark, size))
        trained_on = benchmark(setting.benchmark).trained_on
        weights[f"{setting.encoder}, {trained_on} fold {spec.fold}"] = spec.fingerprint
    with suppress(FileNotFoundError, ValueError):  # missing or damaged: a new one replaces it
        earlier = {} if sources else read_index(paths.out, table.name)
        if earlier.get("files") and all((paths.out / file).is_file() for file in earlier["files"]):
            about = f"{table.name}: there are no rows of this code and these settings yet"
            warnings.warn(f"{about}; the table is made from the rows before, of code {earlier['code']}", stacklevel=2)
            return earlier
    lines = [_line(line, expansion, paths) for line in table.lines]
    return write_index(paths.out, table.name, table.title, lines, sources, weights)


def _line(line: Line, expansion: Expansion, paths: SweepPaths) -> dict[str, Any]:
    """A line of the table as JSON, with the reason why it is empty or incomplete."""
    setting = line.setting
    specs = expansion.of([setting])
    missing = sum(not is_done(paths.out, spec.task) for spec in specs)
    reasons = [expansion.reason(setting), f"{missing} of {len(specs)} tasks are not finished" if missing else ""]
    return {
        "benchmark": setting.name, "shots": setting.shots, "encoder": setting.encoder,
        "method": read_method(line.method).name, "label": line.label, "folds": list(setting.folds),
        "runs": setting.runs, "why": "; ".join(filter(None, reasons)),
    }  # fmt: skip


def forecast(tables: Sequence[Table], expansion: Expansion, paths: SweepPaths, workers: int) -> str:
    """What would run in each setting, and an estimate of the time from the speed of finished tasks."""
    lines = []
    for table in tables:
        lines += [f"{table.name}: {table.title}", *(_forecast(s, expansion, paths) for s in table.settings)]
    records = [read_record(paths.out, task.key) for task in expansion.tasks]
    timed = [record for record in records if record and record.seconds and record.cost]
    speed, basis = 1.0, "a guess for one processor core; finished tasks improve it"
    if timed:
        speed = sum(record.cost for record in timed) / sum(record.seconds for record in timed)
        basis = f"from {len(timed)} finished tasks"
    costs = [task.cost for task in expansion.tasks if not is_done(paths.out, task)]
    left = timedelta(seconds=round(max(sum(costs) / max(workers, 1), max(costs, default=0.0)) / speed))
    count = f"{len(costs)} of {len(expansion.tasks)} tasks to run"
    return "\n".join([*lines, f"{count}, about {left} (hours:minutes:seconds) with {workers} workers ({basis})"])


def _forecast(setting: Setting, expansion: Expansion, paths: SweepPaths) -> str:
    specs, why = expansion.of([setting]), expansion.reason(setting)
    name = f"  {setting.name} {setting.shots}-shot {setting.encoder}"
    if not specs:
        return f"{name}: cannot run: {why}"
    done = sum(is_done(paths.out, spec.task) for spec in specs)
    counts = f"{sum(spec.task.episodes for spec in specs)} episodes, {sum(spec.frames for spec in specs)} frames"
    methods = f"{len(specs[0].task.parts)} methods"
    return f"{name}: {methods}, {counts}, {done} of {len(specs)} tasks done" + (f"; {why}" if why else "")


def _code(notebook: Path) -> str:
    """Digest of the text of a notebook and of the whole library."""
    return digest(notebook_text(notebook), [path.read_text(encoding="utf-8") for path in sorted(HOME.rglob("*.py"))])


def table_tasks(tables: Sequence[Table], expansion: Expansion, paths: SweepPaths) -> list[Task]:
    """Notebook 05 for each table with rows, as tasks that depend on these rows; writes all indexes and empty tables."""
    tasks = []
    notebook, out = (paths.notebooks / NOTEBOOK).resolve(), paths.out.resolve()
    code = _code(notebook)
    for table in tables:
        about = index(table, expansion, paths)
        if not about["files"]:
            lines = [line | {"method": line["label"]} for line in about["lines"]]
            write_all(paths.out / "tables", table.name, align_with_plan(pd.DataFrame(columns=METHOD), lines))
            continue
        parameters = {
            "name": table.name, "baseline": table.baseline, "method": table.shown,
            "root": str(paths.root.resolve()), "out": str(out),
        }  # fmt: skip
        key = digest(code, about, parameters, [fingerprint(paths.out / file) for file in about["files"]])
        output = str(out / f"05_tables-{table.name}.ipynb")
        tasks.append(Task(key, f"table {table.name}", str(notebook), output, parameters, TABLE_SECONDS))
    return tasks


def sweep(
    tables: Sequence[Table], paths: SweepPaths, client: Client, report: Report, retries: int = 1,
    on_error: OnError = raise_first, only_tables: bool = False,
) -> list[Outcome]:  # fmt: skip
    """Run the tasks that are not done, unless `only_tables`, and make the tables; returns the failures."""
    if not 0 <= retries <= MAX_RETRIES:
        raise ValueError(f"retries is {retries}; give 0 to {MAX_RETRIES}")
    expansion = expand(tables, paths, on_error)
    for setting in dict.fromkeys(setting for setting, _ in expansion.unavailable):
        report(f"{setting.name} {setting.shots}-shot {setting.encoder} cannot run: {expansion.reason(setting)}")
    tasks = () if only_tables else expansion.tasks
    failures = drive(tasks, client, paths.out, report, retries, later=TABLE_SECONDS * len(tables))
    return failures + drive(table_tasks(tables, expansion, paths), client, paths.out, report, retries)


SIZE = (121, 217)  # network input of the notebooks' defaults
EVALUATION_SECONDS = 200.0  # on one core, for the estimate of the time only


def run_study(
    repository: Path | str = ".", out: Path | str = "outputs/mini", report: Report = print, workers: int = 0
) -> Path:
    """Run outdated tasks in `workers` processes (0: `default_workers`); returns the folder.

    Raises RuntimeError if a task fails, because later ones depend on it.
    """
    repository = Path(repository).resolve()
    folder, notebooks = (repository / out).resolve(), repository / "notebooks"
    paths = replace(default_paths(True, str(repository / "data/mini"), str(folder)), notebooks=notebooks)
    tables, step = (TABLES["mini"],), partial(study_task, notebooks, folder)
    generate(paths.root, workers=workers or default_workers())
    with cluster(workers=workers, log_folder=folder / "logs") as client:

        def run(tasks: Iterable[Task], later: float) -> None:
            if failures := drive(tasks, client, folder, report, later=later):
                raise RuntimeError(f"{failures[0].task.name}: {failures[0].error}")

        run([step(f"02_train-f{fold}", 150, fold=fold) for fold in (0, 1)], EVALUATION_SECONDS + TABLE_SECONDS)
        for fold in (0, 1):
            write_means(folder / f"train/ytvis-f{fold}/best.safetensors", "ytvis-v1", fold, paths.root, SIZE)
        expansion = expand(tables, paths)
        run([*expansion.tasks, step("01_data", 10, headless=True)], TABLE_SECONDS)
        episode = step("03_episode", 25, headless=True)  # selected by the rows
        run([episode, *table_tasks(tables, expansion, paths)], 0.0)
    return folder


def write_means(checkpoint: Path, name: str, fold: int, root: Path, size: tuple[int, int]) -> None:
    """Write the mean feature of an encoder beside its checkpoint, unless it is there: over images of the benchmark's
    base training, without labels, as notebooks 04 and 07 measure it. One of other weights is replaced.
    """
    path, extractor = means_path(str(checkpoint)), load_extractor(checkpoint)
    with suppress(FileNotFoundError, ValueError):  # missing, damaged, or of other weights
        load_means(path, extractor.fingerprint, ())
        return
    images = ((image[None], valid[None]) for image, _, valid in pool_frames(*read_training(name, fold, root), size))
    save_means(path, measure_means(extractor.with_layers(()), extractor.fingerprint, images))


def study_task(notebooks: Path, folder: Path, name: str, seconds: float, **parameters: Any) -> Task:
    """The notebook before the dash in `name` as a task that takes `seconds` on one core.

    Its key depends on the notebook, its parameters and the library.
    """
    notebook = notebooks / f"{name.partition('-')[0]}.ipynb"
    key = digest(_code(notebook), parameters, str(folder))
    output = str(folder / f"{name}.ipynb")
    return Task(key, name, str(notebook), output, {"out": str(folder), **parameters}, seconds)

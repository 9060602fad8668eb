"""The whole study on the synthetic dataset: the notebooks as tasks, through the same code as a sweep.

Finished tasks run again only if they, their parameters or the library change; others resume inside their notebook.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ttilib.files import digest
from ttilib.results.records import HOME
from ttilib.sweep.clusters import cluster
from ttilib.sweep.driver import drive, table_tasks
from ttilib.sweep.expand import SweepPaths, expand
from ttilib.sweep.tables import Table, table
from ttilib.sweep.tasks import Task


@dataclass(frozen=True)
class StudyStep:
    """One run of a notebook: name, parameters, the chapters it depends on, and its seconds on one core."""

    name: str
    notebook: str
    seconds: float
    parameters: Mapping[str, Any] = field(default_factory=dict)
    after: tuple[str, ...] = ()


FIRST = (
    StudyStep("01_data", "01_data", 80),
    StudyStep("02_train-f0", "02_train", 270, {"fold": 0}, ("01_data",)),
    StudyStep("02_train-f1", "02_train", 270, {"fold": 1}, ("01_data",)),
)
"""Chapters before the evaluation."""

BESIDE = (StudyStep("03_episode", "03_episode", 50, {"headless": True}),)
"""Chapters that run in parallel with the evaluation."""

SWEEP, TABLE = 300.0, 40.0  # seconds on one core, for the estimate of the time only


def run_study(
    repository: Path | str = ".",
    out: Path | str = "outputs/mini",
    say: Callable[[str], object] = print,
    first: Sequence[StudyStep] = FIRST,
    beside: Sequence[StudyStep] = BESIDE,
    tables: Sequence[Table] = (table("mini"),),
    workers: int = 0,
) -> Path:
    """Run outdated tasks in `workers` processes (0: `room`); returns the folder. Raises RuntimeError on failure."""
    repository = Path(repository).resolve()
    folder, notebooks = (repository / out).resolve(), repository / "notebooks"
    encoders = "{out}/train/{corpus}-f{fold}/best.safetensors"
    place = SweepPaths(repository / "data" / "mini", folder, encoders, notebooks)
    later = SWEEP + TABLE if tables else 0.0
    with cluster(workers=workers, log_folder=folder / "logs") as client:
        _all_well(drive(study_tasks(first, notebooks, folder), client, folder, say, later=later))
        expansion = expand(tables, place)
        tasks = [*study_tasks(beside, notebooks, folder), *expansion.tasks]
        _all_well(drive(tasks, client, folder, say, later=TABLE if tables else 0.0))
        _all_well(drive(table_tasks(tables, expansion, place), client, folder, say))
    return folder


def study_tasks(chapters: Sequence[StudyStep], notebooks: Path, folder: Path) -> list[Task]:
    """Chapters as tasks; the key depends on the notebook, the library and the chapters before."""
    library = digest([path.read_text(encoding="utf-8") for path in sorted(HOME.rglob("*.py"))])
    keys: dict[str, str] = {}
    for chapter in chapters:
        text = (notebooks / f"{chapter.notebook}.ipynb").read_text(encoding="utf-8")
        before = [keys[name] for name in chapter.after]
        keys[chapter.name] = digest(library, text, dict(chapter.parameters), str(folder), before)
    return [
        Task(
            keys[chapter.name], chapter.name, str(notebooks / f"{chapter.notebook}.ipynb"),
            str(folder / f"{chapter.name}.ipynb"), {"out": str(folder), **chapter.parameters}, chapter.seconds,
            after=tuple(keys[name] for name in chapter.after),
        )
        for chapter in chapters
    ]  # fmt: skip


def _all_well(failures: Sequence[Any]) -> None:
    """Raise RuntimeError for the first failure; later chapters depend on it."""
    if failures:
        raise RuntimeError(f"{failures[0].task.name}: {failures[0].error}")

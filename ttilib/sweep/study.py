"""The whole study on the synthetic dataset: the notebooks as tasks, through the same code as a sweep.

Finished tasks run again only if they, their parameters or the library change; others resume inside their notebook.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ttilib.episodes.benchmarks import read_training
from ttilib.episodes.clips import pool_frames
from ttilib.files import digest
from ttilib.results.records import HOME
from ttilib.solver.extraction import load_extractor, load_means, means_path, measure_means, save_means
from ttilib.sweep.clusters import cluster, default_workers
from ttilib.sweep.driver import TABLE_SECONDS, Report, drive, table_tasks
from ttilib.sweep.expand import default_paths, expand
from ttilib.sweep.tables import table
from ttilib.sweep.tasks import Task, notebook_text
from ttilib.synthetic import generate


@dataclass(frozen=True)
class StudyStep:
    """One run of a notebook: name, parameters, and its seconds on one core."""

    name: str
    notebook: str
    seconds: float
    parameters: Mapping[str, Any] = field(default_factory=dict)


TRAINING = tuple(StudyStep(f"02_train-f{fold}", "02_train", 150, {"fold": fold}) for fold in (0, 1))
DATA = (StudyStep("01_data", "01_data", 10, {"headless": True}),)
AFTER_EVALUATION = (StudyStep("03_episode", "03_episode", 25, {"headless": True}),)  # selects its episode by the rows
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
    tables = (table("mini"),)
    generate(paths.root, workers=workers or default_workers())
    with cluster(workers=workers, log_folder=folder / "logs") as client:

        def run(tasks: Iterable[Task], later: float) -> None:
            if failures := drive(tasks, client, folder, report, later=later):
                raise RuntimeError(f"{failures[0].task.name}: {failures[0].error}")

        run(study_tasks(TRAINING, notebooks, folder), EVALUATION_SECONDS + TABLE_SECONDS)
        for fold in (0, 1):
            write_means(folder / f"train/ytvis-f{fold}/best.safetensors", "ytvis-v1", fold, paths.root, SIZE)
        expansion = expand(tables, paths)
        run([*expansion.tasks, *study_tasks(DATA, notebooks, folder)], TABLE_SECONDS)
        run([*study_tasks(AFTER_EVALUATION, notebooks, folder), *table_tasks(tables, expansion, paths)], 0.0)
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


def study_tasks(steps: Sequence[StudyStep], notebooks: Path, folder: Path) -> list[Task]:
    """Steps as tasks; a key depends on the notebook, its parameters and the library."""
    library = digest([path.read_text(encoding="utf-8") for path in sorted(HOME.rglob("*.py"))])
    tasks = []
    for step in steps:
        notebook = notebooks / f"{step.notebook}.ipynb"
        key = digest(library, notebook_text(notebook), dict(step.parameters), str(folder))
        parameters, output = {"out": str(folder), **step.parameters}, str(folder / f"{step.name}.ipynb")
        tasks.append(Task(key, step.name, str(notebook), output, parameters, step.seconds))
    return tasks

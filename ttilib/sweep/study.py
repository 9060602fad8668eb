"""The whole study on the synthetic dataset: the notebooks as tasks, through the same code as a sweep.

Finished tasks run again only if they, their parameters or the library change; others resume inside their notebook.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
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
    tables, step = (table("mini"),), partial(study_task, notebooks, folder)
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
    library = digest([path.read_text(encoding="utf-8") for path in sorted(HOME.rglob("*.py"))])
    key = digest(library, notebook_text(notebook), parameters, str(folder))
    output = str(folder / f"{name}.ipynb")
    return Task(key, name, str(notebook), output, {"out": str(folder), **parameters}, seconds)

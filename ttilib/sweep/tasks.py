"""Notebooks without a browser, and tasks: one run of a notebook, with a log and a record that it is done.

A task's key covers everything that its result depends on; the record is written last, so a killed task resumes.
"""

from __future__ import annotations

import platform
import shutil
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any, TextIO

import msgspec
import nbformat
import papermill

from ttilib.files import atomic, check_writable, read_json, suggest, write_json

TYPES = {"int": int, "float": float | int, "str": str, "bool": bool, "list": list | tuple}
PATIENCE = 600  # seconds: for a kernel to start, and for the output of a cell to arrive, on a busy machine


def notebook_text(notebook: Path | str) -> str:
    """The text of a notebook. Raises FileNotFoundError, or ValueError if it is none."""
    found = read_json(notebook, dict[str, Any])
    try:  # it raises other errors for odd cells
        nbformat.validate(nbformat.from_dict(found), version=4)
    except (nbformat.ValidationError, AssertionError, AttributeError, KeyError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{notebook}: not a notebook ({reason}); give a notebook that Jupyter can open") from error
    return Path(notebook).read_text(encoding="utf-8")


def notebook_parameters(notebook: Path | str) -> dict[str, str]:
    """The type of each parameter in the notebook's cell tagged `parameters`."""
    notebook_text(notebook)
    try:
        found = papermill.inspect_notebook(str(notebook))
    except ValueError as error:  # no kernel or language
        raise ValueError(f"{notebook}: {error} Choose a kernel in Jupyter and save it; then run again") from error
    return {name: entry["inferred_type_name"] for name, entry in found.items()}


def check_parameters(notebook: Path | str, parameters: Mapping[str, Any]) -> None:
    """Raise ValueError for an unknown parameter (with the nearest name), or a value of another type."""
    known = notebook_parameters(notebook)
    for name, value in parameters.items():
        if name not in known:
            raise ValueError(f"{notebook}: there is no parameter {name!r}; {suggest(name, known)}")
        kind = known[name].split("[")[0]
        if not isinstance(value, TYPES.get(kind, object)) or (isinstance(value, bool) and kind != "bool"):
            about = f"parameter {name!r} is {value!r}, of type {type(value).__name__}"
            raise ValueError(f"{notebook}: {about}; give {kind}")


def run_notebook(
    notebook: Path | str,
    output: Path | str,
    parameters: Mapping[str, Any] | None = None,
    timeout: int = 1800,
    log: TextIO | None = None,
) -> None:
    """Execute `notebook` with `parameters` in its own folder and write the executed copy to `output`.

    `timeout` is in seconds per cell; cell output also goes to `log`. A failed run is saved as `<output>.failed.ipynb`.
    Raises ValueError for wrong parameters, RuntimeError naming the notebook and the error.
    """
    notebook, output = Path(notebook), Path(output)
    check_parameters(notebook, parameters or {})
    check_writable(output)
    failed = output.with_suffix(".failed.ipynb")
    failed.unlink(missing_ok=True)
    with atomic(output) as temporary:
        try:
            papermill.execute_notebook(
                str(notebook), str(temporary), dict(parameters or {}), kernel_name="python3", progress_bar=False,
                cwd=str(notebook.parent), execution_timeout=timeout, stdout_file=log, stderr_file=log,
                start_timeout=PATIENCE, iopub_timeout=PATIENCE, extra_arguments=["--IPKernelApp.log_level=40"],
                shutdown_kernel="immediate",  # all cells have ended; Python with torch needs 2 s to exit
            )  # fmt: skip
        except Exception as error:  # code of the user, in a kernel of the user
            reason = f"{type(error).__name__}: {error}"
            if isinstance(error, papermill.PapermillExecutionError):
                reason = f"cell {error.exec_count} stopped with {error.ename}: {error.evalue}"
            elif isinstance(error, TimeoutError):
                reason = f"a cell ran longer than {timeout} s"
            if temporary.exists():
                shutil.copy(temporary, failed)
                reason += f"; what ran is in {failed}"
            raise RuntimeError(f"{notebook}: {reason}") from error


@dataclass(frozen=True)
class Task:
    """One run of a notebook; paths are absolute.

    `parts` are results (methods on the same `episodes`) in the file `rows`; runs with the same key may add others.
    `cost` is the expected time in seconds on a reference machine.
    """

    key: str
    name: str
    notebook: str
    output: str
    parameters: Mapping[str, Any]
    cost: float
    parts: tuple[str, ...] = ()
    rows: str = ""
    episodes: int = 0


Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e9)]


@dataclass(frozen=True)
class Record:
    """What the library reads in the record of a finished task: methods, expected and measured time."""

    parts: tuple[str, ...]
    cost: Seconds
    seconds: Seconds = 0.0


def record_path(folder: Path | str, key: str) -> Path:
    """Path of the record of a finished task."""
    return Path(folder) / "tasks" / f"{key}.json"


def read_record(folder: Path | str, key: str) -> Record | None:
    """The record of a task; None if missing or damaged, which only repeats the task."""
    try:
        return read_json(record_path(folder, key), Record)
    except (FileNotFoundError, ValueError):
        return None


def is_done(folder: Path | str, task: Task) -> bool:
    """Whether the record has all parts of the task, its notebook exists, and no episode is left out or its row lost."""
    record = read_record(folder, task.key)
    if record is None or not set(task.parts) <= set(record.parts) or not Path(task.output).is_file():
        return False
    rows = Path(task.rows)
    lines = rows.read_bytes().count(b"\n") if rows.is_file() else 0
    return lines >= task.episodes * len(record.parts)


def finish(folder: Path | str, task: Task, about: Mapping[str, Any]) -> None:
    """Record that the task is done, with the parts of earlier runs with its key."""
    earlier = read_record(folder, task.key)
    parts = dict.fromkeys([*(earlier.parts if earlier else ()), *task.parts])
    content = {"name": task.name, "parts": list(parts), "cost": task.cost, **about}
    write_json(record_path(folder, task.key), content)


def run_task(task: Task, folder: Path | str) -> Mapping[str, Any]:
    """Run the task unless it is done; returns seconds, machine and time.

    Messages are appended to <folder>/logs/<key>.log. Raises RuntimeError naming the notebook, the cell and the log.
    """
    log = Path(folder) / "logs" / f"{task.key}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8", buffering=1) as lines:

        def write(text: str) -> str:
            now = datetime.now(timezone.utc).isoformat(timespec="seconds")
            lines.write(f"{now} {text}\n")
            return now

        if is_done(folder, task):  # e.g. by a worker that was considered lost
            write("already done")
            return {"seconds": 0.0}
        write(f"{task.name} on {platform.node()}")
        begin = time.monotonic()
        try:
            run_notebook(task.notebook, task.output, task.parameters, timeout=24 * 3600, log=lines)
        except Exception as error:
            lines.write(traceback.format_exc())
            # Some exceptions of the kernel client cannot be pickled; a message can.
            raise RuntimeError(f"{error} (log: {log})") from None
        seconds = round(time.monotonic() - begin, 2)
        about = {"seconds": seconds, "machine": platform.node(), "finished": write(f"done in {seconds} s")}
        finish(folder, task, about)
    return about

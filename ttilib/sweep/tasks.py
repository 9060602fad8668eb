"""Headless notebooks, and tasks: one run of a notebook, with a log and a record that it is done.

A task's key covers everything that its result depends on; the record is written last, so a killed task resumes.
"""

from __future__ import annotations

import json
import platform
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TextIO

import papermill

from ttilib.files import atomic, fingerprint, read_json, suggest, write_json

TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (float, int),
    "str": (str,),
    "bool": (bool,),
    "list": (list, tuple),
}


def notebook_parameters(notebook: Path | str) -> dict[str, dict[str, str]]:
    """Type, default and help of each parameter in the notebook's cell tagged `parameters`."""
    if not Path(notebook).is_file():
        raise FileNotFoundError(f"{notebook}: no such notebook; the study's own are in notebooks/")
    found = papermill.inspect_notebook(str(notebook))
    return {
        name: {"type": entry["inferred_type_name"], "default": entry["default"], "help": entry["help"]}
        for name, entry in found.items()
    }


def check_parameters(notebook: Path | str, parameters: Mapping[str, Any]) -> None:
    """Raise ValueError for an unknown parameter (with the nearest name), or a value of another type."""
    known = notebook_parameters(notebook)
    for name, value in parameters.items():
        if name not in known:
            raise ValueError(f"{notebook}: there is no parameter {name!r}; {suggest(name, known)}")
        stated = known[name]["type"].split("[")[0]
        allowed = TYPES.get(stated)
        wrong_bool = isinstance(value, bool) and stated != "bool"
        if allowed and (wrong_bool or not isinstance(value, allowed)):
            raise ValueError(
                f"{notebook}: parameter {name!r} is {value!r}, a {type(value).__name__}; it must be a {stated}"
            )


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
    failed = output.with_suffix(".failed.ipynb")
    failed.unlink(missing_ok=True)
    try:
        with atomic(output) as temporary:
            try:
                papermill.execute_notebook(
                    str(notebook),
                    str(temporary),
                    parameters=dict(parameters or {}),
                    kernel_name="python3",
                    cwd=str(notebook.parent),
                    progress_bar=False,
                    execution_timeout=timeout,
                    stdout_file=log,
                    stderr_file=log,
                    extra_arguments=["--IPKernelApp.log_level=40"],  # errors only
                )
            except Exception:
                if temporary.exists():
                    failed.write_bytes(temporary.read_bytes())
                raise
    except papermill.PapermillExecutionError as error:
        raise RuntimeError(
            f"{notebook}: cell {error.exec_count} stopped with {error.ename}: {error.evalue}; "
            f"what ran is in {failed}"
        ) from error
    except TimeoutError as error:
        raise RuntimeError(f"{notebook}: a cell ran longer than {timeout} s; what ran is in {failed}") from error


@dataclass(frozen=True)
class Task:
    """One run of a notebook; paths are absolute.

    `parts` are results that runs with the same key may add (methods on the same episodes) to the file `rows`. `cost`
    is the expected time in seconds on a reference machine; `after` holds keys of tasks that must be done before.
    """

    key: str
    name: str
    notebook: str
    output: str
    parameters: Mapping[str, Any]
    cost: float
    parts: tuple[str, ...] = ()
    rows: str = ""
    after: tuple[str, ...] = field(default=())
    timeout: int = 24 * 3600  # seconds for one cell


def note_path(folder: Path | str, key: str) -> Path:
    """Path of the record of a finished task."""
    return Path(folder) / "tasks" / f"{key}.json"


def log_path(folder: Path | str, key: str) -> Path:
    """Path of the log of a task."""
    return Path(folder) / "logs" / f"{key}.log"


def note(folder: Path | str, key: str) -> dict[str, Any] | None:
    """The record of a task; None if missing or damaged."""
    try:
        found = read_json(note_path(folder, key))
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def is_done(folder: Path | str, task: Task) -> bool:
    """Whether the record has all parts of the task, and its files are unchanged."""
    noted = note(folder, task.key)
    if noted is None or not set(task.parts) <= set(noted.get("parts", ())):
        return False
    return Path(task.output).is_file() and (not task.rows or _undamaged(task, noted))


def _undamaged(task: Task, noted: Mapping[str, Any]) -> bool:
    """Whether the rows begin with the recorded ones; runs of other parts may have added more."""
    rows = Path(task.rows)
    return rows.is_file() and fingerprint(rows, noted.get("bytes", 0)) == noted.get("sha256")


def finish(folder: Path | str, task: Task, about: Mapping[str, Any]) -> None:
    """Record that the task is done, together with the parts of earlier runs with its key."""
    earlier = note(folder, task.key) or {}
    parts = list(dict.fromkeys([*earlier.get("parts", ()), *task.parts]))
    content = {"name": task.name, "parts": parts, "cost": task.cost, **about}
    if task.rows:
        length = Path(task.rows).stat().st_size
        content |= {"bytes": length, "sha256": fingerprint(task.rows, length)}
    write_json(note_path(folder, task.key), content)


def run_task(task: Task, folder: Path | str) -> Mapping[str, Any]:
    """Run the task unless it is done; returns seconds, machine and time.

    Messages are appended to <folder>/logs/<key>.log. Rows that differ from the record are renamed to
    <rows>.damaged-<time> and computed again. Raises RuntimeError naming the notebook, the cell and the log.
    """
    log = log_path(folder, task.key)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8", buffering=1) as lines:

        def write(text: str) -> str:
            now = datetime.now(timezone.utc).isoformat(timespec="seconds")
            lines.write(f"{now} {text}\n")
            return now

        if is_done(folder, task):  # e.g. by a worker that was considered lost
            write("done already")
            return {"seconds": 0.0}
        write(f"{task.name} on {platform.node()}")
        noted, rows = note(folder, task.key), Path(task.rows)
        if noted and rows.is_file() and not _undamaged(task, noted):
            aside = rows.rename(rows.with_suffix(f".damaged-{time.time_ns()}"))
            note_path(folder, task.key).unlink()
            write(f"damaged rows are now {aside}")
        begin = time.monotonic()
        try:
            run_notebook(task.notebook, task.output, task.parameters, task.timeout, log=lines)
        except Exception as error:
            lines.write(traceback.format_exc())
            # Some exceptions of the kernel client cannot be pickled; a message can.
            raise RuntimeError(f"{error} (log: {log})") from None
        seconds = round(time.monotonic() - begin, 2)
        about = {"seconds": seconds, "machine": platform.node(), "finished": write(f"done in {seconds} s")}
        finish(folder, task, about)
    return about


def summary(task: Task) -> str:
    """Pooled IoU in percent of each method of a finished task, as text."""
    sums: dict[str, list[int]] = {}
    for line in Path(task.rows).read_text(encoding="utf-8").splitlines() if task.rows else ():
        row = json.loads(line)
        total = sums.setdefault(row["method"], [0, 0])
        total[0], total[1] = total[0] + row["intersection"], total[1] + row["union"]
    shown = {name: sums[name] for name in task.parts if name in sums}
    return ", ".join(f"{name} {100 * i / max(u, 1):.1f}" for name, (i, u) in shown.items())

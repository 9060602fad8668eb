"""Notebooks run headless, and tasks: one run of a notebook that is done once, with a note that says so and a log.

Papermill only warns about a parameter that the notebook does not have, and takes any type; here both are refused before
anything runs, with the nearest name.

The key names everything that the result depends on, so a finished task is recognised after a restart, on another
machine of the same file system, or from another table. A worker writes the note last, after everything that the
notebook wrote; a killed task goes on from what it has written so far. Workers need neither torch nor OpenCV: those are
loaded in the notebook's kernel, a process that ends with the task.
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

from ttilib.files import atomic, fingerprint, meant, read_json, write_json

TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (float, int),
    "str": (str,),
    "bool": (bool,),
    "list": (list, tuple),
}


def notebook_parameters(notebook: Path | str) -> dict[str, dict[str, str]]:
    """Name to type, default and meaning, as the notebook's cell tagged `parameters` states them."""
    if not Path(notebook).is_file():
        raise FileNotFoundError(f"{notebook}: no such notebook; the study's own are in notebooks/")
    found = papermill.inspect_notebook(str(notebook))
    return {
        name: {"type": entry["inferred_type_name"], "default": entry["default"], "help": entry["help"]}
        for name, entry in found.items()
    }


def check_parameters(notebook: Path | str, parameters: Mapping[str, Any]) -> None:
    """Refuse a name the notebook does not know, or a value of another type than it states.

    Raises ValueError naming the notebook, the parameter and the nearest known name.
    """
    known = notebook_parameters(notebook)
    for name, value in parameters.items():
        if name not in known:
            raise ValueError(f"{notebook}: there is no parameter {name!r}; {meant(name, known)}")
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

    `timeout` is in seconds per cell; what cells print goes to `log` as well, while they run. The output appears
    only when every cell has run; of a run that fails the cells so far are kept as `<output>.failed.ipynb`.
    Raises ValueError for wrong parameters, RuntimeError naming the notebook and what stopped it.
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
                    extra_arguments=["--IPKernelApp.log_level=40"],  # errors; warnings of every start tell nothing
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
    """One run of a notebook.

    `parts` are results that runs with the same key may add one after another (methods on the same episodes); `rows`
    is the file they go to. `cost` is the expected time in seconds on the machine that the study was timed on, `after`
    holds keys of tasks that must be done before. Paths are absolute.
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
    """The note of a finished task."""
    return Path(folder) / "tasks" / f"{key}.json"


def log_path(folder: Path | str, key: str) -> Path:
    """The log of a task."""
    return Path(folder) / "logs" / f"{key}.log"


def note(folder: Path | str, key: str) -> dict[str, Any] | None:
    """What is noted of a task; None if it is not done, or if a crash has damaged the note."""
    try:
        found = read_json(note_path(folder, key))
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def is_done(folder: Path | str, task: Task) -> bool:
    """Whether the task need not run: noted with all its parts, and its files are as they were noted."""
    noted = note(folder, task.key)
    if noted is None or not set(task.parts) <= set(noted.get("parts", ())):
        return False
    return Path(task.output).is_file() and (not task.rows or _undamaged(task, noted))


def _undamaged(task: Task, noted: Mapping[str, Any]) -> bool:
    """Whether the rows begin with what was noted; rows of other parts may have been added since."""
    rows = Path(task.rows)
    return rows.is_file() and fingerprint(rows, noted.get("bytes", 0)) == noted.get("sha256")


def finish(folder: Path | str, task: Task, about: Mapping[str, Any]) -> None:
    """Note that the task is done, beside what earlier runs with its key have noted."""
    earlier = note(folder, task.key) or {}
    parts = list(dict.fromkeys([*earlier.get("parts", ()), *task.parts]))
    content = {"name": task.name, "parts": parts, "cost": task.cost, **about}
    if task.rows:
        length = Path(task.rows).stat().st_size
        content |= {"bytes": length, "sha256": fingerprint(task.rows, length)}
    write_json(note_path(folder, task.key), content)


def carry_out(task: Task, folder: Path | str) -> Mapping[str, Any]:
    """Run the task unless it is done; what was noted of it: seconds, machine, when.

    The notebook's messages are appended to <folder>/logs/<key>.log while it runs. Rows that are no longer what was
    noted are renamed to <rows>.damaged-<time> and made again.
    Raises RuntimeError naming the notebook, the cell and the log.
    """
    log = log_path(folder, task.key)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8", buffering=1) as lines:

        def write(text: str) -> str:
            now = datetime.now(timezone.utc).isoformat(timespec="seconds")
            lines.write(f"{now} {text}\n")
            return now

        if is_done(folder, task):  # for instance by a worker that was thought lost
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
            # Some exceptions of the kernel's client cannot travel between processes; a sentence can.
            raise RuntimeError(f"{error} (log: {log})") from None
        seconds = round(time.monotonic() - begin, 2)
        about = {"seconds": seconds, "machine": platform.node(), "finished": write(f"done in {seconds} s")}
        finish(folder, task, about)
    return about


def summary(task: Task) -> str:
    """What a finished task found, in a few words: the pooled IoU of every method over its episodes, in percent."""
    sums: dict[str, list[int]] = {}
    for line in Path(task.rows).read_text(encoding="utf-8").splitlines() if task.rows else ():
        row = json.loads(line)
        total = sums.setdefault(row["method"], [0, 0])
        total[0], total[1] = total[0] + row["intersection"], total[1] + row["union"]
    shown = {name: sums[name] for name in task.parts if name in sums}
    return ", ".join(f"{name} {100 * i / max(u, 1):.1f}" for name, (i, u) in shown.items())

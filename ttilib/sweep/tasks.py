"""A task: one run of a notebook that is done once. Its note says that it is done; its log says what happened.

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
from typing import Any

from ttilib.files import fingerprint, read_json, write_json
from ttilib.sweep.notebooks import run_notebook


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

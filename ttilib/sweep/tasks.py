"""A task is one run of a notebook that is done once, and the note that says so.

Its key names everything its result depends on, so a finished task is known again by anybody who expands the same
plan: after a restart, on another machine of the same file system, from another table. The note is written when the
notebook has ended well, after everything the notebook wrote; what a killed task has written so far is its own to
go on from.

What a worker does with a task: run its notebook, keep a log, note that it is done.

Workers need neither torch nor pictures; those live in the notebook's kernel, a process of its own that ends with the
task. What goes wrong in it is in the log, and comes back to the driver as one sentence.
"""

from __future__ import annotations

import json
import platform
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial
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
    """Where the note of a finished task lies."""
    return Path(folder) / "tasks" / f"{key}.json"


def note(folder: Path | str, key: str) -> dict[str, Any] | None:
    """What is noted of a task; None if it has not ended well, or if the note cannot be read."""
    try:
        found = read_json(note_path(folder, key))
    except (FileNotFoundError, ValueError):  # a note that a crash has spoilt is no note: the task is done again
        return None
    return found if isinstance(found, dict) else None


def is_done(folder: Path | str, task: Task) -> bool:
    """Whether the task need not run: noted with all its parts, and what it left is still there as it was."""
    noted = note(folder, task.key)
    if noted is None or not set(task.parts) <= set(noted.get("parts", ())):
        return False
    return Path(task.output).is_file() and (not task.rows or _unharmed(Path(task.rows), noted))


def finish(folder: Path | str, task: Task, about: Mapping[str, Any]) -> None:
    """Note that the task has ended well, beside what earlier runs with its key have noted."""
    earlier = note(folder, task.key) or {}
    parts = list(dict.fromkeys([*earlier.get("parts", ()), *task.parts]))
    content = {"name": task.name, "parts": parts, "cost": task.cost, **about}
    if task.rows:
        length = Path(task.rows).stat().st_size
        content |= {"bytes": length, "sha256": fingerprint(task.rows, length)}
    write_json(note_path(folder, task.key), content)


def set_aside(folder: Path | str, task: Task) -> Path | None:
    """Move rows that are no longer what was noted out of the way, so that they are made again; where to, if so."""
    noted, rows = note(folder, task.key), Path(task.rows)
    if noted is None or not task.rows or not rows.is_file() or _unharmed(rows, noted):
        return None
    aside = next(p for n in range(1, 10**6) if not (p := rows.with_suffix(f".damaged-{n}")).exists())
    rows.rename(aside)
    note_path(folder, task.key).unlink()
    return aside


def _unharmed(rows: Path, noted: Mapping[str, Any]) -> bool:
    """Whether the file begins with what was noted; rows of other parts may have been added since."""
    return rows.is_file() and fingerprint(rows, noted.get("bytes", 0)) == noted.get("sha256")


def carry_out(task: Task, folder: Path | str) -> Mapping[str, Any]:
    """Run the task unless it is done already; what was noted of it: seconds, machine, when.

    The notebook's messages are appended to <folder>/logs/<key>.log while it runs. A task that is done, for instance
    by a worker that was thought lost, is left as it is.
    Raises RuntimeError naming the notebook, the cell and the log.
    """
    log = log_path(folder, task.key)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8", buffering=1) as lines:
        if is_done(folder, task):
            _say(lines, "done already")
            return {"seconds": 0.0}
        damaged = set_aside(folder, task)
        _say(lines, f"{task.name} on {platform.node()}" + (f"; damaged rows are now {damaged}" if damaged else ""))
        begin = time.monotonic()
        try:
            run_notebook(task.notebook, task.output, task.parameters, task.timeout, log=lines)
        except Exception as error:
            lines.write(traceback.format_exc())
            # Some exceptions of the kernel's client cannot travel between processes; a sentence can.
            raise RuntimeError(f"{error} (log: {log})") from None
        about = {"seconds": round(time.monotonic() - begin, 2), "machine": platform.node(), "finished": _now()}
        finish(folder, task, about)
        _say(lines, f"done in {about['seconds']} s")
    return about


def worker(folder: Path | str) -> partial:
    """`carry_out` for one folder, in a form that can be sent to workers."""
    return partial(carry_out, folder=str(folder))


def log_path(folder: Path | str, key: str) -> Path:
    """Where the log of a task lies."""
    return Path(folder) / "logs" / f"{key}.log"


def summary(task: Task) -> str:
    """What a finished task found, in a few words: the pooled IoU of every method over its episodes, in percent."""
    sums: dict[str, list[int]] = {}
    for line in Path(task.rows).read_text(encoding="utf-8").splitlines() if task.rows else ():
        row = json.loads(line)
        total = sums.setdefault(row["method"], [0, 0])
        total[0], total[1] = total[0] + row["intersection"], total[1] + row["union"]
    shown = {name: sums[name] for name in task.parts if name in sums}
    return ", ".join(f"{name} {100 * i / max(u, 1):.1f}" for name, (i, u) in shown.items())


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _say(lines, text: str) -> None:
    lines.write(f"{_now()} {text}\n")

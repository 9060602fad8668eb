"""What a worker does with a task: run its notebook, keep a log, note that it is done.

Workers need neither torch nor pictures; those live in the notebook's kernel, a process of its own that ends with the
task. What goes wrong in it is in the log, and comes back to the driver as one sentence.
"""

from __future__ import annotations

import json
import platform
import time
import traceback
from collections.abc import Mapping
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

from ttilib.notebooks import run_notebook
from ttilib.sweep.tasks import Task, finish, is_done, set_aside


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

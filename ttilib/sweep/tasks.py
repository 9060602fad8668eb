"""A task is one run of a notebook that is done once, and the note that says so.

Its key names everything its result depends on, so a finished task is known again by anybody who expands the same
plan: after a restart, on another machine of the same file system, from another table. The note is written when the
notebook has ended well, after everything the notebook wrote; what a killed task has written so far is its own to
go on from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ttilib.files import fingerprint, read_json, write_json


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

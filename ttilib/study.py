"""The whole study on the embedded corpus: five notebooks in order, a table and a picture at the end.

A notebook that has run is not run again unless it, its parameters or the library have changed; what a notebook
had finished inside (training steps, scored episodes) it picks up by itself. The study can be stopped at any time.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ttilib.files import digest, read_json, write_json
from ttilib.notebooks import run_notebook
from ttilib.scores.records import code_digest


@dataclass(frozen=True)
class Chapter:
    """One notebook of the study, its parameters, and how long it took where the study was last timed."""

    notebook: str
    seconds: float
    parameters: Mapping[str, Any] = field(default_factory=dict)


CHAPTERS = (  # seconds on two cores; they shape the estimate only
    Chapter("01_data", 75),
    Chapter("02_train", 180),
    Chapter("03_episode", 45, {"headless": True}),
    Chapter("04_evaluate", 160),
    Chapter("05_tables", 12),
)


PATIENCE = 120.0  # seconds; chapters must have taken about so long before they tell how fast a machine is


def run_study(
    repository: Path | str = ".",
    out: Path | str = "outputs/mini",
    chapters: tuple[Chapter, ...] = CHAPTERS,
    say: Callable[[str], None] = print,
) -> Path:
    """Run the chapters that are not up to date and return the folder that holds everything they made.

    Raises RuntimeError naming the notebook and cell that failed; the chapters before it stay done.
    """
    repository = Path(repository).resolve()
    folder = (repository / out).resolve()
    state_path = folder / "study.json"
    done = read_json(state_path) if state_path.is_file() else {}
    keys = _keys(repository, folder, chapters)
    todo = [c for c in chapters if done.get(c.notebook) != keys[c.notebook]]
    clock = _Clock(todo, say)
    for chapter in chapters:
        output = folder / f"{chapter.notebook}.ipynb"
        if chapter not in todo and output.is_file():
            say(f"{chapter.notebook}: up to date")
            continue
        with clock.running(chapter):
            notebook = repository / "notebooks" / f"{chapter.notebook}.ipynb"
            run_notebook(notebook, output, {"out": str(folder), **chapter.parameters})
        done[chapter.notebook] = keys[chapter.notebook]
        write_json(state_path, done)
    return folder


def _keys(repository: Path, folder: Path, chapters: tuple[Chapter, ...]) -> dict[str, str]:
    """What each chapter's result depends on: its text, its parameters, the library, and the chapters before."""
    keys, before = {}, code_digest()
    for chapter in chapters:
        text = (repository / "notebooks" / f"{chapter.notebook}.ipynb").read_text(encoding="utf-8")
        before = keys[chapter.notebook] = digest(before, text, dict(chapter.parameters), str(folder))
    return keys


class _Clock:
    """Says which chapter runs and about how long the rest will take, judged by the chapters so far."""

    def __init__(self, todo: list[Chapter], say: Callable[[str], None]) -> None:
        self.todo, self.say = list(todo), say
        self.expected, self.spent = 0.0, 0.0  # of the chapters that have run, seconds

    @contextmanager
    def running(self, chapter: Chapter) -> Iterator[None]:
        """Announce the chapter, keep a line alive while it runs, and say how long it took."""
        begin, finished = time.monotonic(), threading.Event()
        line = threading.Thread(target=self._tick, args=(chapter, begin, finished), daemon=True)
        line.start()
        try:
            yield
        finally:
            finished.set()
            line.join()
        took = time.monotonic() - begin
        self.expected, self.spent = self.expected + chapter.seconds, self.spent + took
        if chapter in self.todo:
            self.todo.remove(chapter)
        self.say(f"{chapter.notebook}: done in {_clock(took)}")

    def _tick(self, chapter: Chapter, begin: float, finished: threading.Event) -> None:
        live = sys.stderr.isatty()
        while True:
            took = time.monotonic() - begin
            speed = (PATIENCE + self.spent) / (PATIENCE + self.expected)
            later = sum(c.seconds for c in self.todo if c is not chapter) * speed
            left = max(chapter.seconds * speed - took, 1.0) + later
            line = f"{chapter.notebook}: running {_clock(took)}, about {_clock(left)} left in all"
            sys.stderr.write(f"\r{line}   " if live else f"{line}\n")
            sys.stderr.flush()
            if finished.wait(1.0 if live else 30.0):
                sys.stderr.write("\r" + " " * 70 + "\r" if live else "")
                return


def _clock(seconds: float) -> str:
    """Minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"

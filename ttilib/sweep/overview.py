"""Where a sweep stands: the index of a table as far as it has been recorded, and a forecast of the rest.

Both can be asked for at any time. A line of the plan that is empty or not whole has the reason beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ttilib.data.benchmarks import benchmark
from ttilib.inference.methods import read_method
from ttilib.scores.index import Source, write_index
from ttilib.sweep.clock import words
from ttilib.sweep.expansion import Expansion, Piece, Place
from ttilib.sweep.plan import Line, Setting, Table
from ttilib.sweep.tasks import is_done, note


def index(table: Table, expansion: Expansion, place: Place) -> Path:
    """Write <out>/rows/<table>.json with what has been recorded so far, and return it."""
    settings = set(table.settings)
    pieces = [p for p in expansion.pieces if p.setting in settings and Path(p.task.rows).is_file()]
    lines = [_line(line, expansion, place) for line in table.lines]
    weights = {f"{p.setting.encoder}, {_trained(p.setting)} fold {p.fold}": p.weights for p in pieces}
    return write_index(place.out, table.name, table.title, lines, [_source(piece) for piece in pieces], weights)


def forecast(tables: Sequence[Table], expansion: Expansion, place: Place, workers: int) -> str:
    """What would run and about how long it would take, setting by setting, in words."""
    lines = []
    for table in tables:
        lines.append(f"{table.name}: {table.title}")
        lines += [_forecast(setting, expansion, place) for setting in table.settings]
    todo = [task for task in expansion.tasks if not is_done(place.out, task)]
    speed, judged = _speed(expansion, place)
    left = sum(task.cost for task in todo) / speed / max(workers, 1)
    left = max(left, max((task.cost / speed for task in todo), default=0.0))
    count = f"{len(todo)} of {len(expansion.tasks)} tasks to run"
    lines.append(f"{count}, about {words(left)} with {workers} workers ({judged})")
    return "\n".join(lines)


def _forecast(setting: Setting, expansion: Expansion, place: Place) -> str:
    pieces = [piece for piece in expansion.pieces if piece.setting == setting]
    why = refusal(setting, expansion)
    name = f"  {setting.name} {setting.shots}-shot {setting.encoder}"
    if not pieces:
        return f"{name}: cannot run: {why}"
    done = sum(is_done(place.out, piece.task) for piece in pieces)
    counts = f"{sum(p.episodes for p in pieces)} episodes, {sum(p.frames for p in pieces)} frames"
    methods = f"{len(pieces[0].task.parts)} methods"
    return f"{name}: {methods}, {counts}, {done} of {len(pieces)} tasks done" + (f"; {why}" if why else "")


def _speed(expansion: Expansion, place: Place) -> tuple[float, str]:
    """Seconds of expected cost per second of a worker, and by what that was judged."""
    noted = [note(place.out, task.key) for task in expansion.tasks]
    timed = [n for n in noted if n and n.get("seconds", 0) > 0]
    if not timed:
        return 1.0, "guessed from one processor core; finished tasks will tell better"
    return sum(n["cost"] for n in timed) / sum(n["seconds"] for n in timed), f"judged by {len(timed)} finished tasks"


def _line(line: Line, expansion: Expansion, place: Place) -> dict[str, Any]:
    """A line of the plan and why it is empty or not whole."""
    setting, method = line.setting, read_method(line.method).name
    tasks = [piece.task for piece in expansion.pieces if piece.setting == setting]
    missing = sum(not is_done(place.out, task) for task in tasks)
    reasons = [refusal(setting, expansion), f"{missing} of {len(tasks)} tasks are still to run" if missing else ""]
    return {
        "benchmark": setting.name, "shots": setting.shots, "encoder": setting.encoder, "method": method,
        "label": line.label or method, "folds": list(setting.folds), "runs": setting.runs,
        "why": "; ".join(filter(None, reasons)),
    }  # fmt: skip


def refusal(setting: Setting, expansion: Expansion) -> str:
    """Why a setting cannot run, in all folds or in some of them; empty if it can."""
    refused = expansion.refusals
    reasons = {fold: refused[setting, fold] for fold in setting.folds if (setting, fold) in refused}
    if not reasons:
        return ""
    first = next(iter(reasons.values()))
    if len(reasons) == len(setting.folds):
        return first
    return f"not in fold {', '.join(map(str, reasons))}: {first}"


def _source(piece: Piece) -> Source:
    told = piece.task.parameters
    return Source(Path(piece.task.rows), piece.manifest, piece.setting.benchmark, (told["height"], told["width"]))


def _trained(setting: Setting) -> str:
    return benchmark(setting.benchmark).trained_on

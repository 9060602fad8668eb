"""Logs of a training run, without influence on the result. Only the first process writes.

`epochs.csv` and `curves.png` are made from `log.jsonl`, which has one JSON object per step.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Float, Int64
from matplotlib.figure import Figure
from torch import Tensor

from ttilib.datasets.transforms import denormalise
from ttilib.files import atomic, write_text
from ttilib.images import read_image
from ttilib.plots.curves import training_figure
from ttilib.plots.overlays import pairs_sheet, sample_sheet

LOG, EPOCHS, CURVES, SAMPLES, TENSORBOARD = "log.jsonl", "epochs.csv", "curves.png", "samples", "tensorboard"
Board = Any  # optional torch.utils.tensorboard.SummaryWriter, slow to import; or None
MEASURED = ("train_miou", "train_accuracy", "train_class_accuracy", "val_miou", "val_loss")


def append(folder: Path | str, row: Mapping[str, Any], board: Board = None) -> None:
    """Append a step to the log and `board`. Raises ValueError for NaN or infinite numbers, OSError if not writable."""
    path = Path(folder) / LOG
    try:
        line = json.dumps(row, allow_nan=False)
    except ValueError as error:
        found = f"step {row.get('step')} holds a number that is not finite"
        raise ValueError(f"{path}: {found}; log None where there is none") from error
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a", encoding="utf-8") as log:
            log.write(line + "\n")
    except OSError as error:
        reason = f"cannot be written ({error.strerror})"
        raise OSError(f"{path}: {reason}; make room and train again, the run resumes from its last state") from error
    if board:
        values = {name: row.get(name) for name in ("loss", "learning_rate", "waited", *MEASURED)}
        values |= {f"parts/{name}": value for name, value in (row.get("parts") or {}).items()}
        for name, value in values.items():
            if value is not None:
                board.add_scalar(name, value, row["step"])


def tensorboard(folder: Path | str, step: int = 0) -> Board:
    """A TensorBoard writer that discards entries after `step`; None if TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(Path(folder) / TENSORBOARD), purge_step=step + 1)


def read_log(folder: Path | str) -> list[dict[str, Any]]:
    """The rows of the complete lines; none without a log. Raises ValueError for a damaged line before the last."""
    path, rows = Path(folder) / LOG, []
    for number, line in enumerate(lines := _complete_lines(path), start=1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            if number < len(lines):
                raise ValueError(f"{path}: line {number} is damaged; remove it and read again") from error
    return rows


def trim(folder: Path | str, steps: int) -> None:
    """Remove what was written after `steps` steps (rows, epochs, samples of unfinished epochs) and damaged lines."""
    folder = Path(folder)
    lines = _complete_lines(folder / LOG)
    kept = [line for line in lines[:steps] if _epoch(line)]
    last, later = (_epoch(kept[-1]) if kept else 0), [_epoch(line) for line in lines[steps:]]
    done = last - 1 if last in later else last
    if (folder / LOG).is_file():
        write_text(folder / LOG, "".join(kept))
    if (folder / EPOCHS).is_file():
        write_epochs(folder, done)
    for kind in ("epoch", "pairs"):
        for path in (folder / SAMPLES).glob(f"{kind}_*.png"):
            number = path.stem.rpartition("_")[2]
            if number.isdecimal() and int(number) > done:
                path.unlink()


def _complete_lines(path: Path) -> list[str]:
    lines = path.read_bytes().decode("utf-8", errors="replace").split("\n") if path.is_file() else [""]
    return [line + "\n" for line in lines[:-1]]


def _epoch(line: str) -> int:
    """Epoch of a line of the log; 0 if damaged."""
    try:
        return json.loads(line)["epoch"]
    except (ValueError, TypeError, KeyError):
        return 0


def write_epochs(folder: Path | str, done: int | None = None) -> None:
    """Write the table of epochs up to `done` from the log; `waiting` is the share of time spent waiting for images."""
    rows = [row for row in read_log(folder) if done is None or row["epoch"] <= done]
    parts = list(dict.fromkeys(name for row in rows for name in row.get("parts") or {}))
    table, before = [], 0.0
    for epoch, group in itertools.groupby(rows, key=lambda row: row["epoch"]):
        *_, last = steps = list(group)
        seconds = last["seconds"] - before
        losses = {name: _mean((row.get("parts") or {}).get(name) for row in steps) for name in parts}
        waited = sum(row.get("waited") or 0.0 for row in steps)
        line = {"epoch": epoch, "steps": len(steps), "loss": _mean(row["loss"] for row in steps), **losses}
        line |= {name: last.get(name) for name in (*MEASURED, "learning_rate")}
        line |= {"seconds": seconds, "waiting": waited / max(seconds, 1e-9)}
        table.append({name: f"{value:.6g}" if isinstance(value, float) else value for name, value in line.items()})
        before = last["seconds"]
    head = list(table[0]) if table else ["epoch"]
    lines = [head, *(["" if row[name] is None else str(row[name]) for name in head] for row in table)]
    write_text(Path(folder) / EPOCHS, "".join(",".join(line) + "\n" for line in lines))


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def write_curves(folder: Path | str) -> Path:
    """Plot the training curves from the log."""
    rows = read_log(folder)
    title = f"step {rows[-1]['step']} of {rows[-1]['steps']}" if rows else "no step yet"
    return _save(training_figure(rows, title), Path(folder) / CURVES)


def write_samples(
    folder: Path | str,
    epoch: int,
    images: Float[Tensor, "n 3 H W"],
    labels: Int64[Tensor, "n H W"],
    found: Int64[Tensor, "n H W"],
    names: Sequence[str],
    board: Board = None,
) -> Path:
    """Plot predictions beside the ground truth; `images` are normalised, `names` are those of labels 0, 1, 2, ..."""
    shown = denormalise(images.cpu().float()).clamp(0, 1)
    figure = sample_sheet(shown, labels, found, names, f"after epoch {epoch}")
    return _save(figure, Path(folder) / SAMPLES / f"epoch_{epoch:03d}.png", board, epoch)


def write_pairs(folder: Path | str, epoch: int, images: Float[Tensor, "n 2 3 H W"], board: Board = None) -> Path:
    """Plot normalised frames whose features are contrasted in an epoch."""
    shown = denormalise(images.cpu().float().flatten(0, 1)).clamp(0, 1).unflatten(0, images.shape[:2])
    figure = pairs_sheet(shown, f"unlabelled pairs of epoch {epoch}")
    return _save(figure, Path(folder) / SAMPLES / f"pairs_{epoch:03d}.png", board, epoch)


def _save(figure: Figure, path: Path, board: Board = None, epoch: int = 0) -> Path:
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=100)
    if board:
        board.add_image(f"samples/{path.stem.rpartition('_')[0]}", read_image(path), epoch, dataformats="HWC")
    return path

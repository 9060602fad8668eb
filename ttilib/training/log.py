"""Logs of a training run, without influence on the result. Only the first process writes.

`epochs.csv` and `curves.png` are made from `log.jsonl`, which has one JSON object per step.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from ttilib.files import atomic, write_text
from ttilib.images import read_image

LOG, EPOCHS, SAMPLES, TENSORBOARD = "log.jsonl", "epochs.csv", "samples", "tensorboard"
Board = Any  # optional torch.utils.tensorboard.SummaryWriter, slow to import; or None
MEASURED = ["train_miou", "train_accuracy", "train_class_accuracy", "val_miou", "val_loss"]


def append(folder: Path | str, row: Mapping[str, Any], board: Board = None) -> None:
    """Append a step to the log and `board`. Raises ValueError for NaN or infinite numbers, OSError if not writable."""
    path, line = Path(folder) / LOG, json.dumps(row, allow_nan=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(path, "a", encoding="utf-8") as log:
            log.write(line + "\n")
    except OSError as error:
        raise OSError(f"{path}: cannot be written ({error.strerror}); free some space and train again") from error
    if board:
        values = {name: row.get(name) for name in ("loss", "learning_rate", "waited", *MEASURED)}
        values |= {f"parts/{name}": value for name, value in row["parts"].items()}
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
    path, rows = Path(folder) / LOG, _rows(folder)
    if None in rows[:-1]:
        raise ValueError(f"{path}: line {rows.index(None) + 1} is damaged; remove it and read again")
    return [row for row in rows if row is not None]


def _rows(folder: Path | str) -> list[dict[str, Any] | None]:
    """The complete lines of the log; None for a damaged one."""
    path, rows = Path(folder) / LOG, []
    lines = path.read_bytes().decode("utf-8", errors="replace").split("\n")[:-1] if path.is_file() else []
    for line in lines:
        try:
            row = json.loads(line)
            rows.append(row if isinstance(row, dict) and "step" in row else None)
        except ValueError:
            rows.append(None)
    return rows


def trim(folder: Path | str, step: int, epochs: int) -> None:
    """Remove rows after `step`, table rows and plots after the first `epochs` epochs, and damaged lines."""
    folder = Path(folder)
    if (folder / LOG).is_file():
        kept = [row for row in _rows(folder) if row is not None and row["step"] <= step]
        write_text(folder / LOG, "".join(json.dumps(row) + "\n" for row in kept))
    if (folder / EPOCHS).is_file():
        write_epochs(folder, epochs)
    for path in (folder / SAMPLES).glob("*.png"):
        kind, _, number = path.stem.rpartition("_")
        if kind in ("epoch", "pairs") and number.isdecimal() and int(number) > epochs:
            path.unlink()


def write_epochs(folder: Path | str, epochs: int | None = None) -> None:
    """Write the table of epochs (at most the first `epochs`): means of the losses, and the values of the last step.
    `waiting` is the share of time spent waiting for images.
    """
    rows = [row for row in read_log(folder) if epochs is None or row["epoch"] <= epochs]
    table = pd.DataFrame({"epoch": []})
    if rows:
        steps = pd.json_normalize(rows, sep=".").groupby("epoch")
        losses = {"loss": "loss"} | {name: name[6:] for name in steps.obj if name.startswith("parts.")}
        last = steps.tail(1).set_index("epoch")
        table = steps[list(losses)].mean().rename(columns=losses)
        table.insert(0, "steps", steps.size())
        table[[*MEASURED, "learning_rate"]] = last[[*MEASURED, "learning_rate"]]
        table["seconds"] = last["seconds"].diff().fillna(last["seconds"])
        table["waiting"] = steps["waited"].sum() / table["seconds"].clip(lower=1e-9)
        table = table.reset_index()
    write_text(Path(folder) / EPOCHS, table.to_csv(index=False, float_format="%.6g"))


def save_figure(figure: Figure, path: Path, board: Board = None, epoch: int = 0) -> None:
    """Write a figure to a file and, if any, to `board`."""
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=100)
    if board:
        board.add_image(f"samples/{path.stem.rpartition('_')[0]}", read_image(path), epoch, dataformats="HWC")

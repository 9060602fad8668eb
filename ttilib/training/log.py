"""Logs of a training run, without influence on the result. Only the first process writes.

`epochs.csv` and `curves.png` are made from `log.jsonl`, which has one JSON object per step.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from matplotlib.figure import Figure
from msgspec import Meta

from ttilib.files import atomic, parse_json, write_text
from ttilib.images import read_image

Count, Time = Annotated[int, Meta(ge=0, le=10**12)], Annotated[float, Meta(ge=0)]


@dataclass(frozen=True)
class Progress:
    """State of a run after a step, a row of the log; the last five are None if not measured at this step."""

    epoch: Count  # from 1
    step: Count  # from 1, over all epochs
    steps: Count  # of the whole run
    loss: float  # of the batch
    parts: dict[str, float]  # terms of the loss before weighting: ce, iou, contrast
    learning_rate: float  # of this step
    seconds: Time  # so far, including earlier calls
    waited: Time  # seconds of this step spent waiting for data
    eta: Time  # seconds left
    val_miou: float | None = None
    val_loss: float | None = None  # on held-out images, without smoothing; in nats
    train_miou: float | None = None  # on the augmented images of this epoch
    train_accuracy: float | None = None  # share of pixels
    train_class_accuracy: float | None = None  # mean over classes


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
    """The rows of the complete lines; none without a log. Raises ValueError for a damaged one."""
    path = Path(folder) / LOG
    lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
    return [asdict(parse_json(line, Progress, f"{path}: line {n} is damaged")) for n, line in enumerate(lines, start=1)]


def trim(folder: Path | str, step: int, epochs: int) -> None:
    """Remove rows after `step`, an incomplete last line, and table rows and plots after the first `epochs` epochs."""
    folder = Path(folder)
    if (folder / LOG).is_file():
        kept = [row for row in read_log(folder) if row["step"] <= step]
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

"""What a run writes down for people: nothing in here influences what is learned.

The log holds one line of JSON per step; table and curves are made from it and can be made again at any time. Samples
show what the network says about held-out pictures, and pairs which unlabelled frames it contrasts. TensorBoard gets
the same, where it is installed. Of several processes, only the first keeps the journal.

`append`, `read_log` and `trim` are the log, `write_epochs`, `write_curves`, `write_samples`, `write_pairs` what is
made of it and beside it, `Board` is TensorBoard's part.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from jaxtyping import Float, Int64
from matplotlib.figure import Figure
from torch import Tensor

from ttilib.datasets.transforms import denormalise
from ttilib.files import atomic, write_text
from ttilib.images import read_image
from ttilib.plots.curves import training_figure
from ttilib.plots.overlays import pairs_sheet, sample_sheet

Row = Mapping[str, Any]

LOG, EPOCHS, CURVES, SAMPLES, BOARD = "log.jsonl", "epochs.csv", "curves.png", "samples", "tensorboard"
JUDGED = ("train_miou", "train_accuracy", "train_class_accuracy", "val_miou", "val_loss")


def append(folder: Path | str, row: Row) -> None:
    """Add one step to the log.

    Raises ValueError if a number is not finite (other programs could not read it), OSError naming the log if it
    cannot be written.
    """
    path = Path(folder) / LOG
    try:
        line = json.dumps(row, allow_nan=False)
    except ValueError as error:
        what = f"step {row.get('step')} holds a number that is not finite"
        raise ValueError(f"{path}: {what}; log None where there is none") from error
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a", encoding="utf-8") as log:
            log.write(line + "\n")
    except OSError as error:
        why = f"cannot be written ({error.strerror})"
        raise OSError(f"{path}: {why}; make room and train again, the run goes on from its last saved state") from error


def read_log(folder: Path | str) -> list[dict[str, Any]]:
    """The rows of all steps so far; none if there is no log yet, and without a last line that was cut off.

    Raises ValueError naming a damaged line before the last one.
    """
    path, rows = Path(folder) / LOG, []
    for number, line in enumerate(lines := _whole_lines(path), start=1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            if number < len(lines):
                raise ValueError(f"{path}: line {number} is damaged; remove it and read again") from error
    return rows


def trim(folder: Path | str, steps: int) -> None:
    """Forget what was written after so many steps: rows, lines of the table, and sheets of epochs not yet done then.

    Damaged lines go as well: a run is never kept from going on by its log.
    """
    folder = Path(folder)
    lines = _whole_lines(folder / LOG)
    kept = [line for line in lines[:steps] if _epoch(line)]
    last, later = (_epoch(kept[-1]) if kept else 0), [_epoch(line) for line in lines[steps:]]
    done = last - 1 if last in later else last
    if (folder / LOG).is_file():
        write_text(folder / LOG, "".join(kept))
    if (folder / EPOCHS).is_file():
        write_epochs(folder, done)
    for sheet in [*(folder / SAMPLES).glob("epoch_*.png"), *(folder / SAMPLES).glob("pairs_*.png")]:
        number = sheet.stem.rpartition("_")[2]
        if number.isdecimal() and int(number) > done:
            sheet.unlink()


def _whole_lines(path: Path) -> list[str]:
    lines = path.read_bytes().decode("utf-8", errors="replace").split("\n") if path.is_file() else [""]
    return [line + "\n" for line in lines[:-1]]


def _epoch(line: str) -> int:
    """Which epoch a line of the log is of; 0 if it is damaged."""
    try:
        return json.loads(line)["epoch"]
    except (ValueError, TypeError, KeyError):
        return 0


def write_epochs(folder: Path | str, done: int | None = None) -> None:
    """The table of epochs from the log: mean losses, what was measured at the end, and where the time went.

    `waiting` is the share of the seconds in which the network waited for pictures. Epochs after `done` are left out.
    """
    rows = [row for row in read_log(folder) if done is None or row["epoch"] <= done]
    parts = list(dict.fromkeys(name for row in rows for name in row.get("parts") or {}))
    table, before = [], 0.0
    for epoch, group in itertools.groupby(rows, key=lambda row: row["epoch"]):
        *_, last = steps = list(group)
        seconds = last["seconds"] - before
        losses = {name: _mean((row.get("parts") or {}).get(name) for row in steps) for name in parts}
        judged = {name: last.get(name) for name in JUDGED}
        waited = sum(row.get("waited") or 0.0 for row in steps)
        line = {"epoch": epoch, "steps": len(steps), "loss": _mean(row["loss"] for row in steps), **losses, **judged}
        line |= {"learning_rate": last["learning_rate"], "seconds": seconds, "waiting": waited / max(seconds, 1e-9)}
        table.append({name: f"{value:.6g}" if isinstance(value, float) else value for name, value in line.items()})
        before = last["seconds"]
    head = list(table[0]) if table else ["epoch"]
    lines = [head, *(["" if row[name] is None else str(row[name]) for name in head] for row in table)]
    write_text(Path(folder) / EPOCHS, "".join(",".join(line) + "\n" for line in lines))


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def write_curves(folder: Path | str) -> Path:
    """The curves of the run so far, from the log."""
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
) -> Path:
    """What the network says about pictures after an epoch, beside the truth.

    `images` are as the network sees them; `names` are those of the labels 0, 1, 2, ..., background first.
    """
    shown = denormalise(images.cpu().float()).clamp(0, 1)
    figure = sample_sheet(shown, labels, found, names, f"after epoch {epoch}")
    return _save(figure, Path(folder) / SAMPLES / f"epoch_{epoch:03d}.png")


def write_pairs(folder: Path | str, epoch: int, pictures: Float[Tensor, "n 2 3 H W"]) -> Path:
    """Frames whose features are contrasted in an epoch, as the network sees them."""
    shown = denormalise(pictures.cpu().float().flatten(0, 1)).clamp(0, 1).unflatten(0, pictures.shape[:2])
    figure = pairs_sheet(shown, f"unlabelled pairs of epoch {epoch}")
    return _save(figure, Path(folder) / SAMPLES / f"pairs_{epoch:03d}.png")


def _save(figure: Figure, path: Path) -> Path:
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=100)
    return path


class Nowhere:
    """A board that nobody looks at; what processes but the first get."""

    def step(self, progress: Any) -> None:
        """The numbers of a step: a row of the log, or the dataclass it is made from."""

    def picture(self, path: Path | str, step: int) -> None:
        """A sheet that was written, under the name it has in every epoch."""

    def close(self) -> None:
        """Write what is not yet on disk."""

    def __enter__(self) -> Nowhere:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Board(Nowhere):
    """TensorBoard's view of a run, in the folder's `tensorboard`; does nothing where that is not installed.

    `step`: how many steps are done; what was noted after them is forgotten.
    """

    def __init__(self, folder: Path | str, step: int = 0) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter  # seconds to import, and optional
        except ImportError:
            self.writer = None
            return
        self.writer = SummaryWriter(str(Path(folder) / BOARD), purge_step=step + 1)

    def step(self, progress: Any) -> None:
        row = asdict(progress) if is_dataclass(progress) else progress
        if self.writer is not None:
            values = {name: row.get(name) for name in ("loss", "learning_rate", "waited", *JUDGED)}
            values |= {f"parts/{name}": value for name, value in (row.get("parts") or {}).items()}
            for name, value in values.items():
                if value is not None:
                    self.writer.add_scalar(name, value, row["step"])

    def picture(self, path: Path | str, step: int) -> None:
        if self.writer is not None:
            name = Path(path).stem.rpartition("_")[0]
            self.writer.add_image(f"samples/{name}", read_image(path), step, dataformats="HWC")

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()

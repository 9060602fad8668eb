"""How a network learns, as curves over the steps of its log: loss, judgement, learning rate, and time spent waiting.

`training_curves` draws on the axes it is given, `training_figure` makes a whole figure that knows nothing of pyplot.
Rows are those of a training run's `log.jsonl`; older ones with fewer entries are drawn as far as they go.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ttilib.views.plots import SomeAxes, each_of
from ttilib.views.style import label_ends, line_end, tidy

HELD_OUT = "#D55E00"
PARTS = ("#0072B2", "#56B4E9", "#009E73")


def training_curves(axes: SomeAxes, rows: Iterable[Mapping[str, Any]]) -> None:
    """Base training from its log: loss and its parts, mIoU, learning rate, share of the time spent waiting for data.

    Rows have `step`, `loss`, `learning_rate`; where they were measured also `parts`, `val_loss`, `train_miou`,
    `val_miou`, `waited` with `seconds` (of work so far). Give four axes, or fewer for the first ones only.
    """
    log = list(rows)
    step, span = np.array([each["step"] for each in log], dtype=float), max(1, len(log) // 20)
    for place, ax in enumerate(each_of(axes)[:4]):
        if place == 0:
            _losses(ax, log, step, span)
        elif place == 1:
            _judgements(ax, log)
        elif place == 2:
            ax.plot(step, [each["learning_rate"] for each in log], color="#009E73", linewidth=2)
            tidy(ax, "step", title="learning rate")
        else:
            _waiting(ax, log, step, span)


def _means(values: np.ndarray, span: int) -> np.ndarray:
    """The mean of every `span` values that follow each other."""
    return np.convolve(values, np.ones(span) / span, mode="valid") if len(values) else values


def _losses(ax: Axes, log: list[Mapping[str, Any]], step: np.ndarray, span: int) -> None:
    """Every step in grey, running means of the whole and, if it has several, of its parts."""
    loss = np.array([each["loss"] for each in log], dtype=float)
    names = list(dict.fromkeys(name for each in log for name in each.get("parts") or {}))
    ax.plot(step, loss, color="0.75", linewidth=0.8)
    lines = [("loss", loss, "#0072B2")]
    if len(names) > 1:
        parts = [np.array([(each.get("parts") or {}).get(name, np.nan) for each in log], dtype=float) for name in names]
        lines = [("loss", loss, "#000000"), *zip(names, parts, PARTS[: len(names)], strict=True)]
    ends = []
    for name, values, colour in lines:
        smooth = _means(values, span)
        ax.plot(step[span - 1 :], smooth, color=colour, linewidth=2, label=name)
        ends.append(line_end(step[span - 1 :], smooth, name, colour))
    judged = [(each["step"], each["val_loss"]) for each in log if each.get("val_loss") is not None]
    if judged:
        at, held_out = np.array(judged, dtype=float).T
        ax.plot(at, held_out, color=HELD_OUT, marker="o", linewidth=2, markersize=5, label="held out", clip_on=False)
        ends.append(line_end(at, held_out, "held out", HELD_OUT))
    what = "training loss, and its parts before weighting" if len(names) > 1 else "training loss [nats]"
    tidy(ax, "step", title=what + (f", mean of {span} steps" if span > 1 else ""))
    if len(ends) > 1:
        label_ends(ax, ends)


def _judgements(ax: Axes, log: list[Mapping[str, Any]]) -> None:
    """mIoU over all outputs where it was measured: on held-out pictures, and on those learned from."""
    ends = []
    for name, key, colour, marker in (("held out", "val_miou", HELD_OUT, "o"), ("training", "train_miou", "0.4", "s")):
        known = [(each["step"], each[key]) for each in log if each.get(key) is not None]
        if not known:
            continue
        at, miou = np.array(known, dtype=float).T
        ax.plot(at, miou, color=colour, marker=marker, linewidth=2, markersize=5, label=name, clip_on=False)
        ends.append(line_end(at, miou, name, colour))
    top = max((float(line.get_ydata().max()) for line in ax.lines), default=1.0)
    ax.set(xlim=(0, max((each["step"] for each in log), default=1)), ylim=(0, 1.1 * top or 1.0))
    tidy(ax, "step", title="mIoU while training")
    label_ends(ax, ends)


def _waiting(ax: Axes, log: list[Mapping[str, Any]], step: np.ndarray, span: int) -> None:
    """Share of the time of `span` steps in which the network waited for pictures."""
    waited = np.array([each.get("waited", np.nan) for each in log], dtype=float)
    took = np.diff([each.get("seconds", np.nan) for each in log], prepend=0.0)
    share = _means(waited, span) / np.maximum(_means(took, span), 1e-9)
    ax.plot(step[span - 1 :], share, color="#CC79A7", linewidth=2)
    ax.set_ylim(0, 1)
    tidy(ax, "step", title="share of the time waiting for data")


def training_figure(rows: Iterable[Mapping[str, Any]], title: str = "") -> Figure:
    """The whole run from the rows of its log on one figure; see `training_curves`."""
    figure = Figure(figsize=(12.0, 5.6), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.005, ha="left", fontsize=11)
    training_curves(figure.subplots(2, 2), rows)
    return figure

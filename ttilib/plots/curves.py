"""Curves over steps, frames and windows, and of base training (rows of `log.jsonl`), with labels at the line ends."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from ttilib.plots.overlays import SomeAxes, array, each_of
from ttilib.plots.style import STYLES, Looks, label_ends, styles, tidy
from ttilib.solver.losses import TERMS, Term
from ttilib.solver.objective import Terms

Series = Float[Tensor, "_"] | Float[np.ndarray, "_"] | Sequence[float]

TOTAL = Term("weighted sum [nats]", "#000000", "L", lambda at: at.p)


def _declared(name: str) -> Term:
    """Label and colour of a term, or of the weighted sum."""
    return TOTAL if name == "total" else TERMS[name]


def _mark_update(ax: Axes, step: int) -> None:
    """A vertical line at the update of the prior, with its name where there is room."""
    ax.axvline(step, color="0.45", linewidth=1, linestyle=(0, (4, 2)))
    later = np.concatenate([line.get_ydata()[step:] for line in ax.lines[:-1]])
    low = later.mean() > np.mean(ax.get_ylim())
    at = {"xycoords": ("data", "axes fraction"), "xytext": (4, 0), "textcoords": "offset points"}
    where = (step, 0.03 if low else 0.97)
    ax.annotate("prior update", where, **at, fontsize=9, color="0.35", va="bottom" if low else "top")


def loss_terms(
    axes: SomeAxes,
    terms: Sequence[Terms],
    prior_update: int | None = None,
    names: Sequence[str] = (),
) -> None:
    """Terms of the objective over the steps: mean over frames, and the middle half of the frames as a band.

    `terms`: one `Terms` per step, from the start. `names`: by default all terms present, and the total. A single axes
    shows all lines without bands; several show one term each, and surplus axes are blanked.
    Raises ValueError if several axes are fewer than `names`.
    """
    names = names or [*(name for name in TERMS if name in vars(terms[0])), "total"]
    values = {name: np.stack([array(getattr(at, name)) for at in terms]) for name in names}
    if isinstance(axes, Axes):
        drawn = [axes]
        _terms_together(axes, values)
    else:
        row = each_of(axes)
        if len(row) < len(names):
            raise ValueError(f"{len(names)} terms for {len(row)} axes; give one each, or a single one for all")
        drawn = row[: len(names)]
        for ax, (name, value) in zip(drawn, values.items(), strict=True):
            _term_alone(ax, name, value)
        for ax in row[len(names) :]:
            ax.set_axis_off()
    for ax in drawn:
        if prior_update is not None and prior_update < len(terms):
            _mark_update(ax, prior_update)


def _terms_together(ax: Axes, values: Mapping[str, np.ndarray]) -> None:
    """Mean over frames of every term in one axes."""
    for name, value in values.items():
        term = _declared(name)
        ax.plot(value.mean(axis=1), color=term.colour, linewidth=2, label=term.label.removesuffix(" [nats]"))
    tidy(ax, "step", "mean over frames")
    label_ends(ax)


def _term_alone(ax: Axes, name: str, value: Float[np.ndarray, "steps T"]) -> None:
    """One term: mean over frames, and the middle half of the frames as a band."""
    steps, colour = np.arange(len(value)), _declared(name).colour
    ax.fill_between(steps, *np.quantile(value, [0.25, 0.75], axis=1), color=colour, alpha=0.2, linewidth=0)
    ax.plot(steps, value.mean(axis=1), color=colour, linewidth=2)
    tidy(ax, "step", title=_declared(name).label)


def per_frame(ax: Axes, values: Series, label: str, colour: str = "#0072B2", title: str = "") -> None:
    """One number per frame: bars up to 40 frames, a stepped line above."""
    numbers = array(values)
    frames = np.arange(len(numbers))
    if len(numbers) <= 40:
        ax.bar(frames, numbers, color=colour, width=0.8)
    else:
        ax.step(frames, numbers, color=colour, where="mid", linewidth=1.5)
    tidy(ax, "query frame", label, title)


def prior_trace(ax: Axes, prior: Series, marginal: Series, truth: Series | None = None) -> None:
    """Foreground proportion of each frame: prior, prediction, and ground truth."""
    lines = [
        (prior, "prior \u03c0", {"color": "#CC79A7", "linestyle": "--"}),
        (marginal, "predicted", {"color": STYLES["TTI"]["color"], "linestyle": "-"}),
        (truth, "truth", {"color": "#000000", "linestyle": "-"}),
    ]
    for values, name, look in lines:
        if values is not None:
            ax.plot(array(values), linewidth=2, label=name, **look)
    ax.set_ylim(bottom=0)
    tidy(ax, "query frame", "foreground proportion")
    label_ends(ax)


def vc_curve(
    ax: Axes,
    values: Mapping[str, Mapping[int, float]],
    released: Mapping[str, Mapping[int, float]] | None = None,
    looks: Looks | None = None,
) -> None:
    """VC_k over the window k for every method; `released`: values as the released code computes them, as thin lines."""
    looks = looks or styles(values)
    for method, curve in values.items():
        ax.plot(*zip(*sorted(curve.items()), strict=True), label=method, **looks[method])
        if released and method in released:
            thin = {"color": looks[method]["color"], "linewidth": 0.6, "alpha": 0.8}
            ax.plot(*zip(*sorted(released[method].items()), strict=True), **thin)
    tidy(ax, "window k [frames]", "VC$_k$", integers=False)
    ax.set_xticks(sorted({k for curve in values.values() for k in curve}))
    label_ends(ax)


def vc_time(ax: Axes, values: Mapping[str, Series], k: int) -> None:
    """VC of every window of k frames, at its first frame; nan (no common ground truth) leaves a gap."""
    for method, look in styles(values).items():
        vc = array(values[method])
        marks = {"markersize": 5, "markevery": max(1, len(vc) // 12)}
        ax.plot(vc, linewidth=2, label=method, clip_on=False, **marks, **look)
    ax.set_ylim(top=1)
    tidy(ax, "first frame of the window", f"VC of {k} frames")
    label_ends(ax)


HELD_OUT = "#D55E00"
PARTS = ("#0072B2", "#56B4E9", "#009E73")


def training_curves(axes: SomeAxes, rows: Iterable[Mapping[str, Any]]) -> None:
    """Base training from its log: loss and parts, mIoU, learning rate, share of the time spent waiting for data.

    Rows have `step`, `loss`, `learning_rate`; if measured also `parts`, `val_loss`, `train_miou`, `val_miou`, `waited`
    and `seconds` (time so far). With fewer than four axes only the first curves are drawn.
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
    """Running mean over `span` values."""
    return np.convolve(values, np.ones(span) / span, mode="valid") if len(values) else values


def _losses(ax: Axes, log: list[Mapping[str, Any]], step: np.ndarray, span: int) -> None:
    """Loss of every step in grey; running means of the loss and of its parts if there are several."""
    loss = np.array([each["loss"] for each in log], dtype=float)
    names = list(dict.fromkeys(name for each in log for name in each.get("parts") or {}))
    ax.plot(step, loss, color="0.75", linewidth=0.8)
    lines = [("loss", loss, "#0072B2")]
    if len(names) > 1:
        parts = [np.array([(each.get("parts") or {}).get(name, np.nan) for each in log], dtype=float) for name in names]
        lines = [("loss", loss, "#000000"), *zip(names, parts, PARTS[: len(names)], strict=True)]
    for name, values, colour in lines:
        ax.plot(step[span - 1 :], _means(values, span), color=colour, linewidth=2, label=name)
    measured = _measured(ax, log, "val_loss", "held out", HELD_OUT, "o")
    what = "training loss, and its parts before weighting" if len(names) > 1 else "training loss [nats]"
    tidy(ax, "step", title=what + (f", mean of {span} steps" if span > 1 else ""))
    if len(lines) > 1 or measured:
        label_ends(ax)


def _measured(ax: Axes, log: list[Mapping[str, Any]], key: str, label: str, colour: str, marker: str) -> bool:
    """A marked line through the rows that have `key`; returns whether there is any."""
    known = [(each["step"], each[key]) for each in log if each.get(key) is not None]
    if known:
        look = {"color": colour, "marker": marker, "linewidth": 2, "markersize": 5, "clip_on": False}
        ax.plot(*np.array(known, dtype=float).T, label=label, **look)
    return bool(known)


def _judgements(ax: Axes, log: list[Mapping[str, Any]]) -> None:
    """mIoU over all outputs on held-out and on training images."""
    _measured(ax, log, "val_miou", "held out", HELD_OUT, "o")
    _measured(ax, log, "train_miou", "training", "0.4", "s")
    top = max((float(line.get_ydata().max()) for line in ax.lines), default=1.0)
    ax.set(xlim=(0, max((each["step"] for each in log), default=1)), ylim=(0, 1.1 * top or 1.0))
    tidy(ax, "step", title="mIoU while training")
    label_ends(ax)


def _waiting(ax: Axes, log: list[Mapping[str, Any]], step: np.ndarray, span: int) -> None:
    """Share of the time of `span` steps spent waiting for images."""
    waited = np.array([each.get("waited", np.nan) for each in log], dtype=float)
    took = np.diff([each.get("seconds", np.nan) for each in log], prepend=0.0)
    share = _means(waited, span) / np.maximum(_means(took, span), 1e-9)
    ax.plot(step[span - 1 :], share, color="#CC79A7", linewidth=2)
    ax.set_ylim(0, 1)
    tidy(ax, "step", title="share of the time waiting for data")


def training_figure(rows: Iterable[Mapping[str, Any]], title: str = "") -> Figure:
    """All `training_curves` of a log in one figure."""
    figure = Figure(figsize=(12.0, 5.6), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.005, ha="left", fontsize=11)
    training_curves(figure.subplots(2, 2), rows)
    return figure

"""Curves over steps, frames and windows, and of base training (rows of `log.jsonl`); causes of errors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
import torch.nn.functional as F
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ttilib.plots.overlays import SomeAxes, array, each_of
from ttilib.plots.style import STYLES, Looks, line_legend, text_size, tidy
from ttilib.solver.losses import TERMS, Term
from ttilib.solver.objective import Terms

WindowValues = Mapping[str, Mapping[int, float]]
Series = Float[Tensor, "_"] | Float[np.ndarray, "_"] | Sequence[float]

TOTAL = Term("weighted sum [nats]", "#000000", "L", lambda at: at.p)


def loss_terms(axes: SomeAxes, terms: Sequence[Terms], prior_update: int | None = None) -> None:
    """Terms of the objective over the steps: mean over frames, and the middle half of the frames as a band.

    `terms`: one `Terms` per step, from the start. A single axes shows all lines without bands; several show one term
    each, and the first surplus one explains the lines. A dashed line marks the update of the prior.
    """
    names = [*(name for name in TERMS if name in vars(terms[0])), "total"]
    values = {name: np.stack([array(getattr(at, name)) for at in terms]) for name in names}
    single, row = isinstance(axes, Axes), each_of(axes)
    for n, ax in enumerate(row[len(names) :]):
        ax.set_axis_off()
        if n == 0:
            ax.text(0, 1, "line: mean over frames\nband: middle half of the frames", va="top", color="0.35")
    for ax, (name, value) in zip(row * len(names) if single else row, values.items(), strict=False):
        term = TOTAL if name == "total" else TERMS[name]
        ax.plot(value.mean(axis=1), color=term.colour, linewidth=2, label=term.label.removesuffix(" [nats]"))
        if not single:
            band = np.quantile(value, [0.25, 0.75], axis=1)
            ax.fill_between(range(len(value)), *band, color=term.colour, alpha=0.2, linewidth=0)
            tidy(ax, "step", title=term.label)
    if single:
        tidy(row[0], "step", title="Terms, mean over frames")
        line_legend(row[0])
    for ax in row[: len(names)]:
        if prior_update is not None and prior_update < len(terms):
            ax.axvline(prior_update, color="0.45", linewidth=1, linestyle=(0, (4, 2)))
            if ax is row[0]:
                at: Any = {"transform": ax.get_xaxis_transform(), "ha": "right", "va": "top", "rotation": 90}
                ax.text(prior_update, 1, "prior update ", fontsize=text_size(0.9), color="0.35", **at)


def per_frame(ax: Axes, values: Series, label: str, colour: str | Sequence[str] = "#0072B2", title: str = "") -> None:
    """One number per frame, as bars, in one colour or one each."""
    ax.bar(range(len(values)), array(values), color=colour, width=0.8)
    tidy(ax, "query frame", label, title)


def prior_trace(ax: Axes, prior: Series, marginal: Series, truth: Series | None = None) -> None:
    """Foreground proportion of each frame in percent: prior, prediction, and ground truth, given as fractions."""
    lines = [
        (prior, "prior \u03c0", {"color": "#CC79A7", "linestyle": "--"}),
        (marginal, "predicted", {"color": STYLES["TTI"]["color"], "linestyle": "-"}),
        (truth, "ground truth", {"color": "#000000", "linestyle": "-"}),
    ]
    for values, name, look in lines:
        if values is not None:
            ax.plot(100 * array(values), linewidth=2, label=name, **look)
    ax.set_ylim(bottom=0)
    tidy(ax, "query frame", "foreground [percent]", "Foreground proportion of each frame")
    line_legend(ax)


def vc_curve(ax: Axes, values: WindowValues, released: WindowValues, looks: Looks) -> None:
    """VC_k in percent over the window k for every method; `released`: as the release computes it, as thin lines."""
    for method, curve in values.items():
        ax.plot(*zip(*sorted(curve.items()), strict=True), label=method, **looks[method])
        thin = {"color": looks[method]["color"], "linewidth": 0.6, "alpha": 0.8}
        ax.plot(*zip(*sorted(released[method].items()), strict=True), **thin)
    ax.annotate("thin: as released", (0.02, 0.02), xycoords="axes fraction", ha="left", va="bottom", color="0.35")
    tidy(ax, "window k [frames]", "VC$_k$ [percent]", integers=False)
    ax.set_xticks(sorted({k for curve in values.values() for k in curve}))
    line_legend(ax)


CAUSES = ("wrong proportion", "boundary", "confused features")


def error_causes(
    p: Float[Tensor, "T H W"], truth: Bool[Tensor, "T H W"], valid: Bool[Tensor, "T H W"], margin: int = 8
) -> list[float]:
    """Error pixels of p > 1/2 by `CAUSES`, in percent of the object's pixels.

    Wrong proportion: errors that vanish if the threshold of every frame gives as many foreground pixels as in the
    ground truth. The errors that stay are at the boundary, at most `margin` pixels from the true contour, or not.
    """
    true, p = truth & valid, p.where(valid, -1.0)
    grown, shrunk = (F.max_pool2d(mask.float(), 2 * margin + 1, 1, margin) > 0 for mask in (truth, ~truth))
    count = true.flatten(1).sum(dim=1, keepdim=True)
    threshold = p.flatten(1).sort(descending=True).values.gather(1, (count - 1).clamp_min(0)).where(count > 0, 2.0)
    stay, wrong = ((mask ^ true) & valid for mask in (p >= threshold[..., None], p > 0.5))
    total, rest = float(wrong.sum()), float(min(stay.sum(), wrong.sum()))
    boundary = rest * float((stay & grown & shrunk).sum() / stay.sum().clamp_min(1))
    return [100 * part / max(int(true.sum()), 1) for part in (total - rest, boundary, rest - boundary)]


VALIDATION = "#D55E00"
PARTS = ("#0072B2", "#56B4E9", "#009E73")
LOGGED = ("step", "loss", "learning_rate", "val_loss", "train_miou", "val_miou", "waited", "seconds")


def _smoothed(values: pd.Series) -> pd.Series:
    """Running mean over a twentieth of the log."""
    span = max(1, len(values) // 20)
    return values.rolling(span).mean().iloc[span - 1 :]


def _measured(ax: Axes, values: pd.Series, label: str, colour: str, marker: str) -> None:
    """A marked line through the known values, if there are any."""
    if len(known := values.dropna()):
        ax.plot(known, label=label, color=colour, marker=marker, linewidth=2, markersize=5, clip_on=False)


def _losses(ax: Axes, log: pd.DataFrame, parts: pd.DataFrame) -> None:
    """Loss of every step in grey; running means of the loss and of its parts if there are several."""
    several = len(parts.columns) > 1
    ax.plot(log["loss"], color="0.75", linewidth=0.8)
    ax.plot(_smoothed(log["loss"]), color="#000000" if several else PARTS[0], linewidth=2, label="loss")
    for name, colour in zip(parts if several else (), cycle(PARTS), strict=False):
        ax.plot(_smoothed(parts[name]), color=colour, linewidth=2, label=name)
    _measured(ax, log["val_loss"], "validation", VALIDATION, "o")
    what = "training loss, and its parts before weighting" if several else "training loss [nats]"
    tidy(ax, "step", title=what + (f", mean of {len(log) // 20} steps" if len(log) >= 40 else ""))
    if len(ax.lines) > 2:
        line_legend(ax)


def training_figure(rows: Iterable[Mapping[str, Any]], title: str = "") -> Figure:
    """Base training from its log: loss and parts, mIoU over all outputs on validation and on training images, learning
    rate, share of the time spent waiting for data.

    Rows have `step`, `loss`, `learning_rate`; if measured also `parts`, `val_loss`, `train_miou`, `val_miou`, `waited`
    and `seconds` (time so far).
    """
    log = pd.DataFrame(rows := list(rows), columns=LOGGED, dtype=float).set_index("step")
    figure = Figure(figsize=(12.0, 5.6), layout="constrained", dpi=120)
    figure.suptitle(title, x=0.005, ha="left", fontsize=11)
    losses, scores, rate, waiting = figure.subplots(2, 2).flat
    _losses(losses, log, pd.DataFrame([row.get("parts") or {} for row in rows], log.index))
    _measured(scores, 100 * log["val_miou"], "validation", VALIDATION, "o")
    _measured(scores, 100 * log["train_miou"], "training", "0.4", "s")
    top = 110 * log[["val_miou", "train_miou"]].max(axis=None)
    scores.set(xlim=(0, max(1, log.index.max())), ylim=(0, top if top > 0 else 100))
    tidy(scores, "step", title="mIoU [percent]")
    if scores.lines:
        line_legend(scores)
    rate.plot(log["learning_rate"], color="#009E73", linewidth=2)
    tidy(rate, "step", title="learning rate")
    took = _smoothed(log["seconds"] - log["seconds"].shift(fill_value=0.0)).clip(lower=1e-9)
    waiting.plot(100 * _smoothed(log["waited"]) / took, color="#CC79A7", linewidth=2)
    waiting.set_ylim(0, 100)
    tidy(waiting, "step", title="time waiting for data [percent]")
    return figure

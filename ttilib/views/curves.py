"""What happens over steps, frames and windows, as lines with their names beside them.

Functions draw on the axes they are given; they neither save nor show. Values may be tensors or NumPy arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from torch import Tensor

from ttilib.inference.objective import Terms
from ttilib.views.plots import SomeAxes, array, each_of
from ttilib.views.style import STYLES, Looks, label_ends, line_end, styles, tidy

Series = Float[Tensor, "_"] | Float[np.ndarray, "_"] | Sequence[float]

TERMS = {
    "ce": "support fit CE [nats]",
    "entropy": "query entropy H [nats]",
    "kl": "distance to prior KL [nats]",
    "local_temporal": "local temporal L",
    "global_positive": "global positive G+",
    "global_negative": "global negative G\u2212",
    "total": "weighted sum [nats]",
}
"""The terms of the objective, and what their axes are called."""

COLOURS = ("#0072B2", "#56B4E9", "#D55E00", "#E69F00", "#009E73", "#CC79A7", "#000000")
TERM_COLOURS = dict(zip(TERMS, COLOURS, strict=True))


def _mark_update(ax: Axes, step: int) -> None:
    """A vertical line where the prior is estimated anew, its name where the lines leave room."""
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
    names: Sequence[str] = tuple(TERMS),
) -> None:
    """The objective taken apart over the steps: each term's mean over frames, half of the frames in the band.

    `terms` is one `Terms` per step, from the start on. One axes holds all lines, named at their ends and
    without bands; several hold one term each (at least as many as `names`; the rest are blanked).
    """
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
    """Every term's mean over frames in one axes."""
    ends = []
    for name, value in values.items():
        mean, steps = value.mean(axis=1), np.arange(len(value))
        ax.plot(steps, mean, color=TERM_COLOURS[name], linewidth=2)
        ends.append(line_end(steps, mean, TERMS[name].removesuffix(" [nats]"), TERM_COLOURS[name]))
    tidy(ax, "step", "mean over frames")
    label_ends(ax, ends)


def _term_alone(ax: Axes, name: str, value: Float[np.ndarray, "steps T"]) -> None:
    """One term: the mean over frames, and the middle half of the frames as a band."""
    steps, colour = np.arange(len(value)), TERM_COLOURS[name]
    ax.fill_between(steps, *np.quantile(value, [0.25, 0.75], axis=1), color=colour, alpha=0.2, linewidth=0)
    ax.plot(steps, value.mean(axis=1), color=colour, linewidth=2)
    tidy(ax, "step", title=TERMS[name])


def per_frame(ax: Axes, values: Series, label: str, colour: str = "#0072B2", title: str = "") -> None:
    """One number per frame: bars while they can be told apart, a stepped line for a long video."""
    numbers = array(values)
    frames = np.arange(len(numbers))
    if len(numbers) <= 40:
        ax.bar(frames, numbers, color=colour, width=0.8)
    else:
        ax.step(frames, numbers, color=colour, where="mid", linewidth=1.5)
    tidy(ax, "query frame", label, title)


def prior_trace(ax: Axes, prior: Series, marginal: Series, truth: Series | None = None) -> None:
    """Foreground proportion of each frame: what the solver aimed at, what it predicts, and what is true."""
    lines = [
        (prior, "prior \u03c0", {"color": "#CC79A7", "linestyle": "--"}),
        (marginal, "predicted", {"color": STYLES["TTI"]["color"], "linestyle": "-"}),
        (truth, "truth", {"color": "#000000", "linestyle": "-"}),
    ]
    ends = []
    for values, name, look in lines:
        if values is not None:
            numbers = array(values)
            frames = np.arange(len(numbers))
            ax.plot(frames, numbers, linewidth=2, label=name, **look)
            ends.append(line_end(frames, numbers, name, look["color"]))
    ax.set_ylim(bottom=0)
    tidy(ax, "query frame", "foreground proportion")
    label_ends(ax, ends)


def vc_curve(
    ax: Axes,
    values: Mapping[str, Mapping[int, float]],
    released: Mapping[str, Mapping[int, float]] | None = None,
    looks: Looks | None = None,
) -> None:
    """How steadiness falls with the window: VC_k over k for every method, labelled at the line's end.

    `released` are the same methods' values as the released loop counts them, drawn thin and without marks; `looks` of
    `style.styles` over all methods give a method one look in several panels.
    """
    ends, windows = [], sorted({k for curve in values.values() for k in curve})
    looks = looks or styles(values)
    for method, curve in values.items():
        look = looks[method]
        k, vc = _by_window(curve)
        ax.plot(k, vc, label=method, **look)
        ends.append(line_end(k, vc, method, look["color"]))
        if released and method in released:
            ax.plot(*_by_window(released[method]), color=look["color"], linewidth=0.6, alpha=0.8)
    tidy(ax, "window k [frames]", "VC$_k$", integers=False)
    ax.set_xticks(windows)
    label_ends(ax, ends)


def _by_window(curve: Mapping[int, float]) -> tuple[np.ndarray, np.ndarray]:
    """Windows in order, and the value of each."""
    k = np.array(sorted(curve))
    return k, np.array([curve[int(each)] for each in k], dtype=float)


def vc_time(ax: Axes, values: Mapping[str, Series], k: int) -> None:
    """Where in the video a method flickers: VC of every window of k frames, at the window's first frame.

    A window that says nothing (nan: no common truth) leaves a gap.
    """
    ends = []
    for (method, series), look in zip(values.items(), styles(values).values(), strict=True):
        vc = array(series).astype(float)
        first = np.arange(len(vc))
        marks = {"markersize": 5, "markevery": max(1, len(vc) // 12)}
        ax.plot(first, vc, linewidth=2, label=method, clip_on=False, **marks, **look)
        ends.append(line_end(first, vc, method, look["color"]))
    ax.set_ylim(top=1)
    tidy(ax, "first frame of the window", f"VC of {k} frames")
    label_ends(ax, ends)

"""The look of charts: what each method is drawn with, quiet axes, names beside lines.

A method looks the same in every figure: `styles` gives each its colour, marker and dash, which are told apart
without colour vision and in grey. The truth is black.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

Style = dict[str, Any]
End = tuple[float, float, str, str]
"""x, y, text and colour of a name at the end of a line."""


STYLES: dict[str, Style] = {
    "fine-tune": {"color": "#E69F00", "marker": "^", "linestyle": ":"},
    "RePRI": {"color": "#0072B2", "marker": "s", "linestyle": "--"},
    "TTI": {"color": "#D55E00", "marker": "o", "linestyle": "-"},
    "TTI+keyframe": {"color": "#009E73", "marker": "D", "linestyle": "-."},
    "truth": {"color": "#000000", "marker": "", "linestyle": "-"},
}
"""Fixed per name; the colours are Okabe and Ito's."""

SPARE = (
    {"color": "#CC79A7", "marker": "v", "linestyle": (0, (3, 1, 1, 1, 1, 1))},
    {"color": "#56B4E9", "marker": "P", "linestyle": (0, (5, 1))},
    {"color": "#7F7F7F", "marker": "X", "linestyle": (0, (1, 1))},
)
"""For other methods, in the order they are named."""


def styles(methods: Iterable[str]) -> dict[str, Style]:
    """How each method is drawn: its own fixed style, or a spare one in order of naming."""
    names = list(methods)
    others = [name for name in names if name not in STYLES]
    spare = {name: SPARE[place % len(SPARE)] for place, name in enumerate(others)}
    return {name: STYLES.get(name) or spare[name] for name in names}


def tidy(ax: Axes, xlabel: str = "", ylabel: str = "", title: str = "", integers: bool = True) -> None:
    """Axes without chart junk: two spines, light horizontal lines, labels with units."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", color="0.9", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    if title:
        ax.set_title(title, fontsize=10, loc="left")
    if integers:
        ax.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))


def line_end(x: np.ndarray, y: np.ndarray, text: str, colour: str) -> End:
    """Where the name of a line goes: its last finite point; a line without any has none (nan)."""
    known = np.flatnonzero(np.isfinite(y))
    return (
        (float(x[known[-1]]), float(y[known[-1]]), text, colour)
        if len(known)
        else (0.0, np.nan, text, colour)
    )


def label_ends(ax: Axes, ends: Iterable[End], size: float = 9.5) -> None:
    """Names beside the right ends of lines, moved apart up and down where they would overlap."""
    lower, upper = ax.get_ylim()
    height = ax.get_window_extent().height * 72 / ax.figure.dpi  # points
    known = sorted((end for end in ends if np.isfinite(end[1])), key=lambda end: end[1])
    wanted = np.array([(y - lower) / (upper - lower) * height for _, y, _, _ in known])
    placed = wanted.copy()
    for place in range(1, len(placed)):
        placed[place] = max(placed[place], placed[place - 1] + 1.25 * size)
    if len(placed):
        placed -= (placed - wanted).mean()
        placed += max(0, 0.8 * size - placed[0]) - max(0, placed[-1] - height)  # stay beside the axes
    for (x, y, text, colour), move in zip(known, placed - wanted, strict=True):
        at = {"xytext": (6, move), "textcoords": "offset points", "va": "center"}
        ax.annotate(text, (x, y), **at, color=colour, fontsize=size, annotation_clip=False)

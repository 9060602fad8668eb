"""Plot style: colour, marker and dash of each method, axes, labels at line ends, figures at print size.

Styles can be distinguished without colour vision and in grey. Text is sized by rcParams (`text_size`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot, rc_context, rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ttilib.files import atomic

Style = dict[str, Any]
Looks = Mapping[str, Style]
"""Style by method, as returned by `styles`."""

STYLES: dict[str, Style] = {
    "fine-tune": {"color": "#E69F00", "marker": "^", "linestyle": ":"},
    "RePRI": {"color": "#0072B2", "marker": "s", "linestyle": "--"},
    "TTI": {"color": "#D55E00", "marker": "o", "linestyle": "-"},
    "TTI+keyframe": {"color": "#009E73", "marker": "D", "linestyle": "-."},
    "frozen": {"color": "#CC79A7", "marker": "v", "linestyle": (0, (3, 1, 1, 1, 1, 1))},
    "oracle": {"color": "#4D4D4D", "marker": "d", "linestyle": (0, (6, 1, 1, 1))},
    "truth": {"color": "#000000", "marker": "", "linestyle": "-"},
}
"""Fixed style of a method; the first five colours and black are from Okabe and Ito."""

SPARE = (
    {"color": "#56B4E9", "marker": "P", "linestyle": (0, (5, 1))},
    {"color": "#7A5A00", "marker": "X", "linestyle": (0, (1, 1))},
    {"color": "#332288", "marker": "<", "linestyle": (0, (4, 1, 1, 1))},
    {"color": "#882255", "marker": ">", "linestyle": (0, (2, 2))},
)
"""Styles of other methods, in order of appearance."""

MARKERS = "ph8vP<>X^"
"""Markers of further methods, which are all grey: more colours are hard to distinguish."""


def styles(methods: Iterable[str]) -> dict[str, Style]:
    """Style of each method: its fixed one, else a spare one in order of appearance, else grey."""
    names = list(dict.fromkeys(methods))
    others = [name for name in names if name not in STYLES]
    grey = [{"color": "#8C8C8C", "marker": mark, "linestyle": (0, (1, 2))} for mark in MARKERS]
    spare = {
        name: SPARE[place] if place < len(SPARE) else grey[(place - len(SPARE)) % len(grey)]
        for place, name in enumerate(others)
    }
    return {name: STYLES.get(name) or spare[name] for name in names}


def text_size(share: float = 1.0) -> float:
    """Text size in points, as a `share` of rcParams font.size."""
    return share * float(rcParams["font.size"])


def figure_name(figure: str) -> str:
    """Name of a metric with its window as subscript: VC_3 becomes VC$_{3}$; other names are unchanged."""
    return re.sub(r"VC_(\d+)", r"VC$_{\1}$", figure)


def tidy(ax: Axes, xlabel: str = "", ylabel: str = "", title: str = "", integers: bool = True) -> None:
    """Set labels, title and tick positions; two spines, light horizontal grid."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", color="0.9", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    if title:
        ax.set_title(title, fontsize=text_size(), loc="left")
    if integers:
        ax.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))


def label_ends(ax: Axes, size: float | None = None) -> None:
    """Label each line at its last finite point, in its colour, without overlap; `size` in points."""
    size, ends = size or text_size(0.95), []
    for line in ax.lines:
        points = line.get_xydata()[np.isfinite(line.get_ydata())]
        if len(points) and not line.get_label().startswith("_"):  # matplotlib's prefix for lines without a label
            ends.append((*points[-1], line))
    ends.sort(key=lambda end: end[1])
    lower, upper = ax.get_ylim()
    height = ax.get_window_extent().height * 72 / ax.figure.dpi  # points
    wanted = np.array([(y - lower) / (upper - lower) * height for _, y, _ in ends])
    placed = wanted.copy()
    for place in range(1, len(placed)):
        placed[place] = max(placed[place], placed[place - 1] + 1.25 * size)
    if len(placed):
        placed -= (placed - wanted).mean()
        placed += max(0, 0.8 * size - placed[0]) - max(0, placed[-1] - height)  # stay beside the axes
    for (x, y, line), move in zip(ends, placed - wanted, strict=True):
        look = {"color": line.get_color(), "fontsize": size, "va": "center", "annotation_clip": False}
        ax.annotate(short(line.get_label()), (x, y), (6, move), textcoords="offset points", **look)


def short(name: str, most: int = 30) -> str:
    """Shorten a name to `most` characters with an ellipsis."""
    return name if len(name) <= most else f"{name[: most - 1].rstrip()}\u2026"


COLUMN, PAGE = 3.35, 6.9
"""Width of one column and of a page, inches."""

STYLE: dict[str, Any] = {
    "font.size": 8,
    "figure.titlesize": 8.5,
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "axes.linewidth": 0.6,
    "axes.axisbelow": True,
    "grid.linewidth": 0.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.minor.size": 1.5,
    "lines.linewidth": 1.3,
    "lines.markersize": 4,
    "figure.dpi": 150,
    "figure.constrained_layout.use": True,
    "pdf.fonttype": 42,  # searchable text; journals refuse type 3 fonts
    "svg.fonttype": "none",
}
"""Changes to matplotlib's defaults."""


@contextmanager
def paper_style() -> Iterator[None]:
    """Context manager for figures in print: eight points, thin lines."""
    with rc_context(STYLE):
        yield


def panels(count: int, columns: int = 2, height: float = 2.0, width: float | None = None) -> tuple[Figure, list[Axes]]:
    """A figure of `count` axes, `columns` in a row, each `height` inches high.

    `width`: of the figure in inches; by default `COLUMN` for one column of axes, else `PAGE`.
    Raises ValueError if `count` or `columns` is below 1.
    """
    if count < 1 or columns < 1:
        raise ValueError(f"{count} panels in {columns} columns; ask for at least one of each")
    columns = min(columns, count)
    rows = ceil(count / columns)
    wide = width or (COLUMN if columns == 1 else PAGE)
    figure, axes = pyplot.subplots(rows, columns, figsize=(wide, rows * height), squeeze=False, layout="constrained")
    every = list(axes.flat)
    for spare in every[count:]:
        spare.remove()
    return figure, every[:count]


def save(figure: Figure, stem: Path | str) -> None:
    """Write <stem>.png (200 dpi) and <stem>.pdf atomically, without dates, so that equal figures give equal bytes."""
    stem = Path(stem)
    png, pdf = (stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "pdf"))  # a stem may contain dots
    with rc_context(STYLE):
        with atomic(png) as temporary:
            figure.savefig(temporary, dpi=200, metadata={"Software": None})
        with atomic(pdf) as temporary:
            figure.savefig(temporary, metadata={"CreationDate": None, "Creator": None, "Producer": None})

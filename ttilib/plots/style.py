"""Plot style: colour, marker and dash of each method, axes, legends, figures at print size.

Styles can be distinguished without colour vision and in grey. Text is sized by rcParams (`text_size`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain, cycle
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from IPython.display import Image
from matplotlib import pyplot, rc_context, rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ttilib.files import atomic

Style = dict[str, Any]
Looks = Mapping[str, Style]  # by method, as returned by `styles`

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

MARKERS = "ph8vP<>X^"  # of further methods, which are all grey: more colours are hard to distinguish


def styles(methods: Iterable[str]) -> dict[str, Style]:
    """Style of each method: its fixed one, else a spare one in order of appearance, else grey."""
    names = list(dict.fromkeys(methods))
    grey = [{"color": "#8C8C8C", "marker": marker, "linestyle": (0, (1, 2))} for marker in MARKERS]
    others = zip([name for name in names if name not in STYLES], chain(SPARE, cycle(grey)), strict=False)
    known = {**STYLES, **dict(others)}
    return {name: known[name] for name in names}


def text_size(share: float = 1.0) -> float:
    """Text size in points, as a `share` of rcParams font.size."""
    return share * float(rcParams["font.size"])


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


def line_legend(ax: Axes) -> None:
    """Legend right of the axes, in the colours of the lines and the order of their last finite values."""
    ends = {}
    for line in ax.get_legend_handles_labels()[0]:
        values = np.asarray(line.get_ydata(), dtype=float)
        ends[line] = values[np.isfinite(values)][-1:].sum()
    lines = sorted(ends, key=ends.__getitem__, reverse=True)
    names = [short(str(line.get_label())) for line in lines]
    beside = {"loc": "center left", "bbox_to_anchor": (1, 0.5), "borderaxespad": 0.4, "frameon": False}
    ax.legend(lines, names, labelcolor="linecolor", handlelength=1.6, handletextpad=0.5, **beside)


def short(name: str, most: int = 30) -> str:
    """Shorten a name to `most` characters with an ellipsis."""
    return name if len(name) <= most else f"{name[: most - 1].rstrip()}\u2026"


COLUMN, PAGE = 3.35, 6.9  # width of one column and of a page, inches

STYLE: Any = {
    **dict.fromkeys(("font.size", "axes.titlesize", "axes.labelsize"), 8),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize"), 7.5),
    **dict.fromkeys(("axes.linewidth", "xtick.major.width", "ytick.major.width"), 0.6),
    **dict.fromkeys(("xtick.major.size", "ytick.major.size"), 2.5),
    **{"figure.titlesize": 8.5, "axes.titlelocation": "left", "legend.frameon": False, "axes.axisbelow": True},
    **{"grid.linewidth": 0.5, "xtick.minor.size": 1.5, "lines.linewidth": 1.3, "lines.markersize": 4},
    **{"figure.dpi": 150, "figure.constrained_layout.use": True, "svg.fonttype": "none"},
    "pdf.fonttype": 42,  # searchable text; journals refuse type 3 fonts
}
"""Changes to matplotlib's defaults: eight points and thin lines, for print."""


def panels(count: int, columns: int = 2, height: float = 2.0) -> tuple[Figure, list[Axes]]:
    """A figure of `count` axes, `columns` in a row, each `height` inches high; `COLUMN` or `PAGE` wide."""
    columns = min(columns, count)
    rows = ceil(count / columns)
    size = COLUMN if columns == 1 else PAGE, rows * height
    figure, axes = pyplot.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for spare in axes.flat[count:]:
        spare.remove()
    return figure, list(axes.flat[:count])


def keep(figure: Figure, path: Path | str, dpi: float | str = "figure") -> Image:
    """Write a figure as an image, close it, and return the file for display: Jupyter would draw it three times more."""
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=dpi, pil_kwargs={"compress_level": 1})  # PNG: four times faster, 10 % larger
    pyplot.close(figure)
    return Image(path)


def save(figure: Figure, stem: Path | str) -> Image:
    """`keep` in <stem>.png (200 dpi), after <stem>.pdf, without dates: equal figures give equal bytes."""
    stem = Path(stem)
    png, pdf = (stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "pdf"))  # a stem may contain dots
    with rc_context(STYLE):
        with atomic(pdf) as temporary:
            figure.savefig(temporary, metadata={"CreationDate": None, "Creator": None, "Producer": None})
        return keep(figure, png, dpi=200)

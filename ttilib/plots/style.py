"""The look of charts: what each method is drawn with, quiet axes, names beside lines.

A method looks the same in every figure: `styles` gives each its colour, marker and dash, which are told apart
without colour vision and in grey. The truth is black. Text is sized by the reader's own setting, so that the same
function draws for a screen and for a column of paper.

Figures at the size they are printed: one column or one page wide, with text that is still read there.

A figure drawn large and shrunk by the journal ends with letters of four points. So every figure is drawn at its
final width: `STYLE` holds the sizes, `paper_style` applies them to a block, `panels` makes a figure with as many axes
as there is something to show, and `save` writes it twice, as pixels for a screen and as vectors for print.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
"""How each method is drawn; `styles` over all methods of a study gives each one look in all its figures."""

End = tuple[float, float, str, str]
"""x, y, text and colour of a name at the end of a line."""


STYLES: dict[str, Style] = {
    "fine-tune": {"color": "#E69F00", "marker": "^", "linestyle": ":"},
    "RePRI": {"color": "#0072B2", "marker": "s", "linestyle": "--"},
    "TTI": {"color": "#D55E00", "marker": "o", "linestyle": "-"},
    "TTI+keyframe": {"color": "#009E73", "marker": "D", "linestyle": "-."},
    "frozen": {"color": "#CC79A7", "marker": "v", "linestyle": (0, (3, 1, 1, 1, 1, 1))},
    "oracle": {"color": "#4D4D4D", "marker": "d", "linestyle": (0, (6, 1, 1, 1))},
    "truth": {"color": "#000000", "marker": "", "linestyle": "-"},
}
"""Fixed per name; the colours are Okabe and Ito's."""

SPARE = (
    {"color": "#56B4E9", "marker": "P", "linestyle": (0, (5, 1))},
    {"color": "#7A5A00", "marker": "X", "linestyle": (0, (1, 1))},
    {"color": "#332288", "marker": "<", "linestyle": (0, (4, 1, 1, 1))},
    {"color": "#882255", "marker": ">", "linestyle": (0, (2, 2))},
)
"""For other methods, in the order they are named."""

MARKERS = "ph8vP<>X^"
"""Of the methods after those. They are all grey, as no eye tells more colours apart: put their names beside."""


def styles(methods: Iterable[str]) -> dict[str, Style]:
    """How each method is drawn: its own fixed style, or a spare one in order of naming, or grey when these end."""
    names = list(dict.fromkeys(methods))
    others = [name for name in names if name not in STYLES]
    grey = [{"color": "#8C8C8C", "marker": mark, "linestyle": (0, (1, 2))} for mark in MARKERS]
    spare = {
        name: SPARE[place] if place < len(SPARE) else grey[(place - len(SPARE)) % len(grey)]
        for place, name in enumerate(others)
    }
    return {name: STYLES.get(name) or spare[name] for name in names}


def text_size(share: float = 1.0) -> float:
    """Points of text that is `share` as large as the reader's own (rcParams font.size)."""
    return share * float(rcParams["font.size"])


def figure_name(figure: str) -> str:
    """A figure's name with its window set low: VC_3 as VC$_{3}$; other names stay."""
    return re.sub(r"VC_(\d+)", r"VC$_{\1}$", figure)


def tidy(ax: Axes, xlabel: str = "", ylabel: str = "", title: str = "", integers: bool = True) -> None:
    """Axes without chart junk: two spines, light horizontal lines, labels with units."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", color="0.9", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    if title:
        ax.set_title(title, fontsize=text_size(), loc="left")
    if integers:
        ax.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))


def line_end(x: np.ndarray, y: np.ndarray, text: str, colour: str) -> End:
    """Where the name of a line goes: its last finite point; a line without any has none (nan)."""
    known = np.flatnonzero(np.isfinite(y))
    return (float(x[known[-1]]), float(y[known[-1]]), text, colour) if len(known) else (0.0, np.nan, text, colour)


def label_ends(ax: Axes, ends: Iterable[End], size: float | None = None) -> None:
    """Names beside the right ends of lines, moved apart up and down where they would overlap.

    `size` in points; by default a little smaller than the reader's text.
    """
    size = size or text_size(0.95)
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
        ax.annotate(short(text), (x, y), **at, color=colour, fontsize=size, annotation_clip=False)


def short(name: str, most: int = 30) -> str:
    """A name that fits beside a figure; a longer one ends in an ellipsis."""
    return name if len(name) <= most else f"{name[: most - 1].rstrip()}\u2026"


LEAD = {"arrowstyle": "-", "linewidth": 0.4, "shrinkA": 0, "shrinkB": 2}


def _overlap(box: np.ndarray, others: Iterable[np.ndarray]) -> float:
    """Area that a box (left, bottom, right, top) shares with others."""
    shared = (np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2]) for other in others)
    return float(sum(np.prod(sides.clip(min=0)) for sides in shared))


def round_numbers(low: float, high: float) -> list[float]:
    """Numbers for a log axis: 1, 2 and 5 times powers of ten between the limits, or any round ones if these are few."""
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    found = [first * 10.0**power for power in powers for first in (1, 2, 5) if low <= first * 10.0**power <= high]
    return found if len(found) > 1 else [n for n in MaxNLocator(4).tick_values(low, high) if low <= n <= high]


def label_dots(
    ax: Axes, dots: Sequence[End], size: float | None = None, clear: Sequence[tuple[float, float]] = ()
) -> None:
    """Names beside dots, each on the side where it covers least: right, left, above or below, then further off.

    A thin line leads from a name that is not beside its dot. `size` in points; `clear` are places of
    other dots, which names keep off, too. Call it when everything else is drawn.
    """
    size = size or text_size(0.92)
    for last in (False, True):  # the first names take room from the axes, so that dots lie elsewhere then
        ax.figure.draw_without_rendering()
        moves = _beside_dots(ax, dots, size, clear)
        names = [
            ax.annotate(
                text, (x, y), move, textcoords="offset points", va="center", ha="left", color=colour, fontsize=size,
                annotation_clip=False, arrowprops=LEAD | {"color": colour} if abs(move[1]) > 1.2 * size else None,
            )
            for (x, y, text, colour), move in zip(dots, moves, strict=True)
        ]  # fmt: skip
        for name in () if last else names:
            ax.figure.draw_without_rendering()
            name.remove()


def _beside_dots(
    ax: Axes, dots: Sequence[End], size: float, clear: Sequence[tuple[float, float]]
) -> list[tuple[float, float]]:
    """How many points the middle of each name's left end lies from its dot."""
    scale, height, gap = 72 / ax.figure.dpi, 1.15 * size, 0.6 * size
    places = [ax.transData.transform(dot[:2]) * scale for dot in dots]
    others = [ax.transData.transform(dot) * scale for dot in clear]
    taken = [np.concatenate([place - gap / 2, place + gap / 2]) for place in [*places, *others]]
    left, moves = ax.get_window_extent().x0 * scale, []
    for (_, _, text, _), place in zip(dots, places, strict=True):
        width, costs = 0.56 * size * len(text), {}
        for rise in (0, 1, -1, 1.6, -1.6, 2.4, -2.4, 3.4, -3.4):
            for start in (gap, -gap - width) if abs(rise) != 1 else (-width / 2, gap / 2, -gap / 2 - width):
                corner = place + (start, (rise - 0.5) * height)
                box = np.concatenate([corner, corner + (width, height)])
                outside = 3 * height * max(0, left - box[0])  # to the right the layout makes room
                cost = _overlap(box, taken) + outside + 0.05 * height * abs(rise) * size
                costs[start, rise * height] = cost, box
        move = min(costs, key=lambda at: round(costs[at][0], 6))
        taken.append(costs[move][1])
        moves.append(move)
    return moves


COLUMN, PAGE = 3.35, 6.9
"""Inches: the width of one column, and of both."""

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
    "pdf.fonttype": 42,  # letters stay letters: they can be searched, and journals refuse type 3
    "svg.fonttype": "none",
}
"""What differs from matplotlib's own settings."""


@contextmanager
def paper_style() -> Iterator[None]:
    """Draw what is made inside the block for print: eight points, thin lines; afterwards all is as before."""
    with rc_context(STYLE):
        yield


def panels(count: int, columns: int = 2, height: float = 2.0, width: float | None = None) -> tuple[Figure, list[Axes]]:
    """A figure of `count` axes, `columns` in a row, each `height` inches high; one alone is a column wide.

    `width` of the whole figure in inches; by default `COLUMN` for one column of axes and `PAGE` for several.
    Raises ValueError if there is nothing to show.
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
    """Write the figure as <stem>.png (200 dots per inch) and <stem>.pdf.

    Each file is whole or not there at all, and the same figure gives the same bytes: no date is in it.
    """
    stem = Path(stem)
    png, pdf = (stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "pdf"))  # a stem may have dots in it
    with rc_context(STYLE):
        with atomic(png) as temporary:
            figure.savefig(temporary, dpi=200, metadata={"Software": None})
        with atomic(pdf) as temporary:
            figure.savefig(temporary, metadata={"CreationDate": None, "Creator": None, "Producer": None})

"""Figures at the size they are printed: one column or one page wide, with text that is still read there.

A figure drawn large and shrunk by the journal ends with letters of four points. So every figure is drawn at its
final width: `STYLE` holds the sizes, `paper_style` applies them to a block, `panels` makes a figure with as many axes
as there is something to show, and `save` writes it twice, as pixels for a screen and as vectors for print.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from typing import Any

from matplotlib import pyplot, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ttilib.files import atomic

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

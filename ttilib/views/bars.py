"""Tables as bars: methods beside each other, and class by class.

Takes the tables that `tables` makes (figures in percent) and draws the numbers a reader compares, on the axes
it is given.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ttilib.views.style import Looks, figure_name, styles, text_size, tidy

WHISKER = {"elinewidth": 0.8, "capsize": 2, "capthick": 0.8}


def _dodge(place: int, count: int) -> tuple[float, float]:
    """Offset and width of bar `place` of `count` in a group one unit apart."""
    width = 0.82 / count
    return (place - (count - 1) / 2) * width, width


def _points(ax: Axes) -> float:
    """Width of the axes, in points."""
    return ax.get_window_extent().width * 72 / ax.figure.dpi


def _names_above(ax: Axes, count: int) -> None:
    """The methods' colours above the axes, in as many columns as fit."""
    columns = max(1, min(count, int(_points(ax) / (8.8 * text_size()))))
    place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2}
    ax.legend(frameon=False, ncols=columns, fontsize=text_size(0.95), handlelength=1.2, columnspacing=1.2, **place)


def _bounds(table: pd.DataFrame, name: str) -> np.ndarray:
    """How far each line's error bar reaches below and above its figure, [2, lines]; nan where nothing is known.

    From the columns "mIoU low" and "mIoU high" (bounds), or "± mIoU" (the same to both sides).
    """
    figure = table[name].to_numpy(dtype=float)
    if f"{name} low" in table and f"{name} high" in table:
        low, high = (table[f"{name} {end}"].to_numpy(dtype=float) for end in ("low", "high"))
        return np.stack([figure - low, high - figure]).clip(min=0)
    if f"± {name}" in table:
        return np.stack([table[f"± {name}"].to_numpy(dtype=float)] * 2)
    return np.full((2, len(table)), np.nan)


def method_bars(ax: Axes, table: pd.DataFrame, columns: Sequence[str], looks: Looks | None = None) -> None:
    """Methods compared: a group of bars per figure in `columns`, one bar per line of `table`, in percent.

    Lines are named by `method`. Error bars are drawn from columns "figure low" and "figure high", or "± figure".
    Raises ValueError if a method has several lines: choose one benchmark and number of shots first.
    """
    if table["method"].duplicated().any():
        raise ValueError("several lines per method; choose one benchmark, fold and number of shots first")
    looks, reach = looks or styles(table["method"]), {name: _bounds(table, name) for name in columns}
    for place, (_, line) in enumerate(table.iterrows()):
        offset, width = _dodge(place, len(table))
        x = np.arange(len(columns)) + offset
        heights = np.array([line[name] for name in columns], dtype=float)
        spread = np.array([reach[name][:, place] for name in columns]).T
        ax.bar(x, heights, width * 0.94, color=looks[line["method"]]["color"], label=line["method"])
        known = np.isfinite(heights) & np.isfinite(spread).all(axis=0)
        ax.errorbar(x[known], heights[known], spread[:, known], fmt="none", ecolor="0.2", **WHISKER)
        narrow = _points(ax) / len(columns) * width < 2.6 * text_size()  # a number of four characters needs as much
        for at, height, top in zip(x, heights, heights + np.nan_to_num(spread[1]), strict=True):
            if np.isfinite(height):
                look = {"rotation": 90 if narrow else 0, "ha": "center", "fontsize": text_size(0.9)}
                ax.annotate(f"{height:.1f}", (at, top), xytext=(0, 4), textcoords="offset points", **look)
    tidy(ax, ylabel="percent", integers=False)
    ax.set_xticks(range(len(columns)), [figure_name(name) for name in columns])
    ax.tick_params(axis="x", length=0)
    ax.margins(y=0.15)
    _names_above(ax, len(table))


def per_class_bars(ax: Axes, table: pd.DataFrame, figure: str = "IoU", looks: Looks | None = None) -> None:
    """Classes compared: per class one bar for each method, the classes sorted by the last method's figure.

    Takes a `tables.class_table` of one benchmark and number of shots; the best class comes first. Error bars are
    drawn from columns "IoU low" and "IoU high", or "± IoU".
    Raises ValueError if a method has several lines for a class.
    """
    if table.duplicated(["class_name", "method"]).any():
        raise ValueError("several lines per class and method; choose one benchmark and number of shots first")
    wide = table.pivot_table(index="class_name", columns="method", values=figure, sort=False)
    methods = [name for name in dict.fromkeys(table["method"])]
    wide = wide.reindex(columns=methods).sort_values(methods[-1], ascending=True)
    looks, reach = looks or styles(methods), _bounds(table, figure)
    for place, method in enumerate(methods):
        offset, width = _dodge(len(methods) - 1 - place, len(methods))  # the first method on top
        y = np.arange(len(wide)) + offset
        ax.barh(y, wide[method], width * 0.94, color=looks[method]["color"], label=method)
        own = (table["method"] == method).to_numpy() & np.isfinite(reach).all(axis=0)
        at = offset + wide.index.get_indexer(table["class_name"][own])
        ax.errorbar(table[figure][own], at, xerr=reach[:, own], fmt="none", ecolor="0.2", **WHISKER)
    tidy(ax, f"{figure} [percent]", integers=False)
    ax.grid(axis="y", visible=False)
    ax.grid(axis="x", color="0.9", linewidth=0.8)
    ax.set_yticks(range(len(wide)), wide.index)
    ax.set_ylim(-0.6, len(wide) - 0.4)
    ax.tick_params(axis="y", length=0)
    _names_above(ax, len(methods))

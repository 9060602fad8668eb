"""Tables as bars: methods beside each other, and class by class.

Takes the tables that `tables` makes (figures in percent) and draws the numbers a reader compares, on the axes
it is given.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ttilib.views.style import styles, tidy


def _dodge(place: int, count: int) -> tuple[float, float]:
    """Offset and width of bar `place` of `count` in a group one unit apart."""
    width = 0.82 / count
    return (place - (count - 1) / 2) * width, width


def _points(ax: Axes) -> float:
    """Width of the axes, in points."""
    return ax.get_window_extent().width * 72 / ax.figure.dpi


def _names_above(ax: Axes, count: int) -> None:
    """The methods' colours above the axes, in as many columns as fit."""
    columns = max(1, min(count, int(_points(ax) / 88)))
    place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2}
    ax.legend(frameon=False, ncols=columns, fontsize=9.5, handlelength=1.2, columnspacing=1.2, **place)


def method_bars(ax: Axes, table: pd.DataFrame, columns: Sequence[str]) -> None:
    """Methods compared: a group of bars per figure in `columns`, one bar per line of `table`, in percent.

    Lines are named by `method`. A column called "± figure" gives that figure's error bars.
    Raises ValueError if a method has several lines: choose one benchmark and number of shots first.
    """
    if table["method"].duplicated().any():
        raise ValueError("several lines per method; choose one benchmark, fold and number of shots first")
    for place, ((_, line), look) in enumerate(
        zip(table.iterrows(), styles(table["method"]).values(), strict=True)
    ):
        offset, width = _dodge(place, len(table))
        x = np.arange(len(columns)) + offset
        heights = np.array([line[name] for name in columns], dtype=float)
        spread = np.array([line.get(f"± {name}", np.nan) for name in columns], dtype=float)
        ax.bar(x, heights, width * 0.94, color=look["color"], label=line["method"])
        known = np.isfinite(heights) & np.isfinite(spread)
        ax.errorbar(x[known], heights[known], spread[known], fmt="none", ecolor="0.2", capsize=3)
        narrow = _points(ax) / len(columns) * width < 26  # a number of four characters needs as much
        for at, height, top in zip(x, heights, heights + np.nan_to_num(spread), strict=True):
            if np.isfinite(height):
                look = {"rotation": 90 if narrow else 0, "ha": "center", "fontsize": 9}
                ax.annotate(f"{height:.1f}", (at, top), xytext=(0, 4), textcoords="offset points", **look)
    tidy(ax, ylabel="percent", integers=False)
    ax.set_xticks(range(len(columns)), [re.sub(r"VC_(\d+)", r"VC$_{\1}$", name) for name in columns])
    ax.tick_params(axis="x", length=0)
    ax.margins(y=0.15)
    _names_above(ax, len(table))


def per_class_bars(ax: Axes, table: pd.DataFrame, figure: str = "IoU") -> None:
    """Classes compared: per class one bar for each method, the classes sorted by the last method's figure.

    Takes a `tables.class_table` of one benchmark and number of shots; the best class comes first.
    """
    wide = table.pivot_table(index="class_name", columns="method", values=figure, sort=False)
    methods = [name for name in dict.fromkeys(table["method"])]
    wide = wide[methods].sort_values(methods[-1], ascending=True)
    for (place, method), look in zip(enumerate(methods), styles(methods).values(), strict=True):
        offset, width = _dodge(len(methods) - 1 - place, len(methods))  # the first method on top
        y = np.arange(len(wide)) + offset
        ax.barh(y, wide[method], width * 0.94, color=look["color"], label=method)
    tidy(ax, f"{figure} [percent]", integers=False)
    ax.grid(axis="y", visible=False)
    ax.grid(axis="x", color="0.9", linewidth=0.8)
    ax.set_yticks(range(len(wide)), wide.index)
    ax.tick_params(axis="y", length=0)
    _names_above(ax, len(methods))

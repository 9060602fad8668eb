"""Comparison of methods: metrics with intervals, gains over a baseline, runs, classes, and time.

Functions draw tables of `results.tables` and `results.statistics` on given axes. Pass `looks` (`style.styles` of all
methods) for the same styles in all figures. Digits and units are those of `METRICS`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from ttilib.plots.style import STYLES, Looks, Style, short, styles, text_size, tidy
from ttilib.results.export import cell_text, metric_of

CHAIN = 8  # at most this many methods are joined by a line
BLOCK = ("benchmark", "shots", "encoder")
"""Rows of a table that differ in one of these columns are not comparable."""

DOT: Any = {"linestyle": "none", "markeredgecolor": "white", "markeredgewidth": 0.4}
INK = "0.25"
COLUMNS = {"n": 4.0, "won": 7.3, "p": 11.9}  # right ends of the columns of a forest, in units of the text size


def blocks(table: pd.DataFrame, by: Sequence[str] = BLOCK) -> list[tuple[str, pd.DataFrame]]:
    """Split a table into titled parts of one benchmark, number of shots and encoder (the columns `by`), in table order.

    A title names only what differs between parts; it is "" for a single part.
    """
    keys = [key for key in by if key in table]
    telling = [key for key in keys if table[key].nunique() > 1]
    if not telling:
        return [("", table)] if len(table) else []
    groups = table.groupby(telling, sort=False)
    return [
        (", ".join(f"{v}-shot" if key == "shots" else str(v) for key, v in zip(telling, values, strict=True)), part)
        for values, part in groups
    ]


def _with_unit(name: str, of: str = "", unit: str = "percent") -> str:
    """Axis label of a metric, the window of VC_k as a subscript; a unit only for shares."""
    metric = metric_of(name)
    return re.sub(r"VC_(\d+)", r"VC$_{\1}$", name) + of + (f" [{unit}]" if metric is None or metric.percent else "")


def _stack(ax: Axes, parts: Sequence[tuple[str, Sequence[str]]], xlabel: str) -> list[int]:
    """Method names on the y axis, a bold heading above each titled part; returns the first row of each part."""
    names: list[str] = []
    heads, begins = set(), []
    for title, texts in parts:
        if title:
            heads.add(len(names))
            names.append(title)
        begins.append(len(names))
        names.extend(short(text) for text in texts)
    tidy(ax, xlabel, integers=False)
    ax.set_yticks(range(len(names)), names)
    for row in heads:
        ax.get_yticklabels()[row].set_fontweight("bold")
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.grid(axis="y", visible=False)
    ax.grid(axis="x", color="0.9")
    ax.margins(x=0.08)
    return begins


def _beside(ax: Axes, row: float, right: float, text: str, **look: Any) -> None:
    """Text that ends `right` text sizes to the right of the axes, at the height of a row."""
    at: Any = {"xycoords": ax.get_yaxis_transform(), "textcoords": "offset points", "annotation_clip": False}
    look = {"ha": "right", "va": "center", "color": INK, "fontsize": text_size(0.92), **look}
    ax.annotate(text, (1, row), (right * text_size(), 0), **at, **look)


def _interval(ax: Axes, row: float, line: pd.Series, metric: str, look: Style) -> None:
    """A dot, and a line for its interval if there is one."""
    if np.isfinite(line[metric]):
        ends = [line.get(f"{metric} low", np.nan), line.get(f"{metric} high", np.nan)]
        ax.plot(ends, [row, row], color=look["color"], linewidth=1.6, solid_capstyle="butt")
        ax.plot(line[metric], row, color=look["color"], marker=look["marker"], **DOT)


def estimates(ax: Axes, lines: pd.DataFrame, metric: str = "mIoU", looks: Looks | None = None) -> None:
    """Metric of each method as a dot, with its interval. Takes `statistics.intervals` or `tables.score_table`."""
    looks, parts = looks or styles(lines["method"]), blocks(lines)
    begins = _stack(ax, [(title, list(part["method"])) for title, part in parts], _with_unit(metric))
    for begin, (_, part) in zip(begins, parts, strict=True):
        for row, (_, line) in enumerate(part.iterrows(), start=begin):
            _interval(ax, row, line, metric, looks[line["method"]])
            _beside(ax, row, 2.8, cell_text(metric, line[metric]))


def forest(ax: Axes, paired_lines: pd.DataFrame, metric: str = "mIoU", looks: Looks | None = None) -> None:
    """Gain of each method over the baseline on identical episodes, in points, with intervals; n, won and p beside.

    n: episodes. won: share of the episodes with different IoU in which the method is better. p: of the test that this
    share is one half. The gain may have another sign, because it weights long videos more.
    Takes rows of `statistics.paired`, with methods named "TTI - RePRI"; a single baseline is named on the axis only.
    `metric`: "mIoU" (gain of the table) or "IoU" (mean over episodes).
    """
    pairs = [name.rpartition(" - ") for name in paired_lines["method"]]
    baselines = sorted({baseline for _, _, baseline in pairs})
    table, one = paired_lines.assign(_ours=[ours for ours, _, _ in pairs]), len(baselines) == 1
    looks, parts = {**styles(table["_ours"]), **(looks or {})}, blocks(table)
    stacked = [(title, list(part["_ours" if one else "method"])) for title, part in parts]
    begins = _stack(ax, stacked, "gain in " + _with_unit(metric, f" over {baselines[0]}" if one else "", "points"))
    for begin, (_, part) in zip(begins, parts, strict=True):
        for row, (_, line) in enumerate(part.iterrows(), start=begin):
            _interval(ax, row, line, metric, looks[line["_ours"]])
            decided = line["better"] + line["worse"]
            share = f"{100 * line['better'] / decided:.0f}%" if decided else "-"
            texts = {"n": f"{line['episodes']:,}", "won": share, "p": cell_text("p", line["p"])}
            for word, text in texts.items():
                _beside(ax, row, COLUMNS[word], text)
    ax.axvline(0, color="0.35", linewidth=0.8, zorder=0.5)
    for word, right in COLUMNS.items():
        _beside(ax, -0.9, right, word, style="italic")


def run_dots(ax: Axes, run_table: pd.DataFrame, metric: str = "mIoU", looks: Looks | None = None) -> None:
    """Variation between runs: a dot per run (mean over folds), a bar at their mean.

    A thin line connects the methods of a run, because a run has the same support for all. Only runs with every fold of
    the method are drawn. Takes `tables.run_table`.
    """
    looks, parts = looks or styles(run_table["method"]), blocks(run_table)
    stacked = [(title, list(dict.fromkeys(part["method"]))) for title, part in parts]
    begins = _stack(ax, stacked, _with_unit(metric, " of each run"))
    for begin, (_, part), (_, methods) in zip(begins, parts, stacked, strict=True):
        folds = part.groupby(["method", "run"])["fold"].transform("nunique")
        complete = part[folds == part.groupby("method")["fold"].transform("nunique")]
        means = complete.groupby(["method", "run"])[metric].mean().unstack("run").reindex(methods)
        rows = begin + np.arange(len(methods))
        ax.plot(means.to_numpy(), rows, color="0.8", linewidth=0.7, zorder=1)
        for row, method in zip(rows, methods, strict=True):
            values, look = means.loc[method].dropna(), looks[method]
            ax.plot(values, [row] * len(values), look["marker"], color=look["color"], alpha=0.75, markeredgewidth=0)
            ax.plot([values.mean()] * 2, [row - 0.32, row + 0.32], color=look["color"], linewidth=1.6)


def cost_accuracy(ax: Axes, table: pd.DataFrame, metric: str = "mIoU", looks: Looks | None = None) -> None:
    """Seconds per episode against a metric: a dot per method, a legend below.

    A line joins the methods of a block by time, with the block's title at its end. With more than `CHAIN` methods there
    is no line, and the legend has only methods of fixed style and those that no faster one beats.
    Takes `tables.score_table`; rows without seconds or metric are left out.
    """
    known = table[table["s/episode"].gt(0) & table[metric].notna()]
    looks = looks or styles(known["method"])
    named: dict[str, Line2D] = {}
    for title, part in blocks(known):
        part = part.sort_values("s/episode")
        seconds, values = part["s/episode"].to_numpy(dtype=float), part[metric].to_numpy(dtype=float)
        if len(part) <= CHAIN:
            ax.plot(seconds, values, color="0.75", linewidth=0.9, zorder=1)
        ax.annotate(title, (seconds[-1], values[-1]), (5, 0), textcoords="offset points", va="center", color=INK)
        front = np.maximum.accumulate(values)
        for method, x, y, top in zip(part["method"], seconds, values, front, strict=True):
            (dot,) = ax.plot(x, y, color=looks[method]["color"], marker=looks[method]["marker"], **DOT)
            if len(part) <= CHAIN or method in STYLES or y == top:
                named.setdefault(short(method), dot)
    tidy(ax, "seconds per episode", _with_unit(metric), integers=False)
    ax.margins(x=0.1, y=0.12)
    ax.set_xlim(left=0)
    below: Any = {"loc": "upper left", "bbox_to_anchor": (0, 0), "borderaxespad": 4.2}  # below the axis label
    columns = 2 if max(map(len, named), default=0) < 20 else 1
    ax.legend(named.values(), named, ncols=columns, frameon=False, handlelength=1, labelspacing=0.3, **below)


def per_class_bars(ax: Axes, table: pd.DataFrame, metric: str = "IoU", looks: Looks | None = None) -> None:
    """One bar per class and method, labelled for a legend; classes sorted by the last method, the best on top.
    Takes `tables.class_table` of one fold, benchmark, number of shots and encoder; each class once per method.
    """
    wide = table.pivot(index="class_name", columns="method", values=metric)[list(dict.fromkeys(table["method"]))]
    wide, looks = wide.sort_values(wide.columns[-1], ascending=False), looks or styles(wide)
    colours = {method: looks[method]["color"] for method in wide}
    wide.plot.barh(ax=ax, width=0.82, color=colours, edgecolor="white", linewidth=0.4, legend=False)
    ax.invert_yaxis()
    tidy(ax, _with_unit(metric), integers=False)
    ax.grid(axis="y", visible=False)
    ax.grid(axis="x", color="0.9", linewidth=0.8)
    ax.tick_params(axis="y", length=0)

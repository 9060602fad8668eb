"""Methods against each other: which is better, by how much, how surely, and at what price.

Methods lie one above the other, so that twenty of an ablation are as easily read as two. `estimates` shows each
method's figure with its interval, `forest` what each gains over a baseline on identical episodes, `run_dots` how it
moves from run to run, `poolings` how the same masks look in two statistics, `cost_accuracy` what a point costs.

Functions draw tables of `tables` and `statistics` (percent) on the axes they are given; `looks` of `style.styles` over
all methods gives a method one look in several figures. `blocks` cuts a table where its lines cannot be compared.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullLocator

from ttilib.views import style
from ttilib.views.style import Looks, Style, figure_name, short, styles, text_size, tidy

CHAIN = 8  # methods that a line joins at most; the path through more is a scrawl
BLOCK = ("benchmark", "shots", "encoder")
"""Lines of a table that differ in one of these answer different questions."""

DOT = {"linestyle": "none", "markeredgecolor": "white", "markeredgewidth": 0.4}
INK = "0.25"
COLUMNS = (4.0, 7.3, 10.9)  # where the columns of a forest end, in widths of a letter


def _words(key: str, value: object) -> str:
    return f"{value}-shot" if key == "shots" else str(value)


def blocks(table: pd.DataFrame, by: Sequence[str] = BLOCK) -> list[tuple[str, pd.DataFrame]]:
    """The table cut into parts of one benchmark, number of shots and encoder (those of `by`), each with a title.

    In the order of the table; a title says only in what the parts differ, and is "" if there is one part.
    """
    keys = [key for key in by if key in table]
    telling = [key for key in keys if table[key].nunique() > 1]
    if not telling:
        return [("", table)]
    groups = table.groupby(telling, sort=False)
    return [
        (", ".join(_words(key, value) for key, value in zip(telling, values, strict=True)), part)
        for values, part in groups
    ]


def _stack(ax: Axes, parts: Sequence[tuple[str, Sequence[str]]], xlabel: str) -> list[int]:
    """Names below each other on the left, a bold heading above each part that has a title; where each part begins."""
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
    for place in heads:
        ax.get_yticklabels()[place].set_fontweight("bold")
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.grid(axis="y", visible=False)
    ax.grid(axis="x", color="0.9")
    ax.margins(x=0.08)
    return begins


def _beside(ax: Axes, place: float, right: float, text: str, **look: object) -> None:
    """Text that ends `right` points to the right of the axes, at the height of a row."""
    at = {"xycoords": ax.get_yaxis_transform(), "textcoords": "offset points", "annotation_clip": False}
    ax.annotate(text, (1, place), (right, 0), ha="right", va="center", fontsize=text_size(0.92), **at, **look)


def _interval(ax: Axes, place: float, line: pd.Series, figure: str, look: Style) -> None:
    """A dot, and the line of its interval if there is one."""
    if np.isfinite(line[figure]):
        ends = [line.get(f"{figure} low", np.nan), line.get(f"{figure} high", np.nan)]
        ax.plot(ends, [place, place], color=look["color"], linewidth=1.6, solid_capstyle="butt")
        ax.plot(line[figure], place, color=look["color"], marker=look["marker"], **DOT)


def estimates(ax: Axes, lines: pd.DataFrame, figure: str = "mIoU", looks: Looks | None = None) -> None:
    """Each method's figure in percent as a dot, its interval as a line, the number to the right.

    Takes `statistics.intervals` (or a `tables.score_table`, then without lines); a heading stands above each block.
    """
    looks, parts = looks or styles(lines["method"]), blocks(lines)
    stacked = [(title, list(part["method"])) for title, part in parts]
    begins = _stack(ax, stacked, f"{figure_name(figure)} [percent]")
    for begin, (_, part) in zip(begins, parts, strict=True):
        for place, (_, line) in enumerate(part.iterrows(), start=begin):
            _interval(ax, place, line, figure, looks[line["method"]])
            text = f"{line[figure]:.1f}" if np.isfinite(line[figure]) else "-"
            _beside(ax, place, 2.8 * text_size(), text, color=INK)


def p_words(p: float) -> str:
    """A p value as papers print it: two decimals, three where it matters, never zero."""
    if not np.isfinite(p):
        return "-"
    return "<.001" if p < 0.0005 else f"{p:.3f}"[1:] if p < 0.0995 else f"{p:.2f}".removeprefix("0")


def won(better: int, worse: int) -> str:
    """In what share of the episodes that differ the method is the better one, in percent."""
    return f"{100 * better / (better + worse):.0f}%" if better + worse else "-"


def forest(ax: Axes, paired_lines: pd.DataFrame, figure: str = "mIoU", looks: Looks | None = None) -> None:
    """What each method gains over the baseline, in points: dot and interval, zero line; n, won and p to the right.

    "n" counts the episodes, "won" says in how many percent of those that differ the method has the higher IoU, and "p"
    how likely such a share is if it were one half. The gain may point elsewhere: it weighs long videos more.
    Takes lines of `statistics.paired`, all blocks together: a heading stands above each if there are several. A
    comparison is called "TTI - RePRI"; where all have one baseline, the axis names it and the rows do not.
    `figure` is "mIoU" (the gain of the table) or "IoU" (the mean over episodes).
    """
    pairs = [name.rpartition(" - ") for name in paired_lines["method"]]
    baselines = sorted({baseline for _, _, baseline in pairs})
    table, one = paired_lines.assign(_ours=[ours for ours, _, _ in pairs]), len(baselines) == 1
    looks, parts = {**styles(table["_ours"]), **(looks or {})}, blocks(table)
    stacked = [(title, list(part["_ours" if one else "method"])) for title, part in parts]
    over = f" over {baselines[0]}" if one else ""
    begins = _stack(ax, stacked, f"gain in {figure_name(figure)}{over} [points]")
    for begin, (_, part) in zip(begins, parts, strict=True):
        for place, (_, line) in enumerate(part.iterrows(), start=begin):
            _interval(ax, place, line, figure, looks[line["_ours"]])
            texts = f"{line['episodes']:,}", won(line["better"], line["worse"]), p_words(line["p"])
            for right, text in zip(COLUMNS, texts, strict=True):
                _beside(ax, place, right * text_size(), text, color=INK)
    ax.axvline(0, color="0.35", linewidth=0.8, zorder=0.5)
    for right, word in zip(COLUMNS, ("n", "won", "p"), strict=True):
        _beside(ax, -0.9, right * text_size(), word, color=INK, style="italic")


def run_dots(ax: Axes, run_table: pd.DataFrame, figure: str = "mIoU", looks: Looks | None = None) -> None:
    """How a method moves from run to run: a dot per run (mean over folds), a bar at their mean, percent.

    A thin line follows each run through the methods: they rise and fall together, because a run draws the same
    support for all. Only runs with every fold of the method are drawn. Takes `tables.run_table`; a heading stands
    above each block.
    """
    looks, parts = looks or styles(run_table["method"]), blocks(run_table)
    stacked = [(title, list(dict.fromkeys(part["method"]))) for title, part in parts]
    begins = _stack(ax, stacked, f"{figure_name(figure)} of each run [percent]")
    for begin, (_, part), (_, methods) in zip(begins, parts, stacked, strict=True):
        folds = part.groupby(["method", "run"])["fold"].transform("nunique")
        whole = part[folds == part.groupby("method")["fold"].transform("nunique")]
        means = whole.groupby(["method", "run"])[figure].mean().unstack("run").reindex(methods)
        places = begin + np.arange(len(methods))
        ax.plot(means.to_numpy(), places, color="0.8", linewidth=0.7, zorder=1)
        for place, method in zip(places, methods, strict=True):
            values, look = means.loc[method].dropna(), looks[method]
            ax.plot(values, [place] * len(values), look["marker"], color=look["color"], alpha=0.75, markeredgewidth=0)
            ax.plot([values.mean()] * 2, [place - 0.32, place + 0.32], color=look["color"], linewidth=1.6)


def poolings(ax: Axes, table: pd.DataFrame, figures: Sequence[str] = ("mIoU", "J"), looks: Looks | None = None) -> None:
    """The same masks in several statistics: a line per method through its figures, in percent.

    Where lines cross, the statistic decides which method is the better one. Takes `tables.score_table` of one block.
    Raises ValueError if the table holds several blocks.
    """
    if len(parts := blocks(table)) > 1:
        names = "; ".join(title for title, _ in parts)
        raise ValueError(f"the table holds {names}; draw one of them per axes, see comparisons.blocks")
    looks = looks or styles(table["method"])
    ends, places = [], np.arange(len(figures))
    for _, line in table.iterrows():
        look, values = looks[line["method"]], np.array([line[name] for name in figures], dtype=float)
        ax.plot(places, values, **look)
        ends.append(style.line_end(places, values, line["method"], look["color"]))
    tidy(ax, ylabel="percent", integers=False)
    ax.set_xticks(places, [figure_name(name) for name in figures])
    ax.yaxis.set_major_locator(MaxNLocator(5))
    ax.margins(x=0.08)
    style.label_ends(ax, ends, text_size(0.92))


def cost_accuracy(ax: Axes, table: pd.DataFrame, figure: str = "mIoU", looks: Looks | None = None) -> None:
    """What a point costs: seconds per episode (log) against the figure in percent, a named dot per method.

    A line joins the methods of one block from cheap to dear, with the block's title at its end if there are several.
    Of more than `CHAIN` methods there is no line, and only those of fixed looks and those that no cheaper one beats
    are named. Takes `tables.score_table`; lines without seconds or figure are left out.
    """
    known = table[table["s/episode"].gt(0) & table[figure].notna()]
    looks = looks or styles(known["method"])
    names: dict[str, style.End] = {}
    for title, part in blocks(known):
        part = part.sort_values("s/episode")
        seconds, values = part["s/episode"].to_numpy(dtype=float), part[figure].to_numpy(dtype=float)
        if len(part) <= CHAIN:
            ax.plot(seconds, values, color="0.75", linewidth=0.9, zorder=1)
        names[f"block {title}"] = style.line_end(seconds, values, title, INK)
        front = np.maximum.accumulate(values)
        for method, x, y, top in zip(part["method"], seconds, values, front, strict=True):
            look = looks[method]
            ax.plot(x, y, color=look["color"], marker=look["marker"], **DOT)
            if len(part) <= CHAIN or method in style.STYLES or y == top:
                names.setdefault(method, (x, y, method, look["color"]))
    tidy(ax, "seconds per episode", f"{figure_name(figure)} [percent]", integers=False)
    ax.set_xscale("log")
    ax.margins(x=0.1, y=0.12)
    ax.set_xticks(style.round_numbers(*ax.get_xlim()))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_locator(NullLocator())
    dots = list(zip(known["s/episode"], known[figure], strict=True))
    style.label_dots(ax, [name for name in names.values() if name[2]], clear=dots)

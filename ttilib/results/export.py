"""Tables for notebooks, Markdown, LaTeX and CSV.

Digits: those of the metric in `METRICS`, two for seconds, none for counts and megabytes. CSV keeps four decimals.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler

from ttilib import files
from ttilib.results.metrics import METRICS, Metric

DIGITS = dict.fromkeys(("MB/episode", "shots", "folds", "runs", "episodes", "frames", "better", "worse"), 0)
DIGITS["s/episode"] = 2
WORDS = ("note", "source")  # text columns, empty where missing
LONG = 40  # longer notes (in characters) are wrapped in LaTeX
BLOCK = ["benchmark", "shots", "fold", "run", "class_id", "video"]  # methods are compared where these are equal
BLUE, ORANGE = (0, 114, 178), (230, 159, 0)  # Okabe and Ito: for colour-blind readers
ESCAPED = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$",
           "|": "$|$", "±": r"$\pm$", **{c: f"{{{c}}}" for c in "[]*"}, **{c: f"\\{c}" for c in "&%$#_{}"}}  # fmt: skip


def _metric(name: Hashable) -> Metric | None:
    """The metric of a column such as "mIoU", "IoU", "mIoU low" or "mIoU difference"."""
    known = {name: metric for metric in METRICS.values() for name in (metric.name, metric.alone)}
    return known.get(name) or known.get(str(name).rpartition(" ")[0])


def _text(name: Hashable, value: Any) -> str:
    """The text of one cell."""
    if isinstance(value, str):
        return value
    if pd.isna(value):
        return "" if name in WORDS else "-"
    if name == "p":
        return "< 0.001" if value < 0.001 else f"{value:.3f}"
    if name in DIGITS or isinstance(value, float):
        metric = _metric(name)
        text = f"{value:.{metric.digits if metric else DIGITS.get(str(name), 1)}f}"
        return text.lstrip("-") if float(text) == 0 else text  # no minus before a zero
    return str(value)


def formatted(table: pd.DataFrame) -> pd.DataFrame:
    """The table as text: one decimal unless the metric has others, two for seconds, "-" for a missing value."""
    text = {name: [_text(name, value) for value in table[name]] for name in table}
    return pd.DataFrame(text, index=table.index, dtype=object)


def _numeric(table: pd.DataFrame) -> list[bool]:
    """Which columns are numeric, hence right-aligned."""
    return [bool(pd.api.types.is_numeric_dtype(table[name])) for name in table]


def to_markdown(table: pd.DataFrame) -> str:
    """The table in Markdown, cells as in `formatted`, numbers right-aligned."""
    rule = ["---:" if right else "---" for right in _numeric(table)]
    cells = [[str(name) for name in table], *formatted(table).to_numpy().tolist()]
    words = [[" ".join(cell.split()).replace("|", r"\|") for cell in line] for line in cells]
    return "".join(f"| {' | '.join(line)} |\n" for line in (words[0], rule, *words[1:]))


def _escaped(text: str) -> str:
    """Text escaped for LaTeX; VC_k with a subscript, "-" as a dash."""
    if text == "-":
        return "--"
    parts = re.split(r"\bVC_(\d+)\b", " ".join(text.split()))
    plain = ["".join(ESCAPED.get(c, c) for c in part) for part in parts[::2]]
    symbols = [f"VC$_{{{k}}}$" if len(k) > 1 else f"VC$_{k}$" for k in parts[1::2]] + [""]
    return "".join(p + s for p, s in zip(plain, symbols, strict=True))


def to_latex(table: pd.DataFrame, caption: str = "", label: str = "") -> str:
    """The table in LaTeX (booktabs): text escaped, long notes wrapped; without caption and label only the tabular."""
    right = _numeric(table)
    long = [name in WORDS and bool((table[name].astype(str).str.len() > LONG).any()) for name in table]
    words = formatted(table).reset_index(drop=True).map(_escaped)
    for name in table.columns[right]:
        words[name] = words[name].str.replace(r"^-(?=\d)", "$-$", regex=True)
    text = words.style.hide(axis="index").format_index(_escaped, axis="columns").to_latex(
        column_format="".join("r" if r else "p{5cm}" if n else "l" for r, n in zip(right, long, strict=True)),
        caption=_escaped(caption) or None, label=label or None, hrules=True,
        position_float="centering" if caption or label else None,
    )  # fmt: skip
    block, lines = [name for name in BLOCK[:2] if name in table], text.splitlines()
    starts = (table[block] != table[block].shift()).any(axis=1).to_numpy().nonzero()[0] if block else []
    for row in reversed([row for row in starts if row]):
        lines.insert(lines.index(r"\midrule") + 1 + row, r"\midrule")
    return "\n".join(lines) + "\n"


def _best(table: pd.DataFrame) -> pd.DataFrame:
    """CSS: bold for the best printed value of a metric, if at least two lines of the block have one."""
    css = pd.DataFrame("", index=table.index, columns=table.columns)
    block = [name for name in BLOCK if name in table]
    for name in table:
        metric = _metric(name)
        if metric and name in (metric.name, metric.alone) and pd.api.types.is_numeric_dtype(table[name]):
            values = table[name].round(metric.digits)
            groups = values.groupby([table[key] for key in block]) if block else values.groupby(lambda _: 0)
            best = groups.transform("max" if metric.larger_is_better else "min")
            css.loc[(values == best) & (groups.transform("count") > 1), name] = "font-weight: bold"
    return css


def _colour(value: float, limit: float) -> str:
    """CSS: blue below zero, white at zero, orange above; text dark or light by contrast."""
    if pd.isna(value):
        return ""
    share = min(1.0, abs(value) / limit) if limit else 0.0
    red, green, blue = (round(255 + share * (c - 255)) for c in (BLUE if value < 0 else ORANGE))
    light = 0.299 * red + 0.587 * green + 0.114 * blue > 140
    return f"background-color: #{red:02x}{green:02x}{blue:02x}; color: {'#000000' if light else '#ffffff'}"


def styled(table: pd.DataFrame) -> Styler:
    """The table for a notebook: best of each block bold, differences blue below 0 and orange above."""
    table = table.reset_index(drop=True)
    differences = [name for name in table if str(name).endswith("difference")]
    limit = table[differences].abs().max().max() if differences else 0.0
    view = table.style.format({name: (lambda v, n=name: _text(n, v)) for name in table}).hide(axis="index")
    view = view.apply(_best, axis=None).map(lambda v: _colour(v, limit), subset=differences)
    words = [name for name in WORDS if name in table]
    return view.set_properties(subset=words, **{"color": "#767676", "font-size": "85%", "text-align": "left"})


def _decimals(value: float) -> str:
    """Four decimals; three significant digits below 0.001."""
    return f"{value:.4f}" if value == 0 or abs(value) >= 0.001 else f"{value:.3g}"


def write_table(path: Path | str, table: pd.DataFrame) -> None:
    """Write the table as CSV with four decimals, atomically."""
    with files.atomic(path) as temporary:
        table.to_csv(temporary, index=False, float_format=_decimals, lineterminator="\n")


def read_table(path: Path | str) -> pd.DataFrame:
    """Read a table of `write_table`. Raises FileNotFoundError if it is missing."""
    table = pd.read_csv(path, dtype={"fold": str, **dict.fromkeys(WORDS, str)}, keep_default_na=False, na_values=[""])
    return table.fillna(dict.fromkeys((name for name in WORDS if name in table), ""))


def write_all(
    folder: Path | str, name: str, table: pd.DataFrame, caption: str = "", label: str = ""
) -> tuple[Path, Path, Path]:
    """Write <name>.csv, .md and .tex into the folder, each atomically; return the paths."""
    csv, markdown, latex = (Path(folder) / f"{name}.{kind}" for kind in ("csv", "md", "tex"))
    write_table(csv, table)
    files.write_text(markdown, to_markdown(table))
    files.write_text(latex, to_latex(table, caption, label))
    return csv, markdown, latex

"""Tables for notebooks, Markdown, LaTeX and CSV.

Digits: those of the metric in `METRICS`, two for seconds, none for counts and megabytes. CSV keeps four decimals.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from functools import partial
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


def metric_of(name: Hashable) -> Metric | None:
    """The metric of a column such as "mIoU", "IoU", "mIoU low" or "mIoU difference"."""
    known = {name: metric for metric in METRICS.values() for name in (metric.name, metric.alone)}
    return known.get(str(name)) or known.get(str(name).rpartition(" ")[0])


def cell_text(name: Hashable, value: Any) -> str:
    """The text of one cell."""
    if isinstance(value, str):
        return " ".join(value.split())  # on one line
    if pd.isna(value):
        return "" if name in WORDS else "-"
    if name == "p":
        return "< 0.001" if value < 0.001 else f"{value:.3f}"
    if name in DIGITS or isinstance(value, float):
        metric = metric_of(name)
        text = f"{value:.{metric.digits if metric else DIGITS.get(str(name), 1)}f}"
        return text.lstrip("-") if float(text) == 0 else text  # no minus before a zero
    return str(value)


def formatted(table: pd.DataFrame) -> pd.DataFrame:
    """The table as text: one decimal unless the metric has others, two for seconds, "-" for a missing value."""
    text = {name: [cell_text(name, value) for value in table[name]] for name in table}
    return pd.DataFrame(text, index=table.index, dtype=object)


def _numeric(table: pd.DataFrame) -> list[bool]:
    return [bool(pd.api.types.is_numeric_dtype(table[name])) for name in table]


def to_markdown(table: pd.DataFrame) -> str:
    """The table in Markdown, cells as in `formatted`, numbers right-aligned."""
    rule = ["---:" if right else "---" for right in _numeric(table)]
    cells = [[str(name) for name in table], *formatted(table).to_numpy().tolist()]
    words = [[cell.replace("|", r"\|") for cell in line] for line in cells]
    return "".join(f"| {' | '.join(line)} |\n" for line in (words[0], rule, *words[1:]))


def to_latex(table: pd.DataFrame) -> str:
    """The table in LaTeX (booktabs): text escaped, long notes wrapped, a rule between benchmarks and shots."""
    long = [name in WORDS and bool((table[name].astype(str).str.len() > LONG).any()) for name in table]
    kinds = zip(_numeric(table), long, strict=True)
    alignment = "".join("r" if right else "p{5cm}" if wrapped else "l" for right, wrapped in kinds)
    words = formatted(table).replace("-", "--").reset_index(drop=True).style.hide(axis="index")
    text = words.format(escape="latex").format_index(escape="latex", axis="columns").to_latex(
        column_format=alignment, hrules=True
    )  # fmt: skip
    text = re.sub(r"VC\\_(\d+)", r"VC$_{\1}$", text).replace("< 0.001", "$<$ 0.001")
    lines = re.sub(r"(?<=& )-(?=\d)", "$-$", text).splitlines()
    block = [name for name in BLOCK[:2] if name in table]
    starts = (table[block] != table[block].shift()).any(axis=1).to_numpy().nonzero()[0] if block else []
    for row in reversed(starts[1:]):
        lines.insert(lines.index(r"\midrule") + 1 + row, r"\midrule")
    return "\n".join(lines) + "\n"


def _best(table: pd.DataFrame) -> pd.DataFrame:
    """CSS: bold for the best printed value of a metric, if at least two lines of the block have one."""
    css = pd.DataFrame("", index=table.index, columns=table.columns)
    block = [table[name] for name in BLOCK if name in table] or [pd.Series(0, index=table.index)]
    for name in table:
        metric = metric_of(name)
        if metric and name in (metric.name, metric.alone) and pd.api.types.is_numeric_dtype(table[name]):
            values = table[name].round(metric.digits)
            groups = values.groupby(block)
            best = groups.transform("max" if metric.larger_is_better else "min")
            css.loc[(values == best) & (groups.transform("count") > 1), name] = "font-weight: bold"
    return css


def styled(table: pd.DataFrame) -> Styler:
    """The table for a notebook: best of each block bold, differences purple below 0 and orange above."""
    table = table.reset_index(drop=True)
    differences = [name for name in table if str(name).endswith("difference")]
    limit = table[differences].abs().max().max() or 1.0
    view = table.style.format({name: partial(cell_text, name) for name in table}).hide(axis="index")
    view = view.apply(_best, axis=None)
    view = view.background_gradient("PuOr_r", subset=differences, vmin=-limit, vmax=limit)
    view = view.highlight_null(subset=differences, props="background-color: inherit; color: inherit")
    words = [name for name in WORDS if name in table]
    return view.set_properties(subset=words, **{"color": "#767676", "font-size": "85%", "text-align": "left"})


def _decimals(value: float) -> str:
    return f"{value:.4f}" if value == 0 or abs(value) >= 0.001 else f"{value:.3g}"


def write_table(path: Path | str, table: pd.DataFrame) -> None:
    """Write the table as CSV with four decimals, atomically."""
    with files.atomic(path) as temporary:
        table.to_csv(temporary, index=False, float_format=_decimals, lineterminator="\n")


def read_table(path: Path | str) -> pd.DataFrame:
    """Read a table of `write_table`. Raises FileNotFoundError if it is missing."""
    table = pd.read_csv(path, dtype={"fold": str, **dict.fromkeys(WORDS, str)}, keep_default_na=False, na_values=[""])
    return table.fillna(dict.fromkeys((name for name in WORDS if name in table), ""))


def write_all(folder: Path | str, name: str, table: pd.DataFrame) -> tuple[Path, Path, Path]:
    """Write <name>.csv, .md and .tex into the folder, each atomically; return the paths."""
    csv, markdown, latex = (Path(folder) / f"{name}.{kind}" for kind in ("csv", "md", "tex"))
    write_table(csv, table)
    files.write_text(markdown, to_markdown(table))
    files.write_text(latex, to_latex(table))
    return csv, markdown, latex

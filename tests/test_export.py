"""The same table as text, Markdown, LaTeX, CSV and in a notebook: right digits, right marks, nothing broken."""

import re

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ttilib.results import export
from ttilib.results.metrics import METRICS, Metric

NAN = float("nan")
COLUMNS = ["benchmark", "shots", "method", "mIoU", "J&F", "VC_3", "mIoU reported", "mIoU difference"]
LINES = [
    ("ytvis-v1", 5, "TTI", 60.04, 50.0, 80.0, 59.96, 0.04, 1.234, 812.4, 1e-9, "100% read\n| twice"),
    ("ytvis-v1", 5, "TTI temporal_weight=0.5", 59.96, 51.0, 79.96, NAN, -4.0, 2.0, 100.0, 0.109375, ""),
    ("ytvis-v1", 1, "TTI", 30.0, 52.0, 10.0, NAN, 2.0, 0.5, 5.0, 1.0, None),
    ("coco", 1, "a & b", *[NAN] * 8, "x" * 41),
]
TABLE = pd.DataFrame(LINES, columns=[*COLUMNS, "s/episode", "MB/episode", "p", "source"])


@pytest.fixture
def error(monkeypatch):
    monkeypatch.setitem(METRICS, "error", Metric("error", percent=False, digits=2, larger_is_better=False))


def test_markdown_has_the_digits_of_each_column(error):
    table = TABLE.assign(error=[0.126, 0.134, 2, NAN])
    assert export.to_markdown(table).splitlines() == [
        f"| {' | '.join(table.columns)} |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- | ---: |",
        r"| ytvis-v1 | 5 | TTI | 60.0 | 50.0 | 80.0 | 60.0 | 0.0 | 1.23 | 812 | < 0.001 | 100% read \| twice | 0.13 |",
        "| ytvis-v1 | 5 | TTI temporal_weight=0.5 | 60.0 | 51.0 | 80.0 | - | -4.0 | 2.00 | 100 | 0.109 |  | 0.13 |",
        "| ytvis-v1 | 1 | TTI | 30.0 | 52.0 | 10.0 | - | 2.0 | 0.50 | 5 | 1.000 |  | 2.00 |",
        f"| coco | 1 | a & b | - | - | - | - | - | - | - | - | {'x' * 41} | - |",
    ]
    assert export.formatted(pd.DataFrame({"mIoU difference": [-0.04]})).values.tolist() == [["0.0"]]


def test_latex_has_rules_between_blocks():
    lines = export.to_latex(TABLE).splitlines()
    assert [n for n, line in enumerate(lines) if line == r"\midrule"] == [3, 6, 8]  # header, shots, benchmark
    assert lines[5].startswith(r"ytvis-v1 & 5 & TTI temporal\_weight=0.5 & 60.0 & 51.0 & 80.0 & -- & $-$4.0 &")


@settings(max_examples=40)
@given(st.text(alphabet="ab_&%$#{}~^\\0-\n\t ", max_size=12))
def test_no_text_breaks_a_latex_table(text):
    (line,) = export.to_latex(pd.DataFrame({"a": [text], "b": ["c"]})).splitlines()[4:-2]
    cell, rest = line.removesuffix(r"\\").rsplit(" & ", 1)
    assert rest == "c "
    bare = re.sub(r"\\(textbackslash|textasciitilde|textasciicircum) ?|\\space|\\[&%$#_{}]|\{\}", "", cell)
    assert not re.search(r"[&%$#_{}~^\\]", bare)


def bold(table):
    """(row, column) of the bold cells."""
    css = export.styled(table)._compute().ctx
    return sorted((row, table.columns[at]) for (row, at), body in css.items() if ("font-weight", "bold") in body)


def test_the_best_printed_value_of_a_block_is_bold(error):
    # a block has the same benchmark and shots
    table = TABLE.assign(error=[3.0, 2.0, 1.0, NAN])
    assert bold(table) == [(0, "VC_3"), (0, "mIoU"), (1, "J&F"), (1, "VC_3"), (1, "error"), (1, "mIoU")]
    folds = pd.DataFrame({"benchmark": "b", "fold": ["0", "mean"] * 2, "mIoU": [1.0, 9.0, 2.0, 8.0]})
    assert bold(folds) == [(1, "mIoU"), (2, "mIoU")]


def test_tables_survive_the_disk(tmp_path):
    table = TABLE.assign(fold=["0", "1", "mean", "0"], q=[1.0, 3.21e-7, 0.0, NAN], note=["", "none", "NA", ""])
    table["source"] = table["source"].fillna("")
    paths = export.write_all(tmp_path / "new", "ytvis.v1", table)
    assert sorted(path.name for path in paths) == sorted(path.name for path in (tmp_path / "new").iterdir())
    again = export.read_table(tmp_path / "new" / "ytvis.v1.csv")
    pd.testing.assert_frame_equal(again, table, check_exact=False, rtol=0, atol=1e-4, check_dtype=False)
    assert again["q"][1] == 3.21e-7 and again["q"][2] == 0
    assert (tmp_path / "new" / "ytvis.v1.md").read_text() == export.to_markdown(table)

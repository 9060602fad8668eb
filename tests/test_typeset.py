"""The same table as text, Markdown, LaTeX, CSV and in a notebook: right digits, right marks, nothing broken."""

import re

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ttilib.results import export

NAN = float("nan")
TABLE = pd.DataFrame(
    {
        "benchmark": ["ytvis-v1", "ytvis-v1", "ytvis-v1", "coco"],
        "shots": [5, 5, 1, 1],
        "method": ["TTI", "TTI temporal_weight=0.5", "TTI", "a & b"],
        "folds": [4, 4, 1, 0],
        "mIoU": [60.04, 59.96, 30.0, NAN],
        "J&F": [50.0, 51.0, 52.0, NAN],
        "VC_3": [80.0, 79.96, 10.0, NAN],
        "mIoU reported": [59.96, NAN, NAN, NAN],
        "mIoU difference": [0.08, -4.0, 2.0, NAN],
        "s/episode": [1.234, 2.0, 0.5, NAN],
        "MB/episode": [812.4, 100.0, 5.0, NAN],
        "source": ["100% read", "", "", ""],
    }
)


# ---- text ----------------------------------------------------------------------------------------------


def test_printed_tables_have_one_decimal():
    table = pd.DataFrame({"method": ["a|b", "c\nd | e"], "mIoU": [59.96, NAN], "folds": [4, 1]})
    table = table.assign(**{"s/episode": [1.234, 2.0], "MB/episode": [9.6, NAN]})
    assert export.to_markdown(table).splitlines() == [
        "| method | mIoU | folds | s/episode | MB/episode |",
        "| --- | ---: | ---: | ---: | ---: |",
        r"| a\|b | 60.0 | 4 | 1.23 | 10 |",
        r"| c d \| e | - | 1 | 2.00 | - |",
    ]


def test_odd_cells():
    table = pd.DataFrame(
        {
            "p": [0.109375, 1e-9, 1.0], "episodes": [3.0, NAN, 12.0], "mIoU difference": [-0.04, -0.06, 0.04],
            "note": [None, "x", ""], "run": [0, 1, 2],
        }
    )  # fmt: skip
    text = export.formatted(table)
    assert text["p"].tolist() == ["0.109", "< 0.001", "1.000"]
    assert text["episodes"].tolist() == ["3", "-", "12"]
    assert text["mIoU difference"].tolist() == ["0.0", "-0.1", "0.0"]  # no minus before a zero
    assert text["note"].tolist() == ["", "x", ""] and text["run"].tolist() == ["0", "1", "2"]


# ---- LaTeX ---------------------------------------------------------------------------------------------


def test_latex_has_the_shape_of_a_booktabs_table():
    text = export.to_latex(TABLE, "Scores in %", "tab:scores")
    lines = text.splitlines()
    assert lines[:3] == [r"\begin{table}", r"\centering", r"\caption{Scores in \%}"]
    assert lines[3:6] == [r"\label{tab:scores}", r"\begin{tabular}{lrlrrrrrrrrl}", r"\toprule"]
    assert lines[-3:] == [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    header = r"benchmark & shots & method & folds & mIoU & J\&F & VC$_3$ & mIoU reported & mIoU difference"
    assert lines[6] == header + r" & s/episode & MB/episode & source \\"
    rules = [place for place, line in enumerate(lines) if line == r"\midrule"]
    assert rules == [7, 10, 12]  # under the header, between 5 shots and 1, between benchmarks
    assert lines[9].startswith(r"ytvis-v1 & 5 & TTI temporal\_weight=0.5 & 4 & 60.0 & 51.0 & 80.0 & -- & $-$4.0 &")
    assert lines[13] == r"coco & 1 & a \& b & 0 & -- & -- & -- & -- & -- & -- & -- &  \\"
    assert all(len(re.findall(r"(?<!\\)&", line)) == 11 for line in lines if line.endswith(r"\\"))


def test_latex_without_caption_is_the_tabular_alone():
    text = export.to_latex(TABLE[["method", "mIoU"]])
    assert text.startswith(r"\begin{tabular}{lr}") and text.endswith("\\end{tabular}\n")
    assert text.count(r"\midrule") == 1 and "caption" not in text and "label" not in text


def test_latex_breaks_long_notes():
    table = pd.DataFrame({"mIoU": [1.0, 2.0], "note": ["short", "x" * 41], "source": ["x" * 40, ""]})
    assert export.to_latex(table).startswith(r"\begin{tabular}{rp{5cm}l}")


@pytest.mark.parametrize(
    "text, latex",
    [
        ("VC_11 released", "VC$_{11}$ released"),
        ("VC_3 low", "VC$_3$ low"),
        ("50% of $x_1$ #2", r"50\% of \$x\_1\$ \#2"),
        ("a\\b{c}~^", r"a\textbackslash{}b\{c\}\textasciitilde{}\textasciicircum{}"),
        ("p < 0.001 | ± 2 > 1", r"p $<$ 0.001 $|$ $\pm$ 2 $>$ 1"),
        ("two\nlines", "two lines"),
        ("[1] a*", "{[}1{]} a{*}"),  # after \\\\ they would be an argument
        ("TTI - RePRI", "TTI - RePRI"),
        ("", ""),
    ],
)
def test_latex_specials(text, latex):
    assert latex in export.to_latex(pd.DataFrame({"method": [text]}))
    assert not text or rf"\caption{{{latex}}}" in export.to_latex(pd.DataFrame({"method": ["x"]}), caption=text)


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="ab_&%$#{}~^\\|<>0-\n\t ", max_size=12))
def test_no_text_breaks_a_latex_table(text):
    (line,) = export.to_latex(pd.DataFrame({"a": [text], "b": ["c"]})).splitlines()[4:-2]
    cell, rest = line.removesuffix(r"\\").rsplit(" & ", 1)
    assert rest == "c "
    bare = re.sub(r"\\(textbackslash|textasciitilde|textasciicircum)\{\}|\\[&%$#_{}]|\$[<>|]\$", "", cell)
    assert not re.search(r"[&%$#_{}~^\\<>|]", bare)


# ---- in a notebook -------------------------------------------------------------------------------------


def cells(styler):
    """Text and CSS of every cell, as the notebook's page has them."""
    page = styler.to_html()
    css = {}
    for names, body in re.findall(r"((?:#T_\w+_row\d+_col\d+(?:, )?)+) \{\s*([^}]*)\}", page):
        for place in re.findall(r"row(\d+)_col(\d+)", names):
            css[tuple(map(int, place))] = " ".join(body.split())
    text = {(int(r), int(c)): t for r, c, t in re.findall(r'<td id="T_\w+_row(\d+)_col(\d+)"[^>]*>([^<]*)</td>', page)}
    return text, css


def bold(css, column):
    place = TABLE.columns.get_loc(column)
    return [row for row in range(len(TABLE)) if "bold" in css.get((row, place), "")]


def test_styled_prints_as_formatted_and_marks_the_best_of_a_block():
    text, css = cells(export.styled(TABLE))
    words = export.formatted(TABLE).replace("&", "&amp;", regex=True)
    for (row, column), found in text.items():
        assert found.replace("&amp;", "&") == words.iloc[row, column].replace("&amp;", "&")
    assert len(text) == TABLE.size
    assert bold(css, "mIoU") == [0, 1]  # equal as printed
    assert bold(css, "J&F") == [1] and bold(css, "VC_3") == [0, 1]
    assert not any(bold(css, name) for name in ("folds", "s/episode", "mIoU reported", "mIoU difference", "shots"))


def test_precision_and_recall_are_percent_of_which_more_is_better():
    shares = {"precision": [61.24, 59.0], "recall": [30.0, 70.06]}
    table = pd.DataFrame({"method": ["a", "b"], **shares, "predicted": [9, 8]})
    assert export.to_markdown(table).splitlines()[2:] == ["| a | 61.2 | 30.0 | 9 |", "| b | 59.0 | 70.1 | 8 |"]
    _, css = cells(export.styled(table))
    assert sorted(place for place, body in css.items() if "bold" in body) == [(0, 1), (1, 2)]


def test_differences_are_coloured_about_zero_with_readable_text():
    _, css = cells(export.styled(TABLE))
    place = TABLE.columns.get_loc("mIoU difference")
    found = [re.findall(r"color: #(\w{6})", css.get((row, place), "")) for row in range(4)]
    assert found[1] == ["0072b2", "ffffff"]  # -4, the largest: full blue, white text
    assert found[3] == []  # nothing there, no colour
    up, little = (tuple(bytes.fromhex(found[row][0])) for row in (2, 0))
    assert up == (242, 207, 128)  # half of the way from white to orange
    assert min(little) > 245 and found[2][1] == found[0][1] == "000000"


@pytest.mark.parametrize("value", [-3.0, -2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 3.0])
def test_text_on_colour_has_contrast(value):
    background, text = re.findall(r"#(\w{6})", export._colour(value, 3.0))

    def luminance(colour):
        parts = [c / 255 for c in bytes.fromhex(colour)]
        red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    dark, light = sorted(map(luminance, (background, text)))
    assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_styled_takes_tables_without_differences_notes_or_blocks():
    text, css = cells(export.styled(pd.DataFrame({"method": ["a", "b"], "mIoU": [NAN, 3.0]}, index=[7, 7])))
    assert text == {(0, 0): "a", (0, 1): "-", (1, 0): "b", (1, 1): "3.0"} and css == {}
    one = pd.DataFrame({"mIoU difference": [0.0, NAN], "note": ["x", None]})
    text, css = cells(export.styled(one))
    assert "#ffffff" in css[0, 0] and "#767676" in css[0, 1] and text[1, 1] == ""


def test_folds_and_classes_are_blocks_of_their_own():
    table = pd.DataFrame({"benchmark": "b", "fold": ["0", "mean"] * 2, "mIoU": [1.0, 9.0, 2.0, 8.0]})
    _, css = cells(export.styled(table))
    assert sorted(place for place, body in css.items() if "bold" in body) == [(1, 2), (2, 2)]
    _, css = cells(export.styled(table.assign(class_id=[1, 1, 1, 2])))
    assert sorted(place for place, body in css.items() if "bold" in body) == [(2, 2)]


# ---- on disk -------------------------------------------------------------------------------------------


def test_tables_survive_the_disk(tmp_path):
    path = tmp_path / "tables" / "mini.csv"
    table = TABLE.assign(fold=["0", "1", "mean", "0"], p=[1.0, 3.21e-7, 0.0, NAN], note=["", "none", "NA", ""])
    export.write_table(path, table)
    again = export.read_table(path)
    pd.testing.assert_frame_equal(again, table, check_exact=False, rtol=0, atol=1e-4, check_dtype=False)
    assert again["p"][1] == 3.21e-7 and again["p"][2] == 0
    assert path.read_bytes().count(b"\r") == 0 and [p.name for p in path.parent.iterdir()] == ["mini.csv"]
    assert path.read_text().splitlines()[1].startswith("ytvis-v1,5,TTI,4,60.0400,50.0000,80.0000,59.9600,0.0800,1.2340")
    with pytest.raises(FileNotFoundError, match=r"other\.csv"):
        export.read_table(tmp_path / "other.csv")


def test_write_all_writes_three_whole_files(tmp_path):
    paths = export.write_all(tmp_path / "new", "ytvis.v1", TABLE, caption="All")
    assert [path.name for path in paths] == ["ytvis.v1.csv", "ytvis.v1.md", "ytvis.v1.tex"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(path.name for path in paths)
    assert paths[1].read_text() == export.to_markdown(TABLE)
    assert paths[2].read_text() == export.to_latex(TABLE, "All")
    assert len(export.read_table(paths[0])) == len(TABLE)

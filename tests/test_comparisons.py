"""Methods against each other: every mark lies where its number says."""

from __future__ import annotations

import re

import matplotlib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from ttilib.plots import comparisons, curves, style


@pytest.fixture
def ax():
    figure = Figure(figsize=(3.35, 2.4), layout="constrained")
    FigureCanvasAgg(figure)
    return figure.subplots()


def table(*lines, **same):
    """A table from (shots, method, figures) lines."""
    about = {"benchmark": "pascal", "encoder": "resnet50", **same}
    return pd.DataFrame([{**about, "shots": k, "method": method, **figures} for k, method, figures in lines])


def texts(ax):
    return [text.get_text() for text in ax.texts]


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def rows_of(ax):
    """What stands at the left, from the top: text and whether it is bold."""
    return [(label.get_text(), label.get_fontweight() == "bold") for label in ax.get_yticklabels()]


def dots(ax):
    """Where the dots are: (figure, row)."""
    drawn = [line for line in ax.lines if line.get_marker() not in ("", "None") and len(line.get_xdata())]
    return [(float(x), float(y)) for line in drawn for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)]


def test_blocks_are_what_may_be_compared_and_titles_say_what_differs():
    one = table((1, "TTI", {}), (1, "RePRI", {}))
    assert [(title, len(part)) for title, part in comparisons.blocks(one)] == [("", 2)]
    several = pd.concat(
        [table((5, "TTI", {}), (1, "TTI", {}), (5, "RePRI", {})), table((1, "TTI", {}), encoder="resnet101")]
    )
    found = [(title, list(part["method"])) for title, part in comparisons.blocks(several)]
    both = ["TTI", "RePRI"]
    assert found == [("5-shot, resnet50", both), ("1-shot, resnet50", ["TTI"]), ("1-shot, resnet101", ["TTI"])]


def test_estimates_draw_figure_interval_and_number_under_headings(ax):
    nothing = {"mIoU": np.nan, "mIoU low": np.nan, "mIoU high": np.nan}
    lines = table(
        (1, "RePRI", {"mIoU": 40.04, "mIoU low": 38.0, "mIoU high": 43.0}), (5, "RePRI", nothing),
        (5, "TTI", {"mIoU": 50.0, "mIoU low": 49.0, "mIoU high": 51.5}),
    )  # fmt: skip
    comparisons.estimates(ax, lines)
    assert rows_of(ax) == [("1-shot", True), ("RePRI", False), ("5-shot", True), ("RePRI", False), ("TTI", False)]
    assert dots(ax) == [(40.04, 1), (50.0, 4)]
    spans = [tuple(line.get_xdata()) for line in ax.lines if len(line.get_xdata()) == 2]
    assert spans == [(38.0, 43.0), (49.0, 51.5)]
    assert texts(ax) == ["40.0", "-", "50.0"]
    lower, upper = ax.get_ylim()
    assert lower > upper  # the first line is on top
    assert to_rgb(ax.lines[-1].get_color()) == to_rgb(style.STYLES["TTI"]["color"])


def test_estimates_without_intervals_are_dots(ax):
    comparisons.estimates(ax, table((1, "TTI", {"J": 10.0})), "J")
    assert dots(ax) == [(10.0, 0)] and ax.get_xlabel() == "J [percent]"


def gain(k, method, value, better, worse, p, episodes=20):
    return (k, method, {"mIoU": value, "mIoU low": value - 1, "mIoU high": value + 2, "better": better,
                        "worse": worse, "p": p, "episodes": episodes})  # fmt: skip


def test_forest_names_the_shared_baseline_once(ax):
    lines = table(
        gain(1, "TTI - RePRI", 0.5, 15, 5, 0.0414, 10000), gain(1, "TTI noise=-0.2 - RePRI", -1, 0, 0, 1.0),
        gain(5, "TTI - RePRI", 2, 9, 0, 0.0039),
    )  # fmt: skip
    comparisons.forest(ax, lines)
    assert [text for text, _ in rows_of(ax)] == ["1-shot", "TTI", "TTI noise=-0.2", "5-shot", "TTI"]
    assert dots(ax) == [(0.5, 1), (-1, 2), (2, 4)]
    assert ax.get_xlabel() == "gain in mIoU over RePRI [points]"
    cells = ["10,000", "75%", ".041", "20", "-", "1.00", "20", "100%", ".004"]
    assert texts(ax) == [*cells, "n", "won", "p"]
    zero = [line for line in ax.lines if list(line.get_xdata()) == [0, 0]]
    assert len(zero) == 1
    assert ax.get_xlim()[0] < -2 and ax.get_xlim()[1] > 4
    ax.figure.canvas.draw()


def test_forest_keeps_whole_names_if_baselines_differ(ax):
    comparisons.forest(ax, table(gain(1, "TTI - RePRI", 1, 1, 1, 1.0), gain(1, "TTI - fine-tune", 2, 1, 1, 1.0)))
    assert rows_of(ax) == [("TTI - RePRI", False), ("TTI - fine-tune", False)]
    assert ax.get_xlabel() == "gain in mIoU [points]"


def test_columns_of_a_forest_do_not_overlap():
    with style.paper_style():
        figure, (ax,) = style.panels(1)
        comparisons.forest(ax, table(gain(5, "TTI - RePRI", 1, 4999, 5001, 0.99, 10000)))
        figure.canvas.draw()
        boxes = [text.get_window_extent() for text in ax.texts[:3]]
        for left, right in zip(boxes, boxes[1:], strict=False):
            assert left.x1 < right.x0
        assert boxes[0].x0 > ax.get_window_extent().x1 and boxes[2].x1 <= figure.bbox.x1 + 1


@pytest.mark.parametrize(
    ("p", "words"),
    [(1.0, "1.00"), (0.8036, ".80"), (0.0994, ".099"), (0.0996, ".10"), (0.0414, ".041"), (0.0005, ".001"),
     (0.000499, "<.001"), (0.0, "<.001"), (0.998, "1.00"), (float("nan"), "-")],
)  # fmt: skip
def test_p_is_printed_as_in_papers(p, words):
    assert comparisons.p_words(p) == words


@settings(deadline=None)
@given(st.floats(0, 1))
def test_a_printed_p_is_near_its_value_and_never_zero(p):
    words = comparisons.p_words(p)
    assert re.fullmatch(r"<\.001|\.\d\d\d|\.\d\d|1\.00", words) and float(words.lstrip("<")) > 0
    assert float(words.lstrip("<")) == pytest.approx(p, abs=0.0051)


def runs_of(method, values, fold=0, k=1):
    return [(k, method, {"fold": fold, "run": run, "mIoU": value}) for run, value in enumerate(values)]


def test_run_dots_are_means_over_folds_of_whole_runs(ax):
    spread = table(
        *runs_of("RePRI", [10.0, 20.0, 99.0]), *runs_of("RePRI", [30.0, 60.0], fold=1),
        *runs_of("TTI", [11.0, 31.0]), *runs_of("TTI", [33.0, 51.0], fold=1),
    )  # fmt: skip
    comparisons.run_dots(ax, spread.sample(frac=1, random_state=1).sort_values("method", kind="stable"))
    assert sorted(dots(ax)) == [(20, 0), (22, 1), (40, 0), (41, 1)]  # the third run lacks a fold
    spans = [list(line.get_xdata()) for line in ax.lines if line.get_marker() in ("", "None")]
    assert [span[0] for span in spans if span == [span[0]] * 2] == [30, 31.5]
    threads = [list(line.get_xdata()) for line in ax.lines if to_rgb(line.get_color()) == to_rgb("0.8")]
    assert sorted(threads) == [[20, 22], [40, 41]]  # each run through the methods


def test_run_dots_stack_blocks_and_take_a_single_run(ax):
    comparisons.run_dots(ax, table(*runs_of("TTI", [10.0]), *runs_of("TTI", [20.0], k=5)), "mIoU")
    assert [text for text, _ in rows_of(ax)] == ["1-shot", "TTI", "5-shot", "TTI"]
    assert sorted(dots(ax)) == [(10, 1), (20, 3)]


def test_poolings_join_a_methods_figures_and_want_one_block(ax):
    scores = table((1, "RePRI", {"mIoU": 30.0, "J": 20.0}), (1, "TTI", {"mIoU": 25.0, "J": 40.0}))
    comparisons.poolings(ax, scores)
    assert [list(line.get_ydata()) for line in ax.lines] == [[30, 20], [25, 40]]
    assert sorted(texts(ax)) == ["RePRI", "TTI"]
    with pytest.raises(ValueError, match=r"the table has 1-shot; 5-shot; draw one of them per axes"):
        comparisons.poolings(ax, pd.concat([scores, scores.assign(shots=5)]))


def test_cost_runs_from_cheap_to_dear_and_names_each_method_once(ax):
    scores = table(
        (1, "TTI", {"s/episode": 2.0, "mIoU": 30.0}), (1, "RePRI", {"s/episode": 0.5, "mIoU": 25.0}),
        (5, "TTI", {"s/episode": 4.0, "mIoU": 50.0}), (5, "fine-tune", {"s/episode": np.nan, "mIoU": 40.0}),
        (5, "oracle", {"s/episode": 9.0, "mIoU": np.nan}),
    )  # fmt: skip
    comparisons.cost_accuracy(ax, scores)
    assert ax.get_xscale() == "log"
    assert list(ax.lines[0].get_xdata()) == [0.5, 2.0] and list(ax.lines[0].get_ydata()) == [25, 30]
    assert {text.get_text(): text.xy for text in ax.texts} == {"1-shot": (2.0, 30.0), "5-shot": (4.0, 50.0)}
    assert legend(ax) == ["RePRI", "TTI"]


@pytest.mark.parametrize("costs", [(0.05, 2.1), (4.3, 6.3), (0.01, 90.0)])
def test_a_cost_axis_has_some_numbers_between_its_limits(ax, costs):
    comparisons.cost_accuracy(ax, table(*((1, f"m{c}", {"s/episode": c, "mIoU": c}) for c in costs)))
    low, high = ax.get_xlim()
    assert 2 <= sum(low <= tick <= high for tick in ax.get_xticks()) <= 20


def test_of_many_methods_the_front_is_named_and_nothing_joined(ax):
    figures = {"RePRI": (1.0, 30.0), "a": (2.0, 35.0), "b": (3.0, 34.0), "c": (4.0, 36.0), "TTI": (9.0, 20.0)}
    figures |= {f"dear {n}": (10.0 + n, 10.0) for n in range(4)}
    many = table(*((1, name, {"s/episode": cost, "mIoU": value}) for name, (cost, value) in figures.items()))
    comparisons.cost_accuracy(ax, many)
    assert sorted(legend(ax)) == ["RePRI", "TTI", "a", "c"]
    assert len(ax.lines) == 9 == len(dots(ax))


def test_twenty_methods_have_looks_and_the_first_seven_differ():
    names = ["RePRI", "TTI", *(f"TTI window={n}" for n in range(18))]
    looks = style.styles(names)
    assert list(looks) == names
    colours = [look["color"] for look in looks.values()]
    assert len(set(colours[:7])) == 7 and set(colours[7:]) == {"#8C8C8C"}
    assert len({look["marker"] for look in list(looks.values())[7:16]}) == 9
    lines = [look for name, look in style.STYLES.items() if name != "truth"] + list(style.SPARE)
    for key in ("color", "marker", "linestyle"):
        assert len({str(look[key]) for look in lines}) == 10, key


def test_text_follows_the_readers_size(ax):
    with style.paper_style():
        assert style.text_size() == 8 and style.text_size(0.5) == 4
    ax.plot([0.5], label="TTI")
    style.label_ends(ax)
    assert ax.texts[0].get_fontsize() == pytest.approx(0.95 * matplotlib.rcParams["font.size"])


def test_bars_of_classes_have_error_bars_at_their_own_bar(ax):
    lines = pd.DataFrame({"method": ["RePRI", "RePRI", "TTI"], "class_name": ["bird", "fish", "fish"],
                          "IoU": [70.0, 10.0, 60.0], "± IoU": [5.0, np.nan, 2.0]})  # fmt: skip
    lines["IoU low"], lines["IoU high"] = lines["IoU"] - [5, 1, 4], lines["IoU"] + [5, 1, 2]
    lines.loc[1, "IoU low"] = np.nan
    comparisons.per_class_bars(ax, lines)
    spans = [segment for collection in ax.collections for segment in collection.get_segments()]
    found = {tuple(span[:, 0]): span[0, 1] for span in spans}
    assert set(found) == {(65, 75), (56, 62)}
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert found[65, 75] == pytest.approx(names.index("bird") + 0.205)
    assert found[56, 62] == pytest.approx(names.index("fish") - 0.205)
    with pytest.raises(ValueError, match="several lines per class and method"):
        comparisons.per_class_bars(ax, pd.concat([lines, lines]))


def test_the_released_consistency_is_thin_and_unnamed(ax):
    looks = style.styles(["RePRI", "other", "TTI"])
    curves.vc_curve(ax, {"other": {3: 0.6, 5: 0.5}}, {"other": {5: 0.3, 3: 0.4}, "TTI": {3: 1.0}}, looks)
    solid, thin = ax.lines
    assert list(solid.get_ydata()) == [0.6, 0.5] and list(thin.get_ydata()) == [0.4, 0.3]
    assert thin.get_linewidth() < solid.get_linewidth() and thin.get_color() == looks["other"]["color"]
    assert texts(ax) == ["other"]


def test_paper_style_is_gone_after_the_block():
    before = matplotlib.rcParams.copy()
    with style.paper_style():
        assert matplotlib.rcParams["font.size"] == 8 and matplotlib.rcParams["pdf.fonttype"] == 42
    assert matplotlib.rcParams == before


@pytest.mark.parametrize(
    ("count", "columns", "inches"), [(1, 2, (3.35, 2)), (2, 2, (6.9, 2)), (3, 2, (6.9, 4)), (3, 1, (3.35, 6))]
)
def test_panels_are_as_many_as_asked_for(count, columns, inches):
    figure, axes = style.panels(count, columns, 2.0)
    assert len(axes) == count == len(figure.axes)
    assert tuple(figure.get_size_inches()) == pytest.approx(inches)
    with pytest.raises(ValueError, match="0 panels"):
        style.panels(0)


def test_a_saved_figure_is_two_files_that_do_not_change(tmp_path):
    figure, (ax,) = style.panels(1, height=1.0)
    ax.plot([1, 2], label="TTI")
    ax.set_title("a name")
    stem = tmp_path / "new" / "05_noise=0.2"
    style.save(figure, stem)
    assert sorted(path.name for path in stem.parent.iterdir()) == ["05_noise=0.2.pdf", "05_noise=0.2.png"]
    first = {path.name: path.read_bytes() for path in stem.parent.iterdir()}
    style.save(figure, stem)
    assert first == {path.name: path.read_bytes() for path in stem.parent.iterdir()}
    pdf, png = (first[f"05_noise=0.2.{kind}"] for kind in ("pdf", "png"))
    assert b"CreationDate" not in pdf and b"/Type3" not in pdf and b"/CIDFontType2" in pdf
    assert int.from_bytes(png[16:20], "big") == 670 and b"Software" not in png


def test_a_figure_that_cannot_be_drawn_leaves_the_old_one(tmp_path):
    figure, (ax,) = style.panels(1)
    style.save(figure, tmp_path / "a")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    ax.set_title("$\\nothing$")
    with pytest.raises(ValueError, match="nothing"):
        style.save(figure, tmp_path / "a")
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_a_long_name_ends_in_an_ellipsis_beside_a_figure():
    assert style.short("TTI") == "TTI" and style.short("x" * 30) == "x" * 30
    assert style.short("fine-tune temporal_weight=none local_weight=0") == "fine-tune temporal_weight=non\u2026"
    assert style.short("a b", most=3) == "a b" and style.short("ab cd", most=4) == "ab\u2026"

"""Methods against each other: every mark lies where its number says."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from ttilib.plots import comparisons, style
from ttilib.results.metrics import METRICS, Metric


@pytest.fixture
def ax():
    figure = Figure(figsize=(3.35, 2.4), layout="constrained")
    FigureCanvasAgg(figure)
    return figure.subplots()


def table(*lines, **same):
    """A table from (shots, method, values) lines."""
    about = {"benchmark": "pascal", "encoder": "resnet50", **same}
    return pd.DataFrame([{**about, "shots": k, "method": method, **values} for k, method, values in lines])


def texts(ax):
    return [text.get_text() for text in ax.texts]


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def names(ax):
    return [label.get_text() for label in ax.get_yticklabels()]


def dots(ax):
    """The dots: (value, row)."""
    drawn = [line for line in ax.lines if line.get_marker() not in ("", "None") and len(line.get_xdata())]
    return [(float(x), float(y)) for line in drawn for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)]


def test_blocks_are_what_may_be_compared_and_titles_name_what_differs():
    one = table((1, "TTI", {}), (1, "RePRI", {}))
    assert [(title, len(part)) for title, part in comparisons.blocks(one)] == [("", 2)]
    several = pd.concat(
        [table((5, "TTI", {}), (1, "TTI", {}), (5, "RePRI", {})), table((1, "TTI", {}), encoder="resnet101")]
    )
    found = [(title, list(part["method"])) for title, part in comparisons.blocks(several)]
    both = ["TTI", "RePRI"]
    assert found == [("5-shot, resnet50", both), ("1-shot, resnet50", ["TTI"]), ("1-shot, resnet101", ["TTI"])]


def test_estimates_draw_value_interval_and_number_under_headings(ax):
    nothing = {"mIoU": np.nan, "mIoU low": np.nan, "mIoU high": np.nan}
    lines = table(
        (1, "RePRI", {"mIoU": 40.04, "mIoU low": 38.0, "mIoU high": 43.0}), (5, "RePRI", nothing),
        (5, "TTI", {"mIoU": 50.0, "mIoU low": 49.0, "mIoU high": 51.5}),
    )  # fmt: skip
    comparisons.estimates(ax, lines)
    assert names(ax) == ["1-shot", "RePRI", "5-shot", "RePRI", "TTI"] and texts(ax) == ["40.0", "-", "50.0"]
    assert dots(ax) == [(40.04, 1), (50.0, 4)] and ax.yaxis_inverted()
    spans = [tuple(line.get_xdata()) for line in ax.lines if len(line.get_xdata()) == 2]
    assert spans == [(38.0, 43.0), (49.0, 51.5)]
    assert to_rgb(ax.lines[-1].get_color()) == to_rgb(style.STYLES["TTI"]["color"])


def test_digits_and_units_are_those_of_the_metric(ax, monkeypatch):
    monkeypatch.setitem(METRICS, "error", Metric("error", percent=False, digits=3))
    comparisons.estimates(ax, table((1, "TTI", {"error": 0.0123})), "error")
    assert (texts(ax), ax.get_xlabel()) == (["0.012"], "error")
    comparisons.estimates(ax, table((1, "TTI", {"VC_3": 12.34})), "VC_3")
    assert (texts(ax)[1:], ax.get_xlabel()) == (["12.3"], "VC$_{3}$ [percent]")


def gain(k, method, value, better, worse, p, episodes=20):
    return (k, method, {"mIoU": value, "mIoU low": value - 1, "mIoU high": value + 2, "better": better,
                        "worse": worse, "p": p, "episodes": episodes})  # fmt: skip


def test_forest_draws_gains_with_n_won_and_p_beside():
    lines = table(
        gain(1, "TTI - RePRI", 0.5, 15, 5, 0.0414, 10000), gain(1, "TTI noise=-0.2 - RePRI", -1, 0, 0, 1e-9),
        gain(5, "TTI - RePRI", 2, 9, 0, 0.0039),
    )  # fmt: skip
    figure, (ax,) = style.panels(1)
    comparisons.forest(ax, lines)
    assert names(ax) == ["1-shot", "TTI", "TTI noise=-0.2", "5-shot", "TTI"]
    assert dots(ax) == [(0.5, 1), (-1, 2), (2, 4)] and "over RePRI [points]" in ax.get_xlabel()
    cells = ["10,000", "75%", "0.041", "20", "-", "< 0.001", "20", "100%", "0.004"]
    assert texts(ax) == [*cells, "n", "won", "p"]
    assert ax.get_xlim()[0] < -2 and ax.get_xlim()[1] > 4
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in ax.texts[:3]]
    assert boxes[0].x1 < boxes[1].x0 and boxes[1].x1 < boxes[2].x0  # columns do not overlap
    comparisons.forest(ax, table(gain(1, "TTI - RePRI", 1, 1, 1, 1.0), gain(1, "TTI - fine-tune", 2, 1, 1, 1.0)))
    assert names(ax) == ["TTI - RePRI", "TTI - fine-tune"]  # complete if baselines differ


def runs_of(method, values, fold=0, k=1):
    return [(k, method, {"fold": fold, "run": run, "mIoU": value}) for run, value in enumerate(values)]


def test_run_dots_are_means_over_folds_of_complete_runs(ax):
    spread = table(
        *runs_of("RePRI", [10.0, 20.0, 99.0]), *runs_of("RePRI", [30.0, 60.0], fold=1),
        *runs_of("TTI", [11.0, 31.0]), *runs_of("TTI", [33.0, 51.0], fold=1), *runs_of("TTI", [5.0], k=5),
    )  # fmt: skip
    comparisons.run_dots(ax, spread)
    assert names(ax) == ["1-shot", "RePRI", "TTI", "5-shot", "TTI"]
    assert sorted(dots(ax)) == [(5, 4), (20, 1), (22, 2), (40, 1), (41, 2)]  # the third run lacks a fold
    lines = [list(line.get_xdata()) for line in ax.lines if to_rgb(line.get_color()) == to_rgb("0.8")]
    assert sorted(lines) == [[5], [20, 22], [40, 41]]  # each run through the methods
    means = [list(line.get_xdata()) for line in ax.lines if line.get_marker() in ("", "None")]
    assert [span[0] for span in means if len(span) == 2 and span[0] == span[1]] == [30, 31.5, 5]


def test_poolings_join_the_metrics_of_a_method_and_need_one_block(ax):
    scores = table((1, "RePRI", {"mIoU": 30.0, "J": 20.0}), (1, "TTI", {"mIoU": 25.0, "J": 40.0}))
    comparisons.poolings(ax, scores)
    assert [list(line.get_ydata()) for line in ax.lines] == [[30, 20], [25, 40]]
    assert legend(ax) == ["TTI", "RePRI"]
    with pytest.raises(ValueError, match="1-shot; 5-shot"):
        comparisons.poolings(ax, pd.concat([scores, scores.assign(shots=5)]))


def test_cost_runs_from_cheap_to_expensive_and_names_each_method_once(ax):
    scores = table(
        (1, "TTI", {"s/episode": 2.0, "mIoU": 30.0}), (1, "RePRI", {"s/episode": 0.5, "mIoU": 25.0}),
        (5, "TTI", {"s/episode": 4.0, "mIoU": 50.0}), (5, "fine-tune", {"s/episode": np.nan, "mIoU": 40.0}),
        (5, "oracle", {"s/episode": 9.0, "mIoU": np.nan}),
    )  # fmt: skip
    comparisons.cost_accuracy(ax, scores)
    assert ax.get_xscale() == "log" and legend(ax) == ["RePRI", "TTI"]
    assert list(ax.lines[0].get_xdata()) == [0.5, 2.0] and list(ax.lines[0].get_ydata()) == [25, 30]
    assert {text.get_text(): text.xy for text in ax.texts} == {"1-shot": (2.0, 30.0), "5-shot": (4.0, 50.0)}
    low, high = ax.get_xlim()
    assert 2 <= sum(low <= tick <= high for tick in ax.get_xticks()) <= 20


def test_of_many_methods_the_front_is_named_and_nothing_joined(ax):
    values = {"RePRI": (1.0, 30.0), "a": (2.0, 35.0), "b": (3.0, 34.0), "c": (4.0, 36.0), "TTI": (9.0, 20.0)}
    values |= {f"slow {n}": (10.0 + n, 10.0) for n in range(4)}
    many = table(*((1, name, {"s/episode": cost, "mIoU": value}) for name, (cost, value) in values.items()))
    comparisons.cost_accuracy(ax, many)
    assert sorted(legend(ax)) == ["RePRI", "TTI", "a", "c"] and len(ax.lines) == 9 == len(dots(ax))


def test_bars_of_classes_lie_in_order_with_their_error_bars(ax):
    lines = pd.DataFrame({"method": ["RePRI", "RePRI", "TTI", "TTI"], "class_name": ["fish", "bird"] * 2,
                          "IoU": [10.0, 70.0, 60.0, 30.0]})  # fmt: skip
    lines["IoU low"], lines["IoU high"] = lines["IoU"] - [np.nan, 5, 4, 1], lines["IoU"] + [np.nan, 5, 2, 1]
    comparisons.per_class_bars(ax, lines)
    assert names(ax) == ["bird", "fish"]  # from below: the best class of the last method is on top
    assert [bar.get_width() for bar in ax.patches] == [10, 70, 60, 30]
    y = [bar.get_y() + bar.get_height() / 2 for bar in ax.patches]
    assert y == pytest.approx([1.205, 0.205, 0.795, -0.205])  # RePRI above TTI; fish above bird
    spans = [segment for collection in ax.collections for segment in collection.get_segments()]
    found = {tuple(span[:, 0]): span[0, 1] for span in spans if len(span) == 2}
    assert found == {(65, 75): pytest.approx(y[1]), (56, 62): pytest.approx(y[2]), (29, 31): pytest.approx(y[3])}
    with pytest.raises(ValueError, match="several"):
        comparisons.per_class_bars(ax, pd.concat([lines, lines]))

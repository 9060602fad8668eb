"""Methods against each other: every mark lies where its number says."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from ttilib.plots import comparisons, style


@pytest.fixture
def ax():
    figure = Figure(figsize=(3.35, 2.4), layout="constrained")
    FigureCanvasAgg(figure)
    return figure.subplots()


def table(*lines):
    """A table from (shots, method, values) lines."""
    about = {"benchmark": "pascal", "encoder": "resnet50"}
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


def test_forest_draws_gains_with_n_won_and_p_beside(ax):
    def gain(k, method, value, better, worse, p, episodes=20):
        about = {"better": better, "worse": worse, "p": p, "episodes": episodes}
        return k, method, {"mIoU": value, "mIoU low": value - 1, "mIoU high": value + 2, **about}

    lines = table(
        gain(1, "TTI - RePRI", 0.5, 15, 5, 0.0414, 10000), gain(1, "TTI noise=-0.2 - RePRI", -1, 0, 0, 1e-9),
        gain(5, "TTI - RePRI", 2, 9, 0, 0.0039),
    )  # fmt: skip
    comparisons.forest(ax, lines)
    assert names(ax) == ["1-shot", "TTI", "TTI noise=-0.2", "5-shot", "TTI"]
    assert dots(ax) == [(0.5, 1), (-1, 2), (2, 4)] and "over RePRI [points]" in ax.get_xlabel()
    cells = ["10,000", "75%", "0.041", "20", "-", "< 0.001", "20", "100%", "0.004"]
    assert texts(ax) == [*cells, "n", "won", "p"]


def test_run_dots_are_means_over_folds_of_complete_runs(ax):
    def runs_of(method, values, fold=0, k=1):
        return [(k, method, {"fold": fold, "run": run, "mIoU": value}) for run, value in enumerate(values)]

    spread = table(
        *runs_of("RePRI", [10.0, 20.0, 99.0]), *runs_of("RePRI", [30.0, 60.0], fold=1),
        *runs_of("TTI", [11.0, 31.0]), *runs_of("TTI", [33.0, 51.0], fold=1), *runs_of("TTI", [5.0], k=5),
    )  # fmt: skip
    comparisons.run_dots(ax, spread)
    assert names(ax) == ["1-shot", "RePRI", "TTI", "5-shot", "TTI"]
    assert sorted(dots(ax)) == [(5, 4), (20, 1), (22, 2), (40, 1), (41, 2)]  # the third run lacks a fold
    means = [list(line.get_xdata()) for line in ax.lines if line.get_marker() in ("", "None")]
    assert [span[0] for span in means if len(span) == 2 and span[0] == span[1]] == [30, 31.5, 5]


def test_poolings_and_cost_join_the_values_of_a_method(ax):
    scores = table(
        (1, "TTI", {"s/episode": 2.0, "mIoU": 25.0, "J": 40.0}), (1, "RePRI", {"s/episode": 0.5, "mIoU": 30, "J": 20})
    )
    comparisons.poolings(ax, scores)
    assert [list(line.get_ydata()) for line in ax.lines] == [[25, 40], [30, 20]] and legend(ax) == ["TTI", "RePRI"]
    both = pd.concat([scores, scores.assign(shots=5, mIoU=[50.0, np.nan])])
    with pytest.raises(ValueError, match="1-shot; 5-shot"):
        comparisons.poolings(ax, both)
    ax.clear()
    comparisons.cost_accuracy(ax, both)
    assert ax.get_xscale() == "log" and legend(ax) == ["RePRI", "TTI"]
    assert list(ax.lines[0].get_xdata()) == [0.5, 2.0] and list(ax.lines[0].get_ydata()) == [30, 25]
    assert {text.get_text(): text.xy for text in ax.texts} == {"1-shot": (2.0, 25.0), "5-shot": (2.0, 50.0)}


def test_bars_of_classes_lie_in_order_with_their_error_bars(ax):
    lines = pd.DataFrame({"method": ["RePRI", "RePRI", "TTI", "TTI"], "class_name": ["fish", "bird"] * 2,
                          "IoU": [10.0, 70.0, 60.0, 30.0]})  # fmt: skip
    lines["IoU low"], lines["IoU high"] = lines["IoU"] - [np.nan, 5, 4, 1], lines["IoU"] + [np.nan, 5, 2, 1]
    comparisons.per_class_bars(ax, lines)
    assert names(ax) == ["bird", "fish"]  # from below: the best class of the last method is on top
    assert [bar.get_width() for bar in ax.patches] == [10, 70, 60, 30]
    spans = [segment for collection in ax.collections for segment in collection.get_segments()]
    assert {tuple(span[:, 0]) for span in spans if len(span) == 2} == {(65, 75), (56, 62), (29, 31)}
    with pytest.raises(ValueError, match="several"):
        comparisons.per_class_bars(ax, pd.concat([lines, lines]))

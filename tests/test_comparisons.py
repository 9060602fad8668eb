"""Methods against each other: every mark lies where its number says."""

import pandas as pd
from matplotlib.figure import Figure

from ttilib.plots import comparisons


def drawn(function, columns, *lines):
    """The axes with a table drawn on them, and the dots: (value, row)."""
    ax = Figure().subplots()
    table = pd.DataFrame(lines, columns=["shots", "method", *columns])
    function(ax, table.assign(benchmark="pascal", encoder="resnet50"))
    dots = [line for line in ax.lines if line.get_marker() not in ("", "None") and len(line.get_xdata())]
    found = [point for line in dots for point in zip(line.get_xdata(), line.get_ydata(), strict=True)]
    return ax, sorted((float(x), float(y)) for x, y in found)


def test_forest_draws_gains_with_n_won_and_p_beside():
    columns = ["mIoU", "mIoU low", "mIoU high", "better", "worse", "p", "episodes"]
    ax, dots = drawn(
        comparisons.forest, columns, (1, "TTI - RePRI", 0.5, 0, 1, 15, 5, 0.0414, 10000),
        (1, "TTI noise=-0.2 - RePRI", -1, -2, 0, 0, 0, 1e-9, 20), (5, "TTI - RePRI", 2, 1, 3, 9, 0, 0.0039, 20),
    )  # fmt: skip
    assert [label.get_text() for label in ax.get_yticklabels()] == ["1-shot", "TTI", "TTI noise=-0.2", "5-shot", "TTI"]
    assert dots == [(-1, 2), (0.5, 1), (2, 4)]
    cells = ["10,000", "75%", "0.041", "20", "-", "< 0.001", "20", "100%", "0.004"]
    assert [text.get_text() for text in ax.texts][:9] == cells


def test_run_dots_are_means_over_folds_of_complete_runs():
    values = {(1, "RePRI", 0): [10.0, 20.0, 99.0], (1, "RePRI", 1): [30.0, 60.0], (1, "TTI", 0): [11.0, 31.0],
              (1, "TTI", 1): [33.0, 51.0], (5, "TTI", 0): [5.0]}  # fmt: skip
    lines = [(*line, run, value) for line, runs in values.items() for run, value in enumerate(runs)]
    _, dots = drawn(comparisons.run_dots, ["fold", "run", "mIoU"], *lines)
    assert dots == [(5, 4), (20, 1), (22, 2), (40, 1), (41, 2)]  # the third run lacks a fold

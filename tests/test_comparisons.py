"""Methods against each other: every mark lies where its number says."""

import pandas as pd
from matplotlib.figure import Figure
from rows import row

from ttilib.plots import comparisons
from ttilib.results.tables import score_table


def test_run_dots_are_means_over_folds_of_complete_runs():
    values = {(1, "RePRI", 0): [10.0, 20.0, 99.0], (1, "RePRI", 1): [30.0, 60.0], (1, "TTI", 0): [11.0, 31.0],
              (1, "TTI", 1): [33.0, 51.0], (5, "TTI", 0): [5.0]}  # fmt: skip
    lines = [(*line, run, value) for line, runs in values.items() for run, value in enumerate(runs)]
    table = pd.DataFrame(lines, columns=["shots", "method", "fold", "run", "mIoU"])
    comparisons.run_dots(ax := Figure().subplots(), table.assign(benchmark="pascal", encoder="resnet50"))
    dots = [line.get_xydata().tolist() for line in ax.lines if line.get_marker() not in ("", "None")]
    # one point per run: its place is the mean, its row the method; the third run lacks a fold
    assert sorted(map(tuple, sum(dots, []))) == [(5, 4), (20, 1), (22, 2), (40, 1), (41, 2)]


def test_rows_without_time_have_an_empty_figure_of_cost():
    comparisons.cost_accuracy(ax := Figure().subplots(), score_table([row()]))
    assert not ax.lines

"""Style, overlays, curves and comparisons: what is drawn is what was given."""

import io

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from rows import row

from ttilib.plots import comparisons, curves, overlays, style
from ttilib.results.tables import score_table


def test_equal_figures_are_equal_files_and_a_failure_leaves_the_old_ones(tmp_path):
    stem = tmp_path / "new" / "05_noise=0.2"
    written = []
    for _ in range(2):
        figure, (ax,) = style.panels(1, height=1.0)
        ax.plot([1, 2], label="TTI")
        style.save(figure, stem)
        written.append({path.name: path.read_bytes() for path in stem.parent.iterdir()})
    first = written[0]
    assert first == written[1] and set(first) == {"05_noise=0.2.pdf", "05_noise=0.2.png"}
    assert b"CreationDate" not in first["05_noise=0.2.pdf"]
    ax.set_title("$\\nothing$")
    with pytest.raises(ValueError, match="nothing"):
        style.save(figure, stem)
    assert first == {path.name: path.read_bytes() for path in stem.parent.iterdir()}
    assert matplotlib.rcParams["font.size"] != style.STYLE["font.size"]  # the settings of others stay


def test_overlay_fills_the_mask_and_outlines_the_ground_truth():
    image, mask = np.full((20, 30, 3), 100, np.uint8), np.zeros((20, 30), bool)
    mask[5:15, 8:22] = True
    out = overlays.overlay(image, mask, colour="#FF0000")
    assert (out[~mask] == 100).all() and (out[5, 8:22] == (255, 0, 0)).all()  # the edge is the plain colour
    mixed = (1 - overlays.FILL) * 100 + overlays.FILL * np.array([255, 0, 0])
    np.testing.assert_allclose(out[10, 15], mixed, atol=0.51)
    several = overlays.overlay(image, 2 * mask.astype(np.uint8), colour=["#0000FF", "#FF0000"])
    assert np.array_equal(several, out)  # the second label in the second colour
    out = overlays.overlay(image, truth=mask)
    assert (out[5, 8:22] == 255).all() and (out[4, 8:22] == 25).all()  # the dark rim lies outside
    assert (out[6:14, 9:21] == 100).all() and (out[:4] == 100).all() and (image == 100).all()
    tensor = torch.from_numpy(image).permute(2, 0, 1) / 255
    assert (overlays.overlay(tensor, truth=torch.from_numpy(mask)) == out).all()
    with pytest.raises(ValueError, match=r"\[5, 6\].*\[20, 30\]"):
        overlays.overlay(image, truth=np.ones((5, 6), bool))


def test_the_training_figure_shows_the_share_of_waiting_and_takes_any_log():
    older = [{"step": n, "loss": 1.0, "learning_rate": 0.1, "val_miou": None} for n in range(1, 41)]
    rows = [{**row, "seconds": 2.0 * row["step"], "waited": 0.5, "parts": {"ce": 1.0}} for row in older]
    rows[-1] |= {"val_miou": 0.4, "train_miou": 0.5, "seconds": 78.0 + 8.0, "waited": 8.0}
    shares = curves.training_figure(rows, "now").axes[3].lines[0].get_ydata()
    np.testing.assert_allclose(shares[:3], 25)  # half a second of two
    assert shares[-1] == pytest.approx(85)  # of the time, not a mean of shares
    for some in ([], rows[:1], older):
        curves.training_figure(some).savefig(io.BytesIO())


def test_errors_by_cause():
    """Of 400 object pixels 200 are missed at p = 0.4; 100 beside it are false at p = 0.6, 20 of them 8 pixels away."""
    truth, valid = torch.zeros(1, 60, 60, dtype=torch.bool), torch.ones(1, 60, 60, dtype=torch.bool)
    truth[0, 20:40, 20:40], valid[0, :5] = True, False
    p = torch.where(truth, 0.9, 0.1)
    p[0, 20:40, 30:40], p[0, 25:35, 40:50], p[0, :5] = 0.4, 0.6, 1.0
    assert curves.error_causes(p, truth, valid) == pytest.approx([50, 20, 5])


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


def test_a_sheet_keeps_its_title_clear_of_the_cells_whatever_the_layout_of_others():
    images, labels = torch.rand(6, 3, 30, 50), torch.ones(6, 30, 50, dtype=torch.int64)
    with matplotlib.rc_context(style.STYLE):
        figure = overlays.sample_sheet(images, labels, labels, ["background", "cat"], "a title")
        figure.savefig(io.BytesIO())
    (title,), cells = figure.texts, [ax.get_tightbbox() for ax in figure.axes]
    assert title.get_text() == "a title" and len(cells) == 18
    assert max(cell.y1 for cell in cells) < title.get_window_extent().y0

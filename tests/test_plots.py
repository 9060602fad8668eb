"""Style, overlays and curves: what is drawn is what was given."""

from __future__ import annotations

import cv2
import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from ttilib.plots import curves, overlays, style
from ttilib.solver.losses import TERMS
from ttilib.solver.objective import Terms


def axes(rows=1, columns=1):
    figure = Figure(figsize=(9.5, 3), layout="constrained")
    FigureCanvasAgg(figure)
    return figure.subplots(rows, columns, squeeze=False)


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


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
    out = overlays.overlay(image, truth=mask)
    assert (out[5, 8:22] == 255).all() and (out[5:15, 21] == 255).all()
    assert (out[4, 8:22] == 25).all()  # the dark rim lies outside
    assert (out[6:14, 9:21] == 100).all() and (out[:4] == 100).all() and (image == 100).all()
    tensor = torch.from_numpy(image).permute(2, 0, 1) / 255
    assert (overlays.overlay(tensor, truth=torch.from_numpy(mask)) == out).all()
    assert overlays.overlay(tensor, mask, zoom=3).shape == (60, 90, 3)
    with pytest.raises(ValueError, match=r"\[5, 6\].*\[20, 30\]"):
        overlays.overlay(image, truth=np.ones((5, 6), bool))


def test_a_label_map_is_background_class_or_ignored():
    image, labels = np.full((24, 36, 3), 100, np.uint8), torch.zeros(24, 36, dtype=torch.int64)
    labels[:8], labels[8:16, :18] = 3, 255
    out = overlays.label_map(image, labels)
    assert (out[16:] == 60).all() and (out[8:16, :18] == overlays.UNKNOWN).all()
    colour = 0.8 * 255 * overlays.COLOURS[2] + 0.2 * 60
    np.testing.assert_allclose(out[:8], np.broadcast_to(colour, (8, 36, 3)), atol=0.51)
    repeated = overlays.label_map(image, labels.where(labels != 3, 3 + len(overlays.COLOURS)))
    assert (repeated == out).all() and len(np.unique(overlays.COLOURS, axis=0)) == len(overlays.COLOURS) == 18


def sample(size=(48, 72)):
    """An image half ignored; of the other half a quarter is a bird, predicted as a fish in half of that."""
    height, width = size
    labels = torch.zeros(1, *size, dtype=torch.int64)
    labels[:, : height // 2] = 255
    labels[:, height // 2 :, : width // 4] = 1
    found = labels.clone()
    found[:, : height // 2] = 3
    found[:, height // 2 : 3 * height // 4, : width // 4] = 2
    return torch.full((1, 3, *size), 0.4), labels, found


def test_a_sheet_scores_and_shows_predictions_where_the_ground_truth_is_valid(repository):
    with rc_context(fname=repository / "notebooks" / "matplotlibrc"):  # under the notebooks' settings too
        figure = overlays.sample_sheet(*sample(), ["background", "bird", "fish", "frog"], "one")
        figure.canvas.draw()
    image, truth, found = (ax.images[0].get_array() for ax in figure.axes[:3])
    assert "IoU 50%" in figure.axes[2].get_title("left") + figure.axes[2].get_title()  # half of the bird
    zoom = truth.shape[0] // 48
    assert (found[: 24 * zoom] == overlays.UNKNOWN).all() and (truth[: 24 * zoom] == overlays.UNKNOWN).all()
    region = found[24 * zoom : 36 * zoom, : 18 * zoom]
    np.testing.assert_allclose(region.mean((0, 1)), 0.8 * 255 * overlays.COLOURS[1] + 0.2 * 61, atol=2)
    assert (image == 102).all()
    for ax in figure.axes[1:3]:  # names lie inside their regions
        boxes = [text.get_window_extent().transformed(ax.transData.inverted()) for text in ax.texts]
        assert boxes and all(box.x0 >= 0 and min(box.y0, box.y1) >= 24 * zoom for box in boxes)


def history(steps=12, frames=4):
    rng = np.random.default_rng(1)
    names = [*TERMS, "total", "marginal"]
    return [Terms(**{name: torch.from_numpy(rng.random(frames)) for name in names}) for _ in range(steps)]


def test_loss_terms_draw_mean_and_band_of_each_term():
    terms, grid = history(), axes(2, 4)
    curves.loss_terms(grid, terms, prior_update=9)
    used = grid.ravel()[:7]
    assert [ax.get_title(loc="left") for ax in used] == [*(term.label for term in TERMS.values()), curves.TOTAL.label]
    ce = used[0]
    np.testing.assert_allclose(ce.lines[0].get_ydata(), [each.ce.mean() for each in terms])
    assert list(ce.lines[1].get_xdata()) == [9, 9]
    band = ce.collections[0].get_paths()[0].vertices
    middle = np.quantile(terms[3].ce.numpy(), [0.25, 0.75])
    np.testing.assert_allclose(sorted(set(band[band[:, 0] == 3, 1])), middle)
    with pytest.raises(ValueError, match="7 terms"):
        curves.loss_terms(axes(1, 2), terms)


def test_consistency_curves_have_the_style_of_each_method():
    over_k = axes()[0, 0]
    curves.vc_curve(over_k, {"TTI": {5: 0.4, 3: 0.6}, "ours": {3: 0.5}}, {"TTI": {5: 0.2, 3: 0.3}})
    tti, released, _ = over_k.lines
    assert list(tti.get_xdata()) == [3, 5] and list(tti.get_ydata()) == [0.6, 0.4]
    assert list(released.get_ydata()) == [0.3, 0.2] and released.get_linewidth() < tti.get_linewidth()
    assert legend(over_k) == ["ours", "TTI"] and list(over_k.get_xticks()) == [3, 5]
    assert tti.get_color() == released.get_color() == style.STYLES["TTI"]["color"]


def log(steps=40, **more):
    rows = [
        {"step": n, "loss": 3.0 - n / 20, "learning_rate": 0.1, "seconds": 2.0 * n, "waited": 0.5, **more}
        for n in range(1, steps + 1)
    ]
    rows[steps // 2 - 1] |= {"val_miou": 0.2, "train_miou": 0.3}
    rows[-1] |= {"val_miou": 0.4, "train_miou": None}
    return rows


def test_the_training_figure_shows_loss_validation_rate_and_waiting():
    figure = curves.training_figure(log(parts={"ce": 1.0}), "now")
    loss, miou, rate, waiting = figure.axes
    assert len(loss.lines) == 2  # a single part is the loss itself
    assert loss.lines[1].get_xydata()[0].tolist() == pytest.approx([2, 3.0 - 1.5 / 20])  # mean of steps 1 and 2
    by_name = {line.get_label(): line.get_xydata().tolist() for line in miou.lines}
    assert by_name == {"validation": [[20, 20.0], [40, 40.0]], "training": [[20, 30.0]]}
    np.testing.assert_allclose(rate.lines[0].get_ydata(), 0.1)
    np.testing.assert_allclose(waiting.lines[0].get_ydata(), 25)  # half a second of two
    older = [{"step": n, "loss": 1.0, "learning_rate": 0.1, "val_miou": None} for n in range(1, 30)]
    for rows in ([], log()[:1], older):
        curves.training_figure(rows).canvas.draw()
    uneven = log(parts={"ce": 1.0, "contrast": 4.0})
    uneven[-1] |= {"seconds": 78.0 + 8.0, "waited": 8.0}
    loss, _, _, waiting = curves.training_figure(uneven).axes
    assert legend(loss) == ["contrast", "loss", "ce"]
    (waiting,) = waiting.lines
    assert waiting.get_ydata()[-1] == pytest.approx(85)  # of the time, not a mean of shares


def test_the_first_colours_of_methods_differ_for_colour_blind_readers():
    """Simulated with Vienot's matrix for eyes without red cones."""
    rgb = np.array([to_rgb(look["color"]) for look in style.STYLES.values()])
    without_red = np.array([[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]])
    seen = np.clip(rgb**2.2 @ without_red.T, 0, 1) ** (1 / 2.2)
    lab = cv2.cvtColor(seen[None].astype(np.float32), cv2.COLOR_RGB2LAB)[0]
    distance = np.linalg.norm(lab[:, None] - lab[None], axis=2) + 100 * np.eye(len(lab))
    assert distance.min() > 10

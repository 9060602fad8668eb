"""Style, overlays and curves: what is drawn is what was given."""

from __future__ import annotations

import cv2
import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from ttilib.episodes.clips import synthetic_clip
from ttilib.plots import curves, overlays, style
from ttilib.solver.losses import TERMS
from ttilib.solver.objective import Terms


def axes(rows=1, columns=1):
    figure = Figure(figsize=(9.5, 3), layout="constrained")
    FigureCanvasAgg(figure)
    return figure.subplots(rows, columns, squeeze=False)


def square(height=20, width=30, rows=slice(5, 15), columns=slice(8, 22)):
    mask = np.zeros((height, width), dtype=bool)
    mask[rows, columns] = True
    return mask


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


# ---- style ---------------------------------------------------------------------------------------------


def test_methods_have_styles_that_differ():
    names = ["RePRI", "TTI", *(f"TTI window={n}" for n in range(18))]
    looks = style.styles(names)
    assert list(looks) == names and looks["TTI"] is style.STYLES["TTI"]
    for key in ("color", "marker", "linestyle"):
        assert len({str(look[key]) for look in list(looks.values())[:6]}) == 6
    assert len({str(look) for look in looks.values()}) == 15  # nine grey ones, which repeat


def test_a_legend_lists_lines_by_their_last_values():
    ax = axes()[0, 0]
    for height in (0.5, 5.0, 2.0):
        ax.plot([0, 1, 2], [9, height, np.nan], label=f"{height}")
    ax.plot([0, 1], [1, 2])  # without a name
    style.line_legend(ax)
    assert legend(ax) == ["5.0", "2.0", "0.5"]
    assert style.short("x" * 30) == "x" * 30 and style.short("ab cd", most=4) == "ab\u2026"


@pytest.mark.parametrize(
    ("count", "columns", "inches"), [(1, 2, (3.35, 2)), (2, 2, (6.9, 2)), (3, 2, (6.9, 4)), (3, 1, (3.35, 6))]
)
def test_panels_are_as_many_as_requested(count, columns, inches):
    figure, axes = style.panels(count, columns, 2.0)
    assert len(axes) == count == len(figure.axes) and tuple(figure.get_size_inches()) == pytest.approx(inches)


def test_equal_figures_are_equal_files_and_a_failure_leaves_the_old_ones(tmp_path):
    before, stem = matplotlib.rcParams.copy(), tmp_path / "new" / "05_noise=0.2"
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
    assert matplotlib.rcParams == before


# ---- overlays ------------------------------------------------------------------------------------------


def test_overlay_fills_the_mask_and_outlines_the_ground_truth():
    image, mask = np.full((20, 30, 3), 100, np.uint8), square()
    out = overlays.overlay(image, mask, colour="#FF0000")
    assert (out[~mask] == 100).all() and (out[5, 8:22] == (255, 0, 0)).all()  # the edge is the plain colour
    mixed = (1 - overlays.FILL) * 100 + overlays.FILL * np.array([255, 0, 0])
    np.testing.assert_allclose(out[10, 15], mixed, atol=0.51)
    out = overlays.overlay(image, truth=mask)
    assert (out[5, 8:22] == 255).all() and (out[5:15, 21] == 255).all()
    assert (out[4, 8:22] == 25).all()  # the dark rim lies outside
    assert (out[6:14, 9:21] == 100).all() and (out[:4] == 100).all() and (image == 100).all()
    border = square(rows=slice(0, 10), columns=slice(0, 30))
    out = overlays.overlay(np.zeros((20, 30, 3), np.uint8), border, colour="#FFFFFF")
    assert (out[0] < 255).all() and (out[9] == 255).all()  # no edge along the image border


def test_overlay_takes_tensors_and_arrays_alike_and_enlarges():
    tensor = torch.rand(3, 20, 30, generator=torch.Generator().manual_seed(0))
    byte = (tensor * 255).round().byte().permute(1, 2, 0).numpy()
    mask = square()
    expected = overlays.overlay(byte, mask, mask)
    assert (overlays.overlay(tensor, torch.from_numpy(mask), torch.from_numpy(mask)) == expected).all()
    assert (overlays.overlay(tensor.permute(1, 2, 0).numpy(), mask, mask) == expected).all()
    assert overlays.overlay(tensor, mask, zoom=3).shape == (60, 90, 3)
    with pytest.raises(ValueError, match=r"\[5, 6\].*\[20, 30\]"):
        overlays.overlay(tensor, truth=np.ones((5, 6), bool))


@given(st.integers(0, 300), st.integers(1, 40))
@settings(deadline=None, max_examples=30)
def test_evenly_spaced_reaches_both_ends_without_repeats(count, n):
    chosen = overlays.evenly_spaced(count, n)
    assert len(chosen) == min(count, n) == len(set(chosen))
    if count and n > 1:
        steps = np.diff(chosen)
        assert chosen[0] == 0 and chosen[-1] == count - 1 and (len(steps) == 0 or np.ptp(steps) <= 2)


def test_filmstrip_and_episode_card_show_each_frame():
    clip = synthetic_clip(frames=8, shots=3)
    row = axes(1, 4)[0]
    overlays.filmstrip(row, clip.query[:3], clip.truth[:3], titles=["a", "b", "c"])
    assert [ax.get_title() for ax in row] == ["a", "b", "c", ""] and [len(ax.images) for ax in row] == [1, 1, 1, 0]
    expected = overlays.overlay(clip.query[1], clip.truth[1], zoom=overlays.zoom_for(clip.query[1]))
    np.testing.assert_array_equal(row[1].images[0].get_array(), expected)
    with pytest.raises(ValueError, match="3 frames"):
        overlays.filmstrip(axes(1, 2)[0], clip.query[:3])
    figure = Figure()
    overlays.episode_card(figure, clip, frames=5)
    used = [ax for ax in figure.axes if ax.images]
    assert [ax.get_title() for ax in used[3:]] == ["frame 0", "frame 2", "frame 4", "frame 5", "frame 7"]


def test_gradient_map_is_symmetric_around_zero_and_lies_on_the_features():
    ax, image = axes()[0, 0], np.zeros((9, 11, 3), np.uint8)
    drawn = overlays.gradient_map(ax, image, torch.tensor([[0.0, -3.0], [1.0, 0.5]]), "dL/dz")
    assert drawn.get_clim() == (-3.0, 3.0)
    assert tuple(drawn.get_extent()) == (-5, 15, 12, -4)  # cells centred on the corner pixels 0..10, 0..8
    assert overlays.gradient_map(ax, image, torch.zeros(2, 2)).get_clim() == (-1.0, 1.0)


def test_feature_colours_are_principal_components_of_fixed_sign():
    kind = np.random.default_rng(0).integers(0, 3, size=(2, 4, 5))
    features = torch.from_numpy(np.eye(6)[[0, 2, 5]][kind]).permute(0, 3, 1, 2).float()
    colours = overlays.feature_colours(features)
    assert colours.shape == (2, 4, 5, 3) and colours.min() >= 0 and colours.max() <= 1
    centres = np.stack([colours[kind == each].mean(axis=0) for each in range(3)])
    assert np.abs(colours - centres[kind]).max() < 1e-6
    assert min(np.abs(centres[a] - centres[b]).max() for a, b in [(0, 1), (0, 2), (1, 2)]) > 0.5
    features = torch.zeros(1, 2, 1, 5)
    features[0, 0], features[0, 1] = torch.linspace(-4, 4, 5), torch.tensor([1.0, -1, 0, -1, 1])
    colours = overlays.feature_colours(features)
    assert (np.diff(colours[0, 0, :, 0]) > 0).all()  # red grows along the first channel
    assert (colours[..., 2] == colours[0, 0, 0, 2]).all()  # two channels leave no third direction


def test_a_label_map_is_background_class_or_ignored():
    image, labels = np.full((24, 36, 3), 100, np.uint8), torch.zeros(24, 36, dtype=torch.int64)
    labels[:8], labels[8:16, :18] = 3, 255
    out = overlays.label_map(image, labels)
    assert (out[16:] == 60).all() and (out[8:16, :18] == overlays.UNKNOWN).all()
    colour = 0.8 * 255 * overlays.COLOURS[2] + 0.2 * 60
    np.testing.assert_allclose(out[:8], np.broadcast_to(colour, (8, 36, 3)), atol=0.51)
    assert overlays.label_map(image, labels, zoom=4).shape == (96, 144, 3)
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
    nothing = torch.full((1, 8, 9), 255)
    sheet = overlays.sample_sheet(torch.rand(1, 3, 8, 9), nothing, 0 * nothing, ["background"])
    assert "IoU" not in sheet.axes[2].get_title()


def test_names_lie_inside_their_regions_or_in_the_legend():
    names = ["background", "bird", "fish", "a very long name that fits nowhere"]
    images, labels, found = sample()
    labels[:, :24], labels[:, 40:44, 60:64] = 0, 2  # the second region is too small for its name
    labels[:, 30:, 30:55] = 3
    figure = overlays.sample_sheet(images, labels, found, names)
    figure.canvas.draw()
    image, truth = figure.axes[:2]
    assert [text.get_text() for text in truth.texts] == ["bird"] and legend(image) == [names[2], names[3]]
    zoom = truth.images[0].get_array().shape[0] // 48
    box = truth.texts[0].get_window_extent().transformed(truth.transData.inverted())
    assert box.x0 >= 0 and box.x1 <= 18 * zoom and min(box.y0, box.y1) >= 24 * zoom and max(box.y0, box.y1) <= 48 * zoom


def test_pairs_lie_above_each_other():
    images = torch.arange(8 * 2)[:, None, None, None].expand(16, 3, 6, 8).unflatten(0, (8, 2)) / 16
    figure = overlays.pairs_sheet(images, "pairs")
    shown = [ax.images[0].get_array()[0, 0, 0] for ax in figure.axes if ax.images]
    np.testing.assert_allclose(shown, [round(255 * n / 16) for n in (0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11)], atol=1)


# ---- curves --------------------------------------------------------------------------------------------


def history(steps=12, frames=4):
    rng = np.random.default_rng(1)
    names = [*TERMS, "total", "marginal"]
    return [Terms(**{name: torch.from_numpy(rng.random(frames)) for name in names}) for _ in range(steps)]


def test_loss_terms_draw_mean_and_band_of_each_term():
    terms, grid = history(), axes(2, 4)
    curves.loss_terms(grid, terms, prior_update=9)
    used = grid.ravel()[:7]
    assert [ax.get_title(loc="left") for ax in used] == [*(term.label for term in TERMS.values()), curves.TOTAL.label]
    assert not grid[1, 3].axison
    ce = used[0]
    np.testing.assert_allclose(ce.lines[0].get_ydata(), [each.ce.mean() for each in terms])
    assert list(ce.lines[1].get_xdata()) == [9, 9]
    band = ce.collections[0].get_paths()[0].vertices
    middle = np.quantile(terms[3].ce.numpy(), [0.25, 0.75])
    np.testing.assert_allclose(sorted(set(band[band[:, 0] == 3, 1])), middle)
    single = axes()[0, 0]
    curves.loss_terms(single, terms, names=("ce", "total"))
    assert len(single.lines) == 2 and len(legend(single)) == 2
    with pytest.raises(ValueError, match="7 terms"):
        curves.loss_terms(axes(1, 2), terms)


def test_values_per_frame_and_the_prior_reach_their_artists():
    bars, lines = axes(1, 2)[0]
    curves.per_frame(bars, torch.tensor([1.0, 3.0, 2.0]), "H [nats]")
    assert [bar.get_height() for bar in bars.patches] == [1, 3, 2] and bars.get_ylabel() == "H [nats]"
    prior, marginal, truth = torch.tensor([0.2, 0.3]), torch.tensor([0.1, 0.1]), np.array([0.2, 0.4])
    curves.prior_trace(lines, prior, marginal, truth)
    assert legend(lines) == ["ground truth", "prior π", "predicted"]
    np.testing.assert_array_equal(lines.lines[2].get_ydata(), 100 * truth)


def test_consistency_curves_have_the_style_of_each_method():
    over_k, over_time = axes(1, 2)[0]
    curves.vc_curve(over_k, {"TTI": {5: 0.4, 3: 0.6}, "ours": {3: 0.5}}, {"TTI": {5: 0.2, 3: 0.3}})
    tti, released, _ = over_k.lines
    assert list(tti.get_xdata()) == [3, 5] and list(tti.get_ydata()) == [0.6, 0.4]
    assert list(released.get_ydata()) == [0.3, 0.2] and released.get_linewidth() < tti.get_linewidth()
    assert legend(over_k) == ["ours", "TTI"] and list(over_k.get_xticks()) == [3, 5]
    curves.vc_time(over_time, {"RePRI": [0.1, 0.3], "TTI": [0.5, float("nan")]}, k=3)
    assert tti.get_color() == released.get_color() == over_time.lines[1].get_color() == style.STYLES["TTI"]["color"]


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
    uneven = log()
    uneven[-1] |= {"seconds": 78.0 + 8.0, "waited": 8.0}
    (waiting,) = curves.training_figure(uneven).axes[3].lines
    assert waiting.get_ydata()[-1] == pytest.approx(85)  # of the time, not a mean of shares


def test_parts_of_the_loss_and_logs_of_older_runs():
    loss = curves.training_figure(log(parts={"ce": 1.0, "contrast": 4.0})).axes[0]
    by_name = {line.get_label(): line.get_ydata() for line in loss.lines}
    assert (by_name["contrast"] == 4.0).all() and (by_name["ce"] == 1.0).all()
    assert legend(loss) == ["contrast", "loss", "ce"]
    older = [{"step": n, "loss": 1.0, "learning_rate": 0.1, "val_miou": None} for n in range(1, 30)]
    grid = axes(1, 4)[0]
    curves.training_curves(grid, older)
    assert not np.isfinite(grid[3].lines[0].get_ydata()).any()  # the waiting time is unknown
    curves.training_curves(axes()[0, 0], older)
    for rows in ([], log()[:1]):
        curves.training_figure(rows).canvas.draw()


def test_the_first_colours_of_methods_differ_for_colour_blind_readers():
    """Simulated with Vienot's matrix for eyes without red cones."""
    rgb = np.array([to_rgb(look["color"]) for look in style.STYLES.values()])
    without_red = np.array([[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]])
    seen = np.clip(rgb**2.2 @ without_red.T, 0, 1) ** (1 / 2.2)
    lab = cv2.cvtColor(seen[None].astype(np.float32), cv2.COLOR_RGB2LAB)[0]
    distance = np.linalg.norm(lab[:, None] - lab[None], axis=2) + 100 * np.eye(len(lab))
    assert distance.min() > 10

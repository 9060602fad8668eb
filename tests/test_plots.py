"""Images, curves and bars: what is drawn is what was given."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from ttilib.episodes.clips import synthetic_clip
from ttilib.plots import comparisons, curves, overlays, style
from ttilib.solver.losses import TERMS
from ttilib.solver.objective import Terms

NAMES = ["ce", "kl", "entropy", "local_temporal", "global_positive", "global_negative", "total", "marginal"]


def axes(rows=1, columns=1, size=(9.5, 3)):
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def pixels(figure):
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3]


def square(height=20, width=30, rows=slice(5, 15), columns=slice(8, 22)):
    mask = np.zeros((height, width), dtype=bool)
    mask[rows, columns] = True
    return mask


def texts(ax):
    return [text.get_text() for text in ax.texts]


def test_overlay_fills_the_mask_and_leaves_the_rest():
    image, mask = np.full((20, 30, 3), 100, np.uint8), square()
    out = overlays.overlay(image, mask, colour="#FF0000")
    red = np.array([255, 0, 0])
    assert (out[~mask] == 100).all()
    np.testing.assert_array_equal(out[5, 8:22], np.tile(red, (14, 1)))  # the edge is the plain colour
    mixed = (1 - overlays.FILL) * 100 + overlays.FILL * red
    np.testing.assert_allclose(out[10, 15], mixed, atol=0.51)
    assert (image == 100).all()


def test_overlay_outlines_the_truth_with_a_dark_rim():
    image, truth = np.full((20, 30, 3), 100, np.uint8), square()
    out = overlays.overlay(image, truth=truth)
    assert (out[5, 8:22] == 255).all() and (out[5:15, 21] == 255).all()
    assert (out[4, 8:22] == 25).all()
    assert (out[6:14, 9:21] == 100).all() and (out[:4] == 100).all()


def test_overlay_has_no_edge_where_the_picture_cuts_the_object():
    mask = square(rows=slice(0, 10), columns=slice(0, 30))
    out = overlays.overlay(np.zeros((20, 30, 3), np.uint8), mask, colour="#FFFFFF")
    assert (out[0] < 255).all() and (out[9] == 255).all()


def test_overlay_takes_tensors_and_arrays_alike_and_zooms():
    tensor = torch.rand(3, 20, 30, generator=torch.Generator().manual_seed(0))
    byte = (tensor * 255).round().byte().permute(1, 2, 0).numpy()
    mask = square()
    expected = overlays.overlay(byte, mask, mask)
    np.testing.assert_array_equal(
        overlays.overlay(tensor, torch.from_numpy(mask), torch.from_numpy(mask)), expected
    )
    np.testing.assert_array_equal(overlays.overlay(tensor.permute(1, 2, 0).numpy(), mask, mask), expected)
    assert overlays.overlay(tensor, mask, zoom=3).shape == (60, 90, 3)
    with pytest.raises(ValueError, match=r"the truth is \[5, 6\], the image \[20, 30\]"):
        overlays.overlay(tensor, truth=np.ones((5, 6), bool))


@given(st.integers(0, 300), st.integers(1, 40))
@settings(deadline=None)
def test_evenly_spaced_reaches_both_ends_without_repeats(count, n):
    chosen = overlays.evenly_spaced(count, n)
    assert len(chosen) == min(count, n) and len(set(chosen)) == len(chosen)
    if count and n > 1:
        assert chosen[0] == 0 and chosen[-1] == count - 1
        steps = np.diff(chosen)
        assert len(steps) == 0 or steps.max() - steps.min() <= 1 + 1


def test_filmstrip_shows_each_frame_and_blanks_the_rest():
    clip = synthetic_clip(frames=3)
    figure, grid = axes(1, 4)
    overlays.filmstrip(grid[0], clip.query, clip.truth, titles=["a", "b", "c"])
    assert [ax.get_title() for ax in grid[0]] == ["a", "b", "c", ""]
    assert [len(ax.images) for ax in grid[0]] == [1, 1, 1, 0]
    zoom = overlays.zoom_for(clip.query[0])
    shown = grid[0, 1].images[0].get_array()
    np.testing.assert_array_equal(shown, overlays.overlay(clip.query[1], clip.truth[1], zoom=zoom))
    with pytest.raises(ValueError, match="3 frames for 2 axes"):
        overlays.filmstrip(axes(1, 2)[1], clip.query)
    magenta = (np.abs(pixels(figure).astype(int) - 255 * np.array(to_rgb(overlays.PREDICTION))) < 40).all(-1)
    assert magenta.sum() > 30


def test_episode_card_has_support_above_query():
    clip = synthetic_clip(frames=8, shots=3)
    figure, _ = axes()
    figure.clear()
    overlays.episode_card(figure, clip, frames=5)
    used = [ax for ax in figure.axes if ax.images]
    assert len(used) == 3 + 5
    assert used[0].get_title(loc="left") == "support: 3 labelled, blob"
    assert [ax.get_title() for ax in used[3:]] == ["frame 0", "frame 2", "frame 4", "frame 5", "frame 7"]
    assert clip.name in figure.get_suptitle()


def test_gradient_map_is_symmetric_around_zero_and_lies_on_the_features():
    figure, grid = axes()
    gradient = torch.tensor([[0.0, -3.0], [1.0, 0.5]])
    drawn = overlays.gradient_map(grid[0, 0], np.zeros((9, 11, 3), np.uint8), gradient, "dL/dz")
    assert drawn.get_clim() == (-3.0, 3.0)
    left, right, bottom, top = drawn.get_extent()
    assert (left, right, bottom, top) == (-5, 15, 12, -4)  # cells centred on the corner pixels 0..10, 0..8
    assert drawn.colorbar.ax.get_ylabel() == "dL/dz"
    zero = overlays.gradient_map(grid[0, 0], np.zeros((9, 11, 3), np.uint8), torch.zeros(2, 2), limit=None)
    assert zero.get_clim() == (-1.0, 1.0)


def test_feature_colours_tell_apart_what_features_tell_apart():
    rng = np.random.default_rng(0)
    directions = np.eye(6)[[0, 2, 5]]
    kind = rng.integers(0, 3, size=(2, 4, 5))
    features = torch.from_numpy(directions[kind]).permute(0, 3, 1, 2).float()
    colours = overlays.feature_colours(features)
    assert colours.shape == (2, 4, 5, 3) and colours.min() >= 0 and colours.max() <= 1
    centres = np.stack([colours[kind == each].mean(axis=0) for each in range(3)])
    assert np.abs(colours - centres[kind]).max() < 1e-6
    assert min(np.abs(centres[a] - centres[b]).max() for a, b in [(0, 1), (0, 2), (1, 2)]) > 0.5
    np.testing.assert_array_equal(colours, overlays.feature_colours(features))


def test_feature_colours_first_direction_has_largest_variance_and_fixed_sign():
    features = torch.zeros(1, 2, 1, 5)
    features[0, 0] = torch.linspace(-4, 4, 5)
    features[0, 1] = torch.tensor([1.0, -1, 0, -1, 1])
    colours = overlays.feature_colours(features)
    assert (np.diff(colours[0, 0, :, 0]) > 0).all()  # red grows along the first channel
    assert (colours[..., 2] == colours[0, 0, 0, 2]).all()  # two channels leave no third direction


def history(steps=12, frames=4):
    rng = np.random.default_rng(1)
    return [Terms(**{name: torch.from_numpy(rng.random(frames)) for name in NAMES}) for _ in range(steps)]


def test_loss_terms_alone_draw_mean_and_band():
    terms = history()
    figure, grid = axes(2, 4)
    curves.loss_terms(grid, terms, prior_update=9)
    used = grid.ravel()[:7]
    assert [ax.get_title(loc="left") for ax in used] == [*(term.label for term in TERMS.values()), curves.TOTAL.label]
    assert not grid[1, 3].axison
    ce = used[0]
    np.testing.assert_allclose(ce.lines[0].get_ydata(), [each.ce.mean() for each in terms])
    assert list(ce.lines[1].get_xdata()) == [9, 9] and texts(ce) == ["prior update"]
    band = ce.collections[0].get_paths()[0].vertices
    middle = np.quantile(terms[3].ce.numpy(), [0.25, 0.75])
    np.testing.assert_allclose(sorted(set(band[band[:, 0] == 3, 1])), middle)
    pixels(figure)


def test_loss_terms_together_are_named_at_their_ends():
    _, grid = axes()
    curves.loss_terms(grid[0, 0], history(), names=("ce", "total"))
    assert len(grid[0, 0].lines) == 2
    assert sorted(texts(grid[0, 0])) == ["support fit CE", "weighted sum"]
    with pytest.raises(ValueError, match="7 terms for 2 axes"):
        curves.loss_terms(axes(1, 2)[1], history())


def test_names_at_line_ends_do_not_overlap():
    figure, grid = axes()
    ax = grid[0, 0]
    for height in (0.502, 0.50, 0.503, 0.501, 5.0):
        ax.plot([0, 1, 2], [0, height, np.nan], label=f"{height}")
    ax.plot([0, 1], [1, 2])  # without a name
    style.label_ends(ax)
    figure.canvas.draw()
    boxes = sorted((text.get_window_extent() for text in ax.texts), key=lambda box: box.y0)
    assert all(below.y1 <= above.y0 + 1 for below, above in zip(boxes, boxes[1:], strict=False))
    order = sorted(ax.texts, key=lambda text: text.get_window_extent().y0)
    assert [text.get_text() for text in order] == ["0.5", "0.501", "0.502", "0.503", "5.0"]
    assert [text.xy for text in order] == [(1.0, float(text.get_text())) for text in order]


def test_per_frame_draws_bars_and_steps_for_long_videos():
    _, grid = axes(1, 2)
    curves.per_frame(grid[0, 0], torch.tensor([1.0, 3.0, 2.0]), "H [nats]")
    assert [bar.get_height() for bar in grid[0, 0].patches] == [1, 3, 2]
    assert grid[0, 0].get_ylabel() == "H [nats]"
    curves.per_frame(grid[0, 1], np.arange(90.0), "H [nats]")
    assert not grid[0, 1].patches and len(grid[0, 1].lines[0].get_ydata()) == 90


def test_prior_trace_names_its_lines():
    _, grid = axes(1, 2)
    prior, marginal, truth = torch.tensor([0.2, 0.3]), torch.tensor([0.1, 0.1]), np.array([0.2, 0.4])
    curves.prior_trace(grid[0, 0], prior, marginal, truth)
    assert set(texts(grid[0, 0])) == {"prior π", "predicted", "truth"}
    by_name = {line.get_label(): line for line in grid[0, 0].lines}
    np.testing.assert_array_equal(by_name["truth"].get_ydata(), truth)
    assert by_name["truth"].get_color() == "#000000"
    curves.prior_trace(grid[0, 1], prior, marginal)
    assert len(grid[0, 1].lines) == 2


def test_methods_keep_their_looks_in_every_figure():
    _, grid = axes(1, 3)
    curves.vc_curve(grid[0, 0], {"TTI": {5: 0.4, 3: 0.6}, "ours": {3: 0.5}})
    curves.vc_time(grid[0, 1], {"RePRI": [0.1, 0.3], "TTI": [0.5, float("nan")]}, k=3)
    table = pd.DataFrame({"method": ["TTI", "RePRI"], "mIoU": [50.0, 40.0]})
    comparisons.estimates(grid[0, 2], table)
    tti = {grid[0, 0].lines[0].get_color(), grid[0, 1].lines[1].get_color()}
    assert tti == {style.STYLES["TTI"]["color"]}
    assert style.STYLES["TTI"]["color"] in {line.get_color() for line in grid[0, 2].lines if line.get_ydata()[0] == 0}
    np.testing.assert_array_equal(grid[0, 0].lines[0].get_xdata(), [3, 5])
    np.testing.assert_array_equal(grid[0, 0].lines[0].get_ydata(), [0.6, 0.4])
    assert list(grid[0, 0].get_xticks()) == [3, 5]
    label = next(text for text in grid[0, 1].texts if text.get_text() == "TTI")
    assert label.xy == (0.0, 0.5)  # at the last window that has a value


def test_looks_differ_between_methods_known_or_not():
    looks = style.styles(["fine-tune", "RePRI", "TTI", "TTI+keyframe", "a", "b", "c"])
    for key in ("color", "marker", "linestyle"):
        assert len({str(look[key]) for look in looks.values()}) == 7


def test_training_curves_show_the_log():
    log = [{"step": n + 1, "loss": 2.0 - n / 50, "learning_rate": 0.1, "val_miou": None} for n in range(100)]
    log[49]["val_miou"], log[99]["val_miou"] = 0.3, 0.5
    _, grid = axes(1, 3)
    curves.training_curves(grid, log)
    loss, miou, rate = grid[0]
    np.testing.assert_allclose(loss.lines[0].get_ydata()[[0, -1]], [2.0, 0.02])
    assert loss.lines[1].get_ydata()[0] == pytest.approx(2.0 - 2 / 50)  # mean of the first five steps
    np.testing.assert_array_equal(miou.lines[0].get_xdata(), [50, 100])
    np.testing.assert_array_equal(miou.lines[0].get_ydata(), [0.3, 0.5])
    assert rate.lines[0].get_ydata()[0] == 0.1


def test_per_class_bars_put_the_best_class_first():
    table = pd.DataFrame(
        {
            "method": ["RePRI", "RePRI", "TTI", "TTI"],
            "class_name": ["fish", "bird", "fish", "bird"],  # not in the order of the bars
            "IoU": [10.0, 70.0, 60.0, 30.0],
        }
    )
    _, grid = axes()
    ax = grid[0, 0]
    comparisons.per_class_bars(ax, table)
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        "bird",
        "fish",
    ]  # from below: fish is on top
    assert [bar.get_width() for bar in ax.patches] == [10, 70, 60, 30]
    heights = [bar.get_y() for bar in ax.patches]
    assert heights[0] > heights[2] > heights[1] > heights[3]  # RePRI above TTI; fish above bird
    assert ax.get_xlabel() == "IoU [percent]"

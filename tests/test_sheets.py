"""Sheets: classes are told apart and named, and what is ignored stays blank."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from ttilib.plots import curves, overlays

GREY = np.full((24, 36, 3), 100, np.uint8)
CLASSES = 60  # COCO-20i's base classes, the most there are


def full(label, shape=(24, 36)):
    return torch.full(shape, label)


def texts(figure):
    return [text.get_text() for ax in figure.axes for text in ax.texts]


def titles(figure):
    return [ax.get_title() for ax in figure.axes if ax.get_title()]


def drawn(figure):
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3]


def test_a_label_map_is_background_class_or_unknown():
    labels = full(0)
    labels[:8], labels[8:16, :18] = 3, 255
    out = overlays.label_map(GREY, labels)
    grey, colour = 60, 255 * np.array(to_rgb(overlays.COLOURS[2]))
    assert (out[16:] == grey).all() and (out[8:16, 18:] == grey).all()
    assert (out[8:16, :18] == overlays.UNKNOWN).all()
    np.testing.assert_allclose(out[:8], np.broadcast_to(0.8 * colour + 0.2 * grey, (8, 36, 3)), atol=0.51)
    assert (GREY == 100).all()


def test_a_label_map_is_enlarged_with_its_picture_and_only_with_it():
    labels = full(0)
    labels[5, 7] = 1
    out = overlays.label_map(torch.full((3, 24, 36), 0.5), labels, zoom=4)
    assert out.shape == (96, 144, 3)
    coloured = (out.max(axis=2) - out.min(axis=2)) > 20
    assert coloured.sum() == 16 and coloured[20:24, 28:32].all()
    with pytest.raises(ValueError, match=r"the label map is \[5, 6\], the image \[24, 36\]"):
        overlays.label_map(GREY, full(0, (5, 6)))


def test_a_class_has_its_colour_on_every_sheet():
    looks = [overlays.label_map(GREY, full(label)).astype(int) for label in range(1, CLASSES + 1)]
    repeats = len(overlays.COLOURS)
    for place, one in enumerate(looks[:repeats]):
        assert all((abs(one - other).max(axis=2) > 25).all() for other in looks[:place])
    beside = full(1)
    beside[:, 18:] = 23
    np.testing.assert_array_equal(overlays.label_map(GREY, beside)[:, 18:], looks[22][:, 18:])
    np.testing.assert_array_equal(looks[repeats], looks[0])


def test_the_first_classes_differ_in_what_every_eye_sees():
    """Simulated with Vienot's matrix for eyes without red cones."""
    rgb = np.array([to_rgb(colour) for colour in overlays.COLOURS[:7]])
    without_red = np.array([[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]])
    seen = np.clip(rgb**2.2 @ without_red.T, 0, 1) ** (1 / 2.2)
    lab = cv2.cvtColor(seen[None].astype(np.float32), cv2.COLOR_RGB2LAB)[0]
    distance = np.linalg.norm(lab[:, None] - lab[None], axis=2) + 100 * np.eye(len(lab))
    assert distance.min() > 10


@given(st.integers(1, 7), st.integers(1, 40), st.integers(1, 40))
@settings(deadline=None, max_examples=6)
def test_a_sheet_has_three_pictures_for_each_sample(n, height, width):
    images = torch.rand(n, 3, height, width)
    labels = torch.zeros(n, height, width, dtype=torch.int64)
    figure = overlays.sample_sheet(images, labels, labels, ["background"], "one")
    assert titles(figure) == ["image", "truth", "prediction, 100% right"] * n
    assert texts(figure) == [] and figure.get_suptitle() == "one"


def sample():
    """An image half unknown; of the known half a quarter is a bird, found as a fish in half of that."""
    labels = torch.zeros(1, 24, 36, dtype=torch.int64)
    labels[:, :12] = 255
    labels[:, 12:, :9] = 1
    found = labels.clone()
    found[:, :12] = 3
    found[:, 12:18, :9] = 2
    return torch.full((1, 3, 24, 36), 0.4), labels, found


def test_predictions_are_judged_and_shown_where_the_truth_is_known():
    figure = overlays.sample_sheet(*sample(), ["background", "bird", "fish", "frog"])
    picture, truth, found = (ax.images[0].get_array() for ax in figure.axes[:3])
    assert titles(figure)[2] == "prediction, 88% right"  # 7 of 8 pixels
    zoom = truth.shape[0] // 24
    assert (found[: 12 * zoom] == overlays.UNKNOWN).all() and (truth[: 12 * zoom] == overlays.UNKNOWN).all()
    bird, fish = (to_rgb(overlays.COLOURS[place]) for place in (0, 1))
    at = slice(13 * zoom, 17 * zoom), slice(zoom, 8 * zoom)
    for shown, colour in ((truth, bird), (found, fish)):
        np.testing.assert_allclose(shown[at].mean((0, 1)), 0.8 * 255 * np.array(colour) + 0.2 * 61, atol=2)
    assert (picture == 102).all()


def test_classes_are_named_on_their_regions():
    figure = overlays.sample_sheet(*sample(), ["background", "bird", "fish", "frog"])
    image, truth, found = figure.axes[:3]
    zoom = overlays.zoom_for(torch.zeros(3, 24, 36))
    assert [text.get_text() for text in truth.texts] == ["bird"] and not image.texts
    column, row = truth.texts[0].get_position()
    assert column == 4 * zoom and 12 * zoom <= row < 16 * zoom
    assert [text.get_text() for text in found.texts] == ["bird", "fish"]  # the frog is where the truth is ignored


@pytest.mark.filterwarnings("error")
def test_sheets_are_drawn_under_the_notebooks_settings_too(repository):
    with rc_context(fname=repository / "notebooks" / "matplotlibrc"):
        pairs = overlays.pairs_sheet(torch.zeros(1, 2, 3, 8, 8))
        for figure in (overlays.sample_sheet(*sample(), ["a", "b", "c"]), pairs):
            for tight in ("tight", None):  # as a notebook shows it, as a file gets it
                figure.savefig(io.BytesIO(), bbox_inches=tight)


def test_a_label_without_a_name_is_refused():
    images, labels, found = sample()
    with pytest.raises(ValueError, match="label 2 has no name among 2; name every label, background first"):
        overlays.sample_sheet(images, labels, found, ["background", "bird"])


def test_a_picture_without_any_known_pixel_is_no_error():
    figure = overlays.sample_sheet(torch.rand(1, 3, 8, 9), full(255, (1, 8, 9)), full(0, (1, 8, 9)), ["background"])
    assert titles(figure)[2] == "prediction, 0% right" and not texts(figure)


def test_at_most_six_pairs_are_shown():
    pictures = torch.arange(8 * 2)[:, None, None, None].expand(16, 3, 6, 8).unflatten(0, (8, 2)) / 16
    figure = overlays.pairs_sheet(pictures, "pairs")
    shown = [ax.images[0].get_array()[0, 0, 0] for ax in figure.axes if ax.images]
    values = [round(255 * n / 16) for n in (0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11)]
    np.testing.assert_allclose(shown, values, atol=1)
    drawn(figure)


def log(steps=40, **more):
    rows = [
        {"step": n, "loss": 3.0 - n / 20, "learning_rate": 0.1, "seconds": 2.0 * n, "waited": 0.5, **more}
        for n in range(1, steps + 1)
    ]
    rows[19] |= {"val_miou": 0.2, "train_miou": 0.3}
    rows[39] |= {"val_miou": 0.4, "train_miou": None}
    return rows


def test_the_training_figure_shows_loss_judgement_rate_and_waiting():
    figure = curves.training_figure(log(parts={"ce": 1.0}), "now")
    loss, miou, rate, waiting = figure.axes
    assert len(loss.lines) == 2 and not loss.texts  # one part is the loss itself
    by_name = {line.get_label(): line for line in miou.lines}
    assert by_name["held out"].get_xydata().tolist() == [[20, 0.2], [40, 0.4]]
    assert by_name["training"].get_xydata().tolist() == [[20, 0.3]]
    assert sorted(text.get_text() for text in miou.texts) == ["held out", "training"]
    np.testing.assert_allclose(rate.lines[0].get_ydata(), 0.1)
    np.testing.assert_allclose(waiting.lines[0].get_ydata(), 0.25)  # half a second of two
    assert waiting.get_ylim() == (0, 1) and figure.get_suptitle() == "now"
    drawn(figure)


def test_parts_of_the_loss_are_lines_with_names():
    rows = log(parts={"ce": 1.0, "contrast": 4.0})
    loss = curves.training_figure(rows).axes[0]
    by_name = {line.get_label(): line.get_ydata() for line in loss.lines}
    np.testing.assert_allclose(by_name["contrast"], 4.0)
    np.testing.assert_allclose(by_name["ce"], 1.0)
    np.testing.assert_allclose(by_name["loss"][0], 3.0 - 1.5 / 20)  # mean of the first two steps
    assert sorted(text.get_text() for text in loss.texts) == ["ce", "contrast", "loss"]


def test_rows_of_older_runs_and_fewer_axes_are_drawn_too():
    figure = Figure()
    FigureCanvasAgg(figure)
    older = [{"step": n, "loss": 1.0, "learning_rate": 0.1, "val_miou": None} for n in range(1, 30)]
    for axes in (figure.subplots(1, 4), figure.subplots(1, 2), figure.subplots()):
        curves.training_curves(axes, older)
    drawn(figure)
    assert not np.isfinite(figure.axes[3].lines[0].get_ydata()).any()  # nobody knows how long they waited
    for rows in ([], log()[:1]):
        drawn(curves.training_figure(rows))

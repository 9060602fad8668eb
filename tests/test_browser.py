"""Leafing through an episode: the image follows the controls, and a headless run gets a figure."""

from __future__ import annotations

from dataclasses import replace

import cv2
import ipywidgets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure

from ttilib.episodes.clips import synthetic_clip
from ttilib.plots import browser
from ttilib.plots.overlays import overlay, zoom_for
from ttilib.solver.solver import SolverConfig, solve
from ttilib.solver.task import extract


def colours(images):
    """An encoder of three channels: the mean colour of every cell."""
    grid = [(side + 7) // 8 for side in images.shape[-2:]]
    return F.adaptive_avg_pool2d(images, grid)


@pytest.fixture(scope="module")
def episode():
    clip = synthetic_clip(3, frames=4, shots=2, size=(57, 81))
    task = extract(colours, clip)
    quick = {"prior_update": 3, "steps": 6}
    configs = {"RePRI": SolverConfig(temporal_weight=0.0), "TTI+keyframe": SolverConfig(keyframe="support")}
    return clip, task, {name: solve(task, replace(config, **quick)) for name, config in configs.items()}


def shown(widget):
    return cv2.imdecode(np.frombuffer(widget.picture.value, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def test_masks_at_the_last_stage_are_the_solution(episode):
    _, task, solutions = episode
    for solution in solutions.values():
        last = browser.stages(solution) - 1
        masks = np.stack([browser.mask_at(task, solution, last, frame) for frame in range(4)])
        np.testing.assert_array_equal(masks, solution.masks().numpy())
    assert browser.stages(solutions["RePRI"]) == 7
    assert browser.stages(solutions["TTI+keyframe"]) == 8
    first = browser.mask_at(task, solutions["RePRI"], 0, 1)
    assert (first != solutions["RePRI"].masks()[1].numpy()).any()


def test_frames_that_are_all_padding_have_no_object(episode):
    clip, task, _ = episode
    valid = task.query_valid.clone()
    valid[1] = False
    gap = replace(task, query_valid=valid)
    solution = solve(gap, SolverConfig(steps=4, prior_update=2))
    masks = np.stack([browser.mask_at(gap, solution, 4, frame) for frame in range(4)])
    assert not masks[1].any() and masks[2].any()
    np.testing.assert_array_equal(masks, solution.masks().numpy())


def test_picture_shows_the_mask_that_the_controls_name(episode):
    clip, task, solutions = episode
    widget = browser.browse(clip, task, solutions, headless=False)
    assert isinstance(widget, ipywidgets.VBox)
    for method, frame, step in [("RePRI", 0, 0), ("RePRI", 2, 6), ("TTI+keyframe", 3, 7)]:
        widget.method.value, widget.frame.value, widget.step.value = method, frame, step
        mask = browser.mask_at(task, solutions[method], step, frame)
        zoom = zoom_for(clip.query[frame], 640)
        expected = overlay(clip.query[frame], mask, clip.truth[frame], zoom=zoom)
        np.testing.assert_array_equal(shown(widget), expected)
        assert method in widget.caption.value and f"frame {frame} of 3" in widget.caption.value
        assert "IoU 0." in widget.caption.value
    assert f"refined on keyframe {solutions['TTI+keyframe'].keyframe}" in widget.caption.value


def test_every_control_changes_the_bytes(episode):
    widget = browser.EpisodeBrowser(*episode)
    seen = [widget.picture.value]
    for control, value in ((widget.frame, 2), (widget.step, 0)):
        control.value = value
        seen.append(widget.picture.value)
    assert len(set(seen)) == 3
    widget.step.value = widget.step.max
    widget.frame.value = 0
    assert widget.picture.value == seen[0]


def test_steps_follow_the_method(episode):
    widget = browser.EpisodeBrowser(*episode)
    assert (widget.method.value, widget.step.value, widget.step.max) == ("TTI+keyframe", 7, 7)
    widget.method.value = "RePRI"
    assert (widget.step.value, widget.step.max) == (6, 6)  # the end stays the end
    widget.step.value = 2
    widget.method.value = "TTI+keyframe"
    assert (widget.step.value, widget.step.max) == (2, 7)
    assert "step 2 of 6" in widget.caption.value


def test_without_truth_there_is_no_score(episode):
    clip, task, solutions = episode
    widget = browser.EpisodeBrowser(replace(clip, truth=None), task, solutions)
    assert "IoU" not in widget.caption.value


def test_no_widget_captures_output(episode):
    widget = browser.EpisodeBrowser(*episode)
    stack, seen = [widget], []
    while stack:
        each = stack.pop()
        seen.append(each)
        stack.extend(getattr(each, "children", ()))
    assert len(seen) >= 7 and not any(isinstance(each, ipywidgets.Output) for each in seen)


def test_headless_is_a_figure_and_makes_no_widget(episode):
    clip, task, solutions = episode
    made = []
    ipywidgets.Widget.on_widget_constructed(made.append)
    try:
        figure = browser.browse(clip, task, solutions, headless=True)
    finally:
        ipywidgets.Widget.on_widget_constructed(None)
    assert isinstance(figure, Figure)
    assert made == []
    titles = [ax.get_title() for ax in figure.axes]
    assert titles[:6] == ["step 0, frame 2", "step 1, frame 2"] + [f"step 6, frame {t}" for t in range(4)]
    assert titles[8] == "refined, frame 0"
    mask = browser.mask_at(task, solutions["RePRI"], 0, 2)
    expected = overlay(clip.query[2], mask, clip.truth[2], zoom=zoom_for(clip.query[2]))
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), expected)
    assert [ax.texts[0].get_text() for ax in (figure.axes[0], figure.axes[6])] == list(solutions)


def test_png_keeps_every_pixel():
    pixels = torch.randint(
        0, 256, (5, 7, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    ).numpy()
    back = cv2.imdecode(np.frombuffer(browser.png(pixels), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(back, pixels)

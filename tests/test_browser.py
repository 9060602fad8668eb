"""The image follows the controls, and a figure shows the same."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch.nn.functional as F

from ttilib.episodes.clips import synthetic_clip
from ttilib.plots import browser
from ttilib.plots.overlays import overlay, zoom_for
from ttilib.plots.style import styles
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
    return cv2.imdecode(np.frombuffer(widget.image.value, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


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
    valid = task.query_valid.clone()
    valid[1] = False  # a frame that is all padding has no object
    gap = replace(task, query_valid=valid)
    solution = solve(gap, SolverConfig(steps=4, prior_update=2))
    masks = np.stack([browser.mask_at(gap, solution, 4, frame) for frame in range(4)])
    assert not masks[1].any() and masks[2].any() and (masks == solution.masks().numpy()).all()


def test_the_image_shows_the_mask_of_the_controls(episode):
    clip, task, solutions = episode
    widget = browser.EpisodeBrowser(clip, task, solutions)
    for method, frame, step in [("RePRI", 0, 0), ("RePRI", 2, 6), ("TTI+keyframe", 3, 7)]:
        widget.method.value, widget.frame.value, widget.step.value = method, frame, step
        mask = browser.mask_at(task, solutions[method], step, frame)
        colour, zoom = styles([method])[method]["color"], zoom_for(clip.query[frame], browser.SHARP)
        np.testing.assert_array_equal(shown(widget), overlay(clip.query[frame], mask, clip.truth[frame], colour, zoom))
        assert all(part in widget.caption.value for part in (method, f"frame {frame} of 3", "IoU 0."))
    assert f"refined on keyframe {solutions['TTI+keyframe'].keyframe}" in widget.caption.value
    widget.step.value = 3
    assert "equal to RePRI" in widget.caption.value  # the temporal terms start with this step
    widget.step.value = 4
    assert "equal" not in widget.caption.value
    blind = browser.EpisodeBrowser(replace(clip, truth=None), task, solutions)
    assert "IoU" not in blind.caption.value


def test_steps_follow_the_method(episode):
    widget = browser.EpisodeBrowser(*episode)
    assert (widget.method.value, widget.step.value, widget.step.max) == ("TTI+keyframe", 7, 7)
    widget.method.value = "RePRI"
    assert (widget.step.value, widget.step.max) == (6, 6)  # the end stays the end
    widget.step.value = 2
    widget.method.value = "TTI+keyframe"
    assert (widget.step.value, widget.step.max) == (2, 7)
    assert "step 2 of 6" in widget.caption.value


def test_the_static_view_has_a_row_per_method(episode):
    clip, task, solutions = episode
    figure = browser.static_view(clip, task, solutions)
    titles = [ax.get_title() for ax in figure.axes]
    assert titles[0] == "step 0, frame 2" and titles[5] == "step 6, frame 3" and titles[8] == "refined, frame 0"
    mask = browser.mask_at(task, solutions["RePRI"], 0, 2)
    colour = styles(["RePRI"])["RePRI"]["color"]
    expected = overlay(clip.query[2], mask, clip.truth[2], colour, zoom_for(clip.query[2]))
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), expected)

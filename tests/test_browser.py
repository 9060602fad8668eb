"""The masks of every stage, and the image that follows the controls."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from PIL import Image
from tasks import toy_encoder

from ttilib.episodes.clips import synthetic_clip
from ttilib.plots import browser
from ttilib.plots.overlays import CELL, overlay, zoom_for
from ttilib.plots.style import styles
from ttilib.results.metrics import iou
from ttilib.solver.solver import SolverConfig, solve
from ttilib.solver.task import extract


@pytest.fixture(scope="module")
def episode():
    clip = synthetic_clip(3, frames=4, shots=2, size=(57, 81))
    task = extract(toy_encoder, clip)
    quick = {"prior_update": 3, "steps": 6}
    configs = {"RePRI": SolverConfig(temporal_weight=0.0), "TTI+keyframe": SolverConfig(keyframe="support")}
    return clip, task, {name: solve(task, replace(config, **quick)) for name, config in configs.items()}


def test_masks_at_the_last_stage_are_the_solution(episode):
    _, task, solutions = episode
    for solution in solutions.values():
        last = browser.stages(solution) - 1
        masks = np.stack([browser.mask_at(task, solution, last, frame) for frame in range(4)])
        np.testing.assert_array_equal(masks, solution.masks().numpy())
    assert [browser.stages(solution) for solution in solutions.values()] == [7, 8]
    first = browser.mask_at(task, solutions["RePRI"], 0, 1)
    assert (first != solutions["RePRI"].masks()[1].numpy()).any()


def test_the_image_shows_the_mask_of_the_controls(episode):
    clip, task, solutions = episode
    widget = browser.EpisodeBrowser(clip, task, solutions)
    for method, frame, step, last in [("RePRI", 0, 0, 6), ("RePRI", 2, 6, 6), ("TTI+keyframe", 3, 7, 7)]:
        widget.method.value, widget.frame.value = method, frame
        assert widget.step.max == last
        widget.step.value = step
        mask = browser.mask_at(task, solutions[method], step, frame)
        colour, zoom = styles([method])[method]["color"], zoom_for(clip.query[frame], CELL)
        shown = cv2.imdecode(np.frombuffer(widget.image.value, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        np.testing.assert_array_equal(shown, overlay(clip.query[frame], mask, clip.truth[frame], colour, zoom))
    assert f"refined on keyframe {solutions['TTI+keyframe'].keyframe}" in widget.caption.value
    widget.step.value = 3
    assert "equal to RePRI" in widget.caption.value  # the temporal terms start with this step


def test_a_changed_setting_solves_again_and_the_film_has_every_step(episode, tmp_path):
    clip, task, solutions = episode
    config = SolverConfig(prior_update=3, steps=6)
    kl, _, _, window, caption, image = browser.settings_view(clip, task, config, 2).children
    kl.value, window.value, before = 0.5, 2, image.value
    masks = solve(task, replace(config, kl_weight=0.5 / task.shots, window=2)).masks()
    assert f"{100 * iou(masks, clip.truth):.1f} %" in caption.value and image.value != before
    browser.film(film := tmp_path / "film.webp", clip, task, solutions["RePRI"], 1)
    assert Image.open(film).n_frames == 7

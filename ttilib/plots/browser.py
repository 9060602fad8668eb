"""Interactive view of a solved episode, with sliders for frame and step, and the same as a static figure."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import cv2
import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Bool
from matplotlib.figure import Figure

from ttilib.episodes.clips import Clip
from ttilib.plots.overlays import evenly_spaced, filmstrip, overlay, zoom_for
from ttilib.plots.style import styles
from ttilib.results.metrics import region_similarity
from ttilib.solver.classifier import Classifier
from ttilib.solver.solver import Solution, upsampled_probabilities
from ttilib.solver.task import Task

CACHED = 64  # cached PNG images, about 40 MB
SHARP = 960  # pixels of the longer side, about the width of a cell


def stages(solution: Solution) -> int:
    """Number of stages of a solution: the start, one per step, and the keyframe refinement if any."""
    return len(solution.history) + (solution.keyframe is not None)


def mask_at(task: Task, solution: Solution, stage: int, frame: int) -> Bool[np.ndarray, "H W"]:
    """The mask of one frame at one stage: probability above one half at the clip's size; padding frames are empty.

    Stage n is the classifier after n steps; the stage after the last step is the keyframe refinement.
    """
    present = task.query_valid.flatten(1).any(dim=1)
    if not present[frame]:
        return np.zeros(solution.size, dtype=bool)
    if stage < len(solution.history):
        classifier, at = solution.history[stage].classifier, int(present[:frame].sum())
    else:
        classifier, at = solution.classifier, frame
    one = Classifier(classifier.weight[at : at + 1], classifier.bias[at : at + 1], classifier.temperature)
    scores = one.scores(task.query[frame : frame + 1])
    return (upsampled_probabilities(scores, one.bias, solution.size)[0] > 0.5).cpu().numpy()


class EpisodeBrowser(ipywidgets.VBox):
    """Method buttons, frame and step sliders, and the frame with its mask and the ground truth as a line.

    `image.value` holds the PNG shown; `method`, `frame` and `step` are the controls and can be set from code.
    It needs a running kernel; a saved notebook keeps `static_view`.
    """

    def __init__(self, clip: Clip, task: Task, solutions: Mapping[str, Solution]) -> None:
        self.clip, self.task, self.solutions = clip, task, dict(solutions)
        self._render = lru_cache(maxsize=CACHED)(self._encoded)
        names = list(self.solutions)
        last = len(clip.query) - 1
        wide = ipywidgets.Layout(width="420px")
        self.method = ipywidgets.ToggleButtons(options=names, value=names[-1], description="method")
        self.frame = ipywidgets.IntSlider(0, 0, last, description="frame", layout=wide)
        self.step = ipywidgets.IntSlider(0, 0, 0, description="step", layout=wide)
        self.player = ipywidgets.Play(min=0, max=last, interval=200, description="frames")
        ipywidgets.jslink((self.player, "value"), (self.frame, "value"))
        self.image = ipywidgets.Image(format="png", layout=ipywidgets.Layout(max_width="100%", object_fit="contain"))
        self.caption = ipywidgets.HTML()
        self._follow_method()
        self.method.observe(self._follow_method, names="value")
        for slider in (self.frame, self.step):
            slider.observe(self._draw, names="value")
        frames = ipywidgets.HBox([self.frame, self.player])
        super().__init__([self.method, frames, self.step, self.caption, self.image])

    def _follow_method(self, change: object = None) -> None:
        """Set the number of stages of the method; the last stage stays selected if it was."""
        at_end = self.step.value == self.step.max
        self.step.max = stages(self.solutions[self.method.value]) - 1
        if at_end:
            self.step.value = self.step.max
        self._draw()

    def _draw(self, change: object = None) -> None:
        """Show the selected frame."""
        self.image.value, self.caption.value = self._render(self.method.value, self.step.value, self.frame.value)

    def _encoded(self, method: str, stage: int, frame: int) -> tuple[bytes, str]:
        """PNG and caption of one frame at one stage."""
        mask = mask_at(self.task, self.solutions[method], stage, frame)
        steps, keyframe = len(self.solutions[method].history), self.solutions[method].keyframe
        at = f"refined on keyframe {keyframe}" if stage == steps else f"step {stage} of {steps - 1}"
        parts = [method, at, f"frame {frame} of {len(self.clip.query) - 1}", *self._equal(method, stage)]
        truth = None if self.clip.truth is None else self.clip.truth[frame]
        if truth is not None:
            valid = self.clip.query_valid[frame].cpu().numpy()
            score = region_similarity(mask[None], truth[None].cpu().numpy(), valid[None])[0]
            parts.append(f"IoU {score:.2f}")
        image = self.clip.query[frame]
        colour = styles(self.solutions)[method]["color"]
        pixels = cv2.cvtColor(overlay(image, mask, truth, colour, zoom_for(image, SHARP)), cv2.COLOR_RGB2BGR)
        return cv2.imencode(".png", pixels)[1].tobytes(), " \u00b7 ".join(parts)

    def _equal(self, method: str, stage: int) -> list[str]:
        """Which other methods have the same classifier at this stage, as before the first temporal step."""
        if stage >= len(self.solutions[method].history):
            return []
        weight = self.solutions[method].history[stage].classifier.weight
        others = [(name, other.history[stage].classifier.weight) for name, other in self.solutions.items()
                  if name != method and stage < len(other.history)]  # fmt: skip
        equal = [name for name, other in others if torch.equal(weight, other)]
        return [f"equal to {' and '.join(equal)}"] if equal else []


def static_view(clip: Clip, task: Task, solutions: Mapping[str, Solution], width: float = 9.5) -> Figure:
    """The browser as a figure, a row per method: one frame at two early steps, then frames at the last stage."""
    frames = evenly_spaced(len(clip.query), 4)
    early = frames[len(frames) // 2]
    figure = plt.figure(figsize=(width, 0.2 + 1.07 * len(solutions)), layout="compressed")
    looks = styles(solutions)
    plt.close(figure)  # shown once, as the value of the cell
    grid = figure.subplots(len(solutions), 2 + len(frames), squeeze=False)
    for row, (method, solution) in zip(grid, solutions.items(), strict=True):
        refined, last = len(solution.history), stages(solution) - 1
        moments = [(0, early), ((refined - 1) // 5, early)] + [(last, frame) for frame in frames]
        shown = [frame for _, frame in moments]
        titles = [f"{'refined' if s == refined else f'step {s}'}, frame {frame}" for s, frame in moments]
        masks = [mask_at(task, solution, *moment) for moment in moments]
        truths = None if clip.truth is None else clip.truth[shown]
        filmstrip(row, clip.query[shown], masks, truths, titles, looks[method]["color"])
        name = {"rotation": 90, "va": "center", "ha": "right", "fontsize": 9}
        row[0].text(-0.04, 0.5, method, transform=row[0].transAxes, **name)
    return figure

"""A solved episode in a notebook: any frame, any step, any method, with sliders; in a headless run one static figure.

The widget is an image whose bytes are replaced: it prints nothing and captures no output, because captured output can
hang a notebook that runs without a browser.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import cv2
import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Bool
from matplotlib.figure import Figure

from ttilib.episodes.clips import Clip
from ttilib.plots.overlays import Pixels, evenly_spaced, filmstrip, overlay, zoom_for
from ttilib.results.metrics import region_similarity
from ttilib.solver.classifier import Classifier
from ttilib.solver.solver import Solution, upsampled_probabilities
from ttilib.solver.task import Task

KEPT = 64  # images kept as PNG, some 20 MB


def stages(solution: Solution) -> int:
    """Number of stages of a solution: the start, one after each step, and the keyframe refinement if any."""
    return len(solution.history) + (solution.keyframe is not None)


def mask_at(task: Task, solution: Solution, stage: int, frame: int) -> Bool[np.ndarray, "H W"]:
    """The mask of one frame at one stage: probability above one half at the clip's size; padding frames are empty.

    Stage n is the classifier after n steps; one past the last is the one after keyframe refinement.
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


def stage_name(solution: Solution, stage: int) -> str:
    """What happened up to this stage, in words."""
    if stage == len(solution.history):
        return f"refined on keyframe {solution.keyframe}"
    return f"step {stage} of {len(solution.history) - 1}"


class EpisodeBrowser(ipywidgets.VBox):
    """Method buttons, a frame slider, a step slider, and the frame with its mask and the ground truth as a line.

    `picture.value` holds the PNG shown; `method`, `frame` and `step` are the controls, also from code.
    """

    def __init__(self, clip: Clip, task: Task, solutions: Mapping[str, Solution]) -> None:
        self.clip, self.task, self.solutions = clip, task, dict(solutions)
        self._render = lru_cache(maxsize=KEPT)(self._picture)
        names = list(self.solutions)
        last = len(clip.query) - 1
        self.method = ipywidgets.ToggleButtons(options=names, value=names[-1], description="method")
        self.frame = ipywidgets.IntSlider(0, 0, last, description="frame")
        self.step = ipywidgets.IntSlider(0, 0, 0, description="step")
        self.player = ipywidgets.Play(min=0, max=last, interval=200, description="frames")
        ipywidgets.jslink((self.player, "value"), (self.frame, "value"))
        self.picture = ipywidgets.Image(format="png")
        self.caption = ipywidgets.HTML()
        self._follow_method()
        self.method.observe(self._follow_method, names="value")
        for slider in (self.frame, self.step):
            slider.observe(self._draw, names="value")
        frames = ipywidgets.HBox([self.frame, self.player])
        super().__init__([self.method, frames, self.step, self.caption, self.picture])

    def _follow_method(self, change: object = None) -> None:
        """A method has its own number of stages; the last one stays selected if it was."""
        at_end = self.step.value == self.step.max
        self.step.max = stages(self.solutions[self.method.value]) - 1
        if at_end:
            self.step.value = self.step.max
        self._draw()

    def _draw(self, change: object = None) -> None:
        """Show the frame that the controls select."""
        self.picture.value, self.caption.value = self._render(self.method.value, self.step.value, self.frame.value)

    def _picture(self, method: str, stage: int, frame: int) -> tuple[bytes, str]:
        """The PNG of one frame at one stage, and the caption above it."""
        mask = mask_at(self.task, self.solutions[method], stage, frame)
        parts = [method, stage_name(self.solutions[method], stage), f"frame {frame} of {len(self.clip.query) - 1}"]
        truth = None if self.clip.truth is None else self.clip.truth[frame]
        if truth is not None:
            valid = self.clip.query_valid[frame].cpu().numpy()
            score = region_similarity(mask[None], truth[None].cpu().numpy(), valid[None])[0]
            parts.append(f"IoU {score:.2f}")
        image = self.clip.query[frame]
        return png(overlay(image, mask, truth, zoom=zoom_for(image, 640))), " \u00b7 ".join(parts)


def png(pixels: Pixels) -> bytes:
    """An image as PNG bytes."""
    return cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].tobytes()


def static_view(clip: Clip, task: Task, solutions: Mapping[str, Solution], width: float = 9.5) -> Figure:
    """The browser as a figure, a row per method: one frame at two early steps, then frames at the last stage."""
    frames = evenly_spaced(len(clip.query), 4)
    early = frames[len(frames) // 2]
    figure = plt.figure(figsize=(width, 0.2 + 1.07 * len(solutions)), layout="compressed")
    plt.close(figure)  # pyplot made notebooks ready to show figures; this one is shown once, as a value
    grid = figure.subplots(len(solutions), 2 + len(frames), squeeze=False)
    for row, (method, solution) in zip(grid, solutions.items(), strict=True):
        refined, last = len(solution.history), stages(solution) - 1
        moments = [(0, early), ((refined - 1) // 5, early)] + [(last, frame) for frame in frames]
        shown = [frame for _, frame in moments]
        titles = [f"{'refined' if s == refined else f'step {s}'}, frame {frame}" for s, frame in moments]
        masks = [mask_at(task, solution, *moment) for moment in moments]
        filmstrip(row, clip.query[shown], masks, None if clip.truth is None else clip.truth[shown], titles)
        name = {"rotation": 90, "va": "center", "ha": "right", "fontsize": 9}
        row[0].text(-0.04, 0.5, method, transform=row[0].transAxes, **name)
    return figure


def browse(clip: Clip, task: Task, solutions: Mapping[str, Solution], headless: bool) -> EpisodeBrowser | Figure:
    """An `EpisodeBrowser`, or with `headless` the static figure; make it a cell's last value."""
    return static_view(clip, task, solutions) if headless else EpisodeBrowser(clip, task, solutions)

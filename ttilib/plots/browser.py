"""Views of a solved episode: with sliders for frame and step or for the settings, as a film, as a static figure."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import cv2
import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import HTML
from jaxtyping import Bool
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image as PillowImage

from ttilib.episodes.clips import Clip
from ttilib.files import atomic
from ttilib.plots.curves import loss_terms, prior_trace
from ttilib.plots.overlays import CELL, array, filmstrip, overlay, show, zoom_for
from ttilib.plots.style import STYLES, styles
from ttilib.results.metrics import iou, region_similarity
from ttilib.solver.classifier import Classifier
from ttilib.solver.settings import SolverConfig
from ttilib.solver.solver import Solution, solve, upsampled_probabilities
from ttilib.solver.task import Task, oracle_prior

CACHED = 64  # cached PNG images, about 40 MB
MOMENTS = (0, 0.04, 0.1, 0.2, 0.45, 1)  # of a static view, in shares of all stages
WIDE, FITTING = ipywidgets.Layout(width="420px"), ipywidgets.Layout(max_width=f"min(100%, {CELL}px)")


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
        self.method = ipywidgets.ToggleButtons(options=names, value=names[-1])
        self.frame = ipywidgets.IntSlider(0, 0, last, description="frame", layout=WIDE)
        self.step = ipywidgets.IntSlider(0, 0, 0, description="step", layout=WIDE)
        self.player = ipywidgets.Play(min=0, max=last, interval=200, description="frames")
        ipywidgets.jslink((self.player, "value"), (self.frame, "value"))
        self.image = ipywidgets.Image(format="png", layout=FITTING)
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
        if self.clip.truth is not None:
            truth, valid = (part[frame : frame + 1].cpu().numpy() for part in (self.clip.truth, self.clip.query_valid))
            parts.append(f"IoU {100 * region_similarity(mask[None], truth, valid)[0]:.0f} %")
        return _png(self.clip, frame, mask, styles(self.solutions)[method]["color"]), " \u00b7 ".join(parts)

    def _equal(self, method: str, stage: int) -> list[str]:
        """Which other methods have the same classifier at this stage, as before the first temporal step."""
        there = {name: s.history[stage].classifier for name, s in self.solutions.items() if stage < len(s.history)}
        own = there.pop(method, None)
        equal = [name for name, other in there.items() if own is not None and torch.equal(own.weight, other.weight)]
        return [f"equal to {' and '.join(equal)}"] if equal else []


def _png(clip: Clip, frame: int, mask: Bool[np.ndarray, "H W"], colour: str) -> bytes:
    """A frame with a mask and the ground truth, enlarged, as PNG."""
    image, truth = clip.query[frame], None if clip.truth is None else clip.truth[frame]
    pixels = overlay(image, mask, truth, colour, zoom_for(image, CELL))
    return cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].tobytes()


def settings_view(clip: Clip, task: Task, config: SolverConfig, frame: int) -> ipywidgets.VBox:
    """Sliders for three weights, in units of 1/K, and the window; each change solves the task again and shows a frame.

    The children are the sliders (KL, entropy, temporal, window), the caption and the image.
    """
    look = {"continuous_update": False, "layout": WIDE}
    names = {"kl_weight": "KL", "entropy_weight": "entropy", "temporal_weight": "temporal"}
    sliders = {field: ipywidgets.FloatSlider(1.0, min=0, max=4, step=0.25, description=name, **look)
               for field, name in names.items()}  # fmt: skip
    window = ipywidgets.IntSlider(config.window, 1, len(clip.query), description="window", **look)
    caption, image = ipywidgets.HTML(), ipywidgets.Image(format="png", layout=FITTING)

    def draw(change: object = None) -> None:
        weights = {field: slider.value / task.shots for field, slider in sliders.items()}
        masks = solve(task, replace(config, window=window.value, **weights)).masks().cpu()
        score = "" if clip.truth is None else f", IoU of the video {100 * iou(masks, clip.truth):.1f} %"
        caption.value = f"TTI, frame {frame}{score}"
        image.value = _png(clip, frame, masks[frame].numpy(), STYLES["TTI"]["color"])

    for slider in (*sliders.values(), window):
        slider.observe(draw, names="value")
    draw()
    return ipywidgets.VBox([*sliders.values(), window, caption, image])


def film(path: Path | str, clip: Clip, task: Task, solution: Solution, frame: int) -> HTML:
    """Write every step of TTI as an animated .webp, and return it for a cell.

    Panels: a frame with its mask, the mean of each term with a line at the step, prior and prediction of every frame.
    """
    terms = [state.terms() for state in solution.history]
    traces = [(state.prior.cpu(), at.marginal.cpu()) for state, at in zip(solution.history, terms, strict=True)]
    figure = Figure(figsize=(11, 2.6), dpi=100, layout="constrained")
    canvas, (left, middle, right) = FigureCanvasAgg(figure), figure.subplots(1, 3, width_ratios=(4, 3, 3))
    image, truth = clip.query[frame], None if clip.truth is None else clip.truth[frame]
    shown, title = show(left, overlay(image, zoom=zoom_for(image))), left.set_title("TTI")
    loss_terms(middle, terms)
    line = middle.axvline(0, color="0.3", linewidth=1)
    prior_trace(right, *traces[0], None if clip.truth is None else oracle_prior(clip.truth, task).cpu())
    right.set_ylim(0, 105 * max(float(torch.cat(trace).max()) for trace in traces))
    for artist in (moving := (shown, title, line, *right.lines[:2])):
        artist.set_animated(True)
    canvas.draw()
    still, images = canvas.copy_from_bbox(figure.bbox), []
    for step, trace in enumerate(traces):
        mask = mask_at(task, solution, step, frame)
        shown.set_data(overlay(image, mask, truth, STYLES["TTI"]["color"], zoom_for(image)))
        title.set_text(f"TTI, frame {frame}: step {step} of {len(terms) - 1}")
        line.set_xdata([step, step])
        for curve, values in zip(right.lines, trace, strict=False):
            curve.set_ydata(100 * array(values))
        canvas.restore_region(still)
        for artist in moving:
            figure.draw_artist(artist)
        images.append(PillowImage.fromarray(np.asarray(canvas.buffer_rgba())[..., :3]))
    with atomic(path) as temporary:
        images[0].save(temporary, save_all=True, append_images=images[1:], duration=170, loop=0)
    data = b64encode(Path(path).read_bytes()).decode()
    return HTML(f'<img alt="All steps of TTI" src="data:image/webp;base64,{data}">')  # nbconvert takes no image/webp


def static_view(clip: Clip, task: Task, solutions: Mapping[str, Solution], frame: int) -> Figure:
    """The browser as a figure: a row per method with one frame at six stages, most of them early."""
    figure = plt.figure(figsize=(11, 0.2 + 1.07 * len(solutions)), layout="compressed")
    plt.close(figure)  # shown once, as the value of the cell
    grid = figure.subplots(len(solutions), len(MOMENTS), squeeze=False)
    truths = None if clip.truth is None else [clip.truth[frame]] * len(MOMENTS)
    for row, (method, solution) in zip(grid, solutions.items(), strict=True):
        refined, last = len(solution.history), stages(solution) - 1
        moments = [round(share * last) for share in MOMENTS]
        titles = ["refined" if stage == refined else f"step {stage}" for stage in moments]
        masks = [mask_at(task, solution, stage, frame) for stage in moments]
        filmstrip(row, [clip.query[frame]] * len(moments), masks, truths, titles, styles(solutions)[method]["color"])
        name = {"rotation": 90, "va": "center", "ha": "right", "fontsize": 9}
        row[0].text(-0.04, 0.5, method, transform=row[0].transAxes, **name)
    return figure

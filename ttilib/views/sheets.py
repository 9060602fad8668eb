"""What a training run is looked at with: labels as colours, sheets of samples and pairs.

A class has one colour and one weave for ever, by its label: seven colours that readers with any colour vision tell
apart, and from the eighth class on lines woven into them. The legend shows both, for the classes on the sheet only.
Background is the grey picture itself; what is not judged is plain light grey.

`label_map` colours one picture; `sample_sheet` and `pairs_sheet` make whole figures, which know
nothing of pyplot: drawing them changes nothing in a notebook or script that runs the training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int64
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import PlaceHolderLayoutEngine
from torch import Tensor

from ttilib.data.datasets import IGNORED
from ttilib.views.plots import Image, Pixels, array, as_rgb, show, zoom_for

COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")  # Okabe and Ito's
WEAVES = ((), ((1, 1),), ((0, 1),), ((1, -1),), ((1, 0),), ((1, 1), (1, -1)), ((1, 0), (0, 1)), ((1, 2),), ((1, -2),))
"""Directions (x, y) across which dark lines follow each other."""

THREAD = 12  # pixels from line to line
FILLED = 0.8  # share of a class's colour; the rest is the grey picture
UNKNOWN = 217  # grey value
WIDTH = 12.0  # inches of a sheet

LabelMap = Int64[Tensor, "_ _"]


def class_colours(labels: Int64[np.ndarray, "H W"]) -> Float[np.ndarray, "H W 3"]:
    """Colour and weave of the class at every pixel, in [0, 255]; labels 1, 2, ... are classes."""
    rows, columns = np.indices(labels.shape)
    classes = np.clip(labels - 1, 0, None)
    paint = 255 * np.array([to_rgb(colour) for colour in COLOURS])[classes % len(COLOURS)]
    kinds = classes // len(COLOURS) % len(WEAVES)
    for kind in np.unique(kinds):
        for x, y in WEAVES[kind]:
            line = (x * columns + y * rows) % THREAD < THREAD / 3
            paint[line & (kinds == kind)] *= 0.35
    return paint


def label_map(image: Image, labels: LabelMap, zoom: int = 1) -> Pixels:
    """The grey picture with every class in its colour; what is labelled unknown is light grey.

    `zoom` enlarges picture and labels first (whole factor). Raises ValueError if they differ in size.
    """
    rgb, known = as_rgb(image), array(labels)
    if rgb.shape[:2] != known.shape:
        found = f"{list(known.shape)}, the picture {list(rgb.shape[:2])}"
        raise ValueError(f"the label map is {found}; give both at the same height and width")
    grey = np.repeat(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    if zoom > 1:
        grey = cv2.resize(grey, (grey.shape[1] * zoom, grey.shape[0] * zoom), interpolation=cv2.INTER_CUBIC)
        known = known.repeat(zoom, axis=0).repeat(zoom, axis=1)
    out = 0.6 * grey.astype(np.float64)
    inside = (known > 0) & (known != IGNORED)
    out[inside] = ((1 - FILLED) * out + FILLED * class_colours(known))[inside]
    out[known == IGNORED] = UNKNOWN
    return out.round().astype(np.uint8)


def sample_sheet(
    images: Float[Tensor, "n 3 H W"],
    labels: Int64[Tensor, "n H W"],
    found: Int64[Tensor, "n H W"],
    names: Sequence[str],
    title: str = "",
) -> Figure:
    """Picture, truth and prediction side by side, with a legend of the classes that occur.

    Pictures are in [0, 1]; `names` are those of the labels 0, 1, 2, ..., background first. Predictions are blanked
    where the truth is unknown, and their titles say which share of the known pixels is right.
    Raises ValueError if a label has no name.
    """
    truth = labels.cpu()
    shown = found.cpu().where(truth != IGNORED, IGNORED)
    present = _named(sorted({*truth.unique().tolist(), *shown.unique().tolist()}), names)
    columns = max(1, min(6, int(WIDTH / (0.7 + 0.09 * max(map(len, present.values()))))))  # of the legend
    blocks = 1 if len(images) < 4 else 2
    rows, lines = math.ceil(len(images) / blocks), math.ceil(len(present) / columns)
    figure, grid, below = _sheet(rows, 3 * blocks, images.shape[-2] / images.shape[-1], title, 0.28 * lines)
    for axes, image, true, guess in zip(grid.reshape(-1, 3), images.cpu(), truth, shown, strict=False):
        zoom = zoom_for(image)
        right = (true == guess)[true != IGNORED].double().mean().nan_to_num()
        show(axes[0], image, "picture")
        show(axes[1], label_map(image, true, zoom), "truth")
        show(axes[2], label_map(image, guess, zoom), f"prediction, {100 * right:.0f}% right")
    _legend(below, present, lines, columns)
    return figure


def _sheet(rows: int, columns: int, ratio: float, title: str, below: float) -> tuple[Figure, np.ndarray, Axes]:
    """A figure of equal cells for pictures of height / width `ratio`, and a strip of `below` inches under them.

    Laid out by hand, because a run waits for it: finding the layout takes matplotlib longer than drawing.
    """
    width = WIDTH / columns
    head, height = (0.28 if title else 0.05), width * ratio + 0.3  # inches, of the title and of a cell
    total = head + rows * height + below
    by_hand = PlaceHolderLayoutEngine(adjust_compatible=True, colorbar_gridspec=False)  # "none" yields to matplotlibrc
    figure = Figure(figsize=(WIDTH, total), layout=by_hand, dpi=120)
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.005, y=1 - 0.08 / total, ha="left", va="top", fontsize=11)
    grid = np.empty((rows, columns), dtype=object)
    for row, column in np.ndindex(rows, columns):
        bottom = below + (rows - row - 1) * height + 0.04
        box = ((column * width + 0.03) / WIDTH, bottom / total, (width - 0.06) / WIDTH, (height - 0.3) / total)
        grid[row, column] = figure.add_axes(box, frame_on=False, xticks=(), yticks=())
    return figure, grid, figure.add_axes((0.0025, 0, 0.9975, below / total), frame_on=False, xticks=(), yticks=())


def _named(labels: Sequence[int], names: Sequence[str]) -> dict[int, str]:
    nameless = [each for each in labels if each != IGNORED and not 0 <= each < len(names)]
    if nameless:
        raise ValueError(f"label {nameless[0]} has no name among {len(names)}; name every label, background first")
    return {label: "not judged" if label == IGNORED else names[label] for label in labels}


def _legend(ax: Axes, names: Mapping[int, str], lines: int, columns: int) -> None:
    """A swatch and a name for every label, `columns` in a line."""
    grey = np.full((18, 36, 3), 150, np.uint8)
    width = 0.4 * columns / WIDTH  # of a swatch, in columns
    for place, (label, name) in enumerate(names.items()):
        line, column = divmod(place, columns)
        swatch = label_map(grey, _full(label, grey.shape[:2]))
        box = (column, column + width, line + 0.8, line + 0.2)
        ax.imshow(swatch, extent=box, aspect="auto", interpolation="nearest")
        ax.text(column + 1.2 * width, line + 0.5, name, va="center", fontsize=10)
    ax.set(xlim=(0, columns), ylim=(lines, 0), xticks=(), yticks=())


def _full(label: int, shape: tuple[int, int]) -> LabelMap:
    return torch.full(shape, label)


def pairs_sheet(pictures: Float[Tensor, "n 2 3 H W"], title: str = "") -> Figure:
    """The pairs whose features are contrasted: a frame above, the one it is compared with below.

    Pictures are in [0, 1]; at most six pairs are shown.
    """
    shown = pictures[:6].cpu()
    figure, grid, _ = _sheet(2, max(4, len(shown)), pictures.shape[-2] / pictures.shape[-1], title, 0.05)
    for column, pair in enumerate(shown):
        show(grid[0, column], pair[0], f"frame of pair {column + 1}")
        show(grid[1, column], pair[1], "compared with")
    return figure

"""Frames, masks and features as pictures a reader can judge at a glance.

A prediction is a translucent fill with a crisp edge, the truth a white line with a dark rim over it, so that
agreement and error show in one picture. Feature vectors become colours, gradients a map around zero.

Functions draw on the axes they are given or return pixels; they neither save nor show. Pictures may be
tensors [3, H, W] in [0, 1], as clips hold them, or NumPy images [H, W, 3]. Lines are in `curves`, tables in
`bars`.

What a training run is looked at with: labels as colours, sheets of samples and pairs.

A class has one colour and one weave for ever, by its label: seven colours that readers with any colour vision tell
apart, and from the eighth class on lines woven into them. The legend shows both, for the classes on the sheet only.
Background is the grey picture itself; what is not judged is plain light grey.

`label_map` colours one picture; `sample_sheet` and `pairs_sheet` make whole figures, which know
nothing of pyplot: drawing them changes nothing in a notebook or script that runs the training.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure, SubFigure
from matplotlib.image import AxesImage
from matplotlib.layout_engine import PlaceHolderLayoutEngine
from torch import Tensor

from ttilib.episodes.clips import IGNORED, Clip

PREDICTION = "#E6007E"  # magenta: next to no object or ground in nature has it
FILL = 0.45  # share of the colour inside a mask; more hides the object, less hides the mask
SHARP = 360  # pixels: smaller pictures are enlarged in film strips so that contours stay thin

Image = Float[Tensor, "3 H W"] | UInt8[np.ndarray, "H W 3"] | Float[np.ndarray, "H W 3"]
Mask = Bool[Tensor, "_ _"] | Bool[np.ndarray, "_ _"]
Map = Float[Tensor, "h w"] | Float[np.ndarray, "h w"]
Pixels = UInt8[np.ndarray, "rows columns 3"]
SomeAxes = Axes | np.ndarray | Sequence[Axes]
"""One axes, or several as `subplots` returns them."""


def array(values: Tensor | np.ndarray | Sequence[float]) -> np.ndarray:
    """The same values for NumPy, wherever they are."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def each_of(axes: SomeAxes) -> list[Axes]:
    """The axes one by one, row by row."""
    return list(np.ravel(np.array(axes, dtype=object)))


def as_rgb(image: Image) -> UInt8[np.ndarray, "H W 3"]:
    """A picture as red, green, blue bytes; floats are in [0, 1] and clipped to it."""
    pixels = array(image)
    if isinstance(image, Tensor):
        pixels = pixels.transpose(1, 2, 0)
    if pixels.dtype != np.uint8:
        pixels = (np.clip(pixels, 0, 1) * 255).round().astype(np.uint8)
    return np.ascontiguousarray(pixels)


def evenly_spaced(count: int, n: int) -> list[int]:
    """At most n of the indices 0 .. count - 1, first and last among them, as evenly as integers allow."""
    return [int(index) for index in np.linspace(0, count - 1, min(n, count)).round()]


def zoom_for(image: Image, wanted: int = SHARP) -> int:
    """How many times a picture is to be enlarged so that its longer side has about `wanted` pixels."""
    return max(1, round(wanted / max(as_rgb(image).shape[:2])))


def _edge(mask: Bool[np.ndarray, "H W"], width: int) -> Bool[np.ndarray, "H W"]:
    """The outermost `width` pixels of a mask; where the picture cuts the object there is no edge."""
    kernel = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    return mask & ~(cv2.erode(mask.astype(np.uint8), kernel) > 0)


def _fitted(mask: Mask, shape: tuple[int, int], zoom: int, what: str) -> Bool[np.ndarray, "H W"]:
    """The mask of a picture, enlarged as the picture is."""
    pixels = array(mask)
    if pixels.shape != shape:
        found = f"{list(pixels.shape)}, the picture {list(shape)}"
        raise ValueError(f"the {what} is {found}; give both at the same height and width")
    return pixels.repeat(zoom, axis=0).repeat(zoom, axis=1)


def overlay(
    image: Image,
    mask: Mask | None = None,
    truth: Mask | None = None,
    colour: str = PREDICTION,
    zoom: int = 1,
) -> Pixels:
    """The picture with a mask as a translucent fill and edge in `colour`, and the truth as a white line.

    `zoom` enlarges the picture first (whole factor), which keeps lines thin on small frames. Edges lie inside
    the masks, so nothing outside is touched but the dark rim of the truth line, one `zoom` wide.
    Raises ValueError if a mask has another size than the picture.
    """
    rgb = as_rgb(image)
    shape = rgb.shape[:2]
    if zoom > 1:
        rgb = cv2.resize(rgb, (shape[1] * zoom, shape[0] * zoom), interpolation=cv2.INTER_CUBIC)
    out = rgb.astype(np.float32)
    paint = 255 * np.array(to_rgb(colour), dtype=np.float32)
    if mask is not None:
        inside = _fitted(mask, shape, zoom, "mask")
        out[inside] = (1 - FILL) * out[inside] + FILL * paint
        out[_edge(inside, zoom)] = paint
    if truth is not None:
        inside = _fitted(truth, shape, zoom, "truth")
        width = max(1, zoom // 2)
        rim = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
        outside = (cv2.dilate(inside.astype(np.uint8), rim) > 0) & ~inside
        out[outside] *= 0.25
        out[_edge(inside, width)] = 255
    return out.round().astype(np.uint8)


def show(ax: Axes, picture: Image, title: str = "") -> AxesImage:
    """One picture without ticks or frame."""
    drawn = ax.imshow(as_rgb(picture), interpolation="antialiased")
    ax.set_axis_off()
    if title:
        ax.set_title(title, fontsize=9, pad=3)
    return drawn


def filmstrip(
    axes: SomeAxes,
    frames: Iterable[Image],
    masks: Iterable[Mask] | None = None,
    truths: Iterable[Mask] | None = None,
    titles: Iterable[str] | None = None,
    colour: str = PREDICTION,
) -> None:
    """A row of frames, each with its mask and true contour; axes that are left over are blanked.

    Choose frames beforehand (`evenly_spaced`). Raises ValueError if there are more frames than axes.
    """
    row = each_of(axes)
    pictures = list(frames)
    if len(pictures) > len(row):
        raise ValueError(f"{len(pictures)} frames for {len(row)} axes; choose fewer or draw a wider strip")
    for ax in row[len(pictures) :]:
        ax.set_axis_off()
    given = [[None] * len(pictures) if each is None else list(each) for each in (masks, truths, titles)]
    for ax, picture, mask, truth, title in zip(row[: len(pictures)], pictures, *given, strict=True):
        show(ax, overlay(picture, mask, truth, colour, zoom_for(picture)), title or "")


def episode_card(figure: Figure | SubFigure, clip: Clip, frames: int = 6) -> None:
    """An episode on one card: the labelled support above, `frames` of the query below with their truth.

    Labels are outlined in white. A figure of 9.5 x 2.8 inches with layout "compressed" suits.
    """
    shots, chosen = len(clip.support), evenly_spaced(len(clip.query), frames)
    grid = figure.subplots(2, max(shots, len(chosen)), squeeze=False)
    filmstrip(grid[0], clip.support, truths=clip.support_masks)
    truths = None if clip.truth is None else clip.truth[chosen]
    filmstrip(grid[1], clip.query[chosen], truths=truths, titles=[f"frame {t}" for t in chosen])
    grid[0, 0].set_title(f"support: {shots} labelled, {clip.class_name}", loc="left", fontsize=10, pad=3)
    line = "" if clip.truth is None else ", truth outlined"
    figure.suptitle(f"{clip.name}: {len(clip.query)} query frames{line}", fontsize=11)


def gradient_map(
    ax: Axes, image: Image, gradient: Map, label: str = "gradient", limit: float | None = None
) -> AxesImage:
    """A signed map over the grey picture: blue below zero, white at zero, red above; the bar says how much.

    The map is at feature size and is laid where the features lie: its corner cells on the corner pixels.
    Colours end at plus and minus `limit`, by default the largest magnitude; maps with one limit compare.
    """
    values = array(gradient)
    grey = cv2.cvtColor(as_rgb(image), cv2.COLOR_RGB2GRAY)
    (height, width), (rows, columns) = grey.shape, values.shape
    dy, dx = (height - 1) / max(rows - 1, 1) / 2, (width - 1) / max(columns - 1, 1) / 2
    limit = limit or float(np.abs(values).max()) or 1.0  # an all-zero map still needs a scale
    ax.imshow(grey, cmap="gray", vmin=-60, vmax=255)
    drawn = ax.imshow(
        values,
        cmap="RdBu_r",
        vmin=-limit,
        vmax=limit,
        alpha=0.65,
        interpolation="bilinear",
        extent=(-dx, width - 1 + dx, height - 1 + dy, -dy),
    )
    ax.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    ax.set_axis_off()
    bar = ax.figure.colorbar(drawn, cax=ax.inset_axes((1.02, 0, 0.04, 1)))
    bar.set_label(label)
    bar.outline.set_visible(False)
    return drawn


def feature_colours(
    features: Float[Tensor, "N C h w"] | Float[np.ndarray, "N C h w"],
) -> Float[np.ndarray, "N h w 3"]:
    """What the encoder tells apart, as colours in [0, 1]: cells with like features get like colours.

    The three directions of largest variance of all N h w cells together become red, green and blue, each
    stretched from its 1st to its 99th percentile. The sign of a direction makes its largest component
    positive: the same features always get the same colours.
    """
    values = array(features).astype(np.float64)
    count, channels, rows, columns = values.shape
    cells = values.transpose(0, 2, 3, 1).reshape(-1, channels)
    cells = cells - cells.mean(axis=0)
    directions = np.linalg.eigh(cells.T @ cells)[1][:, ::-1][:, :3]  # largest variance first
    largest = np.abs(directions).argmax(axis=0)
    directions = directions * np.sign(directions[largest, np.arange(directions.shape[1])])
    scores = np.zeros((len(cells), 3))
    scores[:, : directions.shape[1]] = cells @ directions
    low, high = np.percentile(scores, [1, 99], axis=0)
    colours = np.clip((scores - low) / np.where(high > low, high - low, 1), 0, 1)
    return colours.reshape(count, rows, columns, 3)


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

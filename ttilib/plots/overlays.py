"""Images with masks, ground truth, labels and gradients, as pixels, on given axes, or as a figure.

Images are tensors [3, H, W] in [0, 1], as in clips, or arrays [H, W, 3].
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int64, UInt8
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure, SubFigure
from matplotlib.image import AxesImage
from matplotlib.patches import Patch
from matplotlib.patheffects import Normal, Stroke
from torch import Tensor

from ttilib.episodes.clips import IGNORE_LABEL, Clip

PREDICTION = "#E6007E"  # magenta, a rare colour in natural images
SUPPORT = "#FFD400"  # masks that are given
FILL = 0.45  # opacity of the colour inside a mask
SHARP = 360  # pixels: smaller images are enlarged, so that contours stay thin
CELL = 960  # pixels of the longer side of an image as wide as a cell

Image = Float[Tensor, "3 H W"] | UInt8[np.ndarray, "H W 3"] | Float[np.ndarray, "H W 3"]
Mask = Bool[Tensor, "_ _"] | Bool[np.ndarray, "_ _"]
Labels = UInt8[np.ndarray, "_ _"]
Map = Float[Tensor, "h w"] | Float[np.ndarray, "h w"]
Pixels = UInt8[np.ndarray, "rows columns 3"]
SomeAxes = Axes | np.ndarray | Sequence[Axes]
"""One axes, or several as `subplots` returns them."""


def array(values: Tensor | np.ndarray | Sequence[float]) -> np.ndarray:
    """The values as a NumPy array on the CPU."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def each_of(axes: SomeAxes) -> list[Axes]:
    """The axes as a flat list, row by row."""
    return list(np.ravel(np.array(axes, dtype=object)))


def as_rgb(image: Image) -> UInt8[np.ndarray, "H W 3"]:
    """An image as RGB bytes; floats are clipped to [0, 1]."""
    pixels = array(image)
    if isinstance(image, Tensor):
        pixels = pixels.transpose(1, 2, 0)
    if pixels.dtype != np.uint8:
        pixels = (np.clip(pixels, 0, 1) * 255).round().astype(np.uint8)
    return np.ascontiguousarray(pixels)


def evenly_spaced(count: int, n: int) -> list[int]:
    """At most n evenly spaced indices of 0 .. count - 1, with first and last."""
    return [int(index) for index in np.linspace(0, count - 1, min(n, count)).round()]


def zoom_for(image: Image, wanted: int = SHARP) -> int:
    """Integer factor that enlarges the longer side of an image to about `wanted` pixels."""
    return max(1, round(wanted / max(as_rgb(image).shape[:2])))


def _edge(mask: Bool[np.ndarray, "H W"], width: int) -> Bool[np.ndarray, "H W"]:
    """The outermost `width` pixels of a mask; there is no edge along the image border."""
    kernel = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    return mask & ~(cv2.erode(mask.astype(np.uint8), kernel) > 0)


def _enlarged(pixels: np.ndarray, zoom: int) -> np.ndarray:
    """An image [H, W] or [H, W, 3] enlarged by `zoom`."""
    size = pixels.shape[1] * zoom, pixels.shape[0] * zoom
    return cv2.resize(pixels, size, interpolation=cv2.INTER_CUBIC) if zoom > 1 else pixels


def _fitted(mask: Mask | Labels | LabelMap, shape: tuple[int, int], zoom: int, what: str) -> np.ndarray:
    """The mask or labels of an image of this shape, enlarged as the image is."""
    pixels = array(mask)
    if pixels.shape != shape:
        found = f"{list(pixels.shape)}, the image {list(shape)}"
        raise ValueError(f"the {what} is {found}; give both at the same height and width")
    return pixels.repeat(zoom, axis=0).repeat(zoom, axis=1)


def overlay(
    image: Image,
    mask: Mask | Labels | None = None,
    truth: Mask | None = None,
    colour: str | Sequence[str] = PREDICTION,
    zoom: int = 1,
) -> Pixels:
    """The image with a mask as translucent fill and edge in `colour`, and the ground truth as a white line.

    Labels 1, 2, ... have the first, second, ... of several colours. `zoom` enlarges the image first (integer), which
    keeps lines thin. Edges lie inside the masks, the dark rim outside. Raises ValueError if a mask has another size.
    """
    rgb = as_rgb(image)
    shape = rgb.shape[:2]
    out = _enlarged(rgb, zoom).astype(np.float32)
    labels = np.zeros(1) if mask is None else _fitted(mask, shape, zoom, "mask")
    for label, name in enumerate([colour] if isinstance(colour, str) else colour, 1):
        if (inside := labels == label).any():
            paint = 255 * np.array(to_rgb(name), dtype=np.float32)
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


def show(ax: Axes, image: Image, title: str = "") -> AxesImage:
    """Draw an image without ticks or frame."""
    ax.set_axis_off()
    ax.set_title(title, fontsize=9, pad=3)
    return ax.imshow(as_rgb(image), interpolation="antialiased")


def filmstrip(
    axes: SomeAxes,
    frames: Iterable[Image],
    masks: Iterable[Mask] | None = None,
    truths: Iterable[Mask] | None = None,
    titles: Iterable[str] | None = None,
    colour: str = PREDICTION,
) -> None:
    """A row of frames with masks and ground truth; surplus axes are blanked. ValueError if frames outnumber axes."""
    row = each_of(axes)
    images = list(frames)
    if len(images) > len(row):
        raise ValueError(f"{len(images)} frames for {len(row)} axes; choose fewer or draw a wider strip")
    for ax in row[len(images) :]:
        ax.set_axis_off()
    given = [[None] * len(images) if each is None else list(each) for each in (masks, truths, titles)]
    for ax, image, mask, truth, title in zip(row[: len(images)], images, *given, strict=True):
        show(ax, overlay(image, mask, truth, colour, zoom_for(image)), title or "")


def time_slice(ax: Axes, clip: Clip, mask: Bool[Tensor, "T H W"], row: int, title: str, colour: str) -> None:
    """One row of pixels of every frame, time downwards, with its part of the masks and of the ground truth."""
    image = clip.query[:, :, row].permute(1, 0, 2).repeat_interleave(8, dim=1)
    known, true = ((m[:, row].repeat_interleave(8, dim=0)) for m in (mask, mask if clip.truth is None else clip.truth))
    pixels = overlay(image, known, true, colour, zoom=2)
    ax.imshow(pixels, extent=(0, clip.size[1], len(clip.query), 0), aspect="auto")
    ax.set(title=title, xlabel="x [pixels]", ylabel="frame")


def episode_card(figure: Figure | SubFigure, clip: Clip, frames: int = 6) -> None:
    """The support with its masks, and `frames` query frames with the ground truth in white; for 11 x 3.2 inches.
    A single support image is as high as two rows of frames.
    """
    shots, chosen = len(clip.support), evenly_spaced(len(clip.query), frames)
    if shots == 1:
        columns = math.ceil(len(chosen) / 2)
        grid = figure.add_gridspec(2, 2 + columns)
        support = [figure.add_subplot(grid[:, :2])]
        query = [figure.add_subplot(grid[row, 2 + column]) for row in range(2) for column in range(columns)]
    else:
        support, query = figure.subplots(2, max(shots, len(chosen)), squeeze=False)
    shares = [f"{clip.class_name}: {100 * float(mask.sum()) / mask.numel():.1f}%" for mask in clip.support_masks]
    filmstrip(support, clip.support, clip.support_masks, titles=shares, colour=SUPPORT)
    truths = None if clip.truth is None else clip.truth[chosen]
    filmstrip(query, clip.query[chosen], truths=truths, titles=[f"frame {t}" for t in chosen])
    line = "" if clip.truth is None else ", ground truth in white"
    figure.suptitle(f"{clip.name}: {shots} support, {len(clip.query)} query frames{line}", fontsize=11)


def gradient_map(ax: Axes, image: Image, gradient: Map, truth: Mask | None = None, title: str = "") -> AxesImage:
    """A signed map at feature size over the grey image, with a colour bar: blue negative, white zero, red positive.

    `truth` is outlined. The corner cells of the map are centred on the corner pixels.
    """
    values = array(gradient)
    grey = cv2.cvtColor(as_rgb(image), cv2.COLOR_RGB2GRAY)
    (height, width), (rows, columns) = grey.shape, values.shape
    dy, dx = (height - 1) / max(rows - 1, 1) / 2, (width - 1) / max(columns - 1, 1) / 2
    limit = float(np.abs(values).max()) or 1.0  # an all-zero map still needs a scale
    ax.imshow(grey, cmap="gray", vmin=0, vmax=255)
    extent = (-dx, width - 1 + dx, height - 1 + dy, -dy)
    look: Any = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit, "alpha": 0.55, "interpolation": "bilinear"}
    drawn = ax.imshow(values, extent=extent, **look)
    if truth is not None and array(truth).any():
        ax.contour(array(truth), [0.5], colors="black", linewidths=0.8)
    ax.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), title=title)
    ax.set_axis_off()
    power = math.floor(math.log10(limit))
    beside: Any = {"cax": ax.inset_axes((1.02, 0, 0.04, 1)), "format": lambda value, _: f"{value / 10**power:g}"}
    bar = ax.figure.colorbar(drawn, **beside)
    bar.set_label(f"gradient [$10^{{{power}}}$]" if power else "gradient")
    bar.outline.set_visible(False)
    return drawn


COLOURS = np.delete(colormaps["tab20"].colors, (14, 15), axis=0)
"""Colours of classes by label, repeated from the 19th on; without the two greys, which mean background and ignored."""

FILLED = 0.8  # opacity of a class colour over the grey image
UNKNOWN = 217  # grey value of ignored pixels
WIDTH = 12.0  # inches of a sheet
NAME = 7.0  # points: size of the names on regions
RIM = [Stroke(linewidth=1.5, foreground="0.1"), Normal()]  # keeps white lines and text visible on bright images

LabelMap = Int64[Tensor, "_ _"]


def sample_sheet(
    images: Float[Tensor, "n 3 H W"],
    labels: Int64[Tensor, "n H W"],
    found: Int64[Tensor, "n H W"],
    names: Sequence[str],
    title: str = "",
) -> Figure:
    """Image, ground truth and prediction side by side, with class names on large regions, others in a legend.

    Images are in [0, 1]; `names` are those of labels 0, 1, 2, ..., background first. Predictions are blanked where the
    ground truth is ignored; titles give the mean IoU of the classes in the ground truth.
    """
    truth = labels.cpu()
    shown = found.cpu().where(truth != IGNORE_LABEL, IGNORE_LABEL)
    columns = 3 if len(images) < 4 else 6
    figure, grid = _sheet(math.ceil(3 * len(images) / columns), columns, images, title)
    for axes, image, true, guess in zip(grid.reshape(-1, 3), images.cpu(), truth, shown, strict=False):
        pairs = [(true == n, guess == n) for n in true.unique().tolist() if 0 < n < IGNORE_LABEL]
        iou = [float((a & b).sum() / (a | b).sum()) for a, b in pairs]
        score = f", IoU {100 * np.mean(iou):.0f}%" if iou else ""
        show(axes[0], image, "image")
        unnamed = named_regions(axes[1], image, true, names, "ground truth")
        unnamed |= named_regions(axes[2], image, guess, names, f"prediction{score}")
        if unnamed:  # where no name is in the way
            patches = [Patch(color=COLOURS[(n - 1) % len(COLOURS)], label=names[n]) for n in sorted(unnamed)]
            look: Any = {"frameon": True, "framealpha": 0.8, "handlelength": 1, "borderpad": 0.3}
            axes[0].legend(handles=patches, loc="lower left", fontsize=NAME - 1, **look)
    return figure


def named_regions(ax: Axes, image: Image, labels: LabelMap, names: Sequence[str], title: str) -> set[int]:
    """A grey image with classes in colour, their names on regions that are large enough, ignored pixels light grey.

    Returns the labels without a name. Raises ValueError if sizes differ.
    """
    rgb, zoom, known = as_rgb(image), zoom_for(image), array(labels)
    drawn = _fitted(labels, rgb.shape[:2], zoom, "label map")
    pixels = np.repeat(0.6 * _enlarged(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), zoom)[..., None], 3, axis=2)
    inside = (drawn > 0) & (drawn != IGNORE_LABEL)
    paint = 255 * COLOURS[(drawn[inside] - 1) % len(COLOURS)]
    pixels[inside] = (1 - FILLED) * pixels[inside] + FILLED * paint
    pixels[drawn == IGNORE_LABEL] = UNKNOWN
    show(ax, pixels.round().astype(np.uint8), title)
    point = known.shape[1] / (72 * WIDTH * ax.get_position().width)  # in pixels of the image
    unnamed = set()
    for label in np.setdiff1d(known, (0, IGNORE_LABEL)).tolist():
        box = np.ones([math.ceil(NAME * point * side) for side in (1.2, 0.65 * len(names[label]))], np.uint8)
        centres = cv2.erode((known == label).astype(np.uint8), box, borderType=cv2.BORDER_CONSTANT, borderValue=0)
        if not centres.any():
            unnamed.add(label)
            continue
        rows, columns = np.nonzero(centres)  # the name fits in around each; take the one nearest to their mean
        best = ((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2).argmin()
        look: Any = {"color": "white", "fontsize": NAME, "ha": "center", "va": "center", "path_effects": RIM}
        ax.text(zoom * columns[best], zoom * rows[best], names[label], **look)
    return unnamed


def _sheet(rows: int, columns: int, images: Tensor, title: str) -> tuple[Figure, np.ndarray]:
    """A figure of cells for images of one size, without a layout engine, which would be slow."""
    head, above = (0.28 if title else 0.05), 0.3  # inches; above: title of a cell
    height = WIDTH / columns * images.shape[-2] / images.shape[-1]
    total = head + rows * (height + above)
    figure = Figure(figsize=(WIDTH, total), dpi=120, layout="none")
    figure.suptitle(title, x=0.005, y=1 - 0.08 / total, ha="left", va="top", fontsize=11)
    place = {"left": 0.002, "right": 0.998, "bottom": 0.02 / total, "top": 1 - (head + above) / total}
    blank = {"frame_on": False, "xticks": (), "yticks": ()}
    spaces = {"wspace": 0.03, "hspace": above / height}
    return figure, figure.subplots(rows, columns, squeeze=False, subplot_kw=blank, gridspec_kw=place | spaces)


def pairs_sheet(images: Float[Tensor, "n 2 3 H W"], title: str = "") -> Figure:
    """The contrasted pairs: a frame above, its counterpart below. Images are in [0, 1]; at most six pairs are shown."""
    shown = images[:6].cpu()
    figure, grid = _sheet(2, max(4, len(shown)), images, title)
    for column, pair in enumerate(shown):
        show(grid[0, column], pair[0], f"frame of pair {column + 1}")
        show(grid[1, column], pair[1], "its counterpart")
    return figure

"""The best, the median and the worst episode of a method: selected by a fixed rule, shown with their stored masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from torch import Tensor

from ttilib.episodes.benchmarks import find_roots
from ttilib.episodes.clips import Clip, load_clip
from ttilib.episodes.episode import read_episodes
from ttilib.plots.overlays import RIM, SHARP, SUPPORT, Pixels, array, evenly_spaced, overlay, show, zoom_for
from ttilib.plots.style import styles, text_size, tidy
from ttilib.results.metrics import intersection_union
from ttilib.results.records import read_masks

FRAMES = 5  # query frames shown, each one inch wide
LINE = 0.36  # inches, height of the IoU line

Row = Mapping[str, Any]
Predicted = Bool[np.ndarray, "T H W"] | Bool[Tensor, "T H W"]
Item = tuple[str, Clip, Predicted]
"""Title, frames and predicted masks of one episode."""


def best_median_worst(rows: Sequence[Row], method: str) -> dict[str, Row]:
    """The "best", "median" and "worst" episode of a method by IoU, each episode by itself.

    Rows with an empty union are left out. Of an even number the median is the worse middle one; ties are ordered by
    episode, run and index. Raises ValueError if the method has no row with an IoU.
    """
    own = [row for row in rows if row["method"] == method and row["union"]]
    if not own:
        there = ", ".join(sorted({row["method"] for row in rows})) or "none"
        raise ValueError(f"no row of {method!r} has an IoU; the methods there are: {there}")
    order = ("episode", "run", "index")
    ranked = sorted(own, key=lambda row: (row["intersection"] / row["union"], *(row[name] for name in order)))
    return {"best": ranked[-1], "median": ranked[(len(ranked) - 1) // 2], "worst": ranked[0]}


def recorded(
    row: Row, index: Mapping[str, Any], file: str, out: Path | str, root: Path | str
) -> tuple[Clip, Bool[Tensor, "T H W"]]:
    """The clip and the stored masks of a row.

    `index`: index of the table; `file`: the row file as named in it; `out`: run folder; `root`: data folder.
    Raises ValueError if the index has no masks or manifest for the file, if the manifest has another episode at the
    row's index, or if the masks are not those that were scored.
    """
    manifest, masks = index.get("manifests", {}).get(file), index.get("masks", {}).get(file)
    if not manifest or not masks:
        raise ValueError(f"{file}: the index names no {'masks' if manifest else 'manifest'} for it; store both and run")
    episodes = read_episodes(Path(out) / manifest["path"])
    if row["index"] >= len(episodes) or episodes[row["index"]].key != row["key"]:
        raise ValueError(f"{manifest['path']}: episode {row['index']} is not {row['episode']} of the row; run it again")
    query_root, support_root = find_roots(manifest["benchmark"], root)
    clip = load_clip(episodes[row["index"]], query_root, tuple(manifest["size"]), support_root)
    found = read_masks(Path(out) / masks, row["key"], row["index"], row["method"], clip.query_valid.shape)
    pixels = [int(part.sum()) for part in intersection_union(found, clip.truth, clip.query_valid)]
    if pixels != [row["intersection"], row["union"]]:
        scored = f"{pixels[0]} of {pixels[1]} pixels, the row {row['intersection']} of {row['union']}"
        raise ValueError(f"{masks}: the masks of {row['episode']} give {scored}; the data or the masks were changed")
    return clip, found


def support_mosaic(clip: Clip) -> Pixels:
    """All support images in one, labels filled: one column for one or two, two up to six, then three."""
    shots = len(clip.support)
    columns = 1 if shots <= 2 else 2 if shots <= 6 else 3
    zoom = max(1, zoom_for(clip.support[0], SHARP // columns))
    gap = max(2, clip.size[1] * zoom // 40)
    tiles = [
        np.pad(overlay(image, mask, colour=SUPPORT, zoom=zoom), ((0, gap), (0, gap), (0, 0)), constant_values=255)
        for image, mask in zip(clip.support, clip.support_masks, strict=True)
    ]
    tiles += [np.full_like(tiles[0], 255)] * (-shots % columns)
    rows = [np.hstack(tiles[start : start + columns]) for start in range(0, shots, columns)]
    return np.vstack(rows)[:-gap, :-gap]


def height(items: Sequence[Item]) -> float:
    """Height in inches of a gallery of these episodes, with frames one inch wide."""
    return 0.25 + sum(clip.size[0] / clip.size[1] + LINE + 0.5 for _, clip, _ in items)


def gallery(figure: Figure | SubFigure, items: Sequence[Item], method: str) -> None:
    """One row per episode: support, `FRAMES` frames with ground truth and prediction, the IoU of every frame below.
    Predictions have the colour of the method.

    Use a figure `style.PAGE` wide and `height(items)` high. The IoU line has a dot at every frame shown, and a gap
    where prediction and ground truth are empty.
    """
    colour = styles([method])[method]["color"]
    ratios = [part for _, clip, _ in items for part in (clip.size[0] / clip.size[1], LINE)]
    grid = figure.add_gridspec(len(ratios), FRAMES + 1, height_ratios=ratios)
    for number, (title, clip, masks) in enumerate(items):
        above, below = 2 * number, 2 * number + 1
        left = figure.add_subplot(grid[above : below + 1, 0])
        show(left, support_mosaic(clip))
        left.set_anchor("NW")
        left.set_title(title, loc="left", fontsize=text_size(), pad=3).set_in_layout(False)  # spans the columns
        at = evenly_spaced(len(clip.query), FRAMES)
        for column, t in enumerate(at, start=1):
            ax = figure.add_subplot(grid[above, column])
            show(ax, overlay(clip.query[t], masks[t], colour=colour), " ")  # reserves the line of the episode's title
            if clip.truth is not None and clip.truth[t].any() and not clip.truth[t].all():
                contour = ax.contour(array(clip.truth[t]), levels=[0.5], colors="white", linewidths=0.7)
                contour.set_path_effects(RIM)
        if clip.truth is not None:
            _iou_line(figure.add_subplot(grid[below, 1:]), clip, masks, at, colour)
    marks = [
        Patch(color=SUPPORT, alpha=0.7, label="labelled support"),
        Patch(color=colour, alpha=0.6, label=f"predicted by {method}"),
        Line2D([], [], color="white", linewidth=0.7, label="ground truth"),
    ]
    legend = figure.legend(handles=marks, loc="outside lower right", ncols=3, fontsize=text_size(0.92), frameon=False)
    legend.get_lines()[0].set_path_effects(RIM)


def _iou_line(ax: Axes, clip: Clip, masks: Predicted, at: list[int], colour: str) -> None:
    """IoU of every frame in percent, with dots at the frames shown."""
    intersection, union = intersection_union(array(masks), array(clip.truth), array(clip.query_valid))
    iou = np.where(union > 0, 100 * intersection / np.maximum(union, 1), np.nan)
    ax.plot(np.arange(len(iou)), iou, color=colour, clip_on=False)
    ax.plot(at, iou[at], "o", color=colour, clip_on=False)
    tidy(ax, ylabel="IoU [%]", integers=False)
    ax.set_ylim(0, 100)
    ax.set_yticks([0, 50, 100])
    ax.set_xticks(at, [f"frame {at[0]}", *at[1:]])
    step = (len(iou) - 1) / (len(at) - 1) if len(at) > 1 else 1.0  # between the frames shown
    ax.set_xlim(-step / 2, (FRAMES - 0.5) * step)

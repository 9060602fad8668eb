"""One's own pictures: a few labelled stills and a video in, masks and an overlay out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ttilib.datasets.transforms import centred
from ttilib.episodes.clips import clip_from_files
from ttilib.files import write_json
from ttilib.plots.video import frame_names, read_frames, write_masks, write_overlay
from ttilib.solver.extraction import Source, open_source
from ttilib.solver.methods import Method, finished, read_method
from ttilib.solver.solver import solve


def segment(
    support_images: Sequence[Path | str],
    support_masks: Sequence[Path | str],
    video: Path | str,
    out: Path | str,
    encoder: str,
    method: str = "frozen",
    size: tuple[int, int] = (241, 425),
    label: int | None = None,
    device: str = "cpu",
    means: Path | str = "",
) -> dict[str, Any]:
    """Segment `video` (a file or a folder of frames) after the example of the labelled stills.

    `method` is a line of text (see `read_method`). One that centres the features by the mean of a pool takes it from
    the file `means`, or from that beside a checkpoint; where neither is there, from the stills and the frames, and the
    method is then called so. Writes under `out`: masks/<frame>.png at the video's own size (0 background, 1 object), an
    overlay video and summary.json, which is also returned.
    Raises ValueError or FileNotFoundError naming the file or option at fault.
    """
    asked, out = _without_truth(read_method(method)), Path(out)
    frames = list(read_frames(video))
    names = frame_names(video, len(frames))
    clip = clip_from_files(support_images, support_masks, frames, size, Path(video).stem, label=label)
    source = open_source(encoder, means=means, device=device)
    chosen = _with_means(asked, source)
    solution = solve(source.task(clip, chosen.recipe), chosen.config)
    height, width = frames[0].shape[:2]
    place = centred(height, width, size)
    found = finished(solution, clip, chosen.recipe).cpu().numpy()
    masks = np.stack([place.back(mask, (height, width)) for mask in found])
    write_masks(out / "masks", masks, names)
    overlay = write_overlay(out / "overlay.mp4", frames, masks)
    summary = {
        "video": str(video), "frames": len(frames), "method": chosen.name, "encoder": str(encoder),
        "means": str(source.file) if chosen.recipe.centring == "pool" else None,
        "support": [str(path) for path in support_images], "network_size": list(size),
        "keyframe": None if solution.keyframe is None else names[solution.keyframe],
        "foreground": [round(float(mask.mean()), 4) for mask in masks], "overlay": overlay.name,
    }  # fmt: skip
    write_json(out / "summary.json", summary)
    return summary


def _without_truth(method: Method) -> Method:
    """The method, if it can do without knowing the answer."""
    if method.oracle:
        raise ValueError(f"method {method.name!r}: it needs the truth and there is none; choose another method")
    return method


def _with_means(method: Method, source: Source) -> Method:
    """The method; with the mean of the episode's own pictures, where it wants that of a pool and there is none.

    One whose text says centring=pool is taken at its word.
    """
    if method.recipe.centring != "pool" or source.file or "centring=" in method.name:
        return method
    return read_method(f"{method.name} centring=episode")

"""Segment a user's own video: a few images with masks and a video in, masks and an overlay out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ttilib.datasets.transforms import letterbox
from ttilib.episodes.clips import clip_from_files
from ttilib.files import write_json
from ttilib.plots.video import frame_names, read_frames, write_masks, write_overlay
from ttilib.solver.extraction import load_extractor
from ttilib.solver.methods import check_means, read_method


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
    """Segment `video` (a file or a folder of frames), given support images with masks.
    `method`: see `read_method`. The mean for centring=pool is read from `means` or the file beside the checkpoint, else
    it is that of the clip, and the method's name says so. Writes masks/<frame>.png (video size; 0 background, 1
    object), an overlay video and summary.json to `out`; returns the summary. Raises ValueError, FileNotFoundError.
    """
    chosen, out = read_method(method), Path(out)
    check_means(means, [chosen])
    frames = list(read_frames(video))
    names = frame_names(video, len(frames))
    clip = clip_from_files(support_images, support_masks, frames, size, Path(video).stem, label=label)
    extractor = load_extractor(encoder, means=means, device=device)
    if chosen.pipeline.centring == "pool" and not extractor.means_file and "centring=" not in chosen.name:
        chosen = read_method(f"{chosen.name} centring=episode")
    extractor.task(clip, chosen.pipeline).check_support()
    prediction = chosen.predict(clip, extractor)
    height, width = frames[0].shape[:2]
    placement = letterbox(height, width, size)
    masks = np.stack([placement.unpad(mask, (height, width)) for mask in prediction.masks.numpy()])
    write_masks(out / "masks", masks, names)
    overlay = write_overlay(out / "overlay.mp4", frames, masks)
    keyframe = prediction.solution.keyframe if prediction.solution else None
    summary = {
        "video": str(video), "frames": len(frames), "method": chosen.name, "encoder": str(encoder),
        "means": str(extractor.means_file) if chosen.pipeline.centring == "pool" else None,
        "support": [str(path) for path in support_images], "network_size": list(size),
        "keyframe": None if keyframe is None else names[keyframe],
        "foreground": [round(float(mask.mean()), 4) for mask in masks], "overlay": overlay.name,
    }  # fmt: skip
    write_json(out / "summary.json", summary)
    return summary

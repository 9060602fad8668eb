"""One's own pictures: a few labelled stills and a video in, masks and an overlay out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ttilib.corpora.transforms import centred
from ttilib.data.clips import clip_from_files
from ttilib.files import write_json
from ttilib.inference.features import extract
from ttilib.inference.solver import METHODS, solve
from ttilib.networks.checkpoints import load_encoder
from ttilib.views.video import frame_names, read_frames, write_masks, write_overlay


def segment(
    support_images: Sequence[Path | str],
    support_masks: Sequence[Path | str],
    video: Path | str,
    out: Path | str,
    encoder: str,
    method: str = "TTI+keyframe",
    size: tuple[int, int] = (241, 425),
    label: int | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Segment `video` (a file or a folder of frames) after the example of the labelled stills.

    Writes under `out`: masks/<frame>.png at the video's own size (0 background, 1 object), an overlay video and
    summary.json, which is also returned. Nothing of the solver depends on the video's truth, for there is none.
    Raises ValueError or FileNotFoundError naming the file or option at fault.
    """
    if method not in METHODS:
        raise ValueError(f"method {method!r} is not known; choose one of {', '.join(METHODS)}")
    out, frames = Path(out), list(read_frames(video))
    names = frame_names(video, len(frames))
    clip = clip_from_files(support_images, support_masks, frames, size, Path(video).stem, label=label)
    network = load_encoder(encoder)
    if isinstance(network, torch.nn.Module):
        network = network.eval().to(device)
    solution = solve(extract(network, clip, device), METHODS[method])
    height, width = frames[0].shape[:2]
    place = centred(height, width, size)
    masks = np.stack([place.back(mask, (height, width)) for mask in solution.masks().cpu().numpy()])
    write_masks(out / "masks", masks, names)
    overlay = write_overlay(out / "overlay.mp4", frames, masks)
    summary = {
        "video": str(video), "frames": len(frames), "method": method, "encoder": encoder,
        "support": [str(path) for path in support_images], "network_size": list(size),
        "keyframe": None if solution.keyframe is None else names[solution.keyframe],
        "foreground": [round(float(mask.mean()), 4) for mask in masks], "overlay": overlay.name,
    }  # fmt: skip
    write_json(out / "summary.json", summary)
    return summary

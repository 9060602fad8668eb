"""Segment a user's own video: a few images with masks and a video in, masks and an overlay out."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ttilib.datasets.transforms import letterbox
from ttilib.episodes.clips import Clip, clip_from_files, unlabelled_frames
from ttilib.files import check_writable, read_json, write_json
from ttilib.plots.video import Video, frame_names, open_video, write_masks, write_overlay
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
    object), an overlay video and summary.json to `out`; returns the summary. Frames are decoded one by one, twice; a
    video that breaks off before its announced end is warned of. Raises ValueError, FileNotFoundError.
    """
    chosen, out = read_method(method), Path(out)
    check_means(means, [chosen])
    film = open_video(video)
    for name in ("summary.json", "overlay.mp4", "overlay.webm", "masks/0.png"):
        check_writable(out / name)
    clip = _clip(support_images, support_masks, film, size, label)
    names = clip.query_names
    if warning := film.shortfall(len(names)):
        warnings.warn(warning, stacklevel=2)
    replaced = _earlier_masks(out, names)
    extractor = load_extractor(encoder, means=means, device=device)
    if chosen.pipeline.centring == "pool" and not extractor.means_file and "centring=" not in chosen.name:
        chosen = read_method(f"{chosen.name} centring=episode")
    extractor.task(clip, chosen.pipeline).check_support()
    prediction = chosen.predict(clip, extractor)
    overlay, foreground = _write(out, film, prediction.masks.numpy(), names, replaced)
    keyframe = prediction.solution.keyframe if prediction.solution else None
    summary = {
        "video": str(video), "frames": len(names), "method": chosen.name, "encoder": str(encoder),
        "means": str(extractor.means_file) if chosen.pipeline.centring == "pool" else None,
        "support": [str(path) for path in support_images], "network_size": list(size),
        "keyframe": None if keyframe is None else names[keyframe],
        "foreground": foreground, "overlay": overlay, **({"warning": warning} if warning else {}),
    }  # fmt: skip
    write_json(out / "summary.json", summary)
    return summary


def _write(
    out: Path, film: Video, masks: np.ndarray, names: Sequence[str], replaced: Sequence[Path]
) -> tuple[str, list[float]]:
    """Write masks and overlay at the size of the video; the overlay's name, and the object's share of each frame."""
    for path in replaced:
        path.unlink()
    placement = letterbox(*film.size, masks.shape[1:])

    def full() -> Iterator[np.ndarray]:
        return (placement.unpad(mask, film.size) for mask in masks)

    write_masks(out / "masks", full(), names)
    overlay = write_overlay(out / "overlay.mp4", (frame for _, frame in _progress(film, "overlay")), full())
    return overlay.name, [round(float(mask.mean()), 4) for mask in full()]


def _clip(
    images: Sequence[Path | str], masks: Sequence[Path | str], film: Video, size: tuple[int, int], label: int | None
) -> Clip:
    """As `clip_from_files`; the frames of the video are held at network size only."""
    _, first = next(iter(film))
    clip = clip_from_files(images, masks, [first], size, film.path.stem, label=label)
    names, frames, valid = [], [], []
    for name, pixels in _progress(film, "frames"):
        frame, _, known = unlabelled_frames([name], {name: pixels}.__getitem__, size)[0]
        names.append(name)
        frames.append(frame)
        valid.append(known)
    return replace(clip, query=torch.stack(frames), query_valid=torch.stack(valid), query_names=tuple(names))


def _progress(film: Video, what: str) -> Iterator[tuple[str, np.ndarray]]:
    """The frames of a video with a progress bar."""
    return iter(tqdm(film, what, film.announced or None, mininterval=1.0, disable=0 < film.announced <= 20))


@dataclass(frozen=True)
class _Earlier:
    """What the summary of an earlier run says of its masks."""

    video: str
    frames: int


def _earlier_masks(out: Path, names: Sequence[str]) -> list[Path]:
    """Masks in `out` that an earlier run wrote for other frames. Raises ValueError if there are any from elsewhere."""
    folder, summary = out / "masks", out / "summary.json"
    others = set(folder.glob("*.png")) - {folder / f"{name}.png" for name in names}
    known: set[Path] = set()
    if others and summary.is_file():
        earlier = read_json(summary, _Earlier)
        known = {folder / f"{name}.png" for name in frame_names(earlier.video, earlier.frames)}
    if foreign := sorted(others - known):
        raise ValueError(f"{foreign[0]}: is no mask of this video; choose another --out, or remove the file")
    return sorted(others)

"""Scoring solved episodes: everything a table needs, in one row per episode and method.

The release solves some benchmarks video by video and others in batches of frames of several videos. Its consistency
of a video then depends on the batch, so episodes are scored in the groups in which they would be solved together.

What a piece of work costs: seconds on the clock, and memory beyond what was in use before.

Memory is the peak inside the block minus what was there at its start. On a graphics card that is what torch had
allocated; on Linux it is the resident memory of the process, whose high-water mark is set back first. Where neither
can be known it is None, which is not zero.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from ttilib.episodes.clips import Clip
from ttilib.episodes.episode import Episode
from ttilib.results.metrics import (
    as_masks,
    boundary_f,
    intersection_union,
    region_similarity,
    released_video_consistency,
    video_consistency,
)

SELF = Path("/proc/self")
MEGABYTE = 10**6


@dataclass
class Cost:
    """Filled in when the block ends: seconds, and peak of extra memory in MB (10^6 bytes), None if unknown."""

    seconds: float = float("nan")
    memory_mb: float | None = None


@contextmanager
def measured(device: torch.device | str = "cpu") -> Iterator[Cost]:
    """Measure what the block costs on `device`; the object given is complete once the block has ended.

    Work that a graphics card still has to do is waited for, before and after. Blocks must not be nested: the inner one
    sets back the high-water mark of the outer one.
    """
    device, cost = torch.device(device), Cost()
    before = _start(device)
    begin = time.perf_counter()
    try:
        yield cost
    finally:
        _wait(device)
        cost.seconds = time.perf_counter() - begin
        peak = None if before is None else _peak(device)
        cost.memory_mb = None if before is None or peak is None else max(peak - before, 0) / MEGABYTE


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _start(device: torch.device) -> int | None:
    """Set the high-water mark back; bytes in use now, or None if the peak will not be known."""
    _wait(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    if device.type != "cpu":
        return None
    try:
        (SELF / "clear_refs").write_text("5")  # 5: set the peak resident size back to the present one
    except OSError:  # not Linux, or not allowed
        return None
    return _status("VmRSS")


def _peak(device: torch.device) -> int | None:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _status("VmHWM")


def _status(field: str) -> int | None:
    """Bytes that the system says about this process; None if it does not."""
    try:
        found = re.search(rf"^{field}:\s*(\d+) kB$", (SELF / "status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return 1024 * int(found[1]) if found else None


WINDOWS = (3, 5, 7, 9, 11)
"""Lengths k of VC_k, frames. Source: protocol section 5.5."""


@dataclass(frozen=True)
class Answer:
    """One episode as one method solved it, and what that cost.

    `index` numbers the episodes of a pass, which may draw the same one twice; `memory_mb` is None where unknown.
    """

    episode: Episode
    index: int
    clip: Clip
    masks: Bool[Tensor, "T H W"]
    seconds: float
    memory_mb: float | None = None


def score_group(
    benchmark: str,
    encoder: str,
    method: str,
    answers: Sequence[Answer],
    made: Mapping[str, Any],
    windows: Sequence[int] = WINDOWS,
) -> list[dict[str, Any]]:
    """One row per answer: overlap per frame and summed, areas, J, boundary F, VC_k both ways, cost, what `made` it.

    `answers` are the episodes that the release solves together, in order: those of one batch, or a single one.
    VC_k by definition is of each video; as released it is taken over the frames of the whole group. Figures are
    fractions, None where undefined. Raises ValueError naming the episode that has no truth, or frames of another size.
    """
    if not answers:
        return []
    masks, truth, valid = _together(answers)
    videos = [answer.episode.video for answer in answers for _ in answer.masks]
    released = {k: released_video_consistency(masks, truth, valid, videos, k) for k in windows}
    rows, end = [], 0
    for answer in answers:
        at, end = slice(end, end + len(answer.masks)), end + len(answer.masks)
        row = {"benchmark": benchmark, "encoder": encoder, "method": method, **_about(answer)}
        row.update(_overlap(masks[at], truth[at], valid[at]))
        for k in windows:
            row[f"vc_{k}"] = _number(video_consistency(masks[at], truth[at], k, valid[at]))
            row[f"released_vc_{k}"] = float(released[k].get(answer.episode.video, 0.0))
        row.update(seconds=answer.seconds, memory_mb=answer.memory_mb, made=dict(made))
        rows.append(row)
    return rows


def _together(answers: Sequence[Answer]) -> tuple[Bool[np.ndarray, "frames H W"], ...]:
    """Masks, truth and valid pixels of the group, frame after frame."""
    parts = []
    for answer in answers:
        name, clip = answer.episode.name, answer.clip
        if clip.truth is None:
            raise ValueError(f"episode {name}: there is no truth to score against; leave it out of the evaluation")
        if clip.size != answers[0].clip.size:
            about = f"its frames are {clip.size}, those of {answers[0].episode.name} {answers[0].clip.size}"
            raise ValueError(f"episode {name}: {about}; score frames of one size together")
        try:
            parts.append(as_masks(answer.masks, clip.truth, clip.query_valid))
        except ValueError as error:
            raise ValueError(f"episode {name}: {error}") from error
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def _about(answer: Answer) -> dict[str, Any]:
    """Which episode of which pass this is."""
    episode = answer.episode
    return {
        "fold": episode.fold, "run": episode.run, "shots": episode.shots, "seed": episode.seed,
        "episode": episode.name, "index": answer.index, "key": episode.key, "class_id": episode.class_id,
        "class_name": episode.class_name, "video": episode.video, "frames": len(answer.masks),
    }  # fmt: skip


def _overlap(predicted: np.ndarray, truth: np.ndarray, valid: np.ndarray) -> dict[str, Any]:
    """Intersection and union, summed and per frame; area of either mask; J and F, means over frames; F per frame."""
    intersection, union = intersection_union(predicted, truth, valid)
    region, contour = region_similarity(predicted, truth, valid), boundary_f(predicted, truth, valid)
    j, f = (_number(figure.mean()) if len(figure) else None for figure in (region, contour))
    return {
        "intersection": int(intersection.sum()), "union": int(union.sum()),
        "predicted": int((predicted & valid).sum()), "true": int((truth & valid).sum()),
        "intersections": intersection.tolist(), "unions": union.tolist(), "j": j, "f": f, "f_frames": contour.tolist(),
    }  # fmt: skip


def _number(value: float) -> float | None:
    """The value, or None where it is not defined: JSON has no NaN."""
    return None if np.isnan(value) else float(value)

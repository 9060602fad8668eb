"""Scoring solved episodes: everything a table needs, in one row per episode and method.

The release solves some benchmarks video by video and others in batches of frames of several videos. Its consistency
of a video then depends on the batch, so episodes are scored in the groups in which they would be solved together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool
from torch import Tensor

from ttilib.data.datasets import Clip
from ttilib.data.episodes import Episode
from ttilib.scores.consistency import released_video_consistency, video_consistency
from ttilib.scores.metrics import as_masks, boundary_f, intersection_union, region_similarity

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

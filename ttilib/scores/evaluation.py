"""Scoring one solved episode: everything a table needs, in one row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool
from torch import Tensor

from ttilib.data.datasets import Clip
from ttilib.data.episodes import Episode
from ttilib.scores.consistency import released_video_consistency, video_consistency
from ttilib.scores.metrics import intersection_union, j_and_f


def score_row(
    benchmark: str,
    episode: Episode,
    index: int,
    method: str,
    masks: Bool[Tensor, "T H W"],
    clip: Clip,
    seconds: float,
    windows: Sequence[int] = (3, 5, 7),
) -> dict[str, Any]:
    """One method on one episode: pooled intersection and union, J, boundary F, VC_k both ways, cost.

    `index` numbers the episodes of a pass, which may draw the same one twice. Fractions, seconds.
    Raises ValueError naming the episode when the clip has no truth to score against.
    """
    if clip.truth is None:
        raise ValueError(f"episode {episode.name}: there is no truth to score against")
    predicted, truth, valid = (part.cpu().numpy() for part in (masks, clip.truth, clip.query_valid))
    intersection, union = intersection_union(predicted, truth, valid)
    j, f, _ = j_and_f(predicted, truth, valid)
    row = {
        "benchmark": benchmark, "fold": episode.fold, "run": episode.run, "shots": episode.shots,
        "method": method, "episode": episode.name, "index": index, "key": episode.key,
        "class_id": episode.class_id, "class_name": episode.class_name, "video": episode.video,
        "frames": len(predicted), "intersection": int(intersection.sum()), "union": int(union.sum()),
        "j": j, "f": f, "seconds": seconds,
    }  # fmt: skip
    for k in windows:
        row[f"vc_{k}"] = _number(video_consistency(predicted, truth, k, valid))
        released = released_video_consistency(predicted, truth, valid, [0] * len(predicted), k)
        row[f"released_vc_{k}"] = float(released[0])
    return row


def _number(value: float) -> float | None:
    """The value, or None where it is not defined: JSON has no NaN."""
    return None if np.isnan(value) else float(value)

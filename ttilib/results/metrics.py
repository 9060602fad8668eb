"""Metrics of predicted masks, bool NumPy arrays or tensors; `valid` marks the pixels that are scored (default: all).

*Pooled* metrics sum intersection and union over all frames and episodes of a class and divide once; *averaged* ones are
a mean over frames. `METRICS` declares the columns of all tables: `METRICS["mine"] = Metric("mine", score)` adds one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, UInt8
from torch import Tensor

NAN = float("nan")
EPSILON = 1e-10  # added to pooled denominators, as released: without any foreground the score is 0
BOUND = 0.008  # DAVIS: contour tolerance, share of the image diagonal

Masks = Bool[np.ndarray, "T H W"] | Bool[Tensor, "T H W"]
PerFrame = Float64[np.ndarray, "T"]
Counts = Int64[np.ndarray, "T"]
Flow = Float32[np.ndarray, "H W 2"]


def as_masks(*masks: Masks) -> tuple[Bool[np.ndarray, "T H W"], ...]:
    """Masks as NumPy arrays. Raises ValueError unless all are bool of one shape [T, H, W]."""
    arrays = [m.detach().cpu().numpy() if isinstance(m, Tensor) else m for m in masks]
    if any(a.dtype != bool or a.ndim != 3 or a.shape != arrays[0].shape for a in arrays):
        shapes = ", ".join(f"{a.dtype}{list(a.shape)}" for a in arrays)
        raise ValueError(f"masks, truth and valid must be bool of one shape [T, H, W], found {shapes}")
    return tuple(arrays)


def _counted(masks: Masks, truth: Masks, valid: Masks | None) -> tuple[np.ndarray, ...]:
    if valid is None:
        return as_masks(masks, truth)
    predicted, true, counts = as_masks(masks, truth, valid)
    return predicted & counts, true & counts


def intersection_union(masks: Masks, truth: Masks, valid: Masks | None = None) -> tuple[Counts, Counts]:
    """Foreground pixels per frame in both masks (I) and in either (U). Source: docs/protocol.md 5.4."""
    predicted, true = _counted(masks, truth, valid)
    intersection = (predicted & true).sum(axis=(1, 2), dtype=np.int64)
    return intersection, (predicted | true).sum(axis=(1, 2), dtype=np.int64)


def iou(masks: Masks, truth: Masks, valid: Masks | None = None) -> float:
    """IoU of the clip in [0, 1]: ΣI / (ΣU + 1e-10) over frames; 0 without foreground. Source: docs/protocol.md 5.4."""
    intersection, union = intersection_union(masks, truth, valid)
    return float(intersection.sum() / (union.sum() + EPSILON))


def pooled_iou(counts: Iterable[tuple[Hashable, int, int]]) -> dict[Hashable, float]:
    """ΣI / (ΣU + 1e-10) per class, from (class, I, U). Raises ValueError if empty. Source: docs/protocol.md 5.4."""
    sums: dict[Hashable, list[int]] = {}
    for key, intersection, union in counts:
        total = sums.setdefault(key, [0, 0])
        total[0] += int(intersection)
        total[1] += int(union)
    if not sums:
        raise ValueError("no counts to score: there is no episode; evaluate at least one")
    return {key: i / (u + EPSILON) for key, (i, u) in sums.items()}


def region_similarity(masks: Masks, truth: Masks, valid: Masks | None = None) -> PerFrame:
    """J: IoU of each frame, in [0, 1]; 1 without any foreground. Source: DAVIS (Perazzi et al., CVPR 2016)."""
    intersection, union = intersection_union(masks, truth, valid)
    return np.where(union == 0, 1.0, intersection / np.maximum(union, 1))


def boundary(mask: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """One-pixel contour: pixels that differ from the right, lower or lower right one. Image borders are no contour.

    Source: the DAVIS benchmark, after the Berkeley segmentation benchmark.
    """
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    return (mask ^ padded[:-1, 1:]) | (mask ^ padded[1:, :-1]) | (mask ^ padded[1:, 1:])


def _contour_f(predicted: np.ndarray, true: np.ndarray, kernel: np.ndarray) -> float:
    """F of one frame: each contour is matched with the other one dilated."""
    ours, theirs = boundary(predicted), boundary(true)
    if not (ours.any() and theirs.any()):
        return float(ours.any() == theirs.any())  # both empty: 1, only one: 0
    near_ours, near_theirs = (cv2.dilate(b.astype(np.uint8), kernel) > 0 for b in (ours, theirs))
    exact = (ours & near_theirs).sum() / ours.sum()
    complete = (theirs & near_ours).sum() / theirs.sum()
    return float(2 * exact * complete / (exact + complete)) if exact + complete else 0.0


def boundary_f(masks: Masks, truth: Masks, valid: Masks | None = None, bound: float | int = BOUND) -> PerFrame:
    """F: contour accuracy of each frame, 2PR / (P + R), in [0, 1].

    P: share of the predicted contour within `bound` of the true one; R: the reverse. `bound` below 1 is a share of the
    image diagonal, rounded up to pixels; from 1 on, pixels. F is 1 without any contour, 0 with only one of the two.
    Ignored pixels are removed from both masks. Source: DAVIS (Perazzi et al., CVPR 2016).
    """
    predicted, true = _counted(masks, truth, valid)
    radius = int(bound if bound >= 1 else np.ceil(bound * np.hypot(*predicted.shape[1:])))
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    disk = (x * x + y * y <= radius * radius).astype(np.uint8)
    return np.array([_contour_f(p, t, disk) for p, t in zip(predicted, true, strict=True)], dtype=np.float64)


def _windows(masks: Masks, truth: Masks, valid: Masks | None, k: int) -> list[tuple[int, int]]:
    """|G ∩ P| and |G| of each of the T - k + 1 windows of k frames, as in `video_consistency`."""
    if k < 1:
        raise ValueError(f"the window k is {k} frames long; give a length of 1 or more")
    predicted, true = _counted(masks, truth, valid)
    cuts = [slice(start, start + k) for start in range(len(true) - k + 1)]
    pairs = [(true[cut].all(axis=0), predicted[cut].all(axis=0)) for cut in cuts]
    return [(int((common & found).sum()), int(common.sum())) for common, found in pairs]


def video_consistency(masks: Masks, truth: Masks, k: int, valid: Masks | None = None) -> float:
    """VC_k: mean of |G ∩ P| / |G| over the windows of k frames where G is not empty; in [0, 1], nan if there is none.

    G: pixels that are ground truth and valid in every frame of the window; P: pixels predicted in every frame.
    Predicting foreground everywhere scores 1: read VC_k beside IoU. Raises ValueError if k < 1. Source: the definition
    that the TTI paper takes from VSPW (Miao et al., CVPR 2021).
    """
    shares = [found / common for found, common in _windows(masks, truth, valid, k) if common]
    return float(np.mean(shares)) if shares else NAN


def released_video_consistency(
    masks: Masks, truth: Masks, valid: Masks | None, videos: Sequence[Hashable], k: int
) -> dict[Hashable, float]:
    """VC_k of every video in a batch as the released code computes it, errors included; in [0, 1].

    `videos`: the video of each of the T frames. For a video of n frames, the mean of |G ∩ P| / (|G| + 1e-10) over its
    windows, see `video_consistency`, where
    - windows start at 0 .. n - k - 1: the last one is missing, and a video of at most k frames scores 0;
    - a window with empty G scores 0 and counts;
    - windows are cut from the first n frames *of the batch*, whichever video they show (correct for a single video).
    For comparison with published tables. Raises ValueError if k < 1, or if `videos` does not name one video per frame.
    Source: docs/protocol.md 6, Q2 and Q3.
    """
    if len(videos) != len(truth):
        raise ValueError(f"videos names {len(videos)} of {len(truth)} frames; name the video of every frame")
    shares = [found / (common + EPSILON) for found, common in _windows(masks, truth, valid, k)]
    starts = {name: frames - k for name, frames in Counter(videos).items()}
    return {name: float(np.mean(shares[:n])) if n > 0 else 0.0 for name, n in starts.items()}


def _pull(image: np.ndarray, flow: Flow, how: int) -> np.ndarray:
    """Warp an image by the flow: value at y is image(y + flow(y)), 0 outside the image."""
    height, width = flow.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return cv2.remap(image, x + flow[..., 0], y + flow[..., 1], how, borderMode=cv2.BORDER_CONSTANT)


def _trusted(forward: Flow, backward: Flow) -> Bool[np.ndarray, "H W"]:
    """Pixels where |b + f(y + b)|² < 0.01 (|b|² + |f|²) + 0.5 px². Source: Sundaram et al., ECCV 2010, section 3."""
    there = np.dstack([_pull(forward[..., c], backward, cv2.INTER_LINEAR) for c in (0, 1)])
    inside = _pull(np.ones(forward.shape[:2], np.uint8), backward, cv2.INTER_NEAREST) > 0
    size = (there**2).sum(axis=-1) + (backward**2).sum(axis=-1)
    return inside & (((there + backward) ** 2).sum(axis=-1) < 0.01 * size + 0.5)


def warped_consistency(masks: Masks, frames: UInt8[np.ndarray, "T H W 3"], valid: Masks | None = None) -> float:
    """Mean IoU of each mask, warped to the next frame, with the next mask; in [0, 1]. Needs no ground truth.

    Dense inverse-search flow (OpenCV, medium preset). IoU over the pixels where forward and backward flow agree and
    that are `valid` in frame t + 1; two empty masks score 1. Pairs without such pixels (a cut) are left out; nan if
    none is left. A constant mask with a static camera scores 1. `frames`: RGB. Raises ValueError if they do not fit the
    masks or are below 24 x 24.
    """
    predicted, counts = as_masks(masks, masks if valid is None else valid)
    if frames.shape[:3] != predicted.shape or min(predicted.shape[1:]) < 24:
        found = f"frames {list(frames.shape)}, masks {list(predicted.shape)}"
        raise ValueError(f"frames and masks must agree in [T, H, W], with H and W at least 24; found {found}")
    motion: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)  # the stubs of `calc` lack None
    grey, scores = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames], []
    for t in range(len(grey) - 1):
        backward = motion.calc(grey[t + 1], grey[t], None)
        sure = _trusted(motion.calc(grey[t], grey[t + 1], None), backward)
        sure = sure if valid is None else sure & counts[t + 1]
        if sure.any():
            moved = _pull(predicted[t].astype(np.uint8), backward, cv2.INTER_NEAREST) > 0
            union = int((sure & (moved | predicted[t + 1])).sum())
            scores.append(int((sure & moved & predicted[t + 1]).sum()) / union if union else 1.0)
    return float(np.mean(scores)) if scores else NAN


WINDOWS = (3, 5, 7, 9, 11)
"""Lengths k of VC_k, frames. Source: docs/protocol.md 5.5."""

Score = Callable[..., Any]  # a float or a mapping of fields
Table = Any  # anything indexed by field, such as a DataFrame of rows
Sums = tuple[Any, Any]


def over_episodes(rows: Table, key: str) -> Sums:
    """Mean over the episodes that have a value."""
    return rows[key], 1.0


def over_frames(rows: Table, key: str) -> Sums:
    """Mean over the frames of the episodes that have a value."""
    return rows[key] * rows["frames"], rows["frames"]


@dataclass(frozen=True)
class Metric:
    """A column of the tables: what an episode's row stores, and how rows are reduced to one value per class.

    `score(masks, ground_truth, valid)`, all bool [T, H, W], returns the value stored under `key` (default: the name in
    lower case) or a mapping of fields; None if other fields suffice. `grouped`: called per batch, as
    `released_video_consistency`. `pool(rows, key)` returns two terms per episode; a class scores sum / (sum +
    `epsilon`) or the mean of `mean_of`. Then classes, runs and folds are averaged. `alone`: name without average over
    classes.
    """

    name: str
    score: Score | None = None
    key: str = ""
    pool: Callable[[Table, str], Sums] = over_episodes
    epsilon: float = 0.0
    mean_of: tuple[str, ...] = ()
    grouped: bool = False
    percent: bool = True
    digits: int = 1
    alone: str = ""
    larger_is_better: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", self.key or self.name.lower())
        object.__setattr__(self, "alone", self.alone or self.name)

    def fields(self, *masks: Any) -> Mapping[str, Any]:
        """The fields of one episode's row."""
        found = self.score(*masks) if self.score else {}
        return found if isinstance(found, Mapping) else {self.key: found}


def _areas(masks: np.ndarray, truth: np.ndarray, valid: np.ndarray) -> dict[str, Any]:
    """Pixels of intersection, union, prediction and ground truth; the first two also per frame."""
    intersection, union = intersection_union(masks, truth, valid)
    return {
        "intersection": int(intersection.sum()), "union": int(union.sum()),
        "predicted": int((masks & valid).sum()), "true": int((truth & valid).sum()),
        "intersections": intersection.tolist(), "unions": union.tolist(),
    }  # fmt: skip


def _mean(values: PerFrame) -> float:
    return float(values.mean()) if len(values) else NAN


def _contours(masks: np.ndarray, truth: np.ndarray, valid: np.ndarray) -> dict[str, Any]:
    values = boundary_f(masks, truth, valid)
    return {"f": _mean(values), "f_frames": values.tolist()}


def _shared(column: str) -> Callable[[Table, str], Sums]:
    return lambda rows, _: (rows["intersection"], rows[column])


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("mIoU", _areas, pool=_shared("union"), epsilon=EPSILON, alone="IoU"),
        Metric(  # printed as "F-score" by the release; not the F of DAVIS
            "Dice", pool=lambda rows, _: (2 * rows["intersection"], rows["union"] + rows["intersection"]),
            epsilon=EPSILON,
        ),
        Metric("precision", pool=_shared("predicted"), epsilon=EPSILON),
        Metric("recall", pool=_shared("true"), epsilon=EPSILON),
        Metric("J", lambda *masks: _mean(region_similarity(*masks)), pool=over_frames),
        Metric("F", _contours, pool=over_frames),
        Metric("J&F", mean_of=("J", "F")),
        *(Metric(f"VC_{k}", lambda m, t, valid, k=k: video_consistency(m, t, k, valid)) for k in WINDOWS),
        *(Metric(f"VC_{k} released", partial(released_video_consistency, k=k), f"released_vc_{k}", grouped=True)
          for k in WINDOWS),
    )
}  # fmt: skip
"""The columns of the tables in their order. Source: docs/protocol.md 5.4 and 5.5; DAVIS for J and F."""

"""Metrics: how well predicted masks cover the ground truth, how well their contours fit, how steady they are.

Two families of papers report on the same benchmarks and do not mean the same number. One *pools*: pixels of the
intersection and of the union are summed over every frame and episode of a class and divided once, so a big object in a
long video weighs most. The other *averages*: one number per frame, then the mean. Overlap alone does not see flicker:
*video consistency* VC_k asks how much of what stays in place for k frames was found in all of them, and
`warped_consistency` needs no ground truth: each mask, moved along the optical flow, should be the next one.

`METRICS` declares the columns of the tables; rows, tables, statistics and export read it. Adding a metric is adding an
entry: `METRICS["recall of frames"] = Metric("recall of frames", score)`.

Masks may be NumPy or torch; `valid` marks the pixels that count (all of them by default). Nothing is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int64, UInt8
from torch import Tensor

NAN = float("nan")
EPSILON = 1e-10  # added to every pooled denominator, as released: nothing predicted, nothing true scores 0
BOUND = 0.008  # DAVIS: contours may be apart by this share of the image diagonal

Masks = Bool[np.ndarray, "T H W"] | Bool[Tensor, "T H W"]
PerFrame = Float64[np.ndarray, "T"]
Counts = Int64[np.ndarray, "T"]
Frames = UInt8[np.ndarray, "T H W 3"] | Float[Tensor, "T 3 H W"]
Flow = Float32[np.ndarray, "H W 2"]


def as_masks(*masks: Masks | None) -> tuple[Bool[np.ndarray, "T H W"] | None, ...]:
    """The same masks as NumPy arrays; None stays None, and means every pixel (of `valid`).

    Raises ValueError if they are not bool masks of one shape [T, H, W].
    """
    arrays = [m.detach().cpu().numpy() if isinstance(m, Tensor) else m for m in masks]
    found = [a for a in arrays if a is not None]
    if any(a.dtype != bool or a.ndim != 3 or a.shape != found[0].shape for a in found):
        shapes = ", ".join(f"{a.dtype}{list(a.shape)}" for a in found)
        raise ValueError(f"masks, truth and valid must be bool of one shape [T, H, W], found {shapes}")
    return tuple(arrays)


def _counted(masks: Masks, truth: Masks, valid: Masks | None) -> tuple[np.ndarray, np.ndarray]:
    """Prediction and truth with the pixels that do not count taken out of both."""
    predicted, true, counts = as_masks(masks, truth, valid)
    return (predicted, true) if counts is None else (predicted & counts, true & counts)


def intersection_union(masks: Masks, truth: Masks, valid: Masks | None = None) -> tuple[Counts, Counts]:
    """Foreground pixels predicted and true (I), and predicted or true (U), in every frame.

    Source: protocol section 5.4.
    """
    predicted, true = _counted(masks, truth, valid)
    intersection = (predicted & true).sum(axis=(1, 2), dtype=np.int64)
    return intersection, (predicted | true).sum(axis=(1, 2), dtype=np.int64)


def iou(masks: Masks, truth: Masks, valid: Masks | None = None) -> float:
    """Overlap of the whole clip: I / (U + 1e-10), I and U summed over its frames; in [0, 1].

    A clip without any foreground, predicted or true, scores 0. Source: protocol section 5.4.
    """
    intersection, union = intersection_union(masks, truth, valid)
    return float(intersection.sum() / (union.sum() + EPSILON))


def pooled_iou(counts: Iterable[tuple[Hashable, int, int]]) -> dict[Hashable, float]:
    """IoU of each class from (class, I, U) counts per frame or episode: I_c / (U_c + 1e-10), summed within the class.

    Raises ValueError if there are no counts. Source: protocol section 5.4.
    """
    sums: dict[Hashable, list[int]] = {}
    for key, intersection, union in counts:
        total = sums.setdefault(key, [0, 0])
        total[0] += int(intersection)
        total[1] += int(union)
    if not sums:
        raise ValueError("no counts to score: there is no episode; evaluate at least one")
    return {key: i / (u + EPSILON) for key, (i, u) in sums.items()}


def region_similarity(masks: Masks, truth: Masks, valid: Masks | None = None) -> PerFrame:
    """J: the IoU of each frame by itself, in [0, 1]; a frame with nothing true and nothing predicted is 1.

    Source: the DAVIS benchmark (Perazzi et al., CVPR 2016).
    """
    intersection, union = intersection_union(masks, truth, valid)
    return np.where(union == 0, 1.0, intersection / np.maximum(union, 1))


def boundary(mask: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """One-pixel contour: pixels that differ from the one to the right, below, or below right.

    The frame of the image is no contour: an object cut by it is continued outside.
    Source: the DAVIS benchmark, after the Berkeley segmentation benchmark.
    """
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    return (mask ^ padded[:-1, 1:]) | (mask ^ padded[1:, :-1]) | (mask ^ padded[1:, 1:])


def _disk(radius: int) -> np.ndarray:
    """Pixels no farther than `radius` from the middle, as a kernel for dilation."""
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return (x * x + y * y <= radius * radius).astype(np.uint8)


def _contour_f(predicted: np.ndarray, true: np.ndarray, kernel: np.ndarray) -> float:
    """F of one frame: contour pixels of either mask that lie under the other's thickened contour."""
    ours, theirs = boundary(predicted), boundary(true)
    if not (ours.any() and theirs.any()):
        return float(ours.any() == theirs.any())  # two empty contours agree; one alone matches nothing
    near_ours, near_theirs = (cv2.dilate(b.astype(np.uint8), kernel) > 0 for b in (ours, theirs))
    exact = (ours & near_theirs).sum() / ours.sum()
    complete = (theirs & near_ours).sum() / theirs.sum()
    return float(2 * exact * complete / (exact + complete)) if exact + complete else 0.0


def boundary_f(
    masks: Masks, truth: Masks, valid: Masks | None = None, bound: float | int = BOUND
) -> PerFrame:
    """F: how well the contour of each frame fits, in [0, 1].

    F = 2PR / (P + R); P: share of the predicted contour within `bound` of the true one, R: the reverse.
    `bound` below 1 is a share of the image diagonal, rounded up to pixels; from 1 on it is in pixels. Frames
    without any contour score 1, frames with only one of the two contours 0. Pixels that do not count are
    taken out of both masks first.
    Source: the DAVIS benchmark (Perazzi et al., CVPR 2016).
    """
    predicted, true = _counted(masks, truth, valid)
    diagonal = float(np.hypot(*predicted.shape[1:]))
    kernel = _disk(int(bound) if bound >= 1 else int(np.ceil(bound * diagonal)))
    scores = [_contour_f(p, t, kernel) for p, t in zip(predicted, true, strict=True)]
    return np.array(scores, dtype=np.float64)


def _window(predicted: np.ndarray, true: np.ndarray, start: int, k: int) -> tuple[int, int]:
    """Pixels that stay true from frame `start` for k frames, and how many of them stay predicted too."""
    common = true[start : start + k].all(axis=0)
    return int((common & predicted[start : start + k].all(axis=0)).sum()), int(common.sum())


def _check_window(k: int) -> None:
    if k < 1:
        raise ValueError(f"the window k is {k} frames long; give a length of 1 or more")


def window_consistency(
    masks: Masks, truth: Masks, k: int, valid: Masks | None = None
) -> Float64[np.ndarray, " windows"]:
    """Of what stays object for k frames, the share that is found in all k of them; one number per window, in [0, 1].

    |common truth ∩ common prediction| / |common truth| for each of the T - k + 1 windows of k consecutive frames,
    where "common" means in every frame of the window. nan where a window has no common truth: it says nothing.
    Raises ValueError if k < 1.
    """
    _check_window(k)
    predicted, true, counts = as_masks(masks, truth, valid)
    true = true if counts is None else true & counts
    windows = [_window(predicted, true, start, k) for start in range(len(true) - k + 1)]
    return np.array([kept / common if common else NAN for kept, common in windows], dtype=np.float64)


def video_consistency(masks: Masks, truth: Masks, k: int, valid: Masks | None = None) -> float:
    """VC_k: how steadily the object is found, in [0, 1]; the mean of `window_consistency`.

    Windows without common truth are left out. A clip shorter than k, or without any window that has common
    truth, has no VC_k: the result is nan. Only what is true can count, so painting everything scores 1: read VC_k
    beside IoU. Source: the definition the TTI paper takes from VSPW (Miao et al., CVPR 2021).

    Raises ValueError if k < 1.
    """
    shares = window_consistency(masks, truth, k, valid)
    known = shares[~np.isnan(shares)]
    return float(known.mean()) if len(known) else NAN


def released_video_consistency(
    masks: Masks, truth: Masks, valid: Masks | None, videos: Sequence[Hashable], k: int
) -> dict[Hashable, float]:
    """VC_k of every video in a batch as the released loop computes it, slips included; in [0, 1].

    `videos` names the video of each of the T frames. For a video of n frames, the mean over its windows of
    |common truth ∩ common prediction| / (|common truth| + 1e-10), where
    - windows start at 0 .. n - k - 1: the last one is missing, and a video of k frames or fewer scores 0;
    - a window without common truth scores 0 and counts;
    - windows are cut from the first n frames *of the batch*, whichever video these belong to.
    One video per batch escapes the last slip only. Compare with `video_consistency`; for tables that are to
    stand beside published ones. Source: protocol section 6, Q2 and Q3.

    Raises ValueError if k < 1, or if `videos` does not name one video per frame.
    """
    _check_window(k)
    predicted, true, counts = as_masks(masks, truth, valid)
    if len(videos) != len(true):
        raise ValueError(f"videos names {len(videos)} of {len(true)} frames; name the video of every frame")
    true = true if counts is None else true & counts
    names = list(videos)
    windows = [_window(predicted, true, start, k) for start in range(max(len(true) - k, 0))]
    shares = [kept / (common + EPSILON) for kept, common in windows]
    result: dict[Hashable, float] = {}
    for name in dict.fromkeys(names):
        starts = names.count(name) - k
        result[name] = float(np.mean(shares[:starts])) if starts > 0 else 0.0
    return result



def _grey(frames: Frames) -> UInt8[np.ndarray, "T H W"]:
    """Frames (RGB, 0..255, or a tensor in [0, 1]) as grey images for the flow."""
    if isinstance(frames, Tensor):
        rgb = frames.detach().cpu().float().clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).numpy()
    else:
        rgb = frames
    grey = [cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY) for image in rgb]
    return np.array(grey, dtype=np.uint8).reshape(rgb.shape[:3])


def _pull(image: np.ndarray, flow: Flow, how: int) -> np.ndarray:
    """The image seen from the flow's frame: value at y is image(y + flow(y)), 0 outside the image."""
    height, width = flow.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return cv2.remap(image, x + flow[..., 0], y + flow[..., 1], how, borderMode=cv2.BORDER_CONSTANT)


def _trusted(forward: Flow, backward: Flow) -> Bool[np.ndarray, "H W"]:
    """Pixels of the later frame whose way back and forth ends where it began.

    |b(y) + f(y + b(y))|² < 0.01 (|b|² + |f|²) + 0.5 px²; what was hidden or outside before fails.
    Source: Sundaram, Brox and Keutzer, ECCV 2010, section 3.
    """
    there = np.dstack([_pull(forward[..., c], backward, cv2.INTER_LINEAR) for c in (0, 1)])
    inside = _pull(np.ones(forward.shape[:2], np.uint8), backward, cv2.INTER_NEAREST) > 0
    size = (there**2).sum(axis=-1) + (backward**2).sum(axis=-1)
    return inside & (((there + backward) ** 2).sum(axis=-1) < 0.01 * size + 0.5)


def warped_consistency(masks: Masks, frames: Frames, valid: Masks | None = None) -> float:
    """Does each mask, moved along with the image, become the next one? No truth needed; in [0, 1].

    The mask of frame t is warped to t + 1 with dense inverse-search flow (OpenCV, medium preset), and
    compared with the mask of t + 1 by IoU over the pixels where forward and backward flow agree (and that
    are `valid` in frame t + 1); two empty masks agree (1). Mean over the T - 1 pairs; pairs where the flow
    agrees nowhere (a cut) are left out; nan if no pair is left. `frames` are RGB images of the same size:
    uint8 [T, H, W, 3], or a tensor [T, 3, H, W] in [0, 1], at least 24 x 24 pixels.
    A constant mask over a still camera scores 1 whether it is right or wrong: read it beside IoU.

    Raises ValueError if frames and masks differ in number or size, or are too small for the flow.
    """
    predicted, counts = as_masks(masks, valid)
    grey = _grey(frames)
    if grey.shape != predicted.shape or min(grey.shape[1:]) < 24:
        found = f"frames {list(grey.shape)}, masks {list(predicted.shape)}"
        raise ValueError(f"frames and masks must agree in [T, H, W], with H and W at least 24; found {found}")
    motion = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    scores = []
    for t in range(len(grey) - 1):
        backward = motion.calc(grey[t + 1], grey[t], None)
        sure = _trusted(motion.calc(grey[t], grey[t + 1], None), backward)
        sure = sure if counts is None else sure & counts[t + 1]
        if sure.any():
            moved = _pull(predicted[t].astype(np.uint8), backward, cv2.INTER_NEAREST) > 0
            union = int((sure & (moved | predicted[t + 1])).sum())
            scores.append(int((sure & moved & predicted[t + 1]).sum()) / union if union else 1.0)
    return float(np.mean(scores)) if scores else NAN


WINDOWS = (3, 5, 7, 9, 11)
"""Lengths k of VC_k, frames. Source: protocol section 5.5."""

Score = Callable[..., float | Mapping[str, Any]]
Table = Any  # a table of rows, or anything that has a column under every field
Sums = tuple[Any, Any]


def over_episodes(rows: Table, key: str) -> Sums:
    """Mean over the episodes that have a value."""
    return rows[key], 1.0


def over_frames(rows: Table, key: str) -> Sums:
    """Mean over the frames of the episodes that have a value."""
    return rows[key] * rows["frames"], rows["frames"]


@dataclass(frozen=True)
class Metric:
    """A column of the tables: what an episode's row keeps for it, and how rows become one number per class.

    `score(masks, ground_truth, valid)`, all bool [T, H, W], gives the number that the row keeps under `key` (by default
    the name in lower case), or a mapping of several fields; None if fields of another metric are enough. `grouped`: it
    is called once for all episodes that are solved together, as `released_video_consistency` is.
    `pool(rows, key)` gives two numbers per episode, whose sums over a class are divided: sum / (sum + `epsilon`);
    `mean_of` averages other metrics of the class instead. Classes are then averaged, then runs, then folds.
    `alone` is the column's name where classes are not averaged. The best of a block is bold if `larger_is_better`.
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
        """What the row of one episode keeps."""
        found = self.score(*masks) if self.score else {}
        return found if isinstance(found, Mapping) else {self.key: found}


def _areas(masks: np.ndarray, truth: np.ndarray, valid: np.ndarray) -> dict[str, Any]:
    """Pixels of intersection, union, prediction and ground truth; the first two per frame as well."""
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


def _vc(masks: np.ndarray, truth: np.ndarray, valid: np.ndarray, k: int) -> float:
    return video_consistency(masks, truth, k, valid)


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("mIoU", _areas, pool=_shared("union"), epsilon=EPSILON, alone="IoU"),
        Metric(  # the release prints it as "F-score"; it is not the F of DAVIS, although tables have mixed the two
            "Dice", pool=lambda rows, _: (2 * rows["intersection"], rows["union"] + rows["intersection"]),
            epsilon=EPSILON,
        ),
        Metric("precision", pool=_shared("predicted"), epsilon=EPSILON),
        Metric("recall", pool=_shared("true"), epsilon=EPSILON),
        Metric("J", lambda *masks: _mean(region_similarity(*masks)), pool=over_frames),
        Metric("F", _contours, pool=over_frames),
        Metric("J&F", mean_of=("J", "F")),
        *(Metric(f"VC_{k}", partial(_vc, k=k)) for k in WINDOWS),
        *(Metric(f"VC_{k} released", partial(released_video_consistency, k=k), f"released_vc_{k}", grouped=True)
          for k in WINDOWS),
    )
}  # fmt: skip
"""The columns of the tables in their order. Source: protocol sections 5.4 and 5.5; DAVIS for J and F."""

"""How well do predicted masks cover the true ones? Counting pixels, frame by frame.

Two families of papers report on the same benchmarks and do not mean the same number. One *pools*: pixels of
the intersection and of the union are summed over every frame and episode of a class and divided once, so a
big object in a long video weighs most. The other *averages*: one number per frame, then the mean, with a
second number for how well the contour fits. Both are here, so that both can be reported.

Pooled: `intersection_union`, `iou`, `dice`, `precision`, `recall`, and `class_scores` over a whole run.
Per frame, as DAVIS defines them: `region_similarity` (J), `boundary_f` (F), `j_and_f`.
Masks may be NumPy or torch; `valid` marks the pixels that count (all of them by default). Nothing is changed.
How steady masks are over time is the subject of `consistency`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean

import cv2
import numpy as np
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

EPSILON = 1e-10  # added to every pooled denominator, as released: nothing predicted, nothing true scores 0
BOUND = 0.008  # DAVIS: contours may be apart by this share of the image diagonal

Masks = Bool[np.ndarray, "T H W"] | Bool[Tensor, "T H W"]
PerFrame = Float64[np.ndarray, "T"]
Counts = Int64[np.ndarray, "T"]


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

    These two counts are all that an episode has to keep: every pooled figure follows from their sums.
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


def dice(masks: Masks, truth: Masks, valid: Masks | None = None) -> float:
    """Dice overlap of the whole clip: 2I / (U + I + 1e-10), from the same sums as `iou`; in [0, 1].

    U + I is the predicted plus the true area, so this is the harmonic mean of `precision` and `recall`. The
    release prints it as "F-score"; it is not the F of DAVIS (`boundary_f`), although tables of other papers
    have put the two in one column. Source: protocol section 5.4.
    """
    intersection, union = intersection_union(masks, truth, valid)
    shared = int(intersection.sum())
    return float(2 * shared / (union.sum() + shared + EPSILON))


def precision(masks: Masks, truth: Masks, valid: Masks | None = None) -> float:
    """Share of the predicted pixels that are true: I / (predicted + 1e-10), pooled over frames; in [0, 1].

    Nothing predicted scores 0.
    """
    predicted, true = _counted(masks, truth, valid)
    return float((predicted & true).sum() / (predicted.sum() + EPSILON))


def recall(masks: Masks, truth: Masks, valid: Masks | None = None) -> float:
    """Share of the true pixels that are predicted: I / (true + 1e-10), pooled over frames; in [0, 1].

    Nothing true scores 0.
    """
    return precision(truth, masks, valid)


@dataclass(frozen=True)
class ClassScores:
    """The overlap of each class seen in a run, and the means that papers print."""

    iou: Mapping[Hashable, float]
    dice: Mapping[Hashable, float]

    @property
    def miou(self) -> float:
        """Mean IoU over the classes seen."""
        return fmean(self.iou.values())

    @property
    def mean_dice(self) -> float:
        """Mean Dice over the classes seen."""
        return fmean(self.dice.values())


def class_scores(counts: Iterable[tuple[Hashable, int, int]]) -> ClassScores:
    """Scores of a run from its (class, I, U) counts: pooled within each class, one value per class.

    IoU_c = ΣI / (ΣU + 1e-10) and Dice_c = 2ΣI / (ΣU + ΣI + 1e-10) over all counts with that class. A class
    of which the run drew no episode is not a zero; it is not there. Counts may be per frame or per episode.

    Raises ValueError if there are no counts.
    Source: protocol section 5.4.
    """
    sums: dict[Hashable, list[int]] = {}
    for key, intersection, union in counts:
        total = sums.setdefault(key, [0, 0])
        total[0] += int(intersection)
        total[1] += int(union)
    if not sums:
        raise ValueError("no counts to score: the run holds no episode; evaluate at least one")
    return ClassScores(
        iou={key: i / (u + EPSILON) for key, (i, u) in sums.items()},
        dice={key: 2 * i / (u + i + EPSILON) for key, (i, u) in sums.items()},
    )


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


def j_and_f(masks: Masks, truth: Masks, valid: Masks | None = None) -> tuple[float, float, float]:
    """J, F and J&F of a clip: the means over its frames of region and contour fit, and the mean of the two.

    DANet and HPAN report J and F averaged over all frames of a class and then over classes; a table gets
    there from these figures by weighting each clip with its number of frames. A clip without frames is nan.
    """
    if not len(masks):
        return float("nan"), float("nan"), float("nan")
    j = float(region_similarity(masks, truth, valid).mean())
    f = float(boundary_f(masks, truth, valid).mean())
    return j, f, (j + f) / 2

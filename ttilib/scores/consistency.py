"""How steady are masks from frame to frame? Two answers: one that knows the truth, one that does not.

Overlap alone does not see flicker: a mask that loses a different leg in every frame has the same IoU as one
that always loses the same leg. *Video consistency* VC_k looks at the part of the object that stays in place
for k frames and asks how much of it was found in all of them. *Warped consistency* needs no truth: it moves
each mask along the optical flow into the next frame and asks whether the next mask agrees.

`video_consistency` follows the definition; `released_video_consistency` repeats the published loop with its
two slips, so that the gap between definition and printed table can be shown; `warped_consistency` is ours.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, UInt8
from torch import Tensor

from ttilib.scores.metrics import EPSILON, Masks, as_masks

NAN = float("nan")
Frames = UInt8[np.ndarray, "T H W 3"] | Float[Tensor, "T 3 H W"]
Flow = Float32[np.ndarray, "H W 2"]


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

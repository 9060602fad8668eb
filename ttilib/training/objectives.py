"""What base training minimises, pixel by pixel, and the counts by which it is judged.

Every loss is a map with one value per pixel, 0 where the truth is not known. The caller multiplies it with `weights`,
adds up and divides by the sum of the weights: over all parts of a batch and all processes, so that neither how a
batch is cut nor where the ignored pixels lie changes what is learned.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from ttilib.corpora.corpus import IGNORED

EPSILON = 1e-10  # keeps ratios of nothing at zero; the release's


def smoothed_cross_entropy(
    logits: Float[Tensor, "N K H W"], labels: Int64[Tensor, "N H W"], smoothing: float
) -> Float[Tensor, "N H W"]:
    """How surprised the network is by a label that is slightly doubted, in nats; 0 on ignored pixels.

    -sum_c q_c log softmax_c with q = 1 - smoothing on the true class, smoothing / (K - 1) on each other one.
    torch spreads its smoothing s over all K classes, the true one too; s = smoothing * K / (K - 1) is ours.
    Source: protocol section 4.
    """
    spread = smoothing * logits.shape[1] / (logits.shape[1] - 1)
    return F.cross_entropy(_wide(logits), labels, ignore_index=IGNORED, label_smoothing=spread, reduction="none")


def iou_loss(
    logits: Float[Tensor, "N K H W"], labels: Int64[Tensor, "N H W"], smoothing: float, background: bool = True
) -> Float[Tensor, "N H W"]:
    """How little prediction and doubted label overlap, in [0, 1]: mean over classes of 1 - r_c; 0 on ignored pixels.

    r_c = q_c p_c / (q_c + p_c - q_c p_c + 1e-10),  p = softmax, q as in `smoothed_cross_entropy`.
    Over known pixels its mean is the released mean_c (1 - mean_i r_ic). `background` False leaves class 0 out.
    Source: protocol section 4, training_loss iou.
    """
    classes, known = logits.shape[1], labels != IGNORED
    each = torch.arange(classes, device=logits.device).view(1, -1, 1, 1)
    p = _wide(logits).softmax(1)
    q = torch.where(labels[:, None] == each, 1 - smoothing, smoothing / (classes - 1)).to(p)
    both = q * p
    ratio = both / (q + p - both + EPSILON)
    return (1 - ratio[:, 0 if background else 1 :]).mean(1) * known


Loss = Callable[[Tensor, Tensor, float], Tensor]
TERMS: dict[str, dict[str, Loss]] = {
    "ce": {"ce": smoothed_cross_entropy},
    "iou": {"iou": iou_loss},
    "ce+iou": {"ce": smoothed_cross_entropy, "iou": partial(iou_loss, background=False)},
}
"""The summands of each loss by its name in the settings, each from (logits, labels, smoothing) to a map."""


def weights(labels: Int64[Tensor, "N H W"], foreground_weight: float = 1.0) -> Float[Tensor, "N H W"]:
    """How much each pixel counts: 1 on background, `foreground_weight` on a class, 0 where the truth is not known."""
    return torch.where(labels > 0, foreground_weight, 1.0) * (labels != IGNORED)


def mix(
    images: Float[Tensor, "N 3 H W"], alpha: float, rng: np.random.Generator
) -> tuple[Float[Tensor, "N 3 H W"], Int64[Tensor, " N"], float]:
    """Lay another picture of the batch over each: share * images + (1 - share) * images[order].

    share is drawn from Beta(alpha, alpha), order is a permutation. The loss of the result is
    share * loss(labels) + (1 - share) * loss(labels[order]), each a mean over its own known pixels.
    Source: Zhang et al. 2018; protocol section 4, mixup.
    """
    share = float(rng.beta(alpha, alpha))
    order = torch.from_numpy(rng.permutation(len(images)).astype(np.int64)).to(images.device)
    return share * images + (1 - share) * images[order], order, share


def confusion(
    found: Int64[Tensor, "N H W"], labels: Int64[Tensor, "N H W"], classes: int
) -> Int64[Tensor, "{classes} {classes}"]:
    """Count pixels by true class (row) and found class (column); ignored pixels are not counted."""
    known = labels != IGNORED
    pairs = labels[known] * classes + found[known]
    return torch.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def class_iou(counts: Int64[Tensor, "K K"]) -> Float[Tensor, " K"]:
    """Intersection over union of each class from counts by true and found class: sum I / (sum U + 1e-10).

    A class that is neither shown nor found scores 0 and still counts in a mean over classes, as released.
    Source: protocol section 4, standard validation mIoU.
    """
    both = counts.diagonal().double()
    return both / (counts.sum(0) + counts.sum(1) - both + EPSILON)


def pixel_accuracy(counts: Int64[Tensor, "K K"]) -> Float[Tensor, ""]:
    """Share of the known pixels that are given their class, in [0, 1]; 0 if none is known."""
    return counts.diagonal().sum().double() / (counts.sum() + EPSILON)


def class_accuracy(counts: Int64[Tensor, "K K"]) -> Float[Tensor, ""]:
    """Share of a class's pixels that are given it, in [0, 1], averaged over all classes.

    A class that is not shown scores 0 and still counts, as released.
    """
    return (counts.diagonal().double() / (counts.sum(1) + EPSILON)).mean()


def _wide(x: Tensor) -> Tensor:
    """At least single precision: logarithms and ratios of half precision are too coarse to learn from."""
    return x.to(torch.promote_types(x.dtype, torch.float32))

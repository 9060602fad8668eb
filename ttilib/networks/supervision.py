"""What base training minimises, and how it is judged: labels of the base classes at every pixel.

Both count pixels only where the truth is known.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ttilib.data.datasets import IGNORED
from ttilib.networks.models import PSPNet


def smoothed_cross_entropy(
    logits: Float[Tensor, "N K H W"],
    labels: Int64[Tensor, "N H W"],
    smoothing: float,
    foreground_weight: float = 1.0,
) -> Float[Tensor, ""]:
    """How surprised the network is by a label that is slightly doubted; mean over known pixels, in nats.

    -sum_c q_c log softmax_c with q = 1 - smoothing on the true class, smoothing / (K - 1) on each other one.
    torch spreads its smoothing s over all K classes, the true one too; s = smoothing * K / (K - 1) is ours.
    `foreground_weight`: how much a pixel of a class counts beside one of background; 1 as released.
    Source: protocol section 4.
    """
    spread = smoothing * logits.shape[1] / (logits.shape[1] - 1)
    each = F.cross_entropy(logits, labels, ignore_index=IGNORED, label_smoothing=spread, reduction="none")
    weight = torch.where(labels > 0, foreground_weight, 1.0) * (labels != IGNORED)
    return (each * weight).sum() / weight.sum().clamp_min(1)


@torch.no_grad()
def validate(
    network: PSPNet, frames: Dataset, batch: int = 8, device: torch.device | str = "cpu"
) -> Float[Tensor, " K"]:
    """How well each base class is found in all frames, background first; its mean is the validation mIoU.

    Leaves the network in evaluation mode.
    """
    network.eval()
    counts = torch.zeros(network.classes, network.classes, dtype=torch.int64)
    for images, labels in DataLoader(frames, batch_size=batch, generator=torch.Generator()):
        counts += confusion(network.logits(images.to(device)).argmax(1).cpu(), labels, network.classes)
    return class_iou(counts)


def confusion(
    found: Int64[Tensor, "N H W"], labels: Int64[Tensor, "N H W"], classes: int
) -> Int64[Tensor, "K K"]:
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
    return both / (counts.sum(0) + counts.sum(1) - both + 1e-10)

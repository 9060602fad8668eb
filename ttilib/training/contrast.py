"""The dense contrastive loss (DCL): what a cell shows in one frame should be found again in the next.

Two frames of a video give two grids of features, without any label. Of all cells of the second frame the one most
like a cell of the first is taken to show the same thing, and pulled closer; all others are pushed away. The features
may pass through a small head first, which is thrown away after training.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

POOL = 7  # cells per side of a pooled map, as released
TOGETHER = 4  # pairs of frames whose P x P similarities are worked out at a time


def contrastive(
    first: Float[Tensor, "N C h w"], second: Float[Tensor, "N C h w"], temperature: float
) -> Float[Tensor, "N P"]:
    """How hard it is to tell the best match of each of the P = h w cells of `first` from the rest, in nats.

    l_i = -log [ exp(s_i+) / sum_j exp(s_ij) ],  s_ij = f_i . g_j / temperature,  s_i+ = max_j s_ij.
    The dot products are not normalised (quirk Q23), and single precision also under autocast: they grow large.
    Lies between 0 (a match like no other) and log P (all cells of `second` alike).
    Source: protocol section 4, DCL auxiliary; Wang et al. 2021, DenseCL.
    """
    dtype = torch.promote_types(first.dtype, torch.float32)
    with torch.autocast(first.device.type, enabled=False):
        f, g = (x.flatten(2).to(dtype) for x in (first, second))
        chunks = zip(f.split(TOGETHER), g.split(TOGETHER), strict=True)
        return torch.cat([_mismatch(a.transpose(1, 2) @ b / temperature) for a, b in chunks])


def _mismatch(similarity: Float[Tensor, "N P Q"]) -> Float[Tensor, "N P"]:
    best = similarity.max(dim=2, keepdim=True).values  # one cell of equally good ones, unlike amax
    return (similarity - best).logsumexp(dim=2)  # the difference first: both may be in the thousands


def known_cells(known: Bool[Tensor, "N H W"], grid: tuple[int, int]) -> Bool[Tensor, "N P"]:
    """Whether each of the h x w cells of a grid shows a part of the picture, by its nearest pixel."""
    return F.interpolate(known[:, None].float(), size=tuple(grid), mode="nearest").flatten(1).bool()


def pooled(features: Float[Tensor, "N C h w"]) -> Float[Tensor, "N C 7 7"]:
    """The map as the means of 7 x 7 parts of it; before the head, if there is one."""
    return F.adaptive_avg_pool2d(features, POOL)


class ContrastHead(nn.Sequential):
    """Two 1x1 convolutions between the features and the contrast; the features as they are without `project`.

    Each convolution pads by one cell, so the map grows by 4 cells, whose values know nothing of the picture: as
    released (quirk Q23). Weights are drawn from torch's shared generator; names follow the released checkpoints,
    whose `cl_proj_head` this is. Source: protocol section 4.
    """

    def __init__(self, channels: int, width: int, project: bool = True) -> None:
        layers = (
            nn.Conv2d(channels, width, 1, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 1, padding=1, bias=False),
        )
        super().__init__(*(layers if project else ()))

    def forward(self, features: Float[Tensor, "N C h w"]) -> Float[Tensor, "N D a b"]:
        """The features to be compared."""
        return super().forward(features)

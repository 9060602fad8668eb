"""An episode as features: all that the solver is given.

A `Task` has no field for the ground truth of the query, so no solver can look at it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from ttilib.datasets.transforms import normalise
from ttilib.episodes.clips import Clip


@dataclass(frozen=True)
class Task:
    """One episode as features: K labelled images and T unlabelled frames on one h x w grid.

    Every feature has unit L2 norm. `support_norm` and `query_norm` are the lengths that were divided out; they
    weigh the features when prototypes are averaged, and 1 in the released setting, which normalises features first.
    `batch_frames` is how many frames the released batched driver would solve together; None: this video alone.
    """

    name: str
    support: Float[Tensor, "K C h w"]
    support_masks: Bool[Tensor, "K h w"]
    support_valid: Bool[Tensor, "K h w"]
    query: Float[Tensor, "T C h w"]
    query_valid: Bool[Tensor, "T h w"]
    size: tuple[int, int]
    support_names: tuple[str, ...] = ()
    support_norm: Float[Tensor, "K h w"] | float = 1.0
    query_norm: Float[Tensor, "T h w"] | float = 1.0
    batch_frames: int | None = None

    @property
    def shots(self) -> int:
        """K, the number of support images."""
        return len(self.support)

    @property
    def pool(self) -> Float[Tensor, "T h w"]:
        """Weight of each query cell when features are averaged: its length where it counts, else 0."""
        return self.query_valid * torch.as_tensor(self.query_norm, dtype=self.query.dtype)


def unit(features: Float[Tensor, "N C h w"]) -> tuple[Float[Tensor, "N C h w"], Float[Tensor, "N h w"]]:
    """Direction and length of every feature: f / max(|f|, 1e-12) and |f|; a zero vector stays zero."""
    norm = features.norm(dim=1)
    return features / norm.clamp_min(1e-12)[:, None], norm


def downsample(masks: Bool[Tensor, "N H W"], grid: tuple[int, int]) -> Bool[Tensor, "N h w"]:
    """Labels at feature size by the nearest rule of the release: cell i takes pixel floor(i * H / h).

    Source: protocol section 5.1. The rule samples up to 7 pixels above and left of where the features lie;
    kept, because every published number was made with it.
    """
    return F.interpolate(masks[:, None].float(), size=grid, mode="nearest")[:, 0] > 0.5


@torch.no_grad()
def encode(
    encoder: Callable[[Tensor], Tensor],
    images: Float[Tensor, "N 3 H W"],
    device: str | torch.device = "cpu",
    chunk: int = 8,
) -> Float[Tensor, "N C h w"]:
    """Unit features of images in [0, 1], `chunk` images at a time so that memory does not grow with the video."""
    parts = [unit(encoder(normalise(part.to(device))))[0] for part in images.split(chunk)]
    return torch.cat(parts)


def extract(
    encoder: Callable[[Tensor], Tensor], clip: Clip, device: str | torch.device = "cpu", chunk: int = 8
) -> Task:
    """The clip as features, and its masks at feature size, without the ground truth.

    `encoder` is any callable from ImageNet-normalised images [N, 3, H, W] to features [N, C, h, w]; put it in
    eval mode and on `device` first.
    """
    support = encode(encoder, clip.support, device, chunk)
    query = encode(encoder, clip.query, device, chunk)
    grid = (query.shape[-2], query.shape[-1])
    return Task(
        name=clip.name,
        support=support,
        support_masks=downsample(clip.support_masks, grid).to(device),
        support_valid=downsample(clip.support_valid, grid).to(device),
        query=query,
        query_valid=downsample(clip.query_valid, grid).to(device),
        size=clip.size,
        support_names=clip.support_names,
        batch_frames=clip.batch_frames,
    )


def oracle_prior(
    truth: Bool[Tensor, "T H W"], task: Task, noise: float = 0.0
) -> Float[Tensor, " T"]:
    """True foreground proportion of every frame at feature size, for the oracle experiment only.

    pi_t = |truth & valid| / |valid|, then pi <- clamp((1 + noise) pi, 0, 1): `noise` is a relative error.
    Source: RePRI's oracle setting; the release's FB_param_noise.
    """
    valid = task.query_valid.flatten(1)
    seen = downsample(truth.to(valid.device), (task.query.shape[-2], task.query.shape[-1])).flatten(1) & valid
    share = seen.sum(1) / valid.sum(1).clamp_min(1)
    return (share * (1 + noise)).clamp(0, 1)

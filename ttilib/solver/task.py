"""An episode as features, the input of the solver. `Task` has no ground truth of the query, so no solver can use it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from ttilib.datasets.transforms import normalise
from ttilib.encoders.external import feature_map, name_of
from ttilib.encoders.layers import eval_mode
from ttilib.episodes.clips import Clip

CHUNK = 8  # images per forward pass, to limit memory


@dataclass(frozen=True)
class Task:
    """One episode as unit features: K labelled images and T unlabelled frames on one h x w grid.
    `support_norm`, `query_norm`: lengths before normalisation, weights of the features in prototypes; 1 as released,
    where features are normalised first. `batch_frames`: frames that the release solves in one batch; None: this video
    alone. Raises ValueError unless K and T are at least 1 and types and shapes fit.
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

    def __post_init__(self) -> None:
        support, query = self.support, self.query
        pairs = (support, self.support_masks), (support, self.support_valid), (query, self.query_valid)
        fits = all(len(part) and part.shape[:1] + part.shape[2:] == cells.shape for part, cells in pairs)
        if not fits or (support.dtype, support.shape[1]) != (query.dtype, query.shape[1]):
            names = "support", "support_masks", "support_valid", "query", "query_valid"
            found = ", ".join(f"{name} {getattr(self, name).dtype} {[*getattr(self, name).shape]}" for name in names)
            advice = "give features [N, C, h, w] of one type, at least one image and frame, and masks [N, h, w]"
            raise ValueError(f"episode {self.name}: {found}; {advice}")

    @property
    def shots(self) -> int:
        """K, the number of support images."""
        return len(self.support)

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the feature grid."""
        return self.query.shape[-2], self.query.shape[-1]

    @property
    def support_vanished(self) -> bool:
        """Whether no support image has a foreground cell, because its object is too small for the grid."""
        return not (self.support_masks & self.support_valid).any()

    def check_support(self) -> None:
        """Raise ValueError naming the episode and its support images if the support vanished."""
        if self.support_vanished:
            images = ", ".join(self.support_names) or f"{self.shots} unnamed"
            about = f"no foreground is left in the support ({images}) at feature size {self.grid}"
            raise ValueError(f"episode {self.name}: {about}; choose support images that contain more of the object")

    @property
    def query_weight(self) -> Float[Tensor, "T h w"]:
        """Weight of each query cell in a prototype: its length where valid, else 0."""
        return self.query_valid * torch.as_tensor(self.query_norm, dtype=self.query.dtype)


def unit(features: Float[Tensor, "N C h w"]) -> tuple[Float[Tensor, "N C h w"], Float[Tensor, "N h w"]]:
    """Unit features f / max(|f|, 1e-12), and their lengths |f|; a zero vector stays zero.
    In float32 or float64, as steps of the solver are lost in half precision.
    """
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    norm = features.norm(dim=1)
    return features / norm.clamp_min(1e-12)[:, None], norm


def downsample(masks: Bool[Tensor, "N H W"], grid: tuple[int, int]) -> Bool[Tensor, "N h w"]:
    """Masks at feature size, as released: cell i takes pixel floor(i * H / h). Source: docs/protocol.md 5.1, S13."""
    return F.interpolate(masks[:, None].float(), size=grid, mode="nearest")[:, 0] > 0.5


def rescale(images: Float[Tensor, "N 3 H W"], scale: float) -> Float[Tensor, "N 3 _ _"]:
    """Images with `scale` times as many steps between pixels: 361 pixels for 241 and a scale of 1.5."""
    size = [round((side - 1) * scale) + 1 for side in images.shape[-2:]]
    return images if scale == 1 else F.interpolate(images, size, mode="bicubic", antialias=True)


@torch.no_grad()
def extract(
    encoder: Callable[[Tensor], Tensor],
    clip: Clip,
    device: str | torch.device = "cpu",
    chunk: int = CHUNK,
    support: Float[Tensor, "K C h w"] | None = None,
    scale: float = 1.0,
) -> Task:
    """The clip as a `Task`; `encoder`, on `device`, maps normalised images to features, here in evaluation mode.
    `support`: features of the support images, if they are known. `scale`: of the images that the encoder gets.
    Raises ValueError for an encoder that does not give features [N, C, h, w].
    """

    def encode(images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N C h w"]:
        parts = (normalise(rescale(part, scale).to(device)) for part in images.split(chunk))
        maps = (feature_map(name_of(encoder), "its output", encoder(part), part) for part in parts)
        return torch.cat([unit(features)[0] for features in maps])

    with eval_mode(encoder):
        support, query = encode(clip.support) if support is None else support, encode(clip.query)
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


def oracle_prior(truth: Bool[Tensor, "T H W"], task: Task, noise: float = 0.0) -> Float[Tensor, " T"]:
    """True foreground proportion per frame at feature size, for the oracle experiment only.
    pi_t = |truth & valid| / |valid|, then clamp((1 + noise) pi, 0, 1): `noise` is a relative error. Source: RePRI's
    oracle setting; FB_param_noise of the release.
    """
    valid = task.query_valid.flatten(1)
    foreground = downsample(truth.to(valid.device), task.grid).flatten(1) & valid
    proportion = foreground.sum(1) / valid.sum(1).clamp_min(1)
    return (proportion * (1 + noise)).clamp(0, 1)

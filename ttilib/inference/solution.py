"""What a descent leaves behind: its states, and the solution they lead to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from ttilib.inference.classifier import Classifier
from ttilib.inference.objective import Objective, Terms


@dataclass(frozen=True)
class State:
    """The descent before step number `step` (0 is the start): the classifier and what is asked of it next."""

    step: int
    classifier: Classifier
    objective: Objective

    @property
    def prior(self) -> Float[Tensor, " T"]:
        """Foreground proportion aimed at, per frame."""
        return self.objective.prior

    def terms(self) -> Terms:
        """Value of every term of the objective here."""
        return self.objective.terms(self.classifier)


@dataclass(frozen=True)
class Solution:
    """What came out: the classifiers, the prior they aimed at, and the scores they give the video.

    `history` holds the state before each step and after the last; a frame that is all padding is not in it.
    `keyframe`, `similarity` [T] and `pseudo_mask` (foreground, pixels that count) belong to the refinement.
    """

    classifier: Classifier
    prior: Float[Tensor, " T"]
    scores: Float[Tensor, "T h w"]
    size: tuple[int, int]
    history: tuple[State, ...]
    keyframe: int | None = None
    similarity: Float[Tensor, " T"] | None = None
    pseudo_mask: tuple[Bool[Tensor, "H W"], Bool[Tensor, "H W"]] | None = None

    def probabilities(self, size: tuple[int, int] | None = None) -> Float[Tensor, "T H W"]:
        """Foreground probability per pixel: scores upsampled bilinearly (corners aligned), then the sigmoid."""
        return upsampled_probabilities(self.scores, self.classifier.bias, size or self.size)

    def masks(self, size: tuple[int, int] | None = None) -> Bool[Tensor, "T H W"]:
        """Predicted object: probability above one half; a tie is background."""
        return self.probabilities(size) > 0.5


def upsampled_probabilities(
    scores: Float[Tensor, "T h w"], bias: Float[Tensor, " T"], size: tuple[int, int]
) -> Float[Tensor, "T H W"]:
    """sigmoid(upsampled score - bias); the bias comes off last so that an infinite one means absent."""
    full = F.interpolate(scores[:, None], size=size, mode="bilinear", align_corners=True)[:, 0]
    return torch.sigmoid(full - bias[:, None, None])

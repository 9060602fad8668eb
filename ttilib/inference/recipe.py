"""What happens around the solver: which features it is given, and what becomes of its probabilities.

A `Recipe` is the part of a method that the solver never sees. `Source` (next door) leads from pictures to the features
that a recipe wants, `finished` from a solution to masks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool
from torch import Tensor

from ttilib.data.clips import Clip
from ttilib.inference.cutting import cut_out
from ttilib.inference.guided import guided_filter
from ttilib.inference.solution import Solution

Centring = Literal["none", "pool", "episode"]


@dataclass(frozen=True)
class Recipe:
    """Everything around the solver that one may change. The defaults are the release: nothing is done.

    `centring`: what is taken off every unit feature: nothing, the encoder's mean over a pool of pictures, or, where no
    pool is at hand, the mean over the episode's own pictures. `layers`: submodules whose outputs are joined, with
    `layer_weights` (1 each if empty); none is the encoder's own output.
    `guided`: radius of the guided filter on the probabilities in image diagonals, 0 is none; `guided_eps` its variance.
    `cut`: how far the border of a mask may move to where the colours change, in image diagonals, 0 is none.
    """

    centring: Centring = "none"
    layers: tuple[str, ...] = ()
    layer_weights: tuple[float, ...] = ()
    guided: float = 0.0
    guided_eps: float = 1e-3
    cut: float = 0.0

    @property
    def features(self) -> tuple[Centring, tuple[str, ...], tuple[float, ...]]:
        """What decides the features: recipes that agree in this share them."""
        return self.centring, self.layers, self.layer_weights


def finished(solution: Solution, clip: Clip, recipe: Recipe | None = None) -> Bool[Tensor, "T H W"]:
    """The masks of a solution at the clip's size, fitted to its frames as far as the recipe says so."""
    recipe, masks = recipe or Recipe(), solution.masks()
    radius, band = (_pixels(share, masks) for share in (recipe.guided, recipe.cut))
    if radius:
        masks = guided_filter(solution.probabilities(), clip.query, radius, recipe.guided_eps) > 0.5
    return cut_out(masks, clip.query, band) if band else masks


def _pixels(share: float, masks: Bool[Tensor, "T H W"]) -> int:
    """A share of the image's diagonal in whole pixels; what is not nothing is at least one."""
    return max(round(share * math.hypot(*masks.shape[1:])), 1) if share else 0

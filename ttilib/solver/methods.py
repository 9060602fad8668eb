"""A method is a line of text: what it starts from, and what is different about it.

"TTI", "TTI window=5 temporal_weight=0.5", "oracle noise=0.2": tables, files and command lines name methods so. The
first word is one of `BASES`; what follows are settings of the solver (see `SolverConfig`) and of what happens around it
(see `Recipe`) with their values: "none" for None, "layer2+layer3" for several. Two words are neither's: `prior=oracle`
gives the solver the true foreground proportion of every frame, and `noise=0.2` makes it wrong by the given share. As
released, an oracle prior never switches the temporal terms on; ask for them by `temporal_start=9`.

`read_method` reads the text, `prior_of` is the one place where the truth comes near the solver.

What happens around the solver: which features it is given, and what becomes of its probabilities.

A `Recipe` is the part of a method that the solver never sees. `Source` (next door) leads from pictures to the features
that a recipe wants, `finished` from a solution to masks.
"""

from __future__ import annotations

import math
import re
import types
import typing
from dataclasses import dataclass, replace
from typing import Any, Literal

from jaxtyping import Bool, Float
from torch import Tensor

from ttilib.episodes.clips import Clip
from ttilib.files import meant
from ttilib.solver.edges import cut_out, guided_filter
from ttilib.solver.solver import METHODS, Solution, SolverConfig
from ttilib.solver.task import Task, oracle_prior

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


ORACLE = SolverConfig(steps=299, kl_weight=1.0, entropy_weight=0.1, temporal_weight=0.0)
"""RePRI's oracle setting, terms weighted 1, 1 and 0.1; the release writes 300 steps and counts from 1."""

FROZEN = Recipe(centring="pool", guided=0.033, guided_eps=1e-4, cut=0.033)
"""What is done around the solver for an encoder that was never trained; the solver is that of `SolverConfig.frozen`."""

BASES = {
    **{name: (config, Recipe()) for name, config in METHODS.items()},
    "oracle": (ORACLE, Recipe()),
    "frozen": (SolverConfig.frozen(), FROZEN),
}
SOLVER, AROUND = typing.get_type_hints(SolverConfig), typing.get_type_hints(Recipe)
FIELDS = {**SOLVER, **AROUND}
SETTINGS = (*FIELDS, "prior", "noise")
POSITIVE = ("temperature", "window", "guided_eps")  # no other number may be negative, noise excepted


@dataclass(frozen=True)
class Method:
    """How episodes are solved, under one name; `noise` is the relative error of an oracle's prior."""

    name: str
    config: SolverConfig
    oracle: bool = False
    noise: float = 0.0
    recipe: Recipe = Recipe()


def read_method(text: str) -> Method:
    """The method that a text names: a base, then settings as name=value.

    The name is the text with single spaces. Raises ValueError in one sentence for an unknown base or setting (with
    those that are like it), a setting given twice, and a value that the setting cannot have.
    """
    name = " ".join(re.sub(r"\s*=\s*", "=", text).split())
    base, *words = name.split(" ")
    if base not in BASES:
        raise ValueError(f"method {text!r}: there is no method {base!r}; {meant(base, BASES)}")
    given: dict[str, str] = {}
    for word in words:
        field, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"method {name!r}: {word!r} is not a setting; write name=value, such as window=5")
        if field not in SETTINGS:
            raise ValueError(f"method {name!r}: there is no setting {field!r}; {meant(field, SETTINGS)}")
        if field in given:
            raise ValueError(f"method {name!r}: {field} is given twice; give it once")
        given[field] = value
    oracle, noise = _oracle(name, base, given)
    values = {field: _value(name, field, value) for field, value in given.items() if field in FIELDS}
    config, recipe = BASES[base]
    config = replace(config, **{field: value for field, value in values.items() if field in SOLVER})
    recipe = replace(recipe, **{field: value for field, value in values.items() if field in AROUND})
    return Method(name, config, oracle, noise, recipe)


def prior_of(method: Method, task: Task, truth: Bool[Tensor, "T H W"] | None) -> Float[Tensor, " T"] | None:
    """What an oracle knows: the true foreground proportion of every frame, off by `noise`; None for other methods.

    Give the result to `solve(task, method.config, prior)`.
    Raises ValueError naming the episode if there is no truth to know.
    """
    if not method.oracle:
        return None
    if truth is None:
        raise ValueError(f"episode {task.name}: {method.name} needs the truth and there is none; choose another method")
    return oracle_prior(truth, task, method.noise)


def _oracle(name: str, base: str, given: dict[str, str]) -> tuple[bool, float]:
    """Whether the true proportion is known, and how wrong it is made."""
    if given.get("prior", "oracle") != "oracle":
        raise ValueError(f"method {name!r}: prior={given['prior']} is not known; write prior=oracle, or leave it out")
    oracle = base == "oracle" or "prior" in given
    if "noise" in given and not oracle:
        raise ValueError(f"method {name!r}: noise is put on an oracle's prior only; add prior=oracle, or leave it out")
    noise = _number(name, "noise", given.get("noise", "0"))
    if noise < -1:
        raise ValueError(f"method {name!r}: noise={given['noise']} makes proportions negative; give -1 or more")
    return oracle, float(noise)


def _value(name: str, field: str, text: str) -> Any:
    """The value of a setting in the type that the solver has it."""
    if typing.get_origin(FIELDS[field]) is tuple:
        (kind, _) = typing.get_args(FIELDS[field])
        parts = [] if text.lower() == "none" else text.split("+")
        if not all(parts):
            raise ValueError(f"method {name!r}: {field}={text} names nothing beside a +; write such as layer2+layer3")
        return tuple(part if kind is str else _amount(name, field, part) for part in parts)
    kinds = _kinds(FIELDS[field])
    choices = [choice for kind in kinds for choice in typing.get_args(kind)]
    if type(None) in kinds and text.lower() == "none":
        return None
    if choices:
        if text not in choices:
            raise ValueError(f"method {name!r}: {field}={text} is not known; {meant(text, choices)}")
        return text
    return _amount(name, field, text, whole=float not in kinds)


def _amount(name: str, field: str, text: str, whole: bool = False) -> int | float:
    """A number that is not negative."""
    value = _number(name, field, text, whole)
    if value < 0 or (value == 0 and field in POSITIVE):
        least = "a number above 0" if field in POSITIVE else "0 or more"
        raise ValueError(f"method {name!r}: {field}={text} is too small; give {least}")
    return value


def _kinds(hint: Any) -> tuple[Any, ...]:
    """The alternatives of an annotation such as `float | None`."""
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _number(name: str, field: str, text: str, whole: bool = False) -> int | float:
    try:
        value = int(text) if whole else float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        wanted, such = ("a whole number", "3") if whole else ("a number", "0.5")
        raise ValueError(f"method {name!r}: {field}={text} is not {wanted}; give one such as {field}={such}")
    return value

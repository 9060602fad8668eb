"""Settings of a method: of the optimization (`SolverConfig`) and of what is done before and after it (`Recipe`).

A setting is a number, a word out of several, a tuple of names or numbers, or None where its annotation allows that.
The dataclasses call `check` themselves, so that code and text (`read_value`) are refused by the same rules.
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from numbers import Integral, Real
from typing import Any, Literal

from ttilib.files import meant
from ttilib.solver.classifier import BiasStart
from ttilib.solver.losses import BUILT_IN, TERMS, Divisor, Negative

Centring = Literal["none", "pool", "episode"]
WANTED = {
    int: "a whole number; give one such as 3", float: "a number; give one such as 0.5", str: "a name; such as layer2"
}  # fmt: skip


class Kind(typing.NamedTuple):
    """What an annotation allows: values of a type, or of several words; one or a tuple of them; perhaps None."""

    type: Any
    choices: tuple[str, ...]
    many: bool
    optional: bool

    @property
    def simple(self) -> bool:
        """Whether text can say it."""
        return bool(self.choices) or self.type in WANTED


@lru_cache
def kinds(settings: type) -> dict[str, Kind]:
    """What every field of a dataclass allows."""
    return {field: _kind(hint) for field, hint in typing.get_type_hints(settings).items()}


def _kind(hint: Any) -> Kind:
    """As `float`, `int | None`, `Literal["a", "b"] | None` and `tuple[str, ...]` say."""
    parts = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    parts, optional = [part for part in parts if part is not type(None)], type(None) in parts
    one = parts[0] if len(parts) == 1 else object
    inside, origin = typing.get_args(one), typing.get_origin(one)
    choices = inside if origin is typing.Literal else ()
    return Kind(inside[0] if origin is tuple else one, choices, origin is tuple, optional)


def check(settings: Any, positive: Collection[str] = (), signed: Collection[str] = ()) -> None:
    """Refuse what the annotations of a dataclass do not allow, numbers that are not finite, and numbers below 0.

    Those named in `positive` must be above 0, those in `signed` may be below. Raises ValueError naming the field.
    """
    for field, kind in kinds(type(settings)).items():
        value = getattr(settings, field)
        if kind.simple and not (value is None and kind.optional):  # a field of another type checks itself
            for each in value if kind.many else (value,):
                _check_type(field, each, kind)
                number = not kind.choices and kind.type is not str and field not in signed
                if number and (each < 0 or each == 0 and field in positive):
                    least = "a number above 0" if field in positive else "0 or more"
                    raise ValueError(f"{field}={each} is too small; give {least}")


def _check_type(field: str, value: Any, kind: Kind) -> None:
    """Refuse a word that is none of the choices, an empty name, and what is not a finite number or a whole one."""
    if kind.choices:
        if value not in kind.choices:
            raise ValueError(f"{field}={value} is not known; {meant(str(value), kind.choices)}")
        return
    if kind.type is str:
        fits = isinstance(value, str) and value != ""
    else:
        number = isinstance(value, Integral if kind.type is int else Real) and not isinstance(value, bool)
        fits = number and math.isfinite(value)
    if not fits:
        raise ValueError(f"{field}={value} is not {WANTED[kind.type]}")


def read_value(field: str, text: str, kind: Kind) -> Any:
    """The value of a setting as text says it: "none" for None or an empty tuple, "layer2+layer3" for a tuple.

    Raises ValueError for text that is not of this kind; whether a number is in range is for `check` to say.
    """
    if text.lower() == "none" and (kind.optional or kind.many):
        return () if kind.many else None
    if kind.many:
        return tuple(read_value(field, part, kind._replace(many=False)) for part in text.split("+"))
    try:
        value = text if kind.choices else kind.type(text)
    except ValueError:
        value = text
    _check_type(field, value, kind)
    return value


@dataclass(frozen=True)
class SolverConfig:
    """Everything one may change about the optimization. The defaults are TTI as released.

    A weight of None is 1/K. Raises ValueError for values that cannot be. Source: protocol section 5.1.
    """

    temperature: float = 20.0
    bias_start: BiasStart = "query-mean"  # or on the way from the support's background to its foreground
    midpoint: float | None = 0.5  # how far on that way; None: 1/2 - 1/(5K), see classifier.start
    steps: int = 49  # the release writes 50 and counts from 1
    learning_rate: float = 0.025
    ce_weight: float = 1.0
    kl_weight: float | None = None
    entropy_weight: float | None = None
    temporal_weight: float | None = None
    local_weight: float = 1.0  # factors inside the temporal term; the release has neither
    global_weight: float = 1.0
    prior_update: int | None = 9  # the prior becomes the marginal after so many steps; None: never
    kl_boost: float = 1.0  # added to the KL weight when the prior is updated
    temporal_start: int | None = None  # step from which the temporal terms act; None: as released, with the
    #                                    prior update, hence never under an oracle prior
    window: int = 3  # frames over which foreground proportions should agree; the release can only do 3
    divisor: Divisor = "batch"
    negative: Negative = "all"
    keyframe: Literal["support", "global"] | None = None  # what the keyframe is chosen to resemble; None: off
    refine_steps: int = 9  # the release writes 10 and counts from 1
    refine_learning_rate: float = 0.0025
    ring: float = 0.2  # width of the ignored ring around the pseudo-mask, in image diagonals
    added_terms: tuple[str, ...] = ()  # terms of one's own, from losses.TERMS
    added_weights: tuple[float, ...] = ()  # theirs; 1 each if empty

    def __post_init__(self) -> None:
        check(self, positive=("temperature", "window"))
        for name in self.added_terms:
            known = [term for term in TERMS if term not in BUILT_IN]
            if name not in known:
                hint = meant(name, known, "declare it in losses.TERMS first")
                raise ValueError(f"added_terms={name} is not a term of one's own; {hint}")
        if self.added_weights and len(self.added_weights) != len(self.added_terms):
            raise ValueError(f"added_weights={self.added_weights}: give one for each of {self.added_terms}, or none")

    @property
    def added(self) -> dict[str, float]:
        """The weight of every term of one's own."""
        weights = self.added_weights or (1.0,) * len(self.added_terms)
        return dict(zip(self.added_terms, weights, strict=True))

    @classmethod
    def finetune(cls) -> SolverConfig:
        """Cross-entropy on the support only."""
        return cls(kl_weight=0.0, entropy_weight=0.0, temporal_weight=0.0)

    @classmethod
    def repri(cls) -> SolverConfig:
        """RePRI: the support, entropy and the foreground prior, frame by frame."""
        return cls(temporal_weight=0.0)

    @classmethod
    def tti(cls) -> SolverConfig:
        """TTI as released: RePRI and the temporal terms."""
        return cls()

    @classmethod
    def tti_keyframe(cls, criterion: Literal["support", "global"] = "support") -> SolverConfig:
        """TTI, then keyframe refinement."""
        return cls(keyframe=criterion)

    @classmethod
    def frozen(cls) -> SolverConfig:
        """For an encoder that was never trained on base classes: the bias starts from the support, and the temporal
        terms act from the first step. Give it centred features (see `Recipe`)."""
        return cls(bias_start="support-midpoint", midpoint=None, temporal_start=0)

    @classmethod
    def as_written(cls) -> SolverConfig:
        """TTI as the paper's text has it: background-weighted negative term, positive term per video."""
        return cls(divisor="video", negative="background")


CONFIGS = {
    "fine-tune": SolverConfig.finetune(),
    "RePRI": SolverConfig.repri(),
    "TTI": SolverConfig.tti(),
    "TTI+keyframe": SolverConfig.tti_keyframe(),
}


@dataclass(frozen=True)
class Recipe:
    """Everything around the solver that one may change. The defaults are the release: nothing is done.

    `centring`: what is taken off every unit feature: nothing, the encoder's mean over a pool of images, or, where no
    pool is at hand, the mean over the episode's own images. `layers`: submodules whose outputs are joined, with
    `layer_weights` (1 each if empty); none is the encoder's own output.
    `guided`: radius of the guided filter on the probabilities in image diagonals, 0 is none; `guided_eps` its variance.
    `cut`: how far the border of a mask may move to where the colours change, in image diagonals, 0 is none.
    Raises ValueError for values that cannot be.
    """

    centring: Centring = "none"
    layers: tuple[str, ...] = ()
    layer_weights: tuple[float, ...] = ()
    guided: float = 0.0
    guided_eps: float = 1e-3
    cut: float = 0.0

    def __post_init__(self) -> None:
        check(self, positive=("guided_eps",))

    @property
    def features(self) -> tuple[Centring, tuple[str, ...], tuple[float, ...]]:
        """What decides the features: recipes that agree in this share them."""
        return self.centring, self.layers, self.layer_weights

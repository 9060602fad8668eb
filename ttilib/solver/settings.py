"""Settings of a method: of the optimization (`SolverConfig`) and of the processing around it (`PipelineConfig`)."""

from __future__ import annotations

import math
import sys
import types
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any, Literal

from ttilib.files import suggest
from ttilib.solver.classifier import BiasStart
from ttilib.solver.losses import BUILT_IN, TERMS, Divisor, Negative

Centring = Literal["none", "pool", "episode"]
EXPECTED = {
    int: "a whole number; give one such as 3", float: "a number; give one such as 0.5", str: "a name; such as layer2"
}  # fmt: skip
MOST_STEPS = 10_000  # the state before each is kept
LARGEST = 1e6  # weight or rate: larger ones overflow float32 or make the other terms ineffective


class Kind(typing.NamedTuple):
    """What an annotation allows: a type or choices, one value or a tuple (`many`), None (`optional`)."""

    type: Any
    choices: tuple[str, ...]
    many: bool
    optional: bool

    @property
    def simple(self) -> bool:
        """Whether a value can be given as text."""
        return bool(self.choices) or self.type in EXPECTED


def kinds(settings: type) -> dict[str, Kind]:
    """The kind of every field of a dataclass, such as `int | None`, `Literal["a", "b"] | None` or `tuple[str, ...]`."""
    found = {}
    for field, hint in typing.get_type_hints(settings).items():
        parts = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
        alternatives = [part for part in parts if part is not type(None)]
        one = alternatives[0] if len(alternatives) == 1 else object
        inside, origin = typing.get_args(one), typing.get_origin(one)
        many, choices = origin is tuple, inside if origin is Literal else ()
        found[field] = Kind(inside[0] if many else one, choices, many, type(None) in parts)
    return found


def check(
    settings: Any,
    positive: Collection[str] = (),
    signed: Collection[str] = (),
    most: Mapping[str, float] = MappingProxyType({}),
    largest: float = math.inf,
) -> None:
    """Raise ValueError, naming the field, for a value that the annotation forbids, or a number not finite or below 0.
    Fields in `positive` must be above 0; fields in `signed` may be negative; `most` has upper limits, `largest` is that
    of all other numbers with a fraction. Values of other types check themselves.
    """
    for field, kind in kinds(type(settings)).items():
        value = getattr(settings, field)
        if kind.simple and not (value is None and kind.optional or value == "" and kind.type is str):
            for each in value if kind.many else (value,):
                _check_type(field, each, kind)
                if kind.choices or kind.type is str:
                    continue
                if field not in signed and (each < 0 or each == 0 and field in positive):
                    least = "a number above 0" if field in positive else "0 or more"
                    raise ValueError(f"{field}={each} is too small; give {least}")
                if each > (limit := most.get(field, largest if kind.type is float else math.inf)):
                    raise ValueError(f"{field}={each} is too large; give at most {limit:g}")


def _check_type(field: str, value: Any, kind: Kind) -> None:
    """Raise ValueError for an unknown choice, an empty name, or a number not finite or not of the type."""
    if kind.choices:
        if value not in kind.choices:
            raise ValueError(f"{field}={value} is not known; {suggest(str(value), kind.choices)}")
        return
    if kind.type is str:
        fits = isinstance(value, str) and value != ""
    else:
        number = isinstance(value, Integral if kind.type is int else Real) and not isinstance(value, bool)
        exact = value if isinstance(value, int) else float(value) if number else math.nan
        fits = number and abs(exact) <= sys.float_info.max  # isfinite raises for longer integers
    if not fits:
        raise ValueError(f"{field}={value} is not {EXPECTED[kind.type]}")


def read_value(field: str, text: str, kind: Kind) -> Any:
    """Value of a setting from text; "none" is None or (), "a+b" a tuple. Raises ValueError; `check` tests ranges."""
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
    """Settings of the optimization; the defaults are TTI as released. A weight of None is 1/K.
    Raises ValueError for invalid values. Source: docs/protocol.md 5.1.
    """

    temperature: float = 20.0
    bias_start: BiasStart = "query-mean"  # or from the support, see classifier.start
    midpoint: float | None = 0.5  # from background (0) to foreground (1); None: 1/2 - 1/(5K)
    steps: int = 49  # the release is configured for 50 and runs 49 (S1)
    learning_rate: float = 0.025
    ce_weight: float = 1.0
    kl_weight: float | None = None
    entropy_weight: float | None = None
    temporal_weight: float | None = None
    local_weight: float = 1.0  # factors inside the temporal term, not in the release
    global_weight: float = 1.0
    prior_update: int | None = 9  # step at which the prior becomes the marginal; None: never
    kl_boost: float = 1.0  # added to the KL weight when the prior is updated
    temporal_start: int | None = None  # first temporal step; None: prior_update, never for an oracle or without KL
    window: int = 3  # frames of the local term; only 3 in the release
    divisor: Divisor = "batch"  # of the global positive term; "video" as written
    negative: Negative = "all"  # weights of the global negative term; "background" as written
    keyframe: Literal["support", "global"] | None = None  # prototype it should be similar to; None: no refinement
    refine_steps: int = 9  # the release is configured for 10 and runs 9 (S1)
    refine_learning_rate: float = 0.0025
    ring: float = 0.2  # width of the ignored ring around the pseudo-mask, in image diagonals
    vanished_support: Literal["background", "refuse"] = "background"  # no foreground at feature size: all background
    added_terms: tuple[str, ...] = ()  # new terms, from losses.TERMS
    added_weights: tuple[float, ...] = ()  # 1 each if empty

    def __post_init__(self) -> None:
        most = {"steps": MOST_STEPS, "refine_steps": MOST_STEPS, "midpoint": 1, "ring": 1}
        check(self, positive=("temperature", "window"), most=most, largest=LARGEST)
        new = [term for term in TERMS if term not in BUILT_IN]
        for name in self.added_terms:
            if name not in new:
                hint = suggest(name, new, "declare it in losses.TERMS first")
                raise ValueError(f"added_terms={name} is not a new term; {hint}")
        if self.added_weights and len(self.added_weights) != len(self.added_terms):
            raise ValueError(f"added_weights={self.added_weights}: give one for each of {self.added_terms}, or none")

    @property
    def added(self) -> dict[str, float]:
        """Weights of the added terms."""
        weights = self.added_weights or (1.0,) * len(self.added_terms)
        return dict(zip(self.added_terms, weights, strict=True))

    @classmethod
    def frozen(cls) -> SolverConfig:
        """For an encoder without base training: bias from the support, temporal terms from step 0."""
        return cls(bias_start="support-midpoint", midpoint=None, temporal_start=0)


CONFIGS = {
    "fine-tune": SolverConfig(kl_weight=0.0, entropy_weight=0.0, temporal_weight=0.0),  # cross-entropy only
    "RePRI": SolverConfig(temporal_weight=0.0),  # cross-entropy, entropy and foreground prior, frame by frame
    "TTI": SolverConfig(),
    "TTI+keyframe": SolverConfig(keyframe="support"),
}


@dataclass(frozen=True)
class PipelineConfig:
    """Settings of the processing around the solver; by default none, as released. Raises ValueError for invalid values.
    `centring`: subtract from unit features nothing, the encoder's mean over a pool of any images, or the mean over the
    episode's images. `layers`: submodules whose outputs are concatenated, with `layer_weights` (1 each if empty); none
    is the output of the encoder. `guided`: radius of the guided filter, `guided_eps` its variance. `cut`: largest shift
    of a mask's border by GrabCut. Radius and shift are in image diagonals, 0 is off.
    """

    centring: Centring = "none"
    layers: tuple[str, ...] = ()
    layer_weights: tuple[float, ...] = ()
    guided: float = 0.0
    guided_eps: float = 1e-3
    cut: float = 0.0

    def __post_init__(self) -> None:
        check(self, positive=("guided_eps",), most={"guided": 1, "cut": 1}, largest=LARGEST)
        if self.guided_eps < 1e-10:
            raise ValueError(f"guided_eps={self.guided_eps} is too small for float32; give at least 1e-10")

    @property
    def features(self) -> tuple[Centring, tuple[str, ...], tuple[float, ...]]:
        """What determines the features; pipelines equal in it share them."""
        return self.centring, self.layers, self.layer_weights

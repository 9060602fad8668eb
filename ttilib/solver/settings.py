"""Settings of a method: of the optimization (`SolverConfig`) and of the processing around it (`PipelineConfig`)."""

from __future__ import annotations

import typing
from dataclasses import dataclass, is_dataclass, replace
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta

from ttilib.files import suggest
from ttilib.solver.classifier import BiasStart
from ttilib.solver.losses import BUILT_IN, TERMS, Divisor, Negative

Centring = Literal["none", "pool", "episode"]
Step = Annotated[int, Meta(ge=0)]
Steps = Annotated[int, Meta(ge=0, le=10_000)]  # the state before each is kept
Positive = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(ge=0, le=1)]
Weight = Annotated[float, Meta(ge=0, le=1e6)]  # or rate: larger ones overflow float32 or make other terms ineffective
Name = Annotated[str, Meta(min_length=1)]


def field_types(settings: type) -> dict[str, Any]:
    """The declared type of every field of a dataclass, with its range."""
    return typing.get_type_hints(settings, include_extras=True)


def check(settings: Any) -> None:
    """Raise ValueError, naming the field, for a value that its declared type forbids; dataclasses check themselves."""
    for field, kind in field_types(type(settings)).items():
        if not is_dataclass(value := getattr(settings, field)):
            read_value(field, value, kind)


def read_value(field: str, value: Any, kind: Any, text: bool = False) -> Any:
    """The value of a field of type `kind`; with `text`, read from text: "none" is None or (), "a+b" a tuple.
    Raises ValueError, naming the field, for a value of another type or outside its range.
    """
    many, plain = typing.get_origin(kind) is tuple, value.item() if isinstance(value, np.generic) else value
    if text and value.lower() == "none" and (many or type(None) in typing.get_args(kind)):
        return () if many else None
    try:
        return msgspec.convert(value.split("+") if text and many else plain, kind, strict=not text)
    except msgspec.ValidationError as error:
        known = _choices(kind)
        expected = str(error).replace("`", "").removeprefix("Expected ").partition(",")[0].partition(" - at ")[0]
        about = f"is not known; {suggest(str(value), known)}" if known else f"is not possible; give {expected}"
        raise ValueError(f"{field}={value} {about}") from error


def _choices(kind: Any) -> tuple[str, ...]:
    """The values of a Literal, also inside a union."""
    parts = typing.get_args(kind)
    return parts if typing.get_origin(kind) is Literal else tuple(name for part in parts for name in _choices(part))


@dataclass(frozen=True)
class SolverConfig:
    """Settings of the optimization; the defaults are TTI as released. A weight of None is 1/K.
    Raises ValueError for invalid values. Source: docs/protocol.md 5.1.
    """

    temperature: Annotated[float, Meta(gt=0, le=1e6)] = 20.0
    bias_start: BiasStart = "query-mean"  # or between support and query, see classifier.start
    midpoint: Share | None = 0.5  # from background (0) to foreground (1); None: 1/2 - 1/(10K)
    steps: Steps = 49  # the release is configured for 50 and runs 49 (S1)
    learning_rate: Weight = 0.025
    ce_weight: Weight = 1.0
    kl_weight: Weight | None = None
    entropy_weight: Weight | None = None
    temporal_weight: Weight | None = None
    local_weight: Weight = 1.0  # factors inside the temporal term, not in the release
    global_weight: Weight = 1.0
    prior_update: Step | None = 9  # step at which the prior becomes the marginal; None: never
    kl_boost: Weight = 1.0  # added to the KL weight when the prior is updated
    temporal_start: Step | None = None  # first temporal step; None: prior_update, never for an oracle or without KL
    window: Positive = 3  # frames of the local term; only 3 in the release
    divisor: Divisor = "batch"  # of the global positive term; "video" as written
    negative: Negative = "all"  # weights of the global negative term; "background" as written
    keyframe: Literal["support", "global"] | None = None  # prototype it should be similar to; None: no refinement
    refine_steps: Steps = 9  # the release is configured for 10 and runs 9 (S1)
    refine_learning_rate: Weight = 0.0025
    ring: Share = 0.2  # width of the ignored ring around the pseudo-mask, in image diagonals
    vanished_support: Literal["background", "refuse"] = "background"  # no foreground at feature size: all background
    added_terms: tuple[Name, ...] = ()  # new terms, from losses.TERMS
    added_weights: tuple[Weight, ...] = ()  # 1 each if empty

    def __post_init__(self) -> None:
        check(self)
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

    @property
    def unrefined(self) -> SolverConfig:
        """Without keyframe refinement; configurations equal in it share the optimization."""
        plain = SolverConfig()
        rate, ring = plain.refine_learning_rate, plain.ring
        return replace(self, keyframe=None, refine_steps=plain.refine_steps, refine_learning_rate=rate, ring=ring)

    @classmethod
    def frozen(cls) -> SolverConfig:
        """For an encoder without base training: bias between the support's background and the best cells of the video,
        temporal terms from step 0.
        """
        return cls(bias_start="query-top", midpoint=None, temporal_start=0)


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
    is the output of the encoder. `scale` enlarges the images before the encoder, for a finer grid of features.
    `guided`: radius of the guided filter, `guided_eps` its variance. `cut`: largest shift of a mask's border by colour
    models. Radius and shift are in image diagonals, 0 is off.
    """

    centring: Centring = "none"
    layers: tuple[Name, ...] = ()
    layer_weights: tuple[Weight, ...] = ()
    scale: Annotated[float, Meta(ge=0.25, le=4)] = 1.0
    guided: Share = 0.0
    guided_eps: Annotated[float, Meta(ge=1e-10, le=1e6)] = 1e-3  # smaller ones are lost in float32
    cut: Share = 0.0

    def __post_init__(self) -> None:
        check(self)

    @property
    def features(self) -> tuple[Centring, tuple[str, ...], tuple[float, ...], float]:
        """What determines the features; pipelines equal in it share them."""
        return self.centring, self.layers, self.layer_weights, self.scale

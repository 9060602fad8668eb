"""Methods: from a clip to masks. A method text names one, such as "TTI window=5" or "oracle noise=0.2".

The first word is a key of `METHODS`, the others are settings: fields of its dataclass and of those inside it
(`SolverConfig`, `PipelineConfig`). A new method is a class with name, pipeline and `predict`, entered in `METHODS`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

from jaxtyping import Bool
from msgspec import Meta
from torch import Tensor

from ttilib.episodes.clips import Clip
from ttilib.files import suggest
from ttilib.solver.edges import colour_refine, guided_filter
from ttilib.solver.extraction import FeatureExtractor
from ttilib.solver.settings import CONFIGS, PipelineConfig, SolverConfig, check, field_types, read_value
from ttilib.solver.solver import Solution, refine_solution, solve
from ttilib.solver.task import oracle_prior


@dataclass(frozen=True)
class Prediction:
    """Masks at the clip's size, on the CPU, and the solver's solution if there is one."""

    masks: Bool[Tensor, "T H W"]
    solution: Solution | None = None


@runtime_checkable
class Method(Protocol):
    """A named algorithm; `pipeline` determines which features it needs. Methods with the same features share them."""

    @property
    def name(self) -> str:
        """The method text."""

    @property
    def pipeline(self) -> PipelineConfig:
        """Processing before and after the algorithm."""

    def predict(
        self, clip: Clip, extractor: FeatureExtractor, ground_truth: Bool[Tensor, "T H W"] | None = None
    ) -> Prediction:
        """The masks, from the features `extractor.task(clip, self.pipeline)`; `ground_truth` is for oracles only."""


@dataclass(frozen=True)
class TransductiveMethod:
    """The solver with its configuration, and the processing before and after it.
    `prior` "oracle": the true foreground proportion per frame, times 1 + `noise`; as released, temporal terms then stay
    off, unless `temporal_start` is set. Raises ValueError.
    """

    name: str
    config: SolverConfig = SolverConfig()
    pipeline: PipelineConfig = PipelineConfig()
    prior: Literal["oracle"] | None = None
    noise: Annotated[float, Meta(ge=-1, le=1e6)] = 0.0

    def __post_init__(self) -> None:
        check(self)
        if self.noise and not self.prior:
            raise ValueError("noise applies to an oracle's prior only; add prior=oracle, or leave it out")

    @cached_property
    def optimization(self) -> tuple:
        """What determines `optimize`; methods equal in it share its solution."""
        return self.pipeline.features, self.config.unrefined, self.prior, self.noise

    def predict(
        self, clip: Clip, extractor: FeatureExtractor, ground_truth: Bool[Tensor, "T H W"] | None = None
    ) -> Prediction:
        """The masks and the solution. Raises as `optimize` does."""
        return self.finish(self.optimize(clip, extractor, ground_truth), clip, extractor)

    def optimize(
        self, clip: Clip, extractor: FeatureExtractor, ground_truth: Bool[Tensor, "T H W"] | None = None
    ) -> Solution:
        """The solution before keyframe refinement. Raises ValueError naming the episode if an oracle has no ground
        truth; FloatingPointError naming method and episode if the optimization runs into infinity or NaN.
        """
        if self.prior and ground_truth is None:
            about = f"{self.name} needs the ground truth, which this clip does not have"
            raise ValueError(f"episode {clip.name}: {about}; choose another method")
        task = extractor.task(clip, self.pipeline)
        prior = oracle_prior(ground_truth, task, self.noise) if self.prior and ground_truth is not None else None
        with self._named():
            return solve(task, self.config.unrefined, prior)

    def finish(self, solution: Solution, clip: Clip, extractor: FeatureExtractor) -> Prediction:
        """The masks and the solution after keyframe refinement, from that of `optimize`. Raises FloatingPointError."""
        with self._named():
            solution = refine_solution(extractor.task(clip, self.pipeline), solution, self.config)
        return Prediction(refine_masks(solution, clip, self.pipeline).cpu(), solution)

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except FloatingPointError as error:
            raise FloatingPointError(f"method {self.name!r}: {error}") from error


def refine_masks(solution: Solution, clip: Clip, pipeline: PipelineConfig) -> Bool[Tensor, "T H W"]:
    """The masks of a solution at the clip's size, after guided filter and colour models, radii in image diagonals."""
    p, fractions = solution.probabilities(), (pipeline.guided, pipeline.cut)
    diagonal = math.hypot(*p.shape[1:])
    radius, band = (max(round(fraction * diagonal), 1) if fraction else 0 for fraction in fractions)
    if radius:
        p = guided_filter(p, clip.query, radius, pipeline.guided_eps)
    return colour_refine(p, clip.query, band, pipeline.guided_eps) if band else p > 0.5


def check_means(means: Path | str, methods: Sequence[Method]) -> None:
    """Raise ValueError if there is a file `means` and none of the methods subtracts a mean that it could hold."""
    if means and not any(method.pipeline.centring == "pool" for method in methods):
        names = ", ".join(method.name for method in methods)
        raise ValueError(f"{means}: no mean is subtracted by {names}; leave the file out, or add centring=pool")


ORACLE = SolverConfig(steps=299, kl_weight=1.0, entropy_weight=0.1, temporal_weight=0.0)
"""RePRI's oracle setting, weights 1, 1 and 0.1; the release is configured for 300 steps and runs 299."""

FROZEN = PipelineConfig(centring="pool", scale=1.5, guided=0.033, guided_eps=1e-4, cut=0.033)
"""Processing around the solver for an encoder without base training; see `SolverConfig.frozen` for the solver."""

METHODS: dict[str, Method] = {
    **{name: TransductiveMethod(name, config) for name, config in CONFIGS.items()},
    "oracle": TransductiveMethod("oracle", ORACLE, prior="oracle"),
    "frozen": TransductiveMethod("frozen", SolverConfig.frozen(), FROZEN),
}
"""All methods by name. Add one by `METHODS["mine"] = Mine("mine")`."""


def read_method(text: str) -> Method:
    """The method of a method text: a key of `METHODS`, then settings as name=value.
    Its name is the text with single spaces. Raises ValueError in one sentence for an unknown method or setting (with
    similar names), a setting given twice, or an invalid value.
    """
    name = " ".join(re.sub(r"\s*=\s*", "=", text).split())
    base, *words = name.split(" ")
    if base not in METHODS:
        raise ValueError(f"method {text!r}: there is no method {base!r}; {suggest(base, METHODS)}")
    try:
        settings = _read_settings(words, settings_of(METHODS[base]))
        return _replace(METHODS[base], settings | {"name": name}) if words else METHODS[base]
    except ValueError as error:
        raise ValueError(f"method {name!r}: {error}") from error


def _read_settings(words: list[str], known: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for word in words:
        field, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"{word!r} is not a setting; write name=value, such as window=5")
        if field not in known:
            raise ValueError(f"there is no setting {field!r}; {suggest(field, known)}")
        if field in found:
            raise ValueError(f"{field} is given twice; give it once")
        found[field] = read_value(field, value, known[field], text=True)
    return found


def settings_of(method: Any) -> dict[str, Any]:
    """Type of every setting of a method by name: the fields of its dataclass and of those inside it, except its name,
    whose values can be given as text.
    """
    found: dict[str, Any] = {}
    for field in fields(method) if is_dataclass(method) else ():
        value = getattr(method, field.name)
        if is_dataclass(value):
            found |= settings_of(value)
        elif field.name != "name" and (value is None or isinstance(value, int | float | str | tuple)):
            found[field.name] = field_types(type(method))[field.name]
    return found


def _replace(method: Any, values: dict[str, Any]) -> Any:
    """The dataclass with these fields replaced, also in the dataclasses inside it."""
    inside = {field.name: getattr(method, field.name) for field in fields(method)}
    nested = {name: _replace(value, values) for name, value in inside.items() if is_dataclass(value)}
    return replace(method, **nested, **{name: value for name, value in values.items() if name in inside})

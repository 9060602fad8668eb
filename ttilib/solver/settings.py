"""Settings of a method: the annotated fields of frozen dataclasses, checked when made and read from text.

A setting is a number, a word out of several, a tuple of names or numbers, or None where its annotation allows that.
The dataclasses call `check` themselves, so that code and text are refused by the same rules.
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Collection
from functools import lru_cache
from numbers import Integral, Real
from typing import Any

from ttilib.files import meant

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

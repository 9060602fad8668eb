"""Settings are checked by their annotations, in code and in text, in one sentence that names the field."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pytest

from ttilib.solver.settings import Name, SolverConfig, check, field_types, read_value


def test_added_terms_are_known_and_have_a_weight_each():
    for wrong in {"added_terms": ("ce",), "added_weights": (1.0,)}, {"added_weights": (1.0,)}, {"window": 0}:
        with pytest.raises(ValueError, match=list(wrong)[0]):
            SolverConfig(**wrong)


@dataclass
class Anything:
    """Settings of every kind; not one of the library's, whose types the tests check beforehand."""

    whole: int = 0
    number: float | None = None
    word: Literal["video", "batch"] = "video"
    names: tuple[Name, ...] = ()


def test_values_of_another_type_are_refused_in_code_and_in_text():
    check(Anything(np.int64(3), np.float32(2), "batch", ("a",)))
    for field, value in (("whole", 2.5), ("whole", True), ("number", "2"), ("word", "vidio"), ("names", (1,))):
        with pytest.raises(ValueError, match=f"{field}="):
            check(Anything(**{field: value}))
    kind = field_types(Anything)
    for field, text, value in (("number", "None", None), ("names", "none", ()), ("number", "1e-3", 0.001),
                               ("names", "a+b.1", ("a", "b.1"))):  # fmt: skip
        assert read_value(field, text, kind[field], text=True) == value
    for field, text in (("whole", "2.5"), ("whole", "none"), ("names", "a+"), ("number", "")):
        with pytest.raises(ValueError, match=f"{field}="):
            read_value(field, text, kind[field], text=True)

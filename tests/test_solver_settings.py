"""Settings are checked by their annotations, in code and in text, in one sentence that names the field."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pytest

from ttilib.solver.settings import Name, PipelineConfig, SolverConfig, check, field_types, read_value


@pytest.mark.parametrize(
    ("config", "wrong", "word"),
    [
        (SolverConfig, {"window": 0}, "window=0 .*int >= 1"),
        (SolverConfig, {"entropy_weight": 1e9}, "entropy_weight=1000000000.0 .*<= 1000000"),
        (PipelineConfig, {"layer_weights": (0.7, -1.0)}, "layer_weights=.*-1.0"),
        (SolverConfig, {"added_terms": ("ce",)}, "added_terms=ce .*losses.TERMS"),
        (SolverConfig, {"added_weights": (1.0,)}, "added_weights"),
    ],
)
def test_values_out_of_range_are_refused(config, wrong, word):
    with pytest.raises(ValueError, match=word):
        config(**wrong)


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

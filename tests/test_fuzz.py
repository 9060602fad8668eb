"""Damaged files of every format are read well, or refused in one sentence; `python tests/fuzz.py` tries thousands."""

import fuzz
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


@pytest.mark.parametrize("name", fuzz.FORMATS)
@settings(max_examples=8, suppress_health_check=list(HealthCheck))
@given(number=st.integers(0, 10**6))
def test_a_damaged_file_is_one_sentence(name, number):
    assert fuzz.run_case(name, number) in ("accepted", "refused")

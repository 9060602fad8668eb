"""A mistyped name is answered with those like it, or with all there are."""

import pytest

from ttilib.files import suggest

TABLES = ("mini", "ytvis-v1", "ytvis-v2", "pascal2davis", "TTI")


@pytest.mark.parametrize(
    ("word", "answer"),
    [
        ("mimi", "did you mean mini?"),
        ("ytvis-v3", "did you mean ytvis-v2 or ytvis-v1?"),
        ("tti", "did you mean TTI?"),
        ("MINI", "did you mean mini?"),
        ("zzz", "choose one of mini, ytvis-v1, ytvis-v2, pascal2davis, TTI"),
        ("", "choose one of mini, ytvis-v1, ytvis-v2, pascal2davis, TTI"),
    ],
)
def test_what_was_meant(word, answer):
    assert suggest(word, TABLES) == answer


def test_as_many_as_asked_for_and_something_else_to_say():
    assert suggest("ytvis-v3", iter(TABLES), most=1) == "did you mean ytvis-v2?"
    assert suggest("zzz", TABLES, "give an address") == "give an address"

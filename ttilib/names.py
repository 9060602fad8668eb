"""Names that people mistype: which of those that are known was meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def meant(word: str, known: Iterable[object], otherwise: str = "", most: int = 3) -> str:
    """What to say about a name that is not known: "did you mean a or b?" if some are like it, at most so many.

    A name that differs in capitals only is the one that was meant. If none is like it, `otherwise`, or all there are.
    """
    names = [str(name) for name in known]
    same = [name for name in names if name.lower() == word.lower()]
    near = (same or get_close_matches(word, names, n=most, cutoff=0.5))[:most]
    return f"did you mean {' or '.join(near)}?" if near else otherwise or f"choose one of {', '.join(names)}"

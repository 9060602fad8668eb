"""Whether a frame list is the published one, and if not, where it begins to differ and what that means.

Of a published list its line count, its sequences, its first two lines and the md5 of its text may be known; a
released copy of it may be at hand. `judge` compares a list with all of that and says in one sentence what differs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import Any

PUBLISHED, UNKNOWN = "as published", "not published"

MEANINGS = {
    "sequences": "whole sequences are missing or too many: complete the folder, and see that it is the edition and the "
    "choice of videos that docs/data.md names",
    "fewer": "something is missing, or masks show less than the released ones: complete the folder, in the edition "
    "that docs/data.md names",
    "more": "there is more than the release had: take away what does not belong there, or use the edition that "
    "docs/data.md names",
    "content": "names or their order differ: use the edition that docs/data.md names, with its own id lists",
}
"""What a difference means, and what to do about it."""


def list_text(lines: Sequence[str]) -> str:
    """The lines as the release writes them: Unix line ends, the last line ended too."""
    return "".join(f"{line}\n" for line in lines)


def list_md5(lines: Sequence[str]) -> str:
    """The md5 of the list's text, by which the published lists are known."""
    return hashlib.md5(list_text(lines).encode(), usedforsecurity=False).hexdigest()


def count_sequences(lines: Sequence[str]) -> int | None:
    """How many sequences the masks of a list are of; None for a list of stills."""
    if lines and "/mask/" not in lines[0]:
        return None
    return len({line.partition("/mask/")[0].split("/")[-1].split(" ")[-1] for line in lines})


def first_difference(lines: Sequence[str], released: Sequence[str], name: str = "the released list") -> str:
    """Where a list first differs from a released one, as half a sentence; empty if they are the same."""
    for place, (found, due) in enumerate(zip_longest(lines, released), start=1):
        if found is None:
            return f"the list ends before line {place}, which is {due!r} in {name}"
        if due is None:
            return f"line {place} is {found!r}, where {name} has ended"
        if found != due:
            return f"line {place} is {found!r}, in {name} {due!r}"
    return ""


def judge(
    name: str, lines: Sequence[str], facts: Mapping[str, Any] | None, released: Sequence[str] | None = None
) -> tuple[str, str]:
    """What a list is, in two or three words, and the sentence of complaint about it, empty if it is as it should be.

    `facts`: what is published of it ("lines", "sequences", "md5", "first"); without "md5" among them the order of the
    lines counts for nothing; None or empty if nothing is published. `released`: a copy to compare with.
    """
    facts = facts or {}
    found = {"lines": len(lines), "sequences": count_sequences(lines), "md5": list_md5(lines)}
    wrong = [key for key in ("lines", "sequences", "md5") if key in facts and facts[key] != found[key]]
    ordered = "md5" in facts or not facts
    if released is None:
        where = ""
    elif ordered:
        where = first_difference(lines, released)
    elif where := first_difference(sorted(lines), sorted(released)):
        where = f"once both are sorted, {where}"
    if not wrong and not where:
        known = PUBLISHED if "md5" in facts else f"{facts['lines']} lines {PUBLISHED}" if "lines" in facts else UNKNOWN
        return known if released is None else f"{known}, like the released copy", ""
    counts = [f"{found[key]} {key} instead of {facts[key]}" for key in wrong if key != "md5"]
    about = " and ".join(counts) or ("as many lines but other content" if wrong else "not like the released copy")
    if not where and released is None:
        where = first_difference(lines[:2], facts.get("first", lines[:2]), "the published list")
        where = where or "its first two lines are as published; a released copy would show the first that is not"
    where = where or "it is like the released copy given, which is not the published one"
    return f"differs: {about}", f"{name}: {about}; {where}; {MEANINGS[_kind(found, facts, wrong, released)]}"


def _kind(
    found: Mapping[str, Any], facts: Mapping[str, Any], wrong: Collection[str], released: Sequence[str] | None
) -> str:
    """Which of the meanings a difference has."""
    if "sequences" in wrong:
        return "sequences"
    due = facts["lines"] if "lines" in facts else len(released) if released is not None else found["lines"]
    return "fewer" if found["lines"] < due else "more" if found["lines"] > due else "content"


def read_released(against: Path | str | None, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The released copies of the lists of these names: a file, or what a folder has of them under the same names.

    A folder may be that of the released code (pascal/train.txt) or hold the lists side by side (train.txt).

    Raises FileNotFoundError if there is no such file or none of the lists in the folder, ValueError if a file is
    called like none of several lists.
    """
    if against is None:
        return {}
    against, last = Path(against), {name: PurePosixPath(name).name for name in names}
    if against.is_dir():
        places = {name: [path for path in (against / name, against / last[name]) if path.is_file()] for name in names}
        copies = {name: _lines(paths[0]) for name, paths in places.items() if paths}
        if not copies:
            about = f"none of {', '.join(names) or 'no lists'} in it"
            raise FileNotFoundError(f"{against}: {about}; give the folder of the released lists")
        return copies
    if not against.is_file():
        raise FileNotFoundError(f"{against}: no such file or folder; give a released list, or a folder of them")
    chosen = names if len(names) == 1 else [name for name in names if last[name] == against.name]
    if not chosen:
        raise ValueError(f"{against}: which list is it? call it like one of {', '.join(sorted(set(last.values())))}")
    return {chosen[0]: _lines(against)}


def _lines(path: Path) -> tuple[str, ...]:
    try:
        return tuple(path.read_text(encoding="utf-8-sig").splitlines())
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text (byte {error.start}); give a released list") from error

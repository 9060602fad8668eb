"""The frame lists of the release, made again from the data and compared with the published ones.

The library reads annotations and needs no lists. But the published numbers were made with lists, and whoever makes
the same lists has the same data: line counts and md5 are known ("expected" in lists/*.json), so that a missing
sequence, another edition or a moved file shows before anything is computed.

`frame_lists` makes the lists of a benchmark, `check_lists` compares them, `write_lists` does both and writes them,
with the pixels per label of every mask, from which later scans start. A data folder with a lists.json of its own is
not the original data; its lists are compared with nothing. Source: protocol section 7 and appendix A.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ttilib.audit.listings import Listing, list_corpus
from ttilib.audit.published import count_sequences, judge, list_md5, list_text, read_released
from ttilib.corpora.census import Counts, census, write_census
from ttilib.corpora.corpus import Names, OnError, once, stop
from ttilib.corpora.instances import make_masks
from ttilib.data.benchmarks import benchmark, find_roots
from ttilib.files import write_text

UNCOMPARED, CENSUS = "not compared", "census.json"
PAINTED = {"coco": "first", "coco-full": "full"}
"""Corpora whose masks have to be made, and the rule by which."""

TOLD = 10
"""So many files that cannot be used are named one by one."""


@dataclass(frozen=True)
class FrameList:
    """One list: its released name, its size, its md5, and how it compares with the published one."""

    name: str
    lines: int
    sequences: int | None
    md5: str
    verdict: str


@dataclass(frozen=True)
class ListReport:
    """What became of a benchmark's lists: `facts` and `complaints` are sentences, `written` the files written."""

    benchmark: str
    lists: tuple[FrameList, ...]
    facts: tuple[str, ...]
    complaints: tuple[str, ...]
    written: tuple[Path, ...]

    @property
    def ok(self) -> bool:
        """Whether there is nothing to complain about."""
        return not self.complaints

    def text(self) -> str:
        """The report as lines to read: a row per list, then the sentences."""
        head = [("list", "lines", "sequences", "md5", "")] if self.lists else []
        rows = head + [(f.name, str(f.lines), str(f.sequences or "-"), f.md5, f.verdict) for f in self.lists]
        wide = max((len(row[0]) for row in rows), default=0)
        table = [f"{name:{wide}}  {n:>6} {m:>9}  {md5:32}  {said}".rstrip() for name, n, m, md5, said in rows]
        told = [f"- {complaint}" for complaint in self.complaints]
        written = [f"written: {path}" for path in self.written] or ["nothing was written"]
        return "\n".join([f"frame lists of {self.benchmark}", *table, *self.facts, *told, *written])


def frame_lists(
    name: str,
    root: Path | str,
    fold: int | None = None,
    on_error: OnError = stop,
    workers: int = 1,
    support_root: Path | str | None = None,
) -> dict[str, Names]:
    """The frame lists of a benchmark with the lines of the release, by their names there (pascal/train.txt).

    `fold`: only the lists of one fold. `workers`: processes to count masks in. A file that cannot be used is told
    to `on_error` and left out.
    """
    made = _listings(name, _roots(name, root, support_root), fold, on_error, workers)
    return {entry: lines for listing in made.values() for entry, lines in listing.lists.items()}


def check_lists(
    lists: Mapping[str, Sequence[str]], expected: Mapping[str, Any], against: Path | str | None = None
) -> list[str]:
    """A sentence for every list that is not as published: what differs, the first differing line, what it means.

    `expected`: by a list's name what is published of it, see lists/README.md. `against`: a released list or a folder
    of them; without one, only the first two lines of a published list are known.
    """
    released = read_released(against, list(lists))
    said = [judge(name, lines, expected.get(name), released.get(name))[1] for name, lines in lists.items()]
    return [complaint for complaint in said if complaint]


def write_lists(
    name: str,
    root: Path | str,
    out: Path | str | None = None,
    fold: int | None = None,
    against: Path | str | None = None,
    keep_going: bool = False,
    on_error: OnError | None = None,
    workers: int = 1,
    support_root: Path | str | None = None,
) -> ListReport:
    """Make the lists of a benchmark, compare them, and write them if they are as published.

    They go to `out` under their released names, or without it to the folder lists/ of each corpus. There the pixel
    counts of all masks go as well, in a census.json from which scans start, and the masks of COCO are painted.
    `keep_going`: write lists that differ. Files that cannot be used are complaints, unless `on_error` is told of them.

    Raises ValueError or FileNotFoundError if the folder cannot be written to, before the long work begins.
    """
    roots = _roots(name, root, support_root)
    places = {corpus: folder / "lists" if out is None else Path(out) for corpus, folder in roots.items()}
    for place in places.values():
        _check_place(place)
    errors: list[Exception] = []
    tell = on_error or errors.append
    made = _listings(name, roots, fold, tell, workers)
    lists, complaints = _compare(made.values(), against)
    written = []
    if keep_going or not complaints + errors:
        for corpus, listing in made.items():
            for entry, lines in listing.lists.items():
                path = places[corpus] / (PurePosixPath(entry).name if out is None else entry)
                written.append(_write(path, list_text(lines)))
            if corpus in PAINTED:
                make_masks(roots[corpus], PAINTED[corpus], tell, workers)
        written += _keep_counts(made, roots, places, tell, workers)
    facts = tuple(fact for listing in made.values() for fact in listing.facts)
    return ListReport(name, lists, facts, (*complaints, *_first(errors)), tuple(written))


def _roots(name: str, root: Path | str, support_root: Path | str | None) -> dict[str, Path]:
    """The folders of a benchmark's corpora, the support's first."""
    plan = benchmark(name)
    query_root, lender = find_roots(plan, root, support_root)
    return {plan.support: lender, plan.query: query_root}


def _listings(
    name: str, roots: Mapping[str, Path], fold: int | None, on_error: OnError, workers: int
) -> dict[str, Listing]:
    lender, tell = roots[benchmark(name).support], once(on_error)
    return {corpus: list_corpus(corpus, folder, fold, tell, workers, lender) for corpus, folder in roots.items()}


def _compare(made: Iterable[Listing], against: Path | str | None) -> tuple[tuple[FrameList, ...], list[str]]:
    """The lists and how they compare, and all that is to be complained of."""
    made = list(made)
    released = read_released(against, [name for listing in made for name in listing.lists])
    lists, complaints = [], [complaint for listing in made for complaint in listing.complaints]
    for listing in made:
        for name, lines in listing.lists.items():
            verdict, complaint = judge(name, lines, listing.published.get(name), released.get(name))
            said = verdict if listing.original or name in released else UNCOMPARED
            lists.append(FrameList(name, len(lines), count_sequences(lines), list_md5(lines), said))
            complaints += [complaint] if complaint else []
    return tuple(lists), complaints


def _first(errors: Sequence[Exception]) -> list[str]:
    """The first files that cannot be used, and how many more there are."""
    more = f"{len(errors) - TOLD} more files cannot be used; the doctor names them all"
    return [str(error) for error in errors[:TOLD]] + ([more] if len(errors) > TOLD else [])


def _check_place(folder: Path) -> None:
    """Whether a folder can be written to is asked before hours of counting, not after."""
    if not folder.parent.is_dir():
        raise FileNotFoundError(f"{folder}: there is no folder {folder.parent} to put it in; make that first")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: is a file, not a folder; give another folder for the lists")
    if not os.access(folder if folder.is_dir() else folder.parent, os.W_OK | os.X_OK):
        raise ValueError(f"{folder}: cannot be written to; give another folder for the lists")


def _write(path: Path, text: str) -> Path:
    try:
        write_text(path, text)
    except OSError as error:
        raise ValueError(f"{path}: cannot be written ({error}); give another folder for the lists") from error
    return path


def _keep_counts(
    made: Mapping[str, Listing], roots: Mapping[str, Path], places: Mapping[str, Path], on_error: OnError, workers: int
) -> list[Path]:
    """Count what is not counted yet, and keep all counts beside the lists."""
    kept: dict[Path, dict[Path, Counts]] = {}
    for corpus, listing in made.items():
        counts = census(listing.masks, on_error, workers, roots[corpus] / "lists" / CENSUS, listing.colours)
        if counts:
            kept.setdefault(places[corpus] / CENSUS, {}).update(counts)
    for path, counts in kept.items():
        write_census(path, counts)
    return list(kept)

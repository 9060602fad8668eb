"""Draws: what may be asked of a fold, and support for it by lot.

A draw is a class, its support frames and its query frames. `stills`, `sequences`, `beginnings` and `pairs` go through
what a fold can be asked about; the order of draws of the released code is in `released`.

`draw_alone` is another way, under which a draw depends on nothing but itself. The release draws from one stream of
numbers, so that a single missing video changes every episode after it. Here lots are cast instead: a lot is a number
made of seed, run, query and candidate, and the candidates with the lowest lots are taken. Another video changes only
the draws that it gets into, another class or another order none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt64

from ttilib.corpora.corpus import Names, OnError, stop
from ttilib.data.lists import Fold
from ttilib.files import digest

MIXING = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1))
"""Shifts and factors of SplitMix64, under which numbers that differ in one bit become unrelated."""


class Draw(NamedTuple):
    """Class id in the query corpus, support frames, query frames; the batch of its run, if batches matter."""

    number: int
    support: Names
    query: Names
    batch: int | None = None

    @property
    def video(self) -> str:
        """The query video."""
        return self.query[0].split("/")[0]


def enough(fold: Fold, number: int, found: int, needed: int, on_error: OnError = stop) -> bool:
    """Whether a class can be drawn from as many videos as an episode needs; if not, an error names it."""
    if found < needed:
        on_error(
            ValueError(
                f"{fold.corpus} fold {fold.index}: class {number} {fold.names[number]} can be drawn from {found} "
                f"videos, but {needed} are needed; ask for fewer shots"
            )
        )
    return found >= needed


def shared_classes(support_fold: Fold, query_fold: Fold) -> dict[int, int]:
    """Novel classes of the same name in two folds: id in the query corpus -> id in the support corpus."""
    ids = {support_fold.names[number]: number for number in support_fold.novel}
    return {c: ids[query_fold.names[c]] for c in query_fold.novel if query_fold.names[c] in ids}


def stills(fold: Fold) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Stills to be asked about, with all novel classes in each, ascending."""
    if fold.shown:
        yield from fold.shown.items()
        return
    for still in fold.frames:
        if here := tuple(number for number in sorted(fold.novel) if still in fold.presence[number]):
            yield still, here


def sequences(fold: Fold) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Videos to be asked about, with their novel classes in order of first appearance, then of id."""
    for video, frames in fold.frames.items():
        order = {frame: place for place, frame in enumerate(frames)}
        first = {c: fold.presence[c].get(video, ()) for c in fold.novel}
        if here := sorted((order[seen[0]], number) for number, seen in first.items() if seen):
            yield video, tuple(number for _, number in here)


def beginnings(fold: Fold, ids: Iterable[int]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Videos to be asked about frame by frame, with those of the classes that their first frame shows, ascending."""
    for video, frames in fold.frames.items():
        if here := tuple(number for number in sorted(ids) if frames[0] in fold.presence[number].get(video, ())):
            yield video, here


def pairs(fold: Fold, ids: Iterable[int]) -> Iterator[tuple[str, int, Names]]:
    """Videos and each of the classes in them, with the frames to be asked about.

    That is the whole video, except for ytvis, where frames without the class have no outlines to score.
    """
    for video, frames in fold.frames.items():
        for number in ids:
            if seen := fold.presence[number].get(video, ()):
                yield video, number, seen if fold.corpus == "ytvis" else frames


def draw_alone(
    how: str,
    query_fold: Fold,
    support_fold: Fold,
    shots: int,
    seed: int = 2020,
    run: int = 0,
    on_error: OnError = stop,
) -> Iterator[Draw]:
    """One draw per query: its class, if it shows several, and one frame each of `shots` other videos of the class."""
    whole = query_fold is support_fold
    ids = {number: number for number in query_fold.novel} if whole else shared_classes(support_fold, query_fold)
    pools = {number: tuple(support_fold.presence[ids[number]]) for number in ids}
    codes = {number: _codes(pool) for number, pool in pools.items()}
    for video, classes, frames, turn in _asked(how, query_fold, ids):
        place = (seed, run, query_fold.corpus, video, turn)
        number = classes[_lowest(_codes(classes), 1, *place)[0]]
        own = support_fold.corpus == query_fold.corpus and video in support_fold.presence[ids[number]]
        if not enough(support_fold, ids[number], len(pools[number]) - own, shots, on_error):
            continue
        chosen = [pools[number][n] for n in _lowest(codes[number], shots + own, *place, number)]
        others = [other for other in chosen if not (own and other == video)][:shots]
        seen = support_fold.presence[ids[number]]
        yield Draw(number, tuple(_one(seen[other], *place, number, other) for other in others), frames)


def _asked(how: str, fold: Fold, ids: Iterable[int]) -> Iterator[tuple[str, tuple[int, ...], Names, int]]:
    """Videos, the classes to choose from, the frames asked about, and how often the video was asked before."""
    if how in ("v1", "v2"):
        yield from ((v, (c,), seen, 0) for c in ids for v, seen in fold.presence[c].items())
    elif how == "stills":
        yield from ((still, here, fold.frames[still], 0) for still, here in stills(fold))
    elif how == "sequences":
        yield from ((v, here, fold.frames[v], turn) for turn in range(fold.repeats) for v, here in sequences(fold))
    elif how == "frames":
        yield from ((video, here, fold.frames[video], 0) for video, here in beginnings(fold, ids))
    else:
        yield from ((video, (number,), frames, 0) for video, number, frames in pairs(fold, ids))


def _codes(names: Sequence[str | int]) -> UInt64[np.ndarray, " n"]:
    return np.array([int(digest(name), 16) for name in names], dtype=np.uint64)


def _lowest(codes: UInt64[np.ndarray, " n"], count: int, *key: str | int) -> list[int]:
    """Places of the candidates with the `count` lowest lots, lowest first."""
    lots = codes ^ np.uint64(int(digest(*key), 16))
    for shift, factor in MIXING:
        lots = (lots ^ (lots >> np.uint64(shift))) * np.uint64(factor)
    lowest = np.argpartition(lots, count - 1)[:count]
    return lowest[np.argsort(lots[lowest])].tolist()


def _one(frames: Names, *key: str | int) -> str:
    return frames[int(digest(*key), 16) % len(frames)]

"""The order of draws: how the released code picks supports and queries, number by number.

Which support and query frames come out depends on every random number taken before, so the throw-away numbers of
the release are taken here as well. Python's generator and NumPy's legacy one are both made here; nothing touches a
global one.

`draw_ytvis`, `draw_stills`, `draw_sequences`, `draw_cross` and `FrameDraws` each give one pass over a fold, and
`passes` finds the one of a benchmark; `one_run` makes the runs of the released drivers of passes, `gathered` puts
frames together again. A class with too few videos is told to `on_error`, and what would need it is left out if that
returns.

Draws: what may be asked of a fold, and support for it by lot.

A draw is a class, its support frames and its query frames. `stills`, `sequences`, `beginnings` and `pairs` go through
what a fold can be asked about; the order of draws of the released code is in `released`.

`draw_alone` is another way, under which a draw depends on nothing but itself. The release draws from one stream of
numbers, so that a single missing video changes every episode after it. Here lots are cast instead: a lot is a number
made of seed, run, query and candidate, and the candidates with the lowest lots are taken. Another video changes only
the draws that it gets into, another class or another order none.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby, islice
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt64

from ttilib.datasets.base import Names, OnError, stop
from ttilib.datasets.catalog import Fold
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


Pass = Callable[[], Iterator[Draw]]


def passes(
    how: str, query_fold: Fold, support_fold: Fold, shots: int, seed: int = 2020, on_error: OnError = stop
) -> Pass:
    """Calling it draws a pass over the folds; further passes go on in the same stream of random numbers.

    `how`: "v1", "v2" (ytvis), "stills", "sequences" (one fold each), "frames", "cross" (stills support videos).
    """
    rng, legacy = random.Random(seed), np.random.RandomState(seed)
    if how in ("v1", "v2"):
        return partial(draw_ytvis, query_fold, shots, rng, how, on_error)
    if how == "stills":
        return partial(draw_stills, query_fold, shots, rng, legacy, on_error)
    if how == "sequences":
        return partial(draw_sequences, query_fold, shots, legacy, on_error)
    if how == "frames":
        return partial(FrameDraws(query_fold, support_fold, shots, rng, legacy).one_pass, on_error)
    return partial(draw_cross, support_fold, query_fold, shots, rng, on_error)


def draw_ytvis(fold: Fold, shots: int, rng: random.Random, protocol: str, on_error: OnError = stop) -> Iterator[Draw]:
    """Draws in order: support videos, a frame of each, [v2: query video], one frame that goes unused."""
    for number in fold.novel:
        seen = fold.presence[number]
        videos = list(seen)
        if not enough(fold, number, len(videos), shots + 1, on_error):
            continue
        for turn in range(len(videos) - shots):
            if turn == 0 or protocol == "v2":
                chosen = rng.sample(videos, shots)
                support = tuple(rng.sample(seen[video], 1)[0] for video in chosen)
                rest = [video for video in videos if video not in chosen]
            query = rng.choice(rest) if protocol == "v2" else rest[turn]
            rng.sample(seen[query], 1)  # unused by the release too, but it moves the stream on
            yield Draw(number, support, seen[query])


def draw_stills(
    fold: Fold, shots: int, rng: random.Random, legacy: np.random.RandomState, on_error: OnError = stop
) -> Iterator[Draw]:
    """Draws per still: its class, among all that it shows; then its support, another still of the class per shot."""
    pools = {number: tuple(fold.presence[number]) for number in fold.novel}
    for still, here in stills(fold):
        number = here[legacy.choice(len(here))]
        others = len(pools[number]) - (still in fold.presence[number])
        if enough(fold, number, others, shots, on_error):
            yield Draw(number, _distinct(pools[number], shots, rng, still), fold.frames[still])


def _distinct(pool: Names, shots: int, rng: random.Random, query: str | None = None) -> Names:
    """Per shot one unused number, then numbers until a still comes up that is new and not the query."""
    support: list[str] = []
    for _ in range(shots):
        rng.randint(1, len(pool))  # thrown away, as in the release
        while (drawn := pool[rng.randint(1, len(pool)) - 1]) == query or drawn in support:
            pass
        support.append(drawn)
    return tuple(support)


def draw_sequences(fold: Fold, shots: int, legacy: np.random.RandomState, on_error: OnError = stop) -> Iterator[Draw]:
    """Draws per video: its class; per shot another video of the class (perhaps again), then a frame of it."""
    for video, here in tuple(sequences(fold)) * fold.repeats:
        number = here[legacy.choice(len(here))]
        seen = fold.presence[number]
        others = [other for other in seen if other != video]
        if not enough(fold, number, len(others), 1, on_error):
            continue
        support = []
        for _ in range(shots):
            frames = seen[others[legacy.choice(len(others))]]
            support.append(frames[legacy.randint(0, len(frames))])
        yield Draw(number, tuple(support), fold.frames[video])


class FrameDraws:
    """Draws frame by frame: whenever a frame is of another video than the one before, its class and support.

    What was drawn last stays from one pass to the next, as in the release: there a list of one video is drawn
    for only once.
    """

    def __init__(
        self, query_fold: Fold, support_fold: Fold, shots: int, rng: random.Random, legacy: np.random.RandomState
    ) -> None:
        self.query_fold, self.support_fold, self.shots = query_fold, support_fold, shots
        self.rng, self.legacy = rng, legacy
        self.ids = shared_classes(support_fold, query_fold)
        self.video: str | None = None
        self.last: tuple[int, Names] | None = None

    def one_pass(self, on_error: OnError = stop) -> Iterator[Draw]:
        """One draw per frame, in list order."""
        for video, here in beginnings(self.query_fold, self.ids):
            if video != self.video:
                self.video, self.last = video, self._draw(here, on_error)
            if self.last is not None:
                yield from (Draw(*self.last, (frame,)) for frame in self.query_fold.frames[video])

    def _draw(self, here: tuple[int, ...], on_error: OnError) -> tuple[int, Names] | None:
        number = here[self.legacy.choice(len(here))]
        pool = tuple(self.support_fold.presence[self.ids[number]])
        if not enough(self.support_fold, self.ids[number], len(pool), self.shots, on_error):
            return None
        return number, _distinct(pool, self.shots, self.rng)


def draw_cross(
    support_fold: Fold, query_fold: Fold, shots: int, rng: random.Random, on_error: OnError = stop
) -> Iterator[Draw]:
    """Draws per video and novel class in it: support videos, then a frame of each; matched by class name."""
    ids = shared_classes(support_fold, query_fold)
    same = support_fold.corpus == query_fold.corpus
    for video, number, frames in pairs(query_fold, ids):
        pool = support_fold.presence[ids[number]]
        others = [other for other in pool if not (same and other == video)]
        if enough(support_fold, ids[number], len(others), shots, on_error):
            support = tuple(rng.choice(pool[other]) for other in rng.sample(others, shots))
            yield Draw(number, support, frames)


def one_run(one_pass: Pass, run: int, per_run: int | None = None) -> Iterator[Draw]:
    """The draws of run number `run`: its pass, or its `per_run` draws of passes that follow one another without end.

    Earlier runs are drawn too: later ones go on where they stopped.
    """
    if per_run is None:
        for _ in range(run):
            deque(one_pass(), maxlen=0)
        return one_pass()
    return islice(_endless(one_pass), run * per_run, (run + 1) * per_run)


def _endless(one_pass: Pass) -> Iterator[Draw]:
    drawn: Draw | None
    while (drawn := next(current := one_pass(), None)) is not None:  # a pass without draws would go on for ever
        yield drawn
        yield from current


def gathered(frames: Iterable[Draw], batch: int) -> Iterator[Draw]:
    """Draws of single frames, put together wherever neighbours are of one video and one batch."""
    for (number, _), group in groupby(enumerate(frames), lambda item: (item[0] // batch, item[1].video)):
        first, *rest = (draw for _, draw in group)
        yield Draw(first.number, first.support, first.query + tuple(d.query[0] for d in rest), number)

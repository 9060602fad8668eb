"""The order of draws: how the released code picks supports and queries, number by number.

Which support and query frames come out depends on every random number taken before, so the throw-away numbers of
the release are taken here as well. Python's generator and NumPy's legacy one are both made here; nothing touches a
global one.

`draw_ytvis`, `draw_stills`, `draw_sequences`, `draw_cross` and `FrameDraws` each give one pass over a fold, and
`passes` finds the one of a benchmark; `one_run` makes the runs of the released drivers of passes, `gathered` puts
frames together again. A class with too few videos is told to `on_error`, and what would need it is left out if that
returns.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import groupby, islice

import numpy as np

from ttilib.corpora.corpus import Names, OnError, stop
from ttilib.data.draws import Draw, beginnings, enough, pairs, sequences, shared_classes, stills
from ttilib.data.lists import Fold

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

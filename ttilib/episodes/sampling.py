"""Sampling of episodes from a fold, with the random numbers of the release or independently of each other.

The release uses `random` and NumPy's legacy generator with seed 2020. Every number it takes matters, so unused ones are
taken here too, from local generators. `sample_independent` uses hashes of seed, run, query and candidate: a missing
video changes only episodes that would use it. If `on_error` returns for a class with too few videos, it is left out.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby, islice
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt64

from ttilib.datasets.base import Names, OnError, stop
from ttilib.datasets.catalog import Fold
from ttilib.files import digest

MIXING = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1))
"""Shifts and factors of the SplitMix64 mixing function."""


class Draw(NamedTuple):
    """A sample: class id in the query dataset, support frames, query frames, and the batch if the release has one."""

    number: int
    support: Names
    query: Names
    batch: int | None = None

    @property
    def video(self) -> str:
        """The query video."""
        return self.query[0].split("/")[0]


EpisodeStream = Callable[[], Iterator[Draw]]


def has_enough_videos(fold: Fold, number: int, found: int, needed: int, on_error: OnError = stop) -> bool:
    """Whether a class has the videos that an episode needs; if not, an error names the class."""
    if found < needed:
        about = f"class {number} {fold.names[number]} can be drawn from {found} videos, but {needed} are needed"
        on_error(ValueError(f"{fold.corpus} fold {fold.index}: {about}; ask for fewer shots"))
    return found >= needed


def shared_classes(support_fold: Fold, query_fold: Fold) -> dict[int, int]:
    """Novel classes of the same name in two folds: id in the query dataset to id in the support dataset."""
    ids = {support_fold.names[number]: number for number in support_fold.novel}
    return {c: ids[query_fold.names[c]] for c in query_fold.novel if query_fold.names[c] in ids}


def stills(fold: Fold) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Query images with the novel classes in each, ascending."""
    if fold.shown:
        yield from fold.shown.items()
        return
    for still in fold.frames:
        if here := tuple(number for number in sorted(fold.novel) if still in fold.presence[number]):
            yield still, here


def sequences(fold: Fold) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Query videos with their novel classes in order of first appearance, then of id."""
    for video, frames in fold.frames.items():
        first = {c: fold.presence[c].get(video, ()) for c in fold.novel}
        if here := sorted((frames.index(seen[0]), number) for number, seen in first.items() if seen):
            yield video, tuple(number for _, number in here)


def first_frames(fold: Fold, ids: Iterable[int]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Query videos with those of the classes that their first frame contains, ascending."""
    for video, frames in fold.frames.items():
        if here := tuple(number for number in sorted(ids) if frames[0] in fold.presence[number].get(video, ())):
            yield video, here


def pairs(fold: Fold, ids: Iterable[int]) -> Iterator[tuple[str, int, Names]]:
    """Video, class and query frames for each class in a video: all frames, in ytvis only those with the class."""
    for video, frames in fold.frames.items():
        for number in ids:
            if seen := fold.presence[number].get(video, ()):
                yield video, number, seen if fold.corpus == "ytvis" else frames


def sample_independent(
    how: str,
    query_fold: Fold,
    support_fold: Fold,
    shots: int,
    seed: int = 2020,
    run: int = 0,
    on_error: OnError = stop,
) -> Iterator[Draw]:
    """One episode per query: a class in it, a frame of each of the `shots` other videos with the lowest hashes."""
    same = query_fold is support_fold
    ids = {number: number for number in query_fold.novel} if same else shared_classes(support_fold, query_fold)
    codes = {number: _codes(support_fold.presence[ids[number]]) for number in ids}
    for video, classes, frames, turn in _queries(how, query_fold, ids):
        key = (seed, run, query_fold.corpus, video, turn)
        number = classes[_lowest(_codes(classes), 1, *key)[0]]
        seen = support_fold.presence[ids[number]]
        pool, own = tuple(seen), support_fold.corpus == query_fold.corpus and video in seen
        if has_enough_videos(support_fold, ids[number], len(pool) - own, shots, on_error):
            chosen = [pool[place] for place in _lowest(codes[number], shots + own, *key, number)]
            others = [other for other in chosen if not (own and other == video)][:shots]
            picks = {other: int(digest(*key, number, other), 16) % len(seen[other]) for other in others}
            yield Draw(number, tuple(seen[other][picks[other]] for other in others), frames)


def _queries(how: str, fold: Fold, ids: Iterable[int]) -> Iterator[tuple[str, tuple[int, ...], Names, int]]:
    """Query videos, their candidate classes, the query frames, and how often the video was a query before."""
    if how in ("v1", "v2"):
        yield from ((v, (c,), seen, 0) for c in ids for v, seen in fold.presence[c].items())
    elif how == "stills":
        yield from ((still, here, fold.frames[still], 0) for still, here in stills(fold))
    elif how == "sequences":
        yield from ((v, here, fold.frames[v], turn) for turn in range(fold.repeats) for v, here in sequences(fold))
    elif how == "frames":
        yield from ((video, here, fold.frames[video], 0) for video, here in first_frames(fold, ids))
    else:
        yield from ((video, (number,), frames, 0) for video, number, frames in pairs(fold, ids))


def _codes(names: Iterable[str | int]) -> UInt64[np.ndarray, " n"]:
    return np.array([int(digest(name), 16) for name in names], dtype=np.uint64)


def _lowest(codes: UInt64[np.ndarray, " n"], count: int, *key: str | int) -> list[int]:
    """Indices of the candidates with the `count` lowest random numbers, lowest first."""
    lots = codes ^ np.uint64(int(digest(*key), 16))
    for shift, factor in MIXING:
        lots = (lots ^ (lots >> np.uint64(shift))) * np.uint64(factor)
    lowest = np.argpartition(lots, count - 1)[:count]
    return lowest[np.argsort(lots[lowest])].tolist()


def passes(
    how: str, query_fold: Fold, support_fold: Fold, shots: int, seed: int = 2020, on_error: OnError = stop
) -> EpisodeStream:
    """A function that samples an epoch; later calls continue. `how`: v1, v2, stills, sequences, frames or cross."""
    released = _Released(query_fold, support_fold, shots, seed, on_error)
    kinds = {
        "v1": released.ytvis_v1,
        "v2": released.ytvis_v2,
        "stills": released.stills,
        "sequences": released.sequences,
        "frames": released.single_frames,
        "cross": released.cross,
    }
    return kinds[how]


class _Released:
    """The released samplers for two folds; `last_video` persists between epochs, as in the release."""

    def __init__(self, query_fold: Fold, support_fold: Fold, shots: int, seed: int, on_error: OnError) -> None:
        self.query_fold, self.support_fold, self.shots, self.on_error = query_fold, support_fold, shots, on_error
        self.rng, self.legacy = random.Random(seed), np.random.RandomState(seed)
        self.ids = shared_classes(support_fold, query_fold)
        self.last_video: str | None = None
        self.last: tuple[int, Names] | None = None

    def ytvis_v1(self, anew: bool = False) -> Iterator[Draw]:
        """Per class (`anew`: per episode): support videos, a frame of each; per query video: one unused frame."""
        fold, rng = self.query_fold, self.rng
        for number in fold.novel:
            seen = fold.presence[number]
            videos = list(seen)
            if not has_enough_videos(fold, number, len(videos), self.shots + 1, self.on_error):
                continue
            for turn in range(len(videos) - self.shots):
                if turn == 0 or anew:
                    chosen = rng.sample(videos, self.shots)
                    support = tuple(rng.sample(seen[video], 1)[0] for video in chosen)
                    rest = [video for video in videos if video not in chosen]
                query = rng.choice(rest) if anew else rest[turn]
                rng.sample(seen[query], 1)  # unused by the release too, but it advances the generator
                yield Draw(number, support, seen[query])

    def ytvis_v2(self) -> Iterator[Draw]:
        """Per episode: support videos, a frame of each, the query video, one unused frame."""
        return self.ytvis_v1(anew=True)

    def stills(self) -> Iterator[Draw]:
        """Per image: one of its classes; per shot: another image of the class."""
        fold = self.query_fold
        pools = {number: tuple(fold.presence[number]) for number in fold.novel}
        for still, here in stills(fold):
            number = here[self.legacy.choice(len(here))]
            others = len(pools[number]) - (still in fold.presence[number])
            if has_enough_videos(fold, number, others, self.shots, self.on_error):
                yield Draw(number, self._distinct(pools[number], still), fold.frames[still])

    def sequences(self) -> Iterator[Draw]:
        """Per video: one of its classes; per shot: another video of the class, with replacement, and a frame."""
        fold, legacy = self.query_fold, self.legacy
        for video, here in tuple(sequences(fold)) * fold.repeats:
            number = here[legacy.choice(len(here))]
            seen = fold.presence[number]
            others = [other for other in seen if other != video]
            if not has_enough_videos(fold, number, len(others), 1, self.on_error):
                continue
            support = []
            for _ in range(self.shots):
                frames = seen[others[legacy.choice(len(others))]]
                support.append(frames[legacy.randint(0, len(frames))])
            yield Draw(number, tuple(support), fold.frames[video])

    def single_frames(self) -> Iterator[Draw]:
        """Per frame; if its video differs from the last: one of the classes, then the support."""
        for video, here in first_frames(self.query_fold, self.ids):
            if video != self.last_video:
                self.last_video, self.last = video, None
                number = here[self.legacy.choice(len(here))]
                pool = tuple(self.support_fold.presence[self.ids[number]])
                if has_enough_videos(self.support_fold, self.ids[number], len(pool), self.shots, self.on_error):
                    self.last = number, self._distinct(pool)
            if self.last is not None:
                yield from (Draw(*self.last, (frame,)) for frame in self.query_fold.frames[video])

    def cross(self) -> Iterator[Draw]:
        """Per video and novel class in it: support videos, then a frame of each; classes are matched by name."""
        same = self.support_fold.corpus == self.query_fold.corpus
        for video, number, frames in pairs(self.query_fold, self.ids):
            pool = self.support_fold.presence[self.ids[number]]
            others = [other for other in pool if not (same and other == video)]
            if has_enough_videos(self.support_fold, self.ids[number], len(others), self.shots, self.on_error):
                chosen = self.rng.sample(others, self.shots)
                yield Draw(number, tuple(self.rng.choice(pool[other]) for other in chosen), frames)

    def _distinct(self, pool: Names, query: str | None = None) -> Names:
        """Per shot one unused number, then images until one is new and not the query."""
        support: list[str] = []
        for _ in range(self.shots):
            self.rng.randint(1, len(pool))  # unused by the release too
            while (drawn := pool[self.rng.randint(1, len(pool)) - 1]) == query or drawn in support:
                continue
            support.append(drawn)
        return tuple(support)


def one_run(one_pass: EpisodeStream, run: int, per_run: int | None = None) -> Iterator[Draw]:
    """Samples of a run: one epoch, or `per_run` samples of repeated epochs; earlier runs advance the random stream."""
    if per_run is None:
        for _ in range(run):
            deque(one_pass(), maxlen=0)
        return one_pass()
    return islice(_endless(one_pass), run * per_run, (run + 1) * per_run)


def _endless(one_pass: EpisodeStream) -> Iterator[Draw]:
    drawn: Draw | None
    while (drawn := next(current := one_pass(), None)) is not None:  # an empty epoch would repeat forever
        yield drawn
        yield from current


def group_into_batches(frames: Iterable[Draw], batch: int) -> Iterator[Draw]:
    """Join samples of single frames that are neighbours in one video and one batch of `batch` frames."""
    for (number, _), group in groupby(enumerate(frames), lambda item: (item[0] // batch, item[1].video)):
        first, *rest = (draw for _, draw in group)
        yield Draw(first.number, first.support, first.query + tuple(d.query[0] for d in rest), number)

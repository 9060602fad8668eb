"""Sampling of episodes from a fold, with the random numbers of the release or independently of each other.

Every number that the release takes from its generators matters, so unused ones are taken here too. `on_error` gets a
class with too few videos; if it returns, the class is left out. Source: docs/protocol.md 1.1 to 1.5.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import groupby, islice
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt64

from ttilib.datasets.base import Names, OnError, raise_first
from ttilib.datasets.catalog import Fold
from ttilib.files import digest


class Sample(NamedTuple):
    """One episode: class id in the query dataset, support frames, query frames, and the batch, if any."""

    number: int
    support: Names
    query: Names
    batch: int | None = None

    @property
    def video(self) -> str:
        """The query video."""
        return self.query[0].split("/")[0]


LIMITS = {"shots": (1, 1000), "run": (0, 999), "seed": (0, 2**32 - 1)}  # a run is sampled after all before it


def check_request(**request: int) -> None:
    """Raise ValueError if shots, run or seed are out of range."""
    for name, value in request.items():
        least, most = LIMITS[name]
        if not least <= value <= most:
            raise ValueError(f"{name} is {value}; ask for {least} to {most}")


EpisodeStream = Callable[[], Iterator[Sample]]


def has_enough_videos(fold: Fold, number: int, found: int, needed: int, on_error: OnError) -> bool:
    """Whether a class has the videos that an episode needs; if not, an error names the class."""
    if found < needed:
        about = f"class {number} {fold.names[number]} can be sampled from {found} videos, but {needed} are needed"
        on_error(ValueError(f"{fold.corpus} fold {fold.index}: {about}; ask for fewer shots"))
    return found >= needed


def shared_classes(support_fold: Fold, query_fold: Fold) -> dict[int, int]:
    """Novel classes of the same name in two folds: id in the query dataset to id in the support dataset."""
    if support_fold is query_fold:
        return {number: number for number in query_fold.novel}
    ids = {support_fold.names[number]: number for number in support_fold.novel}
    return {c: ids[query_fold.names[c]] for c in query_fold.novel if query_fold.names[c] in ids}


def query_videos(fold: Fold) -> Iterator[tuple[str, tuple[int, ...]]]:
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
    how: str, query_fold: Fold, support_fold: Fold, shots: int, seed: int, run: int, on_error: OnError
) -> Iterator[Sample]:
    """One episode per query: a class in it, a frame of each of the `shots` other videos with the lowest hashes."""
    ids = shared_classes(support_fold, query_fold)
    codes = {number: _codes(support_fold.presence[ids[number]]) for number in ids}
    for video, classes, frames, turn in _queries(how, query_fold, ids):
        key = (seed, run, query_fold.corpus, video, turn)
        number = classes[_lowest(_codes(classes), 1, *key)[0]]
        seen = support_fold.presence[ids[number]]
        pool, own = tuple(seen), video in seen
        if has_enough_videos(support_fold, ids[number], len(pool) - own, shots, on_error):
            chosen = [pool[index] for index in _lowest(codes[number], shots + own, *key, number)]
            others = [other for other in chosen if not (own and other == video)][:shots]
            picks = {other: int(digest(*key, number, other), 16) % len(seen[other]) for other in others}
            yield Sample(number, tuple(seen[other][picks[other]] for other in others), frames)


def _queries(how: str, fold: Fold, ids: Iterable[int]) -> Iterator[tuple[str, tuple[int, ...], Names, int]]:
    """Query videos, their candidate classes, the query frames, and how often the video was a query before."""
    if how in ("v1", "v2"):
        yield from ((v, (c,), seen, 0) for c in ids for v, seen in fold.presence[c].items())
    elif how == "stills":
        yield from ((image, here, fold.frames[image], 0) for image, here in fold.shown.items())
    elif how == "sequences":
        yield from ((v, here, fold.frames[v], turn) for turn in range(fold.repeats) for v, here in query_videos(fold))
    elif how == "frames":
        yield from ((video, here, fold.frames[video], 0) for video, here in first_frames(fold, ids))
    else:
        yield from ((video, (number,), frames, 0) for video, number, frames in pairs(fold, ids))


def _codes(names: Iterable[str | int]) -> UInt64[np.ndarray, " n"]:
    return np.array([int(digest(name), 16) for name in names], dtype=np.uint64)


def _lowest(codes: UInt64[np.ndarray, " n"], count: int, *key: str | int) -> list[int]:
    """Indices of the candidates with the `count` lowest random numbers, lowest first."""
    hashes = codes ^ np.uint64(int(digest(*key), 16))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):  # SplitMix64
        hashes = (hashes ^ (hashes >> np.uint64(shift))) * np.uint64(factor)
    lowest = np.argpartition(hashes, count - 1)[:count]
    return lowest[np.argsort(hashes[lowest])].tolist()


def sampler(
    how: str, query_fold: Fold, support_fold: Fold, shots: int, seed: int = 2020, on_error: OnError = raise_first
) -> EpisodeStream:
    """A function that samples an epoch; later calls continue. `how`: v1, v2, stills, sequences, frames or cross."""
    released = _Released(query_fold, support_fold, shots, seed, on_error)
    streams: dict[str, EpisodeStream] = {
        "v1": released.ytvis, "v2": partial(released.ytvis, anew=True), "stills": released.images,
        "sequences": released.videos, "frames": released.frames, "cross": released.cross,
    }  # fmt: skip
    return streams[how]


class _Released:
    """The released samplers for two folds; `last_video` persists between epochs, as in the release."""

    def __init__(self, query_fold: Fold, support_fold: Fold, shots: int, seed: int, on_error: OnError) -> None:
        self.query_fold, self.support_fold, self.shots, self.on_error = query_fold, support_fold, shots, on_error
        self.rng, self.legacy = random.Random(seed), np.random.RandomState(seed)
        self.ids = shared_classes(support_fold, query_fold)
        self.last_video: str | None = None
        self.last: tuple[int, Names] | None = None

    def ytvis(self, anew: bool = False) -> Iterator[Sample]:
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
                yield Sample(number, support, seen[query])

    def images(self) -> Iterator[Sample]:
        """Per image: one of its classes; per shot: another image of the class."""
        fold = self.query_fold
        pools = {number: tuple(fold.presence[number]) for number in fold.novel}
        for image, here in fold.shown.items():
            number = here[self.legacy.choice(len(here))]
            others = len(pools[number]) - (image in fold.presence[number])
            if has_enough_videos(fold, number, others, self.shots, self.on_error):
                yield Sample(number, self._distinct(pools[number], image), fold.frames[image])

    def videos(self) -> Iterator[Sample]:
        """Per video: one of its classes; per shot: another video of the class, with replacement, and a frame."""
        fold, legacy = self.query_fold, self.legacy
        for video, here in tuple(query_videos(fold)) * fold.repeats:
            number = here[legacy.choice(len(here))]
            seen = fold.presence[number]
            others = [other for other in seen if other != video]
            if not has_enough_videos(fold, number, len(others), 1, self.on_error):
                continue
            support = []
            for _ in range(self.shots):
                frames = seen[others[legacy.choice(len(others))]]
                support.append(frames[legacy.randint(0, len(frames))])
            yield Sample(number, tuple(support), fold.frames[video])

    def frames(self) -> Iterator[Sample]:
        """Per frame; if its video differs from the last: one of the classes, then the support."""
        for video, here in first_frames(self.query_fold, self.ids):
            if video != self.last_video:
                self.last_video, self.last = video, None
                number = here[self.legacy.choice(len(here))]
                pool = tuple(self.support_fold.presence[self.ids[number]])
                if has_enough_videos(self.support_fold, self.ids[number], len(pool), self.shots, self.on_error):
                    self.last = number, self._distinct(pool)
            if self.last is not None:
                yield from (Sample(*self.last, (frame,)) for frame in self.query_fold.frames[video])

    def cross(self) -> Iterator[Sample]:
        """Per video and novel class in it: support videos, then a frame of each; classes are matched by name."""
        for video, number, frames in pairs(self.query_fold, self.ids):
            pool = self.support_fold.presence[self.ids[number]]
            others = [other for other in pool if other != video]
            if has_enough_videos(self.support_fold, self.ids[number], len(others), self.shots, self.on_error):
                chosen = self.rng.sample(others, self.shots)
                yield Sample(number, tuple(self.rng.choice(pool[other]) for other in chosen), frames)

    def _distinct(self, pool: Names, query: str | None = None) -> Names:
        """Per shot one unused number, then images until one is new and not the query."""
        support: list[str] = []
        for _ in range(self.shots):
            self.rng.randint(1, len(pool))  # unused by the release too
            while (image := pool[self.rng.randint(1, len(pool)) - 1]) == query or image in support:
                continue
            support.append(image)
        return tuple(support)


def samples_of_run(epoch: EpisodeStream, run: int, per_run: int | None = None) -> Iterator[Sample]:
    """Samples of a run: one epoch, or `per_run` samples of repeated epochs; earlier runs advance the random stream."""
    if per_run is None:
        for _ in range(run):
            deque(epoch(), maxlen=0)
        return epoch()
    return islice(_repeated(epoch), run * per_run, (run + 1) * per_run)


def _repeated(epoch: EpisodeStream) -> Iterator[Sample]:
    sample: Sample | None
    while (sample := next(current := epoch(), None)) is not None:  # an empty epoch would repeat forever
        yield sample
        yield from current


def group_into_batches(frames: Iterable[Sample], batch: int) -> Iterator[Sample]:
    """Join samples of single frames that are neighbours in one video and one batch of `batch` frames."""
    for (number, _), group in groupby(enumerate(frames), lambda item: (item[0] // batch, item[1].video)):
        first, *rest = (sample for _, sample in group)
        yield Sample(first.number, first.support, first.query + tuple(sample.query[0] for sample in rest), number)

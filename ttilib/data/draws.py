"""The order of draws: how the released code picks supports and queries, number by number.

A draw is a class, its support frames and its query frames. Which of them come out depends on every random
number taken before, so the throw-away numbers of the release are taken here as well. Python's generator and
NumPy's legacy one are both passed in by the caller; nothing here touches a global one.

`draw_ytvis`, `draw_pascal`, `draw_vspw` each give the draws of one run over a fold, `draw_cross` pairs the
videos of one corpus with support from another.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np

from ttilib.data.lists import Fold

Draw = tuple[int, tuple[str, ...], tuple[str, ...]]
"""Class id in the query corpus, support frames, query frames."""


def enough(fold: Fold, number: int, found: int, needed: int) -> None:
    """Check that a class can be drawn from as many videos as an episode needs; the error names it."""
    if found < needed:
        raise ValueError(
            f"{fold.corpus} fold {fold.index}: class {number} {fold.names[number]} can be drawn from {found} "
            f"videos, but {needed} are needed; ask for fewer shots"
        )


def draw_ytvis(fold: Fold, shots: int, rng: random.Random, protocol: str) -> Iterator[Draw]:
    """Draws in order: support videos, a frame of each, [v2: query video], one frame that goes unused."""
    for number in fold.novel:
        seen = fold.presence[number]
        videos = list(seen)
        enough(fold, number, len(videos), shots + 1)
        for turn in range(len(videos) - shots):
            if turn == 0 or protocol == "v2":
                chosen = rng.sample(videos, shots)
                support = tuple(rng.sample(seen[video], 1)[0] for video in chosen)
                rest = [video for video in videos if video not in chosen]
            query = rng.choice(rest) if protocol == "v2" else rest[turn]
            rng.sample(seen[query], 1)  # unused by the release too, but it moves the stream on
            yield number, support, seen[query]


def draw_pascal(fold: Fold, shots: int, rng: random.Random, legacy: np.random.RandomState) -> Iterator[Draw]:
    """Draws per still: its class; per shot one unused number, then numbers until a new still comes up."""
    for still, query in fold.frames.items():
        here = [number for number in fold.novel if still in fold.presence[number]]
        if not here:
            continue
        number = here[legacy.choice(len(here))]
        pool = list(fold.presence[number])
        enough(fold, number, len(pool), shots + 1)
        support: list[str] = []
        for _ in range(shots):
            rng.randint(1, len(pool))  # thrown away, as in the release
            while (drawn := pool[rng.randint(1, len(pool)) - 1]) == still or drawn in support:
                pass
            support.append(drawn)
        yield number, tuple(support), query


def draw_vspw(fold: Fold, shots: int, legacy: np.random.RandomState) -> Iterator[Draw]:
    """Draws per video: its class; per shot another video of the class (perhaps again), then a frame of it."""
    for video in _vspw_videos(fold) * fold.repeats:
        number = _draw_class(fold, video, legacy)
        seen = fold.presence[number]
        others = [other for other in seen if other != video]
        enough(fold, number, len(others), 1)
        support = []
        for _ in range(shots):
            frames = seen[others[legacy.choice(len(others))]]
            support.append(frames[legacy.randint(0, len(frames))])
        yield number, tuple(support), fold.frames[video]


def _vspw_videos(fold: Fold) -> list[str]:
    return [video for video in fold.frames if any(video in fold.presence[number] for number in fold.novel)]


def _draw_class(fold: Fold, video: str, legacy: np.random.RandomState) -> int:
    """One of the novel classes of a video, which stand in order of first appearance, then of id."""
    order = {frame: place for place, frame in enumerate(fold.frames[video])}
    first = {c: fold.presence[c].get(video, ()) for c in fold.novel}
    here = sorted((order[frames[0]], number) for number, frames in first.items() if frames)
    return here[legacy.choice(len(here))][1]


def draw_cross(support_fold: Fold, query_fold: Fold, shots: int, rng: random.Random) -> Iterator[Draw]:
    """Draws per video and novel class in it: support videos, then a frame of each; matched by class name."""
    ids = shared_classes(support_fold, query_fold)
    for video, frames in query_fold.frames.items():
        for number in ids:
            seen = query_fold.presence[number].get(video, ())
            if not seen:
                continue
            pool = support_fold.presence[ids[number]]
            same = support_fold.corpus == query_fold.corpus
            others = [other for other in pool if not (same and other == video)]
            enough(support_fold, ids[number], len(others), shots)
            support = tuple(rng.choice(pool[other]) for other in rng.sample(others, shots))
            yield number, support, seen if query_fold.corpus == "ytvis" else frames


def shared_classes(support_fold: Fold, query_fold: Fold) -> dict[int, int]:
    """Novel classes of the same name in two folds: id in the query corpus -> id in the support corpus."""
    ids = {support_fold.names[number]: number for number in support_fold.novel}
    return {c: ids[query_fold.names[c]] for c in query_fold.novel if query_fold.names[c] in ids}

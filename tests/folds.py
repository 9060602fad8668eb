"""Folds without files: names only, small enough to follow by hand."""

from ttilib.datasets.catalog import Fold
from ttilib.episodes.episode import episode_of
from ttilib.episodes.sampling import sampler


def fold(corpus="ytvis", videos=7, classes=(1, 5), shows=None, repeats=1):
    """Video v<n> has n % 4 + 2 frames; a class is in all frames but the first."""
    names = [f"v{n}" for n in range(videos)]
    frames = {v: tuple(f"{v}/{t:05d}" for t in range(n % 4 + 2)) for n, v in enumerate(names)}
    shows = shows or {c: names for c in classes}
    presence = {c: {v: frames[v][1:] for v in shown} for c, shown in shows.items()}
    labels = {c: f"kind_{c}" for c in (*classes, 9)}
    return Fold(corpus, 0, labels, (9,), tuple(classes), frames, {**presence, 9: {}}, (), (), repeats)


def stills_fold(shown, pools, corpus="pascal"):
    """Stills by name with all novel classes in each, and for each class the stills in which it is large."""
    frames = {still: (still,) for still in ("t0", *shown)}  # t0 is for training only
    presence = {c: {still: (still,) for still in pool} for c, pool in pools.items()}
    names = {c: f"kind_{c}" for c in (*pools, 9)}
    return Fold(corpus, 0, names, (9,), tuple(pools), frames, {**presence, 9: {}}, (), (), 1, shown)


def sequence_fold(shows, corpus="vspw", repeats=1, names=None):
    """Sequences by name, each a list of the classes in every frame: {"a": [(1, 5), (1,)]}."""
    frames = {v: tuple(f"{v}/{t:02d}" for t in range(len(seen))) for v, seen in shows.items()}
    classes = sorted({c for seen in shows.values() for here in seen for c in here})
    visible = {c: {v: tuple(f for f, here in zip(frames[v], shows[v], strict=True) if c in here) for v in shows}
               for c in classes}  # fmt: skip
    presence = {c: {v: some for v, some in seen.items() if some} for c, seen in visible.items()}
    names = names or {c: f"kind_{c}" for c in classes}
    return Fold(corpus, 0, names, (), tuple(classes), frames, presence, (), (), repeats)


def cross(support_fold, query_fold, shots, seed=2020):
    """Episodes with support from one dataset and the query from another."""
    drawn = sampler("cross", query_fold, support_fold, shots, seed)()
    return tuple(episode_of(draw, query_fold, support_fold, seed) for draw in drawn)

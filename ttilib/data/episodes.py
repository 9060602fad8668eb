"""An episode: a few labelled pictures of a new class, and one video in which to find it.

Episodes are values made of names: which frames support, which frames are asked about. They are drawn once,
from a generator of their own, in exactly the order of draws of the released code (throw-away draws
included), and can be written to a readable manifest and replayed anywhere.

`sample_episodes` draws within one corpus by its own protocol, `cross_episodes` takes the support from one
corpus and the query from another; `write_episodes` and `read_episodes` keep them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np

from ttilib.data.draws import Draw, draw_cross, draw_pascal, draw_vspw, draw_ytvis, shared_classes
from ttilib.data.lists import Fold
from ttilib.files import digest, read_json, write_text


@dataclass(frozen=True)
class Episode:
    """One novel class: the frames that show it labelled, and the frames of one video to be segmented.

    Frames are named as in `Fold`. `support_corpus` and `support_class` are set when the support comes from
    another corpus, where the class may have another id. `seed` and `run` say which draw this was: runs
    follow one another in one stream of random numbers.
    """

    corpus: str
    fold: int
    class_id: int
    class_name: str
    support: tuple[str, ...]
    query: tuple[str, ...]
    seed: int
    support_corpus: str | None = None
    support_class: int | None = None
    run: int = 0

    @property
    def shots(self) -> int:
        """Number of support frames, K."""
        return len(self.support)

    @property
    def video(self) -> str:
        """Name of the query video; a still is its own video."""
        return self.query[0].split("/")[0]

    @property
    def name(self) -> str:
        """Name for people, such as "ytvis/f0/person/0043f083b5"; repeated draws of a video share it."""
        return f"{self.corpus}/f{self.fold}/{self.class_name}/{self.video}"

    @property
    def key(self) -> str:
        """Name for programs: 16 hex digits that differ whenever anything about the episode differs."""
        return digest(asdict(self))


def sample_episodes(
    fold: Fold, shots: int, seed: int = 2020, protocol: str = "v1", run: int = 0
) -> tuple[Episode, ...]:
    """Draw the episodes of one run over a fold, as the released code draws them.

    ytvis: each novel class with N videos gives N - shots episodes; under "v1" one support serves the whole
    class and every other video is a query once, under "v2" each episode draws support and query anew.
    vspw: one episode per listed video, its class and support drawn, the list gone through `fold.repeats`
    times. pascal: one episode per still. davis: every video and novel class in it, support from the others.

    Raises ValueError naming the class if it has too few videos for `shots`.
    Source: protocol sections 1.1, 1.3 and 1.5.
    """
    if shots < 1 or run < 0:
        raise ValueError(f"shots is {shots} and run is {run}; ask for shots >= 1 and run >= 0")
    if protocol not in ("v1", "v2"):
        raise ValueError(f'protocol {protocol!r} is not known; choose "v1" or "v2"')
    rng, legacy = random.Random(seed), np.random.RandomState(seed)
    draws: tuple[Draw, ...] = ()
    for _ in range(run + 1):  # earlier runs are drawn too: later ones go on where they stopped
        if fold.corpus == "ytvis":
            draws = tuple(draw_ytvis(fold, shots, rng, protocol))
        elif fold.corpus == "pascal":
            draws = tuple(draw_pascal(fold, shots, rng, legacy))
        elif fold.corpus == "vspw":
            draws = tuple(draw_vspw(fold, shots, legacy))
        else:
            draws = tuple(draw_cross(fold, fold, shots, rng))
    return tuple(_episode(fold, *draw, seed, run) for draw in draws)


def _episode(
    fold: Fold, number: int, support: tuple[str, ...], query: tuple[str, ...], seed: int, run: int = 0
) -> Episode:
    name = fold.names[number]
    return Episode(fold.corpus, fold.index, number, name, support, query, seed, run=run)


def cross_episodes(support_fold: Fold, query_fold: Fold, shots: int, seed: int = 2020) -> tuple[Episode, ...]:
    """Draw support for every query video from another corpus: distinct frames of distinct videos.

    Classes are matched by name; one episode for each video and each novel class in it, in list order. The
    query is the whole video, except for ytvis, where frames without the class have no outlines to score.

    Raises ValueError if no novel class is in both corpora, or one has too few support videos.
    """
    ids = shared_classes(support_fold, query_fold)
    same = support_fold.corpus == query_fold.corpus
    episodes = []
    for number, support, query in draw_cross(support_fold, query_fold, shots, random.Random(seed)):
        drawn = _episode(query_fold, number, support, query, seed)
        episodes.append(
            drawn if same else replace(drawn, support_corpus=support_fold.corpus, support_class=ids[number])
        )
    if not episodes:
        novel = ", ".join(query_fold.names[number] for number in query_fold.novel)
        raise ValueError(
            f"{query_fold.corpus} fold {query_fold.index}: no video shows a class ({novel}) that "
            f"{support_fold.corpus} fold {support_fold.index} also holds back; choose another fold"
        )
    return tuple(episodes)


def write_episodes(path: Path | str, episodes: Sequence[Episode]) -> None:
    """Write a manifest: JSON with one episode per line and a hash over all of them."""
    rows = [{key: value for key, value in asdict(e).items() if value is not None} for e in episodes]
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    write_text(path, f'{{"hash": "{digest(*rows)}",\n"episodes": [\n{lines}\n]}}\n')


def read_episodes(path: Path | str) -> tuple[Episode, ...]:
    """Read a manifest back, the same episodes in the same order.

    Raises ValueError if the hash says the episodes were changed after they were written (delete the
    "hash" entry to accept a change made by hand), or if an episode lacks an entry.
    """
    content = read_json(path)
    if not isinstance(content, dict) or "episodes" not in content:
        raise ValueError(f'{path}: no "episodes" in it; expected a manifest of write_episodes')
    rows = content["episodes"]
    found = digest(*rows)
    if content.get("hash", found) != found:
        raise ValueError(
            f"{path}: hash is {content['hash']}, the episodes give {found}; write the manifest again, or "
            'delete the "hash" entry if it was changed on purpose'
        )
    return tuple(_read_row(path, place, row) for place, row in enumerate(rows))


def _read_row(path: Path | str, place: int, row: Mapping[str, object]) -> Episode:
    known = {field.name for field in fields(Episode)}
    needed = known - {"support_corpus", "support_class", "run"}
    if (missing := needed - row.keys()) or (extra := row.keys() - known):
        wrong = f"lacks {sorted(missing)}" if missing else f"has unknown entries {sorted(extra)}"
        raise ValueError(f"{path}: episode {place} {wrong}; write the manifest again")
    if not row["support"] or not row["query"]:
        raise ValueError(f"{path}: episode {place} names no support or no query frames; write it again")
    return Episode(**{**row, "support": tuple(row["support"]), "query": tuple(row["query"])})

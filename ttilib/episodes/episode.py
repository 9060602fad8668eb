"""An episode: a few labelled pictures of a new class, and one video in which to find it.

Episodes are values made of names: which frames support, which frames are asked about. They are drawn once,
from a generator of their own, in exactly the order of draws of the released code (throw-away draws
included), and can be written to a readable manifest and replayed anywhere.

`sample_episodes` draws within one corpus by its own protocol (a benchmark of two corpora draws by
`benchmarks.draw_episodes`), `select_episodes` picks some; `write_episodes` and `read_episodes` keep them; `together`
and `slices` say which of them belong together and cut a long pass into pieces.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from ttilib.datasets.catalog import Fold, find_dataset
from ttilib.episodes.sampling import Draw, one_run, passes, shared_classes
from ttilib.files import digest, meant, read_json, write_text


@dataclass(frozen=True)
class Episode:
    """One novel class: the frames that show it labelled, and the frames of one video to be segmented.

    Frames are named as in `Fold`. `support_corpus` and `support_class` are set when the support comes from
    another corpus, where the class may have another id. `seed` and `run` say which draw this was: runs
    follow one another in one stream of random numbers. `batch` is set where the release solved frames of
    several videos together: the number of that batch in its run.
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
    batch: int | None = None

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
        entries = asdict(self)
        if self.batch is None:  # episodes without batches keep the names they had before there were any
            del entries["batch"]
        return digest(entries)


def sample_episodes(
    fold: Fold, shots: int, seed: int = 2020, protocol: str = "v1", run: int = 0
) -> tuple[Episode, ...]:
    """Draw the episodes of one run over a fold, as the released code draws them.

    ytvis: each novel class with N videos gives N - shots episodes; under "v1" one support serves the whole
    class and every other video is a query once, under "v2" each episode draws support and query anew.
    vspw: one episode per listed video, its class and support drawn, the list gone through `fold.repeats`
    times. pascal, coco: one episode per still. Others: every video and novel class in it, support from the others.

    Raises ValueError naming the class if it has too few videos for `shots`.
    Source: protocol sections 1.1, 1.3 and 1.5.
    """
    if shots < 1 or run < 0:
        raise ValueError(f"shots is {shots} and run is {run}; ask for shots >= 1 and run >= 0")
    if protocol not in ("v1", "v2"):
        raise ValueError(f'protocol {protocol!r} is not known; choose "v1" or "v2"')
    how = find_dataset(fold.corpus).sampling
    how = protocol if how == "v1" else how
    return tuple(episode_of(draw, fold, fold, seed, run) for draw in one_run(passes(how, fold, fold, shots, seed), run))


def episode_of(draw: Draw, query_fold: Fold, support_fold: Fold, seed: int, run: int = 0) -> Episode:
    """A draw with the names that make it an episode; those of the support only if it is of another corpus."""
    name = query_fold.names[draw.number]
    drawn = Episode(query_fold.corpus, query_fold.index, draw.number, name, draw.support, draw.query, seed, run=run)
    drawn = drawn if draw.batch is None else replace(drawn, batch=draw.batch)
    if support_fold.corpus == query_fold.corpus:
        return drawn
    number = shared_classes(support_fold, query_fold)[draw.number]
    return replace(drawn, support_corpus=support_fold.corpus, support_class=number)


def select_episodes(
    episodes: Sequence[Episode], limit: int = 0, only: str | Sequence[str] = ()
) -> tuple[Episode, ...]:
    """The episodes of some classes or videos (all if `only` is empty), and the first `limit` of those (0: all).

    Raises ValueError if a name is neither a class nor a video of any episode.
    """
    if limit < 0:
        raise ValueError(f"limit is {limit}; ask for a number of episodes, or 0 for all")
    only = (only,) if isinstance(only, str) else tuple(only)
    known = {name for episode in episodes for name in (episode.class_name, episode.video)}
    for name in only:
        if name not in known:
            hint = meant(name, sorted(known), f"try {', '.join(sorted(known)[:5])}")
            raise ValueError(f"{name!r} is neither class nor video of these {len(episodes)} episodes; {hint}")
    kept = [episode for episode in episodes if not only or {episode.class_name, episode.video} & set(only)]
    return tuple(kept[:limit] if limit else kept)


def together(episodes: Sequence[Episode]) -> tuple[range, ...]:
    """Places of the episodes that were solved together: a range for each batch, and one for every other episode."""
    ranges: list[range] = []
    for place, episode in enumerate(episodes):
        before = episodes[place - 1] if place else None
        joins = before is not None and episode.batch is not None
        if joins and (episode.fold, episode.run, episode.batch) == (before.fold, before.run, before.batch):
            ranges[-1] = range(ranges[-1].start, place + 1)
        else:
            ranges.append(range(place, place + 1))
    return tuple(ranges)


def slices(episodes: Sequence[Episode], frames: int) -> tuple[range, ...]:
    """The episodes cut into pieces of about so many query frames, batches whole."""
    pieces: list[range] = []
    held = frames  # of the last piece; full, so that the first range begins one
    for part in together(episodes):
        count = sum(len(episodes[place].query) for place in part)
        full = held >= frames
        pieces = [*pieces, part] if full else [*pieces[:-1], range(pieces[-1].start, part.stop)]
        held = count if full else held + count
    return tuple(pieces)


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
    needed = known - {"support_corpus", "support_class", "run", "batch"}
    if (missing := needed - row.keys()) or (extra := row.keys() - known):
        wrong = f"lacks {sorted(missing)}" if missing else f"has unknown entries {sorted(extra)}"
        raise ValueError(f"{path}: episode {place} {wrong}; write the manifest again")
    if not row["support"] or not row["query"]:
        raise ValueError(f"{path}: episode {place} names no support or no query frames; write it again")
    return Episode(**{**row, "support": tuple(row["support"]), "query": tuple(row["query"])})

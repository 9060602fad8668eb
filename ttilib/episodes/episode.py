"""Episodes (frame names of support and query): sampling, selection, batches and manifests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

from ttilib.datasets.catalog import Fold, find_dataset
from ttilib.episodes.sampling import Sample, sampler, samples_of_run, shared_classes
from ttilib.files import digest, read_json, suggest, write_text


@dataclass(frozen=True)
class Episode:
    """Support frames of a novel class and query frames of one video, named as in `Fold`.

    `support_corpus`, `support_class`: only if the support is of another dataset. All runs of a `seed` share one random
    stream. `batch`: its number in the run, if the release solved several videos together. Manifests use the field
    names.
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
    def support_dataset(self) -> str:
        """Dataset of the support frames."""
        return self.support_corpus or self.corpus

    @property
    def support_id(self) -> int:
        """Class id in the support masks."""
        return self.class_id if self.support_class is None else self.support_class

    @property
    def shots(self) -> int:
        """Number of support frames, K."""
        return len(self.support)

    @property
    def video(self) -> str:
        """Name of the query video; an image is its own video."""
        return self.query[0].split("/")[0]

    @property
    def name(self) -> str:
        """Readable name, such as "ytvis/f0/person/0043f083b5"; not unique."""
        return f"{self.corpus}/f{self.fold}/{self.class_name}/{self.video}"

    @property
    def key(self) -> str:
        """Key for programs: 16 hex digits, a digest of all fields."""
        entries = asdict(self)
        if self.batch is None:  # same keys as in versions without this field
            del entries["batch"]
        return digest(entries)


def sample_episodes(
    fold: Fold, shots: int, seed: int = 2020, protocol: str = "v1", run: int = 0
) -> tuple[Episode, ...]:
    """Sample the episodes of one run over a fold, with random numbers in the release's order.

    ytvis: N - shots for a novel class of N videos, with one support per class ("v1") or per episode ("v2"). vspw: one
    per listed video, `fold.repeats` times. pascal, coco: one per image. Others: one per video and novel class in it.
    Raises ValueError naming a class with too few videos for `shots`. Source: docs/protocol.md 1.1, 1.3 and 1.5.
    """
    if shots < 1 or run < 0:
        raise ValueError(f"shots is {shots} and run is {run}; ask for shots >= 1 and run >= 0")
    if protocol not in ("v1", "v2"):
        raise ValueError(f'protocol {protocol!r} is not known; choose "v1" or "v2"')
    sampling = find_dataset(fold.corpus).sampling
    epoch = sampler(protocol if sampling == "v1" else sampling, fold, fold, shots, seed)
    return tuple(episode_of(sample, fold, fold, seed, run) for sample in samples_of_run(epoch, run))


def episode_of(sample: Sample, query_fold: Fold, support_fold: Fold, seed: int, run: int = 0) -> Episode:
    """A sample as an episode; support dataset and class id are set only if the dataset differs."""
    number, support, query, batch = sample
    about = query_fold.corpus, query_fold.index, number, query_fold.names[number], support, query, seed
    if support_fold.corpus == query_fold.corpus:
        return Episode(*about, run=run, batch=batch)
    return Episode(*about, support_fold.corpus, shared_classes(support_fold, query_fold)[number], run, batch)


def select_episodes(episodes: Sequence[Episode], limit: int = 0, only: str | Sequence[str] = ()) -> tuple[Episode, ...]:
    """First `limit` (0: all) episodes of the classes or videos `only` (empty: all). ValueError for unknown names."""
    if limit < 0:
        raise ValueError(f"limit is {limit}; ask for a number of episodes, or 0 for all")
    only = (only,) if isinstance(only, str) else tuple(only)
    known = {name for episode in episodes for name in (episode.class_name, episode.video)}
    for name in only:
        if name not in known:
            hint = suggest(name, sorted(known), f"try {', '.join(sorted(known)[:5])}")
            raise ValueError(f"{name!r} is neither class nor video of these {len(episodes)} episodes; {hint}")
    chosen = [episode for episode in episodes if not only or {episode.class_name, episode.video} & set(only)]
    return tuple(chosen[:limit] if limit else chosen)


def group_by_batch(episodes: Sequence[Episode]) -> tuple[range, ...]:
    """Group indices of episodes: a range per batch, or per episode without one."""

    def batch(index: int) -> tuple[int, ...]:
        e = episodes[index]
        return (index,) if e.batch is None else (e.fold, e.run, e.batch)

    groups = (tuple(group) for _, group in groupby(range(len(episodes)), batch))
    return tuple(range(group[0], group[-1] + 1) for group in groups)


def slices(episodes: Sequence[Episode], frames: int) -> tuple[range, ...]:
    """Split indices of episodes, between batches, into ranges of at least `frames` query frames (the last: fewer)."""
    parts: list[range] = []
    start = count = 0
    for group in group_by_batch(episodes):
        count += sum(len(episodes[index].query) for index in group)
        if count >= frames or group.stop == len(episodes):
            parts.append(range(start, group.stop))
            start, count = group.stop, 0
    return tuple(parts)


def write_episodes(path: Path | str, episodes: Sequence[Episode]) -> None:
    """Write a manifest: JSON with a line per episode and a hash over all."""
    rows = [{key: value for key, value in asdict(e).items() if value is not None} for e in episodes]
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    write_text(path, f'{{"hash": "{digest(*rows)}",\n"episodes": [\n{lines}\n]}}\n')


def read_episodes(path: Path | str) -> tuple[Episode, ...]:
    """Read a manifest. ValueError if its "hash" (delete it to accept edits) or an entry of an episode is wrong."""
    content = read_json(path)
    if not isinstance(content, dict) or "episodes" not in content:
        raise ValueError(f'{path}: no "episodes" in it; expected a manifest of write_episodes')
    rows = content["episodes"]
    found = digest(*rows)
    if content.get("hash", found) != found:
        about = f"hash is {content['hash']}, the episodes give {found}"
        raise ValueError(f'{path}: {about}; write it again, or delete the "hash" entry if you changed it on purpose')
    episodes = []
    for index, row in enumerate(rows):
        try:
            episode = Episode(**{**row, "support": tuple(row["support"]), "query": tuple(row["query"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path}: episode {index} is not valid ({error}); write the manifest again") from error
        if not episode.support or not episode.query:
            raise ValueError(f"{path}: episode {index} names no support or no query frames; write it again")
        episodes.append(episode)
    return tuple(episodes)

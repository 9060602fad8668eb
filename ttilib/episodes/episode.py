"""Episodes (frame names of support and query): sampling, selection, batches and manifests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from itertools import groupby
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from ttilib.datasets.catalog import DATASETS, Fold, find_dataset
from ttilib.episodes.sampling import Sample, check_request, sampler, samples_of_run, shared_classes
from ttilib.files import convert, digest, read_json, suggest, write_text

Count = Annotated[int, Meta(ge=0)]
FrameNames = Annotated[tuple[str, ...], Meta(min_length=1)]


@dataclass(frozen=True)
class Episode:
    """Support frames of a novel class and query frames of one video, named as in `Fold`.

    `support_corpus`, `support_class`: only if the support is of another dataset. All runs of a `seed` share one random
    stream. `batch`: its number in the run, if the release solved several videos together. Manifests use the field
    names.
    """

    corpus: str
    fold: Count
    class_id: Count
    class_name: str
    support: FrameNames
    query: FrameNames
    seed: Count
    support_corpus: str | None = None
    support_class: Count | None = None
    run: Count = 0
    batch: Count | None = None

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
    check_request(shots=shots, run=run, seed=seed)
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
    known = [*sorted({each.class_name for each in episodes}), *sorted({each.video for each in episodes})]
    for name in only:
        if name not in known:
            hint = suggest(name, known, f"try {', '.join(known[:5])}")
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


@dataclass(frozen=True)
class Manifest:
    """The file of `write_episodes`; without a hash if it was edited on purpose."""

    episodes: tuple[Episode, ...]
    hash: str | None = None


def read_episodes(path: Path | str) -> tuple[Episode, ...]:
    """Read a manifest. ValueError if its "hash" (delete it to accept edits) or an entry of an episode is wrong."""
    content = read_json(path)
    manifest = convert(content, Manifest, str(path))
    known = {field.name for field in fields(Episode)}
    for index, (episode, row) in enumerate(zip(manifest.episodes, content["episodes"], strict=True)):
        if unknown := row.keys() - known:
            about = f"{min(unknown)!r} is no entry of an episode; {suggest(min(unknown), sorted(known))}"
            raise ValueError(f"{path}: episodes[{index}]: {about}")
        for corpus in {episode.corpus, episode.support_dataset} - DATASETS.keys():
            raise ValueError(f"{path}: episodes[{index}]: dataset {corpus!r} is not known; {suggest(corpus, DATASETS)}")
    found = digest(*content["episodes"])
    if manifest.hash not in (None, found):
        about = f"hash is {manifest.hash}, the episodes give {found}"
        raise ValueError(f'{path}: {about}; write it again, or delete the "hash" entry if you changed it on purpose')
    return manifest.episodes

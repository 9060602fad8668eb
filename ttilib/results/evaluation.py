"""Evaluating methods on episodes: solve, keep the masks, score them, and score stored masks again.

Masks and rows meet on disk: what solves an episode writes its masks, and every row can be made again from these
(`rescore`), so that a metric that is added later costs seconds.

The release solves some benchmarks video by video and others in batches of frames of several videos. Its consistency
of a video then depends on the batch, so episodes are scored in the groups in which they would be solved together.
"""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from ttilib.datasets.base import OnError, stop
from ttilib.episodes.benchmarks import BenchmarkData, find_roots
from ttilib.episodes.clips import Clip, load_clip
from ttilib.episodes.episode import Episode, read_episodes, together
from ttilib.files import read_json, write_json, write_text
from ttilib.results import records
from ttilib.results.metrics import METRICS, as_masks
from ttilib.results.records import (
    append_masks,
    append_row,
    as_line,
    holding,
    key_of,
    mask_rows,
    masks_beside,
    masks_of,
    plain,
    read_rows,
)
from ttilib.solver.extraction import FeatureExtractor
from ttilib.solver.methods import Method

Members = Sequence[tuple[int, Episode]]
"""Episodes that are solved together, each with its place in the run."""


@dataclass(frozen=True)
class Answer:
    """One episode as one method solved it, and what that cost.

    `index` numbers the episodes of a pass, which may draw the same one twice; `memory_mb` is None where unknown.
    """

    episode: Episode
    index: int
    clip: Clip
    masks: Bool[Tensor, "T H W"]
    seconds: float
    memory_mb: float | None = None


def evaluate(
    episodes: Mapping[int, Episode],
    methods: Sequence[Method],
    extractors: Mapping[int, FeatureExtractor],
    data: Mapping[int, BenchmarkData],
    size: tuple[int, int],
    name: str,
    encoder: str,
    rows: Path | str | None = None,
    on_problem: OnError = stop,
) -> Iterator[dict[str, Any]]:
    """Solve and score every episode by every method, one row after another; see `score_group` for what a row holds.

    `episodes` of one pass by their places in it; `extractors` and `data` by fold; `size`: height and width of the
    network's input; rows call the benchmark `name` and the encoder `encoder`. A clip is read once, and methods that
    need the same features share them. The seconds of a method are those of extracting its features and of predicting,
    its memory that of the features and of what predicting takes beside them.

    With a file of `rows`, each new row is appended to it, and its masks beside it; rows that are there are given back
    and not made again. Others who want the same file wait until the generator ends. An episode whose files cannot be
    read is reported to `on_problem` and left out; the default raises.
    """
    with holding(rows) if rows else nullcontext():
        done = {key_of(row): row for row in read_rows(rows)} if rows and Path(rows).is_file() else {}
        places = list(episodes)
        for group in together([episodes[place] for place in places]):
            members = [(places[at], episodes[places[at]]) for at in group]
            missing = [m for m in methods if any((e.key, place, m.name) not in done for place, e in members)]
            for method, answers in _solved(members, missing, extractors, data, size, on_problem).items():
                extractor = extractors[members[0][1].fold]
                made = records.made(extractor.device, extractor.weights)
                for row, answer in zip(score_group(name, encoder, method, answers, made), answers, strict=True):
                    if key_of(row) not in done:
                        if rows:
                            append_masks(masks_beside(rows), row, answer.masks)
                            append_row(rows, row)
                        done[key_of(row)] = row
            keys = [(episode.key, place, method.name) for method in methods for place, episode in members]
            yield from (done[key] for key in keys if key in done)


def _solved(
    members: Members,
    methods: Sequence[Method],
    extractors: Mapping[int, FeatureExtractor],
    data: Mapping[int, BenchmarkData],
    size: tuple[int, int],
    on_problem: OnError,
) -> dict[str, list[Answer]]:
    """The answers of the methods to the episodes of a group that can be read."""
    answers: dict[str, list[Answer]] = {method.name: [] for method in methods}
    for place, episode in members if methods else ():
        where, extractor = data[episode.fold], extractors[episode.fold]
        try:
            clip = load_clip(episode, where.query_root, size, where.support_root)
        except (ValueError, OSError) as error:
            on_problem(ValueError(f"episode {episode.name}: {str(error).removeprefix(f'episode {episode.name}: ')}"))
            continue
        for method in methods:
            before = extractor.seconds
            task = extractor.task(clip, method.recipe)
            extraction = extractor.seconds - before
            with measured(extractor.device) as cost:
                masks = method.predict(clip, extractor, clip.truth).masks
            memory = None if cost.memory_mb is None else cost.memory_mb + task.query.nbytes / MEGABYTE
            answers[method.name].append(Answer(episode, place, clip, masks, extraction + cost.seconds, memory))
    return answers


def score_group(
    benchmark: str, encoder: str, method: str, answers: Sequence[Answer], made: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """One row per answer: which episode it is, the fields of every metric in `METRICS`, cost, and what `made` it.

    `answers` are the episodes that the release solves together, in order: those of one batch, or a single one. Values
    are fractions, None where undefined. Raises ValueError naming the episode that has no ground truth, or frames of
    another size, and the metric whose field is taken.
    """
    if not answers:
        return []
    masks, truth, valid = _together(answers)
    videos = [answer.episode.video for answer in answers for _ in answer.masks]
    batch = {metric.key: metric.score(masks, truth, valid, videos) for metric in METRICS.values() if metric.grouped}
    rows, end = [], 0
    for answer in answers:
        at, end = slice(end, end + len(answer.masks)), end + len(answer.masks)
        row = {"benchmark": benchmark, "encoder": encoder, "method": method, **_about(answer)}
        cost = {"seconds": answer.seconds, "memory_mb": answer.memory_mb, "made": dict(made)}
        for metric in METRICS.values():
            if metric.grouped:
                found = {metric.key: batch[metric.key].get(answer.episode.video, 0.0)}
            else:
                found = metric.fields(masks[at], truth[at], valid[at])
            if taken := found.keys() & {*row, *cost}:
                raise ValueError(f"metric {metric.name!r}: rows have a {min(taken)!r} already; give it another key")
            row |= found
        rows.append(plain(row | cost))
    return rows


def _together(answers: Sequence[Answer]) -> tuple[Bool[np.ndarray, "frames H W"], ...]:
    """Masks, ground truth and valid pixels of the group, frame after frame."""
    parts = []
    for answer in answers:
        name, clip = answer.episode.name, answer.clip
        if clip.truth is None:
            raise ValueError(f"episode {name}: there is no ground truth to score against; leave it out")
        if clip.size != answers[0].clip.size:
            about = f"its frames are {clip.size}, those of {answers[0].episode.name} {answers[0].clip.size}"
            raise ValueError(f"episode {name}: {about}; score frames of one size together")
        try:
            parts.append(as_masks(answer.masks, clip.truth, clip.query_valid))
        except ValueError as error:
            raise ValueError(f"episode {name}: {error}") from error
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def _about(answer: Answer) -> dict[str, Any]:
    """Which episode of which pass this is."""
    episode = answer.episode
    return {
        "fold": episode.fold, "run": episode.run, "shots": episode.shots, "seed": episode.seed,
        "episode": episode.name, "index": answer.index, "key": episode.key, "class_id": episode.class_id,
        "class_name": episode.class_name, "video": episode.video, "frames": len(answer.masks),
    }  # fmt: skip


def rescore(out: Path | str, name: str, root: Path | str) -> int:
    """Score the stored masks of a table again and renew its rows in place; how many there are.

    The index <out>/rows/<name>.json says where rows, masks and manifests are; `root` is the data folder, for the ground
    truth. Nothing is solved. Fields of metrics are replaced or added, everything else stays as it was.

    Raises ValueError if the masks or the episode of a row are missing. Masks without a row are left alone, with a
    warning: their evaluation was stopped between the two.
    """
    out, count = Path(out), 0
    for file, about in read_json(out / "rows" / f"{name}.json")["manifests"].items():
        if not (out / file).is_file():
            continue  # a line of the table that was never run
        episodes = read_episodes(out / about["path"])
        roots = find_roots(about["benchmark"], root)
        with holding(out / file):
            rows = {key_of(row): row for row in read_rows(out / file)}
            masks = {key_of(row): row for row in mask_rows(masks_beside(out / file))}
            _check_pairs(out / file, rows, masks, episodes)
            for group in together(episodes):
                members = [(index, episodes[index]) for index in group]
                rows |= _scored_again(members, rows, masks, roots, tuple(about["size"]))
            before, after = (out / file).read_bytes(), "".join(map(as_line, rows.values()))
            write_text(out / file, after)
            _renew_notes(out / "tasks", before, after.encode("utf-8"))
        count += len(rows)
    return count


def _renew_notes(folder: Path, before: bytes, after: bytes) -> None:
    """Tasks of a sweep note the checksum of the first lines of their rows; let it be that of the new lines.

    Otherwise the next sweep would take the new rows for damaged ones and solve the episodes again.
    """
    lines = after.splitlines(keepends=True)
    for path in folder.glob("*.json"):
        noted = read_json(path)
        part = before[: noted.get("bytes", 0)]
        if part and noted.get("sha256") == sha256(part).hexdigest():
            renewed = b"".join(lines[: part.count(b"\n")])
            write_json(path, noted | {"bytes": len(renewed), "sha256": sha256(renewed).hexdigest()})


def _check_pairs(path: Path, rows: Mapping, masks: Mapping, episodes: Sequence[Episode]) -> None:
    """Every row has its masks and its episode."""
    for key, index, _ in rows:
        if index >= len(episodes) or episodes[index].key != key:
            raise ValueError(f"{path}: episode {key} (index {index}) is not in the manifest; evaluate again")
    if missing := [key for key in rows if key not in masks]:
        key, index, method = missing[0]
        about = f"{len(missing)} of {len(rows)} rows have no masks, such as episode {key} (index {index}) by {method!r}"
        raise ValueError(f"{masks_beside(path)}: {about}; evaluate them again")
    if more := masks.keys() - rows.keys():
        warnings.warn(f"{path}: {len(more)} stored masks have no row; evaluate again to add them", stacklevel=3)


def _scored_again(
    members: Members, rows: Mapping, masks: Mapping, roots: tuple[Path, Path], size: tuple[int, int]
) -> dict[tuple, dict[str, Any]]:
    """The rows of episodes that were solved together, with the metrics of today."""
    answers: dict[str, list[Answer]] = {}
    for index, episode in members:
        methods = [method for key, place, method in rows if (key, place) == (episode.key, index)]
        clip = load_clip(episode, roots[0], size, roots[1]) if methods else None
        for method in methods:
            row, stored = rows[episode.key, index, method], masks_of(masks[episode.key, index, method])
            answers.setdefault(method, []).append(
                Answer(episode, index, clip, stored, row["seconds"], row["memory_mb"])
            )
    found = {}
    for method, group in answers.items():
        for new in score_group("", "", method, group, {}):
            row = rows[key_of(new)]
            made = row["made"] | {"metrics": records.metrics_digest()}
            found[key_of(new)] = row | new | {name: row[name] for name in ("benchmark", "encoder")} | {"made": made}
    return found


SELF = Path("/proc/self")
MEGABYTE = 10**6


@dataclass
class Cost:
    """Filled in when the block ends: seconds, and peak of extra memory in MB (10^6 bytes), None if unknown."""

    seconds: float = float("nan")
    memory_mb: float | None = None


@contextmanager
def measured(device: torch.device | str = "cpu") -> Iterator[Cost]:
    """Measure what the block costs on `device`; the object given is complete once the block has ended.

    Work that a graphics card still has to do is waited for, before and after. Blocks must not be nested: the inner one
    sets back the high-water mark of the outer one.
    """
    device, cost = torch.device(device), Cost()
    before = _start(device)
    begin = time.perf_counter()
    try:
        yield cost
    finally:
        _wait(device)
        cost.seconds = time.perf_counter() - begin
        peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _status("VmHWM")
        cost.memory_mb = None if before is None or peak is None else max(peak - before, 0) / MEGABYTE


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _start(device: torch.device) -> int | None:
    """Set the high-water mark back; bytes in use now, or None if the peak will not be known."""
    _wait(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    if device.type != "cpu":
        return None
    try:
        (SELF / "clear_refs").write_text("5")  # 5: set the peak resident size back to the present one
    except OSError:  # not Linux, or not allowed
        return None
    return _status("VmRSS")


def _status(field: str) -> int | None:
    """Bytes that the system says about this process; None if it does not."""
    try:
        found = re.search(rf"^{field}:\s*(\d+) kB$", (SELF / "status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return 1024 * int(found[1]) if found else None

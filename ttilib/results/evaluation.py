"""Evaluate methods on episodes: predict, store the masks, compute the metrics.

Rows can be recomputed from stored masks (`rescore`), so a new metric needs no new prediction. The video consistency of
the release depends on the batch, so the episodes of one batch are scored together.
"""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from ttilib.datasets.base import OnError, raise_first
from ttilib.episodes.benchmarks import BenchmarkData, find_roots
from ttilib.episodes.clips import Clip, load_clip
from ttilib.episodes.episode import Episode, group_by_batch, read_episodes
from ttilib.files import file_lock, write_text
from ttilib.results import records
from ttilib.results.metrics import METRICS, as_masks
from ttilib.solver.extraction import FeatureExtractor
from ttilib.solver.methods import Method, Prediction, TransductiveMethod
from ttilib.solver.solver import Solution

Members = Sequence[tuple[int, Episode]]  # episodes that are solved together, with their index in the run


@dataclass(frozen=True)
class EpisodeResult:
    """Prediction of one method for one episode. `index`: position in the run; `seconds`, `memory_mb`: None if unknown.
    `support_vanished`: no support image had foreground at feature size.
    """

    episode: Episode
    index: int
    clip: Clip
    masks: Bool[Tensor, "T H W"]
    seconds: float | None
    memory_mb: float | None = None
    support_vanished: bool = False


def evaluate(
    episodes: Mapping[int, Episode],
    methods: Sequence[Method],
    extractors: Mapping[int, FeatureExtractor],
    data: Mapping[int, BenchmarkData],
    size: tuple[int, int],
    name: str,
    encoder: str,
    rows: Path | str | None = None,
    on_problem: OnError = raise_first,
    supports: str = "released",
) -> Iterator[dict[str, Any]]:
    """Predict and score every episode with every method; yield the rows of `score_group`.

    `episodes`: by index in the run; `extractors`, `data`: by fold; `size`: height and width of the network input;
    `name`, `encoder`: benchmark and encoder in the rows. "seconds" is feature extraction plus prediction, "memory_mb"
    the query features plus the peak of prediction, also where methods share features or the optimization. With a file
    `rows`, new rows and masks are appended, and existing rows returned; of these only the metrics of a batch change, if
    it has new episodes. The file is locked meanwhile. An episode that cannot be read or solved is left out for all
    methods, and its error passed to `on_problem` (default: raise). A method given twice counts once. `supports`: see
    `load_clip`.
    """

    def load(episode: Episode) -> Clip:
        roots = data[episode.fold]
        return load_clip(episode, roots.query_root, size, roots.support_root, supports)

    with file_lock(rows) if rows else nullcontext():
        done = {records.key_of(row): row for row in records.read_rows(rows)} if rows and Path(rows).is_file() else {}
        indices, methods = list(episodes), list({method.name: method for method in methods}.values())
        for group in group_by_batch(list(episodes.values())):
            members = [(indices[n], episodes[indices[n]]) for n in group]
            keys = [(episode.key, index, method.name) for method in methods for index, episode in members]
            missing = [method for method in methods if any(key not in done for key in keys if key[2] == method.name)]
            for method, results in _predict_group(members, missing, load, extractors, on_problem).items():
                extractor = extractors[members[0][1].fold]
                made = records.provenance(extractor.device_name, extractor.fingerprint)
                _record(score_group(name, encoder, method, results, made), results, done, rows)
            yield from (done[key] for key in keys if key in done)


def _record(
    scored: Sequence[dict[str, Any]], results: Sequence[EpisodeResult], done: dict[tuple, Any], rows: Path | str | None
) -> None:
    """Add the rows of a group to `done`, and with their masks to the file `rows`. Rows that are there stay, but for the
    metrics of the batch: an earlier run may have left one of its episodes out.
    """
    grouped = [metric.key for metric in METRICS.values() if metric.grouped]
    earlier = any(records.key_of(row) in done for row in scored)
    for row, result in zip(scored, results, strict=True):
        key = records.key_of(row)
        if rows and key not in done:
            records.append_masks(records.masks_beside(rows), row, result.masks)
            if not earlier:
                records.append_row(rows, row)
        done[key] = done.get(key, row) | {field: row[field] for field in grouped}
    if rows and earlier:  # at once: if it stopped between, the other rows would keep their metrics
        write_text(rows, "".join(map(records.as_line, done.values())))


def _predict_group(
    members: Members,
    methods: Sequence[Method],
    load: Callable[[Episode], Clip],
    extractors: Mapping[int, FeatureExtractor],
    on_problem: OnError,
) -> dict[str, list[EpisodeResult]]:
    """Predictions of each method for the episodes of a group that can be read and solved."""
    results: dict[str, list[EpisodeResult]] = {method.name: [] for method in methods}
    for index, episode in members if methods else ():
        try:
            clip = load(episode)
            known: dict = {}
            found = [_predict(index, episode, clip, method, extractors[episode.fold], known) for method in methods]
        except (ValueError, OSError, RuntimeError, ArithmeticError) as error:
            on_problem(ValueError(f"episode {episode.name}: {str(error).removeprefix(f'episode {episode.name}: ')}"))
            continue
        for method, result in zip(methods, found, strict=True):
            results[method.name].append(result)
    return results


def _predict(
    index: int,
    episode: Episode,
    clip: Clip,
    method: Method,
    extractor: FeatureExtractor,
    known: dict[tuple, tuple[Solution, Cost]],
) -> EpisodeResult:
    """The result of one method. `known`: solutions of this clip by `TransductiveMethod.optimization`, with their cost,
    which counts for every method that shares them.
    """
    before = extractor.seconds
    task = extractor.task(clip, method.pipeline)
    extraction, first = extractor.seconds - before, Cost(0.0)
    predict: Callable[[], Prediction] = partial(method.predict, clip, extractor, clip.truth)
    if type(method) is TransductiveMethod:  # a subclass may predict in another way
        if method.optimization not in known:
            with measured(extractor.device) as cost:
                solution = method.optimize(clip, extractor, clip.truth)
            known[method.optimization] = replace(solution, history=()), cost  # history can hold copies of features
        solution, first = known[method.optimization]
        predict = partial(method.finish, solution, clip, extractor)
    with measured(extractor.device) as last:
        masks = predict().masks
    peak = None if last.memory_mb is None else max(first.memory_mb or 0, last.memory_mb)
    memory = None if peak is None else peak + task.query.nbytes / MEGABYTE
    seconds = extraction + first.seconds + last.seconds
    return EpisodeResult(episode, index, clip, masks, seconds, memory, task.support_vanished)


def score_group(
    benchmark: str, encoder: str, method: str, results: Sequence[EpisodeResult], made: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """One row per result: episode, metrics (fractions, None if undefined), cost, and provenance `made`.

    `results`: the episodes of one batch, in order, or a single one. Raises ValueError naming an episode without ground
    truth, or a metric whose field name is taken.
    """
    if not results:
        return []
    masks, truth, valid = _concatenated(results)
    videos = [result.episode.video for result in results for _ in result.masks]
    batch = {m.key: m.score(masks, truth, valid, videos) for m in METRICS.values() if m.grouped and m.score}
    rows, end = [], 0
    fields: Mapping[str, Any]
    for result in results:
        own, end = slice(end, end + len(result.masks)), end + len(result.masks)
        episode = result.episode
        row = {
            "benchmark": benchmark, "encoder": encoder, "method": method, "fold": episode.fold, "run": episode.run,
            "shots": episode.shots, "seed": episode.seed, "episode": episode.name, "index": result.index,
            "key": episode.key, "class_id": episode.class_id, "class_name": episode.class_name,
            "video": episode.video, "frames": len(result.masks), "support_vanished": result.support_vanished,
        }  # fmt: skip
        cost = {"seconds": result.seconds, "memory_mb": result.memory_mb, "made": dict(made)}
        for metric in METRICS.values():
            if metric.grouped:
                fields = {metric.key: batch[metric.key].get(result.episode.video, 0.0)}
            else:
                fields = metric.fields(masks[own], truth[own], valid[own])
            if taken := fields.keys() & {*row, *cost}:
                raise ValueError(f"metric {metric.name!r}: rows have a {min(taken)!r} already; give it another key")
            row |= fields
        rows.append(records.plain(row | cost))
    return rows


def _concatenated(results: Sequence[EpisodeResult]) -> tuple[Bool[np.ndarray, "frames H W"], ...]:
    """Masks, ground truth and valid pixels of the group, concatenated over frames."""
    parts = []
    for result in results:
        name, clip = result.episode.name, result.clip
        if clip.truth is None:
            raise ValueError(f"episode {name}: there is no ground truth to score against; leave it out")
        try:
            parts.append(as_masks(result.masks, clip.truth, clip.query_valid))
        except ValueError as error:
            raise ValueError(f"episode {name}: {error}") from error
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def rescore(out: Path | str, name: str, root: Path | str) -> int:
    """Recompute the metrics of a table from its stored masks, in place; return the number of rows.

    The index <out>/rows/<name>.json names rows, masks and manifests; `root`: data folder with the ground truth. Other
    fields of the rows stay. Raises ValueError if the masks or the episode of a row are missing. Warns about masks
    without a row.
    """
    out, count = Path(out), 0
    for file, about in records.read_index(out, name)["manifests"].items():
        if not (out / file).is_file():
            continue  # this line of the table has not been run
        episodes = read_episodes(out / about["path"])
        roots = find_roots(about["benchmark"], root)
        with file_lock(out / file):
            rows = {records.key_of(row): row for row in records.read_rows(out / file)}
            masks = {records.key_of(row): row for row in records.mask_rows(records.masks_beside(out / file))}
            _check_pairs(out / file, rows, masks, episodes)
            for group in group_by_batch(episodes):
                members = [(index, episodes[index]) for index in group]
                rows |= _rescore_group(members, rows, masks, roots, tuple(about["size"]), out / file)
            write_text(out / file, "".join(map(records.as_line, rows.values())))
        count += len(rows)
    return count


def _check_pairs(path: Path, rows: Mapping, masks: Mapping, episodes: Sequence[Episode]) -> None:
    for key, index, _ in rows:
        if index >= len(episodes) or episodes[index].key != key:
            raise ValueError(f"{path}: episode {key} (index {index}) is not in the manifest; evaluate again")
    if missing := [key for key in rows if key not in masks]:
        key, index, method = missing[0]
        about = f"{len(missing)} of {len(rows)} rows have no masks, such as episode {key} (index {index}) by {method!r}"
        raise ValueError(f"{records.masks_beside(path)}: {about}; evaluate them again")
    if more := masks.keys() - rows.keys():
        warnings.warn(f"{path}: {len(more)} stored masks have no row; evaluate again to add them", stacklevel=3)


def _rescore_group(
    members: Members, rows: Mapping, masks: Mapping, roots: tuple[Path, Path], size: tuple[int, int], path: Path
) -> dict[tuple, dict[str, Any]]:
    """Rows of one group of episodes, scored by the current metrics."""
    results: dict[str, list[EpisodeResult]] = {}
    for index, episode in members:
        if methods := [method for key, place, method in rows if (key, place) == (episode.key, index)]:
            clip = load_clip(episode, roots[0], size, roots[1])
        for method in methods:
            row, shape = rows[episode.key, index, method], clip.query_valid.shape
            stored = records.masks_of(masks[episode.key, index, method], records.masks_beside(path), shape)
            kept = row.get("seconds"), row.get("memory_mb"), row.get("support_vanished", False)
            results.setdefault(method, []).append(EpisodeResult(episode, index, clip, stored, *kept))
    found = {}
    for method, group in results.items():
        for new in score_group("", "", method, group, {}):
            row = rows[records.key_of(new)]
            made = (row.get("made") or {}) | {"metrics": records.metrics_digest()}
            about = {"benchmark": row["benchmark"], "encoder": row["encoder"], "made": made}
            found[records.key_of(new)] = row | new | about
    return found


SELF = Path("/proc/self")
MEGABYTE = 10**6


@dataclass
class Cost:
    """Set when the block ends: seconds, and peak of additional memory in MB (10^6 bytes), None if unknown."""

    seconds: float = float("nan")
    memory_mb: float | None = None


@contextmanager
def measured(device: torch.device | str = "cpu") -> Iterator[Cost]:
    """Measure `Cost` of the block on `device`, GPU synchronized. Do not nest: the inner block resets the peak."""
    device, cost = torch.device(device), Cost()
    synchronize = partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None
    synchronize()
    before, begin = _reset_peak(device), time.perf_counter()
    yield cost
    synchronize()
    cost.seconds = time.perf_counter() - begin
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _status("VmHWM")
    cost.memory_mb = None if before is None or peak is None else max(peak - before, 0) / MEGABYTE


def _reset_peak(device: torch.device) -> int | None:
    """Reset the memory peak; return the bytes in use, or None if the peak cannot be measured."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    try:
        (SELF / "clear_refs").write_text("5")  # 5 resets the peak resident size
    except OSError:  # not Linux, or not allowed
        return None
    return _status("VmRSS") if device.type == "cpu" else None


def _status(field: str) -> int | None:
    """Bytes in a field of /proc/self/status; None if not available."""
    try:
        found = re.search(rf"^{field}:\s*(\d+) kB$", (SELF / "status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return 1024 * int(found[1]) if found else None

"""Benchmarks: datasets, classes, sampling and input size of each; their folds and their episodes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttilib.datasets.base import OnError, raise_first
from ttilib.datasets.catalog import Fold, find_dataset, find_root, read_fold, read_table
from ttilib.episodes.episode import Episode, episode_of
from ttilib.episodes.sampling import check_request, group_into_batches, sample_independent, sampler, samples_of_run
from ttilib.files import look_up


@dataclass(frozen=True)
class Benchmark:
    """Settings of one benchmark, as released.

    `query`, `support`, `trained_on`: datasets of query, support and base training. `draws`: see `sampling.sampler`.
    `size`: (height, width) of the network input. `novel`: entry of the class table with the novel classes. `per_run`:
    images or frames per run, None: each once. `batch`: frames solved together, None: those of one video.
    """

    name: str
    query: str
    support: str
    draws: str
    size: tuple[int, int]
    trained_on: str
    novel: str = "novel"
    per_run: int | None = None
    batch: int | None = None
    note: str = ""

    def input_size(self, height: int = 0, width: int = 0) -> tuple[int, int]:
        """(height, width) of the network input; 0 means the benchmark's own."""
        return height or self.size[0], width or self.size[1]


SQUARE, WIDE = (417, 417), (241, 425)


def _images(name: str, corpus: str, trained_on: str, novel: str, note: str) -> Benchmark:
    return Benchmark(name, corpus, corpus, "stills", SQUARE, trained_on, novel, per_run=1000, note=note)


BENCHMARKS: dict[str, Benchmark] = {
    plan.name: plan
    for plan in (
        _images("pascal", "pascal", "pascal", "novel", "Pascal-5i: images of VOC val, five classes a fold."),
        _images("coco", "coco", "coco", "novel", "COCO-20i: every fourth class is of one fold; first polygons only."),
        _images("coco-block", "coco", "coco", "novel_block", "COCO-20i with twenty classes in a row to a fold."),
        _images("coco-full", "coco-full", "coco-full", "novel", "COCO-20i with masks of all polygons and run lengths."),
        _images("coco2pascal", "pascal", "coco", "novel_coco2pascal", "Pascal images in classes no COCO fold trained."),
        _images("coco2pascal-mended", "pascal", "coco", "novel_coco2pascal_mended",
            "The same without the release's exchange of cat and car."),
        Benchmark("ytvis-v1", "ytvis", "ytvis", "v1", WIDE, "ytvis",
            note="YouTube-VIS: one support per class, every other video is a query once."),
        Benchmark("ytvis-v2", "ytvis", "ytvis", "v2", WIDE, "ytvis",
            note="YouTube-VIS: support and query are sampled for every episode."),
        Benchmark("pascal2minivspw", "minivspw", "pascal", "frames", SQUARE, "pascal", per_run=10000, batch=100,
            note="Pascal images support MiniVSPW frames, one hundred solved together whatever video they are of."),
        Benchmark("minivspw", "vspw", "vspw", "sequences", SQUARE, "vspw",
            note="VSPW at 480p supports itself, folds 0, 1 and 3 repeated ten times."),
        Benchmark("minivspw-val", "vspw", "vspw", "sequences", SQUARE, "vspw", "validation",
            note="The validation classes of minivspw, by which the release chose its checkpoints."),
        Benchmark("pascal2davis", "davis", "pascal", "cross", WIDE, "pascal",
            note="Pascal images support DAVIS videos; not a published benchmark."),
        Benchmark("moving-pascal", "moving-pascal", "pascal", "cross", (241, 321), "pascal",
            note="Pascal images support clips of a camera over other Pascal images; not a published benchmark."),
    )
}  # fmt: skip


def benchmark(name: str) -> Benchmark:
    """The benchmark of that name. Raises ValueError with similar names."""
    return look_up(name, BENCHMARKS, "benchmark")


@dataclass(frozen=True)
class BenchmarkData:
    """One fold of a benchmark; `support` is the object `query` if both use one dataset."""

    benchmark: Benchmark
    query: Fold
    support: Fold
    query_root: Path
    support_root: Path


def find_roots(plan: Benchmark | str, root: Path | str, support_root: Path | str | None = None) -> tuple[Path, Path]:
    """Folders of the query and the support dataset below the data folder `root`.

    `root` may also be the query dataset's folder, for a benchmark of one dataset or with `support_root`.
    Raises FileNotFoundError with the names tried, ValueError for a `support_root` that would not be used.
    """
    plan = benchmark(plan) if isinstance(plan, str) else plan
    one = plan.query == plan.support
    if one and support_root:
        raise ValueError(f"{support_root}: {plan.name} takes its support from {plan.query} too; leave support_root out")
    query_root = find_root(plan.query, root, itself=one or bool(support_root))
    return query_root, query_root if one else find_root(plan.support, support_root or root, itself=bool(support_root))


def read_tables(plan: Benchmark, query_root: Path, support_root: Path) -> dict[str, dict[str, Any]]:
    """Class tables of a benchmark's datasets, by dataset."""
    if plan.query == plan.support:
        return {plan.query: read_table(plan.query, query_root, plan.novel)}
    support, own_table = read_table(plan.support, support_root), find_dataset(plan.query).own_table
    query = own_table(query_root, support) if own_table else read_table(plan.query, query_root)
    return {plan.query: query, plan.support: support}


def read_benchmark(
    plan: Benchmark | str,
    fold: int,
    root: Path | str,
    support_root: Path | str | None = None,
    on_error: OnError = raise_first,
) -> BenchmarkData:
    """Read one fold of a benchmark; `root` as for `find_roots`, `on_error` as for `read_fold`."""
    plan = benchmark(plan) if isinstance(plan, str) else plan
    roots = find_roots(plan, root, support_root)
    tables = read_tables(plan, *roots)
    query = read_fold(plan.query, fold, roots[0], tables[plan.query], on_error)
    one = plan.query == plan.support
    support = query if one else read_fold(plan.support, fold, roots[1], tables[plan.support], on_error)
    return BenchmarkData(plan, query, support, *roots)


def read_training(plan: Benchmark | str, fold: int, root: Path | str) -> tuple[Fold, Path]:
    """The fold of base training and its dataset's folder; `root` is that folder or a data folder."""
    plan = benchmark(plan) if isinstance(plan, str) else plan
    folder = find_root(plan.trained_on, root)
    return read_fold(plan.trained_on, fold, folder), folder


def draw_episodes(
    data: BenchmarkData,
    shots: int,
    seed: int = 2020,
    run: int = 0,
    draws: str = "released",
    on_error: OnError = raise_first,
) -> tuple[Episode, ...]:
    """Sample the episodes of one run of a benchmark.

    "released": random numbers in the release's order, one stream for all runs; with `per_run`, that many images or
    frames of the repeated list. "independent": each video (and class), image or sequence is a query once, its support
    depends on no other episode. `on_error` gets a class with too few videos for `shots`; the default raises ValueError.
    """
    check_request(shots=shots, run=run, seed=seed)
    plan, reported = data.benchmark, set()

    def report(error: Exception) -> None:
        if str(error) not in reported:  # later epochs meet the same class again
            reported.add(str(error))
            on_error(error)

    if draws == "independent":
        samples = sample_independent(plan.draws, data.query, data.support, shots, seed, run, report)
    elif draws == "released":
        epoch = sampler(plan.draws, data.query, data.support, shots, seed, report)
        samples = samples_of_run(epoch, run, plan.per_run)
        samples = group_into_batches(samples, plan.batch) if plan.batch else samples
    else:
        raise ValueError(f'draws {draws!r} is not known; choose "released" or "independent"')
    episodes = tuple(episode_of(sample, data.query, data.support, seed, run) for sample in samples)
    if not episodes:
        novel = ", ".join(data.query.names[number] for number in data.query.novel)
        about = f"fold {data.query.index} has no query that contains a novel class ({novel})"
        report(ValueError(f"{data.query_root}: {about}; choose another fold, or run ttilib doctor {plan.name}"))
    return episodes

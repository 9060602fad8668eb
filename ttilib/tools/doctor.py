"""Check whether the data of a benchmark is complete and intact: files, folds, episodes, overlap with base training.

`examine` continues after errors and changes nothing on disk; `prepare` writes what makes later runs faster.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import PIL

from ttilib.datasets.base import OnError, raise_first
from ttilib.datasets.catalog import Fold, base_classes, find_dataset
from ttilib.datasets.masks import CENSUS, census, map_files
from ttilib.datasets.youtube_vis import ytvis_index
from ttilib.episodes.benchmarks import Benchmark, BenchmarkData, find_roots, read_benchmark, read_tables
from ttilib.episodes.benchmarks import benchmark as find_benchmark
from ttilib.episodes.sampling import query_videos, sampler, shared_classes
from ttilib.files import write_json
from ttilib.results.records import provenance
from ttilib.tools import doctor_checks as checks
from ttilib.tools.doctor_checks import ERROR, NOTE, WARNING, Finding


@dataclass(frozen=True)
class Report:
    """Result for one benchmark: folder of each dataset, number of files checked, contents of folds, findings."""

    benchmark: str
    roots: Mapping[str, str]
    files: Mapping[str, int]
    folds: Mapping[str, Mapping[str, Any]]
    findings: tuple[Finding, ...]
    seconds: float
    versions: Mapping[str, str]

    @property
    def totals(self) -> dict[str, int]:
        """Number of findings by severity, worst first."""
        return {kind: sum(f.severity == kind for f in self.findings) for kind in (ERROR, WARNING, NOTE)}

    @property
    def ok(self) -> bool:
        """Whether there is no error; warnings and notes do not count."""
        return not self.totals[ERROR]

    def text(self, limit: int = 20) -> str:
        """Readable report: verdict, counts, then at most `limit` findings per severity and fix, worst first."""
        totals = ", ".join(_number(count, kind) for kind, count in self.totals.items())
        files = ", ".join(_number(count, kind.removesuffix("s")) for kind, count in self.files.items())
        lines = [
            f"{self.benchmark}: {'ready' if self.ok else 'not ready'} ({totals})",
            "; ".join(f"{name} in {root}" for name, root in self.roots.items()) or "no data found",
            f"checked {files or 'no files'} in {self.seconds:.1f} s", *(["", self._table()] if self.folds else []),
        ]  # fmt: skip
        for fold, counts in self.folds.items():
            novel = [row for row in counts["classes"] if row["part"] == "novel"]
            support = [f" (support: {row['support']})" if "support" in row else "" for row in novel]
            videos = (f"{row['name']} {row['videos']}{more}" for row, more in zip(novel, support, strict=True))
            lines.append(f"fold {fold}: {', '.join(videos)}")
        for kind, count in self.totals.items():
            if count:
                lines += ["", _number(count, kind).upper(), *self._listed(kind, limit)]
        return "\n".join(lines)

    def _table(self) -> str:
        """A row per fold: classes, base training videos, query videos, episodes of a run."""
        rows = []
        for fold, counts in self.folds.items():
            parts = [row["part"] for row in counts["classes"]]
            row = {"fold": fold, "base": parts.count("base"), "novel": parts.count("novel")}
            splits = {split: counts[split] for split in ("training", "validation", "queries")}
            row |= {split: "-" if count is None else count for split, count in splits.items()}
            rows.append(row | {f"{k}-shot": count for k, count in counts["episodes"].items()})
        note = "(training, validation, queries: videos or images; k-shot: episodes of a run, or its single frames)"
        return f"{pd.DataFrame(rows).to_string(index=False, col_space=10)}\n{note}"

    def _listed(self, kind: str, limit: int) -> Iterator[str]:
        """The findings of one severity, grouped by fix."""
        own = [finding for finding in self.findings if finding.severity == kind]
        for fix in dict.fromkeys(finding.fix for finding in own):
            found = [f"    {finding.file}: {finding.found}" for finding in own if finding.fix == fix]
            yield f"  {fix}" if kind == NOTE else f"  to do: {fix}"
            yield from found[:limit]
            if len(found) > limit:
                yield f"    and {len(found) - limit} more"


def _number(count: int, kind: str) -> str:
    return f"{count} {kind}" + ("" if count == 1 else "s")


def write_report(path: Path | str, report: Report) -> None:
    """Write a report atomically as JSON."""
    write_json(path, {"ok": report.ok, "totals": report.totals, **asdict(report)})


def count_fold(query: Fold, support: Fold, trained: Fold | None) -> dict[str, Any]:
    """Videos and frames of each class of a fold, and the number of videos of each split.

    `trained`: fold of base training, if it is on this data. With support of another dataset, novel classes also have
    their number of support videos.
    """
    ids = shared_classes(support, query)
    novel = [_class_row(query, number, "novel") for number in query.novel]
    if query is not support:
        for row in novel:
            row["support"] = len(support.presence.get(ids.get(row["id"], -1), {}))
    base, sizes = [], dict.fromkeys(("training", "validation"))
    if trained is not None:
        splits = {"training": set(trained.train), "validation": set(trained.val)}
        sizes = {split: len(names) for split, names in splits.items()}
        for number in trained.base:
            videos = trained.presence.get(number, {}).keys()
            shown = {split: len(videos & names) for split, names in splits.items()}
            base.append(_class_row(trained, number, "base") | shown)
    return {"classes": novel + base, **sizes, "queries": len(list(query_videos(query)))}


def _class_row(fold: Fold, number: int, part: str) -> dict[str, Any]:
    videos = fold.presence.get(number, {})
    frames = sum(map(len, videos.values()))
    return {"id": number, "name": fold.names[number], "part": part, "videos": len(videos), "frames": frames}


def examine(
    benchmark: str, root: Path | str, folds: Sequence[int] = (0, 1, 2, 3), shots: Sequence[int] = (1, 5),
    support_root: Path | str | None = None, thorough: bool = False, workers: int = 1,
) -> Report:  # fmt: skip
    """Check all data of a benchmark.

    `root`, `support_root`: as for `read_benchmark`. `thorough`: decode every image and annotation; otherwise only the
    header and the end mark of an image are read. `workers`: processes, see `parallel_map`.
    Raises ValueError for an unknown benchmark; all defects of the data are in the report.
    """
    begin, plan = time.perf_counter(), find_benchmark(benchmark)
    found = _Examination(plan, thorough, workers)
    try:
        query_root, other = find_roots(plan, root, support_root)
        found.roots = {plan.query: query_root, plan.support: other}
    except (ValueError, OSError) as error:
        missing = checks.finding_of(error, root)
        layouts = [checks.layout_text(find_dataset(name), name) for name in dict.fromkeys((plan.query, plan.support))]
        found.add([replace(missing, fix="; ".join([missing.fix, *layouts]))])
    for name, folder in found.roots.items():
        found.add(checks.check_layout(find_dataset(name), folder))
    counts = {}
    if not found.wrong and all([found.dataset(name) for name in found.roots]):
        for fold in folds:
            try:
                counts[str(fold)] = found.fold(read_benchmark(plan, fold, root, support_root, found.report), shots)
            except (ValueError, OSError) as error:
                found.report(error, found.roots[plan.query])
    roots = {name: str(folder) for name, folder in found.roots.items()}
    origin = provenance()
    versions = {name: str(origin[name]) for name in ("ttilib", "python", "numpy", "cv2")} | {"pillow": PIL.__version__}
    seconds = round(time.perf_counter() - begin, 3)
    return Report(benchmark, roots, found.files, counts, tuple(found.findings), seconds, versions)


class _Examination:
    """Findings so far, without duplicates."""

    def __init__(self, plan: Benchmark, thorough: bool, workers: int) -> None:
        self.plan, self.thorough, self.workers = plan, thorough, workers
        self.roots: dict[str, Path] = {}
        self.labels: dict[str, dict[str, set[int]]] = {}  # dataset to video to all labels in it
        self.files = {"images": 0, "masks": 0}
        self.findings: dict[Finding, None] = {}
        self.wrong: set[str] = set()

    def add(self, findings: Iterable[Finding]) -> None:
        """Add findings."""
        for finding in findings:
            self.findings[finding] = None
            if finding.severity == ERROR:
                self.wrong.add(finding.file)

    def report(self, error: Exception, file: Path | str = "") -> None:
        """Add an error of a scan, unless the file has an error already; `file`: if the error names none."""
        finding = checks.finding_of(error, file)
        if finding.file not in self.wrong:
            self.findings[finding] = None

    def dataset(self, name: str) -> bool:
        """Check all files of a dataset; returns whether its folds can be read. Later scans reuse counted labels."""
        root, dataset = self.roots[name], find_dataset(name)
        try:
            table = read_tables(self.plan, self.roots[self.plan.query], self.roots[self.plan.support])[name]
            frames = dataset.files(root, table, self.report) if dataset.files else {}
            self.files["images"] += len(frames)
            check = partial(checks.check_frame, thorough=self.thorough)
            for _, findings in map_files(check, list(frames.values()), self.workers, f"checking {name}"):
                self.add(findings)
            if name == "ytvis":
                self.add(checks.check_ytvis(ytvis_index(root), table.get("expected", {}).get("videos")))
                return True
            videos = {f.mask: frame.split("/")[0] for frame, f in frames.items() if f.mask and f.mask.exists()}
            colours = getattr(dataset.reader(root), "colours", None)
            counts = census(list(videos), self.report, self.workers, root / CENSUS, colours)
            self.files["masks"] += len(videos)
            rule, labels = dataset.labels(root, table), self.labels.setdefault(name, {})
            for path, found in counts.items():
                self.add(checks.check_labels(path, found, *rule))
                labels.setdefault(videos[path], set()).update(found)
            if name == "minivspw":
                self.add(checks.check_flow(root, table, self.report))
        except (ValueError, OSError) as error:
            self.report(error, root / "train" / "train.json" if name == "ytvis" else root)
            return False
        return True

    def fold(self, data: BenchmarkData, shots: Sequence[int]) -> dict[str, Any]:
        """Check the episodes of a fold and its overlap with base training; returns its counts."""
        plan, query, support = data.benchmark, data.query, data.support
        self.add(checks.check_coverage(query, support, plan.draws, shots))
        trained = support if plan.trained_on == plan.support else None
        if trained is None:
            self.add(checks.check_names(query, plan.trained_on, base_classes(plan.trained_on, query.index)))
        else:
            known = {video: {c for c, seen in trained.presence.items() if video in seen} for video in trained.frames}
            labels = self.labels.get(trained.corpus, known)
            self.add(checks.check_leakage(trained, labels, find_dataset(trained.corpus).others_ignored))
        self.add(checks.check_draws(query, support, plan.draws))
        episodes = {}
        for k in shots:
            drawn = tuple(sampler(plan.draws, query, support, k, on_error=lambda error: None)())  # coverage was checked
            episodes[str(k)] = plan.per_run if plan.per_run and drawn else len(drawn)
        return {**count_fold(query, support, trained), "episodes": episodes}


def prepare(
    name: str, root: Path | str, support_root: Path | str | None = None, workers: int = 1,
    on_error: OnError = raise_first,
) -> dict[Path, int]:  # fmt: skip
    """Write the masks of COCO, and count the labels of all masks into lists/census.json of each dataset.

    Returns the files written, with the number of masks counted in each. Existing masks are neither written nor counted
    again. Unusable files are reported to `on_error`.
    """
    plan, written = find_benchmark(name), {}
    roots = find_roots(plan, root, support_root)
    tables = read_tables(plan, *roots)
    for corpus, folder in dict(zip((plan.query, plan.support), roots, strict=True)).items():
        dataset = find_dataset(corpus)
        if dataset.make_masks:
            dataset.make_masks(folder, on_error, workers)
        files = dataset.files(folder, tables[corpus], on_error) if dataset.files else {}
        masks = [frame.mask for frame in files.values() if frame.mask is not None]
        if masks:
            colours = getattr(dataset.reader(folder), "colours", None)
            written[folder / CENSUS] = len(census(masks, on_error, workers, folder / CENSUS, colours, save=True))
    return written

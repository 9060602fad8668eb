"""The data doctor: is the data of a benchmark whole, before anybody runs anything?

`examine` compares the folders with the layout that is expected, opens every picture's header and counts every
mask, reads all folds, draws their episodes, and looks for what must not be: too few videos for the shots asked,
classes or videos that base training has seen. A file that cannot be used does not hide the next one, and nothing
is changed on disk. The answer is a `Report`; `write_report` keeps one.

What an examination of a data folder found, as a value: to be kept as JSON and to be read by people.

A `Report` has the counts of every fold and all findings. On paper, findings that are mended in the same way stand
together, worst first, and of many only the first are shown; the JSON has every one of them.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL

from ttilib.datasets.base import FrameFiles
from ttilib.datasets.catalog import Fold, find_dataset, read_table
from ttilib.datasets.masks import census
from ttilib.datasets.vspw import FLOW, minivspw_listed, vspw_folder
from ttilib.datasets.youtube_vis import ytvis_index
from ttilib.episodes.benchmarks import Benchmark, BenchmarkData, find_roots, read_benchmark, read_tables
from ttilib.episodes.benchmarks import benchmark as find_benchmark
from ttilib.episodes.sampling import passes, shared_classes
from ttilib.files import natural_key, write_json
from ttilib.tools.doctor_checks import (
    ERROR,
    NOTE,
    WARNING,
    Finding,
    check_coverage,
    check_draws,
    check_flow,
    check_frames,
    check_labels,
    check_layout,
    check_leakage,
    check_names,
    check_ytvis,
    told,
    tree,
    visible,
    ytvis_form,
)

COLUMNS = {"fold": 4, "base": 6, "novel": 7, "training": 10, "validation": 12, "asked": 7}


def count_fold(query: Fold, support: Fold, trained: Fold | None) -> dict[str, Any]:
    """How much of everything a fold has: each class with its videos and frames, and the videos of each split.

    `trained`: the fold of base training, if its corpus is here. A novel class also has the number of videos that
    can support it, if those are of another corpus.
    """
    ids = shared_classes(support, query)
    rows = []
    for number in query.novel:
        row = _class_row(query, number, "novel")
        if query is not support:
            row["support"] = len(support.presence.get(ids.get(number, -1), {}))
        rows.append(row)
    for number in trained.base if trained is not None else ():
        split = {"training": trained.train, "validation": trained.val}
        seen = set(trained.presence.get(number, {}))
        rows.append({**_class_row(trained, number, "base"), **{part: len(seen & set(v)) for part, v in split.items()}})
    asked = {video for number in query.novel for video in query.presence.get(number, {})}
    return {
        "classes": rows,
        "training": None if trained is None else len(set(trained.train)),
        "validation": None if trained is None else len(set(trained.val)),
        "asked": len(asked),
    }


def _class_row(fold: Fold, number: int, part: str) -> dict[str, Any]:
    seen = fold.presence.get(number, {})
    frames = sum(len(frames) for frames in seen.values())
    return {"id": number, "name": fold.names[number], "part": part, "videos": len(seen), "frames": frames}


@dataclass(frozen=True)
class Report:
    """The state of the data of one benchmark.

    `roots`: corpus to folder; `files`: how many pictures and masks were looked at; `folds`: what each fold holds,
    by its number as text; `limit_per_kind`: so many findings with the same advice are shown on paper.
    """

    benchmark: str
    roots: Mapping[str, str]
    files: Mapping[str, int]
    folds: Mapping[str, Mapping[str, Any]]
    findings: tuple[Finding, ...]
    seconds: float
    versions: Mapping[str, str]
    limit_per_kind: int = 20

    @property
    def totals(self) -> dict[str, int]:
        """Number of findings by severity, worst first."""
        return {kind: sum(f.severity == kind for f in self.findings) for kind in (ERROR, WARNING, NOTE)}

    @property
    def ok(self) -> bool:
        """Whether there is no error; warnings and notes do not stop anybody."""
        return not self.totals[ERROR]

    def as_json(self) -> dict[str, Any]:
        """Everything, in plain lists, dictionaries, texts and numbers."""
        content = asdict(self)
        content.pop("limit_per_kind")
        content["findings"] = [asdict(finding) for finding in self.findings]
        return {"ok": self.ok, "totals": self.totals, **content}

    def text(self) -> str:
        """A page for people: verdict, counts, then errors, warnings and notes with what to do about them."""
        totals = ", ".join(_number(count, kind) for kind, count in self.totals.items())
        where = "; ".join(f"{corpus} in {root}" for corpus, root in self.roots.items()) or "no data found"
        looked = ", ".join(_number(count, kind.removesuffix("s")) for kind, count in self.files.items())
        lines = [f"{self.benchmark}: {'ready' if self.ok else 'not ready'} ({totals})", where]
        lines += [f"looked at {looked or 'no files'} in {self.seconds:.1f} s"]
        lines += [*self._table(), *self._novel()]
        for kind, count in self.totals.items():
            if count:
                lines += ["", _number(count, kind).upper(), *self._listed(kind)]
        return "\n".join(lines)

    def _table(self) -> Iterator[str]:
        """A row for each fold: classes, videos of base training, videos asked about, episodes of a run."""
        shots = sorted({int(k) for counts in self.folds.values() for k in counts["episodes"]})
        if not self.folds:
            return
        yield ""
        header = [f"{name:>{width}}" for name, width in COLUMNS.items()]
        yield "".join([*header, *(f"{f'{k}-shot':>9}" for k in shots)])
        for fold, counts in self.folds.items():
            classes = [row["part"] for row in counts["classes"]]
            splits = ("-" if counts[c] is None else counts[c] for c in list(COLUMNS)[3:])
            cells = [fold, classes.count("base"), classes.count("novel"), *splits]
            row = [f"{cell:>{width}}" for cell, width in zip(cells, COLUMNS.values(), strict=True)]
            yield "".join([*row, *(f"{counts['episodes'].get(str(k), '-'):>9}" for k in shots)])
        yield "(training, validation, asked: videos or stills; k-shot: episodes of a run, or its frames if one by one)"

    def _novel(self) -> Iterator[str]:
        """The novel classes of each fold with the videos that show them, and where else their support is."""
        for fold, counts in self.folds.items():
            rows = [row for row in counts["classes"] if row["part"] == "novel"]
            shown = (f"{row['name']} {row['videos']}{_pool(row)}" for row in rows)
            yield f"fold {fold}: {', '.join(shown)}"

    def _listed(self, kind: str) -> Iterator[str]:
        groups: dict[str, list[Finding]] = {}
        for finding in self.findings:
            if finding.severity == kind:
                groups.setdefault(finding.mend, []).append(finding)
        for mend, findings in groups.items():
            yield f"  to do: {mend}"
            yield from (f"    {f.file}: {f.found}" for f in findings[: self.limit_per_kind])
            if (more := len(findings) - self.limit_per_kind) > 0:
                yield f"    and {more} more"


def _number(count: int, kind: str) -> str:
    return f"{count} {kind}" + ("" if count == 1 else "s")


def _pool(row: Mapping[str, Any]) -> str:
    return f" (support: {row['support']})" if "support" in row else ""


def write_report(path: Path | str, report: Report) -> None:
    """Keep a report as JSON, whole or not at all."""
    write_json(path, report.as_json())


__all__ = ["Report", "examine", "write_report"]

WRONG = (ValueError, OSError, LookupError, TypeError, AttributeError)
"""What reading a file of an unforeseen form may raise."""

Shows = dict[str, set[int]]
"""Video to every label that is anywhere in it."""


def examine(
    benchmark: str,
    root: Path | str,
    folds: Sequence[int] = (0, 1, 2, 3),
    shots: Sequence[int] = (1, 5),
    support_root: Path | str | None = None,
    thorough: bool = False,
    workers: int = 1,
    limit_per_kind: int = 20,
) -> Report:
    """Look at everything that a benchmark reads, and say what was found.

    `root`, `support_root`: as for `read_benchmark`. `thorough` decodes every photograph and outline; otherwise a
    photograph's header and end mark are enough. `workers`: processes (fresh interpreters, so a script needs its
    `__main__` guard). `limit_per_kind`: findings with the same advice that the report shows on paper.

    Raises ValueError if there is no such benchmark; whatever is wrong with the data is in the report.
    """
    begin, visit = time.perf_counter(), _Visit(find_benchmark(benchmark), thorough, workers)
    try:
        query_root, other = find_roots(visit.plan, root, support_root)
        visit.roots = {visit.plan.query: query_root, visit.plan.support: other}
    except WRONG as error:
        missing = told(error, root)
        trees = [tree(find_dataset(corpus), corpus) for corpus in dict.fromkeys((visit.plan.query, visit.plan.support))]
        visit.add([replace(missing, mend="; ".join([missing.mend, *trees]))])
    for corpus, place in visit.roots.items():
        visit.add(check_layout(find_dataset(corpus), place))
    counts = {}
    layout_stands = not any(finding.severity == ERROR for finding in visit.findings)
    if layout_stands and all([visit.corpus(corpus) for corpus in visit.roots]):
        for fold in folds:
            try:
                data = read_benchmark(visit.plan, fold, root, support_root, visit.tell)
                counts[str(fold)] = visit.fold(data, shots)
            except WRONG as error:
                visit.tell(error, visit.roots[visit.plan.query])
    places = {corpus: str(place) for corpus, place in visit.roots.items()}
    seconds, findings = round(time.perf_counter() - begin, 3), tuple(visit.findings)
    return Report(benchmark, places, visit.files, counts, findings, seconds, _versions(), limit_per_kind)


class _Visit:
    """One examination: what it has found so far, each thing once."""

    def __init__(self, plan: Benchmark, thorough: bool, workers: int) -> None:
        self.plan, self.thorough, self.workers = plan, thorough, workers
        self.roots: dict[str, Path] = {}
        self.shows: dict[str, Shows] = {}
        self.files = {"pictures": 0, "masks": 0}
        self.findings: dict[Finding, None] = {}
        self.wrong: set[str] = set()

    def add(self, findings: Iterable[Finding]) -> None:
        """Keep findings."""
        for finding in findings:
            self.findings[finding] = None
            if finding.severity == ERROR:
                self.wrong.add(finding.file)

    def tell(self, error: Exception, place: Path | str = "") -> None:
        """Keep an error of a scan, unless the file is known to be wrong."""
        finding = told(error, place)
        if finding.file not in self.wrong:
            self.findings[finding] = None

    def corpus(self, corpus: str) -> bool:
        """Look at all files of a corpus; whether its folds can be read at all."""
        root = self.roots[corpus]
        try:
            if corpus == "ytvis" and (wrong := ytvis_form(root / "train" / "train.json")):
                self.add(wrong)
                return False
            table = read_tables(self.plan, self.roots[self.plan.query], self.roots[self.plan.support])[corpus]
            files = find_dataset(corpus).files
            frames = files(root, table, self.tell) if files else {}
            self.files["pictures"] += len(frames)
            for findings in check_frames(list(frames.values()), f"{corpus} files", self.thorough, self.workers):
                self.add(findings)
            if corpus == "ytvis":
                self.add(check_ytvis(ytvis_index(root), table.get("expected", {}).get("videos"), self.thorough))
            else:
                self._masks(corpus, table, frames)
            if corpus == "minivspw":
                self._flow(table)
        except WRONG as error:
            self.tell(error, root)
            return False
        return True

    def _masks(self, corpus: str, table: Mapping[str, Any], frames: Mapping[str, FrameFiles]) -> None:
        """Count the labels of all masks, once and for all scans to come, and look at what they are."""
        root, names = self.roots[corpus], {shown.mask: frame for frame, shown in frames.items()}
        paths = [path for path in names if path is not None and path.exists()]
        colours = getattr(find_dataset(corpus).reader(root), "colours", None)
        counts = census(paths, self.tell, self.workers, root / "lists" / "census.json", colours)
        labels, shows = find_dataset(corpus).labels(root, table), self.shows.setdefault(corpus, {})
        self.files["masks"] += len(paths)
        for path, found in counts.items():
            self.add(check_labels(path, found, *labels))
            shows.setdefault(names[path].split("/")[0], set()).update(found)

    def _flow(self, table: Mapping[str, Any]) -> None:
        """The flow that the release asks for, of all frames in its lists; without any, the layout was told of."""
        root = self.roots["minivspw"]
        folder, kept = vspw_folder(root), {}
        for novel in table["novel"]:
            for name, frames in minivspw_listed(root, novel, table["ignored"], self.tell)[0].items():
                kept[name] = tuple(sorted({*kept.get(name, ()), *frames}, key=natural_key))
        if any(folder.glob(f"*/flow/*{FLOW}")):
            names = {name: [frame.split("/")[1] for frame in frames] for name, frames in kept.items()}
            self.add(check_flow(folder, names))

    def fold(self, data: BenchmarkData, shots: Sequence[int]) -> dict[str, Any]:
        """Look at what a fold can be drawn from and what training sees of it; its counts are returned."""
        plan, query, support = data.benchmark, data.query, data.support
        self.add(check_coverage(query, support, plan.draws, shots))
        trained = support if plan.trained_on == plan.support else None
        if trained is None:
            self.add(check_names(query, plan.trained_on, _base_names(plan.trained_on, query.index)))
        else:
            shows = self.shows.get(trained.corpus) or visible(trained)
            self.add(check_leakage(trained, shows, ignored=find_dataset(trained.corpus).others_ignored))
        episodes = {}
        for k in shots:
            drawn = tuple(passes(plan.draws, query, support, k, on_error=lambda error: None)())  # coverage was checked
            self.add(check_draws(query, support, plan.draws, drawn))
            episodes[str(k)] = plan.per_run if plan.per_run and drawn else len(drawn)
        return {**count_fold(query, support, trained), "episodes": episodes}


def _base_names(corpus: str, fold: int) -> set[str]:
    """Names of the classes that training on a corpus of which no data is here has learned."""
    table = read_table(corpus)
    return {name for number, name in table["classes"].items() if number not in table["novel"][fold]}


def _versions() -> dict[str, str]:
    """With what the files were read."""
    try:
        own = version("ttilib")
    except PackageNotFoundError:
        own = "not installed"
    read_with = {"numpy": np.__version__, "cv2": cv2.__version__, "pillow": PIL.__version__}
    return {"ttilib": own, "python": platform.python_version(), **read_with}

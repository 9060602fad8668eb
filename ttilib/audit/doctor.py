"""The data doctor: is the data of a benchmark whole, before anybody runs anything?

`examine` compares the folders with the layout that is expected, opens every picture's header and counts every
mask, reads all folds, draws their episodes, and looks for what must not be: too few videos for the shots asked,
classes or videos that base training has seen. A file that cannot be used does not hide the next one, and nothing
is changed on disk. The answer is a `Report`; `write_report` keeps one.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL

from ttilib.audit.annotations import check_ytvis, ytvis_form
from ttilib.audit.inventory import check_layout, frames_of, labels_of, tree
from ttilib.audit.leakage import check_coverage, check_draws, check_leakage, check_names, visible
from ttilib.audit.report import Report, count_fold, write_report
from ttilib.audit.soundness import ERROR, Finding, Shown, check_flow, check_frames, check_labels, told
from ttilib.corpora.census import census
from ttilib.corpora.minivspw import FLOW, minivspw_listed, minivspw_table
from ttilib.corpora.registry import READERS
from ttilib.corpora.sequences import vspw_folder
from ttilib.corpora.ytvis import ytvis_index
from ttilib.data.benchmarks import Benchmark, BenchmarkData, find_roots, read_benchmark
from ttilib.data.benchmarks import benchmark as find_benchmark
from ttilib.data.lists import read_table
from ttilib.data.released import passes

__all__ = ["Report", "examine", "write_report"]

WRONG = (ValueError, OSError, LookupError, TypeError, AttributeError)
"""What reading a file of an unforeseen form may raise."""

IGNORING = ("pascal", "coco", "coco-full")
"""Corpora on which training ignores the pixels of classes that are not base; elsewhere they are background."""

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
        trees = [tree(corpus, corpus) for corpus in dict.fromkeys((visit.plan.query, visit.plan.support))]
        visit.add([replace(missing, mend="; ".join([missing.mend, *trees]))])
    for corpus, place in visit.roots.items():
        visit.add(check_layout(corpus, place))
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
            table = self._table(corpus)
            frames = frames_of(corpus, root, table, self.tell)
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

    def _table(self, corpus: str) -> dict[str, Any]:
        if corpus == "minivspw":
            return minivspw_table(self.roots[corpus], read_table("pascal", self.roots["pascal"]))
        novel = self.plan.novel if corpus == self.plan.query else "novel"
        return read_table(corpus, self.roots[corpus], novel)

    def _masks(self, corpus: str, table: Mapping[str, Any], frames: Mapping[str, Shown]) -> None:
        """Count the labels of all masks, once and for all scans to come, and look at what they are."""
        root, names = self.roots[corpus], {shown.mask: frame for frame, shown in frames.items()}
        paths = [path for path in names if path is not None and path.exists()]
        colours = getattr(READERS[corpus](root), "colours", None)
        counts = census(paths, self.tell, self.workers, root / "lists" / "census.json", colours)
        labels, shows = labels_of(corpus, root, table), self.shows.setdefault(corpus, {})
        self.files["masks"] += len(paths)
        for path, found in counts.items():
            self.add(check_labels(path, found, *labels))
            shows.setdefault(names[path].split("/")[0], set()).update(found)

    def _flow(self, table: Mapping[str, Any]) -> None:
        """The flow that the release asks for, of all frames in its lists; without any, the layout was told of."""
        root = self.roots["minivspw"]
        folder, listed = vspw_folder(root), minivspw_listed(root, set(table["classes"]), self.tell)
        kept = {name: frames for name, frames in listed.items() if name not in table["ignored"]}
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
            self.add(check_leakage(trained, shows, ignored=trained.corpus in IGNORING))
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

"""What an examination of a data folder found, as a value: to be kept as JSON and to be read by people.

A `Report` has the counts of every fold and all findings. On paper, findings that are mended in the same way stand
together, worst first, and of many only the first are shown; the JSON has every one of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ttilib.audit.soundness import ERROR, NOTE, WARNING, Finding
from ttilib.data.draws import shared_classes
from ttilib.data.lists import Fold
from ttilib.files import write_json

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

"""The index of a table: which files of rows it is made from, and what else is known of them.

Rows, masks and manifests lie in one run folder; the index <out>/rows/<name>.json names them by their places in it, so
that the folder can be moved. Whoever draws a table reads the index, and needs no model for it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttilib.files import write_json
from ttilib.scores.records import code_digest


@dataclass(frozen=True)
class Source:
    """A file of rows: the manifest of its episodes, the benchmark they are of, and height and width of the input."""

    rows: Path
    manifest: Path
    benchmark: str
    size: tuple[int, int]


def masks_beside(rows: Path | str) -> Path:
    """Where the masks of a file of rows lie."""
    return Path(rows).parent.parent / "masks" / Path(rows).name


def write_index(
    out: Path | str,
    name: str,
    title: str,
    lines: Sequence[Mapping[str, Any]],
    sources: Sequence[Source],
    weights: Mapping[str, str],
) -> Path:
    """Write <out>/rows/<name>.json and return it.

    `lines` are those of the table, each with benchmark, shots, encoder and method, and perhaps `why` it is empty;
    `weights` says which encoder is which. The digest of the program's text is noted as well.
    """
    files = {_within(out, source.rows): source for source in sources}
    about = {
        "name": name, "title": title, "lines": [dict(line) for line in lines], "files": list(files),
        "masks": {file: _within(out, masks_beside(source.rows)) for file, source in files.items()},
        "manifests": {
            file: {"path": _within(out, at.manifest), "benchmark": at.benchmark, "size": list(at.size)}
            for file, at in files.items()
        },
        "code": code_digest(), "weights": dict(weights),
    }  # fmt: skip
    path = Path(out) / "rows" / f"{name}.json"
    write_json(path, about)
    return path


def _within(out: Path | str, path: Path) -> str:
    """The path as seen from the run folder."""
    return Path(os.path.relpath(Path(path).resolve(), Path(out).resolve())).as_posix()

"""One line per finished episode, safe on disk the moment it is written.

An evaluation takes hours and is stopped, resumed, and shared by several processes. So every finished episode
is one line of JSON at the end of one file: nothing is rewritten, writers take turns, and what a killed
writer leaves behind (part of a line) is recognised, reported and cleared by the next one.

`append_row` writes, `read_rows` reads, `done_keys` says what need not be done again, and `holding` keeps a second
process that was given the same work waiting until the first is through. `made`, `code_digest` and `provenance`, from
`origins`, tell with which program and on which machine: numbers without it cannot be compared.

The index of a table: which files of rows it is made from, and what else is known of them.

Rows, masks and manifests lie in one run folder; the index <out>/rows/<name>.json names them by their places in it, so
that the folder can be moved. Whoever draws a table reads the index, and needs no model for it.

Predicted masks on disk, so that a figure of them needs no second run.

A line of JSON holds the masks of one episode under one method, each frame as run lengths in COCO's compressed form: a
few hundred bytes per frame. Lines are written as rows are (see `records`), so a killed writer loses its own line only.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from jaxtyping import Bool
from pycocotools import mask as runs
from torch import Tensor

from ttilib.datasets.masks import decode
from ttilib.files import write_json
from ttilib.results.metrics import Masks, as_masks
from ttilib.results.provenance import code_digest, made, provenance

try:
    import fcntl
except ImportError:  # Windows has no such lock: one writer at a time there
    fcntl = None

__all__ = ["append_row", "code_digest", "done_keys", "holding", "made", "provenance", "read_rows"]


def _plain(value: Any) -> Any:
    """The value in the types JSON knows: NumPy numbers as numbers, paths as text, nan as null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (np.generic, np.ndarray, torch.Tensor)):
        return _plain(value.tolist())
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value


def _row(line: bytes) -> dict[str, Any] | None:
    """The row a line holds, or None if the line is not one whole JSON object."""
    try:
        row = json.loads(line.decode("utf-8"))
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


@contextmanager
def _alone(file: IO[bytes]) -> Iterator[None]:
    """Hold the file against the other writers of this project (advisory lock, gone with the process)."""
    if fcntl is None:
        yield
        return
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


def _mend(file: IO[bytes], path: Path) -> bytes:
    """Clear what a killed writer left at the end of the file; what must go before the next line.

    A whole row that only lacks its line end is kept; part of a row is cut off, with a warning.
    """
    size = file.seek(0, os.SEEK_END)
    tail, start = b"", size
    while start and b"\n" not in tail:
        step = min(4096, start)
        start = file.seek(start - step)
        tail = file.read(step) + tail
    torn = tail[tail.rfind(b"\n") + 1 :]
    if not torn:
        return b""
    if _row(torn) is not None:
        return b"\n"
    warnings.warn(
        f"{path}: cut off {len(torn)} bytes of an unfinished last line; that episode was not recorded",
        stacklevel=3,
    )
    file.truncate(size - len(torn))
    return b""


def append_row(path: Path | str, row: Mapping[str, Any]) -> None:
    """Add one row to the file as a line of JSON, on disk when the call returns.

    Several processes may append to the same file: each line is written whole under an advisory lock. NumPy
    numbers become numbers, paths text, nan and infinity null. The folder is made if it is missing.

    Raises TypeError if a value has no form in JSON.
    """
    path = Path(path)
    try:
        line = json.dumps(_plain(row), ensure_ascii=False, allow_nan=False).encode("utf-8") + b"\n"
    except TypeError as error:
        raise TypeError(f"{path}: this row cannot be written as JSON ({error}); use plain values") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file, _alone(file):
        file.write(_mend(file, path) + line)
        file.flush()
        os.fsync(file.fileno())


def read_rows(path: Path | str) -> list[dict[str, Any]]:
    """All rows of the file, in the order written.

    A last line that is not whole (its writer was killed, or is writing this moment) is left out with a
    warning: its episode is simply not done yet. Empty lines are skipped.

    Raises FileNotFoundError if there is no such file, ValueError naming the line if any other line is broken.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of records; run an evaluation that writes it first")
    lines = [(i, text) for i, text in enumerate(path.read_bytes().split(b"\n"), start=1) if text.strip()]
    rows = [_row(text) for _, text in lines]
    if rows and rows[-1] is None:
        warnings.warn(f"{path}: line {lines[-1][0]} is unfinished and was left out", stacklevel=2)
        del rows[-1]
    for (number, _), row in zip(lines, rows, strict=False):
        if row is None:
            raise ValueError(f"{path}: line {number} is not a JSON object; remove that line and run again")
    return [row for row in rows if row is not None]


def done_keys(path: Path | str, fields: Sequence[str]) -> set[tuple[Any, ...]]:
    """Which episodes are recorded already: the values of `fields` in every row; empty without a file.

    Raises ValueError if a row lacks one of the fields.
    """
    if not Path(path).exists():
        return set()
    keys = set()
    for number, row in enumerate(read_rows(path), start=1):
        missing = [field for field in fields if field not in row]
        if missing:
            raise ValueError(f"{path}: row {number} has no {missing[0]!r}; give fields that every row has")
        keys.add(tuple(row[field] for field in fields))
    return keys


@contextmanager
def holding(path: Path | str) -> Iterator[None]:
    """Do the work on a file of rows alone: a second process waits here until the first has left the block.

    An advisory lock on `path`.lock, gone with the process that holds it; that empty file stays, because removing it
    would let two processes hold two files of the same name. The folder is made if it is missing. Writers are not
    hindered. Not to be nested for the same path: it would wait for itself.
    """
    beside = Path(f"{path}.lock")
    beside.parent.mkdir(parents=True, exist_ok=True)
    with beside.open("ab") as file, _alone(file):
        yield


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


NAMES = ("key", "index", "method")


def append_masks(path: Path | str, row_key: Mapping[str, Any], masks: Masks) -> None:
    """Add the masks of one episode and method to the file, under the row's `key`, `index` and `method`.

    `row_key` may be the whole row.
    Raises ValueError if one of the three is missing or the masks are not bool [T, H, W].
    """
    missing = [name for name in NAMES if name not in row_key]
    if missing:
        raise ValueError(f"{path}: masks without {missing[0]!r}; name them by {', '.join(NAMES)}")
    (array,) = as_masks(masks)
    frames = [runs.encode(np.asfortranarray(frame, dtype=np.uint8))["counts"].decode("ascii") for frame in array]
    append_row(path, {name: row_key[name] for name in NAMES} | {"size": list(array.shape[1:]), "frames": frames})


def read_masks(path: Path | str, key: str, index: int, method: str) -> Bool[Tensor, "T H W"]:
    """The masks of one episode and method; of several lines about it, the last.

    A last line that is not whole is not there yet. Raises FileNotFoundError if there is no such file, ValueError if it
    does not hold these masks, saying what it holds of the episode, or if a line about the episode is broken.
    """
    path, found = Path(path), {}
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of masks; evaluate the episodes and keep their masks first")
    for row in _lines(path, key):
        if row.get("key") == key and row.get("index") == index:
            found[row["method"]] = row
    if method not in found:
        others = f"there are those of {', '.join(found)}" if found else "the episode is not in it"
        raise ValueError(f"{path}: no masks of episode {key} (index {index}) by {method!r}; {others}")
    return _decoded(found[method])


def _lines(path: Path, key: str) -> Iterator[dict[str, Any]]:
    """The rows whose text holds the key; only these are taken apart, for the file may be large."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if key.encode() not in line:
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                if not line.endswith(b"\n"):
                    return  # its writer was killed, or is writing this moment
                raise ValueError(f"{path}: line {number} is not whole; remove that line and evaluate again") from error
            yield row


def _decoded(row: Mapping[str, Any]) -> Bool[Tensor, "T H W"]:
    size = row["size"]
    masks = np.zeros((len(row["frames"]), *size), dtype=bool)
    for frame, counts in zip(masks, row["frames"], strict=True):
        frame[:] = decode({"size": size, "counts": counts}, *size)
    return torch.from_numpy(masks)

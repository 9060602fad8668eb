"""Rows, masks and indices on disk: one line per finished episode, safe the moment it is written.

An evaluation takes hours and is stopped, resumed, and shared by several processes. So every finished episode is one
line of JSON at the end of one file: nothing is rewritten, writers take turns, and part of a line, which a killed writer
leaves behind, is left out by readers and cut off by the next writer, both with a warning. Masks are lines of the same
kind, each frame as run lengths in COCO's compressed form, a few hundred bytes per frame.

The index <out>/rows/<name>.json of a table names its rows, masks and manifests by their places in the run folder, so
that the folder can be moved. Whoever draws a table reads the index, and needs no model for it.

`made` is what a row says of its making: versions, machine, weights, `code_digest`, which names the code that makes
masks, and `metrics_digest`, which names the code that scores them. Rows of different code are not mixed in one table.
"""

from __future__ import annotations

import ast
import json
import math
import os
import platform
import subprocess
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np
import torch
from filelock import FileLock
from jaxtyping import Bool
from pycocotools import mask as runs
from torch import Tensor

from ttilib.datasets.masks import decode
from ttilib.files import digest, write_json
from ttilib.results.metrics import Masks, as_masks


def plain(value: Any) -> Any:
    """The value in the types JSON knows: NumPy numbers as numbers, paths as text, nan as null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (np.generic, np.ndarray, torch.Tensor)):
        return plain(value.tolist())
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value


def as_line(row: Mapping[str, Any]) -> str:
    """The row as a line of JSON. Raises TypeError if a value has no form in JSON."""
    return json.dumps(plain(row), ensure_ascii=False, allow_nan=False) + "\n"


def holding(path: Path | str) -> FileLock:
    """`with holding(path):` nobody else writes to the file; other processes that hold it or append to it wait.

    A lock of the system on `path`.lock, gone with the process that holds it; it may be nested. That empty file stays:
    removing it would let two processes hold two files of the same name. The folder is made if it is missing.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return FileLock(f"{path}.lock", is_singleton=True)


def append_row(path: Path | str, row: Mapping[str, Any]) -> None:
    """Add one row to the file as a line of JSON, on disk when the call returns.

    Several processes may append to the same file. NumPy numbers become numbers, paths text, nan and infinity null. The
    folder is made if it is missing. Raises TypeError if a value has no form in JSON.
    """
    path = Path(path)
    try:
        line = as_line(row).encode("utf-8")
    except TypeError as error:
        raise TypeError(f"{path}: this row cannot be written as JSON ({error}); use plain values") from error
    with holding(path), path.open("a+b") as file:
        file.write(_healed(file, path) + line)
        file.flush()
        os.fsync(file.fileno())


def _healed(file: IO[bytes], path: Path) -> bytes:
    """Cut off part of a row at the end of the file; what must go before the next line.

    A whole row that only lacks its line end is kept.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - 1, 0))
    if file.read() in (b"", b"\n"):
        return b""
    file.seek(0)
    torn = file.read().rpartition(b"\n")[2]
    if _row(torn) is not None:
        return b"\n"
    about = f"{path}: cut off {len(torn)} bytes of an unfinished last line; that episode was not recorded"
    warnings.warn(about, stacklevel=3)
    file.truncate(size - len(torn))
    return b""


def _row(line: bytes) -> dict[str, Any] | None:
    """The row a line holds, or None if the line is not one whole JSON object."""
    try:
        row = json.loads(line.decode("utf-8"))
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _rows(path: Path | str, what: str, word: str = "") -> Iterator[dict[str, Any]]:
    """The rows of the lines that hold a word, one after another; files may be large."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file of {what}; run an evaluation that writes it first")
    with Path(path).open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip() or word.encode() not in line:
                continue
            if (row := _row(line)) is not None:
                yield row
            elif line.endswith(b"\n"):
                raise ValueError(f"{path}: line {number} is not a JSON object; remove that line and run again")
            else:
                warnings.warn(f"{path}: line {number} is unfinished and was left out", stacklevel=3)


def read_rows(path: Path | str) -> list[dict[str, Any]]:
    """All rows of the file, in the order written; empty lines are skipped.

    A last line that is not whole (its writer was killed, or is writing this moment) is left out with a warning: its
    episode is not done yet. Raises FileNotFoundError if there is no such file, ValueError naming any other broken line.
    """
    return list(_rows(path, "rows"))


KEY = ("key", "index", "method")  # what makes a row


def key_of(row: Mapping[str, Any]) -> tuple[str, int, str]:
    """Episode, its place in the pass, and method: every row has its own."""
    return tuple(row[name] for name in KEY)


def append_masks(path: Path | str, row_key: Mapping[str, Any], masks: Masks) -> None:
    """Add the masks of one episode and method to the file, under the row's `key`, `index` and `method`.

    `row_key` may be the whole row. Raises ValueError if one of the three is missing or masks are not bool [T, H, W].
    """
    missing = [name for name in KEY if name not in row_key]
    if missing:
        raise ValueError(f"{path}: masks without {missing[0]!r}; name them by {', '.join(KEY)}")
    (array,) = as_masks(masks)
    frames = [runs.encode(np.asfortranarray(frame, dtype=np.uint8))["counts"].decode("ascii") for frame in array]
    append_row(path, {name: row_key[name] for name in KEY} | {"size": list(array.shape[1:]), "frames": frames})


def mask_rows(path: Path | str, key: str = "") -> Iterator[dict[str, Any]]:
    """The lines of a file of masks, all or those of one episode; `masks_of` takes the masks out of one.

    Broken lines are treated as in `read_rows`, but those of other episodes are not looked at.
    """
    return (row for row in _rows(path, "masks", key) if not key or row.get("key") == key)


def masks_of(row: Mapping[str, Any]) -> Bool[Tensor, "T H W"]:
    """The masks that a line holds."""
    masks = np.zeros((len(row["frames"]), *row["size"]), dtype=bool)
    for frame, counts in zip(masks, row["frames"], strict=True):
        frame[:] = decode({"size": row["size"], "counts": counts}, *row["size"])
    return torch.from_numpy(masks)


def read_masks(path: Path | str, key: str, index: int, method: str) -> Bool[Tensor, "T H W"]:
    """The masks of one episode and method; of several lines about it, the last.

    Raises FileNotFoundError if there is no such file, ValueError if it does not hold these masks, with what it holds of
    the episode, or if a line about the episode is broken.
    """
    found = {row["method"]: row for row in mask_rows(path, key) if key_of(row)[:2] == (key, index)}
    if method not in found:
        others = f"there are those of {', '.join(found)}" if found else "the episode is not in it"
        raise ValueError(f"{path}: no masks of episode {key} (index {index}) by {method!r}; {others}")
    return masks_of(found[method])


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


HOME = Path(__file__).resolve().parents[1]  # the library
HERE = Path(__file__).resolve().relative_to(HOME)
START = "results.evaluation"  # with all that it imports from the library, except:
SCORING = ("results.metrics", "results.records")  # score and store what was solved

CARRIED = ("ttilib", "torch", "python", "numpy", "cv2", "commit", "device", "device_name", "threads")


def _git(*arguments: str) -> str | None:
    """What git says about the folder of this program; None without git, repository or commit."""
    try:
        answer = subprocess.run(
            ["git", "-C", str(HOME), *arguments], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return answer.stdout.strip()


def _version() -> str | None:
    try:
        return version("ttilib")
    except PackageNotFoundError:
        return None


def _device_name(device: str) -> str:
    """The name of the graphics card, or of the processor."""
    if str(device).startswith("cuda"):
        try:
            return torch.cuda.get_device_name(device)
        except (RuntimeError, AssertionError, ValueError):
            return str(device)
    return platform.processor() or platform.machine()


def provenance(device: torch.device | str = "cpu") -> dict[str, Any]:
    """With what, where and when a number was made: versions, commit, device, threads, time (UTC).

    `commit` is None if this program does not lie in a git repository that tracks it; `modified` says whether
    tracked files differ from that commit. Never fails: what cannot be found out is None.
    """
    tracked = _git("ls-files", "--error-unmatch", str(HERE)) is not None
    changes = _git("status", "--porcelain", "--untracked-files=no") if tracked else None
    return {
        "ttilib": _version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "cv2": cv2.__version__,
        "python": platform.python_version(),
        "commit": _git("rev-parse", "--verify", "HEAD") if tracked else None,
        "modified": None if changes is None else bool(changes),
        "device": str(device),
        "device_name": _device_name(str(device)),
        "threads": torch.get_num_threads(),
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def code_digest() -> str:
    """Name of the code that makes masks: 16 hex digits of the syntax trees of what an evaluation imports.

    Docstrings and comments are not part of it, so a corrected sentence keeps every finished row; nor are the metrics,
    for masks can be scored again. Results of other code are not mixed with new ones. It is the same on every machine.
    """
    return digest(sorted([name, _shape(tree)] for name, tree in _imported(START).items() if name not in SCORING))


def metrics_digest() -> str:
    """Name of the code that scores masks, in the same way."""
    return digest(_shape(_parsed("results.metrics")))


def _parsed(name: str) -> ast.Module:
    """A module of the library as a syntax tree without docstrings."""
    tree = ast.parse(HOME.joinpath(*name.split(".")).with_suffix(".py").read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False):
            del node.body[0]
    return tree


def _imported(start: str) -> dict[str, ast.Module]:
    """A module and all that it imports from the library, directly or not."""
    found: dict[str, ast.Module] = {}
    due = [start]
    while due:
        name = due.pop()
        if name in found or not HOME.joinpath(*name.split(".")).with_suffix(".py").is_file():
            continue
        found[name] = _parsed(name)
        for node in ast.walk(found[name]):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ttilib"):
                base = node.module.removeprefix("ttilib").removeprefix(".")
                due += [base, *(f"{base}.{alias.name}".strip(".") for alias in node.names)]
    return found


def _shape(node: Any) -> Any:
    """A syntax tree as plain values, without what is empty: Python's versions differ in what they leave empty."""
    if isinstance(node, ast.AST):
        parts = [[name, _shape(part)] for name, part in ast.iter_fields(node) if part not in (None, [])]
        return [type(node).__name__, *parts]
    return [_shape(part) for part in node] if isinstance(node, list) else repr(node)


def made(device: torch.device | str = "cpu", weights: str | None = None) -> dict[str, Any]:
    """What a row says about its making: versions, commit, device, threads, digests of code and metrics, and `weights`.

    `weights` is the encoder's fingerprint, None for one that has none. No time, so that equal work gives equal rows.
    The program's text is looked at once per process: that which runs, whatever is edited meanwhile.
    """
    return _lasting(str(device), HOME) | {"threads": torch.get_num_threads(), "weights": weights}


@lru_cache
def _lasting(device: str, home: Path) -> dict[str, Any]:
    """What does not change while a process runs; `home` is where the program lies."""
    about = provenance(device)
    return {name: about[name] for name in CARRIED} | {"code": code_digest(), "metrics": metrics_digest()}

"""Rows, masks and indices on disk: JSON lines, one per finished episode, appended under a lock; see `Row` and `Index`.

Readers skip an incomplete last line and the next writer removes it, both with a warning. `made` is the provenance of a
row: rows of different code (`code_digest`, `metrics_digest`) are not mixed in one table.
"""

from __future__ import annotations

import ast
import json
import math
import os
import platform
import re
import subprocess
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Annotated, Any

import cv2
import msgspec
import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from ttilib.datasets.base import Side
from ttilib.datasets.masks import decode, encode
from ttilib.files import convert, digest, file_lock, parse_json, read_json, suggest, write_json
from ttilib.results.metrics import METRICS, Masks, as_masks

Number = Annotated[int, msgspec.Meta(ge=0)]
Pixels = Annotated[int, msgspec.Meta(ge=0, le=10**12)]  # no video has more
Share = Annotated[float, msgspec.Meta(ge=0, le=1)] | None
Amount = Annotated[float, msgspec.Meta(ge=0, le=1e9)] | None  # seconds, MB
Shape = Sequence[int] | None  # of masks: T, H, W


class Counted(msgspec.Struct, kw_only=True):
    """What the pooled IoU of a method is made from."""

    method: str
    intersection: Pixels
    union: Pixels


class _Episode(Counted, kw_only=True):
    benchmark: str
    shots: Number
    encoder: str
    fold: Number
    run: Number
    episode: str
    class_id: Number
    class_name: str
    frames: Annotated[int, msgspec.Meta(ge=1, le=10**9)]

    def __post_init__(self) -> None:
        """Raise ValueError if the numbers of pixels contradict each other."""
        fields = msgspec.structs.asdict(self)
        names = [name for name in ("intersection", "predicted", "true", "union") if fields.get(name) is not None]
        known = {name: fields[name] for name in names}
        summed = {name: sum(fields[f"{name}s"]) for name in names if fields.get(f"{name}s") is not None}
        in_order = all(self.intersection <= count <= self.union for count in known.values())
        if not in_order or summed != {name: known[name] for name in summed}:
            raise ValueError(f"pixels {known}, summed over frames {summed}, contradict each other")


_KNOWN: list[Any] = [
    ("index", Number | None, None), ("video", str | None, None), ("made", dict[str, Any] | None, None),
    ("support_vanished", bool, False), *((name, Pixels | None, None) for name in ("predicted", "true")),
    *((name, list[Pixels] | None, None) for name in ("intersections", "unions")),
    *((name, Amount, None) for name in ("seconds", "memory_mb")), ("f_frames", list[Share] | None, None),
    *((metric.key, Share, None) for metric in METRICS.values() if metric.key.isidentifier()),
]  # fmt: skip
Tabulated = msgspec.defstruct("Tabulated", _KNOWN, bases=(_Episode,), kw_only=True)
"""What a row needs for `results.tables`; costs and metrics (in [0, 1]) may be missing or None."""
Row = msgspec.defstruct("Row", [("key", str), ("index", Number), ("video", str)], bases=(Tabulated,), kw_only=True)
"""A line of a file of rows: an episode, solved by a method and scored."""


class MaskLine(msgspec.Struct):
    """A line of a file of masks: compressed run lengths of each frame."""

    key: str
    index: Number
    method: str
    size: tuple[Side, Side]
    frames: list[str]


class _Line(msgspec.Struct):
    benchmark: str
    shots: Number
    encoder: str
    method: str
    label: str = ""
    why: str | None = None


class _Manifest(msgspec.Struct):
    path: str
    benchmark: str
    size: tuple[Side, Side]


class Index(msgspec.Struct):
    """<out>/rows/<name>.json, see `write_index`."""

    title: str
    lines: Annotated[list[_Line], msgspec.Meta(min_length=1)]
    files: list[str]
    manifests: dict[str, _Manifest]
    masks: dict[str, str]
    code: str
    weights: dict[str, str]


def plain(value: Any) -> Any:
    """The value in JSON types: numbers and lists for NumPy and torch, text for paths, null for nan and infinity."""
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
    """The row as a line of JSON. Raises TypeError if JSON cannot represent a value."""
    return json.dumps(plain(row), ensure_ascii=False, allow_nan=False) + "\n"


def append_row(path: Path | str, row: Mapping[str, Any]) -> None:
    """Append a row (see `plain`) as JSON, locked and synced to disk. Raises TypeError if JSON cannot represent it."""
    path, line = Path(path), as_line(row).encode("utf-8")
    with file_lock(path), path.open("a+b") as file:
        file.write(_repaired(file, path) + line)
        file.flush()
        os.fsync(file.fileno())


def _repaired(file: IO[bytes], path: Path) -> bytes:
    """Cut off an incomplete last line; return what must precede the next line (a line end if that is missing)."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - 1, 0))
    if file.read() in (b"", b"\n"):
        return b""
    file.seek(0)
    last = file.read().rpartition(b"\n")[2]
    if _is_complete(last):
        return b"\n"
    about = f"{path}: cut off {len(last)} bytes of an incomplete last line; that episode was not recorded"
    warnings.warn(about, stacklevel=3)
    file.truncate(size - len(last))
    return b""


def _is_complete(line: bytes) -> bool:
    """Whether a line is a JSON object; one that was cut off is none."""
    with suppress(msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return isinstance(msgspec.json.decode(line), dict)
    return False


def _rows(path: Path | str, what: str, form: type, word: str = "") -> Iterator[dict[str, Any]]:
    """The rows of the lines that contain `word`, one by one, checked against `form`; files may be large."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file of {what}; run an evaluation that writes it first")
    with Path(path).open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip() or word.encode() not in line:
                continue
            if not line.endswith(b"\n") and not _is_complete(line):
                warnings.warn(f"{path}: line {number} is incomplete and was left out", stacklevel=3)
                continue
            where = f"{path}: line {number}"
            parse_json(line, form, where)
            yield parse_json(line, dict[str, Any], where)


def read_rows(path: Path | str, form: type = Row) -> list[dict[str, Any]]:
    """All rows in order with all their fields, without an incomplete last line.

    Raises FileNotFoundError; ValueError with line and value for a row that is not of the form, or impossible.
    """
    return list(_rows(path, "rows", form))


def key_of(row: Mapping[str, Any]) -> tuple[str, int, str]:
    """Episode key, index in the run, and method; unique per row."""
    return row["key"], row["index"], row["method"]


def append_masks(path: Path | str, row_key: Mapping[str, Any], masks: Masks) -> None:
    """Append bool masks [T, H, W] under `key`, `index` and `method` of a row."""
    (array,) = as_masks(masks)
    frames = [encode(frame)["counts"] for frame in array]
    names = dict(zip(("key", "index", "method"), key_of(row_key), strict=True))
    append_row(path, names | {"size": list(array.shape[1:]), "frames": frames})


def mask_rows(path: Path | str, key: str = "") -> Iterator[dict[str, Any]]:
    """Lines of a mask file, all or (only these are parsed) of one episode; broken lines as in `read_rows`."""
    return (row for row in _rows(path, "masks", MaskLine, key) if not key or row["key"] == key)


def masks_of(row: Mapping[str, Any], path: Path | str, shape: Sequence[int] | None = None) -> Bool[Tensor, "T H W"]:
    """Decode the masks of a line of the file `path`. Raises ValueError if they are not of this shape [T, H, W]."""
    where, size = f"{path}: masks of episode {row['key']} (index {row['index']}) by {row['method']!r}", row["size"]
    if shape is not None and [len(row["frames"]), *size] != list(shape):
        raise ValueError(f"{where} are {[len(row['frames']), *size]}, its frames {list(shape)}; evaluate it again")
    frames = [decode({"size": size, "counts": counts}, size[0], size[1], where) for counts in row["frames"]]
    return torch.from_numpy(np.stack(frames) if frames else np.zeros((0, *size), dtype=bool))


def read_masks(path: Path | str, key: str, index: int, method: str, shape: Shape = None) -> Bool[Tensor, "T H W"]:
    """Last masks of an episode and method. Raises FileNotFoundError; ValueError if missing, broken or not `shape`."""
    found = {row["method"]: row for row in mask_rows(path, key) if key_of(row)[:2] == (key, index)}
    if method not in found:
        others = f"there are those of {', '.join(found)}" if found else "the episode is not in it"
        raise ValueError(f"{path}: no masks of episode {key} (index {index}) by {method!r}; {others}")
    return masks_of(found[method], path, shape)


@dataclass(frozen=True)
class RowsFile:
    """A file of rows: its manifest, benchmark, and height and width of the network input."""

    rows: Path
    manifest: Path
    benchmark: str
    size: tuple[int, int]


def masks_beside(rows: Path | str) -> Path:
    """Path of the masks that belong to a file of rows, in the same run folder."""
    return _inside(Path(rows).parent.parent, Path("masks", Path(rows).name))


def _inside(out: Path | str, file: Path | str) -> Path:
    """The path of a file in the run folder. Raises ValueError if the name or a link leads outside."""
    path = Path(out) / file
    if not path.resolve().is_relative_to(Path(out).resolve()):
        raise ValueError(f"{path}: leads outside the run folder {out}; use a folder inside, not a link or ..")
    return path


def check_name(name: str) -> str:
    """The name, if files of a run can be called by it. Raises ValueError if it is empty or could lead elsewhere."""
    if not re.fullmatch(r"[^\x00-\x1f/\\]+", name) or not name.strip(". "):
        raise ValueError(f"name {name!r} is not a name for files; use letters, digits, - and _, without / or ..")
    return name


def read_index(out: Path | str, name: str) -> dict[str, Any]:
    """The content of <out>/rows/<name>.json. Raises ValueError if it is not an `Index` of files in the run folder."""
    path = Path(out) / "rows" / f"{check_name(name)}.json"
    if not path.is_file():
        known = [each.stem for each in sorted(path.parent.glob("*.json"))]
        raise FileNotFoundError(f"{path}: no such file; {suggest(name, known) if known else 'evaluate first'}")
    about = read_json(path, dict[str, Any])
    convert(about, Index, str(path))
    for file in (*about["files"], *about["manifests"], *about["masks"].values()):
        _inside(out, file)
    return about


def write_index(
    out: Path | str,
    name: str,
    title: str,
    lines: Sequence[Mapping[str, Any]],
    sources: Sequence[RowsFile],
    weights: Mapping[str, str],
) -> dict[str, Any]:
    """Write <out>/rows/<name>.json, with the code digest, and return its content. `weights`: by encoder."""
    path = Path(out) / "rows" / f"{check_name(name)}.json"
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
    write_json(path, about)
    return about


def _within(out: Path | str, path: Path) -> str:
    return Path(os.path.relpath(Path(path).resolve(), Path(out).resolve())).as_posix()


HOME = Path(__file__).resolve().parents[1]  # the library
START = "results.evaluation"  # the code digest covers this module and its imports, except
SCORING = ("results.metrics", "results.records")  # those that score and store


def _git(*arguments: str) -> str | None:
    """Output of git in the library's folder; None without git, repository or commit."""
    try:
        answer = subprocess.run(
            ["git", "-C", str(HOME), *arguments], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return answer.stdout.strip()


def _device_name(device: str) -> str:
    if device.startswith("cuda"):
        try:
            return torch.cuda.get_device_name(device)
        except (RuntimeError, AssertionError, ValueError):
            return device
    return platform.processor() or platform.machine()


def code_digest() -> str:
    """Digest of the code that predicts masks: 16 hex digits of the syntax trees that an evaluation imports.

    Docstrings, comments and the code that scores and stores are left out. It is the same on every machine.
    """
    return digest(sorted([name, shape] for name, shape in _imported(START).items() if name not in SCORING))


def metrics_digest() -> str:
    """Digest of the code that scores masks, in the same way."""
    return digest(_imported("results.metrics")["results.metrics"])


@lru_cache
def _parsed(code: bytes) -> tuple[str, list[str]]:
    """The syntax tree of a module without docstrings and texts under constants, and its imports from the library."""
    tree, imports = ast.parse(code), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            texts = [part for part in node.body if isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant)]
            node.body = [part for part in node.body if part not in texts]
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("ttilib"):
            base = node.module.removeprefix("ttilib").removeprefix(".")
            imports += [base, *(f"{base}.{alias.name}".strip(".") for alias in node.names)]
    return _shape(tree), imports


def _imported(start: str) -> dict[str, str]:
    """The syntax trees of a module and all its direct and indirect imports from the library."""
    found, due = {}, [start]
    while due:
        name = due.pop()
        path = HOME.joinpath(*name.split(".")).with_suffix(".py")
        if name not in found and path.is_file():
            found[name], imports = _parsed(path.read_bytes())
            due += imports
    return found


def _shape(node: Any) -> str:
    """A syntax tree as text without empty fields, which differ between Python versions."""
    if isinstance(node, ast.AST):
        parts = [f"{name}={_shape(part)}" for name, part in ast.iter_fields(node) if part not in (None, [])]
        return f"{type(node).__name__}({','.join(parts)})"
    return f"[{','.join(map(_shape, node))}]" if isinstance(node, list) else repr(node)


def provenance(device: torch.device | str = "cpu", weights: str | None = None) -> dict[str, Any]:
    """Provenance of a row: versions, commit, device, threads, digests, and the encoder's fingerprint `weights`.

    Without time, so equal work gives equal rows; None for what is unknown. Never raises. The code is read once per
    process, so later edits have no effect. `commit` is None unless a git repository tracks the library.
    """
    return _process_fields(str(device)) | {"threads": torch.get_num_threads(), "weights": weights}


@lru_cache
def _process_fields(device: str) -> dict[str, Any]:
    """The part that is constant within a process."""
    installed = None
    with suppress(PackageNotFoundError):
        installed = version("ttilib")
    tracked = _git("ls-files", "--error-unmatch", "results/records.py") is not None
    return {
        "ttilib": installed, "torch": str(torch.__version__), "python": platform.python_version(),
        "numpy": np.__version__, "cv2": cv2.__version__,
        "commit": _git("rev-parse", "--verify", "HEAD") if tracked else None,
        "device": device, "device_name": _device_name(device), "code": code_digest(), "metrics": metrics_digest(),
    }  # fmt: skip

"""Atomic file writing, JSON, content hashes, natural order, parallel map, and suggestions for mistyped names."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from difflib import get_close_matches
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def lists_folder() -> Path:
    """The folder lists/: inside the package if installed from a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "lists"
    return installed if installed.is_dir() else package.parent / "lists"


@contextmanager
def atomic(path: Path | str) -> Iterator[Path]:
    """A temporary path beside `path`, with the same suffix, that replaces `path` when the block succeeds.
    If the block raises, the temporary file is removed and `path` stays as it was. Parent folders are created.
    Raises IsADirectoryError if `path` is a folder, FileNotFoundError if nothing was written, OSError on a full disk.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder; give the name of a file to write")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem[:40]}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    temporary.unlink()
    try:
        yield temporary
        if not temporary.exists():
            raise FileNotFoundError(f"{path}: nothing was written; write to the path that atomic() gives")
        os.replace(temporary, path)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        about = f"{path}: cannot be written ({error.strerror}); the old file is unchanged"
        raise OSError(f"{about}; free some space and run the same command again") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
    """Write `text` atomically as UTF-8, without changing line ends."""
    with atomic(path) as temporary:
        temporary.write_bytes(text.encode("utf-8"))


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` atomically as indented JSON in the given order; NaN and infinity raise ValueError."""
    try:
        text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{path}: this value cannot be written as JSON ({error})") from error
    write_text(path, text + "\n")


def read_json(path: Path | str, hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """Read a JSON file; `hook` is the `object_hook` of `json.loads`.
    Raises FileNotFoundError if it is missing, ValueError with line and column if it is not UTF-8 JSON.
    """
    path = Path(path)
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "no such file"
        raise FileNotFoundError(f"{path}: {found}; expected a JSON file")
    try:
        return json.loads(_read_text(path), object_hook=hook)
    except json.JSONDecodeError as error:
        about = f"not valid JSON at line {error.lineno}, column {error.colno} ({error.msg})"
        raise ValueError(f"{path}: {about}; download or write it again") from error


def read_lines(path: Path | str) -> list[str]:
    """Lines of a text file. Raises ValueError naming it if it is not UTF-8."""
    return _read_text(Path(path), "utf-8-sig").splitlines()


def _read_text(path: Path, encoding: str = "utf-8") -> str:
    try:
        return path.read_bytes().decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text (byte {error.start}); download or write it again") from error


Stamp = tuple[int, int]


def file_stamp(path: Path | str) -> Stamp | None:
    """Size (bytes) and modification time (ns) of a file, to detect changes; None if it does not exist."""
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def digest(*values: Any) -> str:
    """Hash values: the first 16 hex digits of SHA-256 over JSON with sorted keys; tuples count as lists."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def fingerprint(path: Path | str, length: int | None = None) -> str:
    """SHA-256 of a file, or of its first `length` bytes, as 64 hex digits."""
    total, left = hashlib.sha256(), sys.maxsize if length is None else length
    with Path(path).open("rb") as file:
        while block := file.read(min(2**20, left)):
            total.update(block)
            left -= len(block)
    return total.hexdigest()


def parallel_map(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int = 1, chunk: int = 1
) -> Generator[Result, None, None]:
    """Map `function` over items in order, in this process or in `workers` new ones, `chunk` items at a time.
    Processes are spawned: a script needs its `__main__` guard. OpenCV uses one thread in each. Closing the generator
    cancels items that have not started.
    """
    if workers <= 1:
        yield from map(function, items)
        return
    executor = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_one_opencv_thread)
    try:
        yield from executor.map(function, items, chunksize=chunk)
    finally:
        executor.shutdown(cancel_futures=True)


def _one_opencv_thread() -> None:
    import cv2  # here, so that reading JSON does not load OpenCV

    cv2.setNumThreads(1)


def natural_key(name: str) -> tuple[tuple[str | int, ...], str]:
    """Sort key that puts frame9 before frame10; names equal up to leading zeros are sorted as text."""
    parts = re.split(r"([0-9]+)", name)
    return tuple(int(part) if index % 2 else part for index, part in enumerate(parts)), name


def file_names(folder: Path, ending: str) -> list[str]:
    """Names of the files of a folder without `ending`, in natural order, without hidden ones."""
    files = (path.name for path in folder.glob(f"*{ending}") if not path.name.startswith("."))
    return sorted((name.removesuffix(ending) for name in files), key=natural_key)


def suggest(word: str, known: Iterable[object], otherwise: str = "", most: int = 3) -> str:
    """Hint for an unknown name: "did you mean a or b?" with at most `most` similar names.

    A match that differs only in case is preferred. Without similar names: `otherwise`, or the list of all names.
    """
    names = [str(name) for name in known]
    same = [name for name in names if name.lower() == word.lower()]
    near = (same or get_close_matches(word, names, n=most, cutoff=0.5))[:most]
    return f"did you mean {' or '.join(near)}?" if near else otherwise or f"choose one of {', '.join(names)}"

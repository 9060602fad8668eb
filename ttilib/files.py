"""Atomic writing of files, JSON of declared types, content hashes, natural order, parallel map, name suggestions."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import socket
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from functools import cache
from multiprocessing import current_process, get_context
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from filelock import FileLock, Timeout

Item = TypeVar("Item")
Result = TypeVar("Result")
TEMPORARY = "ttilib-unfinished"  # in the names of temporary files
PACKAGE = Path(__file__).resolve().parent
LISTS = (PACKAGE if (PACKAGE / "lists").is_dir() else PACKAGE.parent) / "lists"  # in a wheel, or beside the package
UNFIT = (errno.EROFS, errno.EACCES, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG)  # of a folder to write into


@contextmanager
def atomic(path: Path | str) -> Iterator[Path]:
    """A temporary path beside `path`, with the same suffix, that replaces `path` when the block succeeds.
    If the block raises, the temporary file is removed and `path` stays as it was; if the process was killed, one that
    writes into the folder a day later removes it. Parent folders are created. Raises OSError if the disk is full or the
    folder read-only, IsADirectoryError if `path` is a folder, FileNotFoundError if nothing was written.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder; give the name of a file to write")
    temporary = path.with_name(f".{path.stem[:40]}.{TEMPORARY}-{secrets.token_hex(8)}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path.parent.resolve())
        temporary.touch()  # raises now if it cannot be written
        temporary.unlink()
        yield temporary
        if not temporary.exists():
            raise FileNotFoundError(f"{path}: nothing was written; write to the path that atomic() gives")
        os.replace(temporary, path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            about, advice = "the old file is unchanged", "free some space and run the same command again"
        elif error.errno in UNFIT and error.filename in map(str, (temporary, *path.parents)):
            taken = error.errno in (errno.EEXIST, errno.ENOTDIR)
            about = "a file is in the place of its folder" if taken else "its folder is not writable"
            advice = "choose another folder, or change its permissions"
        else:
            raise
        kind = type(OSError(error.errno, ""))  # subclasses of libraries, such as FFmpeg's, have other arguments
        raise kind(f"{path}: cannot be written ({error.strerror}); {about}; {advice}") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


@cache
def _remove_leftovers(folder: Path) -> None:
    """Remove, once per process, temporary files of killed processes: those that have not changed for a day."""
    for left in folder.glob(f".*.{TEMPORARY}-*"):
        with suppress(FileNotFoundError):  # it may have been renamed
            if time.time() - left.stat().st_mtime > 24 * 3600:
                left.unlink()


def check_writable(path: Path | str) -> None:
    """Raise OSError or ValueError now, before the work, if the file `path` could not be written at its end."""
    if not is_utf8(str(path)):
        raise ValueError(f"{str(path)!r}: the name is not UTF-8 text; choose another name")
    with suppress(_Tried), atomic(path):
        raise _Tried


class _Tried(Exception):
    """Ends `check_writable` without a file."""


PATIENCE = 1.0  # seconds of waiting for a lock, before it is reported


@contextmanager
def file_lock(path: Path | str, wait: bool = True) -> Iterator[None]:
    """Lock a file against other processes: `with file_lock(path):`. May be nested; creates the folder.
    If a process has it: warns of it and waits or, without `wait`, raises ValueError. That of a killed process is free.
    <path>.lock is never deleted: otherwise two processes could lock two files of that name.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    own, lock = Path(f"{path}.lock"), FileLock(f"{path}.lock", is_singleton=True)
    try:
        lock.acquire(timeout=PATIENCE if wait else 0)
    except Timeout as error:
        holder = own.read_bytes()[:200].decode("utf-8", "replace") or "another process"
        if not wait:
            raise ValueError(f"{path}: in use by {holder}; wait for its end, or use another folder") from error
        warnings.warn(f"{path}: in use by {holder}; waiting until it has finished", stacklevel=3)
        lock.acquire()
    try:
        if lock.lock_counter == 1:
            own.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        yield
    finally:
        lock.release()


def write_text(path: Path | str, text: str) -> None:
    """Write `text` atomically as UTF-8, without changing line ends."""
    with atomic(path) as temporary:
        temporary.write_bytes(text.encode("utf-8"))


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` atomically as indented JSON in the given order; NaN and infinity raise ValueError."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path | str, form: Any = Any) -> Any:
    """Read a JSON file as `form`, a type such as a dataclass or `dict[str, list[int]]`; see `convert`.
    Raises FileNotFoundError if it is missing, ValueError if it is not UTF-8 JSON or not of the form.
    """
    path = Path(path)
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "no such file"
        raise FileNotFoundError(f"{path}: {found}; expected a JSON file")
    return parse_json(path.read_bytes(), form, str(path))


def parse_json(content: bytes | str | msgspec.Raw, form: Any, where: str) -> Any:
    """Parse JSON as `form`. Raises ValueError that starts with `where` and names the value at fault."""
    with _one_sentence(where, lambda: msgspec.json.decode(content)):
        return msgspec.json.decode(content, type=form)


def convert(value: Any, form: Any, where: str) -> Any:
    """A parsed JSON value as `form`. Raises ValueError that starts with `where` and names the value at fault."""
    with _one_sentence(where, lambda: value):
        return msgspec.convert(value, form)


@contextmanager
def _one_sentence(where: str, content: Callable[[], Any]) -> Iterator[None]:
    """Turn errors of msgspec into one sentence, with the number found if it is outside its range."""
    try:
        yield
    except msgspec.ValidationError as error:
        text, _, place = str(error).replace("`", "").partition(" - at ")
        if re.search(r" [<>]=? ", text) and "[...]" not in place:
            with suppress(msgspec.DecodeError, RecursionError, UnicodeDecodeError):  # what follows may not be JSON
                found = content()
                for name, number in re.findall(r"\.([^.\[]+)|\[([0-9]+)\]", place):
                    found = found[name or int(number)]
                text += f", found {found}"
        inside = place.removeprefix("$").removeprefix(".")
        about = f"{inside}: {text[0].lower()}{text[1:]}" if inside else f"{text[0].lower()}{text[1:]}"
        raise ValueError(f"{where}: {about}; correct it, or download or write it again") from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ValueError(f"{where}: not valid JSON ({error}); download or write it again") from error


def read_lines(path: Path | str) -> list[str]:
    """Lines of a text file. Raises ValueError naming it if it is not UTF-8."""
    try:
        return Path(path).read_bytes().decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text (byte {error.start}); download or write it again") from error


Stamp = tuple[int, ...]


def file_stamp(path: Path | str) -> Stamp:
    """Size (bytes), times of modification and change (ns) of a file, to detect changes; () if it does not exist.
    The time of change is the system's: it cannot be set back with the other.
    """
    try:
        found = Path(path).stat()
    except OSError:
        return ()
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def digest(*values: Any) -> str:
    """Hash values: the first 16 hex digits of SHA-256 over JSON with sorted keys; tuples count as lists."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def fingerprint(path: Path | str) -> str:
    """SHA-256 of a file, as 64 hex digits."""
    total = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(2**20):
            total.update(block)
    return total.hexdigest()


GUARD = 'put the calls of a script below `if __name__ == "__main__":`'


def parallel_map(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int = 1, chunk: int = 1
) -> Generator[Result, None, None]:
    """Map `function` over items in order, in this process or in `workers` new ones, `chunk` items at a time.
    Processes are spawned: a script needs its `__main__` guard. OpenCV uses one thread in each. Closing the generator
    cancels items that have not started. Raises RuntimeError if a process ends.
    """
    if workers <= 1:
        yield from map(function, items)
        return
    executor = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_one_opencv_thread)
    try:
        yield from executor.map(function, items, chunksize=chunk)
    except BrokenProcessPool as error:
        raise RuntimeError(f"a process ended; {GUARD}, or use fewer processes if memory is short") from error
    finally:
        executor.shutdown(cancel_futures=True)


def check_main_guard() -> None:
    """Raise RuntimeError in a spawned process that runs the script of its parent, before it waits for the parent."""
    if getattr(current_process(), "_inheriting", False):  # the test of multiprocessing itself
        raise RuntimeError(f"a new process runs this script again; {GUARD}")


def _one_opencv_thread() -> None:
    import cv2  # here, so that reading JSON does not load OpenCV

    cv2.setNumThreads(1)


def is_utf8(name: str) -> bool:
    """Whether a file's name is UTF-8 text, so that it can be written into JSON."""
    return name.encode("utf-8", "ignore").decode() == name


def natural_key(name: str) -> tuple[tuple[str | int, ...], str]:
    """Sort key that puts frame9 before frame10; names equal up to leading zeros are sorted as text."""
    parts = re.split(r"([0-9]+)", name)
    return tuple(int(part) if index % 2 else part for index, part in enumerate(parts)), name


def file_names(folder: Path, ending: str) -> list[str]:
    """Names of the files of a folder without `ending`, in natural order, without hidden ones."""
    files = (path.name for path in folder.glob(f"*{ending}") if not path.name.startswith("."))
    return sorted((name.removesuffix(ending) for name in files), key=natural_key)


def look_up(name: str, known: Mapping[str, Item], what: str) -> Item:
    """The value of a name. Raises ValueError with similar names."""
    if name not in known:
        raise ValueError(f"{what} {name!r} is not known; {suggest(name, known)}")
    return known[name]


def suggest(word: str, known: Iterable[object], otherwise: str = "", most: int = 3) -> str:
    """Hint for an unknown name: "did you mean a or b?" with at most `most` similar names.

    A match that differs only in case is preferred. Without similar names: `otherwise`, or the list of all names.
    """
    names = [str(name) for name in known]
    same = [name for name in names if name.lower() == word.lower()]
    near = (same or get_close_matches(word, names, n=most, cutoff=0.5))[:most]
    choice = f"choose one of {', '.join(names)}" if names else "it has none"
    return f"did you mean {' or '.join(near)}?" if near else otherwise or choice

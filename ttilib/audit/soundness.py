"""What can be wrong with the files of a data folder: one function for each kind of thing.

Nothing here stops at the first defect, and nothing prints: a function looks at one thing and returns what it
found. A finding says which file, what was found there and how to mend it, and how bad it is: an *error* would
stop a run or spoil its numbers, a *warning* makes numbers differ from the release's or is worth a look, a
*note* says aloud what is as intended.

`told` turns an exception's sentence into a finding; `check_frame` looks at a photograph and its mask and
`check_frames` at many of them, `check_labels` at what a mask holds, `check_flow` at what the release wants beside
the masks. Processes that only look at files import this module and nothing heavy with it.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from ttilib.images import read_image, read_labels

ERROR, WARNING, NOTE = "error", "warning", "note"
FETCH = "fetch the file again"
MANY, VERY_MANY = 500, 5000
"""So many frames take long enough for a bar; so many, for other processes to be worth their start."""


@dataclass(frozen=True)
class Finding:
    """One thing that was noticed: how bad it is, in which file, what was found, how to mend it."""

    severity: str
    file: str
    found: str
    mend: str


def told(error: Exception, place: Path | str) -> Finding:
    """An error's sentence "FILE: what was found; what to do" as a finding, about `place` if it names no file."""
    if isinstance(error, OSError) and error.filename is not None:
        about = error.strerror or type(error).__name__
        return Finding(ERROR, str(error.filename), about.lower(), "see that it exists and may be read")
    if not isinstance(error, ValueError | OSError):  # a file of another form than anybody thought of
        return Finding(ERROR, str(place), f"another form than expected ({type(error).__name__}: {error})", FETCH)
    file, colon, rest = str(error).partition(": ")
    file, rest = (file, rest) if colon else (str(place), str(error))
    found, semicolon, mend = rest.rpartition("; ")
    return Finding(ERROR, file, found, mend) if semicolon else Finding(ERROR, file, rest, "see what is there")


class Shown(NamedTuple):
    """The files of one frame: its photograph, its mask if it has a file of its own, its size if that is known."""

    picture: Path
    mask: Path | None = None
    size: tuple[int, int] | None = None


def check_frame(shown: Shown, thorough: bool = False) -> list[Finding]:
    """Photograph and mask are there, not empty, not cut off, and of one size; `thorough`: decode the photograph.

    Without `thorough` sizes come from the headers and a JPEG is whole if it ends in its end mark.
    """
    findings, sizes = [], {}
    for path, other in ((shown.picture, shown.mask), (shown.mask, shown.picture)):
        if path is None:
            continue
        try:
            if not path.exists():
                findings.append(_missing(path, other, "mask" if path is shown.mask else "picture"))
            else:
                sizes[path] = _mask_size(path) if path is shown.mask else _picture_size(path, thorough)
        except (ValueError, OSError) as error:
            findings.append(told(error, path))
    if shown.size is not None and sizes.get(shown.picture, shown.size) != shown.size:
        about = f"picture is {size_text(sizes[shown.picture])} pixels, its annotations say {size_text(shown.size)}"
        findings.append(Finding(ERROR, str(shown.picture), about, "fetch pictures and annotations of one edition"))
    if len(set(sizes.values())) > 1:
        about = f"picture is {size_text(sizes[shown.picture])}, its mask {size_text(sizes[shown.mask])} pixels"
        findings.append(Finding(ERROR, str(shown.picture), about, "fetch picture and mask of one edition"))
    return findings


def check_frames(
    frames: Sequence[Shown], what: str, thorough: bool = False, workers: int = 1
) -> Iterator[list[Finding]]:
    """What is wrong with the files of each frame: looked at here, or, if there are many, by fresh processes."""
    job = partial(check_frame, thorough=thorough)
    bar = tqdm(total=len(frames), desc=what, unit=" frames", mininterval=1.0, disable=len(frames) <= MANY)
    with bar, ExitStack() as stack:
        work: Iterator[list[Finding]] = map(job, frames)
        if workers > 1 and len(frames) > VERY_MANY:
            fresh = multiprocessing.get_context("spawn")
            pool = ProcessPoolExecutor(workers, fresh, initializer=cv2.setNumThreads, initargs=(1,))
            stack.callback(pool.shutdown, cancel_futures=True)
            work = pool.map(job, frames, chunksize=64)
        for findings in work:
            bar.update()
            yield findings


def _missing(path: Path, other: Path | None, what: str) -> Finding:
    if other is None or not other.exists():
        return Finding(ERROR, str(path), f"no such {what}, though it is listed", "copy it, or mend the list")
    about = "a frame without a mask" if what == "mask" else "a mask without its picture"
    return Finding(ERROR, str(path), f"no such {what}: {about}", "copy it, or take the other file away")


def size_text(size: Sequence[int]) -> str:
    """Height and width for people."""
    return f"{size[0]} x {size[1]}"


def _picture_size(path: Path, thorough: bool) -> tuple[int, int]:
    """Height and width; whatever looks odd is decoded, so that it is refused with the reader's own sentence."""
    if not thorough and path.stat().st_size > 2:
        with path.open("rb") as file:
            file.seek(-2, os.SEEK_END)
            whole = file.read(2) == b"\xff\xd9"
            file.seek(0)
            if whole and (size := _header_size(file)) is not None:
                return size
    height, width, _ = read_image(path).shape
    return height, width


def _mask_size(path: Path) -> tuple[int, int]:
    height, width = _header_size(path) or read_labels(path).shape
    return height, width


def _header_size(file: Any) -> tuple[int, int] | None:
    try:
        with Image.open(file) as image:
            return image.height, image.width
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        return None


def check_labels(
    path: Path, counts: Mapping[int, int], allowed: Collection[int], unjudged: Collection[int], severity: str = ERROR
) -> list[Finding]:
    """A mask holds `allowed` labels only, and some pixel that is not `unjudged`; `counts`: pixels per label."""
    findings = []
    if strange := {label: n for label, n in counts.items() if label not in allowed}:
        named = ", ".join(map(str, list(strange)[:6])) + (", ..." if len(strange) > 6 else "")
        about = f"labels {named} ({sum(strange.values())} pixels) are no classes of the table"
        mend = "save class ids as indices, without smoothing; 0 is background, 255 not judged"
        findings.append(Finding(severity, str(path), about, mend))
    if not set(counts) - set(unjudged):
        about = f"no judged pixel: all {sum(counts.values())} are {' or '.join(map(str, sorted(counts)))}"
        findings.append(Finding(WARNING, str(path), about, "look at it; it can neither teach nor score anything"))
    return findings


def check_flow(folder: Path, frames: Mapping[str, Sequence[str]]) -> list[Finding]:
    """Flow of the frames of each sequence: the release leaves out frames that have none, and never reads any."""
    findings, single = [], 0
    for name, there in frames.items():
        missing = [frame for frame in there if not (folder / name / "flow" / f"{frame}.pkl.pkl").is_file()]
        if len(missing) == 1 and missing[0] in (there[0], there[-1]):  # flow needs a neighbour
            single += 1
        elif missing:
            about = f"{len(missing)} of {len(there)} frames have no flow, first {missing[0]}; they are left out"
            mend = "fetch the flow files, or expect other episodes than the published ones"
            findings.append(Finding(WARNING, str(folder / name / "flow"), about, mend))
    if single:
        about = f"{single} of {len(frames)} sequences have no flow for their first or last frame, which is left out"
        findings.append(Finding(NOTE, str(folder), about, "nothing to do: as in the release"))
    return findings

"""Making the corpus: once, completely, and the same bytes for the same request wherever it is made.

Every video and every still is a job of its own with its own random stream, so jobs can run in any order in
any number of processes. A finished job leaves a note; the tables are assembled from all notes; a marker is
written last. An interrupted corpus is continued from its notes, a finished one is left untouched.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from ttilib.files import digest, read_json, write_json, write_text
from ttilib.mini import layouts
from ttilib.mini.scenes import film
from ttilib.mini.shapes import FAMILIES
from ttilib.mini.staging import stage

VERSION = 2  # raise when the same request gives other bytes
MARKER, LIST = "mini.json", "mini.txt"  # written last: the request, and the names of all files
CORPORA = ("pascal", "ytvis", "vspw")
VIDEO, STILL = 1, 2  # kinds of random streams
SIZE = (180, 320)  # height, width of a video frame


@dataclass(frozen=True)
class Request:
    """What is to be made; two equal requests give equal bytes."""

    seed: int
    classes: int
    videos_per_class: int
    frames: tuple[int, int]
    stills_per_class: tuple[int, int]  # train, val


def generate(
    root: Path | str,
    seed: int = 2020,
    *,
    classes: int = 12,
    videos_per_class: int = 8,
    frames: tuple[int, int] = (16, 32),
    stills_per_class: tuple[int, int] = (10, 12),
    workers: int = 2,
    progress: Callable[[int, int], object] | None = None,
) -> Path:
    """Make sure the embedded corpus lies under `root`, and return it: pascal/, ytvis/, vspw/ in real layouts.

    classes: 4, 8 or 12 kinds; frames: shortest and longest video; stills_per_class: train and val.
    workers: processes (1: this one; more start fresh interpreters, so a script needs its `__main__` guard).
    progress: called with (jobs done, jobs in all) after each video or still.
    The bytes depend on everything but `workers` and `progress`; a finished corpus is left as it is.
    Raises ValueError if the request makes no sense or `root` holds a corpus made with another request.
    """
    request = Request(seed, classes, videos_per_class, tuple(frames), tuple(stills_per_class))
    _check(request)
    root = Path(root)
    if _finished(root, request):
        return root
    folder = root / f".unfinished-{digest(VERSION, asdict(request))}"
    _refuse_strangers(root, folder)
    jobs, notes = _jobs(request), []
    with closing(_work(partial(_job, root, folder, request), jobs, workers)) as work:  # stops early if asked
        for note in work:
            notes.append(note)
            if progress is not None:
                progress(len(notes), len(jobs))
    _complete(root, request, notes)
    shutil.rmtree(folder)
    return root


def _check(request: Request) -> None:
    """Refuse what cannot be made, in one sentence."""
    shortest, longest = request.frames
    if request.classes not in range(layouts.FOLDS, len(FAMILIES) + 1, layouts.FOLDS):
        raise ValueError(
            f"mini corpus: {request.classes} classes cannot be made; take 4, 8 or {len(FAMILIES)}"
        )
    if request.videos_per_class < 1 or not 2 <= shortest <= longest or min(request.stills_per_class) < 1:
        raise ValueError(
            f"mini corpus: {request.videos_per_class} videos of {shortest} to {longest} frames and "
            f"{request.stills_per_class} stills per class cannot be made; ask for at least 1, 2 and (1, 1)"
        )


def _finished(root: Path, request: Request) -> bool:
    """Whether this very corpus is complete; another one under the same root is an error."""
    marker, listed = root / MARKER, root / LIST
    if not marker.is_file():
        return False
    found = read_json(marker)
    made = {**found["request"], "version": found["version"]}
    asked = {**asdict(request), "version": VERSION}
    for key, value in asked.items():
        if digest(made.get(key)) != digest(value):
            raise ValueError(
                f"{root}: holds a mini corpus made with {key} {made.get(key)}, asked for {value}; "
                "delete the folder or choose another"
            )
    files = listed.read_text().split("\n")[:-1] if listed.is_file() else []
    return digest(files) == found["files"] and _present(root).issuperset(files)


def _complete(root: Path, request: Request, notes: list[dict]) -> None:
    """Write the tables, look for files that do not belong, and only then the marker."""
    files = sorted(_assemble(root, request, notes))
    strangers = sorted(
        name for name in _present(root) - set(files) if name.endswith((".jpg", ".png", ".pkl"))
    )
    if strangers:
        raise ValueError(f"{root}: holds files of another corpus, such as {strangers[0]}; delete the folder")
    write_text(root / LIST, "".join(f"{name}\n" for name in files))
    write_json(root / MARKER, {"version": VERSION, "request": asdict(request), "files": digest(files)})


def _refuse_strangers(root: Path, folder: Path) -> None:
    """Do not mix two corpora: an unfinished one of another request has to go first."""
    for other in sorted(root.glob(".unfinished-*")):
        if other != folder:
            raise ValueError(
                f"{root}: holds an unfinished mini corpus of another request ({other.name}); "
                "delete the folder or choose another"
            )


def _present(root: Path) -> set[str]:
    """All files of the three corpora under `root`, hidden ones left out."""
    return {
        (Path(folder) / name).relative_to(root).as_posix()
        for corpus in CORPORA
        for folder, _, names in os.walk(root / corpus)
        for name in names
        if not name.startswith(".")
    }


def _jobs(request: Request) -> list[tuple[int, int]]:
    """Kind and index of everything to film; classes take turns, so that lists are not sorted by class."""
    videos = [(VIDEO, i) for i in range(request.classes * request.videos_per_class)]
    return videos + [(STILL, i) for i in range(request.classes * sum(request.stills_per_class))]


def _work(job: Callable, jobs: list, workers: int) -> Iterator[dict]:
    """Do all jobs, in this process or in fresh ones, and hand over the notes in the order of the jobs."""
    if workers <= 1:
        yield from map(job, jobs)
        return
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, fresh, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        yield from pool.map(job, jobs, chunksize=2)


def _job(root: Path, folder: Path, request: Request, job: tuple[int, int]) -> dict:
    """Film and write one video or still, unless its note says that this was done before the interruption."""
    kind, index = job
    note = folder / f"{kind}-{index}.json"
    if note.is_file():
        return read_json(note)
    rng = np.random.default_rng(np.random.SeedSequence([request.seed, kind, index]))
    value = (_video if kind == VIDEO else _still)(root, request, index, rng)
    write_json(note, value)
    return value


def _others(rng: np.random.Generator, classes: int, kind: int, shares: tuple[float, ...]) -> tuple[int, ...]:
    """Kinds of the distractors, all different from `kind`; shares[n] is the chance of n of them."""
    count = int(rng.choice(len(shares), p=shares))
    rest = [other for other in range(classes) if other != kind]
    return tuple(int(other) for other in rng.choice(rest, count, replace=False))


def _video(root: Path, request: Request, index: int, rng: np.random.Generator) -> dict:
    """One video on both video shelves; its round (one per class) decides whether it leaves, and its split."""
    turn, kind = divmod(index, request.classes)
    length = int(rng.integers(request.frames[0], request.frames[1] + 1))
    scene = stage(
        rng, kind, _others(rng, request.classes, kind, (0.4, 0.4, 0.2)), length, SIZE, leaves=turn % 4 == 3
    )
    frames = list(film(scene, rng))
    name = digest("video", request.seed, index)
    video = layouts.write_ytvis_video(root / "ytvis", name[:10], frames, scene)
    sequence = layouts.write_vspw_sequence(
        root / "vspw", f"{index}_{name[5:]}", int(rng.integers(1, 9000)), frames, scene
    )
    split = "val" if turn % 2 else "train"
    return {"ytvis": video, "vspw": sequence | {"split": split}}


def _still(root: Path, request: Request, index: int, rng: np.random.Generator) -> dict:
    """One Pascal image; the first rounds are for training, the rest for validation."""
    turn, kind = divmod(index, request.classes)
    size = tuple(int(side) for side in 2 * rng.integers((100, 120), (141, 161)))
    others = _others(rng, request.classes, kind, (0.35, 0.5, 0.15))
    scene = stage(rng, kind, others, 1, size if rng.random() < 0.75 else size[::-1], span=(0.34, 0.65))
    frame = next(film(scene, rng))
    note = layouts.write_still(root / "pascal", f"2020_{index:06d}", frame, scene)
    return {"pascal": note | {"split": "train" if turn < request.stills_per_class[0] else "val"}}


def _assemble(root: Path, request: Request, notes: list[dict]) -> list[str]:
    """Write the tables; returns every file of the corpus, relative to its root."""
    shelves = {corpus: [note[corpus] for note in notes if corpus in note] for corpus in CORPORA}
    tables = layouts.write_tables(root, request.classes, shelves)
    return tables + [
        f"{corpus}/{file}" for corpus in CORPORA for note in shelves[corpus] for file in note["files"]
    ]

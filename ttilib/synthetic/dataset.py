"""Write the synthetic dataset in the layouts of Pascal, YouTube-VIS and VSPW (docs/protocol.md 1.1, 1.3 to 1.5).

Each video or image is a job with its own random stream. A finished job leaves a record (JSON), tables are built from
all records, and a marker is written last: an interrupted run continues, a finished dataset stays as it is.
"""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from filelock import FileLock
from jaxtyping import Bool, UInt8
from tqdm import tqdm

from ttilib.datasets.base import IGNORE_LABEL
from ttilib.datasets.masks import encode
from ttilib.files import atomic, check_main_guard, digest, parallel_map, read_json, write_json, write_text
from ttilib.images import write_image, write_labels
from ttilib.synthetic.scenery import STUFF
from ttilib.synthetic.scenes import Frame, Scene, render, sample_scene
from ttilib.synthetic.shapes import FAMILIES

FOLDS = 4
MIN_PIXELS = 400  # Pascal's rule (2048 of about 180,000 pixels) scaled to images of about 60,000
VSPW_IDS = range(41, 41 + 4 * len(FAMILIES), 4)  # of the classes, in the order of FAMILIES; all above those of stuff


def void_ring(frame: Frame, objects: Sequence[int]) -> Bool[np.ndarray, "H W"]:
    """Pixels within one pixel of the visible edge of an object; they get the ignore label in index PNGs."""
    instances = np.where(np.isin(frame.owner, [i + 1 for i in objects]), frame.owner, 0).astype(np.uint8)
    brick = np.ones((3, 3), np.uint8)
    return cv2.dilate(instances, brick) != cv2.erode(instances, brick)


def label_map(frame: Frame, scene: Scene, ground: UInt8[np.ndarray, "H W"], ids: Sequence[int]) -> np.ndarray:
    """Every visible object as `ids[kind]` over `ground`, with the ignore label around it."""
    labels, visible = ground.copy(), frame.visible(scene)
    for position, mask in visible.items():
        labels[mask] = ids[scene.actors[position].kind]
    labels[void_ring(frame, list(visible))] = IGNORE_LABEL
    return labels


def write_pascal_image(root: Path, name: str, frame: Frame, scene: Scene) -> dict:
    """Write one Pascal image and its index PNG; returns its record."""
    ids = range(1, len(FAMILIES) + 1)
    image, labels = f"JPEGImages/{name}.jpg", f"SegmentationClassAug/{name}.png"
    write_image(root / image, frame.image, quality=92)
    write_labels(root / labels, label_map(frame, scene, np.zeros_like(frame.stuff), ids))
    return {"name": name, "line": f"{image} {labels}"}


def write_ytvis_video(root: Path, name: str, frames: Sequence[Frame], scene: Scene) -> dict:
    """Write JPEG frames 00000, 00005, ... of a video; returns its record: file names and one track per object."""
    names = [f"{name}/{5 * t:05d}.jpg" for t in range(len(frames))]
    for frame, file in zip(frames, names, strict=True):
        write_image(root / "train/JPEGImages" / file, frame.image, quality=88)
    seen = [frame.visible(scene) for frame in frames]
    tracks = []
    for position, actor in enumerate(scene.actors):
        masks = [encode(visible[position]) if position in visible else None for visible in seen]
        if any(masks):
            tracks.append({"category_id": actor.kind + 1, "segmentations": masks})
    return {"names": names, "size": list(scene.size), "tracks": tracks}


def write_vspw_sequence(root: Path, name: str, first: int, frames: Sequence[Frame], scene: Scene) -> dict:
    """Write frames, index PNGs and flow files of a sequence, numbered from `first`; returns its record."""
    folder = root / "data" / name
    for number, frame in enumerate(frames, start=first):
        write_image(folder / f"origin/{number:08d}.jpg", frame.image, quality=82)
        write_labels(folder / f"mask/{number:08d}.png", label_map(frame, scene, frame.stuff, VSPW_IDS))
        if number < first + len(frames) - 1:  # the last frame has no flow
            with atomic(folder / f"flow/{number:08d}.pkl.pkl") as temporary:
                temporary.write_bytes(pickle.dumps({"flow": None}, protocol=4))
    return {"name": name}


def class_tables(classes: int) -> dict[str, dict]:
    """Class table and folds of each dataset, as in `lists.json`."""
    per_fold, names = classes // FOLDS, [family.name for family in FAMILIES[:classes]]
    blocks = [list(range(per_fold * k, per_fold * (k + 1))) for k in range(FOLDS)]
    plain = {str(i + 1): name for i, name in enumerate(names)}
    others = [[kind for kind in range(classes) if kind not in block] for block in blocks]
    return {
        "pascal": {"classes": plain, "novel": [[kind + 1 for kind in block] for block in blocks],
                   "min_pixels": MIN_PIXELS},
        "ytvis": {"classes": plain, "novel": [list(range(k + 1, classes + 1, FOLDS)) for k in range(FOLDS)]},
        "vspw": {"classes": {str(VSPW_IDS[i]): name for i, name in enumerate(names)},
                 "novel": [[VSPW_IDS[kind] for kind in block] for block in blocks],
                 # the order of base classes in the release, which sets the training labels
                 "base": [[VSPW_IDS[kind] for kind in kinds[2:] + kinds[:2]] for kinds in others]},
    }  # fmt: skip


def write_tables(root: Path, classes: int, records: Mapping[str, Sequence[dict]]) -> None:
    """Write lists and annotation tables of the three datasets from all records (in order)."""
    for corpus, table in class_tables(classes).items():
        write_json(root / corpus / "lists.json", table)
    for split in ("train", "val"):
        lines = [record["line"] for record in records["pascal"] if record["split"] == split]
        write_text(root / "pascal" / f"{split}.txt", "".join(f"{line}\n" for line in lines))
        names = sorted(record["name"] for record in records["vspw"] if record["split"] == split)
        write_text(root / "vspw" / f"{split}.txt", "".join(f"{name}\n" for name in names))
    ids = STUFF | {family.name: VSPW_IDS[kind] for kind, family in enumerate(FAMILIES[:classes])}
    write_json(root / "vspw/label_num_dic_final.json", {name: str(i) for name, i in ids.items()})
    videos: list[dict] = []
    annotations: list[dict] = []
    for number, record in enumerate(records["ytvis"], start=1):
        (height, width), names = record["size"], record["names"]
        videos.append({"id": number, "length": len(names), "height": height, "width": width, "file_names": names})
        for track in record["tracks"]:
            annotations.append({"id": len(annotations) + 1, "video_id": number, **track})
    categories = [{"id": i + 1, "name": family.name} for i, family in enumerate(FAMILIES[:classes])]
    content = {"videos": videos, "annotations": annotations, "categories": categories}
    write_json(root / "ytvis/train/train.json", content)


VERSION = 2  # increase when the same request gives other bytes
MARKER, LIST = "mini.json", "mini.txt"  # written last: request, and names of all files
DATASETS = ("pascal", "ytvis", "vspw")
VIDEO, IMAGE = 1, 2  # kinds of random streams
SIZE = (180, 320)  # height, width of a video frame


@dataclass(frozen=True)
class Request:
    """Parameters of the dataset; equal requests give equal bytes."""

    seed: int
    classes: int
    videos_per_class: int
    frames: tuple[int, int]
    stills_per_class: tuple[int, int]  # train, val


@dataclass(frozen=True)
class _Marker:
    """The file that a finished dataset has: version, request, and digest of the list of files."""

    version: int
    request: dict[str, Any]
    files: str


def generate(
    root: Path | str, seed: int = 2020, *, classes: int = 12, videos_per_class: int = 8,
    frames: tuple[int, int] = (16, 32), stills_per_class: tuple[int, int] = (10, 12), workers: int = 2,
) -> Path:  # fmt: skip
    """Write the synthetic dataset to `root` unless it is complete; returns `root`, with pascal/, ytvis/, vspw/.

    classes: 4, 8 or 12; frames: shortest and longest video; stills_per_class: training and validation images.
    workers: processes (more than 1 are spawned, so a script needs its `__main__` guard); any number writes equal bytes.
    Raises ValueError if the request is invalid or `root` contains a dataset of another request, RuntimeError without
    the guard.
    """
    request = Request(seed, classes, videos_per_class, tuple(frames), tuple(stills_per_class))
    shortest, longest = request.frames
    if seed < 0:
        raise ValueError(f"synthetic dataset: seed {seed} is not possible; give 0 or more")
    if classes not in range(FOLDS, len(FAMILIES) + 1, FOLDS):
        raise ValueError(f"synthetic dataset: {classes} classes are not possible; give 4, 8 or {len(FAMILIES)}")
    if videos_per_class < 1 or not 2 <= shortest <= longest or min(request.stills_per_class) < 1:
        sizes = f"{videos_per_class} videos of {shortest} to {longest} frames and {request.stills_per_class} images"
        raise ValueError(f"synthetic dataset: {sizes} per class are not possible; give at least 1, 2 and (1, 1)")
    root = Path(root)
    if not _finished(root, request):
        check_main_guard()
        root.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(root.with_name(f".{root.name}.lock")):  # other processes wait, and find it complete
            if not _finished(root, request):
                _write(root, request, workers)
    return root


def _write(root: Path, request: Request, workers: int) -> None:
    """Write the dataset, or what is missing of it after a stop."""
    folder = root / f".unfinished-{digest(VERSION, asdict(request))}"
    if not folder.is_dir() and not (root / LIST).is_file() and (others := _present(root)):
        raise ValueError(f"{root}: contains files of another dataset, such as {min(others)}; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    # Classes alternate, so that lists are not sorted by class.
    jobs = [(VIDEO, i) for i in range(request.classes * request.videos_per_class)]
    jobs += [(IMAGE, i) for i in range(request.classes * sum(request.stills_per_class))]
    with closing(parallel_map(partial(_job, root, folder, request), jobs, workers, chunk=2)) as work:
        records = list(tqdm(work, "synthetic dataset", len(jobs), mininterval=1.0, disable=len(jobs) <= 20))
    by_dataset = {corpus: [record[corpus] for record in records if corpus in record] for corpus in DATASETS}
    write_tables(root, request.classes, by_dataset)
    files = sorted(_present(root))
    write_text(root / LIST, "".join(f"{name}\n" for name in files))
    write_json(root / MARKER, {"version": VERSION, "request": asdict(request), "files": digest(files)})
    shutil.rmtree(folder)


def _finished(root: Path, request: Request) -> bool:
    """Whether this dataset is complete; one of another request raises ValueError."""
    marker, listed = root / MARKER, root / LIST
    if not marker.is_file():
        return False
    found = read_json(marker, _Marker)
    made = {**found.request, "version": found.version}
    for key, value in {**asdict(request), "version": VERSION}.items():
        if digest(made.get(key)) != digest(value):
            about = f"contains a synthetic dataset made with {key} {made.get(key)}, requested is {value}"
            raise ValueError(f"{root}: {about}; delete the folder or choose another")
    files = listed.read_text().split("\n")[:-1] if listed.is_file() else []
    return digest(files) == found.files and _present(root).issuperset(files)


def _present(root: Path) -> set[str]:
    """All files of the three datasets under `root`, without hidden ones."""
    files = (path for corpus in DATASETS for path in (root / corpus).rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix() for path in files if not path.name.startswith(".")}


def _job(root: Path, folder: Path, request: Request, job: tuple[int, int]) -> dict:
    """Render and write one video or image, unless its record exists."""
    kind, index = job
    path = folder / f"{kind}-{index}.json"
    if path.is_file():
        return read_json(path)
    rng = np.random.default_rng(np.random.SeedSequence([request.seed, kind, index]))
    record = (_video if kind == VIDEO else _image)(root, request, index, rng)
    write_json(path, record)
    return record


def _others(rng: np.random.Generator, classes: int, kind: int, shares: tuple[float, ...]) -> tuple[int, ...]:
    """Classes of the distractors, all different from `kind`; shares[n] is the probability of n of them."""
    count = int(rng.choice(len(shares), p=shares))
    rest = [other for other in range(classes) if other != kind]
    return tuple(int(other) for other in rng.choice(rest, count, replace=False))


def _video(root: Path, request: Request, index: int, rng: np.random.Generator) -> dict:
    """One video in both video datasets; its number within the class sets its split, and whether its object leaves."""
    turn, kind = divmod(index, request.classes)
    length = int(rng.integers(request.frames[0], request.frames[1] + 1))
    others = _others(rng, request.classes, kind, (0.4, 0.4, 0.2))
    scene = sample_scene(rng, kind, others, length, SIZE, leaves=turn % 4 == 3)
    frames = list(render(scene, rng))
    name = digest("video", request.seed, index)
    video = write_ytvis_video(root / "ytvis", name[:10], frames, scene)
    sequence = write_vspw_sequence(root / "vspw", f"{index}_{name[5:]}", int(rng.integers(1, 9000)), frames, scene)
    split = "val" if turn % 2 else "train"
    return {"ytvis": video, "vspw": sequence | {"split": split}}


def _image(root: Path, request: Request, index: int, rng: np.random.Generator) -> dict:
    """One Pascal image; the first ones of a class are for training, the rest for validation."""
    turn, kind = divmod(index, request.classes)
    size = tuple(int(side) for side in 2 * rng.integers((100, 120), (141, 161)))
    others = _others(rng, request.classes, kind, (0.35, 0.5, 0.15))
    scene = sample_scene(rng, kind, others, 1, size if rng.random() < 0.75 else size[::-1], span=(0.34, 0.65))
    record = write_pascal_image(root / "pascal", f"2020_{index:06d}", next(render(scene, rng)), scene)
    return {"pascal": record | {"split": "train" if turn < request.stills_per_class[0] else "val"}}

"""Shelving: filmed frames are written the way three well-known benchmarks keep theirs on disk.

Real readers should read the made corpus without knowing it was made, so nothing is simplified: compressed
run-length masks with `null` where a thing is absent, index PNGs with a void ring around things, optical-flow
files for every frame of a sequence but the last, and lists in each benchmark's own form.
Each video or still leaves a small JSON-able note (what it holds); the tables are assembled from the notes.
Source: protocol sections 1.1, 1.3, 1.4 and 1.5.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, UInt8
from pycocotools import mask as rle

from ttilib.corpora.corpus import IGNORED
from ttilib.files import atomic, write_json, write_text
from ttilib.images import write_image, write_labels
from ttilib.mini.scenery import STUFF
from ttilib.mini.scenes import Frame, Scene
from ttilib.mini.shapes import FAMILIES

FOLDS = 4
MIN_PIXELS = 400  # Pascal's size rule (2048 of about 180,000 pixels) carried over to stills of about 60,000
VSPW_FIRST, VSPW_STEP = 41, 4  # ids of things on the VSPW shelf: 41, 45, ...


def vspw_id(kind: int) -> int:
    """Id of a kind (index into FAMILIES) on the VSPW shelf, above those of all stuff."""
    return VSPW_FIRST + VSPW_STEP * kind


def encode(mask: Bool[np.ndarray, "H W"]) -> dict:
    """Compressed run-length form of a mask with text counts, as the YouTube-VIS annotation file holds it."""
    packed = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(side) for side in packed["size"]], "counts": packed["counts"].decode("ascii")}


def void_ring(frame: Frame, things: Sequence[int]) -> Bool[np.ndarray, "H W"]:
    """Pixels within one pixel of the visible edge of a thing: a ring two pixels wide, void in index PNGs."""
    instances = np.where(np.isin(frame.owner, [i + 1 for i in things]), frame.owner, 0).astype(np.uint8)
    brick = np.ones((3, 3), np.uint8)
    return cv2.dilate(instances, brick) != cv2.erode(instances, brick)


def paint(frame: Frame, scene: Scene, ground: UInt8[np.ndarray, "H W"], ids: Sequence[int]) -> np.ndarray:
    """Index picture: every visible thing in `ids[kind]` over `ground`, void around it."""
    labels, visible = ground.copy(), frame.visible(scene)
    for position, mask in visible.items():
        labels[mask] = ids[scene.actors[position].kind]
    labels[void_ring(frame, list(visible))] = IGNORED
    return labels


def write_still(root: Path, name: str, frame: Frame, scene: Scene) -> dict:
    """One Pascal image and its index PNG; returns its note."""
    ids = range(1, len(FAMILIES) + 1)
    image, labels = f"JPEGImages/{name}.jpg", f"SegmentationClassAug/{name}.png"
    write_image(root / image, frame.image, quality=92)
    write_labels(root / labels, paint(frame, scene, np.zeros_like(frame.stuff), ids))
    return {"name": name, "line": f"{image} {labels}", "files": [image, labels]}


def write_ytvis_video(root: Path, name: str, frames: Sequence[Frame], scene: Scene) -> dict:
    """JPEG frames 00000, 00005, ... of one video; returns its note: file names and one track per thing."""
    names = [f"{name}/{5 * t:05d}.jpg" for t in range(len(frames))]
    for frame, file in zip(frames, names, strict=True):
        write_image(root / "train/JPEGImages" / file, frame.image, quality=88)
    seen = [frame.visible(scene) for frame in frames]
    tracks = []
    for position, actor in enumerate(scene.actors):
        masks = [encode(visible[position]) if position in visible else None for visible in seen]
        if any(masks):
            tracks.append({"category_id": actor.kind + 1, "segmentations": masks})
    return {"names": names, "size": list(scene.size), "tracks": tracks,
            "files": [f"train/JPEGImages/{file}" for file in names]}  # fmt: skip


def write_vspw_sequence(root: Path, name: str, first: int, frames: Sequence[Frame], scene: Scene) -> dict:
    """Frames, index PNGs and flow files of one sequence, numbered from `first`; returns its note."""
    ids, files, folder = [vspw_id(kind) for kind in range(len(FAMILIES))], [], f"data/{name}"
    for t, frame in enumerate(frames):
        image, labels = f"{folder}/origin/{first + t:08d}.jpg", f"{folder}/mask/{first + t:08d}.png"
        write_image(root / image, frame.image, quality=82)
        write_labels(root / labels, paint(frame, scene, frame.stuff, ids))
        files += [image, labels]
        if t < len(frames) - 1:  # flow leads to the next frame; the last frame has none
            files.append(f"{folder}/flow/{first + t:08d}.pkl.pkl")
            with atomic(root / files[-1]) as temporary:
                temporary.write_bytes(pickle.dumps({"flow": None}, protocol=4))
    return {"name": name, "files": files}


def class_tables(classes: int) -> dict[str, dict]:
    """Class table and folds of each corpus, in the form of `lists.json`."""
    per_fold, names = classes // FOLDS, [family.name for family in FAMILIES[:classes]]
    blocks = [list(range(per_fold * k, per_fold * (k + 1))) for k in range(FOLDS)]
    plain = {str(i + 1): name for i, name in enumerate(names)}
    others = [[kind for kind in range(classes) if kind not in block] for block in blocks]
    return {
        "pascal": {"classes": plain, "novel": [[kind + 1 for kind in block] for block in blocks],
                   "min_pixels": MIN_PIXELS},
        "ytvis": {"classes": plain, "novel": [list(range(k + 1, classes + 1, FOLDS)) for k in range(FOLDS)]},
        "vspw": {"classes": {str(vspw_id(i)): name for i, name in enumerate(names)},
                 "novel": [[vspw_id(kind) for kind in block] for block in blocks],
                 # the release lists base classes in an order of its own, which fixes the training labels
                 "base": [[vspw_id(kind) for kind in kinds[2:] + kinds[:2]] for kinds in others]},
    }  # fmt: skip


def write_tables(root: Path, classes: int, notes: Mapping[str, Sequence[dict]]) -> list[str]:
    """Write lists and annotation tables of the three corpora from all notes (in order); returns the files."""
    for corpus, table in class_tables(classes).items():
        write_json(root / corpus / "lists.json", table)
    for split in ("train", "val"):
        lines = [note["line"] for note in notes["pascal"] if note["split"] == split]
        write_text(root / "pascal" / f"{split}.txt", "".join(f"{line}\n" for line in lines))
        names = sorted(note["name"] for note in notes["vspw"] if note["split"] == split)
        write_text(root / "vspw" / f"{split}.txt", "".join(f"{name}\n" for name in names))
    stuff_and_things = STUFF | {family.name: vspw_id(kind) for kind, family in enumerate(FAMILIES[:classes])}
    write_json(root / "vspw/label_num_dic_final.json", {name: str(i) for name, i in stuff_and_things.items()})
    videos, annotations = [], []
    for number, note in enumerate(notes["ytvis"], start=1):
        height, width = note["size"]
        videos.append({"id": number, "length": len(note["names"]), "height": height, "width": width,
                       "file_names": note["names"]})  # fmt: skip
        for track in note["tracks"]:
            annotations.append({"id": len(annotations) + 1, "video_id": number, **track})
    categories = [{"id": i + 1, "name": family.name} for i, family in enumerate(FAMILIES[:classes])]
    write_json(root / "ytvis/train/train.json",
               {"videos": videos, "annotations": annotations, "categories": categories})  # fmt: skip
    common = [f"{corpus}/lists.json" for corpus in ("pascal", "ytvis", "vspw")]
    return common + ["pascal/train.txt", "pascal/val.txt", "vspw/train.txt", "vspw/val.txt",
                     "vspw/label_num_dic_final.json", "ytvis/train/train.json"]  # fmt: skip

"""Sequences with a label map per frame: VSPW, and MiniVSPW, whose novel classes are Pascal's.

VSPW: data/<sequence>/{origin,mask}, train.txt, val.txt. MiniVSPW: data/<sequence>/{origin,mask,flow} and
label_num_dic_final.json, VSPW's names of its ids. Source: protocol sections 1.4, 1.5 and 7.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from ttilib.datasets.base import (
    IGNORE_LABEL,
    Dataset,
    FrameFiles,
    FramesByClass,
    Ids,
    LabelRule,
    Names,
    OnError,
    ResizeRule,
    Scan,
    Table,
    large,
    only_present,
    published_lines,
    stop,
)
from ttilib.datasets.masks import Counts, census
from ttilib.datasets.pascal import PascalReader
from ttilib.datasets.transforms import letterbox, resize_top_left
from ttilib.files import file_names, lists_folder, natural_key, read_json, read_lines
from ttilib.images import read_labels


def sequence_folders(place: Path, inside: str = "") -> list[str]:
    """Folders in `place` that have a folder `inside`, in natural order. FileNotFoundError if none."""
    if not place.is_dir():
        raise FileNotFoundError(f"{place}: no such folder; expected one folder per sequence in it")
    names = [entry.name for entry in place.iterdir() if (entry / inside).is_dir() and entry.name[0] != "."]
    if not names:
        about = f"no folder with {inside}/ in it" if inside else "no folders in it"
        raise FileNotFoundError(f"{place}: {about}; expected one folder per sequence")
    return sorted(names, key=natural_key)


def sequence_frames(
    place: Path, names: Iterable[str], inside: str, ending: str, on_error: OnError = stop
) -> dict[str, Names]:
    """Frames of each sequence in natural order, from the files in <place>/<sequence>/<inside>."""
    frames = {}
    for name in names:
        folder = place / name / inside
        if files := file_names(folder, ending):
            frames[name] = tuple(f"{name}/{file}" for file in files)
        else:
            on_error(FileNotFoundError(f"{folder}: no {ending} files of {name} here; check the data folder"))
    return frames


def counted(
    root: Path, frames: Mapping[str, Names], mask: Callable[[str], Path], on_error: OnError = stop
) -> tuple[dict[str, Names], dict[str, Counts]]:
    """The frames whose masks can be read, and the pixels per label of each."""
    paths: dict[str, Path] = {}
    for name, there in frames.items():
        folder = mask(there[0]).parent
        if folder.is_dir():
            paths |= {frame: mask(frame) for frame in there}
        else:
            on_error(FileNotFoundError(f"{folder}: no such folder; expected a mask for every frame of {name}"))
    found = census(list(paths.values()), on_error, kept=root / "lists" / "census.json")
    counts = {frame: found[path] for frame, path in paths.items() if path in found}
    return keep(frames, counts.__contains__), counts


def keep(frames: Mapping[str, Names], wanted: Callable[[str], bool]) -> dict[str, Names]:
    """The frames that are `wanted`; sequences without one are left out."""
    kept = {name: tuple(frame for frame in there if wanted(frame)) for name, there in frames.items()}
    return {name: there for name, there in kept.items() if there}


def vspw_folder(root: Path) -> Path:
    """The folder of the sequences: <root>/data as published, else `root`."""
    return root / "data" if (root / "data").is_dir() else root


def read_words(path: Path) -> list[str]:
    """The first word of every line of a list; [] if there is no such file."""
    return [line.split()[0] for line in read_lines(path) if line.strip()] if path.is_file() else []


def listed_videos(root: Path, table: Table, lists: Names = ("train.txt", "val.txt")) -> list[str]:
    """Sequences of the lists that the table does not ignore; all sequences if the last list is missing or empty."""
    *others, last = (read_words(root / name) for name in lists)
    named = sum(others, []) + (last or sequence_folders(vspw_folder(root), "origin"))
    return [name for name in dict.fromkeys(named) if name not in table.get("ignored", ())]


def published_list(root: Path, classes: Collection[int], lists: Mapping[str, Sequence[Collection[int]]]) -> str:
    """The published list of exactly these classes (`lists`: name with {} to classes by fold); "" if none applies."""
    if (root / "lists.json").is_file():
        return ""
    wanted = set(classes)
    names = [name.format(k) for name, folds in lists.items() for k, ids in enumerate(folds) if set(ids) == wanted]
    name = next((name for name in names if (lists_folder() / f"{name}.txt").is_file()), "")
    sequences = {line.split("/")[-3].split(" ")[-1] for line in published_lines(name)} if name else ()
    return name if any((vspw_folder(root) / sequence).is_dir() for sequence in sequences) else ""


def published_frames(
    root: Path, name: str, wanted: Callable[[str], bool], there: Callable[[str], bool], on_error: OnError
) -> dict[str, Names]:
    """The wanted frames of a published list, by sequence; missing ones are reported once."""
    lines = published_lines(name) if name else ()
    frames = ["/".join(re.search(r"([^/ ]+)/mask/(.+)\.png$", line).groups()) for line in lines]
    frames = [frame for frame in frames if wanted(frame.split("/")[0])]
    found: dict[str, Names] = {}
    for frame in only_present(frames, set(filter(there, frames)), name, root, on_error):
        sequence = frame.split("/")[0]
        found[sequence] = (*found.get(sequence, ()), frame)
    return found


def scan_vspw(root: Path, table: Table, base: Ids, novel: Ids, on_error: OnError = stop) -> Scan:
    """Frames of each class: base classes in sequences of train.txt and val.txt, novel classes in those of val.txt.

    A frame is listed if the published list of the base (or novel) classes has it or, without such a list, if one of
    them is `large` in it. In a listed frame all of them are present, however small.
    """
    reader, videos = VspwReader(root), listed_videos(root, table)
    train, val = (set(read_words(root / f"{split}.txt")) for split in ("train", "val"))
    # Sequences of no list are test data: training on them would invalidate the results.
    val = val or set(videos) - train
    frames = sequence_frames(reader.folder, videos, "origin", ".jpg", on_error)
    frames, counts = counted(root, frames, reader.mask_path, on_error)
    own, splits = read_json(VSPW_TABLE), {}
    if table.get("min_pixels") == own["min_pixels"]:
        splits = {"vspw/train_{}": own["base"], "vspw/val_{}": own["validation"], "vspw/test_{}": own["novel"]}
    presence: FramesByClass = {number: {} for number in (*base, *novel)}
    query_videos = [video for video in frames if video in val]
    for classes, used, wanted in ((base, frames, train.__contains__), (novel, query_videos, bool)):
        name = published_list(root, classes, splits)
        published = published_frames(root, name, wanted, counts.__contains__, on_error)
        for video in used:
            if name and wanted(video):
                listed = published.get(video, ())
            else:
                listed = [frame for frame in frames[video] if large(counts[frame], table) & set(classes)]
            for number in classes:
                if seen := tuple(frame for frame in listed if number in counts[frame]):
                    presence[number][video] = seen
    shown = {video for number in base for video in presence[number]}
    kept = [tuple(video for video in frames if video in shown and video in split) for split in (train, val)]
    return Scan(frames, presence, *kept)


class VspwReader(PascalReader):
    """VSPW: images <sequence>/origin/<frame>.jpg, class ids <sequence>/mask/<frame>.png; flow is not read."""

    episode_rule = ResizeRule(letterbox, True)
    training_rule = ResizeRule(resize_top_left, False, rounded=True)
    colours = None
    others = 0

    def __init__(self, root: Path | str) -> None:
        super().__init__(root)
        self.folder = vspw_folder(self.root)

    def image_path(self, frame: str) -> Path:
        """The image file of a frame."""
        return self.folder / f"{frame.replace('/', '/origin/')}.jpg"

    def mask_path(self, frame: str) -> Path:
        """The label map of a frame."""
        return self.folder / f"{frame.replace('/', '/mask/')}.png"

    def mask(self, frame: str, class_id: int) -> UInt8[np.ndarray, "h w"]:
        """1 on the class, 0 elsewhere; the ignore label is background, as released."""
        return (read_labels(self.mask_path(frame)) == class_id).astype(np.uint8)


LABELS, VIDEOS = "label_num_dic_final.json", "vspw_videolist.txt"
VSPW_TABLE = lists_folder() / "vspw.json"
FLOW = ".pkl.pkl"


def minivspw_table(root: Path, pascal_table: Table, vspw_table: Table | None = None) -> dict[str, Any]:
    """The class table of a MiniVSPW folder: VSPW ids with the names and folds of their Pascal classes.

    Names are from the folder's label_num_dic_final.json, else its lists.json, else `vspw_table` (default: the
    project's), which has differing names and ignored sequences. ValueError if two VSPW classes are one Pascal class, or
    none is.
    """
    vspw = read_json(VSPW_TABLE) if vspw_table is None else vspw_table
    path, names = _names(root, vspw)
    ids = {name: number for number, name in pascal_table["classes"].items()}
    classes: dict[int, str] = {}
    for number, name in sorted(names.items()):
        name = vspw["pascal_to_vspw"]["names"].get(name, name)
        if name in classes.values():
            raise ValueError(f"{path}: two of its classes are the Pascal class {name!r}; name one of them otherwise")
        if name in ids:
            classes[number] = name
    if not classes:
        raise ValueError(f"{path}: none of its {len(names)} names is a Pascal class; give the file VSPW ships")
    novel = [[number for number, name in classes.items() if ids[name] in fold] for fold in pascal_table["novel"]]
    ignored = list(vspw["pascal_to_vspw"]["ignored"])
    return {"corpus": "minivspw", "classes": classes, "novel": novel, "base": [[] for _ in novel], "ignored": ignored}


def _names(root: Path, vspw: Table) -> tuple[Path, dict[int, str]]:
    """The file that names the ids of a folder, and these names by id."""
    path = next((root / name for name in (LABELS, "lists.json") if (root / name).is_file()), VSPW_TABLE)
    content = vspw if path == VSPW_TABLE else read_json(path)
    try:
        if path.name == LABELS:
            return path, {int(number): name for name, number in content.items()}
        return path, {int(number): name for number, name in content["classes"].items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a file of names and ids ({error}); give the one VSPW ships") from error


def minivspw_listed(
    root: Path, ids: Collection[int], ignored: Collection[str] = (), on_error: OnError = stop
) -> tuple[dict[str, Names], dict[str, Counts]]:
    """Frames and counts of the published list of these classes, else of all frames that contain one of them."""
    reader, named = VspwReader(root), set(read_words(root / VIDEOS))
    wanted = lambda video: video not in ignored and (not named or video in named)  # noqa: E731
    folds = read_json(VSPW_TABLE)["pascal_to_vspw"]["novel"]
    if name := published_list(root, ids, {"minivspw/{}": folds}):
        listed = published_frames(root, name, wanted, lambda frame: reader.mask_path(frame).is_file(), on_error)
        return counted(root, listed, reader.mask_path, on_error)
    names = sorted(sequence_folders(reader.folder, "origin"))  # 10_x before 9_x, as in the released lists
    masks = sequence_frames(reader.folder, filter(wanted, names), "mask", ".png", on_error)
    masks, counts = counted(root, masks, reader.mask_path, on_error)
    return keep(masks, lambda frame: not counts[frame].keys().isdisjoint(ids)), counts


def scan_minivspw(root: Path, table: Table, base: Ids, novel: Ids, on_error: OnError = stop) -> Scan:
    """Query frames: listed, not ignored, with an image and, if the folder has any, a flow file (quirk Q10)."""
    frames, counts = minivspw_listed(root, novel, table.get("ignored", ()), on_error)
    reader = VspwReader(root)
    flows, images = (
        {f"{name}/{file}" for name in frames for file in file_names(reader.folder / name / inside, ending)}
        for inside, ending in (("flow", FLOW), ("origin", ".jpg"))
    )
    if any(reader.folder.glob(f"*/flow/*{FLOW}")):
        frames = keep(frames, flows.__contains__)
    for frame in (frame for there in frames.values() for frame in there if frame not in images):
        path = reader.image_path(frame)
        on_error(FileNotFoundError(f"{path}: no such file; a mask belongs to this image, copy it"))
    frames = keep(frames, images.__contains__)
    presence: FramesByClass = {number: {} for number in table["classes"]}
    for number in novel:
        presence[number] = keep(frames, lambda frame, number=number: number in counts[frame])
    return Scan(frames, presence, (), ())


class MiniVspwReader(VspwReader):
    """MiniVSPW: files as in VSPW; as released, frames are resized and padded like Pascal's images."""

    episode_rule = ResizeRule(resize_top_left, False)


def sequence_files(reader: PascalReader, names: Iterable[str]) -> dict[str, FrameFiles]:
    """Files of the frames that have an image or a mask, in natural order."""
    frames = []
    for name in names:
        images = file_names(reader.image_path(f"{name}/frame").parent, ".jpg")
        masks = file_names(reader.mask_path(f"{name}/frame").parent, ".png")
        frames += [f"{name}/{file}" for file in sorted({*images, *masks}, key=natural_key)]
    return reader.files(frames)


def vspw_labels(root: Path, table: Table) -> LabelRule:
    """The ids that VSPW names; others only cause a warning, as readers treat them as background."""
    path = root / LABELS
    named = [int(number) for number in read_json(path).values()] if path.is_file() else range(1, 125)
    return LabelRule({0, *named, *table["classes"], IGNORE_LABEL}, severity="warning")


SEQUENCE_FILES = {
    "data/<sequence>/origin/<frame>.jpg or <sequence>/origin/<frame>.jpg": "",
    "data/<sequence>/mask/<frame>.png or <sequence>/mask/<frame>.png": "",
}

VSPW = Dataset(
    name="vspw",
    reader=VspwReader,
    scan=scan_vspw,
    folders=("vspw", "VSPW_480p", "VSPW"),
    signs=("data/*/origin", "*/origin"),
    sampling="sequences",
    layout={
        **SEQUENCE_FILES,
        "train.txt": "so there is nothing to train on",
        "val.txt": "so every sequence that is not in train.txt is asked about",
    },
    files=lambda root, table, on_error: sequence_files(VspwReader(root), listed_videos(root, table)),
    labels=vspw_labels,
)
MINIVSPW = Dataset(
    name="minivspw",
    reader=MiniVspwReader,
    scan=scan_minivspw,
    folders=("minivspw", "MiniVSPW", "vspw"),
    signs=VSPW.signs,
    own_table=minivspw_table,
    layout={
        **SEQUENCE_FILES,
        LABELS: "so the names of the classes are taken from the project's own table",
        f"data/<sequence>/flow/<frame>{FLOW}": "so no frame is left out for having none, as the release does",
    },
    files=lambda root, table, on_error: sequence_files(VspwReader(root), listed_videos(root, table, (VIDEOS,))),
    labels=vspw_labels,
)

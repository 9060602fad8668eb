"""Sequences with a label map per frame: VSPW; MiniVSPW, whose novel classes are Pascal's; DAVIS, of one object each.

VSPW: data/<sequence>/{origin,mask}, train.txt, val.txt. MiniVSPW: data/<sequence>/{origin,mask,flow} and
label_num_dic_final.json, VSPW's names of its ids. Source: docs/protocol.md 1.4, 1.5 and 7.

DAVIS is an official edition, or has Pascal's class ids in its masks. An official edition (folder JPEGImages/480p or
another resolution) marks an object without its class: the class table gives the class of each sequence, and leaves out
those of several things or of no Pascal class.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from jaxtyping import UInt8

from ttilib.datasets.base import (
    IGNORE_LABEL,
    ClassTable,
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
    class_labels,
)
from ttilib.datasets.masks import CENSUS, Counts, census, large_labels
from ttilib.datasets.pascal import PascalReader, classes_in, only_present, published_lines
from ttilib.datasets.transforms import letterbox, resize_top_left
from ttilib.files import LISTS, file_names, is_utf8, natural_key, read_json, read_lines


def sequence_folders(root: Path, inside: str = "") -> list[str]:
    """Folders in `root` that have a folder `inside`, in natural order. FileNotFoundError if none."""
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; expected one folder per sequence in it")
    names = [entry.name for entry in root.iterdir() if (entry / inside).is_dir() and entry.name[0] != "."]
    if not names:
        about = f"no folder with {inside}/ in it" if inside else "no folders in it"
        raise FileNotFoundError(f"{root}: {about}; expected one folder per sequence")
    return sorted(names, key=natural_key)


def sequence_frames(root: Path, names: Iterable[str], inside: str, ending: str, on_error: OnError) -> dict[str, Names]:
    """Frames of each sequence in natural order, from the files in <root>/<sequence>/<inside>."""
    frames = {}
    for name in names:
        folder = root / name / inside
        files = file_names(folder, ending)
        if odd := [text for text in (name, *files) if not is_utf8(text)]:
            on_error(ValueError(f"{folder}: the name {odd[0]!r} is not UTF-8 text; rename it"))
        elif files:
            frames[name] = tuple(f"{name}/{file}" for file in files)
        else:
            on_error(FileNotFoundError(f"{folder}: no {ending} files of {name} here; check the data folder"))
    return frames


def count_labels(
    reader: PascalReader, frames: Mapping[str, Names], on_error: OnError
) -> tuple[dict[str, Names], dict[str, Counts]]:
    """The frames whose masks can be read, and the pixels per label of each."""
    paths: dict[str, Path] = {}
    for name, there in frames.items():
        folder = reader.mask_path(there[0]).parent
        if folder.is_dir():
            paths |= {frame: reader.mask_path(frame) for frame in there}
        else:
            on_error(FileNotFoundError(f"{folder}: no such folder; expected a mask for every frame of {name}"))
    found = census(list(paths.values()), on_error, cached=reader.root / CENSUS)
    counts = {frame: found[path] for frame, path in paths.items() if path in found}
    return filter_frames(frames, counts), counts


def filter_frames(frames: Mapping[str, Names], wanted: Container[str]) -> dict[str, Names]:
    """The frames that are `wanted`; sequences without one are left out."""
    left = {name: tuple(frame for frame in there if frame in wanted) for name, there in frames.items()}
    return {name: there for name, there in left.items() if there}


def frames_by_class(
    frames: Mapping[str, Names], shown: Mapping[str, Container[int]], ids: Iterable[int]
) -> FramesByClass:
    """The frames that contain each class, given the classes in each frame."""
    return {c: filter_frames(frames, {frame for frame, found in shown.items() if c in found}) for c in ids}


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
    names = [name.format(k) for name, folds in lists.items() for k, ids in enumerate(folds) if set(ids) == set(classes)]
    name = next((name for name in names if (LISTS / f"{name}.txt").is_file()), "")
    sequences = {line.split("/")[-3].split(" ")[-1] for line in published_lines(name)} if name else ()
    return name if any((vspw_folder(root) / sequence).is_dir() for sequence in sequences) else ""


def published_frames(
    root: Path, name: str, wanted: Callable[[str], bool], present: Callable[[str], bool], on_error: OnError
) -> dict[str, Names]:
    """The frames of a published list in the `wanted` sequences, by sequence; missing ones are reported once."""
    lines = [line.split(" ")[-1].removeprefix("data/").removesuffix(".png") for line in published_lines(name)]
    frames = [frame for frame in (line.replace("/mask/", "/") for line in lines) if wanted(frame.split("/")[0])]
    found: dict[str, Names] = {}
    for frame in only_present(frames, set(filter(present, frames)), name, root, on_error):
        sequence = frame.split("/")[0]
        found[sequence] = (*found.get(sequence, ()), frame)
    return found


def scan_vspw(root: Path, table: Table, base: Ids, novel: Ids, on_error: OnError) -> Scan:
    """Frames of each class: base classes in sequences of train.txt and val.txt, novel classes in those of val.txt.

    A frame is listed if the published list of the base (or novel) classes has it or, without such a list, if one of
    them is large in it. In a listed frame all of them are present, however small.
    """
    reader, videos = VspwReader(root), listed_videos(root, table)
    train, val = (set(read_words(root / f"{split}.txt")) for split in ("train", "val"))
    # Sequences of no list are test data: training on them would invalidate the results.
    val = val or set(videos) - train
    frames = sequence_frames(reader.folder, videos, "origin", ".jpg", on_error)
    frames, counts = count_labels(reader, frames, on_error)
    own, splits = read_json(VSPW_TABLE), {}
    if table.get("min_pixels") == own["min_pixels"] and not table.get("min_share"):
        splits = {"vspw/train_{}": own["base"], "vspw/val_{}": own["validation"], "vspw/test_{}": own["novel"]}
    presence: FramesByClass = {}
    query_videos = [video for video in frames if video in val]
    for classes, used, wanted in ((base, list(frames), train.__contains__), (novel, query_videos, bool)):
        name = published_list(root, classes, splits)
        published = published_frames(root, name, wanted, counts.__contains__, on_error) if name else {}
        listed = set(chain.from_iterable(published.values()))
        others = chain.from_iterable(frames[video] for video in used if not (name and wanted(video)))
        listed |= {frame for frame in others if large_labels(counts[frame], table) & set(classes)}
        presence |= frames_by_class(filter_frames({v: frames[v] for v in used}, listed), counts, classes)
    shown = {video for number in base for video in presence[number]}
    train_videos, val_videos = (tuple(v for v in frames if v in shown and v in split) for split in (train, val))
    return Scan(frames, presence, train_videos, val_videos)


class VspwReader(PascalReader):
    """VSPW: images <sequence>/origin/<frame>.jpg, class ids <sequence>/mask/<frame>.png; flow is not read."""

    episode_rule = ResizeRule(letterbox, True)
    training_rule = ResizeRule(resize_top_left, False, rounded=True)
    colours, upright = None, False
    others = 0

    def __init__(self, root: Path | str) -> None:
        super().__init__(root)
        self.folder = vspw_folder(self.root)

    def image_path(self, frame: str) -> Path:
        return self.folder / f"{frame.replace('/', '/origin/')}.jpg"

    def mask_path(self, frame: str) -> Path:
        return self.folder / f"{frame.replace('/', '/mask/')}.png"

    def mask(self, frame: str, class_id: int) -> UInt8[np.ndarray, "h w"]:
        # The ignore label is background, as released.
        return (self.stored(frame) == class_id).astype(np.uint8)


LABELS, VIDEOS = "label_num_dic_final.json", "vspw_videolist.txt"
VSPW_TABLE = LISTS / "vspw.json"
FLOW = ".pkl.pkl"
LabelId = int | Annotated[str, msgspec.Meta(pattern="^[0-9]{1,9}$")]


def minivspw_table(root: Path, pascal_table: Table) -> dict[str, Any]:
    """The class table of a MiniVSPW folder: VSPW ids with the names and folds of their Pascal classes.

    Names are from the folder's label_num_dic_final.json, else its lists.json, else the project's table. ValueError if
    two VSPW classes are one Pascal class, or none is.
    """
    path = next((root / name for name in (LABELS, "lists.json") if (root / name).is_file()), VSPW_TABLE)
    names = _label_names(path) if path.name == LABELS else read_json(path, ClassTable)["classes"]
    ids = {name: number for number, name in pascal_table["classes"].items()}
    pascal_to_vspw = read_json(VSPW_TABLE)["pascal_to_vspw"]
    classes: dict[int, str] = {}
    for number, name in sorted(names.items()):
        name = pascal_to_vspw["names"].get(name, name)
        if name in classes.values():
            raise ValueError(f"{path}: two of its classes are the Pascal class {name!r}; name one of them otherwise")
        if name in ids:
            classes[number] = name
    if not classes:
        raise ValueError(f"{path}: none of its {len(names)} names is a Pascal class; give the file VSPW ships")
    novel = [[number for number, name in classes.items() if ids[name] in fold] for fold in pascal_table["novel"]]
    ignored = pascal_to_vspw["ignored"]
    return {"classes": classes, "novel": novel, "base": [[] for _ in novel], "ignored": ignored}


def _label_names(path: Path) -> dict[int, str]:
    """The names of the ids in a label_num_dic_final.json, which has the ids of the names, as text."""
    ids = read_json(path, dict[str, LabelId])
    names = {int(number): name for name, number in ids.items()}
    if len(names) < len(ids):
        raise ValueError(f"{path}: two of its names have the same id; give the file VSPW ships")
    return names


def minivspw_listed(
    root: Path, ids: Collection[int], ignored: Collection[str], on_error: OnError
) -> tuple[dict[str, Names], dict[str, Counts]]:
    """Frames and counts of the published list of these classes, else of all frames that contain one of them."""
    reader, named = VspwReader(root), set(read_words(root / VIDEOS))

    def wanted(video: str) -> bool:
        return video not in ignored and (not named or video in named)

    folds = read_json(VSPW_TABLE)["pascal_to_vspw"]["novel"]
    if name := published_list(root, ids, {"minivspw/{}": folds}):
        listed = published_frames(root, name, wanted, lambda frame: reader.mask_path(frame).is_file(), on_error)
        return count_labels(reader, listed, on_error)
    names = sorted(sequence_folders(reader.folder, "origin"))  # 10_x before 9_x, as in the released lists
    masks = sequence_frames(reader.folder, filter(wanted, names), "mask", ".png", on_error)
    masks, counts = count_labels(reader, masks, on_error)
    return filter_frames(masks, {frame for frame, found in counts.items() if not found.keys().isdisjoint(ids)}), counts


def scan_minivspw(root: Path, table: Table, base: Ids, novel: Ids, on_error: OnError) -> Scan:
    """Query frames: listed, not ignored, with an image and, if the folder has any, a flow file. Source: Q10."""
    frames, counts = minivspw_listed(root, novel, table.get("ignored", ()), on_error)
    reader = VspwReader(root)
    flows, images = (
        {f"{name}/{file}" for name in frames for file in file_names(reader.folder / name / inside, ending)}
        for inside, ending in (("flow", FLOW), ("origin", ".jpg"))
    )
    if any(reader.folder.glob(f"*/flow/*{FLOW}")):
        frames = filter_frames(frames, flows)
    for frame in (frame for there in frames.values() for frame in there if frame not in images):
        path = reader.image_path(frame)
        on_error(FileNotFoundError(f"{path}: no such file; a mask belongs to this image, copy it"))
    frames = filter_frames(frames, images)
    presence = frames_by_class({}, {}, table["classes"]) | frames_by_class(frames, counts, novel)
    return Scan(frames, presence, (), ())


class MiniVspwReader(VspwReader):
    """MiniVSPW: files as in VSPW; as released, frames are resized and padded like Pascal's images."""

    episode_rule = ResizeRule(resize_top_left, False)
    upright = True


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
    named = _label_names(path) if path.is_file() else range(1, 125)
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
        "val.txt": "so every sequence that is not in train.txt is a query",
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

RESOLUTIONS = ("480p", "Full-Resolution", "1080p")  # folders of the official editions, preferred first


def scan_davis(root: Path, table: Table, base: Ids, novel: Ids, on_error: OnError) -> Scan:
    """The frames that contain each class; of an official edition, only sequences whose class the table names."""
    reader = DavisReader(root)
    images = root / reader.images
    names = sequence_folders(images)
    if reader.edition:
        classes = _davis_classes(images, names, table)
        names = [name for name in names if name in classes]
    frames = sequence_frames(images, names, "", ".jpg", on_error)
    frames, counts = count_labels(reader, frames, on_error)
    if reader.edition:
        shown = {frame: _davis_object(classes[frame.split("/")[0]], found, table) for frame, found in counts.items()}
    else:
        shown = classes_in(reader, counts, table, on_error)
        frames = filter_frames(frames, shown)
    return Scan(frames, frames_by_class(frames, shown, table["classes"]), (), ())


def _davis_classes(images: Path, names: Sequence[str], table: Table) -> dict[str, int]:
    """The class of each sequence that the table names; the table gives a reason for the others."""
    ids = {name: number for number, name in table["classes"].items()}
    found = {name: kind for name, kind in table.get("sequences", {}).items() if name in set(names)}
    if not found:
        about = f"the class table names the class of none of its {len(names)} sequences"
        raise ValueError(f"{images}: {about}; take lists/davis.json or name them under sequences")
    if unknown := sorted(set(found.values()) - ids.keys()):
        raise ValueError(f"{images}: classes {unknown} of the class table's sequences have no id; add them to classes")
    return {name: ids[kind] for name, kind in found.items()}


def _davis_object(number: int, found: Counts, table: Table) -> set[int]:
    """The class of a sequence, if all its labels together are large enough in a frame."""
    pixels = sum(count for label, count in found.items() if label)
    return large_labels({0: found.get(0, 0), number: pixels}, table) & {number}


class DavisReader(PascalReader):
    """DAVIS: JPEGImages and Annotations by sequence; an official mask names no class, so it is returned for any."""

    # Not in the release: letterboxed like other videos, padding and void are ignored.
    episode_rule = training_rule = ResizeRule(letterbox, False)
    void = IGNORE_LABEL
    colours = None

    def __init__(self, root: Path | str) -> None:
        super().__init__(root)
        # The resolution folder of an official edition; "" if masks contain class ids.
        self.edition = next((name for name in RESOLUTIONS if (self.root / "JPEGImages" / name).is_dir()), "")
        self.images, self.masks = f"JPEGImages/{self.edition}", f"Annotations/{self.edition}"

    def mask(self, frame: str, class_id: int) -> UInt8[np.ndarray, "h w"]:
        if not self.edition:
            return super().mask(frame, class_id)
        return (self.stored(frame) > 0).astype(np.uint8)

    def labels(self, frame: str, base: Ids) -> UInt8[np.ndarray, "h w"]:
        if not self.edition:
            return super().labels(frame, base)
        raise ValueError(f"{self.mask_path(frame)}: names no class; DAVIS cannot be trained on, take other videos")


def davis_files(root: Path, table: Table, on_error: OnError) -> dict[str, FrameFiles]:
    """Files of all frames; of an official edition, only of sequences in the class table."""
    reader = DavisReader(root)
    names = sequence_folders(root / reader.images)
    return sequence_files(reader, [n for n in names if not reader.edition or n in table.get("sequences", ())])


def davis_labels(root: Path, table: Table) -> LabelRule:
    """An official edition may use every label: all but 0 are the object."""
    return LabelRule(range(256), ()) if DavisReader(root).edition else class_labels(root, table)


DAVIS = Dataset(
    name="davis",
    reader=DavisReader,
    scan=scan_davis,
    folders=("davis", "DAVIS"),
    signs=("JPEGImages", "Annotations"),
    layout={
        "JPEGImages/480p/<sequence>/<frame>.jpg or JPEGImages/<sequence>/<frame>.jpg": "",
        "Annotations/480p/<sequence>/<frame>.png or Annotations/<sequence>/<frame>.png": "",
    },
    files=davis_files,
    labels=davis_labels,
)

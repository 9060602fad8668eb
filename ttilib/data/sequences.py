"""Sequences with a label map per frame: VSPW and DAVIS.

The scans tell where each class is visible, the readers read photographs and masks.
Source: protocol section 1.5 (VSPW).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from ttilib.data.augmentation import flip
from ttilib.data.corpus import OnError, Presence, Rule, Scan, large, stop
from ttilib.data.stills import PascalReader, known
from ttilib.data.transforms import centred, static
from ttilib.files import natural_key
from ttilib.images import label_counts, read_image, read_labels


def _sequences(folder: Path, names: Iterable[str], pictures: str, ending: str) -> dict[str, tuple[str, ...]]:
    """The frames of each sequence in natural order, from the pictures in <folder>/<pictures with {}>."""
    frames = {}
    for name in names:
        place = folder / pictures.format(name)
        files = sorted((file.stem for file in place.glob(f"*{ending}")), key=natural_key)
        if not files:
            raise FileNotFoundError(f"{place}: no {ending} files of {name} here; check the data folder")
        frames[name] = tuple(f"{name}/{file}" for file in files)
    return frames


def _folders(place: Path) -> list[str]:
    if not place.is_dir():
        raise FileNotFoundError(f"{place}: no such folder; expected one folder per sequence in it")
    return sorted((entry.name for entry in place.iterdir() if entry.is_dir()), key=natural_key)


def vspw_folder(root: Path) -> Path:
    """The folder of the sequences: <root>/data as VSPW ships it, or `root` itself."""
    return root / "data" if (root / "data").is_dir() else root


def scan_vspw(
    root: Path,
    table: Mapping[str, Any],
    base: Sequence[int],
    novel: Sequence[int],
    on_error: OnError = stop,
) -> Scan:
    folder = vspw_folder(root)
    there = [name for name in _folders(folder) if (folder / name / "origin").is_dir()]
    listed = {}
    for split in ("train", "val"):
        path = root / f"{split}.txt"
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        listed[split] = [line.split()[0] for line in lines if line.strip()]
    # Sequences of no list are test material: to train on them by accident would spoil every number.
    val = listed["val"] or [name for name in there if name not in listed["train"]]
    videos = [name for name in dict.fromkeys(listed["train"] + val) if name not in table.get("ignored", ())]
    frames = _sequences(folder, videos, "{}/origin", ".jpg")
    counts = {v: {f: label_counts(_vspw_mask(folder, f)) for f in names} for v, names in frames.items()}

    def visible(number: int, classes: Sequence[int], video: str) -> tuple[str, ...]:
        kept = {f: c for f, c in counts[video].items() if large(c, table) & set(classes)}
        return tuple(f for f, c in kept.items() if number in c)

    def where(classes: Sequence[int], videos: Iterable[str]) -> Presence:
        return {c: {v: seen for v in videos if (seen := visible(c, classes, v))} for c in classes}

    presence = {**where(base, videos), **where(novel, [v for v in videos if v in val])}
    shown = {v for c in base for v in presence[c]}
    train = tuple(v for v in videos if v in listed["train"] and v in shown)
    return Scan(frames, presence, train, tuple(v for v in videos if v in val and v in shown))


def _vspw_mask(folder: Path, frame: str) -> Path:
    sequence, name = frame.split("/")
    return folder / sequence / "mask" / f"{name}.png"


def scan_davis(
    root: Path,
    table: Mapping[str, Any],
    base: Sequence[int],
    novel: Sequence[int],
    on_error: OnError = stop,
) -> Scan:
    frames = _sequences(root / "JPEGImages", _folders(root / "JPEGImages"), "{}", ".jpg")
    listed = {}
    for names in frames.values():
        for frame in names:
            path = root / "Annotations" / f"{frame}.png"
            listed[frame] = large(known(path, label_counts(path), table), table)
    presence: Presence = {}
    for number in table["classes"]:
        seen = {video: tuple(f for f in names if number in listed[f]) for video, names in frames.items()}
        presence[number] = {video: visible for video, visible in seen.items() if visible}
    return Scan(frames, presence, (), ())


class VspwReader:
    """VSPW: <sequence>/origin/<frame>.jpg with class ids in <sequence>/mask/<frame>.png; flow is not read."""

    episode_rule = Rule(centred, True)
    training_rule = Rule(static, False)
    vary = staticmethod(flip)

    def __init__(self, root: Path | str) -> None:
        self.folder = vspw_folder(Path(root))

    def image(self, frame: str) -> UInt8[np.ndarray, "h w 3"]:
        """The photograph of a frame, red green blue."""
        sequence, name = frame.split("/")
        return read_image(self.folder / sequence / "origin" / f"{name}.jpg")

    def mask(self, frame: str, class_id: int) -> UInt8[np.ndarray, "h w"]:
        """1 on the class, 0 elsewhere; the release counts what nobody judged as background."""
        return (self._stored(frame) == class_id).astype(np.uint8)

    def labels(self, frame: str, base: Sequence[int]) -> UInt8[np.ndarray, "h w"]:
        """Base classes numbered from 1 in the order given; everything else is background."""
        table = np.zeros(256, dtype=np.uint8)
        table[list(base)] = range(1, len(base) + 1)
        return table[self._stored(frame)]

    def _stored(self, frame: str) -> UInt8[np.ndarray, "h w"]:
        sequence, name = frame.split("/")
        return read_labels(self.folder / sequence / "mask" / f"{name}.png")


class DavisReader(PascalReader):
    """DAVIS with class ids: JPEGImages/<sequence>/<frame>.jpg and Annotations/<sequence>/<frame>.png."""

    # The release never saw these videos: laid like other videos, and the black bars do not count.
    episode_rule = training_rule = Rule(centred, False)
    masks = "Annotations"

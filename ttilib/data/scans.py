"""Where on disk each class of a corpus can be seen.

Every corpus keeps its annotations in its own way: one JSON with the outlines of a whole video (ytvis), a
list of stills with a label map each (pascal), a folder per sequence with a label map per frame (vspw,
davis). A scan reads one of them under the class table and tells, without touching a photograph, the frames
of every video, the frames that show each class, and the videos that base training may use.

`SCANS` holds one scan per corpus; `ytvis_index`, `pascal_list`, `vspw_folder` know the three layouts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from ttilib.files import natural_key, read_json
from ttilib.images import label_counts

IGNORED = 255
"""The stored label of pixels that nobody judged."""

Presence = dict[int, dict[str, tuple[str, ...]]]
Names = tuple[str, ...]
Scan = tuple[dict[str, Names], Presence, Names, Names]
"""What a scan returns: frames of each video, presence of each class, training and validation videos."""


def split_videos(presence: Presence, base: Sequence[int]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Divide the videos of the base classes: of each class the first 90% train, the rest validate.

    Classes are taken in the order given; a video stays where an earlier class put it, and is listed once
    for every class that takes it. Source: protocol section 1.3, standard training set.
    """
    train: list[str] = []
    val: list[str] = []
    for number in base:
        videos = list(presence[number])
        cut = int(0.9 * len(videos))
        train += [video for video in videos[:cut] if video not in val]
        val += [video for video in videos[cut:] if video not in train]
    return tuple(train), tuple(val)


def ytvis_index(root: Path | str) -> dict[str, Any]:
    """The parsed train/train.json of YouTube-VIS 2019: "videos" and "annotations" by video name.

    Videos come in ascending id, annotations in file order; the file is parsed once while it is unchanged.
    """
    path = Path(root) / "train" / "train.json"
    stamp = path.stat().st_mtime_ns if path.is_file() else 0
    return _ytvis_index(path, stamp)


@lru_cache(maxsize=4)
def _ytvis_index(path: Path, stamp: int) -> dict[str, Any]:
    content = read_json(path)
    if missing := {"videos", "annotations", "categories"} - set(content):
        raise ValueError(f"{path}: no {sorted(missing)} in it; expected the train.json of YouTube-VIS 2019")
    videos, annotations, by_id = {}, {}, {}
    for video in sorted(content["videos"], key=lambda entry: entry["id"]):
        frames = tuple(str(PurePosixPath(file).with_suffix("")) for file in video["file_names"])
        name = frames[0].split("/")[0]
        by_id[video["id"]] = name
        videos[name] = {"frames": frames, "height": video["height"], "width": video["width"]}
        annotations[name] = []
    for entry in content["annotations"]:
        if entry["video_id"] not in by_id:
            raise ValueError(f"{path}: annotation {entry['id']} is of no listed video; fetch it again")
        name = by_id[entry["video_id"]]
        found, due = len(entry["segmentations"]), len(videos[name]["frames"])
        if found != due:
            about = f"annotation {entry['id']} has {found} outlines, video {name} has {due} frames"
            raise ValueError(f"{path}: {about}; fetch the file again")
        annotations[name].append(entry)
    categories = {entry["id"]: entry["name"] for entry in content["categories"]}
    return {"videos": videos, "annotations": annotations, "categories": categories, "path": path}


def _scan_ytvis(root: Path, table: Mapping[str, Any], base: Sequence[int], novel: Sequence[int]) -> Scan:
    index = ytvis_index(root)
    for number, name in index["categories"].items():
        known = table["classes"].get(number, "nothing")
        if known.replace(" ", "_").lower() != name.replace(" ", "_").lower():
            raise ValueError(
                f"{index['path']}: category {number} is {name!r}, the class table says {known!r}; "
                "use the 2019 edition, or give the folder its own lists.json"
            )
    presence: Presence = {number: {} for number in table["classes"]}
    for video, entries in index["annotations"].items():
        frames = index["videos"][video]["frames"]
        for number in sorted({entry["category_id"] for entry in entries}):
            mine = [entry["segmentations"] for entry in entries if entry["category_id"] == number]
            visible = tuple(f for t, f in enumerate(frames) if any(outlines[t] for outlines in mine))
            if visible:
                presence[number][video] = visible
    frames = {name: video["frames"] for name, video in index["videos"].items()}
    return frames, presence, *split_videos(presence, base)


def pascal_list(root: Path, name: str) -> tuple[str, ...]:
    """The stills of a list in file order; lines are JPEGImages/<id>.jpg SegmentationClassAug/<id>.png."""
    path = root / name
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such list; expected lines 'JPEGImages/<id>.jpg <mask path>'")
    names = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        fields = line.split()
        still = PurePosixPath(fields[0]).stem if fields else ""
        if fields != [f"JPEGImages/{still}.jpg", f"SegmentationClassAug/{still}.png"]:
            raise ValueError(
                f"{path}, line {number}: found {line!r}; expected two fields, "
                "JPEGImages/<id>.jpg SegmentationClassAug/<id>.png"
            )
        names.append(still)
    return tuple(names)


def _large(counts: Mapping[int, int], table: Mapping[str, Any]) -> set[int]:
    """Labels that cover at least `min_pixels` and at least the share `min_share` of the picture."""
    least = max(table.get("min_pixels", 1), table.get("min_share", 0.0) * sum(counts.values()), 1)
    return {label for label, count in counts.items() if count >= least}


def _known(path: Path, counts: Mapping[int, int], table: Mapping[str, Any]) -> Mapping[int, int]:
    for label in counts:
        if label not in (0, IGNORED) and label not in table["classes"]:
            raise ValueError(f"{path}: label {label} is no class of the table; use class ids, 0, {IGNORED}")
    return counts


def _scan_pascal(root: Path, table: Mapping[str, Any], base: Sequence[int], novel: Sequence[int]) -> Scan:
    train, val = pascal_list(root, "train.txt"), pascal_list(root, "val.txt")
    large = {}
    for still in dict.fromkeys(train + val):
        path = root / "SegmentationClassAug" / f"{still}.png"
        large[still] = _large(_known(path, label_counts(path), table), table)
    pools = {number: train + val if number in base else val for number in table["classes"]}
    presence = {c: {s: (s,) for s in pool if c in large[s]} for c, pool in pools.items()}
    kept = [tuple(s for s in names if large[s] & set(base)) for names in (train, val)]
    return {still: (still,) for still in large}, presence, *kept


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


def _scan_vspw(root: Path, table: Mapping[str, Any], base: Sequence[int], novel: Sequence[int]) -> Scan:
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
        kept = {f: c for f, c in counts[video].items() if _large(c, table) & set(classes)}
        return tuple(f for f, c in kept.items() if number in c)

    def where(classes: Sequence[int], videos: Iterable[str]) -> Presence:
        return {c: {v: seen for v in videos if (seen := visible(c, classes, v))} for c in classes}

    presence = {**where(base, videos), **where(novel, [v for v in videos if v in val])}
    shown = {v for c in base for v in presence[c]}
    train = tuple(v for v in videos if v in listed["train"] and v in shown)
    return frames, presence, train, tuple(v for v in videos if v in val and v in shown)


def _vspw_mask(folder: Path, frame: str) -> Path:
    sequence, name = frame.split("/")
    return folder / sequence / "mask" / f"{name}.png"


def _scan_davis(root: Path, table: Mapping[str, Any], base: Sequence[int], novel: Sequence[int]) -> Scan:
    frames = _sequences(root / "JPEGImages", _folders(root / "JPEGImages"), "{}", ".jpg")
    large = {}
    for names in frames.values():
        for frame in names:
            path = root / "Annotations" / f"{frame}.png"
            large[frame] = _large(_known(path, label_counts(path), table), table)
    presence: Presence = {}
    for number in table["classes"]:
        seen = {video: tuple(f for f in names if number in large[f]) for video, names in frames.items()}
        presence[number] = {video: visible for video, visible in seen.items() if visible}
    return frames, presence, (), ()


SCANS: dict[str, Callable[..., Scan]] = {
    "ytvis": _scan_ytvis,
    "pascal": _scan_pascal,
    "vspw": _scan_vspw,
    "davis": _scan_davis,
}

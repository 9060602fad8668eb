"""YouTube-VIS 2019: one JSON with the masks of every object in every frame. Source: protocol section 1.3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import UInt8

from ttilib.datasets.base import Dataset, FrameFiles, FramesByClass, Ids, Names, OnError, ResizeRule, Scan, Table, stop
from ttilib.datasets.masks import decode, rle_error, to_compressed_rle
from ttilib.datasets.transforms import letterbox
from ttilib.files import Stamp, file_stamp, read_json
from ttilib.images import read_image


def split_videos(presence: FramesByClass, base: Ids) -> tuple[Names, Names]:
    """Of each base class, the first 90% of its videos train and the rest validate.

    A video stays where an earlier class put it, listed per class. Source: protocol section 1.3, standard training set.
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
    """The parsed train/train.json, cached while the file is unchanged. Raises ValueError if it is another file.

    "videos" (ascending id) and "annotations" (file order) by video name, "categories" by id, "complaints" (left out).
    """
    path = Path(root) / "train" / "train.json"
    return _ytvis_index(path, file_stamp(path))


@lru_cache(maxsize=4)
def _ytvis_index(path: Path, stamp: Stamp | None) -> dict[str, Any]:
    content = read_json(path, to_compressed_rle)
    given = content if isinstance(content, dict) else {}
    if missing := [key for key in ("annotations", "categories", "videos") if not given.get(key)]:
        raise ValueError(f"{path}: no {missing} in it; expected the train.json of YouTube-VIS 2019")
    videos: dict[str, dict[str, Any]] = {}
    names: dict[int, str | None] = {}
    complaints = []
    for entry in sorted(content["videos"], key=lambda entry: entry["id"]):
        files = entry["file_names"]
        name = files[0].split("/")[0] if files else ""
        if wrong := _wrong_video(name, files, videos):
            names[entry["id"]] = None
            complaints.append(f"video {entry['id']} {wrong}")
        else:
            names[entry["id"]] = name
            frames = tuple(str(PurePosixPath(file).with_suffix("")) for file in files)
            videos[name] = {"frames": frames, "height": entry["height"], "width": entry["width"]}
    annotations: dict[str, list[dict[str, Any]]] = {name: [] for name in videos}
    for entry in content["annotations"]:
        name = names.get(entry.get("video_id"), "")
        if name and not (wrong := _wrong_annotation(entry, name, videos[name])):
            annotations[name].append(entry)
        elif name is not None:  # a video that was left out is reported once, without its annotations
            complaints.append(f"annotation {entry.get('id')} {wrong if name else 'is of no listed video'}")
    return {
        "path": path,
        "videos": videos,
        "annotations": annotations,
        "categories": {entry["id"]: entry["name"] for entry in content["categories"]},
        "complaints": tuple(f"{path}: {complaint}; fetch the file again" for complaint in complaints),
    }


def _wrong_video(name: str, files: Sequence[str], videos: Mapping[str, Any]) -> str:
    """Why a video cannot be used; "" if it can."""
    if not files:
        return "has no frames"
    if stray := next((file for file in files if not file.startswith(f"{name}/")), None):
        return f"has a frame {stray!r}, expected <video>/<frame>.jpg of one video"
    return f"is in the folder {name} of an earlier one" if name in videos else ""


def _wrong_annotation(entry: Mapping[str, Any], name: str, video: Mapping[str, Any]) -> str:
    """Why an annotation cannot be used; "" if it can."""
    if missing := {"id", "category_id", "segmentations"} - entry.keys():
        return f"has no {', '.join(sorted(missing))}"
    outlines = entry["segmentations"] or ()
    if len(outlines) != len(video["frames"]):
        return f"has {len(outlines)} outlines, video {name} has {len(video['frames'])} frames"
    for frame, outline in zip(video["frames"], outlines, strict=True):
        if outline and (wrong := rle_error(outline, video["height"], video["width"])):
            return f"cannot be used in frame {frame} ({wrong})"
    return ""


def scan_ytvis(root: Path, table: Table, base: Ids, novel: Ids, on_error: OnError = stop) -> Scan:
    """Frames where each class has a segmentation that is not null; any video may be for training or queries."""
    index = ytvis_index(root)
    for complaint in index["complaints"]:
        on_error(ValueError(complaint))
    usable = _usable(index, table, on_error)
    presence: FramesByClass = {number: {} for number in table["classes"]}
    for video, entries in index["annotations"].items():
        frames = index["videos"][video]["frames"]
        for number in sorted({entry["category_id"] for entry in entries} & usable):
            mine = [entry["segmentations"] for entry in entries if entry["category_id"] == number]
            if visible := tuple(f for t, f in enumerate(frames) if any(outlines[t] for outlines in mine)):
                presence[number][video] = visible
    frames = {name: video["frames"] for name, video in index["videos"].items()}
    return Scan(frames, presence, *split_videos(presence, base))


def _usable(index: Mapping[str, Any], table: Table, on_error: OnError) -> set[int]:
    """Categories on which file and class table agree; others are reported, as are annotations of none."""
    usable = set()
    for number, name in index["categories"].items():
        known = table["classes"].get(number, "nothing")
        if known.replace(" ", "_").lower() == name.replace(" ", "_").lower():
            usable.add(number)
            continue
        about = f"category {number} is {name!r}, the class table says {known!r}; use the 2019 edition"
        on_error(ValueError(f"{index['path']}: {about}, or give the folder its own lists.json"))
    for entry in chain.from_iterable(index["annotations"].values()):
        if (number := entry["category_id"]) not in index["categories"]:
            about = f"annotation {entry['id']} is of category {number}, which the file does not name"
            on_error(ValueError(f"{index['path']}: {about}; fetch the file again"))
    return usable


class YtvisReader:
    """YouTube-VIS 2019: segmentations in train/train.json, images train/JPEGImages/<video>/<frame>.jpg."""

    # Padding is background in the release: in support, query and training.
    episode_rule = training_rule = ResizeRule(letterbox, True)

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self.folder = self.root / "train" / "JPEGImages"
        ytvis_index(root)  # raises if train.json is missing or damaged; not an attribute: small pickles

    def image(self, frame: str) -> UInt8[np.ndarray, "h w 3"]:
        """The RGB image of a frame."""
        return read_image(self.folder / f"{frame}.jpg")

    def mask(self, frame: str, class_id: int) -> UInt8[np.ndarray, "h w"]:
        """1 on every instance of the class, 0 elsewhere; there is no ignore label."""
        return self._paint(frame, {class_id: 1})

    def labels(self, frame: str, base: Ids) -> UInt8[np.ndarray, "h w"]:
        """Base classes numbered from 1, later annotations over earlier ones; all else is background."""
        return self._paint(frame, {number: place for place, number in enumerate(base, start=1)})

    def _paint(self, frame: str, colours: dict[int, int]) -> UInt8[np.ndarray, "h w"]:
        index, name = ytvis_index(self.root), frame.split("/")[0]
        video = index["videos"].get(name)
        if video is None or frame not in video["frames"]:
            raise ValueError(f"{index['path']}: no frame {frame}; sample the episodes from this data")
        time, (height, width) = video["frames"].index(frame), (video["height"], video["width"])
        canvas = np.zeros((height, width), dtype=np.uint8, order="F")  # run lengths go column by column
        for entry in index["annotations"][name]:
            outline = entry["segmentations"][time]
            if outline and entry["category_id"] in colours:
                where = f"{index['path']}: annotation {entry['id']}, frame {frame}"
                canvas[decode(outline, height, width, where)] = colours[entry["category_id"]]
        return canvas


def ytvis_files(root: Path, table: Table, on_error: OnError) -> dict[str, FrameFiles]:
    """Image and size of every frame in train.json; masks have no files."""
    folder, videos = root / "train" / "JPEGImages", ytvis_index(root)["videos"].values()
    return {f: FrameFiles(folder / f"{f}.jpg", None, (v["height"], v["width"])) for v in videos for f in v["frames"]}


YTVIS = Dataset(
    name="ytvis",
    reader=YtvisReader,
    scan=scan_ytvis,
    folders=("ytvis", "YTVIS", "youtube-vis"),
    signs=("train/train.json", "train/JPEGImages"),
    sampling="v1",
    augmentation="clip",
    layout={"train/train.json": "", "train/JPEGImages/<video>/<frame>.jpg": ""},
    files=ytvis_files,
)

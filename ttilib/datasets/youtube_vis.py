"""YouTube-VIS 2019: one JSON with the masks of every object in every frame. Source: docs/protocol.md 1.3."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import UInt8

from ttilib.datasets.base import Dataset, FrameFiles, FramesByClass, Ids, Names, OnError, ResizeRule, Scan, Table
from ttilib.datasets.masks import decode, rle_error
from ttilib.datasets.transforms import letterbox
from ttilib.files import Stamp, file_stamp, read_json
from ttilib.images import read_image


def split_videos(presence: FramesByClass, base: Ids) -> tuple[Names, Names]:
    """Of each base class, the first 90% of its videos train and the rest validate.

    A video stays where an earlier class put it, listed per class. Source: docs/protocol.md 1.3, standard training set.
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

    "videos" (ascending id) and "annotations" (file order) by video name, "categories" by id, "problems" (left out).
    """
    path = Path(root) / "train" / "train.json"
    return _ytvis_index(path, file_stamp(path))


@lru_cache(maxsize=4)
def _ytvis_index(path: Path, stamp: Stamp | None) -> dict[str, Any]:
    content, problems = read_json(path), []
    try:
        categories = {entry["id"]: entry["name"] for entry in content["categories"]}
        entries = sorted(content["videos"], key=lambda entry: entry["id"])
        names = {entry["id"]: entry["file_names"][0].split("/")[0] for entry in entries}
        videos = {}
        for entry in entries:
            frames = tuple(str(PurePosixPath(file).with_suffix("")) for file in entry["file_names"])
            videos[names[entry["id"]]] = {"frames": frames, "height": entry["height"], "width": entry["width"]}
        annotations: dict[str, list[dict[str, Any]]] = {name: [] for name in videos}
        for entry in content["annotations"]:
            name = names.get(entry["video_id"], "")
            wrong = _annotation_error(entry, videos[name], categories) if name else "is of no listed video"
            if wrong:
                problems.append(ValueError(f"{path}: annotation {entry['id']} {wrong}; fetch the file again"))
            else:
                annotations[name].append(entry)
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not the train.json of YouTube-VIS 2019 ({error!r}); fetch it again") from error
    keys = ("path", "videos", "annotations", "categories", "problems")
    return dict(zip(keys, (path, videos, annotations, categories, tuple(problems)), strict=True))


def _annotation_error(entry: Mapping[str, Any], video: Mapping[str, Any], categories: Mapping[int, str]) -> str:
    """Why an annotation cannot be used; "" if it can."""
    masks, frames = entry["segmentations"] or (), video["frames"]
    if len(masks) != len(frames):
        return f"has {len(masks)} segmentations, its video has {len(frames)} frames"
    for frame, segmentation in zip(frames, masks, strict=True):
        if segmentation and (wrong := rle_error(segmentation, video["height"], video["width"])):
            return f"cannot be used in frame {frame} ({wrong})"
    return "" if entry["category_id"] in categories else f"is of category {entry['category_id']}, which has no name"


def scan_ytvis(root: Path, table: Table, base: Ids, novel: Ids, on_error: OnError) -> Scan:
    """Frames where each class has a segmentation that is not null; any video may be for training or queries."""
    index = ytvis_index(root)
    for problem in index["problems"]:
        on_error(problem)
    usable = set()
    for number, name in index["categories"].items():
        expected = table["classes"].get(number, "nothing")
        if name.replace(" ", "_").lower() == expected.replace(" ", "_").lower():
            usable.add(number)
        else:
            about = f"category {number} is {name!r}, the class table says {expected!r}; use the 2019 edition"
            on_error(ValueError(f"{index['path']}: {about}, or give the folder its own lists.json"))
    presence: FramesByClass = {number: {} for number in table["classes"]}
    for video, entries in index["annotations"].items():
        frames = index["videos"][video]["frames"]
        for number in sorted({entry["category_id"] for entry in entries} & usable):
            masks = [entry["segmentations"] for entry in entries if entry["category_id"] == number]
            if visible := tuple(f for f, *found in zip(frames, *masks, strict=True) if any(found)):
                presence[number][video] = visible
    frames = {name: video["frames"] for name, video in index["videos"].items()}
    return Scan(frames, presence, *split_videos(presence, base))


class YtvisReader:
    """YouTube-VIS 2019: segmentations in train/train.json, images train/JPEGImages/<video>/<frame>.jpg."""

    # Padding is background in the release: in support, query and training.
    episode_rule = training_rule = ResizeRule(letterbox, True, supports_like_first=True)
    void = 0  # there is none

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self.folder = self.root / "train" / "JPEGImages"
        ytvis_index(root)  # raises if train.json is missing or damaged; not an attribute: small pickles

    def image(self, frame: str) -> UInt8[np.ndarray, "h w 3"]:
        """The RGB image of a frame."""
        return read_image(self.folder / f"{frame}.jpg")

    def mask(self, frame: str, class_id: int) -> UInt8[np.ndarray, "h w"]:
        """1 on every instance of the class, 0 elsewhere; there is no ignore label."""
        return self._draw(frame, {class_id: 1})

    def labels(self, frame: str, base: Ids) -> UInt8[np.ndarray, "h w"]:
        """Base classes numbered from 1, later annotations over earlier ones; all else is background."""
        return self._draw(frame, {number: label for label, number in enumerate(base, start=1)})

    def _draw(self, frame: str, labels: dict[int, int]) -> UInt8[np.ndarray, "h w"]:
        index, name = ytvis_index(self.root), frame.split("/")[0]
        video = index["videos"].get(name)
        if video is None or frame not in video["frames"]:
            raise ValueError(f"{index['path']}: no frame {frame}; sample the episodes from this data")
        time, (height, width) = video["frames"].index(frame), (video["height"], video["width"])
        canvas = np.zeros((height, width), dtype=np.uint8, order="F")  # run lengths go column by column
        for entry in index["annotations"][name]:
            segmentation = entry["segmentations"][time]
            if segmentation and entry["category_id"] in labels:
                where = f"{index['path']}: annotation {entry['id']}, frame {frame}"
                canvas[decode(segmentation, height, width, where)] = labels[entry["category_id"]]
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

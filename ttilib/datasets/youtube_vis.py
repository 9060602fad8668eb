"""YouTube-VIS 2019: one JSON with the masks of every object in every frame. Source: docs/protocol.md 1.3."""

from __future__ import annotations

from collections.abc import Container
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
from jaxtyping import UInt8

from ttilib.datasets.base import Dataset, FrameFiles, FramesByClass, Ids, Names, OnError, ResizeRule, Scan, Side, Table
from ttilib.datasets.masks import Category, Numbered, decode, entries_by_id, read_entries, read_segmentation
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


FRAME = r"^[^/\x00.][^/\x00]*/[^/\x00.][^/\x00]*$"  # <video>/<frame>.jpg, none of them hidden


class Video(Numbered):
    """An entry of "videos"; `frames` are <video>/<frame>, in the file with an ending."""

    height: Side
    width: Side
    frames: tuple[Annotated[str, msgspec.Meta(pattern=FRAME)], ...] = msgspec.field(name="file_names")

    def __post_init__(self) -> None:
        self.frames = tuple(str(PurePosixPath(file).with_suffix("")) for file in self.frames)
        if len(set(self.frames)) < max(len(self.frames), 1) or len({frame.split("/")[0] for frame in self.frames}) > 1:
            raise ValueError("file_names are not different files of one folder")

    @property
    def name(self) -> str:
        """The folder of its frames."""
        return self.frames[0].split("/")[0]


class Annotation(Numbered):
    """An entry of "annotations": an object, and the JSON of its segmentation in each frame of its video.

    `ytvis_index` leaves a segmentation empty, thus false, where the object is not visible.
    """

    video_id: int
    category_id: int
    segmentations: list[msgspec.Raw]


class TrainJson(msgspec.Struct):
    """train.json; entries are parsed one by one, so that one that cannot be used can be left out."""

    videos: list[msgspec.Raw]
    annotations: list[msgspec.Raw]
    categories: list[msgspec.Raw]


class YtvisIndex(NamedTuple):
    """What can be used of a train.json: videos (ascending id) and their objects (file order) by name, and problems."""

    path: Path
    videos: dict[str, Video]
    tracks: dict[str, list[Annotation]]
    categories: dict[int, str]
    problems: tuple[Exception, ...]


def ytvis_index(root: Path | str) -> YtvisIndex:
    """The parsed train/train.json, cached while the file is unchanged. Raises ValueError if it is another file."""
    path = Path(root) / "train" / "train.json"
    return _ytvis_index(path, file_stamp(path))


@lru_cache(maxsize=4)
def _ytvis_index(path: Path, stamp: Stamp) -> YtvisIndex:
    content = read_json(path, TrainJson)
    problems: list[Exception] = []
    named = entries_by_id(content.categories, Category, f"{path}: categories", problems.append)
    categories = {number: category.name for number, category in named.items()}
    listed = entries_by_id(content.videos, Video, f"{path}: videos", problems.append)
    videos: dict[str, Video] = {}
    for number, video in sorted(listed.items()):
        if videos.setdefault(video.name, video) is not video:
            del listed[number]
            problems.append(ValueError(f"{path}: video {video.name} is there twice; fetch the file again"))
    tracks: dict[str, list[Annotation]] = {name: [] for name in videos}
    for entry in read_entries(content.annotations, Annotation, f"{path}: annotations", problems.append):
        try:
            _check(entry, listed.get(entry.video_id), categories, f"{path}: annotation {entry.id}")
        except ValueError as error:
            problems.append(error)
        else:
            tracks[listed[entry.video_id].name].append(entry)
    return YtvisIndex(path, videos, tracks, categories, tuple(problems))


def _check(entry: Annotation, video: Video | None, categories: Container[int], where: str) -> None:
    """Raise ValueError if an annotation cannot be used; empty the segmentations where it is not visible."""
    if video is None or entry.category_id not in categories:
        about = f"is of video {entry.video_id} and category {entry.category_id}, and one of them is not listed"
        raise ValueError(f"{where} {about}; fetch the file again")
    parts, size = entry.segmentations, (video.height, video.width)
    if len(parts) != len(video.frames):
        about = f"has {len(parts)} segmentations, its video has {len(video.frames)} frames"
        raise ValueError(f"{where} {about}; fetch the file again")
    for time, frame in enumerate(video.frames):
        if not read_segmentation(parts[time], *size, f"{where}, frame {frame}"):
            parts[time] = msgspec.Raw()


def scan_ytvis(root: Path, table: Table, base: Ids, novel: Ids, on_error: OnError) -> Scan:
    """Frames where each class has a segmentation that is not null; any video may be for training or queries."""
    index = ytvis_index(root)
    for problem in index.problems:
        on_error(problem)
    usable = set()
    for number, name in index.categories.items():
        expected = table["classes"].get(number, "nothing")
        if name.replace(" ", "_").lower() == expected.replace(" ", "_").lower():
            usable.add(number)
        else:
            about = f"category {number} is {name!r}, the class table says {expected!r}; use the 2019 edition"
            on_error(ValueError(f"{index.path}: {about}, or give the folder its own lists.json"))
    presence: FramesByClass = {number: {} for number in table["classes"]}
    for video, entries in index.tracks.items():
        frames = index.videos[video].frames
        for number in sorted({entry.category_id for entry in entries} & usable):
            masks = [entry.segmentations for entry in entries if entry.category_id == number]
            if visible := tuple(f for f, *found in zip(frames, *masks, strict=True) if any(found)):
                presence[number][video] = visible
    listed = {name: video.frames for name, video in index.videos.items()}
    return Scan(listed, presence, *split_videos(presence, base))


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
        """The RGB image of a frame, as stored: the release reads it by Pillow, which does not turn it."""
        return read_image(self.folder / f"{frame}.jpg", upright=False)

    def mask(self, frame: str, class_id: int) -> UInt8[np.ndarray, "h w"]:
        """1 on every instance of the class, 0 elsewhere; there is no ignore label."""
        return self._draw(frame, {class_id: 1})

    def labels(self, frame: str, base: Ids) -> UInt8[np.ndarray, "h w"]:
        """Base classes numbered from 1, later annotations over earlier ones; all else is background."""
        return self._draw(frame, {number: label for label, number in enumerate(base, start=1)})

    def _draw(self, frame: str, labels: dict[int, int]) -> UInt8[np.ndarray, "h w"]:
        index, name = ytvis_index(self.root), frame.split("/")[0]
        video = index.videos.get(name)
        if video is None or frame not in video.frames:
            raise ValueError(f"{index.path}: no frame {frame}; sample the episodes from this data")
        time, size = video.frames.index(frame), (video.height, video.width)
        canvas = np.zeros(size, dtype=np.uint8, order="F")  # run lengths go column by column
        for track in index.tracks[name]:
            segmentation = track.segmentations[time]
            if segmentation and track.category_id in labels:
                where = f"{index.path}: annotation {track.id}, frame {frame}"
                canvas[decode(segmentation, *size, where)] = labels[track.category_id]
        return canvas


def ytvis_files(root: Path, table: Table, on_error: OnError) -> dict[str, FrameFiles]:
    """Image and size of every frame in train.json; masks have no files."""
    folder, videos = root / "train" / "JPEGImages", ytvis_index(root).videos.values()
    return {f: FrameFiles(folder / f"{f}.jpg", None, (v.height, v.width), False) for v in videos for f in v.frames}


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

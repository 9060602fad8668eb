"""YouTube-VIS 2019: one JSON with the outlines of every object in every frame.

`ytvis_index` parses it once, `scan_ytvis` tells where each class is visible, `YtvisReader` paints the masks,
`decode` opens one outline. Source: protocol section 1.3.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import UInt8
from pycocotools import mask as coco

from ttilib.data.augmentation import augment
from ttilib.data.corpus import OnError, Presence, Rule, Scan, stop
from ttilib.data.transforms import centred
from ttilib.files import read_json
from ttilib.images import read_image


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


def scan_ytvis(
    root: Path,
    table: Mapping[str, Any],
    base: Sequence[int],
    novel: Sequence[int],
    on_error: OnError = stop,
) -> Scan:
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
    return Scan(frames, presence, *split_videos(presence, base))


class YtvisReader:
    """YouTube-VIS 2019: outlines in train/train.json, photographs in train/JPEGImages/<video>/<frame>.jpg."""

    # Padding counts as background in the release, for support, query and training alike.
    episode_rule = training_rule = Rule(centred, True)
    vary = staticmethod(augment)

    def __init__(self, root: Path | str) -> None:
        self.folder = Path(root) / "train" / "JPEGImages"
        self.index = ytvis_index(root)

    def image(self, frame: str) -> UInt8[np.ndarray, "h w 3"]:
        """The photograph of a frame, red green blue."""
        return read_image(self.folder / f"{frame}.jpg")

    def mask(self, frame: str, class_id: int) -> UInt8[np.ndarray, "h w"]:
        """1 on every instance of the class, 0 elsewhere; there is no unjudged part."""
        return self._paint(frame, {class_id: 1})

    def labels(self, frame: str, base: Sequence[int]) -> UInt8[np.ndarray, "h w"]:
        """Base classes numbered from 1, a later annotation over an earlier one; all else background."""
        return self._paint(frame, {number: place for place, number in enumerate(base, start=1)})

    def _paint(self, frame: str, colours: dict[int, int]) -> UInt8[np.ndarray, "h w"]:
        name = frame.split("/")[0]
        video = self.index["videos"].get(name)
        if video is None or frame not in video["frames"]:
            raise ValueError(f"{self.index['path']}: no frame {frame}; sample the episodes from this data")
        time, (height, width) = video["frames"].index(frame), (video["height"], video["width"])
        canvas = np.zeros((height, width), dtype=np.uint8)
        for entry in self.index["annotations"][name]:
            outline = entry["segmentations"][time]
            if outline and entry["category_id"] in colours:
                where = f"{self.index['path']}: annotation {entry['id']}, frame {frame}"
                canvas[decode(outline, height, width, where)] = colours[entry["category_id"]]
        return canvas


def decode(outline: Any, height: int, width: int, where: str = "outline") -> np.ndarray:
    """The inside of a COCO outline as bool [height, width]: polygons, or run lengths plain or compressed.

    Raises ValueError, beginning with `where`, if the outline is of none of the three kinds or another size.
    """
    if isinstance(outline, list):
        polygons = [
            polygon for polygon in outline if len(polygon) >= 6
        ]  # fewer than three corners: no inside
        if not polygons:
            return np.zeros((height, width), dtype=bool)
        return _inside(coco.merge(coco.frPyObjects(polygons, height, width)))
    if not isinstance(outline, dict) or not {"size", "counts"} <= outline.keys():
        raise ValueError(f"{where}: found {str(outline)[:40]!r}; expected polygons or run lengths")
    if list(outline["size"]) != [height, width]:
        raise ValueError(
            f"{where}: size is {outline['size']}, the video's {[height, width]}; mend one of them"
        )
    if isinstance(outline["counts"], list):
        if sum(outline["counts"]) != height * width:
            raise ValueError(f"{where}: run lengths add up to {sum(outline['counts'])}, not {height * width}")
        outline = coco.frPyObjects(outline, height, width)
    return _inside(outline)


def _inside(packed: dict[str, Any]) -> np.ndarray:
    with warnings.catch_warnings():  # pycocotools builds its array in a way that NumPy 2 complains about
        warnings.simplefilter("ignore", DeprecationWarning)
        return coco.decode(packed).astype(bool)

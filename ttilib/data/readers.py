"""How each corpus stores a picture and an object in it.

A reader knows one data folder. Asked for a frame by name it gives the photograph; asked for a class in a
frame it gives 1 on every object of the class, 0 elsewhere and `IGNORED` where nobody judged; asked for
training labels it numbers the base classes from 1. It also says by which rule the released code lays the
corpus on the canvas, and whether the padding then counts as background.

`READERS` holds one reader per corpus name.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from pycocotools import mask as coco

from ttilib.data.scans import IGNORED, vspw_folder, ytvis_index
from ttilib.data.transforms import Placement, augment, centred, flip, static
from ttilib.images import read_image, read_labels


class Rule(NamedTuple):
    """How frames come to lie on the canvas, and whether the padding counts as background there."""

    place: Callable[[int, int, tuple[int, int]], Placement]
    padding_counts: bool


@runtime_checkable
class Reader(Protocol):
    """What every corpus can be asked."""

    episode_rule: ClassVar[Rule]
    training_rule: ClassVar[Rule]
    vary: ClassVar[Callable[..., Any]]

    def image(self, frame: str) -> UInt8[np.ndarray, "h w 3"]:
        """The photograph of a frame, red green blue."""

    def mask(self, frame: str, class_id: int) -> UInt8[np.ndarray, "h w"]:
        """1 on the class, 0 elsewhere, `IGNORED` where nobody judged."""

    def labels(self, frame: str, base: Sequence[int]) -> UInt8[np.ndarray, "h w"]:
        """Training labels: place in `base` plus one; other classes as the corpus treats them."""


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


class PascalReader:
    """Pascal stills: JPEGImages/<id>.jpg with class ids in SegmentationClassAug/<id>.png."""

    episode_rule = training_rule = Rule(static, False)
    vary = staticmethod(flip)
    pictures, masks = "JPEGImages", "SegmentationClassAug"

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def image(self, frame: str) -> UInt8[np.ndarray, "h w 3"]:
        """The photograph of a frame, red green blue."""
        return read_image(self.root / self.pictures / f"{frame}.jpg")

    def mask(self, frame: str, class_id: int) -> UInt8[np.ndarray, "h w"]:
        """1 on the class, 0 on everything else that was judged, `IGNORED` on the rest."""
        stored = read_labels(self.root / self.masks / f"{frame}.png")
        return np.where(stored == IGNORED, IGNORED, stored == class_id).astype(np.uint8)

    def labels(self, frame: str, base: Sequence[int]) -> UInt8[np.ndarray, "h w"]:
        """Base classes numbered from 1; classes that are not base are ignored, as is what nobody judged."""
        table = np.full(256, IGNORED, dtype=np.uint8)
        table[[0, *base]] = range(len(base) + 1)
        return table[read_labels(self.root / self.masks / f"{frame}.png")]


class DavisReader(PascalReader):
    """DAVIS with class ids: JPEGImages/<sequence>/<frame>.jpg and Annotations/<sequence>/<frame>.png."""

    # The release never saw these videos: laid like other videos, and the black bars do not count.
    episode_rule = training_rule = Rule(centred, False)
    masks = "Annotations"


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


READERS: dict[str, Callable[[Path | str], Reader]] = {
    "ytvis": YtvisReader,
    "pascal": PascalReader,
    "vspw": VspwReader,
    "davis": DavisReader,
}

"""What every corpus can be asked, however it keeps its pictures.

A *scan* reads the annotations of a data folder under a class table and tells, without touching a photograph,
the frames of every video, the frames that show each class, and the videos that base training may use. A
*reader* hands over the photograph of a frame, the mask of a class in it and its training labels, and says by
which rule the released code lays the corpus on the canvas.

Scans meet files that cannot be used. Each such file is told to `on_error`; `stop` raises, so the first one
ends the scan; whoever passes a function that returns, such as `list.append`, gets the scan of the rest.

Where the corpora lie: one data folder with a folder per corpus, or the folder of a corpus itself.

`NAMES` are the folder names that are looked for; `find_root` finds the folder of one corpus.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

if TYPE_CHECKING:  # processes that only count labels need not wait for torch
    from ttilib.datasets.transforms import Placement


IGNORED = 255
"""The stored label of pixels that nobody judged."""

Presence = dict[int, dict[str, tuple[str, ...]]]
Names = tuple[str, ...]
OnError = Callable[[Exception], object]


def stop(error: Exception) -> None:
    """Raise: the first file that cannot be used ends the scan."""
    raise error


def once(on_error: OnError) -> OnError:
    """Tell each sentence only once: later passes and other lists meet the same file again."""
    told: set[str] = set()

    def tell(error: Exception) -> None:
        if str(error) not in told:
            told.add(str(error))
            on_error(error)

    return tell


class Scan(NamedTuple):
    """What a scan returns.

    `frames`: of each video, in time order; `presence`: class to videos to the frames that show it;
    `train`, `val`: videos of base training; `shown`: stills only, all novel classes in each still, also those
    too small to be listed in `presence`.
    """

    frames: dict[str, Names]
    presence: Presence
    train: Names
    val: Names
    shown: Mapping[str, tuple[int, ...]] = {}


class Rule(NamedTuple):
    """How frames come to lie on the canvas, and whether the padding counts as background there.

    `rounded`: pictures are scaled in bytes instead of float32, so that every grey value is rounded.
    """

    place: Callable[[int, int, tuple[int, int]], Placement]
    padding_counts: bool
    rounded: bool = False


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


def large(counts: Mapping[int, int], table: Mapping[str, Any]) -> set[int]:
    """Labels that cover at least `min_pixels` and at least the share `min_share` of the picture."""
    least = max(table.get("min_pixels", 1), table.get("min_share", 0.0) * sum(counts.values()), 1)
    return {label for label, count in counts.items() if count >= least}


NAMES: dict[str, tuple[str, ...]] = {
    "pascal": ("pascal", "voc", "VOC2012", "VOCdevkit/VOC2012"),
    "coco": ("coco", "COCO"),
    "coco-full": ("coco", "COCO"),
    "ytvis": ("ytvis", "YTVIS", "youtube-vis"),
    "vspw": ("vspw", "VSPW_480p", "VSPW"),
    "minivspw": ("minivspw", "MiniVSPW", "vspw"),
    "davis": ("davis", "DAVIS"),
}
SIGNS: dict[str, tuple[str, ...]] = {
    "pascal": ("JPEGImages", "SegmentationClassAug"),
    "coco": ("annotations", "train2014", "val2014"),
    "coco-full": ("annotations", "train2014", "val2014"),
    "ytvis": ("train/train.json", "train/JPEGImages"),
    "vspw": ("data/*/origin", "*/origin"),
    "minivspw": ("data/*/origin", "*/origin"),
    "davis": ("JPEGImages", "Annotations"),
}
"""What lies in the folder of a corpus; one of these is enough."""


def find_root(corpus: str, root: Path | str, itself: bool = True) -> Path:
    """The folder of a corpus: below `root` under one of its names, or, with `itself`, `root`.

    Raises FileNotFoundError with the names that were looked for.
    """
    root = Path(root)
    if not root.is_dir():
        found = "is a file" if root.exists() else "no such folder"
        raise FileNotFoundError(f"{root}: {found}; give the data folder, or the folder of the {corpus} data")
    for name in NAMES[corpus]:
        if (root / name).is_dir():
            return root / name
    if itself and any(next(root.glob(sign), None) is not None for sign in SIGNS[corpus]):
        return root
    looked = f"looked for a folder {_either(NAMES[corpus])}"
    if itself:
        looked += f", and for {_either(SIGNS[corpus])} in {root.name or root} itself"
    raise FileNotFoundError(f"{root}: no {corpus} data here ({looked}); give the folder that holds them")


def _either(names: tuple[str, ...]) -> str:
    *most, last = names
    return f"{', '.join(most)} or {last}" if most else last

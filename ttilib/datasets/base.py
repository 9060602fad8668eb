"""The interface of a dataset: one `Dataset`, made of a scan, a reader and settings.

A *scan* lists frames and classes without opening an image; a *reader* returns images, masks and labels. `on_error` gets
every file that cannot be used: `raise_first` ends there, `problems.append` leaves the file out and continues.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Protocol, TypedDict

import msgspec
import numpy as np
from jaxtyping import UInt8

if TYPE_CHECKING:  # processes that only count labels need not wait for torch
    from ttilib.datasets.transforms import Placement


IGNORE_LABEL = 255  # ignore label (void): these pixels count neither in training nor in evaluation
Names = tuple[str, ...]
Ids = Sequence[int]
Table = Mapping[str, Any]
ClassId = Annotated[int, msgspec.Meta(ge=1, le=IGNORE_LABEL - 1)]
ClassName = Annotated[str, msgspec.Meta(pattern=r"^[^/\\\x00]+$")]  # results of a class may be written to its folder
ClassesByFold = Annotated[list[list[ClassId]], msgspec.Meta(min_length=1)]
Side = Annotated[int, msgspec.Meta(ge=1, le=2**14)]  # height or width of an image in pixels


class _Required(TypedDict):
    classes: dict[ClassId, ClassName]
    novel: ClassesByFold


class ClassTable(_Required, total=False):
    """The form of a class table, such as lists/pascal.json; other entries are possible."""

    base: ClassesByFold
    repeats: list[Annotated[int, msgspec.Meta(ge=1, le=1000)]]
    min_pixels: Annotated[int, msgspec.Meta(ge=0)]
    min_share: Annotated[float, msgspec.Meta(ge=0, le=1)]
    ignored: list[str]
    sequences: dict[str, str]
    expected: dict[str, int]


FramesByClass = dict[int, dict[str, Names]]
OnError = Callable[[Exception], object]


def raise_first(error: Exception) -> None:
    """Raise the error."""
    raise error


class Scan(NamedTuple):
    """Frames, presence and base-training videos of one division of the classes; fields as in `Fold`."""

    frames: dict[str, Names]
    presence: FramesByClass
    train: Names
    val: Names
    shown: Mapping[str, tuple[int, ...]] = {}


class ResizeRule(NamedTuple):
    """How to resize and pad; whether padding is background; `rounded`: resize images in bytes, not float32.

    `supports_like_first`: several supports of an episode all get the size and place of the first (C1).
    """

    placement: Callable[[int, int, tuple[int, int]], Placement]
    padding_is_background: bool
    rounded: bool = False
    supports_like_first: bool = False


class Reader(Protocol):
    """Images, masks and training labels of a dataset's frames, and the rules to resize and pad them."""

    episode_rule: ResizeRule
    training_rule: ResizeRule
    void: int  # training label of the ignore label

    def image(self, frame: str) -> UInt8[np.ndarray, "h w 3"]:
        """The RGB image of a frame."""

    def mask(self, frame: str, class_id: int) -> UInt8[np.ndarray, "h w"]:
        """1 on the class, 0 elsewhere, `IGNORE_LABEL` where the mask has the ignore label."""

    def labels(self, frame: str, base: Ids) -> UInt8[np.ndarray, "h w"]:
        """Training labels: 1 + index in `base`; other classes as the dataset treats them."""


class FrameFiles(NamedTuple):
    """Files of one frame: image, mask (None: it has no file of its own), and (height, width) if known.

    `upright`: both are turned as their EXIF orientation says.
    """

    image: Path
    mask: Path | None = None
    size: tuple[int, int] | None = None
    upright: bool = True


class LabelRule(NamedTuple):
    """Labels that masks may contain, those that mean "ignore", and the severity of any other label."""

    allowed: Collection[int]
    ignored: Collection[int] = (IGNORE_LABEL,)
    severity: Literal["error", "warning"] = "error"


def class_labels(root: Path, table: Table) -> LabelRule:
    """Masks contain background, the classes of the table and the ignore label."""
    return LabelRule({0, *table["classes"], IGNORE_LABEL})


@dataclass(frozen=True)
class Dataset:
    """Everything the library needs to know about one dataset; `catalog.DATASETS` has them by name.

    `reader`: called with the dataset's folder. `scan(root, table, base, novel, on_error)`: see `Scan`.
    `folders`: names below a data folder, preferred first; `signs`: patterns, one matches in the dataset's folder.
    `table`: lists/<table>.json is the class table, unless the folder has a lists.json; `own_table(root, table)` makes
    it from the table of the support dataset. `sampling`: see `Benchmark`. `augmentation`: of whole clips, or of each
    image as for Pascal. `others_ignored`: training ignores classes that are not base; else they are background.
    For `doctor`: `layout`, file patterns and the effect if no file matches ("": unusable); `files(root, table,
    on_error)`, `labels(root, table)`. `make_masks(root, on_error, workers)`: writes the masks of a dataset without.
    """

    name: str
    reader: Callable[[Path | str], Reader]
    scan: Callable[..., Scan]
    folders: Names = ()
    signs: Names = ()
    table: str = ""
    own_table: Callable[[Path, Table], dict[str, Any]] | None = None
    sampling: Literal["v1", "stills", "sequences", "cross"] = "cross"
    augmentation: Literal["clip", "image"] = "image"
    others_ignored: bool = False
    layout: Mapping[str, str] = field(default_factory=dict)
    files: Callable[[Path, Table, OnError], dict[str, FrameFiles]] | None = None
    labels: Callable[[Path, Table], LabelRule] = class_labels
    make_masks: Callable[[Path, OnError, int], object] | None = None

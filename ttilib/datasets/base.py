"""The interface of a dataset: one `Dataset`, made of a scan, a reader and settings.

A *scan* returns, without opening an image, the frames of every video, the frames that contain each class, and the
videos of base training. A *reader* returns the image of a frame, its mask of one class and its training labels.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from ttilib.files import lists_folder

if TYPE_CHECKING:  # processes that only count labels need not wait for torch
    from ttilib.datasets.transforms import Placement


IGNORE_LABEL = 255
"""Ignore label (void): these pixels count neither in training nor in evaluation."""

Names = tuple[str, ...]
Ids = Sequence[int]
Table = Mapping[str, Any]
FramesByClass = dict[int, dict[str, Names]]
OnError = Callable[[Exception], object]


def stop(error: Exception) -> None:
    """Raise the error: the first file that cannot be used ends the scan."""
    raise error


def once(on_error: OnError) -> OnError:
    """Report each message once, although later runs and other lists meet the same file again."""
    reported: set[str] = set()

    def report(error: Exception) -> None:
        if str(error) not in reported:
            reported.add(str(error))
            on_error(error)

    return report


class Scan(NamedTuple):
    """Frames, presence and base-training videos of one division of the classes; fields as in `Fold`."""

    frames: dict[str, Names]
    presence: FramesByClass
    train: Names
    val: Names
    shown: Mapping[str, tuple[int, ...]] = {}


LISTED = {
    "pascal": "JPEGImages/{0}.jpg SegmentationClassAug/{0}.png",
    "coco": "val2014/COCO_val2014_{0:0>12}.jpg val/COCO_val2014_{0:0>12}.png",
    "minivspw": "data/{0}/mask/{1:0>8}.png",
    "vspw": "{0} {0}/mask/{1:0>8}.png",
}
"""Lines of the published lists, by dataset: {0} is an image id or a sequence, {1} a frame number."""


def published_lines(name: str) -> Names:
    """The lines of lists/<name>.txt, expanded from its short form: an image id, or a sequence and frame ranges."""
    lines = []
    for line in (lists_folder() / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        first, *spans = line.split()
        ends = [span.split("-") for span in spans]
        numbers = [str(number) for end in ends for number in range(int(end[0]), int(end[-1]) + 1)]
        lines += [LISTED[name.split("/")[0]].format(first, number) for number in numbers or [""]]
    return tuple(lines)


def only_present(names: Sequence[str], there: Collection[str], name: str, root: Path, on_error: OnError) -> Names:
    """The `names` that are in `there`; one error gives the number of missing ones and the first three."""
    if missing := [entry for entry in names if entry not in there]:
        about = f"{len(missing)} of the {len(names)} frames of the published list {name} are not here, first "
        about += f"{', '.join(missing[:3])}; complete the folder, see docs/data.md"
        on_error(FileNotFoundError(f"{root}: {about}"))
    return tuple(entry for entry in names if entry in there)


class ResizeRule(NamedTuple):
    """How to resize and pad; whether padding is background; `rounded`: resize images in bytes, not float32."""

    place: Callable[[int, int, tuple[int, int]], Placement]
    padding_counts: bool
    rounded: bool = False


@runtime_checkable
class Reader(Protocol):
    """Images, masks and training labels of a dataset's frames, and the rules to resize and pad them."""

    episode_rule: ClassVar[ResizeRule]
    training_rule: ClassVar[ResizeRule]

    def image(self, frame: str) -> UInt8[np.ndarray, "h w 3"]:
        """The RGB image of a frame."""

    def mask(self, frame: str, class_id: int) -> UInt8[np.ndarray, "h w"]:
        """1 on the class, 0 elsewhere, `IGNORE_LABEL` where the mask has the ignore label."""

    def labels(self, frame: str, base: Ids) -> UInt8[np.ndarray, "h w"]:
        """Training labels: 1 + index in `base`; other classes as the dataset treats them."""


def large(counts: Mapping[int, int], table: Table) -> set[int]:
    """Labels that cover at least `min_pixels` pixels and the share `min_share` of the image."""
    least = max(table.get("min_pixels", 1), table.get("min_share", 0.0) * sum(counts.values()), 1)
    return {label for label, count in counts.items() if count >= least}


class FrameFiles(NamedTuple):
    """Files of one frame: image, mask (None: it has no file of its own), and (height, width) if known."""

    picture: Path
    mask: Path | None = None
    size: tuple[int, int] | None = None


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

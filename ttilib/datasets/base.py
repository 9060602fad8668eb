"""What the library needs to know of a dataset: one `Dataset`, made of a scan, a reader and a few facts.

A *scan* reads the annotations under a data folder for one division of the classes and returns, without opening an
image, the frames of every video, the frames that contain each class, and the videos of base training. A *reader*
returns the image of a frame, the mask of one class in it, and its training labels.
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


IGNORED = 255
"""The ignore label: pixels that count neither in training nor in evaluation."""

Names = tuple[str, ...]
Ids = Sequence[int]
Table = Mapping[str, Any]
Presence = dict[int, dict[str, Names]]
OnError = Callable[[Exception], object]


def stop(error: Exception) -> None:
    """Raise: the first file that cannot be used ends the scan."""
    raise error


def once(on_error: OnError) -> OnError:
    """Report each sentence only once: later runs and other lists meet the same file again."""
    reported: set[str] = set()

    def report(error: Exception) -> None:
        if str(error) not in reported:
            reported.add(str(error))
            on_error(error)

    return report


class Scan(NamedTuple):
    """Frames, presence and base-training videos of one division of the classes; the fields are those of `Fold`."""

    frames: dict[str, Names]
    presence: Presence
    train: Names
    val: Names
    shown: Mapping[str, tuple[int, ...]] = {}


LISTED = {
    "pascal": "JPEGImages/{0}.jpg SegmentationClassAug/{0}.png",
    "coco": "val2014/COCO_val2014_{0:0>12}.jpg val/COCO_val2014_{0:0>12}.png",
    "minivspw": "data/{0}/mask/{1:0>8}.png",
    "vspw": "{0} {0}/mask/{1:0>8}.png",
}
"""A line of the published lists: {0} is an image id or a sequence, {1} the number of a frame."""


def published_lines(name: str) -> Names:
    """The lines of the published list lists/<name>.txt, where they are short: an image id, or a sequence followed
    by frame numbers and ranges first-last."""
    lines = []
    for line in (lists_folder() / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        first, *spans = line.split()
        ends = [span.split("-") for span in spans]
        numbers = [str(number) for end in ends for number in range(int(end[0]), int(end[-1]) + 1)]
        lines += [LISTED[name.split("/")[0]].format(first, number) for number in numbers or [""]]
    return tuple(lines)


def only_present(names: Sequence[str], there: Collection[str], name: str, root: Path, on_error: OnError) -> Names:
    """Those names of a published list whose files are there; one sentence says how many are not, and which."""
    if missing := [entry for entry in names if entry not in there]:
        about = f"{len(missing)} of the {len(names)} frames of the published list {name} are not here, first "
        about += f"{', '.join(missing[:3])}; complete the folder, see docs/data.md"
        on_error(FileNotFoundError(f"{root}: {about}"))
    return tuple(entry for entry in names if entry in there)


class Rule(NamedTuple):
    """How frames are resized and padded, and whether the padding counts as background.

    `rounded`: images are resized in bytes instead of float32, so that every grey value is rounded.
    """

    place: Callable[[int, int, tuple[int, int]], Placement]
    padding_counts: bool
    rounded: bool = False


@runtime_checkable
class Reader(Protocol):
    """Images, masks and training labels of a dataset's frames, and how they are resized and padded."""

    episode_rule: ClassVar[Rule]
    training_rule: ClassVar[Rule]

    def image(self, frame: str) -> UInt8[np.ndarray, "h w 3"]:
        """The image of a frame, red green blue."""

    def mask(self, frame: str, class_id: int) -> UInt8[np.ndarray, "h w"]:
        """1 on the class, 0 elsewhere, `IGNORED` where the mask holds the ignore label."""

    def labels(self, frame: str, base: Ids) -> UInt8[np.ndarray, "h w"]:
        """Training labels: place in `base` plus one; other classes as the dataset treats them."""


def large(counts: Mapping[int, int], table: Table) -> set[int]:
    """Labels that cover at least `min_pixels` and at least the share `min_share` of the image."""
    least = max(table.get("min_pixels", 1), table.get("min_share", 0.0) * sum(counts.values()), 1)
    return {label for label, count in counts.items() if count >= least}


class FrameFiles(NamedTuple):
    """The files of one frame: its image, its mask if that has a file of its own, and (height, width) if known."""

    picture: Path
    mask: Path | None = None
    size: tuple[int, int] | None = None


class LabelRule(NamedTuple):
    """Which labels masks may hold, which of them mean "ignore", and how bad another label is."""

    allowed: Collection[int]
    ignored: Collection[int] = (IGNORED,)
    severity: Literal["error", "warning"] = "error"


def class_labels(root: Path, table: Table) -> LabelRule:
    """Masks hold background, the classes of the table and the ignore label."""
    return LabelRule({0, *table["classes"], IGNORED})


@dataclass(frozen=True)
class Dataset:
    """Everything that the library needs to know of one dataset; `catalog.DATASETS` holds them by name.

    `reader`: made from the dataset's folder. `scan(root, table, base, novel, on_error)`: see `Scan`.
    `folders`: its names below a data folder, the first one preferred; `signs`: patterns of which one matches inside it.
    `table`: its class table is lists/<table>.json, unless the folder has its own lists.json; `own_table(root, table)`
    makes one from the table of the dataset that gives the support.
    `sampling`: how episodes are sampled from it alone, see `Benchmark`. `augmentation`: training augments whole clips
    as the release does videos, or each image as it does Pascal's. `others_ignored`: training ignores the pixels of
    classes that are not base; otherwise they are background.
    For `doctor`: `layout`, file patterns to what it means if there is no such file, "" if the dataset cannot be used;
    `files(root, table, on_error)`, all frames with their files; `labels(root, table)`, what masks may hold.
    `make_masks(root, on_error, workers)`: writes the masks, if the dataset comes without.
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

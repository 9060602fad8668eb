"""Pascal VOC with SBD masks, what other label maps share with it, and its images as seen by a moving camera.

`moving-pascal` is a benchmark for choosing settings: each image of `val` becomes a short clip by a camera path, and its
mask moves with it. All 20 classes, hundreds of clips, exact masks, support from other images. The camera moves over a
flat image: nothing deforms, turns or is hidden behind something else. Source of the rest: docs/protocol.md 1.1 and 7.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from ttilib.datasets.base import IGNORE_LABEL, Dataset, FrameFiles, Ids, Names, OnError, ResizeRule, Scan, Table
from ttilib.datasets.masks import CENSUS, Counts, census, large_labels
from ttilib.datasets.transforms import letterbox, resize_top_left
from ttilib.files import LISTS, digest, file_names, read_lines
from ttilib.images import Colours, read_image, read_labels


def voc_colour(label: int) -> tuple[int, int, int]:
    """VOC's RGB colour of a label: its bits 3 n, 3 n + 1, 3 n + 2 are bit 7 - n of red, green, blue."""
    red, green, blue = (sum((label >> 3 * deal + channel & 1) << 7 - deal for deal in range(3)) for channel in range(3))
    return red, green, blue


VOC_COLOURS: Colours = {voc_colour(label): label for label in range(256)}
"""RGB to label: black 0, (128, 0, 0) 1, ..., 255 the cream of the void border."""


LISTED = {
    "pascal": "JPEGImages/{0}.jpg SegmentationClassAug/{0}.png",
    "coco": "val2014/COCO_val2014_{0:0>12}.jpg val/COCO_val2014_{0:0>12}.png",
    "minivspw": "data/{0}/mask/{1:0>8}.png",
    "vspw": "{0} {0}/mask/{1:0>8}.png",
}
"""Lines of the published lists, by dataset: {0} is an image id or a sequence, {1} a frame number."""


def published_lines(name: str) -> Names:
    """The lines of lists/<name>.txt, expanded from its short form: an image id, or a sequence and frame ranges."""
    lines, form = [], LISTED[name.split("/")[0]]
    for line in read_lines(LISTS / f"{name}.txt"):
        first, *ranges = line.split()
        ends = [[int(end) for end in text.split("-")] for text in ranges]
        numbers = [number for end in ends for number in range(end[0], end[-1] + 1)]
        lines += [form.format(first, number) for number in numbers] or [form.format(first)]
    return tuple(lines)


def only_present(frames: Sequence[str], present: Collection[str], name: str, root: Path, on_error: OnError) -> Names:
    """The frames of a published list that are `present`; one error gives the number of missing ones and three."""
    if missing := [frame for frame in frames if frame not in present]:
        about = f"{len(missing)} of the {len(frames)} frames of the published list {name} are not here, first "
        about += f"{', '.join(missing[:3])}; complete the folder, see docs/data.md"
        on_error(FileNotFoundError(f"{root}: {about}"))
    return tuple(frame for frame in frames if frame in present)


def read_list(path: Path, form: str, on_error: OnError) -> Names:
    """The ids, {} in `form`, of the lines of a list; `on_error` gets lines of another form."""
    first, *others = (re.escape(part) for part in form.split("{}"))
    pattern = f"{first}(?P<id>[^/ ]+)" + "(?P=id)".join(others)
    ids = []
    for number, line in enumerate(read_lines(path), start=1):
        if match := re.fullmatch(pattern, " ".join(line.split())):
            ids.append(match["id"])
        else:
            about = f"found {line!r}; expected two fields, {form.replace('{}', '<id>')}"
            on_error(ValueError(f"{path}, line {number}: {about}"))
    return tuple(ids)


def published_names(reader: PascalReader, name: str, on_error: OnError) -> Names:
    """The images of a published list, such as "pascal/val", whose image and mask exist."""
    names = [PurePosixPath(line.split()[0]).stem for line in published_lines(name)]
    images = file_names(reader.image_path(names[0]).parent, ".jpg")
    masks = file_names(reader.mask_path(names[0]).parent, ".png")
    return only_present(names, set(images).intersection(masks), name, reader.root, on_error)


def classes_in(
    reader: PascalReader, counts: Mapping[str, Counts], table: Table, on_error: OnError
) -> dict[str, set[int]]:
    """The large classes in each frame; `on_error` gets masks with a label that the table lacks."""
    classes = {}
    for frame, found in counts.items():
        if odd := found.keys() - {0, IGNORE_LABEL, *table["classes"]}:
            about = f"label {min(odd)} is no class of the table; use class ids, 0, {IGNORE_LABEL}"
            on_error(ValueError(f"{reader.mask_path(frame)}: {about}"))
        else:
            classes[frame] = large_labels(found, table)
    return classes


def scan_images(kind: type[PascalReader], root: Path, table: Table, base: Ids, novel: Ids, on_error: OnError) -> Scan:
    """Which images of the train and val lists contain which class.

    A class is present where it is large: a base class in both lists, a novel class only in `val`. Images with a large
    base class are for training or validation. Images with a large novel class are queries, for any novel class in them
    (`shown`). An image whose mask is missing, damaged or has an unknown label is left out and reported to `on_error`.
    """
    reader = kind(root)
    reader.check_folders()
    train, val = (reader.names(split, table, on_error) for split in ("train", "val"))
    paths = {image: reader.mask_path(image) for image in train + val}
    found = census(list(paths.values()), on_error, cached=root / CENSUS, colours=reader.colours)
    counts = {image: found[path] for image, path in paths.items() if path in found}
    large = classes_in(reader, counts, table, on_error)
    train, val = (tuple(image for image in names if image in large) for names in (train, val))
    pools = {number: train + val if number in base else val for number in table["classes"]}
    frames: dict[str, Names] = {image: (image,) for image in large}
    presence = {c: {image: frames[image] for image in pool if c in large[image]} for c, pool in pools.items()}
    queries = [image for image in val if large[image] & set(novel)]
    shown = {image: tuple(sorted(counts[image].keys() & novel)) for image in queries}
    train, val = (tuple(image for image in names if large[image] & set(base)) for names in (train, val))
    return Scan(frames, presence, train, val, shown)


class PascalReader:
    """Pascal VOC: images JPEGImages/<id>.jpg, class ids SegmentationClassAug/<id>.png."""

    episode_rule = training_rule = ResizeRule(resize_top_left, False)
    images, masks = "JPEGImages", "SegmentationClassAug"
    colours: Colours | None = VOC_COLOURS
    """Colour to label, for label maps saved as RGB; None if colours have no meaning."""
    upright = True
    """Whether images are turned as their EXIF orientation says: OpenCV does in the release, Pillow does not."""
    others = IGNORE_LABEL
    """The training label of classes that are not base."""
    void = 0
    """The training label of void (255): background, as released (docs/protocol.md C2)."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def check_folders(self) -> None:
        """Raise FileNotFoundError if there is no folder of masks."""
        if not (folder := self.root / self.masks).is_dir():
            raise FileNotFoundError(f"{folder}: no such folder; expected a label map <id>.png for each image")

    def names(self, split: str, table: Table, on_error: OnError) -> Names:
        """Images of <root>/<split>.txt, else of the published list (not for a folder with its own lists.json)."""
        path, form = self.root / f"{split}.txt", "JPEGImages/{}.jpg SegmentationClassAug/{}.png"
        if path.is_file():
            return read_list(path, form, on_error)
        if (self.root / "lists.json").is_file():
            about = "no such list; a folder with its own lists.json needs one with lines"
            raise FileNotFoundError(f"{path}: {about} {form.replace('{}', '<id>')!r}")
        return published_names(self, f"pascal/{split}", on_error)

    def image_path(self, frame: str) -> Path:
        """The image file of a frame."""
        return self.root / f"{self.images}/{frame}.jpg"

    def mask_path(self, frame: str) -> Path:
        """The label map of a frame."""
        return self.root / f"{self.masks}/{frame}.png"

    def files(self, frames: Iterable[str]) -> dict[str, FrameFiles]:
        """The image and the label map of each frame."""
        paths = ((frame, self.image_path(frame), self.mask_path(frame)) for frame in frames)
        return {frame: FrameFiles(image, mask, upright=self.upright) for frame, image, mask in paths}

    def image(self, frame: str) -> UInt8[np.ndarray, "h w 3"]:
        return read_image(self.image_path(frame), self.upright)

    def stored(self, frame: str) -> UInt8[np.ndarray, "h w"]:
        """The label map of a frame."""
        return read_labels(self.mask_path(frame), self.colours, self.upright)

    def mask(self, frame: str, class_id: int) -> UInt8[np.ndarray, "h w"]:
        stored = self.stored(frame)
        return np.where(stored == IGNORE_LABEL, IGNORE_LABEL, stored == class_id).astype(np.uint8)

    def labels(self, frame: str, base: Ids) -> UInt8[np.ndarray, "h w"]:
        table = np.full(256, self.others, dtype=np.uint8)
        table[[0, *base]] = range(len(base) + 1)
        table[IGNORE_LABEL] = self.void
        return table[self.stored(frame)]


def listed_files(kind: type[PascalReader], root: Path, table: Table, on_error: OnError) -> dict[str, FrameFiles]:
    """Image and mask files of the train and val lists."""
    reader = kind(root)
    return reader.files(name for split in ("train", "val") for name in reader.names(split, table, on_error))


PASCAL = Dataset(
    name="pascal",
    reader=PascalReader,
    scan=partial(scan_images, PascalReader),
    folders=("pascal", "voc", "VOC2012", "VOCdevkit/VOC2012"),
    signs=("JPEGImages", "SegmentationClassAug"),
    sampling="stills",
    others_ignored=True,
    layout={"JPEGImages/<id>.jpg": "", "SegmentationClassAug/<id>.png": ""},
    files=partial(listed_files, PascalReader),
)


FRAMES = 10  # of a clip
ZOOM = (0.7, 0.95)  # side of the view at the two ends of the path, as a proportion of the image's
SKEW = 0.06  # largest shift of a corner of the view, as a proportion of the view: rotation and perspective
EXPOSURE = 0.15  # largest relative change of brightness from first to last frame, half of it on either side of 1
NOISE = 3.0  # standard deviation, in grey levels


def camera(image: str, size: tuple[int, int], t: float) -> tuple[Float[np.ndarray, "4 2"], float]:
    """Corners (x, y) of the view in an image of `size` (height, width) at time t in [0, 1], and its brightness.

    corners(t) = corners(0) + s(t) (corners(1) - corners(0)), s(t) = t^2 (3 - 2 t); both ends are quadrilaterals inside
    the image, drawn from its name.
    """
    rng = np.random.default_rng(int(digest(image), 16))
    corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1)], dtype=np.float64)
    zooms, places, skews = rng.uniform(*ZOOM, 2), rng.uniform(size=(2, 2)), rng.uniform(-SKEW, SKEW, (2, 4, 2))
    ends = [z * (corners + skew) + (1 - z) * place for z, place, skew in zip(zooms, places, skews, strict=True)]
    first, last = (end.clip(0, 1) * (size[1] - 1, size[0] - 1) for end in ends)
    brightness = 1 + rng.uniform(-EXPOSURE, EXPOSURE) * (t - 0.5)
    return first + t * t * (3 - 2 * t) * (last - first), brightness


class MovingReader(PascalReader):
    """Frames "<image>/<number>" of clips made from Pascal's images; no state, the same name gives the same pixels."""

    # As for DAVIS: letterboxed, padding and void are ignored.
    episode_rule = training_rule = ResizeRule(letterbox, False)

    def image(self, frame: str) -> UInt8[np.ndarray, "h w 3"]:
        view, brightness = self._view(super().image(frame.split("/")[0]), frame, cv2.INTER_LINEAR)
        noise = np.random.default_rng(int(digest(frame), 16)).normal(0, NOISE, view.shape)
        return (view * brightness + noise).round().clip(0, 255).astype(np.uint8)

    def stored(self, frame: str) -> UInt8[np.ndarray, "h w"]:
        return self._view(super().stored(frame.split("/")[0]), frame, cv2.INTER_NEAREST)[0]

    def labels(self, frame: str, base: Ids) -> UInt8[np.ndarray, "h w"]:
        raise ValueError(f"{self.mask_path(frame.split('/')[0])}: moving images are for evaluation; train on pascal")

    def _view(
        self, pixels: UInt8[np.ndarray, "*shape"], frame: str, how: int
    ) -> tuple[UInt8[np.ndarray, "*shape"], float]:
        """What the camera sees, as large as the image, and its brightness."""
        image, number = frame.split("/")
        height, width = pixels.shape[:2]
        corners, brightness = camera(image, (height, width), int(number) / (FRAMES - 1))
        whole = np.array([(0, 0), (width - 1, 0), (width - 1, height - 1), (0, height - 1)], dtype=np.float32)
        matrix = cv2.getPerspectiveTransform(corners.astype(np.float32), whole)
        return cv2.warpPerspective(pixels, matrix, (width, height), flags=how), brightness


def scan_moving(root: Path, table: Table, base: Ids, novel: Ids, on_error: OnError) -> Scan:
    """A clip of each `val` image with a large novel class, which all its frames are taken to contain."""
    stills = scan_images(PascalReader, root, table, base, novel, on_error)
    frames = {image: tuple(f"{image}/{number}" for number in range(FRAMES)) for image in stills.shown}
    presence = {c: {i: frames[i] for i in stills.presence[c]} if c in novel else {} for c in table["classes"]}
    return Scan(frames, presence, (), ())


MOVING = replace(PASCAL, name="moving-pascal", reader=MovingReader, scan=scan_moving, table="pascal", sampling="cross")

"""Encode and decode COCO segmentations; count the labels of label maps, once while a file is unchanged."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np
from jaxtyping import Bool, UInt8
from pycocotools import mask as coco
from tqdm import tqdm

from ttilib.datasets.base import OnError, Table, raise_first
from ttilib.files import Item, Result, Stamp, convert, file_stamp, parallel_map, parse_json, read_json, write_text
from ttilib.images import Colours, read_labels

LONGEST = 10**6  # the most pixels along the outline of a polygon
CENSUS = Path("lists/census.json")  # the counts of a dataset, in its folder
MANY = 500  # more files than this are shown with a progress bar, and processed by several workers
Length = Annotated[int, msgspec.Meta(ge=0, le=2**32)]


class RunLengths(msgspec.Struct):
    """COCO's run lengths of an image of `size` (height, width), down its columns; text is their compressed form."""

    size: tuple[int, int]
    counts: str | list[Length]


class Numbered(msgspec.Struct):
    """An entry of an annotation file."""

    id: int


class Category(Numbered):
    """An entry of "categories"."""

    name: str


Polygons = list[list[float]]  # corners x1, y1, x2, y2, ... of each part of an object
Entry = TypeVar("Entry", bound=Numbered)


def read_entries(parts: Iterable[msgspec.Raw], form: type[Entry], where: str, on_error: OnError) -> Iterator[Entry]:
    """The entries of a list in an annotation file, as `form`; `on_error` gets those of another form."""
    for place, part in enumerate(parts):
        try:
            yield parse_json(part, form, f"{where}[{place}]")
        except ValueError as error:
            on_error(error)


def entries_by_id(parts: Iterable[msgspec.Raw], form: type[Entry], where: str, on_error: OnError) -> dict[int, Entry]:
    """The entries by their `id`, the first of each; see `read_entries`."""
    found: dict[int, Entry] = {}
    for entry in read_entries(parts, form, where, on_error):
        if found.setdefault(entry.id, entry) is not entry:
            on_error(ValueError(f"{where}: id {entry.id} is there twice; fetch the file again"))
    return found


def read_segmentation(segmentation: Any, height: int, width: int, where: str) -> RunLengths | Polygons:
    """A segmentation of JSON, or of values parsed from it: run lengths as numbers, or polygons; [] if it is null.

    Raises ValueError, starting with `where`, unless run lengths cover the image and corners are near it.
    """
    read = parse_json if isinstance(segmentation, msgspec.Raw) else convert
    found = read(segmentation, RunLengths | Polygons | None, where) or []
    if isinstance(found, RunLengths):
        found.counts = _decompress(found.counts) if isinstance(found.counts, str) else found.counts
        wrong, total = "", sum(found.counts)
        if found.size != (height, width):
            wrong = f"size is {list(found.size)}, the image's {[height, width]}"
        elif total != height * width:
            wrong = f"run lengths are damaged or add up to {total}, not {height * width}"
    else:
        wrong = next(filter(None, (_polygon_error(polygon, height, width) for polygon in found)), "")
    if wrong:
        raise ValueError(f"{where}: {wrong}; fix the annotations or fetch them again")
    return found


def _decompress(text: str) -> list[int]:
    """Run lengths of their compressed form; [] if it is invalid.

    Five bits per character, the lowest first; the sixth bit is set if more follow, the fifth of the last is the sign.
    From the fourth number on, it is the difference from the last but one.
    """
    codes = np.frombuffer(text.encode(), np.uint8).astype(np.int64) - 48
    last = np.flatnonzero(codes & 32 == 0)
    first = np.append(0, last + 1)[:-1]
    digits = np.diff(last, prepend=-1)
    if not len(last) or last[-1] != len(codes) - 1 or digits.max() > 7 or not (codes >> 6 == 0).all():
        return []
    bits = (codes & 31) << 5 * (np.arange(len(codes)) - np.repeat(first, digits))
    numbers = np.add.reduceat(bits, first) - ((codes[last] >> 4 & 1) << 5 * digits)
    numbers[1::2] = numbers[1::2].cumsum()
    numbers[2::2] = numbers[2::2].cumsum()
    return numbers.tolist() if numbers.min() >= 0 else []


def _polygon_error(polygon: Sequence[float], height: int, width: int) -> str:
    """Why these are not the corners of a polygon in an image of this size; "" if they are."""
    if not polygon or len(polygon) % 2:
        return f"found {str(polygon)[:40]}, expected the corners of a polygon, x1, y1, x2, ..."
    corners, side = np.reshape(polygon, (-1, 2)), max(height, width)
    if not (corners.min() >= -side and corners.max() <= 2 * side):  # nan too
        return f"a corner of a polygon is far outside the image of {width} x {height} pixels"
    if np.abs(np.diff(corners, axis=0)).max(axis=1, initial=0).sum() > LONGEST:  # pycocotools takes 100 bytes a pixel
        return f"a polygon of {len(corners)} corners is longer than {LONGEST} pixels"
    return ""


def encode(mask: Bool[np.ndarray, "h w"]) -> dict[str, Any]:
    """A mask as compressed run lengths."""
    return {"size": list(mask.shape), "counts": coco.encode(np.asfortranarray(mask, np.uint8))["counts"].decode()}


def decode(segmentation: object, height: int, width: int, where: str = "mask") -> Bool[np.ndarray, "{height} {width}"]:
    """The inside of polygons or of (compressed) run lengths; see `read_segmentation`."""
    return fill(read_segmentation(segmentation, height, width, where), height, width)


def fill(segmentation: RunLengths | Polygons, height: int, width: int) -> Bool[np.ndarray, "{height} {width}"]:
    """The inside of a segmentation that `read_segmentation` has returned."""
    if isinstance(segmentation, RunLengths):
        assert not isinstance(segmentation.counts, str)
        inside = np.arange(len(segmentation.counts)) % 2 == 1
        return np.repeat(inside, segmentation.counts).reshape((height, width), order="F")
    polygons = [polygon for polygon in segmentation if len(polygon) >= 6]  # fewer corners have no inside
    if not polygons:
        return np.zeros((height, width), dtype=bool)
    return coco.decode(coco.merge(coco.frPyObjects(polygons, height, width))).astype(bool)


class _Shape(msgspec.Struct):
    label: str
    points: list[tuple[float, float]]
    shape_type: str = "polygon"


class _Named(Numbered):
    name: str = ""
    file_name: str = ""


class _Annotation(msgspec.Struct):
    image_id: int
    category_id: int
    segmentation: msgspec.Raw


class Outlines(msgspec.Struct):
    """A file of labelme (`shapes`) or of COCO (the others)."""

    shapes: list[_Shape] = []
    images: list[_Named] = []
    annotations: list[_Annotation] = []
    categories: list[_Named] = []


def read_outlines(path: Path, image: str, height: int, width: int) -> dict[str, UInt8[np.ndarray, "h w"]]:
    """Masks (0, 1) of an image by class from a labelme or COCO JSON file; objects of a class are joined.

    COCO's entry is the one with the name of the file `image`, or the only one. Raises FileNotFoundError; ValueError if
    the file has another form, no such image, other shapes than polygons and rectangles, or outlines that do not fit.
    """
    content, found = read_json(path, Outlines), list[tuple[str, object]]()
    for shape in content.shapes:
        corners = np.array(shape.points, float).reshape(-1, 2)
        if shape.shape_type == "rectangle" and len(corners) == 2:
            corners = np.column_stack([corners[[0, 1, 1, 0], 0], corners[[0, 0, 1, 1], 1]])
        elif shape.shape_type != "polygon" and (shape.shape_type, len(corners)) != ("rectangle", 4):
            raise ValueError(f"{path}: shape {shape.label!r} is a {shape.shape_type}; draw it as a polygon")
        found.append((shape.label, [corners.ravel().tolist()]))
    if content.images:
        same = [entry.id for entry in content.images if Path(entry.file_name).name == Path(image).name]
        if not same and len(content.images) > 1:
            raise ValueError(f"{path}: has no entry for {Path(image).name}; give a file with this image")
        number, names = (same or [content.images[0].id])[0], {each.id: each.name for each in content.categories}
        objects = [each for each in content.annotations if each.image_id == number]
        found += [(names.get(each.category_id, str(each.category_id)), each.segmentation) for each in objects]
    masks: dict[str, np.ndarray] = {}
    for name, outline in found:
        mask = decode(outline, height, width, f"{path}: {name}").astype(np.uint8)
        masks[name] = masks.get(name, 0) | mask
    return masks


Counts = Mapping[int, int]  # pixels per label of one label map
Mask = tuple[Path, Stamp]  # a file, and its stamp
_counted: dict[Mask, Counts] = {}  # all counts of this process: other folds need the same masks


def census(
    paths: Sequence[Path],
    on_error: OnError = raise_first,
    workers: int = 1,
    cached: Path | None = None,
    colours: Colours | None = None,
    save: bool = False,
) -> dict[Path, Counts]:
    """Pixels per label of label maps, in order; `on_error` gets unreadable ones.

    `cached`: JSON file of earlier counts; `save`: write it.
    """
    masks = [(path, file_stamp(path)) for path in paths]
    if cached is not None and cached.is_file():
        _load(cached, [mask for mask in masks if mask not in _counted], on_error)
    due = [mask for mask in dict(masks).items() if mask not in _counted]
    with closing(map_files(partial(_count, colours), due, workers, "counting labels")) as work:
        for mask, found in work:
            if isinstance(found, Exception):
                on_error(found)
            else:
                _counted[mask] = found
    counts = {mask: _counted[mask] for mask in masks if mask in _counted}
    if cached is not None and save:
        _save(cached, counts)
    return {path: found for (path, _), found in counts.items()}


def map_files(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, about: str
) -> Generator[tuple[Item, Result], None, None]:
    """Each item with its result, in order; more than `MANY` with a progress bar and in `workers` processes."""
    few = len(items) <= MANY
    with closing(parallel_map(function, items, 1 if few else workers, chunk=64)) as results:
        pairs = zip(items, results, strict=True)
        yield from tqdm(pairs, about, len(items), unit=" files", mininterval=1.0, disable=few)


def _save(cached: Path, counts: Mapping[Mask, Counts]) -> None:
    """By relative folder and mask: size, both times (ns), label, pixels, label, pixels, ..."""
    folders: dict[Path, dict[str, list[int]]] = {}
    for (path, stamp), found in counts.items():
        folders.setdefault(path.parent, {})[path.name] = [*stamp, *chain.from_iterable(found.items())]
    compact = partial(json.dumps, separators=(",", ":"), ensure_ascii=False)
    lines = [f"{json.dumps(_relative(cached, folder))}:{compact(masks)}" for folder, masks in folders.items()]
    write_text(cached, "{" + ",\n".join(lines) + "}\n")


def _load(cached: Path, masks: Sequence[Mask], on_error: OnError) -> None:
    """Load the saved counts of masks that have not changed since."""
    try:
        content = read_json(cached, dict[str, dict[str, list[int]]])
    except ValueError as error:
        on_error(error)
        return
    for path, stamp in masks:
        entry = content.get(_relative(cached, path.parent), {}).get(path.name, [])
        if stamp and entry[:3] == list(stamp) and len(entry) % 2 and min(entry[3:], default=0) >= 0:
            _counted[path, stamp] = dict(zip(entry[3::2], entry[4::2], strict=True))


@cache
def _relative(cached: Path, folder: Path) -> str:
    return Path(os.path.relpath(folder, cached.parent)).as_posix()


def _count(colours: Colours | None, mask: Mask) -> Counts | Exception:
    try:
        return count(read_labels(mask[0], colours))
    except (ValueError, OSError) as error:
        return error


def count(labels: UInt8[np.ndarray, "h w"]) -> dict[int, int]:
    """Pixels per label of one label map, labels ascending."""
    found = np.bincount(labels.ravel())
    return {int(label): int(found[label]) for label in np.flatnonzero(found)}


def large_labels(counts: Counts, table: Table) -> set[int]:
    """Labels that cover at least `min_pixels` pixels and the share `min_share` of the image."""
    least = max(table.get("min_pixels", 1), table.get("min_share", 0.0) * sum(counts.values()), 1)
    return {label for label, count in counts.items() if count >= least}

"""Decode COCO segmentations; count the labels of label maps, once while a file is unchanged."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from pycocotools import mask as coco
from tqdm import tqdm

from ttilib.datasets.base import OnError, Table, raise_first
from ttilib.files import Item, Result, Stamp, file_stamp, parallel_map, read_json, write_text
from ttilib.images import Colours, read_labels


def decode(segmentation: Any, height: int, width: int, where: str = "mask") -> Bool[np.ndarray, "{height} {width}"]:
    """The inside of polygons or of a (compressed) RLE. Raises ValueError, see `rle_error`, starting with `where`."""
    if wrong := rle_error(segmentation, height, width):
        raise ValueError(f"{where}: {wrong}; fix the annotations or fetch them again")
    outline = segmentation
    if isinstance(segmentation, list):
        polygons = [polygon for polygon in segmentation if len(polygon) >= 6]  # fewer corners have no inside
        if not polygons:
            return np.zeros((height, width), dtype=bool)
        outline = coco.merge(coco.frPyObjects(polygons, height, width))
    elif not isinstance(segmentation["counts"], str | bytes):
        outline = coco.frPyObjects(segmentation, height, width)
    return coco.decode(outline).astype(bool)


def rle_error(segmentation: Any, height: int, width: int) -> str:
    """Why a segmentation is not valid for an image of this size; "" if it is."""
    if isinstance(segmentation, list):
        return ""
    if not isinstance(segmentation, dict) or not {"size", "counts"} <= segmentation.keys():
        return f"found {str(segmentation)[:40]!r}, expected polygons or run lengths"
    if list(segmentation["size"]) != [height, width]:
        return f"size is {list(segmentation['size'])}, the image's {[height, width]}"
    if isinstance(segmentation["counts"], str | bytes):
        return ""
    counts = np.asarray(segmentation["counts"])
    if counts.dtype.kind not in "iu" or counts.min(initial=0) < 0:
        return "run lengths are not whole numbers from 0 up"
    total = int(counts.sum())
    return "" if total == height * width else f"run lengths add up to {total}, not {height * width}"


def rle_to_array(entry: dict[str, Any]) -> dict[str, Any]:
    """JSON object hook: run lengths as an array, a tenth of the memory of a list; anything else unchanged."""
    if not isinstance(entry.get("counts"), list):
        return entry
    counts = np.asarray(entry["counts"])
    fits = counts.dtype.kind == "i" and counts.min(initial=0) >= 0
    return {**entry, "counts": counts.astype(np.uint32)} if fits else entry


Counts = Mapping[int, int]
"""Pixels per label of one label map."""

Mask = tuple[Path, Stamp | None]
"""A file and its stamp, which changes with its content."""

MANY = 500
"""More masks than this are shown with a progress bar, and processed by several workers."""

_counted: dict[Mask, Counts] = {}
"""All counts of this process: other folds need the same masks."""


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
    with closing(map_masks(partial(_count, colours), due, workers, "counting labels")) as work:
        for mask, found in work:
            if isinstance(found, Exception):
                on_error(found)
            else:
                _counted[mask] = found
    counts = {mask: _counted[mask] for mask in masks if mask in _counted}
    if cached is not None and save:
        _save(cached, counts)
    return {path: found for (path, _), found in counts.items()}


def map_masks(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, about: str
) -> Generator[tuple[Item, Result], None, None]:
    """Each item with its result, in order; more than `MANY` with a progress bar and in `workers` processes."""
    few = len(items) <= MANY
    with closing(parallel_map(function, items, 1 if few else workers, chunk=64)) as results:
        pairs = zip(items, results, strict=True)
        yield from tqdm(pairs, about, len(items), unit=" masks", mininterval=1.0, disable=few)


def _save(cached: Path, counts: Mapping[Mask, Counts]) -> None:
    """By relative folder and mask: size, modification time (ns), label, pixels, label, pixels, ..."""
    folders: dict[Path, dict[str, list[int]]] = {}
    for (path, stamp), found in counts.items():
        folders.setdefault(path.parent, {})[path.name] = [*(stamp or ()), *chain.from_iterable(found.items())]
    compact = partial(json.dumps, separators=(",", ":"), ensure_ascii=False)
    lines = [f"{json.dumps(_relative(cached, folder))}:{compact(masks)}" for folder, masks in folders.items()]
    write_text(cached, "{" + ",\n".join(lines) + "}\n")


def _load(cached: Path, masks: Sequence[Mask], on_error: OnError) -> None:
    """Load the saved counts of masks that have not changed since."""
    try:
        content = read_json(cached)
        for path, stamp in masks:
            entry = content.get(_relative(cached, path.parent), {}).get(path.name)
            if entry and tuple(entry[:2]) == stamp:
                _counted[path, stamp] = dict(zip(entry[2::2], entry[3::2], strict=True))
    except (AttributeError, TypeError, ValueError) as error:
        on_error(ValueError(f"{cached}: not a file of label counts ({error}); delete it, it will be made again"))


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

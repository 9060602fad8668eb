"""COCO segmentations decoded; labels of label maps counted, once while their file is unchanged."""

from __future__ import annotations

import json
import os
import threading
import warnings
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, UInt8
from pycocotools import mask as coco
from tqdm import tqdm

from ttilib.datasets.base import OnError, stop
from ttilib.files import Stamp, file_stamp, parallel_map, read_json, write_text
from ttilib.images import Colours, read_labels

ONE_AT_A_TIME = threading.Lock()
"""Warning filters are global: two threads that change them at once leave them changed."""


def decode(outline: Any, height: int, width: int, where: str = "outline") -> Bool[np.ndarray, "{height} {width}"]:
    """The inside of polygons or (compressed) run lengths. Raises ValueError, see `rle_error`, starting with `where`."""
    if wrong := rle_error(outline, height, width):
        raise ValueError(f"{where}: {wrong}; fix the annotations or fetch them again")
    if isinstance(outline, list):
        polygons = [polygon for polygon in outline if len(polygon) >= 6]  # fewer corners have no inside
        if not polygons:
            return np.zeros((height, width), dtype=bool)
        outline = coco.merge(coco.frPyObjects(polygons, height, width))
    elif not isinstance(outline["counts"], str | bytes):
        outline = coco.frPyObjects(outline, height, width)
    with ONE_AT_A_TIME, warnings.catch_warnings():  # pycocotools causes a warning of NumPy 2
        warnings.simplefilter("ignore", DeprecationWarning)
        return coco.decode(outline).astype(bool)


def rle_error(outline: Any, height: int, width: int) -> str:
    """Why a segmentation is not valid for an image of this size; "" if it is."""
    if isinstance(outline, list):
        return ""
    if not isinstance(outline, dict) or not {"size", "counts"} <= outline.keys():
        return f"found {str(outline)[:40]!r}, expected polygons or run lengths"
    if list(outline["size"]) != [height, width]:
        return f"size is {list(outline['size'])}, the image's {[height, width]}"
    if isinstance(outline["counts"], str | bytes):
        return ""
    counts = np.asarray(outline["counts"])
    if counts.dtype.kind not in "iu" or counts.min(initial=0) < 0:
        return "run lengths are not whole numbers from 0 up"
    total = int(counts.sum())
    return "" if total == height * width else f"run lengths add up to {total}, not {height * width}"


def to_compressed_rle(outline: Any) -> Any:
    """JSON object hook: plain run lengths as an array, a tenth of the memory of a list; anything else unchanged."""
    if not isinstance(outline, dict) or not isinstance(outline.get("counts"), list):
        return outline
    counts = np.asarray(outline["counts"])
    fits = counts.dtype.kind == "i" and counts.min(initial=0) >= 0
    return {**outline, "counts": counts.astype(np.uint32)} if fits else outline


Counts = Mapping[int, int]

MANY = 500
"""Only for more masks than this there are a progress bar and worker processes."""

_counted: dict[Path, tuple[Stamp, Counts]] = {}


def census(
    paths: Sequence[Path],
    on_error: OnError = stop,
    workers: int = 1,
    kept: Path | None = None,
    colours: Colours | None = None,
) -> dict[Path, Counts]:
    """Pixels per label of label maps, in order; `on_error` gets unreadable ones; `kept`: file of `write_census`."""
    stamps = {path: file_stamp(path) for path in paths}
    due = [path for path, stamp in stamps.items() if not _known(path, stamp)]
    if due and kept is not None and kept.is_file():
        _recall(kept, {path: stamps[path] for path in due}, on_error)
        due = [path for path in due if not _known(path, stamps[path])]
    few = len(due) <= MANY
    bar = tqdm(total=len(due), desc="counting labels", unit=" masks", mininterval=1.0, disable=few)
    work = parallel_map(partial(_count, colours), due, 1 if few else workers, chunk=64)
    with bar, closing(work):
        for path, found in zip(due, work, strict=True):
            stamp = stamps[path]
            if isinstance(found, Exception):
                on_error(found)
            elif stamp is not None:
                _counted[path] = stamp, found
            bar.update()
    return {path: _counted[path][1] for path, stamp in stamps.items() if _known(path, stamp)}


def write_census(path: Path, counts: Mapping[Path, Counts]) -> None:
    """Write counts as JSON: by relative folder and mask, size, change time (ns), label, pixels, label, pixels, ..."""
    folders: dict[Path, dict[str, list[int]]] = {}
    for mask, found in counts.items():
        stamp = _counted[mask][0] if mask in _counted else file_stamp(mask)
        if stamp is not None:
            entry = [*stamp, *(number for pair in found.items() for number in pair)]
            folders.setdefault(mask.parent, {})[mask.name] = entry
    compact = partial(json.dumps, separators=(",", ":"), ensure_ascii=False)
    lines = [f"{json.dumps(_seen_from(path, folder))}:{compact(masks)}" for folder, masks in folders.items()]
    write_text(path, "{" + ",\n".join(lines) + "}\n")


@cache
def _seen_from(kept: Path, folder: Path) -> str:
    return Path(os.path.relpath(folder, kept.parent)).as_posix()


def _known(path: Path, stamp: Stamp | None) -> bool:
    return stamp is not None and path in _counted and _counted[path][0] == stamp


def _recall(kept: Path, wanted: Mapping[Path, Stamp | None], on_error: OnError) -> None:
    """Load the counts of masks that are unchanged since the file was written."""
    try:
        content = read_json(kept)
        for path, stamp in wanted.items():
            entry = content.get(_seen_from(kept, path.parent), {}).get(path.name)
            if stamp is not None and entry and tuple(entry[:2]) == stamp:
                _counted[path] = stamp, dict(zip(entry[2::2], entry[3::2], strict=True))
    except (AttributeError, TypeError, ValueError) as error:
        on_error(ValueError(f"{kept}: not a file of label counts ({error}); delete it, it will be made again"))


def _count(colours: Colours | None, path: Path) -> Counts | Exception:
    try:
        return count(read_labels(path, colours))
    except (ValueError, OSError) as error:
        return error


def count(labels: UInt8[np.ndarray, "h w"]) -> dict[int, int]:
    """Pixels per label of one label map, labels ascending."""
    # Three times as fast as np.bincount, but counts in float32.
    exact = labels.size < 1 << 24
    found = cv2.calcHist([labels], [0], None, [256], [0, 256]).ravel() if exact else np.bincount(labels.ravel())
    return {int(label): int(found[label]) for label in np.flatnonzero(found)}

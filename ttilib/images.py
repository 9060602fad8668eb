"""Pictures and label maps on disk, as plain arrays.

A photograph is bytes in red, green, blue order. A label map is one small integer per pixel; what the
integers mean is the business of the corpus, so they are handed over exactly as stored. A palette file
keeps both a colour and an index per pixel: the index is the label, the colour is only for looking.

Photographs go through OpenCV and ignore any rotation note in the file, so that picture and label map stay
aligned; label maps go through Pillow, which does not turn a palette into grey values.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from ttilib.files import atomic

LABEL_MODES = ("L", "P", "1")
"""Pillow's one-channel 8-bit kinds: grey, palette, black-and-white."""


def read_image(path: Path | str) -> UInt8[np.ndarray, "H W 3"]:
    """The photograph in `path` as red, green, blue bytes.

    Raises FileNotFoundError if it is missing, ValueError if it is empty, cut off or not an image.
    """
    data = _bytes(Path(path))
    if data[:2] == b"\xff\xd8" and not _jpeg_complete(data):
        # OpenCV would fill the missing rows with grey and say nothing.
        raise ValueError(f"{path}: JPEG file is cut off ({len(data)} bytes, no end mark); copy it again")
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        image = None
    if image is None:
        raise ValueError(f"{path}: not an image that can be decoded ({len(data)} bytes); copy it again")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_labels(path: Path | str) -> UInt8[np.ndarray, "H W"]:
    """The label map in `path`: the stored index of every pixel, palette or grey alike.

    A black-and-white file gives 0 and 1. A colour file is refused: which colour means which label is not
    in the file.

    Raises FileNotFoundError if it is missing, ValueError if it is broken or not a one-channel 8-bit image.
    """
    path = Path(path)
    data_size = len(_bytes(path))
    try:
        with Image.open(path) as image:
            if image.mode not in LABEL_MODES:
                raise ValueError(
                    f"{path}: label map has {image.mode} pixels; save it as one channel of 8-bit indices "
                    "(grey or palette PNG)"
                )
            return np.array(image, dtype=np.uint8)
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(
            f"{path}: label map cannot be decoded ({data_size} bytes, {error}); copy it again"
        ) from error


def label_counts(path: Path | str) -> Mapping[int, int]:
    """Pixels per stored label of a label map; counted once while the file is unchanged."""
    path = Path(path)
    return _label_counts(path, path.stat().st_mtime_ns if path.is_file() else 0)


@cache
def _label_counts(path: Path, stamp: int) -> Mapping[int, int]:
    counts = np.bincount(read_labels(path).ravel())
    return {int(label): int(counts[label]) for label in np.flatnonzero(counts)}


def write_image(path: Path | str, rgb: UInt8[np.ndarray, "H W 3"], quality: int = 95) -> None:
    """Write a photograph in the format of the suffix, whole or not at all; `quality` is JPEG's, 1..100."""
    path = Path(path)
    parameters = [cv2.IMWRITE_JPEG_QUALITY, quality] if path.suffix.lower() in (".jpg", ".jpeg") else []
    try:
        done, data = cv2.imencode(path.suffix, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), parameters)
    except cv2.error as error:
        raise ValueError(f"{path}: cannot write {path.suffix!r} images; use .jpg or .png") from error
    if not done:
        raise ValueError(f"{path}: the image could not be encoded; use .jpg or .png")
    with atomic(path) as temporary:
        temporary.write_bytes(data.tobytes())


def write_labels(path: Path | str, labels: UInt8[np.ndarray, "H W"]) -> None:
    """Write a label map as a lossless PNG whose grey values are the indices, whole or not at all."""
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path}: label maps must be .png (found {path.suffix!r}); JPEG would change labels")
    with atomic(path) as temporary:
        Image.fromarray(labels).save(temporary, format="PNG")


def _bytes(path: Path) -> bytes:
    """The content of an image file, with an error that says what is there instead."""
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "no such file"
        raise FileNotFoundError(f"{path}: {found}; expected an image")
    data = path.read_bytes()
    if not data:
        raise ValueError(f"{path}: image file is empty (0 bytes); copy it again")
    return data


def _jpeg_complete(data: bytes) -> bool:
    """Whether a JPEG's picture data reaches its end mark (FF D9).

    Header segments are stepped over by their lengths, because a thumbnail inside them has an end mark of
    its own; bytes after the end mark, as phones append them, do no harm.
    """
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        if data[place + 1] == 0xDA:  # start of scan: from here on FF D9 can only be the end mark
            return data.find(b"\xff\xd9", place) >= 0
        padding = data[place + 1] == 0xFF
        place += 1 if padding else 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return False

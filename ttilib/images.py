"""Pictures and label maps on disk, as plain arrays.

A photograph is bytes in red, green, blue order. A label map is one small integer per pixel; what the
integers mean is the business of the corpus, so they are handed over exactly as stored. A palette file
keeps both a colour and an index per pixel: the index is the label, the colour is only for looking. A file with
nothing but colours is read only where the labels can be told beyond doubt.

Photographs go through OpenCV and ignore any rotation note in the file, so that picture and label map stay
aligned; label maps go through Pillow, which does not turn a palette into grey values.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from ttilib.files import atomic, natural_key

Colours = Mapping[tuple[int, int, int], int]
"""What the colours of a label map mean: red, green, blue to label."""

LABEL_MODES = ("L", "P", "1")
"""Pillow's one-channel 8-bit kinds: grey, palette, black-and-white."""

COLOUR_MODES = ("RGB", "RGBA", "LA")
"""Kinds of several channels; their labels can be told by a table of colours, or if the channels agree."""

AS_INDICES = "save it as one channel of 8-bit indices (grey or palette PNG)"
PNG_START = b"\x89PNG\r\n\x1a\n"


IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


def image_files(folder: Path | str, recursive: bool = False) -> list[Path]:
    """The image files of a folder, and of those inside it, in natural order; hidden files and folders are skipped.

    Raises FileNotFoundError if there is no such folder, ValueError if it contains no image.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; give a folder that contains images")
    inside = [path.relative_to(folder) for path in (folder.rglob("*") if recursive else folder.iterdir())]
    names = [str(p) for p in inside if p.suffix.lower() in IMAGE_SUFFIXES and not any(x[0] == "." for x in p.parts)]
    if not names:
        raise ValueError(f"{folder}: no image in this folder; expected files in {', '.join(IMAGE_SUFFIXES)}")
    return [folder / name for name in sorted(names, key=natural_key)]


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


def read_labels(path: Path | str, colours: Colours | None = None) -> UInt8[np.ndarray, "H W"]:
    """The label map in `path`: the stored index of every pixel, palette or grey alike.

    A black-and-white file gives 0 and 1. A file with colours is read if all of them are in `colours`, or else if
    its three channels agree, which then are the label; transparency says nothing.

    Raises FileNotFoundError if it is missing, ValueError if it is broken or its labels cannot be told.
    """
    path = Path(path)
    data = _bytes(path)
    with _opened(path, data) as image:
        if image.mode in COLOUR_MODES:
            return _labels_of_colours(path, np.asarray(image.convert("RGB")), colours or {})
        bits = data[24] if data.startswith(PNG_START) else 8
        # Two or four bits of grey: an index as it stands, or brightness in steps of 85 or 17? Nobody can tell.
        if image.mode not in LABEL_MODES or (image.mode == "L" and bits < 8):
            kind = f"{bits}-bit grey" if image.mode == "L" else image.mode
            raise ValueError(f"{path}: label map has {kind} pixels; {AS_INDICES}")
        return np.array(image, dtype=np.uint8)


def _opened(path: Path, data: bytes) -> Image.Image:
    """The decoded label map, or an error that names the file."""
    try:
        if damage := _png_damage(data):
            raise OSError(damage)
        image = Image.open(BytesIO(data))
        image.load()
        return image
    except Exception as error:  # every decoder of Pillow fails in its own way
        why = "not an image" if isinstance(error, UnidentifiedImageError) else error
        raise ValueError(f"{path}: label map cannot be decoded ({len(data)} bytes, {why}); copy it again") from error


def _labels_of_colours(path: Path, rgb: UInt8[np.ndarray, "H W 3"], colours: Colours) -> UInt8[np.ndarray, "H W"]:
    """Labels by the table of colours, or by three equal channels."""
    red, green, blue = (channel.ravel().astype(np.uint32) for channel in np.moveaxis(rgb, 2, 0))
    codes = red << 16 | green << 8 | blue
    starts = np.flatnonzero(np.append(True, codes[1:] != codes[:-1]))  # few runs of one colour, so little to sort
    found, places = np.unique(codes[starts], return_inverse=True)
    spelled = [(code >> 16, code >> 8 & 255, code & 255) for code in found.tolist()]
    strange = [colour for colour in spelled if colour not in colours]
    if not strange:
        labels = np.array([colours[colour] for colour in spelled], dtype=np.uint8)
        return np.repeat(labels[places], np.diff(starts, append=codes.size)).reshape(rgb.shape[:2])
    # Asked second, because a grey may be the colour of a class: (128, 128, 128) is a car in VOC.
    if all(len(set(colour)) == 1 for colour in spelled):
        return rgb[..., 0].copy()
    unknown = f", {len(strange)} of which mean no label" if colours else ""
    shown = ", ".join(map(str, strange[:3])) + (", ..." if len(strange) > 3 else "")
    raise ValueError(f"{path}: label map has RGB pixels of {len(spelled)} colours{unknown} ({shown}); {AS_INDICES}")


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
            return data.rfind(b"\xff\xd9", place) >= 0  # from the end, where it should be
        padding = data[place + 1] == 0xFF
        place += 1 if padding else 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return False


def _png_damage(data: bytes) -> str:
    """What is wrong with a PNG's checksums, or nothing.

    Pillow does not compare those of the picture data: one flipped bit would quietly become other labels.
    """
    place = len(PNG_START)
    while data.startswith(PNG_START) and place + 12 <= len(data):
        end = place + 8 + int.from_bytes(data[place : place + 4], "big")
        kind = data[place + 4 : place + 8]
        if end + 4 > len(data):
            return "cut off"
        needed = kind[:1].isupper()
        if needed and zlib.crc32(data[place + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            return f"checksum of {kind.decode('latin-1')} is wrong"
        place = end + 4
    return ""

"""Read and write images (RGB bytes) and label maps (one small integer per pixel, returned as stored)."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, UInt8
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from ttilib.files import atomic, is_utf8, natural_key

Colours = Mapping[tuple[int, int, int], int]
"""Label of each RGB colour of a label map."""

LABEL_MODES = ("L", "P", "1")  # Pillow's names: grey, palette, black-and-white
AS_INDICES = "save it as one channel of 8-bit indices (grey or palette PNG)"
CODE = np.array([1 << 16, 1 << 8, 1], np.uint32)  # encodes a colour as one number
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


def image_files(folder: Path | str, recursive: bool = False) -> list[Path]:
    """Image files of a folder (`recursive`: and its subfolders) in natural order, without hidden ones.
    Raises FileNotFoundError if there is no such folder, ValueError if it contains no image, or a name is not UTF-8.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; give a folder that contains images")
    inside = [path.relative_to(folder) for path in (folder.rglob("*") if recursive else folder.iterdir())]
    names = [str(p) for p in inside if p.suffix.lower() in IMAGE_SUFFIXES and not any(x[0] == "." for x in p.parts)]
    if not names:
        raise ValueError(f"{folder}: no image in this folder; expected files in {', '.join(IMAGE_SUFFIXES)}")
    if odd := [name for name in names if not is_utf8(name)]:
        raise ValueError(f"{folder}: the name {odd[0]!r} is not UTF-8 text; rename it")
    return [folder / name for name in sorted(names, key=natural_key)]


def header_size(path: Path, upright: bool = True) -> tuple[int, int] | None:
    """Height and width of an image by its header, turned as `read_image` turns it; None if that does not say them."""
    try:
        with Image.open(path) as image:
            turned = upright and image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
            return (image.width, image.height) if turned else (image.height, image.width)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def read_image(path: Path | str, upright: bool = True) -> UInt8[np.ndarray, "H W 3"]:
    """Read an image as RGB; `upright`: turned as its EXIF orientation says, as viewers show it.
    Raises FileNotFoundError if it is missing, ValueError if it is empty, truncated, damaged or not an image.
    """
    data, image = _decode(Path(path), "image", upright)
    pixels = None
    if image.mode not in ("RGB", *LABEL_MODES):  # e.g. 16 bits or CMYK: Pillow clips, OpenCV scales
        flags = cv2.IMREAD_COLOR_RGB | (0 if upright else cv2.IMREAD_IGNORE_ORIENTATION)
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    return np.array(image.convert("RGB")) if pixels is None else pixels


def read_labels(
    path: Path | str, colours: Colours | None = None, upright: bool = True, painted: bool = False
) -> UInt8[np.ndarray, "H W"]:
    """Read a label map: the stored index of every pixel, from palette, grey or black-and-white (0 and 1) files.

    In a colour file, labels come from `colours` if it has them all, else from three equal channels; alpha is the label
    where there is one colour only. `painted`: other colours are labels too, see `_painted_labels`. `upright`: as in
    `read_image`. Raises FileNotFoundError if it is missing, ValueError if it is damaged or its labels are ambiguous.
    """
    path = Path(path)
    data, image = _decode(path, "label map", upright)
    if image.mode in ("RGB", "RGBA", "LA"):
        return _labels_of_colours(path, image.convert("RGBA"), colours or {}, painted)
    bits = data[24] if image.format == "PNG" else 8
    # Grey with 2 or 4 bits is ambiguous: an index, or brightness in steps of 85 or 17.
    if image.mode not in LABEL_MODES or (image.mode == "L" and bits < 8):
        kind = f"{bits}-bit grey" if image.mode == "L" else image.mode
        raise ValueError(f"{path}: label map has {kind} pixels; {AS_INDICES}")
    return np.array(image, dtype=np.uint8)


def _decode(path: Path, what: str, upright: bool) -> tuple[bytes, Image.Image]:
    """Content of the file, and the image, turned as its EXIF orientation says if `upright`; errors name the file."""
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "no such file"
        raise FileNotFoundError(f"{path}: {found}; expected an image")
    data = path.read_bytes()
    if not data:
        raise ValueError(f"{path}: image file is empty (0 bytes); copy it again")
    try:
        Image.open(BytesIO(data)).verify()  # compares a PNG's checksums, which load() does not
        image = Image.open(BytesIO(data))
        image.load()
        if upright:
            ImageOps.exif_transpose(image, in_place=True)
    except Image.DecompressionBombError as error:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise ValueError(f"{path}: {what} has more than {most} pixels; save it smaller") from error
    except Exception as error:  # Pillow's decoders raise many types
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else error
        found = f"{path}: {what} cannot be decoded, it is truncated or damaged ({len(data)} bytes, {reason})"
        raise ValueError(f"{found}; copy it again") from error
    return data, image


def _labels_of_colours(path: Path, image: Image.Image, colours: Colours, painted: bool) -> UInt8[np.ndarray, "H W"]:
    """Labels of an RGBA image from the colour table, from three equal channels, from alpha, or as painted."""
    rgb, alpha = np.split(np.array(image), [3], axis=2)
    if (rgb == rgb[0, 0]).all() and (alpha != alpha[0, 0]).any():
        return alpha[..., 0].copy()
    codes = rgb.astype(np.uint32) @ CODE
    found = [(int(code) >> 16, int(code) >> 8 & 255, int(code) & 255) for code in np.unique(codes)]
    unknown = [colour for colour in found if colour not in colours]
    if not unknown:
        labels = np.zeros(rgb.shape[:2], np.uint8)
        for colour in found:
            labels[codes == colour @ CODE] = colours[colour]
        return labels
    # After the table, because a grey may be the colour of a class: (128, 128, 128) is car in VOC.
    clear, grey = alpha[..., 0] < 128, all(len(set(colour)) == 1 for colour in found)
    if painted and (clear.any() or not grey) and (labels := _painted_labels(rgb, clear)).any():
        return labels
    if grey:
        return rgb[..., 0].copy()
    about = f", {len(unknown)} of which are not in the colour table" if colours else ""
    first = ", ".join(map(str, unknown[:3])) + (", ..." if len(unknown) > 3 else "")
    raise ValueError(f"{path}: label map has RGB pixels of {len(found)} colours{about} ({first}); {AS_INDICES}")


def _painted_labels(rgb: UInt8[np.ndarray, "H W 3"], clear: Bool[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W"]:
    """Labels of the colours painted on black or on transparent (`clear`) pixels, cut at half their brightness.

    The label of a colour is 1 + 9 r + 3 g + b, its channels rounded to halves (0, 1, 2) of the brightest; it covers 2 %
    of the painted pixels or more, others are 255. A photo with clear pixels is a cut-out, label 1: more than 5 % of its
    other pixels are in no colour of even brightness. All 0 for another photo, which is no mask: without black, or with
    more than 5 % of all its pixels in no such colour.
    """
    bright = rgb.max(axis=2).astype(int)
    background, marked = (clear, ~clear) if clear.any() else (bright < 32, bright >= 64)
    hue = 2.0 * rgb / np.maximum(bright, 1)[..., None]
    codes = np.rint(hue).astype(int) @ (9, 3, 1)
    labels, even = np.where(marked, 255, 0), background
    spread, counted = (8, marked.sum()) if clear.any() else (32, marked.size)
    for code, count in enumerate(np.bincount(codes[marked])):
        near = marked & (np.abs(hue - (code // 9, code // 3 % 3, code % 3)).max(axis=2) < 0.75)
        if 50 * count >= marked.sum() and near.any():
            middle = np.median(bright[near])
            labels[near] = np.where(2 * bright[near] >= middle, 1 + code, 0)
            even = even | near & (abs(bright - middle) <= spread)
    if not background.any() or 20 * np.count_nonzero(~even) > counted:
        labels = marked & clear.any()
    return labels.astype(np.uint8)


def write_image(path: Path | str, rgb: UInt8[np.ndarray, "H W 3"], quality: int = 95) -> None:
    """Write an image atomically in the format of the suffix; `quality` is that of JPEG, 1..100."""
    path = Path(path)
    parameters = [cv2.IMWRITE_JPEG_QUALITY, quality] if path.suffix.lower() in (".jpg", ".jpeg") else []
    try:
        _, data = cv2.imencode(path.suffix, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), parameters)
    except cv2.error as error:
        raise ValueError(f"{path}: cannot write {path.suffix!r} images; use .jpg or .png") from error
    with atomic(path) as temporary:
        temporary.write_bytes(data.tobytes())


def write_labels(path: Path | str, labels: UInt8[np.ndarray, "H W"]) -> None:
    """Write a label map atomically as a lossless grey PNG whose values are the labels."""
    with atomic(path) as temporary:
        Image.fromarray(labels).save(temporary, format="PNG")

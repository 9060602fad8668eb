"""Read frames from a video or a folder, write masks, and write videos of input, prediction and ground truth."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags
from PIL import Image as PillowImage

from ttilib.files import atomic
from ttilib.images import image_files, read_image, write_labels
from ttilib.plots.overlays import Image, Mask, Pixels, array, overlay, zoom_for

try:
    import av
except ImportError:  # optional extra `video`; fall back to VP9 in .webm by OpenCV
    av = None

PANEL = 360  # pixels: smaller frames are enlarged to about this size
STRIP = 24  # pixels: height of the strip with the name of a panel
LARGEST_FRAME = 100_000_000  # pixels; a frame of an 8K film has 33 million
LONGEST_SIDE = 8192  # pixels of an overlay; larger ones are reduced, since encoders do not take them


@dataclass(frozen=True)
class Video:
    """A video file or a folder of images; iterating decodes one frame after the other as (name, RGB bytes).

    `size`: height and width of every frame in pixels. `announced`: number of frames by the container, 0 if unknown.
    Raises ValueError while iterating if a frame has another size.
    """

    path: Path
    size: tuple[int, int]
    announced: int

    def __iter__(self) -> Iterator[tuple[str, UInt8[np.ndarray, "H W 3"]]]:
        files = image_files(self.path) if self.path.is_dir() else None
        frames = _decode(self.path) if files is None else map(read_image, files)
        for index, frame in enumerate(frames):
            _check_size(self.path if files is None else files[index], frame.shape[:2], self.size)
            yield (f"{index:05d}" if files is None else files[index].stem), frame

    def shortfall(self, found: int) -> str:
        """A sentence if the video breaks off after `found` frames, else empty."""
        if found >= self.announced:
            return ""
        about = f"only {found} of {self.announced} frames can be read, the rest is missing or damaged"
        return f"{self.path}: {about}; copy it again if it should be longer"


def open_video(path: Path | str) -> Video:
    """A video file or a folder of images (natural order), with the size of its frames.

    Raises FileNotFoundError if `path` does not exist, ValueError if it contains no frame, frames of two sizes (by
    their headers) or of more than LARGEST_FRAME pixels, or files whose masks would have the same name.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder; give a video or a folder of images")
    if path.is_dir():
        files = image_files(path)
        _check_names(files)
        size = _image_size(files[0])
        for file in files:
            _check_size(file, _image_size(file), size)
        return Video(path, size, len(files))
    with _capture(path) as capture:
        frame = _next(capture)
        if frame is None:
            raise ValueError(f"{path}: no frame can be read; convert it to H.264 .mp4 or to images")
        return Video(path, frame.shape[:2], max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0))


def read_frames(path: Path | str) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """Frames of a video file or of a folder of images as RGB bytes, one at a time. Raises as `open_video`."""
    return (frame for _, frame in open_video(path))


def frame_names(path: Path | str, count: int) -> tuple[str, ...]:
    """Names of the first `count` frames of `read_frames`: file names, or 00000, 00001, ... for a video."""
    if Path(path).is_dir():
        return tuple(image.stem for image in image_files(path)[:count])
    return tuple(f"{t:05d}" for t in range(count))


def _check_names(files: Sequence[Path]) -> None:
    """Raise ValueError if two masks would have one name."""
    known: dict[str, Path] = {}
    for file in files:
        if (other := known.setdefault(file.stem, file)) is not file:
            raise ValueError(f"{file}: its mask and that of {other.name} would both be {file.stem}.png; rename one")


def _check_size(path: Path, size: tuple[int, int], expected: tuple[int, int]) -> None:
    height, width = size
    if height * width > LARGEST_FRAME:
        raise ValueError(f"{path}: a frame of {height} x {width} pixels is too large; reduce it")
    if size != expected:
        about = f"a frame of {height} x {width} pixels, the first has {expected[0]} x {expected[1]}"
        raise ValueError(f"{path}: {about}; give frames of one size")


def _image_size(path: Path) -> tuple[int, int]:
    """Height and width of an image by its header, turned as `read_image` turns it."""
    try:
        with PillowImage.open(path) as image:
            lies = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
            return image.size if lies else image.size[::-1]
    except (OSError, SyntaxError, ValueError):
        return read_image(path).shape[:2]  # says what is wrong


def _decode(path: Path) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """Frames of a video file until it ends or cannot be read further."""
    with _capture(path) as capture:
        while (frame := _next(capture)) is not None:
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)


@contextmanager
def _capture(path: Path) -> Iterator[cv2.VideoCapture]:
    with _quiet():
        capture = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG)  # a relative a:b.mp4 would be an address
    try:
        yield capture
    finally:
        capture.release()


def _next(capture: cv2.VideoCapture) -> UInt8[np.ndarray, "H W 3"] | None:
    """The next frame in OpenCV's order of colours, without a word of OpenCV or FFmpeg."""
    with _quiet():
        return capture.read()[1]


def write_masks(folder: Path | str, masks: Iterable[Mask], names: Sequence[str]) -> list[Path]:
    """Write masks as label maps (0, 1) <last part of name>.png. ValueError if names are equal or not one per mask."""
    paths = [Path(folder) / f"{Path(name).name}.png" for name in names]
    if double := [path.name for path, count in Counter(paths).items() if count > 1]:
        raise ValueError(f"{folder}: two frames would both be {double[0]}; give frames different names")
    for path, mask in zip(paths, masks, strict=True):
        write_labels(path, array(mask).astype(np.uint8))
    return paths


def write_overlay(
    path: Path | str,
    frames: Iterable[Image],
    masks: Iterable[Mask],
    truth: Iterable[Mask] | None = None,
    fps: float = 6.0,
) -> Path:
    """Write a video of `side_by_side` and return its path.

    `path` ends in .mp4 (H.264) or .webm (VP9); without PyAV an .mp4 becomes a .webm of the same name.
    Raises ValueError for another suffix, without frames, or if frames, masks and ground truth differ in number.
    """
    path = Path(path)
    if path.suffix not in (".mp4", ".webm"):
        raise ValueError(f"{path}: cannot write {path.suffix or 'files without ending'}; use .mp4 or .webm")
    if path.suffix == ".mp4" and av is None:
        path = path.with_suffix(".webm")
    given = zip(frames, masks, strict=True) if truth is None else zip(frames, masks, truth, strict=True)
    joined = (side_by_side(*each) for each in given)
    first = next(joined, None)
    if first is None:
        raise ValueError(f"{path}: there are no frames to write; give at least one")
    with atomic(path) as temporary:
        write = _write_mp4 if path.suffix == ".mp4" else _write_webm
        write(temporary, first, chain([first], joined), fps)
    return path


def side_by_side(frame: Image, mask: Mask, truth: Mask | None = None) -> Pixels:
    """One video frame: input, prediction and ground truth, each with its name; height and width are even."""
    zoom = zoom_for(frame, PANEL)
    panels = {"input": overlay(frame, zoom=zoom), "prediction": overlay(frame, mask, truth, zoom=zoom)}
    if truth is not None:
        panels["ground truth"] = overlay(frame, truth=truth, zoom=zoom)
    for name, each in panels.items():
        strip = np.full((STRIP, each.shape[1], 3), 24, np.uint8)
        cv2.putText(strip, name, (6, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (240, 240, 240), 1, cv2.LINE_AA)
        panels[name] = np.vstack([strip, each])
    joined = np.hstack(list(panels.values()))
    if (longest := max(joined.shape)) > LONGEST_SIDE:
        share = LONGEST_SIDE / longest
        joined = cv2.resize(joined, None, fx=share, fy=share, interpolation=cv2.INTER_AREA)
    height, width = joined.shape[:2]
    return np.pad(joined, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")  # codecs need even sizes


def _write_mp4(path: Path, first: Pixels, frames: Iterable[Pixels], fps: float) -> None:
    """H.264 in .mp4 with 4:2:0 chroma, which browsers expect."""
    with av.open(str(path.absolute()), "w", options={"movflags": "faststart"}) as container:
        rate = Fraction(fps).limit_denominator(1001)
        stream = container.add_stream("libx264", rate=rate, options={"crf": "18"})
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _write_webm(path: Path, first: Pixels, frames: Iterable[Pixels], fps: float) -> None:
    """VP9 in .webm by OpenCV."""
    height, width = first.shape[:2]
    with _quiet():
        code = cv2.VideoWriter.fourcc(*"VP90")
        writer = cv2.VideoWriter(str(path.absolute()), cv2.CAP_FFMPEG, code, fps, (width, height))
    try:
        if not writer.isOpened():
            about = f"this OpenCV cannot write VP9 of {height} x {width} pixels"
            raise ValueError(f'{path.suffix}: {about}; pip install "av>=13"')
        for frame in frames:
            writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    finally:
        writer.release()


@contextmanager
def _quiet() -> Iterator[None]:
    """Discard standard error: OpenCV prints a harmless warning about the container's tag, FFmpeg what it repairs."""
    keep = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        os.dup2(keep, 2)
        os.close(keep)

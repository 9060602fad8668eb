"""Read frames from a video or a folder, write masks, and write videos of input, prediction and ground truth."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path

import av
import cv2
import numpy as np
from jaxtyping import UInt8
from matplotlib.colors import to_hex, to_rgb
from PIL import Image as PillowImage

from ttilib.datasets.pascal import VOC_COLOURS, voc_colour
from ttilib.files import atomic
from ttilib.images import header_size, image_files, read_image
from ttilib.plots.overlays import PREDICTION, Image, Labels, Mask, Pixels, overlay, zoom_for

STRIP = 24  # pixels: height of the strip with the name of a panel
LARGEST_FRAME = 100_000_000  # pixels; a frame of an 8K film has 33 million
WIDEST = 2560  # pixels of an overlay; wider ones are reduced, as those of a 4K film
FPS = 6.0  # frames per second of an overlay, if the film has no rate of its own

Objects = Mapping[str, str]
PREDICTED: Objects = {"prediction": PREDICTION}


@dataclass(frozen=True)
class Video:
    """A video file or a folder of images; iterating decodes one frame after the other as (name, RGB bytes).

    `size`: height and width of every frame in pixels. `announced`: number of frames by the container, 0 if unknown.
    `fps`: frames per second, 0 if unknown. Only every `every`-th frame from `start` up to `end` (frames from 0, `end`
    excluded, None is all) is given. Raises ValueError while iterating if a frame has another size.
    """

    path: Path
    size: tuple[int, int]
    announced: int
    fps: float = 0.0
    start: int = 0
    end: int | None = None
    every: int = 1

    def __iter__(self) -> Iterator[tuple[str, UInt8[np.ndarray, "H W 3"]]]:
        chosen = self.start, self.end, self.every
        files = image_files(self.path)[slice(*chosen)] if self.path.is_dir() else None
        frames = islice(_decode(self.path), *chosen) if files is None else map(read_image, files)
        for index, frame in enumerate(frames):
            _check_size(self.path if files is None else files[index], frame.shape[:2], self.size)
            yield (f"{self.start + index * self.every:05d}" if files is None else files[index].stem), frame

    def shortfall(self, found: int) -> str:
        """A sentence if the video breaks off after `found` frames, else empty."""
        if found >= self.announced:
            return ""
        about = f"only {found} of {self.announced} frames can be read, the rest is missing or damaged"
        return f"{self.path}: {about}; copy it again if it should be longer"


def open_video(path: Path | str, start: int = 0, end: int | None = None, every: int = 1) -> Video:
    """A video file or a folder of images (natural order), with the size of its frames.

    Raises FileNotFoundError if `path` does not exist, ValueError if it contains no frame in the range, frames of two
    sizes (by their headers) or of more than LARGEST_FRAME pixels, or files whose masks would have the same name.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder; give a video or a folder of images")
    if path.is_dir():
        files = image_files(path)
        sizes, known = [header_size(file) or read_image(file).shape[:2] for file in files], dict[str, Path]()
        size, count, fps = sizes[0], len(files), 0.0
        for file, found in zip(files, sizes, strict=True):
            _check_size(file, found, size)
            if (other := known.setdefault(file.stem, file)) is not file:
                raise ValueError(f"{file}: its mask and that of {other.name} would both be {file.stem}.png; rename one")
    else:
        with _capture(path) as capture:
            frame = _next(capture)
            if frame is None:
                raise ValueError(f"{path}: no frame can be read; convert it to H.264 .mp4 or to images")
            size, count = frame.shape[:2], max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
            fps = capture.get(cv2.CAP_PROP_FPS)
    last = sys.maxsize if end is None else end
    chosen = range(start, min(last, count or last), max(every, 1))
    if start < 0 or every < 1 or not chosen:
        about = f"no frame of {count or 'its'} frames is in start={start}, end={end}, every={every}"
        raise ValueError(f"{path}: {about}; frames count from 0, the end is excluded")
    return Video(path, size, len(chosen) if count else 0, fps if 0 < fps < 1000 else 0.0, start, end, every)


def _check_size(path: Path, size: tuple[int, int], expected: tuple[int, int]) -> None:
    height, width = size
    if height * width > LARGEST_FRAME:
        raise ValueError(f"{path}: a frame of {height} x {width} pixels is too large; reduce it")
    if size != expected:
        about = f"a frame of {height} x {width} pixels, the first has {expected[0]} x {expected[1]}"
        raise ValueError(f"{path}: {about}; give frames of one size")


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


def write_mask(path: Path, labels: UInt8[np.ndarray, "H W"], objects: int) -> None:
    """Write a mask that every viewer shows: 0 and 255 for one object, else indices with VOC's colours."""
    image = PillowImage.fromarray(labels if objects > 1 else 255 * labels)
    if objects > 1:
        image.putpalette([value for colour in VOC_COLOURS for value in colour])
    with atomic(path) as temporary:
        image.save(temporary, format="PNG")


def object_colours(names: Sequence[str]) -> Objects:
    """Colour of every object in an overlay: that of `write_mask`, at twice the brightness."""
    colours = 2.0 * np.array([voc_colour(number) for number in range(1, len(names) + 1)]) / 255
    return {name: to_hex(colour.clip(0, 1)) for name, colour in zip(names, colours, strict=True)}


def write_overlay(
    path: Path | str,
    frames: Iterable[Image],
    masks: Iterable[Mask | Labels],
    truth: Iterable[Mask] | None = None,
    fps: float = FPS,
    objects: Objects = PREDICTED,
) -> Path:
    """Write a video of `side_by_side`, in H.264, and return its path.

    `path` ends in .mp4. `objects`: name and colour of labels 1, 2, ... of the masks. Raises ValueError for another
    ending, without frames, or if frames, masks and ground truth differ in number.
    """
    path = Path(path)
    if path.suffix != ".mp4":
        raise ValueError(f"{path}: cannot write {path.suffix or 'files without ending'}; use .mp4")
    given = zip(frames, masks, strict=True) if truth is None else zip(frames, masks, truth, strict=True)
    joined = (side_by_side(*each, objects=objects) for each in given)
    first = next(joined, None)
    if first is None:
        raise ValueError(f"{path}: there are no frames to write; give at least one")
    options = {"movflags": "faststart"}
    with atomic(path) as temporary, av.open(str(temporary.absolute()), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options={"crf": "18"})
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "yuv420p"  # as browsers expect
        for frame in chain([first], joined):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def side_by_side(frame: Image, mask: Mask | Labels, truth: Mask | None = None, objects: Objects = PREDICTED) -> Pixels:
    """One video frame: input, prediction and ground truth, each with its name; height and width are even."""
    zoom = zoom_for(frame)
    panels = [({"input": ""}, overlay(frame, zoom=zoom))]
    panels.append((objects, overlay(frame, mask, truth, list(objects.values()), zoom)))
    if truth is not None:
        panels.append(({"ground truth": ""}, overlay(frame, truth=truth, zoom=zoom)))
    share = min(1.0, WIDEST / sum(each.shape[1] for _, each in panels))
    joined = np.hstack([_titled(names, each, share) for names, each in panels])
    height, width = joined.shape[:2]
    return np.pad(joined, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")  # codecs need even sizes


def _titled(names: Objects, pixels: Pixels, share: float) -> UInt8[np.ndarray, "H W 3"]:
    """An image, reduced to a `share` of its size, below a strip with names, each after a square in its colour.

    Names that are longer than the image is wide are squeezed.
    """
    if share < 1:
        pixels = cv2.resize(pixels, None, fx=share, fy=share, interpolation=cv2.INTER_AREA)
    lengths = [cv2.getTextSize(name, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1)[0][0] for name in names]
    wide, x = max(pixels.shape[1], sum(lengths) + 29 * len(names)), 6
    strip = np.full((STRIP, wide, 3), 24, np.uint8)
    for (name, colour), length in zip(names.items(), lengths, strict=True):
        if colour:
            strip[7:18, x : x + 11] = 255 * np.array(to_rgb(colour))
            x += 17
        cv2.putText(strip, name, (x, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (240, 240, 240), 1, cv2.LINE_AA)
        x += length + 12
    return np.vstack([cv2.resize(strip, (pixels.shape[1], STRIP), interpolation=cv2.INTER_AREA), pixels])


@contextmanager
def _quiet() -> Iterator[None]:
    """Discard standard error, to which FFmpeg prints what it repairs."""
    keep = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        os.dup2(keep, 2)
        os.close(keep)

"""Read frames from a video or a folder, write masks, and write videos of input, prediction and ground truth."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from ttilib.files import atomic
from ttilib.images import image_files, read_image, write_labels
from ttilib.plots.overlays import Image, Mask, Pixels, array, overlay, zoom_for

try:
    import av
except ImportError:  # optional extra `video`; fall back to VP9 in .webm by OpenCV
    av = None

PANEL = 360  # pixels: smaller frames are enlarged to about this size
STRIP = 24  # pixels: height of the strip with the name of a panel


def read_frames(path: Path | str) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """Frames of a video file or of a folder of images (natural order) as RGB bytes, one at a time.

    Raises FileNotFoundError if `path` does not exist, ValueError if it contains no frame.
    """
    path = Path(path)
    if path.is_dir():
        return map(read_image, image_files(path))
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file or folder; give a video or a folder of images")
    frames = _decode(path)
    first = next(frames, None)
    if first is None:
        raise ValueError(f"{path}: no frame can be read; convert it to H.264 .mp4 or to images")
    return chain([first], frames)


def frame_names(path: Path | str, count: int) -> tuple[str, ...]:
    """Names of the first `count` frames of `read_frames`: file names, or 00000, 00001, ... for a video."""
    if Path(path).is_dir():
        return tuple(image.stem for image in image_files(path)[:count])
    return tuple(f"{t:05d}" for t in range(count))


def _decode(path: Path) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """Frames of a video file until it ends or cannot be read further."""
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    try:
        while True:
            read, frame = capture.read()
            if not read:
                return
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
    finally:
        capture.release()


def write_masks(folder: Path | str, masks: Iterable[Mask], names: Sequence[str]) -> list[Path]:
    """Write masks as label maps (0, 1) <last part of name>.png. ValueError if names are equal or not one per mask."""
    stems = [Path(name).stem for name in names]
    if double := [stem for stem, count in Counter(stems).items() if count > 1]:
        raise ValueError(f"{folder}: two frames would both be {double[0]}.png; give frames different names")
    paths = [Path(folder) / f"{stem}.png" for stem in stems]
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
    height, width = joined.shape[:2]
    return np.pad(joined, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")  # codecs need even sizes


def _write_mp4(path: Path, first: Pixels, frames: Iterable[Pixels], fps: float) -> None:
    """H.264 in .mp4 with 4:2:0 chroma, which browsers expect."""
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
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
        writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, fps, (width, height))
    try:
        if not writer.isOpened():
            raise ValueError(f'{path.suffix}: this OpenCV cannot write VP9; pip install "av>=13"')
        for frame in frames:
            writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    finally:
        writer.release()


@contextmanager
def _quiet() -> Iterator[None]:
    """Discard standard error: OpenCV prints a harmless warning about the container's tag at any log level."""
    keep = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        os.dup2(keep, 2)
        os.close(keep)

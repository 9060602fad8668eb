"""A clip: what is shown, what is asked, and what the answer is, as pictures on one canvas.

Whatever a clip was made of, the library sees the same thing: K labelled support frames and T query frames
with values in [0, 1], bool masks, and for every pixel whether it counts. Stored masks may also say that
nobody judged a pixel (`IGNORED`, 255); that label ends here, and such pixels are simply not valid.

`Clip` is that value; `clip_from_files` makes one of somebody's own pictures; `Frames` is the step from frames
of any size to the canvas, one at a time or `together`, and `lay` the same for pictures in memory.

Benchmark data as pictures: an episode as a clip.

An episode is names; `load_clip` reads the pixels of just those frames and lays them on the network's canvas
by the rule of their corpus, and `episode_frames` does so frame by frame. Without any data, `synthetic_clip`
draws a clip from a seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from ttilib.datasets.base import IGNORED, Reader, Rule
from ttilib.datasets.catalog import Fold, find_dataset
from ttilib.datasets.transforms import centred, image_tensor, mask_tensor
from ttilib.episodes.episode import Episode
from ttilib.images import read_image, read_labels

File = Path | str | np.ndarray
Pair = tuple[str, np.ndarray, np.ndarray]
"""Name, picture [h, w, 3], labels [h, w] of 0, 1 and IGNORED."""

OWN_RULE = Rule(centred, False)
"""One's own files are laid in the centre, and the bars around them do not count."""


@dataclass(frozen=True)
class Clip:
    """One episode on one canvas: pictures in [0, 1] (red green blue, not normalised), masks, what counts.

    `truth` is for scoring only, and None if nobody knows it. `batch_frames` is how many frames the released
    driver solved together with these; None is this clip alone.
    """

    name: str
    class_name: str
    support: Float[Tensor, "K 3 H W"]
    support_masks: Bool[Tensor, "K H W"]
    support_valid: Bool[Tensor, "K H W"]
    support_names: tuple[str, ...]
    query: Float[Tensor, "T 3 H W"]
    query_valid: Bool[Tensor, "T H W"]
    query_names: tuple[str, ...]
    truth: Bool[Tensor, "T H W"] | None = None
    batch_frames: int | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the canvas, pixels."""
        return self.query.shape[-2], self.query.shape[-1]


@dataclass(frozen=True)
class Frames:
    """Labelled frames, each read and laid on the canvas when it is asked for, so that a video need not fit in memory.

    frames[t] is a picture in [0, 1], the mask of the object and the pixels that count; `read` gives picture and
    labels (0, 1, IGNORED) of the frame at a place.
    """

    names: tuple[str, ...]
    read: Callable[[int], tuple[np.ndarray, np.ndarray]]
    size: tuple[int, int]
    rule: Rule

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(
        self, place: int
    ) -> tuple[Float[Tensor, "3 H W"], Bool[Tensor, "H W"], Bool[Tensor, "H W"]]:
        image, labels = torch.zeros((3, *self.size)), torch.empty(self.size, dtype=torch.uint8)
        self._read_into(image, labels, place)
        return image, labels == 1, labels != IGNORED

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        return (self[place] for place in range(len(self)))

    def together(
        self, workers: int = 1
    ) -> tuple[Float[Tensor, "N 3 H W"], Bool[Tensor, "N H W"], Bool[Tensor, "N H W"]]:
        """All of them at once, read by `workers` threads; the pixels do not depend on how many.

        Raises what reading the first unusable frame raises.
        """
        # NumPy's zeros are pages that nobody has touched yet; torch would write every one of them twice.
        images = torch.from_numpy(np.zeros((len(self), 3, *self.size), dtype=np.float32))
        labels = torch.empty((len(self), *self.size), dtype=torch.uint8)
        known = labels.numpy()  # NumPy also compares bytes in a tenth of the time
        if workers > 1:
            with ThreadPoolExecutor(workers) as pool:
                list(pool.map(self._read_into, images, labels, range(len(self))))
        else:
            list(map(self._read_into, images, labels, range(len(self))))
        return images, torch.from_numpy(known == 1), torch.from_numpy(known != IGNORED)

    def _read_into(self, image: Float[Tensor, "3 H W"], labels: UInt8[Tensor, "H W"], place: int) -> None:
        """Fill a black picture and labels with the frame at a place."""
        picture, mask = self.read(place)
        check_same_size(self.names[place], picture, mask)
        lies = self.rule.place(*mask.shape, self.size)
        # Divided straight into its place: a padded copy of every picture costs a tenth of what decoding it does.
        scaled = lies.scale(image_tensor(picture), self.rule.rounded)
        torch.div(scaled, 255, out=image[:, lies.inside[0], lies.inside[1]])
        labels[:] = lies.fit(mask_tensor(mask), padding=0 if self.rule.padding_counts else IGNORED)


def lay(
    pairs: Sequence[Pair], size: tuple[int, int], rule: Rule
) -> tuple[Float[Tensor, "N 3 H W"], Bool[Tensor, "N H W"], Bool[Tensor, "N H W"]]:
    """Pictures in [0, 1], masks and valid pixels on the canvas, from named pairs that are in memory."""
    return Frames(tuple(pair[0] for pair in pairs), lambda place: pairs[place][1:], size, rule).together()


def check_same_size(name: str, picture: np.ndarray, mask: np.ndarray) -> None:
    """Refuse a picture and a mask of different sizes: one of them belongs to something else."""
    if picture.shape[:2] != mask.shape:
        raise ValueError(
            f"{name}: picture is {picture.shape[0]} x {picture.shape[1]}, its mask {mask.shape[0]} x "
            f"{mask.shape[1]} pixels; they must be the same size"
        )


def clip_from_files(
    support_images: Sequence[File],
    support_masks: Sequence[File],
    frames: Sequence[File],
    size: tuple[int, int],
    name: str = "own",
    class_name: str = "object",
    truth: Sequence[File] | None = None,
    label: int | None = None,
) -> Clip:
    """One's own pictures as a clip: files, or arrays (uint8 [h, w, 3] pictures, bool or uint8 [h, w] masks).

    A mask may hold 0 and 255, 0 and 1, or palette indices; `label` says which index is the object, and is
    needed only if there are several. Beside another label, 255 means "nobody judged".

    Raises ValueError naming the file if a mask is a colour picture, holds several labels, or is empty.
    """
    if not support_images or not frames:
        raise ValueError(
            f"{name}: {len(support_images)} stills and {len(frames)} frames; give at least one each"
        )
    stills = [_picture(item) for item in support_images]
    masks = _object(name, support_masks, len(stills), "stills", label)
    if empty := [
        _name(f, n) for n, (f, m) in enumerate(zip(support_masks, masks, strict=True)) if not (m == 1).any()
    ]:
        raise ValueError(f"{empty[0]}: the mask shows no object; paint it, or name its label with label=")
    still_names = tuple(_name(item, n) for n, item in enumerate(support_images))
    frame_names = tuple(_name(item, n) for n, item in enumerate(frames))
    answers = None if truth is None else _object(name, truth, len(frames), "frames", label)

    def read(place: int) -> tuple[np.ndarray, np.ndarray]:
        picture = _picture(frames[place])
        return picture, np.zeros(picture.shape[:2], dtype=np.uint8) if answers is None else answers[place]

    shown = lay(list(zip(still_names, stills, masks, strict=True)), size, OWN_RULE)
    query, answer, valid = Frames(frame_names, read, size, OWN_RULE).together()
    known = None if answers is None else answer
    return Clip(name, class_name, *shown, still_names, query, valid, frame_names, known)


def _name(item: File, place: int) -> str:
    return f"array {place}" if isinstance(item, np.ndarray) else str(item)


def _picture(item: File) -> UInt8[np.ndarray, "h w 3"]:
    return item if isinstance(item, np.ndarray) else read_image(item)


def _object(
    name: str, items: Sequence[File], due: int, what: str, label: int | None
) -> list[UInt8[np.ndarray, "h w"]]:
    """Masks of one object with 0, 1 and IGNORED, whichever way the files wrote it."""
    if len(items) != due:
        raise ValueError(f"{name}: {due} {what} have {len(items)} masks; give one mask for each, in order")
    stored = [item.astype(np.uint8) if isinstance(item, np.ndarray) else read_labels(item) for item in items]
    if label is None:
        label = _only_label([_name(item, place) for place, item in enumerate(items)], stored)
    judged = [mask != IGNORED if label != IGNORED else np.ones(mask.shape, dtype=bool) for mask in stored]
    return [np.where(j, m == label, IGNORED).astype(np.uint8) for j, m in zip(judged, stored, strict=True)]


def _only_label(names: Sequence[str], masks: Sequence[UInt8[np.ndarray, "_ _"]]) -> int:
    """The one label besides background; 255 is that label only if no other occurs in any of the masks."""
    found: dict[int, str] = {}
    for name, mask in zip(names, masks, strict=True):
        for value in np.unique(mask):
            found.setdefault(int(value), name)
    labels = sorted(set(found) - {0, IGNORED})
    if len(labels) > 1:
        shown = ", ".join(map(str, labels[:8])) + (", ..." if len(labels) > 8 else "")
        raise ValueError(
            f"{found[labels[-1]]}: the masks hold {len(labels)} labels ({shown}); say which one is "
            "the object with label=, or save black-and-white masks without soft edges"
        )
    return labels[0] if labels else IGNORED


__all__ = ["IGNORED", "Clip", "Frames", "clip_from_files", "episode_frames", "load_clip", "synthetic_clip"]

BATCH = 100
"""Frames that the released batched driver solves together. Source: protocol section 5.2."""


def load_clip(
    episode: Episode,
    root: Path | str,
    size: tuple[int, int] = (241, 425),
    support_root: Path | str | None = None,
    workers: int = 1,
) -> Clip:
    """Read the pixels of one episode, and no others, onto a canvas of `size` (height, width).

    `root` holds the query corpus; `support_root` the support's, where that is another one. Each is laid by
    its own released rule (protocol section 2); of padding, ytvis and vspw count it as background (quirk Q5).
    `workers`: threads that decode; the pixels do not depend on it.

    Raises ValueError or FileNotFoundError naming the episode or file.
    """
    shown, asked = episode_frames(episode, root, size, support_root)
    images, masks, valid = shown.together(workers)
    if not masks.any():
        number = episode.class_id if episode.support_class is None else episode.support_class
        raise ValueError(
            f"episode {episode.name}: no support frame contains class {number} at {size[0]} x {size[1]}; "
            "sample other episodes or take a larger size"
        )
    frames, truth, query_valid = asked.together(workers)
    names = (episode.name, episode.class_name)
    support, query = (images, masks, valid, shown.names), (frames, query_valid, asked.names)
    return Clip(*names, *support, *query, truth, None if episode.batch is None else BATCH)


def episode_frames(
    episode: Episode,
    root: Path | str,
    size: tuple[int, int] = (241, 425),
    support_root: Path | str | None = None,
) -> tuple[Frames, Frames]:
    """Support and query of an episode before any pixel is read; arguments and rules as for `load_clip`.

    For videos that do not fit in memory: `for picture, mask, valid in query: ...` reads frame by frame.
    """
    corpus = episode.support_corpus or episode.corpus
    if corpus != episode.corpus and support_root is None:
        raise ValueError(f"episode {episode.name}: support comes from {corpus}; give support_root as well")
    number = episode.class_id if episode.support_class is None else episode.support_class
    support = find_dataset(corpus).reader(root if support_root is None else support_root)
    query = find_dataset(episode.corpus).reader(root)
    return (
        _frames(support, episode.support, number, size),
        _frames(query, episode.query, episode.class_id, size),
    )


def pool_frames(fold: Fold, root: Path | str, size: tuple[int, int], limit: int = 100) -> Frames:
    """Pictures of base training without their labels, evenly thinned to `limit`: what an encoder's mean is measured on.

    Laid in the middle of the canvas whatever the corpus; bars around a picture do not count.
    """
    names = [frame for video in sorted(set(fold.train)) for frame in fold.frames[video]]
    if limit < len(names):
        names = [names[place * len(names) // limit] for place in range(limit)]
    reader = find_dataset(fold.corpus).reader(root)

    def read(place: int) -> tuple[np.ndarray, np.ndarray]:
        picture = reader.image(names[place])
        return picture, np.zeros(picture.shape[:2], dtype=np.uint8)

    return Frames(tuple(names), read, size, OWN_RULE)


def _frames(reader: Reader, names: tuple[str, ...], number: int, size: tuple[int, int]) -> Frames:
    def read(place: int) -> tuple[np.ndarray, np.ndarray]:
        return reader.image(names[place]), reader.mask(names[place], number)

    return Frames(names, read, size, reader.episode_rule)


def synthetic_clip(
    seed: int = 0, frames: int = 8, shots: int = 1, size: tuple[int, int] = (121, 217)
) -> Clip:
    """A clip without data: a striped blob drifts over a cloudy ground; the stills show it elsewhere.

    The blob is an ellipse whose size breathes by a fifth; all pixels count and the truth is exact. Same
    arguments, same pixels.
    """
    rng = np.random.default_rng(seed)
    colour, phase = rng.uniform(90, 255, size=3), rng.uniform(0, 2 * np.pi)
    height, width = size
    stills = [_scene(rng.uniform(0.3, 0.7, 2), 1.0, colour, _ground(rng, size)) for _ in range(shots)]
    ground, start, step = _ground(rng, size), rng.uniform(0.3, 0.4, 2), rng.uniform(0.2, 0.35, 2)
    film = []
    for time in np.linspace(0, 1, frames):
        scale = 1 + 0.2 * np.sin(2 * np.pi * time + phase)
        film.append(_scene(start + step * time, scale, colour, ground))
    rule = Rule(centred, True)
    still_names = tuple(f"still {n}" for n in range(shots))
    names = tuple(f"synthetic/{n:03d}" for n in range(frames))
    shown = lay(
        [(name, *pair) for name, pair in zip(still_names, stills, strict=True)], (height, width), rule
    )
    query, truth, valid = lay(
        [(n, *pair) for n, pair in zip(names, film, strict=True)], (height, width), rule
    )
    return Clip(f"synthetic/{seed}", "blob", *shown, still_names, query, valid, names, truth)


def _ground(rng: np.random.Generator, size: tuple[int, int]) -> Float[np.ndarray, "H W 3"]:
    """A cloudy ground: coarse random colours, smoothly enlarged, in 0..255."""
    coarse = rng.uniform(20, 140, size=(5, 8, 3)).astype(np.float32)
    return cv2.resize(coarse, (size[1], size[0]), interpolation=cv2.INTER_CUBIC)


def _scene(
    centre: Sequence[float] | np.ndarray, scale: float, colour: np.ndarray, ground: Float[np.ndarray, "H W 3"]
) -> tuple[UInt8[np.ndarray, "H W 3"], UInt8[np.ndarray, "H W"]]:
    """The striped blob (centre and radii in shares of the canvas) on a ground, with its mask."""
    height, width = ground.shape[:2]
    y, x = np.mgrid[:height, :width]
    dy, dx = y - centre[0] * height, x - centre[1] * width
    inside = (dy / (0.22 * scale * height)) ** 2 + (dx / (0.16 * scale * width)) ** 2 <= 1
    stripes = 0.75 + 0.25 * np.sin((dx + dy) * 2 * np.pi / 12)
    picture = np.where(inside[..., None], stripes[..., None] * colour, ground)
    return np.clip(picture, 0, 255).astype(np.uint8), inside.astype(np.uint8)

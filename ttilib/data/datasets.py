"""Benchmark data as pictures: an episode as a clip, and the frames of base training.

An episode is names; `load_clip` reads the pixels of just those frames and lays them on the network's canvas
by the rule of their corpus, and `episode_frames` does so frame by frame. Without any data, `synthetic_clip`
draws a clip from a seed. `TrainingFrames` is the other use of the data: labelled frames of the base classes,
each a function of seed, epoch and index alone, so that neither worker count nor order changes what the network
sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from ttilib.corpora.corpus import IGNORED, Reader, Rule
from ttilib.corpora.registry import READERS
from ttilib.corpora.transforms import centred, image_tensor, mask_tensor, normalise
from ttilib.data.clips import Clip, Frames, check_same_size, clip_from_files, lay
from ttilib.data.episodes import Episode
from ttilib.data.lists import Fold

__all__ = [
    "IGNORED", "Clip", "Frames", "TrainingFrames", "clip_from_files", "episode_frames", "load_clip", "synthetic_clip",
]  # fmt: skip

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
    support = READERS[corpus](root if support_root is None else support_root)
    query = READERS[episode.corpus](root)
    return (
        _frames(support, episode.support, number, size),
        _frames(query, episode.query, episode.class_id, size),
    )


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


class TrainingFrames(Dataset):
    """Labelled frames of the base classes: item i of an epoch is (picture, labels).

    The picture is normalised, float [3, H, W]; labels are 0 background, place in `fold.base` plus one, and
    255 where ignored, int64 [H, W]. `split` "train" is varied at random, "val" is not. Of each video the
    frames that show a base class are taken, every `every`-th of them; a video listed twice counts twice.
    An item depends on (seed, epoch, index) only; call `set_epoch` before making the loader's iterator.

    Source: protocol sections 1.3, 1.5 (labels) and 2 (variation).
    """

    def __init__(
        self,
        fold: Fold,
        root: Path | str,
        split: str,
        size: tuple[int, int],
        seed: int = 2020,
        every: int = 1,
    ) -> None:
        if split not in ("train", "val"):
            raise ValueError(f'split {split!r} is not known; choose "train" or "val"')
        self.reader = READERS[fold.corpus](root)
        self.base, self.size, self.seed, self.epoch = fold.base, size, seed, 0
        self.vary = split == "train"
        shown = {frame for c in fold.base for video in fold.presence[c].values() for frame in video}
        videos = fold.train if self.vary else fold.val
        self.frames = tuple(
            frame for video in videos for frame in [f for f in fold.frames[video] if f in shown][::every]
        )
        if not self.frames:
            raise ValueError(
                f"{fold.corpus} fold {fold.index}: no {split} frame in {root} shows a base class; check it"
            )

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, and with it the random variation of every item."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> tuple[Float[Tensor, "3 H W"], Int64[Tensor, "H W"]]:
        if not 0 <= index < len(self.frames):
            raise IndexError(f"index {index} of {len(self.frames)} training frames")
        frame = self.frames[index]
        picture, labels = self.reader.image(frame), self.reader.labels(frame, self.base)
        check_same_size(frame, picture, labels)
        image, mask = image_tensor(picture), mask_tensor(labels)
        if self.vary:
            image, mask = self.reader.vary(image, mask, np.random.default_rng([self.seed, self.epoch, index]))
        rule = self.reader.training_rule
        lies = rule.place(*mask.shape, self.size)
        image = lies.fit(image, rounded=rule.rounded)
        mask = lies.fit(mask, padding=0 if rule.padding_counts else IGNORED)
        return normalise(image / 255), mask.long()

"""Benchmark data as pictures: an episode as a clip.

An episode is names; `load_clip` reads the pixels of just those frames and lays them on the network's canvas
by the rule of their corpus, and `episode_frames` does so frame by frame. Without any data, `synthetic_clip`
draws a clip from a seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from ttilib.corpora.corpus import IGNORED, Reader, Rule
from ttilib.corpora.registry import READERS
from ttilib.corpora.transforms import centred
from ttilib.data.clips import OWN_RULE, Clip, Frames, clip_from_files, lay
from ttilib.data.episodes import Episode
from ttilib.data.lists import Fold

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
    support = READERS[corpus](root if support_root is None else support_root)
    query = READERS[episode.corpus](root)
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
    reader = READERS[fold.corpus](root)

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

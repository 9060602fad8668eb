"""Directing: what happens in a video, decided before the first frame is filmed.

A video has one main thing that moves through the view, up to two distractors of other kinds, and props before
and behind it. Some main things leave the view for a while. Everything is drawn from one generator, so a video
depends on its own seed only, not on which process films it or what was filmed before.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from ttilib.mini import scenery
from ttilib.mini.paint import smooth_noise
from ttilib.mini.scenes import SCALE, Actor, Scene
from ttilib.mini.shapes import FAMILIES, make_sprite

MARGIN, STILL_MARGIN = 1.6, 1.2  # size of a place over the size of the frame, for videos and for stills


def walk(
    rng: np.random.Generator, frames: int, low: float, high: float, knots: int = 4
) -> Float[np.ndarray, " T"]:
    """A smooth wandering value in [low, high]: random knots, eased between them."""
    values = rng.uniform(low, high, knots)
    place = np.linspace(0, knots - 1, frames) if frames > 1 else np.zeros(1)
    left = np.minimum(place.astype(int), knots - 2)
    part = place - left
    ease = 0.5 * part + 0.5 * part * part * (3 - 2 * part)
    return values[left] + (values[left + 1] - values[left]) * ease


def _wander(rng: np.random.Generator, frames: int, low: float, high: float) -> Float[np.ndarray, " T"]:
    """One coordinate of a path: a walk within some part of [low, high]."""
    part = rng.uniform(0.2, 0.8) * (high - low)
    start = rng.uniform(low, high - part)
    return walk(rng, frames, start, start + part, int(rng.integers(2, 5)))


def _camera(
    rng: np.random.Generator, frames: int, size: tuple[int, int], margin: float
) -> Float[np.ndarray, "T 4"]:
    """Pan, zoom and roll over the place, with the tremor of a hand."""
    height, width = size
    reach = (margin - 1) / 2 * rng.uniform(0.2, 1)
    tremor = np.cumsum(rng.normal(0, 0.5, (frames, 2)), 0) * 0.5 + rng.normal(0, 0.3, (frames, 2))
    x = walk(rng, frames, -reach * width, reach * width, 3) + tremor[:, 0]
    y = walk(rng, frames, -reach * height * 0.4, reach * height * 0.4, 3) + tremor[:, 1]
    return np.stack([x, y, walk(rng, frames, 0.95, 1.25, 3), walk(rng, frames, -0.06, 0.06, 3)], 1)


def _leave(
    rng: np.random.Generator, where: np.ndarray, radius: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """Carry a path out of the view at one side for part of the time, out and (if time is left) back in."""
    frames = len(where)
    start, stay = int(frames * rng.uniform(0.25, 0.6)), int(frames * rng.uniform(0.2, 0.35))
    ramp = max(2, frames // 6)
    out = np.interp(
        np.arange(frames), [start, start + ramp, start + ramp + stay, start + 2 * ramp + stay], [0, 1, 1, 0]
    )
    axis = int(rng.random() < 0.25)
    limit = size[1 - axis]
    beyond = -1.25 * radius if rng.random() < 0.5 else limit + 1.25 * radius
    moved = where.copy()
    moved[:, axis] += out * (beyond - where[:, axis])
    return moved


def _thing(rng: np.random.Generator, kind: int, frames: int, size: tuple[int, int], span: tuple[float, float],
           leaves: bool, standing: bool) -> Actor:  # fmt: skip
    """A moving thing: where it goes, how it turns; span: range of its radius over the frame height."""
    family, (height, width) = FAMILIES[kind], size
    base = height * np.exp(rng.uniform(*np.log(span)))
    radius = base * walk(rng, frames, 0.72, 1.35)
    inset = min(0.3, 0.35 * base / height + 0.08)
    low = 0.3 if standing else inset
    where = np.stack([_wander(rng, frames, inset * width, (1 - inset) * width),
                      _wander(rng, frames, low * height, (1 - inset) * height)], 1)  # fmt: skip
    if leaves:
        where = _leave(rng, where, radius, size)
    if family.upright and standing:
        angle = rng.uniform(-0.15, 0.15) + walk(rng, frames, -0.2, 0.2)
    else:
        angle = rng.uniform(-np.pi, np.pi) + walk(rng, frames, -1.0, 1.0) * rng.uniform(0.2, 1.4)
    tilt = np.clip(walk(rng, frames, 0.62, 1.12), 0.62, 1) * rng.choice([-1.0, 1.0])
    phase = rng.uniform(0, 6) + np.arange(frames) * rng.uniform(0.15, 0.5)
    flex = family.flex * rng.uniform(0.5, 1.5)
    return Actor(make_sprite(family, rng), kind, 0, where, radius, angle, tilt, float(flex), phase)


def _prop(rng: np.random.Generator, camera: np.ndarray, size: tuple[int, int], before: Actor | None) -> Actor:
    """A prop fixed in the place; `before`: one that at some moment stands in front of that thing."""
    frames, (height, width) = len(camera), size
    kind = str(
        rng.choice(
            ("bush", "bush", "pole", "reed", "stone")
            if before is None
            else ("bush", "pole", "reed", "reed", "stone")
        )
    )
    size_range = (0.75, 1.3) if kind == "pole" else (0.15, 0.4)
    base = height * rng.uniform(*size_range) * (1.0 if before is None or kind == "pole" else 0.8)
    t0 = int(rng.integers(frames))
    if before is None:
        spot, parallax = rng.uniform((0, 0.3 * height), (width, height)), 1.0
    else:
        spot, parallax = before.where[t0] + rng.normal(0, 0.55, 2) * before.radius[t0], rng.uniform(1.15, 1.6)
    zoom = camera[:, 2] / camera[t0, 2]
    middle = np.array([width, height]) / 2
    where = middle + zoom[:, None] * (
        spot - middle - parallax * camera[t0, 2] * (camera[:, :2] - camera[t0, :2])
    )
    angle = rng.normal(0, 0.12) - camera[:, 3]
    sway = rng.uniform(0, 6) + 0.25 * np.arange(frames)
    flex = 0.03 if kind == "reed" else 0.0
    ones = np.full(frames, float(rng.choice([-1.0, 1.0])))
    return Actor(
        scenery.make_prop(kind, rng), -1, scenery.STUFF[kind], where, base * zoom, angle, ones, flex, sway
    )


def _light(rng: np.random.Generator, frames: int) -> Float[np.ndarray, "T 3"]:
    """Brightness and warmth drifting over the video, as a factor per colour channel."""
    warm, gain = walk(rng, frames, -0.1, 0.1, 3), rng.uniform(0.75, 1.15) * walk(rng, frames, 0.8, 1.2, 3)
    return gain[:, None] * np.stack([1 + warm, np.ones(frames), 1 - warm], 1)


def stage(rng: np.random.Generator, kind: int, others: tuple[int, ...], frames: int, size: tuple[int, int],
          span: tuple[float, float] = (0.34, 0.7), leaves: bool = False) -> Scene:  # fmt: skip
    """Decide a scene: main thing of `kind`, one distractor per entry of `others`, everything else at random.

    size: (height, width) of a frame, both even; span: range of the main radius over the frame height.
    """
    height, width = size
    ahead = bool(rng.random() < 0.6)
    margin = MARGIN if frames > 1 else STILL_MARGIN
    place = scenery.make_place(rng, *(int(SCALE * margin * side) // 2 * 2 for side in size), ahead)
    camera = _camera(rng, frames, size, margin)
    main = _thing(rng, kind, frames, size, span, leaves, ahead)
    rest = [_thing(rng, other, frames, size, (0.16, 0.34), rng.random() < 0.2, ahead) for other in others]
    split = int(rng.integers(len(rest) + 1)) if rng.random() < 0.5 else len(rest)
    behind = [_prop(rng, camera, size, None) for _ in range(int(rng.integers(1, 4)))]
    front = [_prop(rng, camera, size, main) for _ in range(int(rng.choice([0, 1, 2], p=[0.35, 0.45, 0.2])))]
    turn = rng.uniform(0.3, np.pi - 0.3)
    clouds = 1.08 - rng.uniform(0.1, 0.5) * smooth_noise(rng, height, 2 * width, 4, 2)
    bright = float(np.clip(place.colour.mean() / 255, 0.25, 0.7))
    return Scene(
        size=size, place=place, actors=(*behind, *rest[:split], main, *rest[split:], *front), camera=camera,
        gain=_light(rng, frames) * (0.5 / bright) ** 0.7, sun=np.array([np.cos(turn), np.sin(turn)]),
        clouds=clouds.astype(np.float32), noise=float(rng.uniform(1.5, 6)), blur=float(rng.uniform(0.5, 1.1)),
    )  # fmt: skip

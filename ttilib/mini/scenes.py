"""Filming: a place, the things in it, a moving camera and a changing light become frames with exact masks.

Things follow smooth paths, turn, grow, shrink, bend and tilt; props stand still in the place and slide past
with parallax, hiding what is behind them; a distractor of another kind is filmed and annotated like the main
thing. Every frame is composed at twice its size, back to front; each thing casts a soft shadow. The owner
of a pixel is the frontmost thing that covers most of it: masks are what is *visible*.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from ttilib.mini import scenery
from ttilib.mini.outlines import REACH, SIDE
from ttilib.mini.paint import shaded
from ttilib.mini.shapes import Sprite

SCALE = 2  # composing resolution over frame resolution
LEAST_PIXELS = 24  # a thing of which fewer pixels show counts as absent


@dataclass(frozen=True)
class Actor:
    """A sprite and its pose in every frame, in frame pixels and radians.

    kind: index into FAMILIES, or -1 for a prop; stuff: id of a prop; squash: width over height as seen.
    """

    sprite: Sprite
    kind: int
    stuff: int
    where: Float[np.ndarray, "T 2"]
    radius: Float[np.ndarray, " T"]
    angle: Float[np.ndarray, " T"]
    squash: Float[np.ndarray, " T"]
    flex: float
    phase: Float[np.ndarray, " T"]


@dataclass(frozen=True)
class Scene:
    """Everything needed to film: place, actors back to front, camera, light; all but noise is decided."""

    size: tuple[int, int]  # height, width of a frame
    place: scenery.Place
    actors: tuple[Actor, ...]
    camera: Float[np.ndarray, "T 4"]  # x, y in frame pixels, zoom, roll
    gain: Float[np.ndarray, "T 3"]  # light per colour channel
    sun: Float[np.ndarray, " 2"]  # direction shadows fall, unit length
    clouds: Float[np.ndarray, "h w"]
    noise: float  # standard deviation, grey levels
    blur: float  # standard deviation, composed pixels


@dataclass(frozen=True)
class Frame:
    """One filmed frame: RGB, for every pixel 0 or 1 + the position of the actor seen there, and stuff ids."""

    image: UInt8[np.ndarray, "H W 3"]
    owner: UInt8[np.ndarray, "H W"]
    stuff: UInt8[np.ndarray, "H W"]

    def visible(self, scene: Scene) -> dict[int, np.ndarray]:
        """Visible mask of each annotated thing: actor position -> bool [H, W]; absent ones are left out."""
        masks = {i: self.owner == i + 1 for i, actor in enumerate(scene.actors) if actor.kind >= 0}
        return {i: mask for i, mask in masks.items() if np.count_nonzero(mask) >= LEAST_PIXELS}


def _affine(actor: Actor, t: int) -> np.ndarray:
    """Unit coordinates -> composed pixels, [2, 3]."""
    c, s = np.cos(actor.angle[t]), np.sin(actor.angle[t])
    size = SCALE * actor.radius[t]
    turn = size * np.array([[c * actor.squash[t], -s], [s * actor.squash[t], c]])
    return np.concatenate([turn, SCALE * actor.where[t][:, None] + (SCALE - 1) / 2], 1)


def _lit(actor: Actor, affine: np.ndarray, sun: np.ndarray) -> np.ndarray:
    """Colours of the sprite under a light from opposite the shadows, however the sprite is turned."""
    light = np.linalg.solve(affine[:, :2] / np.linalg.norm(affine[:, :2], axis=0), -sun)
    slope = np.float32(light[0]) * actor.sprite.relief[0] + np.float32(light[1]) * actor.sprite.relief[1]
    return shaded(actor.sprite.colour, np.clip(0.92 - 0.42 * slope, 0.3, 1.5))


def _bent(actor: Actor, t: int, affine: np.ndarray, low: np.ndarray, high: np.ndarray) -> list[np.ndarray]:
    """Where in the sprite to look, as columns and rows, for every composed pixel between `low` and `high`."""
    inverse = np.linalg.inv(affine[:, :2])
    px = np.arange(low[0], high[0], dtype=np.float32)[None] - np.float32(affine[0, 2])
    py = np.arange(low[1], high[1], dtype=np.float32)[:, None] - np.float32(affine[1, 2])
    u, v = (np.float32(row[0]) * px + np.float32(row[1]) * py for row in inverse)
    bend, phase = np.float32(actor.flex), np.float32(actor.phase[t])
    u, v = u + bend * np.sin(2.3 * v + phase), v + bend * np.sin(2.7 * u + 1.3 * phase)
    return [(axis * REACH + 1) * (SIDE / 2) - 0.5 for axis in (u, v)]


def _paste(actor: Actor, t: int, sun: np.ndarray, height: int, width: int):
    """Bend, turn and light the sprite: rows, columns, colour [h, w, 3], coverage [h, w]; None if outside."""
    affine = _affine(actor, t)
    box = actor.sprite.box + 1.2 * actor.flex * np.array([[-1], [1]])
    corners = affine[:, :2] @ np.array([[x, y] for x in box[:, 0] for y in box[:, 1]]).T + affine[:, 2:]
    low = np.maximum(np.floor(corners.min(1)).astype(int) - 1, 0)
    high = np.minimum(np.ceil(corners.max(1)).astype(int) + 1, (width, height))
    if (high <= low).any():
        return None
    layers = (_lit(actor, affine, sun), actor.sprite.alpha)
    if actor.flex:
        maps = _bent(actor, t, affine, low, high)
        colour, cover = (cv2.remap(layer, *maps, cv2.INTER_LINEAR) for layer in layers)
    else:  # the same without bending, and faster
        turn = affine[:, :2] * 2 / (SIDE * REACH)
        move = affine[:, 2] - low - turn @ np.full(2, SIDE / 2 - 0.5)
        whole, window = np.concatenate([turn, move[:, None]], 1), tuple(int(side) for side in high - low)
        colour, cover = (cv2.warpAffine(layer, whole, window, flags=cv2.INTER_LINEAR) for layer in layers)
    return slice(low[1], high[1]), slice(low[0], high[0]), colour, cover


def _shadow(canvas: np.ndarray, rows: slice, columns: slice, cover: np.ndarray, shift: np.ndarray) -> None:
    """Darken what lies behind, displaced by `shift` pixels and softened."""
    height, width = canvas.shape[:2]
    soft = max(2.0, float(np.abs(shift).max()) * 0.35)
    pad = int(2 * soft + np.abs(shift).max()) + 1
    r0, r1 = max(rows.start - pad, 0), min(rows.stop + pad, height)
    c0, c1 = max(columns.start - pad, 0), min(columns.stop + pad, width)
    coarse = 4  # a shadow is soft: a quarter of the resolution is plenty
    start = np.array([columns.start - c0, rows.start - r0]) + shift
    small = cv2.resize(
        cover, (-(-cover.shape[1] // coarse), -(-cover.shape[0] // coarse)), interpolation=cv2.INTER_AREA
    )
    move = np.float32([[1, 0, start[0] / coarse], [0, 1, start[1] / coarse]])
    dark = cv2.warpAffine(small, move, ((c1 - c0) // coarse + 1, (r1 - r0) // coarse + 1))
    dark = cv2.resize(cv2.GaussianBlur(dark, (0, 0), soft / coarse), (c1 - c0, r1 - r0))
    canvas[r0:r1, c0:c1] = shaded(canvas[r0:r1, c0:c1], 1 - 0.5 * dark)


def _background(scene: Scene, t: int) -> tuple[np.ndarray, np.ndarray]:
    """The place as the camera sees it at composed resolution, and its stuff ids at frame resolution."""
    height, width = (SCALE * side for side in scene.size)
    x, y, zoom, roll = scene.camera[t]
    turn = cv2.getRotationMatrix2D((0, 0), float(np.degrees(roll)), float(zoom))
    middle = np.array(scene.place.stuff.shape[::-1]) / 2 + SCALE * np.array([x, y])
    turn[:, 2] = np.array([width, height]) / 2 - turn[:, :2] @ middle
    colour = cv2.warpAffine(scene.place.colour, turn, (width, height), borderMode=cv2.BORDER_REFLECT_101)
    stuff = cv2.warpAffine(
        scene.place.stuff, turn, (width, height), flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT_101
    )
    return colour.astype(np.float32) / 255, stuff[::SCALE, ::SCALE].copy()


def _share(owner: np.ndarray, value: int) -> np.ndarray:
    """How much of every frame pixel shows one actor, in [0, 1]."""
    height, width = owner.shape
    mine = (owner == value).astype(np.float32)
    return cv2.resize(mine, (width // SCALE, height // SCALE), interpolation=cv2.INTER_AREA)


def film_frame(scene: Scene, t: int, grain: Float[np.ndarray, "H W 3"]) -> Frame:
    """Compose frame `t`; `grain` is its sensor noise, of unit variance."""
    height, width = scene.size
    canvas, stuff = _background(scene, t)
    owner = np.zeros(canvas.shape[:2], np.uint8)
    for number, actor in enumerate(scene.actors, start=1):
        pasted = _paste(actor, t, scene.sun, *owner.shape)
        if pasted is None:
            continue
        rows, columns, colour, cover = pasted
        _shadow(canvas, rows, columns, cover, scene.sun * 0.22 * SCALE * actor.radius[t])
        canvas[rows, columns] = cv2.blendLinear(canvas[rows, columns], colour, 1 - cover, cover)
        owner[rows, columns][cover >= 0.5] = number
    canvas = cv2.GaussianBlur(canvas, (0, 0), scene.blur)
    image = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)
    drift = int(3 * t) % (scene.clouds.shape[1] - width)
    image = shaded(image, scene.clouds[:, drift : drift + width])
    image = (
        cv2.transform(image, np.diag(255 * scene.gain[t]).astype(np.float32))
        + np.float32(scene.noise) * grain
    )
    seen = np.zeros((height, width), np.uint8)
    for number, actor in enumerate(scene.actors, start=1):
        mine = _share(owner, number) >= 0.5
        seen[mine] = number
        if actor.kind < 0:
            stuff[mine] = actor.stuff
    return Frame(np.clip(np.round(image), 0, 255).astype(np.uint8), seen, stuff)


def film(scene: Scene, rng: np.random.Generator) -> Iterator[Frame]:
    """All frames of a scene in time order."""
    (height, width), slack = scene.size, 48
    plate = rng.standard_normal((height + slack, width + slack, 3), dtype=np.float32)
    for t in range(len(scene.camera)):  # one plate of noise, at another offset every frame
        y, x = rng.integers(0, slack, 2)
        yield film_frame(scene, t, plate[y : y + height, x : x + width])

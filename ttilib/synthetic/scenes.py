"""Scenes: `sample_scene` samples the contents of a video, `render` its frames with exact masks.

A video has a main object, up to two annotated distractors of other classes, and props fixed to the background. Frames
are composed at twice their size, back to front; a pixel belongs to the frontmost actor that covers most of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from ttilib.synthetic import scenery
from ttilib.synthetic.outlines import REACH, SIDE, shaded, smooth_noise
from ttilib.synthetic.shapes import FAMILIES, Sprite, make_sprite

SCALE = 2  # composing resolution over frame resolution
LEAST_PIXELS = 24  # an object with fewer visible pixels counts as absent


@dataclass(frozen=True)
class Actor:
    """A sprite and its pose in every frame, in frame pixels and radians.

    kind: index into FAMILIES, or -1 for a prop; stuff: id of a prop; squash: apparent width over height.
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
    """All parameters of a video except noise: background, actors back to front, camera, light."""

    size: tuple[int, int]  # height, width of a frame
    background: scenery.Background
    actors: tuple[Actor, ...]
    camera: Float[np.ndarray, "T 4"]  # x, y in frame pixels, zoom, roll
    gain: Float[np.ndarray, "T 3"]  # light per colour channel
    sun: Float[np.ndarray, " 2"]  # direction of shadows, unit length
    clouds: Float[np.ndarray, "h w"]
    noise: float  # standard deviation, grey levels
    blur: float  # standard deviation, composed pixels


@dataclass(frozen=True)
class Frame:
    """A rendered frame: RGB, owner (0, or 1 + index of the visible actor), and stuff ids."""

    image: UInt8[np.ndarray, "H W 3"]
    owner: UInt8[np.ndarray, "H W"]
    stuff: UInt8[np.ndarray, "H W"]

    def visible(self, scene: Scene) -> dict[int, np.ndarray]:
        """Visible mask of each annotated object: actor index -> bool [H, W]; absent ones are left out."""
        masks = {i: self.owner == i + 1 for i, actor in enumerate(scene.actors) if actor.kind >= 0}
        return {i: mask for i, mask in masks.items() if np.count_nonzero(mask) >= LEAST_PIXELS}


def _affine(actor: Actor, t: int) -> np.ndarray:
    """Affine map [2, 3] from unit coordinates to composed pixels."""
    c, s = np.cos(actor.angle[t]), np.sin(actor.angle[t])
    size = SCALE * actor.radius[t]
    turn = size * np.array([[c * actor.squash[t], -s], [s * actor.squash[t], c]])
    return np.concatenate([turn, SCALE * actor.where[t][:, None] + (SCALE - 1) / 2], 1)


def _lit(actor: Actor, affine: np.ndarray, sun: np.ndarray) -> np.ndarray:
    """Colours of the sprite lit from opposite the shadows, for any rotation."""
    light = np.linalg.solve(affine[:, :2] / np.linalg.norm(affine[:, :2], axis=0), -sun)
    slope = np.float32(light[0]) * actor.sprite.relief[0] + np.float32(light[1]) * actor.sprite.relief[1]
    return shaded(actor.sprite.colour, np.clip(0.92 - 0.42 * slope, 0.3, 1.5))


def _bent(actor: Actor, t: int, affine: np.ndarray, low: np.ndarray, high: np.ndarray) -> list[np.ndarray]:
    """Columns and rows of the sprite to sample for every composed pixel between `low` and `high`."""
    inverse = np.linalg.inv(affine[:, :2])
    px = np.arange(low[0], high[0], dtype=np.float32)[None] - np.float32(affine[0, 2])
    py = np.arange(low[1], high[1], dtype=np.float32)[:, None] - np.float32(affine[1, 2])
    u, v = (np.float32(row[0]) * px + np.float32(row[1]) * py for row in inverse)
    bend, phase = np.float32(actor.flex), np.float32(actor.phase[t])
    u, v = u + bend * np.sin(2.3 * v + phase), v + bend * np.sin(2.7 * u + 1.3 * phase)
    return [(axis * REACH + 1) * (SIDE / 2) - 0.5 for axis in (u, v)]


def _paste(actor: Actor, t: int, sun: np.ndarray, height: int, width: int):
    """Bend, rotate and light the sprite: rows, columns, colour [h, w, 3], coverage [h, w]; None if outside."""
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
    else:  # equivalent without bending, and faster
        turn = affine[:, :2] * 2 / (SIDE * REACH)
        move = affine[:, 2] - low - turn @ np.full(2, SIDE / 2 - 0.5)
        matrix, window = np.concatenate([turn, move[:, None]], 1), tuple(int(side) for side in high - low)
        colour, cover = (cv2.warpAffine(layer, matrix, window, flags=cv2.INTER_LINEAR) for layer in layers)
    return slice(low[1], high[1]), slice(low[0], high[0]), colour, cover


def _shadow(canvas: np.ndarray, rows: slice, columns: slice, cover: np.ndarray, shift: np.ndarray) -> None:
    """Darken the background by a soft shadow displaced by `shift` pixels."""
    height, width = canvas.shape[:2]
    soft = max(2.0, float(np.abs(shift).max()) * 0.35)
    pad = int(2 * soft + np.abs(shift).max()) + 1
    r0, r1 = max(rows.start - pad, 0), min(rows.stop + pad, height)
    c0, c1 = max(columns.start - pad, 0), min(columns.stop + pad, width)
    coarse = 4  # a soft shadow needs a quarter of the resolution only
    start = np.array([columns.start - c0, rows.start - r0]) + shift
    size = -(-cover.shape[1] // coarse), -(-cover.shape[0] // coarse)
    small = cv2.resize(cover, size, interpolation=cv2.INTER_AREA)
    move = np.float32([[1, 0, start[0] / coarse], [0, 1, start[1] / coarse]])
    dark = cv2.warpAffine(small, move, ((c1 - c0) // coarse + 1, (r1 - r0) // coarse + 1))
    dark = cv2.resize(cv2.GaussianBlur(dark, (0, 0), soft / coarse), (c1 - c0, r1 - r0))
    canvas[r0:r1, c0:c1] = shaded(canvas[r0:r1, c0:c1], 1 - 0.5 * dark)


def _background(scene: Scene, t: int) -> tuple[np.ndarray, np.ndarray]:
    """The background seen by the camera at composed resolution, and its stuff ids at frame resolution."""
    height, width = (SCALE * side for side in scene.size)
    x, y, zoom, roll = scene.camera[t]
    turn = cv2.getRotationMatrix2D((0, 0), float(np.degrees(roll)), float(zoom))
    middle = np.array(scene.background.stuff.shape[::-1]) / 2 + SCALE * np.array([x, y])
    turn[:, 2] = np.array([width, height]) / 2 - turn[:, :2] @ middle
    colour = cv2.warpAffine(scene.background.colour, turn, (width, height), borderMode=cv2.BORDER_REFLECT_101)
    stuff = cv2.warpAffine(scene.background.stuff, turn, (width, height), flags=cv2.INTER_NEAREST,
                           borderMode=cv2.BORDER_REFLECT_101)  # fmt: skip
    return colour.astype(np.float32) / 255, stuff[::SCALE, ::SCALE].copy()


def render_frame(scene: Scene, t: int, grain: Float[np.ndarray, "H W 3"]) -> Frame:
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
    image = cv2.transform(image, np.diag(255 * scene.gain[t]).astype(np.float32)) + np.float32(scene.noise) * grain
    seen = np.zeros((height, width), np.uint8)
    for number, actor in enumerate(scene.actors, start=1):
        covered = (owner == number).astype(np.float32)
        mine = cv2.resize(covered, (width, height), interpolation=cv2.INTER_AREA) >= 0.5
        seen[mine] = number
        if actor.kind < 0:
            stuff[mine] = actor.stuff
    return Frame(np.clip(np.round(image), 0, 255).astype(np.uint8), seen, stuff)


def render(scene: Scene, rng: np.random.Generator) -> Iterator[Frame]:
    """All frames of a scene in time order."""
    (height, width), slack = scene.size, 48
    plate = rng.standard_normal((height + slack, width + slack, 3), dtype=np.float32)
    for t in range(len(scene.camera)):  # the same noise, at another offset in every frame
        y, x = rng.integers(0, slack, 2)
        yield render_frame(scene, t, plate[y : y + height, x : x + width])


VIDEO_MARGIN, IMAGE_MARGIN = 1.6, 1.2  # size of the background over that of a frame


def walk(rng: np.random.Generator, frames: int, low: float, high: float, knots: int = 4) -> Float[np.ndarray, " T"]:
    """A smooth random curve in [low, high]: random knots with eased interpolation."""
    values = rng.uniform(low, high, knots)
    position = np.linspace(0, knots - 1, frames) if frames > 1 else np.zeros(1)
    left = np.minimum(position.astype(int), knots - 2)
    part = position - left
    ease = 0.5 * part + 0.5 * part * part * (3 - 2 * part)
    return values[left] + (values[left + 1] - values[left]) * ease


def _wander(rng: np.random.Generator, frames: int, low: float, high: float) -> Float[np.ndarray, " T"]:
    """One coordinate of a path: a walk within a part of [low, high]."""
    part = rng.uniform(0.2, 0.8) * (high - low)
    start = rng.uniform(low, high - part)
    return walk(rng, frames, start, start + part, int(rng.integers(2, 5)))


def _camera(rng: np.random.Generator, frames: int, size: tuple[int, int], margin: float) -> Float[np.ndarray, "T 4"]:
    """Pan, zoom and roll over the background, with hand tremor."""
    height, width = size
    reach = (margin - 1) / 2 * rng.uniform(0.2, 1)
    tremor = np.cumsum(rng.normal(0, 0.5, (frames, 2)), 0) * 0.5 + rng.normal(0, 0.3, (frames, 2))
    x = walk(rng, frames, -reach * width, reach * width, 3) + tremor[:, 0]
    y = walk(rng, frames, -reach * height * 0.4, reach * height * 0.4, 3) + tremor[:, 1]
    return np.stack([x, y, walk(rng, frames, 0.95, 1.25, 3), walk(rng, frames, -0.06, 0.06, 3)], 1)


def _leave(rng: np.random.Generator, where: np.ndarray, radius: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Move a path out of the view for part of the time, out and (if time is left) back in."""
    frames = len(where)
    start, stay = int(frames * rng.uniform(0.25, 0.6)), int(frames * rng.uniform(0.2, 0.35))
    ramp = max(2, frames // 6)
    times = [start, start + ramp, start + ramp + stay, start + 2 * ramp + stay]
    out = np.interp(np.arange(frames), times, [0, 1, 1, 0])
    axis = int(rng.random() < 0.25)
    limit = size[1 - axis]
    beyond = -1.25 * radius if rng.random() < 0.5 else limit + 1.25 * radius
    moved = where.copy()
    moved[:, axis] += out * (beyond - where[:, axis])
    return moved


def _thing(rng: np.random.Generator, kind: int, frames: int, size: tuple[int, int], span: tuple[float, float],
           leaves: bool, standing: bool) -> Actor:  # fmt: skip
    """A moving object; span: range of its radius over the frame height."""
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
    """A prop fixed to the background; `before`: an object that it occludes at some time."""
    frames, (height, width) = len(camera), size
    kinds = ("bush", "bush", "pole", "reed", "stone") if before is None else ("bush", "pole", "reed", "reed", "stone")
    kind = str(rng.choice(kinds))
    size_range = (0.75, 1.3) if kind == "pole" else (0.15, 0.4)
    base = height * rng.uniform(*size_range) * (1.0 if before is None or kind == "pole" else 0.8)
    t0 = int(rng.integers(frames))
    if before is None:
        spot, parallax = rng.uniform((0, 0.3 * height), (width, height)), 1.0
    else:
        spot, parallax = before.where[t0] + rng.normal(0, 0.55, 2) * before.radius[t0], rng.uniform(1.15, 1.6)
    zoom = camera[:, 2] / camera[t0, 2]
    middle = np.array([width, height]) / 2
    where = middle + zoom[:, None] * (spot - middle - parallax * camera[t0, 2] * (camera[:, :2] - camera[t0, :2]))
    angle = rng.normal(0, 0.12) - camera[:, 3]
    sway = rng.uniform(0, 6) + 0.25 * np.arange(frames)
    flex = 0.03 if kind == "reed" else 0.0
    ones = np.full(frames, float(rng.choice([-1.0, 1.0])))
    return Actor(scenery.make_prop(kind, rng), -1, scenery.STUFF[kind], where, base * zoom, angle, ones, flex, sway)


def _light(rng: np.random.Generator, frames: int) -> Float[np.ndarray, "T 3"]:
    """Brightness and colour temperature over the video, as a factor per colour channel."""
    warm, gain = walk(rng, frames, -0.1, 0.1, 3), rng.uniform(0.75, 1.15) * walk(rng, frames, 0.8, 1.2, 3)
    return gain[:, None] * np.stack([1 + warm, np.ones(frames), 1 - warm], 1)


def sample_scene(rng: np.random.Generator, kind: int, others: tuple[int, ...], frames: int, size: tuple[int, int],
                 span: tuple[float, float] = (0.34, 0.7), leaves: bool = False) -> Scene:  # fmt: skip
    """Sample a scene: main object of `kind`, one distractor per entry of `others`, everything else at random.

    size: (height, width) of a frame, both even; span: range of the radius of the main object over the frame height.
    """
    height, width = size
    ahead = bool(rng.random() < 0.6)
    margin = VIDEO_MARGIN if frames > 1 else IMAGE_MARGIN
    background = scenery.make_background(rng, *(int(SCALE * margin * side) // 2 * 2 for side in size), ahead)
    camera = _camera(rng, frames, size, margin)
    main = _thing(rng, kind, frames, size, span, leaves, ahead)
    rest = [_thing(rng, other, frames, size, (0.16, 0.34), rng.random() < 0.2, ahead) for other in others]
    split = int(rng.integers(len(rest) + 1)) if rng.random() < 0.5 else len(rest)
    behind = [_prop(rng, camera, size, None) for _ in range(int(rng.integers(1, 4)))]
    front = [_prop(rng, camera, size, main) for _ in range(int(rng.choice([0, 1, 2], p=[0.35, 0.45, 0.2])))]
    turn = rng.uniform(0.3, np.pi - 0.3)
    clouds = 1.08 - rng.uniform(0.1, 0.5) * smooth_noise(rng, height, 2 * width, 4, 2)
    bright = float(np.clip(background.colour.mean() / 255, 0.25, 0.7))
    return Scene(
        size=size, background=background, actors=(*behind, *rest[:split], main, *rest[split:], *front), camera=camera,
        gain=_light(rng, frames) * (0.5 / bright) ** 0.7, sun=np.array([np.cos(turn), np.sin(turn)]),
        clouds=clouds.astype(np.float32), noise=float(rng.uniform(1.5, 6)), blur=float(rng.uniform(0.5, 1.1)),
    )  # fmt: skip

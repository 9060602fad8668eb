"""Backgrounds (textured ground, a backdrop) and props (stones, bushes, poles, reeds), which belong to no class."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import UInt8

from ttilib.synthetic.outlines import Sheet, mix, palette, shaded, smooth_noise, soft
from ttilib.synthetic.shapes import Sprite, sprite_from_parts, unit_grid

STUFF = {
    "grass": 1, "sand": 2, "paving": 3, "fallen_leaves": 4, "pebbles": 5, "water": 6,
    "wall": 11, "hedge": 12, "sky": 13, "fence": 14,
    "stone": 21, "bush": 22, "pole": 23, "reed": 24,
}  # fmt: skip
GROUNDS = ("grass", "sand", "paving", "fallen_leaves", "pebbles", "water")
BACKDROPS = ("wall", "hedge", "sky", "fence")


@dataclass(frozen=True)
class Background:
    """An image larger than the frame, over which the camera moves, with the stuff id of every pixel."""

    colour: UInt8[np.ndarray, "h w 3"]
    stuff: UInt8[np.ndarray, "h w"]


def _specks(rng: np.random.Generator, field: np.ndarray, tones: np.ndarray, count: int, kind: str) -> np.ndarray:
    """Scatter small strokes, ovals or pebbles over a uint8 image."""
    height, width = field.shape[:2]
    xs, ys = rng.integers(0, width, count), rng.integers(0, height, count)
    sizes, turns = rng.uniform(0.5, 1, count), rng.uniform(0, 360, count)
    shades = (tones[rng.integers(0, 4, count)] * rng.uniform(0.6, 1.1, (count, 1)) * 255).clip(0, 255)
    for x, y, size, turn, shade in zip(xs.tolist(), ys.tolist(), sizes, turns, shades.tolist(), strict=True):
        if kind == "grass":
            lean = int((turn - 180) / 30)
            cv2.line(field, (x, y), (x + lean, y - int(13 * size)), shade, 1, cv2.LINE_AA)
        else:
            long, ratio = (13, 0.45) if kind == "fallen_leaves" else (10, 0.8)
            axes = (int(long * size), int(long * size * ratio))
            dark = tuple(0.45 * v for v in shade)
            cv2.ellipse(field, (x + 1, y + 2), axes, turn, 0, 360, dark, -1, cv2.LINE_AA)
            cv2.ellipse(field, (x, y), axes, turn, 0, 360, shade, -1, cv2.LINE_AA)
    return field


def _slabs(rng: np.random.Generator, height: int, width: int, brick: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Pattern of bricks or boards: a random value per piece, and 1 in the joints."""
    values = rng.random((height // brick[0] + 2, width // brick[1] + 3), dtype=np.float32)
    pieces, joints = np.zeros((height, width), np.float32), np.ones((height, width), np.float32)
    for row in range(-(-height // brick[0])):
        column, rest = np.divmod(np.arange(width) + row % 2 * brick[1] // 2, brick[1])
        band = slice(row * brick[0], (row + 1) * brick[0])
        pieces[band] = values[row][column]
        joints[row * brick[0] + 2 : band.stop] = rest < 2
    return pieces, joints


def _ground(rng: np.random.Generator, kind: str, height: int, width: int) -> np.ndarray:
    """Ground of one kind [height, width, 3] seen from above."""
    hue = {"grass": 0.25, "sand": 0.1, "paving": 0.08, "fallen_leaves": 0.07, "pebbles": 0.1, "water": 0.52}[kind]
    tones = 0.8 * palette(rng, hue, 0.2 if kind in ("paving", "pebbles") else 0.5, spread=0.09) + 0.08
    cloud, fine = smooth_noise(rng, height, width, 6, 4), smooth_noise(rng, height, width, 200, 2)
    field = shaded(mix(tones[0], 0.5 * (tones[0] + tones[1]), cloud), 0.7 + 0.5 * fine)
    if kind == "paving":
        value, joint = _slabs(rng, height, width, (int(rng.integers(24, 70)), int(rng.integers(40, 110))))
        field = mix(shaded(field, 0.75 + 0.45 * value), tones[2], 0.7 * joint)
    elif kind == "sand":
        y, x = np.mgrid[0:height, 0:width].astype(np.float32)
        field = shaded(field, 0.95 + 0.1 * np.sin((y + 40 * cloud + 0.2 * x) / np.float32(rng.uniform(3, 6))))
    elif kind == "water":
        y, x = np.mgrid[0:height, 0:width].astype(np.float32)
        wave = np.abs(np.sin((x + 90 * cloud) / 23) + np.sin((y + 70 * cloud[::-1]) / 17))
        field = mix(field, tones[3], 0.55 * soft(0.2 - wave, 0.25))
    image = (np.clip(field, 0, 1) * 255).astype(np.uint8)
    if kind in ("grass", "fallen_leaves", "pebbles"):
        image = _specks(rng, image, tones, int(height * width / 280), kind)
    return image


def _backdrop(rng: np.random.Generator, kind: str, height: int, width: int) -> np.ndarray:
    """The backdrop, slightly out of focus."""
    tones = 0.8 * palette(rng, {"wall": 0.06, "hedge": 0.28, "sky": 0.57, "fence": 0.08}[kind], 0.35, 0.09) + 0.08
    cloud = smooth_noise(rng, height, width, 9, 5)
    if kind == "sky":
        fall = np.linspace(0, 1, height, dtype=np.float32)[:, None] * np.ones((1, width), np.float32)
        field = mix(mix(tones[0], tones[3], 0.8 * fall), np.ones(3, np.float32), soft(cloud - 0.6, 0.4))
        ridge = height * (0.75 - 0.35 * smooth_noise(rng, 1, width, 5, 4))
        hill = np.arange(height, dtype=np.float32)[:, None] > ridge
        field = mix(field, tones[2] + 0.25 * tones[1], hill * (0.75 + 0.25 * cloud))
    elif kind == "hedge":
        field = mix(0.35 * tones[0], 1.1 * tones[0], cloud)
    else:
        brick = (22, 52) if kind == "wall" else (height, int(rng.integers(24, 44)))
        value, joint = _slabs(rng, height, width, brick)
        piece = mix(0.7 * tones[0], 1.2 * tones[0], value)
        field = shaded(mix(piece, tones[2], 0.75 * joint), 0.7 + 0.5 * cloud)
    image = (np.clip(field, 0, 1) * 255).astype(np.uint8)
    if kind == "hedge":
        image = _specks(rng, image, np.clip(tones * 0.9, 0, 1), height * width // 320, "fallen_leaves")
    elif kind == "wall":
        for x in range(int(rng.integers(60, 200)), width, int(rng.integers(200, 330))):
            cv2.rectangle(image, (x, height // 5), (x + 80, 3 * height // 4), (tones[2] * 255).tolist(), -1)
            cv2.rectangle(image, (x, height // 5), (x + 80, 3 * height // 4), (tones[3] * 230).tolist(), 6)
    return cv2.GaussianBlur(image, (0, 0), rng.uniform(1.2, 3))


def _recede(field: np.ndarray, rows: int) -> np.ndarray:
    """Project flat ground so that it recedes over `rows` pixels to the horizon, with less detail far away."""
    height, width = field.shape[:2]
    near = np.arange(1, rows + 1, dtype=np.float32)[:, None] / rows + 0.2
    across = (np.arange(width, dtype=np.float32)[None] - width / 2) / near + width / 2
    depth = (height * 2.4 * (1 - 0.2 / near)) * np.ones_like(across)
    sharp, dull = (
        cv2.remap(layer, across, depth, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        for layer in (field, cv2.GaussianBlur(field, (0, 0), 5))
    )
    clear = np.clip((near - 0.25) / 0.4, 0, 1) * np.ones_like(across)
    return cv2.blendLinear(sharp, dull, clear, 1 - clear)


def make_background(rng: np.random.Generator, height: int, width: int, ahead: bool) -> Background:
    """A background of [height, width] pixels; `ahead`: with horizon and backdrop, else seen from above."""
    kind = str(rng.choice(GROUNDS))
    if not ahead:
        return Background(_ground(rng, kind, height, width), np.full((height, width), STUFF[kind], np.uint8))
    behind, top = str(rng.choice(BACKDROPS)), int(height * rng.uniform(0.32, 0.5))  # height of the horizon
    ground = _recede(_ground(rng, kind, height, width), height - top)
    stuff = np.full((height, width), STUFF[kind], np.uint8)
    stuff[:top] = STUFF[behind]
    image = np.concatenate([_backdrop(rng, behind, top, width), ground])
    image[top - 6 : top + 6] = cv2.GaussianBlur(image[top - 6 : top + 6], (0, 0), 1.5)
    return Background(image, stuff)


def make_prop(kind: str, rng: np.random.Generator) -> Sprite:
    """One stone, bush, pole or reed."""
    sheet, (x, y) = Sheet(), unit_grid()
    if kind == "pole":
        wide, lean = rng.uniform(0.04, 0.12), rng.uniform(-0.05, 0.05, 4)
        sheet.stroke(np.stack([lean, np.linspace(-1, 1, 4)], 1), (wide * 0.9, wide))
    elif kind == "stone":
        t = np.linspace(0, 2 * np.pi, 11, endpoint=False)
        r = rng.uniform(0.65, 1, 11)
        sheet.polygon(np.stack([r * np.cos(t), 0.72 * r * np.sin(t)], 1))
    elif kind == "bush":
        for cx, cy, r in rng.uniform((-0.55, -0.4, 0.22), (0.55, 0.5, 0.42), (14, 3)):
            sheet.ellipse((cx, cy), (r, r * 0.85))
        for a, r, turn in rng.uniform((0, 0.5, 0), (6.3, 0.95, 3.1), (70, 3)):
            sheet.ellipse((r * np.cos(a), 0.85 * r * np.sin(a)), (0.08, 0.035), turn)
    else:
        for x0 in rng.uniform(-0.6, 0.6, int(rng.integers(5, 11))):
            bend = rng.uniform(-0.35, 0.35)
            sheet.stroke([(x0, 1), (x0 + bend * 0.4, 0), (x0 + bend, rng.uniform(-1, -0.3))], (0.05, 0.012))
    tones = palette(rng, {"pole": 0.09, "stone": 0.1, "bush": 0.3, "reed": 0.22}[kind], 0.3, 0.1)
    rough = smooth_noise(rng, *x.shape, 14, 4)
    if kind == "pole":
        rough = np.abs(np.sin(9 * rough + 22 * x)) * (0.6 + 0.4 * rough)
    colour = mix(tones[0], 0.5 * (tones[2] + tones[1]), 0.75 * rough)
    if kind == "bush":
        leaves = _specks(rng, (255 * colour).astype(np.uint8), 0.3 + 0.6 * tones[[0, 0, 1, 0]], 280, "fallen_leaves")
        colour = shaded(leaves.astype(np.float32) / 255, 0.95 - 0.35 * y)
    return sprite_from_parts(sheet.parts, np.clip(colour * 0.9, 0, 1), 0.8)

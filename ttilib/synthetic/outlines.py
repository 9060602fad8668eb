"""Silhouettes of the object classes, and helpers to paint sprites: noise, palettes, blending, spots.

A silhouette is drawn on a `Sheet` in unit coordinates (x right, y down, in [-1, 1]) with part numbers: 0 none, 1 body,
2 second part, 3 dark fittings. Colours are RGB in [0, 1], [3] or [h, w, 3]; weights are [h, w].
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np

SIDE = 288  # pixels of a finished sprite
FINE = 2  # supersampling factor of a sheet, for smooth edges
REACH = 0.86  # unit coordinate 1 as a fraction of half the sheet; the margin is for bending


class Sheet:
    """A square of part numbers to draw on in unit coordinates."""

    def __init__(self) -> None:
        self.parts = np.zeros((SIDE * FINE, SIDE * FINE), np.uint8)

    def _pixels(self, points: Sequence | np.ndarray) -> np.ndarray:
        half = SIDE * FINE / 2
        return np.round((np.asarray(points, np.float64) * REACH + 1) * half * 16).astype(np.int32)

    def polygon(self, points: Sequence | np.ndarray, part: int = 1) -> None:
        """Fill a closed polygon of [n, 2] unit points with a part number."""
        cv2.fillPoly(self.parts, [self._pixels(points)], int(part), shift=4)

    def ellipse(self, centre, axes, angle: float = 0.0, part: int = 1) -> None:
        """Fill an ellipse (half axes, angle in radians)."""
        t = np.linspace(0, 2 * np.pi, 90, endpoint=False)
        x, y = axes[0] * np.cos(t), axes[1] * np.sin(t)
        c, s = np.cos(angle), np.sin(angle)
        self.polygon(np.stack([centre[0] + c * x - s * y, centre[1] + s * x + c * y], 1), part)

    def stroke(self, points, widths, part: int = 1) -> None:
        """Draw a thick line through unit points; its half width changes linearly between `widths`."""
        points = np.asarray(points, np.float64)
        reached = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
        along = np.linspace(0, reached[-1], 2 + int(1.6 * reached[-1] / min(max(w, 0.008) for w in widths)))
        x, y = (np.interp(along, reached, points[:, i]) for i in (0, 1))
        radii = np.maximum(np.linspace(widths[0], widths[1], len(along)), 0.008) * REACH * SIDE * FINE / 2 * 16
        for centre, radius in zip(self._pixels(np.stack([x, y], 1)).tolist(), radii.tolist(), strict=True):
            cv2.circle(self.parts, centre, int(radius), int(part), -1, shift=4)


def _polar(radius: np.ndarray, angle: np.ndarray) -> np.ndarray:
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)


def starfish(sheet: Sheet, rng: np.random.Generator) -> None:
    """Five to seven tapered arms of unequal length."""
    arms = int(rng.integers(5, 8))
    t = np.linspace(0, 2 * np.pi, 360, endpoint=False)
    length = np.interp(t, np.linspace(0, 2 * np.pi, arms + 1), rng.uniform(0.8, 1, arms + 1), period=2 * np.pi)
    sheet.polygon(_polar(length * (0.3 + 0.7 * np.abs(np.cos(arms * t / 2)) ** rng.uniform(1.3, 3)), t))


def kite(sheet: Sheet, rng: np.random.Generator) -> None:
    """A rhombus with a waving tail of bows."""
    wide, cross, foot = rng.uniform(0.42, 0.68), rng.uniform(-0.5, -0.25), rng.uniform(0.2, 0.45)
    sway = rng.uniform(0.06, 0.16) * np.array([0, 1, -1, 1.2])
    tail = np.stack([sway, np.linspace(foot, 0.98, 4)], 1)
    sheet.stroke(tail, (0.03, 0.02), 3)
    for x, y in tail[1:]:
        sheet.polygon([(x - 0.11, y - 0.07), (x + 0.11, y + 0.07), (x + 0.11, y - 0.07), (x - 0.11, y + 0.07)], 2)
    sheet.polygon([(0, -0.98), (wide, cross), (0, foot), (-wide, cross)])


def mushroom(sheet: Sheet, rng: np.random.Generator) -> None:
    """A domed cap over a bellied stem."""
    wide, dome, rim = rng.uniform(0.6, 0.95), rng.uniform(0.5, 0.95), rng.uniform(-0.15, 0.15)
    stem, belly = rng.uniform(0.13, 0.24), rng.uniform(1.0, 1.7)
    y = np.linspace(rim - 0.1, 0.95, 20)
    half = stem * (1 + (belly - 1) * np.linspace(0, 1, 20) ** 2)
    sheet.polygon(np.concatenate([np.stack([half, y], 1), np.stack([-half, y], 1)[::-1]]), 2)
    t = np.linspace(np.pi, 2 * np.pi, 60)
    lip = np.stack([np.linspace(wide, -wide, 30), rim + 0.1 * np.sin(np.linspace(0, np.pi, 30))], 1)
    sheet.polygon(np.concatenate([np.stack([wide * np.cos(t), rim + dome * np.sin(t)], 1), lip]))


def gear(sheet: Sheet, rng: np.random.Generator) -> None:
    """A toothed wheel with a bore and, in some, round windows."""
    teeth, depth = int(rng.integers(8, 15)), rng.uniform(0.12, 0.24)
    t = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    sheet.polygon(_polar(1 - depth / 2 + depth / 2 * np.clip(3 * np.sin(teeth * t), -1, 1), t))
    bore = rng.uniform(0.13, 0.26)
    sheet.ellipse((0, 0), (bore * 1.6, bore * 1.6), part=2)
    sheet.ellipse((0, 0), (bore, bore), part=0)
    if rng.random() < 0.6:
        for a in np.arange(int(rng.integers(3, 7))) * 2 * np.pi / 6:
            sheet.ellipse((0.58 * np.cos(a), 0.58 * np.sin(a)), (0.13, 0.13), part=0)


def fish(sheet: Sheet, rng: np.random.Generator) -> None:
    """A lens-shaped body, forked tail, back fin and belly fin."""
    deep, fork = rng.uniform(0.26, 0.5), rng.uniform(0.28, 0.5)
    sheet.polygon([(-0.45, 0), (-0.98, -fork), (-0.82, 0), (-0.98, fork)], 2)
    sheet.polygon([(-0.3, -deep * 0.7), (0.0, -deep - rng.uniform(0.12, 0.35)), (0.35, -deep * 0.75)], 2)
    sheet.polygon([(-0.1, deep * 0.8), (0.0, deep + rng.uniform(0.1, 0.25)), (0.25, deep * 0.8)], 2)
    x = np.linspace(-0.62, 0.95, 60)
    half = deep * np.sqrt(np.clip(1 - ((x - 0.22) / np.where(x > 0.22, 0.73, 0.84)) ** 2, 0, 1)) + 0.02
    sheet.polygon(np.concatenate([np.stack([x, -half], 1), np.stack([x, half], 1)[::-1]]))
    sheet.ellipse((0.62, -0.28 * deep), (0.07, 0.07), part=3)


def leaf(sheet: Sheet, rng: np.random.Generator) -> None:
    """A pointed blade on a stalk, its edge toothed or lobed."""
    wide, lobes, bite = rng.uniform(0.34, 0.62), int(rng.integers(3, 11)), rng.uniform(0.06, 0.34)
    x = np.linspace(-0.6, 0.98, 160)
    u = (x + 0.6) / 1.58
    half = wide * np.sin(np.pi * u ** rng.uniform(0.6, 0.9)) * (1 - bite * np.abs(np.sin(np.pi * lobes * u)))
    sheet.stroke([(-1, rng.uniform(-0.15, 0.15)), (-0.75, 0), (-0.5, 0)], (0.045, 0.03), 2)
    sheet.polygon(np.concatenate([np.stack([x, -half], 1), np.stack([x, half], 1)[::-1]]))


def butterfly(sheet: Sheet, rng: np.random.Generator) -> None:
    """Two pairs of wings on a slim body with feelers."""
    spread, low = rng.uniform(0.4, 0.65), rng.uniform(0.28, 0.42)
    for side in (-1, 1):
        sheet.ellipse((side * 0.38, 0.36), (low, low * 0.8), side * 0.9, 2)
        sheet.ellipse((side * 0.5, -0.3), (0.5, spread * 0.66), -side * rng.uniform(0.45, 0.7), 1)
        sheet.stroke([(0, -0.4), (side * 0.12, -0.7), (side * 0.28, -0.9)], (0.02, 0.02), 3)
    sheet.stroke([(0, -0.5), (0, 0.55)], (0.09, 0.05), 3)


def snail(sheet: Sheet, rng: np.random.Generator) -> None:
    """A round shell on a long foot with two eye stalks."""
    shell = rng.uniform(0.5, 0.64)
    neck = rng.uniform(0.05, 0.3)
    sheet.stroke([(-0.95, 0.66), (-0.3, 0.58), (0.5, 0.58), (0.75, neck), (0.84, neck - 0.08)], (0.06, 0.17), 2)
    for x in (0.78, 0.96):
        sheet.stroke([(0.8, neck), (x, neck - rng.uniform(0.3, 0.45))], (0.035, 0.045), 2)
    sheet.ellipse((-0.1, -0.05), (shell, shell * rng.uniform(0.9, 1.1)))


def lantern(sheet: Sheet, rng: np.random.Generator) -> None:
    """A paper barrel between two caps, with a hanging loop and a tassel."""
    wide, high, square = rng.uniform(0.45, 0.75), rng.uniform(0.45, 0.6), rng.uniform(2, 4)
    sheet.stroke([(0, high), (rng.uniform(-0.06, 0.06), 0.98)], (0.05, 0.09), 2)
    sheet.stroke([(-0.1, -high - 0.05), (-0.1, -0.92), (0.1, -0.92), (0.1, -high - 0.05)], (0.03, 0.03), 3)
    t = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    x, y = (np.sign(f(t)) * np.abs(f(t)) ** (2 / square) for f in (np.cos, np.sin))
    sheet.polygon(np.stack([wide * x, high * y], 1))
    for y0 in (-high - 0.07, high - 0.05):
        sheet.polygon([(-wide * 0.55, y0), (wide * 0.55, y0), (wide * 0.55, y0 + 0.13), (-wide * 0.55, y0 + 0.13)], 3)


def cactus(sheet: Sheet, rng: np.random.Generator) -> None:
    """A column with one to three bent arms and, in some, a flower."""
    trunk = rng.uniform(0.17, 0.27)
    for i in range(int(rng.integers(1, 4))):
        side, y, up = (-1, 1)[i % 2], rng.uniform(-0.1, 0.5), rng.uniform(0.3, 0.65)
        out = side * rng.uniform(0.5, 0.72)
        sheet.stroke([(0, y), (out * 0.9, y), (out, y - 0.12), (out, y - up)], (trunk * 0.62, trunk * 0.55))
    sheet.stroke([(0, 0.78), (0, -0.98 + trunk)], (trunk * 1.05, trunk))
    if rng.random() < 0.5:
        sheet.ellipse((0, -0.9), (0.15, 0.11), part=2)


def umbrella(sheet: Sheet, rng: np.random.Generator) -> None:
    """A scalloped canopy on a shaft that ends in a hook."""
    high, scallops = rng.uniform(0.6, 0.9), int(rng.integers(4, 8))
    hook = (-1, 1)[int(rng.integers(2))] * 0.2
    sheet.stroke([(0, -0.95), (0, 0.8), (hook * 0.3, 0.94), (hook, 0.93), (hook, 0.76)], (0.035, 0.045), 3)
    t, x = np.linspace(np.pi, 2 * np.pi, 60), np.linspace(0.96, -0.96, 120)
    edge = -0.02 - 0.14 * np.abs(np.sin(np.pi * scallops * (x / 0.96 + 1) / 2))
    sheet.polygon(np.concatenate([np.stack([0.96 * np.cos(t), high * np.sin(t)], 1), np.stack([x, edge], 1)]))


def beetle(sheet: Sheet, rng: np.random.Generator) -> None:
    """An oval wing case, a neck shield and a head, on six jointed legs."""
    wide, long = rng.uniform(0.36, 0.55), rng.uniform(0.5, 0.62)
    for side in (-1, 1):
        for y, fore in ((-0.22, -0.3), (0.15, 0.05), (0.45, 0.35)):
            knee = (side * (wide + rng.uniform(0.12, 0.25)), y + fore * 0.4)
            sheet.stroke([(0, y), knee, (side * 0.95, y + fore)], (0.06, 0.035), 3)
        sheet.stroke([(0, -0.6), (side * 0.2, -0.85), (side * 0.4, -0.95)], (0.03, 0.025), 3)
    sheet.ellipse((0, -0.6), (0.2, 0.2), part=3)
    sheet.ellipse((0, -0.36), (wide * 0.75, 0.24), part=2)
    sheet.ellipse((0, 0.2), (wide, long))


def smooth_noise(rng: np.random.Generator, height: int, width: int, cells: int, octaves: int = 3) -> np.ndarray:
    """Cloud-like noise in [0, 1]: octaves of random values, the coarsest with `cells` along the longer side."""
    total, weight = np.zeros((height, width), np.float32), 0.0
    for octave in range(octaves):
        step = cells * 2**octave / max(height, width)
        rows, columns = (max(2, int(np.ceil(side * step))) for side in (height, width))
        values = rng.random((rows, columns), dtype=np.float32)
        total += cv2.resize(np.float32(0.5**octave) * values, (width, height), interpolation=cv2.INTER_CUBIC)
        weight += 0.5**octave
    total *= np.float32(1.6 / weight)
    total -= np.float32(0.3)
    return np.clip(total, 0, 1, out=total)


def palette(rng: np.random.Generator, hue: float, saturation: float, spread: float = 0.06) -> np.ndarray:
    """Four related colours [4, 3] around a hue (hue and spread in turns): main, second, dark, light."""
    h = hue + rng.uniform(-spread, spread)  # the default is +-22 degrees: hues of classes overlap
    s, v = np.clip(saturation + rng.uniform(-0.1, 0.2), 0.05, 0.95), rng.uniform(0.55, 0.95)
    second = h + rng.choice([-1, 1]) * rng.uniform(0.04, 0.12)
    other = (second, s * rng.uniform(0.4, 1), rng.uniform(0.35, 0.95))
    tones = ((h, s, v), other, (h, s * 0.6, 0.2), (h, s * 0.2, 0.93))
    return np.array([colorsys.hsv_to_rgb(a % 1, b, c) for a, b, c in tones], np.float32)


def mix(first: np.ndarray, second: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Blend two colours or colour fields; `share` [h, w] in [0, 1] is the weight of the second."""

    def weighted(colour: np.ndarray, weight: np.ndarray) -> np.ndarray:
        if colour.ndim == 3:
            return shaded(colour, weight)
        return cv2.merge([weight * np.float32(channel) for channel in colour])

    share = np.clip(share, 0, 1).astype(np.float32)
    return weighted(first, 1 - share) + weighted(second, share)


def shaded(colour: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Multiply a colour field [h, w, 3] by a factor per pixel [h, w]."""
    factor = factor.astype(np.float32)
    return cv2.multiply(colour, cv2.merge([factor, factor, factor]))  # faster than broadcasting


def soft(values: np.ndarray, width: float) -> np.ndarray:
    """A step from 0 to 1 at zero, linear over `width`."""
    return np.clip(values / width + 0.5, 0, 1)


def dots(rng: np.random.Generator, count: int, low: float, high: float, twins: bool = False) -> np.ndarray:
    """Soft round spots at random positions of a sprite: 1 inside, 0 outside; `twins` mirrors them left to right."""
    spots = np.zeros((SIDE, SIDE), np.uint8)
    unit = REACH * SIDE / 2
    places = (rng.uniform(-0.95, 0.95, (count, 2)) * unit + SIDE / 2).astype(int)
    radii = (rng.uniform(low, high, count) * unit).astype(int)
    for (px, py), r in zip(places.tolist(), radii.tolist(), strict=True):
        for column in (px, SIDE - 1 - px) if twins else (px,):
            cv2.circle(spots, (column, py), r, 255, -1, cv2.LINE_AA)
    return cv2.GaussianBlur(spots, (0, 0), 1.2).astype(np.float32) / 255


def fittings(colour: np.ndarray, parts: np.ndarray, tones: np.ndarray, second: np.ndarray | None = None) -> np.ndarray:
    """Paint part 2 in the second colour (or a given field) and part 3 dark."""
    colour = colour.astype(np.float32)
    colour[parts == 2] = tones[1] if second is None else second[parts == 2]
    colour[parts == 3] = tones[2]
    return colour

"""Painting tools: clouds of noise, families of colours, blending, spots.

Colours are RGB in [0, 1], either one colour [3] or a field of colours [h, w, 3]; weights are fields [h, w].
"""

from __future__ import annotations

import colorsys

import cv2
import numpy as np

from ttilib.mini.outlines import REACH, SIDE


def smooth_noise(
    rng: np.random.Generator, height: int, width: int, cells: int, octaves: int = 3
) -> np.ndarray:
    """Cloud-like noise in [0, 1]: octaves of random values, `cells` of the coarsest along the longer side."""
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
    h = hue + rng.uniform(-spread, spread)  # the default is +-22 degrees: neighbours on the wheel overlap
    s, v = np.clip(saturation + rng.uniform(-0.1, 0.2), 0.05, 0.95), rng.uniform(0.55, 0.95)
    second = h + rng.choice([-1, 1]) * rng.uniform(0.04, 0.12)
    other = (second, s * rng.uniform(0.4, 1), rng.uniform(0.35, 0.95))
    tones = ((h, s, v), other, (h, s * 0.6, 0.2), (h, s * 0.2, 0.93))
    return np.array([colorsys.hsv_to_rgb(a % 1, b, c) for a, b, c in tones], np.float32)


def mix(first: np.ndarray, second: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Blend two colours (or colour fields); share [S, S] in [0, 1] is how much of the second."""
    share = np.clip(share, 0, 1).astype(np.float32)
    return _weighted(first, 1 - share) + _weighted(second, share)


def _weighted(colour: np.ndarray, weight: np.ndarray) -> np.ndarray:
    if colour.ndim == 3:
        return shaded(colour, weight)
    return cv2.merge([weight * np.float32(channel) for channel in colour])


def shaded(colour: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """A colour field [h, w, 3] made darker or brighter by a factor per pixel [h, w]."""
    factor = factor.astype(np.float32)
    return cv2.multiply(colour, cv2.merge([factor, factor, factor]))  # faster than broadcasting


def soft(values: np.ndarray, width: float) -> np.ndarray:
    """A step from 0 to 1 at zero, softened over `width`."""
    return np.clip(values / width + 0.5, 0, 1)


def dots(rng: np.random.Generator, count: int, low: float, high: float, twins: bool = False) -> np.ndarray:
    """Soft round spots at random places of a sprite: 1 inside, 0 outside; twins: mirrored left to right."""
    spots = np.zeros((SIDE, SIDE), np.uint8)
    unit = REACH * SIDE / 2
    places = (rng.uniform(-0.95, 0.95, (count, 2)) * unit + SIDE / 2).astype(int)
    radii = (rng.uniform(low, high, count) * unit).astype(int)
    for (px, py), r in zip(places.tolist(), radii.tolist(), strict=True):
        for column in (px, SIDE - 1 - px) if twins else (px,):
            cv2.circle(spots, (column, py), r, 255, -1, cv2.LINE_AA)
    return cv2.GaussianBlur(spots, (0, 0), 1.2).astype(np.float32) / 255


def fittings(
    colour: np.ndarray, parts: np.ndarray, tones: np.ndarray, second: np.ndarray | None = None
) -> np.ndarray:
    """Paint part 2 in the second colour (or a given field) and part 3 dark."""
    colour = colour.astype(np.float32)
    colour[parts == 2] = tones[1] if second is None else second[parts == 2]
    colour[parts == 3] = tones[2]
    return colour

"""The inhabitants: twelve kinds of things, each with its own silhouette family and its own surface.

Hues are drawn from a wide range around a centre of the kind, and the ranges of different kinds overlap;
proportions, counts and patterns differ between individuals. Colour alone does not say which kind it is.
A thing is stored as a `Sprite`: painted once, flat, and later bent, turned, lit and pasted into frames.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float

from ttilib.mini import outlines, paint, textures


@dataclass(frozen=True)
class Sprite:
    """A flat painted thing in unit coordinates, with a relief to be lit.

    colour: RGB in [0, 1]; alpha: coverage in [0, 1]; relief: surface slope (along x, along y).
    """

    colour: Float[np.ndarray, "S S 3"]
    alpha: Float[np.ndarray, "S S"]
    relief: Float[np.ndarray, "2 S S"]
    box: Float[
        np.ndarray, "2 2"
    ]  # unit coordinates between which anything is painted: (x, y) low, (x, y) high


@dataclass(frozen=True)
class Family:
    """A kind of thing: its name, colour range, silhouette, surface and manners.

    hue (in turns) and saturation are centres of wide ranges; bulge: how strongly the surface curves;
    upright: stands or hangs, rather than lying any way round; flex: how far it bends, in unit coordinates.
    """

    name: str
    hue: float
    saturation: float
    outline: Callable
    surface: Callable
    bulge: float
    upright: bool
    flex: float


FAMILIES = (
    Family("starfish", 0.05, 0.65, outlines.starfish, textures.warts, 0.8, False, 0.09),
    Family("kite", 0.90, 0.70, outlines.kite, textures.panels, 0.15, False, 0.07),
    Family("mushroom", 0.02, 0.60, outlines.mushroom, textures.spots, 1.0, True, 0.04),
    Family("gear", 0.12, 0.20, outlines.gear, textures.brushed, 0.35, False, 0.0),
    Family("fish", 0.50, 0.55, outlines.fish, textures.scales, 0.8, False, 0.11),
    Family("leaf", 0.25, 0.60, outlines.leaf, textures.veins, 0.25, False, 0.09),
    Family("butterfly", 0.70, 0.65, outlines.butterfly, textures.wings, 0.2, False, 0.03),
    Family("snail", 0.10, 0.40, outlines.snail, textures.spiral, 1.0, True, 0.05),
    Family("lantern", 0.97, 0.70, outlines.lantern, textures.ribs, 0.6, True, 0.02),
    Family("cactus", 0.33, 0.50, outlines.cactus, textures.prickles, 0.8, True, 0.03),
    Family("umbrella", 0.60, 0.65, outlines.umbrella, textures.gores, 0.7, True, 0.02),
    Family("beetle", 0.40, 0.55, outlines.beetle, textures.shell, 1.0, False, 0.02),
)


def unit_grid(side: int = outlines.SIDE) -> tuple[np.ndarray, np.ndarray]:
    """Unit coordinates (x, y), each [S, S], of the pixels of a sprite."""
    axis = ((np.arange(side, dtype=np.float32) + 0.5) / side * 2 - 1) / outlines.REACH
    x, y = np.meshgrid(axis, axis)
    return x, y


def sprite_from_parts(parts: np.ndarray, colour: np.ndarray, bulge: float) -> Sprite:
    """Finish a sprite from its fine part map and its colours: smooth coverage, edges rounded off."""
    side = colour.shape[0]
    inside = (parts > 0).astype(np.uint8)
    alpha = cv2.resize(inside.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)
    depth = cv2.distanceTransform((alpha >= 0.5).astype(np.uint8), cv2.DIST_L2, 3)
    height = np.sqrt(np.minimum(depth / side, 0.06) / 0.06) * 0.11 * side
    grey = cv2.cvtColor(
        colour.astype(np.float32), cv2.COLOR_RGB2GRAY
    )  # painted patterns are slightly embossed
    height = cv2.GaussianBlur(height + 1.5 * grey, (0, 0), side / 110)
    slope = np.stack([cv2.Sobel(height, cv2.CV_32F, 1, 0), cv2.Sobel(height, cv2.CV_32F, 0, 1)]) / 8
    ends = [np.flatnonzero(alpha.any(axis))[[0, -1]] + np.array([-0.5, 1.5]) for axis in (0, 1)]
    box = (np.stack(ends, 1) / side * 2 - 1) / outlines.REACH
    return Sprite(colour.astype(np.float32), alpha, (bulge * np.clip(slope, -2, 2)).astype(np.float32), box)


def make_sprite(family: Family, rng: np.random.Generator) -> Sprite:
    """One individual of a kind: silhouette, palette and pattern are all drawn from `rng`."""
    sheet = outlines.Sheet()
    family.outline(sheet, rng)
    parts = sheet.parts[:: outlines.FINE, :: outlines.FINE]
    x, y = unit_grid()
    tones = paint.palette(rng, family.hue, family.saturation)
    colour = family.surface(rng, x, y, parts, tones)
    grain = 0.82 + 0.32 * paint.smooth_noise(rng, *x.shape, 30, 2)
    return sprite_from_parts(sheet.parts, np.clip(paint.shaded(colour, grain), 0, 1), family.bulge)

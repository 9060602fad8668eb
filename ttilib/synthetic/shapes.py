"""The twelve object classes as sprites, each with its own silhouette and surface; hues overlap. `scenes` lights them.

A surface takes (rng, x, y, parts, tones): unit coordinates [S, S], part numbers [S, S] and a palette of four colours
(main, second, dark, light). It returns float32 colours [S, S, 3], also outside the silhouette, for clean edges.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float

from ttilib.synthetic import outlines
from ttilib.synthetic.outlines import dots, fittings, mix, smooth_noise, soft


def warts(rng, x, y, parts, tones):
    """Pale warts, denser along the arms, on a mottled skin."""
    skin = mix(tones[0], tones[1], 0.7 * smooth_noise(rng, *x.shape, 8))
    return mix(skin, tones[3], 0.85 * dots(rng, int(rng.integers(60, 110)), 0.02, 0.055))


def panels(rng, x, y, parts, tones):
    """Cloth in four panels with dark seams."""
    cloth = mix(tones[0], tones[1], soft(x, 0.03) if rng.random() < 0.4 else soft(-x * (y + 0.35), 0.01))
    seams = np.maximum(soft(0.025 - np.abs(x), 0.02), soft(0.025 - np.abs(y + 0.35), 0.02))
    return fittings(mix(cloth, tones[2], 0.7 * seams), parts, tones)


def spots(rng, x, y, parts, tones):
    """Pale patches on the cap, fibres along the stem."""
    cap = mix(tones[0], tones[3], dots(rng, int(rng.integers(10, 24)), 0.04, 0.13))
    cap = mix(cap, tones[2], 0.5 * soft(y + 0.05, 0.3))
    fibres = 0.5 + 0.5 * np.sin(x * rng.uniform(50, 80) + 4 * smooth_noise(rng, *x.shape, 6))
    return fittings(cap, parts, tones, mix(tones[3], tones[2], 0.35 * fibres))


def brushed(rng, x, y, parts, tones):
    """Turned metal: fine rings, a bow-tie glint and patches of rust."""
    r, t = np.hypot(x, y), np.arctan2(y, x)
    rings = 0.5 + 0.5 * np.sin(r * rng.uniform(60, 110))
    glint = np.abs(np.cos(t + rng.uniform(0, np.pi))) ** 6
    metal = mix(mix(tones[0], tones[2], 0.45 * rings), tones[3], 0.6 * glint)
    rust = soft(smooth_noise(rng, *x.shape, 5) - rng.uniform(0.5, 0.8), 0.2)
    return fittings(mix(metal, tones[1], 0.7 * rust), parts, tones, mix(tones[2], tones[3], glint))


def scales(rng, x, y, parts, tones):
    """Rows of overlapping scales, a pale belly and often bands across the back."""
    rows = rng.uniform(7, 11)
    u, v = x * rows, y * rows
    shift = np.floor(v) % 2 * 0.5
    rim = np.hypot((u + shift) % 1 - 0.5, (v % 1) * 0.8)
    body = mix(tones[0], tones[2], 0.75 * soft(np.abs(rim - 0.5) * -1 + 0.12, 0.12))
    if rng.random() < 0.6:
        body = mix(body, tones[1], 0.8 * soft(np.sin(x * rng.uniform(8, 14)) - 0.2, 0.4))
    body = mix(body, tones[3], 0.6 * soft(y - 0.15, 0.3))
    rays = 0.5 + 0.5 * np.sin(np.arctan2(y, x + 0.5) * 40)
    return fittings(body, parts, tones, mix(tones[1], tones[2], 0.5 * rays))


def veins(rng, x, y, parts, tones):
    """A midrib with slanting side veins on a blotched blade."""
    blade = mix(tones[0], tones[1], soft(smooth_noise(rng, *x.shape, 5) - rng.uniform(0.35, 0.8), 0.4))
    side = np.abs((np.abs(y) * rng.uniform(0.6, 1.2) - x) * rng.uniform(5, 8) % 1 - 0.5)
    lines = np.maximum(soft(0.03 - np.abs(y), 0.02), 0.8 * soft(0.07 - side, 0.06))
    return fittings(mix(blade, tones[3], 0.75 * lines), parts, tones)


def wings(rng, x, y, parts, tones):
    """Dark-rimmed wings with cells and eye spots, the same on both sides."""
    ax = np.abs(x)
    inside = cv2.distanceTransform((parts > 0).astype(np.uint8), cv2.DIST_L2, 3) / x.shape[0]
    cells = np.abs(np.sin(np.arctan2(y + 0.05, ax) * rng.uniform(6, 9)))
    wing = mix(tones[0], tones[1], soft(np.hypot(ax, y) - rng.uniform(0.4, 0.8), 0.3))
    wing = mix(wing, tones[2], np.maximum(soft(0.14 - cells, 0.1), soft(0.035 - inside, 0.02)))
    for _ in range(int(rng.integers(1, 4))):
        cx, cy, r = rng.uniform(0.35, 0.7), rng.uniform(-0.5, 0.5), rng.uniform(0.07, 0.13)
        away = np.hypot(ax - cx, y - cy)
        wing = mix(mix(wing, tones[3], soft(r - away, 0.03)), tones[2], soft(r * 0.5 - away, 0.03))
    return fittings(wing, parts, tones, wing)


def spiral(rng, x, y, parts, tones):
    """A shell wound as a spiral with growth lines; a slimy speckled foot."""
    r, t = np.hypot(x + 0.1, y + 0.05), np.arctan2(y + 0.05, x + 0.1)
    turns = rng.uniform(1.6, 2.4) * np.log(r + 0.05) + (t * rng.choice([-1, 1])) / (2 * np.pi)
    groove = np.abs(turns % 1 - 0.5) * 2
    shell = mix(mix(tones[0], tones[1], groove), tones[2], soft(0.16 - groove, 0.14))
    shell = mix(shell, tones[2], 0.25 * (np.sin(t * rng.integers(24, 40)) > 0.3))
    speckle = 0.5 * smooth_noise(rng, *x.shape, 40, 2)
    foot = mix(mix(tones[3], tones[1], np.full_like(x, 0.45)), tones[2], speckle)
    return fittings(shell, parts, tones, foot)


def ribs(rng, x, y, parts, tones):
    """Glowing paper over hoops: bright heart, dark hoops, painted stripes in some."""
    hoops = np.abs(np.sin(y * rng.uniform(14, 24)))
    paper = mix(tones[0], tones[3], 0.75 * np.exp(-((x / 0.4) ** 2) - ((y / 0.5) ** 2)))
    if rng.random() < 0.5:
        paper = mix(paper, tones[1], 0.8 * soft(np.abs(np.sin(x * rng.uniform(4, 7))) - 0.75, 0.2))
    return fittings(mix(paper, tones[2], 0.65 * soft(0.25 - hoops, 0.25)), parts, tones)


def prickles(rng, x, y, parts, tones):
    """Ribs that follow the limbs, with rows of pale prickles."""
    depth = cv2.distanceTransform((parts > 0).astype(np.uint8), cv2.DIST_L2, 3) / x.shape[0] * 2
    folds = 0.5 + 0.5 * np.cos(depth * rng.uniform(55, 85))
    flesh = mix(mix(tones[0], tones[1], 0.3 * smooth_noise(rng, *x.shape, 5)), tones[2], 0.55 * folds)
    thorns = (folds < 0.2) & (np.sin(y * 60) > 0.55)
    thorns = cv2.GaussianBlur(thorns.astype(np.float32), (0, 0), 1)
    flower = mix(tones[1], tones[3], np.full_like(x, 0.4))
    return fittings(mix(flesh, tones[3], 0.9 * thorns), parts, tones, flower)


def gores(rng, x, y, parts, tones):
    """Cloth panels that meet at the tip, in two colours or one with dark seams."""
    fan = np.arctan2(x, y + 1.0 + 0.15) * rng.uniform(2.6, 4.2)
    seam = soft(0.09 - np.abs(fan % 1 - 0.5), 0.05)
    two = mix(tones[0], tones[1], soft(np.sin(np.pi * (fan - 0.5)), 0.2))
    cloth = two if rng.random() < 0.65 else mix(tones[0], tones[1], soft(0.12 - np.abs(y + 0.28), 0.05))
    return fittings(mix(cloth, tones[2], 0.6 * seam), parts, tones)


def shell(rng, x, y, parts, tones):
    """Hard glossy wing cases, split down the middle, spotted or grooved."""
    case = tones[0] * np.ones((*x.shape, 3), np.float32)
    if rng.random() < 0.5:
        case = mix(case, tones[2], dots(rng, int(rng.integers(5, 12)), 0.05, 0.11, True))
    else:
        case = mix(case, tones[2], 0.6 * soft(np.sin(np.abs(x) * rng.uniform(45, 70)), 0.8))
    case = mix(case, tones[2], soft(0.022 - np.abs(x), 0.02))
    gloss = np.exp(-(((np.abs(x) - 0.17) / 0.07) ** 2) - (((y - 0.0) / 0.22) ** 2))
    return mix(fittings(case, parts, tones), np.ones(3, np.float32), 0.65 * gloss * (parts != 3))


@dataclass(frozen=True)
class Sprite:
    """A flat painted object in unit coordinates.

    colour: RGB in [0, 1]; alpha: coverage in [0, 1]; relief: surface slope (along x, along y), for lighting.
    """

    colour: Float[np.ndarray, "S S 3"]
    alpha: Float[np.ndarray, "S S"]
    relief: Float[np.ndarray, "2 S S"]
    box: Float[np.ndarray, "2 2"]  # bounding box in unit coordinates: (x, y) low, (x, y) high


@dataclass(frozen=True)
class Family:
    """An object class: name, colour range, silhouette, surface and motion.

    hue (in turns) and saturation: centres of wide ranges; bulge: surface curvature; flex: amplitude of bending in unit
    coordinates; upright: stands or hangs instead of lying at any angle.
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
    Family("starfish", 0.05, 0.65, outlines.starfish, warts, 0.8, False, 0.09),
    Family("kite", 0.90, 0.70, outlines.kite, panels, 0.15, False, 0.07),
    Family("mushroom", 0.02, 0.60, outlines.mushroom, spots, 1.0, True, 0.04),
    Family("gear", 0.12, 0.20, outlines.gear, brushed, 0.35, False, 0.0),
    Family("fish", 0.50, 0.55, outlines.fish, scales, 0.8, False, 0.11),
    Family("leaf", 0.25, 0.60, outlines.leaf, veins, 0.25, False, 0.09),
    Family("butterfly", 0.70, 0.65, outlines.butterfly, wings, 0.2, False, 0.03),
    Family("snail", 0.10, 0.40, outlines.snail, spiral, 1.0, True, 0.05),
    Family("lantern", 0.97, 0.70, outlines.lantern, ribs, 0.6, True, 0.02),
    Family("cactus", 0.33, 0.50, outlines.cactus, prickles, 0.8, True, 0.03),
    Family("umbrella", 0.60, 0.65, outlines.umbrella, gores, 0.7, True, 0.02),
    Family("beetle", 0.40, 0.55, outlines.beetle, shell, 1.0, False, 0.02),
)


def unit_grid() -> tuple[np.ndarray, np.ndarray]:
    """Unit coordinates (x, y), each [S, S], of the pixels of a sprite."""
    axis = ((np.arange(outlines.SIDE, dtype=np.float32) + 0.5) / outlines.SIDE * 2 - 1) / outlines.REACH
    x, y = np.meshgrid(axis, axis)
    return x, y


def sprite_from_parts(parts: np.ndarray, colour: np.ndarray, bulge: float) -> Sprite:
    """Build a sprite from its fine part map and its colours: smooth coverage, rounded edges."""
    side = colour.shape[0]
    inside = (parts > 0).astype(np.uint8)
    alpha = cv2.resize(inside.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)
    depth = cv2.distanceTransform((alpha >= 0.5).astype(np.uint8), cv2.DIST_L2, 3)
    height = np.sqrt(np.minimum(depth / side, 0.06) / 0.06) * 0.11 * side
    grey = cv2.cvtColor(colour.astype(np.float32), cv2.COLOR_RGB2GRAY)  # slightly embosses painted patterns
    height = cv2.GaussianBlur(height + 1.5 * grey, (0, 0), side / 110)
    slope = np.stack([cv2.Sobel(height, cv2.CV_32F, 1, 0), cv2.Sobel(height, cv2.CV_32F, 0, 1)]) / 8
    ends = [np.flatnonzero(alpha.any(axis))[[0, -1]] + np.array([-0.5, 1.5]) for axis in (0, 1)]
    box = (np.stack(ends, 1) / side * 2 - 1) / outlines.REACH
    return Sprite(colour.astype(np.float32), alpha, (bulge * np.clip(slope, -2, 2)).astype(np.float32), box)


def make_sprite(family: Family, rng: np.random.Generator) -> Sprite:
    """Sample an instance of a class: silhouette, palette and pattern."""
    sheet = outlines.Sheet()
    family.outline(sheet, rng)
    parts = sheet.parts[:: outlines.FINE, :: outlines.FINE]
    x, y = unit_grid()
    tones = outlines.palette(rng, family.hue, family.saturation)
    colour = family.surface(rng, x, y, parts, tones)
    grain = 0.82 + 0.32 * outlines.smooth_noise(rng, *x.shape, 30, 2)
    return sprite_from_parts(sheet.parts, np.clip(outlines.shaded(colour, grain), 0, 1), family.bulge)

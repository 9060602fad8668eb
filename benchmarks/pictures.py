"""Pictures to measure on: photographs with detail at every scale, and the outlines of something in them.

    python benchmarks/pictures.py [--frames 36] [--size 241 425] [--radius 8]

prints what the guided filter costs a frame of such pictures, beside the upsampling that it follows.
"""

from __future__ import annotations

import argparse
import time

import cv2
import numpy as np
import torch
from pycocotools import mask as coco

from ttilib.inference import guided
from ttilib.inference.solution import upsampled_probabilities

HEIGHT, WIDTH = 720, 1280


def photograph(rng: np.random.Generator) -> np.ndarray:
    """Detail at every scale, weaker the finer it is: a quarter of a byte a pixel as JPEG, like photographs."""
    picture = np.full((HEIGHT, WIDTH, 3), 128.0)
    for octave in range(9):
        coarse = rng.normal(0, 60 * 0.7**octave, (2 + 3 * 2**octave, 2 + 5 * 2**octave, 3))
        picture += cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    return np.clip(picture, 0, 255).astype(np.uint8)


def silhouette(rng: np.random.Generator, reach: float = 0.3) -> np.ndarray:
    """A wavy blob, uint8 0 and 1, whose radius is about `reach` of the height."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    rows, columns = rows - HEIGHT * rng.uniform(0.4, 0.6), columns - WIDTH * rng.uniform(0.4, 0.6)
    waves = 1 + 0.2 * np.sin(rng.integers(5, 15) * np.arctan2(rows, columns))
    return (np.hypot(rows, columns) < reach * HEIGHT * waves).astype(np.uint8)


def outline(mask: np.ndarray) -> dict:
    """Compressed COCO run lengths."""
    lengths = coco.encode(np.asfortranarray(mask))
    return {"size": list(lengths["size"]), "counts": lengths["counts"].decode()}


def fastest(work, repeats: int = 5) -> float:
    """CPU milliseconds of this process for one call, the least of several."""
    found = []
    for _ in range(repeats):
        begin = time.process_time()
        work()
        found.append(1000 * (time.process_time() - begin))
    return min(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=36, help="T")
    parser.add_argument("--grid", type=int, nargs=2, default=(31, 54), help="h w")
    parser.add_argument("--size", type=int, nargs=2, default=(241, 425), help="H W")
    parser.add_argument("--radius", type=int, default=8, help="pixels a window reaches to each side")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    rng, (height, width) = np.random.default_rng(0), options.size
    small = [cv2.resize(photograph(rng), (width, height), interpolation=cv2.INTER_AREA) for _ in range(options.frames)]
    guide = torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).float() / 255
    scores = 8 * torch.randn(options.frames, *options.grid, generator=torch.Generator().manual_seed(0))
    bias = torch.zeros(options.frames)
    probabilities = upsampled_probabilities(scores, bias, (height, width))
    contributed = guided._contributed()
    ways = {"guided by box filters": None} | ({"guided by OpenCV's modules": contributed} if contributed else {})
    print(f"T={options.frames} grid={tuple(options.grid)} size={height} x {width} radius={options.radius}, one thread")
    plain = fastest(lambda: upsampled_probabilities(scores, bias, (height, width))) / options.frames
    print(f"  {'upsampling':<30}{plain:6.2f} CPU ms a frame")
    for name, way in ways.items():
        guided._contributed = lambda way=way: way
        spent = fastest(lambda: guided.guided_filter(probabilities, guide, options.radius)) / options.frames
        print(f"  {name:<30}{spent:6.2f} CPU ms a frame, {spent / plain:.0f} times as much")


if __name__ == "__main__":
    main()

"""What it costs a frame to fit masks to the image: guided filter and colour models, beside the upsampling before them.

    python perf/edges.py [--frames 12] [--size 241 425] [--radius 16]
"""

from __future__ import annotations

import argparse
import time

import cv2
import numpy as np
import torch
from photographs import photograph

from ttilib.solver.edges import colour_refine, guided_filter
from ttilib.solver.solver import upsampled_probabilities

GRID = (31, 54)


def fastest(work, repeats: int = 3) -> float:
    """CPU milliseconds of this process for one call, the least of several."""
    found = []
    for _ in range(repeats):
        begin = time.process_time()
        work()
        found.append(1000 * (time.process_time() - begin))
    return min(found)


def blob_scores(frames: int) -> torch.Tensor:
    """Scores on the grid, positive on an ellipse that covers a tenth of the frame."""
    y, x = np.mgrid[: GRID[0], : GRID[1]]
    inside = 1 - ((y - GRID[0] / 2) / (0.2 * GRID[0])) ** 2 - ((x - GRID[1] / 2) / (0.16 * GRID[1])) ** 2
    return torch.from_numpy(4 * inside).float().expand(frames, -1, -1).contiguous()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=12, help="T")
    parser.add_argument("--size", type=int, nargs=2, default=(241, 425), help="H W")
    parser.add_argument("--radius", type=int, default=16, help="pixels, of the filter and of the band")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    rng, (height, width) = np.random.default_rng(0), options.size
    small = [cv2.resize(photograph(rng), (width, height), interpolation=cv2.INTER_AREA) for _ in range(options.frames)]
    guide = torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).float() / 255
    scores, bias = blob_scores(options.frames), torch.zeros(options.frames)
    probabilities = upsampled_probabilities(scores, bias, (height, width))
    ways = {
        "upsampling": lambda: upsampled_probabilities(scores, bias, (height, width)),
        "guided filter": lambda: guided_filter(probabilities, guide, options.radius),
        "colours": lambda: colour_refine(probabilities, guide, options.radius),
    }
    print(f"T={options.frames} grid={GRID} size={height} x {width} radius={options.radius}, one thread")
    plain = None
    for name, work in ways.items():
        spent = fastest(work) / options.frames
        plain = plain or spent
        print(f"  {name:<16}{spent:7.2f} CPU ms a frame, {spent / plain:.0f} times the upsampling")


if __name__ == "__main__":
    main()

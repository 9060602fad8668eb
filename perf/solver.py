"""What adapting to one episode costs: CPU seconds and extra memory, against the released optimization.

    python perf/solver.py [--frames 36] [--shots 5] [--pairs 5] [--steps 2]

Runs on one thread. The released optimization is `released.py`, written again from the protocol; `--steps` of each of
its two kinds of steps are timed and counted to the 49, and on a small task all 49 are compared with ours. Both run
alternately in this process; shown are the median and the range of the pairs. CPU seconds are the process's own; memory
is shared, so other programs do change them. Extra memory is the growth of the process's peak during one solve, as a
multiple of the size of the features themselves.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys

import torch
from released import cpu_seconds, seconds_as_released, solve_as_released

from ttilib.solver.settings import CONFIGS, SolverConfig
from ttilib.solver.solver import solve
from ttilib.solver.task import Task


def random_task(frames: int, shots: int, channels: int, height: int, width: int) -> Task:
    """Unit features of noise around two class means, with a square object in every image."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(shots + frames, height, width, dtype=torch.bool)
    masks[:, height // 3 : 2 * height // 3, width // 3 : 2 * width // 3] = True
    features = torch.randn(shots + frames, channels, height, width, generator=generator).abs_()
    features[:, : channels // 8] += masks[:, None].float()
    features /= features.norm(dim=1, keepdim=True)
    valid = torch.ones_like(masks)
    size = (8 * (height - 1) + 1, 8 * (width - 1) + 1)
    return Task("benchmark", features[:shots], masks[:shots], valid[:shots], features[shots:], valid[shots:], size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=36, help="T")
    parser.add_argument("--shots", type=int, default=5, help="K")
    parser.add_argument("--channels", type=int, default=512, help="C")
    parser.add_argument("--grid", type=int, nargs=2, default=(31, 54), help="h w")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="timed steps of each kind of the released optimization")
    options = parser.parse_args()
    torch.set_num_threads(1)
    task = random_task(options.frames, options.shots, options.channels, *options.grid)
    size = (task.query.numel() + task.support.numel()) * 4
    unit = 1 if sys.platform == "darwin" else 1024
    solve(task, SolverConfig(steps=1))  # loads the libraries, so that they are not counted as the solver's
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    solve(task)
    extra = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - before
    print(f"T={options.frames} K={options.shots} C={options.channels} grid={tuple(options.grid)}, one thread")
    print(f"features {size / 2**20:.0f} MiB; extra memory of a solve {extra / 2**20:.0f} MiB = {extra / size:.2f}x")
    small = random_task(6, 2, 64, 9, 11)
    difference = (solve_as_released(small).weight - solve(small).classifier.weight).abs().max()
    print(f"largest difference of a weight after 49 steps, T=6: {difference:.0e}")
    for name, config in CONFIGS.items():
        fastest = min(cpu_seconds(lambda c=config: solve(task, c)) for _ in range(2))
        print(f"  {name:<13}{fastest:6.2f} CPU s")
    pairs = [(seconds_as_released(task, options.steps), cpu_seconds(lambda: solve(task))) for _ in range(options.pairs)]
    ratios = [slow / fast for slow, fast in pairs]
    released, ours = (statistics.median(side) for side in zip(*pairs, strict=True))
    print(f"TTI as released {released:.1f} CPU s, ours {ours:.2f}; {len(pairs)} pairs: ", end="")
    print(f"{statistics.median(ratios):.0f} times ({min(ratios):.0f} to {max(ratios):.0f})")


if __name__ == "__main__":
    main()

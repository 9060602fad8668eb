"""What adapting to one episode costs: CPU seconds and extra memory, against plain autograd on the same formulas.

    python perf/solver.py [--frames 36] [--shots 5] [--repeats 3]

Runs on one thread. Both solvers run alternately in this process; CPU seconds are the process's own, so that a
busy machine does not change the ratio. Extra memory is the growth of the process's peak during one solve, as a
multiple of the size of the features themselves.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time

import torch

from ttilib.solver.classifier import Classifier, start
from ttilib.solver.settings import CONFIGS, SolverConfig
from ttilib.solver.solver import iterate, solve
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
    return Task(
        "benchmark", features[:shots], masks[:shots], valid[:shots], features[shots:], valid[shots:], size
    )


def solve_by_autograd(task: Task, config: SolverConfig) -> Classifier:
    """The same descent with torch's own gradients of the formulas in `losses`: the baseline."""
    classifier = start(task, config.temperature)
    for state in iterate(task, config):
        if state.step == config.steps:
            return classifier
        weight = classifier.weight.detach().requires_grad_()
        bias = classifier.bias.detach().requires_grad_()
        total = state.objective.terms(Classifier(weight, bias, config.temperature)).total.sum()
        weight_gradient, bias_gradient = torch.autograd.grad(total, [weight, bias])
        classifier = Classifier(
            (weight - config.learning_rate * weight_gradient).detach(),
            (bias - config.learning_rate * bias_gradient).detach(),
            config.temperature,
        )
    return classifier


def cpu_seconds(work) -> float:
    """CPU seconds of this process for one call."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=36, help="T")
    parser.add_argument("--shots", type=int, default=5, help="K")
    parser.add_argument("--channels", type=int, default=512, help="C")
    parser.add_argument("--grid", type=int, nargs=2, default=(31, 54), help="h w")
    parser.add_argument("--repeats", type=int, default=3)
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
    for name, config in CONFIGS.items():
        fastest = min(cpu_seconds(lambda c=config: solve(task, c)) for _ in range(options.repeats))
        print(f"  {name:<13}{fastest:6.2f} CPU s")
    ours, baseline = [], []
    for _ in range(options.repeats):
        ours.append(cpu_seconds(lambda: solve(task)))
        baseline.append(cpu_seconds(lambda: solve_by_autograd(task, SolverConfig())) - ours[-1])
    ratio = statistics.median(b / o for b, o in zip(baseline, ours, strict=True))
    slow, fast = statistics.median(baseline), statistics.median(ours)
    print(f"TTI by autograd {slow:.2f} CPU s; closed form {fast:.2f}: {ratio:.1f}x")


if __name__ == "__main__":
    main()

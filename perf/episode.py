"""Where the time of an episode goes: its stages, what each must at least do, and the released pipeline beside ours.

    python perf/episode.py [--frames 36] [--shots 5] [--pairs 5] [--encoder resnet50] [--threads 1] [--device cpu]

Photographs of 1280 x 720, network input 241 x 425, an encoder with random weights. Every stage is measured once in each
of `--pairs` rounds; CPU seconds of this process, median and range. One image is read and one encoded per round, and
counted for all. `bound` is the larger of FLOP and bytes over what this machine reaches in the same run: a product of
2048 x 2048 matrices and reading 512 MiB. Bytes are what a stage must at least move: files, weights, features. Where
operations are not counted (decoding, filters, metrics), there is no bound.
The released pipeline has the same stages with the network as it is, the optimization of `released.py`, and no edges.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from photographs import photograph
from released import STEPS, UPDATE, cpu_seconds, seconds_as_released
from solver import random_task
from torch.utils.flop_counter import FlopCounterMode

from ttilib.datasets.transforms import letterbox
from ttilib.encoders.layers import OPENVINO, for_inference
from ttilib.encoders.pspnet import build_encoder
from ttilib.episodes.clips import Clip, synthetic_clip
from ttilib.images import read_image, write_image
from ttilib.results.metrics import METRICS
from ttilib.solver.classifier import prototype
from ttilib.solver.methods import FROZEN, refine_masks
from ttilib.solver.solver import Solution, choose_keyframe, pseudo_mask, refine, solve
from ttilib.solver.task import Task, unit

SIZE, GRID = (241, 425), (31, 54)
Work = Callable[[], object]
Stage = tuple[Work, float, float, float]  # work, how many times an episode has it, bytes, FLOP of one


def read_one(path: Path) -> np.ndarray:
    """One frame at the network input size."""
    image = read_image(path)
    lies = letterbox(image.shape[0], image.shape[1], SIZE)
    return cv2.resize(image.astype(np.float32), (lies.width, lies.height))


def keyframe(task: Task, solution: Solution) -> None:
    """Choose the keyframe and refine on it, with the settings of TTI+keyframe."""
    masks = solution.masks()
    weight = torch.nn.functional.interpolate(masks[:, None].float(), size=GRID)[:, 0]
    chosen, _ = choose_keyframe(task.query, weight, prototype(task))
    if chosen is not None:
        refine(solution.classifier, task.query[chosen], pseudo_mask(masks[chosen]), task.query_valid)


def score(masks: np.ndarray, truth: np.ndarray, valid: np.ndarray) -> None:
    """All metrics of one video."""
    for metric in METRICS.values():
        if not metric.grouped:
            metric.fields(masks, truth, valid)


def solver_demand(task: Task) -> tuple[float, float]:
    """Bytes and FLOP of TTI's 49 steps: features are read at least once in a step, twice with temporal terms; products
    have 3 rows per frame and cell without, 7 with them, and 2 per frame and cell of the support.
    """
    query, support, temporal = task.query.numel(), task.support.numel(), STEPS - UPDATE
    moved = 4.0 * ((UPDATE + 2 * temporal) * query + STEPS * support)
    return moved, 2.0 * ((3 * UPDATE + 7 * temporal) * query + 2 * STEPS * support * len(task.query))


def stages_of(path: Path, encoder: torch.nn.Module, device: str, task: Task, clip: Clip) -> dict[str, Stage]:
    """Every stage of an episode in its order; `device`: cpu or one of `OPENVINO`, for the encoder."""
    images, image = task.shots + len(task.query), torch.rand(1, 3, *SIZE)
    form = for_inference(encoder, precision=OPENVINO.get(device, ""))
    form(image)  # compiled at the first image
    with FlopCounterMode(display=False) as counter:
        for_inference(encoder)(image)
    features, solution = 4.0 * task.query.numel(), solve(task)
    weights = 4.0 * sum(parameter.numel() for parameter in encoder.parameters())
    masks, truth, valid = (each.numpy() for each in (solution.masks(), clip.truth, clip.query_valid))
    pixels = float(masks.size)
    return {
        "read": (lambda: read_one(path), images, float(path.stat().st_size), 0.0),
        "encode": (lambda: unit(form(image)), images, weights, float(counter.get_total_flops())),
        "solve": (lambda: solve(task), 1, *solver_demand(task)),
        "keyframe": (lambda: keyframe(task, solution), 1, features, 9 * features),
        "edges": (lambda: refine_masks(solution, clip, FROZEN), 1, 16 * pixels, 0.0),
        "score": (lambda: score(masks, truth, valid), 1, 3 * pixels, 0.0),
    }


def limits() -> tuple[float, float]:
    """FLOP and bytes per second that this machine reaches with these threads, the best of five."""
    matrix, memory = torch.rand(2048, 2048), torch.rand(2**27)
    product, reading = (min(cpu_seconds(work) for _ in range(5)) for work in (lambda: matrix @ matrix, memory.sum))
    threads = torch.get_num_threads()  # CPU seconds add up over threads
    return threads * 2 * 2048**3 / product, threads * 4 * 2**27 / reading


def main() -> None:
    """Measure all stages alternately, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=36, help="T")
    parser.add_argument("--shots", type=int, default=5, help="K")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--encoder", default="resnet50")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", *OPENVINO), default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(options.threads)
    flops, bandwidth = limits()
    print(f"{options.threads} threads; reached: {flops / 1e9:.0f} GFLOP/s, {bandwidth / 1e9:.0f} GB/s")
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = Path(folder) / "photograph.jpg"
        write_image(path, photograph(np.random.default_rng(0)), quality=90)
        task, clip = random_task(options.frames, options.shots, 512, *GRID), synthetic_clip(0, options.frames, 1, SIZE)
        network = build_encoder(options.encoder).eval()
        stages, image = stages_of(path, network, options.device, task, clip), torch.rand(1, 3, *SIZE)
        rounds: dict[str, list[float]] = {name: [] for name in (*stages, "released encode", "released solve")}
        for _ in range(options.pairs):
            for name, (work, times, _, _) in stages.items():
                rounds[name].append(times * cpu_seconds(work))
            images = options.frames + options.shots
            rounds["released encode"].append(images * cpu_seconds(lambda: unit(network(image))))
            with torch.enable_grad():
                rounds["released solve"].append(seconds_as_released(task, 1))
    ours = [sum(each) for each in zip(*(rounds[name] for name in stages), strict=True)]
    parts = ("read", "released encode", "released solve", "keyframe", "score")
    released = [sum(each) for each in zip(*(rounds[name] for name in parts), strict=True)]
    print(f"T={options.frames} K={options.shots} {options.encoder}, {options.device}, {options.pairs} rounds")
    print(f"{'':16}{'CPU s':>8}{'range':>16}{'share':>7}{'GB':>8}{'GFLOP':>8}{'bound s':>9}{'above':>7}")
    for name, (_, times, moved, needed) in stages.items():
        median, bound = statistics.median(rounds[name]), times * max(moved / bandwidth, needed / flops)
        spread = f"{min(rounds[name]):.2f} to {max(rounds[name]):.2f}"
        row = f"{name:16}{median:8.2f}{spread:>16}{median / statistics.median(ours):7.1%}{times * moved / 1e9:8.2f}"
        print(
            row + (f"{times * needed / 1e9:8.0f}{bound:9.2f}{median / bound:6.1f}x" if needed else f"{'-':>8}{'-':>9}")
        )
    totals = {"ours": ours, "released": released} | {name: rounds[name] for name in parts[1:3]}
    for name, values in totals.items():
        print(f"{name:16}{statistics.median(values):8.2f}   ({min(values):.2f} to {max(values):.2f})")
    without = [value - edges for value, edges in zip(ours, rounds["edges"], strict=True)]
    for name, values in {"with edges": ours, "without edges": without}.items():
        ratios = [slow / fast for slow, fast in zip(released, values, strict=True)]
        print(f"released / ours {name}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()

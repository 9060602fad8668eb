"""What a GPU gives: equality with the CPU, then solver, encoder, training step and two processes, as lines of a table.

    python perf/gpu.py [--repeats 5]        # a CUDA device is needed
    python perf/gpu.py --device cpu         # a tiny version of everything, to see that it works

Times are seconds on the clock, median and range, after one call that is not counted; the device is idle before and
after each. The tiny version shows that the script runs; its times mean nothing.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from solver import random_task

from ttilib.encoders.pspnet import build_encoder
from ttilib.solver.classifier import start
from ttilib.solver.losses import marginal
from ttilib.solver.objective import Objective, Weights
from ttilib.solver.solver import solve
from ttilib.solver.task import Task
from ttilib.training.config import TrainConfig
from ttilib.training.run import Run

TINY, FULL = "resnet18", "resnet50"


def wait(device: torch.device) -> None:
    """Until the device is idle."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def report(name: str, work: Callable[[], object], device: torch.device, repeats: int, images: int = 0) -> None:
    """Print a line: median and range of the seconds, and images per second."""
    work()
    seconds = []
    for _ in range(repeats):
        wait(device)
        begin = time.perf_counter()
        work()
        wait(device)
        seconds.append(time.perf_counter() - begin)
    median = statistics.median(seconds)
    rate = f"{images / median:10.1f} images/s" if images else ""
    print(f"| {name:44} | {1000 * median:9.2f} ms | {1000 * min(seconds):.2f} to {1000 * max(seconds):.2f} {rate} |")


def on(task: Task, device: torch.device) -> Task:
    """The task with its tensors on the device."""
    return replace(task, **{name: v.to(device) for name, v in vars(task).items() if isinstance(v, torch.Tensor)})


def equality(device: torch.device, sizes: tuple[int, ...], name: str, images: torch.Tensor) -> None:
    """Print the largest differences between device and CPU: probabilities, mask pixels, features."""
    task = random_task(*sizes)
    here, there = solve(task), solve(on(task, device))
    p = (here.probabilities() - there.probabilities().cpu()).abs().max()
    pixels = int((here.masks() != there.masks().cpu()).sum())
    print(f"| solver against CPU: largest difference of p  | {p:.1e} | {pixels} of {here.masks().numel()} pixels |")
    network = build_encoder(name).eval()
    expected = network(images[:1])
    difference = (network.to(device)(images[:1].to(device)).cpu() - expected).abs().max() / expected.abs().max()
    print(f"| encoder against CPU: relative difference | {difference:.1e} | fp32, without TF32 |")


def solver_lines(device: torch.device, sizes: tuple[int, ...], repeats: int) -> None:
    """Time the solver, and one step of it as a CUDA graph."""
    task = on(random_task(*sizes), device)
    title = f"T={sizes[0]} K={sizes[1]}"
    report(f"solver, {title}", lambda: solve(task), device, repeats)
    classifier = start(task)
    prior = marginal(classifier.probabilities(task.query), task.query_valid)
    objective = Objective(task, prior, Weights(1.0, 1 + 1 / task.shots, 1 / task.shots, 1 / task.shots))
    report(f"one temporal step, {title}", lambda: objective.gradient(classifier), device, repeats)
    if device.type == "cuda":
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        try:
            with torch.cuda.stream(stream):
                objective.gradient(classifier)
            torch.cuda.synchronize()
            with torch.cuda.graph(graph):
                objective.gradient(classifier)
            report(f"the same as a CUDA graph, {title}", graph.replay, device, repeats)
        except RuntimeError as error:
            print(f"| the same as a CUDA graph | not possible | {str(error).splitlines()[0]} |")


def encoder_lines(device: torch.device, name: str, images: torch.Tensor, repeats: int) -> None:
    """Time the encoder in single precision, in bf16 and compiled."""
    images, network = images.to(device), build_encoder(name).eval().to(device)

    def half() -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            return network(images)

    report(f"{name} fp32, {len(images)} images", lambda: network(images), device, repeats, len(images))
    report(f"{name} bf16", half, device, repeats, len(images))
    if device.type == "cuda":  # on a CPU it needs a C++ compiler
        compiled = torch.compile(network)
        report(f"{name} fp32 compiled", lambda: compiled(images), device, repeats, len(images))


def training_lines(device: torch.device, name: str, images: torch.Tensor, repeats: int) -> None:
    """Time a training step in single precision and in bf16."""
    labels = torch.randint(0, 16, (len(images), *images.shape[2:]), generator=torch.Generator().manual_seed(0))
    for precision in ("fp32", "bf16"):
        config = replace(TrainConfig.released("pascal"), encoder=name, pretrained="", precision=precision)
        config = replace(config, batch=len(images))
        with tempfile.TemporaryDirectory() as folder:
            run = Run(build_encoder(name, 16), Path(folder), config, {}, 10**6, device)
            step = lambda run=run: run.training_step((images[:, None], labels[:, None]))  # noqa: E731
            report(f"training step {name} {precision}, {len(images)} images", step, device, repeats, len(images))


def _process(rank: int, backend: str, port: int, numel: int) -> None:
    """One of two processes: the mean of a tensor over both, and its time."""
    device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(backend, f"tcp://127.0.0.1:{port}", world_size=2, rank=rank)
    value = torch.full((numel,), float(rank + 1), device=device)
    dist.all_reduce(value)
    right = bool((value == 3).all())
    wait(device)
    begin = time.perf_counter()
    for _ in range(5):
        dist.all_reduce(value)
    wait(device)
    if rank == 0:
        shown = f"{200 * (time.perf_counter() - begin):.2f} ms"
        print(f"| sum of {4 * numel / 2**20:.0f} MiB over two processes, {backend} | {shown} | equal: {right} |")
    dist.destroy_process_group()


def main() -> None:
    """Measure everything on the device; ends with one sentence where there is none."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    device, tiny = torch.device(options.device), options.device == "cpu"
    if not tiny and not torch.cuda.is_available():
        sys.exit("no CUDA device is visible to torch: run it where there is one, or see that it works by --device cpu")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    name, repeats = (TINY, 1) if tiny else (FULL, options.repeats)
    sizes = (4, 2, 32, 9, 11) if tiny else (36, 5, 512, 31, 54)
    size = (33, 41) if tiny else (241, 425)
    images = torch.rand(2 if tiny else 16, 3, *size, generator=torch.Generator().manual_seed(0))
    print(f"{'CPU, tiny' if tiny else torch.cuda.get_device_name()}, torch {torch.__version__}, grid {sizes[3:]}")
    with torch.no_grad():
        equality(device, sizes, name, images)
        solver_lines(device, sizes, repeats)
        encoder_lines(device, name, images, repeats)
    training_lines(device, name, images[:2] if tiny else images[:12], repeats)
    if tiny or torch.cuda.device_count() > 1:
        mp.spawn(_process, ("gloo" if tiny else "nccl", 29517, 2**18 if tiny else 2**25), nprocs=2)
    else:
        print("| two processes with NCCL | not measured | there is one device |")


if __name__ == "__main__":
    main()

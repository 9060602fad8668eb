"""What training costs: images per second, the share of time spent waiting for images, and peak memory.

    python perf/training.py [--device cuda] [--batch 2] [--frames 2] [--steps 3] [--workers 1] [--half --compile]

Two kinds of items: images at 417 x 417, and clips of `--frames` frames at 241 x 425, augmented as in training and
read from JPEG files of 500 x 375 and 1280 x 720 pixels in a temporary folder. Single precision is
the baseline; with `--half` bf16, and with `--compile` bf16 compiled, take their steps alternately with it in this
process, after one step each that is not counted (bf16 pays on GPUs; many a CPU is slower with it). Of the steps the
fastest is shown, the one that other programs disturbed least. The share of waiting is the median of further steps
that each setting takes in a row, so that none reads while another computes; memory is the peak during a step, of the
process on a CPU (Linux) and of tensors on a GPU.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

import cv2
import numpy as np
import torch
from photographs import outline, photograph, silhouette

from ttilib.datasets.catalog import Fold
from ttilib.encoders.pspnet import build_encoder
from ttilib.files import write_json, write_text
from ttilib.images import write_image, write_labels
from ttilib.training.config import TrainConfig
from ttilib.training.data import TrainingClips, TrainingFrames
from ttilib.training.run import Run
from ttilib.training.train import Items, batches

IMAGES = 12
CLASS = 7


def draw_stills(root: Path) -> Fold:
    """Photographs of 500 x 375 with the label maps of Pascal."""
    rng = np.random.default_rng(0)
    names = tuple(f"2026_{n:06d}" for n in range(IMAGES))
    for name in names:
        write_image(root / "JPEGImages" / f"{name}.jpg", cv2.resize(photograph(rng), (500, 375)), quality=90)
        mask = cv2.resize(silhouette(rng), (500, 375), interpolation=cv2.INTER_NEAREST)
        write_labels(root / "SegmentationClassAug" / f"{name}.png", CLASS * mask)
    for split in ("train", "val"):
        lines = (f"JPEGImages/{name}.jpg SegmentationClassAug/{name}.png\n" for name in names)
        write_text(root / f"{split}.txt", "".join(lines))
    frames = {name: (name,) for name in names}
    return Fold("pascal", 0, {CLASS: "blob"}, (CLASS,), (), frames, {CLASS: frames}, names, names)


def draw_video(root: Path) -> Fold:
    """One video of 1280 x 720 with the outlines of YouTube-VIS."""
    rng = np.random.default_rng(0)
    names = [f"{5 * t:05d}" for t in range(IMAGES)]
    for name in names:
        write_image(root / "train" / "JPEGImages" / "video" / f"{name}.jpg", photograph(rng), quality=90)
    outlines = [outline(silhouette(rng)) for _ in names]
    video = {"id": 1, "length": IMAGES, "height": 720, "width": 1280, "file_names": [f"video/{n}.jpg" for n in names]}
    annotation = {"id": 1, "video_id": 1, "category_id": CLASS, "segmentations": outlines}
    categories = [{"id": CLASS, "name": "blob"}]
    content = {"videos": [video], "annotations": [annotation], "categories": categories}
    write_json(root / "train" / "train.json", content)
    frames = {"video": tuple(f"video/{name}" for name in names)}
    return Fold("ytvis", 0, {CLASS: "blob"}, (CLASS,), (), frames, {CLASS: frames}, ("video",), ("video",))


class Stream:
    """A run that takes steps for ever, and what each of them cost."""

    def __init__(self, name: str, items: Items, classes: int, config: TrainConfig, device: str) -> None:
        network = build_encoder(config.encoder, classes)
        about = Path(tempfile.gettempdir()), config, {}, 10**6, torch.device(device)
        self.name, self.run, self.device = name, Run(network, *about), device
        self.batches = self._endless(items, config)
        self.costs: list[tuple[float, float, float]] = []  # seconds, of which waiting, peak MiB

    def _endless(self, items: Items, config: TrainConfig) -> Iterator[tuple[Sequence[torch.Tensor], float]]:
        for epoch in count():
            yield from batches(items, config, epoch, device=self.device)

    def step(self) -> None:
        """One step of training, timed and measured."""
        forget_peak(self.device)
        began = time.perf_counter()
        parts, waited = next(self.batches)
        self.run.training_step(parts, waited)
        self.costs.append((time.perf_counter() - began, waited, peak(self.device)))


def forget_peak(device: str) -> None:
    """Begin to measure the peak anew."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    elif Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")


def peak(device: str) -> float:
    """Peak memory since `forget_peak`, MiB; nan where the system does not tell."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), float("nan"))


def compare(title: str, items: Items, classes: int, config: TrainConfig, options: argparse.Namespace) -> None:
    """Print what the settings cost, side by side."""
    variants = {"fp32": config}
    if options.half:
        variants["bf16"] = replace(config, precision="bf16")
    if options.compile:
        variants["bf16, compiled"] = replace(config, precision="bf16", compile=True)
    streams = [Stream(name, items, classes, each, options.device) for name, each in variants.items()]
    for _ in range(options.steps + 1):
        for stream in streams:
            stream.step()
    for stream in streams:
        for _ in range(options.steps + 2):  # the first two were read in advance
            stream.step()
    images = config.batch * max(config.clip_frames, 1)
    print(f"\n{title}: {config.encoder}, {images} images a step, {options.device}, {torch.get_num_threads()} threads")
    print(f"{'':16} {'images/s':>9} {'ratio':>6} {'waiting':>8} {'peak MiB':>9}")
    counted, in_a_row = slice(1, options.steps + 1), slice(-options.steps, None)
    fastest = {stream.name: min(seconds for seconds, _, _ in stream.costs[counted]) for stream in streams}
    for stream in streams:
        waiting = statistics.median(waited / seconds for seconds, waited, _ in stream.costs[in_a_row])
        memory, ratio = max(each[2] for each in stream.costs), fastest["fp32"] / fastest[stream.name]
        print(f"{stream.name:16} {images / fastest[stream.name]:9.2f} {ratio:6.2f} {waiting:8.1%} {memory:9.0f}")


def main() -> None:
    """Parse the options and measure both kinds of items."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--encoder", default="resnet50")
    parser.add_argument("--batch", type=int, default=2, help="items per step; as released 12 stills or 6 clips")
    parser.add_argument("--frames", type=int, default=2, help="of a clip; as released 5")
    parser.add_argument("--steps", type=int, default=3, help="counted steps of each setting")
    parser.add_argument("--workers", type=int, default=1, help="processes that read")
    parser.add_argument("--half", action="store_true", help="measure bf16 as well")
    parser.add_argument("--compile", action="store_true", help="measure torch.compile as well")
    options = parser.parse_args()
    shared = {"encoder": options.encoder, "pretrained": "", "batch": options.batch, "workers": options.workers}
    with tempfile.TemporaryDirectory() as root:
        stills, video = Path(root) / "pascal", Path(root) / "ytvis"
        config = replace(TrainConfig.released("pascal"), **shared)
        frames = TrainingFrames(draw_stills(stills), stills, "train", (417, 417))
        compare("stills of 417 x 417", Items(frames), 16, config, options)
        config = replace(TrainConfig.released("ytvis"), **shared, clip_frames=options.frames)
        clips = TrainingClips(draw_video(video), video, "train", (241, 425), every=1, frames=options.frames, repeats=50)
        compare("clips of 241 x 425", Items(clips), 31, config, options)


if __name__ == "__main__":
    main()

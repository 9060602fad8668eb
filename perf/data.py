"""What reading costs: a clip against bare decoding and resizing, one thread and two, and the list of all episodes.

    python perf/data.py [--frames 36] [--repeats 5] [--skip-episodes]

Everything is drawn into a temporary folder first: photographs of 1280 x 720 with detail at every scale, JPEG
quality 90, with the outlines of YouTube-VIS or the label maps of VSPW. `load_clip` and the baseline, the same
decoders and OpenCV's two resizes without anything around them, run alternately in this process. CPU seconds are
the process's own; of the repeats the least is shown, the one that other programs disturbed least. The annotation
file is made like the real one: 2238 videos, 40 classes, about 3,800 objects, run lengths for each of their frames.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from photographs import HEIGHT, WIDTH, outline, photograph, silhouette
from PIL import Image
from pycocotools import mask as coco

from ttilib.datasets.catalog import read_fold
from ttilib.datasets.transforms import letterbox
from ttilib.datasets.youtube_vis import ytvis_index
from ttilib.episodes.clips import load_clip
from ttilib.episodes.episode import Episode, sample_episodes
from ttilib.files import write_json, write_text
from ttilib.images import write_image, write_labels

SIZES = {"ytvis": (241, 425), "vspw": (417, 417)}
VIDEOS, CLASSES, OBJECTS = 2238, 40, 3800


def write_datasets(root: Path, frames: int) -> dict[str, Episode]:
    """One video in both layouts; its first frame is the support of the episode."""
    rng = np.random.default_rng(0)
    names, masks = [f"{5 * t:05d}" for t in range(frames)], [silhouette(rng) for _ in range(frames)]
    for name, mask in zip(names, masks, strict=True):
        image = photograph(rng)
        write_image(root / "ytvis" / "train" / "JPEGImages" / "video" / f"{name}.jpg", image, quality=90)
        write_image(root / "vspw" / "data" / "video" / "origin" / f"{name}.jpg", image, quality=90)
        write_labels(root / "vspw" / "data" / "video" / "mask" / f"{name}.png", 1 + 40 * mask)
    files = [f"video/{name}.jpg" for name in names]
    video = {"id": 1, "length": frames, "height": HEIGHT, "width": WIDTH, "file_names": files}
    annotation = {"id": 1, "video_id": 1, "category_id": 41, "segmentations": [outline(mask) for mask in masks]}
    content = {"videos": [video], "annotations": [annotation], "categories": [{"id": 41, "name": "blob"}]}
    write_json(root / "ytvis" / "train" / "train.json", content)
    query = tuple(f"video/{name}" for name in names)
    return {corpus: Episode(corpus, 0, 41, "blob", query[:1], query, 0) for corpus in SIZES}


def bare(corpus: str, root: Path, episode: Episode) -> None:
    """The same files and outlines decoded and resized, and nothing else."""
    size = SIZES[corpus]
    lies = letterbox(HEIGHT, WIDTH, size)
    scaled = (lies.width, lies.height)
    if corpus == "ytvis":
        outlines = dict(zip(episode.query, ytvis_index(root)["annotations"]["video"][0]["segmentations"], strict=True))
    for frame in episode.support + episode.query:
        sequence, name = frame.split("/")
        folder = root / "train/JPEGImages/video" if corpus == "ytvis" else root / "data" / sequence / "origin"
        data = np.frombuffer((folder / f"{name}.jpg").read_bytes(), np.uint8)
        image = cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        cv2.resize(image.astype(np.float32), scaled, interpolation=cv2.INTER_LINEAR)
        if corpus == "ytvis":
            mask = coco.decode(outlines[frame])
        else:
            mask = np.array(Image.open(root / "data" / sequence / "mask" / f"{name}.png"))
        cv2.resize(mask, scaled, interpolation=cv2.INTER_NEAREST)


def seconds(work) -> tuple[float, float]:
    """CPU seconds of this process, and seconds on the clock, for one call."""
    cpu, clock = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - clock


def compare_loading(root: Path, episodes: dict[str, Episode], repeats: int) -> None:
    print(f"{'ms a frame, CPU (clock)':<26}{'bare':>14}{'load_clip':>16}{'ratio':>8}")
    for corpus, episode in episodes.items():
        folder, size = root / corpus, SIZES[corpus]
        ways = {
            "bare": lambda f=folder, e=episode, c=corpus: bare(c, f, e),
            "one": lambda f=folder, e=episode, s=size: load_clip(e, f, s),
        }
        for work in ways.values():
            work()  # loads libraries and files, so that neither is counted
        taken = {name: [] for name in ways}
        for _ in range(repeats):
            for name, work in ways.items():
                taken[name].append(seconds(work))
        unit = 1000 / (len(episode.support) + len(episode.query))
        least = {name: [unit * min(part) for part in zip(*pairs, strict=True)] for name, pairs in taken.items()}
        ratio = least["one"][0] / least["bare"][0]
        columns = [f"{cpu:.1f} ({clock:.1f})" for cpu, clock in least.values()]
        label = f"{corpus} onto {size[0]} x {size[1]}"
        print(f"{label:<26}{columns[0]:>14}{columns[1]:>16}{ratio:7.2f}x")


def write_annotations(root: Path) -> Path:
    """A train.json of the size of the real one: plain run lengths, which are the slower kind to parse."""
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(40):
        flat = silhouette(rng, rng.uniform(0.03, 0.2)).ravel(order="F")
        borders = np.concatenate([[0], np.flatnonzero(np.diff(flat)) + 1, [flat.size]])
        drawn.append(json.dumps({"size": [HEIGHT, WIDTH], "counts": np.diff(borders).tolist()}))
    lengths = rng.integers(18, 37, VIDEOS)  # frames: 27 in the mean
    videos = [
        {"id": n + 1, "length": int(length), "height": HEIGHT, "width": WIDTH,
         "file_names": [f"{n:010x}/{5 * t:05d}.jpg" for t in range(length)]}
        for n, length in enumerate(lengths)
    ]  # fmt: skip
    annotations = []
    for number in range(OBJECTS):
        video = number % VIDEOS
        outlines = [drawn[rng.integers(40)] if rng.random() < 0.9 else "null" for _ in range(lengths[video])]
        head = f'"id": {number + 1}, "video_id": {video + 1}, "category_id": {rng.integers(CLASSES) + 1}'
        annotations.append(f'{{{head}, "segmentations": [{", ".join(outlines)}]}}')
    names = {str(number): f"kind_{number}" for number in range(1, CLASSES + 1)}
    categories = [{"id": int(number), "name": name} for number, name in names.items()]
    novel = [[number for number in range(1, CLASSES + 1) if (number - 1) % 4 == fold] for fold in range(4)]
    write_json(root / "lists.json", {"classes": names, "novel": novel})
    joined = ",\n".join(annotations)
    text = f'{{"videos": {json.dumps(videos)}, "categories": {json.dumps(categories)}, "annotations": [{joined}]}}'
    write_text(root / "train" / "train.json", text)
    return root


def list_episodes(root: Path) -> None:
    megabytes = (root / "train" / "train.json").stat().st_size / 1e6
    parse = seconds(lambda: ytvis_index(root))
    print(f"train.json of {megabytes:.0f} MB: parsed once in {parse[0]:.1f} CPU s")
    for fold in range(4):
        episodes = []
        listed = seconds(lambda f=fold, e=episodes: e.append(sample_episodes(read_fold("ytvis", f, root), shots=5)))
        print(f"  fold {fold}: {len(episodes[0])} episodes listed in {listed[0]:.2f} CPU s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=36, help="T")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--skip-episodes", action="store_true", help="leave out the annotation file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        episodes = write_datasets(Path(folder), options.frames)
        size = (Path(folder) / "ytvis/train/JPEGImages/video/00000.jpg").stat().st_size
        print(f"{options.frames} frames and 1 support, {WIDTH} x {HEIGHT}, {size / 1000:.0f} kB each")
        compare_loading(Path(folder), episodes, options.repeats)
        if not options.skip_episodes:
            list_episodes(write_annotations(Path(folder) / "complete"))


if __name__ == "__main__":
    main()

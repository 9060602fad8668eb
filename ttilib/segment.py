"""Segment a user's own video: a few images with masks and a video in; masks, tables and an overlay out."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice, product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, UInt8
from pycocotools import mask as coco
from torch import Tensor, nn
from tqdm import tqdm

from ttilib.datasets.catalog import find_dataset
from ttilib.datasets.masks import encode
from ttilib.datasets.transforms import letterbox
from ttilib.encoders.pretrained import DEFAULT
from ttilib.episodes.benchmarks import draw_episodes, read_benchmark
from ttilib.episodes.clips import BATCH, Clip, MaskFile, clips_from_files, unlabelled_frames
from ttilib.files import check_writable, write_json, write_text
from ttilib.images import IMAGE_SUFFIXES, image_files, write_image, write_labels
from ttilib.plots.style import styles
from ttilib.plots.video import FPS, Video, object_colours, open_video, write_mask, write_overlay
from ttilib.results.export import write_table
from ttilib.results.metrics import iou
from ttilib.solver.classifier import prototype
from ttilib.solver.extraction import FeatureExtractor, load_extractor
from ttilib.solver.methods import Method, TransductiveMethod, check_means, read_method, refine_masks
from ttilib.solver.solver import choose_keyframe, solve
from ttilib.solver.task import Task, downsample
from ttilib.synthetic import generate

EXAMPLE = "outputs/mini/train/ytvis-f0/best.safetensors"  # encoder of the study
ENCODING = 2  # time to encode a frame, in times to solve and write it: for the time left
BOX = ("left", "top", "width", "height")
UNFINISHED = ".unfinished"  # ending of a folder that is being written

Scores = dict[str, list[float | None]]
"""What `leave_one_out` gives, by object."""

Solved = tuple[UInt8[np.ndarray, "H W"], UInt8[np.ndarray, "n H W"], float]
"""A frame at network size: the object of each pixel (0: none), 255 x every object's probability, and the similarity of
the objects to those of the support, -1 to 1.
"""


def segment(
    support_images: Sequence[Path | str] | Path | str,
    support_masks: Sequence[Path | str] | Path | str,
    video: Path | str,
    out: Path | str,
    encoder: str = DEFAULT,
    method: str = "frozen",
    size: tuple[int, int] = (241, 425),
    label: int | str | None = None,
    device: str = "cpu",
    means: Path | str = "",
    start: int = 0,
    end: int | None = None,
    every: int = 1,
    part: int = BATCH,
    probabilities: bool = False,
    features: Path | str | None = None,
) -> dict[str, Any]:
    """Segment `video` (a file or a folder of frames), given support images with masks; see `support_files`.
    Every label in the masks is an object, unless `label` selects one; pixels of several go to the most probable one.
    `size`: of the network input, each side made 8 n + 1. `method`: see `read_method`. The mean for centring=pool is
    read from `means` or beside the checkpoint, else it is the clip's, as the method's name then says. `features`:
    folder that keeps them. `start`, `end`, `every`: see `Video`. A long video is solved in parts of at most `part`
    frames. Writes masks at the size of the video, and README's other files, to `out`; returns what summary.json has.
    `probabilities`: probabilities/<frame>-<object>.png, 255 is 1. Warns if it breaks off. Raises ValueError, OSError.
    """
    chosen, out, film = read_method(method), _apart(out, video, support_images), open_video(video, start, end, every)
    check_means(means, [chosen])
    images, masks = support_files(support_images, support_masks)
    size = size[0] + -(size[0] - 1) % 8, size[1] + -(size[1] - 1) % 8
    clips = clips_from_files(images, masks, [np.zeros((*film.size, 3), np.uint8)], size, film.path.stem, label)
    output = _Output(out, film, tuple(clips), method, probabilities)
    if output.warning:
        warnings.warn(output.warning, stacklevel=2)
    extractor = load_extractor(encoder, features, means, device=device)
    if chosen.pipeline.centring == "pool" and not extractor.means_file and "centring=" not in chosen.name:
        chosen = read_method(f"{chosen.name} centring=episode")
    counts = _equal_parts(len(output.names), part)
    output.write(_solve(iter(film), clips, chosen, extractor, counts, scores := Scores()))
    return output.finish({
        "video": str(video), "start": start, "every": every, "parts": len(counts), "method": chosen.name,
        "encoder": str(encoder), "means": str(extractor.means_file) if chosen.pipeline.centring == "pool" else None,
        "device": device, "support": [*map(str, images)], "objects": [*clips], "network_size": [*size],
        "leave_one_out": scores,
    })  # fmt: skip


def _listed(given: Sequence[Path | str] | Path | str) -> Sequence[Path | str]:
    return [given] if isinstance(given, Path | str) else given


def support_files(
    images: Sequence[Path | str] | Path | str, masks: Sequence[Path | str] | Path | str = ()
) -> tuple[Sequence[Path], Sequence[MaskFile]]:
    """Support images and the mask of each, from what a user names.

    `images`: files and folders. `masks`: a file for each image, in order; one .json for all; or folders, one for each
    object, whose files have the names of the images. Without any, masks lie beside the images or in masks/: the same
    name with the ending .json or .png, or one .json for all. Raises FileNotFoundError if one is missing, ValueError if
    two folders of masks have the same name.
    """
    paths, given = [Path(path) for path in _listed(images)], [Path(path) for path in _listed(masks)]
    files = [file for path in paths for file in (image_files(path) if path.is_dir() else [path])]
    if files != paths or not given:  # masks may be among them
        files = [path for path in files if path.suffix.lower() != ".json"]
        photos = {path.with_suffix("") for path in files if path.suffix.lower() != ".png"}
        files = [path for path in files if path.suffix.lower() != ".png" or path.with_suffix("") not in photos]
    if given and all(path.is_dir() for path in given):
        objects = {path.name: _mask_files(path) for path in given}
        if len(objects) < len(given):
            raise ValueError(f"{given[-1]}: folders of masks have the same name, that of the object; rename one")
        named = [
            {folder.name: objects[folder.name].get(file.stem, folder / file.stem) for folder in given} for file in files
        ]
        return files, named if len(given) > 1 else [next(iter(each.values())) for each in named]
    if not given:
        return files, [_mask_beside(path) for path in files]
    return files, given * len(files) if [path.suffix.lower() for path in given] == [".json"] else given


def _mask_files(folder: Path) -> dict[str, Path]:
    """The masks of a folder by name without ending; .json and .png come before a .jpg of the same name."""
    endings = (".json", *IMAGE_SUFFIXES)
    return {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in endings}


def _mask_beside(image: Path) -> Path:
    """The mask of an image in the same folder, or in masks/, where notebook 06 draws; else the one .json of the folder,
    if it is of no other image. Raises FileNotFoundError if there is none, or no image.
    """
    if not image.is_file():
        raise FileNotFoundError(f"{image}: no such file; expected an image")
    for folder, ending in product((image.parent, image.parent / "masks"), (".json", ".png", ".PNG")):
        if (path := folder / f"{image.stem}{ending}") != image and path.is_file():
            return path
    outlines = list(image.parent.glob("*.json"))
    if len(outlines) == 1 and outlines[0].stem not in [path.stem for path in image_files(image.parent)]:
        return outlines[0]
    raise FileNotFoundError(
        f"{image}: no mask {image.stem}.png or .json is beside it or in masks/; name it with --masks"
    )


def _apart(out: Path | str, video: Path | str, images: Sequence[Path | str] | Path | str) -> Path:
    """`out`. Raises ValueError if it is a given folder, as files written there would be input of the next run."""
    if Path(out).resolve() in [Path(path).resolve() for path in (video, *_listed(images))]:
        raise ValueError(f"{out}: has the frames or the support images; choose another --out")
    return Path(out)


def _equal_parts(frames: int, most: int) -> list[int]:
    """Numbers of frames of as few parts as possible, of at most `most` frames each."""
    if most < 1:
        raise ValueError(f"part is {most}; give the most frames to solve together, 1 or more")
    return [len(each) for each in np.array_split(range(frames), -(-frames // most))]


def _solve(
    frames: Iterator[tuple[str, np.ndarray]],
    clips: Mapping[str, Clip],
    method: Method,
    extractor: FeatureExtractor,
    counts: Sequence[int],
    scores: Scores,
) -> Iterator[Solved]:
    """Solve the next frames in parts of these numbers; only those of a part are held, at network size. Fills scores."""
    total, shots = sum(counts), len(next(iter(clips.values())).support)
    module = extractor.uncached(method.pipeline.layers).encoder
    encoded = 2 * (total + shots * len(counts)) if method.pipeline.centring == "episode" else total + shots
    steps = total + ENCODING * (1 + encoded) if isinstance(module, nn.Module) else total
    form = "{desc} {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left"
    with tqdm(total=steps, bar_format=form, smoothing=0, mininterval=1.0, disable=total <= 20) as bar:
        if isinstance(module, nn.Module):
            module.register_forward_pre_hook(partial(_count_images, bar))
        for number, count in enumerate(counts, 1):
            bar.set_description(f"{total} frames, part {number} of {len(counts)}")
            for solved in _solve_part(islice(frames, count), clips, method, extractor, scores):
                bar.update()
                yield solved


def _count_images(bar: tqdm, module: nn.Module, given: tuple[Tensor, ...]) -> None:
    bar.update(ENCODING * len(given[0]))


def _solve_part(
    frames: Iterable[tuple[str, np.ndarray]],
    clips: Mapping[str, Clip],
    method: Method,
    extractor: FeatureExtractor,
    scores: Scores,
) -> Iterator[Solved]:
    """Solve frames together: one classifier per object and frame on the same features."""
    size, names, held = next(iter(clips.values())).size, [], []
    for name, pixels in frames:
        names.append(name)
        held.append(unlabelled_frames([name], {name: pixels}.__getitem__, size)[0])
    images, _, valid = map(torch.stack, zip(*held, strict=True))
    found = []
    for name, clip in clips.items():
        clip = replace(clip, query=images, query_valid=valid, query_names=tuple(names))
        found.append(_predict(clip, method, extractor))
        if name not in scores and isinstance(method, TransductiveMethod):
            scores[name] = leave_one_out(clip, extractor.task(clip, method.pipeline), method)
    masks, probabilities, similarity = map(torch.stack, zip(*found, strict=True))
    best, index = torch.where(masks, probabilities, -1.0).max(dim=0)
    labels = torch.where(best >= 0, index + 1, 0).byte().numpy()
    shown = (255 * probabilities).round().byte().unbind(1)
    return zip(labels, (each.numpy() for each in shown), similarity.mean(dim=0).tolist(), strict=True)


def _predict(clip: Clip, method: Method, extractor: FeatureExtractor) -> tuple[Tensor, Tensor, Tensor]:
    """Masks and probabilities [T, H, W] of an object, and its similarity [T] to the support, -1 where it is absent."""
    task = extractor.task(clip, method.pipeline)
    replace(task, name=f"{task.name}, object {clip.class_name}").check_support()
    prediction = method.predict(clip, extractor)
    masks, solution = prediction.masks, prediction.solution
    weight = downsample(masks, task.grid).to(task.query.device) * task.query_weight
    similarity = choose_keyframe(task.query, weight, prototype(task))[1]
    if solution is not None and solution.similarity is not None:
        similarity = solution.similarity
    similarity = similarity.where(weight.flatten(1).any(dim=1), -1.0).cpu()
    return masks, masks.float() if solution is None else solution.probabilities().cpu(), similarity


def leave_one_out(clip: Clip, task: Task, method: TransductiveMethod) -> list[float | None]:
    """How well the others segment each support image: s_k = IoU(M_k, P_k) over valid pixels.

    M_k is the mask of image k, P_k the method's mask of image k as the only query frame, with the K - 1 others as
    support. A low value marks an image unlike the others, or a wrong mask. None if the object is absent from image k,
    or no other image has it at feature size. `task`: the features of `clip`.
    """
    if task.shots == 1:  # there is no other image
        return [None]
    scores: list[float | None] = []
    for k in range(task.shots):
        rest = [i for i in range(task.shots) if i != k]
        support = {name: getattr(task, name)[rest] for name in ("support", "support_masks", "support_valid")}
        one = replace(task, **support, query=task.support[[k]], query_valid=task.support_valid[[k]])
        truth, valid = clip.support_masks[[k]], clip.support_valid[[k]]
        if truth.any() and not one.support_vanished:
            image = replace(clip, query=clip.support[[k]], query_valid=valid, query_names=clip.support_names[k : k + 1])
            found = refine_masks(solve(one, method.config), image, method.pipeline)
            scores.append(round(iou(found.cpu(), truth, valid), 4))
        else:
            scores.append(None)
    return scores


@dataclass
class _Output:
    """Writes frames as they are solved; what an earlier run wrote stays until `finish`."""

    folder: Path
    film: Video
    objects: tuple[str, ...]
    method: str
    probabilities: bool
    rows: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Count the frames and find the files to replace. Raises ValueError if one is not of an earlier run."""
        for name in ("summary.json", "overlay.mp4", "masks/0.png"):
            check_writable(self.folder / name)
        count = self.film.announced
        named = tqdm(self.film, "reading", count or None, mininterval=1.0, disable=0 < count <= 20)
        self.names = tuple(name for name, _ in named)
        if not self.names:
            raise ValueError(f"{self.film.path}: no frame can be read from frame {self.film.start} on; start earlier")
        self.warning = self.film.shortfall(len(self.names))
        self.replaced, known = dict[Path, str](), set(self.names)
        for name in ("masks", "probabilities"):
            shutil.rmtree(self.folder / f"{name}{UNFINISHED}", ignore_errors=True)
            for path in sorted((self.folder / name).glob("*.png")):
                self.replaced[path] = path.stem if name == "masks" else path.stem.rpartition("-")[0]
        with suppress(FileNotFoundError, ValueError):  # an earlier run may have been of another video
            earlier = pd.read_csv(self.folder / "frames.csv", usecols=["frame"], dtype=str, keep_default_na=False)
            known.update(earlier["frame"])
        if foreign := [path for path, name in self.replaced.items() if name not in known]:
            raise ValueError(f"{foreign[0]}: is no mask of this video; choose another --out, or remove the file")

    def write(self, solved: Iterable[Solved]) -> None:
        """Write masks and overlay, at the size and the rate of the video."""
        frames, rate = (frame for _, frame in self.film), self.film.fps / self.film.every or FPS
        masks, one = self._write_masks(solved), {self.method: styles([self.method])[self.method]["color"]}
        shown = object_colours(self.objects) if len(self.objects) > 1 else one
        self.overlay = write_overlay(self.folder / "overlay.mp4", frames, masks, None, rate, shown).name

    def _write_masks(self, solved: Iterable[Solved]) -> Iterator[UInt8[np.ndarray, "h w"]]:
        """Write every frame's mask and give it."""
        height, width = self.film.size
        for name, (small, scores, similarity) in zip(self.names, solved, strict=True):
            labels, placement = np.zeros(self.film.size, np.uint8), letterbox(height, width, small.shape)
            for number, score in enumerate(scores, 1):
                mask = placement.unpad(small == number, self.film.size)
                labels[mask] = number
                lengths = encode(mask)
                row = {"frame": name, "object": self.objects[number - 1], "area_px": int(coco.area(lengths))}
                if row["area_px"]:
                    rows, columns = np.nonzero(mask)
                    row |= {"x": columns.mean(), "y": rows.mean()} | dict(zip(BOX, coco.toBbox(lengths), strict=True))
                    row["probability"] = score[small == number].mean() / 255
                self.rows.append({**row, "similarity": similarity, "counts": lengths["counts"]})
                if self.probabilities:
                    shown = cv2.resize(score[placement.inside], (width, height), interpolation=cv2.INTER_LINEAR)
                    write_labels(self.folder / f"probabilities{UNFINISHED}" / f"{name}-{number}.png", shown)
            write_mask(self.folder / f"masks{UNFINISHED}" / f"{name}.png", labels, len(self.objects))
            yield labels

    def finish(self, about: dict[str, Any]) -> dict[str, Any]:
        """Replace the files of an earlier run; write tables, keyframe, and the summary, which is returned."""
        for path in self.replaced:
            path.unlink(missing_ok=True)
        for name in ("masks", "probabilities"):
            for path in (self.folder / f"{name}{UNFINISHED}").glob("*.png"):
                (self.folder / name).mkdir(exist_ok=True)
                path.replace(self.folder / name / path.name)
            shutil.rmtree(self.folder / f"{name}{UNFINISHED}", ignore_errors=True)
        height, width = self.film.size
        path, numbers = self.film.path, {name: number for number, name in enumerate(self.names, 1)}
        files = {file.stem: file.name for file in image_files(path)} if path.is_dir() else {}
        images = [
            {"id": n, "file_name": files.get(name, f"{name}.jpg"), "height": height, "width": width}
            for name, n in numbers.items()
        ]
        categories = [{"id": number, "name": name} for number, name in enumerate(self.objects, 1)]
        annotations = [
            {
                "id": number, "image_id": numbers[row["frame"]], "category_id": 1 + self.objects.index(row["object"]),
                "segmentation": {"size": [height, width], "counts": row["counts"]}, "area": row["area_px"],
                "bbox": [row[side] for side in BOX], "iscrowd": 0,
            }
            for number, row in enumerate((row for row in self.rows if row["area_px"]), 1)
        ]  # fmt: skip
        outlines = {"images": images, "annotations": annotations, "categories": categories}
        write_text(self.folder / "masks.json", json.dumps(outlines, ensure_ascii=False))
        table = pd.DataFrame(self.rows).assign(area_percent=lambda each: 100 * each["area_px"] / (height * width))
        columns = ["frame", "object", "area_px", "area_percent", "x", "y", *BOX, "probability"]
        write_table(self.folder / "frames.csv", table.reindex(columns=columns))
        share = table.groupby("frame", sort=False)["area_px"].sum() / (height * width)
        about |= {"overlay": self.overlay, "frames": len(self.names), "keyframe": self._write_keyframe()}
        about["foreground"] = share.round(4).tolist()
        about |= {"warning": self.warning} if self.warning else {}
        write_json(self.folder / "summary.json", about)
        return about

    def _write_keyframe(self) -> str | None:
        """The frame whose objects are most similar to the support, written with its mask; None without an object."""
        best = max(self.rows, key=lambda row: row["similarity"])
        for ending in ("jpg", "png"):
            (self.folder / f"keyframe.{ending}").unlink(missing_ok=True)
        if best["similarity"] == -1:
            return None
        frame = next(frame for name, frame in self.film if name == best["frame"])
        write_image(self.folder / "keyframe.jpg", frame)
        shutil.copyfile(self.folder / "masks" / f"{best['frame']}.png", self.folder / "keyframe.png")
        return str(best["frame"])


def example_files(
    folder: Path | str, root: Path | str = "data/mini", shots: int = 5, index: int = 20
) -> tuple[list[Path], list[Path], Path, Bool[np.ndarray, "T h w"]]:
    """Support images, their masks and frames of an episode of the synthetic dataset, written to `folder`; true masks.

    `root`: folder of the dataset, which is generated if it is missing. `index`: number of the episode. Raises
    ValueError if there is no such episode.
    """
    generate(root)
    data, folder = read_benchmark("ytvis-v1", 0, root), Path(folder)
    episodes = draw_episodes(data, shots)
    if not 0 <= index < len(episodes):
        raise ValueError(f"index is {index}; give the number of an episode, 0 to {len(episodes) - 1}")
    episode = episodes[index]
    reader = find_dataset(episode.corpus).reader(data.query_root)
    images, masks = ([folder / f"{kind}{k}.png" for k in range(shots)] for kind in ("image", "mask"))
    for image, mask, name in zip(images, masks, episode.support, strict=True):
        write_image(image, reader.image(name))
        write_mask(mask, (reader.mask(name, episode.class_id) == 1).astype(np.uint8), 1)
    for name in episode.query:
        write_image(folder / "video" / f"{Path(name).stem}.png", reader.image(name))
    truth = np.stack([reader.mask(name, episode.class_id) == 1 for name in episode.query])
    return images, masks, folder / "video", truth

"""Datasets of a few tiny images in the layouts of the real ones."""

from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco

from ttilib.files import read_json, write_json, write_text
from ttilib.images import read_labels, write_image, write_labels

HEIGHT, WIDTH = 18, 32


def picture(seed: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A smooth image whose colour depends on the seed."""
    y, x = np.mgrid[:height, :width]
    return np.dstack([y * 5 + seed * 40, x * 5 + seed * 20, y + x + seed * 60]).astype(np.uint8)


def block(label: int, top: int, left: int, height: int, width: int, size=(HEIGHT, WIDTH)) -> np.ndarray:
    """Labels with one rectangle on background."""
    labels = np.zeros(size, dtype=np.uint8)
    labels[top : top + height, left : left + width] = label
    return labels


def full(label: int) -> np.ndarray:
    """Labels that are the same everywhere."""
    return np.full((HEIGHT, WIDTH), label, dtype=np.uint8)


def polygon(top: int, left: int, height: int, width: int) -> list[list[float]]:
    """A rectangle as a COCO polygon."""
    bottom, right = top + height, left + width
    return [[float(x) for x in (left, top, right, top, right, bottom, left, bottom)]]


def run_lengths(mask: np.ndarray) -> dict:
    """Uncompressed COCO run lengths, down the columns, beginning with background."""
    flat = mask.astype(bool).ravel(order="F").tolist()
    return {"size": list(mask.shape), "counts": [0] * flat[0] + [len(list(run)) for _, run in groupby(flat)]}


def compressed(mask: np.ndarray) -> dict:
    """Compressed run lengths as JSON has them."""
    lengths = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": lengths["counts"].decode()}


def ytvis(root: Path, shows: dict[str, list[list[int]]], classes: int = 5) -> Path:
    """A YouTube-VIS folder; `shows`: the class ids in each frame of each video, squares of 6 at (2, 3 * class)."""
    names = {str(number): f"kind_{number}" for number in range(1, classes + 1)}
    novel = [[number for number in range(1, classes + 1) if (number - 1) % 4 == k] for k in range(4)]
    write_json(root / "lists.json", {"classes": names, "novel": novel})
    videos, annotations = [], []
    for place, (name, frames) in enumerate(shows.items()):
        files = [f"{name}/{5 * t:05d}.jpg" for t in range(len(frames))]
        for time, file in enumerate(files):
            write_image(root / "train" / "JPEGImages" / file, picture(place + time))
        videos.append({"id": 11 + place, "height": HEIGHT, "width": WIDTH, "file_names": files})
        for number in sorted({c for frame in frames for c in frame}):
            outlines = [polygon(2, 3 * number, 6, 6) if number in frame else None for frame in frames]
            entry = {"id": len(annotations) + 1, "video_id": 11 + place, "category_id": number}
            annotations.append({**entry, "segmentations": outlines})
    categories = [{"id": int(number), "name": name} for number, name in names.items()]
    content = {"videos": videos[::-1], "annotations": annotations, "categories": categories}
    write_json(root / "train" / "train.json", content)
    return root


def rewrite(root: Path, change: Callable[[dict], object]) -> Path:
    """Rewrite train.json after `change` has edited its content in place; returns its path."""
    content = read_json(path := root / "train" / "train.json")
    change(content)
    write_json(path, content)
    return path


def pascal(root: Path, stills: dict[str, np.ndarray], val: tuple[str, ...], min_pixels: int = 20) -> Path:
    """A Pascal folder with four classes of one fold each; images not in `val` are for training."""
    names = {str(number): f"kind_{number}" for number in range(1, 5)}
    write_json(root / "lists.json", {"classes": names, "novel": [[1], [2], [3], [4]], "min_pixels": min_pixels})
    for seed, (name, labels) in enumerate(stills.items()):
        write_image(root / "JPEGImages" / f"{name}.jpg", picture(seed, *labels.shape))
        write_labels(root / "SegmentationClassAug" / f"{name}.png", labels)
    lines = {name: f"JPEGImages/{name}.jpg SegmentationClassAug/{name}.png\n" for name in stills}
    write_text(root / "val.txt", "".join(lines[name] for name in val))
    write_text(root / "train.txt", "".join(line for name, line in lines.items() if name not in val))
    return root


def sequences(root: Path, masks: dict[str, list[np.ndarray]], pictures: str, labels: str) -> Path:
    """Frames named 8, 9, 10, ... of each sequence; `pictures` and `labels` are folders with {} in them."""
    for seed, (name, frames) in enumerate(masks.items()):
        for time, mask in enumerate(frames):
            write_image(root / pictures.format(name) / f"{8 + time}.jpg", picture(seed + time, *mask.shape))
            write_labels(root / labels.format(name) / f"{8 + time}.png", mask)
    return root


def vspw(root: Path, masks: dict[str, list[np.ndarray]], train: tuple[str, ...] = ()) -> Path:
    """A VSPW folder: classes 41, 45 novel in fold 0, base 53, 49; sequences in `train` or else in val."""
    names = {"41": "kind_1", "45": "kind_2", "49": "kind_3", "53": "kind_4"}
    table = {"classes": names, "novel": [[41, 45]], "base": [[53, 49]], "min_pixels": 20, "repeats": [2]}
    write_json(root / "lists.json", table)
    write_text(root / "train.txt", "".join(f"{name}\n" for name in train))
    write_text(root / "val.txt", "".join(f"{name}\n" for name in masks if name not in train))
    return sequences(root, masks, "data/{}/origin", "data/{}/mask")


def davis(root: Path, masks: dict[str, list[np.ndarray]]) -> Path:
    """A DAVIS folder with Pascal class ids."""
    return sequences(root, masks, "JPEGImages/{}", "Annotations/{}")


def palette_png(path: Path, labels: np.ndarray) -> Path:
    """Labels as a palette PNG whose colours are nothing like its indices."""
    image = Image.fromarray(labels)
    image.putpalette([(37 * value) % 256 for value in range(768)])
    image.save(path)
    return path


def flow(root: Path, frames: dict[str, list[int]]) -> Path:
    """Empty flow files for some frames of each sequence of a VSPW or MiniVSPW folder."""
    for name, numbers in frames.items():
        for number in numbers:
            write_text(root / "data" / name / "flow" / f"{number}.pkl.pkl", "")
    return root


def minivspw(root: Path, masks: dict[str, list[np.ndarray]], names: dict[str, str]) -> Path:
    """A MiniVSPW folder without flow; `names`: VSPW's names and ids as in label_num_dic_final.json."""
    write_json(root / "label_num_dic_final.json", names)
    return sequences(root, masks, "data/{}/origin", "data/{}/mask")


def davis_2016(root: Path, masks: dict[str, list[np.ndarray]], resolution: str = "480p") -> Path:
    """DAVIS 2016: one object per sequence, 255 on black; pass labels of any number."""
    objects = {name: [(mask > 0).astype(np.uint8) * 255 for mask in frames] for name, frames in masks.items()}
    return sequences(root, objects, f"JPEGImages/{resolution}/{{}}", f"Annotations/{resolution}/{{}}")


def davis_2017(root: Path, masks: dict[str, list[np.ndarray]], resolution: str = "Full-Resolution") -> Path:
    """DAVIS 2017: palette masks that number the parts of the object."""
    sequences(root, masks, f"JPEGImages/{resolution}/{{}}", f"Annotations/{resolution}/{{}}")
    for path in (root / "Annotations" / resolution).rglob("*.png"):
        palette_png(path, read_labels(path))
    return root


def broken_png(path: Path, how: str) -> Path:
    """Damage a file: "missing", "empty", "cut off" or "not an image"."""
    complete = path.read_bytes()
    path.unlink()
    if how != "missing":
        path.write_bytes({"empty": b"", "cut off": complete[: len(complete) // 2], "not an image": b"<html>"}[how])
    return path

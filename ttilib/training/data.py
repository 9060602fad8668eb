"""Training data: labelled frames or clips of the base classes, and windows of unlabelled frames.

Every sample is a function of (seed, epoch, index) alone; call `set_epoch` before making the loader's iterator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.tv_tensors import Image, Mask

from ttilib.datasets.base import IGNORE_LABEL
from ttilib.datasets.catalog import Fold, find_dataset, find_root, read_fold, read_table
from ttilib.datasets.transforms import AUGMENTATIONS, Size, augment_clip, image_tensor, mask_tensor, normalise
from ttilib.episodes.clips import check_input_size, check_same_size
from ttilib.training.config import ContrastConfig

Frame = tuple[Image, Mask]
Order, Void = Literal["set", "time"], Literal["background", "ignored"]


class _Samples(Dataset):
    """Frames of a dataset: augmented, resized and padded by its rules."""

    def __init__(self, fold: Fold, root: Path | str, size: Size, seed: int) -> None:
        dataset = find_dataset(fold.corpus)
        self.reader, self.augmentation = dataset.reader(root), dataset.augmentation
        check_input_size(size)
        self.size, self.seed, self.epoch = size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which determines the random numbers of every sample."""
        self.epoch = epoch

    def augmented(self, frames: Sequence[Frame], rng: np.random.Generator) -> list[Frame]:
        """Augment the frames of one clip: with common parameters (first frame not warped), or each frame by itself."""
        if self.augmentation == "clip":
            images, labels = zip(*frames, strict=True)
            return list(zip(*augment_clip(images, labels, rng), strict=True))
        return [AUGMENTATIONS[self.augmentation](image, labels, rng) for image, labels in frames]

    def network_input(self, image: Image, labels: Mask) -> tuple[Float[Tensor, "3 H W"], Int64[Tensor, "H W"]]:
        """Image: resized, zero-padded, normalised. Labels: padding is background or ignored, by the dataset's rule."""
        rule = self.reader.training_rule
        placement = rule.placement(*labels.shape, self.size)
        image = placement.fit(image, rounded=rule.rounded)
        labels = placement.fit(labels, padding=0 if rule.padding_is_background else IGNORE_LABEL)
        return normalise(image / 255), labels.long()


class TrainingFrames(_Samples):
    """Labelled frames of the base classes. Sample: normalised image [3, H, W] float, labels [H, W] int64.

    Of each video of a `split`, every `every`-th of the frames that contain a base class. `order` of these frames:
    "time", or for datasets of clips "set", as released: that of their numbers in a Python set.
    Labels are 0 background, index in `fold.base` plus one, 255 ignored; `void` (255) of a label map is background, as
    released, or ignored. `split` "train" is augmented, "val" is not.
    Raises ValueError if no frame contains a base class, or if a base class is in no frame of "train".
    Source: docs/protocol.md 1.3, 1.5, C2 (labels) and 2 (augmentation).
    """

    def __init__(
        self,
        fold: Fold,
        root: Path | str,
        split: str,
        size: Size,
        seed: int = 2020,
        every: int = 1,
        order: Order = "set",
        void: Void = "background",
    ) -> None:
        super().__init__(fold, root, size, seed)
        if void == "ignored":
            self.reader.void = IGNORE_LABEL
        self.base, self.training = fold.base, split == "train"
        listed = {"train": fold.train, "val": fold.val}[split]
        frames = {c: {frame for video in fold.presence[c].values() for frame in video} for c in fold.base}
        usable = set().union(*frames.values())
        numbers = {video: [n for n, f in enumerate(fold.frames[video]) if f in usable] for video in listed}
        if order == "set" and self.augmentation == "clip":
            numbers = {video: list(set(found)) for video, found in numbers.items()}
        self.pools = {video: tuple(fold.frames[video][n] for n in found[::every]) for video, found in numbers.items()}
        self.videos = tuple(video for video in listed if self.pools[video])
        self.frames = tuple(frame for video in self.videos for frame in self.pools[video])
        missing = [fold.names[c] for c in fold.base if frames[c].isdisjoint(self.frames)]
        if not self.videos or (self.training and missing):
            about = f"no {split} frame in {root} at frame stride {every} contains the base classes {', '.join(missing)}"
            advice = "add videos that contain them, or remove them from the base classes in its lists.json"
            raise ValueError(f"{fold.corpus} fold {fold.index}: {about}; {advice}")

    def read(self, frame: str) -> Frame:
        """Stored image and labels; a label is the index in the base classes plus one."""
        image, labels = self.reader.image(frame), self.reader.labels(frame, self.base)
        check_same_size(frame, image.shape, labels.shape)
        return image_tensor(image), mask_tensor(labels)

    def _rng(self, index: int) -> np.random.Generator:
        if not 0 <= index < len(self):  # ends iteration
            raise IndexError(f"index {index} of {len(self)} samples")
        return np.random.default_rng([self.seed, self.epoch, index])

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> tuple[Float[Tensor, "3 H W"], Int64[Tensor, "H W"]]:
        rng = self._rng(index)
        image, labels = self.read(self.frames[index])
        if self.training:
            image, labels = AUGMENTATIONS[self.augmentation](image, labels, rng)
        return self.network_input(image, labels)


class TrainingClips(TrainingFrames):
    """Clips of one video. Sample: images [n, 3, H, W], labels [n, H, W], as in `TrainingFrames`; n is `frames`.

    An epoch has `repeats` clips of each video: n of its frames, sampled with replacement. If there are at most n, all
    come first, followed by random repeats.
    "train" augments the frames of video datasets with common parameters (first frame not warped), other datasets
    frame by frame; "val" is not augmented.
    Raises ValueError as `TrainingFrames`. Source: docs/protocol.md 1.3 (sampling) and 2 (augmentation), Q16, C6.
    """

    def __init__(
        self,
        fold: Fold,
        root: Path | str,
        split: str,
        size: Size,
        seed: int = 2020,
        every: int = 5,
        frames: int = 5,
        repeats: int = 10,
        **rules: Any,
    ) -> None:
        super().__init__(fold, root, split, size, seed, every, **rules)
        self.length, self.repeats = frames, repeats

    def __len__(self) -> int:
        return self.repeats * len(self.videos)

    def __getitem__(self, index: int) -> tuple[Float[Tensor, "n 3 H W"], Int64[Tensor, "n H W"]]:
        rng = self._rng(index)
        pool = self.pools[self.videos[index % len(self.videos)]]
        names = list(pool) if len(pool) <= self.length else []
        names += [pool[number] for number in rng.integers(len(pool), size=self.length - len(names))]
        read = {name: self.read(name) for name in dict.fromkeys(names)}  # a frame sampled twice is decoded once
        clip = [read[name] for name in names]
        if self.training:
            clip = self.augmented(clip, rng)
        images, labels = zip(*(self.network_input(*frame) for frame in clip), strict=True)
        return torch.stack(images), torch.stack(labels)


WINDOWS, FRAMES = 1, 2
"""Random streams of a sample: of its windows, and of its frames (from 2 on)."""


class VideoPairs(_Samples):
    """Windows of consecutive frames. Sample: images [count, window, 3, H, W], valid [count, window, H, W].

    Sample i is of video i modulo their number. Of every `every`-th frame, count = `pairs` windows of `window` frames
    come in random order, repeated if there are fewer. If frames are too few, YouTube-VIS doubles the list, and other
    datasets append random ones. Each frame is augmented by itself: clip datasets change brightness and flip only, as
    the release does for the first frame of a clip. `valid` is False where the release ignores the padding.
    Raises ValueError for a dataset of images, no videos, or unknown ones. Source: docs/protocol.md 4, DCL auxiliary.
    """

    def __init__(
        self, fold: Fold, root: Path | str, videos: Sequence[str], size: Size, seed: int, contrast: ContrastConfig
    ) -> None:
        if fold.frames and all(frames == (video,) for video, frames in fold.frames.items()):
            about = "images have no next frame to compare with; give VSPW's folder as contrast.root"
            raise ValueError(f"{fold.corpus} fold {fold.index}: {about}, or switch the contrastive loss off")
        unknown = [video for video in videos if not fold.frames.get(video)]
        if not videos or unknown:
            about = f"no frames of {unknown[0]} and {len(unknown) - 1} other videos" if unknown else "no videos"
            raise ValueError(f"{fold.corpus} fold {fold.index}: {about} in {root} for the contrastive loss; add some")
        super().__init__(fold, root, size, seed)
        self.videos, self.frames = tuple(videos), {video: fold.frames[video][:: contrast.every] for video in videos}
        self.window, self.count = contrast.window, contrast.pairs

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> tuple[Float[Tensor, "count window 3 H W"], Bool[Tensor, "count window H W"]]:
        windows = self._windows(index)
        read = {frame: self._read(*frame, index) for frame in {frame for window in windows for frame in window}}
        images, valid = zip(*(read[frame] for window in windows for frame in window), strict=True)
        shape = (self.count, self.window)
        return torch.stack(images).unflatten(0, shape), torch.stack(valid).unflatten(0, shape)

    def _windows(self, index: int) -> list[list[tuple[int, str]]]:
        """The (number, frame) pairs of each window; equal numbers share one augmented image."""
        rng = np.random.default_rng([self.seed, self.epoch, index, WINDOWS])
        frames = list(enumerate(self.frames[self.videos[index % len(self.videos)]]))
        while len(frames) < self.window:
            # The release doubles the list after augmentation, but appends before it.
            if self.augmentation == "clip":
                frames += frames
            else:
                frames.append((len(frames), frames[rng.integers(len(frames))][1]))
        starts = rng.permutation(len(frames) - self.window + 1)
        return [frames[start : start + self.window] for start in np.resize(starts, self.count)]

    def _read(self, number: int, name: str, index: int) -> tuple[Float[Tensor, "3 H W"], Bool[Tensor, "H W"]]:
        rng = np.random.default_rng([self.seed, self.epoch, index, FRAMES + number])
        stored = self.reader.image(name)
        frame = image_tensor(stored), mask_tensor(np.zeros(stored.shape[:2], dtype=np.uint8))
        image, labels = self.network_input(*self.augmented([frame], rng)[0])
        return image, labels != IGNORE_LABEL


def base_videos(fold: Fold) -> tuple[str, ...]:
    """The videos of base training, each once; some contain novel classes."""
    return tuple(dict.fromkeys(fold.train))


def leaked_test_videos(fold: Fold) -> tuple[str, ...]:
    """TEST DATA: the unlabelled videos that the released networks with contrast were trained on.

    THESE ARE THE QUERY VIDEOS OF THE EPISODES: use them only to reproduce the release, and mark every score.
    YouTube-VIS: all videos of each novel class; a video of two classes comes twice. Other datasets: every video of the
    fold but the 19 that the release ignores. Source: docs/protocol.md 4, DCL auxiliary, Q24.
    """
    if fold.corpus == "ytvis":
        return tuple(video for number in fold.novel for video in fold.presence[number])
    ignored = read_table("vspw")["pascal_to_vspw"]["ignored"]
    return tuple(video for video in fold.frames if video not in ignored)


def vspw_beside(fold: Fold, root: Path | str) -> Fold:
    """VSPW as unlabelled videos for a fold of images: `train` holds the videos without its novel classes.

    `root` is VSPW's folder or a data folder. Classes are matched by name, or by the released map from VSPW to Pascal.
    One pixel in one frame counts. The 19 videos that the release ignores are left out. The release uses all others
    (`leaked_test_videos`), including MiniVSPW's. Source: docs/protocol.md 4, DCL auxiliary, VSPW variant.
    """
    folder = find_root("vspw", root)
    table, known = read_table("vspw", folder), read_table("vspw")["pascal_to_vspw"]
    names = {number: known["names"].get(name, name) for number, name in table["classes"].items()}
    all_base = {"classes": names, "base": [sorted(names)], "novel": [[]], "ignored": known["ignored"]}
    videos = read_fold("vspw", 0, folder, all_base)
    novel = {fold.names[number] for number in fold.novel}
    excluded = {video for number, name in names.items() if name in novel for video in videos.presence[number]}
    return replace(videos, train=tuple(video for video in videos.frames if video not in excluded), val=())

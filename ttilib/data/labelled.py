"""The pictures of base training: labelled frames of the base classes, one by one or as clips of a video.

`TrainingFrames` holds every frame as an item of its own; `TrainingClips` holds a few frames of one video as an item,
drawn anew every time, as the release does for YouTube-VIS. An item is a function of seed, epoch and index alone, so
that neither worker count nor order changes what the network sees. `on_canvas` lays a varied frame as the networks
take it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.tv_tensors import Image, Mask

from ttilib.corpora.augmentation import augment, augment_clip
from ttilib.corpora.corpus import IGNORED, Reader, Rule
from ttilib.corpora.registry import READERS
from ttilib.corpora.transforms import ImageTensor, Labels, image_tensor, mask_tensor, normalise
from ttilib.data.clips import check_same_size
from ttilib.data.lists import Fold

__all__ = ["TrainingClips", "TrainingFrames", "on_canvas", "varied_as_video"]


class TrainingFrames(Dataset):
    """Labelled frames of the base classes: item i of an epoch is (picture, labels).

    The picture is normalised, float [3, H, W]; labels are 0 background, place in `fold.base` plus one, and
    255 where ignored, int64 [H, W]. `split` "train" is varied at random, "val" is not. Of each video the
    frames that show a base class are taken, every `every`-th of them; a video listed twice counts twice.
    An item depends on (seed, epoch, index) only; call `set_epoch` before making the loader's iterator.

    Raises ValueError if no frame shows a base class, or "train" lacks one of them.
    Source: protocol sections 1.3, 1.5 (labels) and 2 (variation).
    """

    def __init__(
        self,
        fold: Fold,
        root: Path | str,
        split: str,
        size: tuple[int, int],
        seed: int = 2020,
        every: int = 1,
    ) -> None:
        videos, pools = _pools(fold, root, split, every)
        self.reader = READERS[fold.corpus](root)
        self.base, self.size, self.seed, self.epoch = fold.base, size, seed, 0
        self.vary = split == "train"
        self.frames = tuple(frame for video in videos for frame in pools[video])

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, and with it the random variation of every item."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> tuple[Float[Tensor, "3 H W"], Int64[Tensor, "H W"]]:
        if not 0 <= index < len(self.frames):
            raise IndexError(f"index {index} of {len(self.frames)} training frames")
        image, labels = _read(self.reader, self.frames[index], self.base)
        if self.vary:
            image, labels = self.reader.vary(image, labels, np.random.default_rng([self.seed, self.epoch, index]))
        return on_canvas(image, labels, self.reader.training_rule, self.size)


class TrainingClips(Dataset):
    """A few labelled frames of one video: item i of an epoch is (pictures [n, 3, H, W], labels [n, H, W]).

    Pictures and labels are those of `TrainingFrames`, n is `frames`. The videos are gone through `repeats` times in
    an epoch. Of the `every`-th frames that show a base class, n are drawn with replacement, in no order; if there
    are fewer, all of them are followed by random repeats, and if there are n, they are taken as they are.

    "train" varies videos as a clip, all frames alike but the first, which is not warped, and other corpora frame by
    frame; "val" is drawn by the same rule and not varied. An item depends on (seed, epoch, index) only.

    Raises ValueError if no frame shows a base class, or "train" lacks one of them.
    Source: protocol sections 1.3 (drawing) and 2 (variation), quirk Q16.
    """

    def __init__(
        self,
        fold: Fold,
        root: Path | str,
        split: str,
        size: tuple[int, int],
        seed: int = 2020,
        every: int = 5,
        frames: int = 5,
        repeats: int = 10,
    ) -> None:
        if min(frames, repeats) < 1:
            raise ValueError(f"TrainingClips: frames is {frames}, repeats is {repeats}; both count from 1")
        self.videos, self.pools = _pools(fold, root, split, every)
        self.reader = READERS[fold.corpus](root)
        self.base, self.size, self.seed, self.epoch = fold.base, size, seed, 0
        self.vary, self.length, self.repeats = split == "train", frames, repeats

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, and with it the frames of every item and their variation."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.repeats * len(self.videos)

    def __getitem__(self, index: int) -> tuple[Float[Tensor, "n 3 H W"], Int64[Tensor, "n H W"]]:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of {len(self)} training clips")
        rng = np.random.default_rng([self.seed, self.epoch, index])
        names = _drawn(self.pools[self.videos[index % len(self.videos)]], self.length, rng)
        read = {name: _read(self.reader, name, self.base) for name in dict.fromkeys(names)}
        clip = [read[name] for name in names]  # a frame that was drawn twice is decoded once
        if self.vary and varied_as_video(self.reader):
            clip = list(zip(*augment_clip(*zip(*clip, strict=True), rng), strict=True))
        elif self.vary:
            clip = [self.reader.vary(image, labels, rng) for image, labels in clip]
        laid = [on_canvas(image, labels, self.reader.training_rule, self.size) for image, labels in clip]
        return torch.stack([picture for picture, _ in laid]), torch.stack([labels for _, labels in laid])


def on_canvas(
    image: ImageTensor, labels: Labels, rule: Rule, size: tuple[int, int]
) -> tuple[Float[Tensor, "3 H W"], Int64[Tensor, "H W"]]:
    """A frame as networks are trained on it: laid by the rule of its corpus, the picture normalised.

    The canvas beside it is black, and background or ignored as the rule says.
    """
    lies = rule.place(*labels.shape, size)
    image = lies.fit(image, rounded=rule.rounded)
    labels = lies.fit(labels, padding=0 if rule.padding_counts else IGNORED)
    return normalise(image / 255), labels.long()


def varied_as_video(reader: Reader) -> bool:
    """Whether the release varies this corpus by the rule of videos, and not by that of stills."""
    return reader.vary is augment


def _read(reader: Reader, frame: str, base: tuple[int, ...]) -> tuple[Image, Mask]:
    picture, labels = reader.image(frame), reader.labels(frame, base)
    check_same_size(frame, picture, labels)
    return image_tensor(picture), mask_tensor(labels)


def _drawn(pool: tuple[str, ...], length: int, rng: np.random.Generator) -> list[str]:
    """So many frames of a pool by the released rule."""
    kept = list(pool) if len(pool) <= length else []
    return kept + [pool[place] for place in rng.integers(len(pool), size=length - len(kept))]


def _pools(
    fold: Fold, root: Path | str, split: str, every: int
) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
    """The videos of a split as they are listed, and of each every `every`-th frame that shows a base class."""
    if split not in ("train", "val"):
        raise ValueError(f'split {split!r} is not known; choose "train" or "val"')
    if every < 1:
        raise ValueError(f"every is {every}; give 1 to take all frames of a video, 2 to take every other one")
    listed = fold.train if split == "train" else fold.val
    shown = {frame for number in fold.base for frame in _showing(fold, number)}
    pools = {video: tuple([f for f in fold.frames[video] if f in shown][::every]) for video in listed}
    videos = tuple(video for video in listed if pools[video])
    where = f"{fold.corpus} fold {fold.index}"
    if not videos:
        raise ValueError(f"{where}: no {split} frame in {root} shows a base class; check it")
    if split == "train" and (unseen := _unseen(fold, pools)):
        step = "" if every == 1 else f" among every {every}. of each video"
        about = f"no training frame in {root}{step} shows the base classes {', '.join(unseen)}"
        advice = "nothing could be learned about them; add videos that show them, or leave them out of its lists.json"
        raise ValueError(f"{where}: {about}; {advice}")
    return videos, pools


def _unseen(fold: Fold, pools: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Names of the base classes that none of the frames shows."""
    taken = {frame for pool in pools.values() for frame in pool}
    return [fold.names[number] for number in fold.base if taken.isdisjoint(_showing(fold, number))]


def _showing(fold: Fold, number: int) -> Iterable[str]:
    return (frame for frames in fold.presence[number].values() for frame in frames)

"""The pictures of base training: labelled frames of the base classes, one by one or as clips of a video.

`TrainingFrames` holds every frame as an item of its own; `TrainingClips` holds a few frames of one video as an item,
drawn anew every time, as the release does for YouTube-VIS. An item is a function of seed, epoch and index alone, so
that neither worker count nor order changes what the network sees. `on_canvas` lays a varied frame as the networks
take it.

Unlabelled neighbours in time: windows of a video's frames for the auxiliary dense contrastive loss.

The loss asks that a place in one frame finds itself again in the next; it needs no label, so any video will do.
`VideoPairs` reads the windows. Which videos it reads decides what the numbers mean afterwards: `base_videos` are
those that base training may see, `leaked_test_videos` those that the release took, TEST VIDEOS. Stills have no
neighbours; `vspw_beside` gives them VSPW's videos, told apart by the stills' own base and novel classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.tv_tensors import Image, Mask

from ttilib.datasets.base import IGNORED, Reader, Rule
from ttilib.datasets.catalog import Fold, find_dataset, find_root, read_fold, read_table
from ttilib.datasets.transforms import (
    AUGMENTATIONS,
    ImageTensor,
    Labels,
    augment_clip,
    image_tensor,
    mask_tensor,
    normalise,
)
from ttilib.episodes.clips import check_same_size

__all__ = ["TrainingClips", "TrainingFrames", "on_canvas"]


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
        self.augmentation, self.reader = find_dataset(fold.corpus).augmentation, find_dataset(fold.corpus).reader(root)
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
            rng = np.random.default_rng([self.seed, self.epoch, index])
            image, labels = AUGMENTATIONS[self.augmentation](image, labels, rng)
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
        self.augmentation, self.reader = find_dataset(fold.corpus).augmentation, find_dataset(fold.corpus).reader(root)
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
        if self.vary and self.augmentation == "clip":
            clip = list(zip(*augment_clip(*zip(*clip, strict=True), rng), strict=True))
        elif self.vary:
            clip = [AUGMENTATIONS[self.augmentation](image, labels, rng) for image, labels in clip]
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


def _read(reader: Reader, frame: str, base: tuple[int, ...]) -> tuple[Image, Mask]:
    picture, labels = reader.image(frame), reader.labels(frame, base)
    check_same_size(frame, picture.shape, labels.shape)
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


WINDOWS, FRAMES = 1, 2
"""Which numbers an item draws: its windows, its frames (from here on). The labelled items draw those of stream 0."""


class VideoPairs(Dataset):
    """Windows of consecutive frames: item i is (pictures [count, window, 3, H, W], known [count, window, H, W]).

    Item i is of video i, modulo their number; other i, other windows. Every `every`-th of all frames of the video is
    kept, and `count` windows of `window` kept frames come in random order, from the first again when there are no
    more. Of too few kept frames, YouTube-VIS doubles the list, and other corpora append random ones to it.

    Each frame is varied by itself: of YouTube-VIS only its light and mirror, because the release does not warp the
    first frame of a clip; other corpora by the rule of their training. A frame in two windows is the same picture in
    both. `known` is False where the release ignores the canvas beside the frame. Only the frames of the windows are
    read. An item depends on (seed, epoch, index) only; call `set_epoch` before making the loader's iterator.

    Raises ValueError for a corpus of stills, for no videos and for those that the fold does not have.
    Source: protocol section 4, DCL auxiliary.
    """

    def __init__(
        self,
        fold: Fold,
        root: Path | str,
        videos: Sequence[str],
        size: tuple[int, int],
        seed: int = 2020,
        every: int = 1,
        window: int = 2,
        count: int = 1,
    ) -> None:
        _refuse_stills(fold)
        where = f"{fold.corpus} fold {fold.index}"
        if min(every, window, count) < 1:
            raise ValueError(f"{where}: every is {every}, window {window}, count {count}; all of them count from 1")
        if not videos:
            raise ValueError(f"{where}: no videos in {root} to take windows from; name some, or take no contrast")
        if strange := [video for video in videos if not fold.frames.get(video)]:
            about = f"{root} has no frames of {len(strange)} of the videos, such as {strange[0]}"
            raise ValueError(f"{where}: {about}; take base_videos(fold)")
        self.augmentation, self.reader = find_dataset(fold.corpus).augmentation, find_dataset(fold.corpus).reader(root)
        self.videos, self.frames = tuple(videos), {video: fold.frames[video][::every] for video in videos}
        self.size, self.window, self.count, self.seed, self.epoch = size, window, count, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, and with it the windows of every item and the variation of their frames."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(
        self, index: int
    ) -> tuple[Float[Tensor, "count window 3 H W"], Bool[Tensor, "count window H W"]]:
        if index < 0:
            raise IndexError(f"index {index} of {len(self)} videos; count from 0")
        windows = self._windows(index)
        read = {kept: self._frame(*kept, index) for kept in {kept for window in windows for kept in window}}
        laid = [read[kept] for window in windows for kept in window]
        pictures, known = (torch.stack(parts) for parts in zip(*laid, strict=True))
        shape = (self.count, self.window)
        return pictures.unflatten(0, shape), known.unflatten(0, shape)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return (self[index] for index in range(len(self)))  # without it, Python would go on until an IndexError

    def _windows(self, index: int) -> list[list[tuple[int, str]]]:
        """The frames of each window; a number beside each says which of them are one picture."""
        rng = np.random.default_rng([self.seed, self.epoch, index, WINDOWS])
        kept = list(enumerate(self.frames[self.videos[index % len(self.videos)]]))
        while len(kept) < self.window:
            # The release doubles the list after its frames were varied, but appends to it before.
            if self.augmentation == "clip":
                kept += kept
            else:
                kept.append((len(kept), kept[rng.integers(len(kept))][1]))
        starts = rng.permutation(len(kept) - self.window + 1)
        return [kept[start : start + self.window] for start in np.resize(starts, self.count)]

    def _frame(self, number: int, name: str, index: int) -> tuple[Float[Tensor, "3 H W"], Bool[Tensor, "H W"]]:
        rng = np.random.default_rng([self.seed, self.epoch, index, FRAMES + number])
        picture = self.reader.image(name)
        image, labels = image_tensor(picture), mask_tensor(np.zeros(picture.shape[:2], dtype=np.uint8))
        if self.augmentation == "clip":
            (image,), (labels,) = augment_clip([image], [labels], rng)
        else:
            image, labels = AUGMENTATIONS[self.augmentation](image, labels, rng)
        image, labels = on_canvas(image, labels, self.reader.training_rule, self.size)
        return image, labels != IGNORED


def base_videos(fold: Fold) -> tuple[str, ...]:
    """The videos that base training may see, each once: no frame is read here that could not be read there.

    Some of them may show a novel class beside a base class, as in the release's labelled training.
    Raises ValueError for a corpus of stills, which has no neighbours in time.
    """
    _refuse_stills(fold)
    return tuple(dict.fromkeys(fold.train))


def leaked_test_videos(fold: Fold) -> tuple[str, ...]:
    """TEST DATA: the videos on which the released networks with contrast were trained, without their labels.

    THESE ARE THE VERY VIDEOS THE EPISODES ASK ABOUT. A network that saw them has met its test set, and its numbers
    are not those of a few-shot learner; take them only to repeat the release's, and say so beside every number.

    YouTube-VIS: of every novel class all videos, so that one with two classes comes twice. Other corpora: every
    sequence of the fold but the 19 that the release ignores. Raises ValueError for a corpus of stills.
    Source: protocol section 4, DCL auxiliary; quirk Q24.
    """
    _refuse_stills(fold)
    if fold.corpus == "ytvis":
        return tuple(video for number in fold.novel for video in fold.presence[number])
    ignored = read_table("vspw")["pascal_to_vspw"]["ignored"]
    return tuple(video for video in fold.frames if video not in ignored)


def vspw_beside(fold: Fold, root: Path | str) -> Fold:
    """VSPW's sequences as unlabelled videos for a fold of stills: `train` holds those without its novel classes.

    `root` is VSPW's folder or a data folder. A class is the same if its name is, where need be by the released map from
    VSPW's names to Pascal's; a sequence shows a class if one pixel of one frame does. The 19 sequences that the
    release ignores are left out. The release itself takes all others (`leaked_test_videos`), MiniVSPW's among them.
    Source: protocol section 4, DCL auxiliary, VSPW variant.
    """
    place = find_root("vspw", root)
    table, known = read_table("vspw", place), read_table("vspw")["pascal_to_vspw"]
    names = {number: known["names"].get(name, name) for number, name in table["classes"].items()}
    everywhere = {"classes": names, "base": [sorted(names)], "novel": [[]], "ignored": known["ignored"]}
    videos = read_fold("vspw", 0, place, everywhere)
    novel = {fold.names[number] for number in fold.novel}
    asked = {video for number, name in names.items() if name in novel for video in videos.presence[number]}
    return replace(videos, train=tuple(video for video in videos.frames if video not in asked), val=())


def _refuse_stills(fold: Fold) -> None:
    """A still is a video of one frame that has its own name."""
    if fold.frames and all(frames == (video,) for video, frames in fold.frames.items()):
        where = f"{fold.corpus} fold {fold.index}"
        about = "stills have no next frame to be compared with"
        raise ValueError(f"{where}: {about}; name VSPW's folder (contrast.root), or take no contrast")

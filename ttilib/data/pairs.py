"""Unlabelled neighbours in time: windows of a video's frames for the auxiliary dense contrastive loss.

The loss asks that a place in one frame finds itself again in the next; it needs no label, so any video will do.
`VideoPairs` reads the windows. Which videos it reads decides what the numbers mean afterwards: `base_videos` are
those that base training may see, `leaked_test_videos` those that the release took, TEST VIDEOS. Stills have no
neighbours; `vspw_beside` gives them VSPW's videos, told apart by the stills' own base and novel classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.data import Dataset

from ttilib.corpora.augmentation import augment_clip
from ttilib.corpora.corpus import IGNORED
from ttilib.corpora.registry import READERS
from ttilib.corpora.roots import find_root
from ttilib.corpora.transforms import image_tensor, mask_tensor
from ttilib.data.labelled import on_canvas, varied_as_video
from ttilib.data.lists import Fold, read_fold, read_table

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
        self.reader = READERS[fold.corpus](root)
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
            if varied_as_video(self.reader):
                kept += kept
            else:
                kept.append((len(kept), kept[rng.integers(len(kept))][1]))
        starts = rng.permutation(len(kept) - self.window + 1)
        return [kept[start : start + self.window] for start in np.resize(starts, self.count)]

    def _frame(self, number: int, name: str, index: int) -> tuple[Float[Tensor, "3 H W"], Bool[Tensor, "H W"]]:
        rng = np.random.default_rng([self.seed, self.epoch, index, FRAMES + number])
        picture = self.reader.image(name)
        image, labels = image_tensor(picture), mask_tensor(np.zeros(picture.shape[:2], dtype=np.uint8))
        if varied_as_video(self.reader):
            (image,), (labels,) = augment_clip([image], [labels], rng)
        else:
            image, labels = self.reader.vary(image, labels, rng)
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

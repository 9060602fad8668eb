"""Training data: the right frames of base classes and pairs of the right videos, augmented by the dataset's rule."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from corpora import HEIGHT, WIDTH, block, minivspw, pascal, vspw, ytvis
from folds import sequence_fold, stills_fold
from torch.utils.data import DataLoader

from ttilib.datasets.base import IGNORE_LABEL
from ttilib.datasets.catalog import DATASETS, find_dataset, read_fold, read_table
from ttilib.datasets.transforms import (
    MEAN,
    STD,
    augment,
    augment_clip,
    denormalise,
    image_tensor,
    mask_tensor,
    to_numpy_hwc,
)
from ttilib.files import read_json, write_json
from ttilib.images import read_image, write_image
from ttilib.training.data import (
    TrainingClips,
    TrainingFrames,
    VideoPairs,
    base_videos,
    leaked_test_videos,
    vspw_beside,
)

SIZE = (HEIGHT, WIDTH)
STEP = 25
"""Grey values between frames of a video: after a change of brightness they are still told apart."""


def film(tmp_path, shows, classes=4):
    """Frame t of every video is t STEP on its left half and t STEP + 40 on its right."""
    root = ytvis(tmp_path, shows, classes)
    for video in read_json(root / "train" / "train.json")["videos"]:
        for time, file in enumerate(video["file_names"]):
            image = np.full((HEIGHT, WIDTH, 3), time * STEP, np.uint8)
            image[:, WIDTH // 2 :] += 40
            write_image(root / "train" / "JPEGImages" / file, image)
    return read_fold("ytvis", 0, root), root


def times(images):
    """Which frame each image is."""
    grey = denormalise(images).mean(dim=-3) * 255
    return (torch.minimum(grey[..., HEIGHT // 2, 4], grey[..., HEIGHT // 2, -5]) / STEP).round().int().tolist()


LONG = [[2], [3], [1], [4], [2, 3], [], [3], [2]]  # frames 2 and 5 contain no base class; 0, 3, 6 every second that do


# --- labelled frames ---


def test_labels_by_hand(tmp_path):
    images = {f"t{n}": block(2 + n % 3, 2, 3, 8, 8) + block(1, 12, 20, 5, 5) for n in range(6)}
    images["t0"][0] = 255
    root = pascal(tmp_path, {**images, "v": block(3, 2, 3, 8, 8)}, val=("v",))
    fold = read_fold("pascal", 0, root)
    image, labels = TrainingFrames(fold, root, "val", (18, 32))[0]
    assert image.shape == (3, 18, 32) and image.dtype == torch.float32 and labels.dtype == torch.int64
    assert labels.unique().tolist() == [0, 2, 255]  # class 3 is the second base class; padding below row 16
    assert (labels[16:] == 255).all() and (labels[:16] != 255).all()
    expected = block(1, 2, 3, 8, 8)
    expected[12:17, 20:25] = 255  # a novel class is ignored; void is background, or as an option ignored
    for void, label in (("background", 0), ("ignored", 255)):
        expected[0] = label
        _, stored = TrainingFrames(fold, root, "train", (18, 32), void=void).read("t0")
        np.testing.assert_array_equal(stored.numpy(), expected)


def test_images_of_vspw_are_rounded_after_scaling_and_others_are_not(tmp_path):
    root = vspw(tmp_path, {"s": [block(53, 2, 3, 20, 20, size=(45, 80))] * 2})
    path = root / "data" / "s" / "origin" / "8.jpg"
    write_image(path, np.random.default_rng(0).integers(0, 256, (45, 80, 3), np.uint8))
    image, labels = TrainingFrames(read_fold("vspw", 0, root), root, "val", (65, 65))[0]
    due = np.zeros((65, 65, 3), np.float32)  # 45 (65 / 80) = 36.56, cut to 32 x 64
    due[:32, :64] = cv2.resize(read_image(path), (64, 32), interpolation=cv2.INTER_LINEAR)
    due = (due / np.float32(255) - np.float32(MEAN)) / np.float32(STD)
    np.testing.assert_array_equal(image.numpy(), due.transpose(2, 0, 1))
    assert (labels[:32, :64] != IGNORE_LABEL).all() and (labels == IGNORE_LABEL).sum() == 65 * 65 - 32 * 64
    assert {name for name, dataset in DATASETS.items() if dataset.reader.training_rule.rounded} == {"vspw", "minivspw"}


def test_every_nth_frame_with_a_base_class_of_each_listed_video(tmp_path):
    shows = {f"v{n}": [[2]] * 7 + [[1]] for n in range(4)} | {f"w{n}": [[2, 3]] * 4 for n in range(6)}
    root = ytvis(tmp_path, shows, classes=3)
    fold = read_fold("ytvis", 0, root)
    assert fold.train == (*[f"v{n}" for n in range(4)], *[f"w{n}" for n in range(5)], *[f"w{n}" for n in range(5)])
    assert base_videos(fold) == (*[f"v{n}" for n in range(4)], *[f"w{n}" for n in range(5)])  # each once
    frames = TrainingFrames(fold, root, "train", SIZE, every=3).frames
    assert frames[:3] == ("v0/00000", "v0/00015", "v0/00030")  # the eighth frame contains no base class
    assert len(frames) == 4 * 3 + 10 * 2
    for kind in (TrainingFrames, TrainingClips):
        with pytest.raises(ValueError, match="ytvis fold 0: no val frame .* kind_2, kind_3"):
            kind(replace(fold, val=()), root, "val", SIZE)
        with pytest.raises(ValueError, match="ytvis fold 0: no train frame .* kind_3;"):
            kind(replace(fold, train=("v0",)), root, "train", SIZE)
        kind(replace(fold, val=("v0",)), root, "val", SIZE)  # not needed there


@pytest.mark.parametrize("index", range(3))
def test_frames_are_augmented_then_resized(tmp_path, index):
    root = ytvis(tmp_path, {f"{c}{n}": [[c]] * 2 for c in (2, 3, 4) for n in range(2)})
    fold, reader = read_fold("ytvis", 0, root), find_dataset("ytvis").reader(root)
    frames = TrainingFrames(fold, root, "train", (36, 64), seed=7)  # twice the stored size: nothing is padded
    frames.set_epoch(3)
    name = frames.frames[index]
    image, labels = image_tensor(reader.image(name)), mask_tensor(reader.labels(name, (2, 3, 4)))
    image, labels = augment(image, labels, np.random.default_rng([7, 3, index]))
    due = cv2.resize(to_numpy_hwc(image), (64, 36), interpolation=cv2.INTER_LINEAR) / np.float32(255)
    due = (due - np.float32(MEAN)) / np.float32(STD)
    resized = cv2.resize(labels.numpy(), (64, 36), interpolation=cv2.INTER_NEAREST)
    np.testing.assert_array_equal(frames[index][0].numpy(), due.transpose(2, 0, 1))
    np.testing.assert_array_equal(frames[index][1].numpy(), resized)


@pytest.mark.parametrize("kind", ["frames", "clips", "pairs"])
def test_samples_depend_on_seed_epoch_and_index_only(tmp_path, kind):
    fold, root = film(tmp_path, {"a": LONG, "b": LONG})
    fold = replace(fold, train=("a", "b"))

    def samples(seed=4):
        if kind == "pairs":
            return VideoPairs(fold, root, ("a", "b"), SIZE, seed)
        kinds = {"frames": TrainingFrames, "clips": TrainingClips}
        return kinds[kind](fold, root, "train", SIZE, seed, 1)

    first, second, other = samples(), samples(), samples(5)
    second[1], second[0]  # asking for others before changes nothing
    before = [first[index] for index in range(len(first))]
    for batch, index in zip(DataLoader(second, 1, num_workers=1), range(4), strict=False):
        assert all(torch.equal(found[0], due) for found, due in zip(batch, before[index], strict=True))
    assert not any(torch.equal(other[index][0], before[index][0]) for index in range(2))
    first.set_epoch(1)
    assert not any(torch.equal(first[index][0], before[index][0]) for index in range(2))
    first.set_epoch(0)
    assert torch.equal(first[1][0], before[1][0])
    if kind != "pairs":
        with pytest.raises(IndexError):
            first[len(first)]


# --- clips ---


def test_a_clip_of_a_long_video_is_sampled_with_replacement(tmp_path):
    fold, root = film(tmp_path, {"a": LONG, "b": LONG})
    fold = replace(fold, train=("a",), val=("b",))
    clips = TrainingClips(fold, root, "val", SIZE, every=2, frames=2, repeats=200)
    sampled = [tuple(times(images)) for images, _ in clips]
    # base classes are in frames 0 1 3 4 6 7, of which 0 3 6 are used: 9 ordered pairs, each in one of 9 clips
    assert len(clips) == 200 and set(sampled) == {(a, b) for a in (0, 3, 6) for b in (0, 3, 6)}
    assert all(8 <= sampled.count(pair) <= 42 for pair in set(sampled))  # 200/9 = 22, standard deviation 4.4
    images, labels = clips[0]
    assert images.shape == (2, 3, *SIZE) and labels.shape == (2, *SIZE)
    contained = {0: [0, 1], 3: [0, 3], 6: [0, 2]}
    for images, labels in (clips[n] for n in range(10)):
        assert [mask.unique().tolist() for mask in labels] == [contained[t] for t in times(images)]


def test_every_nth_frame_is_taken_in_the_order_of_a_set(tmp_path):
    """Of the numbers of the frames, as CPython orders them: frames 20 to 35 give 32, 21, 26, 31."""
    root = ytvis(tmp_path, {"a": [[]] * 20 + [[2, 3, 4]] * 16, "b": [[]] * 6 + [[2]] * 3}, classes=4)
    fold = replace(read_fold("ytvis", 0, root), train=("a", "b"))
    for order, due in (("set", [[32, 21, 26, 31], [8]]), ("time", [[20, 25, 30, 35], [6]])):
        pools = TrainingClips(fold, root, "train", SIZE, order=order).pools
        assert [[int(frame[2:]) // 5 for frame in pools[video]] for video in "ab"] == due


def test_a_short_video_is_followed_by_repeats(tmp_path):
    fold, root = film(tmp_path, {"a": [[2], [3], [4]], "b": [[]] * 3, "c": LONG})
    fold = replace(fold, train=("a", "b", "c", "a"), val=("a",))
    fives = [times(images) for images, _ in TrainingClips(fold, root, "val", SIZE, every=1, repeats=60)]
    assert all(five[:3] == [0, 1, 2] for five in fives)
    assert {tuple(five[3:]) for five in fives} == {(a, b) for a in range(3) for b in range(3)}
    threes = TrainingClips(fold, root, "val", SIZE, every=1, frames=3)
    assert [times(images) for images, _ in threes] == [[0, 1, 2]] * 10
    assert times(TrainingClips(fold, root, "val", SIZE, every=3, frames=3, repeats=1)[0][0]) == [0, 0, 0]
    clips = TrainingClips(fold, root, "train", SIZE, every=1, frames=3, repeats=4)
    assert clips.videos == ("a", "c", "a") and len(clips) == 12  # b contains no base class
    assert all(times(clips[n][0]) == [0, 1, 2] for n in (0, 2, 3, 5))
    assert len({str(times(clips[n][0])) for n in (1, 4, 7)}) > 1


def test_a_clip_is_augmented_as_one(tmp_path):
    fold, root = film(tmp_path, {"a": LONG, "b": LONG})
    fold, reader = replace(fold, train=("a", "b"), val=("a",)), find_dataset("ytvis").reader(root)
    clips = TrainingClips(fold, root, "train", SIZE, seed=5, every=1, frames=4, repeats=3)
    clips.set_epoch(2)
    for index in (0, 1, 5):
        rng = np.random.default_rng([5, 2, index])
        pool = [f"{'ab'[index % 2]}/{5 * t:05d}" for t in (0, 1, 3, 4, 6, 7)]
        names = [pool[number] for number in rng.integers(6, size=4)]
        images = [image_tensor(reader.image(name)) for name in names]
        images, masks = augment_clip(images, [mask_tensor(reader.labels(name, fold.base)) for name in names], rng)
        found, labels = clips[index]
        assert torch.equal(labels, torch.stack([mask.as_subclass(torch.Tensor).long() for mask in masks]))
        due = torch.stack([image.as_subclass(torch.Tensor) for image in images])
        torch.testing.assert_close(denormalise(found) * 255, due, rtol=0, atol=1e-3)
    images, labels = TrainingClips(fold, root, "val", SIZE, every=1, frames=6, repeats=1)[0]  # not augmented
    for number, (image, mask) in enumerate(TrainingFrames(fold, root, "val", SIZE)):
        assert torch.equal(images[number], image) and torch.equal(labels[number], mask)


# --- pairs ---


def windows(pairs, indices):
    return [tuple(window) for index in indices for window in times(pairs[index][0])]


@pytest.mark.parametrize(
    ("every", "window", "due"),
    [
        (1, 2, {(t, t + 1) for t in range(7)}), (3, 2, {(0, 3), (3, 6)}), (2, 3, {(0, 2, 4), (2, 4, 6)}),
        (1, 8, {tuple(range(8))}), (4, 9, {(0, 4) * 4 + (0,), (4, 0) * 4 + (4,)}), (8, 3, {(0, 0, 0)}),
    ],
)  # fmt: skip
def test_windows_are_consecutive_and_short_videos_doubled(tmp_path, every, window, due):
    fold, root = film(tmp_path, {"a": [[2]] + [[]] * 7})
    pairs = VideoPairs(fold, root, ("a",), SIZE, every=every, window=window)
    found = windows(pairs, range(40))
    assert set(found) == due and all(found.count(each) > 12 / len(due) for each in due)
    images, valid = pairs[0]
    assert images.shape == (1, window, 3, *SIZE) and valid.shape == (1, window, *SIZE) and valid.all()


def test_windows_differ_until_all_have_come_and_frames_are_augmented_by_themselves(tmp_path):
    fold, root = film(tmp_path, {"a": [[2]] * 5, "b": [[2]] * 2})
    pairs, orders, mixed, gains = VideoPairs(fold, root, ("a",), SIZE, every=1, count=10), set(), 0, set()
    for index in range(6):
        images, _ = pairs[index]
        found = windows(pairs, [index])
        assert sorted(found[:4]) == [(0, 1), (1, 2), (2, 3), (3, 4)] and found == (found[:4] * 3)[:10]
        once = {time: images[n, i] for n, pair in enumerate(found) for i, time in enumerate(pair)}
        for n, pair in enumerate(found):  # a frame in two windows is one image
            assert all(torch.equal(images[n, i], once[time]) for i, time in enumerate(pair))
        flips = set()
        for time, image in once.items():  # brightness and flip, no warp
            values = denormalise(image).mean(0) * 255
            sides = values[:, : WIDTH // 2 - 1], values[:, WIDTH // 2 + 1 :]
            assert all(side.std() < 0.05 for side in sides)
            left, right = (side.mean().item() for side in sides)
            flips.add(left > right)
            gains.add(round(abs(right - left) / 40, 3))
            assert 0.969 <= abs(right - left) / 40 <= 1.031 and abs(min(left, right) - time * STEP) < 8.2
        mixed += len(flips) == 2
        orders.add(tuple(found[:4]))
    assert len(orders) > 3 and mixed >= 3 and len(gains) > 15
    both = VideoPairs(fold, root, ("b", "a"), SIZE)
    assert len(both) == 2 and windows(both, (0, 2)) == [(0, 1)] * 2  # index modulo the number of videos
    assert not torch.equal(both[0][0], both[2][0])


def test_pairs_of_vspw_are_flipped_padded_and_filled_up(tmp_path):
    """16 x 32 on a canvas of 39 x 32 is not scaled; a short video is filled up with augmented frames of its own."""
    rng, stored = np.random.default_rng(0), [block(53, 2, 3, 8, 8, (16, 32))] * 2
    root = vspw(tmp_path, {"s": stored}, train=("s",))
    paths = [root / "data" / "s" / "origin" / f"{8 + time}.jpg" for time in range(2)]
    for path in paths:
        write_image(path, rng.integers(0, 256, (16, 32, 3), dtype=np.uint8))
    frames = [torch.from_numpy(read_image(path)).permute(2, 0, 1).float() for path in paths]
    fold = read_fold("vspw", 0, root)
    for path in root.rglob("*.png"):  # annotations are not read
        path.unlink()

    def kind_of(image):
        visible = denormalise(image)[:, :16] * 255
        flips = [(time, axes) for time in range(2) for axes in ((), (-1,), (-2,), (-2, -1))]
        (kind,) = [(t, axes) for t, axes in flips if torch.allclose(visible, frames[t].flip(axes), atol=1e-3)]
        return kind

    ends, seen, unlike = set(), set(), 0
    for index in range(40):
        images, valid = VideoPairs(fold, root, ("s",), (39, 32), window=4, count=2)[index]
        assert valid[..., :16, :].all() and not valid[..., 16:, :].any() and torch.equal(*images)
        kinds = [kind_of(image) for image in images[0]]
        assert [time for time, _ in kinds[:2]] == [0, 1]
        ends.add(tuple(time for time, _ in kinds[2:]))
        seen |= {axes for _, axes in kinds}
        unlike += kinds[2] != kinds[kinds[2][0]]
    assert ends == {(0, 0), (0, 1), (1, 0), (1, 1)} and len(seen) == 4
    assert unlike >= 15  # three of four are flipped otherwise than the original


def test_leaked_videos_are_those_of_the_novel_classes(tmp_path):
    shows = {"a": [[5], [1]], "b": [[2]], "c": [[1]], "d": [[5]]}
    fold = read_fold("ytvis", 0, ytvis(tmp_path / "y", shows, classes=5))
    assert fold.novel == (1, 5) and leaked_test_videos(fold) == ("a", "c", "a", "d")
    ignored = read_table("vspw")["pascal_to_vspw"]["ignored"]
    fold = sequence_fold({"a": [(41,)], ignored[0]: [(41,)], "b": [(53,), ()], ignored[18]: [()]})
    assert len(ignored) == 19 and leaked_test_videos(fold) == ("a", "b")
    mask = [block(7, 2, 3, 8, 8)] * 2
    root = minivspw(tmp_path / "m", {"s": mask, ignored[3]: mask}, {"airplane": 7})
    table = {"classes": {7: "aeroplane"}, "novel": [[7]], "base": [[]]}
    assert leaked_test_videos(read_fold("minivspw", 0, root, table)) == ("s",)


def test_images_have_no_pairs_and_videos_must_exist(tmp_path):
    images = stills_fold({"a": (1,)}, {1: ["a"]})
    for ask in (base_videos, leaked_test_videos, lambda fold: VideoPairs(fold, tmp_path, ("a",), SIZE)):
        with pytest.raises(ValueError, match="pascal fold 0: .*contrast.root"):
            ask(images)
    videos = sequence_fold({"a": [(41,)]})
    for names, found in (((), "no videos"), (("x",), "no frames of x")):
        with pytest.raises(ValueError, match=f"vspw fold 0: {found}"):
            VideoPairs(videos, tmp_path, names, SIZE)


@pytest.mark.parametrize(
    ("novel", "contained"), [("car", {"late"}), ("dog", {"dog"}), ("motorbike", {"bike"}), ("motorcycle", set())]
)
def test_videos_of_vspw_with_a_novel_class_are_no_base_videos(tmp_path, novel, contained):
    """Whichever list a video is of, one pixel of one frame counts, and names are mapped as released."""
    empty = np.zeros(SIZE, np.uint8)
    masks = {
        "late": [empty, empty, block(41, 1, 1, 1, 1)], "dog": [block(45, 1, 1, 9, 9)] * 3, "nothing": [empty] * 3,
        "bike": [empty, block(49, 1, 1, 9, 9), empty], "1146_lps8_r-6J00": [empty] * 3,  # one of the ignored
    }  # fmt: skip
    vspw(tmp_path / "vspw", masks, train=("dog", "late"))
    table = read_json(tmp_path / "vspw" / "lists.json")
    names = {"41": "car", "45": "dog", "49": "motorcycle", "53": "tent"}
    write_json(tmp_path / "vspw" / "lists.json", {**table, "classes": names})
    images = stills_fold({"s0": (1,)}, {1: ("s0",)})
    for folder in (tmp_path, tmp_path / "vspw"):
        other = vspw_beside(replace(images, names={**images.names, 1: novel}), folder)
        assert set(base_videos(other)) == {"late", "dog", "bike", "nothing"} - contained
        assert set(leaked_test_videos(other)) == {"late", "dog", "bike", "nothing"}

"""Training data: the right frames of base classes and pairs of the right videos, augmented by the dataset's rule."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from corpora import HEIGHT, WIDTH, block, minivspw, pascal, vspw, ytvis
from folds import sequence_fold, stills_fold

from ttilib.datasets import transforms as tf
from ttilib.datasets.catalog import find_dataset, read_fold, read_table
from ttilib.files import read_json, write_json
from ttilib.images import read_image, write_image
from ttilib.training import data as td
from ttilib.training.config import ContrastConfig

SIZE = (HEIGHT, WIDTH)
STEP = 25  # grey values between frames of a video: after a change of brightness they are still told apart


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
    grey = tf.denormalise(images).mean(dim=-3) * 255
    return (torch.minimum(grey[..., HEIGHT // 2, 4], grey[..., HEIGHT // 2, -5]) / STEP).round().int().tolist()


LONG = [[2], [3], [1], [4], [2, 3], [], [3], [2]]  # frames 2 and 5 contain no base class; 0, 3, 6 every second that do


def test_labels_by_hand(tmp_path):
    images = {f"t{n}": block(2 + n % 3, 2, 3, 8, 8) + block(1, 12, 20, 5, 5) for n in range(6)}
    images["t0"][0] = 255
    root = pascal(tmp_path, {**images, "v": block(3, 2, 3, 8, 8)}, val=("v",))
    fold = read_fold("pascal", 0, root)
    image, labels = td.TrainingFrames(fold, root, "val", (18, 32))[0]
    assert image.shape == (3, 18, 32) and image.dtype == torch.float32 and labels.dtype == torch.int64
    assert labels.unique().tolist() == [0, 2, 255]  # class 3 is the second base class; padding below row 16
    assert (labels[16:] == 255).all() and (labels[:16] != 255).all()
    expected = block(1, 2, 3, 8, 8)
    expected[12:17, 20:25] = 255  # a novel class is ignored; void is background, or as an option ignored
    for void, label in (("background", 0), ("ignored", 255)):
        expected[0] = label
        _, stored = td.TrainingFrames(fold, root, "train", (18, 32), void=void).read("t0")
        np.testing.assert_array_equal(stored.numpy(), expected)


def test_every_nth_frame_with_a_base_class_of_each_listed_video(tmp_path):
    shows = {f"v{n}": [[2]] * 7 + [[1]] for n in range(4)} | {f"w{n}": [[2, 3]] * 4 for n in range(6)}
    root = ytvis(tmp_path, shows, classes=3)
    fold, v, w = read_fold("ytvis", 0, root), [f"v{n}" for n in range(4)], [f"w{n}" for n in range(5)]
    assert fold.train == (*v, *w, *w) and td.base_videos(fold) == (*v, *w)  # each once
    frames = td.TrainingFrames(fold, root, "train", SIZE, every=3).frames
    assert frames[:3] == ("v0/00000", "v0/00015", "v0/00030")  # the eighth frame contains no base class
    assert len(frames) == 4 * 3 + 10 * 2
    with pytest.raises(ValueError, match="ytvis fold 0: no train frame .* kind_3;"):
        td.TrainingClips(replace(fold, train=("v0",)), root, "train", SIZE)


def test_frames_are_augmented_then_resized(tmp_path):
    root = ytvis(tmp_path, {f"{c}{n}": [[c]] * 2 for c in (2, 3, 4) for n in range(2)})
    fold, reader = read_fold("ytvis", 0, root), find_dataset("ytvis").reader(root)
    frames = td.TrainingFrames(fold, root, "train", (36, 64), seed=7)  # twice the stored size: nothing is padded
    frames.set_epoch(3)
    for index in (2, 0):
        name = frames.frames[index]
        image, labels = tf.image_tensor(reader.image(name)), tf.mask_tensor(reader.labels(name, (2, 3, 4)))
        image, labels = tf.augment(image, labels, np.random.default_rng([7, 3, index]))
        due = cv2.resize(tf.to_numpy_hwc(image), (64, 36), interpolation=cv2.INTER_LINEAR)
        due = (due / np.float32(255) - np.float32(tf.MEAN)) / np.float32(tf.STD)
        np.testing.assert_array_equal(frames[index][0].numpy(), due.transpose(2, 0, 1))
        due = cv2.resize(labels.numpy(), (64, 36), interpolation=cv2.INTER_NEAREST)
        np.testing.assert_array_equal(frames[index][1].numpy(), due)


def test_a_clip_of_a_long_video_is_sampled_with_replacement(tmp_path):
    """Base classes are in frames 0 1 3 4 6 7, of which 0 3 6 are used: 9 ordered pairs, each in one of 9 clips."""
    fold, root = film(tmp_path, {"a": LONG, "b": LONG})
    clips = td.TrainingClips(replace(fold, train=("a",), val=("b",)), root, "val", SIZE, every=2, frames=2, repeats=200)
    sampled, contained = [], {0: [0, 1], 3: [0, 3], 6: [0, 2]}
    for images, labels in clips:
        sampled.append(tuple(times(images)))
        assert images.shape == (2, 3, *SIZE) and labels.shape == (2, *SIZE)
        assert [mask.unique().tolist() for mask in labels] == [contained[t] for t in sampled[-1]]
    assert len(clips) == 200 and set(sampled) == {(a, b) for a in (0, 3, 6) for b in (0, 3, 6)}
    assert all(8 <= sampled.count(pair) <= 42 for pair in set(sampled))  # 200/9 = 22, standard deviation 4.4


def test_every_nth_frame_is_taken_in_the_order_of_a_set(tmp_path):
    """Of the numbers of the frames, as CPython orders them: frames 20 to 35 give 32, 21, 26, 31."""
    root = ytvis(tmp_path, {"a": [[]] * 20 + [[2, 3, 4]] * 16, "b": [[]] * 6 + [[2]] * 3}, classes=4)
    fold = replace(read_fold("ytvis", 0, root), train=("a", "b"))
    for order, due in (("set", [[32, 21, 26, 31], [8]]), ("time", [[20, 25, 30, 35], [6]])):
        pools = td.TrainingClips(fold, root, "train", SIZE, order=order).pools
        assert [[int(frame[2:]) // 5 for frame in pools[video]] for video in "ab"] == due


def test_a_short_video_is_followed_by_repeats(tmp_path):
    fold, root = film(tmp_path, {"a": [[2], [3], [4]], "b": [[]] * 3, "c": LONG})
    fold = replace(fold, train=("a", "b", "c", "a"), val=("a",))
    fives = [times(images) for images, _ in td.TrainingClips(fold, root, "val", SIZE, every=1, repeats=40)]
    assert all(five[:3] == [0, 1, 2] for five in fives)
    assert {tuple(five[3:]) for five in fives} == {(a, b) for a in range(3) for b in range(3)}
    assert times(td.TrainingClips(fold, root, "val", SIZE, every=3, frames=3, repeats=1)[0][0]) == [0, 0, 0]
    clips = td.TrainingClips(fold, root, "train", SIZE, every=1, frames=3, repeats=4)
    assert clips.videos == ("a", "c", "a") and len(clips) == 12  # b contains no base class
    assert all(times(clips[n][0]) == [0, 1, 2] for n in (0, 2, 3, 5))
    assert len({str(times(clips[n][0])) for n in (1, 4, 7)}) > 1


def test_a_clip_is_augmented_as_one(tmp_path):
    fold, root = film(tmp_path, {"a": LONG, "b": LONG})
    fold, reader = replace(fold, train=("a", "b"), val=("a",)), find_dataset("ytvis").reader(root)
    clips = td.TrainingClips(fold, root, "train", SIZE, seed=5, every=1, frames=4, repeats=3)
    clips.set_epoch(2)
    for index in (0, 1, 5):
        rng = np.random.default_rng([5, 2, index])
        pool = [f"{'ab'[index % 2]}/{5 * t:05d}" for t in (0, 1, 3, 4, 6, 7)]
        names = [pool[number] for number in rng.integers(6, size=4)]
        images = [tf.image_tensor(reader.image(name)) for name in names]
        images, masks = tf.augment_clip(images, [tf.mask_tensor(reader.labels(name, fold.base)) for name in names], rng)
        found, labels = clips[index]
        assert torch.equal(labels, torch.stack([mask.as_subclass(torch.Tensor).long() for mask in masks]))
        due = torch.stack([image.as_subclass(torch.Tensor) for image in images])
        torch.testing.assert_close(tf.denormalise(found) * 255, due, rtol=0, atol=1e-3)


def video_pairs(fold, root, videos, size=SIZE, seed=2020, every=1, **settings):
    return td.VideoPairs(fold, root, videos, size, seed, ContrastConfig(every=every, **settings))


def windows(pairs, indices):
    return [tuple(window) for index in indices for window in times(pairs[index][0])]


@pytest.mark.parametrize(
    ("every", "window", "due"),
    [
        (3, 2, {(0, 3), (3, 6)}), (2, 3, {(0, 2, 4), (2, 4, 6)}), (4, 9, {(0, 4) * 4 + (0,), (4, 0) * 4 + (4,)}),
    ],
)  # fmt: skip
def test_windows_are_consecutive_and_short_videos_doubled(tmp_path, every, window, due):
    fold, root = film(tmp_path, {"a": [[2]] + [[]] * 7})
    pairs = video_pairs(fold, root, ("a",), every=every, window=window)
    found = windows(pairs, range(40))
    assert set(found) == due and all(found.count(each) > 12 / len(due) for each in due)
    images, valid = pairs[0]
    assert images.shape == (1, window, 3, *SIZE) and valid.shape == (1, window, *SIZE) and valid.all()


def test_windows_differ_until_all_have_come_and_frames_are_augmented_by_themselves(tmp_path):
    """In brightness and by flips, no warp; a frame in two windows is one image."""
    fold, root = film(tmp_path, {"a": [[2]] * 5, "b": [[2]] * 2})
    pairs, orders, flips, gains = video_pairs(fold, root, ("a",), pairs=10), set(), [], []
    for index in range(6):
        images = pairs[index][0]
        found = [tuple(window) for window in times(images)]
        assert sorted(found[:4]) == [(0, 1), (1, 2), (2, 3), (3, 4)] and found == (found[:4] * 3)[:10]
        once = {time: images[n, i] for n, pair in enumerate(found) for i, time in enumerate(pair)}
        assert all(torch.equal(images[n, i], once[t]) for n, pair in enumerate(found) for i, t in enumerate(pair))
        values = tf.denormalise(torch.stack(list(once.values()))).mean(1) * 255
        sides = torch.stack([values[..., : WIDTH // 2 - 1], values[..., WIDTH // 2 + 1 :]]).flatten(2)
        assert (sides.std(2) < 0.05).all()
        flips.append(len(set((sides.mean(2)[0] > sides.mean(2)[1]).tolist())))
        gains += (sides.mean(2).diff(dim=0).abs() / 40).flatten().tolist()
        orders.add(tuple(found[:4]))
    assert len(orders) > 3 and flips.count(2) >= 3 and len({round(gain, 3) for gain in gains}) > 15
    assert 0.969 <= min(gains) <= max(gains) <= 1.031
    both, other = (video_pairs(fold, root, ("b", "a"), seed=seed) for seed in (4, 5))
    assert len(both) == 2 and windows(both, (0, 2)) == [(0, 1)] * 2  # index modulo the number of videos
    first = both[0][0]
    both.set_epoch(1)
    assert not any(torch.equal(first, each) for each in (both[2][0], both[0][0], other[0][0]))


def test_pairs_of_vspw_are_flipped_padded_and_filled_up(tmp_path):
    """16 x 32 on a canvas of 39 x 32 is not scaled; a short video is filled up with augmented frames of its own."""
    root = vspw(tmp_path, {"s": [block(53, 2, 3, 8, 8, (16, 32))] * 2}, train=("s",))
    paths = [root / "data" / "s" / "origin" / f"{8 + time}.jpg" for time in range(2)]
    for seed, path in enumerate(paths):
        write_image(path, np.random.default_rng(seed).integers(0, 256, (16, 32, 3), dtype=np.uint8))
    frames = [torch.from_numpy(read_image(path)).permute(2, 0, 1).float() for path in paths]
    fold = read_fold("vspw", 0, root)
    for path in root.rglob("*.png"):  # annotations are not read
        path.unlink()

    def kind_of(image):
        visible = tf.denormalise(image)[:, :16] * 255
        flips = [(time, axes) for time in range(2) for axes in ((), (-1,), (-2,), (-2, -1))]
        (kind,) = [(t, axes) for t, axes in flips if torch.allclose(visible, frames[t].flip(axes), atol=1e-3)]
        return kind

    ends, seen, unlike = set(), set(), 0
    for index in range(40):
        images, valid = video_pairs(fold, root, ("s",), (39, 32), window=4, pairs=2)[index]
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
    assert fold.novel == (1, 5) and td.leaked_test_videos(fold) == ("a", "c", "a", "d")
    ignored = read_table("vspw")["pascal_to_vspw"]["ignored"]
    fold = sequence_fold({"a": [(41,)], ignored[0]: [(41,)], "b": [(53,), ()], ignored[18]: [()]})
    assert len(ignored) == 19 and td.leaked_test_videos(fold) == ("a", "b")
    mask = [block(7, 2, 3, 8, 8)] * 2
    root = minivspw(tmp_path / "m", {"s": mask, ignored[3]: mask}, {"airplane": 7})
    table = {"classes": {7: "aeroplane"}, "novel": [[7]], "base": [[]]}
    assert td.leaked_test_videos(read_fold("minivspw", 0, root, table)) == ("s",)


def test_videos_of_vspw_with_a_novel_class_are_no_base_videos(tmp_path):
    """Whichever list a video is of, one pixel of one frame counts, and names are mapped as released."""
    empty = np.zeros(SIZE, np.uint8)
    masks = {
        "late": [empty, empty, block(41, 1, 1, 1, 1)], "dog": [block(45, 1, 1, 9, 9)] * 3, "nothing": [empty] * 3,
        "bike": [empty, block(49, 1, 1, 9, 9), empty], "1146_lps8_r-6J00": [empty] * 3,  # one of the ignored
    }  # fmt: skip
    table = read_json(vspw(tmp_path / "vspw", masks, train=("dog", "late")) / "lists.json")
    names = {"41": "car", "45": "dog", "49": "motorcycle", "53": "tent"}
    write_json(tmp_path / "vspw" / "lists.json", {**table, "classes": names})
    images, every = stills_fold({"s0": (1,)}, {1: ("s0",)}), {"late", "dog", "bike", "nothing"}
    for novel, contained in (("car", {"late"}), ("dog", {"dog"}), ("motorbike", {"bike"}), ("motorcycle", set())):
        for folder in (tmp_path, tmp_path / "vspw"):
            other = td.vspw_beside(replace(images, names={**images.names, 1: novel}), folder)
            assert set(td.base_videos(other)) == every - contained and set(td.leaked_test_videos(other)) == every

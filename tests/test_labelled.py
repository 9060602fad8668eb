"""Base training sees the right frames of the base classes, varied by the rule of their dataset and by nothing else."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from corpora import HEIGHT, WIDTH, block, pascal, polygon, vspw, ytvis
from torch.utils.data import DataLoader

from ttilib.datasets.base import IGNORE_LABEL
from ttilib.datasets.catalog import DATASETS, find_dataset, read_fold
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
from ttilib.training.data import TrainingClips, TrainingFrames

SIZE = (HEIGHT, WIDTH)


def training(tmp_path):
    stills = {f"t{n}": block(2 + n % 3, 2, 3, 8, 8) + block(1, 12, 20, 5, 5) for n in range(6)}
    stills["t0"][0] = 255
    root = pascal(tmp_path, {**stills, "v": block(3, 2, 3, 8, 8)}, val=("v",))
    return read_fold("pascal", 0, root), root


def test_training_items_depend_on_seed_epoch_and_index_only(tmp_path):
    fold, root = training(tmp_path)
    first, second = (TrainingFrames(fold, root, "train", (17, 33), seed=4) for _ in range(2))
    second[3], second[0]  # asking for others before changes nothing
    for index in range(len(first)):
        assert torch.equal(first[index][0], second[index][0]) and torch.equal(
            first[index][1], second[index][1]
        )
    before = [first[index][0] for index in range(len(first))]
    first.set_epoch(1)
    assert any(not torch.equal(before[index], first[index][0]) for index in range(len(first)))
    with pytest.raises(IndexError):
        first[len(first)]
    assert len(list(first)) == 6


def test_training_labels_by_hand(tmp_path):
    fold, root = training(tmp_path)
    image, labels = TrainingFrames(fold, root, "val", (18, 32))[0]
    assert image.shape == (3, 18, 32) and image.dtype == torch.float32 and labels.dtype == torch.int64
    assert labels.unique().tolist() == [0, 2, 255]  # class 3 is the second base class; padding below row 16
    assert (labels[16:] == 255).all() and (labels[:16] != 255).all()
    stored = find_dataset("pascal").reader(root).labels("t0", fold.base)
    expected = block(1, 2, 3, 8, 8)
    expected[12:17, 20:25] = expected[0] = 255  # a novel class and void are both ignored
    np.testing.assert_array_equal(stored, expected)
    raw = block(53, 2, 3, 8, 8) + block(41, 12, 20, 5, 5)
    raw[0] = 255
    reader = find_dataset("vspw").reader(vspw(tmp_path / "vspw", {"s": [raw]}))
    np.testing.assert_array_equal(reader.labels("s/8", (49, 53)), block(2, 2, 3, 8, 8))


def test_training_pictures_of_vspw_are_scaled_in_bytes_and_others_are_not(tmp_path):
    stored = block(53, 2, 3, 20, 20, size=(45, 80))
    root = vspw(tmp_path, {"s": [stored, stored]})
    noise = np.random.default_rng(0).integers(0, 256, (45, 80, 3), np.uint8)
    write_image(root / "data" / "s" / "origin" / "8.jpg", noise)
    fold = read_fold("vspw", 0, root)
    image, labels = TrainingFrames(fold, root, "val", (65, 65))[0]
    stored_picture = read_image(root / "data" / "s" / "origin" / "8.jpg")
    # 45 (65 / 80) = 36.56, cut to 32 x 64
    scaled = cv2.resize(stored_picture, (64, 32), interpolation=cv2.INTER_LINEAR)
    due = np.zeros((65, 65, 3))
    due[:32, :64] = scaled
    due = (np.float32(due) / np.float32(255) - np.float32(MEAN)) / np.float32(STD)
    np.testing.assert_array_equal(image.numpy(), due.transpose(2, 0, 1))
    assert (labels[:32, :64] != IGNORE_LABEL).all() and (labels == IGNORE_LABEL).sum() == 65 * 65 - 32 * 64
    readers = [(name, dataset.reader) for name, dataset in DATASETS.items()]
    rules = {corpus: (reader.episode_rule.rounded, reader.training_rule.rounded) for corpus, reader in readers}
    assert rules["vspw"] == (False, True) and rules["ytvis"] == rules["pascal"] == rules["davis"] == (False, False)


def test_portrait_videos_are_laid_on_their_side_for_training_only(tmp_path):
    root = ytvis(tmp_path, {f"v{n}": [[2]] for n in range(2)}, classes=2)
    content = read_json(root / "train" / "train.json")
    for video in content["videos"]:
        video |= {"height": 32, "width": 18}
        write_image(root / "train" / "JPEGImages" / video["file_names"][0], np.full((32, 18, 3), 200, np.uint8))
    for entry in content["annotations"]:
        entry["segmentations"] = [polygon(2, 2, 20, 6)]
    write_json(root / "train" / "train.json", content)
    fold = read_fold("ytvis", 0, root)
    wide, _ = TrainingFrames(fold, root, "train", SIZE)[0]
    tall, labels = TrainingFrames(fold, root, "val", SIZE)[0]
    black = -MEAN[0] / STD[0]
    assert (wide[0] > black + 1).float().mean() > 0.7  # the turned image fills the canvas but for the warp's corners
    assert (tall[0] > black + 1).sum() == 18 * 10 and labels.max() > 0  # f = 18/32: 10 columns


def test_training_takes_every_nth_frame_of_each_listed_video(tmp_path):
    shows = {f"v{n}": [[2]] * 7 + [[1]] for n in range(4)} | {f"w{n}": [[2, 3]] * 4 for n in range(6)}
    root = ytvis(tmp_path, shows, classes=3)
    fold = read_fold("ytvis", 0, root)
    assert fold.train == (
        *[f"v{n}" for n in range(4)],
        *[f"w{n}" for n in range(5)],
        *[f"w{n}" for n in range(5)],
    )
    frames = TrainingFrames(fold, root, "train", SIZE, every=3).frames
    assert frames[:3] == ("v0/00000", "v0/00015", "v0/00030")  # the eighth frame shows no base class
    assert len(frames) == 4 * 3 + 10 * 2
    with pytest.raises(ValueError, match="split 'test' is not known"):
        TrainingFrames(fold, root, "test", SIZE)
    with pytest.raises(ValueError, match="ytvis fold 0: no val frame"):
        TrainingFrames(replace(fold, val=()), root, "val", SIZE)


@pytest.mark.parametrize("index", range(4))
def test_a_varied_frame_is_the_reader_s_variation_laid_by_the_reader_s_rule(tmp_path, index):
    root = ytvis(tmp_path, {f"{c}{n}": [[c]] * 2 for c in (2, 3, 4) for n in range(2)})
    fold, reader = read_fold("ytvis", 0, root), find_dataset("ytvis").reader(root)
    frames = TrainingFrames(fold, root, "train", (36, 64), seed=7)  # twice the stored size: nothing is padded
    frames.set_epoch(3)
    name = frames.frames[index]
    image, labels = image_tensor(reader.image(name)), mask_tensor(reader.labels(name, (2, 3, 4)))
    image, labels = augment(image, labels, np.random.default_rng([7, 3, index]))
    due = cv2.resize(to_numpy_hwc(image), (64, 36), interpolation=cv2.INTER_LINEAR) / np.float32(255)
    due = (due - np.float32(MEAN)) / np.float32(STD)
    laid = cv2.resize(labels.numpy(), (64, 36), interpolation=cv2.INTER_NEAREST)
    np.testing.assert_array_equal(frames[index][0].numpy(), due.transpose(2, 0, 1))
    np.testing.assert_array_equal(frames[index][1].numpy(), laid)


STEP = 25
"""Grey values between the frames of a grey video: lit otherwise, they are still told apart."""


def grey_ytvis(tmp_path, shows, classes=4):
    """Frame t of every video is all of one grey, t STEP; class c is a square at (2, 3 c), as ever."""
    root = ytvis(tmp_path, shows, classes)
    for video in read_json(root / "train" / "train.json")["videos"]:
        for time, file in enumerate(video["file_names"]):
            grey = np.full((HEIGHT, WIDTH, 3), time * STEP, np.uint8)
            write_image(root / "train" / "JPEGImages" / file, grey)
    return read_fold("ytvis", 0, root), root


def greys(pictures):
    """The grey value in the middle of each image."""
    return denormalise(pictures)[..., HEIGHT // 2, WIDTH // 2].mean(dim=-1) * 255


def times(pictures):
    return (greys(pictures) / STEP).round().int().tolist()


LONG = [[2], [3], [1], [4], [2, 3], [], [3], [2]]  # frames 2 and 5 show no base class; 0, 3, 6 are every second that do


def test_a_clip_of_a_long_video_is_drawn_with_replacement_and_in_no_order(tmp_path):
    fold, root = grey_ytvis(tmp_path, {"a": LONG, "b": LONG})
    fold = replace(fold, train=("a",), val=("b",))
    clips = TrainingClips(fold, root, "val", SIZE, every=2, frames=2, repeats=200)
    assert len(clips) == 200 and clips.videos == ("b",)
    drawn = [tuple(times(pictures)) for pictures, _ in clips]
    # base classes are in frames 0 1 3 4 6 7, of which 0 3 6 are kept: 9 ordered pairs, each in one of 9 clips
    counts = {pair: drawn.count(pair) for pair in set(drawn)}
    assert counts.keys() == {(a, b) for a in (0, 3, 6) for b in (0, 3, 6)}
    assert all(8 <= count <= 42 for count in counts.values())  # 200/9 = 22, standard deviation 4.4
    pictures, labels = clips[0]
    assert pictures.shape == (2, 3, *SIZE) and pictures.dtype == torch.float32
    assert labels.shape == (2, *SIZE) and labels.dtype == torch.int64
    shown = {0: [0, 1], 3: [0, 3], 6: [0, 2]}
    for pictures, labels in (clips[n] for n in range(10)):
        assert [mask.unique().tolist() for mask in labels] == [shown[t] for t in times(pictures)]


def test_a_short_video_is_followed_by_repeats_and_one_of_the_right_length_is_taken_as_it_is(tmp_path):
    fold, root = grey_ytvis(tmp_path, {"a": [[2], [3], [4]], "b": LONG})
    fold = replace(fold, train=("a", "a"), val=("a",))
    fives = [times(pictures) for pictures, _ in TrainingClips(fold, root, "val", SIZE, every=1, repeats=60)]
    assert all(five[:3] == [0, 1, 2] for five in fives)
    assert {tuple(five[3:]) for five in fives} == {(a, b) for a in range(3) for b in range(3)}
    threes = TrainingClips(fold, root, "val", SIZE, every=1, frames=3)
    assert [times(pictures) for pictures, _ in threes] == [[0, 1, 2]] * 10
    alone = TrainingClips(fold, root, "val", SIZE, every=3, frames=3, repeats=1)
    assert times(alone[0][0]) == [0, 0, 0]


def test_videos_are_gone_through_again_and_again_as_often_as_they_are_listed(tmp_path):
    fold, root = grey_ytvis(tmp_path, {"a": LONG, "b": [[]] * 3, "c": [[2]]})
    clips = TrainingClips(replace(fold, train=("c", "a", "b", "a")), root, "train", SIZE, every=1, repeats=4)
    assert clips.videos == ("c", "a", "a") and len(clips) == 12  # b shows no base class
    for index in range(12):
        assert (len(set(times(clips[index][0]))) == 1) == (index % 3 == 0)  # c has one frame
    drawn = [tuple(times(clips[index][0])) for index in (1, 2, 4, 5, 7)]
    assert len(set(drawn)) == 5
    for index in (-1, 12):
        with pytest.raises(IndexError, match=f"index {index} of 12"):
            clips[index]


def test_a_clip_is_varied_as_one_and_its_first_frame_is_not_warped(tmp_path):
    fold, root = grey_ytvis(tmp_path, {"a": [[2, 3, 4]] * 8, "b": LONG})
    clips = TrainingClips(replace(fold, train=("a",)), root, "train", SIZE, every=1, repeats=40)
    stored = torch.from_numpy(find_dataset("ytvis").reader(root).labels("a/00000", fold.base)).long()
    mirrors, lights, warped = [], [], 0
    for pictures, labels in clips:
        mirrors.append(torch.equal(labels[0], stored.flip(-1)))
        assert mirrors[-1] or torch.equal(labels[0], stored)
        turned = [mask.flip(-1) if mirrors[-1] else mask for mask in labels[1:]]
        assert all(torch.equal(turned[0], mask) for mask in turned)  # one warp for the four
        warped += not torch.equal(turned[0], stored)
        # the middle stays in view under every warp: its greys are those of the frames times c plus o
        at = torch.tensor(times(pictures), dtype=torch.float32) * STEP
        if len(at.unique()) > 1:
            fit = np.polyfit(at.numpy(), greys(pictures).numpy(), 1)
            np.testing.assert_allclose(np.polyval(fit, at.numpy()), greys(pictures), atol=0.05)
            assert 0.969 <= fit[0] <= 1.031 and -5.05 <= fit[1] <= 5.05
            lights.append(round(float(fit[0]), 4))
    assert 8 <= sum(mirrors) <= 32 and warped > 35 and len(set(lights)) > 30


def test_a_varied_clip_is_the_library_s_clip_of_the_drawn_frames(tmp_path):
    fold, root = grey_ytvis(tmp_path, {"a": LONG, "b": LONG})
    fold, reader = replace(fold, train=("a", "b")), find_dataset("ytvis").reader(root)
    clips = TrainingClips(fold, root, "train", SIZE, seed=5, every=1, frames=4, repeats=3)
    clips.set_epoch(2)
    for index in (0, 1, 5):
        rng = np.random.default_rng([5, 2, index])
        pool = [f"{'ab'[index % 2]}/{5 * t:05d}" for t in (0, 1, 3, 4, 6, 7)]
        names = [pool[place] for place in rng.integers(6, size=4)]
        images = [image_tensor(reader.image(name)) for name in names]
        masks = [mask_tensor(reader.labels(name, fold.base)) for name in names]
        images, masks = augment_clip(images, masks, rng)
        pictures, labels = clips[index]
        assert torch.equal(labels, torch.stack([mask.as_subclass(torch.Tensor).long() for mask in masks]))
        due = torch.stack([image.as_subclass(torch.Tensor) for image in images])
        torch.testing.assert_close(denormalise(pictures) * 255, due, rtol=0, atol=1e-3)


@pytest.mark.parametrize("corpus", ["pascal", "vspw"])
def test_clips_of_other_corpora_are_mirrored_frame_by_frame(tmp_path, corpus):
    stored, size = (16, 32), (39, 32)  # not scaled, and laid in the upper 16 rows
    if corpus == "pascal":
        stills = {f"t{number}": block(number, 2, 3, 8, 8, stored) for number in (2, 3, 4)}
        root, count = pascal(tmp_path, {**stills, "v": block(1, 2, 3, 8, 8, stored)}, val=("v",)), 3
    else:
        films = {"s": [block(53, 2, 3, 8, 8, stored)], "t": [block(49, 2, 3, 8, 8, stored)]}
        root, count = vspw(tmp_path, films, train=("s", "t")), 2
    fold = read_fold(corpus, 0, root)
    still, known = TrainingFrames(replace(fold, val=fold.train), root, "val", size)[0]
    assert (known[16:] == IGNORE_LABEL).all() and known[:16].unique().tolist() == [0, 1]
    mirrored = [(still.clone(), known.clone()) for _ in range(4)]
    for (picture, labels), axes in zip(mirrored, [(), (-1,), (-2,), (-2, -1)], strict=True):
        picture[:, :16], labels[:16] = still[:, :16].flip(axes), known[:16].flip(axes)
    clips, seen, mixed = TrainingClips(fold, root, "train", size, every=5, repeats=10), set(), 0
    assert len(clips) == 10 * count
    for index in range(0, len(clips), count):
        same = [
            [torch.equal(picture, due) and torch.equal(labels, mask) for due, mask in mirrored]
            for picture, labels in zip(*clips[index], strict=True)
        ]
        assert [sum(row) for row in same] == [1] * 5
        kinds = {row.index(True) for row in same}
        seen |= kinds
        mixed += len(kinds) > 1
    assert seen == {0, 1, 2, 3} and mixed >= 8


@pytest.mark.parametrize("workers", [0, 2])
def test_clips_depend_on_seed_epoch_and_index_only(tmp_path, workers):
    fold, root = grey_ytvis(tmp_path, {"a": LONG, "b": LONG})
    fold = replace(fold, train=("a", "b"))
    clips, others = (TrainingClips(fold, root, "train", SIZE, seed=seed, every=1, repeats=3) for seed in (4, 5))
    before = list(clips)
    for batch, (pictures, labels) in enumerate(DataLoader(clips, 2, num_workers=workers)):
        for place in range(2):
            assert torch.equal(pictures[place], before[2 * batch + place][0])
            assert torch.equal(labels[place], before[2 * batch + place][1])
    assert all(not torch.equal(others[index][0], before[index][0]) for index in range(6))
    clips.set_epoch(1)
    assert all(not torch.equal(clips[index][0], before[index][0]) for index in range(6))
    clips.set_epoch(0)
    assert torch.equal(clips[5][0], before[5][0]) and torch.equal(clips[0][1], before[0][1])


def test_held_out_clips_are_not_augmented(tmp_path):
    fold, root = grey_ytvis(tmp_path, {"a": LONG})
    fold = replace(fold, train=("a",), val=("a",))
    clips = TrainingClips(fold, root, "val", SIZE, every=1, frames=len(LONG), repeats=1)
    frames = TrainingFrames(fold, root, "val", SIZE)
    images, labels = clips[0]
    for number in range(len(frames)):  # a clip of all frames, in their order
        assert torch.equal(images[number], frames[number][0]) and torch.equal(labels[number], frames[number][1])


@pytest.mark.parametrize("kind", [TrainingFrames, TrainingClips])
def test_a_base_class_that_no_training_frame_shows_is_named(tmp_path, kind):
    shows = {f"v{n}": [[2], [3]] for n in range(2)} | {"w": [[2], [4]]}
    root = ytvis(tmp_path, shows, classes=4)
    fold = replace(read_fold("ytvis", 0, root), train=("v0", "w"), val=("v1",))
    assert len(kind(fold, root, "train", SIZE, every=1)) > 0
    assert len(kind(fold, root, "val", SIZE, every=1)) > 0  # class 4 is not needed there
    with pytest.raises(ValueError) as caught:
        kind(replace(fold, train=("v0",)), root, "train", SIZE, every=1)
    assert str(caught.value).startswith(f"ytvis fold 0: no training frame in {root} shows the base classes kind_4;")
    with pytest.raises(ValueError, match=r"among every 2\. of each video shows the base classes kind_3, kind_4;"):
        kind(fold, root, "train", SIZE, every=2)


@pytest.mark.parametrize("kind", [TrainingFrames, TrainingClips])
def test_settings_that_cannot_be_used_are_named(tmp_path, kind):
    fold, root = training(tmp_path)
    with pytest.raises(ValueError, match="split 'test' is not known"):
        kind(fold, root, "test", SIZE)
    with pytest.raises(ValueError, match="pascal fold 0: no val frame in .* shows a base class"):
        kind(replace(fold, val=()), root, "val", SIZE)
    with pytest.raises(ValueError, match="pascal fold 0: no train frame in .* shows a base class"):
        kind(replace(fold, train=()), root, "train", SIZE)
    with pytest.raises(ValueError, match="every is 0; give 1"):
        kind(fold, root, "train", SIZE, every=0)
    for wrong in ({"frames": 0}, {"repeats": 0}):
        with pytest.raises(ValueError, match="both count from 1"):
            TrainingClips(fold, root, "train", SIZE, **wrong)

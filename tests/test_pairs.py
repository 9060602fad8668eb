"""Pairs for the contrast: consecutive frames of the right videos, each varied by itself, and no other pixel read."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from corpora import HEIGHT, WIDTH, block, minivspw, pascal, vspw, ytvis
from folds import fold as named_fold
from folds import sequence_fold, stills_fold
from torch.utils.data import DataLoader

from ttilib.datasets.catalog import read_fold, read_table
from ttilib.datasets.transforms import denormalise
from ttilib.files import read_json, write_json
from ttilib.images import read_image, write_image
from ttilib.training.data import VideoPairs, base_videos, leaked_test_videos, vspw_beside

SIZE = (HEIGHT, WIDTH)
STEP = 25
"""Grey values between frames: lit otherwise, they are still told apart."""


def film(tmp_path, length=8, others=()):
    """Video a: frame t is t STEP on its left half and t STEP + 40 on its right; it shows class 2 in frame 0 only."""
    shows = {"a": [[2]] + [[]] * (length - 1), **{name: [[3]] * 2 for name in others}}
    root = ytvis(tmp_path, shows, classes=4)
    for time in range(length):
        picture = np.full((HEIGHT, WIDTH, 3), time * STEP, np.uint8)
        picture[:, WIDTH // 2 :] += 40
        write_image(root / "train" / "JPEGImages" / "a" / f"{5 * time:05d}.jpg", picture)
    return read_fold("ytvis", 0, root), root


def read(pictures):
    """Which frame each image is, and whether it is mirrored."""
    grey = denormalise(pictures).mean(dim=-3) * 255
    left, right = grey[..., HEIGHT // 2, 2], grey[..., HEIGHT // 2, -3]
    return (torch.minimum(left, right) / STEP).round().int().tolist(), (left > right).tolist()


def windows(pairs, indices):
    return [tuple(window) for index in indices for window in read(pairs[index][0])[0]]


@pytest.mark.parametrize(
    ("every", "window", "due"),
    [
        (1, 2, {(t, t + 1) for t in range(7)}),
        (3, 2, {(0, 3), (3, 6)}),
        (2, 3, {(0, 2, 4), (2, 4, 6)}),
        (1, 8, {tuple(range(8))}),
    ],
)
def test_windows_are_consecutive_kept_frames_in_their_order(tmp_path, every, window, due):
    fold, root = film(tmp_path)
    pairs = VideoPairs(fold, root, ("a",), SIZE, every=every, window=window)
    found = windows(pairs, range(60))
    assert set(found) == due and all(found.count(each) > 20 / len(due) for each in due)
    pictures, known = pairs[0]
    assert pictures.shape == (1, window, 3, *SIZE) and known.shape == (1, window, *SIZE) and known.all()
    assert pictures.dtype == torch.float32 and known.dtype == torch.bool


def test_windows_differ_until_all_were_there_and_then_come_again(tmp_path):
    fold, root = film(tmp_path, 5)
    pairs, orders = VideoPairs(fold, root, ("a",), SIZE, every=1, count=10), set()
    for index in range(6):
        found = windows(pairs, [index])
        assert sorted(found[:4]) == [(0, 1), (1, 2), (2, 3), (3, 4)]
        assert found == (found[:4] * 3)[:10]
        pictures, _ = pairs[index]
        assert torch.equal(pictures[0], pictures[4]) and torch.equal(pictures[1], pictures[9])
        once = {time: pictures[n, place] for n, pair in enumerate(found) for place, time in enumerate(pair)}
        for n, pair in enumerate(found):  # a frame in two windows is one image
            assert all(torch.equal(pictures[n, place], once[time]) for place, time in enumerate(pair))
        orders.add(tuple(found[:4]))
    assert len(orders) > 3


def test_frames_of_ytvis_are_lit_and_mirrored_each_by_itself_and_never_warped(tmp_path):
    fold, root = film(tmp_path, 4)
    stored = [
        torch.from_numpy(read_image(root / "train" / "JPEGImages" / "a" / f"{5 * t:05d}.jpg")).permute(2, 0, 1).float()
        for t in range(4)
    ]
    pairs, lights, mixed = VideoPairs(fold, root, ("a",), SIZE), [], 0
    for index in range(30):
        pictures, _ = pairs[index]
        (times,), (mirrored,) = read(pictures)
        for picture, time, turned in zip(pictures[0], times, mirrored, strict=True):
            values, due = denormalise(picture) * 255, stored[time].flip(-1) if turned else stored[time]
            contrast, offset = np.polyfit(due.flatten().numpy(), values.flatten().numpy(), 1)
            torch.testing.assert_close(values, due * float(contrast) + float(offset), rtol=0, atol=0.05)
            assert 0.969 <= contrast <= 1.031 and -5.1 <= offset <= 5.1
            lights.append(round(float(contrast), 4))
        mixed += len(set(mirrored)) == 2
    assert len(set(lights)) > 50 and 5 <= mixed <= 25


def test_portrait_videos_lie_on_their_side_and_everything_counts(tmp_path):
    fold, root = film(tmp_path, 2)
    content = read_json(root / "train" / "train.json")
    content["videos"][0] |= {"height": WIDTH, "width": HEIGHT}
    write_json(root / "train" / "train.json", content)
    for time in range(2):
        bright = np.full((WIDTH, HEIGHT, 3), 200, np.uint8)
        write_image(root / "train" / "JPEGImages" / "a" / f"{5 * time:05d}.jpg", bright)
    pictures, known = VideoPairs(fold, root, ("a",), (HEIGHT + 10, WIDTH))[0]
    shown = denormalise(pictures)[0, :, 0] > 0.5
    assert shown[:, 5 : 5 + HEIGHT].all() and shown.sum() == 2 * HEIGHT * WIDTH and known.all()


def test_a_short_ytvis_video_is_doubled(tmp_path):
    fold, root = film(tmp_path, 4)
    alone = VideoPairs(fold, root, ("a",), SIZE, every=4, window=3, count=2)
    for index in range(4):
        pictures, _ = alone[index]
        assert windows(alone, [index]) == [(0, 0, 0)] * 2
        assert all(torch.equal(pictures[0, 0], picture) for picture in pictures.flatten(0, 1))
    two = VideoPairs(fold, root, ("a",), SIZE, every=2, window=3, count=2)
    starts = {tuple(windows(two, [index])) for index in range(20)}
    assert starts == {((0, 2, 0), (2, 0, 2)), ((2, 0, 2), (0, 2, 0))}
    five = VideoPairs(fold, root, ("a",), SIZE, every=2, window=5)  # of eight frames, so four windows
    found = windows(five, range(40))
    assert set(found) == {(0, 2, 0, 2, 0), (2, 0, 2, 0, 2)}


def sequences(tmp_path, length=3):
    """A VSPW folder whose frames are 16 x 32: on a canvas of 39 x 32 they are not scaled."""
    rng = np.random.default_rng(0)
    stored = [block(53, 2, 3, 8, 8, (16, 32)) for _ in range(length)]
    root = vspw(tmp_path, {"s": stored, "t": stored}, train=("s",))
    for name in "st":
        for time in range(length):
            noise = rng.integers(0, 256, (16, 32, 3), dtype=np.uint8)
            write_image(root / "data" / name / "origin" / f"{8 + time}.jpg", noise)
    return read_fold("vspw", 0, root), root


def kind_of(picture, stored):
    """Which stored frame and which of its four mirrors an image on a canvas of 39 x 32 is."""
    shown = denormalise(picture) * 255
    assert shown[:, 16:].abs().max() < 1e-3
    for time, frame in enumerate(stored):
        for place, axes in enumerate([(), (-1,), (-2,), (-2, -1)]):
            if torch.allclose(shown[:, :16], frame.flip(axes), atol=1e-3):
                return time, place
    raise AssertionError("no stored frame")


def stored_frames(root, length):
    paths = [root / "data" / "s" / "origin" / f"{8 + time}.jpg" for time in range(length)]
    return [torch.from_numpy(read_image(path)).permute(2, 0, 1).float() for path in paths]


def test_frames_of_vspw_are_mirrored_each_by_itself_and_padding_does_not_count(tmp_path):
    fold, root = sequences(tmp_path)
    stored, pairs = stored_frames(root, 3), VideoPairs(fold, root, ("s",), (39, 32))
    seen, mixed, order = set(), 0, set()
    for index in range(30):
        pictures, known = pairs[index]
        assert known[..., :16, :].all() and not known[..., 16:, :].any()
        (first, one), (second, other) = (kind_of(picture, stored) for picture in pictures[0])
        assert second == first + 1
        order.add(first)
        seen |= {one, other}
        mixed += one != other
    assert seen == {0, 1, 2, 3} and order == {0, 1} and mixed > 12


def test_a_short_sequence_of_vspw_is_filled_up_with_random_frames_of_their_own(tmp_path):
    fold, root = sequences(tmp_path, 2)
    stored, pairs = stored_frames(root, 2), VideoPairs(fold, root, ("s",), (39, 32), window=4, count=2)
    ends, unlike = set(), 0
    for index in range(40):
        pictures, _ = pairs[index]
        kinds = [kind_of(picture, stored) for picture in pictures[0]]
        assert [time for time, _ in kinds[:2]] == [0, 1] and torch.equal(*pictures)
        ends.add(tuple(time for time, _ in kinds[2:]))
        unlike += kinds[2] != kinds[kinds[2][0]]
    assert ends == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert unlike >= 15  # three of four draws are another mirror than the original's


def test_pictures_of_vspw_are_scaled_in_bytes_as_in_training(tmp_path):
    fold, root = sequences(tmp_path)
    pictures, known = VideoPairs(fold, root, ("s",), (65, 65))[0]
    grey = denormalise(pictures)[0, :, :, :32, :64] * 255
    torch.testing.assert_close(grey, grey.round(), rtol=0, atol=1e-3)
    assert grey.std() > 10 and known.sum() == 2 * 32 * 64


def test_only_the_frames_of_the_windows_are_read_and_no_annotation(tmp_path):
    fold, root = film(tmp_path / "y")
    pairs = VideoPairs(fold, root, ("a",), SIZE)
    (first, second), due = windows(pairs, [5])[0], pairs[5][0]
    for time in set(range(8)) - {first, second}:
        (root / "train" / "JPEGImages" / "a" / f"{5 * time:05d}.jpg").write_bytes(b"")
    assert torch.equal(pairs[5][0], due)
    with pytest.raises(ValueError, match=r"\.jpg: image file is empty"):
        [pairs[index] for index in range(20)]
    fold, root = sequences(tmp_path / "v")
    for path in root.rglob("*.png"):
        path.unlink()
    assert VideoPairs(fold, root, ("s",), SIZE)[0][0].isfinite().all()


def test_items_go_through_the_videos_again_and_depend_on_seed_epoch_and_index_only(tmp_path):
    fold, root = film(tmp_path, 8, others=("b", "c"))
    first, second = (VideoPairs(fold, root, ("b", "a"), SIZE, seed=4) for _ in range(2))
    other = VideoPairs(fold, root, ("b", "a"), SIZE, seed=5)
    assert len(first) == 2 and len(list(first)) == 2
    second[7], second[0]  # asking for others before changes nothing
    before = [first[index][0] for index in range(12)]
    assert all(torch.equal(second[index][0], before[index]) for index in range(12))
    assert not any(torch.equal(other[index][0], before[index]) for index in range(12))
    assert len(set(windows(first, range(1, 30, 2)))) > 3  # a again, other windows
    assert not torch.equal(before[1], before[3]) and not torch.equal(before[0], before[2])
    for batch, (pictures, known) in enumerate(DataLoader(first, 1, num_workers=1)):
        assert torch.equal(pictures[0], before[batch]) and known.all()
    first.set_epoch(1)
    assert not any(torch.equal(first[index][0], before[index]) for index in range(12))
    first.set_epoch(0)
    assert torch.equal(first[3][0], before[3])
    with pytest.raises(IndexError, match="index -1 of 2 videos"):
        first[-1]


def test_base_videos_are_those_of_base_training_once_each(tmp_path):
    shows = {f"w{n}": [[2, 3]] * 4 for n in range(6)} | {"n": [[1]] * 3, "x": [[1], [4]]}
    fold = read_fold("ytvis", 0, ytvis(tmp_path, shows, classes=4))
    assert fold.train.count("w0") == 2
    assert base_videos(fold) == ("w0", "w1", "w2", "w3", "w4")


def test_the_released_videos_are_those_of_the_novel_classes_one_class_after_the_other(tmp_path):
    shows = {"a": [[5], [1]], "b": [[2]], "c": [[1]], "d": [[5]]}
    fold = read_fold("ytvis", 0, ytvis(tmp_path, shows, classes=5))
    assert fold.novel == (1, 5)
    assert leaked_test_videos(fold) == ("a", "c", "a", "d")
    assert "TEST" in leaked_test_videos.__doc__


def test_of_vspw_the_release_took_all_sequences_but_the_ignored_ones(tmp_path):
    ignored = read_table("vspw")["pascal_to_vspw"]["ignored"]
    assert len(ignored) == 19
    fold = sequence_fold({"a": [(41,)], ignored[0]: [(41,)], "b": [(53,), ()], ignored[18]: [()]})
    assert leaked_test_videos(fold) == ("a", "b")
    mask = [block(7, 2, 3, 8, 8)] * 2
    root = minivspw(tmp_path, {"s": mask, ignored[3]: mask}, {"airplane": 7})
    table = {"classes": {7: "aeroplane"}, "novel": [[7]], "base": [[]]}
    assert leaked_test_videos(read_fold("minivspw", 0, root, table)) == ("s",)


def test_stills_have_no_pairs(tmp_path):
    mask = block(2, 2, 3, 8, 8)
    root = pascal(tmp_path, {"a": mask, "b": mask}, val=("b",))
    fold = read_fold("pascal", 0, root)
    for ask in (base_videos, leaked_test_videos, lambda fold: VideoPairs(fold, root, ("a",), SIZE)):
        with pytest.raises(ValueError, match="pascal fold 0: stills have no next frame .* or take no contrast"):
            ask(fold)
    with pytest.raises(ValueError, match="stills have no next frame"):
        base_videos(stills_fold({"a": (1,)}, {1: ["a"]}))
    assert base_videos(named_fold()) == ()


def test_settings_that_cannot_be_used_are_named(tmp_path):
    fold, root = film(tmp_path)
    for wrong in ({"every": 0}, {"window": 0}, {"count": 0}):
        with pytest.raises(ValueError, match="ytvis fold 0: .*all of them count from 1"):
            VideoPairs(fold, root, ("a",), SIZE, **wrong)
    with pytest.raises(ValueError, match="ytvis fold 0: no videos in .* to take windows from"):
        VideoPairs(fold, root, (), SIZE)
    with pytest.raises(ValueError, match="no frames of 2 of the videos, such as x; take base_videos"):
        VideoPairs(replace(fold, frames={**fold.frames, "y": ()}), root, ("a", "x", "y"), SIZE)


# --- VSPW beside stills ---


def stills_of(novel):
    """A fold of stills with this novel class."""
    fold = stills_fold({"s0": (1,)}, {1: ("s0",)})
    return replace(fold, names={**fold.names, 1: novel})


@pytest.fixture
def beside(tmp_path):
    """Stills of two classes; sequences with a car, a dog, a motorbike by VSPW's name for it, and nothing."""
    stills = {f"s{n}": block(1 + n % 2, 1, 2, 8, 9) for n in range(4)}
    root = pascal(tmp_path / "pascal", stills, val=("s2", "s3"))
    empty = np.zeros((HEIGHT, WIDTH), np.uint8)
    masks = {
        "car_late": [empty, empty, block(41, 1, 1, 1, 1)],  # one pixel of one frame
        "dog": [block(45, 1, 1, 9, 9)] * 3,
        "bike": [empty, block(49, 1, 1, 9, 9), empty],
        "nothing": [empty] * 3,
        "1146_lps8_r-6J00": [empty] * 3,  # one of the ignored
    }
    vspw(tmp_path / "vspw", masks, train=("dog", "car_late"))
    table = read_json(tmp_path / "vspw" / "lists.json")
    names = {"41": "car", "45": "dog", "49": "motorcycle", "53": "tent"}
    write_json(tmp_path / "vspw" / "lists.json", {**table, "classes": names})
    return root, tmp_path


@pytest.mark.parametrize(
    ("novel", "seen"),
    [("car", {"car_late"}), ("dog", {"dog"}), ("motorbike", {"bike"}), ("motorcycle", set()), ("cow", set())],
)
def test_sequences_that_show_a_novel_class_are_no_base_videos(beside, novel, seen):
    """Whichever list a sequence is of, and by the released map of names: motorcycle is Pascal's motorbike."""
    stills = stills_of(novel)
    for place in (beside[1], beside[1] / "vspw"):
        other = vspw_beside(stills, place)
        everything = {"car_late", "dog", "bike", "nothing"}
        assert set(base_videos(other)) == everything - seen
        assert set(leaked_test_videos(other)) == everything


def test_windows_of_vspw_beside_stills(beside):
    stills = stills_of("car")
    other = vspw_beside(stills, beside[1])
    pairs = VideoPairs(other, beside[1] / "vspw", base_videos(other), (33, 57), count=2)
    pictures, known = pairs[7]
    assert pictures.shape == (2, 2, 3, 33, 57) and known.shape == (2, 2, 33, 57) and not known.all()
    with pytest.raises(ValueError, match=r"stills have no next frame .* name VSPW's folder \(contrast.root\)"):
        base_videos(read_fold("pascal", 0, beside[0]))
    with pytest.raises(FileNotFoundError, match="no vspw data here"):
        vspw_beside(stills, beside[0])

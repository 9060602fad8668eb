"""Episodes become the released pixels, for every dataset and a user's own files; unreadable episodes are left out."""

import threading
from contextlib import nullcontext
from dataclasses import replace

import corpora
import cv2
import numpy as np
import pytest
import torch
from corpora import HEIGHT, WIDTH, block, broken_png, davis, palette_png, pascal, picture, vspw, ytvis
from folds import cross, fold
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ttilib.datasets.base import ResizeRule
from ttilib.datasets.catalog import find_dataset, read_fold
from ttilib.datasets.transforms import MEAN, STD, letterbox, normalise
from ttilib.episodes.clips import Frames, check_episodes, clip_from_files, load_clip, pool_frames, synthetic_clip
from ttilib.episodes.episode import Episode
from ttilib.images import read_image, write_image, write_labels
from ttilib.solver.task import extract

SIZE = (HEIGHT, WIDTH)


def released(picture, mask, size, rule, like=None):
    """The test transforms of docs/protocol.md 2, on one frame by the size of `like`; padding included."""
    (height, width), picture, mask = (mask if like is None else like).shape, np.float32(picture), np.float32(mask)
    if rule == "still":
        ratio = size[0] * 1.0 / max(height, width)
        sides = [size[0] if side == max(height, width) else int(side * ratio) for side in (height, width)]
        (new_height, new_width), top, left = [int(side / 8) * 8 for side in sides], 0, 0
    else:
        factor = min(size[0] / height, size[1] / width)
        new_height, new_width = int(factor * height), int(factor * width)
        top, left = (size[0] - new_height) // 2, (size[1] - new_width) // 2
    rows, columns = slice(top, top + new_height), slice(left, left + new_width)
    image, labels = np.zeros((*size, 3), np.float32), np.full(size, 0 if rule == "video" else 255, np.float32)
    image[rows, columns] = cv2.resize(picture, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
    labels[rows, columns] = cv2.resize(mask, (new_width, new_height), interpolation=cv2.INTER_NEAREST)
    return (image / 255.0 - np.float32(MEAN)) / np.float32(STD), labels


def ytvis_of(tmp_path, masks):
    """A YouTube-VIS folder with videos of the sizes and masks given, of class 1; frames are called 8, 9, ..."""
    root = ytvis(tmp_path, {video: [[1]] * len(frames) for video, frames in masks.items()})

    def change(content):
        for about, entry in zip(content["videos"][::-1], content["annotations"], strict=True):
            video = about["file_names"][0].split("/")[0]
            about["file_names"] = [f"{video}/{8 + t}.jpg" for t in range(len(masks[video]))]
            about["height"], about["width"] = masks[video][0].shape
            entry["segmentations"] = [corpora.run_lengths(mask) for mask in masks[video]]

    corpora.rewrite(root, change)
    return root


def noise(path, shape):
    """Write an image of noise; return the pixels as stored, read with Pillow as in the release."""
    write_image(path, np.random.default_rng(len(str(path))).integers(0, 256, (*shape, 3), dtype=np.uint8))
    return np.array(Image.open(path))


@pytest.mark.parametrize(
    ("corpus", "rule", "number", "size", "void"),  # docs/protocol.md 1.3, 1.5: nothing is ignored in the videos
    [("ytvis", "video", 1, (41, 73), 0), ("vspw", "video", 41, (65, 65), 0), ("pascal", "still", 2, (65, 65), 255),
     ("davis", "letterboxed, padding ignored", 2, (41, 73), 255)],
)  # fmt: skip
@pytest.mark.parametrize(("height", "width"), [(48, 86), (86, 48), (18, 32)])
def test_every_pixel_of_a_clip_is_the_released_one(tmp_path, corpus, rule, number, size, void, height, width):
    rng, names = np.random.default_rng(height), ("s/8", "s/9")
    stored = rng.choice([0, number, 3, 255], (2, height, width), p=(0.4, 0.3, 0.2, 0.1)).astype(np.uint8)
    if corpus == "pascal":
        names, files = ("8", "9"), "JPEGImages/{}.jpg"
        root = pascal(tmp_path, dict(zip(names, stored, strict=True)), val=names)
    elif corpus == "ytvis":
        root, files = ytvis_of(tmp_path, {"s": stored == 1}), "train/JPEGImages/s/{}.jpg"
    elif corpus == "vspw":
        root, files = vspw(tmp_path, {"s": list(stored)}), "data/s/origin/{}.jpg"
    else:
        root, files = davis(tmp_path, {"s": list(stored)}), "JPEGImages/s/{}.jpg"
    pictures = [noise(root / files.format(frame), (height, width)) for frame in "89"]
    clip = load_clip(Episode(corpus, 0, number, "kind", names[:1], names, 0), root, size)
    for place, picture_of in enumerate(pictures):
        mask = np.where(stored[place] == 255, void, stored[place] == number)
        image, labels = released(picture_of, mask, size, rule)
        np.testing.assert_array_equal(normalise(clip.query)[place].numpy(), image.transpose(2, 0, 1))
        np.testing.assert_array_equal(clip.truth[place].numpy(), labels == 1)
        np.testing.assert_array_equal(clip.query_valid[place].numpy(), labels != 255)
    assert torch.equal(clip.support[0], clip.query[0]) and torch.equal(clip.support_valid[0], clip.query_valid[0])


@pytest.mark.parametrize("shapes", [((48, 86), (86, 48), (96, 172)), ((60, 45), (45, 60)), ((40, 72), (18, 20))])
def test_ytvis_supports_are_resized_and_padded_like_the_first(tmp_path, shapes):
    rng, size = np.random.default_rng(1), (41, 73)
    masks = [rng.random(shape) < 0.4 for shape in shapes]
    root = ytvis_of(tmp_path, {f"v{n}": [mask] for n, mask in enumerate(masks)})
    pictures = [noise(root / f"train/JPEGImages/v{n}/8.jpg", shape) for n, shape in enumerate(shapes)]
    names = tuple(f"v{n}/8" for n in range(len(shapes)))
    episode = Episode("ytvis", 0, 1, "kind", names, names[1:2], 0)
    for supports, like in (("released", masks[:1] * len(masks)), ("own", masks)):
        clip = load_clip(episode, root, size, workers=2, supports=supports)
        for place, (shown, mask, first) in enumerate(zip(pictures, masks, like, strict=True)):
            image, labels = released(shown, mask, size, "video", first)
            np.testing.assert_array_equal(normalise(clip.support)[place].numpy(), image.transpose(2, 0, 1))
            np.testing.assert_array_equal(clip.support_masks[place].numpy(), labels == 1)
        image, _ = released(pictures[1], masks[1], size, "video")  # a query, and a single support, by their own
        np.testing.assert_array_equal(normalise(clip.query)[0].numpy(), image.transpose(2, 0, 1))
        alone = load_clip(replace(episode, support=names[1:2]), root, size, supports=supports)
        assert torch.equal(alone.support, clip.query) and torch.equal(alone.support_masks, clip.truth)
    with pytest.raises(ValueError, match="supports"):
        load_clip(episode, root, size, supports="first")
    for corpus in ("vspw", "minivspw", "pascal", "davis"):
        frames = Frames(names, masks.__getitem__, size, find_dataset(corpus).reader.episode_rule)
        assert frames.as_support() is frames


def test_an_episode_across_datasets_uses_both_folders_and_both_ids(tmp_path):
    voc = pascal(tmp_path / "voc", {"a": block(2, 2, 3, 9, 9), "b": block(2, 1, 1, 9, 9)}, val=("a", "b"))
    root = davis(tmp_path / "davis", {"s": [block(3, 0, 0, 5, 5), block(0, 0, 0, 1, 1)]})
    table = {"classes": {3: "kind_2", 4: "none"}, "novel": [[4], [3]]}
    (episode,) = cross(read_fold("pascal", 1, voc), read_fold("davis", 1, root, table=table), 2)
    clip = load_clip(episode, root, (17, 33), support_root=voc)
    assert clip.support_masks.flatten(1).any(dim=1).all()
    assert clip.truth.flatten(1).any(dim=1).tolist() == [True, False]
    with pytest.raises(ValueError, match=r"davis/f1/kind_2/s: .*pascal.*support_root"):
        load_clip(episode, root)
    with pytest.raises(ValueError, match="class 3"):
        check_episodes([replace(episode, support_class=3)], root, voc)


def test_opencv_and_pillow_decode_a_jpeg_to_the_same_pixels(tmp_path):
    """The release reads some datasets with one and some with the other; here one reader serves all."""
    rng, path = np.random.default_rng(0), tmp_path / "a.jpg"
    pixels = cv2.resize(rng.uniform(0, 255, (20, 30, 3)), (131, 97), interpolation=cv2.INTER_CUBIC)
    for quality, subsampling in ((30, 0), (75, 2), (95, 1)):
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path, quality=quality, subsampling=subsampling)
        np.testing.assert_array_equal(read_image(path), cv2.imread(str(path))[..., ::-1])


@pytest.mark.parametrize("workers", [1, 3])
def test_reading_stops_at_the_first_unusable_frame_and_does_not_depend_on_threads(workers):
    read, lock, rule = [], threading.Lock(), ResizeRule(letterbox, True)

    def read_frame(index):
        with lock:
            read.append(index)
        if index in (14, 90):
            raise ValueError(f"frame {index} is damaged")
        return picture(index), block(1, index, 0, 3, 3)

    frames = Frames(tuple(map(str, range(500))), read_frame, (41, 41), rule)
    few = replace(frames, names=frames.names[:9])
    for found, together in zip(zip(*few, strict=True), few.load_all(workers), strict=True):
        assert torch.equal(torch.stack(found), together)
    read.clear()
    with pytest.raises(ValueError, match="frame 14"):
        frames.load_all(workers)
    assert len(read) < 500 if workers > 1 else read == list(range(15))


def test_the_released_batch_reaches_the_solver(tmp_path):
    root = ytvis(tmp_path, {"aa": [[1], [1]]})
    for batch, expected in ((None, None), (0, 100), (7, 100)):
        clip = load_clip(Episode("ytvis", 0, 1, "kind", ("aa/00000",), ("aa/00005",), 0, batch=batch), root, SIZE)
        assert clip.batch_frames == extract(lambda images: images[:, :, ::8, ::8], clip).batch_frames == expected


def test_mean_features_use_training_images_without_labels_or_padding(tmp_path):
    root = vspw(tmp_path, {"aa": [block(41, 2, 3, 8, 8)] * 3, "bb": [block(41, 2, 3, 8, 8)] * 3})
    split = replace(read_fold("vspw", 0, root), train=("bb", "aa", "bb"), val=("cc",))
    pool, inside = pool_frames(split, root, (41, 41)), torch.zeros(41, 41, dtype=torch.bool)
    assert len(pool) == 6 and {name.split("/")[0] for name in pool.names} == {"aa", "bb"}
    inside[9:32] = True  # 18 x 32 becomes 23 x 41, centred
    for image, masks, valid in pool:
        assert torch.equal(valid, inside) and not masks.any() and not image[:, ~inside].any()
        assert image[:, inside].std() > 0.05
    assert len(pool_frames(replace(split, train=()), root, SIZE)) == 0


@given(st.integers(1, 9), st.integers(1, 40), st.randoms())
def test_many_training_images_are_subsampled_evenly(videos, limit, random):
    split = fold("vspw", videos)
    everything = [frame for video in sorted(split.frames) for frame in split.frames[video]]
    order = 2 * list(split.frames)
    random.shuffle(order)  # neither order nor repetitions matter
    names = pool_frames(replace(split, train=tuple(order)), "nowhere", SIZE, limit).names
    places = [everything.index(name) for name in names]
    assert len(places) == min(limit, len(everything)) and places[0] == 0
    gaps = [b - a for a, b in zip(places, [*places[1:], len(everything)], strict=True)]
    assert min(gaps) >= 1 and max(gaps) - min(gaps) <= 1


def own(tmp_path, stored):
    files = [tmp_path / name for name in ("still.png", "f0.png", "f1.png")]
    for n, path in enumerate(files):
        write_image(path, picture(n))
    write_labels(tmp_path / "mask.png", stored)
    return files[:1], [tmp_path / "mask.png"], files[1:]


@pytest.mark.parametrize(
    ("value", "label", "void"), [(255, None, False), (6, None, False), (6, 6, True), (6, None, True)]
)
def test_own_masks_of_every_kind(tmp_path, value, label, void):
    stored = block(value, 2, 3, 6, 6)
    stored[0] = 255 if void else 0
    told = pytest.warns(UserWarning, match="255 as not judged") if void and label is None else nullcontext()
    with told:
        clip = clip_from_files(*own(tmp_path, stored), SIZE, label=label)
    np.testing.assert_array_equal(clip.support_masks[0].numpy(), block(1, 2, 3, 6, 6).astype(bool))
    assert clip.support_valid[0, 0].any() == (not void) and clip.support_valid[0, 1:].all()
    assert clip.truth is None and clip.query.shape == (2, 3, *SIZE) and clip.query_valid.all()
    np.testing.assert_allclose(clip.query[1].permute(1, 2, 0).numpy() * 255, picture(2), atol=1e-3)


@pytest.mark.parametrize("edge", [{1: 1}, {254: 1}, {128: 30}, {100: 20}, {40: 8, 180: 12, 220: 12}])
def test_black_and_white_masks_with_stray_or_soft_values_are_thresholded(edge):
    mask = block(255, 2, 3, 5, 5)
    mask[10, : sum(edge.values())] = np.repeat(list(edge), list(edge.values()))
    with pytest.warns(UserWarning, match="array 0.*128"):
        clip = clip_from_files([picture(0)], [mask], [picture(0)], SIZE, truth=[mask])
    np.testing.assert_array_equal(clip.support_masks[0].numpy(), mask > 127)
    assert clip.support_valid.all() and torch.equal(clip.truth, clip.support_masks)
    chosen = clip_from_files([picture(0)], [mask], [picture(0)], SIZE, label=max(edge))
    np.testing.assert_array_equal(chosen.support_masks[0].numpy(), mask == max(edge))


def test_unusable_own_files_are_named(tmp_path):
    images, empty, frames = own(tmp_path, block(0, 0, 0, 1, 1))
    palette = [palette_png(tmp_path / "palette.png", block(3, 2, 3, 6, 6) + block(5, 10, 10, 4, 4))]
    clip = clip_from_files(images, palette, frames, SIZE, label=5)
    np.testing.assert_array_equal(clip.support_masks[0].numpy(), block(1, 10, 10, 4, 4).astype(bool))
    for masks, videos, size, label, word in (
        (empty, frames, SIZE, None, r"mask\.png: .*no foreground"), (palette, frames, SIZE, None, "palette.*label="),
        ([np.ones((9, 16), bool)], frames, SIZE, None, "18 x 32.*9 x 16"), (empty * 2, frames, SIZE, None, "2 masks"),
        (palette, [], SIZE, 5, "0 frames"), (palette, frames, SIZE, 0, "label is 0"),
        ([np.full(SIZE, 0.5)], frames, SIZE, None, "array 0.*0 to 255"), (palette, frames, SIZE, 256, "label is 256"),
        (palette, frames, (100_000, 9), 5, "100000 x 9"), (palette, frames, (9, 0), 5, "9 x 0"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=word):
            clip_from_files(images, masks, videos, size, label=label)


def test_a_synthetic_clip_moves_and_is_a_function_of_its_seed():
    clip, again, other = (synthetic_clip(seed=seed, frames=6, shots=3) for seed in (1, 1, 2))
    assert torch.equal(clip.query, again.query) and not torch.equal(clip.query, other.query)
    assert clip.size == (121, 217) and clip.support.shape[0] == 3 and clip.query.shape[0] == 6
    columns = [float(mask.nonzero()[:, 1].float().mean()) for mask in clip.truth]
    assert all(b - a > 3 for a, b in zip(columns, columns[1:], strict=False))  # it moves to the right


def test_episodes_with_unreadable_files_are_left_out(tmp_path):
    def of(support, query):
        return Episode("pascal", 0, 1, "kind_1", tuple(support), (query,), 1)

    labels = {name: block(1, 2, 2, 6, 6) for name in "abcd"} | {"e": block(2, 2, 2, 6, 6)}
    images = pascal(tmp_path, labels, val=tuple("abcde"))
    good = (of("ab", "c"), of("a", "d"), of("ea", "e"))  # a query without the class is valid
    assert check_episodes(good, images) == good and check_episodes((), images) == ()
    broken_png(images / "JPEGImages" / "b.jpg", "cut off")
    broken_png(images / "SegmentationClassAug" / "c.png", "missing")
    write_labels(images / "SegmentationClassAug" / "d.png", np.zeros((4, 4), np.uint8))
    episodes, errors = (of("ab", "c"), of("a", "c"), of("a", "d"), of("e", "a"), of("a", "e")), []
    assert check_episodes(episodes, images, on_error=errors.append) == episodes[4:]
    words = ("b.jpg", "c.png", "4 x 4", "class 1")
    assert [word in str(error) for word, error in zip(words, errors, strict=True)] == [True] * 4
    assert str(errors[0]).startswith("episode pascal/f0/kind_1/c: ")

"""Episodes become the released pixels, for every dataset and a user's own files; unreadable episodes are left out."""

import threading
from contextlib import nullcontext
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from corpora import (
    HEIGHT,
    WIDTH,
    block,
    broken_png,
    davis,
    palette_png,
    pascal,
    picture,
    rewrite,
    run_lengths,
    vspw,
    ytvis,
)
from folds import cross, fold
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ttilib.datasets.base import ResizeRule
from ttilib.datasets.catalog import read_fold
from ttilib.datasets.transforms import MEAN, STD, letterbox, normalise
from ttilib.episodes.clips import Frames, check_episodes, clip_from_files, load_clip, pool_frames, synthetic_clip
from ttilib.episodes.episode import Episode
from ttilib.images import read_image, write_image, write_labels
from ttilib.solver.task import extract

SIZE = (HEIGHT, WIDTH)


SHOWS = {"aa": [[1], [1, 3], [3]], "bb": [[1], [1, 2], [2]], "cc": [[1, 2], [1], []], "dd": [[3], [3], [2]]}


def test_padding_is_background_for_ytvis_and_vspw_but_not_for_pascal_and_davis(tmp_path):
    mask = block(2, 2, 3, 8, 8)
    ytvis(tmp_path / "y", SHOWS)
    pascal(tmp_path / "p", {"a": mask, "b": mask}, val=("a", "b"))
    vspw(tmp_path / "v", {"s": [block(41, 2, 3, 8, 8)] * 2})
    davis(tmp_path / "d", {"s": [mask] * 2})
    canvas = (41, 41)  # 18 x 32: centred 23 x 41 from row 9; static 16 x 40 after cutting to eights
    frames = {
        "y": ("ytvis", 1, "aa/00000"),
        "p": ("pascal", 2, "a"),
        "v": ("vspw", 41, "s/8"),
        "d": ("davis", 2, "s/8"),
    }
    clips = {}
    for key, (corpus, number, frame) in frames.items():
        episode = Episode(corpus, 0, number, "kind", (frame,), (frame,), 0)
        clips[key] = load_clip(episode, tmp_path / key, canvas)
    assert clips["y"].query_valid.all() and clips["v"].support_valid.all()
    assert clips["d"].query_valid.sum() == 23 * 41 and clips["d"].query_valid[0, 9:32].all()
    assert clips["p"].support_valid.sum() == 16 * 40 and clips["p"].support_valid[0, :16, :40].all()
    assert not (clips["p"].support_masks & ~clips["p"].support_valid).any()
    assert clips["y"].query[0, :, 0].max() == 0  # the bars are black


def test_an_episode_across_datasets_uses_both_folders_and_both_ids(tmp_path):
    voc = pascal(tmp_path / "voc", {"a": block(2, 2, 3, 9, 9), "b": block(2, 1, 1, 9, 9)}, val=("a", "b"))
    root = davis(tmp_path / "davis", {"s": [block(3, 0, 0, 5, 5), block(0, 0, 0, 1, 1)]})
    table = {"classes": {3: "kind_2", 4: "none"}, "novel": [[4], [3]]}
    query = read_fold("davis", 1, root, table=table)
    (episode,) = cross(read_fold("pascal", 1, voc), query, 2)
    clip = load_clip(episode, root, (17, 33), support_root=voc)
    assert clip.support_masks.flatten(1).any(dim=1).all()
    assert clip.truth.flatten(1).any(dim=1).tolist() == [True, False]
    with pytest.raises(ValueError, match="davis/f1/kind_2/s: .*pascal.*support_root"):
        load_clip(episode, root)


def released(picture, mask, size, rule, like=None):
    """The test transforms of docs/protocol.md 2, on one frame by the size of `like`; padding included."""
    (height, width), picture, mask = (mask if like is None else like).shape, np.float32(picture), np.float32(mask)
    if rule == "video":
        factor = min(size[0] / height, size[1] / width)
        new_height, new_width = int(factor * height), int(factor * width)
        top, left, padding = (size[0] - new_height) // 2, (size[1] - new_width) // 2, 0
    else:
        ratio = size[0] * 1.0 / max(height, width)
        sides = [size[0] if side == max(height, width) else int(side * ratio) for side in (height, width)]
        (new_height, new_width), top, left, padding = [int(side / 8) * 8 for side in sides], 0, 0, 255
    rows, columns = slice(top, top + new_height), slice(left, left + new_width)
    image, labels = np.zeros((*size, 3), np.float32), np.full(size, padding, np.float32)
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
            entry["segmentations"] = [run_lengths(mask) for mask in masks[video]]

    rewrite(root, change)
    return root


@pytest.mark.parametrize(
    ("corpus", "rule", "number", "size"),
    [("ytvis", "video", 1, (41, 73)), ("vspw", "video", 41, (65, 65)), ("pascal", "still", 2, (65, 65))],
)
@pytest.mark.parametrize(("height", "width"), [(48, 86), (86, 48), (45, 60), (18, 32)])
def test_every_pixel_of_a_clip_is_the_released_one(tmp_path, corpus, rule, number, size, height, width):
    rng = np.random.default_rng(height)
    stored = rng.choice([0, number, 3, 255], (2, height, width), p=(0.4, 0.3, 0.2, 0.1)).astype(np.uint8)
    if corpus == "vspw":
        root, names, files = vspw(tmp_path, {"s": list(stored)}), ("s/8", "s/9"), "data/s/origin/{}.jpg"
    elif corpus == "pascal":
        stills = {"8": stored[0], "9": stored[1]}
        root, names, files = pascal(tmp_path, stills, val=("8", "9")), ("8", "9"), "JPEGImages/{}.jpg"
    else:
        root, names, files = ytvis_of(tmp_path, {"s": stored == 1}), ("s/8", "s/9"), "train/JPEGImages/s/{}.jpg"
    for frame in "89":
        noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        write_image(root / files.format(frame), noise)
    clip = load_clip(Episode(corpus, 0, number, "kind", names[:1], names, 0), root, size)
    for place, frame in enumerate("89"):
        picture = np.array(Image.open(root / files.format(frame)))  # YouTube-VIS is read with Pillow in the release
        void = 255 if corpus == "pascal" else 0  # docs/protocol.md 1.3, 1.5: nothing is ignored in the videos
        mask = np.where(stored[place] == 255, void, stored[place] == number)
        image, labels = released(picture, mask, size, rule)
        np.testing.assert_array_equal(normalise(clip.query)[place].numpy(), image.transpose(2, 0, 1))
        np.testing.assert_array_equal(clip.truth[place].numpy(), labels == 1)
        np.testing.assert_array_equal(clip.query_valid[place].numpy(), labels != 255)
    assert torch.equal(clip.support[0], clip.query[0]) and torch.equal(clip.support_valid[0], clip.query_valid[0])


@pytest.mark.parametrize("shapes", [((48, 86), (86, 48), (96, 172)), ((60, 45), (45, 60)), ((40, 72), (18, 20))])
def test_ytvis_supports_are_resized_and_padded_like_the_first(tmp_path, shapes):
    rng, size = np.random.default_rng(1), (41, 73)
    stored = {f"v{n}": rng.random((1, *shape)) < 0.4 for n, shape in enumerate(shapes)}
    root, names, pictures = ytvis_of(tmp_path, stored), tuple(f"{video}/8" for video in stored), []
    for name, (mask,) in zip(names, stored.values(), strict=True):
        path = root / f"train/JPEGImages/{name}.jpg"
        write_image(path, rng.integers(0, 256, (*mask.shape, 3), dtype=np.uint8))
        pictures.append(read_image(path))
    masks, episode = [mask for (mask,) in stored.values()], Episode("ytvis", 0, 1, "kind", names, names[1:2], 0)
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


def test_opencv_and_pillow_decode_a_jpeg_to_the_same_pixels(tmp_path):
    """The release reads some datasets with one and some with the other; here one reader serves all."""
    rng = np.random.default_rng(0)
    for quality, subsampling in ((30, 0), (75, 2), (95, 1)):
        pixels = cv2.resize(rng.uniform(0, 255, (20, 30, 3)), (131, 97), interpolation=cv2.INTER_CUBIC)
        pixels = np.clip(pixels + rng.normal(0, 9, pixels.shape), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=quality, subsampling=subsampling)
        stored = cv2.imread(str(tmp_path / "a.jpg"))[..., ::-1]
        np.testing.assert_array_equal(read_image(tmp_path / "a.jpg"), stored)
        np.testing.assert_array_equal(stored, np.array(Image.open(tmp_path / "a.jpg")))


def test_pixels_do_not_depend_on_threads_or_on_reading_frame_by_frame(tmp_path):
    root, names = ytvis(tmp_path, {"aa": [[1, 2]] * 9}), tuple(f"aa/{5 * t:05d}" for t in range(9))
    episode = Episode("ytvis", 0, 1, "kind_1", names[:3], names, 0)
    one, many = (load_clip(episode, root, (41, 41), workers=workers) for workers in (1, 5))
    for field in ("support", "support_masks", "support_valid", "query", "truth", "query_valid"):
        assert torch.equal(getattr(one, field), getattr(many, field)), field
    rule = ResizeRule(letterbox, False)
    frames = Frames(("a", "b"), lambda t: (picture(t), block(1, t, 0, 3, 3)), (41, 41), rule)
    for found, together in zip(zip(*frames, strict=True), frames.load_all(2), strict=True):
        assert torch.equal(torch.stack(found), together)


@pytest.mark.parametrize("workers", [1, 3])
def test_reading_stops_at_the_first_unusable_frame(workers):
    read, lock = [], threading.Lock()

    def read_frame(index):
        with lock:
            read.append(index)
        if index in (4, 90):
            raise ValueError(f"frame {index} is damaged")
        return picture(index), block(1, 0, 0, 3, 3)

    frames = Frames(tuple(map(str, range(500))), read_frame, SIZE, ResizeRule(letterbox, True))
    with pytest.raises(ValueError, match="frame 4"):
        frames.load_all(workers)
    assert len(read) < 500 if workers > 1 else read == [0, 1, 2, 3, 4]


def test_the_released_batch_reaches_the_solver(tmp_path):
    root = ytvis(tmp_path, SHOWS)
    episode = Episode("ytvis", 0, 1, "kind_1", ("aa/00005",), ("bb/00000",), 0)
    for batch, expected in ((None, None), (0, 100), (7, 100)):
        clip = load_clip(replace(episode, batch=batch), root, SIZE)
        assert clip.batch_frames == extract(lambda images: images[:, :, ::8, ::8], clip).batch_frames == expected


def test_unusable_episodes_are_named(tmp_path):
    root = ytvis(tmp_path, SHOWS)
    episode = Episode("ytvis", 0, 2, "kind_2", ("aa/00000",), ("bb/00005",), 0)
    with pytest.raises(ValueError, match="ytvis/f0/kind_2/bb: .*class 2"):
        load_clip(episode, root, SIZE)
    write_image(root / "train" / "JPEGImages" / "bb" / "00005.jpg", picture(0, 10, 10))
    with pytest.raises(ValueError, match="bb/00005: .*10 x 10.*18 x 32"):
        load_clip(replace(episode, support=("bb/00010",)), root, SIZE)


@pytest.mark.parametrize("corpus", ["ytvis", "vspw"])
def test_mean_features_use_training_images_without_labels_or_padding(tmp_path, corpus):
    mask = block(41, 2, 3, 8, 8)
    root = ytvis(tmp_path, SHOWS) if corpus == "ytvis" else vspw(tmp_path, {"aa": [mask] * 3, "bb": [mask] * 3})
    split = replace(read_fold(corpus, 0, root), train=("bb", "aa", "bb"), val=("cc",))
    pool = pool_frames(split, root, (41, 41))
    assert len(pool) == 6 and {name.split("/")[0] for name in pool.names} == {"aa", "bb"}
    inside = torch.zeros(41, 41, dtype=torch.bool)
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
    assert names == pool_frames(replace(split, train=tuple(split.frames)), "elsewhere", SIZE, limit).names


def own(tmp_path, stored, frames=2):
    write_image(tmp_path / "still.png", picture(0))
    write_labels(tmp_path / "mask.png", stored)
    films = [tmp_path / f"f{n}.png" for n in range(frames)]
    for n, path in enumerate(films):
        write_image(path, picture(n))
    return [tmp_path / "still.png"], [tmp_path / "mask.png"], films


@pytest.mark.parametrize(
    ("value", "label", "void"), [(255, None, False), (6, None, False), (6, 6, True), (6, None, True)]
)
def test_own_masks_of_every_kind(tmp_path, value, label, void):
    stored = block(value, 2, 3, 6, 6)
    stored[0] = 255 if void else 0
    images, masks, frames = own(tmp_path, stored)
    told = pytest.warns(UserWarning, match="255 as not judged") if void and label is None else nullcontext()
    with told:
        clip = clip_from_files(images, masks, frames, SIZE, label=label)
    np.testing.assert_array_equal(clip.support_masks[0].numpy(), block(1, 2, 3, 6, 6).astype(bool))
    assert clip.support_valid[0, 0].any() == (not void) and clip.support_valid[0, 1:].all()
    assert clip.truth is None and clip.query.shape == (2, 3, *SIZE) and clip.query_valid.all()
    np.testing.assert_allclose(clip.query[1].permute(1, 2, 0).numpy() * 255, picture(1), atol=1e-3)


@pytest.mark.parametrize("edge", [{1: 1}, {254: 1}, {128: 30}, {100: 30}, {40: 8, 180: 12, 220: 12}])
def test_black_and_white_masks_with_stray_or_soft_values_are_thresholded(edge):
    mask = block(255, 2, 3, 6, 6)
    mask[10, : sum(edge.values())] = np.repeat(list(edge), list(edge.values()))
    with pytest.warns(UserWarning, match="array 0.*128"):
        clip = clip_from_files([picture(0)], [mask], [picture(0)], SIZE)
    np.testing.assert_array_equal(clip.support_masks[0].numpy(), mask > 127)
    assert clip.support_valid.all()
    chosen = clip_from_files([picture(0)], [mask], [picture(0)], SIZE, label=max(edge))
    np.testing.assert_array_equal(chosen.support_masks[0].numpy(), mask == max(edge))


def test_own_arrays_with_ground_truth():
    mask, truth = block(1, 2, 3, 6, 6).astype(bool), [block(9, 1, 1, 4, 4), block(0, 0, 0, 1, 1)]
    clip = clip_from_files([picture(0)], [mask], [picture(0), picture(1)], SIZE, name="mine", truth=truth)
    assert clip.truth.sum(dim=(1, 2)).tolist() == [16, 0] and clip.support_masks.sum() == 36
    assert (clip.name, clip.query_names) == ("mine", ("array 0", "array 1"))


def test_unusable_own_files_are_named(tmp_path):
    images, empty, frames = own(tmp_path, block(0, 0, 0, 1, 1))
    palette = palette_png(tmp_path / "palette.png", block(3, 2, 3, 6, 6) + block(5, 10, 10, 4, 4))
    small = tmp_path / "small.png"
    write_labels(small, block(1, 0, 0, 3, 3, size=(9, 16)))
    for masks, word in (
        (empty, r"mask\.png: .*no foreground"),
        ([palette], r"palette\.png: .*label="),
        ([small], "18 x 32.*9 x 16"),
        (empty * 2, "2 masks"),
    ):
        with pytest.raises(ValueError, match=word):
            clip_from_files(images, masks, frames, SIZE)
    clip = clip_from_files(images, [palette], frames, SIZE, label=5)
    np.testing.assert_array_equal(clip.support_masks[0].numpy(), block(1, 10, 10, 4, 4).astype(bool))
    with pytest.raises(ValueError, match="0 frames"):
        clip_from_files(images, empty, [], SIZE)
    for mask in (np.full(SIZE, 0.5), np.full(SIZE, -1), np.full(SIZE, 256), np.full((*SIZE, 1), 1)):
        with pytest.raises(ValueError, match="array 0: .*0 to 255"):
            clip_from_files(images, [mask], frames, SIZE)
    for label in (0, -1, 256):
        with pytest.raises(ValueError, match=f"label is {label}"):
            clip_from_files(images, [palette], frames, SIZE, label=label)
    for size in ((0, 9), (9, -1), (100_000, 100_000)):
        with pytest.raises(ValueError, match=f"{size[0]} x {size[1]}"):
            clip_from_files(images, [palette], frames, size, label=5)


def test_a_synthetic_clip_moves_and_is_a_function_of_its_seed():
    clip, again, other = (synthetic_clip(seed=seed, frames=6, shots=3) for seed in (1, 1, 2))
    assert torch.equal(clip.query, again.query) and not torch.equal(clip.query, other.query)
    assert clip.size == (121, 217) and clip.support.shape[0] == 3 and clip.query.shape[0] == 6
    columns = [float(mask.nonzero()[:, 1].float().mean()) for mask in clip.truth]
    assert all(b - a > 3 for a, b in zip(columns, columns[1:], strict=False))  # it moves to the right
    shares = clip.truth.float().mean(dim=(1, 2))
    # ellipse pi * 0.22 * 0.16 of the image, both radii between 0.8 and 1.2 of that
    assert shares.min() * 1.02 > 0.8**2 * 0.1106 and shares.max() < 1.02 * 1.2**2 * 0.1106


def of(support, query, corpus="pascal", number=1, **more):
    return Episode(corpus, 0, number, f"kind_{number}", tuple(support), tuple(query), 1, **more)


@pytest.fixture
def images(tmp_path):
    labels = {name: block(1, 2, 2, 6, 6) for name in "abcd"} | {"empty": block(2, 2, 2, 6, 6)}
    return pascal(tmp_path / "p", labels, val=("a", "b", "c", "d", "empty"))


def test_episodes_with_unreadable_files_are_left_out(images):
    good = (of("ab", "c"), of("a", "d"), of(["empty", "a"], ["empty"]))  # a query without the class is valid
    assert check_episodes(good, images) == good and check_episodes((), images) == ()
    broken_png(images / "JPEGImages" / "b.jpg", "cut off")
    broken_png(images / "SegmentationClassAug" / "c.png", "missing")
    write_labels(images / "SegmentationClassAug" / "d.png", np.zeros((4, 4), np.uint8))
    errors = []
    episodes = (of("ab", "c"), of("a", "c"), of("a", "d"), of(["empty"], "a"), of("a", ["empty"]))
    assert check_episodes(episodes, images, on_error=errors.append) == episodes[4:]
    words = ("b.jpg", "c.png", "4 x 4", "class 1")
    assert [word in str(error) for word, error in zip(words, errors, strict=True)] == [True] * 4
    with pytest.raises(ValueError, match=r"^episode pascal/f0/kind_1/c: .*b\.jpg"):
        check_episodes(episodes, images)


def test_support_is_read_in_its_own_folder_with_its_own_class(images, tmp_path):
    root = vspw(tmp_path / "v", {"s": [block(41, 2, 2, 6, 6)] * 2})
    episode = of("a", ["s/8", "s/9"], "vspw", 41, support_corpus="pascal", support_class=1)
    assert check_episodes([episode], root, images) == (episode,)
    with pytest.raises(ValueError, match="class 3"):
        check_episodes([replace(episode, support_class=3)], root, images)
    errors = []
    assert check_episodes([of("a", "b", "ytvis")] * 2, tmp_path, on_error=errors.append) == ()
    assert errors and all("train.json" in str(error) for error in errors)

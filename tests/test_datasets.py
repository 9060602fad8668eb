"""Episodes become the right pixels: every dataset, one's own files, and no data at all."""

import shutil
import threading
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from corpora import (
    HEIGHT,
    WIDTH,
    block,
    davis,
    palette_png,
    pascal,
    picture,
    polygon,
    run_lengths,
    vspw,
    ytvis,
)
from folds import cross, fold
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco

from ttilib.datasets.base import ResizeRule
from ttilib.datasets.catalog import find_dataset, read_fold
from ttilib.datasets.masks import decode
from ttilib.datasets.transforms import MEAN, STD, letterbox, normalise
from ttilib.episodes.clips import Frames, clip_from_files, episode_frames, load_clip, pool_frames, synthetic_clip
from ttilib.episodes.episode import Episode, sample_episodes
from ttilib.files import read_json, write_json
from ttilib.images import read_image, write_image, write_labels
from ttilib.solver.task import extract
from ttilib.synthetic import generate
from ttilib.training.data import TrainingClips, TrainingFrames

SIZE = (HEIGHT, WIDTH)
SHOWS = {"aa": [[1], [1, 3], [3]], "bb": [[1], [1, 2], [2]], "cc": [[1, 2], [1], []], "dd": [[3], [3], [2]]}


def test_polygons_and_both_run_lengths_are_the_same_rectangle():
    expected = block(1, 2, 5, 6, 9).astype(bool)
    plain = run_lengths(expected)
    packed = coco.encode(np.asfortranarray(expected.astype(np.uint8)))
    text = {"size": [HEIGHT, WIDTH], "counts": packed["counts"].decode()}
    for outline in (polygon(2, 5, 6, 9), plain, text):
        np.testing.assert_array_equal(decode(outline, HEIGHT, WIDTH), expected)
    assert plain["counts"][:4] == [5 * 18 + 2, 6, 12, 6]  # five empty columns and two rows; then 6 of 18
    two = polygon(2, 5, 6, 9) + polygon(12, 1, 2, 3)
    assert decode(two, HEIGHT, WIDTH).sum() == 54 + 6
    assert decode([[1.0, 1.0, 2.0, 2.0]], HEIGHT, WIDTH).sum() == 0  # two corners have no inside


def test_outlines_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="here: size is"):
        decode({"size": [5, 5], "counts": [25]}, HEIGHT, WIDTH, "here")
    with pytest.raises(ValueError, match="here: run lengths add up to 25, not 576"):
        decode({"size": [HEIGHT, WIDTH], "counts": [25]}, HEIGHT, WIDTH, "here")
    with pytest.raises(ValueError, match="expected polygons or run lengths"):
        decode("text", HEIGHT, WIDTH, "here")


def test_ytvis_clip_has_the_pixels_of_the_episode(tmp_path):
    root = ytvis(tmp_path, SHOWS)
    episode = Episode("ytvis", 0, 1, "kind_1", ("aa/00005",), ("bb/00000", "bb/00005"), 0)
    clip = load_clip(episode, root, SIZE)
    assert clip.size == SIZE and clip.name == "ytvis/f0/kind_1/bb" and clip.class_name == "kind_1"
    assert clip.support.shape == (1, 3, *SIZE) and clip.query.shape == (2, 3, *SIZE)
    assert clip.query.dtype == torch.float32 and clip.query.min() >= 0 and clip.query.max() <= 1
    stored = picture(1)  # bb is the second video: its first frame has seed 1
    assert np.abs(clip.query[0].permute(1, 2, 0).numpy() * 255 - stored).mean() < 6
    np.testing.assert_array_equal(clip.truth[1].numpy(), block(1, 2, 3, 6, 6).astype(bool))
    assert clip.query_names == ("bb/00000", "bb/00005") and clip.support_names == ("aa/00005",)


def test_ytvis_joins_two_instances_and_skips_nulls(tmp_path):
    path = ytvis(tmp_path, SHOWS) / "train" / "train.json"
    content = read_json(path)
    twin = {**content["annotations"][0], "id": 90, "segmentations": [None, polygon(10, 20, 4, 5), None]}
    content["annotations"].append(twin)
    write_json(path, content)
    mask = find_dataset("ytvis").reader(tmp_path).mask("aa/00005", 1)
    np.testing.assert_array_equal(mask, block(1, 2, 3, 6, 6) + block(1, 10, 20, 4, 5))
    np.testing.assert_array_equal(find_dataset("ytvis").reader(tmp_path).mask("aa/00000", 1), block(1, 2, 3, 6, 6))


def test_ytvis_training_labels_paint_later_over_earlier_and_leave_novel_as_ground(tmp_path):
    path = ytvis(tmp_path, SHOWS) / "train" / "train.json"
    content = read_json(path)
    over = {
        **content["annotations"][0],
        "id": 91,
        "category_id": 2,
        "segmentations": [polygon(2, 9, 6, 3)] * 3,
    }
    content["annotations"].append(over)
    write_json(path, content)
    labels = find_dataset("ytvis").reader(tmp_path).labels("aa/00005", (2, 3, 4))
    expected = block(2, 2, 9, 6, 6)  # class 3 is second of the base classes
    expected[2:8, 9:12] = 1  # the later class 2 lies over it; class 1 is novel: background
    np.testing.assert_array_equal(labels, expected)
    with pytest.raises(ValueError, match="no frame aa/00007"):
        find_dataset("ytvis").reader(tmp_path).labels("aa/00007", (2,))


def test_padding_counts_for_ytvis_and_vspw_but_not_for_pascal_and_davis(tmp_path):
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


def test_void_is_not_valid_where_the_corpus_says_so(tmp_path):
    labels = block(2, 2, 3, 8, 8)
    labels[:, 20:] = 255
    pascal(tmp_path / "p", {"a": labels}, val=("a",))
    raw = labels.copy()
    raw[raw == 2] = 41
    vspw(tmp_path / "v", {"s": [raw, raw]})
    still = load_clip(Episode("pascal", 0, 2, "kind", ("a",), ("a",), 0), tmp_path / "p", (16, 32))
    # 18 x 32 becomes 16 x 28, cut to 16 x 24: of its columns 20/32 are judged, the 8 beyond are padding
    assert still.query_valid.sum() == 16 * 15 and still.query_valid[0, :, :15].all()
    video = load_clip(Episode("vspw", 0, 41, "kind", ("s/8",), ("s/9",), 0), tmp_path / "v", SIZE)
    assert video.query_valid.all() and video.truth.sum() == 64


def test_an_episode_across_corpora_uses_both_folders_and_both_ids(tmp_path):
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


def released(picture, mask, size, rule):
    """The test transforms as protocol section 2 writes them down, on one frame; padding included."""
    (height, width), picture, mask = mask.shape, np.float32(picture), np.float32(mask)
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
        root = ytvis(tmp_path, {"s": [[1], [1]]})
        content = read_json(root / "train" / "train.json")
        content["videos"][0] |= {"height": height, "width": width, "file_names": ["s/8.jpg", "s/9.jpg"]}
        content["annotations"][0]["segmentations"] = [run_lengths(labels == number) for labels in stored]
        write_json(root / "train" / "train.json", content)
        names, files = ("s/8", "s/9"), "train/JPEGImages/s/{}.jpg"
    for frame in "89":
        noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        write_image(root / files.format(frame), noise)
    clip = load_clip(Episode(corpus, 0, number, "kind", names[:1], names, 0), root, size)
    for place, frame in enumerate("89"):
        picture = np.array(Image.open(root / files.format(frame)))  # YouTube-VIS is read with Pillow in the release
        void = 255 if corpus == "pascal" else 0  # protocol 1.3, 1.5: nothing is unjudged in the videos
        mask = np.where(stored[place] == 255, void, stored[place] == number)
        image, labels = released(picture, mask, size, rule)
        np.testing.assert_array_equal(normalise(clip.query)[place].numpy(), image.transpose(2, 0, 1))
        np.testing.assert_array_equal(clip.truth[place].numpy(), labels == 1)
        np.testing.assert_array_equal(clip.query_valid[place].numpy(), labels != 255)
    assert torch.equal(clip.support[0], clip.query[0]) and torch.equal(clip.support_valid[0], clip.query_valid[0])


@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_opencv_and_pillow_decode_a_jpeg_to_the_same_pixels(tmp_path, subsampling):
    """The release reads some datasets with one and some with the other; here one reader serves all."""
    rng = np.random.default_rng(subsampling)
    for quality in (30, 75, 95):
        for height, width in ((97, 131), (120, 214)):
            noise = cv2.resize(rng.uniform(0, 255, (20, 30, 3)), (width, height), interpolation=cv2.INTER_CUBIC)
            noise = np.clip(noise + rng.normal(0, 9, noise.shape), 0, 255).astype(np.uint8)
            path = tmp_path / f"{quality}_{height}.jpg"
            Image.fromarray(noise).save(path, quality=quality, subsampling=subsampling)
            np.testing.assert_array_equal(read_image(path), np.array(Image.open(path)))


@pytest.mark.parametrize("corpus", ["ytvis", "vspw"])
def test_the_pixels_do_not_depend_on_the_number_of_workers(tmp_path, corpus):
    if corpus == "ytvis":
        root, frames = ytvis(tmp_path, {"aa": [[1, 2]] * 12}), tuple(f"aa/{5 * t:05d}" for t in range(12))
    else:
        stored = [block(41, t, 3, 6, 6) for t in range(12)]
        root, frames = vspw(tmp_path, {"s": stored}), tuple(f"s/{8 + t}" for t in range(12))
    episode = Episode(corpus, 0, 1 if corpus == "ytvis" else 41, "kind_1", frames[:3], frames, 0)
    alone = load_clip(episode, root, (41, 41))
    for workers in (2, 5, 40):
        clip = load_clip(episode, root, (41, 41), workers=workers)
        for field in ("support", "support_masks", "support_valid", "query", "truth", "query_valid"):
            assert torch.equal(getattr(clip, field), getattr(alone, field)), (field, workers)


def test_frames_are_read_one_at_a_time_and_only_when_asked_for(tmp_path):
    root = ytvis(tmp_path, SHOWS)
    episode = Episode("ytvis", 0, 1, "kind_1", ("aa/00005",), ("bb/00000", "bb/00005"), 0)
    clip = load_clip(episode, root, (41, 41))
    hidden = root / "train" / "JPEGImages"
    hidden.rename(root / "away")
    support, query = episode_frames(episode, root, (41, 41))
    assert (len(support), len(query)) == (1, 2) and query.names == episode.query
    with pytest.raises(FileNotFoundError, match=r"00005\.jpg"):
        query[1]
    (root / "away").rename(hidden)
    (hidden / "bb" / "00005.jpg").unlink()
    picture, mask, valid = query[0]
    assert torch.equal(picture, clip.query[0]) and torch.equal(mask, clip.truth[0]) and valid.all()
    one_by_one = iter(query)
    assert torch.equal(next(one_by_one)[0], clip.query[0])
    with pytest.raises(FileNotFoundError):
        next(one_by_one)
    with pytest.raises(IndexError):
        query[2]
    assert torch.equal(support[-1][1], clip.support_masks[0])


def test_frame_by_frame_is_the_same_as_together(tmp_path):
    labels = [block(2, 2, 3 + 5 * n, 8, 8) for n in range(3)]
    labels[1][10:] = 255
    root = pascal(tmp_path, dict(zip("abc", labels, strict=True)), val=("a", "b", "c"))
    _, query = episode_frames(Episode("pascal", 0, 2, "kind", ("a",), ("a", "b", "c"), 0), root, (41, 41))
    pictures, masks, valid = query.load_all()
    for place, (shown, mask, counts) in enumerate(query):
        assert torch.equal(shown, pictures[place]) and torch.equal(mask, masks[place])
        assert torch.equal(counts, valid[place]) and 0 < counts.sum() < 16 * 40 + (place != 1)
    assert torch.equal(query[-1][1], masks[2]) and len(list(query)) == 3


@pytest.mark.parametrize("workers", [1, 3])
def test_reading_stops_at_the_first_unusable_frame(workers):
    asked, lock = [], threading.Lock()

    def read(place):
        with lock:
            asked.append(place)
        if place in (4, 90):
            raise ValueError(f"frame {place} is broken")
        return picture(place), block(1, 0, 0, 3, 3)

    frames = Frames(tuple(map(str, range(500))), read, SIZE, ResizeRule(letterbox, True))
    with pytest.raises(ValueError, match="frame 4 is broken"):
        frames.load_all(workers)
    assert len(asked) < 250 if workers > 1 else asked == [0, 1, 2, 3, 4]


def test_the_released_batch_reaches_the_solver(tmp_path):
    root = ytvis(tmp_path, SHOWS)
    episode = Episode("ytvis", 0, 1, "kind_1", ("aa/00005",), ("bb/00000",), 0)
    for batch, due in ((None, None), (0, 100), (7, 100)):
        clip = load_clip(replace(episode, batch=batch), root, SIZE)
        assert clip.batch_frames == due
        assert extract(lambda images: images[:, :, ::8, ::8], clip).batch_frames == due
    assert synthetic_clip().batch_frames is None


def test_only_the_pixels_asked_for_are_read(tmp_path):
    root = ytvis(tmp_path, SHOWS)
    episode = Episode("ytvis", 0, 1, "kind_1", ("aa/00000",), ("bb/00000",), 0)
    for path in (root / "train" / "JPEGImages").rglob("*.jpg"):
        if path.parent.name + "/" + path.stem not in episode.support + episode.query:
            path.write_bytes(b"")
    assert load_clip(episode, root, SIZE).query.shape[0] == 1
    with pytest.raises(ValueError, match=r"00005\.jpg: image file is empty"):
        load_clip(replace(episode, query=("bb/00000", "bb/00005")), root, SIZE)


def test_unusable_episodes_are_named(tmp_path):
    root = ytvis(tmp_path, SHOWS)
    episode = Episode("ytvis", 0, 2, "kind_2", ("aa/00000",), ("bb/00005",), 0)
    with pytest.raises(ValueError, match="ytvis/f0/kind_2/bb: .*class 2"):
        load_clip(episode, root, SIZE)
    write_image(root / "train" / "JPEGImages" / "bb" / "00005.jpg", picture(0, 10, 10))
    with pytest.raises(ValueError, match="bb/00005: .*10 x 10.*18 x 32"):
        load_clip(replace(episode, support=("bb/00010",)), root, SIZE)


def test_a_pool_holds_the_pictures_of_base_training_and_no_others(tmp_path):
    root = ytvis(tmp_path, SHOWS)
    split = replace(read_fold("ytvis", 0, root), train=("dd", "bb", "dd"), val=("cc",))
    pool = pool_frames(split, root, SIZE)
    assert pool.names == tuple(f"{video}/{5 * t:05d}" for video in ("bb", "dd") for t in range(3))
    for place, (image, mask, valid) in enumerate(pool):
        stored = read_image(root / "train" / "JPEGImages" / f"{pool.names[place]}.jpg")
        np.testing.assert_array_equal((image.permute(1, 2, 0) * 255).round().numpy(), stored)
        assert not mask.any() and valid.all()
    assert pool_frames(replace(split, train=()), root, SIZE).names == ()
    assert len(pool_frames(replace(split, train=()), root, SIZE)) == 0


def test_a_pool_needs_no_labels(tmp_path):
    mask = block(2, 2, 3, 8, 8)
    root = pascal(tmp_path, {"a": mask, "b": mask, "c": mask, "d": mask}, val=("a", "b"))
    split = read_fold("pascal", 0, root)
    shutil.rmtree(root / "SegmentationClassAug")
    pool = pool_frames(split, root, SIZE)
    assert set(pool.names) == set(split.train) and not set(pool.names) & {"a", "b"} and len(pool) == 2
    images, masks, valid = pool.load_all()
    assert images.std() > 0.05 and not masks.any() and valid.all()


@pytest.mark.parametrize("corpus", ["ytvis", "pascal", "vspw"])
def test_bars_around_a_picture_of_a_pool_do_not_count_whatever_the_corpus(tmp_path, corpus):
    mask = block(41 if corpus == "vspw" else 2, 2, 3, 8, 8)
    if corpus == "ytvis":
        root, name = ytvis(tmp_path, SHOWS), "aa"
    elif corpus == "pascal":
        root, name = pascal(tmp_path, {"a": mask, "b": mask}, val=("b",)), "a"
    else:
        root, name = vspw(tmp_path, {"a": [mask] * 2}, train=("a",)), "a"
    pool = pool_frames(replace(read_fold(corpus, 0, root), train=(name,)), root, (41, 41))
    image, _, valid = pool[0]
    expected = torch.zeros(41, 41, dtype=torch.bool)
    expected[9:32] = True  # 18 x 32 becomes 23 x 41, centred
    assert torch.equal(valid, expected)
    assert not image[:, ~expected].any() and image[:, expected].std() > 0.05


@given(st.integers(1, 9), st.integers(1, 40), st.randoms())
def test_a_pool_is_thinned_evenly_and_always_the_same(videos, limit, random):
    split = fold("vspw", videos)
    everything = [frame for video in sorted(split.frames) for frame in split.frames[video]]
    order = 2 * list(split.frames)
    random.shuffle(order)  # neither the order nor how often a video is gone through matters
    names = pool_frames(replace(split, train=tuple(order)), "nowhere", SIZE, limit).names
    places = [everything.index(name) for name in names]
    assert len(places) == min(limit, len(everything)) and places[0] == 0
    gaps = [b - a for a, b in zip(places, [*places[1:], len(everything)], strict=True)]
    assert min(gaps) >= 1 and max(gaps) - min(gaps) <= 1
    assert names == pool_frames(replace(split, train=tuple(split.frames)), "elsewhere", SIZE, limit).names


def test_a_pool_has_a_hundred_pictures_unless_told():
    split = fold("vspw", 60)
    assert len(pool_frames(replace(split, train=tuple(split.frames)), "nowhere", SIZE)) == 100
    assert pool_frames(replace(split, train=("v3", "v1")), "nowhere", (7, 9), 2).names == ("v1/00000", "v3/00001")
    assert pool_frames(replace(split, train=("v3", "v1")), "nowhere", (7, 9), 2).size == (7, 9)


def own(tmp_path, stored, frames=2):
    write_image(tmp_path / "still.png", picture(0))
    write_labels(tmp_path / "mask.png", stored)
    films = [tmp_path / f"f{n}.png" for n in range(frames)]
    for n, path in enumerate(films):
        write_image(path, picture(n))
    return [tmp_path / "still.png"], [tmp_path / "mask.png"], films


@pytest.mark.parametrize(
    ("value", "label", "void"),
    [(255, None, False), (1, None, False), (1, None, True), (6, None, False), (6, 6, True)],
)
def test_own_masks_of_every_kind(tmp_path, value, label, void):
    stored = block(value, 2, 3, 6, 6)
    stored[0] = 255 if void else 0
    stills, masks, films = own(tmp_path, stored)
    clip = clip_from_files(stills, masks, films, SIZE, label=label)
    np.testing.assert_array_equal(clip.support_masks[0].numpy(), block(1, 2, 3, 6, 6).astype(bool))
    assert clip.support_valid[0, 0].any() == (not void) and clip.support_valid[0, 1:].all()
    assert clip.truth is None and clip.query.shape == (2, 3, *SIZE) and clip.query_valid.all()
    np.testing.assert_allclose(clip.query[1].permute(1, 2, 0).numpy() * 255, picture(1), atol=1e-3)


def test_own_palette_mask_is_read_by_index(tmp_path):
    stills, _, films = own(tmp_path, block(1, 0, 0, 1, 1))
    path = palette_png(tmp_path / "palette.png", block(3, 2, 3, 6, 6) + block(5, 10, 10, 4, 4))
    with pytest.raises(ValueError, match=r"palette\.png: .*2 labels \(3, 5\).*label="):
        clip_from_files(stills, [path], films, SIZE)
    clip = clip_from_files(stills, [path], films, SIZE, label=5)
    np.testing.assert_array_equal(clip.support_masks[0].numpy(), block(1, 10, 10, 4, 4).astype(bool))


def test_own_arrays_and_truth(tmp_path):
    mask, truth = block(1, 2, 3, 6, 6).astype(bool), [block(9, 1, 1, 4, 4), block(0, 0, 0, 1, 1)]
    clip = clip_from_files(
        [picture(0)], [mask], [picture(0), picture(1)], SIZE, name="mine", class_name="boat", truth=truth
    )
    assert clip.truth.sum(dim=(1, 2)).tolist() == [16, 0] and clip.support_masks.sum() == 36
    assert (clip.name, clip.class_name, clip.query_names) == ("mine", "boat", ("array 0", "array 1"))


def test_own_files_that_cannot_be_used_are_named(tmp_path):
    stills, masks, films = own(tmp_path, block(0, 0, 0, 1, 1))
    with pytest.raises(ValueError, match=r"mask\.png: .*no foreground"):
        clip_from_files(stills, masks, films, SIZE)
    Image.fromarray(picture(0)).save(tmp_path / "rgb.png")
    with pytest.raises(ValueError, match=r"rgb\.png: label map has RGB pixels"):
        clip_from_files(stills, [tmp_path / "rgb.png"], films, SIZE)
    write_labels(tmp_path / "small.png", block(1, 0, 0, 3, 3, size=(9, 16)))
    with pytest.raises(ValueError, match=r"still\.png: .*18 x 32.*9 x 16"):
        clip_from_files(stills, [tmp_path / "small.png"], films, SIZE)
    with pytest.raises(ValueError, match="2 masks"):
        clip_from_files(stills, masks * 2, films, SIZE)
    with pytest.raises(ValueError, match="0 frames"):
        clip_from_files(stills, masks, [], SIZE)
    with pytest.raises(FileNotFoundError, match=r"absent\.jpg"):
        clip_from_files([tmp_path / "absent.jpg"], masks, films, SIZE)


def test_synthetic_clip_moves_and_is_a_function_of_its_seed():
    clip = synthetic_clip(seed=1, frames=6, shots=3)
    again, other = synthetic_clip(seed=1, frames=6, shots=3), synthetic_clip(seed=2, frames=6, shots=3)
    torch.testing.assert_close(clip.query, again.query, rtol=0, atol=0)
    assert not torch.equal(clip.query, other.query)
    assert clip.size == (121, 217) and clip.support.shape[0] == 3 and clip.query.shape[0] == 6
    assert clip.query_valid.all() and clip.support_masks.flatten(1).any(dim=1).all()
    columns = [float(mask.nonzero()[:, 1].float().mean()) for mask in clip.truth]
    assert all(b - a > 3 for a, b in zip(columns, columns[1:], strict=False))  # it drifts to the right
    shares = clip.truth.float().mean(dim=(1, 2))
    # ellipse pi * 0.22 * 0.16 of the canvas, breathing within 0.8 and 1.2 in both radii
    assert shares.min() * 1.02 > 0.8**2 * 0.1106 and shares.max() < 1.02 * 1.2**2 * 0.1106
    colour = [clip.query[t][:, clip.truth[t]].mean(dim=1) for t in (0, 5)]
    torch.testing.assert_close(*colour, rtol=0.1, atol=0.02)


def test_the_synthetic_dataset_is_read_like_the_real_ones(tmp_path):
    root = generate(
        tmp_path / "mini", classes=4, videos_per_class=2, frames=(2, 3), stills_per_class=(1, 2), workers=1
    )
    for corpus in ("ytvis", "pascal", "vspw"):
        fold = read_fold(corpus, 1, root / corpus)
        for items in (TrainingFrames, TrainingClips):
            pictures, labels = items(fold, root / corpus, "train", (57, 105))[0]
            assert pictures.isfinite().all() and {int(label) for label in labels.unique()} <= {0, 1, 2, 3, 255}
        if corpus == "vspw":
            continue  # two videos a class leave one for testing, which cannot support itself
        episode = sample_episodes(fold, 1)[0]
        clip = load_clip(episode, root / corpus, (57, 105))
        assert 0.002 < clip.truth.float().mean() < 0.7 and clip.support_masks.any()
        assert clip.query.std() > 0.05

"""Episodes become the released pixels, for every dataset and a user's own files; unreadable episodes are left out."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import corpora
import cv2
import numpy as np
import pytest
import torch
from corpora import HEIGHT, WIDTH, block, compressed, davis, palette_png, pascal, picture, vspw, ytvis
from folds import cross
from PIL import Image

from ttilib.datasets.base import ResizeRule
from ttilib.datasets.catalog import find_dataset, read_fold
from ttilib.datasets.transforms import MEAN, STD, letterbox, normalise
from ttilib.episodes.clips import (
    Frames,
    check_episodes,
    clip_from_files,
    clips_from_files,
    load_clip,
    pool_frames,
    synthetic_clip,
)
from ttilib.episodes.episode import Episode
from ttilib.files import write_json
from ttilib.images import write_image, write_labels
from ttilib.plots.video import write_mask
from ttilib.segment import support_files
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
     ("davis", "letterboxed, padding ignored", 2, (41, 73), 255), ("minivspw", "still", 41, (65, 65), 0)],
)  # fmt: skip
@pytest.mark.parametrize(("height", "width"), [(48, 86), (86, 48), (18, 32)])
def test_every_pixel_of_a_clip_is_the_released_one(tmp_path, corpus, rule, number, size, void, height, width):
    rng, names = np.random.default_rng(height), ("8", "9") if corpus == "pascal" else ("s/8", "s/9")
    stored = rng.choice([0, number, 3, 255], (2, height, width), p=(0.4, 0.3, 0.2, 0.1)).astype(np.uint8)
    root, files = {
        "pascal": lambda: (pascal(tmp_path, dict(zip(names, stored, strict=True)), val=names), "JPEGImages"),
        "ytvis": lambda: (ytvis_of(tmp_path, {"s": stored == 1}), "train/JPEGImages/s"),
        "vspw": lambda: (vspw(tmp_path, {"s": list(stored)}), "data/s/origin"),
        "davis": lambda: (davis(tmp_path, {"s": list(stored)}), "JPEGImages/s"),
    }[corpus.removeprefix("mini")]()
    pictures = [noise(root / files / f"{frame}.jpg", (height, width)) for frame in "89"]
    clip = load_clip(Episode(corpus, 0, number, "kind", names[:1], names, 0), root, size)
    for place, picture_of in enumerate(pictures):
        mask = np.where(stored[place] == 255, void, stored[place] == number)
        image, labels = released(picture_of, mask, size, rule)
        np.testing.assert_array_equal(normalise(clip.query)[place].numpy(), image.transpose(2, 0, 1))
        np.testing.assert_array_equal(clip.truth[place].numpy(), labels == 1)
        np.testing.assert_array_equal(clip.query_valid[place].numpy(), labels != 255)
    assert torch.equal(clip.support[0], clip.query[0]) and torch.equal(clip.support_valid[0], clip.query_valid[0])


@pytest.mark.parametrize("shapes", [((48, 86), (86, 48), (96, 172)), ((40, 72), (18, 20))])
def test_ytvis_supports_are_resized_and_padded_like_the_first(tmp_path, shapes):
    rng, size = np.random.default_rng(1), (41, 73)
    masks = [rng.random(shape) < 0.4 for shape in shapes]
    root = ytvis_of(tmp_path, {f"v{n}": [mask] for n, mask in enumerate(masks)})
    pictures = [noise(root / f"train/JPEGImages/v{n}/8.jpg", shape) for n, shape in enumerate(shapes)]
    names = tuple(f"v{n}/8" for n in range(len(shapes)))
    episode = Episode("ytvis", 0, 1, "kind", names, names[1:2], 0)
    for supports, like in (("released", masks[:1] * len(masks)), ("own", masks)):
        clip = load_clip(episode, root, size, supports=supports)
        for place, (shown, mask, first) in enumerate(zip(pictures, masks, like, strict=True)):
            image, labels = released(shown, mask, size, "video", first)
            np.testing.assert_array_equal(normalise(clip.support)[place].numpy(), image.transpose(2, 0, 1))
            np.testing.assert_array_equal(clip.support_masks[place].numpy(), labels == 1)
        alone = load_clip(replace(episode, support=names[1:2]), root, size, supports=supports)
        assert torch.equal(alone.support, clip.query) and torch.equal(alone.support_masks, clip.truth)
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
    wrong, errors = replace(episode, support_class=3), []
    assert check_episodes([episode, wrong], root, voc, on_error=errors.append) == (episode,)
    assert "class 3" in str(errors[0]) and len(errors) == 1


def test_reading_stops_at_the_first_unusable_frame():
    read = []

    def read_frame(index):
        read.append(index)
        if index in (14, 90):
            raise ValueError(f"frame {index} is damaged")
        return picture(index), block(1, index, 0, 3, 3)

    frames = Frames(tuple(map(str, range(500))), read_frame, (41, 41), ResizeRule(letterbox, True))
    few = replace(frames, names=frames.names[:9])
    for found, together in zip(zip(*few, strict=True), few.load_all(), strict=True):
        assert torch.equal(torch.stack(found), together)
    read.clear()
    with pytest.raises(ValueError, match="frame 14"):
        frames.load_all()
    assert read == list(range(15))


def test_the_released_batch_reaches_the_solver(tmp_path):
    root = ytvis(tmp_path, {"aa": [[1], [1]]})
    for batch, expected in ((None, None), (0, 100), (7, 100)):
        clip = load_clip(Episode("ytvis", 0, 1, "kind", ("aa/00000",), ("aa/00005",), 0, batch=batch), root, SIZE)
        assert clip.batch_frames == extract(lambda images: images[:, :, ::8, ::8], clip).batch_frames == expected


def test_mean_features_use_training_images_without_labels_or_padding(tmp_path):
    root = vspw(tmp_path, {"aa": [block(41, 2, 3, 8, 8)] * 3, "bb": [block(41, 2, 3, 8, 8)] * 3})
    split = replace(read_fold("vspw", 0, root), train=("bb", "aa", "bb"), val=("cc",))
    pool, inside = pool_frames(split, root, (41, 41)), torch.zeros(41, 41, dtype=torch.bool)
    assert pool.names == ("aa/8", "aa/9", "aa/10", "bb/8", "bb/9", "bb/10")
    assert pool_frames(split, root, SIZE, 4).names == ("aa/8", "aa/9", "bb/8", "bb/9")  # 0, 1.5, 3, 4.5
    inside[9:32] = True  # 18 x 32 becomes 23 x 41, centred
    for image, masks, valid in pool:
        assert torch.equal(valid, inside) and not masks.any() and not image[:, ~inside].any()
        assert image[:, inside].std() > 0.05
    assert len(pool_frames(replace(split, train=()), root, SIZE)) == 0


def own(tmp_path, stored):
    files = [tmp_path / name for name in ("still.png", "f0.png", "f1.png")]
    for n, path in enumerate(files):
        write_image(path, picture(n))
    write_labels(tmp_path / "mask.png", stored)
    return files[:1], [tmp_path / "mask.png"], files[1:]


@pytest.mark.parametrize(("value", "label", "void"), [(255, None, 0), (6, 6, 255), (6, None, 255)])
def test_own_masks_of_every_kind(tmp_path, value, label, void):
    stored = block(value, 2, 3, 6, 6)
    stored[0] = void
    with pytest.warns(UserWarning, match="255 as the ignore label") if void and label is None else nullcontext():
        clip = clip_from_files(*own(tmp_path, stored), SIZE, label=label)
    np.testing.assert_array_equal(clip.support_masks[0].numpy(), stored == value)
    np.testing.assert_array_equal(clip.support_valid[0].numpy(), (stored != 255) | (value == 255))
    assert clip.truth is None and clip.query.shape == (2, 3, *SIZE) and clip.query_valid.all()
    np.testing.assert_allclose(clip.query[1].permute(1, 2, 0).numpy() * 255, picture(2), atol=1e-3)


def colours(mask, inside, outside=(0, 0, 0), mode="RGB"):
    return Image.fromarray(np.where(mask[..., None] > 0, np.uint8(inside), np.uint8(outside)), mode)


def soft(mask):
    return cv2.GaussianBlur(255 * mask, (5, 5), 1)


SHAPE = np.kron(block(1, 4, 6, 9, 15), np.ones((8, 8), np.uint8))
CORNERS = [[48, 32], [168, 32], [168, 104], [48, 104]]
DOG = {"label": "dog", "points": CORNERS}
COCO = {
    "images": [{"id": 4, "file_name": "x/still.png"}, {"id": 5, "file_name": "b.png"}],
    "categories": [{"id": 2, "name": "dog"}],
}
KINDS = {  # name of the file: how it is written
    "one.png": lambda path: write_labels(path, SHAPE), "white.png": lambda path: write_labels(path, 255 * SHAPE),
    "ours.png": lambda path: write_mask(path, SHAPE, 1), "palette.png": lambda path: write_mask(path, SHAPE, 2),
    "grey.jpg": lambda path: Image.fromarray(240 * SHAPE).save(path),
    "alpha.png": lambda path: colours(SHAPE, (255, 255, 255, 255), (255, 255, 255, 0), "RGBA").save(path),
    "light.png": lambda path: Image.fromarray(np.dstack([255 + 0 * SHAPE, 255 * SHAPE])).save(path),  # of mode LA
    "red.png": lambda path: colours(SHAPE, (255, 0, 0, 255), (0, 0, 0, 0), "RGBA").save(path),
    "cutout.png": lambda path: Image.fromarray(np.dstack([picture(1, *SHAPE.shape), 255 * SHAPE])).save(path),
    "dark.png": lambda path: Image.fromarray(np.dstack([20 + picture(1, *SHAPE.shape) // 6, 255 * SHAPE])).save(path),
    "brush.png": lambda path: Image.fromarray(np.dstack([soft(SHAPE), 0 * SHAPE, 0 * SHAPE])).save(path),
    "red.jpg": lambda path: colours(SHAPE, (230, 30, 20)).save(path, quality=90),
    "labelme.json": lambda path: write_json(path, {"shapes": [DOG], "imageData": None}),
    "box.json": lambda path: write_json(path, {"shapes": [DOG | {"shape_type": "rectangle", "points": CORNERS[::2]}]}),
    "box4.json": lambda path: write_json(path, {"shapes": [DOG | {"shape_type": "rectangle"}]}),
    "polygon.json": lambda path: write_json(path, coco_of([sum(CORNERS, [])])),
    "lengths.json": lambda path: write_json(path, coco_of(compressed(SHAPE))),
}  # fmt: skip


def coco_of(outline):
    return COCO | {"annotations": [{"id": 1, "image_id": 4, "category_id": 2, "segmentation": outline}]}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:.*taken as the object")
def test_masks_as_people_have_them(tmp_path, kind):
    """A rectangle of 120 x 72 pixels; lossy and soft files may differ along its border."""
    write_image(tmp_path / "still.png", picture(0, *SHAPE.shape))
    KINDS[kind](tmp_path / kind)
    clips = clips_from_files([tmp_path / "still.png"], [tmp_path / kind], [picture(0)], SHAPE.shape)
    ((name, clip),) = clips.items()
    found, border = clip.support_masks[0].numpy(), cv2.morphologyEx(SHAPE, cv2.MORPH_GRADIENT, np.ones((5, 5)))
    assert (name == "dog") == (Path(kind).suffix == ".json")
    exact = kind.endswith("json") or kind[:4] not in ("soft", "grey", "brus", "red.")
    np.testing.assert_array_equal(found[(border == 0) | exact], SHAPE[(border == 0) | exact] == 1)


def test_several_objects_in_one_mask_and_in_folders(tmp_path):
    first, second = block(1, 2, 3, 6, 6), block(1, 10, 20, 5, 8)
    labels = first + 2 * second
    write_mask(tmp_path / "palette.png", labels, 2)
    rgb = np.zeros((*SIZE, 3), np.uint8)
    rgb[labels == 1], rgb[labels == 2] = (0, 255, 0), (255, 0, 255)
    Image.fromarray(rgb).save(tmp_path / "colours.png")
    write_labels(tmp_path / "a" / "x.png", first)
    write_labels(tmp_path / "b" / "x.png", 255 * second)
    write_image(tmp_path / "images" / "x.jpg", picture(0))
    images, joint = support_files([tmp_path / "images"], [tmp_path / "a", tmp_path / "b"])
    assert clip_from_files(images, joint, [picture(0)], SIZE, label="b").support_masks.sum() == second.sum()
    for mask, names in (("palette.png", ["1", "2"]), ("colours.png", ["7", "21"]), (joint[0], ["a", "b"])):
        mask = tmp_path / mask if isinstance(mask, str) else mask
        clips = clips_from_files(images, [mask], [picture(0)], SIZE)
        assert list(clips) == names and clips[names[0]].support is clips[names[1]].support
        for name, inside in zip(names, (first, second), strict=True):
            np.testing.assert_array_equal(clips[name].support_masks[0].numpy(), inside == 1)
    for masks in ([tmp_path / "palette.png", first], [{"1": first, "2": second}, {"1": first}]):
        clips = clips_from_files(images * 2, masks, [picture(0)], SIZE)
        assert clips["2"].support_masks.flatten(1).any(1).tolist() == [True, False]
    with pytest.raises(ValueError, match="RGB"):  # image and mask exchanged
        clips_from_files([tmp_path / "palette.png"], images, [picture(0)], SIZE)


@pytest.mark.parametrize("edge", [{1: 1}, {128: 30}, {40: 8, 180: 12, 220: 12}])
def test_black_and_white_masks_with_stray_or_soft_values_are_thresholded(edge):
    mask = block(255, 2, 3, 5, 5)
    mask[10, : sum(edge.values())] = np.repeat(list(edge), list(edge.values()))
    with pytest.warns(UserWarning, match="array 0.*128"):
        clip = clip_from_files([picture(0)], [mask], [picture(0)], SIZE, truth=[mask])
    np.testing.assert_array_equal(clip.support_masks[0].numpy(), mask > 127)
    assert clip.support_valid.all() and torch.equal(clip.truth, clip.support_masks)
    chosen = clip_from_files(picture(0)[None], mask[None], picture(0)[None], SIZE, label=max(edge))  # arrays as lists
    np.testing.assert_array_equal(chosen.support_masks[0].numpy(), mask == max(edge))


def test_unusable_own_files_are_named(tmp_path):
    images, empty, frames = own(tmp_path, block(0, 0, 0, 1, 1))
    two = [palette_png(tmp_path / "palette.png", block(3, 2, 3, 6, 6) + block(5, 10, 10, 4, 4))]
    for masks, label, word in (
        ("mask.png", None, "give a list"),
        (empty, None, r"mask\.png: .*no foreground"), (two, None, "palette.*label="), (empty * 2, None, "2 masks"),
        ([block(1, 0, 0, 4, 4, (9, 16))], None, "18 x 32.*9 x 16"), (two, 256, "label is 256"),
        (two, 4, "label 4; give one of 3, 5"), (empty, 4, r"mask\.png: .*no foreground"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=word):
            clip_from_files(images, masks, frames, SIZE, label=label)
    write_json(tmp_path / "two.json", COCO)
    for image, mask, word in (
        (picture(0) / 255, two[0], "float64; give"), (picture(0), "two.json", "for array 0;"),
        (Image.fromarray(picture(0)), two[0], "Image.*; give a file, or an array"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=word):
            clip_from_files([image], [tmp_path / mask], frames, SIZE)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"frames": 0}, "1 support images and 0 frames"),
        ({"shots": 0}, "0 support images and 8 frames"),
        ({"size": (0, 5)}, "0 x 5 pixels"),
    ],
)
def test_a_synthetic_clip_without_an_image_or_a_pixel_is_refused(given, found):
    with pytest.raises(ValueError, match=f"{found}; give"):
        synthetic_clip(**given)

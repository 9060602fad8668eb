"""Pascal: scans follow lists and size rule, masks are read in every format, bad files are reported; moving images."""

from pathlib import Path

import numpy as np
import pytest
from corpora import block, broken_png, pascal, picture
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ttilib.datasets.base import IGNORE_LABEL, raise_first
from ttilib.datasets.pascal import FRAMES, PASCAL, VOC_COLOURS, MovingReader, PascalReader, camera, voc_colour
from ttilib.episodes.benchmarks import draw_episodes, read_benchmark
from ttilib.files import write_text
from ttilib.images import write_labels

TABLE = {"classes": {n: f"kind_{n}" for n in range(1, 5)}, "min_pixels": 20}
KNOWN = {
    0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 3: (128, 128, 0), 4: (0, 0, 128), 7: (128, 128, 128), 8: (64, 0, 0),
    15: (192, 128, 128), 16: (0, 64, 0), 20: (0, 64, 128), 255: (224, 224, 192),
}  # fmt: skip


def scan(root, base=(2, 3, 4), novel=(1,), on_error=raise_first, **rules):
    return PASCAL.scan(root, {**TABLE, **rules}, base, novel, on_error)


def test_voc_colours_are_those_of_voc():
    assert {label: voc_colour(label) for label in KNOWN} == KNOWN and len(VOC_COLOURS) == 256


def test_bad_masks_are_each_reported_and_left_out(tmp_path):
    names, errors = ("missing", "cut", "strange", "coloured", "v", "w"), []
    root = pascal(tmp_path, {name: block(1, 0, 0, 6, 6) for name in names}, names[:-1])
    masks = root / "SegmentationClassAug"
    broken_png(masks / "missing.png", "missing")
    broken_png(masks / "cut.png", "cut off")
    write_labels(masks / "strange.png", block(77, 0, 0, 1, 1))
    Image.fromarray(picture(3)).save(masks / "coloured.png")
    listed = (root / "train.txt").read_text()  # a second time "strange": reported once
    write_text(root / "train.txt", f"{listed}JPEGImages/strange.jpg SegmentationClassAug/strange.png\n")
    found = scan(root, on_error=errors.append)
    assert list(found.frames) == ["w", "v"] and list(found.presence[1]) == ["v"] and found.shown == {"v": (1,)}
    assert sorted(Path(str(error).split(": ")[0]).stem for error in errors) == sorted(names[:4])
    with pytest.raises(FileNotFoundError, match=r"missing\.png"):
        scan(root)
    masks.rename(root / "SegmentationClass")
    with pytest.raises(FileNotFoundError, match="SegmentationClassAug"):
        scan(root, on_error=[].append)


@settings(max_examples=20)
@given(data=st.data())
def test_the_scan_is_the_rule_written_down(tmp_path_factory, data):
    """docs/protocol.md 1.1, image by image, from the label maps themselves."""
    labels = st.sampled_from([0, 0, 1, 2, 3, 4, IGNORE_LABEL])
    maps = st.lists(labels, min_size=30, max_size=30).map(lambda v: np.array(v, dtype=np.uint8).reshape(5, 6))
    names = [f"s{n}" for n in range(data.draw(st.integers(1, 6)))]
    images = {name: data.draw(maps) for name in names}
    val = tuple(data.draw(st.permutations(names))[: data.draw(st.integers(0, len(names)))])
    novel = tuple(data.draw(st.sets(st.integers(1, 4), min_size=1, max_size=3)))
    base = tuple(n for n in range(1, 5) if n not in novel)
    root = pascal(tmp_path_factory.mktemp("voc"), images, val)
    found = scan(root, base, novel, min_pixels=5)
    train = [name for name in names if name not in val]
    large = {name: [n for n in range(1, 5) if (images[name] == n).sum() >= 5] for name in names}
    assert found.train == tuple(name for name in train if any(n in base for n in large[name]))
    assert found.val == tuple(name for name in val if any(n in base for n in large[name]))
    for number in range(1, 5):
        pool = [*(train if number in base else []), *val]
        assert list(found.presence[number]) == [name for name in pool if number in large[name]]
    queries = [name for name in val if any(n in novel for n in large[name])]
    assert list(found.shown) == queries
    for name in queries:
        assert found.shown[name] == tuple(sorted(n for n in novel if n in images[name]))


@pytest.mark.parametrize("others", [(), (2, 15, 20, IGNORE_LABEL)], ids=["a car alone", "several classes"])
def test_masks_in_the_colours_of_voc_are_read_as_labels(tmp_path, others):
    labels = block(7, 2, 3, 6, 5)  # a car, which VOC shows in grey
    for place, label in enumerate(others):
        labels[place + 10, :20] = label
    reader, masks = PascalReader(tmp_path), tmp_path / "SegmentationClassAug"
    write_labels(masks / "grey.png", labels)
    colours = np.array(list(VOC_COLOURS), dtype=np.uint8)[labels]
    Image.fromarray(colours).save(masks / "voc.png")
    Image.fromarray(np.dstack([colours, np.full(labels.shape, 130, dtype=np.uint8)])).save(masks / "alpha.png")
    for name in ("grey", "voc", "alpha"):
        np.testing.assert_array_equal(reader.mask(name, 7), np.where(labels == IGNORE_LABEL, IGNORE_LABEL, labels == 7))
        known = [(labels == 0) | (labels == IGNORE_LABEL), labels == 7, labels == 2]  # void is background in training
        expected = np.select(known, [0, 2, 1], IGNORE_LABEL)
        np.testing.assert_array_equal(reader.labels(name, (2, 7)), expected)


@pytest.fixture
def squares(tmp_path):
    """Three images of one class: a bright square on black, where the mask is."""
    masks = {name: np.zeros((60, 80), dtype=np.uint8) for name in ("a", "b", "c")}
    for mask in masks.values():
        mask[20:44, 28:56] = 1
    root = pascal(tmp_path / "pascal", masks, tuple(masks))
    for name, mask in masks.items():
        Image.fromarray(200 * np.dstack([mask] * 3)).save(root / "JPEGImages" / f"{name}.jpg", quality=95)
    return root


def test_the_mask_of_a_moving_image_moves_with_it(squares):
    reader, seen = MovingReader(squares), []
    for number in range(FRAMES):
        image, mask = reader.image(f"a/{number}"), reader.mask(f"a/{number}", 1) == 1
        bright = image.mean(axis=2) > 100
        assert (bright & mask).sum() > 0.93 * (bright | mask).sum() and mask.any()
        np.testing.assert_array_equal(image, MovingReader(squares).image(f"a/{number}"))
        seen.append(mask)
    assert (seen[0] != seen[-1]).any()
    for t in (0, 0.3, 1):
        corners, _ = camera("a", (60, 80), t)
        assert (corners >= 0).all() and (corners <= (79, 59)).all()


@pytest.mark.parametrize("draws", ["released", "independent"])
def test_the_support_of_a_moving_image_is_of_other_images(squares, draws):
    data = read_benchmark("moving-pascal", 0, squares.parent)
    episodes = draw_episodes(data, 2, draws=draws)
    assert [len(episode.query) for episode in episodes] == [FRAMES] * 3
    for episode in episodes:
        assert {*episode.support, episode.query[0].split("/")[0]} == {"a", "b", "c"}

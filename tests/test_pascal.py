"""Pascal: scans follow the lists and the size rule, masks are read in every format, what cannot be used is reported."""

from pathlib import Path

import numpy as np
import pytest
from corpora import block, broken_png, palette_png, pascal, picture
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ttilib.datasets.base import IGNORE_LABEL, raise_first
from ttilib.datasets.catalog import read_table
from ttilib.datasets.pascal import PASCAL, VOC_COLOURS, PascalReader, voc_colour
from ttilib.files import write_text
from ttilib.images import read_labels, write_labels

REAL = Path(__file__).parents[2] / "shared" / "real" / "voc"
TABLE = {"classes": {n: f"kind_{n}" for n in range(1, 5)}, "min_pixels": 20}
LINE = "JPEGImages/{0}.jpg SegmentationClassAug/{0}.png\n"


KNOWN = {
    0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 3: (128, 128, 0), 4: (0, 0, 128), 7: (128, 128, 128), 8: (64, 0, 0),
    15: (192, 128, 128), 16: (0, 64, 0), 20: (0, 64, 128), 255: (224, 224, 192),
}  # fmt: skip


def scan(root, base=(2, 3, 4), novel=(1,), on_error=raise_first, **rules):
    return PASCAL.scan(root, {**TABLE, **rules}, base, novel, on_error)


def test_voc_colours_are_those_of_voc():
    assert {label: voc_colour(label) for label in KNOWN} == KNOWN and len(VOC_COLOURS) == 256


def test_lists_are_read_in_every_encoding_and_bad_lines_are_reported(tmp_path):
    reader, errors = PascalReader(tmp_path), []
    text = "\ufeff" + LINE.format("a").replace("\n", "\r\n") + LINE.format("b")
    (tmp_path / "val.txt").write_bytes(text.encode())
    assert reader.names("val", TABLE, raise_first) == ("a", "b")
    bad = [LINE.format("c").strip() + " third\n", "JPEGImages/d.jpg\n", LINE.format("e").replace("e.png", "f.png")]
    write_text(tmp_path / "val.txt", LINE.format("a") + "".join(bad) + LINE.format("b"))
    assert reader.names("val", TABLE, errors.append) == ("a", "b")
    assert [str(error).split(":")[0] for error in errors] == [f"{tmp_path}/val.txt, line {n}" for n in (2, 3, 4)]
    with pytest.raises(ValueError, match="line 2"):
        reader.names("val", TABLE, raise_first)


def test_bad_masks_are_each_reported_and_left_out(tmp_path):
    names = ("missing", "cut", "strange", "coloured", "v", "w")
    root = pascal(tmp_path, {name: block(1, 0, 0, 6, 6) for name in names}, names[:-1])
    masks = root / "SegmentationClassAug"
    broken_png(masks / "missing.png", "missing")
    broken_png(masks / "cut.png", "cut off")
    write_labels(masks / "strange.png", block(77, 0, 0, 1, 1))
    Image.fromarray(picture(3)).save(masks / "coloured.png")
    write_text(root / "train.txt", (root / "train.txt").read_text() + LINE.format("strange"))  # reported once
    errors = []
    found = scan(root, on_error=errors.append)
    assert list(found.frames) == ["w", "v"] and list(found.presence[1]) == ["v"] and found.shown == {"v": (1,)}
    assert sorted(Path(str(error).split(": ")[0]).stem for error in errors) == sorted(names[:4])
    for name in names[:4]:
        write_text(root / "val.txt", LINE.format(name))
        write_text(root / "train.txt", LINE.format("w"))
        with pytest.raises((ValueError, FileNotFoundError), match=f"{name}.png"):
            scan(root)
    masks.rename(root / "SegmentationClass")
    with pytest.raises(FileNotFoundError, match="SegmentationClassAug"):
        scan(root, on_error=[].append)


def test_a_class_too_small_for_the_support_may_still_be_the_query(tmp_path):
    several = block(2, 0, 0, 5, 5)
    several[10, 10], several[12, 12:15], several[15] = 1, 3, IGNORE_LABEL
    root = pascal(tmp_path, {"v": several, "w": block(1, 0, 0, 4, 4), "t": several}, ("v", "w"))
    found = scan(root, base=(4,), novel=(1, 2, 3))
    assert found.shown == {"v": (1, 2, 3)}  # w has 16 pixels of class 1: no query at all; t is of train
    assert found.presence == {1: {}, 2: {"v": ("v",)}, 3: {}, 4: {}}
    assert scan(root, base=(2,), novel=(1, 3))._asdict() | {"presence": 0, "frames": 0} == {
        "frames": 0, "presence": 0, "train": ("t",), "val": ("v",), "shown": {},
    }  # fmt: skip
    assert scan(root, base=(4,), novel=(1,), min_pixels=1).shown == {"v": (1,), "w": (1,)}
    assert scan(root, min_pixels=0, min_share=0.04).train == ("t",)  # 25 of 576 pixels
    assert scan(root, min_pixels=0, min_share=0.05).train == ()


@settings(max_examples=20, deadline=None)
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


def test_images_and_masks_are_turned_as_opencv_does_in_the_release(tmp_path):
    root, exif = pascal(tmp_path, {"v": block(1, 0, 0, 6, 6)}, ("v",)), Image.Exif()
    exif[0x0112] = 6
    for path in (root / "JPEGImages" / "v.jpg", root / "SegmentationClassAug" / "v.png"):
        Image.open(path).save(path, exif=exif)
    reader = PascalReader(root)
    np.testing.assert_array_equal(reader.mask("v", 1), np.rot90(block(1, 0, 0, 6, 6), -1))
    assert reader.image("v").shape[:2] == reader.labels("v", (2,)).shape == (32, 18)


def saved(root, labels):
    """The same labels as grey, misleading palette, RGB with equal channels, and RGB and RGBA in VOC's colours."""
    masks = root / "SegmentationClassAug"
    write_labels(masks / "grey.png", labels)
    palette_png(masks / "palette.png", labels)
    Image.fromarray(np.stack([labels] * 3, axis=-1)).save(masks / "equal.png")
    colours = np.array([voc_colour(label) for label in range(256)], dtype=np.uint8)[labels]
    Image.fromarray(colours).save(masks / "voc.png")
    alpha = np.dstack([colours, np.full(labels.shape, 130, dtype=np.uint8)])
    Image.fromarray(alpha).save(masks / "alpha.png")
    return ["grey", "palette", "equal", "voc", "alpha"]


@pytest.mark.parametrize("others", [(), (2, 15, 20, IGNORE_LABEL)], ids=["a car alone", "several classes"])
def test_masks_are_read_however_they_were_saved(tmp_path, others):
    labels = block(7, 2, 3, 6, 5)  # a car, which VOC shows in grey
    for place, label in enumerate(others):
        labels[place + 10, :20] = label
    reader = PascalReader(tmp_path)
    for name in saved(tmp_path, labels):
        np.testing.assert_array_equal(reader.mask(name, 7), np.where(labels == IGNORE_LABEL, IGNORE_LABEL, labels == 7))
        known = [(labels == 0) | (labels == IGNORE_LABEL), labels == 7, labels == 2]  # void is background in training
        expected = np.select(known, [0, 2, 1], IGNORE_LABEL)
        np.testing.assert_array_equal(reader.labels(name, (2, 7)), expected)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real images are not beside the project")
def test_real_images_are_scanned_as_their_masks_show():
    table = {**read_table("pascal"), "min_pixels": 800}  # these are half as wide and high
    val = PascalReader(REAL).names("val", table, raise_first)
    for novel in table["novel"][::3]:
        found = PASCAL.scan(REAL, table, [n for n in table["classes"] if n not in novel], novel, raise_first)
        queries = {}
        for image in val:
            labels = read_labels(REAL / "SegmentationClassAug" / f"{image}.png")
            here = [n for n in novel if n in labels]
            for number in novel:
                assert (image in found.presence[number]) == ((labels == number).sum() >= 800)
            if any((labels == number).sum() >= 800 for number in here):
                queries[image] = tuple(here)
        assert found.shown == queries and len(queries) > 50
        assert len(found.frames) == 635 and set(found.val) <= set(val)
    small = [s for s, c in found.shown.items() if any(s not in found.presence[n] for n in c)]
    assert small, "no real image has a novel class too small for the support"
    mask = PascalReader(REAL).mask(val[0], 1)
    assert set(np.unique(mask)) == {0, 1, IGNORE_LABEL}  # an aeroplane with its void ring

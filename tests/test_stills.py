"""Pascal's lists come out the same from either layout; masks are read however they were saved, or named."""

from pathlib import Path

import numpy as np
import pytest
from corpora import block, palette_png, pascal, picture
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ttilib.datasets.base import IGNORE_LABEL, Reader
from ttilib.datasets.catalog import TABLES, read_table
from ttilib.datasets.pascal import VOC_COLOURS, PascalReader, pascal_list, scan_pascal, voc_colour
from ttilib.files import read_json, write_text
from ttilib.images import read_labels, write_image, write_labels

REAL = Path(__file__).parents[2] / "shared" / "real" / "voc"
TABLE = {"classes": {n: f"kind_{n}" for n in range(1, 5)}, "min_pixels": 20}

KNOWN = {
    0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 3: (128, 128, 0), 4: (0, 0, 128), 7: (128, 128, 128), 8: (64, 0, 0),
    15: (192, 128, 128), 16: (0, 64, 0), 20: (0, 64, 128), 255: (224, 224, 192),
}  # fmt: skip
"""VOC's own palette, as its documentation shows it."""


def folder(root, stills, val=("v",)):
    """A Pascal folder of the label maps given; the photographs are not needed."""
    return pascal(root, stills, val)


def scan(root, base=(2, 3, 4), novel=(1,), on_error=None, **rules):
    return scan_pascal(root, {**TABLE, **rules}, base, novel, *([on_error] if on_error else []))


def test_voc_colours_are_those_of_voc():
    assert {label: voc_colour(label) for label in KNOWN} == KNOWN
    assert sorted(VOC_COLOURS.values()) == list(range(256))  # no colour twice
    assert all(VOC_COLOURS[colour] == label for label, colour in KNOWN.items())


def test_lists_from_another_system_are_read(tmp_path):
    line = "JPEGImages/{0}.jpg SegmentationClassAug/{0}.png\r\n"
    (tmp_path / "val.txt").write_bytes(b"\xef\xbb\xbf" + "".join(map(line.format, "ab")).encode())
    assert pascal_list(tmp_path, "val") == ("a", "b")


def test_a_broken_line_is_told_and_the_others_are_read(tmp_path):
    root = folder(tmp_path, {"t": block(2, 0, 0, 5, 5), "v": block(1, 0, 0, 5, 5), "w": block(1, 0, 0, 5, 5)})
    lines = (root / "train.txt").read_text().splitlines()
    write_text(root / "train.txt", f"{lines[0]} third\n{lines[1]}\n")
    with pytest.raises(ValueError, match=r"train\.txt, line 1: found"):
        scan(root)
    errors = []
    assert list(scan(root, on_error=errors.append).frames) == ["w", "v"]
    assert len(errors) == 1


def test_masks_that_cannot_be_used_are_each_told_and_left_out(tmp_path):
    good = block(1, 0, 0, 6, 6)
    noisy = np.random.default_rng(0).integers(1, 3, (40, 40)).astype(np.uint8)
    names = ("missing", "empty", "cut", "strange", "coloured", "v", "w")
    root = folder(tmp_path, {name: noisy if name == "cut" else good for name in names}, names[:-1])
    masks = root / "SegmentationClassAug"
    (masks / "missing.png").unlink()
    (masks / "empty.png").write_bytes(b"")
    (masks / "cut.png").write_bytes((masks / "cut.png").read_bytes()[:-60])
    write_labels(masks / "strange.png", block(77, 0, 0, 1, 1))
    Image.fromarray(picture(3)).save(masks / "coloured.png")
    found = {"missing": "no such file", "empty": "0 bytes", "cut": "cut off", "strange": "label 77 is no class",
             "coloured": "colours"}  # fmt: skip
    errors = []
    told = scan(root, on_error=errors.append)
    assert list(told.frames) == ["w", "v"] and list(told.presence[1]) == ["v"] and told.shown == {"v": (1,)}
    assert len(errors) == len(found)
    for name, what in found.items():
        (error,) = [str(error) for error in errors if f"{name}.png" in str(error)]
        assert what in error
        with pytest.raises((ValueError, FileNotFoundError), match=what):
            write_text(root / "val.txt", f"JPEGImages/{name}.jpg SegmentationClassAug/{name}.png\n")
            scan(root)


def test_a_mask_in_both_lists_is_told_once(tmp_path):
    root = folder(tmp_path, {"t": block(2, 0, 0, 5, 5), "v": block(1, 0, 0, 5, 5)})
    write_text(root / "train.txt", (root / "train.txt").read_text() + (root / "val.txt").read_text())
    write_labels(root / "SegmentationClassAug" / "v.png", block(9, 0, 0, 5, 5))
    errors = []
    assert list(scan(root, on_error=errors.append).frames) == ["t"]
    assert len(errors) == 1


def test_without_masks_the_folder_is_named(tmp_path):
    root = folder(tmp_path, {"v": block(1, 0, 0, 5, 5)})
    (root / "SegmentationClassAug").rename(root / "SegmentationClass")
    with pytest.raises(FileNotFoundError, match="SegmentationClassAug: no such folder; expected a label map"):
        scan(root, on_error=[].append)


def test_a_query_may_be_asked_for_a_class_that_is_too_small_for_the_pool(tmp_path):
    several = block(2, 0, 0, 5, 5)
    several[10, 10], several[12, 12:15], several[15] = 1, 3, IGNORE_LABEL
    root = folder(tmp_path, {"v": several, "w": block(1, 0, 0, 4, 4), "t": several}, ("v", "w"))
    found = scan(root, base=(4,), novel=(1, 2, 3))
    assert found.shown == {"v": (1, 2, 3)}  # w shows 16 pixels of class 1: no query at all; t is of train
    assert found.presence == {1: {}, 2: {"v": ("v",)}, 3: {}, 4: {}}
    assert scan(root, base=(2,), novel=(1, 3)).shown == {}
    assert scan(root, base=(2,), novel=(1, 3)).train == ("t",)
    assert scan(root, base=(4,), novel=(1,), min_pixels=1).shown == {"v": (1,), "w": (1,)}


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_the_scan_is_the_rule_written_down(tmp_path_factory, data):
    """Protocol 1.1, still by still, from the label maps themselves."""
    labels = st.sampled_from([0, 0, 1, 2, 3, 4, IGNORE_LABEL])
    maps = st.lists(labels, min_size=30, max_size=30).map(lambda v: np.array(v, dtype=np.uint8).reshape(5, 6))
    names = [f"s{n}" for n in range(data.draw(st.integers(1, 6)))]
    stills = {name: data.draw(maps) for name in names}
    val = tuple(data.draw(st.permutations(names))[: data.draw(st.integers(0, len(names)))])
    novel = tuple(data.draw(st.sets(st.integers(1, 4), min_size=1, max_size=3)))
    base = tuple(n for n in range(1, 5) if n not in novel)
    root = pascal(tmp_path_factory.mktemp("voc"), stills, val)
    found = scan(root, base, novel, min_pixels=5)
    train = [name for name in names if name not in val]
    large = {name: [n for n in range(1, 5) if (stills[name] == n).sum() >= 5] for name in names}
    assert found.train == tuple(name for name in train if any(n in base for n in large[name]))
    assert found.val == tuple(name for name in val if any(n in base for n in large[name]))
    for number in range(1, 5):
        pool = [*(train if number in base else []), *val]
        assert list(found.presence[number]) == [name for name in pool if number in large[name]]
    queries = [name for name in val if any(n in novel for n in large[name])]
    assert list(found.shown) == queries
    for name in queries:
        assert found.shown[name] == tuple(sorted(n for n in novel if n in stills[name]))


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
        expected = np.select([labels == 0, labels == 7, labels == 2], [0, 2, 1], IGNORE_LABEL)
        np.testing.assert_array_equal(reader.labels(name, (2, 7)), expected)


def test_the_scan_reads_them_all_too(tmp_path):
    labels = block(1, 2, 3, 6, 5)
    labels[15], labels[0] = IGNORE_LABEL, 3
    root = folder(tmp_path, {"v": labels})
    names = saved(root, labels)
    write_text(root / "val.txt", "".join(f"JPEGImages/{n}.jpg SegmentationClassAug/{n}.png\n" for n in names))
    found = scan(root, base=(2,), novel=(1, 3))
    assert found.shown == {name: (1, 3) for name in names}
    assert list(found.presence[1]) == list(found.presence[3]) == names


def test_a_cut_off_photograph_is_named(tmp_path):
    root = folder(tmp_path, {"v": block(1, 0, 0, 6, 6)})
    reader = PascalReader(root)
    assert isinstance(reader, Reader) and reader.image("v").shape == (18, 32, 3)
    path = root / "JPEGImages" / "v.jpg"
    write_image(path, picture(1, 80, 80))
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(ValueError, match=r"v\.jpg: .*cut off"):
        reader.image("v")
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"v\.jpg: image file is empty"):
        reader.image("v")


@pytest.mark.skipif(not REAL.is_dir(), reason="the real stills are not beside the project")
def test_real_stills_are_scanned_as_their_masks_show():
    table = {**read_table("pascal"), "min_pixels": 800}  # these are half as wide and high
    val = pascal_list(REAL, "val")
    for novel in table["novel"][::3]:
        found = scan_pascal(REAL, table, [n for n in table["classes"] if n not in novel], novel)
        queries = {}
        for still in val:
            labels = read_labels(REAL / "SegmentationClassAug" / f"{still}.png")
            here = [n for n in novel if n in labels]
            for number in novel:
                assert (still in found.presence[number]) == ((labels == number).sum() >= 800)
            if any((labels == number).sum() >= 800 for number in here):
                queries[still] = tuple(here)
        assert found.shown == queries and len(queries) > 50
        assert len(found.frames) == 635 and set(found.val) <= set(val)
    small = [s for s, c in found.shown.items() if any(s not in found.presence[n] for n in c)]
    assert small, "no real still shows a novel class that is too small for the pool"
    mask = PascalReader(REAL).mask(val[0], 1)
    assert set(np.unique(mask)) == {0, 1, IGNORE_LABEL}  # an aeroplane with its void ring


def test_the_table_keeps_the_rule_of_each_setting():
    table = read_json(TABLES / "pascal.json")
    assert "exchanged" in table["rule_coco2pascal"] and table["min_pixels"] == 2048

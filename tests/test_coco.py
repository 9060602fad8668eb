"""COCO: masks are the released ones to the pixel, lists are complete, images are scanned as Pascal's are."""

import os

import numpy as np
import pytest
from coco_corpus import TABLE, box, coco, instance, name
from corpora import HEIGHT, WIDTH, run_lengths
from PIL import Image

from ttilib.datasets.base import raise_first
from ttilib.datasets.catalog import coco_name as in_coco
from ttilib.datasets.coco import COCO, COCO_FULL, CocoFullReader, CocoReader, coco_annotations, coco_masks, make_masks
from ttilib.datasets.masks import count
from ttilib.files import LISTS, read_json, write_json
from ttilib.images import read_labels


def test_the_first_polygon_alone_or_all_of_them():
    two = [(5, 3, [box(1, 1, 4, 3), box(10, 8, 12, 10)])]
    first, full = (coco_masks(two, 12, 16, rule) for rule in ("first", "full"))
    expected = np.zeros((12, 16), dtype=np.uint8)
    expected[1:4, 1:5] = 3  # outline included: 3 x 4 pixels
    np.testing.assert_array_equal(first, expected)
    expected[:] = 0
    expected[1:3, 1:4] = expected[8:10, 10:12] = 3  # from edge to edge, as COCO measures: 2 x 3 and 2 x 2
    np.testing.assert_array_equal(full, expected)


def test_corners_are_truncated_and_later_objects_lie_over_earlier_ones():
    found = coco_masks([(1, 1, [box(2.99, -0.99, 5.99, 3.01)])], 6, 6)
    assert np.argwhere(found).min(axis=0).tolist() == [0, 2] and np.argwhere(found).max(axis=0).tolist() == [3, 5]
    assert coco_masks([(1, 1, [box(-5, 4, 9, 12)])], 6, 6)[4:].all()
    objects = [(1, 2, [box(0, 0, 5, 5)]), (2, 3, [box(3, 3, 8, 8)]), (3, 2, [box(4, 4, 4, 4)])]
    assert coco_masks(objects, 9, 9).diagonal().tolist() == [2, 2, 2, 3, 2, 3, 3, 3, 3]
    assert (coco_masks(objects[::-1], 9, 9)[3:6, 3:6] == 2).all()


@pytest.mark.parametrize("rule", ["first", "full"])
def test_run_lengths_are_drawn_and_invalid_objects_left_out_by_both_rules(rule):
    mask = np.zeros((9, 9), dtype=np.uint8)
    mask[1:5, 2:4] = mask[0, 6] = 1
    np.testing.assert_array_equal(coco_masks([(1, 4, run_lengths(mask))], 9, 9, rule), 4 * mask)
    good, errors = (8, 2, [box(0, 0, 2, 2)]), []
    found = coco_masks([(7, 3, [[1.0, 2.0, 3.0]]), good], 9, 9, rule, errors.append, "image 5")
    np.testing.assert_array_equal(found, coco_masks([good], 9, 9, rule))
    assert len(errors) == 1 and str(errors[0]).startswith("image 5: annotation 7")


@pytest.fixture
def root(tmp_path):
    """Images 30 and 4 of val, 9 of train; 5 of val has only a crowd and 6 nothing."""
    crowd = run_lengths(np.ones((HEIGHT, WIDTH)))
    val = [
        instance(1, 4, 7, [box(0, 0, 4, 4), box(20, 0, 28, 9)]),  # fork: 25 pixels first, many more in full
        instance(2, 30, 3, [box(0, 0, 9, 9)]),  # cup: 100 pixels
        instance(3, 30, 7, [box(5, 5, 6, 6)]),  # fork: 4 pixels, on the cup
        instance(4, 5, 7, crowd, crowd=1),
        instance(5, 4, 11, [box(3, 3, 4, 4)]),  # cake: 4 pixels, on the fork
        instance(6, 30, 11, crowd, crowd=1),
    ]
    train = [instance(1, 9, 90, [box(2, 2, 9, 9)]), instance(2, 9, 3, [box(20, 2, 29, 9)])]  # bowl 64, cup 80
    return coco(tmp_path, {"train": train, "val": val}, {"train": [9], "val": [30, 6, 4, 5]})


def listed(root, split, on_error=raise_first):
    return CocoReader(root).names(split, TABLE, on_error)


def mask_of(root, split, number):
    return root / split / f"{name(split, number)}.png"


def test_lists_and_masks_follow_the_annotation_file_and_only_missing_masks_are_drawn(root):
    assert listed(root, "val") == (name("val", 30), name("val", 4)) and listed(root, "train") == (name("train", 9),)
    first, second = coco_annotations(root, "val").images  # labels are indices of the category list
    assert (first.name, first.height, first.width) == (name("val", 30), HEIGHT, WIDTH)
    assert [(number, label) for number, label, _ in first.objects] == [(2, 1), (3, 2)]
    assert [(number, label) for number, label, _ in second.objects] == [(1, 2), (5, 4)]
    assert make_masks(root) == {"train": 1, "val": 2}
    kept, empty = mask_of(root, "val", 30), mask_of(root, "train", 9)
    assert sorted((root / "val").iterdir()) == [mask_of(root, "val", 4), kept]
    assert count(read_labels(kept)) == {0: HEIGHT * WIDTH - 100, 1: 96, 2: 4}
    os.utime(kept, ns=(5, 5))
    empty.write_bytes(b"")  # as a full disk leaves it
    assert make_masks(root) == {"train": 1, "val": 0}
    assert kept.stat().st_mtime_ns == 5 and (read_labels(empty) == 3).sum() == 64


def test_an_invalid_object_stops_its_mask_unless_errors_are_collected(root):
    path, errors = root / "annotations" / "instances_val2014.json", []
    content = read_json(path)
    content["annotations"][1]["segmentation"] = [[1, 2, 3]]
    write_json(path, content)
    where = rf"instances_val2014\.json: {name('val', 30)}: annotation 2: "
    for _ in range(2):  # a mask without its object would pass for complete the second time
        with pytest.raises(ValueError, match=where):
            make_masks(root)
    assert make_masks(root, on_error=errors.append)["val"] == 2
    assert len(errors) == 1 and (read_labels(mask_of(root, "val", 30)) == 2).sum() == 4


def test_the_scan_by_hand(root):
    make_masks(root)
    nine, thirty, four = name("train", 9), name("val", 30), name("val", 4)
    scan = COCO.scan(root, TABLE, (1, 3), (2, 4), raise_first)
    assert list(scan.frames) == [nine, thirty, four]
    # The fork on the cup of 30 and the cake of 4 have under 20 pixels; cup and bowl are base and in train too.
    assert scan.presence == {1: {nine: (nine,), thirty: (thirty,)}, 2: {four: (four,)}, 3: {nine: (nine,)}, 4: {}}
    assert scan.shown == {four: (2, 4)} and (scan.train, scan.val) == ((nine,), (thirty,))
    assert COCO.scan(root, TABLE, (2, 3), (1, 4), raise_first).presence[1] == {thirty: (thirty,)}  # 9 is of train


def test_full_masks_are_another_dataset(root):
    make_masks(root)
    with pytest.raises(FileNotFoundError, match=r"train_full: .* prepare coco-full"):
        COCO_FULL.scan(root, TABLE, (1, 3), (2, 4), raise_first)
    make_masks(root, "full")
    assert [reader(root).mask(name("val", 4), 2)[4, 24] for reader in (CocoReader, CocoFullReader)] == [0, 1]


def test_the_reader_returns_images_masks_and_training_labels(root):
    make_masks(root)
    reader = CocoReader(root)
    assert reader.image(name("train", 9)).shape == (HEIGHT, WIDTH, 3)
    cup, labels = reader.mask(name("val", 30), 1), reader.labels(name("val", 30), (1, 3))
    assert cup.sum() == 96 and not cup[5, 5] and ((labels == 1).sum(), (labels == 255).sum()) == (96, 4)
    with pytest.raises(ValueError, match="category 2 is 'fork'"):
        reader.names("val", {"classes": {1: "cup", 2: "knife"}}, [].append)
    (root / "annotations" / "instances_train2014.json").unlink()  # not needed for an evaluation
    assert not reader.names("train", TABLE, [].append)
    grey = np.full((HEIGHT, WIDTH, 3), 64, dtype=np.uint8)  # laptop, not VOC's colour of label 56
    Image.fromarray(grey).save(mask_of(root, "val", 30))
    assert reader.mask(name("val", 30), 64).all()


@pytest.mark.parametrize(("key", "exchanged"), [("novel_coco2pascal", {7: 8, 8: 7}), ("novel_coco2pascal_mended", {})])
def test_pascal_classes_that_no_coco_fold_was_trained_on(key, exchanged):
    voc, table = read_json(LISTS / "pascal.json"), read_json(LISTS / "coco.json")
    assert table["novel"] == [[n for n in range(1, 81) if n % 4 == (fold + 1) % 4] for fold in range(4)]
    assert table["novel_block"] == [[n for n in range(1, 81) if (n - 1) // 20 == fold] for fold in range(4)]
    for fold, novel in enumerate(voc[key]):
        base = {label for number, label in table["classes"].items() if int(number) not in table["novel"][fold]}
        names = {n: voc["classes"][str(exchanged.get(n, n))] for n in range(1, 21)}
        assert novel == [n for n, label in names.items() if in_coco(label) not in base]

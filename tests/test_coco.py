"""COCO: masks are the released ones to the pixel, lists are complete, images are scanned as Pascal's are."""

import os

import numpy as np
import pytest
from coco_corpus import TABLE, box, coco, instance, name
from corpora import HEIGHT, WIDTH, run_lengths
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ttilib.datasets import masks as module
from ttilib.datasets.base import raise_first
from ttilib.datasets.catalog import TABLES
from ttilib.datasets.catalog import coco_name as in_coco
from ttilib.datasets.coco import COCO, COCO_FULL, CocoFullReader, CocoReader, coco_annotations, coco_masks, make_masks
from ttilib.files import read_json, write_json, write_text
from ttilib.images import read_labels, write_labels


@settings(max_examples=50, deadline=None)
@given(corners=st.lists(st.tuples(st.integers(0, 21), st.integers(0, 19)), min_size=3, max_size=3))
def test_a_triangle_is_its_inside_and_its_outline(corners):
    canvas = coco_masks([(1, 1, [[float(x) for corner in corners for x in corner]])], 20, 22)
    y, x = np.mgrid[:20, :22]
    sides, apart = [], []
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
        sides.append(np.sign((bx - ax) * (y - ay) - (by - ay) * (x - ax)))
        length = max((bx - ax) ** 2 + (by - ay) ** 2, 1)
        along = np.clip(((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / length, 0, 1)
        apart.append(np.hypot(x - ax - along * (bx - ax), y - ay - along * (by - ay)))
    inside = abs(sum(sides)) == 3
    assert canvas[inside].all()
    assert (np.min(apart, axis=0)[(canvas == 1) & ~inside] <= 0.5).all()
    assert all(canvas[row, column] for column, row in corners)


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
    found = coco_masks(objects, 9, 9)
    assert found[3, 3] == 3 and found[4, 4] == 2 and found[2, 2] == 2 and found[8, 8] == 3
    assert (coco_masks(objects[::-1], 9, 9)[3:6, 3:6] == 2).all()


@pytest.mark.parametrize("rule", ["first", "full"])
def test_run_lengths_are_drawn_and_invalid_objects_left_out_by_both_rules(rule):
    mask = np.zeros((9, 9), dtype=np.uint8)
    mask[1:5, 2:4] = mask[0, 6] = 1
    np.testing.assert_array_equal(coco_masks([(1, 4, run_lengths(mask))], 9, 9, rule), 4 * mask)
    good = (8, 2, [box(0, 0, 2, 2)])
    for wrong in ([], [[1.0, 2.0, 3.0]], [["a", 1, 2, 3]], [[1, 2, float("nan"), 4, 5, 6]], None, {"counts": [1]}):
        errors = []
        found = coco_masks([(7, 3, wrong), good], 9, 9, rule, errors.append, "image 5")
        np.testing.assert_array_equal(found, coco_masks([good], 9, 9, rule))
        assert len(errors) == 1 and str(errors[0]).startswith("image 5: annotation 7")


def small(root):
    """Images 30 and 4 of val, 9 of train; 5 of val has only a crowd and 6 nothing."""
    crowd = np.ones((HEIGHT, WIDTH), dtype=np.uint8)
    val = [
        instance(1, 4, 7, [box(0, 0, 4, 4), box(20, 0, 28, 9)]),  # fork: 25 pixels first, many more in full
        instance(2, 30, 3, [box(0, 0, 9, 9)]),  # cup: 100 pixels
        instance(3, 30, 7, [box(5, 5, 6, 6)]),  # fork: 4 pixels, on the cup
        instance(4, 5, 7, run_lengths(crowd), crowd=1),
        instance(5, 4, 11, [box(3, 3, 4, 4)]),  # cake: 4 pixels, on the fork
        instance(6, 30, 11, run_lengths(crowd), crowd=1),
    ]
    train = [instance(1, 9, 90, [box(2, 2, 9, 9)]), instance(2, 9, 3, [box(20, 2, 29, 9)])]  # bowl 64, cup 80
    return coco(root, {"train": train, "val": val}, {"train": [9], "val": [30, 6, 4, 5]})


def listed(root, split, on_error=raise_first):
    return CocoReader(root).names(split, TABLE, on_error)


def test_lists_and_labels_follow_the_annotation_file(tmp_path):
    root = small(tmp_path)
    assert listed(root, "val") == (name("val", 30), name("val", 4)) and listed(root, "train") == (name("train", 9),)
    first, second = coco_annotations(root, "val").images  # labels are indices of the category list
    assert (first.name, first.height, first.width) == (name("val", 30), HEIGHT, WIDTH)
    assert [(number, label) for number, label, _ in first.objects] == [(2, 1), (3, 2)]
    assert [(number, label) for number, label, _ in second.objects] == [(1, 2), (5, 4)]


def test_only_missing_masks_are_drawn(tmp_path):
    root = small(tmp_path)
    assert make_masks(root) == {"train": 1, "val": 2}
    assert sorted(os.listdir(root / "val")) == [f"{name('val', n)}.png" for n in (4, 30)]
    mask = read_labels(root / "val" / f"{name('val', 30)}.png")
    assert {label: int((mask == label).sum()) for label in np.unique(mask)} == {0: HEIGHT * WIDTH - 100, 1: 96, 2: 4}
    kept, empty = root / "val" / f"{name('val', 30)}.png", root / "train" / f"{name('train', 9)}.png"
    os.utime(kept, ns=(5, 5))
    empty.write_bytes(b"")  # as a full disk leaves it
    assert make_masks(root) == {"train": 1, "val": 0}
    assert kept.stat().st_mtime_ns == 5 and (read_labels(empty) == 3).sum() == 64
    assert make_masks(root) == {"train": 0, "val": 0}


def test_an_invalid_object_stops_its_mask_unless_errors_are_collected(tmp_path):
    root = small(tmp_path)
    path = root / "annotations" / "instances_val2014.json"
    content = read_json(path)
    content["annotations"][1]["segmentation"] = [[1, 2, 3]]
    write_json(path, {**content, "annotations": [*content["annotations"], instance(77, 1000, 7, [box(0, 0, 1, 1)])]})
    with pytest.raises(ValueError, match="annotation 77"):
        make_masks(root)
    assert not (root / "val").exists()
    write_json(path, content)
    for _ in range(2):  # a mask without its object would pass for complete the second time
        with pytest.raises(ValueError, match="annotation 2"):
            make_masks(root)
            make_masks(root)
    errors = []
    assert make_masks(root, on_error=errors.append)["val"] == 2
    assert len(errors) == 1 and (read_labels(root / "val" / f"{name('val', 30)}.png") == 2).sum() == 4


def test_masks_are_drawn_by_several_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MANY", 5)
    train = [instance(n, n, 3, [box(n % 20, 0, n % 20 + 2, 2)]) for n in range(1, 9)]
    images = [{"id": n, "file_name": f"{name('train', n)}.jpg", "height": 8, "width": 30} for n in range(1, 9)]
    train[-1]["segmentation"] = [[1, 2, 3]]
    content = {"images": images, "annotations": train, "categories": [{"id": 3, "name": "cup"}]}
    write_json(tmp_path / "annotations" / "instances_train2014.json", content)
    errors = []
    assert make_masks(tmp_path, on_error=errors.append, workers=2) == {"train": 8}
    assert [type(error) for error in errors] == [ValueError, FileNotFoundError]
    masks = [read_labels(tmp_path / "train" / f"{name('train', n)}.png") for n in range(1, 9)]
    assert [mask.sum() for mask in masks] == [9] * 7 + [0] and all(masks[n - 1][0, n] == 1 for n in (1, 7))


def test_unusable_files_are_named_and_unusable_entries_left_out(tmp_path):
    root = small(tmp_path)
    path = root / "annotations" / "instances_val2014.json"
    content = read_json(path)
    for broken in ([], {**content, "categories": [{}]}, {**content, "images": None}):
        write_json(path, broken)
        with pytest.raises(ValueError, match=r"instances_val2014\.json"):
            listed(root, "val")
    odd = [{"id": 1}, instance("2", 4, 7, []), instance(9, 1000, 7, []), instance(10, 4, 7, [], crowd=2)]
    twice = [*content["images"], content["images"][0], {"id": 77}]
    write_json(path, {**content, "annotations": [*odd, *content["annotations"]], "images": twice})
    os.utime(path, ns=(1, 1))
    errors = []
    assert listed(root, "val", errors.append) == (name("val", 30), name("val", 4))
    words = ["is there twice", "images[5]", "annotations[0]", "[1]: id", "9 is of image 1000", "[3]: iscrowd"]
    assert len(errors) == len(words) and all(any(word in str(error) for error in errors) for word in words)
    content["images"][1]["file_name"] = "000000000006.jpg"
    write_json(path, content)
    with pytest.raises(ValueError, match="000000000006.*2014 edition"):
        listed(root, "val")


def test_the_scan_by_hand(tmp_path):
    root = small(tmp_path)
    make_masks(root)
    nine, thirty, four = name("train", 9), name("val", 30), name("val", 4)
    scan = COCO.scan(root, TABLE, (1, 3), (2, 4), raise_first)
    assert list(scan.frames) == [nine, thirty, four]
    # The fork on the cup of 30 and the cake of 4 have under 20 pixels; cup and bowl are base and in train too.
    assert scan.presence == {1: {nine: (nine,), thirty: (thirty,)}, 2: {four: (four,)}, 3: {nine: (nine,)}, 4: {}}
    assert scan.shown == {four: (2, 4)} and (scan.train, scan.val) == ((nine,), (thirty,))
    assert COCO.scan(root, TABLE, (2, 3), (1, 4), raise_first).presence[1] == {thirty: (thirty,)}  # 9 is of train


def test_full_masks_are_another_dataset(tmp_path):
    root, table = small(tmp_path), {**TABLE, "min_pixels": 80}
    make_masks(root)
    with pytest.raises(FileNotFoundError, match=r"train_full: .* prepare coco-full"):
        COCO_FULL.scan(root, TABLE, (1, 3), (2, 4), raise_first)
    make_masks(root, "full")
    assert read_labels(CocoFullReader(root).mask_path(name("val", 4)))[4, 24] == 2
    found = [dataset.scan(root, table, (1, 3), (2, 4), raise_first).presence[2] for dataset in (COCO, COCO_FULL)]
    assert found == [{}, {name("val", 4): (name("val", 4),)}]


def test_list_files_decide_the_order_and_replace_the_annotations(tmp_path):
    root, errors = small(tmp_path), []
    make_masks(root)
    lines = [f"val2014/{one}.jpg val/{one}.png" for one in listed(root, "val")]
    write_text(root / "val.txt", "\n".join(lines[::-1]) + "\n")
    assert listed(root, "val") == (name("val", 4), name("val", 30))
    bad = ["val2014/x.jpg val/x.png", lines[0].replace("val/", "train/")]
    write_text(root / "val.txt", "\n".join([*bad, lines[1]]) + "\n")
    assert listed(root, "val", errors.append) == (name("val", 4),)
    assert [str(error).split(", line ")[1][0] for error in errors] == ["1", "2"]
    write_text(root / "train.txt", f"train2014/{name('train', 9)}.jpg train/{name('train', 9)}.png\n")
    (root / "annotations").rename(root / "elsewhere")
    assert len(COCO.scan(root, TABLE, (1,), (2,), [].append).frames) == 2


def test_what_is_missing_is_named(tmp_path):
    root, errors = small(tmp_path), []
    with pytest.raises(FileNotFoundError, match=r"train: .*prepare coco --root"):
        COCO.scan(root, TABLE, (1,), (2,), raise_first)
    make_masks(root)
    (root / "val" / f"{name('val', 30)}.png").unlink()
    write_labels(root / "val" / f"{name('val', 4)}.png", np.full((HEIGHT, WIDTH), 77, dtype=np.uint8))
    assert list(COCO.scan(root, TABLE, (1,), (2,), errors.append).frames) == [name("train", 9)]
    assert [f"{name('val', n)}.png" in str(error) for n, error in zip((30, 4), errors, strict=True)] == [True, True]
    with pytest.raises(ValueError, match="category 2 is 'fork'"):
        COCO.scan(root, {**TABLE, "classes": {1: "cup", 2: "knife"}}, (1,), (2,), [].append)
    (root / "annotations" / "instances_train2014.json").unlink()  # not needed for an evaluation
    assert not COCO.scan(root, TABLE, (1,), (2,), [].append).train
    with pytest.raises(FileNotFoundError, match="instances_train2014"):
        COCO.scan(root, TABLE, (1,), (2,), raise_first)


def test_the_reader_returns_images_masks_and_training_labels(tmp_path):
    root = small(tmp_path)
    make_masks(root)
    reader = CocoReader(root)
    assert reader.image(name("train", 9)).shape == (HEIGHT, WIDTH, 3)
    cup, labels = reader.mask(name("val", 30), 1), reader.labels(name("val", 30), (1, 3))
    assert cup.sum() == 96 and not cup[5, 5] and ((labels == 1).sum(), (labels == 255).sum()) == (96, 4)
    with pytest.raises(ValueError, match="COCO 2014"):
        reader.image("000000000030")
    grey = np.full((HEIGHT, WIDTH, 3), 64, dtype=np.uint8)  # laptop, not VOC's colour of label 56
    Image.fromarray(grey).save(root / "val" / f"{name('val', 30)}.png")
    assert reader.mask(name("val", 30), 64).all()


@pytest.mark.parametrize(("key", "exchanged"), [("novel_coco2pascal", {7: 8, 8: 7}), ("novel_coco2pascal_mended", {})])
def test_pascal_classes_that_no_coco_fold_was_trained_on(key, exchanged):
    voc, table = read_json(TABLES / "pascal.json"), read_json(TABLES / "coco.json")
    assert table["novel"] == [[n for n in range(1, 81) if n % 4 == (fold + 1) % 4] for fold in range(4)]
    assert table["novel_block"] == [[n for n in range(1, 81) if (n - 1) // 20 == fold] for fold in range(4)]
    for fold, novel in enumerate(voc[key]):
        base = {label for number, label in table["classes"].items() if int(number) not in table["novel"][fold]}
        names = {n: voc["classes"][str(exchanged.get(n, n))] for n in range(1, 21)}
        assert novel == [n for n, label in names.items() if in_coco(label) not in base]

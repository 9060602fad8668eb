"""COCO's masks are the released ones to the pixel, its lists complete, and its stills scanned as Pascal's are."""

import os

import numpy as np
import pytest
from coco_corpus import TABLE, box, coco, instance, name
from corpora import HEIGHT, WIDTH, picture, run_lengths
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ttilib.datasets.base import Reader
from ttilib.datasets.catalog import TABLES
from ttilib.datasets.coco import (
    COCO,
    COCO_FULL,
    CocoFullReader,
    CocoReader,
    coco_annotations,
    coco_list,
    coco_masks,
    make_masks,
)
from ttilib.files import read_json, write_json, write_text
from ttilib.images import read_labels, write_labels


@settings(max_examples=80, deadline=None)
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


def test_the_released_rule_never_looks_at_the_other_polygons():
    objects = [(5, 3, [box(1, 1, 4, 3), [1, 2, 3], "x"])]
    assert coco_masks(objects, 9, 9).sum() == 3 * 12
    with pytest.raises(ValueError, match="annotation 5: found '\\[1, 2, 3\\]'; expected the corners"):
        coco_masks(objects, 9, 9, "full")


def test_corners_are_cut_down_not_rounded_and_may_touch_or_leave_the_border():
    found = coco_masks([(1, 1, [box(2.99, -0.99, 5.99, 3.01)])], 6, 6)
    assert np.argwhere(found).min(axis=0).tolist() == [0, 2] and np.argwhere(found).max(axis=0).tolist() == [3, 5]
    assert coco_masks([(1, 1, [box(0, 0, 6, 6)])], 6, 6).all()  # the far corner is one beyond the last pixel
    assert coco_masks([(1, 1, [box(-50, 4, 90, 900)])], 6, 6)[4:].all()


def test_later_objects_lie_over_earlier_ones():
    objects = [(1, 2, [box(0, 0, 5, 5)]), (2, 3, [box(3, 3, 8, 8)]), (3, 2, [box(4, 4, 4, 4)])]
    found = coco_masks(objects, 9, 9)
    assert found[3, 3] == 3 and found[4, 4] == 2 and found[2, 2] == 2 and found[8, 8] == 3
    assert coco_masks(objects[::-1], 9, 9)[4, 4] == 2 and coco_masks(objects[::-1], 9, 9)[8, 8] == 3
    assert (coco_masks(objects[::-1], 9, 9)[3:6, 3:6] == 2).all()


@pytest.mark.parametrize("rule", ["first", "full"])
def test_run_lengths_are_painted_by_both_rules(rule):
    mask = np.zeros((6, 7), dtype=np.uint8)
    mask[1:5, 2:4] = mask[0, 6] = 1
    np.testing.assert_array_equal(coco_masks([(1, 4, run_lengths(mask))], 6, 7, rule), 4 * mask)


@pytest.mark.parametrize("rule", ["first", "full"])
@pytest.mark.parametrize(
    "outline", [[], [[]], [[1.0, 2.0, 3.0]], [["a", 1, 2, 3]], [[1, 2, float("nan"), 4, 5, 6]], [[1e9] * 6], None, "x",
    {"size": [9, 9], "counts": [81]}, {"counts": [1]}, [[[1, 2], [3, 4], [5, 6]]], [7],
])  # fmt: skip
def test_an_object_that_cannot_be_painted_is_named_and_left_out(rule, outline):
    good = (8, 2, [box(0, 0, 2, 2)])
    errors = []
    found = coco_masks([(7, 1, outline), good], 5, 5, rule, errors.append, "still")
    np.testing.assert_array_equal(found, coco_masks([good], 5, 5, rule))
    assert len(errors) == 1 and str(errors[0]).startswith("still: annotation 7: ")
    with pytest.raises(ValueError, match="annotation 7"):
        coco_masks([(7, 1, outline), good], 5, 5, rule)


def test_an_unknown_rule_is_named():
    with pytest.raises(ValueError, match="rule 'all' is not known; choose one of first, full"):
        coco_masks([], 5, 5, "all")


def small(root):
    """Stills 30 and 4 of val, 9 of train; 5 of val shows only a crowd and 6 nothing."""
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


def listed(root, split):
    return coco_list(CocoReader(root), split, TABLE)


def test_lists_follow_the_annotation_file_and_leave_out_what_shows_no_object(tmp_path):
    root = small(tmp_path)
    assert listed(root, "val") == ("COCO_val2014_000000000030", "COCO_val2014_000000000004")
    assert listed(root, "train") == ("COCO_train2014_000000000009",)
    content = read_json(root / "annotations" / "instances_val2014.json")
    write_json(root / "annotations" / "instances_val2014.json", {**content, "images": content["images"][::-1]})
    os.utime(root / "annotations" / "instances_val2014.json", ns=(1, 1))
    assert listed(root, "val") == (name("val", 4), name("val", 30))


def test_labels_are_places_in_the_category_list_and_objects_keep_the_order_of_the_file(tmp_path):
    first, second = coco_annotations(small(tmp_path), "val").images
    assert (first.name, first.height, first.width) == (name("val", 30), HEIGHT, WIDTH)
    assert [(number, label) for number, label, _ in first.objects] == [(2, 1), (3, 2)]
    assert [(number, label) for number, label, _ in second.objects] == [(1, 2), (5, 4)]


def test_masks_are_painted_once_and_only_where_they_are_missing(tmp_path):
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


def test_full_masks_lie_beside_the_released_ones(tmp_path):
    root = small(tmp_path)
    make_masks(root)
    assert make_masks(root, "full") == {"train": 1, "val": 2}
    first, full = (read_labels(root / folder / f"{name('val', 4)}.png") for folder in ("val", "val_full"))
    assert ((first == 2).sum(), (first == 4).sum()) == (25 - 4, 4)
    assert ((full == 2).sum(), (full == 4).sum()) == (16 + 72 - 1, 1)


def test_an_object_that_cannot_be_painted_stops_its_mask_until_somebody_says_go_on(tmp_path):
    root = small(tmp_path)
    path = root / "annotations" / "instances_val2014.json"
    content = read_json(path)
    content["annotations"][1]["segmentation"] = [[1, 2, 3]]
    content["annotations"].append(instance(77, 1000, 7, [box(0, 0, 1, 1)]))
    content["annotations"].append(instance(78, 4, 8, [box(0, 0, 1, 1)]))
    write_json(path, content)
    with pytest.raises(ValueError, match="annotation 77 is of image 1000, category 7, not both listed"):
        make_masks(root)
    assert not (root / "val").exists()
    del content["annotations"][-2:]
    write_json(path, content)
    for _ in range(2):  # a mask without its object would pass for whole the second time
        with pytest.raises(ValueError, match=f"{name('val', 30)}: annotation 2: found"):
            make_masks(root)
    errors = []
    assert make_masks(root, on_error=errors.append)["val"] == 2
    assert len(errors) == 1 and "annotation 2" in str(errors[0])
    assert (read_labels(root / "val" / f"{name('val', 30)}.png") == 2).sum() == 4


def test_many_masks_are_painted_by_several_processes(tmp_path, capsys):
    numbers = list(range(1, 503))
    train = [instance(n, n, 3, [box(n % 20, 0, n % 20 + 2, 2)]) for n in numbers]
    images = [{"id": n, "file_name": f"{name('train', n)}.jpg", "height": 8, "width": 30} for n in numbers]
    train[-1]["segmentation"] = [[1, 2, 3]]
    content = {"images": images, "annotations": train, "categories": [{"id": 3, "name": "cup"}]}
    write_json(tmp_path / "annotations" / "instances_train2014.json", content)
    errors = []
    assert make_masks(tmp_path, on_error=errors.append, workers=2) == {"train": 502}
    assert [type(error) for error in errors] == [ValueError, FileNotFoundError]
    assert "drawing train" in capsys.readouterr().err
    for number in (1, 37, 501):
        mask = read_labels(tmp_path / "train" / f"{name('train', number)}.png")
        assert mask.sum() == 9 and mask[0, number % 20] == 1
    assert not read_labels(tmp_path / "train" / f"{name('train', 502)}.png").any()


def test_annotation_files_that_cannot_be_used_are_named(tmp_path):
    root = small(tmp_path)
    path = root / "annotations" / "instances_val2014.json"
    content = read_json(path)
    for broken in ([], {**content, "categories": [{}]}, {**content, "annotations": [{"id": 1}]}, {"images": []}):
        write_json(path, broken)
        with pytest.raises(ValueError, match=r"instances_val2014\.json: not the instances of COCO 2014"):
            listed(root, "val")
    content["images"][1]["file_name"] = "000000000006.jpg"
    write_json(path, content)
    with pytest.raises(ValueError, match="an image is called 000000000006, not COCO_val2014_<id>; use the 2014"):
        listed(root, "val")
    path.write_text('{"images": [')
    with pytest.raises(ValueError, match="not valid JSON at line 1"):
        listed(root, "val")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"instances_val2014\.json: no such file"):
        listed(root, "val")


def test_the_scan_asks_for_large_objects_in_the_pool_but_not_in_the_query(tmp_path):
    root = small(tmp_path)
    make_masks(root)
    four, nine, thirty = name("val", 4), name("train", 9), name("val", 30)
    scan = COCO.scan(root, TABLE, (1, 3), (2, 4))
    assert scan.frames == {nine: (nine,), thirty: (thirty,), four: (four,)}
    # The fork on the cup of 30 and the cake of 4 are under 20 pixels; cup and bowl are base and in train too.
    assert scan.presence == {1: {nine: (nine,), thirty: (thirty,)}, 2: {four: (four,)}, 3: {nine: (nine,)}, 4: {}}
    assert scan.shown == {four: (2, 4)}  # 30 shows a fork as well, but nothing novel is large there
    assert (scan.train, scan.val) == ((nine,), (thirty,))
    assert COCO.scan(root, TABLE, (2, 3), (1, 4)).shown == {thirty: (1,)}
    assert COCO.scan(root, TABLE, (2, 3), (1, 4)).presence[1] == {thirty: (thirty,)}  # 9 is of train


def test_full_masks_are_another_corpus(tmp_path):
    root = small(tmp_path)
    make_masks(root)
    with pytest.raises(FileNotFoundError, match=r"train_full: no such folder.* prepare coco-full --root"):
        COCO_FULL.scan(root, TABLE, (1, 3), (2, 4))
    make_masks(root, "full")
    assert read_labels(CocoFullReader(root).mask_path(name("val", 4)))[4, 24] == 2
    assert COCO_FULL.scan(root, {**TABLE, "min_pixels": 80}, (1, 3), (2, 4)).presence[2] == {
        name("val", 4): (name("val", 4),)
    }
    assert COCO.scan(root, {**TABLE, "min_pixels": 80}, (1, 3), (2, 4)).presence[2] == {}


def test_a_list_file_decides_the_order_and_its_broken_lines_are_told(tmp_path):
    root = small(tmp_path)
    make_masks(root)
    lines = [f"val2014/{one}.jpg val/{one}.png" for one in listed(root, "val")]
    write_text(root / "val.txt", "\n".join(lines[::-1]) + "\n")
    assert list(COCO.scan(root, TABLE, (1,), (2,)).frames)[1:] == [name("val", 4), name("val", 30)]
    bad = ["val2014/x.jpg val/x.png", lines[0] + " third", lines[0].replace("val/", "train/"), "", lines[0].split()[0]]
    write_text(root / "val.txt", "\n".join([*bad, lines[1]]) + "\n")
    with pytest.raises(ValueError, match=r"val\.txt, line 1: found .val2014/x"):
        COCO.scan(root, TABLE, (1,), (2,))
    errors = []
    assert list(COCO.scan(root, TABLE, (1,), (2,), errors.append).frames)[1:] == [name("val", 4)]
    assert [str(error).split(", line ")[1][0] for error in errors] == ["1", "2", "3", "4", "5"]
    # Four of the folder's own lists and the annotations are not needed any more.
    write_text(root / "train.txt", f"train2014/{name('train', 9)}.jpg train/{name('train', 9)}.png\n")
    (root / "annotations").rename(root / "elsewhere")
    assert len(COCO.scan(root, TABLE, (1,), (2,), [].append).frames) == 2


def test_what_is_missing_is_named_with_the_way_out(tmp_path):
    root = small(tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"train: no such folder of masks; .*python -m ttilib prepare coco --root"
    ):
        COCO.scan(root, TABLE, (1,), (2,))
    make_masks(root)
    (root / "val" / f"{name('val', 30)}.png").unlink()
    write_labels(root / "val" / f"{name('val', 4)}.png", np.full((HEIGHT, WIDTH), 77, dtype=np.uint8))
    errors = []
    assert list(COCO.scan(root, TABLE, (1,), (2,), errors.append).frames) == [name("train", 9)]
    assert [f"{name('val', n)}.png" in str(error) for n, error in zip((30, 4), errors, strict=True)] == [True, True]
    # Whoever only tests needs no training part.
    (root / "annotations" / "instances_train2014.json").unlink()
    with pytest.raises(FileNotFoundError, match="instances_train2014"):
        COCO.scan(root, TABLE, (1,), (2,))
    assert not COCO.scan(root, TABLE, (1,), (2,), [].append).train
    with pytest.raises(ValueError, match="category 2 is 'fork', the class table says 'knife'; use the 2014 edition"):
        COCO.scan(root, {**TABLE, "classes": {1: "cup", 2: "knife"}}, (1,), (2,), [].append)


def test_the_reader_hands_over_photographs_masks_and_training_labels(tmp_path):
    root = small(tmp_path)
    make_masks(root)
    reader = CocoReader(root)
    assert isinstance(reader, Reader)
    assert np.abs(reader.image(name("train", 9)).astype(int) - picture(9)).mean() < 8
    cup = reader.mask(name("val", 30), 1)
    assert cup.sum() == 96 and set(np.unique(cup)) == {0, 1} and not cup[5, 5]
    labels = reader.labels(name("val", 30), (1, 3))
    assert {int(v): int((labels == v).sum()) for v in np.unique(labels)} == {0: HEIGHT * WIDTH - 100, 1: 96, 255: 4}
    with pytest.raises(ValueError, match="no image of COCO 2014"):
        reader.image("000000000030")


def test_grey_is_never_taken_for_a_voc_colour(tmp_path):
    root = small(tmp_path)
    make_masks(root)
    grey = np.full((HEIGHT, WIDTH, 3), 64, dtype=np.uint8)  # laptop, or VOC's colour of label 56
    Image.fromarray(grey).save(root / "val" / f"{name('val', 30)}.png")
    assert CocoReader(root).mask(name("val", 30), 64).all()


def test_the_class_table_follows_both_rules():
    table = read_json(TABLES / "coco.json")
    names = [table["classes"][str(number)] for number in range(1, 81)]
    assert len(table["classes"]) == len(set(names)) == 80
    assert [names[n - 1] for n in (1, 12, 25, 40, 57, 63, 80)] == [
        "person", "stop sign", "backpack", "bottle", "chair", "tv", "toothbrush",
    ]  # fmt: skip
    assert table["novel"] == [[n for n in range(1, 81) if n % 4 == (fold + 1) % 4] for fold in range(4)]
    assert table["novel_block"] == [[n for n in range(1, 81) if (n - 1) // 20 == fold] for fold in range(4)]
    assert table["min_pixels"] == 2 * 32 * 32


IN_COCO = {
    "aeroplane": "airplane", "diningtable": "dining table", "motorbike": "motorcycle", "pottedplant": "potted plant",
    "sofa": "couch", "tvmonitor": "tv",
}  # fmt: skip


@pytest.mark.parametrize(("key", "exchanged"), [("novel_coco2pascal", {7: 8, 8: 7}), ("novel_coco2pascal_mended", {})])
def test_pascal_classes_that_coco_weights_have_not_seen(key, exchanged):
    voc, table = read_json(TABLES / "pascal.json"), read_json(TABLES / "coco.json")
    for fold, listed in enumerate(voc[key]):
        seen = {label for number, label in table["classes"].items() if int(number) not in table["novel"][fold]}
        names = {n: voc["classes"][str(exchanged.get(n, n))] for n in range(1, 21)}
        assert listed == [n for n, label in names.items() if IN_COCO.get(label, label) not in seen]
    # What the exchange costs: these weights have seen cats (fold 2) and cars (fold 3) after all.
    if exchanged:
        assert voc["classes"]["8"] == "cat" and 8 in voc[key][2] and 16 not in table["novel"][2]
        assert voc["classes"]["7"] == "car" and 7 in voc[key][3] and 3 not in table["novel"][3]

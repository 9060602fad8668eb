"""The class tables say what the protocol says; the scans see each class where the annotations show it."""

import numpy as np
import pytest
from corpora import block, davis, pascal, vspw, ytvis

from ttilib.datasets.catalog import read_fold, read_table
from ttilib.datasets.youtube_vis import split_videos
from ttilib.files import read_json, write_json, write_text

YTVIS = {
    "aa": [[1], [1, 3], [3]],
    "bb": [[2], [2], [2, 4]],
    "cc": [[], [1], []],
    "dd": [[5, 3], [5], [5]],
}


@pytest.mark.parametrize(
    ("corpus", "classes", "novel"), [("ytvis", 40, 10), ("pascal", 20, 5), ("davis", 20, 5)]
)
def test_tables_follow_their_rules(corpus, classes, novel):
    table = read_table(corpus)
    assert sorted(table["classes"]) == list(range(1, classes + 1))
    for fold, ids in enumerate(table["novel"]):
        if corpus == "ytvis":
            assert ids == [n + 1 for n in range(40) if n % 4 == fold]
        else:
            assert ids == list(range(5 * fold + 1, 5 * fold + 6))
        assert len(ids) == novel
    assert len(set(table["classes"].values())) == classes


def test_names_that_pin_the_order():
    assert [read_table("ytvis")["classes"][n] for n in (1, 2, 17, 39, 40)] == [
        "person", "giant_panda", "train", "earless_seal", "tennis_racket",
    ]  # fmt: skip
    assert [read_table("pascal")["classes"][n] for n in (1, 7, 8, 15, 20)] == [
        "aeroplane", "car", "cat", "person", "tvmonitor",
    ]  # fmt: skip


def test_vspw_table_divides_the_25_classes_in_every_fold():
    table = read_table("vspw")
    assert len(table["classes"]) == 25 and table["repeats"] == [10, 10, 1, 10]
    for base, validation, novel in zip(table["base"], table["validation"], table["novel"], strict=True):
        assert (len(base), len(validation), len(novel)) == (15, 5, 5)
        assert sorted(base + validation + novel) == sorted(table["classes"])
    assert table["base"][0][:3] == [50, 49, 62] and table["novel"][2] == [63, 64, 53, 61, 90]
    assert table["classes"][41] == "billboard_or_Bulletin_Board" and table["classes"][124] == "train"
    assert len(set(table["pascal_to_vspw"]["ignored"])) == 19
    pascal_names = set(read_table("pascal")["classes"].values())
    assert set(table["pascal_to_vspw"]["names"].values()) <= pascal_names


def test_ytvis_presence_is_where_an_outline_is(tmp_path):
    fold = read_fold("ytvis", 0, ytvis(tmp_path, YTVIS))
    assert fold.novel == (1, 5) and fold.base == (2, 3, 4)
    assert list(fold.frames) == ["aa", "bb", "cc", "dd"]  # ascending id, not file order
    assert fold.frames["aa"] == ("aa/00000", "aa/00005", "aa/00010")
    assert fold.presence[1] == {"aa": ("aa/00000", "aa/00005"), "cc": ("cc/00005",)}
    assert fold.presence[3] == {"aa": ("aa/00005", "aa/00010"), "dd": ("dd/00000",)}
    # class 2 has bb: floor(0.9) = 0 train; class 3 has aa, dd: one train; class 4 has bb, in val already
    assert fold.train == ("aa",) and fold.val == ("bb", "dd", "bb")


def test_the_ninety_percent_rule_by_hand():
    names = [f"v{n}" for n in range(12)]
    # 10 videos: 9 train; then v8..v11: 0.9 * 4 = 3.6, so v8, v9, v10; v9 is in val and does not change sides
    presence = {
        7: {v: (v,) for v in names[:10]},
        9: {v: (v,) for v in names[8:]},
        11: {"v10": ("v10",)},  # would validate, but trains already
        13: {"v0": ("v0",), "v1": ("v1",)},  # v0 trains once more
    }
    train, val = split_videos(presence, [7, 9, 11, 13])
    assert train == (*names[:9], "v8", "v10", "v0") and val == ("v9", "v11")
    assert not set(train) & set(val)


def test_a_track_of_nulls_is_no_presence_and_wrong_tracks_are_named(tmp_path):
    path = ytvis(tmp_path, YTVIS) / "train" / "train.json"
    content = read_json(path)
    content["annotations"][0]["segmentations"] = [None, None, []]
    write_json(path, content)
    assert "aa" not in read_fold("ytvis", 0, tmp_path).presence[1]
    content["annotations"][0]["segmentations"] = [None]
    write_json(path, content)
    with pytest.raises(ValueError, match=r"train\.json: annotation 1 has 1 outlines, video aa has 3 frames"):
        read_fold("ytvis", 0, tmp_path)
    content["annotations"][0]["video_id"] = 99
    write_json(path, content)
    with pytest.raises(ValueError, match="annotation 1 is of no listed video"):
        read_fold("ytvis", 0, tmp_path)
    del content["annotations"]
    write_json(path, content)
    with pytest.raises(ValueError, match=r"no \['annotations'\] in it"):
        read_fold("ytvis", 0, tmp_path)


def test_another_edition_of_ytvis_is_noticed(tmp_path):
    (ytvis(tmp_path, YTVIS) / "lists.json").unlink()  # the project's own table: class 1 is person
    with pytest.raises(
        ValueError, match="category 1 is 'kind_1', the class table says 'person'; use the 2019"
    ):
        read_fold("ytvis", 0, tmp_path)


def stills():
    both = block(1, 0, 0, 5, 5)
    both[10:12, 10:12] = 2  # 4 pixels: too small to be listed as class 2
    both[15:] = 255
    return {
        "t1": block(2, 0, 0, 6, 6),
        "t2": block(1, 0, 0, 6, 6),
        "t3": block(3, 0, 0, 4, 5),
        "v10": both,
        "v9": block(2, 0, 0, 4, 5),
        "v8": block(4, 0, 0, 19, 1),
    }


def test_pascal_keeps_list_order_and_the_size_rule(tmp_path):
    root = pascal(tmp_path, stills(), val=("v10", "v9", "v8"))
    fold = read_fold("pascal", 0, root)
    assert fold.novel == (1,) and fold.base == (2, 3, 4)
    assert list(fold.frames) == ["t1", "t2", "t3", "v10", "v9", "v8"]
    assert fold.presence[1] == {"v10": ("v10",)}  # t2 shows it, but a novel class is drawn from val only
    assert fold.presence[2] == {"t1": ("t1",), "v9": ("v9",)}
    assert fold.presence[4] == {}  # 18 rows of the 19 asked for: 18 pixels, under 20
    assert fold.train == ("t1", "t3") and fold.val == ("v9",)
    table = {**read_table("pascal", root), "min_pixels": 0, "min_share": 0.04}  # 23.04 of 576 pixels
    assert read_fold("pascal", 0, root, table=table).train == ("t1",)


def test_pascal_lists_that_cannot_be_read_are_named(tmp_path):
    root = pascal(tmp_path, stills(), val=("v10",))
    good = "JPEGImages/t1.jpg SegmentationClassAug/t1.png"
    for bad in (f"{good} third", "JPEGImages/t1.jpg", "JPEGImages/t1.jpg SegmentationClassAug/t2.png", ""):
        write_text(root / "train.txt", f"{good}\n{bad}\n{good}\n")
        with pytest.raises(ValueError, match=r"train\.txt, line 2: found .* expected two fields"):
            read_fold("pascal", 0, root)
    (root / "train.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"train\.txt: no such list"):
        read_fold("pascal", 0, root)


def test_a_label_that_is_no_class_is_named(tmp_path):
    root = pascal(tmp_path, {**stills(), "x": block(77, 0, 0, 2, 2)}, val=("x",))
    with pytest.raises(ValueError, match=r"x\.png: label 77 is no class of the table"):
        read_fold("pascal", 0, root)
    folder = davis(tmp_path / "davis", {"cat": [block(21, 0, 0, 3, 3)]})
    with pytest.raises(ValueError, match=r"8\.png: label 21 is no class"):
        read_fold("davis", 0, folder)


def vspw_masks():
    small = block(41, 0, 0, 3, 3)  # 9 pixels, under 20
    mixed = block(45, 0, 0, 5, 5)
    mixed[10, 10] = 41  # one pixel: listed for the sake of 45, and 41 is then present
    return {
        "10_x": [block(41, 0, 0, 6, 6), small, block(7, 0, 0, 9, 9)],
        "9_x": [mixed, mixed],
        "11_x": [block(53, 0, 0, 6, 6), block(49, 0, 0, 6, 6)],
        "12_x": [block(49, 0, 0, 6, 6), block(41, 0, 0, 9, 9)],
    }


def test_vspw_lists_by_area_and_sees_by_pixel(tmp_path):
    fold = read_fold("vspw", 0, vspw(tmp_path, vspw_masks(), train=("11_x", "12_x")))
    assert fold.base == (53, 49) and fold.repeats == 2
    assert fold.frames["10_x"] == ("10_x/8", "10_x/9", "10_x/10")  # counted, not spelled
    assert fold.presence[41] == {"10_x": ("10_x/8",), "9_x": ("9_x/8", "9_x/9")}
    assert fold.presence[45] == {"9_x": ("9_x/8", "9_x/9")}
    assert fold.presence[49] == {"11_x": ("11_x/9",), "12_x": ("12_x/8",)}
    assert fold.train == ("11_x", "12_x") and fold.val == ()


def test_vspw_without_lists_trains_on_nothing_and_flow_changes_nothing(tmp_path):
    root = vspw(tmp_path, vspw_masks())
    with_lists = read_fold("vspw", 0, root)
    write_text(root / "data" / "9_x" / "flow" / "8.pkl.pkl", "")
    assert read_fold("vspw", 0, root) == with_lists
    for name in ("train.txt", "val.txt"):
        (root / name).unlink()
    fold = read_fold("vspw", 0, root)
    assert fold.train == () and set(fold.val) == {"11_x", "12_x"}
    assert list(fold.frames) == ["9_x", "10_x", "11_x", "12_x"]
    (root / "data").rename(tmp_path / "sequences")
    write_json(tmp_path / "sequences" / "lists.json", read_json(root / "lists.json"))
    assert read_fold("vspw", 0, tmp_path / "sequences").frames == fold.frames


def test_davis_reads_class_ids_in_natural_order(tmp_path):
    root = davis(tmp_path, {"cat": [block(8, 0, 0, 3, 3), block(0, 0, 0, 1, 1), block(8, 0, 0, 2, 2)]})
    fold = read_fold("davis", 1, root)
    assert fold.frames == {"cat": ("cat/8", "cat/9", "cat/10")}
    assert fold.presence[8] == {"cat": ("cat/8", "cat/10")} and fold.names[8] == "cat"
    (root / "Annotations" / "cat" / "9.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"9\.png: no such file"):
        read_fold("davis", 1, root)


def test_wrong_requests_say_what_to_do(tmp_path):
    root = pascal(tmp_path / "voc", stills(), val=("v10",))
    with pytest.raises(ValueError, match="has folds 0 to 3, not 4"):
        read_fold("pascal", 4, root)
    with pytest.raises(ValueError, match="dataset 'voc' is not known; choose one of ytvis, pascal, coco, .*davis"):
        read_fold("voc", 0, root)
    with pytest.raises(FileNotFoundError, match=r"train\.txt: is a file"):
        read_fold("pascal", 0, root / "train.txt")
    with pytest.raises(FileNotFoundError, match="absent: no such folder"):
        read_fold("ytvis", 0, tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match=r"train\.json"):
        read_fold("ytvis", 0, root, table=read_table("ytvis"))
    write_json(root / "lists.json", {"classes": {"1": "a"}, "novel": [[1, 2]]})
    with pytest.raises(ValueError, match=r"lists\.json: novel classes \[2\] have no name"):
        read_fold("pascal", 0, root)
    write_json(root / "lists.json", {"classes": {"1": "a"}, "novel": [[1]], "base": [[1]]})
    with pytest.raises(ValueError, match=r"classes \[1\] are base and novel"):
        read_fold("pascal", 0, root)


def test_an_empty_sequence_is_named(tmp_path):
    root = davis(tmp_path, {"cat": [np.zeros((4, 4), dtype=np.uint8)]})
    (root / "JPEGImages" / "dog").mkdir()
    with pytest.raises(FileNotFoundError, match=r"dog: no \.jpg files of dog here"):
        read_fold("davis", 0, root)

"""Sequences with label maps: VSPW, MiniVSPW and both kinds of DAVIS are listed as the release lists them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from corpora import (
    HEIGHT,
    WIDTH,
    block,
    broken_png,
    davis,
    davis_2016,
    davis_2017,
    flow,
    minivspw,
    vspw,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ttilib.datasets.catalog import find_dataset, read_fold, read_table
from ttilib.datasets.vspw import minivspw_listed, minivspw_table
from ttilib.files import read_json, write_json, write_text
from ttilib.images import write_labels

REAL = Path(__file__).resolve().parents[2] / "shared" / "real" / "davis"
NAMES = {"dog": "63", "wall": "1", "bus": "50", "car": "49", "motorcycle": "53", "airplane": "57", "cattle": "65"}


def full(label):
    return np.full((HEIGHT, WIDTH), label, dtype=np.uint8)


def frames(fold, video):
    return [frame.split("/")[1] for frame in fold.frames[video]]


# VSPW ------------------------------------------------------------------------------------------------------------


def four():
    return {
        "10_a": [block(41, 0, 0, 6, 6)] * 4,
        "9_b": [block(45, 0, 0, 6, 6)] * 4,
        "7_c": [block(53, 0, 0, 6, 6)] * 4,
        "8_d": [block(41, 0, 0, 6, 6)] * 2,
    }


@pytest.mark.parametrize("how", ["missing", "empty", "cut off", "not an image"])
def test_a_vspw_frame_with_a_bad_mask_is_told_and_left_out(tmp_path, how):
    root = vspw(tmp_path, four(), train=("7_c",))
    bad = broken_png(root / "data" / "10_a" / "mask" / "9.png", how)
    with pytest.raises((ValueError, FileNotFoundError), match=r"10_a/mask/9\.png: "):
        read_fold("vspw", 0, root)
    errors = []
    fold = read_fold("vspw", 0, root, on_error=errors.append)
    assert frames(fold, "10_a") == ["8", "10", "11"] and frames(fold, "9_b") == ["8", "9", "10", "11"]
    assert fold.presence[41]["10_a"] == ("10_a/8", "10_a/10", "10_a/11")
    assert [str(error).split(": ")[0] for error in errors] == [str(bad)]


def test_vspw_sequences_that_are_not_there_are_told_once_each(tmp_path):
    root = vspw(tmp_path, four(), train=("7_c",))
    write_text(root / "val.txt", "10_a\nabsent\n9_b and more words\n\n8_d\r\n")
    shutil.rmtree(root / "data" / "9_b" / "mask")
    for path in (root / "data" / "8_d" / "origin").iterdir():
        path.unlink()
    errors = []
    fold = read_fold("vspw", 0, root, on_error=errors.append)
    assert list(fold.frames) == ["7_c", "10_a"] and fold.train == ("7_c",) and list(fold.presence[41]) == ["10_a"]
    assert [str(error).removeprefix(f"{root}/data/") for error in errors] == [
        "absent/origin: no .jpg files of absent here; check the data folder",
        "8_d/origin: no .jpg files of 8_d here; check the data folder",
        "9_b/mask: no such folder; expected a mask for every frame of 9_b",
    ]
    with pytest.raises(FileNotFoundError, match="absent/origin: no"):
        read_fold("vspw", 0, root)
    (root / "train.txt").write_bytes(b"\xff\xfe7_c")
    with pytest.raises(ValueError, match=r"train\.txt: not UTF-8"):
        read_fold("vspw", 0, root)


def test_vspw_counts_frames_like_people_and_overlooks_hidden_files(tmp_path):
    root = vspw(tmp_path, four())
    for folder, name in (("origin", "._8.jpg"), ("mask", "._8.png"), ("origin", ".DS_Store")):
        (root / "data" / "10_a" / folder / name).write_bytes(b"")
    (root / "data" / ".hidden" / "origin").mkdir(parents=True)
    (root / "val.txt").unlink()
    (root / "train.txt").unlink()
    fold = read_fold("vspw", 0, root)
    assert list(fold.frames) == ["7_c", "8_d", "9_b", "10_a"] and frames(fold, "10_a") == ["8", "9", "10", "11"]


def test_vspw_lists_each_set_of_classes_for_itself(tmp_path):
    mixed = block(41, 0, 0, 6, 6)
    mixed[10, 10:15] = 53  # five pixels of a base class: no frame is listed for their sake
    other = block(53, 0, 0, 6, 6)
    other[10, 10:15] = 45
    other[15:] = 255
    root = vspw(tmp_path, {"a": [mixed, other], "b": [mixed]}, train=("b",))
    fold = read_fold("vspw", 0, root)
    assert fold.presence[41] == {"a": ("a/8",)}  # that of b is in a training sequence
    assert fold.presence[45] == {} and fold.presence[53] == {"a": ("a/9",)}
    assert fold.train == () and fold.val == ("a",)
    table = read_table("vspw", root)
    turned = {**table, "novel": [[53]], "base": [[41, 45]]}  # as when checkpoints are chosen by other classes
    fold = read_fold("vspw", 0, root, table=turned)
    assert fold.presence == {41: {"a": ("a/8",), "b": ("b/8",)}, 45: {}, 53: {"a": ("a/9",)}}
    reader = find_dataset("vspw").reader(root)
    assert reader.mask("a/9", 45).sum() == 5 and set(np.unique(reader.mask("a/9", 45))) == {0, 1}  # no 255
    np.testing.assert_array_equal(reader.labels("a/9", (41, 45)), 2 * (other == 45))


def test_vspw_keeps_training_and_test_apart_and_leaves_ignored_sequences_out(tmp_path):
    root = vspw(tmp_path, {**four(), "6_e": [block(41, 0, 0, 6, 6) + block(53, 8, 0, 6, 6)]}, train=("7_c", "6_e"))
    (root / "val.txt").unlink()
    fold = read_fold("vspw", 0, root)
    assert list(fold.frames) == ["7_c", "6_e", "8_d", "9_b", "10_a"] and fold.train == ("7_c", "6_e")
    assert list(fold.presence[41]) == ["8_d", "10_a"] and fold.val == ()
    fold = read_fold("vspw", 0, root, table={**read_table("vspw", root), "ignored": ["10_a", "7_c", "absent"]})
    assert list(fold.frames) == ["6_e", "8_d", "9_b"] and fold.train == ("6_e",) and list(fold.presence[41]) == ["8_d"]


def test_a_scan_writes_nothing_and_uses_what_was_kept(tmp_path):
    root = vspw(tmp_path, four())
    before = sorted(tmp_path.rglob("*"))
    fold = read_fold("vspw", 0, root)
    assert sorted(tmp_path.rglob("*")) == before and fold.presence[45]
    path = root / "data" / "8_d" / "mask" / "8.png"
    write_labels(path, block(45, 0, 0, 7, 7))
    stamp = path.stat()
    entry = {"../data/8_d/mask": {"8.png": [stamp.st_size, stamp.st_mtime_ns, 0, 500, 41, 76]}}
    write_json(root / "lists" / "census.json", entry)
    assert read_fold("vspw", 0, root).presence[41]["8_d"][0] == "8_d/8"


@pytest.mark.parametrize("there", [[], ["train.txt", "data"]])
def test_a_folder_without_sequences_is_named(tmp_path, there):
    root = tmp_path / "vspw"
    for name in ["", *there]:
        (root / name).mkdir(parents=True, exist_ok=True) if "." not in name else (root / name).touch()
    place = str(root / "data") if there else str(root)
    with pytest.raises(FileNotFoundError, match=f"^{place}: no folder with origin/ in it"):
        read_fold("vspw", 0, root, table=read_table("vspw"))


def test_the_laying_rules_of_vspw_and_minivspw():
    lies = find_dataset("vspw").reader.episode_rule.place(480, 853, (417, 417))
    assert (lies.height, lies.width, lies.top, lies.left) == (234, 417, 91, 0)
    assert find_dataset("vspw").reader.episode_rule.padding_counts and find_dataset("vspw").reader.training_rule.rounded
    for rule in (find_dataset("vspw").reader.training_rule, find_dataset("minivspw").reader.episode_rule):
        lies = rule.place(480, 853, (417, 417))
        assert (lies.height, lies.width, lies.top, lies.left) == (232, 416, 0, 0) and not rule.padding_counts
    assert not find_dataset("minivspw").reader.episode_rule.rounded


# MiniVSPW --------------------------------------------------------------------------------------------------------


def mini(root, with_flow=None):
    """Fold 0 of Pascal has aeroplane (57); fold 1 has bus (50), car (49) and cow (65); 2 dog (63) and motorbike (53).

    The ignored sequence is one of the released nineteen.
    """
    one = full(0)
    one[3, 4] = 49  # a single pixel is enough
    two = block(50, 0, 0, 5, 5) + block(49, 9, 9, 2, 2) + block(63, 15, 20, 1, 1)
    masks = {
        "9_x": [one, full(255), two],
        "10_x": [full(57), block(65, 0, 0, 2, 2), full(0), full(65)],
        "118_fgmRMeHommU": [full(49), full(49)],
        "7_x": [full(57)],
    }
    return flow(minivspw(root, masks, NAMES), with_flow or {})


def mini_fold(root, fold=1, on_error=None):
    table = minivspw_table(root, read_table("pascal"))
    return read_fold("minivspw", fold, root, table=table, **({"on_error": on_error} if on_error else {}))


def test_minivspw_table_follows_pascal(tmp_path):
    table = minivspw_table(mini(tmp_path), read_table("pascal"))
    assert list(table["classes"]) == [49, 50, 53, 57, 63, 65]  # ascending, in whatever order the file has them
    assert table["classes"] == {49: "car", 50: "bus", 53: "motorbike", 57: "aeroplane", 63: "dog", 65: "cow"}
    assert table["novel"] == [[57], [49, 50, 65], [53, 63], []] and table["base"] == [[], [], [], []]
    assert len(table["ignored"]) == 19 and "118_fgmRMeHommU" in table["ignored"]


def test_minivspw_names_come_from_the_folder_or_else_the_project(tmp_path):
    pascal = read_table("pascal")
    table = minivspw_table(tmp_path, pascal)
    assert len(table["classes"]) == 18 and table["classes"][85] == "bottle"  # all but bird and sheep
    assert table["novel"] == [[52, 55, 57, 85], [49, 50, 62, 65, 91], [53, 61, 63, 64, 90], [93, 109, 115, 124]]
    write_json(tmp_path / "lists.json", {"classes": {"3": "dog"}, "novel": [[3]]})
    assert minivspw_table(tmp_path, pascal)["classes"] == {3: "dog"}
    own = {"pascal_to_vspw": {"names": {"hound": "dog"}, "ignored": ["a"]}}
    write_json(tmp_path / "label_num_dic_final.json", {"hound": "4", "wall": "1"})
    table = minivspw_table(tmp_path, pascal, own)
    assert table["classes"] == {4: "dog"} and table["ignored"] == ["a"] and table["novel"][2] == [4]
    write_json(tmp_path / "label_num_dic_final.json", {"hound": "4", "dog": "5"})
    with pytest.raises(ValueError, match=r"label_num_dic_final\.json: two of its classes are the Pascal class 'dog'"):
        minivspw_table(tmp_path, pascal, own)
    for content, message in (({"wall": "1"}, "none of its 1 names"), ({"dog": "x"}, "not a file"), ([], "not a file")):
        write_json(tmp_path / "label_num_dic_final.json", content)
        with pytest.raises(ValueError, match=rf"label_num_dic_final\.json: {message}"):
            minivspw_table(tmp_path, pascal)


def test_minivspw_lists_what_the_release_lists(tmp_path):
    root = mini(tmp_path)
    listed, _ = minivspw_listed(root, [49, 50, 65])
    assert list(listed.items()) == [  # sequences as text: 10 before 118 before 9; frames in time
        ("10_x", ("10_x/9", "10_x/11")),
        ("118_fgmRMeHommU", ("118_fgmRMeHommU/8", "118_fgmRMeHommU/9")),
        ("9_x", ("9_x/8", "9_x/10")),
    ]
    assert minivspw_listed(root, [57])[0] == {"10_x": ("10_x/8",), "7_x": ("7_x/8",)}
    write_text(root / "vspw_videolist.txt", "9_x 24 frames\n118_fgmRMeHommU\n777_absent\n")
    assert list(minivspw_listed(root, [49, 50, 65])[0]) == ["118_fgmRMeHommU", "9_x"]


def test_minivspw_scan_without_any_flow_keeps_every_listed_frame(tmp_path):
    fold = mini_fold(mini(tmp_path))
    assert fold.frames == {"10_x": ("10_x/9", "10_x/11"), "9_x": ("9_x/8", "9_x/10")}
    assert list(fold.frames) == ["10_x", "9_x"] and (fold.train, fold.val, fold.base) == ((), (), ())
    assert fold.presence[49] == {"9_x": ("9_x/8", "9_x/10")} and fold.presence[50] == {"9_x": ("9_x/10",)}
    assert fold.presence[65] == {"10_x": ("10_x/9", "10_x/11")}
    assert fold.presence[57] == fold.presence[63] == {}  # the dog in 9_x is of another fold
    assert [fold.names[number] for number in fold.novel] == ["car", "bus", "cow"]
    assert mini_fold(tmp_path, 3).frames == {}


def test_minivspw_scan_drops_frames_without_flow_once_there_is_any(tmp_path):
    root = mini(tmp_path, {"9_x": [8, 9], "10_x": [8, 9, 10]})  # as flow is made: none for the last frame
    assert mini_fold(root).frames == {"10_x": ("10_x/9",), "9_x": ("9_x/8",)}
    assert mini_fold(root).presence[50] == {}
    assert mini_fold(root, 0).frames == {"10_x": ("10_x/8",)}  # 7_x has no flow at all
    assert list(minivspw_listed(root, [57])[0]) == ["10_x", "7_x"]  # but is in the list
    shutil.rmtree(root / "data" / "9_x" / "flow")
    shutil.rmtree(root / "data" / "10_x" / "flow")
    flow(root, {"118_fgmRMeHommU": [8]})  # the flow of an ignored sequence is flow all the same
    assert mini_fold(root).frames == {}


def test_minivspw_overlooks_hidden_masks_and_tells_what_is_broken(tmp_path):
    root = mini(tmp_path)
    (root / "data" / "9_x" / "mask" / "._8.png").write_bytes(b"x")
    assert frames(mini_fold(root), "9_x") == ["8", "10"]
    broken_png(root / "data" / "9_x" / "mask" / "8.png", "empty")
    broken_png(root / "data" / "118_fgmRMeHommU" / "mask" / "8.png", "empty")  # ignored: nobody minds
    (root / "data" / "10_x" / "origin" / "9.jpg").unlink()
    (root / "data" / "10_x" / "origin" / "10.jpg").unlink()  # not listed in this fold: nobody minds
    errors = []
    assert mini_fold(root, on_error=errors.append).frames == {"10_x": ("10_x/11",), "9_x": ("9_x/10",)}
    assert [str(error).removeprefix(f"{root}/data/") for error in errors] == [
        "9_x/mask/8.png: image file is empty (0 bytes); copy it again",
        "10_x/origin/9.jpg: no such file; a mask belongs to this image, copy it",
    ]
    with pytest.raises(ValueError, match=r"9_x/mask/8\.png"):
        mini_fold(root)
    with pytest.raises(ValueError, match=r"118_fgmRMeHommU/mask/8\.png"):
        minivspw_listed(root, [57])


def test_minivspw_reads_like_vspw(tmp_path):
    root = mini(tmp_path)
    reader = find_dataset("minivspw").reader(str(root))
    np.testing.assert_array_equal(reader.mask("9_x/10", 49), block(1, 9, 9, 2, 2))
    assert not reader.mask("9_x/9", 49).any()  # 255 everywhere: background, not unjudged
    assert reader.image("9_x/9").shape == (HEIGHT, WIDTH, 3)


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_minivspw_agrees_with_a_slow_program(tmp_path_factory, data):
    row = st.lists(st.sampled_from([0, 1, 49, 50, 57, 65, 255]), min_size=3, max_size=3)
    film = st.lists(row.map(lambda labels: np.array([labels] * 3, dtype=np.uint8)), min_size=1, max_size=4)
    names = st.sampled_from(["9_x", "10_x", "118_fgmRMeHommU"])
    masks = data.draw(st.dictionaries(names, film, min_size=1))
    root = minivspw(tmp_path_factory.mktemp("m"), masks, NAMES)
    having = {name: data.draw(st.sets(st.integers(8, 8 + len(of)))) for name, of in masks.items()}
    flow(root, {name: sorted(numbers) for name, numbers in having.items()})
    expected = []
    for name in sorted(masks):
        for place, mask in enumerate(masks[name]):
            wanted = not any(having.values()) or place + 8 in having[name]
            if name != "118_fgmRMeHommU" and wanted and {49, 50, 65} & set(mask.ravel().tolist()):
                expected.append(f"{name}/{place + 8}")
    fold = mini_fold(root)
    assert [frame for there in fold.frames.values() for frame in there] == expected
    for number in (49, 50, 65):
        seen = [frame for there in fold.presence[number].values() for frame in there]
        assert seen == [f for f in expected if number in masks[f.split("/")[0]][int(f.split("/")[1]) - 8]]


# DAVIS -----------------------------------------------------------------------------------------------------------

DAVIS = {
    "bus": [block(1, 2, 2, 5, 5), full(0), block(1, 3, 3, 5, 5) + block(2, 12, 20, 2, 3)],
    "libby": [block(4, 0, 0, 2, 2)] * 3,
    "bear": [full(1)] * 2,
    "gold-fish": [full(1)] * 2,
}


@pytest.mark.parametrize("make", [davis_2016, davis_2017])
@pytest.mark.parametrize("resolution", ["480p", "Full-Resolution", "1080p"])
def test_official_davis_shows_the_class_of_the_table(tmp_path, make, resolution):
    root = make(tmp_path, DAVIS, resolution)
    fold = read_fold("davis", 1, root)
    # bear is left out for a reason, gold-fish because nobody said what it is
    assert fold.frames == {"bus": ("bus/8", "bus/9", "bus/10"), "libby": ("libby/8", "libby/9", "libby/10")}
    assert {c: seen for c, seen in fold.presence.items() if seen} == {
        6: {"bus": ("bus/8", "bus/10")},
        12: {"libby": ("libby/8", "libby/9", "libby/10")},
    }
    assert fold.train == fold.val == () and fold.novel == (6, 7, 8, 9, 10)
    reader = find_dataset("davis").reader(root)
    both = block(1, 3, 3, 5, 5) + block(1, 12, 20, 2, 3)  # both parts of the object, none of them void
    np.testing.assert_array_equal(reader.mask("bus/10", 6), both)
    np.testing.assert_array_equal(reader.mask("bus/9", 6), full(0))
    assert reader.image("bus/8").shape == (HEIGHT, WIDTH, 3) and not reader.episode_rule.padding_counts
    with pytest.raises(ValueError, match="DAVIS cannot be trained on"):
        reader.labels("bus/8", (6,))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "1"])
def test_official_davis_masks_saved_otherwise(tmp_path, mode):
    root = davis_2016(tmp_path, {"bus": [block(1, 2, 2, 5, 5)]})
    path = root / "Annotations" / "480p" / "bus" / "8.png"
    Image.open(path).convert(mode).save(path)
    assert read_fold("davis", 1, root).presence[6] == {"bus": ("bus/8",)}
    np.testing.assert_array_equal(find_dataset("davis").reader(root).mask("bus/8", 6), block(1, 2, 2, 5, 5))


def test_official_davis_prefers_480p_and_keeps_picture_and_mask_of_one_size(tmp_path):
    davis_2016(tmp_path, {"bus": [block(1, 0, 0, 9, 9, size=(36, 64))]}, "1080p")
    root = davis_2016(tmp_path, {"bus": [block(1, 2, 2, 5, 5)]}, "480p")
    reader = find_dataset("davis").reader(root)
    assert reader.image("bus/8").shape[:2] == reader.mask("bus/8", 6).shape == (HEIGHT, WIDTH)
    shutil.rmtree(root / "Annotations" / "480p")
    with pytest.raises(FileNotFoundError, match="Annotations/480p/bus: no such folder"):
        read_fold("davis", 1, root)


def test_official_davis_keeps_the_size_rule_and_tells_bad_masks(tmp_path):
    root = davis_2017(tmp_path, DAVIS, "480p")
    table = {**read_table("davis"), "min_pixels": 10}
    fold = read_fold("davis", 1, root, table=table)
    assert fold.presence[12] == {} and fold.presence[6] == {"bus": ("bus/8", "bus/10")}  # libby has 4 pixels
    assert len(fold.frames["libby"]) == 3
    broken_png(root / "Annotations" / "480p" / "bus" / "9.png", "cut off")
    broken_png(root / "Annotations" / "480p" / "bear" / "9.png", "cut off")  # left out: nobody minds
    errors = []
    fold = read_fold("davis", 1, root, on_error=errors.append)
    assert frames(fold, "bus") == ["8", "10"] and len(errors) == 1 and "480p/bus/9.png" in str(errors[0])


def test_official_davis_needs_to_be_told_what_it_shows(tmp_path):
    root = davis_2016(tmp_path, DAVIS)
    table = read_table("davis")
    with pytest.raises(ValueError, match="480p: the class table names the class of none of its 4 sequences"):
        read_fold("davis", 1, root, table={key: table[key] for key in ("classes", "novel")})
    with pytest.raises(ValueError, match=r"classes \['ursa'\] of the class table's sequences have no id"):
        read_fold("davis", 1, root, table={**table, "sequences": {"bear": "ursa"}})
    own = {**table, "sequences": {"gold-fish": "bird", "elsewhere": "car"}}
    assert list(read_fold("davis", 0, root, table=own).frames) == ["gold-fish"]


def test_davis_with_class_ids_tells_strange_labels_and_goes_on(tmp_path):
    void = block(8, 0, 0, 3, 3)
    void[9:] = 255
    root = davis(tmp_path, {"pets": [void, block(21, 0, 0, 3, 3), block(12, 5, 5, 4, 4)], "bear": [full(8)]})
    errors = []
    fold = read_fold("davis", 1, root, on_error=errors.append)
    assert frames(fold, "pets") == ["8", "10"] and fold.presence[8] == {"bear": ("bear/8",), "pets": ("pets/8",)}
    assert fold.presence[12] == {"pets": ("pets/10",)}
    assert len(errors) == 1 and "9.png: label 21 is no class of the table" in str(errors[0])
    reader = find_dataset("davis").reader(root)
    assert set(np.unique(reader.mask("pets/8", 8))) == {0, 1, 255}
    np.testing.assert_array_equal(np.unique(reader.labels("pets/8", (8,))), [0, 1, 255])


def test_davis_scan_and_reader_agree_about_colours(tmp_path):
    root = davis(tmp_path, {"cat": [block(8, 0, 0, 3, 3)] * 2})
    folder = root / "Annotations" / "cat"
    Image.open(folder / "8.png").convert("RGB").save(folder / "8.png")  # three channels that agree are a label
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), (64, 0, 0), dtype=np.uint8)).save(folder / "9.png")
    errors = []
    assert read_fold("davis", 1, root, on_error=errors.append).presence[8] == {"cat": ("cat/8",)}
    assert len(errors) == 1 and "9.png: label map has RGB pixels" in str(errors[0])
    np.testing.assert_array_equal(find_dataset("davis").reader(root).mask("cat/8", 8), block(1, 0, 0, 3, 3))
    with pytest.raises(ValueError, match=r"9\.png: label map has RGB pixels"):
        find_dataset("davis").reader(root).mask("cat/9", 8)


def test_a_flattened_official_edition_is_noticed(tmp_path):
    root = davis(tmp_path, {"bus": [255 * block(1, 2, 2, 5, 5)], "cat": [block(8, 0, 0, 3, 3)]})
    errors = []
    fold = read_fold("davis", 1, root, on_error=errors.append)
    assert list(fold.frames) == ["cat"]
    assert len(errors) == 1 and "Annotations/bus: its masks hold only 0 and 255" in str(errors[0])
    assert "put an official edition into JPEGImages/480p" in str(errors[0])


def test_the_davis_table_speaks_of_all_fifty_sequences(repository):
    table = json.loads((repository / "lists" / "davis.json").read_text())
    assert len(table["sequences"]) == 27 and len(table["excluded"]) == 23
    assert not table["sequences"].keys() & table["excluded"].keys()
    kinds = list(table["sequences"].values())
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "bird": 4, "boat": 1, "bus": 1, "car": 6, "cow": 1, "dog": 3, "person": 10, "train": 1,
    }  # fmt: skip
    assert set(kinds) <= set(table["classes"].values()) and all(table["excluded"].values())
    assert table["classes"] == read_json(repository / "lists" / "pascal.json")["classes"]


@pytest.mark.skipif(not REAL.is_dir(), reason="the real DAVIS images are not here")
def test_real_sequences_of_davis():
    facts = json.loads((REAL / "sequences.json").read_text())
    table = read_table("davis")
    fold = read_fold("davis", 0, REAL)
    assert len(fold.frames) == 14
    assert {name: len(there) for name, there in fold.frames.items()} == {n: f["frames"] for n, f in facts.items()}
    shown = {(video, fold.names[c]) for c, videos in fold.presence.items() for video in videos}
    assert shown == {(name, table["sequences"][name]) for name in facts}
    assert fold.frames["bus"][:2] == ("bus/00000000", "bus/00000002")
    reader = find_dataset("davis").reader(REAL)
    frame = fold.frames["bus"][0]
    assert reader.image(frame).shape[:2] == reader.mask(frame, 6).shape and reader.mask(frame, 6).max() == 1

"""VSPW and MiniVSPW are listed as the release lists them, DAVIS by its class table; bad files are reported."""

import shutil

import numpy as np
import pytest
from corpora import HEIGHT, WIDTH, block, broken_png, davis, davis_2016, davis_2017, flow, full, minivspw, vspw
from PIL import Image

from ttilib.datasets.base import raise_first
from ttilib.datasets.catalog import find_dataset, read_fold, read_table
from ttilib.datasets.sequences import minivspw_listed, minivspw_table
from ttilib.files import write_json, write_text

NAMES = {"dog": "63", "wall": "1", "bus": "50", "car": "49", "motorcycle": "53", "airplane": "57", "cattle": "65"}


FOUR = {
    name: [block(label, 0, 0, 6, 6)] * length
    for name, label, length in (("10_a", 41, 4), ("9_b", 45, 4), ("7_c", 53, 4), ("8_d", 41, 2))
}


def test_vspw_reports_each_bad_file_and_leaves_it_out(tmp_path):
    root = flow(vspw(tmp_path, FOUR, train=("7_c",)), {"9_b": [8]})  # flow is not needed
    for hidden in ("origin/._8.jpg", "mask/._8.png", "origin/.DS_Store"):
        (root / "data" / "10_a" / hidden).write_bytes(b"")
    broken_png(root / "data" / "10_a" / "mask" / "9.png", "cut off")
    write_text(root / "val.txt", "10_a\nabsent\n9_b and more words\n\n8_d\r\n")
    shutil.rmtree(root / "data" / "9_b" / "mask")
    for path in (root / "data" / "8_d" / "origin").iterdir():
        path.unlink()
    errors = []
    fold = read_fold("vspw", 0, root, on_error=errors.append)
    assert list(fold.frames) == ["7_c", "10_a"] and fold.train == ("7_c",)
    assert fold.presence[41] == {"10_a": ("10_a/8", "10_a/10", "10_a/11")}
    files = ["absent/origin", "8_d/origin", "9_b/mask", "10_a/mask/9.png"]
    assert [str(error).split(": ")[0] for error in errors] == [f"{root}/data/{name}" for name in files]
    with pytest.raises(FileNotFoundError, match="absent/origin"):
        read_fold("vspw", 0, root)


def test_only_minivspw_turns_images(tmp_path):
    """The release reads it by OpenCV, which turns images, and VSPW by Pillow, which does not."""
    root, exif = vspw(tmp_path, {"a": [block(41, 0, 0, 6, 6)]}), Image.Exif()
    exif[0x0112] = 6
    for file in ("origin/8.jpg", "mask/8.png"):
        Image.open(root / "data" / "a" / file).save(root / "data" / "a" / file, exif=exif)
    readers = [find_dataset(name).reader(root) for name in ("vspw", "minivspw")]
    assert [reader.image("a/8").shape[:2] for reader in readers] == [(HEIGHT, WIDTH), (WIDTH, HEIGHT)]
    assert [reader.mask("a/8", 41).shape for reader in readers] == [(HEIGHT, WIDTH), (WIDTH, HEIGHT)]


def test_vspw_lists_each_set_of_classes_for_itself(tmp_path):
    mixed, other = block(41, 0, 0, 6, 6), block(53, 0, 0, 6, 6)
    mixed[10, 10:15] = 53  # five pixels of a base class: no frame is listed for them
    other[10, 10:15], other[15:] = 45, 255
    root = vspw(tmp_path, {"a": [mixed, other], "b": [mixed]}, train=("b",))
    fold = read_fold("vspw", 0, root)
    assert fold.presence == {41: {"a": ("a/8",)}, 45: {}, 53: {"a": ("a/9",)}, 49: {}}  # b is a training sequence
    assert fold.train == () and fold.val == ("a",)
    turned = {**read_table("vspw", root), "novel": [[53]], "base": [[41, 45]]}  # as classes that choose checkpoints
    fold = read_fold("vspw", 0, root, table=turned)
    assert fold.presence == {41: {"a": ("a/8",), "b": ("b/8",)}, 45: {}, 53: {"a": ("a/9",)}}
    reader = find_dataset("vspw").reader(root)
    np.testing.assert_array_equal(reader.mask("a/9", 45), other == 45)  # no 255
    np.testing.assert_array_equal(reader.labels("a/9", (41, 45)), 2 * (other == 45))


def test_vspw_keeps_training_and_test_apart_and_leaves_ignored_sequences_out(tmp_path):
    root = vspw(tmp_path, {**FOUR, "6_e": [block(41, 0, 0, 6, 6) + block(53, 8, 0, 6, 6)]}, train=("7_c", "6_e"))
    (root / "val.txt").unlink()
    fold = read_fold("vspw", 0, root)
    assert list(fold.frames) == ["7_c", "6_e", "8_d", "9_b", "10_a"] and fold.train == ("7_c", "6_e")
    assert list(fold.presence[41]) == ["8_d", "10_a"] and fold.val == ()
    assert fold.frames["10_a"] == ("10_a/8", "10_a/9", "10_a/10", "10_a/11")  # numbers in their order
    fold = read_fold("vspw", 0, root, table={**read_table("vspw", root), "ignored": ["10_a", "7_c", "absent"]})
    assert list(fold.frames) == ["6_e", "8_d", "9_b"] and fold.train == ("6_e",) and list(fold.presence[41]) == ["8_d"]


def test_vspw_trains_on_frames_resized_as_stills_in_bytes():
    rule = find_dataset("vspw").reader.training_rule  # those of episodes: test_clips.py
    placed = rule.placement(480, 853, (417, 417))
    assert (placed.height, placed.width, placed.top, *rule[1:3]) == (232, 416, 0, False, True)


def mini(root):
    """Fold 0 of Pascal has aeroplane (57); fold 1 bus (50), car (49) and cow (65); 2 dog (63) and motorbike (53)."""
    two = block(50, 0, 0, 5, 5) + block(49, 9, 9, 2, 2) + block(63, 15, 20, 1, 1)
    masks = {
        "9_x": [block(49, 3, 4, 1, 1), full(255), two],  # a single pixel is enough
        "10_x": [full(57), block(65, 0, 0, 2, 2), full(0), full(65)],
        "118_fgmRMeHommU": [full(49), full(49)],
        "7_x": [full(57)],
    }
    return minivspw(root, masks, NAMES)


def mini_fold(root):
    return read_fold("minivspw", 1, root, table=minivspw_table(root, read_table("pascal")))


def test_minivspw_table_follows_pascal_with_the_names_of_the_folder(tmp_path):
    pascal, path = read_table("pascal"), tmp_path / "label_num_dic_final.json"
    assert len(minivspw_table(tmp_path, pascal)["classes"]) == 18  # all but bird and sheep
    write_json(tmp_path / "lists.json", {"classes": {"3": "dog"}, "novel": [[3]]})
    assert minivspw_table(tmp_path, pascal)["classes"] == {3: "dog"}
    table = minivspw_table(mini(tmp_path), pascal)
    assert table["classes"] == {49: "car", 50: "bus", 53: "motorbike", 57: "aeroplane", 63: "dog", 65: "cow"}
    assert table["novel"] == [[57], [49, 50, 65], [53, 63], []] and table["base"] == [[], [], [], []]
    assert len(table["ignored"]) == 19 and "118_fgmRMeHommU" in table["ignored"]
    write_json(path, {"cattle": "4", "cow": "5"})  # two names of one class
    with pytest.raises(ValueError, match=path.name):
        minivspw_table(tmp_path, pascal)


def test_minivspw_lists_and_scans_what_the_release_does(tmp_path):
    root, ignored = mini(tmp_path), "118_fgmRMeHommU"
    listed, _ = minivspw_listed(root, [49, 50, 65], (), raise_first)
    assert list(listed) == ["10_x", ignored, "9_x"]  # as text
    assert list(listed.values()) == [("10_x/9", "10_x/11"), (f"{ignored}/8", f"{ignored}/9"), ("9_x/8", "9_x/10")]
    flow(root, {"9_x": [8, 9], "10_x": [8, 9, 10]})  # as flow is made: none for the last frame
    assert mini_fold(root).frames == {"10_x": ("10_x/9",), "9_x": ("9_x/8",)} and mini_fold(root).presence[50] == {}
    write_text(root / "vspw_videolist.txt", "9_x 24 frames\n118_fgmRMeHommU\n777_absent\n")
    assert list(minivspw_listed(root, [49, 50, 65], (), raise_first)[0]) == ["118_fgmRMeHommU", "9_x"]


DAVIS = {
    "bus": [block(1, 2, 2, 5, 5), full(0), block(1, 3, 3, 5, 5) + block(2, 12, 20, 2, 3)],
    "libby": [block(4, 0, 0, 2, 2)] * 3,
    "bear": [full(1)] * 2,
    "gold-fish": [full(1)] * 2,
}


@pytest.mark.parametrize(("make", "resolution"), [(davis_2016, "480p"), (davis_2017, "Full-Resolution")])
def test_official_davis_shows_the_class_of_the_table(tmp_path, make, resolution):
    root = make(tmp_path, DAVIS, resolution)
    fold = read_fold("davis", 1, root)
    # bear is left out for a reason, gold-fish has no entry
    assert fold.frames == {"bus": ("bus/8", "bus/9", "bus/10"), "libby": ("libby/8", "libby/9", "libby/10")}
    assert fold.presence == dict.fromkeys(range(1, 21), {}) | {
        6: {"bus": ("bus/8", "bus/10")}, 12: {"libby": ("libby/8", "libby/9", "libby/10")},
    }  # fmt: skip
    assert fold.train == fold.val == () and fold.novel == (6, 7, 8, 9, 10)
    reader = find_dataset("davis").reader(root)
    np.testing.assert_array_equal(reader.mask("bus/10", 6), DAVIS["bus"][2] > 0)  # both parts, none of them ignored
    np.testing.assert_array_equal(reader.mask("bus/9", 6), full(0))
    assert reader.image("bus/8").shape == (HEIGHT, WIDTH, 3) and not reader.episode_rule.padding_is_background
    with pytest.raises(ValueError, match="DAVIS cannot be trained on"):
        reader.labels("bus/8", (6,))


def test_an_official_edition_prefers_480p_follows_the_size_rule_and_reports_bad_masks(tmp_path):
    davis_2016(tmp_path, {"bus": [block(1, 0, 0, 9, 9, size=(36, 64))]}, "1080p")
    root = davis_2017(tmp_path, DAVIS, "480p")
    fold = read_fold("davis", 1, root, table={**read_table("davis"), "min_pixels": 10})
    assert [*fold.presence[12], *fold.presence[6]] == ["bus"]  # libby has 4 pixels
    reader = find_dataset("davis").reader(root)
    assert reader.image("bus/8").shape[:2] == (HEIGHT, WIDTH)
    path, errors = root / "Annotations" / "480p" / "bus", []
    Image.fromarray(block(255, 2, 2, 5, 5)).convert("1").save(path / "8.png")
    np.testing.assert_array_equal(reader.mask("bus/8", 6), block(1, 2, 2, 5, 5))
    for video in ("bus", "bear"):  # the second is of no class
        broken_png(path.parent / video / "9.png", "cut off")
    fold = read_fold("davis", 1, root, on_error=errors.append)
    assert fold.frames["bus"] == ("bus/8", "bus/10") and "480p/bus/9.png" in str(*errors)


def test_masks_of_class_ids(tmp_path):
    void = block(8, 0, 0, 3, 3)
    void[9:] = 255
    root = davis(tmp_path, {"pets": [void, block(21, 0, 0, 3, 3), block(12, 5, 5, 4, 4)], "bear": [full(8)] * 3})
    colour = np.full((HEIGHT, WIDTH, 3), (64, 0, 0), dtype=np.uint8)
    Image.fromarray(colour).save(root / "Annotations" / "bear" / "9.png")
    errors = []
    fold = read_fold("davis", 1, root, on_error=errors.append)
    assert fold.frames == {"bear": ("bear/8", "bear/10"), "pets": ("pets/8", "pets/10")}
    assert fold.presence[8] == {"bear": ("bear/8", "bear/10"), "pets": ("pets/8",)}
    assert fold.presence[12] == {"pets": ("pets/10",)}
    assert [word in str(error) for word, error in zip(("9.png", "label 21"), errors, strict=True)] == [True, True]
    reader = find_dataset("davis").reader(root)
    for labels in (reader.mask("pets/8", 8), reader.labels("pets/8", (8,))):
        np.testing.assert_array_equal(labels, np.where(void == 8, 1, void))
    with pytest.raises(ValueError, match=r"bear/9\.png"):
        read_fold("davis", 0, root)

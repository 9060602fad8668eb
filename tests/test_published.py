"""Published lists expand to the very bytes and are what readers use; class tables follow their rules."""

import hashlib

import pytest
from corpora import block, minivspw, pascal, picture, sequences

from ttilib.datasets.base import raise_first
from ttilib.datasets.catalog import read_fold, read_table
from ttilib.datasets.coco import CocoReader
from ttilib.datasets.pascal import PascalReader, published_lines
from ttilib.datasets.sequences import minivspw_listed, minivspw_table, published_list
from ttilib.files import LISTS, write_json, write_text
from ttilib.images import write_image, write_labels


def table_of_readme():
    """List to lines, sequences, md5 and first line, from lists/README.md."""
    rows = [line.split(" | ") for line in (LISTS / "README.md").read_text().splitlines()]
    rows = [[cell.strip("|` ") for cell in row] for row in rows if len(row) == 5 and ".txt`" in row[0]]
    return {name: cells for name, *cells in rows}


def test_every_list_expands_to_the_published_bytes():
    lists = {path.relative_to(LISTS).with_suffix("").as_posix() for path in LISTS.glob("*/*.txt")}
    seen = set()
    for released, (count, sequence_count, md5, first) in table_of_readme().items():
        if md5 == "not known":
            continue
        folder, name = released.removesuffix(".txt").split("/")
        folder = {"vspw": "minivspw", "nminivspw_pascal": "vspw"}.get(folder, folder)  # names that differ here
        ours = f"{folder}/{name}"
        lines = published_lines(ours)
        text = "\n".join([*lines, ""])
        assert hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() == md5, ours
        assert str(len(lines)) == count and lines[0] == first
        if sequence_count:
            assert str(len({line.split("/mask/")[0] for line in lines})) == sequence_count
        seen.add(ours)
    assert seen == lists and len(lists) == 16


def test_classes_lead_to_the_published_lists(tmp_path):
    voc, vspw = read_table("pascal"), read_table("vspw")
    names = {name: number for number, name in vspw["classes"].items()}
    write_json(tmp_path / "label_num_dic_final.json", names)
    known = vspw["pascal_to_vspw"]["novel"]
    assert [sorted(ids) for ids in minivspw_table(tmp_path, voc)["novel"]] == [sorted(ids) for ids in known]
    splits = {"vspw/train_{}": vspw["base"], "vspw/val_{}": vspw["validation"], "vspw/test_{}": vspw["novel"]}
    assert published_list(tmp_path, vspw["novel"][0], splits) == ""  # none of its sequences: other data of this form
    for name in ("train_2", "val_0", "val_1", "test_0", "test_1", "test_2", "test_3"):
        (tmp_path / "data" / published_lines(f"vspw/{name}")[-1].split()[0]).mkdir(parents=True, exist_ok=True)
    found = [[published_list(tmp_path, vspw[entry][k], splits) for k in range(4)] for entry in ("base", "novel")]
    assert found == [["", "", "vspw/train_2", ""], [f"vspw/test_{k}" for k in range(4)]]
    assert [published_list(tmp_path, vspw["validation"][k], splits) for k in (0, 1)] == ["vspw/val_0", "vspw/val_1"]
    write_json(tmp_path / "lists.json", {})
    assert published_list(tmp_path, vspw["novel"][0], splits) == ""  # a folder with classes of its own


def images(root, files):
    for place, (image, mask) in enumerate(files):
        write_image(root / image, picture(place))
        write_labels(root / mask, block(1, 2, 2, 9, 9))


def test_pascal_and_coco_take_the_published_order_and_say_in_one_sentence_what_is_missing(tmp_path):
    lines = [line.split() for line in published_lines("pascal/val")]
    images(tmp_path / "pascal", [lines[n] for n in (700, 5, 9)])
    errors = []
    ids = [lines[n][0].split("/")[1].removesuffix(".jpg") for n in (5, 9, 700)]
    assert PascalReader(tmp_path / "pascal").names("val", {}, errors.append) == tuple(ids)
    about = "1446 of the 1449 frames of the published list pascal/val are not here, first 2007_000033"
    assert about in str(*errors)
    with pytest.raises(FileNotFoundError, match="5953 of the 5953"):
        PascalReader(tmp_path / "pascal").names("train", {}, raise_first)
    lines = [line.split() for line in published_lines("coco/val")]
    images(tmp_path / "coco", [lines[n] for n in (9, 0, 3)])
    names = tuple(lines[n][0].split("/")[1].removesuffix(".jpg") for n in (0, 3, 9))
    assert CocoReader(tmp_path / "coco").names("val", {}, errors.append) == names


def test_minivspw_takes_the_frames_of_the_published_list(tmp_path):
    names = {name: str(number) for number, name in read_table("vspw")["classes"].items()}
    frames = [line.removeprefix("data/").removesuffix(".png") for line in published_lines("minivspw/3")]
    root, (sequence, _, first) = minivspw(tmp_path, {}, names), frames[0].split("/")
    for number in (int(first), int(first) + 1, 3):  # frame 3 is in no list, though a mask shows a plant
        images(root / "data" / sequence, [(f"origin/{number:08d}.jpg", f"mask/{number:08d}.png")])
        write_labels(root / "data" / sequence / "mask" / f"{number:08d}.png", block(109, 2, 2, 9, 9))
    errors = []
    listed, _ = minivspw_listed(root, (109, 93, 124, 115), (), errors.append)
    assert listed == {sequence: (f"{sequence}/{first}", f"{sequence}/{int(first) + 1:08d}")}
    assert "2107 of the 2109 frames of the published list minivspw/3" in str(*errors)
    by_rule, _ = minivspw_listed(root, (109,), (), raise_first)
    assert by_rule[sequence][0] == f"{sequence}/00000003"


def test_vspw_takes_the_published_frames_unless_other_sizes_are_asked_for(tmp_path):
    lines = published_lines("vspw/test_3")
    sequence, first = lines[0].split(" ")[0], lines[0].split("/")[-1].removesuffix(".png")
    sequences(tmp_path, {sequence: [block(109, 2, 2, 12, 12)] * 2}, "data/{}/origin", "data/{}/mask")
    for file in ("origin/{}.jpg", "mask/{}.png"):
        (tmp_path / "data" / sequence / file.format(8)).rename(tmp_path / "data" / sequence / file.format(first))
    write_text(tmp_path / "val.txt", f"{sequence}\n")
    errors = []
    fold = read_fold("vspw", 3, tmp_path, on_error=errors.append)
    assert fold.presence[109] == {sequence: (f"{sequence}/{first}",)}  # frame 9 is in no list
    assert len(fold.frames[sequence]) == 2 and fold.val == ()
    assert "4059 of the 4060 frames of the published list vspw/test_3 are not here" in str(*errors)
    for rule in ({"min_pixels": 140}, {"min_share": 0.2}):
        assert len(read_fold("vspw", 3, tmp_path, {**read_table("vspw"), **rule}).presence[109][sequence]) == 2


def test_tables_follow_their_rules():
    for corpus, classes in (("ytvis", 40), ("pascal", 20), ("davis", 20)):
        table = read_table(corpus)
        assert sorted(table["classes"]) == list(range(1, classes + 1))
        for fold, ids in enumerate(table["novel"]):
            every_fourth, block_of_five = range(fold + 1, 41, 4), range(5 * fold + 1, 5 * fold + 6)
            assert ids == list(every_fourth if corpus == "ytvis" else block_of_five)
    assert [read_table("ytvis")["classes"][n] for n in (2, 39, 40)] == ["giant_panda", "earless_seal", "tennis_racket"]
    assert [read_table("pascal")["classes"][n] for n in (1, 7, 8, 20)] == ["aeroplane", "car", "cat", "tvmonitor"]
    table = read_table("vspw")  # divides its 25 classes in every fold
    assert len(table["classes"]) == 25 and table["repeats"] == [10, 10, 1, 10]
    for base, validation, novel in zip(table["base"], table["validation"], table["novel"], strict=True):
        assert (len(base), len(validation), len(novel)) == (15, 5, 5)
        assert sorted(base + validation + novel) == sorted(table["classes"])
    assert table["base"][0][:3] == [50, 49, 62] and table["novel"][2] == [63, 64, 53, 61, 90]
    assert table["classes"][41] == "billboard_or_Bulletin_Board" and table["classes"][124] == "train"
    assert len(set(table["pascal_to_vspw"]["ignored"])) == 19
    assert set(table["pascal_to_vspw"]["names"].values()) <= set(read_table("pascal")["classes"].values())


def test_tables_that_break_the_rules_are_refused(tmp_path):
    root = pascal(tmp_path / "voc", {"v": block(1, 0, 0, 5, 5)}, val=("v",))
    with pytest.raises(ValueError, match="folds 0 to 3"):
        read_fold("pascal", 4, root)
    for content, word in (
        ({"classes": {"1": "a"}, "novel": [[1, 2]]}, r"\[2\]"),
        ({"classes": {"1": "a"}, "novel": [[1]], "base": [[7]]}, r"base .*\[7\]"),
        ({"classes": {"1": "a"}, "novel": [[1], []], "repeats": [1]}, "repeats"),
        ({"classes": {"1": "../a"}, "novel": [[1]]}, "classes"),
    ):
        write_json(root / "lists.json", content)
        with pytest.raises(ValueError, match=word):
            read_fold("pascal", 0, root)

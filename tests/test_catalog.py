"""Class tables follow their rules; wrong requests and wrong files are named."""

import pytest
from corpora import block, pascal

from ttilib.datasets.catalog import read_fold, read_table
from ttilib.files import write_json


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

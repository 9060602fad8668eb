"""Class tables follow their rules; wrong requests are named."""

import pytest
from corpora import block, pascal

from ttilib.datasets.catalog import read_fold, read_table
from ttilib.files import write_json


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


def test_wrong_requests_are_named(tmp_path):
    root = pascal(tmp_path / "voc", {"v": block(1, 0, 0, 5, 5)}, val=("v",))
    for kind, word, arguments in (
        (ValueError, "folds 0 to 3", ("pascal", 4, root)),
        (ValueError, "'voc'", ("voc", 0, root)),
        (FileNotFoundError, "is a file", ("pascal", 0, root / "train.txt")),
        (FileNotFoundError, "absent", ("ytvis", 0, tmp_path / "absent")),
        (FileNotFoundError, "train.json", ("ytvis", 0, root, read_table("ytvis"))),
        (ValueError, "read_benchmark", ("minivspw", 0, root)),
    ):
        with pytest.raises(kind, match=word):
            read_fold(*arguments)
    for content, word in (
        ({"novel": [[1]]}, "classes"),
        ({"classes": {"1": "a"}, "novel": [[1, 2]]}, r"\[2\]"),
        ({"classes": {"1": "a"}, "novel": [[1]], "base": [[1]]}, r"\[1\]"),
    ):
        write_json(root / "lists.json", content)
        with pytest.raises(ValueError, match=word):
            read_fold("pascal", 0, root)
    with pytest.raises(ValueError, match="novel_block"):
        read_table("pascal", novel="novel_block")

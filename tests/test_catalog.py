"""Class tables follow their rules; wrong requests and wrong files are named."""

import copy
import json
import os

import pytest
from coco_corpus import box, coco, instance
from corpora import block, minivspw, pascal, vspw, ytvis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ttilib.datasets import masks
from ttilib.datasets.catalog import read_fold, read_table
from ttilib.datasets.coco import make_masks
from ttilib.datasets.masks import census
from ttilib.datasets.vspw import minivspw_table
from ttilib.files import write_json


def test_tables_follow_their_rules():
    for corpus, classes in (("ytvis", 40), ("pascal", 20), ("davis", 20)):
        table = read_table(corpus)
        assert sorted(table["classes"]) == list(range(1, classes + 1))
        for fold, ids in enumerate(table["novel"]):
            every_fourth, block_of_five = range(fold + 1, 41, 4), range(5 * fold + 1, 5 * fold + 6)
            assert ids == list(every_fourth if corpus == "ytvis" else block_of_five)
    assert [read_table("ytvis")["classes"][n] for n in (1, 2, 39, 40)] == [
        "person", "giant_panda", "earless_seal", "tennis_racket",
    ]  # fmt: skip
    assert [read_table("pascal")["classes"][n] for n in (1, 7, 8, 20)] == ["aeroplane", "car", "cat", "tvmonitor"]


def test_vspw_table_divides_the_25_classes_in_every_fold():
    table = read_table("vspw")
    assert len(table["classes"]) == 25 and table["repeats"] == [10, 10, 1, 10]
    for base, validation, novel in zip(table["base"], table["validation"], table["novel"], strict=True):
        assert (len(base), len(validation), len(novel)) == (15, 5, 5)
        assert sorted(base + validation + novel) == sorted(table["classes"])
    assert table["base"][0][:3] == [50, 49, 62] and table["novel"][2] == [63, 64, 53, 61, 90]
    assert table["classes"][41] == "billboard_or_Bulletin_Board" and table["classes"][124] == "train"
    assert len(set(table["pascal_to_vspw"]["ignored"])) == 19
    assert set(table["pascal_to_vspw"]["names"].values()) <= set(read_table("pascal")["classes"].values())


def test_wrong_requests_are_named(tmp_path):
    root = pascal(tmp_path / "voc", {"v": block(1, 0, 0, 5, 5)}, val=("v",))
    for kind, word, arguments in (
        (ValueError, "folds 0 to 3", ("pascal", 4, root)),
        (ValueError, "'voc'", ("voc", 0, root)),
        (FileNotFoundError, "is a file", ("pascal", 0, root / "train.txt")),
        (FileNotFoundError, "absent", ("ytvis", 0, tmp_path / "absent")),
        (ValueError, "read_benchmark", ("minivspw", 0, root)),
    ):
        with pytest.raises(kind, match=word):
            read_fold(*arguments)
    for content, word in (
        ({"novel": [[1]]}, "classes"),
        ({"classes": {"1": "a"}, "novel": [[1, 2]]}, r"\[2\]"),
        ({"classes": {"1": "a"}, "novel": [[1]], "base": [[1]]}, r"\[1\]"),
        ({"classes": {"1": "a"}, "novel": [[1]], "base": [[7]]}, r"base .*\[7\]"),
        ({"classes": {"1": "a"}, "novel": [[1], []], "repeats": [1]}, "repeats"),
        ({"classes": {"255": "a"}, "novel": [[]]}, "254"),
        ({"classes": {"1": "../a"}, "novel": [[1]]}, "classes"),
    ):
        write_json(root / "lists.json", content)
        with pytest.raises(ValueError, match=word):
            read_fold("pascal", 0, root)
    with pytest.raises(ValueError, match="novel_block"):
        read_table("pascal", novel="novel_block")


# Random changes of every JSON file -----------------------------------------------------------------------------------

VALUES = [None, 5, -1, 2.5, "x", "", [], {}, [None], [[1]], True, 10**30, 1e308, "\0", 2**40, "../..", [[[1, 2]]]]


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    """A file of each format, and what reads all of it."""
    top = tmp_path_factory.mktemp("formats")
    videos = ytvis(top / "y", {"aa": [[1], [1, 3]], "bb": [[2], [2]]})
    stills = pascal(top / "p", {"v": block(1, 0, 0, 6, 6), "w": block(2, 0, 0, 6, 6)}, ("v",))
    scenes = vspw(top / "v", {"a": [block(41, 0, 0, 6, 6)], "b": [block(53, 0, 0, 6, 6)]}, ("b",))
    names = minivspw(top / "m", {"x": [block(49, 0, 0, 6, 6)]}, {"dog": "63", "car": "49"})
    drawn = coco(top / "c", {"val": [instance(1, 4, 7, [box(0, 0, 4, 4)])]}, {"val": [4]})
    paths = sorted((stills / "SegmentationClassAug").iterdir())
    census(paths, cached=stills / "lists" / "census.json", save=True)
    return [
        (videos / "train" / "train.json", lambda report: read_fold("ytvis", 0, videos, on_error=report)),
        (videos / "lists.json", lambda report: read_fold("ytvis", 0, videos, on_error=report)),
        (stills / "lists" / "census.json", lambda report: read_fold("pascal", 0, stills, on_error=report)),
        (scenes / "lists.json", lambda report: read_fold("vspw", 0, scenes, on_error=report)),
        (names / "label_num_dic_final.json", lambda _: minivspw_table(names, read_table("pascal"))),
        (drawn / "annotations" / "instances_val2014.json", lambda report: make_masks(drawn, on_error=report)),
    ]


def places(value, path=()):
    """Every place inside a JSON value."""
    if path:
        yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else ())
    for key, inner in inside:
        yield from places(inner, (*path, key))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_change_of_a_file_is_accepted_or_named_in_one_sentence(readers, monkeypatch, data):
    path, read = data.draw(st.sampled_from(readers))
    content = path.read_bytes()
    changed = copy.deepcopy(json.loads(content))
    *way, last = data.draw(st.sampled_from(list(places(changed))))
    holder = changed
    for key in way:
        holder = holder[key]
    if data.draw(st.booleans()):
        holder[last] = data.draw(st.sampled_from(VALUES))
    else:
        del holder[last]
    text, problems = json.dumps(changed), []
    path.write_text(data.draw(st.sampled_from([text, text, text, text[: len(text) // 2], "[" * 10**5])))
    os.utime(path, ns=(1, data.draw(st.integers(1, 10**15))))
    monkeypatch.setattr(masks, "_counted", {})
    try:
        read(problems.append)
    except (ValueError, FileNotFoundError) as error:
        problems.append(error)
    finally:
        path.write_bytes(content)
    for problem in map(str, problems):
        assert "\n" not in problem and problem.startswith((str(path.parent), "ytvis", "vspw", "COCO")), problem

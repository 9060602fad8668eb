"""What can be drawn and what training has seen is counted right and called by its name."""

from dataclasses import replace

import pytest
from folds import fold, sequence_fold, stills_fold

from ttilib.datasets.catalog import Fold, read_table
from ttilib.episodes.sampling import Sample
from ttilib.tools.doctor_checks import check_coverage, check_draws, check_leakage, check_names


def severities(findings):
    return [finding.severity for finding in findings]


# Coverage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shots", "errors"), [((1,), 0), ((6,), 0), ((7,), 2), ((1, 7, 9), 2)])
@pytest.mark.parametrize("draws", ["v1", "v2"])
def test_a_class_needs_a_video_more_than_shots(draws, shots, errors):
    query = fold(videos=7)
    findings = list(check_coverage(query, query, draws, shots))
    assert severities(findings) == ["error"] * errors
    if errors:
        assert findings[0].file == "ytvis fold 0"
        assert findings[0].found == "class 1 kind_1 is in 7 videos, 7-shot episodes need 8"
        assert "fewer shots" in findings[0].mend


def test_a_class_in_no_video_stops_draws_that_go_through_the_classes():
    query = fold(shows={1: ["v0", "v1"], 5: []})
    (finding,) = check_coverage(query, query, "v1", (1,))
    assert finding.severity == "error" and "class 5 kind_5 is in 0 videos" in finding.found


def test_a_class_in_no_video_is_never_met_by_draws_that_go_through_the_videos():
    query = stills_fold({"a": (1,), "b": (1,)}, {1: ["a", "b"], 2: []})
    (finding,) = check_coverage(query, query, "stills", (1,))
    assert finding.severity == "warning" and "class 2 kind_2 is in no images" in finding.found
    assert severities(check_coverage(query, query, "stills", (2,))) == ["error", "warning"]


def test_sequences_need_one_other_video_whatever_the_shots():
    query = sequence_fold({"a": [(1, 5)], "b": [(1,)]})
    (finding,) = check_coverage(query, query, "sequences", (1, 5, 10))
    assert finding.severity == "error"
    assert finding.found == "class 5 kind_5 is in 1 video, 1-shot episodes need 2"


def test_support_of_another_corpus_is_counted_there_and_matched_by_name():
    query = sequence_fold({"a": [(1,)], "b": [(5,)]}, "davis", names={1: "cat", 5: "dog"})
    support = replace(stills_fold({}, {1: ["a", "b", "c"], 3: ["d"]}), names={1: "dog", 3: "cat", 9: "sky"})
    assert list(check_coverage(query, support, "cross", (1,))) == []
    (finding,) = check_coverage(query, support, "cross", (1, 2, 3))
    assert finding.severity == "error"
    assert finding.found == "class 1 cat is in 1 image, 2-shot episodes need 2"
    absent = replace(query, presence={1: query.presence[1], 5: {}})
    (note,) = check_coverage(absent, support, "frames", (1,))
    assert note.severity == "note" and "class 5 dog is in no videos" in note.found
    (note,) = check_coverage(query, replace(support, novel=(1,)), "cross", (1,))
    assert note.severity == "note" and "class 1 cat is none of the novel classes of pascal" in note.found


# Leakage -----------------------------------------------------------------------------------------------------------


def trained(train, val, corpus="ytvis", novel=(1,), names=None):
    """Class 1 is novel and in a, b; class 2 is base and in a, c, d."""
    frames = {video: (f"{video}/0",) for video in "abcd"}
    presence = {1: {v: frames[v] for v in "ab"}, 2: {v: frames[v] for v in "acd"}}
    return Fold(corpus, 3, names or {1: "cat", 2: "dog"}, (2,), novel, frames, presence, tuple(train), tuple(val))


SHOWS = {"a": {1, 2}, "b": {0, 1}, "c": {2, 255}, "d": {2}}


def test_novel_objects_in_base_training_are_counted():
    objects, shared = check_leakage(trained("aac", "d"), SHOWS, ignored=False)
    assert (objects.severity, objects.file) == ("warning", "ytvis fold 3")
    assert objects.found.startswith("1 of 2 videos of base training and 0 of 1 of its validation contain novel objects")
    assert objects.found.endswith("as background") and "release" in objects.mend
    assert shared.severity == "warning" and shared.found.startswith("1 of 2 videos of the episodes are in base")


def test_novel_objects_that_training_ignores_are_only_noted():
    objects, shared = check_leakage(trained("ac", "d"), SHOWS, ignored=True)
    assert objects.severity == "note" and objects.found.endswith("which are ignored")
    assert shared.severity == "warning"


def test_objects_that_no_list_names_are_seen_all_the_same():
    fold_ = trained("cd", "")
    assert list(check_leakage(fold_, SHOWS, False)) == []
    (finding,) = check_leakage(fold_, {**SHOWS, "d": {1, 2}}, False)
    assert finding.found.startswith("1 of 2 videos of base training and 0 of 0")


def test_a_video_that_is_trained_and_validated_on_is_an_error():
    errors = [f for f in check_leakage(trained("acd", "cd"), SHOWS, True) if f.severity == "error"]
    assert [error.found for error in errors] == ["2 videos both trained and validated on, first c"]
    assert "train.txt" in errors[0].mend


def test_a_query_video_that_is_also_validated_on_counts_as_validation():
    findings = list(check_leakage(trained("ab", "a"), SHOWS, True))
    assert [f.found[:22] for f in findings if "of the episodes" in f.found] == ["1 of 2 videos of the e"]


def test_a_novel_class_under_the_name_of_a_base_class_is_an_error():
    fold_ = trained("", "", names={1: "dog", 2: "dog"})
    (finding,) = check_leakage(fold_, {}, True)
    assert finding.severity == "error" and finding.found == "novel class 1 dog is base class 2 as well"


def test_nothing_trained_is_nothing_leaked():
    assert list(check_leakage(trained("", ""), SHOWS, False)) == []


# Draws and names ---------------------------------------------------------------------------------------------------


def test_draws_are_said_aloud():
    query = trained("", "")
    pool, dcl = check_draws(query, query, "v1")
    assert "the same 2 videos; a query never" in pool.found and "2 videos of the novel classes, without" in dcl.found
    assert pool.severity == dcl.severity == "note" and "more than once" in next(check_draws(query, query, "v2")).found
    assert list(check_draws(query, trained("", "", "pascal"), "cross")) == []
    stills = stills_fold({"a": (1,)}, {1: ["a", "b"]})
    (note,) = check_draws(stills, stills, "stills")
    assert "the same 2 images" in note.found


def test_a_query_that_supports_itself_is_an_error():
    query = trained("", "")
    good, bad = Sample(1, ("b/0",), ("a/0", "a/1")), Sample(1, ("b/0", "a/5"), ("a/0",))
    findings = [f for f in check_draws(query, query, "v1", [good, bad, bad]) if f.severity == "error"]
    assert [finding.found for finding in findings] == ["a is support and query of one episode"]


def test_the_exchanged_names_of_coco_to_pascal_are_found_and_nothing_else():
    coco, found = read_table("coco"), {}
    for key in ("novel_coco2pascal", "novel_coco2pascal_mended"):
        table = read_table("pascal", novel=key)
        for k, novel in enumerate(table["novel"]):
            base = {name for number, name in coco["classes"].items() if number not in coco["novel"][k]}
            query = Fold("pascal", k, table["classes"], (), tuple(novel), {}, {}, (), ())
            for finding in check_names(query, "coco", base):
                assert finding.severity == "warning" and "mended" in finding.mend
                found.setdefault(key, []).append((finding.file, finding.found.split(" is ")[0]))
    assert found == {
        "novel_coco2pascal": [("pascal fold 2", "novel class 8 cat"), ("pascal fold 3", "novel class 7 car")]
    }


def test_words_that_only_coco_uses_are_known():
    query = Fold("pascal", 0, {18: "sofa", 20: "tvmonitor"}, (), (18, 20), {}, {}, (), ())
    assert len(list(check_names(query, "coco", {"couch", "tv"}))) == 2
    assert list(check_names(query, "coco", {"chair"})) == []

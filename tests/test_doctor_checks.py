"""One function per kind of defect: intact files and complete folds give no finding, each defect gives one."""

from dataclasses import replace

import numpy as np
import pytest
from corpora import HEIGHT, WIDTH, block, broken_png, palette_png, picture, ytvis
from folds import fold, sequence_fold, stills_fold

from ttilib.datasets.base import FrameFiles
from ttilib.datasets.catalog import Fold, read_table
from ttilib.datasets.youtube_vis import ytvis_index
from ttilib.episodes.sampling import Sample
from ttilib.files import read_json, write_json, write_text
from ttilib.images import write_image, write_labels
from ttilib.tools import doctor_checks
from ttilib.tools.doctor_checks import (
    check_coverage,
    check_draws,
    check_flow,
    check_frame,
    check_frames,
    check_labels,
    check_leakage,
    check_names,
    check_ytvis,
    finding_of,
)


@pytest.mark.parametrize(
    ("error", "file", "found", "fix"),
    [
        (ValueError("a/b.png: two; things are wrong; copy it again"), "a/b.png", "two; things are wrong", "copy it"),
        (ValueError("a.txt, line 3: found 'x: y'; expected one id"), "a.txt, line 3", "found 'x: y'", "expected one"),
        (ValueError("only words"), "ROOT", "only words", "check"),
        (PermissionError(13, "Permission denied", "c.json"), "c.json", "permission denied", "can be read"),
        (KeyError("height"), "ROOT", "unexpected form (KeyError: 'height')", "fetch"),
    ],
)
def test_an_error_becomes_a_finding(error, file, found, fix):
    finding = finding_of(error, "ROOT")
    assert (finding.severity, finding.file, finding.found) == ("error", file, found) and fix in finding.fix


# An image and its mask --------------------------------------------------------------------------------------------


@pytest.fixture
def frame(tmp_path):
    """An image and a mask of 18 x 32 pixels, both intact."""
    write_image(tmp_path / "a.jpg", picture(1))
    write_labels(tmp_path / "a.png", block(3, 2, 2, 5, 5))
    return FrameFiles(tmp_path / "a.jpg", tmp_path / "a.png", (HEIGHT, WIDTH))


def cut(path, spoil):
    path.write_bytes(spoil(path.read_bytes()))


@pytest.mark.parametrize("thorough", [False, True])
def test_intact_files_have_no_finding(frame, thorough):
    assert check_frame(frame, thorough) == [] and check_frame(FrameFiles(frame[0]), thorough) == []
    cut(frame[0], lambda data: data + b"\0\0a phone's note")  # no end mark, but it can be decoded
    palette_png(frame[1], block(3, 2, 2, 5, 5))
    assert check_frame(frame, thorough) == []


@pytest.mark.parametrize("thorough", [False, True])
@pytest.mark.parametrize(
    ("spoil", "file", "found"),
    [
        (lambda image, mask: image.unlink(), "a.jpg", "its mask exists"),
        (lambda image, mask: mask.unlink(), "a.png", "its image exists"),
        (lambda image, mask: broken_png(mask, "empty"), "a.png", "empty"),
        (lambda image, mask: cut(image, lambda data: data[:-1]), "a.jpg", "truncated"),
        (lambda image, mask: broken_png(image, "not an image"), "a.jpg", "not an image"),
        (lambda image, mask: write_labels(mask, np.zeros((HEIGHT, WIDTH - 1), np.uint8)), "a.jpg",
         "18 x 32 pixels, mask 18 x 31"),
    ],
)  # fmt: skip
def test_one_damaged_file_gives_one_error(frame, spoil, file, found, thorough):
    spoil(*frame[:2])
    (finding,) = check_frame(frame, thorough)
    assert finding.severity == "error" and finding.file.endswith(file) and found in finding.found


def test_several_defects_of_a_frame(frame):
    write_image(frame[0], picture(1, WIDTH, HEIGHT))
    first, second = check_frame(frame)
    assert "32 x 18 pixels, annotations 18 x 32" in first.found and "32 x 18 pixels, mask 18 x 32" in second.found
    frame[0].unlink()
    frame[1].unlink()
    assert ["listed" in finding.found for finding in check_frame(frame)] == [True, True]


def test_only_a_thorough_check_decodes(frame):
    cut(frame[0], lambda data: data[: data.index(b"\xff\xda")] + b"\xff\xd9")
    assert check_frame(frame) == [] and len(check_frame(frame, thorough=True)) == 1


def test_frames_are_checked_in_order_by_any_number_of_processes(tmp_path, monkeypatch):
    frames = [FrameFiles(tmp_path / f"{n}.jpg", tmp_path / f"{n}.png") for n in range(12)]
    for number, (image, mask, *_) in enumerate(frames):
        write_image(image, picture(number))
        write_labels(mask, block(3, 2, 2, 5, 5))
    broken_png(frames[2][0], "cut off")
    broken_png(frames[6][1], "empty")
    alone = list(check_frames(frames, "files"))
    assert [len(findings) for findings in alone] == [n in (2, 6) for n in range(12)]
    monkeypatch.setattr(doctor_checks, "VERY_MANY", 11)
    assert list(check_frames(frames, "files", workers=2)) == alone


def test_labels_of_a_mask(tmp_path):
    path = tmp_path / "m.png"
    assert list(check_labels(path, {0: 5, 7: 3, 255: 1}, {0, 7, 255}, (255,))) == []
    (strange,) = check_labels(path, {0: 10, **{label: 2 for label in range(30, 40)}}, {0, 1, 2}, (255,), "warning")
    assert strange.severity == "warning" and strange.found.startswith("labels 30, 31, 32, 33, 34, 35, ... (20 pixels)")
    (ignored,) = check_labels(path, {255: 576}, {0, 7, 255}, (255,))
    assert ignored.severity == "warning" and "only ignored pixels" in ignored.found


def test_flow_may_be_missing_at_one_end_and_nowhere_else(tmp_path):
    frames = {name: ["1", "2", "3"] for name in ("whole", "end", "start", "hole")} | {"none": ["1", "2"]}
    for name, numbers in {"whole": "123", "end": "12", "start": "23", "hole": "13", "none": ""}.items():
        for number in numbers:
            write_text(tmp_path / name / "flow" / f"{number}.pkl.pkl", "")
    hole, none, note = check_flow(tmp_path, frames)
    assert (hole.severity, hole.file) == ("warning", str(tmp_path / "hole" / "flow"))
    assert hole.found.startswith("1 of 3 frames have no flow, first 2") and none.found.startswith("2 of 2 frames")
    assert note.severity == "note" and note.found.startswith("2 of 5 sequences")


# YouTube-VIS -------------------------------------------------------------------------------------------------------


def test_objects_of_youtube_vis(tmp_path):
    path = ytvis(tmp_path, {"aa": [[1], [1, 2]], "bb": [[2], []]}) / "train" / "train.json"
    assert list(check_ytvis(ytvis_index(tmp_path), expected=2)) == []
    content = read_json(path)
    content["annotations"][1]["segmentations"] = [None, []]
    write_json(path, content)
    number, track = check_ytvis(ytvis_index(tmp_path), expected=3)
    assert number.severity == track.severity == "warning" and number.found.startswith("2 usable videos")
    assert "annotation 2 of video aa" in track.found


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
    assert objects.found.endswith("as background") and "release" in objects.fix
    noted, _ = check_leakage(trained("aac", "d"), SHOWS, ignored=True)
    assert noted.severity == "note" and "ignored" in noted.found
    assert shared.severity == "warning" and shared.found.startswith("1 of 2 videos of the episodes are in base")


def test_a_video_that_is_trained_and_validated_on_is_an_error():
    errors = [f for f in check_leakage(trained("acd", "cd"), SHOWS, True) if f.severity == "error"]
    assert [error.found for error in errors] == ["2 videos in both training and validation, first c"]
    assert "train.txt" in errors[0].fix


def test_a_query_video_that_is_also_validated_on_counts_as_validation():
    findings = list(check_leakage(trained("ab", "a"), SHOWS, True))
    assert [f.found[:22] for f in findings if "of the episodes" in f.found] == ["1 of 2 videos of the e"]


def test_a_novel_class_under_the_name_of_a_base_class_is_an_error():
    fold_ = trained("", "", names={1: "dog", 2: "dog"})
    (finding,) = check_leakage(fold_, {}, True)
    assert finding.severity == "error" and finding.found == "novel class 1 dog is base class 2 as well"


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
                assert finding.severity == "warning" and "mended" in finding.fix
                found.setdefault(key, []).append((finding.file, finding.found.split(" is ")[0]))
    assert found == {
        "novel_coco2pascal": [("pascal fold 2", "novel class 8 cat"), ("pascal fold 3", "novel class 7 car")]
    }

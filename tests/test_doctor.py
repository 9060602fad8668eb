"""The report of a benchmark: complete data is ready, every planted defect is found, and counts are right."""

import json
import shutil

import numpy as np
import pytest
from coco_corpus import box, coco, instance
from coco_corpus import name as coco_name
from corpora import block, broken_png, davis, davis_2016, davis_2017, flow, minivspw, pascal, rewrite, vspw, ytvis

from ttilib.datasets.catalog import DATASETS, TABLES
from ttilib.datasets.coco import make_masks
from ttilib.episodes.benchmarks import BENCHMARKS, read_benchmark
from ttilib.files import read_json, write_json, write_text
from ttilib.images import write_labels
from ttilib.synthetic import generate
from ttilib.tools.doctor import Report, examine, write_report
from ttilib.tools.doctor_checks import Finding

ONE = {"folds": (0,), "shots": (1,)}


def of(report, severity):
    return [finding for finding in report.findings if finding.severity == severity]


def errors(report):
    """(file name, found) of every error."""
    return [(finding.file.rsplit("/", 1)[-1], finding.found) for finding in of(report, "error")]


# Whole data --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mini(tmp_path_factory):
    """The synthetic dataset in small."""
    root = tmp_path_factory.mktemp("data") / "mini"
    return generate(root, classes=4, videos_per_class=2, frames=(2, 3), stills_per_class=(1, 2), workers=1)


@pytest.mark.parametrize("name", ["pascal", "ytvis-v1", "ytvis-v2", "pascal2minivspw"])
def test_whole_data_is_ready(mini, name):
    report = examine(name, mini, shots=(1,), thorough=True)
    assert report.ok and errors(report) == []
    assert all("release" in finding.fix for finding in of(report, "warning"))
    assert list(report.folds) == ["0", "1", "2", "3"] and f"{name}: ready (0 errors" in report.text()
    for fold, counts in report.folds.items():
        data = read_benchmark(name, int(fold), mini)
        novel = [row for row in counts["classes"] if row["part"] == "novel"]
        assert [row["id"] for row in novel] == list(data.query.novel)
        assert [row["videos"] for row in novel] == [len(data.query.presence[c]) for c in data.query.novel]
        assert counts["episodes"]["1"] > 0 and counts["queries"] > 0 and counts["training"] > 0


def four(**more):
    labels = {name: block(1, 2, 2, 6, 6) for name in "abc"} | {"t": block(3, 2, 2, 6, 6), "u": block(2, 2, 2, 6, 6)}
    return {**labels, **more}


def stills(root):
    return pascal(root, four(), val=("a", "b", "c"))


def test_counts_are_those_that_one_can_count(tmp_path):
    both = block(1, 0, 0, 6, 6) + block(2, 10, 10, 5, 5)
    pascal(tmp_path, four(both=both), val=("a", "b", "c"))
    report = examine("pascal", tmp_path, **ONE)
    assert report.ok and report.files == {"images": 6, "masks": 6} and report.roots == {"pascal": str(tmp_path)}
    counts = report.folds["0"]
    assert (counts["training"], counts["validation"], counts["queries"]) == (3, 0, 3)
    assert counts["episodes"] == {"1": 1000}
    one, two, three, _ = counts["classes"]
    assert one == {"id": 1, "name": "kind_1", "part": "novel", "videos": 3, "frames": 3}
    assert two == {"id": 2, "name": "kind_2", "part": "base", "videos": 2, "frames": 2, "training": 2, "validation": 0}
    assert three["training"] == 1
    (leak, pool) = of(report, "note")
    assert leak.found.startswith("1 of 3 images of base training and 0 of 0 of its validation")
    assert "the same 3 images" in pool.found


def test_support_of_another_corpus_is_counted_too(tmp_path):
    stills(tmp_path / "pascal")
    davis(tmp_path / "davis", {"s": [block(7, 2, 2, 6, 6)] * 2})
    write_json(tmp_path / "davis" / "lists.json", {"classes": {"4": "kind_2", "7": "kind_1"}, "novel": [[4, 7]]})
    report = examine("pascal2davis", tmp_path, **ONE)
    assert report.ok and report.files == {"images": 7, "masks": 7}
    row = report.folds["0"]["classes"][1]  # ids differ, classes are matched by name
    assert row == {"id": 7, "name": "kind_1", "part": "novel", "videos": 1, "frames": 2, "support": 3}
    assert "kind_1 1 (support: 3)" in report.text()
    assert any("class 4 kind_2 is none of the novel classes" in f.found for f in of(report, "note"))


# Planted defects ---------------------------------------------------------------------------------------------------


def append(path, line):
    path.write_text(path.read_text() + line + "\n")


PASCAL = {
    "mask missing": (lambda r: (r / "SegmentationClassAug" / "b.png").unlink(), "b.png", "though its image", "copy"),
    "unknown label": (lambda r: write_labels(r / "SegmentationClassAug" / "c.png", block(9, 2, 2, 6, 6)), "c.png",
                      "labels 9 (36 pixels)", "class ids"),
    "list line": (lambda r: append(r / "train.txt", "JPEGImages/x.jpg"), "train.txt, line 3", "found 'JPEG", "fields"),
    "listed, not there": (lambda r: append(r / "val.txt", "JPEGImages/x.jpg SegmentationClassAug/x.png"), "x.jpg",
                          "no such image, though it is listed", "fix the list"),
    "no queries": (lambda r: write_text(r / "val.txt", ""), "pascal fold 0", "no episode can be drawn", "lists"),
    "trained and asked": (lambda r: append(r / "val.txt", "JPEGImages/t.jpg SegmentationClassAug/t.png"),
                          "pascal fold 0", "1 image in both training and validation, first t", "train.txt"),
    "class table": (lambda r: (r / "lists.json").write_text("{"), "lists.json", "not valid JSON", "again"),
    "class table of lists": (lambda r: write_json(r / "lists.json", {"classes": [1], "novel": [[1]]}),
                             "lists.json", "expected object", "correct"),
}  # fmt: skip


@pytest.mark.parametrize("defect", PASCAL)
def test_each_defect_of_stills_is_found(tmp_path, defect):
    stills(tmp_path)
    assert examine("pascal", tmp_path, **ONE).ok
    spoil, file, found, fix = PASCAL[defect]
    spoil(tmp_path)
    report = examine("pascal", tmp_path, **ONE)
    assert not report.ok
    hits = [f for f in of(report, "error") if found in f.found and f.file.endswith(file or "")]
    assert len(hits) == 1 and fix in hits[0].fix
    assert len(errors(report)) == (2 if defect == "listed, not there" else 1), errors(report)


def videos(root):
    shows = {f"v{n}": [[1], [1, 2]] for n in range(3)} | {"w": [[2], []]}
    return ytvis(root, shows)


RLE = {"size": [5, 5], "counts": [25]}
YTVIS = {
    "image missing": (lambda r: (r / "train/JPEGImages/v0/00000.jpg").unlink(), "00000.jpg", "no such image"),
    "broken JSON": (lambda r: (r / "train/train.json").write_text('{"videos": ['), "train.json", "not valid JSON"),
    "another form": (lambda r: rewrite(r, lambda c: c.pop("videos")), "train.json", "videos"),
    "number of outlines": (lambda r: rewrite(r, lambda c: c["annotations"][0]["segmentations"].pop()), "train.json",
                           "annotation 1 has 1 segmentations"),
    "outline of another size": (lambda r: rewrite(r, lambda c: c["annotations"][0].update(segmentations=[RLE, None])),
                                "train.json", "size is [5, 5]"),
    "another edition": (lambda r: rewrite(r, lambda c: c["categories"][4].update(name="cup")), "train.json",
                        "category 5 is 'cup', the class table says 'kind_5'"),
}  # fmt: skip


@pytest.mark.parametrize("defect", YTVIS)
def test_each_defect_of_videos_is_found(tmp_path, defect):
    videos(tmp_path)
    assert errors(examine("ytvis-v1", tmp_path, folds=(1,), shots=(1,))) == []
    spoil, file, found = YTVIS[defect]
    spoil(tmp_path)
    report = examine("ytvis-v1", tmp_path, folds=(1,), shots=(1,))
    ((named, text),) = errors(report)
    assert named == file and found in text and not report.ok


def test_a_track_in_no_frame_and_leaking_videos_are_warned_of(tmp_path):
    rewrite(videos(tmp_path), lambda c: c["annotations"][-1].update(segmentations=[None, None]))
    report = examine("ytvis-v1", tmp_path, folds=(1,), shots=(1,))
    track, objects, shared = of(report, "warning")
    assert "annotation 7 of video w is in no frame" in track.found
    assert objects.found.startswith("2 of 2 videos of base training and 1 of 1 of its validation contain novel objects")
    assert shared.found.startswith("2 of 3 videos of the episodes are in base training")
    assert any("DCL" in finding.found and "3 videos" in finding.found for finding in of(report, "note"))


def test_a_video_that_is_trained_on_for_several_classes_counts_once(tmp_path):
    ytvis(tmp_path, {f"v{n}": [[1, 2, 3]] for n in range(3)})
    counts = examine("ytvis-v1", tmp_path, folds=(1,), shots=(1,)).folds["1"]
    data = read_benchmark("ytvis-v1", 1, tmp_path)
    assert len(data.query.train) > counts["training"] == len(set(data.query.train)) == 2
    assert counts["validation"] == 1 and counts["queries"] == 3


def test_shots_that_cannot_be_drawn_are_an_error_and_the_others_are_counted(tmp_path):
    report = examine("ytvis-v2", videos(tmp_path), folds=(0, 1), shots=(1, 3))
    assert report.folds["1"]["episodes"] == {"1": 3, "3": 1}
    assert [found for _, found in errors(report)] == [
        "class 1 kind_1 is in 3 videos, 3-shot episodes need 4",
        "class 5 kind_5 is in 0 videos, 1-shot episodes need 2",
    ]


def sequences(root):
    masks = {name: [block(41, 0, 0, 6, 6), block(45, 0, 0, 6, 6)] for name in ("p", "q", "r")}
    return vspw(root, {**masks, "t": [block(53, 0, 0, 6, 6)] * 3}, train=("t",))


VSPW = {
    "image empty": (lambda r: broken_png(r / "data/p/origin/8.jpg", "empty"), "error", "8.jpg", "0 bytes"),
    "strange label": (lambda r: write_labels(r / "data/t/mask/9.png", block(252, 0, 0, 2, 2) + block(53, 9, 9, 6, 6)),
                      "warning", "9.png", "labels 252 (4 pixels)"),
    "no list to train": (lambda r: (r / "train.txt").unlink(), "warning", "train.txt", "nothing to train on"),
    "listed, not there": (lambda r: append(r / "val.txt", "zz"), "error", "origin", "no .jpg files of zz"),
    "in both lists": (lambda r: append(r / "val.txt", "t"), "error", "vspw fold 0", "1 video in both training and"),
    "leak": (lambda r: write_labels(r / "data/t/mask/9.png", block(41, 0, 0, 6, 6)), "warning", "vspw fold 0",
             "1 of 1 videos of base training and 0 of 0 of its validation contain novel objects, as background"),
}  # fmt: skip


@pytest.mark.parametrize("defect", VSPW)
def test_each_defect_of_sequences_is_found(tmp_path, defect):
    sequences(tmp_path)
    report = examine("minivspw", tmp_path, **ONE)
    assert report.ok and not of(report, "warning")
    spoil, severity, file, found = VSPW[defect]
    spoil(tmp_path)
    report = examine("minivspw", tmp_path, **ONE)
    (finding,) = of(report, severity)
    assert finding.file.endswith(file) and found in finding.found and report.ok == (severity != "error")


def test_sequences_of_no_list_are_looked_at_if_they_are_asked_about(tmp_path):
    broken_png(sequences(tmp_path) / "data/q/origin/9.jpg", "cut off")
    write_text(tmp_path / "val.txt", "p\nr\n")
    assert examine("minivspw", tmp_path, **ONE).files == {"images": 7, "masks": 7}
    (tmp_path / "val.txt").unlink()
    report = examine("minivspw", tmp_path, **ONE)
    assert [file for file, _ in errors(report)] == ["9.jpg"] and report.files == {"images": 9, "masks": 9}
    (warning,) = of(report, "warning")
    assert warning.file.endswith("val.txt") and "is a query" in warning.found


def mixed(root):
    """Pascal and MiniVSPW side by side, class 49 car being novel in both."""
    stills(root / "pascal")
    table = read_json(root / "pascal" / "lists.json")
    write_json(root / "pascal" / "lists.json", {**table, "classes": {**table["classes"], "1": "car"}})
    masks = {"s": [block(49, 0, 0, 6, 6)] * 3, "r": [block(49, 0, 0, 6, 6)] * 3}
    return minivspw(root / "minivspw", masks, {"wall": "1", "car": "49"})


def test_flow_is_asked_for_where_there_is_any(tmp_path):
    root = mixed(tmp_path)
    report = examine("pascal2minivspw", tmp_path, **ONE)
    (missing,) = of(report, "warning")
    assert report.ok and "flow" in missing.file and "no frame is left out" in missing.found
    flow(root, {"s": [8, 9], "r": [8, 10]})
    report = examine("pascal2minivspw", tmp_path, **ONE)
    (hole,) = of(report, "warning")
    assert hole.file.endswith("r/flow") and "1 of 3 frames have no flow, first 9" in hole.found
    assert any("1 of 2 sequences" in finding.found for finding in of(report, "note"))
    shutil.copytree(root / "data" / "s", root / "data" / "1146_lps8_r-6J00")  # a sequence that the release ignores
    shutil.rmtree(root / "data" / "1146_lps8_r-6J00" / "flow")
    assert examine("pascal2minivspw", tmp_path, **ONE).findings == report.findings
    (root / "label_num_dic_final.json").unlink()
    report = examine("pascal2minivspw", tmp_path, **ONE)
    assert any("label_num" in f.file and "project's own table" in f.found for f in of(report, "warning"))


@pytest.mark.parametrize("make", [davis_2016, davis_2017])
def test_an_official_edition_of_davis_has_any_label(tmp_path, make):
    stills(tmp_path / "voc")
    masks = {"bus": [block(9, 2, 2, 6, 6)] * 2, "odd": [block(1, 2, 2, 6, 6)]}
    make(tmp_path / "davis", masks, "480p")
    table = {"classes": {"1": "kind_1"}, "novel": [[1]], "sequences": {"bus": "kind_1"}, "excluded": {"odd": "is odd"}}
    write_json(tmp_path / "davis" / "lists.json", table)
    broken_png(tmp_path / "davis/JPEGImages/480p/odd/8.jpg", "empty")  # of no class: nobody reads it
    report = examine("pascal2davis", tmp_path, **ONE)
    assert report.ok and report.files == {"images": 7, "masks": 7}
    broken_png(tmp_path / "davis/Annotations/480p/bus/9.png", "cut off")
    assert [file for file, _ in errors(examine("pascal2davis", tmp_path, **ONE))] == ["9.png"]


def test_coco_wants_its_masks_painted(tmp_path):
    entries = {split: [instance(n, n, 3, [box(2, 2, 12, 12)]) for n in (1, 2, 3)] for split in ("train", "val")}
    coco(tmp_path, entries, {"train": [1, 2, 3], "val": [1, 2, 3]})
    report = examine("coco", tmp_path, **ONE)
    assert [file for file, _ in errors(report)] == ["<name>.png"] * 2
    assert "python -m ttilib prepare coco --root" in report.findings[0].fix
    make_masks(tmp_path)
    report = examine("coco", tmp_path, **ONE)
    assert report.ok and report.files == {"images": 6, "masks": 6} and report.folds["0"]["queries"] == 3
    broken_png(tmp_path / "val" / f"{coco_name('val', 2)}.png", "missing")
    ((file, found),) = errors(examine("coco", tmp_path, **ONE))
    assert file == "COCO_val2014_000000000002.png" and "though its image" in found


def test_names_that_training_on_coco_has_learned_are_warned_of(tmp_path):
    pascal(tmp_path, {name: block(8, 2, 2, 9, 9) for name in "ab"}, val=("a", "b"))
    table = read_json(TABLES / "pascal.json")
    write_json(tmp_path / "lists.json", {**table, "min_pixels": 20})
    report = examine("coco2pascal", tmp_path, folds=(2,), shots=(1,))
    assert report.ok and report.folds["2"]["training"] is None and " - " in report.text()
    assert any("novel class 8 cat is a base class of coco fold 2" in f.found for f in of(report, "warning"))
    mended = examine("coco2pascal-mended", tmp_path, folds=(2,), shots=(1,))
    assert not any("base class" in finding.found for finding in mended.findings)


# Layout ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BENCHMARKS)
def test_no_data_is_one_error_with_the_expected_tree(tmp_path, name):
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "nowhere", tmp_path / "file", tmp_path):
        report = examine(name, root)
        (finding,) = report.findings
        assert finding.severity == "error" and finding.file == str(root) and not report.folds
        plan = BENCHMARKS[name]
        for corpus in (plan.query, plan.support):
            assert all(entry in finding.fix for entry in DATASETS[corpus].layout)
        assert f"{name}: not ready (1 error," in report.text()


@pytest.mark.parametrize(
    ("name", "build", "gone", "entries"),
    [
        ("pascal", stills, ["JPEGImages"], ["JPEGImages/<id>.jpg"]),
        ("pascal", stills, ["SegmentationClassAug"], ["SegmentationClassAug/<id>.png"]),
        ("ytvis-v1", videos, ["train/train.json"], ["train/train.json"]),
        ("ytvis-v2", videos, ["train/JPEGImages"], ["train/JPEGImages/<video>/<frame>.jpg"]),
        ("minivspw", sequences, [f"data/{v}/mask" for v in "pqrt"], ["data/<sequence>/mask/<frame>.png"]),
    ],
)
def test_each_missing_part_of_a_layout_is_one_error(tmp_path, name, build, gone, entries):
    build(tmp_path)
    for part in gone:
        path = tmp_path / part
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    report = examine(name, tmp_path, **ONE)
    assert len(of(report, "error")) == len(entries)
    for finding, entry in zip(of(report, "error"), entries, strict=True):
        assert finding.file.startswith(str(tmp_path / entry)) and finding.found == "no such file"
        assert str(tmp_path) in finding.fix and entry in finding.fix


# Progress, thoroughness, report -----------------------------------------------------------------------------------


def test_a_report_survives_its_file(tmp_path):
    stills(tmp_path / "p")
    broken_png(tmp_path / "p" / "JPEGImages" / "a.jpg", "cut off")
    report = examine("pascal", tmp_path / "p", **ONE)
    write_report(tmp_path / "new" / "report.json", report)
    content = json.loads((tmp_path / "new" / "report.json").read_text())
    assert content == report.as_json() and content["ok"] is False
    assert content["totals"] == {"error": 1, "warning": 0, "note": 1}
    assert [Finding(**entry) for entry in content["findings"]] == list(report.findings)
    assert content["folds"]["0"]["episodes"] == {"1": 1000} and content["benchmark"] == "pascal"
    assert content["versions"]["numpy"] == np.__version__ and content["seconds"] >= 0


def test_the_text_groups_findings_by_fix():
    findings = [Finding("error", f"file {n}", "is bad", "fetch it") for n in range(4)]
    findings.append(Finding("note", "x", "y", "z"))
    lines = Report("pascal", {}, {"images": 1}, {}, tuple(findings), 1.25, {}).text(limit=3).splitlines()
    assert "not ready (4 errors, 0 warnings, 1 note)" in lines[0] and lines.count("  to do: fetch it") == 1
    assert sum("is bad" in line for line in lines) == 3 and "    and 1 more" in lines

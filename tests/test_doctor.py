"""The report of a benchmark: complete data is ready, every planted defect is found, and counts are right."""

import shutil
from dataclasses import replace

import pytest
from coco_corpus import box, coco, instance
from coco_corpus import name as coco_name
from corpora import block, broken_png, flow, minivspw, pascal, picture, rewrite, vspw, ytvis
from folds import fold, sequence_fold, stills_fold

from ttilib.datasets.catalog import DATASETS
from ttilib.datasets.coco import make_masks
from ttilib.episodes.benchmarks import BENCHMARKS, read_benchmark
from ttilib.files import LISTS, read_json, write_json, write_text
from ttilib.images import write_image, write_labels
from ttilib.tools.doctor import examine
from ttilib.tools.doctor_checks import check_coverage

ONE = {"folds": (0,), "shots": (1,)}


def of(report, severity):
    return [finding for finding in report.findings if finding.severity == severity]


def errors(report):
    return [(finding.file.rsplit("/", 1)[-1], finding.found) for finding in of(report, "error")]


@pytest.mark.parametrize("name", ["pascal", "ytvis-v1", "pascal2minivspw"])
def test_whole_data_is_ready(mini, name):
    report = examine(name, mini, shots=(1,), thorough=name == "pascal")
    assert report.ok and errors(report) == []
    assert of(report, "warning") == [] and "to do" not in report.text()
    assert list(report.folds) == ["0", "1", "2", "3"] and f"{name}: ready (0 errors" in report.text()
    for number, counts in report.folds.items():
        data = read_benchmark(name, int(number), mini)
        novel = [row for row in counts["classes"] if row["part"] == "novel"]
        assert [row["id"] for row in novel] == list(data.query.novel)
        assert [row["videos"] for row in novel] == [len(data.query.presence[c]) for c in data.query.novel]
        assert counts["episodes"]["1"] > 0 and counts["queries"] > 0
        assert counts["training"] == len(set(data.support.train)) > 0  # each counts once


def stills(root, **more):
    labels = {name: block(1, 2, 2, 6, 6) for name in "abc"} | {"t": block(3, 2, 2, 6, 6), "u": block(2, 2, 2, 6, 6)}
    return pascal(root, {**labels, **more}, val=("a", "b", "c"))


def test_counts_are_those_that_one_can_count(tmp_path):
    stills(tmp_path, both=block(1, 0, 0, 6, 6) + block(2, 10, 10, 5, 5))
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
    assert leak.found.startswith("1 of 3 images of base training and 0 of 0") and "the same 3 images" in pool.found


def cut(path, spoil):
    path.write_bytes(spoil(path.read_bytes()))


def append(path, line):
    cut(path, lambda data: data + f"{line}\n".encode())


def videos(root):
    return ytvis(root, {f"v{n}": [[1], [1, 2]] for n in range(3)} | {"w": [[2], []]})


def sequences(root):
    masks = {name: [block(41, 0, 0, 6, 6), block(45, 0, 0, 6, 6)] for name in ("p", "q", "r")}
    return vspw(root, {**masks, "t": [block(53, 0, 0, 6, 6)] * 3}, train=("t",))


BUILD = {"pascal": (stills, 0), "ytvis-v1": (videos, 1), "minivspw": (sequences, 0)}
LEAK = "1 of 1 videos of base training and 0 of 0 of its validation contain novel objects, as background"
DEFECTS = [
    ("pascal", "error", "b.png", "though its image", lambda r: (r / "SegmentationClassAug/b.png").unlink()),
    ("pascal", "error", "a.jpg", "truncated", lambda r: cut(r / "JPEGImages/a.jpg", lambda data: data[:-1])),
    ("pascal", "error", "a.jpg", "image is 18 x 32 pixels, mask 18 x 31",
     lambda r: write_labels(r / "SegmentationClassAug/a.png", block(1, 2, 2, 6, 6, (18, 31)))),
    ("pascal", "error", "c.png", "labels 9 (36 pixels)",
     lambda r: write_labels(r / "SegmentationClassAug/c.png", block(9, 2, 2, 6, 6))),
    ("pascal", "error", "train.txt, line 3", "found 'JPEG", lambda r: append(r / "train.txt", "JPEGImages/x.jpg")),
    ("pascal", "error", "pascal fold 0", "no episode can be drawn", lambda r: write_text(r / "val.txt", "")),
    ("pascal", "error", "pascal fold 0", "1 image in both training and validation, first t",
     lambda r: append(r / "val.txt", "JPEGImages/t.jpg SegmentationClassAug/t.png")),
    ("pascal", "error", "JPEGImages/<id>.jpg", "no such file", lambda r: shutil.rmtree(r / "JPEGImages")),
    ("ytvis-v1", "error", "00000.jpg", "no such image, though it is listed",
     lambda r: (r / "train/JPEGImages/v0/00000.jpg").unlink()),
    ("ytvis-v1", "error", "00000.jpg", "32 x 18 pixels, annotations 18 x 32",
     lambda r: write_image(r / "train/JPEGImages/v0/00000.jpg", picture(1, 32, 18))),
    ("ytvis-v1", "error", "train.json", "category 5 is 'cup', the class table says 'kind_5'",
     lambda r: rewrite(r, lambda c: c["categories"][4].update(name="cup"))),
    ("minivspw", "warning", "9.png", "labels 252 (4 pixels)",
     lambda r: write_labels(r / "data/t/mask/9.png", block(252, 0, 0, 2, 2) + block(53, 9, 9, 6, 6))),
    ("minivspw", "warning", "9.png", "only ignored pixels",
     lambda r: write_labels(r / "data/t/mask/9.png", block(255, 0, 0, 18, 32))),
    ("minivspw", "warning", "train.txt", "nothing to train on", lambda r: (r / "train.txt").unlink()),
    ("minivspw", "note", "vspw fold 0", LEAK,
     lambda r: write_labels(r / "data/t/mask/9.png", block(41, 0, 0, 6, 6))),
]  # fmt: skip


@pytest.mark.parametrize(("name", "severity", "file", "found", "spoil"), DEFECTS)
def test_each_defect_is_found_and_nothing_else(tmp_path, name, severity, file, found, spoil):
    build, number = BUILD[name]
    build(tmp_path)
    before = examine(name, tmp_path, folds=(number,), shots=(1,))
    assert before.ok and not of(before, "warning")
    spoil(tmp_path)
    report = examine(name, tmp_path, folds=(number,), shots=(1,))
    (finding,) = set(of(report, severity)) - set(before.findings)
    assert finding.file.endswith(file) and found in finding.found and report.ok == (severity != "error")


def test_only_a_thorough_check_decodes(tmp_path):
    image = stills(tmp_path) / "JPEGImages/a.jpg"

    def without_code_lengths(data):
        table = data.index(b"\xff\xc4") + 5  # of the first Huffman code
        return data[:table] + b"\xff" * 16 + data[table + 16 :]

    for spoil, wrong in ((lambda data: data + b"a phone's note", 0), (without_code_lengths, 1)):
        cut(image, lambda data, spoil=spoil: spoil(data) + b"\xff\xd9")
        assert [len(errors(examine("pascal", tmp_path, thorough=t, **ONE))) for t in (False, True)] == [0, wrong]


def test_a_track_in_no_frame_and_leaking_videos_are_noted(tmp_path):
    rewrite(videos(tmp_path), lambda c: c["annotations"][-1].update(segmentations=[None, []]))
    write_json(tmp_path / "lists.json", read_json(tmp_path / "lists.json") | {"expected": {"videos": 5}})
    report = examine("ytvis-v1", tmp_path, folds=(1,), shots=(1,))
    (number,), (track, objects, shared, *others) = of(report, "warning"), of(report, "note")
    assert number.found.startswith("4 usable videos") and "annotation 7 of video w is in no frame" in track.found
    assert objects.found.startswith("2 of 2 videos of base training and 1 of 1 of its validation contain novel objects")
    assert shared.found.startswith("2 of 3 videos of the episodes are in base training")
    assert any("DCL" in finding.found and "3 videos" in finding.found for finding in others)


def test_flow_is_asked_for_where_there_is_any(tmp_path):
    """Flow may be missing for the first or the last frame, and nowhere else."""
    table = read_json(stills(tmp_path / "pascal") / "lists.json")
    write_json(tmp_path / "pascal" / "lists.json", {**table, "classes": {**table["classes"], "1": "car"}})
    masks = {name: [block(49, 0, 0, 6, 6)] * 3 for name in "sqrn"}
    root = minivspw(tmp_path / "minivspw", masks, {"wall": "1", "car": "49"})
    report = examine("pascal2minivspw", tmp_path, **ONE)
    (missing,) = of(report, "warning")
    assert report.ok and "flow" in missing.file and "no frame is left out" in missing.found
    flow(root, {"s": [8, 9], "q": [9, 10], "r": [8, 10]})
    report = examine("pascal2minivspw", tmp_path, **ONE)
    found = {finding.file.split("/")[-2]: finding.found.split(";")[0] for finding in of(report, "warning")}
    assert found == {"r": "1 of 3 frames have no flow, first 9", "n": "3 of 3 frames have no flow, first 8"}
    assert any("2 of 4 sequences" in finding.found for finding in of(report, "note"))
    shutil.copytree(root / "data" / "s", root / "data" / "1146_lps8_r-6J00")  # a sequence that the release ignores
    shutil.rmtree(root / "data" / "1146_lps8_r-6J00" / "flow")
    assert examine("pascal2minivspw", tmp_path, **ONE).findings == report.findings


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
    write_json(tmp_path / "lists.json", {**read_json(LISTS / "pascal.json"), "min_pixels": 20})
    report = examine("coco2pascal", tmp_path, folds=(2,), shots=(1,))
    assert report.ok and report.folds["2"]["training"] is None and " - " in report.text()
    assert any("novel class 8 cat is a base class of coco fold 2" in f.found for f in of(report, "warning"))


@pytest.mark.parametrize("name", BENCHMARKS)
def test_no_data_is_one_error_with_the_expected_tree(tmp_path, name):
    (tmp_path / "file").write_text("")
    plan = BENCHMARKS[name]
    for root in (tmp_path / "nowhere", tmp_path / "file", tmp_path):
        report = examine(name, root)
        (finding,) = report.findings
        assert finding.severity == "error" and finding.file == str(root) and not report.folds
        assert all(entry in finding.fix for entry in (*DATASETS[plan.query].layout, *DATASETS[plan.support].layout))
        assert f"{name}: not ready (1 error," in report.text()


CATS = sequence_fold({"a": [(1,)], "b": [(5,)]}, "davis", names={1: "cat", 5: "dog"})
STILLS = replace(stills_fold({}, {1: ["a", "b", "c"], 3: ["d"]}), names={1: "dog", 3: "cat", 9: "sky"})
PAIR = stills_fold({"a": (1,), "b": (1,)}, {1: ["a", "b"], 2: []})
ONCE = sequence_fold({"a": [(1, 5)], "b": [(1,)]})
SEVEN = [f"error: class {c} kind_{c} is in 7 videos, 7-shot episodes need 8" for c in (1, 5)]
COVERAGE = [  # query, support, sampling, shots, findings
    (fold(), None, "v1", (6,), []), (fold(), None, "v2", (1, 7, 9), SEVEN),
    (PAIR, None, "stills", (2,), ["error: class 1 kind_1 is in 2 images", "warning: class 2 kind_2 is in no images"]),
    (ONCE, None, "sequences", (1, 5, 10), ["error: class 5 kind_5 is in 1 video, 1-shot episodes need 2"]),
    (CATS, STILLS, "cross", (1,), []),  # classes are matched by name
    (CATS, STILLS, "cross", (1, 2, 3), ["error: class 1 cat is in 1 image, 2-shot episodes need 2"]),
    (CATS, replace(STILLS, novel=(1,)), "cross", (1,), ["note: class 1 cat is none of the novel classes of pascal"]),
]  # fmt: skip


@pytest.mark.parametrize(("query", "support", "draws", "shots", "expected"), COVERAGE)
def test_a_class_needs_a_video_more_than_shots_or_as_many_of_another_dataset(query, support, draws, shots, expected):
    findings = check_coverage(query, support or query, draws, shots)
    for finding, start in zip(findings, expected, strict=True):
        assert f"{finding.severity}: {finding.found}".startswith(start) and finding.file == f"{query.corpus} fold 0"

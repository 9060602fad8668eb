"""Frame lists follow the release's rules to the line, and a list that is not the published one is caught."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from coco_corpus import box, coco, instance, name
from corpora import block, broken_png, davis_2016, flow, minivspw, pascal, vspw, ytvis
from hypothesis import given
from hypothesis import strategies as st

from ttilib.datasets import masks as census
from ttilib.datasets.catalog import read_table
from ttilib.episodes.benchmarks import BENCHMARKS, draw_episodes, read_benchmark
from ttilib.files import read_json, write_json, write_text
from ttilib.tools.frame_lists import (
    check_lists,
    count_episodes,
    count_sequences,
    first_difference,
    frame_lists,
    judge,
    list_md5,
    list_text,
    write_lists,
)

ABC = ("a a/mask/1.png", "a a/mask/2.png", "b b/mask/1.png")


def facts(lines=ABC):
    text = "".join(f"{line}\n" for line in lines)
    return {
        "lines": len(lines),
        "sequences": len({line.split(" ")[0] for line in lines}),
        "md5": hashlib.md5(text.encode()).hexdigest(),
        "first": list(lines[:2]),
    }


def files(folder):
    """All files below a folder with their contents."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def pixels(*counts: tuple[int, int]) -> np.ndarray:
    """A mask with so many pixels of each label, given as (label, pixels), on background."""
    flat = np.zeros(18 * 32, dtype=np.uint8)
    place = 0
    for label, number in counts:
        flat[place : place + number] = label
        place += number
    return flat.reshape(18, 32)


def test_the_text_of_a_list_is_what_md5sum_sees():
    assert list_text(("x", "y z")) == "x\ny z\n" and list_text(()) == ""
    assert list_md5(("JPEGImages/a.jpg SegmentationClassAug/a.png",)) == "6f3bdf6285dd27bd4bf249ef74e13d6f"
    assert list_md5(()) == "d41d8cd98f00b204e9800998ecf8427e"
    assert count_sequences(ABC) == 2
    assert count_sequences(("data/a_1/mask/1.png", "data/a_1/mask/2.png", "data/b/mask/1.png")) == 2
    assert count_sequences(("JPEGImages/a.jpg SegmentationClassAug/a.png",)) is None


def test_published_facts_belong_together():
    """Line counts, bytes, sequences and first lines of the appendix agree with each other in every table."""
    tables = {corpus: read_table(corpus) for corpus in ("pascal", "coco", "vspw")}
    lists = {("vspw", "mini", file): f for file, f in tables["vspw"]["pascal_to_vspw"]["expected"].items()}
    lists |= {(corpus, "", file): f for corpus, table in tables.items() for file, f in table["expected"].items()}
    assert len(lists) == 4 + 2 + 2 + 9
    for (corpus, kind, file), known in lists.items():
        assert set(known) <= {"lines", "sequences", "md5", "first", "kept", "order"} and file.endswith(".txt")
        assert ("sequences" in known) == (corpus == "vspw")
        assert len(known.get("md5", "0" * 32)) == 32 and len(set(known.get("first", "ab"))) == 2
        for line in known.get("first", ()):
            assert line.startswith("data/") == bool(kind) and line.count(" ") == (0 if kind else 1)
    # bytes of the published files: every line of these has one length, and its line end
    sizes = {("pascal", "train.txt"): 380992, ("pascal", "val.txt"): 92736, ("coco", "val.txt"): 2889864}
    for (corpus, file), size in sizes.items():
        known = tables[corpus]["expected"][file]
        assert known["lines"] * (len(known["first"][0]) + 1) == size
    expected = tables["vspw"]["expected"]
    assert expected["val_2.txt"] == expected["val_3.txt"]
    assert {"train_0.txt", "train_1.txt", "train_3.txt"}.isdisjoint(expected)  # these were never published
    kept = [known["kept"] for known in tables["vspw"]["pascal_to_vspw"]["expected"].values()]
    assert sum(k["lines"] for k in kept) == 12767 and sum(k["sequences"] for k in kept) == 189


def test_the_readme_says_what_the_tables_say(repository):
    """Every list has a row in lists/README.md with its size, md5 and first line."""
    rows = [line.split(" | ") for line in (repository / "lists" / "README.md").read_text().splitlines()]
    shown = {row[0].strip("|` "): [cell.strip("|` ") for cell in row[1:]] for row in rows if len(row) == 5}
    tables = {corpus: read_table(corpus)["expected"] for corpus in ("pascal", "coco", "vspw")}
    known = {f"{corpus}/{file}": f for corpus in ("pascal", "coco") for file, f in tables[corpus].items()}
    known |= {f"nminivspw_pascal/{file}": f for file, f in tables["vspw"].items()}
    known |= {f"vspw/{file}": f for file, f in read_table("vspw")["pascal_to_vspw"]["expected"].items()}
    for list_name, f in known.items():
        first = f.get("first", ["not known"])[0]
        assert shown[list_name] == [str(f["lines"]), str(f.get("sequences", "")), f.get("md5", "not known"), first]


def official_pascal(root: Path, sbd, train, val) -> Path:
    """A Pascal folder as VOC and SBD ship it, without pictures."""
    (root / "SegmentationClassAug").mkdir(parents=True)
    write_text(root / "SBD" / "train_noval.txt", "".join(f"{still}\n" for still in sbd))
    for split, stills in (("train", train), ("val", val)):
        write_text(root / "ImageSets" / "Segmentation" / f"{split}.txt", "".join(f"{still}\n" for still in stills))
    return root


def test_pascal_is_sbd_then_voc_and_keeps_the_first_of_repeats(tmp_path):
    sbd, train, val = ("2008_9", "2011_1", "2008_2"), ("2007_5", "2008_2", "2009_7"), ("2007_1", "2006_2")
    root = official_pascal(tmp_path / "pascal", sbd, train, val)
    stills = ("2008_9", "2011_1", "2008_2", "2007_5", "2009_7")
    expected = {
        "pascal/train.txt": tuple(f"JPEGImages/{s}.jpg SegmentationClassAug/{s}.png" for s in stills),
        "pascal/val.txt": tuple(f"JPEGImages/{s}.jpg SegmentationClassAug/{s}.png" for s in ("2007_1", "2006_2")),
    }
    assert frame_lists("pascal", root) == expected == frame_lists("coco2pascal", tmp_path)
    report = write_lists("pascal", root)
    verdicts = [found.verdict for found in report.lists]
    assert verdicts == ["differs: 5 lines instead of 5953", "differs: 2 lines instead of 1449"]
    about, _ = report.complaints
    assert about.startswith("pascal/train.txt: 5 lines instead of 5953; line 1 is 'JPEGImages/2008_9.jpg")
    assert "in the published list 'JPEGImages/2008_000008.jpg SegmentationClassAug/2008_000008.png'" in about
    assert "docs/data.md" in about and not report.ok and not report.written
    assert not (root / "lists").exists()


def test_the_right_number_of_stills_is_not_yet_the_published_list(tmp_path):
    sbd = ["2008_000008", "2008_000015", *(f"2010_{number:06d}" for number in range(5621))]
    train = [*sbd[:1134], *(f"2011_{number:06d}" for number in range(330))]
    root = official_pascal(tmp_path, sbd, train, [f"2007_{number:06d}" for number in range(1449)])
    lists = frame_lists("pascal", root)
    assert [len(lines) for lines in lists.values()] == [5953, 1449]
    expected = {f"pascal/{file}": known for file, known in read_table("pascal")["expected"].items()}
    complaints = check_lists(lists, expected)
    assert "as many lines but other content; its first two lines are as published" in complaints[0]
    assert "line 1 is 'JPEGImages/2007_000000.jpg" in complaints[1] and len(complaints) == 2


YTVIS = {
    "aa": [[1], [1, 3], [3]],
    "bb": [[2], [2], [2, 4]],
    "cc": [[1], [1], [5]],
    "dd": [[5, 3], [5], [5]],
    "ee": [[1], [1], [1]],
}


def test_ytvis_has_no_lists_but_counts(tmp_path):
    root = ytvis(tmp_path / "ytvis", YTVIS)
    report = write_lists("ytvis-v2", root)
    assert report.ok and report.lists == () and report.written == () and "5 videos, 5 classes" in report.facts
    # fold 0: class 1 in aa, cc, ee; class 5 in cc, dd
    assert "fold 0: episodes of a run by shots: 3 with 1, 0 with 5, 0 with 10" in report.facts
    assert "fold 2: episodes of a run by shots: 1 with 1, 0 with 5, 0 with 10" in report.facts
    assert any("lists.json of its own" in fact for fact in report.facts)
    assert frame_lists("ytvis-v1", root) == {} and len(write_lists("ytvis-v1", root, fold=1).facts) == 4


def test_another_edition_of_ytvis_is_complained_about(tmp_path):
    root = ytvis(tmp_path, YTVIS)
    (root / "lists.json").unlink()
    names = read_table("ytvis")["classes"]
    content = read_json(root / "train" / "train.json")
    for category in content["categories"]:
        category["name"] = names[category["id"]]
    write_json(root / "train" / "train.json", content)
    (complaint,) = write_lists("ytvis-v1", root).complaints
    wrong = "5 videos instead of 2238 and 5 classes instead of 40"
    assert complaint.endswith(f"train.json: {wrong}; use the whole train.json of the 2019 edition's train part")


@given(st.lists(st.integers(0, 30), min_size=10, max_size=10), st.integers(1, 10))
def test_episodes_by_the_formula(videos, shots):
    """By hand: a class of 12 videos with 5 shots has 7 queries."""
    presence = {c: {f"v{n}": ("f",) for n in range(number)} for c, number in enumerate(videos)}
    assert count_episodes({1: {f"v{n}": ("f",) for n in range(12)}}, [1], 5) == 7
    assert count_episodes(presence, presence, shots) == sum(n - shots for n in videos if n > shots)


@pytest.mark.parametrize("draws", ["ytvis-v1", "ytvis-v2"])
def test_as_many_episodes_are_drawn_as_are_said(tmp_path, draws):
    root = ytvis(tmp_path, YTVIS)
    data = read_benchmark(draws, 0, root)
    assert len(draw_episodes(data, 1)) == count_episodes(data.query.presence, data.query.novel, 1) == 3


def test_folds_of_ytvis_take_every_fourth_class():
    novel = read_table("ytvis")["novel"]
    assert novel[0] == [1, 5, 9, 13, 17, 21, 25, 29, 33, 37] and novel[3] == [n + 3 for n in novel[0]]
    assert sorted(sum(novel, [])) == list(range(1, 41))


def vspw_480p(root: Path) -> Path:
    """Sequences with classes of the project's own table; 57 airplane, 50 bus, 51 truck, 113 blackboard, 61 person."""
    masks = {
        "9_t": [pixels((50, 101)), pixels((50, 100)), pixels((50, 60), (49, 60))],
        "10_v": [pixels((57, 101)), pixels((57, 100), (113, 101)), pixels((113, 300), (57, 200))],
        "2_v": [pixels((51, 102)), pixels((61, 101), (255, 300)), pixels((7, 400))],
    }
    vspw(root, masks, train=("9_t",))
    (root / "lists.json").unlink()
    return root


VSPW = {
    "train_0": ("9_t 9_t/mask/8.png",),
    "val_0": ("10_v 10_v/mask/9.png", "10_v 10_v/mask/10.png", "2_v 2_v/mask/8.png"),
    "test_0": ("10_v 10_v/mask/8.png", "10_v 10_v/mask/10.png"),
    "train_1": (),
    "val_1": ("10_v 10_v/mask/9.png", "10_v 10_v/mask/10.png"),
    "test_1": ("2_v 2_v/mask/8.png",),
    "train_2": ("9_t 9_t/mask/8.png",),
    "val_2": ("10_v 10_v/mask/9.png", "10_v 10_v/mask/10.png"),
    "test_2": ("2_v 2_v/mask/9.png",),
    "train_3": ("9_t 9_t/mask/8.png",),
    "val_3": ("10_v 10_v/mask/9.png", "10_v 10_v/mask/10.png"),
    "test_3": (),
}
"""By hand: 101 pixels of one class are needed, 60 + 60 of two do not do; train of train.txt, the rest of val.txt."""


def test_minivspw_lists_by_hand(tmp_path):
    root = vspw_480p(tmp_path)
    expected = {f"nminivspw_pascal/{list_name}.txt": lines for list_name, lines in VSPW.items()}
    assert frame_lists("minivspw", root) == expected == frame_lists("minivspw-val", root)
    one = frame_lists("minivspw", root, fold=1)
    assert one == {list_name: lines for list_name, lines in expected.items() if list_name.endswith("_1.txt")}
    with pytest.raises(ValueError, match="has folds 0 to 3, not 4"):
        frame_lists("minivspw", root, fold=4)


def test_lists_without_published_facts_say_so(tmp_path):
    report = write_lists("minivspw", vspw_480p(tmp_path))
    verdicts = {Path(found.name).stem: found.verdict for found in report.lists}
    assert verdicts["train_0"] == verdicts["train_1"] == verdicts["train_3"] == "not published"
    assert verdicts["train_2"] == "differs: 1 lines instead of 71813 and 1 sequences instead of 1159"
    assert verdicts["test_3"] == "differs: 0 lines instead of 4060 and 0 sequences instead of 64"
    assert len(report.complaints) == 9 and all("whole sequences are missing" in c for c in report.complaints)


def test_keep_going_writes_and_else_nothing_is_written(tmp_path):
    root = vspw_480p(tmp_path / "vspw")
    before = files(tmp_path)
    report = write_lists("minivspw", tmp_path)
    assert files(tmp_path) == before and not (root / "lists").exists() and report.written == ()
    assert "nothing was written" in report.text()
    report = write_lists("minivspw", tmp_path, keep_going=True)
    assert not report.ok and len(report.written) == 13
    for list_name, lines in VSPW.items():
        assert (root / "lists" / f"{list_name}.txt").read_text() == "".join(f"{line}\n" for line in lines)
    assert report.written[-1] == root / "lists" / "census.json" and f"written: {report.written[0]}" in report.text()
    out = tmp_path / "out"
    write_lists("minivspw", tmp_path, out, keep_going=True)
    assert (out / "nminivspw_pascal" / "val_1.txt").read_text().startswith("10_v 10_v/mask/9.png\n")
    assert (out / "census.json").is_file()


def test_the_census_that_is_written_spares_the_next_count(tmp_path, monkeypatch):
    root = vspw_480p(tmp_path)
    monkeypatch.setattr(census, "_counted", {})  # as in a new process
    write_lists("minivspw", root, keep_going=True)
    lists = frame_lists("minivspw", root)
    for path in root.rglob("mask/*.png"):
        stamp = path.stat()
        path.write_bytes(b"x" * stamp.st_size)  # cannot be read any more, and looks unchanged
        os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    monkeypatch.setattr(census, "_counted", {})
    assert frame_lists("minivspw", root) == lists


def test_other_processes_count_the_same(tmp_path, monkeypatch):
    root, started = vspw_480p(tmp_path), []
    lists = frame_lists("minivspw", root)

    class Pool(census.ProcessPoolExecutor):
        def __init__(self, workers, *others, **more):
            started.append(workers)
            super().__init__(workers, *others, **more)

    monkeypatch.setattr(census, "_counted", {})
    monkeypatch.setattr(census, "MANY", 0)
    monkeypatch.setattr(census, "ProcessPoolExecutor", Pool)
    assert frame_lists("minivspw", root, workers=2) == lists and started == [2]


def test_masks_that_cannot_be_read_are_complaints(tmp_path):
    root = vspw_480p(tmp_path)
    broken = broken_png(root / "data" / "10_v" / "mask" / "10.png", "cut off")
    with pytest.raises(ValueError, match=r"10_v/mask/10\.png: label map cannot be decoded"):
        frame_lists("minivspw", root)
    report = write_lists("minivspw", root)
    assert sum(str(broken) in complaint for complaint in report.complaints) == 1
    told = []
    lists = write_lists("minivspw", root, on_error=told.append).lists
    assert [found.lines for found in lists if "val_" in found.name] == [2, 1, 1, 1] and len(told) == 1
    (root / "train.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"train\.txt: no such list"):
        frame_lists("minivspw", root)


NAMES = {"others": "0", "airplane": "57", "car": "49", "wall": "1", "cattle": "65", "ship_or_boat": "55"}


def mini_and_pascal(root: Path) -> Path:
    """MiniVSPW with aeroplanes and boats (fold 0), cars and cows (fold 1); Pascal as VOC and SBD ship it."""
    masks = {
        "9_x": [pixels((57, 1)), pixels((1, 50)), pixels((49, 9))],
        "10_x": [pixels((65, 2), (55, 2)), pixels((255, 9))],
        "198_b8euyKNT2wY": [pixels((49, 30))],  # one of those that are ignored
        "no_car": [pixels((1, 50), (0, 9))],
    }
    flow(minivspw(root / "minivspw", masks, NAMES), {"9_x": [8], "10_x": [8]})
    official_pascal(root / "pascal", ("b", "a"), ("a", "c"), ("d",))
    return root


def test_pascal_to_minivspw_lists_by_hand(tmp_path):
    lists = frame_lists("pascal2minivspw", mini_and_pascal(tmp_path))
    assert {list_name: lines for list_name, lines in lists.items() if "vspw" in list_name} == {
        "vspw/0.txt": ("data/10_x/mask/8.png", "data/9_x/mask/8.png"),  # plain text order
        "vspw/1.txt": ("data/10_x/mask/8.png", "data/198_b8euyKNT2wY/mask/8.png", "data/9_x/mask/10.png"),
        "vspw/2.txt": (),
        "vspw/3.txt": (),
    }
    assert lists["pascal/val.txt"] == ("JPEGImages/d.jpg SegmentationClassAug/d.png",)
    assert len(lists["pascal/train.txt"]) == 3
    write_text(tmp_path / "minivspw" / "vspw_videolist.txt", "9_x some://where 1 2\nabsent\n")
    broken_png(tmp_path / "minivspw" / "data" / "10_x" / "mask" / "8.png", "empty")  # of a sequence left out
    assert frame_lists("pascal2minivspw", tmp_path, fold=1)["vspw/1.txt"] == ("data/9_x/mask/10.png",)


def test_what_is_left_of_minivspw_is_said(tmp_path):
    report = write_lists("pascal2minivspw", mini_and_pascal(tmp_path))
    left = "1 frames of 1 sequences are asked about, without ignored sequences and frames without flow"
    assert f"vspw/1.txt: {left}" in report.facts  # of three: one sequence is ignored, one frame has no flow
    assert report.lists[2].verdict == "differs: 2 lines instead of 2735 and 2 sequences instead of 44"
    (complaint,) = [c for c in report.complaints if c.startswith("vspw/3.txt")]
    first = "data/1005_QeyHjQZZHO0/mask/00001653.png"
    assert f"the list ends before line 1, which is {first!r} in the published list" in complaint


def test_a_folder_with_its_own_classes_is_compared_with_nothing(tmp_path):
    masks = {"10_x": [block(41, 0, 0, 6, 6)], "9_x": [block(45, 0, 0, 6, 6), block(45, 0, 0, 3, 3)]}
    root = vspw(tmp_path / "vspw", masks, train=("9_x",))
    report = write_lists("minivspw", root)
    assert report.ok and {found.verdict for found in report.lists} == {"not compared"}
    assert [(found.name, found.lines, found.sequences) for found in report.lists] == [
        ("nminivspw_pascal/train_0.txt", 0, 0), ("nminivspw_pascal/test_0.txt", 1, 1)
    ]  # fmt: skip
    assert any("lists.json of its own" in fact for fact in report.facts) and len(report.written) == 3
    before = files(root)
    broken_png(root / "data" / "9_x" / "mask" / "9.png", "cut off")
    report = write_lists("minivspw", root, tmp_path / "out")
    assert not report.ok and not report.written and not (tmp_path / "out").exists()  # a mask cannot be read
    assert files(root).keys() == before.keys()
    stills = {"t": block(1, 0, 0, 6, 6), "v": block(2, 0, 0, 6, 6)}
    report = write_lists("pascal", pascal(tmp_path / "pascal", stills, val=("v",)))
    assert report.ok and report.lists[0].md5 == list_md5(["JPEGImages/t.jpg SegmentationClassAug/t.png"])
    assert (tmp_path / "pascal" / "lists" / "census.json").is_file()
    # a released copy is compared with all the same, because somebody asked for it
    write_text(tmp_path / "val.txt", "JPEGImages/w.jpg SegmentationClassAug/w.png\n")
    (complaint,) = write_lists("pascal", tmp_path / "pascal", against=tmp_path / "val.txt").complaints
    assert "line 1 is 'JPEGImages/v.jpg" in complaint and "'JPEGImages/w.jpg" in complaint


def test_coco_lists_masks_and_the_order_that_nobody_knows(tmp_path):
    objects = {
        "train": [instance(1, 5, 7, [box(0, 0, 9, 9)])],
        "val": [
            instance(2, 4, 3, [box(0, 0, 9, 9)]),
            instance(3, 2, 7, [box(0, 0, 4, 4)]),
            instance(4, 9, 7, [box(0, 0, 4, 4)], crowd=1),
        ],
    }
    root = coco(tmp_path / "coco", objects, {"train": [5], "val": [9, 2, 4]})
    v2, v4 = (f"val2014/{name('val', n)}.jpg val/{name('val', n)}.png" for n in (2, 4))
    report = write_lists("coco", tmp_path)
    assert (root / "lists" / "val.txt").read_text() == f"{v2}\n{v4}\n"  # 9 shows a crowd only
    assert report.ok and len(list((root / "val").glob("*.png"))) == 2 and (root / "lists" / "census.json").is_file()
    assert not any("order" in fact for fact in report.facts)
    assert frame_lists("coco-full", root) == frame_lists("coco-block", root)
    (root / "lists.json").unlink()
    for split in ("train", "val"):
        path = root / "annotations" / f"instances_{split}2014.json"
        content = read_json(path)
        content["categories"] = [{"id": n, "name": label} for n, label in read_table("coco")["classes"].items()]
        write_json(path, content)
    report = write_lists("coco", root)
    verdicts = [found.verdict for found in report.lists]
    assert verdicts == ["differs: 1 lines instead of 82081", "differs: 2 lines instead of 40137"]
    assert any("val.txt: is in another order than the published one" in fact for fact in report.facts)
    write_text(tmp_path / "released" / "val.txt", f"{v4}\n{v2}\n")
    (complaint,) = [c for c in write_lists("coco", root, against=tmp_path / "released").complaints if "val.txt" in c]
    assert "it is like the released copy given" in complaint  # in whatever order


def test_lists_of_which_only_the_size_is_known_may_have_any_order():
    assert check_lists({"coco/val.txt": ("b", "a")}, {"coco/val.txt": {"lines": 2}}) == []
    assert "3 lines" not in check_lists({"coco/val.txt": ("b", "a")}, {"coco/val.txt": {"lines": 3}})[0].split(";")[1]


def test_davis_says_what_its_sequences_show(tmp_path):
    masks = {list_name: [block(1, 0, 0, 5, 5)] for list_name in ("train", "bear", "blackswan")}
    davis_2016(tmp_path / "davis", masks)
    official_pascal(tmp_path / "pascal", ("a",), ("a",), ("d",))
    report = write_lists("pascal2davis", tmp_path)
    assert frame_lists("pascal2davis", tmp_path)["davis/sequences.txt"] == ("blackswan bird", "train train")
    assert report.lists[-1].verdict == "not published"
    assert any("2 of 27 sequences with a Pascal class are there" in fact for fact in report.facts)


def test_a_list_as_published_has_nothing_said_about_it(tmp_path):
    assert check_lists({"x/a.txt": ABC}, {"x/a.txt": facts()}) == []
    assert check_lists({"x/a.txt": ABC}, {}) == []
    assert check_lists({"x/a.txt": ()}, {"x/a.txt": facts(())}) == []
    assert judge("x/a.txt", ABC, facts()) == ("as published", "")
    assert judge("x/a.txt", ABC, facts(), ABC) == ("as published, like the released copy", "")
    assert judge("x/a.txt", ABC, {}, ABC) == ("not published, like the released copy", "")
    assert judge("x/a.txt", ABC, {"lines": 3}) == ("3 lines as published", "")
    write_text(tmp_path / "a.txt", "".join(f"{line}\n" for line in ABC))
    for against in (tmp_path / "a.txt", tmp_path, str(tmp_path)):
        assert check_lists({"x/a.txt": ABC}, {"x/a.txt": facts()}, against) == []


CASES = {
    "a line is missing": (
        (ABC[0], ABC[2]),
        "2 lines instead of 3",
        "line 2 is 'b b/mask/1.png', in the released list 'a a/mask/2.png'",
        "something is missing",
    ),
    "the end is missing": (
        ABC[:1],
        "1 lines instead of 3 and 1 sequences instead of 2",
        "the list ends before line 2, which is 'a a/mask/2.png' in the released list",
        "whole sequences are missing",
    ),
    "a line too many": (
        (*ABC, "b b/mask/2.png"),
        "4 lines instead of 3",
        "line 4 is 'b b/mask/2.png', where the released list has ended",
        "there is more than the release had",
    ),
    "a line differs": (
        (ABC[0], "a a/mask/3.png", ABC[2]),
        "as many lines but other content",
        "line 2 is 'a a/mask/3.png', in the released list 'a a/mask/2.png'",
        "names or their order differ",
    ),
    "the order differs": (
        ABC[::-1],
        "as many lines but other content",
        "line 1 is 'b b/mask/1.png', in the released list 'a a/mask/1.png'",
        "names or their order differ",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_first_differing_line_is_named(tmp_path, case):
    lines, what, where, meaning = CASES[case]
    write_text(tmp_path / "x" / "a.txt", list_text(ABC))
    (complaint,) = check_lists({"x/a.txt": lines}, {"x/a.txt": facts()}, tmp_path)
    assert complaint.startswith(f"x/a.txt: {what}; {where}; ") and meaning in complaint
    (complaint,) = check_lists({"x/a.txt": lines}, {}, tmp_path)  # only the copy is known
    assert where in complaint


def test_without_a_copy_two_lines_are_known():
    (complaint,) = check_lists({"a.txt": (*ABC[:2], "c c/mask/1.png")}, {"a.txt": facts()})
    assert "first two lines are as published; a released copy would show" in complaint
    (complaint,) = check_lists({"a.txt": (ABC[0], "a a/mask/4.png", ABC[2])}, {"a.txt": facts()})
    assert "line 2 is 'a a/mask/4.png', in the published list 'a a/mask/2.png'" in complaint
    (complaint,) = check_lists({"a.txt": ABC[:1]}, {"a.txt": facts()})
    assert "the list ends before line 2, which is 'a a/mask/2.png' in the published list" in complaint


def test_a_copy_that_is_not_the_published_list_is_noticed(tmp_path):
    write_text(tmp_path / "a.txt", list_text(ABC[:2]))
    (complaint,) = check_lists({"a.txt": ABC}, {"a.txt": facts()}, tmp_path)
    assert complaint.startswith(
        "a.txt: not like the released copy; line 3 is 'b b/mask/1.png', where the released list"
    )
    (complaint,) = check_lists({"a.txt": ABC[:2]}, {"a.txt": facts()}, tmp_path)
    assert "it is like the released copy given, which is not the published one" in complaint


def test_what_to_compare_with_must_be_there(tmp_path):
    lists = {"x/a.txt": ABC, "x/b.txt": ABC}
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such file or folder; give a released list"):
        check_lists(lists, {}, tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"none of x/a\.txt, x/b\.txt in it"):
        check_lists(lists, {}, tmp_path)
    write_text(tmp_path / "b.txt", list_text(ABC[:1]))
    (complaint,) = check_lists(lists, {}, tmp_path / "b.txt")
    assert complaint.startswith("x/b.txt")
    (tmp_path / "b.txt").rename(tmp_path / "c.txt")
    with pytest.raises(ValueError, match=r"c\.txt: which list is it\? call it like one of a\.txt, b\.txt"):
        check_lists(lists, {}, tmp_path / "c.txt")
    assert len(check_lists({"x/a.txt": ABC}, {}, tmp_path / "c.txt")) == 1  # there is only one it can be
    (tmp_path / "c.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"c\.txt: not UTF-8 text"):
        check_lists({"x/a.txt": ABC}, {}, tmp_path / "c.txt")


@given(st.lists(st.sampled_from("abc"), max_size=6), st.lists(st.sampled_from("abc"), max_size=6))
def test_a_difference_is_found_exactly_when_there_is_one(lines, released):
    said = first_difference(lines, released)
    assert bool(said) == (lines != released)
    if said:
        place = next(n for n in range(7) if lines[n : n + 1] != released[n : n + 1]) + 1
        assert f"line {place}" in said


def test_folders_that_cannot_be_written_to(tmp_path):
    root = vspw_480p(tmp_path / "vspw")
    write_text(tmp_path / "file", "x")
    with pytest.raises(FileNotFoundError, match=r"absent/out: there is no folder .*absent to put it in"):
        write_lists("minivspw", root, tmp_path / "absent" / "out")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        write_lists("minivspw", root, tmp_path / "file" / "out")
    with pytest.raises(ValueError, match="file: is a file, not a folder; give another folder"):
        write_lists("minivspw", root, tmp_path / "file")
    write_text(tmp_path / "out" / "nminivspw_pascal", "a file where a folder is needed")
    with pytest.raises(ValueError, match=r"train_0\.txt: cannot be written \(.*give another folder"):
        write_lists("minivspw", root, tmp_path / "out", keep_going=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_noticed_before_anything_is_counted(tmp_path):
    root = vspw_480p(tmp_path / "vspw")
    broken_png(root / "data" / "10_v" / "mask" / "10.png", "cut off")
    root.chmod(0o555)
    with pytest.raises(ValueError, match="lists: cannot be written to; give another folder"):
        write_lists("minivspw", root)
    root.chmod(0o755)


def test_every_benchmark_has_rules(tmp_path):
    from ttilib.tools.frame_lists import RULES

    assert {plan.query for plan in BENCHMARKS.values()} | {plan.support for plan in BENCHMARKS.values()} == set(RULES)
    with pytest.raises(ValueError, match="did you mean minivspw"):
        frame_lists("minivsqw", tmp_path)
    with pytest.raises(FileNotFoundError, match="no ytvis data here"):
        write_lists("ytvis-v1", tmp_path)


def test_the_report_reads_well(tmp_path):
    text = write_lists("minivspw", vspw_480p(tmp_path)).text()
    first, head, row, *_ = text.splitlines()
    assert first == "frame lists of minivspw" and head.split() == ["list", "lines", "sequences", "md5"]
    assert row.split() == ["nminivspw_pascal/train_0.txt", "1", "1", list_md5(VSPW["train_0"]), "not", "published"]
    assert text.splitlines()[-1] == "nothing was written" and max(map(len, text.splitlines()[:14])) <= 150

"""A benchmark's name stands for its datasets, classes, draws and size; its data is found, read and drawn from."""

import multiprocessing
import random
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from corpora import block, davis, minivspw, pascal, picture, vspw, ytvis
from folds import fold

from ttilib.datasets.catalog import DATASETS, find_dataset, read_table
from ttilib.episodes.benchmarks import BENCHMARKS, BenchmarkData, benchmark, draw_episodes, find_roots, read_benchmark
from ttilib.episodes.episode import Episode, read_episodes, sample_episodes, write_episodes
from ttilib.files import write_json, write_text
from ttilib.images import write_image, write_labels


def pascal_masks():
    """Novel in fold 0: class 1, large in four stills of val, too small in a fifth, which shows no other class."""
    stills = {f"s{n}": block(1, 2, 3 + n, 8, 8) for n in range(4)}
    stills["s4"] = block(1, 2, 2, 2, 2)
    stills |= {f"s{n}": block(2, 4, n, 9, 9) for n in (5, 6, 7)}
    return {**stills, "t0": block(3, 2, 2, 9, 9), "t1": block(1, 2, 2, 9, 9)}


def vspw_masks():
    both = block(41, 2, 2, 8, 8) + block(45, 2, 14, 8, 8)
    return {
        "2_a": [block(41, 2, 2, 8, 8)] * 3,
        "10_b": [block(41, 3, 3, 8, 8), both],
        "11_c": [both, both, block(41, 2, 2, 8, 8)],
        "12_d": [block(53, 3, 3, 8, 8)] * 2,
    }


YTVIS = {"aa": [[1], [1, 2]], "bb": [[1, 5], [5]], "cc": [[], [1]], "dd": [[5], [5]], "ee": [[1, 5]]}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data folder with every dataset, each under another of its accepted names."""
    root = tmp_path_factory.mktemp("data")
    stills = pascal_masks()
    pascal(root / "voc", stills, tuple(name for name in stills if name[0] == "s"))
    table = read_table("pascal", root / "voc")
    extra = {"novel_coco2pascal": [[1, 2], [], [], []], "novel_coco2pascal_mended": [[2], [], [], []]}
    write_json(root / "voc" / "lists.json", {**table, **extra})
    ytvis(root / "youtube-vis", YTVIS)
    vspw(root / "VSPW_480p", vspw_masks())
    table = read_table("vspw", root / "VSPW_480p")
    write_json(root / "VSPW_480p" / "lists.json", {**table, "base": [[49]], "validation": [[53]]})
    seen = {
        "9_a": [block(57, 2, 2, 3, 3), block(12, 2, 2, 8, 8), block(57, 2, 4, 5, 5)],
        "10_b": [block(57, 3, 3, 8, 8)] * 4,
        "118_fgmRMeHommU": [block(57, 3, 3, 8, 8)],  # one of the sequences that the release leaves out
    }
    minivspw(root / "MiniVSPW", seen, {"kind_1": "57", "wall": "12"})
    write_json(root / "DAVIS" / "lists.json", {"classes": {"1": "kind_1", "4": "kind_4"}, "novel": [[1], [], [], [4]]})
    davis(root / "DAVIS", {"bear": [block(1, 2, 2, 8, 8)] * 2, "cow": [block(4, 2, 2, 8, 8)] * 2})
    return root


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    """A COCO folder of six classes; in full masks stills show their class three times as large."""
    root = tmp_path_factory.mktemp("coco")
    names = {str(number): f"kind_{number}" for number in range(1, 7)}
    table = {"classes": names, "novel": [[1, 5], [2], [3], [4]], "novel_block": [[1, 2]], "min_pixels": 30}
    write_json(root / "lists.json", table)
    for split in ("train", "val"):
        stills = [f"COCO_{split}2014_{n:012d}" for n in (9, 4, 7, 1, 8, 2)]
        for n, still in enumerate(stills):
            write_image(root / f"{split}2014" / f"{still}.jpg", picture(n))
            write_labels(root / split / f"{still}.png", block((1, 1, 5, 1, 2, 2)[n], 2, 2, 6, 6))
            write_labels(root / f"{split}_full" / f"{still}.png", block((1, 1, 5, 5, 5, 1)[n], 2, 2, 6, 18))
        lines = (f"{split}2014/{still}.jpg {split}/{still}.png\n" for still in stills)
        write_text(root / f"{split}.txt", "".join(lines))
    return root


def test_the_benchmarks_are_those_of_the_release():
    assert {name: (b.query, b.support, b.draws, b.size, b.trained_on) for name, b in BENCHMARKS.items()} == {
        "pascal": ("pascal", "pascal", "stills", (417, 417), "pascal"),
        "coco": ("coco", "coco", "stills", (417, 417), "coco"),
        "coco-block": ("coco", "coco", "stills", (417, 417), "coco"),
        "coco-full": ("coco-full", "coco-full", "stills", (417, 417), "coco-full"),
        "coco2pascal": ("pascal", "pascal", "stills", (417, 417), "coco"),
        "coco2pascal-mended": ("pascal", "pascal", "stills", (417, 417), "coco"),
        "ytvis-v1": ("ytvis", "ytvis", "v1", (241, 425), "ytvis"),
        "ytvis-v2": ("ytvis", "ytvis", "v2", (241, 425), "ytvis"),
        "pascal2minivspw": ("minivspw", "pascal", "frames", (417, 417), "pascal"),
        "minivspw": ("vspw", "vspw", "sequences", (417, 417), "vspw"),
        "minivspw-val": ("vspw", "vspw", "sequences", (417, 417), "vspw"),
        "pascal2davis": ("davis", "pascal", "cross", (241, 425), "pascal"),
    }
    for name, plan in BENCHMARKS.items():
        assert plan.name == name and plan.runs == 5 and plan.note.endswith(".")
        assert plan.per_run == {"stills": 1000, "frames": 10000}.get(plan.draws)
        assert plan.batch == (100 if plan.draws == "frames" else None)
        assert plan.query in DATASETS and plan.support in DATASETS and plan.trained_on in DATASETS
        if plan.query != "minivspw":
            table = read_table("coco" if plan.query == "coco-full" else plan.query, novel=plan.novel)
            assert len(table["novel"]) == 4
    assert read_table("vspw")["repeats"] == [10, 10, 1, 10]
    assert "repeats" not in read_table("vspw", novel="validation")  # the release never repeats validation lists
    assert read_table("vspw", novel="validation")["novel"][0] == [113, 47, 51, 45, 46]


def test_a_size_of_0_is_the_benchmark_s_own():
    sizes = [BENCHMARKS["ytvis-v1"].input_size(*size) for size in ((), (0, 0), (121, 0), (0, 217), (5, 7))]
    assert sizes == [(241, 425), (241, 425), (121, 425), (241, 217), (5, 7)]


def test_an_unknown_name_is_answered_with_those_like_it(data):
    with pytest.raises(ValueError, match=r"'ytvis' is not known; did you mean .*ytvis-v1"):
        benchmark("ytvis")
    with pytest.raises(ValueError, match="choose one of pascal, coco, "):
        benchmark("zzzzzz")
    with pytest.raises(ValueError, match="'minivsp' is not known; did you mean minivspw"):
        read_benchmark("minivsp", 0, data)


@pytest.mark.parametrize(("corpus", "name"), [(data.name, name) for data in DATASETS.values() for name in data.folders])
def test_every_accepted_folder_name_is_found(corpus, name, tmp_path):
    (tmp_path / name).mkdir(parents=True)
    (plan,) = [b for b in BENCHMARKS.values() if b.query == corpus][:1]
    if plan.query == plan.support:
        assert find_roots(plan, tmp_path) == (tmp_path / name, tmp_path / name)
        assert find_roots(plan.name, str(tmp_path)) == (tmp_path / name, tmp_path / name)
    else:
        with pytest.raises(FileNotFoundError, match="no pascal data here"):
            find_roots(plan, tmp_path)
        (tmp_path / "voc").mkdir()
        assert find_roots(plan, tmp_path) == (tmp_path / name, tmp_path / "voc")


def test_a_corpus_may_be_given_by_its_own_folder(data, coco):
    assert find_roots("pascal", data / "voc") == (data / "voc", data / "voc")
    assert find_roots("ytvis-v2", data / "youtube-vis")[0] == data / "youtube-vis"
    assert find_roots("minivspw", data / "VSPW_480p")[0] == data / "VSPW_480p"
    assert find_roots("minivspw", data / "VSPW_480p" / "data")[0] == data / "VSPW_480p" / "data"
    assert find_roots("coco-full", coco) == (coco, coco)
    both = (data / "DAVIS", data / "voc")
    assert find_roots("pascal2davis", data) == find_roots("pascal2davis", data / "DAVIS", data / "voc") == both
    assert find_roots("pascal2davis", data, data) == find_roots("pascal2davis", data / "DAVIS", data) == both
    assert find_roots("pascal2minivspw", data / "MiniVSPW", data / "voc") == (data / "MiniVSPW", data / "voc")


def test_what_is_not_there_is_named(data, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"ytvis data here \(looked for a folder ytvis or YTVIS or youtube-vis"):
        find_roots("ytvis-v1", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"and for train/train\.json or train/JPEGImages in DAVIS itself"):
        find_roots("ytvis-v1", data / "DAVIS")
    with pytest.raises(FileNotFoundError, match="absent: no such folder; give the data folder"):
        find_roots("pascal", tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="is a file"):
        find_roots("pascal", data / "voc" / "val.txt")
    # DAVIS has JPEGImages too, but that does not make it Pascal.
    with pytest.raises(FileNotFoundError, match=r"DAVIS: no davis data here \(looked for a folder davis or DAVIS\)"):
        find_roots("pascal2davis", data / "DAVIS")
    with pytest.raises(ValueError, match="ytvis-v1 takes its support from ytvis too; leave support_root out"):
        find_roots("ytvis-v1", data, data / "voc")


def test_one_corpus_is_read_once(data):
    read = read_benchmark("ytvis-v1", 0, data)
    assert read.query is read.support and read.query_root == read.support_root == data / "youtube-vis"
    assert read.benchmark is BENCHMARKS["ytvis-v1"] and read.query.novel == (1, 5)
    crossed = read_benchmark("pascal2davis", 0, data)
    assert (crossed.query.corpus, crossed.support.corpus) == ("davis", "pascal")
    assert (crossed.query_root, crossed.support_root) == (data / "DAVIS", data / "voc")


def test_the_benchmark_chooses_the_novel_classes(data, coco):
    assert read_benchmark("pascal", 0, data).query.novel == (1,)
    assert read_benchmark("coco2pascal", 0, data).query.novel == (1, 2)
    assert read_benchmark("coco2pascal-mended", 0, data).query.novel == (2,)
    assert read_benchmark("coco-block", 0, coco).query.novel == (1, 2)
    assert read_benchmark("minivspw", 0, data).query.repeats == 2
    held = read_benchmark("minivspw-val", 0, data).query
    assert held.novel == (53,) and held.repeats == 1 and list(held.presence[53]) == ["12_d"]
    seen = read_benchmark("pascal2minivspw", 0, data).query
    assert (seen.novel, seen.names[57], list(seen.frames)) == ((57,), "kind_1", ["10_b", "9_a"])
    assert seen.frames["9_a"] == ("9_a/8", "9_a/10")  # the frame without the class is not listed
    with pytest.raises(ValueError, match=r"lists\.json: no 'novel_block' in it; add one list of class ids per fold"):
        read_table("pascal", data / "voc", "novel_block")


def test_full_masks_of_coco_have_coco_s_classes(coco, tmp_path):
    own = coco / "lists.json"
    kept = own.rename(tmp_path / "lists.json")
    try:
        read = read_benchmark("coco-full", 2, coco)
    finally:
        kept.rename(own)
    assert read.query.corpus == "coco-full" and read.query.novel == tuple(range(3, 81, 4))
    assert read.query.names[1] == "person" and not read.query.shown  # 2048 pixels are more than these stills have


def check_files(episodes: tuple[Episode, ...], data: BenchmarkData):
    """Every frame that is named is there, and every support frame shows the class."""
    query = find_dataset(data.query.corpus).reader(data.query_root)
    support = find_dataset(data.support.corpus).reader(data.support_root)
    for episode in episodes:
        assert episode.corpus == data.query.corpus
        number = episode.support_class if episode.support_corpus else episode.class_id
        for frame in set(episode.support):
            assert support.image(frame).shape[:2] == support.mask(frame, number).shape
            assert (support.mask(frame, number) == 1).any()
        for frame in episode.query:
            assert query.image(frame).shape[:2] == query.mask(frame, episode.class_id).shape
        assert episode.video not in {frame.split("/")[0] for frame in episode.support}


@pytest.mark.parametrize(
    ("name", "shots", "released", "independent"),
    [
        ("pascal", 2, 1000, 4),
        ("coco2pascal", 2, 1000, 7),
        ("ytvis-v1", 2, 2 + 1, 4 + 3),
        ("ytvis-v2", 2, 2 + 1, 4 + 3),
        ("minivspw", 1, 6, 6),
        ("minivspw", 3, 6, None),
        ("pascal2davis", 2, 1, 1),
    ],
)
def test_from_folder_to_episodes(name, shots, released, independent, data):
    read = read_benchmark(name, 0, data)
    drawn = draw_episodes(read, shots)
    assert len(drawn) == released
    check_files(drawn[:20], read)
    assert draw_episodes(read, shots, 2020, 0, "released") == drawn != draw_episodes(read, shots, 2021)
    assert {(e.seed, e.run, e.fold, e.batch) for e in draw_episodes(read, shots, 7, 2)} == {(7, 2, 0, None)}
    if independent is None:
        with pytest.raises(ValueError, match="from 2 videos, but 3 are needed"):
            draw_episodes(read, shots, draws="independent")
    else:
        alone = draw_episodes(read, shots, draws="independent")
        assert len(alone) == independent
        check_files(alone, read)


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("coco", {9: 1, 4: 1, 1: 1}),  # class 5 is in one still only, so nothing can support it
        ("coco-block", {9: 1, 4: 1, 1: 1, 8: 2, 2: 2}),
        ("coco-full", {9: 1, 4: 1, 7: 5, 1: 5, 8: 5, 2: 1}),
    ],
)
def test_from_coco_to_episodes(name, asked, coco):
    read = read_benchmark(name, 0, coco)
    errors = []
    drawn = draw_episodes(read, 1, on_error=errors.append)
    stills = [(f"COCO_val2014_{number:012d}", label) for number, label in asked.items()]
    assert [(e.video, e.class_id) for e in drawn] == (stills * 1000)[:1000]
    check_files(drawn[:12], read)
    assert [str(error).split(";")[0] for error in errors] == [
        "coco fold 0: class 5 kind_5 can be drawn from 0 videos, but 1 are needed"
    ] * (name == "coco")


def test_frames_of_another_corpus_know_both_classes(data):
    plan = replace(BENCHMARKS["pascal2minivspw"], per_run=10, batch=5)
    read = read_benchmark(plan, 0, data)
    first, second = (draw_episodes(read, 2, run=run) for run in (0, 1))
    for e in first + second:
        assert (e.corpus, e.class_id, e.class_name) == ("minivspw", 57, "kind_1")
        assert (e.support_corpus, e.support_class) == ("pascal", 1)
    check_files(first, read)
    # Six frames a pass, four of 10_b and two of 9_a; batches of five, runs of ten.
    assert [(e.video, len(e.query), e.batch) for e in first] == [
        ("10_b", 4, 0), ("9_a", 1, 0), ("9_a", 1, 1), ("10_b", 4, 1),
    ]  # fmt: skip
    assert [(e.query[0], len(e.query), e.batch) for e in second] == [
        ("9_a/8", 2, 0), ("10_b/8", 3, 0), ("10_b/11", 1, 1), ("9_a/8", 2, 1), ("10_b/8", 2, 1),
    ]  # fmt: skip
    assert first[1].support == first[2].support and first[0].support != first[3].support
    assert second[1].support == second[2].support  # cut, not drawn again
    alone = draw_episodes(read, 2, draws="independent")
    assert [(e.video, len(e.query), e.batch) for e in alone] == [("10_b", 4, None), ("9_a", 2, None)]


def test_a_whole_run_of_frames_has_a_hundred_batches(data):
    drawn = draw_episodes(read_benchmark("pascal2minivspw", 0, data), 1, run=1)
    assert sum(len(e.query) for e in drawn) == 10000
    assert [sum(len(e.query) for e in drawn if e.batch == n) for n in range(101)] == [100] * 100 + [0]


def test_runs_of_stills_are_pieces_of_one_stream(data):
    short = read_benchmark(replace(BENCHMARKS["pascal"], per_run=3), 0, data)
    long = draw_episodes(replace(short, benchmark=replace(short.benchmark, per_run=12)), 2)
    pieces = [draw_episodes(short, 2, run=run) for run in range(4)]
    assert [e.support for piece in pieces for e in piece] == [e.support for e in long]
    assert [e.video for e in long] == ["s0", "s1", "s2", "s3"] * 3  # s4 is too small to be asked about
    whole = read_benchmark(replace(BENCHMARKS["pascal"], per_run=None), 0, data)
    assert [e.support for e in draw_episodes(whole, 2, run=1)] == [e.support for e in long[4:8]]
    assert draw_episodes(whole, 2, run=1) == sample_episodes(whole.query, 2, run=1)


@pytest.mark.parametrize("protocol", ["v1", "v2"])
def test_benchmarks_draw_what_sample_episodes_draws(protocol, data):
    read = read_benchmark(f"ytvis-{protocol}", 0, data)
    for run in (0, 1):
        assert draw_episodes(read, 1, 5, run) == sample_episodes(read.query, 1, 5, protocol, run)


def draw(name, root):
    """What another process draws: released and independent."""
    read = read_benchmark(name, 0, root)
    return tuple(draw_episodes(read, 1, 3, 1, draws) for draws in ("released", "independent"))


def test_another_process_and_another_state_draw_the_same(data, tmp_path):
    names = ("pascal", "ytvis-v2", "minivspw", "pascal2minivspw", "pascal2davis")
    random.seed(5)
    np.random.seed(5)
    before = random.getstate(), np.random.get_state()[1].tolist()
    here = [draw(name, data) for name in names]
    # beartype, which only the tests use, looks at random items: the state of `random` is compared in the other process
    assert np.random.get_state()[1].tolist() == before[1]
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        there = list(pool.map(_draw_and_watch, names, [data] * len(names)))
    assert [drawn for drawn, _ in there] == here
    assert all(still for _, still in there), "a global generator moved"
    for place, episodes in enumerate(sum(here, ())):
        paths = [tmp_path / f"{place}{letter}.json" for letter in "ab"]
        for path, copy in zip(paths, (episodes, sum((d for d, _ in there), ())[place]), strict=True):
            write_episodes(path, copy)
        assert paths[0].read_bytes() == paths[1].read_bytes() and read_episodes(paths[0]) == episodes


def _draw_and_watch(name, root):
    random.seed(6)
    np.random.seed(6)
    before = random.getstate(), np.random.get_state()[1].tolist()
    drawn = draw(name, root)
    return drawn, before == (random.getstate(), np.random.get_state()[1].tolist())


def as_data(query, name="ytvis-v1", **changes):
    plan = replace(BENCHMARKS[name], **changes)
    return BenchmarkData(plan, query, query, Path("nowhere"), Path("nowhere"))


def test_a_short_class_stops_the_draws_or_is_left_out_and_told_once():
    data = as_data(fold(shows={1: ["v0", "v1", "v2"], 5: ["v0", "v1"]}))
    errors = []
    for draws, found in (("released", 2), ("independent", 1)):
        with pytest.raises(ValueError, match=f"class 5 kind_5 can be drawn from {found} videos"):
            draw_episodes(data, 2, draws=draws)
        errors.clear()
        drawn = draw_episodes(data, 2, run=3, draws=draws, on_error=errors.append)
        assert {e.class_id for e in drawn} == {1} and len(errors) == 1
    with pytest.raises(ValueError, match="class 1 kind_1 can be drawn from 3 videos, but 4"):
        draw_episodes(data, 3)
    errors.clear()
    assert draw_episodes(data, 3, on_error=errors.append) == ()
    assert "fold 0" in str(errors[-1]) and "(kind_1, kind_5)" in str(errors[-1])


def test_impossible_wishes_are_refused():
    data = as_data(fold())
    for shots, run in ((0, 0), (1, -1)):
        with pytest.raises(ValueError, match="ask for shots >= 1 and run >= 0"):
            draw_episodes(data, shots, run=run)
    with pytest.raises(ValueError, match="draws 'random' are not known; choose \"released\" or \"independent\""):
        draw_episodes(data, 1, draws="random")

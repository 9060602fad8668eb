"""A benchmark's name stands for datasets, classes, sampling and size; its data are found, read and sampled."""

import multiprocessing
import random
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from corpora import block, davis, minivspw, pascal, vspw, ytvis
from folds import fold

from ttilib.datasets.catalog import find_dataset, read_table
from ttilib.episodes.benchmarks import BENCHMARKS, BenchmarkData, benchmark, draw_episodes, find_roots, read_benchmark
from ttilib.episodes.episode import sample_episodes
from ttilib.files import write_json

YTVIS = {"aa": [[1], [1, 2]], "bb": [[1, 5], [5]], "cc": [[], [1]], "dd": [[5], [5]], "ee": [[1, 5]]}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data folder with every dataset, each under another of its accepted names."""
    root = tmp_path_factory.mktemp("data")
    # Novel in fold 0: class 1, large in four stills of val, too small in a fifth, which shows no other class.
    stills = {f"s{n}": block(1, 2, 3 + n, 8, 8) for n in range(4)} | {"s4": block(1, 2, 2, 2, 2)}
    stills |= {f"s{n}": block(2, 4, n, 9, 9) for n in (5, 6, 7)} | {"t0": block(3, 2, 2, 9, 9)}
    pascal(root / "voc", stills, tuple(name for name in stills if name[0] == "s"))
    extra = {"novel_coco2pascal": [[1, 2], [], [], []], "novel_coco2pascal_mended": [[2], [], [], []]}
    write_json(root / "voc" / "lists.json", {**read_table("pascal", root / "voc"), **extra})
    ytvis(root / "youtube-vis", YTVIS)
    one, two = block(41, 2, 2, 8, 8), block(41, 2, 2, 8, 8) + block(45, 2, 14, 8, 8)
    videos = {"2_a": [one] * 3, "10_b": [one, two], "11_c": [two, two, one], "12_d": [block(53, 3, 3, 8, 8)] * 2}
    vspw(root / "VSPW_480p", videos)
    table = read_table("vspw", root / "VSPW_480p")
    write_json(root / "VSPW_480p" / "lists.json", {**table, "base": [[49]], "validation": [[53]]})
    seen = {
        "9_a": [block(57, 2, 2, 3, 3), block(12, 2, 2, 8, 8), block(57, 2, 4, 5, 5)],
        "10_b": [block(57, 3, 3, 8, 8)] * 4,
        "118_fgmRMeHommU": [block(57, 3, 3, 8, 8)],  # the release leaves it out
    }
    minivspw(root / "MiniVSPW", seen, {"kind_1": "57", "wall": "12"})
    write_json(root / "DAVIS" / "lists.json", {"classes": {"1": "kind_1", "4": "kind_4"}, "novel": [[1], [], [], [4]]})
    davis(root / "DAVIS", {"bear": [block(1, 2, 2, 8, 8)] * 2, "cow": [block(4, 2, 2, 8, 8)] * 2})
    return root


def test_every_benchmark_has_a_class_table_and_a_size():
    for name, plan in BENCHMARKS.items():
        assert plan.name == name and plan.input_size() == plan.size and plan.input_size(121) == (121, plan.size[1])
        if plan.query != "minivspw":
            assert len(read_table("coco" if plan.query == "coco-full" else plan.query, novel=plan.novel)["novel"]) == 4
    assert "repeats" not in read_table("vspw", novel="validation")  # the release never repeats validation lists
    with pytest.raises(ValueError, match="ytvis-v1"):
        benchmark("ytvis")


def test_a_dataset_may_be_given_by_its_own_folder(data, tmp_path):
    assert find_roots("pascal", data / "voc") == (data / "voc", data / "voc")
    both = (data / "DAVIS", data / "voc")
    assert find_roots("pascal2davis", data) == find_roots("pascal2davis", data / "DAVIS", data / "voc") == both
    assert find_roots("pascal2davis", data, data) == find_roots("pascal2davis", data / "DAVIS", data) == both
    for name, root, word in (
        ("ytvis-v1", tmp_path, "youtube-vis"),
        ("pascal", data / "voc" / "val.txt", "is a file"),
        ("pascal2davis", data / "DAVIS", "no davis data"),  # it has JPEGImages too, but that does not make it Pascal
    ):
        with pytest.raises(FileNotFoundError, match=word):
            find_roots(name, root)
    with pytest.raises(ValueError, match="support_root"):
        find_roots("ytvis-v1", data, data / "voc")


def test_the_benchmark_chooses_the_novel_classes(data):
    names = ("pascal", "coco2pascal", "coco2pascal-mended")
    assert [read_benchmark(name, 0, data).query.novel for name in names] == [(1,), (1, 2), (2,)]
    one = read_benchmark("minivspw", 0, data)
    assert one.query is one.support and one.query.repeats == 2
    validation = read_benchmark("minivspw-val", 0, data).query
    assert validation.novel == (53,) and validation.repeats == 1 and list(validation.presence[53]) == ["12_d"]
    crossed = read_benchmark("pascal2minivspw", 0, data)
    assert (crossed.query.novel, crossed.query.names[57], crossed.support.corpus) == ((57,), "kind_1", "pascal")
    assert crossed.query.frames == {"10_b": tuple(f"10_b/{n}" for n in range(8, 12)), "9_a": ("9_a/8", "9_a/10")}


def check_files(episodes, data):
    """Every frame that is named is there, and every support frame contains the class."""
    query = find_dataset(data.query.corpus).reader(data.query_root)
    support = find_dataset(data.support.corpus).reader(data.support_root)
    for episode in episodes:
        for frame in set(episode.support):
            assert support.image(frame).shape[:2] == support.mask(frame, episode.support_id).shape
            assert (support.mask(frame, episode.support_id) == 1).any()
        for frame in episode.query:
            assert query.image(frame).shape[:2] == query.mask(frame, episode.class_id).shape
        assert episode.video not in {frame.split("/")[0] for frame in episode.support}


@pytest.mark.parametrize(
    ("name", "shots", "released", "independent"),
    [
        ("pascal", 2, 1000, 4),
        ("ytvis-v1", 2, 3, 7),
        ("ytvis-v2", 2, 3, 7),
        ("minivspw", 1, 6, 6),
        ("pascal2davis", 2, 1, 1),
    ],  # fmt: skip
)
def test_from_folder_to_episodes(name, shots, released, independent, data):
    read = read_benchmark(name, 0, data)
    for draws, count in (("released", released), ("independent", independent)):
        episodes = draw_episodes(read, shots, draws=draws)
        assert len(episodes) == count and draw_episodes(read, shots, 2021, draws=draws) != episodes
        assert {(e.seed, e.run, e.batch) for e in draw_episodes(read, shots, 7, 2, draws)} == {(7, 2, None)}
        check_files(episodes[:20], read)
    if name.startswith("ytvis"):
        assert draw_episodes(read, 1, 5, 1) == sample_episodes(read.query, 1, 5, name.removeprefix("ytvis-"), 1)


def test_frames_of_another_dataset_have_both_class_ids_and_whole_batches(data):
    read = read_benchmark(replace(BENCHMARKS["pascal2minivspw"], per_run=10, batch=5), 0, data)
    first, second = (draw_episodes(read, 2, run=run) for run in (0, 1))
    about = ("minivspw", 57, "kind_1", "pascal", 1)
    assert {(e.corpus, e.class_id, e.class_name, e.support_corpus, e.support_class) for e in first + second} == {about}
    check_files(first, read)
    # Six frames an epoch, four of 10_b and two of 9_a; batches of five, runs of ten.
    assert [(e.query[0], len(e.query), e.batch) for e in second] == [
        ("9_a/8", 2, 0), ("10_b/8", 3, 0), ("10_b/11", 1, 1), ("9_a/8", 2, 1), ("10_b/8", 2, 1),
    ]  # fmt: skip
    assert second[1].support == second[2].support  # continued, not sampled again


def _sample(name, root):
    """The episodes, and whether the global generators stay as they are (in a process without a type checker)."""
    before = random.getstate(), np.random.get_state()[1].tolist()
    read = read_benchmark(name, 0, root)
    episodes = [draw_episodes(read, 1, 3, 1, draws) for draws in ("released", "independent")]
    return episodes, before == (random.getstate(), np.random.get_state()[1].tolist())


def test_another_process_samples_the_same(data):
    names = ("pascal", "ytvis-v2", "minivspw", "pascal2minivspw", "pascal2davis")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        there = list(pool.map(_sample, names, [data] * len(names)))
    assert all(unchanged for _, unchanged in there)
    assert [episodes for episodes, _ in there] == [_sample(name, data)[0] for name in names]


def test_a_class_with_too_few_videos_is_raised_or_reported_once():
    query = fold(shows={1: ["v0", "v1", "v2"], 5: ["v0", "v1"]})
    data = BenchmarkData(BENCHMARKS["ytvis-v1"], query, query, Path("nowhere"), Path("nowhere"))
    for draws in ("released", "independent"):
        with pytest.raises(ValueError, match="class 5 kind_5"):
            draw_episodes(data, 2, draws=draws)
        errors = []
        assert {e.class_id for e in draw_episodes(data, 2, run=3, draws=draws, on_error=errors.append)} == {1}
        assert len(errors) == 1
    assert draw_episodes(data, 3, on_error=errors.append) == () and "(kind_1, kind_5)" in str(errors[-1])
    for wrong in ({"shots": 0}, {"run": -1}, {"run": 2**31}, {"seed": -1}, {"draws": "random"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            draw_episodes(data, **{"shots": 1, **wrong})

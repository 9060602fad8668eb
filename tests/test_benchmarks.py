"""A benchmark's name stands for datasets, classes, sampling and size; its data are found, read and sampled."""

import random
from concurrent.futures import ProcessPoolExecutor

import pytest
from corpora import block, davis, minivspw, pascal, vspw, ytvis
from tasks import FRESH

from ttilib.datasets.catalog import find_dataset, read_table
from ttilib.episodes.benchmarks import BENCHMARKS, draw_episodes, find_roots, read_benchmark
from ttilib.episodes.episode import sample_episodes
from ttilib.files import write_json


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
    shows = {"aa": [[1], [1, 2]], "bb": [[1, 5], [5]], "cc": [[], [1]], "dd": [[5], [5]], "ee": [[1, 5]]}
    ytvis(root / "youtube-vis", shows)
    one, two = block(41, 2, 2, 8, 8), block(41, 2, 2, 8, 8) + block(45, 2, 14, 8, 8)
    videos = {"2_a": [one] * 3, "10_b": [one, two], "11_c": [two, two, one], "12_d": [block(53, 3, 3, 8, 8)] * 2}
    vspw(root / "VSPW_480p", videos)
    table = read_table("vspw", root / "VSPW_480p")
    write_json(root / "VSPW_480p" / "lists.json", {**table, "base": [[49]], "validation": [[53]]})
    some, other = [block(57, 2, 2, 3, 3), block(12, 2, 2, 8, 8), block(57, 2, 4, 5, 5)], [block(57, 3, 3, 8, 8)]
    seen = {"9_a": some, "10_b": other * 4, "118_fgmRMeHommU": other}  # the release leaves the last one out
    minivspw(root / "MiniVSPW", seen, {"kind_1": "57", "wall": "12"})
    write_json(root / "DAVIS" / "lists.json", {"classes": {"1": "kind_1", "4": "kind_4"}, "novel": [[1], [], [], [4]]})
    davis(root / "DAVIS", {"bear": [block(1, 2, 2, 8, 8)] * 2, "cow": [block(4, 2, 2, 8, 8)] * 2})
    return root


def test_every_benchmark_has_a_class_table():
    for plan in BENCHMARKS.values():
        if plan.query != "minivspw":  # its table comes with the dataset
            assert len(read_table("coco" if plan.query == "coco-full" else plan.query, novel=plan.novel)["novel"]) == 4


def test_a_dataset_may_be_given_by_its_own_folder(data, tmp_path):
    assert find_roots("pascal", data / "voc") == (data / "voc", data / "voc")
    both = (data / "DAVIS", data / "voc")
    assert find_roots("pascal2davis", data) == find_roots("pascal2davis", data / "DAVIS", data / "voc") == both
    assert find_roots("pascal2davis", data, data) == find_roots("pascal2davis", data / "DAVIS", data) == both
    # DAVIS has JPEGImages too, but that does not make it Pascal
    for name, root, word in ("ytvis-v1", tmp_path, "youtube-vis"), ("pascal2davis", data / "DAVIS", "no davis data"):
        with pytest.raises(FileNotFoundError, match=word):
            find_roots(name, root)


def test_the_benchmark_chooses_the_novel_classes(data):
    names = ("pascal", "coco2pascal", "coco2pascal-mended")
    assert [read_benchmark(name, 0, data).query.novel for name in names] == [(1,), (1, 2), (2,)]
    one = read_benchmark("minivspw", 0, data)
    assert one.query is one.support and one.query.repeats == 2
    validation = read_benchmark("minivspw-val", 0, data).query
    assert validation.novel == (53,) and validation.repeats == 1 and list(validation.presence[53]) == ["12_d"]
    crossed = read_benchmark("pascal2minivspw", 0, data)
    episodes, about = draw_episodes(crossed, 2)[:200], ("minivspw", 57, "kind_1", "pascal", 1)
    assert {(e.corpus, e.class_id, e.class_name, e.support_corpus, e.support_class) for e in episodes} == {about}
    assert {batch: sum(len(e.query) for e in episodes if e.batch == batch) for batch in (0, 1)} == {0: 100, 1: 100}
    check_files(episodes[:20], crossed)
    assert crossed.query.frames == {"10_b": tuple(f"10_b/{n}" for n in range(8, 12)), "9_a": ("9_a/8", "9_a/10")}


def check_files(episodes, data):
    """Every frame that is named is there, and every support frame contains the class."""
    query = find_dataset(data.query.corpus).reader(data.query_root)
    support = find_dataset(data.support.corpus).reader(data.support_root)
    for episode in episodes:
        for frame in set(episode.support):
            mask = support.mask(frame, episode.support_id)
            assert support.image(frame).shape[:2] == mask.shape and (mask == 1).any()
        for frame in episode.query:
            assert query.image(frame).shape[:2] == query.mask(frame, episode.class_id).shape
        assert episode.video not in {frame.split("/")[0] for frame in episode.support}


@pytest.mark.parametrize(
    ("name", "shots", "released", "independent"),
    [("pascal", 2, 1000, 4), ("ytvis-v1", 2, 3, 7), ("ytvis-v2", 2, 3, 7), ("minivspw", 1, 6, 6),
     ("pascal2davis", 2, 1, 1)],
)  # fmt: skip
def test_from_folder_to_episodes(name, shots, released, independent, data):
    read = read_benchmark(name, 0, data)
    for draws, count in (("released", released), ("independent", independent)):
        episodes = draw_episodes(read, shots, draws=draws)
        assert len(episodes) == count and draw_episodes(read, shots, 2021, draws=draws) != episodes
        assert {(e.seed, e.run, e.batch) for e in draw_episodes(read, shots, 7, 2, draws)} == {(7, 2, None)}
        check_files(episodes[:20], read)
    if name.startswith("ytvis"):
        assert draw_episodes(read, 1, 5, 1) == sample_episodes(read.query, 1, 5, name.removeprefix("ytvis-"), 1)


def _sample(name, root):
    before, read = random.getstate(), read_benchmark(name, 0, root)
    episodes = [draw_episodes(read, 1, 3, 1, draws) for draws in ("released", "independent")]
    return episodes, before == random.getstate()  # in this process the type checker moves it


def test_another_process_samples_the_same_in_any_order(data):
    names = ("pascal", "ytvis-v2", "minivspw", "pascal2minivspw", "pascal2davis")
    with ProcessPoolExecutor(1, FRESH) as pool:
        there = list(pool.map(_sample, names[::-1], [data] * len(names)))
    assert there[::-1] == [(_sample(name, data)[0], True) for name in names]

"""Rows by hand; nothing is predicted twice; stored masks suffice to make every row again; cost is measured."""

import time
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from corpora import ytvis
from tasks import toy_encoder

import ttilib as tti
from ttilib.episodes.clips import Clip
from ttilib.episodes.episode import Episode, write_episodes
from ttilib.results import evaluation
from ttilib.results.evaluation import Cost, EpisodeResult, evaluate, measured, rescore, score_group
from ttilib.results.metrics import METRICS, Metric
from ttilib.results.records import RowsFile, append_masks, append_row, masks_beside, read_masks, read_rows, write_index
from ttilib.results.tables import score_table
from ttilib.solver import methods
from ttilib.solver.extraction import FeatureExtractor
from ttilib.solver.methods import METHODS, Prediction, TransductiveMethod, read_method
from ttilib.sweep.tasks import Task, finish, is_done

MADE = {"ttilib": "0.1.0", "code": "c0de", "weights": "beef"}


def strip(*frames: str) -> torch.Tensor:
    """Frames of one row of pixels: "xx.." has two pixels marked."""
    return torch.tensor([[[pixel == "x" for pixel in frame]] for frame in frames])


def result(video, truth, masks, index=0, valid=None, memory=64.0):
    names = tuple(f"{video}/{t}" for t in range(len(masks)))
    episode = Episode("ytvis", 2, 7, "cat", ("s/0", "s/1"), names, seed=2020, run=1)
    size = tuple(masks.shape[1:])
    known = torch.ones_like(masks) if valid is None else valid
    support = (torch.zeros(2, 3, *size), *torch.ones(2, 2, *size, dtype=torch.bool), ("s/0", "s/1"))
    clip = Clip(episode.name, "cat", *support, torch.zeros(len(masks), 3, *size), known, names, truth)
    return EpisodeResult(episode, index, clip, masks, 1.5, memory)


def first():
    return result("A", strip("xx..", "xx..", "xx.."), strip("xx..", "x...", "xx.."), index=4)


def second():
    """Its false pixel on the left is ignored."""
    valid, truth = ~strip("x...", "x...", "x...", "x..."), strip("...x", "...x", "...x", "...x")
    return result("B", truth, strip("x..x", "...x", "...x", "...."), 5, valid, memory=None)


@pytest.fixture
def windows_of_two(monkeypatch):
    """VC over two frames in place of the windows of the tables."""
    others = {name: metric for name, metric in METRICS.items() if "VC" not in name}
    for name, key in (("VC_3", "vc_2"), ("VC_3 released", "released_vc_2")):
        others[key] = replace(METRICS[name], name=key, key=key, score=partial(METRICS[name].score, k=2))
    monkeypatch.setattr(evaluation, "METRICS", others)


def rows_of(*results):
    return score_group("ytvis-v1", "resnet50", "TTI window=5", results, MADE)


def test_rows_by_hand(windows_of_two):
    (row,) = rows_of(first())
    assert row == {
        "benchmark": "ytvis-v1", "encoder": "resnet50", "method": "TTI window=5", "fold": 2, "run": 1, "shots": 2,
        "seed": 2020, "episode": "ytvis/f2/cat/A", "index": 4, "key": first().episode.key, "class_id": 7,
        "class_name": "cat", "video": "A", "frames": 3, "support_vanished": False, "intersection": 5, "union": 6,
        "predicted": 5, "true": 6, "intersections": [2, 1, 2], "unions": [2, 2, 2], "j": pytest.approx(5 / 6), "f": 1.0,
        "f_frames": [1.0] * 3, "vc_2": 0.5, "released_vc_2": pytest.approx(0.5), "seconds": 1.5, "memory_mb": 64.0,
        "made": MADE,
    }  # fmt: skip
    (row,) = rows_of(second())  # the ignored pixel is in neither count
    assert (row["intersections"], row["unions"]) == ([1, 1, 1, 0], [1, 1, 1, 1])
    assert (row["predicted"], row["true"], row["j"], row["f"]) == (3, 4, 0.75, 0.75)
    assert row["f_frames"] == [1.0, 1.0, 1.0, 0.0] and row["memory_mb"] is None
    assert (row["vc_2"], row["released_vc_2"]) == pytest.approx((2 / 3, 1.0))  # windows 1, 1, 0; the last is missing
    (row,) = rows_of(result("A", strip("....", "...."), strip("....", "....")))  # undefined is None
    assert [row[name] for name in ("intersection", "union", "j", "f", "vc_2", "released_vc_2")] == [0, 0, 1, 1, None, 0]


def test_in_a_group_the_released_consistency_looks_at_the_first_frames_of_the_group(windows_of_two):
    a, b = rows_of(first(), second())
    assert a["released_vc_2"] == b["released_vc_2"] == pytest.approx(0.5)  # A's windows at 0 and 1, for both
    assert [row["released_vc_2"] for row in rows_of(second(), first())] == pytest.approx([1.0, 1.0])
    for grouped, alone in ((a, rows_of(first())[0]), (b, rows_of(second())[0])):
        assert grouped | {"released_vc_2": 0} == alone | {"released_vc_2": 0}
    twice = [first(), result("A", strip("x...", "x..."), strip("....", "...."), index=6)]
    # one video of five frames to the release: its windows at 0, 1, 2 find 1/2, 1/2, 0
    assert [row["released_vc_2"] for row in rows_of(*twice)] == pytest.approx([(1 / 2 + 1 / 2 + 0) / 3] * 2)


SIZE = (33, 57)
FRAMES = {f"v{n}": [[1]] * (7 - n % 2) for n in range(4)}
TEXTS = ("fine-tune steps=3", "TTI steps=3", "TTI steps=3 centring=episode")


@pytest.fixture(scope="module")
def sampled(tmp_path_factory):
    """Data of fold 0 and three episodes, the last two of which are solved together."""
    data = tti.read_benchmark("ytvis-v1", 0, ytvis(tmp_path_factory.mktemp("data") / "ytvis", FRAMES, classes=4))
    return data, [replace(e, batch=0) if n else e for n, e in enumerate(tti.draw_episodes(data, 1))]


class Slow:
    used = 0

    def __call__(self, images):
        self.used += 1
        time.sleep(0.02)
        return toy_encoder(images)


def evaluated(sampled, indices=(0, 1, 2), texts=TEXTS, rows=None, **more):
    data, episodes = sampled
    encoder, methods = Slow(), [read_method(text) for text in texts]
    run = {0: FeatureExtractor(encoder, "w31ght5")}, {0: data}, SIZE, "mine", "toy", rows
    return evaluate({i: episodes[i] for i in indices}, methods, *run, **more), encoder


def same(rows):
    return [{k: v for k, v in row.items() if k not in ("seconds", "memory_mb")} for row in rows]


def test_every_method_predicts_every_episode_and_features_are_shared(sampled, tmp_path, monkeypatch):
    @contextmanager
    def cost(device):
        yield Cost(1.0, 5.0)

    monkeypatch.setattr(evaluation, "measured", cost)
    path = tmp_path / "out" / "rows" / "r.jsonl"
    found, encoder = evaluated(sampled, rows=path)
    rows, used = list(found), encoder.used
    assert [(row["index"], row["method"]) for row in rows] == [
        *((0, text) for text in TEXTS), *((n, text) for text in TEXTS for n in (1, 2))
    ]  # fmt: skip
    found, encoder = evaluated(sampled, texts=(*TEXTS[1:], TEXTS[1].replace("=", " = ")))  # the same method twice
    assert same(found) == same([row for row in rows if row["method"] in TEXTS[1:]])
    assert used == encoder.used  # two of the three methods share their features
    assert all(row["seconds"] >= 1.04 for row in rows)  # prediction, and the features of support and query
    clip = tti.load_clip(sampled[1][1], sampled[0].query_root, SIZE)
    features = sum(toy_encoder(frame[None]).nbytes for frame in clip.query)
    assert rows[5]["memory_mb"] == pytest.approx(5 + features / 10**6)
    assert read_rows(path) == rows and {row["made"]["weights"] for row in rows} == {"w31ght5"}
    masks = read_masks(masks_beside(path), sampled[1][1].key, rows[5]["index"], rows[5]["method"])
    assert rows[5]["intersection"] == int((masks & clip.truth & clip.query_valid).sum())


def test_methods_that_differ_after_the_optimization_share_it(sampled, monkeypatch):
    texts = "TTI steps=3", "TTI+keyframe steps=3 refine_steps=4", "TTI steps=3 cut=0.1", "TTI steps=4"
    alone = [row for text in texts for row in evaluated(sampled, (0,), (text,))[0]]
    monkeypatch.setattr(methods, "solve", solve := Mock(wraps=methods.solve))
    monkeypatch.setattr(methods, "refine_solution", refine := Mock(wraps=methods.refine_solution))
    together = list(evaluated(sampled, (0,), texts)[0])
    assert same(together) == same(alone) and len({row["predicted"] for row in alone}) == 4
    assert solve.call_count == 2
    assert not any(call.args[1].history for call in refine.call_args_list)  # copies of features are not kept

    class Nothing(TransductiveMethod):
        def predict(self, clip, extractor, ground_truth=None):
            return Prediction(torch.zeros(len(clip.query), *clip.size, dtype=torch.bool))

    monkeypatch.setitem(METHODS, "nothing", Nothing("nothing"))  # of a user, by the settings of TTI
    assert [row["predicted"] > 0 for row in evaluated(sampled, (0,), ("TTI", "nothing"))[0]] == [True, False]
    costs = [Cost(seconds, memory) for seconds, memory in ((8, 5), (1, 6), (2, 3), (4, None), (16, 7), (32, 9))]
    monkeypatch.setattr(evaluation, "measured", lambda device: nullcontext(costs.pop(0)))
    rows = list(evaluated(sampled, (0,), texts)[0])
    assert [int(row["seconds"]) for row in rows] == [9, 10, 12, 48]  # the optimization counts for each method
    base = rows[0]["memory_mb"] - 6
    assert [row["memory_mb"] for row in rows] == [base + 6, base + 5, None, base + 9]


def test_recorded_rows_are_returned_and_not_made_again(sampled, tmp_path, monkeypatch):
    path = tmp_path / "out" / "rows" / "r.jsonl"
    complete = list(evaluated(sampled)[0])
    stopped, _ = evaluated(sampled, texts=TEXTS[1:2], rows=path)
    next(stopped), next(stopped)
    stopped.close()  # after the second row; its group was recorded completely
    assert len(read_rows(path)) == 3
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))  # killed in the middle of the group
    rows = list(evaluated(sampled, rows=path)[0])
    assert same(rows) == same(complete) and len(read_rows(path)) == 9 == len({(r["key"], r["method"]) for r in rows})
    monkeypatch.setattr(evaluation, "load_clip", None)  # nothing is read any more
    assert list(evaluated(sampled, rows=path)[0]) == rows


def test_an_episode_that_cannot_be_read_or_solved_is_left_out_until_it_can(sampled, tmp_path, monkeypatch):
    def load(episode, *rest, **more):
        if episode == sampled[1][2]:
            raise OSError("v.jpg: broken")
        return tti.load_clip(episode, *rest, **more)

    class Failing:
        name, pipeline = "failing", read_method("TTI").pipeline

        def predict(self, clip, extractor, truth):
            if clip.name == sampled[1][1].name:
                raise RuntimeError("out of memory")
            return read_method("fine-tune").predict(clip, extractor)

    monkeypatch.setattr(evaluation, "load_clip", load)
    monkeypatch.setitem(METHODS, "failing", Failing())
    with pytest.raises(ValueError, match=sampled[1][1].name):
        list(evaluated(sampled, texts=("failing",))[0])
    problems = []
    rows = evaluated(sampled, texts=(TEXTS[0], "failing"), on_problem=problems.append)[0]
    assert [row["index"] for row in rows] == [0, 0]
    for error, episode, word in zip(problems, sampled[1][1:], ("out of memory", "v.jpg"), strict=True):
        assert str(error).startswith(f"episode {episode.name}: ") and word in str(error)
    path = tmp_path / "out" / "rows" / "r.jsonl"
    batch = Metric("batch", lambda masks, truth, valid, videos: dict.fromkeys(videos, len(masks)), grouped=True)
    monkeypatch.setitem(METRICS, "batch", batch)
    rows = evaluated(sampled, texts=TEXTS[1:2], rows=path, on_problem=problems.append)[0]
    assert [row["batch"] for row in rows] == [7, 7]
    monkeypatch.setattr(evaluation, "load_clip", tti.load_clip)  # the file is repaired
    complete = same(evaluated(sampled, texts=TEXTS[1:2])[0])
    assert [row["batch"] for row in complete] == [7, 13, 13]
    with monkeypatch.context() as full_disk, pytest.raises(OSError, match="No space"):
        full_disk.setattr(evaluation, "write_text", Mock(side_effect=OSError("No space")))
        list(evaluated(sampled, texts=TEXTS[1:2], rows=path)[0])
    assert same(evaluated(sampled, texts=TEXTS[1:2], rows=path)[0]) == same(read_rows(path)) == complete


def test_an_episode_whose_support_vanishes_counts_with_background_only(sampled, monkeypatch):
    def load(episode, *rest, **more):
        clip = tti.load_clip(episode, *rest, **more)
        tiny = torch.zeros_like(clip.support_masks)
        tiny[:, 1, 1] = True  # between the pixels that make the mask at feature size
        return replace(clip, support_masks=tiny) if episode == sampled[1][0] else clip

    monkeypatch.setattr(evaluation, "load_clip", load)
    first, second, _ = evaluated(sampled, texts=TEXTS[1:2])[0]
    assert (first["support_vanished"], first["predicted"], first["j"]) == (True, 0, 0.0) and first["true"] > 0
    assert not second["support_vanished"] and second["predicted"] > 0


@pytest.fixture
def run(tmp_path, sampled):
    """A run folder with rows and masks of three episodes, two of them solved together, by two methods."""
    data, episodes = sampled
    out, generator = tmp_path / "out", torch.Generator().manual_seed(1)
    rows, manifest = out / "rows" / "r.jsonl", out / "episodes" / "m.json"
    write_episodes(manifest, episodes)
    clips = [tti.load_clip(episode, data.query_root, SIZE) for episode in episodes]
    for indices in ((0,), (1, 2)):
        for method in ("A", "B"):
            masks = {n: torch.rand(clips[n].truth.shape, generator=generator) < 0.7 for n in indices}
            results = [EpisodeResult(episodes[n], n, clips[n], masks[n], 1.5, 2.0) for n in indices]
            made = {"code": "c", "metrics": "old"}
            for each, row in zip(results, score_group("mine", "toy", method, results, made), strict=True):
                append_masks(masks_beside(rows), row, each.masks)
                append_row(rows, row | {"remark": f"by hand {row['index']}"})
    lines = [{"benchmark": "mine", "shots": 1, "encoder": "toy", "method": method} for method in "AB"]
    write_index(out, "t", "title", lines, [RowsFile(rows, manifest, "ytvis-v1", SIZE)], {})
    return out, data.query_root.parent, rows


def test_rows_scored_again_are_those_that_were_scored_first_with_new_metrics(run, monkeypatch):
    out, root, path = run
    before = read_rows(path)
    path.unlink()
    for row in before:  # two fields are lost, one is of no metric
        append_row(path, {name: value for name, value in row.items() if name not in ("j", "f_frames")})
    task = Task("k", "name", "n.ipynb", str(path), {}, 1.0, parts=("A", "B"), rows=str(path), episodes=3)
    finish(out, task, {})
    monkeypatch.setitem(METRICS, "share", Metric("share", lambda masks, ground_truth, valid: float(np.mean(masks))))
    assert rescore(out, "t", root) == 6
    rows = read_rows(path)
    for row, old in zip(rows, before, strict=True):
        assert {name: row[name] for name in old} == old | {"made": row["made"]} and row["remark"] == old["remark"]
        assert row["made"]["code"] == "c" and row["made"]["metrics"] != "old"
    assert len({row["released_vc_3"] for row in rows}) > 1
    mean = np.mean([row["share"] for row in rows if row["method"] == "A"])
    assert score_table(rows).set_index("method").loc["A", "share"] == pytest.approx(100 * mean) and 0.6 < mean < 0.8
    assert is_done(out, task)


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # of pycocotools; pytest.warns repeats it as its own
def test_rows_without_masks_and_masks_without_rows(run):
    out, root, path = run
    masks = masks_beside(path)
    lines, complete = path.read_text().splitlines(keepends=True), masks.read_text()
    path.write_text("".join(lines[:-1]))
    with pytest.warns(UserWarning, match="1 stored masks"):
        assert rescore(out, "t", root) == 5
    masks.write_text("".join(complete.splitlines(keepends=True)[1:]))
    with pytest.raises(ValueError, match=r"r\.jsonl: 1 of 5 rows"):
        rescore(out, "t", root)


def test_cost_is_the_time_and_the_peak_above_the_start_or_none(tmp_path, monkeypatch):
    def status(resident, peak):
        (tmp_path / "status").write_text(f"Name: python\nVmHWM:\t {peak} kB\nVmRSS:\t  {resident} kB\n")

    monkeypatch.setattr(evaluation, "SELF", tmp_path)  # in place of /proc/self
    for resident, peak, megabytes in ((1000, 3000, 2.048), (3000, 2000, 0.0)):
        status(resident, 9000)
        with measured("cpu") as cost:
            assert (tmp_path / "clear_refs").read_text() == "5"  # resets the peak
            status(0, peak)
        assert cost.memory_mb == megabytes
    monkeypatch.setattr(evaluation, "SELF", tmp_path / "no such folder")  # as on other systems
    with measured("cpu") as cost:
        time.sleep(0.01)
    assert cost.seconds >= 0.01 and cost.memory_mb is None

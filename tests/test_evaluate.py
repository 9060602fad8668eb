"""The loop over episodes and methods: nothing is done twice, and stored masks are enough to make every row again."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from corpora import ytvis
from tasks import toy_encoder

import ttilib as tti
from ttilib.episodes.episode import write_episodes
from ttilib.results import evaluation
from ttilib.results.evaluation import EpisodeResult, evaluate, rescore, score_group
from ttilib.results.metrics import METRICS, Metric
from ttilib.results.records import (
    RowsFile,
    append_masks,
    append_row,
    masks_beside,
    read_masks,
    read_rows,
    write_index,
)
from ttilib.results.tables import score_table
from ttilib.solver.extraction import FeatureExtractor
from ttilib.solver.methods import read_method
from ttilib.sweep.tasks import Task, finish, is_done

SIZE = (33, 57)


SHOWS = {f"v{n}": [[1]] * (7 - n % 2) for n in range(4)}


@pytest.fixture
def drawn(tmp_path):
    """Data of fold 0 and three episodes, the last two of which are solved together."""
    data = tti.read_benchmark("ytvis-v1", 0, ytvis(tmp_path / "data" / "ytvis", SHOWS, classes=4))
    return data, [replace(e, batch=0) if n else e for n, e in enumerate(tti.draw_episodes(data, 1))]


class Slow:
    """A toy encoder that takes a tenth of a second and counts how often it is used."""

    used = 0

    def __call__(self, images):
        self.used += 1
        time.sleep(0.1)
        return toy_encoder(images)


TEXTS = ("fine-tune steps=3", "TTI steps=3", "TTI steps=3 centring=episode")


def run_it(drawn, places=(0, 1, 2), texts=TEXTS, **more):
    data, episodes = drawn
    encoder, chosen = Slow(), [read_method(text) for text in texts]
    extractors = {0: FeatureExtractor(encoder, "w31ght5")}
    rows = evaluate({p: episodes[p] for p in places}, chosen, extractors, {0: data}, SIZE, "mine", "toy", **more)
    return list(rows), encoder.used


def same(rows):
    return [{k: v for k, v in row.items() if k not in ("seconds", "memory_mb")} for row in rows]


def test_every_method_answers_every_episode_and_features_are_shared(drawn, tmp_path):
    path = tmp_path / "out" / "rows" / "r.jsonl"
    rows, used = run_it(drawn, rows=path)
    assert [(row["method"].split("=")[-1], row["index"]) for row in rows] == [
        *((m, 0) for m in ("3", "3", "episode")), *((m, n) for m in ("3", "3", "episode") for n in (1, 2)),
    ]  # fmt: skip
    assert 0 < used == run_it(drawn, texts=TEXTS[1:])[1]  # two of the three methods share theirs
    assert all(0.2 < row["seconds"] < 60 for row in rows)  # every method is charged for its support and query
    assert read_rows(path) == rows and {row["made"]["weights"] for row in rows} == {"w31ght5"}
    alone = [row for place in (0, 1, 2) for row in run_it(drawn, places=(place,))[0]]
    key = lambda row: (row["index"], row["method"])  # noqa: E731
    for row, other in zip(sorted(rows, key=key), sorted(alone, key=key), strict=True):
        released = {name for name in row if name.startswith("released")}  # of the batch
        (row,), (other,) = same([row]), same([other])
        assert {k: row[k] for k in row.keys() - released} == {k: other[k] for k in row.keys() - released}
    episode = drawn[1][1]
    masks = read_masks(masks_beside(path), episode.key, 1, "TTI steps=3")
    clip = tti.load_clip(episode, drawn[0].query_root, SIZE)
    row = next(row for row in rows if key(row) == (1, "TTI steps=3"))
    assert row["intersection"] == int((masks & clip.truth & clip.query_valid).sum())


def test_what_is_recorded_is_given_back_and_not_made_again(drawn, tmp_path, monkeypatch):
    path = tmp_path / "out" / "rows" / "r.jsonl"
    whole, _ = run_it(drawn)
    chosen, extractors = [read_method("TTI steps=3")], {0: FeatureExtractor(Slow(), "w31ght5")}
    first = evaluate(dict(enumerate(drawn[1])), chosen, extractors, {0: drawn[0]}, SIZE, "mine", "toy", path)
    next(first), next(first)
    first.close()  # stopped after the second row; the group was recorded as a whole
    assert len(read_rows(path)) == 3
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))  # killed in the middle of the group
    rows, _ = run_it(drawn, rows=path)
    assert same(rows) == same(whole) and len(read_rows(path)) == 9 == len({(r["key"], r["method"]) for r in rows})
    monkeypatch.setattr(evaluation, "load_clip", None)  # nothing is read any more
    assert run_it(drawn, rows=path)[0] == rows


def test_an_episode_that_cannot_be_read_is_reported_and_left_out(drawn):
    data, episodes = drawn
    frame = data.query_root / "train" / "JPEGImages" / f"{episodes[2].query[1]}"
    (frame if frame.is_file() else frame.with_suffix(".jpg")).unlink()
    with pytest.raises(ValueError, match=episodes[2].name):
        run_it(drawn)
    problems = []
    rows, _ = run_it(drawn, on_problem=problems.append)
    assert {row["index"] for row in rows} == {0, 1} and len(rows) == 6
    assert len(problems) == 1 and str(problems[0]).startswith(f"episode {episodes[2].name}: ")


@pytest.fixture
def run(tmp_path, drawn):
    """A run folder with rows and masks of three episodes, two of them solved together, by two methods."""
    data, episodes = drawn
    out, generator = tmp_path / "out", torch.Generator().manual_seed(1)
    rows, manifest = out / "rows" / "r.jsonl", out / "episodes" / "m.json"
    write_episodes(manifest, episodes)
    clips = [tti.load_clip(episode, data.query_root, SIZE) for episode in episodes]
    for places in ((0,), (1, 2)):
        for method in ("A", "B"):
            answers = [
                EpisodeResult(
                    episodes[n], n, clips[n], torch.rand(clips[n].truth.shape, generator=generator) < 0.7, 1.5, 2.0
                )
                for n in places
            ]
            made = {"code": "c", "metrics": "old"}
            for answer, row in zip(answers, score_group("mine", "toy", method, answers, made), strict=True):
                append_masks(masks_beside(rows), row, answer.masks)
                append_row(rows, row)
    lines = [{"benchmark": "mine", "shots": 1, "encoder": "toy", "method": method} for method in "AB"]
    write_index(out, "t", "title", lines, [RowsFile(rows, manifest, "ytvis-v1", SIZE)], {})
    return out, tmp_path / "data"


def without_made(rows):
    return [{name: value for name, value in row.items() if name != "made"} for row in rows]


def test_rows_scored_again_are_those_that_were_scored_first(run):
    out, root = run
    before = read_rows(out / "rows" / "r.jsonl")
    assert rescore(out, "t", root) == 6
    after = read_rows(out / "rows" / "r.jsonl")
    assert without_made(after) == without_made(before)
    made = [row["made"] for row in after]
    assert all(about["code"] == "c" and about["metrics"] != "old" for about in made)
    assert len({row["released_vc_3"] for row in after}) > 1


def test_a_metric_of_ones_own_and_a_lost_field_come_from_the_masks(run, monkeypatch):
    out, root = run
    path = out / "rows" / "r.jsonl"
    before = read_rows(path)
    path.unlink()
    for row in before:
        append_row(path, {name: value for name, value in row.items() if name not in ("j", "f_frames")})
    share = Metric("share", lambda masks, ground_truth, valid: float(np.mean(masks)))
    monkeypatch.setitem(METRICS, "share", share)
    rescore(out, "t", root)
    rows = read_rows(path)
    assert [{name: row[name] for name in old if name != "made"} for row, old in zip(rows, before, strict=True)] == (
        without_made(before)
    )
    table = score_table(rows).set_index("method")
    shares = [row["share"] for row in rows if row["method"] == "A"]
    assert table.loc["A", "share"] == pytest.approx(100 * np.mean(shares))
    assert 60 < table.loc["A", "share"] < 80


def test_a_task_whose_rows_were_scored_again_is_still_done(run, monkeypatch):
    out, root = run
    path = out / "rows" / "r.jsonl"
    task = Task("k", "name", "n.ipynb", str(path), {}, 1.0, parts=("A", "B"), rows=str(path))
    finish(out, task, {})
    share = Metric("share", lambda masks, ground_truth, valid: float(np.mean(masks)))
    monkeypatch.setitem(METRICS, "share", share)
    size = path.stat().st_size
    rescore(out, "t", root)
    assert path.stat().st_size > size and is_done(out, task)
    path.write_text(path.read_text().replace('"intersection": ', '"intersection": 1', 1))
    assert not is_done(out, task)


def test_rows_without_masks_and_masks_without_rows(run):
    out, root = run
    path = out / "rows" / "r.jsonl"
    masks = masks_beside(path)
    lines, whole = path.read_text().splitlines(keepends=True), masks.read_text()
    path.write_text("".join(lines[:-1]))
    with pytest.warns(UserWarning, match="1 stored masks have no row"):
        assert rescore(out, "t", root) == 5
    masks.write_text("".join(whole.splitlines(keepends=True)[1:]))
    with pytest.raises(ValueError, match=r"r\.jsonl: 1 of 5 rows have no masks, such as .* by 'A'; evaluate"):
        rescore(out, "t", root)
    masks.write_text(whole)
    write_episodes(out / "episodes" / "m.json", [])
    with pytest.raises(ValueError, match="not in the manifest"):
        rescore(out, "t", root)
    path.unlink()  # a line of the table that was never run
    assert rescore(out, "t", root) == 0

"""Masks on disk are enough to make every row again, with metrics that came later."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from corpora import ytvis

import ttilib as tti
from ttilib.episodes.episode import write_episodes
from ttilib.results.evaluation import Answer, rescore, score_group
from ttilib.results.metrics import METRICS, Metric
from ttilib.results.records import Source, append_masks, append_row, masks_beside, read_rows, write_index
from ttilib.results.tables import score_table

SIZE = (33, 57)


@pytest.fixture
def run(tmp_path):
    """A run folder with rows and masks of three episodes, two of them solved together, by two methods."""
    root = ytvis(tmp_path / "data" / "ytvis", {f"v{n}": [[1], [1], [], [1], [1]][: 5 - n % 2] for n in range(4)}, classes=4)
    data = tti.read_benchmark("ytvis-v1", 0, root)
    episodes = tuple(replace(e, batch=0) if n else e for n, e in enumerate(tti.draw_episodes(data, 1)))
    out, generator = tmp_path / "out", torch.Generator().manual_seed(1)
    rows, manifest = out / "rows" / "r.jsonl", out / "episodes" / "m.json"
    write_episodes(manifest, episodes)
    clips = [tti.load_clip(episode, data.query_root, SIZE) for episode in episodes]
    for places in ((0,), (1, 2)):
        for method in ("A", "B"):
            answers = [
                Answer(episodes[n], n, clips[n], torch.rand(clips[n].truth.shape, generator=generator) < 0.7, 1.5, 2.0)
                for n in places
            ]
            made = {"code": "c", "metrics": "old"}
            for answer, row in zip(answers, score_group("mine", "toy", method, answers, made), strict=True):
                append_masks(masks_beside(rows), row, answer.masks)
                append_row(rows, row)
    lines = [{"benchmark": "mine", "shots": 1, "encoder": "toy", "method": method} for method in "AB"]
    write_index(out, "t", "title", lines, [Source(rows, manifest, "ytvis-v1", SIZE)], {})
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

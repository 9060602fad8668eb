"""A row holds what tables need, by counts done by hand, and sees the group in which the release solved the episode."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from ttilib.episodes.clips import Clip
from ttilib.episodes.episode import Episode
from ttilib.results import evaluation
from ttilib.results.evaluation import EpisodeResult, score_group
from ttilib.results.metrics import (
    METRICS,
    Metric,
    boundary_f,
    region_similarity,
    released_video_consistency,
    video_consistency,
)
from ttilib.results.records import append_row, read_rows

MADE = {"ttilib": "0.1.0", "code": "c0de", "weights": "beef"}


def strip(*frames: str, mark: str = "x") -> torch.Tensor:
    """Frames of one row of pixels: "xx.." has two pixels marked."""
    return torch.tensor([[[pixel == mark for pixel in frame]] for frame in frames])


def answer(video, truth, masks, index=0, valid=None, seconds=1.5, memory=64.0, class_id=7, **more) -> EpisodeResult:
    names = tuple(f"{video}/{t}" for t in range(len(masks)))
    episode = Episode("ytvis", 2, class_id, "cat", ("s/0", "s/1"), names, seed=2020, run=1, **more)
    size, still = tuple(masks.shape[1:]), torch.zeros(2, 3, *masks.shape[1:])
    known = torch.ones_like(masks) if valid is None else valid
    shown = (still, torch.ones(2, *size, dtype=torch.bool), torch.ones(2, *size, dtype=torch.bool), ("s/0", "s/1"))
    clip = Clip(episode.name, "cat", *shown, torch.zeros(len(masks), 3, *size), known, names, truth)
    return EpisodeResult(episode, index, clip, masks, seconds, memory)


def first() -> EpisodeResult:
    return answer("A", strip("xx..", "xx..", "xx.."), strip("xx..", "x...", "xx.."), index=4)


def second() -> EpisodeResult:
    """Its false pixel on the left does not count."""
    valid, truth = ~strip("x...", "x...", "x...", "x..."), strip("...x", "...x", "...x", "...x")
    return answer("B", truth, strip("x..x", "...x", "...x", "...."), 5, valid, seconds=2.0, memory=None)


@pytest.fixture(autouse=True)
def windows_of_two(monkeypatch):
    """VC over two frames in place of the windows of the tables."""
    kept = {name: metric for name, metric in METRICS.items() if "VC" not in name}
    for released in (False, True):
        other = METRICS["VC_3 released" if released else "VC_3"]
        key = "released_vc_2" if released else "vc_2"
        kept[key] = replace(other, name=key, key=key, score=partial(other.score, k=2))
    monkeypatch.setattr(evaluation, "METRICS", kept)


def rows_of(*answers):
    return score_group("ytvis-v1", "resnet50", "TTI window=5", answers, MADE)


def test_a_row_by_hand():
    (row,) = rows_of(first())
    assert row == {
        "benchmark": "ytvis-v1", "encoder": "resnet50", "method": "TTI window=5", "fold": 2, "run": 1, "shots": 2,
        "seed": 2020, "episode": "ytvis/f2/cat/A", "index": 4, "key": first().episode.key, "class_id": 7,
        "class_name": "cat", "video": "A", "frames": 3, "intersection": 5, "union": 6, "predicted": 5, "true": 6,
        "intersections": [2, 1, 2], "unions": [2, 2, 2], "j": pytest.approx(5 / 6), "f": 1.0,
        "f_frames": [1.0, 1.0, 1.0], "vc_2": 0.5, "released_vc_2": pytest.approx(0.5), "seconds": 1.5,
        "memory_mb": 64.0, "made": MADE,
    }  # fmt: skip


def test_pixels_that_do_not_count_and_frames_without_an_answer():
    (row,) = rows_of(second())
    assert (row["intersections"], row["unions"]) == ([1, 1, 1, 0], [1, 1, 1, 1])
    assert (row["intersection"], row["union"], row["j"], row["f"]) == (3, 4, 0.75, 0.75)
    assert (row["predicted"], row["true"]) == (3, 4)  # the false pixel is in neither
    assert row["f_frames"] == [1.0, 1.0, 1.0, 0.0]
    assert row["vc_2"] == pytest.approx(2 / 3)  # windows 1, 1, 0
    assert row["released_vc_2"] == pytest.approx(1.0)  # its last window is missing
    assert (row["seconds"], row["memory_mb"]) == (2.0, None)


def test_in_a_group_the_released_consistency_looks_at_the_first_frames_of_the_group():
    a, b = rows_of(first(), second())
    assert (a["video"], b["video"]) == ("A", "B")
    assert a["released_vc_2"] == pytest.approx(0.5)
    assert b["released_vc_2"] == pytest.approx(0.5)  # of A's windows at 0 and 1, not of its own
    assert b["vc_2"] == pytest.approx(2 / 3)  # the definition knows no groups
    turned = {row["video"]: row for row in rows_of(second(), first())}
    assert turned["B"]["released_vc_2"] == pytest.approx(1.0) and turned["A"]["released_vc_2"] == pytest.approx(1.0)
    for grouped, alone in ((a, rows_of(first())[0]), (b, rows_of(second())[0])):
        same = grouped.keys() - {"released_vc_2"}
        assert {name: grouped[name] for name in same} == {name: alone[name] for name in same}


def test_a_video_that_comes_twice_in_a_group_is_one_video_to_the_release():
    twice = [first(), answer("A", strip("x...", "x..."), strip("....", "...."), index=6)]
    by_hand = released_video_consistency(
        torch.cat([a.masks for a in twice]), torch.cat([a.clip.truth for a in twice]), None, ["A"] * 5, 2
    )
    assert [row["released_vc_2"] for row in rows_of(*twice)] == [by_hand["A"]] * 2
    assert [row["frames"] for row in rows_of(*twice)] == [3, 2]


def test_figures_are_those_of_the_metrics_on_a_real_canvas(monkeypatch):
    monkeypatch.setattr(evaluation, "METRICS", METRICS)
    generator = torch.Generator().manual_seed(0)
    masks, truth, valid = (torch.rand(9, 33, 41, generator=generator) < share for share in (0.5, 0.6, 0.9))
    (row,) = score_group("b", "e", "RePRI", [answer("A", truth, masks, valid=valid)], MADE)
    assert row["j"] == pytest.approx(region_similarity(masks, truth, valid).mean(), rel=1e-12)
    assert row["f"] == pytest.approx(boundary_f(masks, truth, valid).mean(), rel=1e-12)
    assert row["f"] == pytest.approx(sum(row["f_frames"]) / 9)
    assert (sum(row["intersections"]), sum(row["unions"])) == (row["intersection"], row["union"])
    areas = int((masks & valid).sum()), int((truth & valid).sum())
    assert (row["predicted"], row["true"]) == areas
    for k in (3, 5, 7, 9, 11):
        defined, released = video_consistency(masks, truth, k, valid), row[f"released_vc_{k}"]
        assert row[f"vc_{k}"] == (None if defined != defined else defined)
        assert released == released_video_consistency(masks, truth, valid, [0] * 9, k)[0]


def test_what_is_undefined_is_none_and_a_row_is_plain_json(tmp_path):
    nothing = strip("....", "....")
    (row,) = rows_of(answer("A", nothing, nothing))
    assert row["vc_2"] is None and row["released_vc_2"] == 0.0
    assert (row["intersection"], row["union"], row["j"], row["f"]) == (0, 0, 1.0, 1.0)
    assert (row["predicted"], row["true"]) == (0, 0)
    append_row(tmp_path / "rows.jsonl", row)
    assert read_rows(tmp_path / "rows.jsonl") == [row]


def test_an_empty_group_has_no_rows():
    assert rows_of() == []


def test_an_episode_that_cannot_be_scored_is_named():
    blind = answer("C", None, strip("x..."))
    with pytest.raises(ValueError, match="episode ytvis/f2/cat/C: there is no ground truth"):
        rows_of(first(), blind)
    with pytest.raises(ValueError, match=r"episode ytvis/f2/cat/D: its frames are \(1, 3\), those of ytvis/f2/cat/A"):
        rows_of(first(), answer("D", strip("x.."), strip("x..")))
    short = answer("E", strip("x...", "x..."), strip("x...", "x..."))
    with pytest.raises(Exception, match="episode ytvis/f2/cat/E: masks, truth and valid|[Tt]ype-check"):
        rows_of(EpisodeResult(short.episode, 0, short.clip, short.masks[:1], 1.0))


def test_a_metric_is_one_entry_and_may_not_take_the_field_of_another(monkeypatch):
    absent = Metric("found nothing", lambda masks, truth, valid: float((~masks).all((1, 2)).mean()))
    monkeypatch.setitem(evaluation.METRICS, absent.name, absent)
    assert rows_of(second())[0]["found nothing"] == 0.25
    monkeypatch.setitem(evaluation.METRICS, "Frames", Metric("Frames", lambda *_: 1.0))
    with pytest.raises(ValueError, match="'Frames'.* another key"):
        rows_of(second())

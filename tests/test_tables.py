"""The chain of averages by hand; tables of runs, folds, classes and videos; the plan and what became of it."""

import math

import pandas as pd
import pytest

from ttilib.results import tables
from ttilib.results.metrics import METRICS, Metric, over_frames
from ttilib.results.statistics import intervals


def row(method="TTI", fold=0, run=0, episode="a", class_id=1, counts=(1, 2), frames=4, **more):
    return {
        "benchmark": "ytvis-v1", "shots": 5, "encoder": "resnet50", "method": method, "fold": fold, "run": run,
        "episode": episode, "class_id": class_id, "class_name": f"class {class_id}", "video": episode, "frames": frames,
        "intersection": counts[0], "union": counts[1], **more,
    }  # fmt: skip


# fold 0, run 0: class 1 pooled 4/12, class 2 1/2; run 1: class 1 only, 3/4; fold 1, run 0: class 3, 0/5
ROWS = [
    row(episode="a", counts=(1, 2), j=0.5, f=0.25, vc_3=0.5, vc_11=None, frames=1, seconds=1.0),
    row(episode="b", counts=(3, 10), j=0.1, f=0.75, vc_3=None, vc_11=None, frames=3, seconds=2.0),
    row(episode="c", counts=(1, 2), class_id=2, j=0.3, f=0.5, vc_3=0.1, vc_11=0.9, frames=8, seconds=6.0),
    row(episode="a", counts=(3, 4), run=1, j=0.6, f=0.1, vc_3=0.7, vc_11=0.2, frames=2, seconds=5.0),
    row(episode="d", counts=(0, 5), fold=1, class_id=3, j=0.0, f=0.0, vc_3=0.0, vc_11=0.0, seconds=2.0),
]


def only(table, **where):
    """The one line of a table with these values."""
    for key, value in where.items():
        table = table[table[key] == value]
    assert len(table) == 1
    return table.iloc[0]


def test_pixels_classes_runs_folds_in_that_order():
    line = only(tables.score_table(ROWS), method="TTI")
    run0, run1 = (4 / 12 + 1 / 2) / 2, 3 / 4
    assert line["mIoU"] == pytest.approx(100 * ((run0 + run1) / 2 + 0) / 2)
    dice0, dice1 = (8 / 16 + 2 / 3) / 2, 6 / 7
    assert line["Dice"] == pytest.approx(100 * ((dice0 + dice1) / 2 + 0) / 2)
    assert (line["folds"], line["episodes"]) == (2, 5)


def test_per_frame_figures_weigh_videos_by_frames_within_a_class():
    classes = tables.class_table(ROWS[:3])
    first = only(classes, class_id=1)
    assert first["IoU"] == pytest.approx(100 * 4 / 12)
    assert first["J"] == pytest.approx(100 * (0.5 * 1 + 0.1 * 3) / 4)
    assert first["F"] == pytest.approx(100 * (0.25 * 1 + 0.75 * 3) / 4)
    assert first["J&F"] == pytest.approx((first["J"] + first["F"]) / 2)
    assert first["VC_3"] == pytest.approx(50)  # the video without VC_3 is left out
    assert math.isnan(first["VC_11"])
    line = only(tables.run_table(ROWS[:3]), run=0)
    assert line["J"] == pytest.approx((20 + 30) / 2)
    assert line["VC_3"] == pytest.approx((50 + 10) / 2)
    assert line["VC_11"] == pytest.approx(90)
    assert line["s/episode"] == pytest.approx(3)  # over episodes, not over classes


def test_class_table_averages_over_runs():
    first = only(tables.class_table(ROWS), class_id=1)
    assert first["IoU"] == pytest.approx(100 * (4 / 12 + 3 / 4) / 2)
    assert first["class_name"] == "class 1" and first["episodes"] == 3


def test_columns_and_their_order():
    table = tables.score_table(ROWS)
    figures = ["mIoU", "Dice", "precision", "recall", "J", "F", "J&F", *(f"VC_{k}" for k in (3, 5, 7, 9, 11))]
    figures += [f"VC_{k} released" for k in (3, 5, 7, 9, 11)] + ["s/episode", "MB/episode"]
    assert list(table.columns) == ["benchmark", "shots", "encoder", "method", "folds", "episodes", *figures]
    with_released = tables.score_table([{**r, "released_vc_3": 0.5} for r in ROWS])
    assert only(with_released)["VC_3 released"] == pytest.approx(50)


def test_rows_without_contours_or_times_leave_gaps_not_zeros():
    line = only(tables.score_table([row()]))
    assert line["mIoU"] == pytest.approx(50)
    assert math.isnan(line["J"]) and math.isnan(line["F"]) and math.isnan(line["s/episode"])
    assert math.isnan(line["MB/episode"])


def counted(areas, rows=ROWS):
    """The rows with their predicted and true pixels."""
    return [{**r, "predicted": p, "true": t} for r, (p, t) in zip(rows, areas, strict=True)]


# I / predicted, I / true. class 1: 4/8, 4/8; class 2: 1/1, 1/2; run 1: 3/3, 3/4; fold 1: nothing predicted
AREAS = ((1, 2), (7, 6), (1, 2), (3, 4), (0, 5))


def test_precision_and_recall_go_through_the_same_chain():
    rows = counted(AREAS)
    classes = tables.class_table(rows[:3])
    assert only(classes, class_id=1)[["precision", "recall"]].tolist() == pytest.approx([50, 50])  # not mean of 1, 3/7
    assert only(classes, class_id=2)[["precision", "recall"]].tolist() == pytest.approx([100, 50])
    line = only(tables.score_table(rows))
    assert line["precision"] == pytest.approx(((50 + 100) / 2 + 100) / 2 / 2)
    assert line["recall"] == pytest.approx(((50 + 50) / 2 + 75) / 2 / 2)
    first = only(tables.video_table(rows), video="a")
    assert first[["precision", "recall"]].tolist() == pytest.approx([100 * 4 / 4, 100 * 4 / 6])
    order = [name for name in tables.fold_table(rows) if name in ("mIoU", "Dice", "precision", "recall", "J")]
    assert order == ["mIoU", "Dice", "precision", "recall", "J"]


def test_dice_is_the_harmonic_mean_of_the_two_within_a_class():
    line = only(tables.class_table(counted(((1, 2), (9, 4)), ROWS[:2])), class_id=1)
    assert [line["precision"], line["recall"]] == pytest.approx([100 * 4 / 10, 100 * 4 / 6])
    assert line["Dice"] == pytest.approx(2 / (1 / line["precision"] + 1 / line["recall"]))


def test_rows_from_before_areas_were_counted_can_be_read():
    old = tables.score_table(ROWS)
    assert old[["precision", "recall"]].isna().all(axis=None)
    new = tables.score_table(counted(AREAS))
    others = [name for name in new if name not in ("precision", "recall")]
    pd.testing.assert_frame_equal(old[others], new[others])
    mixed = [ROWS[0], *counted(AREAS[1:3], ROWS[1:3])]  # what is known counts, as for J and F
    assert only(tables.class_table(mixed), class_id=1)["precision"] == pytest.approx(100 * 3 / 7)


def test_fold_table_ends_with_the_mean():
    table = tables.fold_table(ROWS)
    assert table["fold"].tolist() == ["0", "1", "mean"]
    assert only(table, fold="0")["mIoU"] == pytest.approx(100 * ((4 / 12 + 1 / 2) / 2 + 3 / 4) / 2)
    assert only(table, fold="mean")["mIoU"] == pytest.approx(only(tables.score_table(ROWS))["mIoU"])


def test_order_of_rows_does_not_matter():
    pd.testing.assert_frame_equal(tables.fold_table(ROWS), tables.fold_table(ROWS[::-1]))
    pd.testing.assert_frame_equal(tables.fold_table(ROWS), tables.fold_table(pd.DataFrame(ROWS)))


def test_shots_methods_and_benchmarks_keep_apart():
    others = [{**r, "shots": 1} for r in ROWS] + [{**r, "method": "RePRI", "intersection": 0} for r in ROWS]
    table = tables.score_table([*ROWS, *others, *[{**r, "benchmark": "mini"} for r in ROWS]])
    assert len(table) == 4
    both = tables.score_table([*ROWS, *[{**r, "encoder": "resnet101", "intersection": 0} for r in ROWS]])
    assert both.set_index("encoder")["mIoU"].tolist() == pytest.approx([only(tables.score_table(ROWS))["mIoU"], 0])
    alone = only(tables.score_table(ROWS))
    assert only(table, benchmark="ytvis-v1", shots=5, method="TTI")["mIoU"] == alone["mIoU"]
    assert only(table, method="RePRI")["mIoU"] == 0


def test_rows_that_cannot_be_tabulated_are_refused():
    with pytest.raises(ValueError, match="no rows"):
        tables.score_table([])
    with pytest.raises(ValueError, match="'union'"):
        tables.score_table([{k: v for k, v in ROWS[0].items() if k != "union"}])
    with pytest.raises(ValueError, match="'encoder'"):
        tables.score_table([{k: v for k, v in r.items() if k != "encoder"} for r in ROWS])
    with pytest.raises(ValueError, match="'fold'"):
        tables.score_table([*ROWS, row(fold=None, episode="z")])
    with pytest.raises(ValueError, match=r"episode a is recorded twice for TTI \(fold 0, run 0\)"):
        tables.score_table([*ROWS, ROWS[0]])


def test_an_episode_drawn_twice_counts_twice_when_numbered():
    twice = [{**ROWS[0], "index": 0}, {**ROWS[0], "index": 1, "intersection": 2}]
    assert only(tables.score_table(twice))["mIoU"] == pytest.approx(100 * 3 / 4)


def test_memory_is_a_mean_over_episodes_that_know_it():
    known = [{**r, "memory_mb": m} for r, m in zip(ROWS, (10, None, 40, 5, 100), strict=True)]
    assert only(tables.run_table(known), run=0, fold=0)["MB/episode"] == pytest.approx(25)
    assert only(tables.score_table(known))["MB/episode"] == pytest.approx(((25 + 5) / 2 + 100) / 2)
    assert list(tables.score_table(known).columns)[-2:] == ["s/episode", "MB/episode"]


def test_rows_of_different_programs_are_not_averaged():
    made = [{**r, "made": {"code": "ab12", "device": "cpu"}} for r in ROWS]
    pd.testing.assert_frame_equal(tables.score_table(made), tables.score_table(ROWS))
    made[1]["made"] = {"code": "cd34"}
    with pytest.raises(ValueError, match=r"2 versions of the code \(ab12: 4 rows, cd34: 1 rows\); evaluate all"):
        tables.class_table(made)
    with pytest.raises(ValueError, match=r"ab12: 3 rows, cd34: 1 rows, unknown: 1 rows"):
        tables.run_table([*made[:4], ROWS[4]])
    with pytest.raises(ValueError, match="versions of the code"):
        tables.video_table(pd.DataFrame(made))


def test_rows_that_were_scored_by_different_metrics_are_not_averaged():
    made = [{**r, "made": {"code": "ab12", "metrics": "1"}} for r in ROWS]
    made[1]["made"] = {"code": "ab12", "metrics": "2"}
    with pytest.raises(ValueError, match=r"2 versions of the metrics \(1: 4 rows, 2: 1 rows\); score again"):
        tables.score_table(made)


def test_a_metric_of_ones_own_is_a_column_of_every_table_and_has_an_interval(monkeypatch):
    monkeypatch.setitem(METRICS, "empty", Metric("empty", key="e", pool=over_frames, percent=False))
    rows = [{**r, "e": e} for r, e in zip(ROWS, (0.5, 1.5, None, 3.0, 0.0), strict=True)]
    assert only(tables.class_table(rows[:3]), class_id=1)["empty"] == pytest.approx((0.5 * 1 + 1.5 * 3) / 4)
    assert only(tables.score_table(rows))["empty"] == pytest.approx(((1.25 + 3.0) / 2 + 0) / 2)
    found = only(intervals(rows, ["empty"], samples=20))
    assert found["empty"] == pytest.approx(only(tables.score_table(rows))["empty"])
    assert found["empty low"] <= found["empty"] <= found["empty high"]


def test_lists_of_a_row_do_not_disturb():
    long = [{**r, "intersections": [1, 2], "f_frames": [None, 0.5], "unions": []} for r in ROWS]
    pd.testing.assert_frame_equal(tables.fold_table(long), tables.fold_table(ROWS))


def test_video_table_pools_the_runs_of_a_video():
    table = tables.video_table(ROWS)
    assert len(table) == 4
    video = only(table, video="a")  # run 0: 1/2 in one frame, run 1: 3/4 in two frames
    assert video["IoU"] == pytest.approx(100 * 4 / 6) and video["Dice"] == pytest.approx(100 * 8 / 10)
    assert video["J"] == pytest.approx(100 * (0.5 + 2 * 0.6) / 3)
    assert video["F"] == pytest.approx(100 * (0.25 + 2 * 0.1) / 3)
    assert video["VC_3"] == pytest.approx(60) and video["VC_11"] == pytest.approx(20)
    assert (video["frames"], video["episodes"], video["class_name"], video["fold"]) == (2, 2, "class 1", 0)
    assert list(table.columns)[:9] == [*tables.METHOD, "fold", "class_id", "video", "class_name", "episodes"]
    assert list(table.columns)[9:12] == ["frames", "IoU", "Dice"]
    both = tables.video_table([*ROWS, *[{**r, "method": "RePRI", "intersection": 0} for r in ROWS]])
    assert only(both, video="a", method="RePRI")["IoU"] == 0
    with pytest.raises(ValueError, match="'video'"):
        tables.video_table([{**ROWS[0], "video": None}])


# ---- the plan ------------------------------------------------------------------------------------------


def plan(method, **more):
    return {"benchmark": "ytvis-v1", "shots": 5, "encoder": "resnet50", "method": method, "folds": [0, 1], **more}


def test_every_line_of_the_plan_is_there_in_its_order():
    table = tables.score_table([*ROWS, *[{**r, "method": "RePRI"} for r in ROWS]])
    lines = [plan("oracle", why="no truth on disk"), plan("RePRI"), plan("TTI", why="2 of 20 tasks missing")]
    result = tables.align_with_plan(table, lines)
    assert result["method"].tolist() == ["oracle", "RePRI", "TTI"]
    assert result["note"].tolist() == ["no truth on disk", "", "2 of 20 tasks missing"]
    assert list(result.columns) == [*table.columns, "note"]
    assert result["folds"].tolist() == [0, 2, 2] and result["episodes"].tolist() == [0, 5, 5]
    assert math.isnan(result["mIoU"][0]) and result["mIoU"][1] == only(table, method="RePRI")["mIoU"]
    pd.testing.assert_frame_equal(tables.align_with_plan(table, [])[list(table.columns)], table)


def test_a_line_planned_twice_comes_once_and_an_unplanned_one_follows():
    lines = [plan("oracle", why="no weights"), plan("oracle", why="no data"), plan("oracle", why="no data")]
    lines.append(plan("TTI", encoder="resnet101"))
    result = tables.align_with_plan(tables.score_table(ROWS), lines)
    assert result["method"].tolist() == ["oracle", "TTI", "TTI"]
    assert result["encoder"].tolist() == ["resnet50", "resnet101", "resnet50"]
    assert result["note"].tolist() == ["no weights; no data", "", ""]
    assert result["mIoU"].isna().tolist() == [True, True, False]
    with pytest.raises(ValueError, match=r"line 2 of the plan has no 'shots'"):
        tables.align_with_plan(tables.score_table(ROWS), [plan("TTI"), {"benchmark": "coco", "method": "TTI"}])

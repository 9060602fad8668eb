"""The averages by hand; tables of runs, folds, classes and videos; the plan; reported values beside measured ones."""

import math

import pandas as pd
import pytest
from rows import only, row

from ttilib.episodes.benchmarks import BENCHMARKS
from ttilib.results import tables
from ttilib.results.metrics import METRICS
from ttilib.results.tables import beside_reported, read_reported

# fold 0, run 0: class 1 pooled 4/12, class 2 1/2; run 1: class 1 only, 3/4; fold 1, run 0: class 3, 0/5
ROWS = [
    row(episode="a", counts=(1, 2), j=0.5, f=0.25, vc_3=0.5, vc_11=None, frames=1, seconds=1.0),
    row(episode="b", counts=(3, 10), j=0.1, f=0.75, vc_3=None, vc_11=None, frames=3, seconds=2.0),
    row(episode="c", counts=(1, 2), class_id=2, j=0.3, f=0.5, vc_3=0.1, vc_11=0.9, frames=8, seconds=6.0),
    row(episode="a", counts=(3, 4), run=1, j=0.6, f=0.1, vc_3=0.7, vc_11=0.2, frames=2, seconds=5.0),
    row(episode="d", counts=(0, 5), fold=1, class_id=3, j=0.0, f=0.0, vc_3=0.0, vc_11=0.0, seconds=2.0),
]
# predicted, true. I / predicted, I / true of class 1: 4/8, 4/8; class 2: 1/1, 1/2; run 1: 3/3, 3/4; fold 1: 0
AREAS = ((1, 2), (7, 6), (1, 2), (3, 4), (0, 5))
COUNTED = [{**r, "predicted": p, "true": t} for r, (p, t) in zip(ROWS, AREAS, strict=True)]


def test_pixels_classes_runs_folds_in_that_order():
    line = only(tables.score_table(COUNTED), method="TTI")
    assert line["mIoU"] == pytest.approx(100 * (((4 / 12 + 1 / 2) / 2 + 3 / 4) / 2 + 0) / 2)
    assert line["Dice"] == pytest.approx(100 * (((8 / 16 + 2 / 3) / 2 + 6 / 7) / 2 + 0) / 2)
    assert line["precision"] == pytest.approx(((50 + 100) / 2 + 100) / 2 / 2)
    assert line["recall"] == pytest.approx(((50 + 50) / 2 + 75) / 2 / 2)
    assert (line["folds"], line["episodes"]) == (2, 5)
    first = only(tables.class_table(COUNTED[:3]), class_id=1)  # values per frame weigh videos by frames
    assert first["J"] == pytest.approx(100 * (0.5 * 1 + 0.1 * 3) / 4) and first["VC_3"] == pytest.approx(50)
    assert first["J&F"] == pytest.approx((first["J"] + 100 * (0.25 * 1 + 0.75 * 3) / 4) / 2)
    run = only(tables.run_table(ROWS[:3]), run=0)  # cost over episodes, not over classes
    assert run[["J", "VC_3", "VC_11", "s/episode"]].tolist() == pytest.approx([(20 + 30) / 2, (50 + 10) / 2, 90, 3])
    twice = [{**ROWS[0], "index": 0}, {**ROWS[0], "index": 1, "intersection": 2}]
    assert only(tables.score_table(twice))["mIoU"] == pytest.approx(100 * 3 / 4)
    known = [{**r, "memory_mb": m} for r, m in zip(ROWS, (10, None, 40, 5, 100), strict=True)]  # where it is known
    assert only(tables.score_table(known))["MB/episode"] == pytest.approx(((25 + 5) / 2 + 100) / 2)
    table = tables.score_table([row(released_vc_3=0.5)])  # a gap is no zero
    assert only(table)["VC_3 released"] == 50 and table[["J", "F", "precision", "s/episode"]].isna().all(axis=None)


def test_methods_shots_encoders_and_benchmarks_keep_apart_in_any_order_of_rows():
    others = [{**r, **change, "intersection": 0} for r in ROWS for change in (
        {"shots": 1}, {"method": "RePRI"}, {"encoder": "resnet101"}, {"benchmark": "mini"})]  # fmt: skip
    table = tables.score_table([*others, *ROWS])
    assert len(table) == 5 and sorted(table["mIoU"])[:4] == [0] * 4
    assert max(table["mIoU"]) == only(tables.score_table(ROWS))["mIoU"]
    long = pd.DataFrame([{**r, "f_frames": [None, 0.5]} for r in ROWS[::-1]])
    pd.testing.assert_frame_equal(tables.score_table(ROWS), tables.score_table(long))


def made(*versions, about="code"):
    return [{**r, "made": {about: v} if v else {}} for r, v in zip(ROWS, versions, strict=True)]


@pytest.mark.parametrize(
    "rows, message",
    [
        ([], "no rows"),
        ([*ROWS, ROWS[0]], r"episode a is recorded twice.*TTI.*fold 0.*run 0"),
        (made("ab", "cd", "ab", "ab", "ab"), "versions of the code.*ab: 4 rows, cd: 1 rows"),
        (made("ab", "ab", "ab", "ab", None), "unknown: 1 rows"),
        (made("1", "1", "1", "2", "2", about="metrics"), "versions of the metrics.*rescore"),
    ],
)
def test_rows_that_cannot_be_averaged_are_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        tables.score_table(rows)


def test_video_table_pools_the_runs_of_a_video():
    table = tables.video_table(COUNTED)
    assert len(table) == 4
    video = only(table, video="a")  # run 0: 1/2 in one frame, run 1: 3/4 in two frames
    assert video[["IoU", "Dice"]].tolist() == pytest.approx([100 * 4 / 6, 100 * 8 / 10])
    assert video[["precision", "recall"]].tolist() == pytest.approx([100 * 4 / 4, 100 * 4 / 6])
    assert video["J"] == pytest.approx(100 * (0.5 + 2 * 0.6) / 3) and video["VC_3"] == pytest.approx(60)
    assert (video["frames"], video["episodes"]) == (2, 2)


def plan(method, **more):
    return {"benchmark": "ytvis-v1", "shots": 5, "encoder": "resnet50", "method": method, "folds": [0, 1], **more}


def test_every_line_of_the_plan_is_there_in_its_order():
    table = tables.score_table([*ROWS, *[{**r, "method": "RePRI"} for r in ROWS]])
    lines = [plan("oracle", why=why) for why in ("no weights", "no data", "no data")]
    result = tables.align_with_plan(table, [*lines, plan("RePRI")])  # the last line of the table was not planned
    assert result["method"].tolist() == ["oracle", "RePRI", "TTI"]
    assert result["note"].tolist() == ["no weights; no data", "", ""]
    assert result["folds"].tolist() == [0, 2, 2] and result["episodes"].tolist() == [0, 5, 5]
    assert math.isnan(result["mIoU"][0]) and result["mIoU"][1] == only(table, method="RePRI")["mIoU"]


def four_folds(method, *shares, **more):
    return [{**row(method, fold, counts=(share, 1000)), **more} for fold, share in enumerate(shares)]


def test_reported_values_are_complete_and_agree_with_their_means():
    table = read_reported()
    assert set(table["benchmark"]) <= set(BENCHMARKS) and set(table["figure"]) <= set(METRICS)
    assert table["value"].between(1, 100).all() and not table.drop(columns="spread").isna().any().any()
    wide = table.pivot(index=[*tables.METHOD, "figure"], columns="fold", values="value").dropna()
    assert (wide[list("0123")].mean(axis=1) - wide["mean"]).abs().max() < 0.11  # one decimal in the sources
    for line, folds in {
        ("ytvis-v1", 5, "resnet50", "TTI"): [46.54, 69.17, 60.02, 64.09, 59.96],
        ("pascal", 5, "resnet101", "oracle"): [76.8, 81.7, 79.5, 74.5, 78.1],
        ("pascal2minivspw", 1, "resnet101", "TTI"): [41.6, 47.6, 31.7, 32.5, 38.3],
    }.items():
        assert wide.loc[(*line, "mIoU"), [*"0123", "mean"]].tolist() == folds


def test_measured_beside_reported_values_of_the_same_definition():
    rows = [*four_folds("TTI", 460, 690, 610, 640), *four_folds("ours", 500, 500, 500, 500)]
    rows += four_folds("TTI", 400, 400, 400, 400, encoder="resnet101")  # not reported
    table = beside_reported(scores := tables.score_table(rows))
    tti = only(table, encoder="resnet50", method="TTI")
    assert tti["mIoU reported"] == 59.96 and tti["mIoU difference"] == pytest.approx(60 - 59.96)
    assert table[(table["method"] == "ours") | (table["encoder"] == "resnet101")]["mIoU reported"].isna().all()
    pd.testing.assert_frame_equal(table[list(scores.columns)], scores)
    some = beside_reported(tables.score_table(four_folds("TTI", 460, 690)))  # its mean is not over all folds
    assert math.isnan(only(some)["mIoU reported"]) and only(some)["source"] == ""
    table = beside_reported(tables.score_table(four_folds("HPAN", *[600] * 4, j=0.61)), ("mIoU", "J"), others=True)
    hpan, danet = (only(table, method=name) for name in ("HPAN", "DANet"))
    assert math.isnan(hpan["mIoU reported"]) and hpan["J difference"] == pytest.approx(61 - 63.5)
    assert danet["J reported"] == 58.0 and danet[["mIoU", "mIoU reported", "J difference"]].isna().all()

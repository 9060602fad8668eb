"""The chain of averages by hand, and the reported figures in their places."""

import math

import pandas as pd
import pytest

from ttilib.scores import tables


def row(method="TTI", fold=0, run=0, episode="a", class_id=1, counts=(1, 2), frames=4, **more):
    return {
        "benchmark": "ytvis-v1", "shots": 5, "method": method, "fold": fold, "run": run, "episode": episode,
        "class_id": class_id, "class_name": f"class {class_id}", "video": episode, "frames": frames,
        "intersection": counts[0], "union": counts[1], **more,
    }  # fmt: skip


# fold 0, run 0: class 1 pooled 4/12, class 2 1/2; run 1: class 1 only, 3/4; fold 1, run 0: class 3, 0/5
ROWS = [
    row(episode="a", counts=(1, 2), j=0.5, f=0.25, vc_3=0.5, vc_10=None, frames=1, seconds=1.0),
    row(episode="b", counts=(3, 10), j=0.1, f=0.75, vc_3=None, vc_10=None, frames=3, seconds=2.0),
    row(episode="c", counts=(1, 2), class_id=2, j=0.3, f=0.5, vc_3=0.1, vc_10=0.9, frames=8, seconds=6.0),
    row(episode="a", counts=(3, 4), run=1, j=0.6, f=0.1, vc_3=0.7, vc_10=0.2, frames=2, seconds=5.0),
    row(episode="d", counts=(0, 5), fold=1, class_id=3, j=0.0, f=0.0, vc_3=0.0, vc_10=0.0, seconds=2.0),
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
    assert math.isnan(first["VC_10"])
    line = only(tables.run_table(ROWS[:3]), run=0)
    assert line["J"] == pytest.approx((20 + 30) / 2)
    assert line["VC_3"] == pytest.approx((50 + 10) / 2)
    assert line["VC_10"] == pytest.approx(90)
    assert line["s/episode"] == pytest.approx(3)  # over episodes, not over classes


def test_class_table_averages_over_runs():
    first = only(tables.class_table(ROWS), class_id=1)
    assert first["IoU"] == pytest.approx(100 * (4 / 12 + 3 / 4) / 2)
    assert first["class_name"] == "class 1" and first["episodes"] == 3


def test_columns_and_their_order():
    table = tables.score_table(ROWS)
    figures = ["mIoU", "Dice", "J", "F", "J&F", "VC_3", "VC_10", "s/episode"]
    assert list(table.columns) == ["benchmark", "shots", "method", "folds", "episodes", *figures]
    with_released = tables.score_table([{**r, "released_vc_3": 0.5} for r in ROWS])
    assert list(with_released.columns)[-4:] == ["VC_3", "VC_10", "VC_3 released", "s/episode"]
    assert only(with_released)["VC_3 released"] == pytest.approx(50)


def test_rows_without_contours_or_times_leave_gaps_not_zeros():
    line = only(tables.score_table([row()]))
    assert line["mIoU"] == pytest.approx(50)
    assert math.isnan(line["J"]) and math.isnan(line["F"]) and math.isnan(line["s/episode"])


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
    alone = only(tables.score_table(ROWS))
    assert only(table, benchmark="ytvis-v1", shots=5, method="TTI")["mIoU"] == alone["mIoU"]
    assert only(table, method="RePRI")["mIoU"] == 0


def test_rows_that_cannot_be_tabulated_are_refused():
    with pytest.raises(ValueError, match="no rows"):
        tables.score_table([])
    with pytest.raises(ValueError, match="'union'"):
        tables.score_table([{k: v for k, v in ROWS[0].items() if k != "union"}])
    with pytest.raises(ValueError, match="'fold'"):
        tables.score_table([*ROWS, row(fold=None, episode="z")])
    with pytest.raises(ValueError, match=r"episode a is recorded twice for TTI \(fold 0, run 0\)"):
        tables.score_table([*ROWS, ROWS[0]])


def test_an_episode_drawn_twice_counts_twice_when_numbered():
    twice = [{**ROWS[0], "index": 0}, {**ROWS[0], "index": 1, "intersection": 2}]
    assert only(tables.score_table(twice))["mIoU"] == pytest.approx(100 * 3 / 4)
    gain = only(
        tables.paired_gain(
            [*twice, *[{**r, "method": "RePRI", "intersection": 1} for r in twice]], "TTI", "RePRI"
        )
    )
    assert gain["IoU"] == pytest.approx(25)  # (0.5 - 0.5) and (1.0 - 0.5)


def test_paired_gain_looks_at_shared_episodes_only():
    baseline = [
        row("RePRI", episode="a", counts=(1, 4), j=0.3),
        row("RePRI", episode="b", counts=(4, 10), j=0.1),
        row("RePRI", episode="only here", counts=(9, 9), j=0.9),
    ]
    ours = [
        row("TTI", episode="b", counts=(6, 10), j=0.3),
        row("TTI", episode="a", counts=(1, 5), j=0.3),
        row("TTI", episode="only there", counts=(0, 9), j=0.0),
    ]
    gain = only(tables.paired_gain([*ours, *baseline], "TTI", "RePRI"))
    assert gain["method"] == "TTI - RePRI" and gain["episodes"] == 2
    assert gain["mIoU"] == pytest.approx(100 * (7 / 15 - 5 / 14))
    assert gain["J"] == pytest.approx(10)
    differences = (100 * (1 / 5 - 1 / 4), 100 * (6 / 10 - 4 / 10))  # -5 and +20
    assert gain["IoU"] == pytest.approx(sum(differences) / 2)
    assert gain["± IoU"] == pytest.approx(12.5)  # sd 25/√2, over √2
    assert gain["better"] == 50
    with pytest.raises(ValueError, match="share no episode"):
        tables.paired_gain([*ours, *baseline], "TTI", "fine-tune")


def test_gain_over_itself_is_nothing():
    rows = [*ROWS, *[{**r, "method": "again"} for r in ROWS]]
    gain = only(tables.paired_gain(rows, "again", "TTI"))
    assert gain["mIoU"] == gain["IoU"] == gain["± IoU"] == gain["better"] == 0


# ---- beside reported figures ---------------------------------------------------------------------------


def test_reported_figures_are_complete_and_agree_with_their_means():
    table = tables.read_reported()
    assert not table.duplicated(["benchmark", "shots", "method", "fold", "figure"]).any()
    assert table["source"].str.len().min() > 20 and table["value"].between(1, 100).all()
    wide = table.pivot(
        index=["benchmark", "shots", "method", "figure"], columns="fold", values="value"
    ).dropna()
    assert len(wide) >= 10
    assert (wide[list("0123")].mean(axis=1) - wide["mean"]).abs().max() < 0.11  # one decimal in the sources


def test_published_anchors_are_the_ones_of_the_fact_sheet():
    table = tables.read_reported("ytvis-v1")
    miou = table[table["figure"] == "mIoU"].set_index(["method", "fold"])["value"]
    assert miou.loc["RePRI"].to_dict() == {"0": 45.78, "1": 68.63, "2": 59.26, "3": 64.21, "mean": 59.47}
    assert miou.loc["TTI"].to_dict() == {"0": 46.54, "1": 69.17, "2": 60.02, "3": 64.09, "mean": 59.96}
    assert miou["TTI+keyframe", "mean"] == 60.3


def four_folds(method, *shares):
    return [row(method, fold=k, counts=(share, 1000)) for k, share in enumerate(shares)]


def test_measured_beside_reported():
    rows = [*four_folds("TTI", 460, 690, 610, 640), *four_folds("ours", 500, 500, 500, 500)]
    table = tables.beside_reported(tables.fold_table(rows), "ytvis-v1")
    fold0 = only(table, method="TTI", fold="0")
    assert fold0["mIoU reported"] == 46.54 and fold0["difference"] == pytest.approx(46 - 46.54)
    assert "tti_fsvos" in fold0["source"]
    assert only(table, method="TTI", fold="mean")["difference"] == pytest.approx(60 - 59.96)
    assert table[table["method"] == "ours"]["mIoU reported"].isna().all()
    assert len(table) == 10 and list(table.columns)[-3:] == ["mIoU reported", "difference", "source"]
    means = tables.beside_reported(tables.score_table(rows), "ytvis-v1", figure="Dice")
    assert only(means, method="TTI")["Dice reported"] == 72.6


def test_a_mean_over_some_folds_is_not_put_beside_a_mean_over_all():
    table = tables.beside_reported(tables.fold_table(four_folds("TTI", 460, 690)), "ytvis-v1")
    assert math.isnan(only(table, fold="mean")["difference"])
    assert only(table, fold="1")["mIoU reported"] == 69.17


def test_benchmarks_without_reported_figures_come_back_as_they_are():
    table = tables.score_table([{**r, "benchmark": "mini"} for r in ROWS])
    pd.testing.assert_frame_equal(tables.beside_reported(table, "mini"), table)
    one_shot = tables.beside_reported(tables.score_table([{**r, "shots": 1} for r in ROWS]), "ytvis-v1")
    assert one_shot["mIoU reported"].isna().all()


# ---- print and keep ------------------------------------------------------------------------------------


def test_printed_tables_have_one_decimal():
    text = tables.to_markdown(
        pd.DataFrame(
            {
                "method": ["a|b", "c"],
                "mIoU": [59.96, float("nan")],
                "folds": [4, 1],
                "s/episode": [1.234, 2.0],
            }
        )
    )
    assert text.splitlines() == [
        "| method | mIoU | folds | s/episode |",
        "| --- | ---: | ---: | ---: |",
        r"| a\|b | 60.0 | 4 | 1.23 |",
        "| c | - | 1 | 2.00 |",
    ]
    shown = tables.formatted(tables.fold_table(ROWS))
    assert only(shown, fold="0")["mIoU"] == "58.3"


def test_tables_survive_the_disk(tmp_path):
    path = tmp_path / "tables" / "mini.csv"
    table = tables.fold_table(ROWS)
    tables.write_table(path, table)
    again = tables.read_table(path)
    pd.testing.assert_frame_equal(again, table, check_exact=False, atol=1e-4, check_dtype=False)
    assert again["fold"].tolist() == ["0", "1", "mean"]
    assert path.read_bytes().count(b"\r") == 0 and [p.name for p in path.parent.iterdir()] == ["mini.csv"]
    with pytest.raises(FileNotFoundError, match=r"other\.csv"):
        tables.read_table(tmp_path / "other.csv")

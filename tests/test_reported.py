"""The figures of others: complete, traceable, and each beside the one of ours that means the same."""

import math

import pandas as pd
import pytest

from ttilib.episodes.benchmarks import BENCHMARKS
from ttilib.results import tables
from ttilib.results.tables import beside_reported, read_reported


def row(method="TTI", fold=0, share=500, benchmark="ytvis-v1", shots=5, encoder="resnet50", **more):
    return {
        "benchmark": benchmark, "shots": shots, "encoder": encoder, "method": method, "fold": fold, "run": 0,
        "episode": "a", "class_id": 1, "class_name": "person", "video": "a", "frames": 4, "intersection": share,
        "union": 1000, **more,
    }  # fmt: skip


def four_folds(method, *shares, **more):
    return [row(method, k, share, **more) for k, share in enumerate(shares)]


def only(table, **where):
    for key, value in where.items():
        table = table[table[key] == value]
    assert len(table) == 1
    return table.iloc[0]


# ---- the file ------------------------------------------------------------------------------------------


def test_reported_figures_are_complete_and_agree_with_their_means():
    table = read_reported()
    assert list(table.columns) == [
        "benchmark", "shots", "encoder", "method", "label", "fold", "figure", "value", "spread", "source"
    ]  # fmt: skip
    assert table["source"].str.len().min() > 20 and table["value"].between(1, 100).all()
    assert set(table["fold"]) == {"0", "1", "2", "3", "mean"} and set(table["figure"]) == {"mIoU", "Dice", "J", "F"}
    assert set(table["benchmark"]) <= set(BENCHMARKS) and not table.drop(columns="spread").isna().any().any()
    assert set(table["encoder"]) == {"resnet50", "resnet101", "resnet50-dcl", "not stated"}
    wide = table.pivot(index=[*tables.METHOD, "figure"], columns="fold", values="value").dropna()
    assert len(wide) == 28
    assert (wide[list("0123")].mean(axis=1) - wide["mean"]).abs().max() < 0.11  # one decimal in the sources


def test_published_anchors_are_the_ones_of_the_sources():
    table = read_reported("ytvis-v1")
    miou = table[table["figure"] == "mIoU"].set_index(["encoder", "method", "fold"])["value"]
    repri = miou["resnet50", "RePRI"].to_dict()
    assert repri == {"0": 45.78, "1": 68.63, "2": 59.26, "3": 64.21, "mean": 59.47}
    tti = miou["resnet50", "TTI"].to_dict()
    assert tti == {"0": 46.54, "1": 69.17, "2": 60.02, "3": 64.09, "mean": 59.96}
    assert miou["resnet50", "TTI+keyframe", "mean"] == 60.3 and miou["resnet50-dcl", "TTI+keyframe", "mean"] == 60.8
    others = table[(table["fold"] == "mean") & table["figure"].isin(["J", "F"])].set_index(["method", "figure"])
    assert others.loc[("HPAN", "J"), "value"] == 63.5 and others.loc[("DANet", "F"), "value"] == 56.3


@pytest.mark.parametrize(
    "benchmark, shots, encoder, method, folds, mean",
    [
        ("pascal", 1, "resnet50", "RePRI", (60.2, 67.0, 61.7, 47.5), 59.1),
        ("pascal", 5, "resnet101", "oracle", (76.8, 81.7, 79.5, 74.5), 78.1),
        ("coco", 5, "resnet50", "RePRI", (38.5, 46.2, 40.0, 43.6), 42.1),
        ("coco2pascal", 1, "resnet50", "oracle", (69.6, 71.7, 77.6, 86.2), 76.2),
        ("pascal2minivspw", 1, "resnet101", "TTI", (41.6, 47.6, 31.7, 32.5), 38.3),
        ("pascal2minivspw", 5, "resnet50", "fine-tune", (28.9, 48.3, 28.2, 19.6), 31.3),
    ],
)
def test_rows_of_the_sources_tables(benchmark, shots, encoder, method, folds, mean):
    table = read_reported(benchmark)
    line = (table["shots"] == shots) & (table["encoder"] == encoder) & (table["method"] == method)
    values = table[line & (table["figure"] == "mIoU")].set_index("fold")["value"]
    assert values.to_dict() == {**dict(zip("0123", folds, strict=True)), "mean": mean}


def test_a_figure_given_twice_is_refused(tmp_path):
    path = tmp_path / "reported.csv"
    table = read_reported("coco")
    pd.concat([table, table.iloc[[3]].assign(value=1.0)]).to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"reported\.csv: coco 1-shot resnet50 RePRI fold 3 mIoU is there twice"):
        read_reported(path=path)
    with pytest.raises(FileNotFoundError, match=r"none\.csv"):
        read_reported(path=tmp_path / "none.csv")


# ---- side by side --------------------------------------------------------------------------------------


def test_measured_beside_reported():
    rows = [*four_folds("TTI", 460, 690, 610, 640), *four_folds("ours", 500, 500, 500, 500)]
    folds = tables.fold_table(rows)
    table = beside_reported(folds)
    fold0 = only(table, method="TTI", fold="0")
    assert fold0["mIoU reported"] == 46.54 and fold0["mIoU difference"] == pytest.approx(46 - 46.54)
    assert "tti_fsvos" in fold0["source"]
    assert only(table, method="TTI", fold="mean")["mIoU difference"] == pytest.approx(60 - 59.96)
    assert table[table["method"] == "ours"]["mIoU reported"].isna().all()
    assert set(table[table["method"] == "ours"]["source"]) == {""}
    assert list(table.columns) == [*folds.columns, "mIoU reported", "mIoU difference", "source"]
    pd.testing.assert_frame_equal(table[list(folds.columns)], folds)


def test_figures_that_mean_different_things_stay_in_their_columns():
    rows = four_folds("HPAN", 600, 600, 600, 600, j=0.61, f=0.62) + four_folds("TTI", 600, 600, 600, 600, j=0.5, f=0.4)
    table = beside_reported(tables.score_table(rows), ("mIoU", "Dice", "J", "F"))
    hpan, tti = only(table, method="HPAN"), only(table, method="TTI")
    assert math.isnan(hpan["mIoU reported"]) and math.isnan(hpan["Dice reported"])
    assert hpan["J difference"] == pytest.approx(61 - 63.5) and hpan["F difference"] == pytest.approx(62 - 62.4)
    assert tti["Dice reported"] == 72.6 and tti["mIoU reported"] == 59.96
    assert tti["Dice difference"] == pytest.approx(75 - 72.6)
    assert math.isnan(tti["J reported"]) and math.isnan(tti["F difference"])
    assert tti["source"].count("tti_fsvos") == 1  # one source for two figures


def test_several_sources_are_all_named(tmp_path):
    path = tmp_path / "reported.csv"
    table = read_reported("ytvis-v1").query("method == 'TTI' and encoder == 'resnet50'")
    table.assign(source=["the " + figure for figure in table["figure"]]).to_csv(path, index=False)
    rows = four_folds("TTI", 600, 600, 600, 600)
    beside = beside_reported(tables.score_table(rows), ("mIoU", "Dice"), path=path)
    assert only(beside)["source"] == "the mIoU; the Dice"


def test_a_mean_over_some_folds_is_not_put_beside_a_mean_over_all():
    rows = four_folds("TTI", 460, 690)
    table = beside_reported(tables.fold_table(rows))
    mean = only(table, fold="mean")
    assert math.isnan(mean["mIoU reported"]) and math.isnan(mean["mIoU difference"]) and mean["source"] == ""
    assert only(table, fold="1")["mIoU reported"] == 69.17
    assert math.isnan(only(beside_reported(tables.score_table(rows)))["mIoU reported"])


def test_encoders_shots_and_benchmarks_are_told_apart():
    shares = (400, 400, 400, 400)
    rows = [*four_folds("TTI", *shares, benchmark="pascal2minivspw", shots=1, encoder="resnet101")]
    rows += four_folds("TTI", *shares, benchmark="pascal2minivspw", shots=1)
    rows += four_folds("TTI", *shares, benchmark="pascal2minivspw")
    rows += four_folds("TTI", *shares, benchmark="mini-ytvis", encoder="resnet18-mini")
    rows += four_folds("TTI+keyframe", *shares, encoder="resnet50-dcl")
    table = beside_reported(tables.score_table(rows))
    assert table["mIoU reported"].tolist()[:3] == [38.3, 35.6, 39.2]
    assert math.isnan(table["mIoU reported"][3]) and table["mIoU reported"][4] == 60.8


def test_what_others_report_follows_without_figures_of_ours():
    ours = tables.score_table(four_folds("TTI", 460, 690, 610, 640))
    table = beside_reported(ours, ("mIoU", "J"), others=True)
    assert table["method"][0] == "TTI" and set(table["method"][1:]) >= {"DANet", "HPAN", "RePRI", "PFENet"}
    assert (table["method"] == "TTI").sum() == 1 and set(table["shots"]) == {5}
    danet = only(table, method="DANet")
    assert danet["J reported"] == 58.0 and math.isnan(danet["mIoU reported"]) and danet["source"]
    assert danet[["mIoU", "J", "Dice", "mIoU difference", "J difference"]].isna().all()
    folds = beside_reported(tables.fold_table(four_folds("TTI", 460, 690, 610, 640)), others=True)
    assert sorted(folds[folds["method"] == "RePRI"]["fold"]) == ["0", "1", "2", "3", "mean"]
    assert set(beside_reported(ours, others=True)["benchmark"]) == {"ytvis-v1"}
    pascal = beside_reported(tables.score_table([row("mine", benchmark="pascal")]), others=True)  # there is 1-shot too
    assert set(pascal["shots"]) == {5} and len(pascal) == 1 + 4


def test_where_nobody_reports_the_columns_are_empty():
    plan = [{**row("oracle", benchmark="mini"), "why": "no truth"}]
    table = tables.align_with_plan(tables.score_table([row(benchmark="mini")]), plan)
    beside = beside_reported(table, others=True)
    pd.testing.assert_frame_equal(beside[list(table.columns)], table)
    assert beside["mIoU reported"].isna().all() and (beside["source"] == "").all()


def test_a_column_that_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"no column 'mIou'; did you mean mIoU\?"):
        beside_reported(tables.score_table([row()]), ("mIou",))
    with pytest.raises(ValueError, match="no column 'encoder'"):
        beside_reported(tables.score_table([row()]).drop(columns="encoder"))


def test_the_file_lies_where_readers_look(repository):
    assert repository / "lists" / "reported.csv" == tables.REPORTED
    assert "reported.csv" in (repository / "lists" / "README.md").read_text()

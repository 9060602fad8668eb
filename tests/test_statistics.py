"""Intervals, paired differences and spread: against brute force, by hand, and on episodes whose truth is known."""

import math
from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ttilib.results import statistics, tables
from ttilib.results.statistics import HierarchicalMean

FIGURES = ("mIoU", "Dice", "J", "F", "J&F", "VC_3", "VC_3 released")


def row(method="TTI", fold=0, run=0, class_id=1, episode="a", counts=(1, 2), **more):
    return {
        "benchmark": "ytvis-v1", "shots": 5, "encoder": "resnet50", "method": method, "fold": fold, "run": run,
        "episode": episode, "index": 0, "class_id": class_id, "class_name": f"class {class_id}", "video": episode,
        "frames": 3, "intersection": counts[0], "union": counts[1], **more,
    }  # fmt: skip


def random_rows(seed, method="TTI", folds=2, runs=2, classes=2, most=4):
    """Unequal classes, videos that come up in several runs, gaps in the per-frame figures."""
    rng = np.random.default_rng(seed)
    rows = []
    for fold, run, place in product(range(folds), range(runs), range(classes)):
        for number in range(rng.integers(1, most + 1)):
            union = int(rng.integers(0, 50))
            j, f, vc = (float(v) if rng.random() < 0.8 else None for v in rng.random(3))
            counts = (int(rng.integers(0, union + 1)), union)
            known = {"j": j, "f": f, "vc_3": vc, "released_vc_3": rng.random(), "frames": int(rng.integers(1, 9))}
            video = f"{fold}/{place}/{rng.integers(4)}"
            rows.append(row(method, fold, run, place, f"{video} {number}", counts, video=video, **known))
    return rows


def repeated(data, weights):
    """Each episode as often as its weight says, under another number each time."""
    drawn = data.loc[np.repeat(data.index.to_numpy(), weights.astype(int))].reset_index(drop=True)
    return drawn.assign(index=range(len(drawn)))


def only(table):
    assert len(table) == 1
    return table.iloc[0]


# ---- the chain, weighted -------------------------------------------------------------------------------


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(statistics.UNITS))
def test_a_drawn_sample_scores_as_its_rows_would_if_written_down(seed, unit):
    chain = HierarchicalMean.of(tables.episode_frame(random_rows(seed)))
    weights = np.concatenate(list(chain.draws(2, seed, unit)))
    found = {figure: chain.figure(figure, weights) for figure in FIGURES}
    for place, one in enumerate(weights):
        written = only(tables.score_table(repeated(chain.data, one)))
        for figure in FIGURES:
            assert found[figure][place] == pytest.approx(written[figure], nan_ok=True, abs=1e-6)


def test_every_class_keeps_its_number_of_episodes():
    chain = HierarchicalMean.of(tables.episode_frame(random_rows(3)))
    weights = np.concatenate(list(chain.draws(50, 0)))
    sizes = np.diff([*chain.cells, len(chain.data)])
    assert (np.add.reduceat(weights, chain.cells, axis=1) == sizes).all()
    assert weights.shape == (50, len(chain.data)) and weights.min() == 0 and weights.max() > 1


def test_a_video_is_drawn_in_all_runs_or_in_none():
    rows = [row(run=run, episode=f"{v} {run}", video=v) for run in (0, 1, 2) for v in "abcde"]
    chain = HierarchicalMean.of(tables.episode_frame(rows))
    weights = pd.DataFrame(np.concatenate(list(chain.draws(40, 1, "video"))).T)
    by_video = weights.groupby([chain.data["video"]])
    assert (by_video.nunique() == 1).all().all()
    assert (by_video.first().sum() == 5).all()


def test_drawn_from_the_whole_line_classes_change_size():
    chain = HierarchicalMean.of(tables.episode_frame(random_rows(5)))
    weights = np.concatenate(list(chain.draws(50, 0, within=False)))
    assert (weights.sum(axis=1) == len(chain.data)).all()
    assert np.add.reduceat(weights, chain.cells, axis=1).std(axis=0).min() > 0


def test_each_episode_is_drawn_once_on_average():
    chain = HierarchicalMean.of(tables.episode_frame([row(episode=str(n)) for n in range(7)]))
    weights = np.concatenate(list(chain.draws(4000, 11)))
    assert weights.mean(axis=0) == pytest.approx(1, abs=0.08)
    assert weights.var(axis=0) == pytest.approx(6 / 7, abs=0.12)  # multinomial: n p (1 - p)


def test_draws_do_not_depend_on_how_many_are_held_at_once(monkeypatch):
    chain = HierarchicalMean.of(tables.episode_frame(random_rows(1)))
    at_once = list(chain.draws(23, 9))
    monkeypatch.setattr(statistics, "AT_ONCE", 5 * len(chain.data))
    chunks = list(chain.draws(23, 9))
    assert [len(chunk) for chunk in chunks] == [5, 5, 5, 5, 3] and len(at_once) == 1
    assert (np.concatenate(chunks) == at_once[0]).all()


# ---- intervals -----------------------------------------------------------------------------------------


def test_the_figure_is_that_of_the_table_and_the_bounds_those_of_the_draws():
    rows = [*random_rows(1), *random_rows(2, "RePRI")]
    found = statistics.intervals(rows, FIGURES, samples=10, seed=7, level=0.8)
    table = tables.score_table(rows)
    assert list(found.columns[:9]) == [*tables.METHOD, "folds", "episodes", "mIoU", "mIoU low", "mIoU high"]
    pd.testing.assert_frame_equal(
        found[[*tables.METHOD, "folds", "episodes", *FIGURES]], table[[*tables.METHOD, "folds", "episodes", *FIGURES]]
    )
    for _, line in found.iterrows():
        chain = HierarchicalMean.of(tables.episode_frame([r for r in rows if r["method"] == line["method"]]))
        scores = [only(tables.score_table(repeated(chain.data, w)))["mIoU"] for w in next(chain.draws(10, 7))]
        scores.sort()  # 10 values: the 10% point lies at place 0.9, between the first and the second
        assert line["mIoU low"] == pytest.approx(scores[0] + 0.9 * (scores[1] - scores[0]), abs=1e-6)
        assert line["mIoU high"] == pytest.approx(scores[9] - 0.9 * (scores[9] - scores[8]), abs=1e-6)


def test_intervals_follow_from_rows_and_seed_alone():
    rows = random_rows(4)
    np.random.seed(1)
    first = statistics.intervals(rows, samples=30)
    np.random.seed(2)
    pd.testing.assert_frame_equal(first, statistics.intervals(rows[::-1], samples=30))
    assert not first.equals(statistics.intervals(rows, samples=30, seed=1))
    among = statistics.intervals([*random_rows(8, "RePRI"), *rows], samples=30)
    assert only(among[among["method"] == "TTI"]).equals(first.iloc[0].rename(1))


def test_the_true_mean_lies_in_most_intervals():
    """Two classes of 40 episodes; the true figure is the mean of their own means."""
    inside, times, rng = np.zeros(2), 100, np.random.default_rng(0)
    for _ in range(times):
        rows = []
        for class_id, mean in ((1, 0.3), (2, 0.7)):
            shares = rng.beta(8 * mean, 8 * (1 - mean), 40)
            counts = [(round(1e6 * share), 1000000) for share in shares]
            rows += [
                row(class_id=class_id, episode=f"{class_id} {n}", counts=counts[n], j=shares[n]) for n in range(40)
            ]
        line = only(statistics.intervals(pd.DataFrame(rows), samples=150, seed=int(rng.integers(2**32))))
        inside += [line[f"{figure} low"] <= 50 <= line[f"{figure} high"] for figure in ("mIoU", "J")]
    assert (0.87 * times <= inside).all() and (inside <= 0.99 * times).all()


def test_one_video_in_many_runs_is_less_certain_than_many_videos():
    rng = np.random.default_rng(0)
    own = rng.random(12)
    rows = [row(run=r, episode=f"{v}", counts=(round(1000 * own[v]), 1000)) for r in range(5) for v in range(12)]
    for unit, wide in (("episode", False), ("video", True)):
        line = only(statistics.intervals(rows, ["mIoU"], samples=300, unit=unit))
        error = 100 * own.std() / math.sqrt(12 if wide else 60)
        assert line["mIoU high"] - line["mIoU low"] == pytest.approx(2 * 1.96 * error, rel=0.2)


def test_a_class_that_no_drawn_video_shows_is_left_out_not_zero():
    """Class 1 shows one of its videos in each run; without that video the run has no class 1."""
    rows = [row(run=0, episode="a", counts=(8, 10)), row(run=1, episode="b", counts=(8, 10))]
    line = only(statistics.intervals(rows, ["mIoU"], samples=60, unit="video"))
    assert line[["mIoU", "mIoU low", "mIoU high"]].tolist() == pytest.approx([80, 80, 80])


def test_nothing_there_is_no_figure_and_no_pixels_are_zero():
    line = only(statistics.intervals([row(counts=(0, 0)), row(episode="b", counts=(0, 0))], samples=10))
    assert line[["mIoU", "mIoU low", "mIoU high"]].tolist() == [0, 0, 0]
    assert line[["J", "J low", "J high"]].isna().all()


def test_settings_that_make_no_sense_are_refused():
    rows = random_rows(0)
    with pytest.raises(ValueError, match=r"metric 'mIou' is not known; did you mean mIoU\?"):
        statistics.intervals(rows, ["mIou"], samples=5)
    with pytest.raises(ValueError, match=r"metric 'VC_4' is not known; did you mean VC_"):
        statistics.intervals(rows, ["VC_4"], samples=5)
    with pytest.raises(ValueError, match=r"unit 'videos' is not known; did you mean video"):
        statistics.intervals(rows, samples=5, unit="videos")
    with pytest.raises(ValueError, match="samples=0"):
        statistics.intervals(rows, samples=0)
    with pytest.raises(ValueError, match="level=95"):
        statistics.intervals(rows, samples=5, level=95.0)
    with pytest.raises(ValueError, match="'video'"):
        statistics.intervals([{k: v for k, v in r.items() if k != "video"} for r in rows], samples=5, unit="video")


# ---- the same episodes ---------------------------------------------------------------------------------


def test_paired_looks_at_shared_episodes_only():
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
    line = only(statistics.paired([*ours, *baseline], "TTI", "RePRI", ("mIoU", "J"), samples=200))
    assert (line["method"], line["folds"], line["episodes"]) == ("TTI - RePRI", 1, 2)
    assert line["mIoU"] == pytest.approx(100 * (7 / 15 - 5 / 14)) and line["J"] == pytest.approx(10)
    assert line["IoU"] == pytest.approx((-5 + 20) / 2)
    assert (line["mIoU low"], line["mIoU high"]) == pytest.approx((-5, 20))  # a alone, b alone
    assert (line["IoU low"], line["IoU high"]) == pytest.approx((-5, 20))
    assert (line["better"], line["worse"], line["p"]) == (1, 1, 1)
    with pytest.raises(ValueError, match=r"'TTI' and 'fine-tune' share no episode; .* \(there are: TTI, RePRI\)"):
        statistics.paired([*ours, *baseline], "TTI", "fine-tune")
    with pytest.raises(ValueError, match="share no episode"):
        statistics.paired([ours[2], baseline[2]], "TTI", "RePRI")


def test_both_methods_get_the_same_draws():
    """A constant gain on every episode has no spread, however the episodes differ."""
    pairs = [(10 * n, 100) for n in range(1, 9)]
    rows = [row("RePRI", episode=f"{n}", counts=pair) for n, pair in enumerate(pairs)]
    rows += [row("TTI", episode=f"{n}", counts=(i + 5, u)) for n, (i, u) in enumerate(pairs)][::-1]
    line = only(statistics.paired(rows, "TTI", "RePRI", samples=50))
    assert line[["mIoU", "mIoU low", "mIoU high", "IoU", "IoU low", "IoU high"]].tolist() == pytest.approx([5] * 6)
    assert (line["better"], line["worse"]) == (8, 0) and line["p"] == pytest.approx(2 / 2**8)
    back = only(statistics.paired(rows, "RePRI", "TTI", samples=50))
    assert (back["mIoU"], back["better"], back["worse"], back["p"]) == (pytest.approx(-5), 0, 8, line["p"])


def test_gain_is_the_difference_of_the_tables_where_all_is_shared():
    rows, rng = random_rows(6), np.random.default_rng(0)
    again = [{**r, "method": "RePRI", "intersection": int(rng.integers(0, r["union"] + 1))} for r in rows]
    line = only(statistics.paired([*again, *rows], "TTI", "RePRI", ("mIoU", "Dice"), samples=20))
    table = tables.score_table([*rows, *again]).set_index("method")
    for figure in ("mIoU", "Dice"):
        assert line[figure] == pytest.approx(table.loc["TTI", figure] - table.loc["RePRI", figure])
    better = sum(a["intersection"] < r["intersection"] for a, r in zip(again, rows, strict=True))
    assert line["better"] == better and line["episodes"] == len(rows)


def test_episodes_own_gains_vary_although_each_class_has_but_one():
    rows = [row("RePRI", class_id=c, episode=f"{c}", counts=(50, 100)) for c in range(6)]
    rows += [row("TTI", class_id=c, episode=f"{c}", counts=(50 + 6 * c, 100)) for c in range(6)]
    line = only(statistics.paired(rows, "TTI", "RePRI", samples=100))
    assert line[["mIoU low", "mIoU high", "IoU"]].tolist() == pytest.approx([15, 15, 15])
    assert 5 < line["IoU low"] < 13 and 17 < line["IoU high"] < 25  # 15 ± 2 · 10.2 / √6


def test_equal_overlaps_of_unequal_size_are_ties():
    rows = [row("TTI", episode="a", counts=(1, 3)), row("RePRI", episode="a", counts=(7, 21))]
    rows += [row("TTI", episode="b", counts=(0, 0)), row("RePRI", episode="b", counts=(0, 8))]
    line = only(statistics.paired(rows, "TTI", "RePRI", samples=5))
    assert (line["better"], line["worse"], line["p"], line["IoU"]) == (0, 0, 1, 0)


def test_lines_of_other_shots_and_encoders_keep_apart():
    rows = [row(m, episode=e, counts=(c, 10)) for m, e, c in product(("TTI", "RePRI"), "ab", (5,))]
    rows += [{**r, "shots": 1, "intersection": 7 if r["method"] == "TTI" else 4} for r in rows]
    rows += [{**r, "encoder": "resnet101", "intersection": 9} for r in rows[:4] if r["method"] == "TTI"]
    table = statistics.paired(rows, "TTI", "RePRI", samples=5)
    assert list(table.columns) == [
        "benchmark", "shots", "encoder", "method", "folds", "episodes", "mIoU", "mIoU low", "mIoU high",
        "IoU", "IoU low", "IoU high", "better", "worse", "p",
    ]  # fmt: skip
    assert table["shots"].tolist() == [5, 1] and table["encoder"].unique().tolist() == ["resnet50"]
    assert table["mIoU"].tolist() == pytest.approx([0, 30])
    assert table["better"].tolist() == [0, 2]


@pytest.mark.parametrize(
    "better, worse, p",
    [(8, 2, 0.109375), (2, 8, 0.109375), (5, 5, 1), (0, 0, 1), (1, 0, 1), (6, 0, 0.03125), (9, 1, 0.021484375)],
)
def test_sign_test_by_hand(better, worse, p):
    assert statistics.sign_test(better, worse) == p


def test_sign_test_of_many_episodes():
    assert statistics.sign_test(5100, 4900) == pytest.approx(0.0466, abs=2e-4)  # normal: z = 1.99
    assert statistics.sign_test(20000, 0) == 0 and statistics.sign_test(10000, 10000) == 1


# ---- runs ----------------------------------------------------------------------------------------------


def test_spread_of_the_runs_by_hand():
    figures = {(0, 0): 40, (0, 1): 50, (0, 2): 90, (1, 0): 60, (1, 1): 80, (1, 2): 70}
    rows = [row(fold=f, run=r, counts=(v, 100), j=0.5) for (f, r), v in figures.items()]
    line = only(statistics.run_spread(rows))  # means over folds: 50, 65, 80
    assert list(line.index) == [*tables.METHOD, "runs", "mIoU spread", "J spread"]
    assert line["runs"] == 3 and line["mIoU spread"] == pytest.approx(15) and line["J spread"] == pytest.approx(0)
    uneven = only(statistics.run_spread(rows[:5]))  # fold 1 lacks run 2
    assert uneven["runs"] == 2 and uneven["mIoU spread"] == pytest.approx(15 / math.sqrt(2))
    for few in (rows[:1], [rows[0], rows[4]], [rows[0], rows[1], rows[3]]):
        assert math.isnan(only(statistics.run_spread(few))["mIoU spread"])
    assert only(statistics.run_spread([rows[0], rows[4]]))["runs"] == 0


def test_spread_of_each_method_by_itself():
    rows = [row(m, run=r, counts=(50 + r * s, 100)) for m, s in (("TTI", 2), ("RePRI", 8)) for r in (0, 1)]
    spread = statistics.run_spread(rows, ["mIoU"]).set_index("method")["mIoU spread"]
    assert spread.to_dict() == pytest.approx({"TTI": math.sqrt(2), "RePRI": 4 * math.sqrt(2)})

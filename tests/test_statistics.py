"""Intervals, paired differences and spread: against brute force, by hand, and on episodes whose mean is known."""

import math
from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import only, row

from ttilib.results import statistics, tables
from ttilib.results.statistics import HierarchicalMean, intervals, paired, run_spread, sign_test

NAMES = ("mIoU", "Dice", "J", "F", "J&F", "VC_3", "VC_3 released")


def random_rows(seed, method="TTI"):
    """Unequal classes, videos that come up in several runs, gaps in the values per frame."""
    rng = np.random.default_rng(seed)
    rows = []
    for fold, run, class_id in product((0, 1), (0, 1), (0, 1)):
        for number in range(rng.integers(1, 5)):
            union = int(rng.integers(0, 50))
            j, f, vc = (float(v) if rng.random() < 0.8 else None for v in rng.random(3))
            counts = (int(rng.integers(0, union + 1)), union)
            known = {"j": j, "f": f, "vc_3": vc, "released_vc_3": rng.random(), "frames": int(rng.integers(1, 9))}
            video = f"{fold}/{class_id}/{rng.integers(4)}"
            rows.append(row(method, fold, run, f"{video} {number}", class_id, counts, video=video, **known))
    return rows


def mean_of(rows):
    return HierarchicalMean(tables.episode_frame(rows))


def repeated(data, weights):
    """Each episode as often as its weight says, under another number each time."""
    sampled = data.loc[np.repeat(data.index.to_numpy(), weights.astype(int))].reset_index(drop=True)
    return sampled.assign(index=range(len(sampled)))


@settings(max_examples=5)
@given(st.integers(0, 2**32), st.sampled_from(sorted(statistics.UNITS)))
def test_a_sample_scores_as_its_rows_would_if_written_down(seed, unit):
    mean = mean_of(random_rows(seed))
    weights = np.concatenate(list(mean.bootstrap(2, seed, unit)))
    found = {name: mean.metric(name, weights) for name in NAMES}
    for n, one in enumerate(weights):
        written = only(tables.score_table(repeated(mean.data, one)))
        for name in NAMES:
            assert found[name][n] == pytest.approx(written[name], nan_ok=True, abs=1e-6)


def test_values_are_those_of_the_table_and_bounds_those_of_the_samples():
    rows = [*random_rows(1), *random_rows(2, "RePRI")]
    found = intervals(rows, NAMES, samples=5, seed=7)
    columns = [*tables.METHOD, "folds", "episodes"]
    pd.testing.assert_frame_equal(found[[*columns, *NAMES]], tables.score_table(rows)[[*columns, *NAMES]])
    for _, line in found.iterrows():
        mean = mean_of([r for r in rows if r["method"] == line["method"]])
        scores = [only(tables.score_table(repeated(mean.data, w)))["mIoU"] for w in next(mean.bootstrap(5, 7))]
        scores.sort()  # 5 values: the 2.5% point lies at 0.1, between the first and the second
        assert line["mIoU low"] == pytest.approx(scores[0] + 0.1 * (scores[1] - scores[0]), abs=1e-6)
        assert line["mIoU high"] == pytest.approx(scores[4] - 0.1 * (scores[4] - scores[3]), abs=1e-6)


def test_rows_and_seed_decide_and_no_pixels_are_zero(monkeypatch):
    rows = random_rows(4)
    np.random.seed(1)
    found = intervals(rows, samples=30)
    monkeypatch.setattr(statistics, "AT_ONCE", 7 * len(rows))
    pd.testing.assert_frame_equal(found, intervals(rows[::-1], samples=30))
    assert not found.equals(intervals(rows, samples=30, seed=1))
    line = only(intervals([row(counts=(0, 0)), row(episode="b", counts=(0, 0))], samples=10))
    assert line[["mIoU", "mIoU low", "mIoU high"]].tolist() == [0, 0, 0]
    assert line[["J", "J low", "J high"]].isna().all()


def test_the_true_mean_lies_in_most_intervals():
    """Two classes of 40 episodes; the true value is the mean of their own means."""
    inside, times, rng = 0, 50, np.random.default_rng(0)
    for _ in range(times):
        rows = []
        for class_id, mean in ((1, 0.3), (2, 0.7)):
            shares = rng.beta(8 * mean, 8 * (1 - mean), 40)
            rows += [row(class_id=class_id, episode=f"{class_id} {n}", j=share) for n, share in enumerate(shares)]
        line = only(intervals(pd.DataFrame(rows), ["J"], samples=100, seed=int(rng.integers(2**32))))
        inside += line["J low"] <= 50 <= line["J high"]
    assert 0.86 * times <= inside < times


def test_paired_by_hand_on_shared_episodes_only():
    names, counts, shares = ("a", "b", "only here"), ((1, 4), (4, 10), (9, 9)), (0.3, 0.1, 0.9)
    rows = [row("RePRI", episode=e, counts=c, j=j) for e, c, j in zip(names, counts, shares, strict=True)]
    names, counts, shares = ("b", "a", "only there"), ((6, 10), (1, 5), (0, 9)), (0.3, 0.3, 0.0)
    rows += [row("TTI", episode=e, counts=c, j=j) for e, c, j in zip(names, counts, shares, strict=True)]
    line = only(paired(rows, "TTI", "RePRI", ("mIoU", "J"), samples=200))
    assert (line["method"], line["folds"], line["episodes"]) == ("TTI - RePRI", 1, 2)
    assert line["mIoU"] == pytest.approx(100 * (7 / 15 - 5 / 14)) and line["J"] == pytest.approx(10)
    assert line["IoU"] == pytest.approx((-5 + 20) / 2)
    bounds = line[["mIoU low", "mIoU high", "IoU low", "IoU high"]].tolist()
    assert bounds == pytest.approx([-5, 20] * 2)  # a alone, b alone
    assert (line["better"], line["worse"], line["p"]) == (1, 1, 1)


def test_both_methods_get_the_same_samples():
    """A constant gain on every episode has no spread, however the episodes differ."""
    pairs = [(10 * n, 100) for n in range(1, 9)]
    rows = [row("RePRI", episode=f"{n}", counts=pair) for n, pair in enumerate(pairs)]
    rows += [row("TTI", episode=f"{n}", counts=(i + 5, u)) for n, (i, u) in enumerate(pairs)][::-1]
    line = only(paired(rows, "TTI", "RePRI", samples=50))
    assert line[["mIoU", "mIoU low", "mIoU high", "IoU", "IoU low", "IoU high"]].tolist() == pytest.approx([5] * 6)
    assert (line["better"], line["worse"]) == (8, 0) and line["p"] == pytest.approx(2 / 2**8)


def test_equal_ratios_of_unequal_size_are_ties_and_other_lines_keep_apart():
    rows = [row("TTI", episode="a", counts=(1, 3)), row("RePRI", episode="a", counts=(7, 21))]
    rows += [row("TTI", episode="b", counts=(0, 0)), row("RePRI", episode="b", counts=(0, 8))]
    rows += [{**r, "shots": 1, "union": 9, "intersection": 7 if r["method"] == "TTI" else 4} for r in rows]
    rows += [{**r, "encoder": "resnet101"} for r in rows if r["method"] == "TTI"]
    table = paired(rows, "TTI", "RePRI", samples=5)
    assert table["shots"].tolist() == [5, 1] and set(table["encoder"]) == {"resnet50"}
    assert table[["better", "worse", "p", "IoU"]].iloc[0].tolist() == [0, 0, 1, 0]
    assert table["mIoU"][1] == pytest.approx(100 * 3 / 9) and table["better"][1] == 2


def test_sign_test_by_hand():
    for better, worse, p in ((2, 8, 0.109375), (5, 5, 1), (0, 0, 1), (6, 0, 0.03125)):
        assert sign_test(better, worse) == pytest.approx(p, abs=1e-12)
    assert sign_test(5100, 4900) == pytest.approx(0.0466, abs=2e-4)


def test_spread_of_the_runs_by_hand():
    values = {(0, 0): 40, (0, 1): 50, (0, 2): 90, (1, 0): 60, (1, 1): 80, (1, 2): 70}
    rows = [row(fold=f, run=r, counts=(v, 100), j=0.5) for (f, r), v in values.items()]
    both = run_spread([*rows, *[{**r, "method": "RePRI", "intersection": 8} for r in rows]])
    line = both.iloc[0]  # means over folds: 50, 65, 80
    assert line["runs"] == 3 and line["mIoU spread"] == pytest.approx(15) and line["J spread"] == pytest.approx(0)
    assert both["mIoU spread"][1] == pytest.approx(0)
    uneven = only(run_spread(rows[:5]))  # fold 1 lacks run 2
    assert uneven["runs"] == 2 and uneven["mIoU spread"] == pytest.approx(15 / math.sqrt(2))
    assert math.isnan(only(run_spread(rows[:1]))["mIoU spread"])
    assert only(run_spread([rows[0], rows[4]]))["runs"] == 0

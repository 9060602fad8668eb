"""How sure is a figure? Episodes drawn again, methods compared on the same ones, runs beside runs.

`intervals` draws the episodes of each class a thousand times and tells between which bounds 95% of the tables' figures
fell; `paired` does so for the gain of one method over another on identical episodes; `run_spread` is what changes from
run to run. Everything follows from the rows and a seed. Classes and folds stay as they are: they are the benchmark.

Classes with few episodes hardly change when they are drawn again: intervals from them are too narrow.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
from jaxtyping import Float64

from ttilib.scores.resampling import Chain, bounded
from ttilib.scores.tables import METHOD, Rows, episode_frame, episode_keys, run_table


def intervals(
    rows: Rows,
    figures: Sequence[str] = ("mIoU", "J"),
    samples: int = 1000,
    seed: int = 2020,
    level: float = 0.95,
    unit: str = "episode",
) -> pd.DataFrame:
    """The figures of `tables.score_table` with their percentile bootstrap intervals, in percent.

    One line per benchmark, shots, encoder and method: folds, episodes, then "mIoU", "mIoU low", "mIoU high", ...
    Figures: mIoU, Dice, J, F, J&F, VC_k. With unit="video" the same videos are drawn in all runs of a fold and class,
    as one video's episodes are alike; take it when there are several runs.

    Raises ValueError for an unknown figure or unit. Source: Efron and Tibshirani, An Introduction to the Bootstrap.
    """
    lines = []
    for key, data in episode_frame(rows).groupby(METHOD, sort=False):
        chain = Chain.of(data)
        statistics = {name: partial(chain.figure, name) for name in figures}
        about = {**dict(zip(METHOD, key, strict=True)), "folds": data["fold"].nunique(), "episodes": len(data)}
        lines.append(about | bounded(statistics, chain.draws(samples, seed, unit), len(data), level))
    return pd.DataFrame(lines)


def _pair(data: pd.DataFrame, method: str, baseline: str) -> list[pd.DataFrame]:
    """The rows of two methods on the episodes that both have."""
    keys = [*episode_keys(data), "class_id"]
    pair = [data[data["method"] == name] for name in (method, baseline)]
    both = pair[0][keys].merge(pair[1][keys], on=keys)
    if both.empty:
        there = ", ".join(map(str, data["method"].unique()))
        raise ValueError(
            f"{method!r} and {baseline!r} share no episode; evaluate both on the same episodes (there are: {there})"
        )
    return [part.merge(both, on=keys) for part in pair]


def sign_test(better: int, worse: int) -> float:
    """Probability that a fair coin falls at least as unevenly: exact, two-sided; 1 without any throw."""
    throws, ways, total = better + worse, 1, 0
    for heads in range(min(better, worse) + 1):  # ways: in how many ways as many heads can fall
        total += ways
        ways = ways * (throws - heads) // (heads + 1)
    return min(1.0, 2 * total / 2**throws)


def _overlap(chain: Chain) -> Float64[np.ndarray, " N"]:
    """IoU of each episode by itself, in percent; equal ratios of pixels are equal numbers."""
    return (100 * chain.data["intersection"] / chain.data["union"].clip(lower=1)).to_numpy(float)


def paired(
    rows: Rows,
    method: str,
    baseline: str,
    figures: Sequence[str] = ("mIoU",),
    samples: int = 1000,
    seed: int = 2020,
    level: float = 0.95,
    unit: str = "episode",
) -> pd.DataFrame:
    """How much `method` gains over `baseline` on the very same episodes, in percentage points, with bounds.

    Runs differ by more than methods do; on identical episodes that drops out. One line per benchmark, shots and encoder
    with folds, episodes and method ("TTI - RePRI"). For each figure the gain in the chain of `tables`: "mIoU",
    "mIoU low", "mIoU high", the same episodes drawn for both. "IoU", "IoU low", "IoU high": the mean difference of the
    episodes' own IoU, episodes drawn from the whole line. "better" and "worse": how many episodes; "p": two-sided sign
    test of these, ties left out, episodes taken as independent.

    Raises ValueError if the two share no episode, or for an unknown figure or unit.
    """
    lines = []
    pair = [part.groupby(METHOD[:3], sort=False) for part in _pair(episode_frame(rows), method, baseline)]
    for key, data in pair[0]:
        ours, theirs = Chain.of(data), Chain.of(pair[1].get_group(key))
        gains = {n: lambda w, n=n, a=ours, b=theirs: a.figure(n, w) - b.figure(n, w) for n in figures}
        difference = _overlap(ours) - _overlap(theirs)
        own = {"IoU": lambda w, d=difference: (w @ d) / w.sum(axis=1)}
        better, worse = int((difference > 0).sum()), int((difference < 0).sum())
        line = {**dict(zip(METHOD, key, strict=False)), "method": f"{method} - {baseline}"}
        line |= {"folds": data["fold"].nunique(), "episodes": len(data)}
        line |= bounded(gains, ours.draws(samples, seed, unit), len(data), level)
        line |= bounded(own, ours.draws(samples, seed, unit, within=False), len(data), level)
        lines.append(line | {"better": better, "worse": worse, "p": sign_test(better, worse)})
    return pd.DataFrame(lines)


def run_spread(rows: Rows, figures: Sequence[str] = ("mIoU", "J")) -> pd.DataFrame:
    """What changes from run to run: standard deviation over runs of the mean over folds, percentage points.

    One line per benchmark, shots, encoder and method: "runs", the runs that all its folds have, then "mIoU spread", ...
    (divided by runs - 1; nan with fewer than two such runs).
    """
    lines = []
    for key, table in run_table(rows).groupby(METHOD, sort=False):
        folds = table.groupby("run")["fold"].nunique()
        common = table[table["run"].isin(folds.index[folds == table["fold"].nunique()])]
        spread = common.groupby("run")[list(figures)].mean().std(ddof=1).add_suffix(" spread")
        lines.append({**dict(zip(METHOD, key, strict=True)), "runs": common["run"].nunique(), **spread})
    return pd.DataFrame(lines)

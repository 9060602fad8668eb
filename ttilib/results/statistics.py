"""Uncertainty of metrics: bootstrap intervals, paired comparison, spread over runs.

Every bootstrap sample recomputes all averages of `tables`, with each episode weighted by how often it was sampled.
Classes and folds are fixed. Intervals are too narrow for classes with few episodes. All results follow from a seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int64

from ttilib.files import look_up
from ttilib.results.metrics import METRICS
from ttilib.results.tables import METHOD, Rows, episode_frame, episode_keys, run_table, sums_of

UNITS = {"episode": ["fold", "run", "class_id"], "video": ["fold", "class_id"]}  # what is sampled, and within what
BOUNDS = (0.025, 0.975)  # quantiles: 95% of the samples are inside
AT_ONCE = 500_000  # weights in one chunk: 4 MB

Values = Float64[np.ndarray, " B"]  # one per sample
Weights = Float64[np.ndarray, "B N"]  # one per sample and episode
Starts = Int64[np.ndarray, " groups"]


def _starts(data: pd.DataFrame, by: list[str]) -> Starts:
    """Where each group begins in a table sorted by group."""
    return np.flatnonzero(np.diff(data.groupby(by).ngroup().to_numpy(), prepend=-1))


def _mean_known(values: Float64[np.ndarray, "B n"], starts: Starts) -> Float64[np.ndarray, "B groups"]:
    """Means over groups of columns, nan ignored; nan where all values are nan."""
    known = np.isfinite(values)
    total = np.add.reduceat(np.where(known, values, 0.0), starts, axis=1)
    return _ratio(total, np.add.reduceat(known, starts, axis=1, dtype=np.float64))


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below, nan where below is 0."""
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)


class HierarchicalMean:
    """The averages of one line of a table, as released, for any weights of its episodes.

    `data`: an `episode_frame` of one benchmark, shots, encoder and method, which is sorted here. `cells`: first row of
    each class of a run; `runs`: first cell of each run; `folds`: first runs.
    """

    def __init__(self, data: pd.DataFrame) -> None:
        by = ["fold", "run", "class_id"]
        order = [*by, "episode", *(["index"] if "index" in data else [])]
        self.data = data.sort_values(order, kind="stable", ignore_index=True)
        self.cells = _starts(self.data, by)
        first = self.data.iloc[self.cells]
        self.runs = _starts(first, by[:2])
        self.folds = _starts(first.iloc[self.runs], by[:1])

    def _pooled(self, name: str, weights: Weights) -> Float64[np.ndarray, "B cells"]:
        """The metric of every cell; nan where no episode with a value was sampled."""
        metric = look_up(name, METRICS, "metric")
        if metric.mean_of:
            return np.mean([self._pooled(other, weights) for other in metric.mean_of], axis=0)
        above, below, known = (
            np.add.reduceat(weights * part, self.cells, axis=1) for part in sums_of(metric, self.data)
        )
        return _ratio(np.where(known > 0, above, np.nan), below + metric.epsilon) * (100 if metric.percent else 1)

    def metric(self, name: str, weights: Weights) -> Float64[np.ndarray, " B"]:
        """The metric of the line, in percent, for each row of weights; classes without weight are left out."""
        means = self._pooled(name, weights)
        for starts in (self.runs, self.folds, np.zeros(1, int)):
            means = _mean_known(means, starts)
        return means[:, 0]

    def bootstrap(self, samples: int, seed: int, unit: str = "episode", within: bool = True) -> Iterator[Weights]:
        """How often each episode was sampled with replacement, in chunks of samples, from the seed.

        Sampled within each cell; with unit="video", videos within each fold and class, the same for all runs; without
        `within`, from the whole line.
        """
        home = look_up(unit, UNITS, "unit")
        if samples < 1:
            raise ValueError(f"samples={samples}: take at least one")
        if unit == "video" and "video" not in self.data:
            raise ValueError("the rows do not name their 'video'; sample episodes instead")
        groups = self.data.groupby([*home, "video"]).ngroup() if unit == "video" else self.data.index
        units, first, unit_of = np.unique(groups, return_index=True, return_inverse=True)
        cells = self.data.iloc[first].groupby(home).ngroup().to_numpy() if within else np.zeros(len(units), int)
        _, start, cell, size = np.unique(cells, return_index=True, return_inverse=True, return_counts=True)
        rng, chunk = np.random.default_rng(seed), max(1, AT_ONCE // len(self.data))
        for begin in range(0, samples, chunk):
            count = min(chunk, samples - begin)
            sampled = start[cell] + (rng.random((count, len(units))) * size[cell]).astype(int)
            sampled += len(units) * np.arange(count)[:, None]
            often = np.bincount(sampled.ravel(), minlength=count * len(units)).reshape(count, len(units))
            yield often[:, unit_of].astype(float)


def bounded(
    statistics: Mapping[str, Callable[[Weights], Values]], samples: Iterator[Weights], episodes: int
) -> dict[str, float]:
    """Each statistic with equal weights, and the central 95% of its values over the same samples."""
    values_of = [[statistic(weights) for statistic in statistics.values()] for weights in samples]
    found = {}
    for (name, statistic), parts in zip(statistics.items(), zip(*values_of, strict=True), strict=True):
        values = np.concatenate(parts)
        values = values[np.isfinite(values)]
        low, high = np.quantile(values, BOUNDS) if len(values) else (np.nan, np.nan)
        found[name] = float(statistic(np.ones((1, episodes)))[0])
        found |= {f"{name} low": float(low), f"{name} high": float(high)}
    return found


def intervals(
    rows: Rows,
    metrics: Sequence[str] = ("mIoU", "J"),
    samples: int = 1000,
    seed: int = 2020,
    unit: str = "episode",
) -> pd.DataFrame:
    """The metrics of `tables.score_table` with 95% percentile bootstrap intervals, in percent.

    One line per benchmark, shots, encoder and method: folds, episodes, then "mIoU", "mIoU low", "mIoU high", ...
    `metrics`: names in `METRICS`. With several runs use unit="video": episodes of one video are alike.

    Raises ValueError for an unknown metric or unit. Source: Efron and Tibshirani, An Introduction to the Bootstrap.
    """
    lines = []
    for key, data in episode_frame(rows).groupby(METHOD, sort=False):
        mean = HierarchicalMean(data)
        statistics = {name: partial(mean.metric, name) for name in metrics}
        about = {**dict(zip(METHOD, key, strict=True)), "folds": data["fold"].nunique(), "episodes": len(data)}
        lines.append(about | bounded(statistics, mean.bootstrap(samples, seed, unit), len(data)))
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
    """Exact two-sided sign test: probability of a split at least as uneven by chance; 1 without episodes."""
    throws, ways, total = better + worse, 1, 0
    for heads in range(min(better, worse) + 1):  # ways: binomial coefficient (throws, heads)
        total += ways
        ways = ways * (throws - heads) // (heads + 1)
    return min(1.0, 2 * total / 2**throws)


def paired(
    rows: Rows,
    method: str,
    baseline: str,
    metrics: Sequence[str] = ("mIoU",),
    samples: int = 1000,
    seed: int = 2020,
    unit: str = "episode",
) -> pd.DataFrame:
    """Gain of `method` over `baseline` on identical episodes, in percentage points, with 95% bootstrap intervals.

    One line per benchmark, shots and encoder: method ("TTI - RePRI"), folds, episodes; per metric the gain, "mIoU",
    "mIoU low", "mIoU high", the same episodes sampled for both; "IoU" likewise, the mean difference of the episodes'
    own IoU, sampled from the whole line; "better", "worse": number of episodes; "p": two-sided sign test of these, ties
    left out, episodes taken as independent. Raises ValueError without common episodes, or for an unknown name.
    """
    lines = []
    pair = [part.groupby(METHOD[:3], sort=False) for part in _pair(episode_frame(rows), method, baseline)]
    for key, data in pair[0]:
        ours, theirs = HierarchicalMean(data), HierarchicalMean(pair[1].get_group(key))
        gains = {n: lambda w, n=n, a=ours, b=theirs: a.metric(n, w) - b.metric(n, w) for n in metrics}
        # IoU of the episodes without epsilon, so that equal ratios of pixels are equal numbers
        iou, base = (100 * m.data["intersection"] / m.data["union"].clip(lower=1) for m in (ours, theirs))
        difference = (iou - base).to_numpy(float)
        own = {"IoU": lambda w, d=difference: (w @ d) / w.sum(axis=1)}
        better, worse = int((difference > 0).sum()), int((difference < 0).sum())
        line = {**dict(zip(METHOD, key, strict=False)), "method": f"{method} - {baseline}"}
        line |= {"folds": data["fold"].nunique(), "episodes": len(data)}
        line |= bounded(gains, ours.bootstrap(samples, seed, unit), len(data))
        line |= bounded(own, ours.bootstrap(samples, seed, unit, within=False), len(data))
        lines.append(line | {"better": better, "worse": worse, "p": sign_test(better, worse)})
    return pd.DataFrame(lines)


def run_spread(rows: Rows, metrics: Sequence[str] = ("mIoU", "J")) -> pd.DataFrame:
    """Standard deviation over runs (divided by runs - 1) of the mean over folds, in percentage points.

    One line per benchmark, shots, encoder and method: "runs" in all folds, "mIoU spread", ... (nan below two runs).
    """
    lines = []
    for key, table in run_table(rows).groupby(METHOD, sort=False):
        folds = table.groupby("run")["fold"].nunique()
        common = table[table["run"].isin(folds.index[folds == table["fold"].nunique()])]
        spread = common.groupby("run")[list(metrics)].mean().std(ddof=1).add_suffix(" spread")
        lines.append({**dict(zip(METHOD, key, strict=True)), "runs": common["run"].nunique(), **spread})
    return pd.DataFrame(lines)

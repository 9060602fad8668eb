"""How sure is a metric? Episodes drawn again, methods compared on the same ones, runs beside runs.

`intervals` draws the episodes of each class a thousand times, with replacement, and gives the bounds between which 95%
of the values fell; `paired` does so for the gain of one method over another on identical episodes; `run_spread` is what
changes from run to run. For every sample the *whole* chain of averages that `tables` describes is computed anew: an
episode that was drawn twice has weight 2, one that was not has none. Everything follows from the rows and a seed.

Classes and folds stay as they are: they are the benchmark. Classes with few episodes hardly change when they are drawn
again: intervals from them are too narrow.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int64

from ttilib.files import meant
from ttilib.results.metrics import METRICS
from ttilib.results.tables import METHOD, Rows, episode_frame, episode_keys, run_table, sums_of

UNITS = ("episode", "video")
AT_ONCE = 500_000  # weights held at a time: 4 MB, a few times over

Values = Float64[np.ndarray, " B"]  # one per sample
Weights = Float64[np.ndarray, "B N"]  # one per sample and episode
Starts = Int64[np.ndarray, " groups"]


def _starts(data: pd.DataFrame, by: list[str]) -> Starts:
    """Where groups begin in a table sorted by them."""
    return np.flatnonzero(np.diff(data.groupby(by).ngroup().to_numpy(), prepend=-1))


def _mean_known(values: Float64[np.ndarray, "B n"], starts: Starts) -> Float64[np.ndarray, "B groups"]:
    """Means of groups of columns, without what is nan; nan where all is."""
    known = np.isfinite(values)
    total = np.add.reduceat(np.where(known, values, 0.0), starts, axis=1)
    return _ratio(total, np.add.reduceat(known, starts, axis=1, dtype=np.float64))


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below, nan where below is 0."""
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)


@dataclass(frozen=True)
class Chain:
    """The released chain of averages for one line of a table, for any weights of its episodes.

    `data` is sorted; `cells` are the classes of a pass, where pixels are pooled; `passes` and `folds` say where
    these begin, each among the groups before it.
    """

    data: pd.DataFrame
    cells: Int64[np.ndarray, " cells"]
    passes: Int64[np.ndarray, " passes"]
    folds: Int64[np.ndarray, " folds"]

    @staticmethod
    def of(data: pd.DataFrame) -> Chain:
        """The chain of an `episode_frame` of one benchmark, shots, encoder and method."""
        by = ["fold", "run", "class_id"]
        order = [*by, "episode", *(["index"] if "index" in data else [])]
        data = data.sort_values(order, kind="stable", ignore_index=True)
        cells = _starts(data, by)
        passes = _starts(data.iloc[cells], by[:2])
        return Chain(data, cells, passes, _starts(data.iloc[cells].iloc[passes], by[:1]))

    def _pooled(self, name: str, weights: Weights) -> Float64[np.ndarray, "B cells"]:
        """A metric of every cell; nan where no episode with a value was drawn."""
        _check(name, METRICS, "metric")
        metric = METRICS[name]
        if metric.mean_of:
            return sum(self._pooled(other, weights) for other in metric.mean_of) / len(metric.mean_of)
        above, below, known = (
            np.add.reduceat(weights * part, self.cells, axis=1) for part in sums_of(metric, self.data)
        )
        return _ratio(np.where(known > 0, above, np.nan), below + metric.epsilon) * (100 if metric.percent else 1)

    def figure(self, name: str, weights: Weights) -> Float64[np.ndarray, " B"]:
        """The metric of the line, in percent, for each sample of weights; a class without weight was not seen."""
        means = self._pooled(name, weights)
        for starts in (self.passes, self.folds, np.zeros(1, int)):
            means = _mean_known(means, starts)
        return means[:, 0]

    def draws(self, samples: int, seed: int, unit: str = "episode", within: bool = True) -> Iterator[Weights]:
        """How often each episode was drawn, in chunks of samples; numbers of its own, from the seed.

        Drawn are the episodes of each cell, or with unit="video" the videos of each fold and class, for all runs
        alike. Without `within`, they are drawn from the whole line at once.
        """
        _check(unit, UNITS, "unit")
        if samples < 1:
            raise ValueError(f"samples={samples}: draw at least one")
        if unit == "video" and "video" not in self.data:
            raise ValueError("the rows do not name their 'video'; draw episodes instead")
        home = ["fold", "class_id"] if unit == "video" else ["fold", "run", "class_id"]
        groups = self.data.groupby([*home, "video"]).ngroup() if unit == "video" else self.data.index
        units, first, place = np.unique(groups, return_index=True, return_inverse=True)
        cells = self.data.iloc[first].groupby(home).ngroup().to_numpy() if within else np.zeros(len(units), int)
        _, start, cell, size = np.unique(cells, return_index=True, return_inverse=True, return_counts=True)
        rng, chunk = np.random.default_rng(seed), max(1, AT_ONCE // len(self.data))
        for begin in range(0, samples, chunk):
            count = min(chunk, samples - begin)
            drawn = start[cell] + (rng.random((count, len(units))) * size[cell]).astype(int)
            drawn += len(units) * np.arange(count)[:, None]
            often = np.bincount(drawn.ravel(), minlength=count * len(units)).reshape(count, len(units))
            yield often[:, place].astype(float)


def _check(name: str, known: Collection[str], what: str) -> None:
    if name not in known:
        raise ValueError(f"{what} {name!r} is not known; {meant(name, known)}")


def bounded(
    statistics: Mapping[str, Callable[[Weights], Values]], draws: Iterator[Weights], episodes: int, level: float
) -> dict[str, float]:
    """Each statistic of the episodes as they are, and the middle `level` of it over the same draws."""
    if not 0 < level < 1:
        raise ValueError(f"level={level}: the share of results inside an interval lies between 0 and 1")
    drawn = [[statistic(weights) for statistic in statistics.values()] for weights in draws]
    found = {}
    for (name, statistic), parts in zip(statistics.items(), zip(*drawn, strict=True), strict=True):
        values = np.concatenate(parts)
        values = values[np.isfinite(values)]
        low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2]) if len(values) else (np.nan, np.nan)
        found[name] = float(statistic(np.ones((1, episodes)))[0])
        found |= {f"{name} low": float(low), f"{name} high": float(high)}
    return found


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

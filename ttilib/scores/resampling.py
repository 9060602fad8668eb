"""Drawing the episodes again: the chain of averages for any weights of the episodes.

A table's figure comes from the episodes that happened to be drawn. The bootstrap asks what it would have been with
others: within every class of a pass its episodes are drawn again, with replacement, and the *whole* chain of averages
that `tables` describes is computed anew. An episode that was drawn twice has weight 2, one that was not has none.

`Chain` is that chain, its `figure` takes weights and its `draws` makes them; `bounded` gives a figure its interval.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int64

from ttilib.names import meant
from ttilib.scores.metrics import EPSILON
from ttilib.scores.tables import vc_columns

UNITS = ("episode", "video")
AT_ONCE = 500_000  # weights held at a time: 4 MB, a few times over
OVERLAPS = ("mIoU", "Dice", "J", "F", "J&F")

Values = Float64[np.ndarray, " N"]  # one per episode
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

    def _terms(self, figure: str) -> list[tuple[Values, Values]]:
        """What is summed over a cell, above and below the line; a figure is the mean of its ratios."""
        if figure == "J&F":
            return [*self._terms("J"), *self._terms("F")]
        column = {name: key for key, name in vc_columns(self.data.columns).items()}
        i, u, frames = (self.data[key].to_numpy(float) for key in ("intersection", "union", "frames"))
        if figure in ("mIoU", "Dice"):  # the tiny term makes no pixels at all a zero, as released, and no episode a nan
            return [(i, u + EPSILON)] if figure == "mIoU" else [(2 * i, u + i + EPSILON)]
        if figure not in ("J", "F", *column):
            _refuse(figure, [*OVERLAPS, *column], "figure")
        values = self.data[column.get(figure, figure.lower())].to_numpy(float)
        weight = np.where(np.isfinite(values), 1.0 if figure in column else frames, 0.0)
        return [(np.where(weight > 0, values, 0.0) * weight, weight)]

    def figure(self, name: str, weights: Weights) -> Float64[np.ndarray, " B"]:
        """The figure in percent for each line of weights; a class without weight was not seen."""
        ratios = [
            _ratio(*(np.add.reduceat(weights * part, self.cells, axis=1) for part in term))
            for term in self._terms(name)
        ]
        means = sum(ratios) / len(ratios)
        for starts in (self.passes, self.folds, np.zeros(1, int)):
            means = _mean_known(means, starts)
        return 100 * means[:, 0]

    def draws(self, samples: int, seed: int, unit: str = "episode", within: bool = True) -> Iterator[Weights]:
        """How often each episode was drawn, in chunks of samples; numbers of its own, from the seed.

        Drawn are the episodes of each cell, or with unit="video" the videos of each fold and class, for all runs
        alike. Without `within`, they are drawn from the whole line at once.
        """
        if unit not in UNITS:
            _refuse(unit, UNITS, "unit")
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


def _refuse(found: str, known: Sequence[str], what: str) -> None:
    raise ValueError(f"{what} {found!r} is not known; {meant(found, known)}")


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

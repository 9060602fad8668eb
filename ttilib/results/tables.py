"""Tables of metrics from the rows of episodes, in percent, and reported values (`lists/reported.csv`) beside them.

As released, pixels are pooled within each class of a fold and run; then classes, runs and folds are averaged. Only
equal definitions are compared: the "F-score" that the release prints is Dice, not the boundary measure F.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from ttilib.files import LISTS, convert, suggest
from ttilib.results.metrics import METRICS, Metric
from ttilib.results.records import Tabulated, plain

METHOD = ["benchmark", "shots", "encoder", "method"]  # identify a line of a table
PASS = [*METHOD, "fold", "run"]  # identify one run (seed) of a fold
COST = {"seconds": "s/episode", "memory_mb": "MB/episode"}  # row key: column
Rows: TypeAlias = "Iterable[Mapping[str, Any]] | pd.DataFrame"


def episode_keys(data: pd.DataFrame) -> list[str]:
    """The columns that identify an episode, whatever the method."""
    return [*(k for k in PASS if k != "method"), "episode", *(["index"] if "index" in data else [])]


def episode_frame(rows: Rows) -> pd.DataFrame:
    """The rows as a checked table; missing values are nan, lists (one value per frame) are left out.

    With an `index`, an episode may occur more than once in a run. Raises ValueError for a row that is no
    `records.Tabulated`, a repeated episode, or rows that come from different code.
    """
    if isinstance(rows, pd.DataFrame):  # a column with a gap has floats in place of integers
        rows = [{k: int(v) if isinstance(v, float) and v.is_integer() else v for k, v in row.items()}
                for row in rows.to_dict("records")]  # fmt: skip
    checked = [plain({k: v for k, v in row.items() if not isinstance(v, list)}) for row in rows]
    for number, row in enumerate(checked, start=1):
        convert(row, Tabulated, f"row {number}")
    if not checked:
        raise ValueError("there are no rows to tabulate; evaluate at least one episode")
    data = pd.DataFrame(checked)
    for row in data[data.duplicated([*episode_keys(data), "method"])].itertuples():
        raise ValueError(
            f"episode {row.episode} is recorded twice for {row.method} (fold {row.fold}, run {row.run}); "
            "remove one, or number the episodes of a run by an 'index' if it was sampled twice"
        )
    for about, advice in {"code": "evaluate", "metrics": "score again (notebook 05, rescore)"}.items():
        _check_versions(data, about, advice)
    for key in ["predicted", "true", *(metric.key for metric in METRICS.values() if metric.score), *COST]:
        data[key] = pd.to_numeric(data[key]) if key in data else float("nan")
    return data


def _check_versions(data: pd.DataFrame, about: str, advice: str) -> None:
    """Reject rows of different code: they must not be averaged together."""
    made = [made if isinstance(made, Mapping) else {} for made in data.get("made", ())]
    found = pd.Series([str(each.get(about) or "unknown") for each in made], dtype=str)
    counts = found.value_counts().sort_index()
    if len(counts) > 1:
        versions = ", ".join(f"{version}: {count} rows" for version, count in counts.items())
        raise ValueError(
            f"the rows come from {len(counts)} versions of the {about} ({versions}); "
            f"{advice} all of them with one version, or tabulate each version by itself"
        )


def sums_of(metric: Metric, data: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both terms of `metric.pool` per episode (0 without a value), and which episodes have a value."""
    above, below = (np.broadcast_to(np.asarray(part, float), len(data)) for part in metric.pool(data, metric.key))
    known = np.isfinite(above) & np.isfinite(below)
    return np.where(known, above, 0.0), np.where(known, below, 0.0), known


def _pooled(data: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Pooled metrics of every group of episodes; nan where no episode has a value."""
    groups = data.groupby(by, sort=False)
    table = groups["class_name"].first().to_frame().assign(episodes=groups.size())
    for metric in METRICS.values():
        if metric.mean_of:
            table[metric.name] = table[list(metric.mean_of)].mean(axis=1, skipna=False)
            continue
        parts = data[by].assign(**dict(zip(("above", "below", "known"), sums_of(metric, data), strict=True)))
        total = parts.groupby(by, sort=False).sum()
        value = total["above"] / (total["below"] + metric.epsilon) * (100 if metric.percent else 1)
        table[metric.name] = value.where(total["known"] > 0)
    return table.reset_index()


def _mean(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Means of metrics and cost in each group; episodes are added, folds counted."""
    groups = table.groupby(by, sort=False)
    result = groups[[name for name in table if name in METRICS or name in COST.values()]].mean()
    result.insert(0, "episodes", groups["episodes"].sum())
    result.insert(0, "folds", table["fold"].groupby([table[k] for k in by], sort=False).nunique())
    return result.reset_index()


def _alone(column: Hashable) -> Hashable:
    """Column name where classes are not averaged: IoU for mIoU."""
    return METRICS[column].alone if column in METRICS else column


def video_table(rows: Rows) -> pd.DataFrame:
    """Metrics of every query video and class over all episodes and runs, in percent; `frames` of the longest.

    Raises ValueError if a row has no video.
    """
    data = episode_frame(rows)
    if "video" not in data or data["video"].isna().any():
        raise ValueError("some rows have no 'video'; a table of videos needs it in each")
    by = [*METHOD, "fold", "class_id", "video"]
    table = _pooled(data, by).rename(columns=_alone)
    frames = data.groupby(by, sort=False)["frames"].max()
    table.insert(table.columns.get_loc("episodes") + 1, "frames", frames.to_numpy())
    return table


def class_table(rows: Rows) -> pd.DataFrame:
    """Metrics of every novel class in percent, averaged over runs."""
    table = _mean(_pooled(episode_frame(rows), [*PASS, "class_id"]), [*METHOD, "fold", "class_id", "class_name"])
    return table.drop(columns="folds").rename(columns=_alone)


def run_table(rows: Rows) -> pd.DataFrame:
    """Every fold and run: means over its classes, in percent, and mean seconds and peak MB (10^6 bytes) per episode."""
    data = episode_frame(rows)
    cost = data.groupby(PASS)[list(COST)].mean().rename(columns=COST)
    return _mean(_pooled(data, [*PASS, "class_id"]), PASS).drop(columns="folds").join(cost, on=PASS)


def score_table(rows: Rows) -> pd.DataFrame:
    """The table of a paper: every metric of `METRICS` in percent, seconds and MB per episode.

    One line per benchmark, shots, encoder and method: pooled per class, then averaged over classes, runs and folds.
    `folds`: number of folds. Source: docs/protocol.md 5.4.
    """
    return _mean(_mean(run_table(rows), [*METHOD, "fold"]), METHOD)


def align_with_plan(table: pd.DataFrame, lines: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """A `score_table` in the order of the planned `lines`; lines without rows have 0 episodes and nan.

    Each line has benchmark, shots, encoder, method and optionally `why`, shown in the last column, "note". Duplicates
    are merged; unplanned lines of the table follow.
    """
    notes: dict[tuple[Hashable, ...], list[str]] = {}
    for line in lines:
        reasons = notes.setdefault(tuple(line[key] for key in METHOD), [])
        if line.get("why") and line["why"] not in reasons:
            reasons.append(str(line["why"]))
    for key in table[METHOD].itertuples(index=False, name=None):
        notes.setdefault(key, [])
    order = pd.DataFrame(list(notes), columns=METHOD)
    result = order.merge(table, on=METHOD, how="left", validate="1:1")
    counts = [name for name in ("folds", "episodes") if name in result]
    result[counts] = result[counts].fillna(0).astype(int)
    return result.assign(note=["; ".join(reasons) for reasons in notes.values()])


FOLDS = 4  # number of folds that a reported mean covers


def read_reported() -> pd.DataFrame:
    """Reported values in percent with their sources.

    Columns: benchmark, shots, encoder, method (our names), label (theirs), fold ("0".."3" or "mean"), figure (the
    metric), value, spread (standard deviation over runs, if known), source.
    """
    return pd.read_csv(LISTS / "reported.csv", dtype={"fold": str})


def _by_line(metrics: Sequence[str]) -> pd.DataFrame:
    """Reported means over all folds, one line per setting: a column for each metric, and the sources."""
    reported = read_reported()
    reported = reported[reported["figure"].isin(list(metrics)) & (reported["fold"] == "mean")]
    values = reported.pivot(index=METHOD, columns="figure", values="value").reindex(columns=list(metrics))
    sources = reported.groupby(METHOD)["source"].agg(lambda texts: "; ".join(dict.fromkeys(texts)))
    lines = reported[METHOD].drop_duplicates(ignore_index=True)
    return lines.join(values.add_suffix(" reported").join(sources), on=METHOD)


def beside_reported(table: pd.DataFrame, metrics: Sequence[str] = ("mIoU",), others: bool = False) -> pd.DataFrame:
    """A `score_table` with the values reported for its lines, in percent.

    Adds "mIoU reported" and "mIoU difference" (measured minus reported) for each metric, then "source"; nan and ""
    where nothing is reported. A line is compared only if it covers all four folds. With `others`, the reported lines of
    the same benchmarks and shots that the table lacks are appended. Raises ValueError naming a missing column.
    """
    for name in [*METHOD, "folds", *metrics]:
        if name not in table:
            hint = suggest(name, table.columns, "give a table of scores and metrics that it has")
            raise ValueError(f"the table has no column {name!r}; {hint}")
    ours, right = table.reset_index(drop=True), _by_line(metrics)
    result = ours.merge(right, on=METHOD, how="left", validate="m:1")
    reported = [f"{name} reported" for name in metrics]
    result.loc[result["folds"] != FOLDS, [*reported, "source"]] = float("nan")
    if others:
        blocks, settings = (set(ours[keys].itertuples(index=False, name=None)) for keys in (METHOD[:2], METHOD))
        keys = right[METHOD].itertuples(index=False, name=None)
        lacking = right[[key[:2] in blocks and key not in settings for key in keys]]
        result = pd.concat([result, lacking], ignore_index=True) if len(lacking) else result
    for name in metrics:
        result[f"{name} difference"] = result[name] - result[f"{name} reported"]
    result["source"] = result["source"].fillna("")
    columns = [f"{name} {word}" for name in metrics for word in ("reported", "difference")]
    return result[[*table.columns, *columns, "source"]]

"""From recorded episodes to the tables of the papers, and beside the numbers they report.

How an average is taken decides what it says. As released: pixels are pooled within each class of one pass
(fold and run), then classes are averaged, then runs, then folds. Every table here goes through that one
chain. J and F, which other papers average over frames, weigh each video of a class with its frames first.

Rows are what `records` reads: one per episode and method, figures as fractions. Tables hold percent, in full
precision; `formatted` and `to_markdown` print one decimal.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ttilib import files
from ttilib.scores.metrics import ClassScores, class_scores

REPORTED = Path(__file__).resolve().parents[2] / "lists" / "reported.csv"
METHOD = ["benchmark", "shots", "method"]  # what a line of a table is about
PASS = [*METHOD, "fold", "run"]  # one pass over all episodes with one seed
NEEDED = [*PASS, "episode", "class_id", "class_name", "frames", "intersection", "union"]
Rows = Iterable[Mapping[str, Any]] | pd.DataFrame
FOLDS = 4  # a reported mean is a mean over all of these


def _vc_columns(columns: Iterable[str]) -> dict[str, str]:
    """Row keys vc_3, released_vc_3, ... and what their columns are called, by window length."""
    found = [m for m in (re.fullmatch(r"(released_)?vc_(\d+)", str(c)) for c in columns) if m]
    found.sort(key=lambda m: (m[1] or "", int(m[2])))
    return {m[0]: f"VC_{m[2]}" + (" released" if m[1] else "") for m in found}


def episode_frame(rows: Rows) -> pd.DataFrame:
    """The rows as a table, checked: every needed key is there and no episode is counted twice.

    An episode may come up more than once in a pass (drawn with replacement) if rows carry its `index`.

    Raises ValueError naming the missing key or the repeated episode.
    """
    data = rows.copy() if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
    if data.empty:
        raise ValueError("there are no rows to tabulate; evaluate at least one episode")
    missing = [key for key in NEEDED if key not in data or data[key].isna().any()]
    if missing:
        raise ValueError(f"some rows have no {missing[0]!r}; each needs {', '.join(NEEDED)}")
    keys = _episode_keys(data)
    for row in data[data.duplicated([*keys, "method"])].itertuples():
        raise ValueError(
            f"episode {row.episode} is recorded twice for {row.method} (fold {row.fold}, run {row.run}); "
            "remove one, or number the episodes of a pass by an 'index' if it was drawn twice"
        )
    for key in ["j", "f", "seconds", *_vc_columns(data.columns)]:
        data[key] = pd.to_numeric(data[key]) if key in data else float("nan")
    return data


def _episode_keys(data: pd.DataFrame) -> list[str]:
    """What makes two rows the same episode, whatever the method."""
    return [*(k for k in PASS if k != "method"), "episode", *(["index"] if "index" in data else [])]


def _weighted(data: pd.DataFrame, key: str, by: list[str]) -> pd.Series:
    """Mean of a figure over all frames of each group."""
    known = data[data[key].notna()]
    total = known.assign(total=known[key] * known["frames"]).groupby(by)[["total", "frames"]].sum()
    return total["total"] / total["frames"]


def _scores(data: pd.DataFrame, keys: Iterable[Hashable]) -> ClassScores:
    """Pooled scores of the rows that share a key."""
    return class_scores(zip(keys, data["intersection"], data["union"], strict=True))


def _classes(data: pd.DataFrame) -> pd.DataFrame:
    """Every class in every pass: pooled overlap, J and F over frames, VC over episodes that have one."""
    by = [*PASS, "class_id"]
    scores = _scores(data, data[by].itertuples(index=False, name=None))
    groups = data.groupby(by, sort=False)
    table = groups["class_name"].first().to_frame().assign(episodes=groups.size())
    table["mIoU"] = [100 * scores.iou[key] for key in table.index]
    table["Dice"] = [100 * scores.dice[key] for key in table.index]
    table["J"] = 100 * _weighted(data, "j", by)
    table["F"] = 100 * _weighted(data, "f", by)
    table["J&F"] = (table["J"] + table["F"]) / 2
    for key, name in _vc_columns(data.columns).items():
        table[name] = 100 * groups[key].mean()
    return table.reset_index()


def _mean(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Means of the figures (mIoU and what follows it) within each group; episodes add up."""
    groups = table.groupby(by, sort=False)
    result = groups[list(table.columns[table.columns.get_loc("mIoU") :])].mean()
    result.insert(0, "episodes", groups["episodes"].sum())
    result.insert(0, "folds", table["fold"].groupby([table[k] for k in by], sort=False).nunique())
    return result.reset_index()


def class_table(rows: Rows) -> pd.DataFrame:
    """Every novel class: its pooled IoU and the other figures in percent, means over runs."""
    table = _mean(_classes(episode_frame(rows)), [*METHOD, "fold", "class_id", "class_name"])
    return table.drop(columns="folds").rename(columns={"mIoU": "IoU"})


def run_table(rows: Rows) -> pd.DataFrame:
    """Every pass: the means over the classes seen in it, in percent, and seconds per episode."""
    data = episode_frame(rows)
    seconds = data.groupby(PASS)["seconds"].mean().rename("s/episode")
    return _mean(_classes(data), PASS).drop(columns="folds").join(seconds, on=PASS)


def score_table(rows: Rows) -> pd.DataFrame:
    """The table of a paper: methods by mIoU, Dice, J, F, J&F, VC_k in percent and seconds per episode.

    One line per benchmark, shots and method: pooled per class in each pass, then the mean over classes, over
    runs, over folds. `folds` says over how many. Source: protocol section 5.4.
    """
    return _mean(_mean(run_table(rows), [*METHOD, "fold"]), METHOD)


def fold_table(rows: Rows) -> pd.DataFrame:
    """`score_table` fold by fold (means over runs), followed for each method by the line "mean"."""
    folds = _mean(run_table(rows), [*METHOD, "fold"])
    means = _mean(folds, METHOD).assign(fold="mean")
    table = pd.concat([folds.astype({"fold": str}), means])[folds.columns]
    return table.sort_values([*METHOD, "fold"], kind="stable").reset_index(drop=True)


def paired_gain(rows: Rows, method: str, baseline: str) -> pd.DataFrame:
    """How much `method` gains over `baseline` on the very same episodes, in percentage points.

    One line per benchmark and shots, over the episodes that both have: the gain in each figure of
    `score_table`; then `IoU`, the mean difference of the episodes' own IoU, its standard error `± IoU`
    (episodes taken as independent), and `better`, the percentage of episodes with a higher IoU. Runs differ
    by more than methods do; on identical episodes that drops out.

    Raises ValueError if the two share no episode.
    """
    data = episode_frame(rows)
    keys = _episode_keys(data)
    data["iou"] = list(_scores(data, range(len(data))).iou.values())  # each row by itself
    pair = [data[data["method"] == name] for name in (method, baseline)]
    both = pair[0].merge(pair[1], on=keys, suffixes=("", "_baseline"))[[*keys, "iou", "iou_baseline"]]
    if both.empty:
        raise ValueError(f"{method} and {baseline} share no episode; evaluate both on the same episodes")
    ours, theirs = (score_table(p.merge(both[keys], on=keys)).set_index(METHOD[:2]) for p in pair)
    figures = ours.columns[ours.columns.get_loc("mIoU") :]
    gain = ours[["folds", "episodes"]].join(ours[figures] - theirs[figures])
    both["gain"] = 100 * (both["iou"] - both["iou_baseline"])
    groups = both.groupby(METHOD[:2])["gain"]
    gain["IoU"], gain["± IoU"] = groups.mean(), groups.sem()
    gain["better"] = 100 * groups.agg(lambda differences: (differences > 0).mean())
    gain.insert(0, "method", f"{method} - {baseline}")
    return gain.reset_index()


def read_reported(benchmark: str | None = None, path: Path | str = REPORTED) -> pd.DataFrame:
    """Figures that others report, in percent, each with its source; of one benchmark or all.

    Columns: benchmark, shots, method (our name), label (theirs), fold ("0".."3" or "mean"), figure, value,
    spread (standard deviation over runs, where known), source.
    """
    table = pd.read_csv(path, dtype={"fold": str})
    return table if benchmark is None else table[table["benchmark"] == benchmark].reset_index(drop=True)


def beside_reported(
    table: pd.DataFrame, benchmark: str, figure: str = "mIoU", path: Path | str = REPORTED
) -> pd.DataFrame:
    """The lines of one benchmark with the reported figure, measured minus reported, and the source.

    Takes a `score_table` or a `fold_table`. A mean is put beside a reported mean only if it covers all four
    folds; lines nobody reports stay empty. A benchmark without reported figures comes back as it is.
    """
    ours = table[table["benchmark"] == benchmark].reset_index(drop=True) if "benchmark" in table else table
    reported = read_reported(benchmark, path)
    reported = reported[reported["figure"] == figure]
    if reported.empty:
        return ours.copy()
    fold = ours["fold"].astype(str) if "fold" in ours else pd.Series("mean", index=ours.index)
    comparable = fold.where((fold != "mean") | (ours["folds"] == FOLDS), "part of the folds")
    on, name = ["shots", "method", "_fold"], f"{figure} reported"
    right = reported.rename(columns={"fold": "_fold", "value": name})[[*on, name, "source"]]
    joined = ours.assign(_fold=comparable).merge(right, on=on, how="left", validate="m:1")
    joined.insert(joined.columns.get_loc("source"), "difference", joined[figure] - joined[name])
    return joined.drop(columns="_fold")


def formatted(table: pd.DataFrame) -> pd.DataFrame:
    """The table as text for readers: one decimal, two for seconds, a dash where there is no figure."""
    digits = {name: 2 if name == "s/episode" else 1 for name in table}
    text = {
        name: ["-" if pd.isna(v) else f"{v:.{n}f}" if isinstance(v, float) else str(v) for v in table[name]]
        for name, n in digits.items()
    }
    return pd.DataFrame(text, index=table.index)


def to_markdown(table: pd.DataFrame) -> str:
    """The table in Markdown, figures to the right, as `formatted` prints them."""
    words = formatted(table).replace(r"\|", r"\\|", regex=True)
    rule = ["---:" if pd.api.types.is_numeric_dtype(table[name]) else "---" for name in table]
    lines = [map(str, words.columns), rule, *words.to_numpy().tolist()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write_table(path: Path | str, table: pd.DataFrame) -> None:
    """Write the table as CSV with four decimals, whole or not at all."""
    with files.atomic(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.4f", lineterminator="\n")


def read_table(path: Path | str) -> pd.DataFrame:
    """Read a table that `write_table` wrote; FileNotFoundError names it if it is missing."""
    return pd.read_csv(path, dtype={"fold": str})

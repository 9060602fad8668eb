"""Measured beside reported: the figures that papers and their authors' logs give for the same setting.

`lists/reported.csv` holds them, each with its source. A figure is put beside one that means the same: pooled
mIoU beside pooled mIoU, per-frame J beside J, the Dice that the release prints as "F-score" beside Dice and never
beside the boundary measure F; a mean over all folds beside a mean over all folds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ttilib.names import meant
from ttilib.scores.tables import METHOD

REPORTED = Path(__file__).resolve().parents[2] / "lists" / "reported.csv"
FOLDS = 4  # a reported mean is a mean over all of these
KEYS = [*METHOD, "fold"]  # what a reported figure is about


def read_reported(benchmark: str | None = None, path: Path | str = REPORTED) -> pd.DataFrame:
    """Figures that others report, in percent, each with its source; of one benchmark or all.

    Columns: benchmark, shots, encoder, method (our names), label (theirs), fold ("0".."3" or "mean"), figure,
    value, spread (standard deviation over runs, where known), source. Methods that are not ours have their own name.

    Raises FileNotFoundError without the file, ValueError naming a figure that it holds twice.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of reported figures; give the path of one")
    table = pd.read_csv(path, dtype={"fold": str})
    for line in table[table.duplicated([*KEYS, "figure"])].itertuples():
        about = f"{line.benchmark} {line.shots}-shot {line.encoder} {line.method} fold {line.fold} {line.figure}"
        raise ValueError(f"{path}: {about} is there twice; keep one of the two lines")
    return table if benchmark is None else table[table["benchmark"] == benchmark].reset_index(drop=True)


def _by_line(path: Path | str, figures: Sequence[str]) -> pd.DataFrame:
    """What is reported, one line per setting and fold: a column for each figure, and the sources."""
    reported = read_reported(path=path)
    reported = reported[reported["figure"].isin(list(figures))]
    table = reported[KEYS].drop_duplicates(ignore_index=True)
    for name in figures:
        values = reported[reported["figure"] == name][[*KEYS, "value"]]
        table = table.merge(values.rename(columns={"value": f"{name} reported"}), on=KEYS, how="left")
    sources = reported.groupby(KEYS)["source"].agg(lambda texts: "; ".join(dict.fromkeys(texts)))
    return table.merge(sources.reset_index(), on=KEYS, how="left")


def beside_reported(
    table: pd.DataFrame,
    figures: Sequence[str] = ("mIoU",),
    others: bool = False,
    path: Path | str = REPORTED,
) -> pd.DataFrame:
    """A `tables.score_table` or `fold_table` with what is reported for its lines, in percent.

    Lines are matched by benchmark, shots, encoder, method and fold. For each figure follow the columns "mIoU reported"
    and "mIoU difference" (measured minus reported), then one column "source". They are there even if nobody
    reports anything: nan and "". A mean is put beside a reported mean only if it covers all four folds. With
    `others`, the reported lines of the same benchmarks and shots that the table lacks follow, without figures of ours.

    Raises ValueError naming a column that the table lacks.
    """
    for name in [*METHOD, "folds" if "folds" in table or "fold" not in table else "fold", *figures]:
        if name not in table:
            hint = meant(name, table.columns, "give a table of scores and figures that it has")
            raise ValueError(f"the table has no column {name!r}; {hint}")
    ours, right = table.reset_index(drop=True), _by_line(path, figures)
    fold = ours["fold"].astype(str) if "fold" in ours else pd.Series("mean", index=ours.index, dtype=str)
    whole = (fold != "mean") | (ours["folds"] == FOLDS if "folds" in ours else False)
    keys = ours[METHOD].assign(fold=fold.where(whole, "some of the folds"))
    columns = [f"{name} {word}" for name in figures for word in ("reported", "difference")] + ["source"]
    found = keys.merge(right, on=KEYS, how="left", validate="m:1")
    result = ours.join(found.drop(columns=KEYS))
    if others and len(lacking := _lacking(ours, right)):
        result = pd.concat([result, lacking], ignore_index=True)
    for name in figures:
        result[f"{name} difference"] = result[name] - result[f"{name} reported"]
    result["source"] = result["source"].fillna("")
    return result[[*table.columns, *columns]]


def _lacking(ours: pd.DataFrame, right: pd.DataFrame) -> pd.DataFrame:
    """The reported lines of our benchmarks and shots in settings that we have no line for."""
    settings = set(ours[METHOD].itertuples(index=False, name=None))
    blocks = set(ours[METHOD[:2]].itertuples(index=False, name=None))
    keys = right[METHOD].itertuples(index=False, name=None)
    chosen = right[[key[:2] in blocks and key not in settings for key in keys]]
    if "fold" in ours:
        return chosen
    return chosen[chosen["fold"] == "mean"].drop(columns="fold")

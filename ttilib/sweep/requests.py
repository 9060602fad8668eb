"""What somebody asks for: names of tables, a few changes to them, parameters of the notebook; checked before anything.

A table decides its benchmarks, methods and shots. Folds, runs, seed and draws may be changed for all of its settings;
other parameters of notebook 04 are handed through where they do not decide what the table is about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ttilib.files import write_json
from ttilib.notebooks import check_parameters
from ttilib.sweep.expansion import NOTEBOOK, Place, is_plugin
from ttilib.sweep.plan import Table, changed, on_mini, table

OF_SETTINGS = ("folds", "runs", "seed", "draws")
HANDED_THROUGH = ("only", "keep_going")
HINTS = {"limit": "--limit", "device": "--device", "out": "--out", "root": "--root", "encoder": "--encoders"}


def usual_place(mini: bool, root: str = "", out: str = "", encoders: str = "") -> Place:
    """Where things are if nothing else is said: the original data, or the embedded corpus as the study leaves it."""
    if mini:
        weights = "{out}/train/{corpus}-f{fold}/best.safetensors"
        return Place(Path(root or "data/mini"), Path(out or "outputs/mini"), encoders or weights)
    weights = "outputs/train/{corpus}-{encoder}-f{fold}/best.safetensors"
    return Place(Path(root or "data"), Path(out or "outputs/sweep"), encoders or weights)


def asked_tables(names: Sequence[str], changes: Mapping[str, Any], mini: bool = False) -> tuple[Table, ...]:
    """The tables of those names, each once, with `changes` to all their settings; `mini` asks the embedded corpus.

    Raises ValueError for a name that no table has, and for folds or runs that cannot be.
    """
    folds, runs = changes.get("folds"), changes.get("runs")
    if folds is not None and (not folds or set(folds) - {0, 1, 2, 3}):
        raise ValueError(f"folds {list(folds)} are not all folds; choose from 0, 1, 2 and 3")
    if runs is not None and runs < 1:
        raise ValueError(f"runs is {runs}; ask for one run or more")
    if folds is not None:
        changes = {**changes, "folds": tuple(folds)}
    plans = [table(name) for name in dict.fromkeys(names)]
    return tuple(changed(on_mini(plan) if mini else plan, **changes) for plan in plans)


def with_encoders(tables: Sequence[Table], encoders: str) -> tuple[Table, ...]:
    """The tables with what `encoders` says about their weights: a plug-in gives rows its own name.

    Raises ValueError if tables ask for several encoders and `encoders` names the same weights for all.
    """
    if "{encoder}" in encoders:
        return tuple(tables)
    if is_plugin(encoders):
        return tuple(changed(plan, encoder=Path(encoders).name) for plan in tables)
    asked = sorted({setting.encoder for plan in tables for setting in plan.settings})
    if len(asked) > 1:
        about = f"{encoders} is the same for all encoders, but the tables ask for {', '.join(asked)}"
        raise ValueError(f"{about}; put {{encoder}} into the path, or ask for tables with one of them")
    return tuple(tables)


def split_parameters(notebooks: Path, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters of notebook 04: those that change settings, and those that are handed through.

    Raises ValueError for a name the notebook does not know (with the nearest), a value of another type, and a
    parameter that tables or options decide.
    """
    check_parameters(notebooks / NOTEBOOK, given)
    for name in given:
        if name not in (*OF_SETTINGS, *HANDED_THROUGH):
            hint = f"give it by {HINTS[name]}" if name in HINTS else "the table decides it"
            raise ValueError(f"parameter {name!r} cannot be given to a sweep; {hint}")
    pick = {kind: {name: given[name] for name in kind if name in given} for kind in (OF_SETTINGS, HANDED_THROUGH)}
    return pick[OF_SETTINGS], pick[HANDED_THROUGH]


def begin(place: Place, tables: Sequence[Table]) -> None:
    """Write down in the run folder what was asked for; this also shows that it can be written to.

    Raises OSError in one sentence if it cannot, ValueError if a benchmark's own name is asked of the embedded corpus.
    """
    named = {setting.name for plan in tables for setting in plan.settings if not setting.name.startswith("mini-")}
    if named and (place.root / "mini.json").is_file():
        about = f"{place.root} is the embedded corpus, and its rows must not be taken for {sorted(named)[0]}"
        raise ValueError(f"{about}; give --mini, or another --root")
    about = {"tables": [plan.name for plan in tables], "root": str(place.root), "encoders": place.encoders}
    about |= {"device": place.device, "limit": place.limit, "frames": place.frames, **place.more}
    try:
        write_json(place.out / "sweep.json", about)
    except OSError as error:
        hint = "choose another folder with --out"
        raise OSError(f"{place.out}: results cannot be written there ({error.strerror or error}); {hint}") from error

"""The datasets by name, the division of their classes into base and novel, and the frames that contain each class.

Novel classes occur only at inference. Class tables: `lists/<dataset>.json`, or `lists.json` in the data folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ttilib.datasets.base import ClassesByFold, ClassTable, Dataset, Names, OnError, Table, raise_first
from ttilib.datasets.coco import COCO, COCO_FULL
from ttilib.datasets.pascal import MOVING, PASCAL
from ttilib.datasets.sequences import DAVIS, MINIVSPW, VSPW
from ttilib.datasets.youtube_vis import YTVIS
from ttilib.files import LISTS, convert, look_up, read_json

DATASETS: dict[str, Dataset] = {
    dataset.name: dataset for dataset in (YTVIS, PASCAL, COCO, COCO_FULL, VSPW, MINIVSPW, DAVIS, MOVING)
}
"""Add a dataset with `DATASETS["name"] = Dataset(...)`; it is looked up at every call."""


def find_dataset(name: str) -> Dataset:
    """The dataset of that name. Raises ValueError with similar names."""
    return look_up(name, DATASETS, "dataset")


def find_root(name: str, root: Path | str, itself: bool = True) -> Path:
    """The folder of a dataset below `root` or, with `itself`, `root`. Raises FileNotFoundError with the names tried."""
    dataset = find_dataset(name)
    root = _existing(root, f"the data folder, or the folder of the {name} data")
    folders = dataset.folders or (name,)
    for folder in folders:
        if (root / folder).is_dir():
            return root / folder
    if itself and any(any(root.glob(sign)) for sign in dataset.signs):
        return root
    looked = f"looked for a folder {' or '.join(folders)}"
    if itself and dataset.signs:
        looked += f", and for {' or '.join(dataset.signs)} in {root.name or root} itself"
    raise FileNotFoundError(f"{root}: no {name} data here ({looked}); give the folder that holds them")


def _existing(root: Path | str, what: str) -> Path:
    root = Path(root)
    if not root.is_dir():
        found = "is a file" if root.exists() else "no such folder"
        raise FileNotFoundError(f"{root}: {found}; give {what}")
    return root


@dataclass(frozen=True)
class Fold:
    """Base and novel classes of one fold of a dataset, and the frames that contain them.

    A frame is "video/frame"; an image is a video of one frame. `presence`: class to videos to the frames that contain
    it; a base class where training or validation may use it, a novel class where episodes may sample it. `train`,
    `val`: videos of base training, possibly repeated. `repeats`: uses of each video per run. `shown` (images only): all
    novel classes in an image, also those too small for `presence`.
    """

    corpus: str
    index: int
    names: Mapping[int, str]
    base: tuple[int, ...]
    novel: tuple[int, ...]
    frames: Mapping[str, Names]
    presence: Mapping[int, Mapping[str, Names]]
    train: Names
    val: Names
    repeats: int = 1
    shown: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def read_table(corpus: str, root: Path | str | None = None, novel: str = "novel") -> dict[str, Any]:
    """Class table: lists.json in `root`, else the project's; entry `novel` has the novel classes. Raises ValueError."""
    dataset = find_dataset(corpus)
    if dataset.own_table:
        raise ValueError(f"{corpus} has the classes of its support's dataset; use read_benchmark, or give a table")
    path = LISTS / f"{dataset.table or corpus}.json"
    if root is not None and (own := Path(root) / "lists.json").is_file():
        path = own
    table = read_json(path, dict[str, Any]) | read_json(path, ClassTable)
    if novel not in table:
        raise ValueError(f"{path}: no {novel!r} in it; add one list of class ids per fold, or use a benchmark without")
    if novel != "novel":
        table["novel"] = convert(table[novel], ClassesByFold, f"{path}: {novel}")
        table.pop("repeats", None)  # belongs to the entry "novel"
    folds = len(table["novel"])
    for entry in ("novel", "base"):
        if unknown := {number for numbers in table.get(entry, ()) for number in numbers} - table["classes"].keys():
            raise ValueError(f"{path}: {entry} classes {sorted(unknown)} have no name; add them to classes")
    for entry in ("base", "repeats"):
        if len(table.get(entry, range(folds))) != folds:
            raise ValueError(f"{path}: {entry} is for {len(table[entry])} folds, novel for {folds}; add the others")
    return table


def read_fold(
    corpus: str, fold: int, root: Path | str | None = None, table: Table | None = None, on_error: OnError = raise_first
) -> Fold:
    """Read the classes of fold `fold` and the frames under `root` (default: data/<dataset>) that contain them.

    `table` replaces the class table: `{**read_table("pascal"), "min_pixels": 0, "min_share": 0.02}` for larger objects.
    `on_error` gets each file that cannot be used; the default raises, `problems.append` continues.
    Raises ValueError or FileNotFoundError. Source: docs/protocol.md 1.1 (pascal), 1.3 (ytvis), 1.5 (vspw).
    """
    root = Path("data") / corpus if root is None else Path(root)
    table = read_table(corpus, root) if table is None else table
    _existing(root, f"the folder that holds the {corpus} data")
    base, novel = _divided(corpus, table, fold)
    if both := set(base) & set(novel):
        raise ValueError(f"{corpus} fold {fold}: classes {sorted(both)} are base and novel; fix the table")
    scan = find_dataset(corpus).scan(root, table, base, novel, on_error)
    repeats = table["repeats"][fold] if "repeats" in table else 1
    names = table["classes"]
    return Fold(corpus, fold, names, base, novel, scan.frames, scan.presence, scan.train, scan.val, repeats, scan.shown)


def base_classes(corpus: str, fold: int) -> list[str]:
    """Names of a fold's base classes in label order, from the project's table; needs no data."""
    table = read_table(corpus)
    return [table["classes"][number] for number in _divided(corpus, table, fold)[0]]


def _divided(corpus: str, table: Table, fold: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if not 0 <= fold < len(table["novel"]):
        raise ValueError(f"{corpus} has no fold {fold}; choose one of folds 0 to {len(table['novel']) - 1}")
    novel = tuple(table["novel"][fold])
    others = sorted(set(table["classes"]) - set(novel))
    return tuple(table["base"][fold] if "base" in table else others), novel


COCO_NAMES = {  # of Pascal's classes
    "aeroplane": "airplane", "motorbike": "motorcycle", "diningtable": "dining table",
    "pottedplant": "potted plant", "sofa": "couch", "tvmonitor": "tv",
}  # fmt: skip


def coco_name(name: str) -> str:
    """A class name in lower case and COCO's spelling, to compare the classes of different datasets."""
    name = name.lower().replace("_", " ")
    return COCO_NAMES.get(name, name)

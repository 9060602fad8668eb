"""The datasets by name, the division of their classes into base and novel, and where each class can be seen.

Each fold of a class table calls some classes novel (only at inference) and the others base (seen in training).
The tables are in `lists/<dataset>.json`, unless the data folder has a `lists.json` of the same form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ttilib.datasets.base import Dataset, Names, OnError, Table, stop
from ttilib.datasets.coco import COCO, COCO_FULL
from ttilib.datasets.davis import DAVIS
from ttilib.datasets.pascal import PASCAL
from ttilib.datasets.vspw import MINIVSPW, VSPW
from ttilib.datasets.youtube_vis import YTVIS
from ttilib.files import lists_folder, read_json

DATASETS: dict[str, Dataset] = {
    dataset.name: dataset for dataset in (YTVIS, PASCAL, COCO, COCO_FULL, VSPW, MINIVSPW, DAVIS)
}
"""Add a dataset here, by `DATASETS["name"] = Dataset(...)`; it is looked up at every call."""

TABLES = lists_folder()


def find_dataset(name: str) -> Dataset:
    """The dataset of that name. Raises ValueError with all names if there is none."""
    if name not in DATASETS:
        raise ValueError(f"dataset {name!r} is not known; choose one of {', '.join(DATASETS)}")
    return DATASETS[name]


def find_root(name: str, root: Path | str, itself: bool = True) -> Path:
    """The folder of a dataset: below `root` under one of its names, or, with `itself`, `root`.

    Raises FileNotFoundError with the names that were looked for.
    """
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
    """One division of the classes of a dataset into base and novel, and where each can be seen.

    A frame is named "video/frame", a single image by its own name (a video of one frame). `presence`: class to
    videos to the frames that contain it, for a base class wherever it may be trained or validated on, for a novel
    class wherever episodes may sample it. `train` and `val` name the videos of base training; a video may occur
    several times. `repeats`: how often a run uses each video. `shown`: all novel classes in an image, also those too
    small for `presence` (datasets of images only).
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
    """The class table of a dataset: the one in `root` if it has a lists.json, else the project's own.

    `novel` is the entry whose lists are the novel classes; `repeats` belongs to those of "novel" itself.
    """
    dataset = find_dataset(corpus)
    if dataset.own_table:
        raise ValueError(f"{corpus} has the classes of its support's dataset; use read_benchmark, or give a table")
    path = TABLES / f"{dataset.table or corpus}.json"
    if root is not None and (own := Path(root) / "lists.json").is_file():
        path = own
    table = read_json(path)
    if not isinstance(table, dict) or not {"classes", "novel"} <= table.keys():
        raise ValueError(f'{path}: a class table needs "classes" and "novel"; see lists/README.md')
    table["classes"] = {int(number): name for number, name in table["classes"].items()}
    if novel not in table:
        raise ValueError(f"{path}: no {novel!r} in it; add one list of class ids per fold, or use a benchmark without")
    if novel != "novel":
        table["novel"] = table[novel]
        table.pop("repeats", None)
    for numbers in table["novel"]:
        if unknown := set(numbers) - table["classes"].keys():
            raise ValueError(f"{path}: novel classes {sorted(unknown)} have no name; add them to classes")
    return table


def read_fold(
    corpus: str, fold: int, root: Path | str | None = None, table: Table | None = None, on_error: OnError = stop
) -> Fold:
    """Read which classes are novel in fold `fold` of a dataset, and where they are visible under `root`.

    `root` defaults to data/<corpus>. `table` replaces the class table, for instance for larger
    objects: `{**read_table("pascal"), "min_pixels": 0, "min_share": 0.02}`. Every file that cannot be used is
    reported to `on_error`; the default raises, `errors.append` goes on with the rest.

    Raises ValueError or FileNotFoundError naming the file, what was found and what to do.
    Source: protocol sections 1.1 (pascal), 1.3 (ytvis), 1.5 (vspw).
    """
    root = Path("data") / corpus if root is None else Path(root)
    table = read_table(corpus, root) if table is None else table
    _existing(root, f"the folder that holds the {corpus} data")
    base, novel = _divided(corpus, table, fold)
    if both := set(base) & set(novel):
        raise ValueError(f"{corpus} fold {fold}: classes {sorted(both)} are base and novel; mend the table")
    scan = find_dataset(corpus).scan(root, table, base, novel, on_error)
    repeats = table["repeats"][fold] if "repeats" in table else 1
    names = table["classes"]
    return Fold(corpus, fold, names, base, novel, scan.frames, scan.presence, scan.train, scan.val, repeats, scan.shown)


def base_classes(corpus: str, fold: int) -> list[str]:
    """Names of the base classes of a fold in the order of their labels, by the project's own table; needs no data."""
    table = read_table(corpus)
    return [table["classes"][number] for number in _divided(corpus, table, fold)[0]]


def _divided(corpus: str, table: Table, fold: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Base and novel classes of a fold."""
    if not 0 <= fold < len(table["novel"]):
        raise ValueError(f"{corpus} has folds 0 to {len(table['novel']) - 1}, not {fold}")
    novel = tuple(table["novel"][fold])
    others = sorted(set(table["classes"]) - set(novel))
    return tuple(table["base"][fold] if "base" in table else others), novel


COCO_NAMES = {  # of Pascal's classes
    **{"aeroplane": "airplane", "motorbike": "motorcycle", "diningtable": "dining table"},
    **{"pottedplant": "potted plant", "sofa": "couch", "tvmonitor": "tv"},
}


def coco_name(name: str) -> str:
    """A class name in COCO's spelling and in lower case, by which classes of different datasets are compared."""
    name = name.lower().replace("_", " ")
    return COCO_NAMES.get(name, name)

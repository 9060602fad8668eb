"""Where the corpora lie: one data folder with a folder per corpus, or the folder of a corpus itself.

`NAMES` are the folder names that are looked for; `find_root` finds the folder of one corpus.
"""

from __future__ import annotations

from pathlib import Path

NAMES: dict[str, tuple[str, ...]] = {
    "pascal": ("pascal", "voc", "VOC2012", "VOCdevkit/VOC2012"),
    "coco": ("coco", "COCO"),
    "coco-full": ("coco", "COCO"),
    "ytvis": ("ytvis", "YTVIS", "youtube-vis"),
    "vspw": ("vspw", "VSPW_480p", "VSPW"),
    "minivspw": ("minivspw", "MiniVSPW", "vspw"),
    "davis": ("davis", "DAVIS"),
}
SIGNS: dict[str, tuple[str, ...]] = {
    "pascal": ("JPEGImages", "SegmentationClassAug"),
    "coco": ("annotations", "train2014", "val2014"),
    "coco-full": ("annotations", "train2014", "val2014"),
    "ytvis": ("train/train.json", "train/JPEGImages"),
    "vspw": ("data/*/origin", "*/origin"),
    "minivspw": ("data/*/origin", "*/origin"),
    "davis": ("JPEGImages", "Annotations"),
}
"""What lies in the folder of a corpus; one of these is enough."""


def find_root(corpus: str, root: Path | str, itself: bool = True) -> Path:
    """The folder of a corpus: below `root` under one of its names, or, with `itself`, `root`.

    Raises FileNotFoundError with the names that were looked for.
    """
    root = Path(root)
    if not root.is_dir():
        found = "is a file" if root.exists() else "no such folder"
        raise FileNotFoundError(f"{root}: {found}; give the data folder, or the folder of the {corpus} data")
    for name in NAMES[corpus]:
        if (root / name).is_dir():
            return root / name
    if itself and any(next(root.glob(sign), None) is not None for sign in SIGNS[corpus]):
        return root
    looked = f"looked for a folder {_either(NAMES[corpus])}"
    if itself:
        looked += f", and for {_either(SIGNS[corpus])} in {root.name or root} itself"
    raise FileNotFoundError(f"{root}: no {corpus} data here ({looked}); give the folder that holds them")


def _either(names: tuple[str, ...]) -> str:
    *most, last = names
    return f"{', '.join(most)} or {last}" if most else last

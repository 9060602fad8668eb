"""What a data folder should hold: the layout of each corpus, and the files of all its frames.

`check_layout` compares a folder with the tree that its corpus is read from, before anything else looks into it.
`frames_of` then lists every frame with its picture and mask, also those of which one of the two is missing, which
a scan would leave out; `labels_of` says what may stand in a mask.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ttilib.audit.soundness import ERROR, WARNING, Finding, Shown
from ttilib.corpora.coco import coco_list
from ttilib.corpora.corpus import IGNORED, OnError
from ttilib.corpora.davis import davis_edition
from ttilib.corpora.minivspw import FLOW, LABELS, VIDEOS
from ttilib.corpora.registry import READERS
from ttilib.corpora.sequences import file_names, read_words, sequence_folders, vspw_folder
from ttilib.corpora.stills import pascal_list
from ttilib.corpora.ytvis import ytvis_index
from ttilib.files import natural_key, read_json

NEEDED = ""
TREES: dict[str, dict[str, str]] = {
    "ytvis": {"train/train.json": NEEDED, "train/JPEGImages/<video>/<frame>.jpg": NEEDED},
    "pascal": {
        "train.txt or ImageSets/Segmentation/train.txt": NEEDED,
        "val.txt or ImageSets/Segmentation/val.txt": NEEDED,
        "JPEGImages/<id>.jpg": NEEDED,
        "SegmentationClassAug/<id>.png": NEEDED,
    },
    "coco": {
        "train.txt or annotations/instances_train2014.json": NEEDED,
        "val.txt or annotations/instances_val2014.json": NEEDED,
        "train2014/<name>.jpg": NEEDED,
        "val2014/<name>.jpg": NEEDED,
        "train/<name>.png": NEEDED,
        "val/<name>.png": NEEDED,
    },
    "vspw": {
        "data/<sequence>/origin/<frame>.jpg or <sequence>/origin/<frame>.jpg": NEEDED,
        "data/<sequence>/mask/<frame>.png or <sequence>/mask/<frame>.png": NEEDED,
        "train.txt": "so there is nothing to train on",
        "val.txt": "so every sequence that is not in train.txt is asked about",
    },
    "minivspw": {
        "data/<sequence>/origin/<frame>.jpg or <sequence>/origin/<frame>.jpg": NEEDED,
        "data/<sequence>/mask/<frame>.png or <sequence>/mask/<frame>.png": NEEDED,
        LABELS: "so the names of the classes are taken from the project's own table",
        f"data/<sequence>/flow/<frame>{FLOW}": "so no frame is left out for having none, as the release does",
    },
    "davis": {
        "JPEGImages/480p/<sequence>/<frame>.jpg or JPEGImages/<sequence>/<frame>.jpg": NEEDED,
        "Annotations/480p/<sequence>/<frame>.png or Annotations/<sequence>/<frame>.png": NEEDED,
    },
}
"""What each corpus is read from: names, those in <> being any, to what it means if there is no such file."""

TREES["coco-full"] = {name.replace("/<name>.png", "_full/<name>.png"): NEEDED for name in TREES["coco"]}


def tree(corpus: str, root: Path | str) -> str:
    """The layout of a corpus in one line."""
    return f"lay {root} out so: {', '.join(TREES[corpus])}"


def check_layout(corpus: str, root: Path) -> list[Finding]:
    """Of everything that a corpus is read from there is at least one file."""
    findings = []
    for name, without in TREES[corpus].items():
        if not any(_any_file(root, pattern) for pattern in name.split(" or ")):
            mend = "copy it, if that is not intended" if without else tree(corpus, root)
            if corpus.startswith("coco") and name.endswith(".png"):
                mend = f"paint the masks: python -m ttilib lists {corpus} --root {root}"
            about = "no such file" + (f", {without}" if without else "")
            findings.append(Finding(WARNING if without else ERROR, str(root / name), about, mend))
    return findings


def _any_file(root: Path, pattern: str) -> bool:
    parts = pattern.split("/")
    names = [f"*{part.rpartition('>')[2]}" if part.startswith("<") else part for part in parts]
    return any(path.is_file() for path in root.glob("/".join(names)))


def frames_of(corpus: str, root: Path, table: Mapping[str, Any], on_error: OnError) -> dict[str, Shown]:
    """Every frame of a corpus that may be used, with its files; lines of lists that cannot be read are told."""
    if corpus == "ytvis":
        folder = root / "train" / "JPEGImages"
        videos = ytvis_index(root)["videos"].values()
        return {f: Shown(folder / f"{f}.jpg", None, (v["height"], v["width"])) for v in videos for f in v["frames"]}
    reader = READERS[corpus](root)
    if corpus == "pascal":
        lists = [pascal_list(root, f"{split}.txt", on_error) for split in ("train", "val")]
    elif corpus.startswith("coco"):
        lists = [coco_list(root, split, table, on_error) for split in ("train", "val")]
    else:
        lists = [tuple(_sequence_frames(reader, _sequences(corpus, root, table)))]
    names = dict.fromkeys(name for names in lists for name in names)
    return {name: Shown(reader.picture_path(name), reader.mask_path(name)) for name in names}


def _sequences(corpus: str, root: Path, table: Mapping[str, Any]) -> list[str]:
    """The sequences of a corpus that may be used: those of its lists, or else all; without those left out."""
    if corpus == "davis":
        there = sequence_folders(READERS[corpus](root).picture_path("x/y").parent.parent)
        return [name for name in there if name in table.get("sequences", ())] if davis_edition(root) else there
    lists = ("train.txt", "val.txt") if corpus == "vspw" else (VIDEOS,)
    named = [name for file in lists for name in read_words(root / file)]
    there = sequence_folders(vspw_folder(root), "origin")
    if corpus == "vspw" and not read_words(root / "val.txt"):
        named += there
    return [name for name in dict.fromkeys(named or there) if name not in table.get("ignored", ())]


def _sequence_frames(reader: Any, names: Iterable[str]) -> Iterator[str]:
    """Frames that have a picture or a mask, in natural order."""
    for name in names:
        pictures = file_names(reader.picture_path(f"{name}/frame").parent, ".jpg")
        masks = file_names(reader.mask_path(f"{name}/frame").parent, ".png")
        yield from (f"{name}/{frame}" for frame in sorted({*pictures, *masks}, key=natural_key))


class Labels(NamedTuple):
    """What may stand in a mask, which labels say that nobody judged, and how bad another label is."""

    allowed: Collection[int]
    unjudged: Collection[int] = (IGNORED,)
    severity: str = ERROR


def labels_of(corpus: str, root: Path, table: Mapping[str, Any]) -> Labels:
    """What the masks of a corpus may hold; VSPW's readers take any other label for background."""
    if corpus == "davis" and davis_edition(root):
        return Labels(range(256), ())  # every label but 0 is the object
    if corpus not in ("vspw", "minivspw"):
        return Labels({0, *table["classes"], IGNORED})
    path = root / LABELS
    known = [int(number) for number in read_json(path).values()] if path.is_file() else range(1, 125)
    return Labels({0, *known, *table["classes"], IGNORED}, severity=WARNING)

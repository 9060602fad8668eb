"""The rules by which the release made its frame lists, corpus by corpus.

A `Listing` is what one corpus of a benchmark has in the way of lists: their lines, what is published of them, what
there is to say, and which masks the corpus has. `list_corpus` makes it. Source: protocol section 7 and appendix A.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ttilib.audit.published import list_md5
from ttilib.corpora.census import Counts, census
from ttilib.corpora.coco import CocoFullReader, CocoReader, coco_list
from ttilib.corpora.corpus import Names, OnError, Presence, large
from ttilib.corpora.davis import DavisReader, scan_davis
from ttilib.corpora.instances import list_line
from ttilib.corpora.minivspw import VIDEOS, minivspw_listed, minivspw_table, scan_minivspw
from ttilib.corpora.sequences import VspwReader, counted, read_words, sequence_folders, sequence_frames, vspw_folder
from ttilib.corpora.stills import PascalReader, pascal_list
from ttilib.corpora.ytvis import scan_ytvis, ytvis_index
from ttilib.data.lists import read_table
from ttilib.images import Colours

SHOTS = 1, 5, 10
SPLITS = {"train": ("train", "base"), "val": ("val", "validation"), "test": ("val", "novel")}
"""Lists of minivspw: VSPW's own list whose sequences they take, and their entry of the class table."""


@dataclass
class Listing:
    """The lists of one corpus, under their released names.

    `published`: what is known of them, nothing if the data is not the original; `facts`: sentences worth saying;
    `complaints`: what is not as published beside the lists; `masks`: all label maps, `colours`: their meaning there.
    """

    lists: dict[str, Names]
    published: dict[str, Any] = field(default_factory=dict)
    facts: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    masks: tuple[Path, ...] = ()
    colours: Colours | None = None
    original: bool = True


class Job(NamedTuple):
    """What a rule is asked for: the folder of a corpus, its class table, and of which fold (None: of all)."""

    root: Path
    table: Mapping[str, Any]
    fold: int | None
    on_error: OnError
    workers: int

    @property
    def original(self) -> bool:
        """Whether the folder holds the data that was published on; one that names its own classes does not."""
        return not (self.root / "lists.json").is_file()

    def folds(self) -> Sequence[int]:
        """The folds whose lists are wanted."""
        number = len(self.table["novel"])
        if self.fold is not None and not 0 <= self.fold < number:
            raise ValueError(f"{self.root}: has folds 0 to {number - 1}, not {self.fold}")
        return range(number) if self.fold is None else (self.fold,)


def list_corpus(
    corpus: str, root: Path, fold: int | None, on_error: OnError, workers: int, lender: Path | None = None
) -> Listing:
    """The lists of a corpus, of all folds or one; `lender`: the Pascal folder whose classes MiniVSPW is asked for."""
    if corpus == "minivspw":
        table = minivspw_table(root, read_table("pascal", lender))
    else:
        table = read_table(corpus.removesuffix("-full"), root)
    job = Job(root, table, fold, on_error, workers)
    listing = RULES[corpus](job)
    if not job.original:
        listing.original, listing.published, listing.complaints = False, {}, []
        listing.facts.append(f"{root}: has a lists.json of its own, so it is compared with nothing published")
    return listing


def _named(folder: str, published: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{folder}/{name}": facts for name, facts in published.items()}


def _pascal(job: Job) -> Listing:
    """train.txt and val.txt as they are in the folder, or made from VOC's and SBD's own id lists."""
    listing, reader = Listing({}, _named("pascal", read_table("pascal")["expected"])), PascalReader(job.root)
    stills: Names = ()
    for split in ("train", "val"):
        names, name = pascal_list(job.root, f"{split}.txt", job.on_error), f"pascal/{split}.txt"
        listing.lists[name] = tuple(f"{reader.pictures}/{still}.jpg {reader.masks}/{still}.png" for still in names)
        origin = "as it lies there" if (job.root / f"{split}.txt").is_file() else "made from the lists of VOC and SBD"
        listing.facts.append(f"{name}: {origin}")
        stills += names
    listing.masks, listing.colours = tuple(reader.mask_path(still) for still in dict.fromkeys(stills)), reader.colours
    return listing


def _coco(job: Job, kind: type[CocoReader] = CocoReader) -> Listing:
    """train.txt and val.txt as they are in the folder, or the stills of the annotation files in their order."""
    listing, reader, stills = Listing({}), kind(job.root), ()
    for split in ("train", "val"):
        names, name = coco_list(job.root, split, job.table, job.on_error), f"coco/{split}.txt"
        if not names:
            continue
        lines, facts = tuple(list_line(still) for still in names), dict(read_table("coco")["expected"][f"{split}.txt"])
        if job.original and facts.get("md5", list_md5(lines)) != list_md5(lines):
            about = "is in another order than the published one, which follows no rule"
            listing.facts.append(f"{name}: {about}; the released draws need the released list in {job.root}")
            del facts["md5"], facts["first"]
        listing.lists[name], listing.published[name] = lines, facts
        stills += names
    listing.masks = tuple(reader.mask_path(still) for still in dict.fromkeys(stills))
    return listing


def _ytvis(job: Job) -> Listing:
    """No list: the episodes follow from train.json, so its counts are compared, and how many episodes there are."""
    index, presence = ytvis_index(job.root), scan_ytvis(job.root, job.table, (), (), job.on_error).presence
    found = {"videos": len(index["videos"]), "classes": len(index["categories"])}
    due = read_table("ytvis")["expected"]
    listing = Listing({}, facts=["no lists: the episodes follow from train.json"])
    listing.facts.append(", ".join(f"{count} {key}" for key, count in found.items()))
    if wrong := [f"{found[key]} {key} instead of {due[key]}" for key in found if found[key] != due[key]]:
        advice = "use the whole train.json of the 2019 edition's train part"
        listing.complaints.append(f"{index['path']}: {' and '.join(wrong)}; {advice}")
    for fold in job.folds():
        novel = job.table["novel"][fold]
        counts = ", ".join(f"{count_episodes(presence, novel, shots)} with {shots}" for shots in SHOTS)
        listing.facts.append(f"fold {fold}: episodes of a run by shots: {counts}")
    return listing


def count_episodes(presence: Presence, novel: Iterable[int], shots: int) -> int:
    """Episodes of a run, V1 and V2 alike: of each novel class as many as it has videos beyond the support's.

    E = Σ_c (N_c - shots), N_c: videos of class c. Source: protocol section 1.3.
    """
    return sum(max(len(presence[number]) - shots, 0) for number in novel)


def _vspw(job: Job) -> Listing:
    """Masks in which a class of the list is large, by VSPW's own order of sequences; val and test from its val.txt."""
    sequences = {split: read_words(job.root / f"{split}.txt") for split in ("train", "val")}
    for split in (split for split, names in sequences.items() if not names):
        about = "no such list, or nothing in it; expected VSPW's own, one sequence per line"
        job.on_error(FileNotFoundError(f"{job.root / split}.txt: {about}"))
    frames, counts, masks = _counted(job, dict.fromkeys(sequences["train"] + sequences["val"]))
    seen = {frame: large(found, job.table) for frame, found in counts.items()}
    listing = Listing({}, _named("nminivspw_pascal", read_table("vspw")["expected"]), masks=masks)
    for fold in job.folds():
        for split, (source, entry) in SPLITS.items():
            if entry in job.table and sequences[source]:
                wanted = set(job.table[entry][fold])
                there = ((name, frame) for name in sequences[source] for frame in frames.get(name, ()))
                lines = tuple(f"{name} {_mask(frame)}" for name, frame in there if not wanted.isdisjoint(seen[frame]))
                listing.lists[f"nminivspw_pascal/{split}_{fold}.txt"] = lines
    return listing


def _mask(frame: str) -> str:
    return f"{frame.replace('/', '/mask/')}.png"


def _counted(job: Job, names: Iterable[str]) -> tuple[dict[str, Names], dict[str, Counts], tuple[Path, ...]]:
    """The frames of sequences, the labels of each, and the masks: counted once for all lists that follow."""
    reader = VspwReader(job.root)
    frames = sequence_frames(reader.folder, names, "mask", ".png", job.on_error)
    masks = [reader.mask_path(frame) for there in frames.values() for frame in there]
    census(masks, job.on_error, job.workers, job.root / "lists" / "census.json")
    frames, counts = counted(job.root, frames, reader.mask_path, job.on_error)
    return frames, counts, tuple(map(reader.mask_path, counts))


def _minivspw(job: Job) -> Listing:
    """Masks with a pixel of a novel Pascal class, the sequences in plain text order."""
    wanted = set(read_words(job.root / VIDEOS))
    names = [name for name in sequence_folders(vspw_folder(job.root), "origin") if not wanted or name in wanted]
    masks = _counted(job, names)[2]
    listing = Listing({}, _named("vspw", read_table("vspw")["pascal_to_vspw"]["expected"]), masks=masks)
    unseen: list[Exception] = []  # a missing picture makes no other list
    for fold in job.folds():
        novel, name = job.table["novel"][fold], f"vspw/{fold}.txt"
        listed = minivspw_listed(job.root, novel, job.on_error)
        listing.lists[name] = tuple(f"data/{_mask(frame)}" for there in listed.values() for frame in there)
        asked = scan_minivspw(job.root, job.table, (), novel, unseen.append).frames
        kept = f"{sum(map(len, asked.values()))} frames of {len(asked)} sequences"
        listing.facts.append(f"{name}: {kept} are asked about, without ignored sequences and frames without flow")
    return listing


def _davis(job: Job) -> Listing:
    """The sequences that are used with their class; a list of this project's own."""
    scan, reader = scan_davis(job.root, job.table, (), (), job.on_error), DavisReader(job.root)
    shown = {s: [job.table["classes"][c] for c in scan.presence if s in scan.presence[c]] for s in scan.frames}
    lists = {"davis/sequences.txt": tuple(" ".join((name, *classes)) for name, classes in shown.items())}
    listing = Listing(lists, masks=tuple(reader.mask_path(f) for there in scan.frames.values() for f in there))
    if named := job.table.get("sequences"):
        about = f"{len(shown)} of {len(named)} sequences with a Pascal class are there"
        listing.facts.append(f"davis/sequences.txt: {about}; {len(job.table.get('excluded', ()))} others are left out")
    return listing


RULES: dict[str, Callable[[Job], Listing]] = {
    "pascal": _pascal,
    "coco": _coco,
    "coco-full": lambda job: _coco(job, CocoFullReader),
    "ytvis": _ytvis,
    "vspw": _vspw,
    "minivspw": _minivspw,
    "davis": _davis,
}

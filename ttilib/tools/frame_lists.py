"""The frame lists of the release, made again from the data and compared with the published ones.

The library reads annotations and needs no lists. But the published numbers were made with lists, and whoever makes
the same lists has the same data: line counts and md5 are known ("expected" in lists/*.json), so that a missing
sequence, another edition or a moved file shows before anything is computed.

`frame_lists` makes the lists of a benchmark, `check_lists` compares them, `write_lists` does both and writes them,
with the pixels per label of every mask, from which later scans start. A data folder with a lists.json of its own is
not the original data; its lists are compared with nothing. Source: protocol section 7 and appendix A.

Whether a frame list is the published one, and if not, where it begins to differ and what that means.

Of a published list its line count, its sequences, its first two lines and the md5 of its text may be known; a
released copy of it may be at hand. `judge` compares a list with all of that and says in one sentence what differs.

The rules by which the release made its frame lists, corpus by corpus.

A `Listing` is what one corpus of a benchmark has in the way of lists: their lines, what is published of them, what
there is to say, and which masks the corpus has. `list_corpus` makes it. Source: protocol section 7 and appendix A.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from ttilib.datasets.base import Names, OnError, Presence, large, once, stop
from ttilib.datasets.catalog import find_dataset, read_table
from ttilib.datasets.coco import CocoFullReader, CocoReader, coco_list, list_line
from ttilib.datasets.davis import DavisReader, scan_davis
from ttilib.datasets.masks import Counts, census, write_census
from ttilib.datasets.pascal import PascalReader, pascal_list
from ttilib.datasets.vspw import (
    VIDEOS,
    VspwReader,
    counted,
    minivspw_listed,
    minivspw_table,
    read_words,
    scan_minivspw,
    sequence_folders,
    sequence_frames,
    vspw_folder,
)
from ttilib.datasets.youtube_vis import scan_ytvis, ytvis_index
from ttilib.episodes.benchmarks import benchmark, find_roots
from ttilib.files import write_text
from ttilib.images import Colours

PUBLISHED, UNKNOWN = "as published", "not published"

MEANINGS = {
    "sequences": "whole sequences are missing or too many: complete the folder, and see that it is the edition and the "
    "choice of videos that docs/data.md names",
    "fewer": "something is missing, or masks show less than the released ones: complete the folder, in the edition "
    "that docs/data.md names",
    "more": "there is more than the release had: take away what does not belong there, or use the edition that "
    "docs/data.md names",
    "content": "names or their order differ: use the edition that docs/data.md names, with its own id lists",
}
"""What a difference means, and what to do about it."""


def list_text(lines: Sequence[str]) -> str:
    """The lines as the release writes them: Unix line ends, the last line ended too."""
    return "".join(f"{line}\n" for line in lines)


def list_md5(lines: Sequence[str]) -> str:
    """The md5 of the list's text, by which the published lists are known."""
    return hashlib.md5(list_text(lines).encode(), usedforsecurity=False).hexdigest()


def count_sequences(lines: Sequence[str]) -> int | None:
    """How many sequences the masks of a list are of; None for a list of stills."""
    if lines and "/mask/" not in lines[0]:
        return None
    return len({line.partition("/mask/")[0].split("/")[-1].split(" ")[-1] for line in lines})


def first_difference(lines: Sequence[str], released: Sequence[str], name: str = "the released list") -> str:
    """Where a list first differs from a released one, as half a sentence; empty if they are the same."""
    for place, (found, due) in enumerate(zip_longest(lines, released), start=1):
        if found is None:
            return f"the list ends before line {place}, which is {due!r} in {name}"
        if due is None:
            return f"line {place} is {found!r}, where {name} has ended"
        if found != due:
            return f"line {place} is {found!r}, in {name} {due!r}"
    return ""


def judge(
    name: str, lines: Sequence[str], facts: Mapping[str, Any] | None, released: Sequence[str] | None = None
) -> tuple[str, str]:
    """What a list is, in two or three words, and the sentence of complaint about it, empty if it is as it should be.

    `facts`: what is published of it ("lines", "sequences", "md5", "first"); without "md5" among them the order of the
    lines counts for nothing; None or empty if nothing is published. `released`: a copy to compare with.
    """
    facts = facts or {}
    found = {"lines": len(lines), "sequences": count_sequences(lines), "md5": list_md5(lines)}
    wrong = [key for key in ("lines", "sequences", "md5") if key in facts and facts[key] != found[key]]
    ordered = "md5" in facts or not facts
    if released is None:
        where = ""
    elif ordered:
        where = first_difference(lines, released)
    elif where := first_difference(sorted(lines), sorted(released)):
        where = f"once both are sorted, {where}"
    if not wrong and not where:
        known = PUBLISHED if "md5" in facts else f"{facts['lines']} lines {PUBLISHED}" if "lines" in facts else UNKNOWN
        return known if released is None else f"{known}, like the released copy", ""
    counts = [f"{found[key]} {key} instead of {facts[key]}" for key in wrong if key != "md5"]
    about = " and ".join(counts) or ("as many lines but other content" if wrong else "not like the released copy")
    if not where and released is None:
        where = first_difference(lines[:2], facts.get("first", lines[:2]), "the published list")
        where = where or "its first two lines are as published; a released copy would show the first that is not"
    where = where or "it is like the released copy given, which is not the published one"
    return f"differs: {about}", f"{name}: {about}; {where}; {MEANINGS[_kind(found, facts, wrong, released)]}"


def _kind(
    found: Mapping[str, Any], facts: Mapping[str, Any], wrong: Collection[str], released: Sequence[str] | None
) -> str:
    """Which of the meanings a difference has."""
    if "sequences" in wrong:
        return "sequences"
    due = facts["lines"] if "lines" in facts else len(released) if released is not None else found["lines"]
    return "fewer" if found["lines"] < due else "more" if found["lines"] > due else "content"


def read_released(against: Path | str | None, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The released copies of the lists of these names: a file, or what a folder has of them under the same names.

    A folder may be that of the released code (pascal/train.txt) or hold the lists side by side (train.txt).

    Raises FileNotFoundError if there is no such file or none of the lists in the folder, ValueError if a file is
    called like none of several lists.
    """
    if against is None:
        return {}
    against, last = Path(against), {name: PurePosixPath(name).name for name in names}
    if against.is_dir():
        places = {name: [path for path in (against / name, against / last[name]) if path.is_file()] for name in names}
        copies = {name: _lines(paths[0]) for name, paths in places.items() if paths}
        if not copies:
            about = f"none of {', '.join(names) or 'no lists'} in it"
            raise FileNotFoundError(f"{against}: {about}; give the folder of the released lists")
        return copies
    if not against.is_file():
        raise FileNotFoundError(f"{against}: no such file or folder; give a released list, or a folder of them")
    chosen = names if len(names) == 1 else [name for name in names if last[name] == against.name]
    if not chosen:
        raise ValueError(f"{against}: which list is it? call it like one of {', '.join(sorted(set(last.values())))}")
    return {chosen[0]: _lines(against)}


def _lines(path: Path) -> tuple[str, ...]:
    try:
        return tuple(path.read_text(encoding="utf-8-sig").splitlines())
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text (byte {error.start}); give a released list") from error


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


UNCOMPARED, CENSUS = "not compared", "census.json"
TOLD = 10
"""So many files that cannot be used are named one by one."""


@dataclass(frozen=True)
class FrameList:
    """One list: its released name, its size, its md5, and how it compares with the published one."""

    name: str
    lines: int
    sequences: int | None
    md5: str
    verdict: str


@dataclass(frozen=True)
class ListReport:
    """What became of a benchmark's lists: `facts` and `complaints` are sentences, `written` the files written."""

    benchmark: str
    lists: tuple[FrameList, ...]
    facts: tuple[str, ...]
    complaints: tuple[str, ...]
    written: tuple[Path, ...]

    @property
    def ok(self) -> bool:
        """Whether there is nothing to complain about."""
        return not self.complaints

    def text(self) -> str:
        """The report as lines to read: a row per list, then the sentences."""
        head = [("list", "lines", "sequences", "md5", "")] if self.lists else []
        rows = head + [(f.name, str(f.lines), str(f.sequences or "-"), f.md5, f.verdict) for f in self.lists]
        wide = max((len(row[0]) for row in rows), default=0)
        table = [f"{name:{wide}}  {n:>6} {m:>9}  {md5:32}  {said}".rstrip() for name, n, m, md5, said in rows]
        told = [f"- {complaint}" for complaint in self.complaints]
        written = [f"written: {path}" for path in self.written] or ["nothing was written"]
        return "\n".join([f"frame lists of {self.benchmark}", *table, *self.facts, *told, *written])


def frame_lists(
    name: str,
    root: Path | str,
    fold: int | None = None,
    on_error: OnError = stop,
    workers: int = 1,
    support_root: Path | str | None = None,
) -> dict[str, Names]:
    """The frame lists of a benchmark with the lines of the release, by their names there (pascal/train.txt).

    `fold`: only the lists of one fold. `workers`: processes to count masks in. A file that cannot be used is told
    to `on_error` and left out.
    """
    made = _listings(name, _roots(name, root, support_root), fold, on_error, workers)
    return {entry: lines for listing in made.values() for entry, lines in listing.lists.items()}


def check_lists(
    lists: Mapping[str, Sequence[str]], expected: Mapping[str, Any], against: Path | str | None = None
) -> list[str]:
    """A sentence for every list that is not as published: what differs, the first differing line, what it means.

    `expected`: by a list's name what is published of it, see lists/README.md. `against`: a released list or a folder
    of them; without one, only the first two lines of a published list are known.
    """
    released = read_released(against, list(lists))
    said = [judge(name, lines, expected.get(name), released.get(name))[1] for name, lines in lists.items()]
    return [complaint for complaint in said if complaint]


def write_lists(
    name: str,
    root: Path | str,
    out: Path | str | None = None,
    fold: int | None = None,
    against: Path | str | None = None,
    keep_going: bool = False,
    on_error: OnError | None = None,
    workers: int = 1,
    support_root: Path | str | None = None,
) -> ListReport:
    """Make the lists of a benchmark, compare them, and write them if they are as published.

    They go to `out` under their released names, or without it to the folder lists/ of each corpus. There the pixel
    counts of all masks go as well, in a census.json from which scans start, and the masks of COCO are painted.
    `keep_going`: write lists that differ. Files that cannot be used are complaints, unless `on_error` is told of them.

    Raises ValueError or FileNotFoundError if the folder cannot be written to, before the long work begins.
    """
    roots = _roots(name, root, support_root)
    places = {corpus: folder / "lists" if out is None else Path(out) for corpus, folder in roots.items()}
    for place in places.values():
        _check_place(place)
    errors: list[Exception] = []
    tell = on_error or errors.append
    made = _listings(name, roots, fold, tell, workers)
    lists, complaints = _compare(made.values(), against)
    written = []
    if keep_going or not complaints + errors:
        for corpus, listing in made.items():
            for entry, lines in listing.lists.items():
                path = places[corpus] / (PurePosixPath(entry).name if out is None else entry)
                written.append(_write(path, list_text(lines)))
            if make_masks := find_dataset(corpus).make_masks:
                make_masks(roots[corpus], tell, workers)
        written += _keep_counts(made, roots, places, tell, workers)
    facts = tuple(fact for listing in made.values() for fact in listing.facts)
    return ListReport(name, lists, facts, (*complaints, *_first(errors)), tuple(written))


def _roots(name: str, root: Path | str, support_root: Path | str | None) -> dict[str, Path]:
    """The folders of a benchmark's corpora, the support's first."""
    plan = benchmark(name)
    query_root, lender = find_roots(plan, root, support_root)
    return {plan.support: lender, plan.query: query_root}


def _listings(
    name: str, roots: Mapping[str, Path], fold: int | None, on_error: OnError, workers: int
) -> dict[str, Listing]:
    lender, tell = roots[benchmark(name).support], once(on_error)
    return {corpus: list_corpus(corpus, folder, fold, tell, workers, lender) for corpus, folder in roots.items()}


def _compare(made: Iterable[Listing], against: Path | str | None) -> tuple[tuple[FrameList, ...], list[str]]:
    """The lists and how they compare, and all that is to be complained of."""
    made = list(made)
    released = read_released(against, [name for listing in made for name in listing.lists])
    lists, complaints = [], [complaint for listing in made for complaint in listing.complaints]
    for listing in made:
        for name, lines in listing.lists.items():
            verdict, complaint = judge(name, lines, listing.published.get(name), released.get(name))
            said = verdict if listing.original or name in released else UNCOMPARED
            lists.append(FrameList(name, len(lines), count_sequences(lines), list_md5(lines), said))
            complaints += [complaint] if complaint else []
    return tuple(lists), complaints


def _first(errors: Sequence[Exception]) -> list[str]:
    """The first files that cannot be used, and how many more there are."""
    more = f"{len(errors) - TOLD} more files cannot be used; the doctor names them all"
    return [str(error) for error in errors[:TOLD]] + ([more] if len(errors) > TOLD else [])


def _check_place(folder: Path) -> None:
    """Whether a folder can be written to is asked before hours of counting, not after."""
    if not folder.parent.is_dir():
        raise FileNotFoundError(f"{folder}: there is no folder {folder.parent} to put it in; make that first")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: is a file, not a folder; give another folder for the lists")
    if not os.access(folder if folder.is_dir() else folder.parent, os.W_OK | os.X_OK):
        raise ValueError(f"{folder}: cannot be written to; give another folder for the lists")


def _write(path: Path, text: str) -> Path:
    try:
        write_text(path, text)
    except OSError as error:
        raise ValueError(f"{path}: cannot be written ({error}); give another folder for the lists") from error
    return path


def _keep_counts(
    made: Mapping[str, Listing], roots: Mapping[str, Path], places: Mapping[str, Path], on_error: OnError, workers: int
) -> list[Path]:
    """Count what is not counted yet, and keep all counts beside the lists."""
    kept: dict[Path, dict[Path, Counts]] = {}
    for corpus, listing in made.items():
        counts = census(listing.masks, on_error, workers, roots[corpus] / "lists" / CENSUS, listing.colours)
        if counts:
            kept.setdefault(places[corpus] / CENSUS, {}).update(counts)
    for path, counts in kept.items():
        write_census(path, counts)
    return list(kept)

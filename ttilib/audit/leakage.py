"""What a fold can be drawn from, and what base training has seen of it.

Few-shot numbers mean something only if the novel classes are new and if there is enough to draw from. The
benchmarks are not as strict as one would think: where other classes count as background, base training sees
novel objects without their names. All of that is counted here and said aloud.

`check_coverage` asks whether every novel class can be drawn with the shots asked, `check_leakage` what base
training shares with the episodes of a fold, `check_draws` what the way of drawing means, and `check_names` whether
training on another corpus has named novel classes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from ttilib.audit.soundness import ERROR, NOTE, WARNING, Finding
from ttilib.data.draws import Draw, shared_classes
from ttilib.data.lists import Fold

AS_RELEASED = "nothing to do: as in the release; know it when you compare"
COCO_WORDS = {
    "aeroplane": "airplane", "diningtable": "dining table", "motorbike": "motorcycle", "pottedplant": "potted plant",
    "sofa": "couch", "tvmonitor": "tv",
}  # fmt: skip
"""Pascal's names of classes that COCO calls otherwise."""

EVERY_CLASS = ("v1", "v2")
"""Draws that go through the classes; the others go through the videos and never meet a class without any."""


def check_coverage(query: Fold, support: Fold, draws: str, shots: Sequence[int]) -> Iterator[Finding]:
    """Every novel class has a video to be asked about, and enough others to draw the support from.

    `draws`: how the benchmark draws. "sequences" draw a support video again if need be, so one other is enough.
    """
    place, same = f"{query.corpus} fold {query.index}", query is support
    ids = {c: c for c in query.novel} if same else shared_classes(support, query)
    for number in query.novel:
        name = f"class {number} {query.names[number]}"
        asked = len(query.presence.get(number, {}))
        if number not in ids:
            about = f"{name} is none of the novel classes of {support.corpus}, so it is never asked for"
            yield Finding(NOTE, place, about, "nothing to do: classes are matched by name")
        elif not asked and draws not in EVERY_CLASS:
            about = f"{name} is in no {_unit(query)}, so it is never asked for"
            missing = "if it should be, fetch the missing part of the data"
            yield Finding(WARNING if same else NOTE, place, about, missing)
        else:
            found = len(support.presence.get(ids[number], {}))
            needed = {k: 2 if draws == "sequences" else k + same for k in shots}
            if short := [k for k in shots if found < needed[k]]:
                about = f"{name} can be drawn from {_count(found, support)}, {short[0]}-shot episodes need "
                about += str(needed[short[0]])
                yield Finding(ERROR, place, about, "ask for fewer shots, or fetch the missing part of the data")


def check_leakage(fold: Fold, shows: Mapping[str, Collection[int]], ignored: bool) -> Iterator[Finding]:
    """What base training on a corpus shares with the episodes of the same fold.

    `shows`: for each video, every class that is anywhere in it. `ignored`: training ignores pixels of classes
    that are not base; otherwise they are background. A corpus of which nothing is trained on gives nothing.
    """
    place, novel, unit = f"{fold.corpus} fold {fold.index}", set(fold.novel), _unit(fold)
    base = {fold.names[number]: number for number in fold.base}
    for number in fold.novel:
        if fold.names[number] in base:
            about = f"novel class {number} {fold.names[number]} is base class {base[fold.names[number]]} as well"
            yield Finding(ERROR, place, about, "mend the class table: base and novel classes are different things")
    train, val, asked = set(fold.train), set(fold.val), _asked(fold)
    if both := train & val:
        about = f"{_count(len(both), fold)} both trained and validated on, first {min(both)}"
        yield Finding(ERROR, place, about, "take them out of train.txt, or the scores are of what was trained on")
    seen = [{video for video in part if novel & set(shows.get(video, ()))} for part in (train, val)]
    if any(seen):
        about = f"{len(seen[0])} of {len(train)} {unit} of base training and {len(seen[1])} of {len(val)} of its "
        about += "validation show novel objects, " + ("which are ignored" if ignored else "as background")
        yield Finding(NOTE if ignored else WARNING, place, about, AS_RELEASED)
    if shared := (train - val) & asked:
        about = f"{len(shared)} of {len(asked)} {unit} of the episodes are in base training, without their novel names"
        yield Finding(WARNING, place, about, AS_RELEASED)


def check_draws(query: Fold, support: Fold, draws: str, drawn: Iterable[Draw] = ()) -> Iterator[Finding]:
    """Where support and query come from, and what auxiliary training sees; none that is drawn may support itself."""
    place, asked = f"{query.corpus} fold {query.index}", len(_asked(query))
    if query is support:
        again = ", and some are asked about more than once" if draws == "v2" else ""
        about = f"support and queries come from the same {asked} {_unit(query)}{again}; a query never supports itself"
        yield Finding(NOTE, place, about, AS_RELEASED)
        for video in sorted({d.video for d in drawn if d.video in {frame.split("/")[0] for frame in d.support}}):
            yield Finding(ERROR, place, f"{video} is drawn as support and query of one episode", "mend the draws")
    if draws in EVERY_CLASS:
        about = f"DCL's auxiliary training uses these {asked} videos of the novel classes, without labels"
        yield Finding(NOTE, place, about, "compare DCL weights with a baseline that may use them too")


def check_names(query: Fold, trained_on: str, trained: Collection[str]) -> Iterator[Finding]:
    """Whether training on another corpus has named novel classes of this one; `trained`: its base classes."""
    for number in query.novel:
        name = query.names[number]
        if {name, COCO_WORDS.get(name)} & set(trained):
            about = f"novel class {number} {name} is a base class of {trained_on} fold {query.index}, so it is not new"
            mend = "take the mended benchmark if there is one; the release's own table has this flaw"
            yield Finding(WARNING, f"{query.corpus} fold {query.index}", about, mend)


def visible(fold: Fold) -> dict[str, set[int]]:
    """Video to the classes in it, as far as the fold knows."""
    shows: dict[str, set[int]] = {}
    for number, videos in fold.presence.items():
        for video in videos:
            shows.setdefault(video, set()).add(number)
    return shows


def _asked(fold: Fold) -> set[str]:
    return {video for number in fold.novel for video in fold.presence.get(number, {})}


def _count(number: int, fold: Fold) -> str:
    return f"{number} {_unit(fold)}".removesuffix("s" if number == 1 else "")


def _unit(fold: Fold) -> str:
    return "videos" if any("/" in frame for names in fold.frames.values() for frame in names[:1]) else "stills"

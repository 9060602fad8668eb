"""What can be wrong with the annotations of YouTube-VIS beyond what a scan complains about.

A scan tells of videos, annotations and categories that cannot be used. `ytvis_form` comes before it and says
whether the file has the entries that a scan reads at all; `check_ytvis` comes after it and looks at what can be
used but should not be so: objects that are in no frame, and another number of videos than the edition has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ttilib.audit.soundness import ERROR, FETCH, WARNING, Finding
from ttilib.corpora.outlines import decode
from ttilib.files import read_json

ENTRIES = {
    "videos": {"id": int, "height": int, "width": int, "file_names": list},
    "annotations": {"id": int, "video_id": int, "category_id": int, "segmentations": list},
    "categories": {"id": int, "name": str},
}
"""What is read of train.json: its lists, and the entries of each item."""

EDITION = "use the train.json of the 2019 edition's train part"


def ytvis_form(path: Path) -> list[Finding]:
    """The three lists are there, and each of their items has the entries that are read."""
    content = read_json(path)
    if not isinstance(content, dict) or not all(isinstance(content.get(part), list) for part in ENTRIES):
        named = sorted(content) if isinstance(content, dict) else type(content).__name__
        about = f"found {str(named)[:60]}, expected the lists {', '.join(ENTRIES)}"
        return [Finding(ERROR, str(path), about, EDITION)]
    findings = []
    for part, needed in ENTRIES.items():
        for place, item in enumerate(content[part]):
            if wrong := [key for key, kind in needed.items() if not _has(item, key, kind)]:
                about = f"item {place} of {part} has no {', '.join(wrong)} of the kind expected"
                findings.append(Finding(ERROR, str(path), about, FETCH))
    return findings


def _has(item: Any, key: str, kind: type) -> bool:
    entry = item.get(key) if isinstance(item, dict) else None
    return isinstance(entry, kind) and (key != "file_names" or all(isinstance(file, str) for file in entry))


def check_ytvis(index: Mapping[str, Any], expected: int | None = None, thorough: bool = False) -> Iterator[Finding]:
    """Objects that are in no frame, and a number of videos other than `expected`; `thorough`: paint every outline.

    `index`: what `ytvis_index` returns.
    """
    path = str(index["path"])
    if expected is not None and len(index["videos"]) != expected:
        about = f"{len(index['videos'])} usable videos, the 2019 edition has {expected}"
        yield Finding(WARNING, path, about, f"{EDITION}, or expect other episodes than the published ones")
    for name, tracks in index["annotations"].items():
        video = index["videos"][name]
        for track in tracks:
            about = f"annotation {track['id']} of video {name}"
            if not any(track["segmentations"]):
                yield Finding(WARNING, path, f"{about} is in no frame", "nothing to do: it is never drawn")
            elif thorough:
                for frame, wrong in _unreadable(video, track["segmentations"]):
                    yield Finding(ERROR, path, f"{about} cannot be painted in frame {frame} ({wrong})", FETCH)


def _unreadable(video: Mapping[str, Any], outlines: list[Any]) -> Iterator[tuple[str, str]]:
    for frame, outline in zip(video["frames"], outlines, strict=True):
        try:
            if outline:
                decode(outline, video["height"], video["width"])
        except (ValueError, TypeError) as error:
            yield frame, str(error)

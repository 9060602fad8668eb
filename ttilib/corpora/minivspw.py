"""MiniVSPW: the sequences of VSPW on which the novel classes of Pascal are looked for, frame by frame.

The folder has label_num_dic_final.json, VSPW's names of its ids, and data/<sequence>/{origin,mask,flow}. Nothing
is trained on it. `minivspw_table` says which VSPW class is which Pascal class, `minivspw_listed` gives the frames
of the released lists, `scan_minivspw` those of them that the released code asks about.
Source: protocol sections 1.4 and 7.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ttilib.corpora.census import Counts
from ttilib.corpora.corpus import Names, OnError, Presence, Rule, Scan, stop
from ttilib.corpora.sequences import (
    VspwReader,
    counted,
    file_names,
    keep,
    read_words,
    sequence_folders,
    sequence_frames,
    vspw_folder,
)
from ttilib.corpora.transforms import static
from ttilib.files import read_json

LABELS, VIDEOS = "label_num_dic_final.json", "vspw_videolist.txt"
VSPW_TABLE = Path(__file__).resolve().parents[2] / "lists" / "vspw.json"
FLOW = ".pkl.pkl"


def minivspw_table(
    root: Path, pascal_table: Mapping[str, Any], vspw_table: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The class table of a MiniVSPW folder: VSPW ids under the names and in the folds of their Pascal classes.

    VSPW's names come from the folder's label_num_dic_final.json, or else from its lists.json or `vspw_table`, the
    project's own table if None; that also says which names differ from Pascal's and which sequences are left out.

    Raises ValueError if two VSPW classes are one Pascal class, or none is any.
    """
    vspw = read_json(VSPW_TABLE) if vspw_table is None else vspw_table
    path, names = _names(root, vspw)
    ids = {name: number for number, name in pascal_table["classes"].items()}
    classes: dict[int, str] = {}
    for number, name in sorted(names.items()):
        name = vspw["pascal_to_vspw"]["names"].get(name, name)
        if name in classes.values():
            raise ValueError(f"{path}: two of its classes are the Pascal class {name!r}; name one of them otherwise")
        if name in ids:
            classes[number] = name
    if not classes:
        raise ValueError(f"{path}: none of its {len(names)} names is a Pascal class; give the file VSPW ships")
    novel = [[number for number, name in classes.items() if ids[name] in fold] for fold in pascal_table["novel"]]
    ignored = list(vspw["pascal_to_vspw"]["ignored"])
    return {"corpus": "minivspw", "classes": classes, "novel": novel, "base": [[] for _ in novel], "ignored": ignored}


def _names(root: Path, vspw: Mapping[str, Any]) -> tuple[Path, dict[int, str]]:
    """The names of the ids in a folder, and the file that gives them."""
    path = next((root / name for name in (LABELS, "lists.json") if (root / name).is_file()), VSPW_TABLE)
    content = vspw if path == VSPW_TABLE else read_json(path)
    try:
        if path.name == LABELS:
            return path, {int(number): name for name, number in content.items()}
        return path, {int(number): name for number, name in content["classes"].items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a file of names and ids ({error}); give the one VSPW ships") from error


def minivspw_listed(root: Path, ids: Collection[int], on_error: OnError = stop) -> dict[str, Names]:
    """The frames of the released list of a fold: of each sequence those with a pixel of one of these classes.

    Sequences come in plain text order; if there is a vspw_videolist.txt, only those whose name begins a line.
    """
    return _listed(root, ids, _sequences(root), on_error)[0]


def scan_minivspw(
    root: Path,
    table: Mapping[str, Any],
    base: Sequence[int],
    novel: Sequence[int],
    on_error: OnError = stop,
) -> Scan:
    """The frames that the released code asks about: those listed, of sequences that are not ignored, with flow.

    The release drops a frame whose flow file is missing, though it never opens one (quirk Q10). A folder without
    any flow cannot be asked that, so there nothing is dropped.
    """
    names = [name for name in _sequences(root) if name not in table.get("ignored", ())]
    frames, counts = _listed(root, novel, names, on_error)
    frames = _with_pictures(root, _with_flow(root, frames), on_error)
    presence: Presence = {number: {} for number in table["classes"]}
    for number in novel:
        presence[number] = keep(frames, lambda frame, number=number: number in counts[frame])
    return Scan(frames, presence, (), ())


def _sequences(root: Path) -> list[str]:
    names = sorted(sequence_folders(vspw_folder(root), "origin"))  # 10_x before 9_x, as in the released lists
    if (path := root / VIDEOS).is_file():
        wanted = set(read_words(path))
        names = [name for name in names if name in wanted]
    return names


def _listed(
    root: Path, ids: Collection[int], names: Sequence[str], on_error: OnError
) -> tuple[dict[str, Names], dict[str, Counts]]:
    reader = VspwReader(root)
    masks = sequence_frames(reader.folder, names, "mask", ".png", on_error)
    masks, counts = counted(root, masks, reader.mask_path, on_error)
    wanted = set(ids)
    return keep(masks, lambda frame: bool(wanted & counts[frame].keys())), counts


def _with_flow(root: Path, frames: Mapping[str, Names]) -> dict[str, Names]:
    folder = vspw_folder(root)
    if not any(folder.glob(f"*/flow/*{FLOW}")):
        return dict(frames)
    flows = {f"{name}/{file}" for name in frames for file in file_names(folder / name / "flow", FLOW)}
    return keep(frames, flows.__contains__)


def _with_pictures(root: Path, frames: Mapping[str, Names], on_error: OnError) -> dict[str, Names]:
    reader = VspwReader(root)
    pictures = {f"{name}/{file}" for name in frames for file in file_names(reader.folder / name / "origin", ".jpg")}
    for frame in (frame for there in frames.values() for frame in there if frame not in pictures):
        path = reader.picture_path(frame)
        on_error(FileNotFoundError(f"{path}: no such file; a mask belongs to this picture, copy it"))
    return keep(frames, pictures.__contains__)


class MiniVspwReader(VspwReader):
    """MiniVSPW, read like VSPW; the released code lays its frames like Pascal's stills."""

    episode_rule = Rule(static, False)

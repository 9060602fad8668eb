"""The corpora by name: how each is scanned and how its pictures are read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ttilib.corpora.coco import CocoFullReader, CocoReader, scan_coco, scan_coco_full
from ttilib.corpora.corpus import Reader, Scan
from ttilib.corpora.davis import DavisReader, scan_davis
from ttilib.corpora.minivspw import MiniVspwReader, scan_minivspw
from ttilib.corpora.sequences import VspwReader, scan_vspw
from ttilib.corpora.stills import PascalReader, scan_pascal
from ttilib.corpora.ytvis import YtvisReader, scan_ytvis

READERS: dict[str, Callable[[Path | str], Reader]] = {
    "ytvis": YtvisReader,
    "pascal": PascalReader,
    "coco": CocoReader,
    "coco-full": CocoFullReader,
    "vspw": VspwReader,
    "minivspw": MiniVspwReader,
    "davis": DavisReader,
}
SCANS: dict[str, Callable[..., Scan]] = {
    "ytvis": scan_ytvis,
    "pascal": scan_pascal,
    "coco": scan_coco,
    "coco-full": scan_coco_full,
    "vspw": scan_vspw,
    "minivspw": scan_minivspw,
    "davis": scan_davis,
}

"""The corpora by name: how each is scanned and how its pictures are read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ttilib.data.corpus import Reader, Scan
from ttilib.data.sequences import DavisReader, VspwReader, scan_davis, scan_vspw
from ttilib.data.stills import PascalReader, scan_pascal
from ttilib.data.ytvis import YtvisReader, scan_ytvis

READERS: dict[str, Callable[[Path | str], Reader]] = {
    "ytvis": YtvisReader,
    "pascal": PascalReader,
    "vspw": VspwReader,
    "davis": DavisReader,
}
SCANS: dict[str, Callable[..., Scan]] = {
    "ytvis": scan_ytvis,
    "pascal": scan_pascal,
    "vspw": scan_vspw,
    "davis": scan_davis,
}

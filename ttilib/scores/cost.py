"""What a piece of work costs: seconds on the clock, and memory beyond what was in use before.

Memory is the peak inside the block minus what was there at its start. On a graphics card that is what torch had
allocated; on Linux it is the resident memory of the process, whose high-water mark is set back first. Where neither
can be known it is None, which is not zero.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

SELF = Path("/proc/self")
MEGABYTE = 10**6


@dataclass
class Cost:
    """Filled in when the block ends: seconds, and peak of extra memory in MB (10^6 bytes), None if unknown."""

    seconds: float = float("nan")
    memory_mb: float | None = None


@contextmanager
def measured(device: torch.device | str = "cpu") -> Iterator[Cost]:
    """Measure what the block costs on `device`; the object given is complete once the block has ended.

    Work that a graphics card still has to do is waited for, before and after. Blocks must not be nested: the inner one
    sets back the high-water mark of the outer one.
    """
    device, cost = torch.device(device), Cost()
    before = _start(device)
    begin = time.perf_counter()
    try:
        yield cost
    finally:
        _wait(device)
        cost.seconds = time.perf_counter() - begin
        peak = None if before is None else _peak(device)
        cost.memory_mb = None if before is None or peak is None else max(peak - before, 0) / MEGABYTE


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _start(device: torch.device) -> int | None:
    """Set the high-water mark back; bytes in use now, or None if the peak will not be known."""
    _wait(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    if device.type != "cpu":
        return None
    try:
        (SELF / "clear_refs").write_text("5")  # 5: set the peak resident size back to the present one
    except OSError:  # not Linux, or not allowed
        return None
    return _status("VmRSS")


def _peak(device: torch.device) -> int | None:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _status("VmHWM")


def _status(field: str) -> int | None:
    """Bytes that the system says about this process; None if it does not."""
    try:
        found = re.search(rf"^{field}:\s*(\d+) kB$", (SELF / "status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return 1024 * int(found[1]) if found else None

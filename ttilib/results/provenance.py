"""With what values were made: the program's text, versions, machine, weights.

Two rows belong in one table if nothing that could change them differs. `code_digest` names the part of the program that
makes masks; a change of a plot, a command, a metric or a docstring leaves it, and with it the results of weeks, as they
are. `metrics_digest` names the part that scores. `made` is what every row carries, `provenance` what a run writes once.
"""

from __future__ import annotations

import ast
import platform
import subprocess
from datetime import datetime, timezone
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from ttilib.files import digest

HOME = Path(__file__).resolve().parents[1]  # the library
HERE = Path(__file__).resolve().relative_to(HOME)
START = "results.evaluation"  # with all that it imports from the library, except:
SCORING = ("results.metrics", "results.records", "results.provenance")  # score and store what was solved

CARRIED = ("ttilib", "torch", "python", "numpy", "cv2", "commit", "device", "device_name", "threads")


def _git(*arguments: str) -> str | None:
    """What git says about the folder of this program; None without git, repository or commit."""
    try:
        answer = subprocess.run(
            ["git", "-C", str(HOME), *arguments], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return answer.stdout.strip()


def _version() -> str | None:
    try:
        return version("ttilib")
    except PackageNotFoundError:
        return None


def _device_name(device: str) -> str:
    """The name of the graphics card, or of the processor."""
    if str(device).startswith("cuda"):
        try:
            return torch.cuda.get_device_name(device)
        except (RuntimeError, AssertionError, ValueError):
            return str(device)
    return platform.processor() or platform.machine()


def provenance(device: torch.device | str = "cpu") -> dict[str, Any]:
    """With what, where and when a number was made: versions, commit, device, threads, time (UTC).

    `commit` is None if this program does not lie in a git repository that tracks it; `modified` says whether
    tracked files differ from that commit. Never fails: what cannot be found out is None.
    """
    tracked = _git("ls-files", "--error-unmatch", str(HERE)) is not None
    changes = _git("status", "--porcelain", "--untracked-files=no") if tracked else None
    return {
        "ttilib": _version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "cv2": cv2.__version__,
        "python": platform.python_version(),
        "commit": _git("rev-parse", "--verify", "HEAD") if tracked else None,
        "modified": None if changes is None else bool(changes),
        "device": str(device),
        "device_name": _device_name(str(device)),
        "threads": torch.get_num_threads(),
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def code_digest() -> str:
    """Name of the code that makes masks: 16 hex digits of the syntax trees of what an evaluation imports.

    Docstrings and comments are not part of it, so a corrected sentence keeps every finished row; nor are the metrics,
    for masks can be scored again. Results of other code are not mixed with new ones. It is the same on every machine.
    """
    return digest(sorted([name, _shape(tree)] for name, tree in _imported(START).items() if name not in SCORING))


def metrics_digest() -> str:
    """Name of the code that scores masks, in the same way."""
    return digest(_shape(_parsed("results.metrics")))


def _parsed(name: str) -> ast.Module:
    """A module of the library as a syntax tree without docstrings."""
    tree = ast.parse(HOME.joinpath(*name.split(".")).with_suffix(".py").read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False):
            del node.body[0]
    return tree


def _imported(start: str) -> dict[str, ast.Module]:
    """A module and all that it imports from the library, directly or not."""
    found: dict[str, ast.Module] = {}
    due = [start]
    while due:
        name = due.pop()
        if name in found or not HOME.joinpath(*name.split(".")).with_suffix(".py").is_file():
            continue
        found[name] = _parsed(name)
        for node in ast.walk(found[name]):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ttilib"):
                base = node.module.removeprefix("ttilib").removeprefix(".")
                due += [base, *(f"{base}.{alias.name}".strip(".") for alias in node.names)]
    return found


def _shape(node: Any) -> Any:
    """A syntax tree as plain values, without what is empty: Python's versions differ in what they leave empty."""
    if isinstance(node, ast.AST):
        parts = [[name, _shape(part)] for name, part in ast.iter_fields(node) if part not in (None, [])]
        return [type(node).__name__, *parts]
    return [_shape(part) for part in node] if isinstance(node, list) else repr(node)


def made(device: torch.device | str = "cpu", weights: str | None = None) -> dict[str, Any]:
    """What a row says about its making: versions, commit, device, threads, digests of code and metrics, and `weights`.

    `weights` is the encoder's fingerprint, None for one that has none. No time, so that equal work gives equal rows.
    The program's text is looked at once per process: that which runs, whatever is edited meanwhile.
    """
    return _lasting(str(device), HOME) | {"threads": torch.get_num_threads(), "weights": weights}


@lru_cache
def _lasting(device: str, home: Path) -> dict[str, Any]:
    """What does not change while a process runs; `home` is where the program lies."""
    about = provenance(device)
    return {name: about[name] for name in CARRIED} | {"code": code_digest(), "metrics": metrics_digest()}

"""Encoders and tensors from elsewhere: pickled files, read without running them, and functions of a named module.

A pickle is a program that may import and call anything. `read_foreign` uses torch's restricted reader, which accepts
tensors and plain values and runs nothing. One addition: instances of any class named CfgNode or Namespace, as settings
are often saved, are read as dicts without importing that class.

`load_plugin` imports the module that the caller names. It is the one place where loading an encoder runs code.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import math
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ttilib.files import meant

SUFFIXES = (".pth", ".pt")
Encoder = Callable[[Tensor], Tensor]  # normalised images [N, 3, H, W] -> features [N, C, h, w]


class _Namespace:
    """Stands for a class whose instances are nothing but named values."""


CONTAINERS = {"CfgNode": dict, "Namespace": _Namespace}
MOST = 8  # different container classes in one file


def read_foreign(path: Path | str) -> dict[str, Any]:
    """What a .pth or .pt file holds, on the CPU; pickled settings of any CfgNode or Namespace come as dicts.

    Raises FileNotFoundError if there is no such file, ValueError if the file is damaged, holds no dict, or refers to
    anything but tensors, plain values and settings; that name is in the message. Nothing in the file is run.
    """
    path = Path(path)
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "no such file"
        raise FileNotFoundError(f"{path}: {found}; give a file of tensors as torch.save writes it")
    settings: dict[str, type] = {}  # by the full name of the class in the file, which is not imported
    found = None
    while found is None:
        try:
            with torch.serialization.safe_globals([(kind, name) for name, kind in settings.items()]):
                found = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch documents no exceptions for a damaged or hostile archive and raises many
            settings |= _container(path, error, settings)
    if not isinstance(found, dict):
        raise ValueError(f"{path}: holds a {type(found).__name__}, not tensors by name; give a file of network weights")
    return {name: vars(value) if isinstance(value, _Namespace) else value for name, value in found.items()}


def _container(path: Path, error: Exception, settings: Mapping[str, type]) -> dict[str, type]:
    """The class of settings that the reader has stopped at, by its full name; raises ValueError for anything else."""
    if refused := re.search(r"GLOBAL (\S+)", str(error)):
        name = refused[1]
        kind = CONTAINERS.get(name.rpartition(".")[2])
        if kind and name not in settings and len(settings) < MOST:
            return {name: kind}
        raise ValueError(
            f"{path}: wants to import {name}, and only tensors and plain settings are read; do not open it with "
            "anything else unless you trust who made it"
        ) from error
    reason = " ".join(str(error).rpartition("WeightsUnpickler error: ")[-1].split())[:120]
    raise ValueError(
        f"{path}: not a file of tensors and plain values that can be read ({reason or 'it is cut short'}); "
        "fetch it again"
    ) from error


def plain(value: Any, depth: int = 16) -> Any:
    """Settings as JSON can hold them: tuples and sets become lists, anything unknown or too deep its description."""
    if isinstance(value, _Namespace):
        value = vars(value)
    if isinstance(value, Mapping | list | tuple | set) and depth == 0:  # it may contain itself
        return type(value).__name__
    if isinstance(value, Mapping):
        return {str(name): plain(inner, depth - 1) for name, inner in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(inner, depth - 1) for inner in value]
    if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return f"{type(value).__name__} {tuple(value.shape)}" if isinstance(value, Tensor) else str(value)


def state_of(path: Path | str, found: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a network by its own names: of "state_dict" if there is one, without a common "module." prefix."""
    tensors = found.get("state_dict", found)
    if not isinstance(tensors, Mapping) or not tensors or not all(isinstance(v, Tensor) for v in tensors.values()):
        raise ValueError(f'{path}: holds no network; expected tensors by name, bare or under "state_dict"')
    prefixed = all(str(name).startswith("module.") for name in tensors)
    return {str(name)[len("module.") * prefixed :]: value.detach() for name, value in tensors.items()}


def differences(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """In words, which of the wanted tensors are missing, unknown, or of another shape; empty if they fit.

    The batch counters of batch norm, which files from before 2018 lack, may be missing.
    """
    groups = {
        "missing": [name for name in wanted if name not in found and not name.endswith("num_batches_tracked")],
        "not known": [name for name in found if name not in wanted],
        "of another shape": [
            f"{name} {tuple(value.shape)} for {tuple(wanted[name].shape)}"
            for name, value in found.items()
            if name in wanted and value.shape != wanted[name].shape
        ],
    }
    return "; ".join(
        f"{len(names)} {what}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
        for what, names in groups.items()
        if names
    )


def is_plugin(spec: str) -> bool:
    """Whether a text names a function: "package.module:function" or "path/to/file.py:function"."""
    _, colon, function = spec.rpartition(":")
    return bool(colon) and function.isidentifier() and not Path(spec).exists()


def load_plugin(spec: str) -> Encoder:
    """The encoder that the function named by `spec` returns.

    Raises ValueError or FileNotFoundError if there is no such module, file or function, or if what it returns cannot
    be called.
    """
    source, _, function = spec.rpartition(":")
    module = _module_of_file(Path(source)) if source.endswith(".py") else _module(source)
    if function not in vars(module):
        hint = meant(function, vars(module), "name one that returns an encoder", most=1)
        raise ValueError(f"encoder {spec}: {source} has no function {function!r}; {hint}")
    encoder = vars(module)[function]()
    if not callable(encoder):
        kind = type(encoder).__name__
        raise ValueError(f"encoder {spec}: returned a {kind}; return a callable from images to features")
    return encoder


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not name.startswith(error.name):
            raise  # the module exists, but something that it imports does not
        raise ValueError(
            f"encoder module {name!r} cannot be imported: install it, or give path/to/file.py:function"
        ) from error


def _module_of_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError(f"encoder file {path}: no such file; give path/to/file.py:function")
    name = f"encoder_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up by name
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module

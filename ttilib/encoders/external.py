"""External encoders: .pth files, read without running code, and functions of a module that the user names.

Unpickling can run any code. `read_foreign` uses torch's restricted unpickler: only tensors and built-in types, and
settings of classes named CfgNode or Namespace, read without importing these. `load_plugin` does run the user's module.
"""

from __future__ import annotations

import importlib
import math
import re
import sys
from collections.abc import Callable, Mapping
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ttilib.files import digest, suggest

SUFFIXES = (".pth", ".pt")
Encoder = Callable[[Tensor], Tensor]  # normalised images [N, 3, H, W] -> features [N, C, h, w]


class _Namespace:
    """Stands in for a class named Namespace in a file; holds named values only."""


CONTAINERS = {"CfgNode": dict, "Namespace": _Namespace}  # by class name, whatever the module
MOST = 8  # settings classes in one file, at most


def read_foreign(path: Path | str) -> dict[str, Any]:
    """Content of a .pth or .pt file, on the CPU, without running code; settings (CfgNode, Namespace) become dicts.
    Raises FileNotFoundError, or ValueError if the file is damaged, holds no dict, or needs other classes.
    """
    path = Path(path)
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "no such file"
        raise FileNotFoundError(f"{path}: {found}; give a file of tensors as torch.save writes it")
    settings: dict[str, type] = {}  # by full class name in the file; never imported
    while True:
        try:
            with torch.serialization.safe_globals([(kind, name) for name, kind in settings.items()]):
                content = torch.load(path, map_location="cpu", weights_only=True)
            break
        except Exception as error:  # torch raises many undocumented exceptions for damaged archives
            name = _refused_class(path, error)
            kind = CONTAINERS.get(name.rpartition(".")[2])
            if kind is None or name in settings or len(settings) == MOST:
                raise ValueError(
                    f"{path}: the pickle references {name}; only tensors and built-in types are loaded; do not open "
                    "it with anything else unless you trust its source"
                ) from error
            settings[name] = kind
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, not tensors by name; give a file of weights")
    return {name: vars(value) if isinstance(value, _Namespace) else value for name, value in content.items()}


def _refused_class(path: Path, error: Exception) -> str:
    """Full name of the class at which the unpickler stopped. Raises ValueError if the file is damaged."""
    if refused := re.search(r"GLOBAL (\S+)", str(error)):
        return refused[1]
    reason = " ".join(str(error).rpartition("WeightsUnpickler error: ")[-1].split())[:120]
    raise ValueError(
        f"{path}: not a file of tensors and built-in types ({reason or 'it is cut short'}); fetch it again"
    ) from error


def plain(value: Any, depth: int = 16) -> Any:
    """Settings as JSON values: tuples and sets become lists; other types, and values nested too deep, a description."""
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
    """Tensors by name, of "state_dict" if present, without a common "module.". Raises ValueError if there are none."""
    tensors = found.get("state_dict", found)
    if not isinstance(tensors, Mapping) or not tensors or not all(isinstance(v, Tensor) for v in tensors.values()):
        raise ValueError(f'{path}: holds no network; expected tensors by name, alone or under "state_dict"')
    prefixed = all(str(name).startswith("module.") for name in tensors)
    return {str(name)[len("module.") * prefixed :]: value.detach() for name, value in tensors.items()}


def differences(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """Missing, unexpected or differently shaped tensors in words, or ""; batch norm counters may be missing."""
    groups = {
        "missing": [name for name in wanted if name not in found and not name.endswith("num_batches_tracked")],
        "unexpected": [name for name in found if name not in wanted],
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
    """Whether `spec` names a function: "package.module:function" or "path/to/file.py:function"."""
    _, colon, function = spec.rpartition(":")
    return bool(colon) and function.isidentifier() and not Path(spec).exists()


def load_plugin(spec: str) -> Encoder:
    """The encoder that the function in `spec` returns. Raises ValueError or FileNotFoundError."""
    source, _, function = spec.rpartition(":")
    module = vars(_module_of_file(Path(source)) if source.endswith(".py") else _module(source))
    if function not in module:
        hint = suggest(function, module, "name one that returns an encoder", most=1)
        raise ValueError(f"encoder {spec}: {source} has no function {function!r}; {hint}")
    encoder = module[function]()
    if not callable(encoder):
        found = type(encoder).__name__
        raise ValueError(f"encoder {spec}: returned a {found}; return a callable from images to features")
    return encoder


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not name.startswith(error.name):
            raise  # the module exists, but one of its imports does not
        raise ValueError(
            f"encoder module {name!r} cannot be imported: install it, or give path/to/file.py:function"
        ) from error


def _module_of_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError(f"encoder file {path}: no such file; give path/to/file.py:function")
    name = f"encoder_{digest(str(path.resolve()))}"
    module = sys.modules[name] = ModuleType(name)  # dataclasses look their module up by name
    module.__file__ = str(path)
    try:
        SourceFileLoader(name, str(path)).exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module

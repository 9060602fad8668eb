"""Encoders from elsewhere: a function of a module, or of a Python file, that returns one.

Whatever is callable from normalised pictures to features will do. This is the one place where reading an encoder runs
code, and only code that the caller names.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from torch import Tensor

from ttilib.names import meant
from ttilib.networks.architectures import ARCHITECTURES

Encoder = Callable[[Tensor], Tensor]  # normalised pictures [N, 3, H, W] -> features [N, C, h, w]


def is_plugin(spec: str) -> bool:
    """Whether a text names a function: "package.module:function" or "path/to/file.py:function"."""
    _, colon, function = spec.rpartition(":")
    return bool(colon) and function.isidentifier() and not Path(spec).exists()


def load_plugin(spec: str) -> Encoder:
    """The encoder that the function named by `spec` returns.

    Raises ValueError or FileNotFoundError if there is no such module, file or function, or if it returns something
    that cannot be called.
    """
    place, _, function = spec.rpartition(":")
    module = _module_of_file(Path(place)) if place.endswith(".py") else _module(place)
    if function not in vars(module):
        hint = meant(function, vars(module), "name one that returns an encoder", most=1)
        raise ValueError(f"encoder {place}:{function}: {place} has no function {function!r}; {hint}")
    encoder = vars(module)[function]()
    if not callable(encoder):
        kind = type(encoder).__name__
        raise ValueError(f"encoder {place}:{function}: returned a {kind}; return a callable from pictures to features")
    return encoder


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not name.startswith(error.name):
            raise  # the module exists, but something that it imports does not
        known = ", ".join(ARCHITECTURES)
        raise ValueError(
            f"encoder module {name!r} cannot be imported: install it, give path/to/file.py:function, "
            f"or take one of {known}"
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

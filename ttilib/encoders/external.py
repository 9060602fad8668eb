"""Files of tensors that other people pickled, read without running anything that is in them.

A pickle is a program: it may import any function and call it. `read_foreign` lists what a file asks for before a
single step of it is taken, refuses all but tensors and plain values, and leaves the rest to torch's restricted reader.
One courtesy: settings saved as somebody's own CfgNode or Namespace become plain dicts, whatever module they are from,
for nothing of that module is needed to read them.

`load_initial` brings ImageNet weights into the residual stages, `differences` says in words why tensors do not fit.

Encoders from elsewhere: a function of a module, or of a Python file, that returns one.

Whatever is callable from normalised pictures to features will do. This is the one place where reading an encoder runs
code, and only code that the caller names.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import math
import pickletools
import re
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from io import BufferedIOBase
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ttilib.encoders.architectures import ARCHITECTURES, INITIAL, Architecture, staged_name
from ttilib.files import meant

SUFFIXES = (".pth", ".pt")
PLAIN = {  # what torch.save writes for containers, by Python 2's names too
    *("collections.OrderedDict", "collections.Counter", "_codecs.encode"),
    *(f"{module}.{name}" for module in ("builtins", "__builtin__") for name in ("set", "bytearray", "complex")),
}
STEMS = {  # convolutions and norms of the stem, as residual networks are published
    **{"conv1": "layer0.0", "bn1": "layer0.1", "conv2": "layer0.3", "bn2": "layer0.4"},
    **{"conv3": "layer0.6", "bn3": "layer0.7"},
}


class _Namespace:
    """Stands for a class whose instances are nothing but named values."""


DAMAGE = (  # what reading a broken file can end in
    *(ValueError, LookupError, EOFError, OSError, RuntimeError, MemoryError, OverflowError),
    *(zipfile.BadZipFile, zlib.error, struct.error),
)
CONTAINERS = {"CfgNode": dict, "Namespace": _Namespace}


def read_foreign(path: Path | str) -> dict[str, Any]:
    """What a .pth or .pt file holds, on the CPU; pickled settings of any CfgNode or Namespace come as dicts.

    Raises FileNotFoundError if there is no such file, ValueError naming what the file wanted to import if that is
    anything but tensors, plain values and settings, or saying that the file is damaged. Nothing in it is run.
    """
    path = Path(path)
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "no such file"
        raise FileNotFoundError(f"{path}: {found}; give a file of tensors as torch.save writes it")
    wanted = _imports(path)
    settings = {name: CONTAINERS[name.rpartition(".")[2]] for name in wanted if name.rpartition(".")[2] in CONTAINERS}
    strange = [n for n in wanted if n not in settings and n not in PLAIN and not n.startswith("torch.")]
    if strange:
        raise ValueError(_refusal(path, ", ".join(strange[:5])))
    try:
        with torch.serialization.safe_globals([(kind, name) for name, kind in settings.items()]):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch documents no exceptions for a damaged or hostile archive and raises many
        if refused := re.search(r"GLOBAL (\S+)", str(error)):
            raise ValueError(_refusal(path, refused[1])) from error
        reason = " ".join(str(error).rpartition("WeightsUnpickler error: ")[-1].split())[:120]
        raise ValueError(
            f"{path}: not a file of tensors and plain values that can be read ({reason or 'it is cut short'}); "
            "fetch it again"
        ) from error
    if not isinstance(found, dict):
        raise ValueError(f"{path}: holds a {type(found).__name__}, not tensors by name; give a file of network weights")
    return {name: vars(value) if isinstance(value, _Namespace) else value for name, value in found.items()}


def plain(value: Any, depth: int = 16) -> Any:
    """Settings as JSON can keep them: tuples and sets become lists, anything unknown or too deep its description."""
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
    """The tensors of a network by their own names: of its "state_dict" if it has one, without "module." before them."""
    tensors = found.get("state_dict", found)
    if not isinstance(tensors, Mapping) or not tensors or not all(isinstance(v, Tensor) for v in tensors.values()):
        raise ValueError(f'{path}: holds no network; expected tensors by name, bare or under "state_dict"')
    alone = all(str(name).startswith("module.") for name in tensors)
    return {str(name)[len("module.") * alone :]: value.detach() for name, value in tensors.items()}


def differences(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """In words, which of the wanted tensors are missing, too many, or of another shape; empty if they fit.

    Counters of batches, which files of before 2018 lack, are not missed.
    """
    missing = [name for name in wanted if name not in found and not name.endswith("num_batches_tracked")]
    surplus = [name for name in found if name not in wanted]
    shapes = [
        f"{name} {tuple(value.shape)} for {tuple(wanted[name].shape)}"
        for name, value in found.items()
        if name in wanted and value.shape != wanted[name].shape
    ]
    told = (("missing", missing), ("not known", surplus), ("of another shape", shapes))
    return "; ".join(f"{len(names)} {what}: {_some(names)}" for what, names in told if names)


def load_initial(network: nn.Module, path: Path | str) -> None:
    """Fill the residual stages of a network with ImageNet weights from a file, or from a folder of the release's.

    Pyramid, bottleneck and classifier stay as they are. Raises FileNotFoundError if there is no such file, ValueError
    if its tensors are those of another network.
    """
    path, architecture = Path(path), network.architecture
    if path.suffix not in SUFFIXES:
        if architecture.name not in INITIAL:
            known = ", ".join(INITIAL)
            raise ValueError(
                f"{path}: the release has no initial weights for encoder {architecture.name!r}, only for {known}; "
                'choose one of these, name a .pth file, or take pretrained="imagenet" or ""'
            )
        path = path / INITIAL[architecture.name]
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no initial weights for encoder {architecture.name!r}; put the file there, see docs/encoders.md, "
            'or take pretrained="" to start from scratch'
        )
    fill_stages(network, state_of(path, read_foreign(path)), str(path))


def fill_stages(network: nn.Module, published: Mapping[str, Tensor], source: str) -> None:
    """Copy tensors, named as classifiers of ImageNet are published, into layer0 to layer4."""
    wanted = {name: value for name, value in network.state_dict().items() if name.startswith("layer")}
    found = _renamed(network.architecture, published)
    if problem := differences(wanted, found):
        raise ValueError(
            f"{source}: not the ImageNet weights of encoder {network.architecture.name!r} ({problem}); "
            "give the file that belongs to it"
        )
    network.load_state_dict(found, strict=False)


def _renamed(architecture: Architecture, published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Stages instead of published names, without the layers behind them that tell ImageNet's classes apart."""
    found = {}
    for name, value in published.items():
        first, _, rest = name.partition(".")
        layer, _, what = rest.partition(".")
        if architecture.block == "vgg" and first == "features" and layer.isdigit():
            found[f"{staged_name(int(layer))}.{what}"] = value
        else:
            found[f"{STEMS.get(first, first)}.{rest}"] = value
    return {name: value for name, value in found.items() if name.startswith("layer")}


def _refusal(path: Path, names: str) -> str:
    return (
        f"{path}: wants to import {names}, and only tensors and plain settings are read; do not open it with anything "
        "else unless you trust who made it"
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _imports(path: Path) -> list[str]:
    """Everything that the pickles in a file want to import, found by reading them as text."""
    found: set[str] = set()
    with open(path, "rb") as file, suppress(*DAMAGE):  # the reader that follows says what is damaged
        if file.read(4) == b"PK\x03\x04":
            with zipfile.ZipFile(file) as archive:
                for name in archive.namelist():
                    if name.endswith(".pkl"):
                        for wanted in _globals(archive.open(name)):
                            found.add(wanted)
        else:  # the format before 2020: five pickles in a row, then the numbers
            file.seek(0)
            for _ in range(5):
                for wanted in _globals(file):
                    found.add(wanted)
    return sorted(found)


def _globals(file: BufferedIOBase) -> Iterator[str]:
    said: list[str] = []  # texts so far, of which the last two name an import in newer pickles
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name in ("GLOBAL", "INST"):
            yield argument.replace(" ", ".")
        elif opcode.name == "STACK_GLOBAL":
            yield ".".join(said[-2:])
        elif isinstance(argument, str):
            said.append(argument)


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

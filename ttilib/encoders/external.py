"""External encoders: .pth files, read without running code, and functions of a module that the user names.

Unpickling can run any code. `read_foreign` uses torch's restricted unpickler: only tensors and built-in types, and
settings of classes named CfgNode or Namespace, read without importing these. `load_plugin` does run the user's module.
"""

from __future__ import annotations

import importlib
import re
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.machinery import SourceFileLoader
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any, TypeGuard

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ttilib.files import digest, suggest

SUFFIXES = (".pth", ".pt")
LIBRARIES = ("timm:", "torchvision:")  # of networks, see `ttilib.encoders.pretrained`
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
Encoder = Callable[[Tensor], Tensor]  # normalised images [N, 3, H, W] -> features [N, C, h, w]


class _Namespace(dict):
    """Stands in for a class named Namespace in a file; holds named values only."""

    def __setstate__(self, values: dict[str, Any]) -> None:
        self.update(values)


CONTAINERS = {"CfgNode": dict, "Namespace": _Namespace}  # by class name, whatever the module
MOST = 8  # settings classes in one file, at most


def read_foreign(path: Path | str, advice: str = "fetch it again") -> dict[str, Any]:
    """Content of a .pth or .pt file, on the CPU, without running code; settings (CfgNode, Namespace) become dicts.
    Raises FileNotFoundError, or ValueError if the file is damaged (and then `advice`), holds no dict, or needs other
    classes.
    """
    path = Path(path)
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "no such file"
        raise FileNotFoundError(f"{path}: {found}; give a file of tensors as torch.save writes it")
    _check_archive(path, advice)
    settings: dict[str, type] = {}  # by full class name in the file; never imported
    while True:
        try:
            with torch.serialization.safe_globals([(kind, name) for name, kind in settings.items()]):
                content = torch.load(path, map_location="cpu", weights_only=True)
            break
        except Exception as error:  # torch raises many undocumented exceptions for damaged archives
            name = _refused_class(path, error, advice)
            kind = CONTAINERS.get(name.rpartition(".")[2])
            if kind is None or name in settings or len(settings) == MOST:
                about = f"the pickle references {name}; only tensors and built-in types are loaded"
                advice = "do not open it with anything else unless you trust its source"
                raise ValueError(f"{path}: {about}; {advice}") from error
            settings[name] = kind
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, not tensors by name; give a file of weights")
    return content


def _check_archive(path: Path, advice: str) -> None:
    """Compare the checksums inside the archive, which torch does not; formats from before 2020 have none."""
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return
    try:
        with zipfile.ZipFile(path) as archive:
            stored = not any(each.compress_type for each in archive.infolist())  # as torch.save does
            damaged = archive.testzip() if stored else "its compression"
    except (zipfile.BadZipFile, struct.error, EOFError, OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"{path}: a damaged archive ({one_line(error)}); {advice}") from error
    if damaged:
        raise ValueError(f"{path}: a damaged archive ({damaged} is not as torch.save wrote it); {advice}")


def _refused_class(path: Path, error: Exception, advice: str) -> str:
    """Full name of the class at which the unpickler stopped. Raises ValueError if the file is damaged."""
    if refused := re.search(r"GLOBAL (\S+)", str(error)):
        return refused[1]
    reason = one_line(error, 10**4).rpartition("WeightsUnpickler error: ")[-1][:150] or "it is cut short"
    raise ValueError(f"{path}: not a file of tensors and built-in types ({reason}); {advice}") from error


def one_line(error: BaseException, most: int = 150) -> str:
    """The message of an error in one line of at most `most` characters."""
    text = " ".join(str(error).split())
    return text if len(text) <= most else f"{text[: most - 3]}..."


def plain(value: Any, depth: int = 4) -> Any:
    """Settings as JSON values, at most a hundred in each of `depth` levels; of what JSON cannot hold, its type."""
    if depth and isinstance(value, Mapping):
        return {str(plain(name, 0)): plain(inner, depth - 1) for name, inner in islice(value.items(), 100)}
    if depth and isinstance(value, list | tuple | set):
        return [plain(inner, depth - 1) for inner in islice(value, 100)]
    if isinstance(value, str):
        return value.encode(errors="replace").decode()[:1000]
    number = isinstance(value, int | float) and abs(value) < 2**63  # neither infinity nor NaN
    return value if number or value is None else type(value).__name__


def state_of(path: Path | str, found: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors by name, of "state_dict" if present, without a common "module.". Raises ValueError if there are none."""
    tensors = found.get("state_dict", found)
    if not isinstance(tensors, Mapping) or not tensors or not all(map(is_dense, tensors.values())):
        raise ValueError(f'{path}: holds no network; expected tensors by name, alone or under "state_dict"')
    prefixed = all(str(name).startswith("module.") for name in tensors)
    return {str(name)[len("module.") * prefixed :]: value.detach() for name, value in tensors.items()}


def is_dense(value: Any, device: str = "cpu") -> TypeGuard[Tensor]:
    """Whether it is a tensor of real numbers in the memory of this kind of device."""
    return (
        isinstance(value, Tensor)
        and (value.layout, value.device.type) == (torch.strided, device)
        and not (value.is_complex() or value.is_quantized)
    )


def name_of(encoder: Encoder) -> str:
    """What messages call an encoder."""
    return getattr(encoder, "spec", type(encoder).__name__)


def feature_map(encoder: str, what: str, output: object, images: Tensor) -> Float[Tensor, "N C h w"]:
    """The output of the encoder of that name, if it is a feature map of the images; else ValueError."""
    usable = is_dense(output, images.device.type) and output.dtype in FLOATS
    if isinstance(output, Tensor) and usable and output.ndim == 4 and len(output) == len(images) and output.numel():
        return output
    found = f"{output.dtype} {list(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
    about = f"{what} is {found}, not a feature map [N, C, h, w] of {len(images)} images"
    raise ValueError(f"encoder {encoder}: {about}; correct it, or name another layer")


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
    """Whether `spec` names a function, "package.module:function" or "path/to/file.py:function", or a network of timm or
    torchvision.
    """
    _, colon, function = spec.rpartition(":")
    return spec.startswith(LIBRARIES) or (bool(colon) and function.isidentifier() and not Path(spec).exists())


def load_plugin(spec: str) -> Encoder:
    """The encoder that the function in `spec` returns.
    Raises ValueError, also for whatever module and function raise, or FileNotFoundError.
    """
    source, _, function = spec.rpartition(":")
    if source.endswith(".py") and not Path(source).is_file():
        raise FileNotFoundError(f"encoder file {source}: no such file; give path/to/file.py:function")
    with naming(spec):
        module = vars(_module_of_file(Path(source)) if source.endswith(".py") else importlib.import_module(source))
    if function not in module:
        public = [name for name in module if not name.startswith("_")]
        hint = suggest(function, public, "name one that returns an encoder", most=1)
        raise ValueError(f"encoder {spec}: {source} has no function {function!r}; {hint}")
    with naming(spec):
        encoder = module[function]()
    if not callable(encoder):
        found = type(encoder).__name__
        raise ValueError(f"encoder {spec}: returned a {found}; return a callable from images to features")
    return encoder if isinstance(encoder, nn.Module) else partial(encoder)  # which can have attributes


def package(name: str) -> Any:
    """The package, which is no requirement of the library."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"no package {error.name}: pip install {name.replace('_', '-')}") from error


@contextmanager
def naming(encoder: str | Encoder) -> Iterator[None]:
    """Report whatever a user's function raises, or its sys.exit, as a ValueError that names it.
    `encoder`: its spec, or an encoder of `load_encoder`; errors of other encoders and those that name it pass.
    """
    spec = encoder if isinstance(encoder, str) else getattr(encoder, "spec", "")
    try:
        yield
    except (Exception, SystemExit) as error:
        if not is_plugin(spec) or str(error).startswith(f"encoder {spec}"):
            raise
        found = f"{type(error).__name__}: {one_line(error, 500)}".removesuffix(": ")
        advice = "correct it or install what it needs, or give another path/to/file.py:function"
        raise ValueError(f"encoder {spec}: {found}; {advice}") from error


def _module_of_file(path: Path) -> ModuleType:
    name = f"encoder_{digest(str(path.resolve()))}"
    module = sys.modules[name] = ModuleType(name)  # dataclasses look their module up by name
    module.__file__ = str(path)
    try:
        SourceFileLoader(name, str(path)).exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module

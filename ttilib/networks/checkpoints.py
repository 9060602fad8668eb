"""A trained encoder is two files: tensors that any program can read, and a page that says what they are.

`best.safetensors` holds the weights, `best.json` beside it the architecture, the classes they were trained
on, how well they did, and a fingerprint of the weights, which can also name features computed with them. An
encoder may just as well come from elsewhere: whatever is callable from normalised pictures to features will
do. Nothing that is read here can run code, except a module that the caller names.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import importlib
import importlib.util
import platform
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ttilib.files import atomic, read_json, write_json
from ttilib.networks.architectures import ARCHITECTURES, Architecture, find_architecture
from ttilib.networks.models import PSPNet, build_encoder

Encoder = Callable[
    [Tensor], Tensor
]  # normalised pictures [N, 3, H, W] -> features [N, C, ceil(H/8), ceil(W/8)]


def save_encoder(path: Path | str, network: PSPNet, about: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Write the weights and, beside them, the page that describes them; returns that page.

    `about` is what the caller knows: corpus, fold, names of the classes, metrics. Each file is replaced
    whole. Raises ValueError unless `path` ends in .safetensors or is a folder (for best.safetensors in it).
    """
    path = _tensors_path(path)
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "safetensors": safetensors.__version__,
    }
    page = {
        "architecture": dataclasses.asdict(network.architecture),
        "classes": network.classes,
        **(about or {}),
        "fingerprint": fingerprint(network),
        "versions": versions,
    }
    with atomic(path) as temporary:
        save_file(tensors, temporary)
    write_json(path.with_suffix(".json"), page)
    return page


def load_encoder(spec: Path | str, *, architecture: str | None = None, pretrained: bool = False) -> Encoder:
    """Find the encoder that `spec` names, ready to use: evaluation mode, gradients off, on the CPU.

    `spec` is a checkpoint ("run/best.safetensors", or its folder), a function that returns an encoder
    ("package.module:function" or "path/to/file.py:function"), or the name of an architecture, which gives
    untrained weights (or ImageNet ones with `pretrained`) and says so in a warning.
    Raises ValueError or FileNotFoundError saying what was found; naming an `architecture` refuses any other.
    """
    spec = str(spec)
    place, colon, function = spec.rpartition(":")
    if colon and not Path(spec).exists() and function.isidentifier():
        encoder = _call(place, function)
    elif "/" in spec or "\\" in spec or Path(spec).suffix or Path(spec).exists():
        encoder = load_checkpoint(spec, architecture)
    else:
        encoder = build_encoder(spec, pretrained=pretrained)
        if not pretrained:
            warnings.warn(
                f"encoder {spec!r} has untrained weights: good for trying things out only", stacklevel=2
            )
    if isinstance(encoder, nn.Module):
        encoder.eval().requires_grad_(False)
    return encoder


def load_checkpoint(path: Path | str, architecture: str | None = None) -> PSPNet:
    """Read a network back from its two files.

    Raises FileNotFoundError if one is missing, ValueError if the page and the tensors do not belong together,
    or if the network is not the `architecture` asked for.
    """
    path = _tensors_path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such checkpoint; train one, or name the folder that holds best.safetensors"
        )
    page = read_json(path.with_suffix(".json"))
    try:
        fields = {k: tuple(v) if isinstance(v, list) else v for k, v in page["architecture"].items()}
        found, classes = Architecture(**fields), int(page["classes"])
        with torch.device("meta"):  # shapes only: nothing is drawn, nothing is filled twice
            network = PSPNet(found, classes)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path.with_suffix('.json')}: does not describe an encoder ({error!r}); save it again"
        ) from error
    if architecture is not None and find_architecture(architecture) != found:
        raise ValueError(
            f"{path}: holds a {found.name!r} encoder, not {architecture!r}; name the one it was trained with"
        )
    try:
        tensors = load_file(path)
        network.load_state_dict(tensors, assign=True)
    except (safetensors.SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path}: tensors are not those of a {found.name!r} encoder ({reason}); save it again"
        ) from error
    if page.get("fingerprint") != fingerprint(network):
        raise ValueError(
            f"{path}: weights and their .json differ in fingerprint; a copy went wrong, fetch both again"
        )
    return network


def fingerprint(network: nn.Module) -> str:
    """Name weights by their content: 16 hex digits of SHA-256 over names, shapes, types and bytes."""
    total = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        total.update(f"{name} {tuple(value.shape)} {value.dtype};".encode())
        total.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]


def save_state(path: Path | str, state: Mapping[str, Any]) -> None:
    """Write what a training run goes on from: tensors, numbers and text in nested dicts and lists."""
    with atomic(path) as temporary:
        torch.save(dict(state), temporary)


def load_state(path: Path | str) -> dict[str, Any]:
    """Read what `save_state` wrote, onto the CPU.

    Raises ValueError if the file is damaged or holds anything that would have to be run.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch documents no exceptions for a damaged archive and raises many
        raise ValueError(
            f"{path}: not a training state that can be read; remove it to start again"
        ) from error


def _tensors_path(path: Path | str) -> Path:
    path = Path(path)
    if path.is_dir():
        return path / "best.safetensors"
    if path.suffix != ".safetensors":
        raise ValueError(
            f"{path}: encoders are kept as .safetensors with a .json beside; this ends in {path.suffix!r}"
        )
    return path


def _call(place: str, function: str) -> Encoder:
    """The encoder that a function of a module, or of a Python file, returns."""
    module = _module_of_file(Path(place)) if place.endswith(".py") else _module(place)
    if function not in vars(module):
        near = difflib.get_close_matches(function, vars(module), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "; name one that returns an encoder"
        raise ValueError(f"encoder {place}:{function}: {place} has no function {function!r}{hint}")
    encoder = vars(module)[function]()
    if not callable(encoder):
        kind = type(encoder).__name__
        raise ValueError(
            f"encoder {place}:{function}: returned a {kind}; return a callable from pictures to features"
        )
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

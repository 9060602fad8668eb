"""A trained encoder is two files: tensors that any program can read, and a page that says what they are.

`best.safetensors` holds the weights, `best.json` beside it the architecture, the classes they were trained
on, how well they did, and a fingerprint of the weights, which can also name features computed with them.
Published .pth files can be used as they are, or be made into such two files by `convert`, and back again. An
encoder may just as well come from elsewhere: whatever is callable from normalised pictures to features will
do. Nothing that is read here can run code, except a module that the caller names.
"""

from __future__ import annotations

import dataclasses
import hashlib
import platform
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ttilib.data.lists import Fold
from ttilib.files import atomic, read_json, write_json
from ttilib.networks.architectures import Architecture, find_architecture
from ttilib.networks.foreign import SUFFIXES
from ttilib.networks.models import PSPNet, build_encoder
from ttilib.networks.plugins import Encoder, is_plugin, load_plugin
from ttilib.networks.provenance import check_fold
from ttilib.networks.published import on_paper, read_published


def save_encoder(path: Path | str, network: PSPNet, about: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Write the weights and, beside them, the page that describes them; returns that page.

    `about` is what the caller knows: corpus, fold, names of the classes, metrics. Each file is replaced
    whole. Raises ValueError unless `path` ends in .safetensors or is a folder (for best.safetensors in it).
    """
    path = _tensors_path(path, (".safetensors",))
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
    with _writing(path) as temporary:
        save_file(tensors, temporary)
    write_json(path.with_suffix(".json"), page)
    return page


def load_encoder(
    spec: Path | str, *, architecture: str | None = None, pretrained: str = "", fold: Fold | None = None
) -> Encoder:
    """Find the encoder that `spec` names, ready to use: evaluation mode, gradients off, on the CPU.

    `spec` is a checkpoint ("run/best.safetensors", its folder, or a published "best.pth"), a function that returns an
    encoder ("package.module:function" or "path/to/file.py:function"), or the name of an architecture, which gives
    untrained weights and says so in a warning, or ImageNet ones with `pretrained` (as build_encoder takes it).
    Raises ValueError or FileNotFoundError saying what was found; naming an `architecture` refuses any other, naming a
    `fold` refuses checkpoints whose page says that they have seen its novel classes, or number its base classes
    in another order.
    """
    spec = str(spec)
    if is_plugin(spec):
        encoder = load_plugin(spec)
    elif "/" in spec or "\\" in spec or Path(spec).suffix or Path(spec).exists():
        encoder = load_checkpoint(spec, architecture)
        if fold is not None:
            check_fold(spec, _page(_tensors_path(spec)), fold)
    else:
        encoder = build_encoder(spec, pretrained=pretrained)
        if not pretrained:
            warnings.warn(f"encoder {spec!r} has untrained weights: good for trying things out only", stacklevel=2)
    if isinstance(encoder, nn.Module):
        encoder.eval().requires_grad_(False)
    return encoder


def load_checkpoint(path: Path | str, architecture: str | None = None) -> PSPNet:
    """Read a network back from its two files, or from a published .pth (whose page may be missing).

    Raises FileNotFoundError if one is missing, ValueError if the page and the tensors do not belong together,
    or if the network is not the `architecture` asked for.
    """
    path = _tensors_path(path)
    page, wanted = _page(path), None if architecture is None else find_architecture(architecture)
    if not page and path.suffix in SUFFIXES:
        return read_published(path, wanted)[0]
    try:
        fields = {k: tuple(v) if isinstance(v, list) else v for k, v in page["architecture"].items()}
        found, network = Architecture(**fields), on_paper(Architecture(**fields), int(page["classes"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path.with_suffix('.json')}: does not describe an encoder ({error!r}); save it again"
        ) from error
    if wanted not in (None, found):
        raise ValueError(
            f"{path}: holds a {found.name!r} encoder, not {architecture!r}; name the one it was trained with"
        )
    try:
        if path.suffix in SUFFIXES:
            network = read_published(path, found)[0]
        else:
            network.load_state_dict(load_file(path), assign=True)
    except (safetensors.SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path}: tensors are not those of a {found.name!r} encoder ({reason}); save it again"
        ) from error
    if page.get("fingerprint") != fingerprint(network):
        raise ValueError(f"{path}: weights and their .json differ in fingerprint; a copy went wrong, fetch both again")
    return network


def convert(source: Path | str, target: Path | str, about: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Make a published .pth into a .safetensors with its page, or one of those into a .pth; returns the page.

    `about` adds what the caller knows, such as corpus, fold and "base", the names of the base classes in order. A .pth
    is written as published, {"epoch", "state_dict"} with "module." before every name. Tensors are equal both ways.
    Raises ValueError if neither is a .pth, or if the classifier does not have as many classes as "base" says.
    """
    source, target, about = Path(source), Path(target), dict(about or {})
    if (source.suffix in SUFFIXES) == (target.suffix in SUFFIXES):
        raise ValueError(f"{source} to {target}: one of the two has to be a .pth, the other a .safetensors; rename one")
    page = _page(_tensors_path(source))
    network, found = (load_checkpoint(source), page) if page else read_published(source)
    about = {**found, **about}
    if "base" in about and len(about["base"]) + 1 != network.classes:
        raise ValueError(
            f"{source}: tells {network.classes} classes apart, background among them, but {len(about['base'])} base "
            "classes are named; name the benchmark and fold it was trained on"
        )
    if target.suffix not in SUFFIXES:
        return save_encoder(target, network, about)
    epoch = about.get("metrics", {}).get("epoch", about.get("epoch"))
    tensors = {f"module.{name}": value for name, value in network.state_dict().items()}
    save_state(target, {"epoch": epoch, "state_dict": tensors})
    write_json(target.with_suffix(".json"), about)
    return about


def fingerprint(network: nn.Module) -> str:
    """Name weights by their content: 16 hex digits of SHA-256 over names, shapes, types and bytes."""
    total = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        total.update(f"{name} {tuple(value.shape)} {value.dtype};".encode())
        total.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]


def save_state(path: Path | str, state: Mapping[str, Any]) -> None:
    """Write what a training run goes on from: tensors, numbers and text in nested dicts and lists.

    Raises OSError if it cannot be written, as on a full disk; what was there before stays.
    """
    with _writing(Path(path)) as temporary:
        torch.save(dict(state), temporary)


def load_state(path: Path | str) -> dict[str, Any]:
    """Read what `save_state` wrote, onto the CPU.

    Raises ValueError if the file is damaged or holds anything that would have to be run.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch documents no exceptions for a damaged archive and raises many
        raise ValueError(f"{path}: not a training state that can be read; remove it to start again") from error


@contextmanager
def _writing(path: Path) -> Iterator[Path]:
    try:
        with atomic(path) as temporary:
            yield temporary
    except (RuntimeError, safetensors.SafetensorError) as error:  # these writers hide what the disk said
        reason = " ".join(str(error).split())[:120]
        raise OSError(
            f"{path}: cannot be written ({reason}); what was there stays; see that the disk has room and give the "
            "same command again"
        ) from error


def _tensors_path(path: Path | str, suffixes: tuple[str, ...] = (".safetensors", *SUFFIXES)) -> Path:
    path = Path(path)
    if path.is_dir():
        return path / "best.safetensors"
    if path.suffix not in suffixes:
        raise ValueError(
            f"{path}: encoders are kept as .safetensors with a .json beside, or published as .pth; this ends in "
            f"{path.suffix!r}, give one of {', '.join(suffixes)}"
        )
    return path


def _page(path: Path) -> dict[str, Any]:
    """The page beside the tensors; empty if there is none beside a published file."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such checkpoint; train one, or name the folder that holds best.safetensors"
        )
    beside = path.with_suffix(".json")
    if path.suffix not in SUFFIXES:
        return read_json(beside)
    page = read_json(beside) if beside.is_file() else {}
    return page if isinstance(page, dict) and "architecture" in page else {}  # others keep other things there

"""Checkpoints: weights (safetensors) with a metadata file (JSON) beside them, and published .pth files.

The metadata hold the architecture, the base classes in order, the validation metrics and a fingerprint of the weights.
A published .pth holds {"epoch", "state_dict", "optimizer"}; names and shapes of its tensors identify the network.
"""

from __future__ import annotations

import dataclasses
import hashlib
import platform
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import safetensors
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from ttilib.datasets.catalog import Fold, coco_name
from ttilib.encoders.external import (
    LIBRARIES,
    SUFFIXES,
    Encoder,
    differences,
    is_plugin,
    load_plugin,
    naming,
    one_line,
    plain,
    read_foreign,
    state_of,
)
from ttilib.encoders.pretrained import load_named
from ttilib.encoders.pspnet import ARCHITECTURES, Architecture, PSPNet, build_encoder
from ttilib.files import atomic, read_json, write_json
from ttilib.files import convert as as_form

HEAD = "cl_proj_head."  # head of the auxiliary contrastive loss in training; not used in episodes
MOST = 10_000  # classes


class Metadata(msgspec.Struct):
    """The metadata of a checkpoint, as far as they are used; `base`: names of the base classes, in order."""

    architecture: Architecture
    classes: Annotated[int, msgspec.Meta(ge=1, le=MOST)]  # with background
    fingerprint: str
    corpus: str = "an unnamed dataset"
    fold: int | str = "?"
    base: list[str] = []
    metrics: dict[str, Any] = {}


def check_fold(spec: str, metadata: Metadata, fold: Fold) -> None:
    """Raise ValueError if the encoder's base classes include a novel class of the fold, or differ only in their order.
    Without base classes nothing is checked.
    """
    trained = [coco_name(name) for name in metadata.base]
    about = f"{spec}: trained on {metadata.corpus} fold {metadata.fold}"
    here = f"{fold.corpus} fold {fold.index}"
    if novel := [fold.names[c] for c in fold.novel if coco_name(fold.names[c]) in trained]:
        about += f", whose base classes include {', '.join(novel)}, novel in {here}"
        raise ValueError(f"{about}; take the encoder of this fold")
    base = [coco_name(fold.names[c]) for c in fold.base]
    if trained != base and set(trained) == set(base):
        about += f" with the base classes of {here} in another order, so that its labels mean other classes"
        raise ValueError(f"{about}; train with this class table, or use the table it was trained with")


def read_published(path: Path | str, architecture: Architecture | None = None) -> tuple[PSPNet, dict[str, Any]]:
    """The network of a published .pth, and its source, epoch, settings (if any) and the names of tensors left out.
    `architecture` chooses between networks with equal tensors (vgg16 and vgg16-dilated). Raises FileNotFoundError, or
    ValueError if the file holds another network or would run code.
    """
    path = Path(path)
    content = read_foreign(path)
    tensors = state_of(path, content)
    left_out = sorted(name for name in tensors if name.startswith(HEAD))
    for name in left_out:
        del tensors[name]
    last = tensors.get("classifier.weight", torch.zeros(()))
    if last.ndim != 4 or not 1 <= (classes := len(last)) <= MOST:
        about = f"no classifier.weight with 4 axes and 1 to {MOST} classes"
        raise ValueError(f"{path}: {about}; give the weights of a complete encoder")
    network = on_meta_device(_recognise(path, tensors, classes, architecture), classes)
    filled = {}
    for name, value in network.state_dict().items():  # cast to the network's types; missing counters are 0
        given = tensors.get(name, torch.zeros((), dtype=value.dtype))
        filled[name] = given.to(value.dtype).clone(memory_format=torch.contiguous_format)
    network.load_state_dict(filled, assign=True)
    settings = {"settings": plain(content["args"])} if "args" in content else {}
    return network, {"source": path.name, "epoch": plain(content.get("epoch")), **settings, "left_out": left_out}


def on_meta_device(architecture: Architecture, classes: int) -> PSPNet:
    """A network without values, to be filled by `load_state_dict(..., assign=True)`."""
    with torch.device("meta"):
        return PSPNet(architecture, classes)


def _recognise(path: Path, tensors: dict[str, Tensor], classes: int, wanted: Architecture | None) -> Architecture:
    """The architecture with these tensors. Raises ValueError with the differences from the nearest one."""
    candidates = (wanted,) if wanted else tuple(ARCHITECTURES.values())
    states = {each: on_meta_device(each, classes).state_dict() for each in candidates}

    def agreement(each: Architecture) -> tuple[int, int]:
        known = states[each]
        return sum(name in known and known[name].shape == value.shape for name, value in tensors.items()), -len(known)

    nearest = max(candidates, key=agreement)
    if problem := differences(states[nearest], tensors):
        names = ", ".join(each.name for each in candidates)
        raise ValueError(f"{path}: not the tensors of a {nearest.name!r} encoder ({problem}); give one of {names}")
    return nearest


def save_encoder(path: Path | str, network: PSPNet, about: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Write the weights and the metadata file, each atomically; returns the metadata.
    `about` adds to the metadata: dataset, fold, class names, metrics. Raises ValueError unless `path` ends in
    .safetensors or is a folder (for best.safetensors), OSError if the disk is full.
    """
    path = _tensors_path(path, (".safetensors",))
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    versions = {"torch": torch.__version__, "safetensors": safetensors.__version__}
    metadata = {
        "architecture": dataclasses.asdict(network.architecture),
        "classes": network.classes,
        **(about or {}),
        "fingerprint": fingerprint(network),
        "versions": {"python": platform.python_version(), **versions},
    }
    with atomic(path) as temporary:
        temporary.write_bytes(save(tensors))
    write_json(path.with_suffix(".json"), metadata)
    return metadata


def load_encoder(spec: Path | str, *, fold: Fold | None = None) -> Encoder:
    """The encoder that `spec` names, frozen and in evaluation mode.

    `spec` is a checkpoint (.safetensors, its folder, or a published .pth), a function that returns an encoder
    ("package.module:function" or "path/to/file.py:function"), a network of timm or torchvision (see `load_named`), or
    an architecture, with random weights and a warning. A checkpoint is checked against `fold` by `check_fold`. Raises
    ValueError or FileNotFoundError.
    """
    spec = str(spec)
    if is_plugin(spec):
        encoder: Encoder = load_named(spec) if spec.startswith(LIBRARIES) else load_plugin(spec)
    elif "/" in spec or "\\" in spec or Path(spec).suffix or Path(spec).exists():
        encoder, metadata, _ = read_checkpoint(spec)
        if fold is not None and metadata is not None:
            check_fold(spec, metadata, fold)
    else:
        encoder = build_encoder(spec)
        warnings.warn(f"encoder {spec!r} has untrained weights, for trials only", stacklevel=2)
    vars(encoder)["spec"] = spec  # for messages
    if isinstance(encoder, nn.Module):
        with naming(encoder):
            encoder.eval().requires_grad_(False)
    return encoder


def read_checkpoint(path: Path | str) -> tuple[PSPNet, Metadata | None, dict[str, Any]]:
    """The network of a checkpoint, its metadata in form, and all entries of its metadata file.
    A published .pth may have none: then None, and what the file itself says. Raises FileNotFoundError, or ValueError if
    metadata and tensors do not match.
    """
    path = _tensors_path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint; train one, or give the folder of a best.safetensors")
    beside, published = path.with_suffix(".json"), path.suffix in SUFFIXES
    values = read_json(beside) if beside.is_file() or not published else {}
    if published and not (isinstance(values, dict) and "architecture" in values):  # none, or of another tool
        network, values = read_published(path)
        return network, None, values
    metadata = as_form(values, Metadata, str(beside))
    found = metadata.architecture
    if unknown := values["architecture"].keys() - dataclasses.asdict(found).keys():
        raise ValueError(f"{beside}: unknown {', '.join(sorted(unknown))} in architecture; save it again")
    network = on_meta_device(found, metadata.classes)
    try:
        if published:
            network = read_published(path, found)[0]
        else:
            network.load_state_dict(load_file(path), assign=True)
    except (safetensors.SafetensorError, RuntimeError) as error:
        about = f"not the tensors of a {found.name!r} encoder ({one_line(error)})"
        raise ValueError(f"{path}: {about}; save it again") from error
    if metadata.fingerprint != fingerprint(network):
        raise ValueError(f"{path}: its fingerprint is not the one in its .json; a copy went wrong, fetch both again")
    return network, metadata, values


def convert(source: Path | str, target: Path | str, about: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Convert a published .pth to .safetensors with metadata, or back; tensors stay equal. Returns the metadata.
    `about` adds to the metadata, e.g. dataset, fold and "base" (names of the base classes, in order). A .pth is written
    as {"epoch", "state_dict"}, with "module." before every name. Raises ValueError unless exactly one file is a .pth,
    or if the number of classes is not that of "base" plus background.
    """
    source, target, about = Path(source), Path(target), dict(about or {})
    if (source.suffix in SUFFIXES) == (target.suffix in SUFFIXES):
        raise ValueError(f"{source} to {target}: one has to be a .pth, the other a .safetensors; rename one")
    network, _, found = read_checkpoint(source)
    about = {**found, **about}
    if "base" in about and len(about["base"]) + 1 != network.classes:
        given = f"{network.classes} classes including background, but {len(about['base'])} base classes are given"
        raise ValueError(f"{source}: has {given}; give the benchmark and fold it was trained on")
    if target.suffix not in SUFFIXES:
        return save_encoder(target, network, about)
    epoch = about.get("metrics", {}).get("epoch", about.get("epoch"))
    save_state(target, {"epoch": epoch, "state_dict": {f"module.{k}": v for k, v in network.state_dict().items()}})
    write_json(target.with_suffix(".json"), about)
    return about


def fingerprint(network: nn.Module) -> str:
    """Identifies the weights: 16 hex digits of SHA-256 over names, shapes, types and bytes of the tensors."""
    found = hashlib.sha256()
    with naming(network):  # parameters of a user's function may be anything
        for name, value in sorted(network.state_dict().items()):
            found.update(f"{name} {tuple(value.shape)} {value.dtype};".encode())
            found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def save_state(path: Path | str, state: Mapping[str, Any]) -> None:
    """Write the state of a training run (tensors, numbers, text, dicts, lists) atomically. Raises OSError."""
    try:
        with atomic(path) as temporary:
            torch.save(dict(state), temporary)
    except RuntimeError as error:  # hides the OSError
        about = f"cannot be written ({one_line(error)}); the previous file stays"
        raise OSError(f"{path}: {about}; free some space and give the same command again") from error


def load_state(path: Path | str) -> dict[str, Any]:
    """Read what `save_state` wrote, onto the CPU. Raises ValueError if the file is damaged or would run code."""
    return read_foreign(path, "remove it to start again")


def _tensors_path(path: Path | str, suffixes: tuple[str, ...] = (".safetensors", *SUFFIXES)) -> Path:
    path = Path(path)
    if path.is_dir():
        return path / "best.safetensors"
    if path.suffix not in suffixes:
        advice = f"{path}:FUNCTION" if path.suffix == ".py" else f"one that ends in {' or '.join(suffixes)}"
        raise ValueError(f"{path}: not the file name of an encoder; give {advice}")
    return path

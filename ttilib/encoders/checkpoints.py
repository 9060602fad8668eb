"""A trained encoder is two files: tensors that any program can read, and a page that says what they are.

`best.safetensors` holds the weights, `best.json` beside it the architecture, the classes they were trained
on, how well they did, and a fingerprint of the weights, which can also name features computed with them.
Published .pth files can be used as they are, or be made into such two files by `convert`, and back again. An
encoder may just as well come from elsewhere: whatever is callable from normalised pictures to features will
do. Nothing that is read here can run code, except a module that the caller names.

What an encoder has seen decides which questions it may be asked.

An encoder that was trained on a class has nothing new to learn about it, and results on that class would look better
than they are. The page beside a checkpoint names the base classes; `check_fold` compares them with a fold.

Published encoders: a pickled state of a network says by its shapes what network it is of.

Files of RePRI and of the release hold {"epoch", "state_dict", "optimizer"} and sometimes the settings of training;
the tensors carry the names of this project's networks, often with "module." before them. Which network it is, and how
many classes its classifier tells apart, follows from names and shapes alone.
"""

from __future__ import annotations

import dataclasses
import hashlib
import platform
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ttilib.datasets.catalog import Fold
from ttilib.encoders.architectures import ARCHITECTURES, Architecture, find_architecture
from ttilib.encoders.external import (
    SUFFIXES,
    Encoder,
    differences,
    is_plugin,
    load_plugin,
    plain,
    read_foreign,
    state_of,
)
from ttilib.encoders.pspnet import PSPNet, build_encoder
from ttilib.files import atomic, read_json, write_json

SPELLINGS = {  # of Pascal's names, as COCO has them
    **{"aeroplane": "airplane", "motorbike": "motorcycle", "diningtable": "dining table"},
    **{"pottedplant": "potted plant", "sofa": "couch", "tvmonitor": "tv"},
}


def check_fold(spec: str, page: Mapping[str, Any], fold: Fold) -> None:
    """Refuse an encoder that has seen what the fold holds back, or that numbers the same base classes otherwise.

    `page` says what it was trained on: "corpus", "fold" and "base", the names of the base classes in order. A page
    without "base" passes. Classes are the same if their names are, in the spelling of either Pascal or COCO.
    Raises ValueError naming the classes.
    """
    trained = [_spelling(name) for name in page.get("base", ())]
    seen = [fold.names[c] for c in fold.novel if _spelling(fold.names[c]) in trained]
    told = f"{spec}: trained on {page.get('corpus', 'an unnamed corpus')} fold {page.get('fold', '?')}"
    here = f"{fold.corpus} fold {fold.index}"
    if seen:
        raise ValueError(
            f"{told}, whose base classes include {', '.join(seen)}, novel in {here}; take the encoder of this fold"
        )
    base = [_spelling(fold.names[c]) for c in fold.base]
    if trained != base and set(trained) == set(base):
        raise ValueError(
            f"{told} with the base classes of {here} in another order, so that its labels mean other classes; "
            "train with this class table, or use the table it was trained with"
        )


def _spelling(name: str) -> str:
    name = name.lower().replace("_", " ")
    return SPELLINGS.get(name, name)


HEAD = "cl_proj_head."  # projection of the auxiliary contrast in training; episodes never see it


def read_published(path: Path | str, architecture: str | Architecture | None = None) -> tuple[PSPNet, dict[str, Any]]:
    """The network of a .pth file, and what the file tells about it: source, epoch, settings, tensors left out.

    `architecture` decides between networks with the same tensors (vgg16 and vgg16-dilated) and refuses any other.
    Raises FileNotFoundError if there is no such file, ValueError if it is not such a network or would run code.
    """
    path = Path(path)
    found = read_foreign(path)
    tensors = state_of(path, found)
    left_out = sorted(name for name in tensors if name.startswith(HEAD))
    kept = {name: value for name, value in tensors.items() if name not in left_out}
    if "classifier.weight" not in kept or kept["classifier.weight"].ndim != 4:
        raise ValueError(f"{path}: no classifier.weight of 4 axes in it; give a whole encoder's weights")
    network = on_paper(_recognise(path, kept, architecture), len(kept["classifier.weight"]))
    network.load_state_dict(_filled(network, kept), assign=True)
    about = {"source": path.name, "epoch": plain(found.get("epoch"))}
    if "args" in found:
        about["settings"] = plain(found["args"])
    return network, {**about, "left_out": left_out}


def on_paper(architecture: Architecture, classes: int) -> PSPNet:
    """A network of shapes without numbers: nothing is drawn, nothing is filled twice."""
    with torch.device("meta"):
        return PSPNet(architecture, classes)


def _recognise(path: Path, tensors: dict[str, Tensor], wanted: str | Architecture | None) -> Architecture:
    """The architecture whose tensors these are; if there is none, the nearest serves to say what is wrong."""
    if wanted is None:
        candidates = tuple(ARCHITECTURES.values())
    else:
        candidates = (find_architecture(wanted) if isinstance(wanted, str) else wanted,)
    classes = len(tensors["classifier.weight"])
    for each in candidates:
        if not differences(_shapes(each, classes), tensors):
            return each
    nearest = max(candidates, key=lambda each: _agreeing(_shapes(each, classes), tensors))
    raise ValueError(
        f"{path}: not the tensors of a {nearest.name!r} encoder ({differences(_shapes(nearest, classes), tensors)}); "
        f"give one of {', '.join(each.name for each in candidates)}"
    )


@lru_cache(maxsize=16)
def _shapes(architecture: Architecture, classes: int) -> dict[str, Tensor]:
    return on_paper(architecture, classes).state_dict()


def _agreeing(wanted: dict[str, Tensor], found: dict[str, Tensor]) -> int:
    return sum(value.shape == wanted[name].shape if name in wanted else -1 for name, value in found.items())


def _filled(network: PSPNet, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in the network's own types, with zero for counters that old files lack."""
    filled = {}
    for name, value in network.state_dict().items():
        given = tensors.get(name, torch.zeros((), dtype=value.dtype))
        filled[name] = given.to(value.dtype).clone(memory_format=torch.contiguous_format)
    return filled


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

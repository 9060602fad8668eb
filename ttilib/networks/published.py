"""Published encoders: a pickled state of a network says by its shapes what network it is of.

Files of RePRI and of the release hold {"epoch", "state_dict", "optimizer"} and sometimes the settings of training;
the tensors carry the names of this project's networks, often with "module." before them. Which network it is, and how
many classes its classifier tells apart, follows from names and shapes alone.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ttilib.networks.architectures import ARCHITECTURES, Architecture, find_architecture
from ttilib.networks.foreign import differences, plain, read_foreign, state_of
from ttilib.networks.models import PSPNet

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

"""Files as other people publish them, with the names and shapes of the real ones and small on disk."""

import sys
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from ttilib.encoders.pspnet import ARCHITECTURES, Architecture, PSPNet

TINY = Architecture("tiny", "basic", (1, 1, 1, 1), (4, 4, 8, 8), stem="plain", pyramid=2, features=6)
HEAD = {
    **{"cl_proj_head.0.weight": (128, 1024, 1, 1), "cl_proj_head.3.weight": (128, 128, 1, 1)},
    **{f"cl_proj_head.1.{name}": (128,) for name in ("weight", "bias", "running_mean", "running_var")},
    "cl_proj_head.1.num_batches_tracked": (),
}


def numbers(place: int, shape: tuple[int, ...]) -> Tensor:
    """Numbers that are this tensor's alone and differ along its first axis; one number per row on disk."""
    if not shape:
        return torch.tensor(place)
    rows = torch.linspace(place, place + 0.5, shape[0])
    return rows.view(-1, *(1 for _ in shape[1:])).expand(shape)


def state(name: str | Architecture, classes: int, more: dict[str, tuple[int, ...]] | None = None) -> dict[str, Tensor]:
    """Every tensor of a network, and `more` of given shapes."""
    with torch.device("meta"):
        network = PSPNet(ARCHITECTURES[name] if isinstance(name, str) else name, classes)
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()} | (more or {})
    return {key: numbers(place, shape) for place, (key, shape) in enumerate(shapes.items(), start=1)}


def initial(name: str | Architecture) -> dict[str, Tensor]:
    """ImageNet weights as classifiers are published: the residual stages by their older names, and what follows."""
    norms, layers = ("bias", "running_mean", "running_var"), {0: 0, 1: 7, 2: 14, 3: 24, 4: 34}
    vgg = (name if isinstance(name, str) else name.name).startswith("vgg")
    tensors: dict[str, Tensor] = {}
    for key, value in state(name, 2).items():
        stage, layer, *what = key.split(".")
        if not stage.startswith("layer"):
            continue
        if vgg:
            key = ".".join(["features", str(layers[int(stage[-1])] + int(layer)), *what])
        elif stage == "layer0":
            kind = "bn" if what[0] in norms or int(layer) % 3 == 1 else "conv"
            key = f"{kind}{int(layer) // 3 + 1}.{what[0]}"
        if not key.endswith("num_batches_tracked"):  # files of their time do not count batches
            tensors[key] = value
    last = "classifier.6" if vgg else "fc"
    return tensors | {f"{last}.weight": numbers(900, (1000, 16)), f"{last}.bias": numbers(901, (1000,))}


def save_with_settings(path: Path, contents: dict, settings: dict, nested: dict, legacy: bool = False) -> None:
    """Add "args", pickled as a class of somebody's module that is gone when the file is read."""
    module = ModuleType("somebodys_util")
    module.CfgNode = type("CfgNode", (dict,), {"__module__": module.__name__})
    sys.modules[module.__name__] = module
    args = module.CfgNode(settings, more=module.CfgNode(nested))
    try:
        torch.save({**contents, "args": args}, path, _use_new_zipfile_serialization=not legacy)
    finally:
        del sys.modules[module.__name__]

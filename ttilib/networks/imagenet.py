"""Networks that have learned from ImageNet alone, used as they are: encoders that were never trained on episodes.

Named as encoders by "ttilib.networks.imagenet:resnet50". What they need before the solver can work on them, a constant
mean and several layers, is the business of `ttilib.inference.centring`.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn
from torchvision.models import ResNet50_Weights
from torchvision.models import resnet50 as published

from ttilib.networks.foreign import differences
from ttilib.networks.models import seeded

WEIGHTS = ResNet50_Weights.IMAGENET1K_V1  # by the recipe of He et al. 2016; V2 scores higher, on ImageNet's classes
CUT = ("layer4", "avgpool", "fc")  # what serves to tell ImageNet's classes apart


def resnet50() -> nn.Sequential:
    """ResNet-50 as torchvision trained it on ImageNet, up to layer3, one cell of 1024 channels per 8 x 8 pixels.

    Frozen, in evaluation mode, on the CPU; its parts are named as torchvision's: conv1, ..., layer2, layer3.
    Raises FileNotFoundError naming the file and its place if the weights are neither there nor can be fetched,
    ValueError if the file that is there holds those of another network.
    """
    try:
        found = WEIGHTS.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise FileNotFoundError(
            f"ImageNet weights of ResNet-50 could not be read or fetched ({reason}): put {WEIGHTS.url} into "
            f"{torch.hub.get_dir()}/checkpoints by hand"
        ) from error
    with torch.device("meta"):  # shapes without numbers: nothing is drawn that would be overwritten
        network = _until_layer3()
    kept = {name: value for name, value in found.items() if name.partition(".")[0] not in CUT}
    if problem := differences(network.state_dict(), kept):
        raise ValueError(f"{WEIGHTS.url}: not the weights of ResNet-50 ({problem}); remove the file and fetch it again")
    network.load_state_dict(kept, assign=True)
    return network.eval().requires_grad_(False)


def resnet50_untrained() -> nn.Sequential:
    """The same network with random weights, always the same: for trying things out where none can be fetched."""
    with seeded(0):
        return _until_layer3().eval().requires_grad_(False)


def _until_layer3() -> nn.Sequential:
    """The stages of the published network in a row, the last one dilated where it was strided."""
    network = published(replace_stride_with_dilation=[False, True, True])
    return nn.Sequential(OrderedDict((name, part) for name, part in network.named_children() if name not in CUT))

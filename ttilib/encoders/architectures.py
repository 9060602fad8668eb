"""Every number that decides the shape of an encoder, by the name a reader gives it.

`resnet50` and `resnet101` are the paper's, down to the names of their tensors. The `-plain` ones have the
usual 7x7 stem instead, which is what torchvision's ImageNet weights are for. `resnet18` is small enough for a
laptop, and `resnet18-mini` is a narrow one, for learning from scratch in minutes on two cores. `vgg16` is RePRI's
other network, with its grid of sixteenths; `vgg16-dilated` has the same tensors and a grid of eighths.

The convolutions of VGG-16 with batch norm, in the five stages that RePRI cuts them into.

Each stage is a run of consecutive layers of torchvision's `vgg16_bn().features`: layers 0-6 (two convolutions of 64
channels), 7-13, 14-23, 24-33 and 34-42, every stage but the last ending in a 2x2 max pooling that keeps an incomplete
last row. Nothing is dilated as released, so the grid has a sixteenth of the resolution and pictures of 417 pixels
give 27 cells; with a stride of 8 the last pooling is left out and the last stage dilated by 2, which needs no other
tensors.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace
from typing import Literal

from torch import nn

from ttilib.files import meant

EXPANSION = {"basic": 1, "bottleneck": 4, "vgg": 1}  # output channels per channel inside; He et al. 2016, table 1
LEVELS = (1, 2, 3, 6)  # cells per side of the pooled views; Zhao et al. 2017, section 3.2


@dataclass(frozen=True)
class Architecture:
    """Every number that decides the shape of a network.

    Source: protocol section 3; He et al. 2016, table 1; Simonyan and Zisserman 2015, table 1, column D (vgg).
    """

    name: str
    block: Literal["basic", "bottleneck", "vgg"]  # vgg: one convolution with bias, nothing residual
    blocks: tuple[int, int, int, int]  # per stage, after the stem
    widths: tuple[int, int, int, int] = (64, 128, 256, 512)  # channels inside the blocks of each stage
    stem: Literal["deep", "plain", "vgg"] = "deep"  # three 3x3 convolutions (the paper's), one 7x7 or two 3x3
    pyramid: int = 512  # channels per pooled view: a quarter of the 2048 that come in
    features: int = 512  # channels of the bottleneck, the C of everything after it
    dropout: float = 0.1  # of whole feature channels, in training only
    weights: str | None = None  # torchvision's name of ImageNet weights that fit; None: there are none
    stride: Literal[8, 16] = 8  # pixels between neighbouring cells; residual networks always have 8

    @property
    def channels(self) -> int:
        """Channels of the last residual stage."""
        return self.widths[3] * EXPANSION[self.block]

    @property
    def stage3_channels(self) -> int:
        """Channels of the last residual stage but one."""
        return self.widths[2] * EXPANSION[self.block]


DEEP50 = Architecture("resnet50", "bottleneck", (3, 4, 6, 3))
DEEP101 = Architecture("resnet101", "bottleneck", (3, 4, 23, 3))
PLAIN50 = replace(DEEP50, name="resnet50-plain", stem="plain", weights="ResNet50_Weights.IMAGENET1K_V1")
PLAIN101 = replace(DEEP101, name="resnet101-plain", stem="plain", weights="ResNet101_Weights.IMAGENET1K_V1")
PLAIN18 = Architecture(
    "resnet18",
    "basic",
    (2, 2, 2, 2),
    stem="plain",
    pyramid=128,  # a quarter of the 512 that come in
    features=256,  # half the paper's: the last stage has a quarter of its channels
    weights="ResNet18_Weights.IMAGENET1K_V1",
)
MINI18 = replace(
    PLAIN18,
    name="resnet18-mini",
    widths=(16, 32, 64, 64),  # a few hundred views of things fill no more, and the dilated stages cost most
    pyramid=32,
    features=128,
    weights=None,
)
VGG16 = Architecture(
    "vgg16",
    "vgg",
    (2, 3, 3, 3),
    (128, 256, 512, 512),
    stem="vgg",
    pyramid=128,  # a quarter of the 512 that come in
    weights="VGG16_BN_Weights.IMAGENET1K_V1",
    stride=16,  # as RePRI offers it: nothing in it is dilated
)
DILATED16 = replace(VGG16, name="vgg16-dilated", stride=8)
ARCHITECTURES = {a.name: a for a in (DEEP50, DEEP101, PLAIN50, PLAIN101, PLAIN18, MINI18, VGG16, DILATED16)}
INITIAL = {  # files of ImageNet weights in the release's folder initmodel
    "resnet50": "resnet50_v2.pth",
    "resnet101": "resnet101_v2.pth",
    "vgg16": "vgg16_bn.pth",
    "vgg16-dilated": "vgg16_bn.pth",
}


def find_architecture(name: str) -> Architecture:
    """The architecture of that name. Raises ValueError with the nearest known name."""
    if name in ARCHITECTURES:
        return ARCHITECTURES[name]
    raise ValueError(f"encoder {name!r} is not known; {meant(name, ARCHITECTURES)}")


STARTS = (0, 7, 14, 24, 34)  # first layer of each stage within vgg16_bn().features
EIGHTH = 8  # the stride for which the last pooling is left out


def vgg_stages(architecture: Architecture) -> tuple[nn.Sequential, ...]:
    """The five stages; of each stage the layers are numbered from 0, as in RePRI's checkpoints."""
    widths = (architecture.widths[0] // 2, *architecture.widths)
    stages, channels = [], 3
    for stage, (width, count) in enumerate(zip(widths, (2, *architecture.blocks), strict=True)):
        spread = 2 if stage == 4 and architecture.stride == EIGHTH else 1
        layers: list[nn.Module] = []
        for _ in range(count):
            convolution = nn.Conv2d(channels, width, 3, padding=spread, dilation=spread)
            layers += [convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            channels = width
        if stage < 3 or (stage == 3 and architecture.stride != EIGHTH):
            layers.append(nn.MaxPool2d(2, stride=2, ceil_mode=True))
        stages.append(nn.Sequential(*layers))
    return tuple(stages)


def staged_name(layer: int) -> str:
    """Where a layer of vgg16_bn().features lies: 8 is "layer1.1"."""
    stage = bisect_right(STARTS, layer) - 1
    return f"layer{stage}.{layer - STARTS[stage]}"

"""The convolutions of VGG-16 with batch norm, in the five stages that RePRI cuts them into.

Each stage is a run of consecutive layers of torchvision's `vgg16_bn().features`: layers 0-6 (two convolutions of 64
channels), 7-13, 14-23, 24-33 and 34-42, every stage but the last ending in a 2x2 max pooling that keeps an incomplete
last row. Nothing is dilated as released, so the grid has a sixteenth of the resolution and pictures of 417 pixels
give 27 cells; with a stride of 8 the last pooling is left out and the last stage dilated by 2, which needs no other
tensors.
"""

from __future__ import annotations

from bisect import bisect_right

from torch import nn

from ttilib.networks.architectures import Architecture

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

"""An encoder turns a picture into a grid of feature vectors, one per 8x8 pixels.

The network is a pyramid scene parser: a residual network whose last two stages are dilated instead of
strided (so that the grid keeps an eighth of the resolution), four pooled views of the whole picture beside
it, and a bottleneck whose output is the feature the few-shot solver works on. A linear classifier on top
exists only for base training. Module names follow the released checkpoints, so that their tensors fit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models import get_weight
from torchvision.models.resnet import BasicBlock, Bottleneck, conv1x1

from ttilib.encoders.architectures import ARCHITECTURES, LEVELS, Architecture, find_architecture, vgg_stages
from ttilib.encoders.external import fill_stages, load_initial

BLOCKS = {
    "basic": BasicBlock,
    "bottleneck": Bottleneck,
}  # torchvision's: the 3x3 convolution takes the stride


class Pyramid(nn.Module):
    """What the surroundings look like: the map beside its averages over 1, 4, 9 and 36 cells, at its size."""

    def __init__(self, channels: int, reduced: int) -> None:
        super().__init__()
        self.features = nn.ModuleList(
            nn.Sequential(
                nn.AdaptiveAvgPool2d(cells),
                conv1x1(channels, reduced),
                nn.BatchNorm2d(reduced),
                nn.ReLU(inplace=True),
            )
            for cells in LEVELS
        )

    def forward(self, x: Float[Tensor, "N C h w"]) -> Float[Tensor, "N D h w"]:
        """Concatenate the map and its pooled views."""
        return torch.cat([x, *(resize(view(x), x.shape[-2:]) for view in self.features)], dim=1)


class PSPNet(nn.Module):
    """A residual network at an eighth of the resolution, seen together with its surroundings.

    Calling it gives the features; `logits` adds the base-class classifier. Sizes 8n+1 give n+1 cells whose
    centres lie on pixels 0, 8, 16, ...; other sizes give ceil(size / 8). VGG's cells are the means of 8 or 16
    pixels instead, ceil(size / stride) of them.
    Source: protocol section 3; RePRI's networks.
    """

    def __init__(self, architecture: Architecture, classes: int) -> None:
        super().__init__()
        self.architecture, self.classes = architecture, classes
        stages = vgg_stages if architecture.block == "vgg" else _residual_stages
        self.layer0, self.layer1, self.layer2, self.layer3, self.layer4 = stages(architecture)
        self.ppm = Pyramid(architecture.channels, architecture.pyramid)
        joined = architecture.channels + len(LEVELS) * architecture.pyramid
        self.bottleneck = nn.Sequential(
            nn.Conv2d(joined, architecture.features, 3, padding=1, bias=False),
            nn.BatchNorm2d(architecture.features),
            nn.ReLU(inplace=True),
            nn.Dropout2d(architecture.dropout),
        )
        self.classifier = nn.Conv2d(architecture.features, classes, 1)

    def forward(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N C h w"]:
        """Features of normalised pictures: the bottleneck's output, not scaled to unit length."""
        return self.bottleneck(self.ppm(self.layer4(self.stage3(images))))

    def stage3(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N D h w"]:
        """What the last stage is given: the output of the stage before it."""
        return self.layer3(self.layer2(self.layer1(self.layer0(images))))

    def logits(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N K H W"]:
        """Scores of the base classes (0 is background) at every pixel, interpolated from the cells."""
        return resize(self.classifier(self(images)), images.shape[-2:])


def build_encoder(
    name: str | Architecture = "resnet50", classes: int = 16, pretrained: str = "", seed: int = 0
) -> PSPNet:
    """A fresh network on the CPU: the same weights for the same seed, whatever was drawn before.

    `classes` counts background. `pretrained` says where the residual stages get ImageNet weights from: "imagenet" is
    torchvision, anything else a .pth file or a folder of the release's files (its initmodel), and "" leaves them
    random. Raises ValueError for an unknown name or weights that do not fit, FileNotFoundError if there are none.
    """
    architecture = name if isinstance(name, Architecture) else find_architecture(name)
    with seeded(seed):
        network = PSPNet(architecture, classes)
        for stage in _backbone(network):
            for module in stage.modules():
                if isinstance(module, nn.Conv2d):  # torchvision's start; the new layers keep torch's default
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)
    if pretrained == "imagenet":
        _load_imagenet(network)
    elif pretrained:
        load_initial(network, pretrained)
    return network


@contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """What is drawn inside depends on the seed alone; outside, it is as if nothing had been drawn.

    Initial weights and dropout draw from torch's shared generators and take no generator of their own.
    """
    devices = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        for cuda in devices:
            torch.cuda.default_generators[cuda.index or 0].manual_seed(seed)
        yield


def resize(x: Float[Tensor, "N C h w"], size: tuple[int, int]) -> Float[Tensor, "N C H W"]:
    """Interpolate bilinearly so that the corner cells stay on the corner pixels."""
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)


def _backbone(network: PSPNet) -> tuple[nn.Sequential, ...]:
    return network.layer0, network.layer1, network.layer2, network.layer3, network.layer4


def _residual_stages(architecture: Architecture) -> tuple[nn.Sequential, ...]:
    block, (a, b, c, d) = BLOCKS[architecture.block], architecture.widths
    stem, channels = _stem(architecture)
    return (
        stem,
        _stage(block, channels, a, architecture.blocks[0]),
        _stage(block, a * block.expansion, b, architecture.blocks[1], stride=2),
        _stage(block, b * block.expansion, c, architecture.blocks[2], dilation=2),
        _stage(block, c * block.expansion, d, architecture.blocks[3], dilation=4),
    )


def _stem(architecture: Architecture) -> tuple[nn.Sequential, int]:
    """The first convolutions, to a quarter of the resolution, and how many channels leave them."""
    width = architecture.widths[0]
    if architecture.stem == "plain":
        shapes, kernel = [(3, width)], 7
    else:
        shapes, kernel = [(3, width), (width, width), (width, 2 * width)], 3
    layers: list[nn.Module] = []
    for i, (channels, out) in enumerate(shapes):
        conv = nn.Conv2d(channels, out, kernel, stride=1 if i else 2, padding=kernel // 2, bias=False)
        layers += [conv, nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.MaxPool2d(3, stride=2, padding=1)), shapes[-1][1]


def _stage(block: type, channels: int, width: int, count: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """One residual stage; a dilated one sees as far as a strided one would, without losing resolution."""
    out = width * block.expansion
    shortcut = None
    if stride != 1 or dilation != 1 or channels != out:
        shortcut = nn.Sequential(conv1x1(channels, out, stride), nn.BatchNorm2d(out))
    stage = nn.Sequential(block(channels, width, stride, shortcut), *(block(out, width) for _ in range(count - 1)))
    for module in stage.modules():
        if dilation > 1 and isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            module.dilation = module.padding = (dilation, dilation)
    return stage


def _load_imagenet(network: PSPNet) -> None:
    """Copy torchvision's ImageNet tensors into the residual stages."""
    architecture = network.architecture
    if architecture.weights is None:
        plain = ", ".join(a.name for a in ARCHITECTURES.values() if a.weights)
        raise ValueError(
            f"encoder {architecture.name!r} has no ImageNet weights in torchvision: ask for one of {plain}"
        )
    weights = get_weight(architecture.weights)
    try:
        found = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"ImageNet weights of encoder {architecture.name!r} could not be fetched ({error}): put "
            f'{weights.url} into {torch.hub.get_dir()}/checkpoints by hand, or build with pretrained=""'
        ) from error
    fill_stages(network, found, weights.url)

"""The encoder: PSPNet on a dilated ResNet or on VGG-16, and its ImageNet weights.

The last two stages of a ResNet are dilated instead of strided: stride 8. Last stage and four pooled maps are
concatenated; a 3x3 bottleneck gives the features; a linear classifier serves base training only. Modules are named as
in the published checkpoints. VGG-16 (batch norm) has RePRI's five stages: layers 0-6, 7-13, 14-23, 24-33 and 34-42 of
torchvision's `vgg16_bn().features`; all but the last end in 2x2 max pooling with ceil_mode.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from msgspec import Meta
from torch import Tensor, nn
from torchvision.models import WeightsEnum, get_weight
from torchvision.models.resnet import BasicBlock, Bottleneck, conv1x1

from ttilib.encoders.external import SUFFIXES, differences, one_line, read_foreign, state_of
from ttilib.files import look_up

LEVELS = (1, 2, 3, 6)  # cells per side of the pooled maps; Zhao et al. 2017, section 3.2
BLOCKS = {"basic": BasicBlock, "bottleneck": Bottleneck}  # torchvision's, with the stride in the 3x3 convolution

Count = Annotated[int, Meta(ge=1, le=200)]
Channels = Annotated[int, Meta(ge=2, le=2**14)]


@dataclass(frozen=True)
class Architecture:
    """All numbers that determine the shape of a network, bounded where metadata files give them.
    Source: docs/protocol.md 3; He et al. 2016, table 1; Simonyan and Zisserman 2015, table 1, column D (vgg).
    """

    name: str
    block: Literal["basic", "bottleneck", "vgg"]  # vgg: one convolution with bias, not residual
    blocks: tuple[Count, Count, Count, Count]  # per stage, after the stem
    widths: tuple[Channels, Channels, Channels, Channels] = (64, 128, 256, 512)  # inside the blocks of each stage
    stem: Literal["deep", "plain", "vgg"] = "deep"  # three 3x3 convolutions (the paper's), one 7x7 or two 3x3
    pyramid: Channels = 512  # channels per pooled map: a quarter of the input channels
    features: Channels = 512  # channels of the bottleneck, the C of the solver
    dropout: Annotated[float, Meta(ge=0, le=1)] = 0.1  # of entire channels, in training only
    weights: str | None = None  # torchvision's name of the ImageNet weights, if any
    stride: Literal[8, 16] = 8  # in pixels; always 8 for ResNets

    def channels(self, stage: int) -> int:
        """Output channels of a stage, 1 to 4."""
        return self.widths[stage - 1] * (1 if self.block == "vgg" else BLOCKS[self.block].expansion)


DEEP50 = Architecture("resnet50", "bottleneck", (3, 4, 6, 3))
DEEP101 = Architecture("resnet101", "bottleneck", (3, 4, 23, 3))
PLAIN50 = replace(DEEP50, name="resnet50-plain", stem="plain", weights="ResNet50_Weights.IMAGENET1K_V1")
PLAIN101 = replace(DEEP101, name="resnet101-plain", stem="plain", weights="ResNet101_Weights.IMAGENET1K_V1")
PLAIN18 = Architecture(  # features: half the paper's, as the last stage has a quarter of its channels
    "resnet18", "basic", (2, 2, 2, 2), stem="plain", pyramid=128, features=256, weights="ResNet18_Weights.IMAGENET1K_V1"
)
MINI18 = replace(  # widths: enough for a few hundred synthetic frames; the dilated stages cost most
    PLAIN18, name="resnet18-mini", widths=(16, 32, 64, 64), pyramid=32, features=128, weights=None
)
VGG16 = Architecture(  # stride 16: as in RePRI, without dilation
    "vgg16", "vgg", (2, 3, 3, 3), (128, 256, 512, 512), "vgg", 128, weights="VGG16_BN_Weights.IMAGENET1K_V1", stride=16
)
DILATED16 = replace(VGG16, name="vgg16-dilated", stride=8)
ARCHITECTURES = {a.name: a for a in (DEEP50, DEEP101, PLAIN50, PLAIN101, PLAIN18, MINI18, VGG16, DILATED16)}
INITIAL = {  # ImageNet weights in the reference implementation's folder initmodel
    "resnet50": "resnet50_v2.pth",
    "resnet101": "resnet101_v2.pth",
    "vgg16": "vgg16_bn.pth",
    "vgg16-dilated": "vgg16_bn.pth",
}
# published names of the stem's convolutions and norms
STEMS = {f"{kind}{n + 1}": f"layer0.{3 * n + i}" for n in range(3) for i, kind in enumerate(("conv", "bn"))}
VGG_STARTS = (0, 7, 14, 24, 34)  # first layer of each stage within vgg16_bn().features


class Pyramid(nn.Module):
    """Pyramid pooling: the map and its averages over 1, 4, 9 and 36 cells, resized to the map and concatenated."""

    def __init__(self, channels: int, reduced: int) -> None:
        super().__init__()
        self.features = nn.ModuleList(
            nn.Sequential(
                nn.AdaptiveAvgPool2d(cells), conv1x1(channels, reduced), nn.BatchNorm2d(reduced), nn.ReLU(inplace=True)
            )
            for cells in LEVELS
        )

    def forward(self, x: Float[Tensor, "N C h w"]) -> Float[Tensor, "N D h w"]:
        """Concatenate the map and its pooled maps."""
        return torch.cat([x, *(resize(pooled(x), x.shape[-2:]) for pooled in self.features)], dim=1)


class PSPNet(nn.Module):
    """Pyramid scene parsing network: calling it gives the features, `logits` the logits of the base classes.
    ResNets: sizes 8n+1 give n+1 cells with centres on pixels 0, 8, 16, ...; other sizes give ceil(size / 8). VGG:
    ceil(size / stride) cells. Source: docs/protocol.md 3; RePRI's networks.
    """

    def __init__(self, architecture: Architecture, classes: int) -> None:
        super().__init__()
        self.architecture, self.classes = architecture, classes
        stages = _vgg_stages if architecture.block == "vgg" else _residual_stages
        self.layer0, self.layer1, self.layer2, self.layer3, self.layer4 = stages(architecture)
        channels = architecture.channels(4)
        self.ppm = Pyramid(channels, architecture.pyramid)
        joined = channels + len(LEVELS) * architecture.pyramid
        self.bottleneck = nn.Sequential(
            nn.Conv2d(joined, architecture.features, 3, padding=1, bias=False),
            nn.BatchNorm2d(architecture.features),
            nn.ReLU(inplace=True),
            nn.Dropout2d(architecture.dropout),
        )
        self.classifier = nn.Conv2d(architecture.features, classes, 1)

    def forward(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N C h w"]:
        """Features of normalised images: output of the bottleneck, not normalised."""
        return self.bottleneck(self.ppm(self.layer4(self.stage3(images))))

    def stage3(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N D h w"]:
        """Output of the stage before the last."""
        return self.layer3(self.layer2(self.layer1(self.layer0(images))))

    def logits(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N K H W"]:
        """Logits of background (0) and the base classes per pixel, resized from the cells."""
        return resize(self.classifier(self(images)), images.shape[-2:])


def build_encoder(
    name: str | Architecture = "resnet50", classes: int = 16, pretrained: str = "", seed: int = 0
) -> PSPNet:
    """A new network on the CPU, initialised from the seed.
    `classes` counts background. `pretrained` is the source of ImageNet weights for the stages: "imagenet"
    (torchvision), a .pth file, a folder with the reference implementation's files (its initmodel), or "" for random
    weights. Raises ValueError for an unknown name or weights that do not match, or FileNotFoundError.
    """
    architecture = name if isinstance(name, Architecture) else look_up(name, ARCHITECTURES, "encoder")
    with seeded(seed):
        network = PSPNet(architecture, classes)
        for part, module in network.named_modules():
            if part.startswith("layer") and isinstance(module, nn.Conv2d):  # as torchvision; others as torch
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
    if pretrained == "imagenet":
        if architecture.weights is None:
            known = ", ".join(a.name for a in ARCHITECTURES.values() if a.weights)
            about = f"encoder {architecture.name!r} has no ImageNet weights in torchvision"
            raise ValueError(f"{about}: choose one of {known}")
        weights = get_weight(architecture.weights)
        _fill_stages(network, imagenet_tensors(weights), weights.url)
    elif pretrained:
        load_initial(network, pretrained)
    return network


@contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Seed torch's global generators (initial weights, dropout) within the block; restore them afterwards."""
    devices = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        for cuda in devices:
            torch.cuda.default_generators[cuda.index or 0].manual_seed(seed)
        yield


def resize(x: Float[Tensor, "N C h w"], size: Sequence[int]) -> Float[Tensor, "N C H W"]:
    """Bilinear interpolation, corners aligned."""
    return F.interpolate(x, size=list(size), mode="bilinear", align_corners=True)


def concatenate(maps: Sequence[Float[Tensor, "N _ _ _"]]) -> Float[Tensor, "N C h w"]:
    """The maps one after the other along the channels, resized to the grid of the largest."""
    grid = max((each.shape[-2:] for each in maps), key=lambda size: size[0] * size[1])
    return torch.cat([each if each.shape[-2:] == grid else resize(each, grid) for each in maps], dim=1)


def imagenet_tensors(weights: WeightsEnum) -> dict[str, Tensor]:
    """torchvision's weights, from torch's cache or downloaded. Raises FileNotFoundError naming file and folder, or
    ValueError if the file is damaged.
    """
    path = Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)
    if not path.is_file():
        try:
            weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
        except (OSError, RuntimeError) as error:
            about = f"ImageNet weights {weights} could not be fetched ({one_line(error)})"
            raise FileNotFoundError(f"{about}: put {weights.url} into {path.parent} by hand") from error
    return state_of(path, read_foreign(path))


def load_initial(network: PSPNet, path: Path | str) -> None:
    """Load ImageNet weights into the stages, from a file or a folder of the reference implementation's files.
    Pyramid, bottleneck and classifier stay. Raises FileNotFoundError, or ValueError if the tensors do not match.
    """
    path, name = Path(path), network.architecture.name
    if path.suffix not in SUFFIXES and name not in INITIAL:
        about = f"the release has no initial weights for encoder {name!r}, only for {', '.join(INITIAL)}"
        advice = 'choose one of these, name a .pth file, or take pretrained="imagenet" or ""'
        raise ValueError(f"{path}: {about}; {advice}")
    path = path if path.suffix in SUFFIXES else path / INITIAL[name]
    if not path.is_file():
        advice = 'put the file there, see docs/encoders.md, or take pretrained="" to start from random weights'
        raise FileNotFoundError(f"{path}: no initial weights for encoder {name!r}; {advice}")
    _fill_stages(network, state_of(path, read_foreign(path)), str(path))


def _fill_stages(network: PSPNet, published: Mapping[str, Tensor], source: str) -> None:
    """Copy tensors with the names of published ImageNet classifiers into layer0 to layer4."""
    found = {}
    for name, value in published.items():
        first, _, rest = name.partition(".")
        layer, _, what = rest.partition(".")
        if network.architecture.block == "vgg" and first == "features" and layer.isdigit():
            stage = bisect_right(VGG_STARTS, int(layer)) - 1
            first, rest = f"layer{stage}", f"{int(layer) - VGG_STARTS[stage]}.{what}"
        if (first := STEMS.get(first, first)).startswith("layer"):
            found[f"{first}.{rest}"] = value
    wanted = {name: value for name, value in network.state_dict().items() if name.startswith("layer")}
    if problem := differences(wanted, found):
        about = f"not the ImageNet weights of encoder {network.architecture.name!r} ({problem})"
        raise ValueError(f"{source}: {about}; give the file that belongs to it")
    network.load_state_dict(found, strict=False)


def _residual_stages(architecture: Architecture) -> tuple[nn.Sequential, ...]:
    stem, channels = _stem(architecture)
    block, stages = BLOCKS[architecture.block], [stem]
    for number, (stride, dilation) in enumerate(((1, 1), (2, 1), (1, 2), (1, 4))):
        width, count = architecture.widths[number], architecture.blocks[number]
        stages.append(_stage(block, channels, width, count, stride, dilation))
        channels = architecture.channels(number + 1)
    return tuple(stages)


def _stem(architecture: Architecture) -> tuple[nn.Sequential, int]:
    """The first convolutions, to a quarter of the resolution, and their number of output channels."""
    width = architecture.widths[0]
    outputs, kernel = ([width], 7) if architecture.stem == "plain" else ([width, width, 2 * width], 3)
    layers: list[nn.Module] = []
    channels = 3
    for out in outputs:
        conv = nn.Conv2d(channels, out, kernel, stride=1 if layers else 2, padding=kernel // 2, bias=False)
        layers += [conv, nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
        channels = out
    return nn.Sequential(*layers, nn.MaxPool2d(3, stride=2, padding=1)), channels


def _stage(
    block: type[BasicBlock | Bottleneck], channels: int, width: int, count: int, stride: int, dilation: int
) -> nn.Sequential:
    """One residual stage; dilation replaces the stride and keeps the receptive field."""
    out = width * block.expansion
    shortcut = None
    if stride != 1 or dilation != 1 or channels != out:
        shortcut = nn.Sequential(conv1x1(channels, out, stride), nn.BatchNorm2d(out))
    stage = nn.Sequential(block(channels, width, stride, shortcut), *(block(out, width) for _ in range(count - 1)))
    for module in stage.modules():
        if dilation > 1 and isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            module.dilation = module.padding = (dilation, dilation)
    return stage


def _vgg_stages(architecture: Architecture) -> tuple[nn.Sequential, ...]:
    """The five stages of VGG-16; stride 8: without the last pooling, the last stage dilated by 2 (same tensors)."""
    widths = (architecture.widths[0] // 2, *architecture.widths)
    stages, channels = [], 3
    for stage, (width, count) in enumerate(zip(widths, (2, *architecture.blocks), strict=True)):
        dilation = 2 if stage == 4 and architecture.stride == 8 else 1
        layers: list[nn.Module] = []
        for _ in range(count):
            convolution = nn.Conv2d(channels, width, 3, padding=dilation, dilation=dilation)
            layers += [convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            channels = width
        if stage < 3 or (stage == 3 and architecture.stride == 16):
            layers.append(nn.MaxPool2d(2, stride=2, ceil_mode=True))
        stages.append(nn.Sequential(*layers))
    return tuple(stages)

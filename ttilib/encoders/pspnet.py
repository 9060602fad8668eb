"""The network: a pyramid scene parser on a dilated ResNet or on VGG-16, its sizes, and its initial weights.

The last two stages of the ResNets are dilated instead of strided, so the features have a stride of 8 pixels. Four
pooled maps are joined to the last stage, and a 3x3 bottleneck gives the features that the solver works on. A linear
classifier on top exists for base training only. Module names follow the released checkpoints.

VGG-16 (with batch norm) is cut into the five stages of RePRI: layers 0-6, 7-13, 14-23, 24-33 and 34-42 of torchvision's
`vgg16_bn().features`; every stage but the last ends in a 2x2 max pooling that keeps an incomplete last row.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models import WeightsEnum, get_weight
from torchvision.models.resnet import BasicBlock, Bottleneck, conv1x1

from ttilib.encoders.external import SUFFIXES, differences, read_foreign, state_of
from ttilib.files import meant

LEVELS = (1, 2, 3, 6)  # cells per side of the pooled maps; Zhao et al. 2017, section 3.2
BLOCKS = {"basic": BasicBlock, "bottleneck": Bottleneck}  # torchvision's: the 3x3 convolution takes the stride


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
    pyramid: int = 512  # channels per pooled map: a quarter of the 2048 that come in
    features: int = 512  # channels of the bottleneck, the C of everything after it
    dropout: float = 0.1  # of whole feature channels, in training only
    weights: str | None = None  # torchvision's name of ImageNet weights that fit; None: there are none
    stride: Literal[8, 16] = 8  # pixels between neighbouring cells; residual networks always have 8

    @property
    def channels(self) -> int:
        """Channels of the last stage."""
        return self.widths[3] * self._expansion

    @property
    def stage3_channels(self) -> int:
        """Channels of the last stage but one."""
        return self.widths[2] * self._expansion

    @property
    def _expansion(self) -> int:
        return 1 if self.block == "vgg" else BLOCKS[self.block].expansion


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
    widths=(16, 32, 64, 64),  # a few hundred synthetic frames need no more, and the dilated stages cost most
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
STEMS = {  # convolutions and norms of the stem, as residual networks are published
    **{"conv1": "layer0.0", "bn1": "layer0.1", "conv2": "layer0.3", "bn2": "layer0.4"},
    **{"conv3": "layer0.6", "bn3": "layer0.7"},
}
VGG_STARTS = (0, 7, 14, 24, 34)  # first layer of each stage within vgg16_bn().features


def find_architecture(name: str) -> Architecture:
    """The architecture of that name. Raises ValueError with the nearest known name."""
    if name in ARCHITECTURES:
        return ARCHITECTURES[name]
    raise ValueError(f"encoder {name!r} is not known; {meant(name, ARCHITECTURES)}")


class Pyramid(nn.Module):
    """The map beside its averages over 1, 4, 9 and 36 cells, each at the size of the map."""

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
        """Concatenate the map and its pooled maps."""
        return torch.cat([x, *(resize(pooled(x), x.shape[-2:]) for pooled in self.features)], dim=1)


class PSPNet(nn.Module):
    """Pyramid scene parser; calling it gives the features, `logits` adds the base-class classifier.

    ResNets: sizes 8n+1 give n+1 cells whose centres lie on pixels 0, 8, 16, ...; other sizes give ceil(size / 8).
    VGG: ceil(size / stride) cells, each the mean of `stride` pixels.
    Source: protocol section 3; RePRI's networks.
    """

    def __init__(self, architecture: Architecture, classes: int) -> None:
        super().__init__()
        self.architecture, self.classes = architecture, classes
        stages = _vgg_stages if architecture.block == "vgg" else _residual_stages
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
        """Features of normalised images: the bottleneck's output, not scaled to unit length."""
        return self.bottleneck(self.ppm(self.layer4(self.stage3(images))))

    def stage3(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N D h w"]:
        """The output of the last stage but one."""
        return self.layer3(self.layer2(self.layer1(self.layer0(images))))

    def logits(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N K H W"]:
        """Scores of the base classes (0 is background) at every pixel, interpolated from the cells."""
        return resize(self.classifier(self(images)), images.shape[-2:])


def build_encoder(
    name: str | Architecture = "resnet50", classes: int = 16, pretrained: str = "", seed: int = 0
) -> PSPNet:
    """A new network on the CPU; its weights depend on the seed only.

    `classes` counts background. `pretrained` is the source of ImageNet weights for the stages: "imagenet" is
    torchvision, anything else a .pth file or a folder of the release's files (its initmodel), and "" leaves them
    random. Raises ValueError for an unknown name or weights that do not fit, FileNotFoundError if there are none.
    """
    architecture = name if isinstance(name, Architecture) else find_architecture(name)
    with seeded(seed):
        network = PSPNet(architecture, classes)
        for stage in (network.layer0, network.layer1, network.layer2, network.layer3, network.layer4):
            for module in stage.modules():
                if isinstance(module, nn.Conv2d):  # torchvision's initial weights; the new layers keep torch's default
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)
    if pretrained == "imagenet":
        if architecture.weights is None:
            known = ", ".join(a.name for a in ARCHITECTURES.values() if a.weights)
            raise ValueError(
                f"encoder {architecture.name!r} has no ImageNet weights in torchvision: choose one of {known}"
            )
        weights = get_weight(architecture.weights)
        _fill_stages(network, imagenet_tensors(weights), weights.url)
    elif pretrained:
        load_initial(network, pretrained)
    return network


@contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Random numbers inside the block depend on the seed only; those outside are not affected.

    Initial weights and dropout draw from torch's shared generators and take no generator of their own.
    """
    devices = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        for cuda in devices:
            torch.cuda.default_generators[cuda.index or 0].manual_seed(seed)
        yield


def resize(x: Float[Tensor, "N C h w"], size: tuple[int, int]) -> Float[Tensor, "N C H W"]:
    """Bilinear interpolation; corner cells stay on corner pixels."""
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)


def imagenet_tensors(weights: WeightsEnum) -> dict[str, Tensor]:
    """Weights that torchvision publishes, from torch's cache, or fetched into it.

    Raises FileNotFoundError naming file and folder if that is impossible.
    """
    try:
        return weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise FileNotFoundError(
            f"ImageNet weights {weights} could not be read or fetched ({reason}): put {weights.url} into "
            f"{torch.hub.get_dir()}/checkpoints by hand"
        ) from error


def load_initial(network: PSPNet, path: Path | str) -> None:
    """Fill the stages of a network with ImageNet weights from a file, or from a folder of the release's files.

    Pyramid, bottleneck and classifier keep their values. Raises FileNotFoundError if there is no such file, ValueError
    if its tensors are those of another network.
    """
    path, name = Path(path), network.architecture.name
    if path.suffix not in SUFFIXES:
        if name not in INITIAL:
            raise ValueError(
                f"{path}: the release has no initial weights for encoder {name!r}, only for {', '.join(INITIAL)}; "
                'choose one of these, name a .pth file, or take pretrained="imagenet" or ""'
            )
        path = path / INITIAL[name]
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no initial weights for encoder {name!r}; put the file there, see docs/encoders.md, "
            'or take pretrained="" to start from random weights'
        )
    _fill_stages(network, state_of(path, read_foreign(path)), str(path))


def _fill_stages(network: PSPNet, published: Mapping[str, Tensor], source: str) -> None:
    """Copy tensors, named as ImageNet classifiers are published, into layer0 to layer4."""
    found = {}
    for name, value in published.items():
        first, _, rest = name.partition(".")
        layer, _, what = rest.partition(".")
        if network.architecture.block == "vgg" and first == "features" and layer.isdigit():
            stage = bisect_right(VGG_STARTS, int(layer)) - 1
            name = f"layer{stage}.{int(layer) - VGG_STARTS[stage]}.{what}"
        else:
            name = f"{STEMS.get(first, first)}.{rest}"
        if name.startswith("layer"):
            found[name] = value
    wanted = {name: value for name, value in network.state_dict().items() if name.startswith("layer")}
    if problem := differences(wanted, found):
        raise ValueError(
            f"{source}: not the ImageNet weights of encoder {network.architecture.name!r} ({problem}); "
            "give the file that belongs to it"
        )
    network.load_state_dict(found, strict=False)


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
    """The first convolutions, to a quarter of the resolution, and the number of their output channels."""
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
    """One residual stage; dilation keeps both the resolution and the receptive field of a strided stage."""
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
    """With a stride of 8 the last pooling is left out and the last stage dilated by 2, which needs no other tensors."""
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

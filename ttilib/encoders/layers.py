"""Layers of an encoder, and the form of a network that gives features: the same up to rounding, in less time.

Training keeps the network itself. Batch norm becomes part of the convolution before it,
y = a (W * x - m) + b = (a W) * x + (b - a m). The pyramid of a PSPNet is linear in 50 cells until the ReLU of the
bottleneck, so its part of the 3x3 convolution is computed on these.
"""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ttilib.encoders.external import Encoder, feature_map, name_of, naming, package
from ttilib.encoders.pspnet import PSPNet, concatenate, resize
from ttilib.files import suggest

PROBE = 224  # pixels; also a multiple of the patch sizes 14 and 16
PIXELS = 2**18  # eight small images, or two of 241 x 425
ROUNDING = 1e-5  # relative error of a map; rounding gives 1e-6 to 3e-6, another function far more
OPENVINO = {"openvino": "f32", "openvino-bf16": "bf16"}
"""Devices for which OpenVINO compiles the encoder, with its precision; the solver then computes on the CPU."""
LARGEST = {"f32": ROUNDING, "bf16": 0.5}  # relative error of features; bf16: 0.03, plain images 0.1, another function 1


class MultiLayerEncoder:
    """An encoder [N, 3, H, W] -> [N, sum C_l, h, w]: the outputs of `layers`, concatenated along the channels.

    `layers` are names of submodules ("layer2", "layer3.5"); without any, the output of the encoder, which may be any
    callable. Smaller maps are resized to the largest grid (bilinear, corners aligned). If a layer runs several times,
    its last output is used. `channels` per layer are found with one image of zeros.
    Raises ValueError if a layer does not exist, is named twice or is not used, if its output is not [N, C, h, w] with
    the same C, h, w for images of one size or not finite, or for whatever a user's function (see `load_plugin`) raises.
    """

    def __init__(self, encoder: Encoder, layers: Sequence[str] = ()) -> None:
        self.encoder, self.layers = encoder, tuple(layers)
        self.name = name_of(encoder)
        self.modules = self._find_layers() if self.layers else {}
        self.grids: dict[torch.Size, torch.Size] = {}  # by size of the images
        with eval_mode(encoder), torch.no_grad():
            self.channels = tuple(each.shape[1] for each in self.maps(like(encoder).new_zeros((1, 3, PROBE, PROBE))))

    def __call__(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N C h w"]:
        """Features of normalised images."""
        maps = self.maps(images)
        features = concatenate(maps).contiguous()
        grid = features.shape[-2:]
        expected = self.channels, self.grids.setdefault(images.shape[-2:], grid)
        if (found := (tuple(each.shape[1] for each in maps), grid)) != expected:
            texts = [f"{channels} channels on {h} x {w} cells" for channels, (h, w) in (found, expected)]
            raise ValueError(f"encoder {self.name}: gives {texts[0]} after {texts[1]}; give the same for every image")
        if not features.norm(dim=1).isfinite().all():  # too long a feature would become 0 when it is normalised
            raise ValueError(f"encoder {self.name}: gives infinity or NaN; check its weights and the images")
        return features

    def maps(self, images: Float[Tensor, "N 3 H W"]) -> list[Tensor]:
        """Outputs in the order of `layers`, each at its own size."""
        found: dict[str, object] = {}
        with ExitStack() as hooks:
            for name, module in self.modules.items():
                # Copy: the next module may work in place, as many ReLUs do.
                def keep(module: nn.Module, given: object, output: object, name: str = name) -> None:
                    found[name] = output.clone() if isinstance(output, Tensor) else output

                hooks.callback(module.register_forward_hook(keep).remove)
            with naming(self.encoder):
                output = self.encoder(images)
        if not self.layers:
            return [feature_map(self.name, "its output", output, images)]
        if unused := [name for name in self.layers if name not in found]:
            raise ValueError(f"layer {unused[0]!r}: the encoder does not use it; name one that its forward pass calls")
        return [feature_map(self.name, f"layer {name!r}", found[name], images) for name in self.layers]

    def _find_layers(self) -> dict[str, nn.Module]:
        """The submodules of these names."""
        named = self.encoder.named_modules() if isinstance(self.encoder, nn.Module) else ()
        known, texts = {name: each for name, each in named if name}, ", ".join(self.layers)
        if not known:
            about = f"encoder {self.name} has no layers inside, as a torch.nn.Module has"
            raise ValueError(f"layers {texts}: {about}; leave them out")
        for name in self.layers:
            if name not in known:
                top = ", ".join(each for each in known if "." not in each)
                hint = suggest(name, known, f"name one of {top}, or one inside them")
                raise ValueError(f"layer {name!r}: encoder {self.name} has no such submodule; {hint}")
        if len(set(self.layers)) < len(self.layers):
            raise ValueError(f"layers {texts}: one is named twice; name it once")
        return {name: known[name] for name in self.layers}


def like(encoder: Encoder) -> Tensor:
    """A tensor on the encoder's device and of its type."""
    values = chain(encoder.parameters(), encoder.buffers()) if isinstance(encoder, nn.Module) else iter(())
    return next((value for value in values if value.is_floating_point()), torch.zeros(()))


@contextmanager
def eval_mode(encoder: Encoder) -> Iterator[None]:
    """All modules in evaluation mode (no update of running means) within the block."""
    before = {module: module.training for module in encoder.modules()} if isinstance(encoder, nn.Module) else {}
    try:
        for module in before:
            module.training = False
        yield
    finally:
        for module, training in before.items():
            module.training = training


class FewAtOnce(MultiLayerEncoder):
    """Images in batches of at most `PIXELS`, or one: on a CPU, the maps of more leave its caches, and take longer."""

    def maps(self, images: Float[Tensor, "N 3 H W"]) -> list[Tensor]:
        """Outputs in the order of `layers`, each at its own size."""
        few = max(1, PIXELS // images[0, 0].numel())
        return [torch.cat(each) for each in zip(*map(super().maps, images.split(few)), strict=True)]


class Compiled(nn.Module):
    """A network compiled by OpenVINO for the CPU, once for each size of images, at the first image of that size.
    Raises ModuleNotFoundError without the package; ValueError if the processor has no such `precision`, or the features
    of the first image differ from the network's by more than `LARGEST` |f|.
    """

    def __init__(self, network: nn.Module, precision: str) -> None:
        super().__init__()
        self.network, self.precision, self.spec = network, precision, getattr(network, "spec", "")  # spec: for messages
        self.core, self.models = package("openvino").Core(), dict[torch.Size, Any]()
        if precision == "bf16" and "BF16" not in self.core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise ValueError("device openvino-bf16: this processor does not compute in bf16; give openvino")

    def forward(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N C h w"]:
        """Features of images, one after the other."""
        if (size := images.shape[-2:]) not in self.models:
            self.models[size] = self._compile(images[:1])
        return torch.cat([torch.from_numpy(self.models[size](each.numpy())[0]) for each in images.split(1)])

    def _compile(self, image: Float[Tensor, "1 3 H W"]) -> Any:
        front = package("openvino.frontend").FrontEndManager().load_by_framework("pytorch")
        decoder = package("openvino.frontend.pytorch.fx_decoder").TorchFXPythonDecoder
        disabled = logging.root.manager.disable
        logging.disable(logging.WARNING)  # such as that an operation needs no decomposition
        try:
            with torch.no_grad():
                expected, exported = self.network(image), torch.export.export(self.network, (image,))
            graph = decoder.from_exported_program(exported)
        finally:
            logging.disable(disabled)
        options = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": self.precision}
        model = self.core.compile_model(front.convert(front.load(graph)), "CPU", options)
        error = float((torch.from_numpy(model(image.numpy())[0]) - expected).norm() / expected.norm())
        if not error <= LARGEST[self.precision]:
            raise ValueError(f"OpenVINO gives other features (relative difference {error:.0e}); use another device")
        return model


def for_inference(encoder: Encoder, layers: Sequence[str] = (), precision: str = "") -> MultiLayerEncoder:
    """The layers of an encoder as `MultiLayerEncoder`, computed by a faster copy of the network.
    It is the encoder itself if that is no torch.nn.Module, is in training mode, has no batch norm or cannot be copied,
    or if the maps of a random image differ by more than `ROUNDING` |f|. With a `precision` it is `Compiled`, for the
    encoder's output only. Raises as `MultiLayerEncoder` and `Compiled` do.
    """
    plain = partial(MultiLayerEncoder, encoder, layers)
    if precision:
        found = plain()
        if layers or not isinstance(encoder, nn.Module):
            about = f"encoder {found.name}: OpenVINO compiles the output of a torch.nn.Module"
            raise ValueError(f"{about}, no layers inside and no function; use another device")
        found.encoder = Compiled(encoder, precision)
        return found
    if not isinstance(encoder, nn.Module) or encoder.training:
        return plain()
    if not any(isinstance(each, nn.BatchNorm2d) for each in encoder.modules()):
        return plain()
    try:
        network = copy.deepcopy(encoder).eval()
    except Exception:  # a user's module may hold what cannot be copied, and say so in any way
        return plain()
    values = like(network)
    found = (FewAtOnce if values.device.type == "cpu" else MultiLayerEncoder)(network, layers)
    image = torch.randn(1, 3, PROBE, PROBE, generator=torch.Generator().manual_seed(0)).to(values)
    with torch.no_grad():
        expected = _fold(network, found, image)
        if isinstance(network, PSPNet) and not layers:
            vars(network)["forward"] = _Features(network)
        if values.device.type == "cpu":
            _arrange(network)
        errors = [(a - b).norm() / b.norm() for a, b in zip(found.maps(image), expected, strict=True)]
    return found if all(error <= ROUNDING for error in errors) else plain()


def _fold(network: nn.Module, encoder: MultiLayerEncoder, image: Tensor) -> list[Tensor]:
    """Fold batch norm into the convolutions whose output it takes, and give the maps as they were before.
    Modules keep their places and names, so that layers are found.
    """
    last: tuple[nn.Conv2d, object] | None = None
    pairs, calls = list[tuple[nn.Conv2d, nn.BatchNorm2d]](), Counter[nn.Module]()

    def note(module: nn.Module, given: tuple[object, ...], output: object) -> None:
        nonlocal last
        calls[module] += 1
        if isinstance(module, nn.BatchNorm2d) and last and given and given[0] is last[1]:
            pairs.append((last[0], module))
        last = (module, output) if isinstance(module, nn.Conv2d) else None

    with ExitStack() as hooks:
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
                hooks.callback(module.register_forward_hook(note).remove)
        expected = encoder.maps(image)
    for conv, norm in pairs:
        if calls[conv] == calls[norm] == 1 and norm.running_var is not None:
            folded = fuse_conv_bn_eval(conv, norm)
            conv.weight, conv.bias = folded.weight, folded.bias
            vars(norm)["forward"] = nn.Sequential(*norm.children()).forward  # what timm's norm has after it
    return expected


def _arrange(network: nn.Module) -> None:
    """Order the memory for the CPU, where depthwise convolutions take a third of the time with the channels last, and
    dilated ones a fifth if the zeros around the map are put there before.
    """
    convolutions = [each for each in network.modules() if type(each) is nn.Conv2d]
    depthwise = [each for each in convolutions if each.groups == each.in_channels > 1]
    if depthwise:
        network.to(memory_format=torch.channels_last)
    for conv in depthwise:
        if max(conv.dilation) > 1 and not isinstance(conv.padding, str) and conv.padding_mode == "zeros":
            (vertical, horizontal), inner = conv.padding, copy.copy(conv)  # the same weights
            inner.padding, border = (0, 0), nn.ZeroPad2d((horizontal, horizontal, vertical, vertical))
            vars(conv)["forward"] = nn.Sequential(border, inner).forward


class _Features:
    """Features of a PSPNet: W * [x, up(p_1), ...] = W_0 * x + sum_l sum_kj (W_l,k p_l,j) (B_j shifted by k).
    p_l,j: cell j of pooled map l; k: the nine places of the kernel W; B_j: bilinear weights of cell j on the grid.
    """

    def __init__(self, network: PSPNet) -> None:
        architecture, convolution = network.architecture, cast(nn.Conv2d, network.bottleneck[0])
        parts = [architecture.channels(4), *[architecture.pyramid] * len(network.ppm.features)]
        first, *others = convolution.weight.split(parts, dim=1)
        convolution.weight = nn.Parameter(first.contiguous(), requires_grad=False)
        self.network, self.kernels = network, [each.movedim(1, 3).flatten(0, 2).contiguous() for each in others]

    def __call__(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N C h w"]:
        x = self.network.layer4(self.network.stage3(images))
        features, products, weights = self.network.bottleneck[0](x), [], []
        for level, kernel in zip(self.network.ppm.features, self.kernels, strict=True):
            pooled = level(x)
            cells = pooled[0, 0].numel()
            basis = torch.eye(cells, dtype=x.dtype, device=x.device).view(cells, 1, *pooled.shape[2:])
            shifted = F.unfold(resize(basis, x.shape[-2:]), 3, padding=1)
            weights.append(shifted.transpose(0, 1).flatten(0, 1))
            products.append((kernel @ pooled.flatten(2)).view(len(x), -1, 9 * cells))
        features += (torch.cat(products, dim=2) @ torch.cat(weights)).view_as(features)
        return self.network.bottleneck[1:](features)

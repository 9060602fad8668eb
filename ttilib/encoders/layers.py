"""Intermediate layers of an encoder, and torchvision's ResNet-50 as "ttilib.networks.imagenet:resnet50"."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models import ResNet50_Weights
from torchvision.models import resnet50 as published

from ttilib.encoders.external import feature_map, name_of, naming
from ttilib.encoders.pspnet import concatenate, imagenet_tensors, seeded
from ttilib.files import suggest

PROBE = 224  # pixels; also a multiple of the patch sizes 14 and 16
WEIGHTS = ResNet50_Weights.IMAGENET1K_V1  # training recipe of He et al. 2016


class MultiLayerEncoder:
    """An encoder [N, 3, H, W] -> [N, sum C_l, h, w]: the outputs of `layers`, concatenated along the channels.

    `layers` are names of submodules ("layer2", "layer3.5"); without any, the output of the encoder, which may be any
    callable. Smaller maps are resized to the largest grid (bilinear, corners aligned). If a layer runs several times,
    its last output is used. `channels` per layer are found with one image of zeros.
    Raises ValueError if a layer does not exist, is named twice or is not used, if its output is not [N, C, h, w] with
    the same C, h, w for images of one size or not finite, or for whatever a user's function (see `load_plugin`) raises.
    """

    def __init__(self, encoder: Callable[[Tensor], Tensor], layers: Sequence[str] = ()) -> None:
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
            raise ValueError(
                f"layers {texts}: encoder {self.name} has no layers inside, as a torch.nn.Module has; leave them out"
            )
        for name in self.layers:
            if name not in known:
                top = ", ".join(each for each in known if "." not in each)
                hint = suggest(name, known, f"name one of {top}, or one inside them")
                raise ValueError(f"layer {name!r}: encoder {self.name} has no such submodule; {hint}")
        if len(set(self.layers)) < len(self.layers):
            raise ValueError(f"layers {texts}: one is named twice; name it once")
        return {name: known[name] for name in self.layers}


def like(encoder: Callable[[Tensor], Tensor]) -> Tensor:
    """A tensor on the encoder's device and of its type."""
    values = chain(encoder.parameters(), encoder.buffers()) if isinstance(encoder, nn.Module) else iter(())
    return next((value for value in values if value.is_floating_point()), torch.zeros(()))


@contextmanager
def eval_mode(encoder: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """All modules in evaluation mode (no update of running means) within the block."""
    before = {module: module.training for module in encoder.modules()} if isinstance(encoder, nn.Module) else {}
    try:
        for module in before:
            module.training = False
        yield
    finally:
        for module, training in before.items():
            module.training = training


def resnet50(pretrained: bool = True) -> nn.Sequential:
    """ResNet-50 with torchvision's ImageNet weights, up to layer3: 1024 channels, stride 8, frozen, on the CPU.
    Submodules have torchvision's names: conv1, ..., layer2, layer3. Raises FileNotFoundError if the weights can be
    neither read nor downloaded, RuntimeError if they belong to another network.
    """
    with seeded(0):
        network = published(replace_stride_with_dilation=[False, True, True])
    if pretrained:
        network.load_state_dict(imagenet_tensors(WEIGHTS))
    stages = OrderedDict(list(network.named_children())[:-3])  # without layer4, avgpool and fc
    return nn.Sequential(stages).eval().requires_grad_(False)


def resnet50_untrained() -> nn.Sequential:
    """The same network with random weights (seed 0), for trials where the weights cannot be downloaded."""
    return resnet50(pretrained=False)

"""An encoder seen at some of its depths gives what its layers give, and is left as it was found."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import real
import torch
from torch import nn

from ttilib.encoders.layers import MultiLayerEncoder
from ttilib.encoders.pspnet import build_encoder, resize

IMAGES = torch.rand(2, 3, 33, 49, generator=torch.Generator().manual_seed(0)) - 0.5


def small() -> nn.Sequential:
    """Two stages of halved resolution, the second with a ReLU that works in place."""
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        first = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4))
        second = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.Sigmoid())
    return nn.Sequential(OrderedDict(first=first, second=second)).eval().requires_grad_(False)


def hooks(encoder: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in encoder.modules())


def test_layers_are_joined_on_the_finest_grid_in_the_order_named() -> None:
    encoder = small()
    fine, coarse = encoder.first(IMAGES), encoder(IMAGES)
    assert fine.min() < 0  # what the ReLU in place would take away
    tapped = MultiLayerEncoder(encoder, ["first", "second.1"])
    expected = torch.cat([fine, resize(coarse.logit(), (17, 25))], dim=1)
    assert tapped.channels == (4, 6) and tapped.layers == ("first", "second.1")
    found = tapped(IMAGES)
    assert torch.equal(found[:, :4], fine)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    other = MultiLayerEncoder(encoder, ("second.1", "first"))
    assert other.channels == (6, 4) and torch.equal(other(IMAGES)[:, 6:], fine)
    assert torch.equal(other(IMAGES)[:, :6], found[:, 4:])


def test_a_single_layer_keeps_its_own_grid_and_bits() -> None:
    encoder = small()
    assert torch.equal(MultiLayerEncoder(encoder, ["second"])(IMAGES), encoder(IMAGES))
    network = build_encoder("resnet18-mini").eval().requires_grad_(False)
    assert torch.equal(MultiLayerEncoder(network, ["layer3"])(IMAGES), network.stage3(IMAGES))
    assert MultiLayerEncoder(network, ["layer2", "layer3", "bottleneck"]).channels == (32, 64, 128)


def test_no_layers_are_the_encoders_own_output() -> None:
    encoder = small()
    tapped = MultiLayerEncoder(encoder)
    assert torch.equal(tapped(IMAGES), encoder(IMAGES)) and tapped.channels == (6,) and tapped.layers == ()

    def any_callable(images: torch.Tensor) -> torch.Tensor:
        return images[:, :, ::8, ::8].repeat(1, 3, 1, 1)

    assert MultiLayerEncoder(any_callable).channels == (9,)
    assert torch.equal(MultiLayerEncoder(any_callable)(IMAGES), any_callable(IMAGES))


def test_the_encoder_is_left_as_it_was() -> None:
    """No hook stays, also after an error, and looking at a network in training does not move its running means."""
    encoder = small().train()
    encoder.second.eval()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    tapped = MultiLayerEncoder(encoder, ["first", "second.0"])
    assert encoder.training and encoder.first[1].training and not encoder.second[0].training
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert hooks(encoder) == 0
    tapped(IMAGES)
    assert hooks(encoder) == 0
    with pytest.raises(RuntimeError):
        tapped(IMAGES.double())
    assert hooks(encoder) == 0


def test_it_is_probed_in_the_encoders_own_numbers() -> None:
    encoder = small().double()
    assert MultiLayerEncoder(encoder, ["first"])(IMAGES.double()).dtype == torch.float64


class Odd(nn.Module):
    """Layers that are no maps, or are never used."""

    def __init__(self) -> None:
        super().__init__()
        self.pair, self.tokens, self.idle, self.twice = Pair(), nn.Flatten(2), nn.Identity(), nn.Identity()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.pair(images)
        self.tokens(images)
        return self.twice(1 + self.twice(images))


class Pair(nn.Module):
    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return images, images


def test_of_a_layer_that_is_used_twice_the_last_output_counts() -> None:
    assert torch.equal(MultiLayerEncoder(Odd(), ["twice"])(IMAGES), 1 + IMAGES)


@pytest.mark.parametrize(
    ("encoder", "layers", "sentence"),
    [
        (small(), ["secnd"], "layer 'secnd': the encoder Sequential has none of that name; did you mean second"),
        (small(), ["xyz"], "name one of first, second, or one inside them"),
        (small(), ["first", "first"], "layer 'first': named twice"),
        (small(), [""], "layer ''"),
        (lambda images: images, ["layer2"], "layers layer2: the encoder function has no layers"),
        (nn.Conv2d(3, 4, 3), ["layer2"], "the encoder Conv2d has no layers inside"),
        (Odd(), ["pair"], r"layer 'pair' is no map \[N, C, h, w\] but a tuple"),
        (Odd(), ["tokens"], r"layer 'tokens' is no map \[N, C, h, w\] but shape \[1, 3, 50176\]"),
        (Odd(), ["twice", "idle"], "layer 'idle': the encoder does not use it"),
        (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), (), r"its output is no map .* but shape \[1, 3\]"),
    ],
)  # fmt: skip
def test_what_cannot_be_tapped_is_one_sentence(encoder, layers, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        MultiLayerEncoder(encoder, layers)
    assert not isinstance(encoder, nn.Module) or hooks(encoder) == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_an_encoder_on_a_device_is_probed_there() -> None:
    tapped = MultiLayerEncoder(small().to("cuda"), ["first", "second"])
    assert tapped.channels == (4, 6) and tapped(IMAGES.to("cuda")).is_cuda


@pytest.mark.skipif(not real.available(), reason=real.MISSING)
def test_the_real_network_with_layers_is_the_real_network() -> None:
    network, plain = real.load(), real.original().load()
    images = IMAGES[:1]
    assert torch.equal(network(images), plain(images)) and not network.training
    tapped = MultiLayerEncoder(network, ["layer2", "layer3"])
    assert tapped.channels == (512, 1024)
    found = tapped(images)
    assert found.shape == (1, 1536, 5, 7) and torch.equal(found[:, 512:], plain(images))
    assert network.state_dict().keys() == plain.state_dict().keys()  # and so the same fingerprint
    seen = []
    network.layer2.register_forward_hook(lambda module, given, output: seen.append(output))
    network(images)
    assert len(seen) == 1 and torch.equal(seen[0], found[:, :512])

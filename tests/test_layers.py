"""Layers of an encoder are concatenated, and it is left unchanged; torchvision's ResNet-50 up to layer3."""

from collections import OrderedDict
from pathlib import Path
from unittest.mock import Mock
from urllib.error import URLError

import pytest
import torch
from torch import nn
from torchvision.models import ResNet50_Weights
from torchvision.models import resnet50 as published

from ttilib.encoders.checkpoints import load_encoder
from ttilib.encoders.layers import MultiLayerEncoder
from ttilib.encoders.pspnet import build_encoder, resize, seeded

IMAGES = torch.rand(2, 3, 33, 49, generator=torch.Generator().manual_seed(0)) - 0.5


def small() -> nn.Sequential:
    """Two stages of halved resolution, the second with a ReLU that works in place."""
    with seeded(0):
        first = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4))
        second = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.Sigmoid())
    return nn.Sequential(OrderedDict(first=first, second=second)).eval().requires_grad_(False)


def hooks(encoder: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in encoder.modules())


def test_layers_are_concatenated_on_the_finest_grid_in_the_order_named() -> None:
    encoder = small()
    fine, coarse = encoder.first(IMAGES), encoder(IMAGES)
    assert fine.min() < 0  # what the ReLU in place would take away
    several = MultiLayerEncoder(encoder, ["first", "second.1"])
    assert several.channels == (4, 6) and several.layers == ("first", "second.1")
    found = several(IMAGES)
    assert torch.equal(found[:, :4], fine)
    torch.testing.assert_close(found[:, 4:], resize(coarse.logit(), (17, 25)), atol=1e-5, rtol=1e-5)
    other = MultiLayerEncoder(encoder, ("second.1", "first"))
    assert other.channels == (6, 4) and torch.equal(other(IMAGES), found[:, [4, 5, 6, 7, 8, 9, 0, 1, 2, 3]])


def test_a_single_layer_or_none_keeps_grid_and_bits() -> None:
    plain = MultiLayerEncoder(small())
    assert torch.equal(plain(IMAGES), small()(IMAGES)) and plain.channels == (6,) and plain.layers == ()
    network = build_encoder("resnet18-mini").eval().requires_grad_(False)
    assert torch.equal(MultiLayerEncoder(network, ["layer3"])(IMAGES), network.stage3(IMAGES))


def test_the_encoder_is_left_as_it_was() -> None:
    """No hook stays, also after an error; a network in training keeps its running means."""
    encoder = small().train()
    encoder.second.eval()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    several = MultiLayerEncoder(encoder, ["first", "second.0"])
    assert encoder.training and encoder.first[1].training and not encoder.second[0].training
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    several(IMAGES)
    with pytest.raises(RuntimeError):
        several(IMAGES.double())
    assert hooks(encoder) == 0


@pytest.mark.parametrize(
    ("encoder", "names", "found"),
    [
        (small(), ["secnd"], "'secnd'.*did you mean second"), (lambda images: images[:, :, :0], (), "its output"),
        (nn.Sequential(nn.Flatten(2), nn.Unflatten(2, (224, 224))), ["0"], r"0.*\[1, 3, 50176\]"),
        (lambda images: images[:1], (), "of 2 images"),
    ],
)  # fmt: skip
def test_layers_that_cannot_be_used(encoder, names, found: str) -> None:
    with pytest.raises(ValueError, match=found):
        MultiLayerEncoder(encoder, names)(IMAGES)
    assert not isinstance(encoder, nn.Module) or hooks(encoder) == 0


def test_the_grid_must_stay_the_same_for_images_of_one_size() -> None:
    steps = iter((8, 8, 4, 8, 2))
    several = MultiLayerEncoder(lambda images: images[:, :, :: next(steps)])
    several(IMAGES), several(IMAGES[..., :33]), several(IMAGES)
    with pytest.raises(ValueError, match="17 x 49 cells after .* 5 x 49"):
        several(IMAGES)


def test_every_other_cell_is_what_torchvision_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dilated instead of strided: the same features, and as many again between them, up to the borders."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", Mock(side_effect=URLError("no route")))
    (tmp_path / "checkpoints").mkdir()
    hub = tmp_path / "checkpoints" / Path(ResNet50_Weights.IMAGENET1K_V1.url).name
    spec, images = "ttilib.networks.imagenet:resnet50", torch.rand(1, 3, 64, 90)
    with pytest.raises(ValueError, match=f"no route.*{hub.parent}"):
        load_encoder(spec)
    with seeded(0):
        strided = published().eval().requires_grad_(False)
    torch.save(strided.state_dict(), hub)
    encoder = load_encoder(spec)
    early = strided.layer2(strided.layer1(strided.maxpool(strided.relu(strided.bn1(strided.conv1(images))))))
    found = MultiLayerEncoder(encoder, ["layer2", "layer3"])(images)
    assert found.shape == (1, 512 + 1024, 8, 12) and torch.equal(found[:, :512], early)
    torch.testing.assert_close(found[:, 512:, ::2, ::2], strided.layer3(early), rtol=1e-4, atol=1e-4)
    assert torch.equal(found[:, 512:], encoder(images)) and not encoder.training
    torch.save({k: v for k, v in strided.state_dict().items() if not k.startswith("layer3.5")}, hub)
    with pytest.raises(ValueError, match=r"Missing key.*layer3\.5\.conv1\.weight"):
        load_encoder(spec)

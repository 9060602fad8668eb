"""ImageNet's ResNet-50 as an encoder: torchvision's numbers on a finer grid, cut where ImageNet's classes begin."""

from __future__ import annotations

from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from torch import nn
from torchvision.models import resnet50 as published

from ttilib.encoders import layers
from ttilib.encoders.checkpoints import fingerprint, load_encoder
from ttilib.encoders.layers import MultiLayerEncoder


@pytest.fixture(scope="module")
def strided() -> nn.Module:
    """Torchvision's network with weights that nothing else has."""
    with torch.random.fork_rng():
        network = published().eval()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean, std=0.1)
    return network.requires_grad_(False)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place of torch's cache where the file of weights goes, and no way to fetch anything."""

    def unreachable(url: str, *more: object, **named: object) -> None:
        raise URLError("no route")

    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints" / Path(layers.WEIGHTS.url).name


@pytest.mark.parametrize("size", [(65, 97), (64, 90)])
def test_every_other_cell_is_what_torchvision_computes(strided: nn.Module, hub: Path, size: tuple[int, int]) -> None:
    """Dilated instead of strided: the same features, and as many again between them, up to the borders."""
    torch.save(strided.state_dict(), hub)
    encoder = load_encoder("ttilib.networks.imagenet:resnet50")
    images = torch.rand(1, 3, *size)
    early = strided.layer2(strided.layer1(strided.maxpool(strided.relu(strided.bn1(strided.conv1(images))))))
    found = MultiLayerEncoder(encoder, ["layer2", "layer3"])(images)
    assert found.shape == (1, 512 + 1024, -(-size[0] // 8), -(-size[1] // 8))
    assert torch.equal(found[:, :512], early)
    torch.testing.assert_close(found[:, 512:, ::2, ::2], strided.layer3(early), rtol=1e-4, atol=1e-4)
    assert torch.equal(found[:, 512:], encoder(images))
    assert not encoder.training and not any(p.requires_grad for p in encoder.parameters())


def test_parts_are_named_as_torchvision_names_them(strided: nn.Module, hub: Path) -> None:
    torch.save(strided.state_dict(), hub)
    network = layers.resnet50()
    tensors = network.state_dict()
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    expected = {k: v for k, v in strided.state_dict().items() if not k.startswith(("layer4", "fc"))}
    assert tensors.keys() == expected.keys() and all(torch.equal(tensors[name], expected[name]) for name in expected)


def test_weights_that_are_not_there_are_named_with_their_place(hub: Path) -> None:
    with pytest.raises(FileNotFoundError) as raised:
        load_encoder("ttilib.networks.imagenet:resnet50")
    sentence = str(raised.value)
    assert "no route" in sentence and layers.WEIGHTS.url in sentence and f"into {hub.parent} by hand" in sentence


def test_weights_of_another_network_are_refused(strided: nn.Module, hub: Path) -> None:
    tensors = strided.state_dict()
    torch.save({name: value for name, value in tensors.items() if not name.startswith("layer3.5")}, hub)
    with pytest.raises(ValueError, match=r"not the weights of ResNet-50 \(15 missing: layer3\.5\.conv1\.weight"):
        layers.resnet50()


def test_the_untrained_one_is_the_same_every_time_and_draws_nothing() -> None:
    before = torch.get_rng_state()
    one, other = layers.resnet50_untrained(), load_encoder("ttilib.networks.imagenet:resnet50_untrained")
    assert fingerprint(one) == fingerprint(other) and torch.equal(torch.get_rng_state(), before)
    assert not one.training and not any(p.requires_grad for p in one.parameters())
    assert one(torch.rand(1, 3, 33, 41)).shape == (1, 1024, 5, 6)
    assert " ".join(name for name, _ in one.named_children()) == "conv1 bn1 relu maxpool layer1 layer2 layer3"

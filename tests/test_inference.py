"""Layers of an encoder are concatenated; the form for inference gives the same features; the network stays as it is."""

from collections import OrderedDict
from pathlib import Path
from unittest.mock import Mock
from urllib.error import URLError

import pytest
import torch
from torch import nn
from torchvision.models import ResNet50_Weights
from torchvision.models import resnet50 as published

from ttilib.encoders.checkpoints import fingerprint, load_encoder
from ttilib.encoders.layers import ROUNDING, MultiLayerEncoder, for_inference
from ttilib.encoders.pretrained import Pretrained
from ttilib.encoders.pspnet import Architecture, PSPNet, build_encoder, resize, seeded
from ttilib.solver.extraction import FeatureExtractor

PAIR = torch.rand(2, 3, 33, 49, generator=torch.Generator().manual_seed(0)) - 0.5
IMAGES = torch.randn(3, 3, 57, 89, generator=torch.Generator().manual_seed(0))
ARCHITECTURES = {
    "basic": Architecture("a", "basic", (1, 1, 2, 1), (4, 6, 8, 10), "plain", 5, 7),
    "bottleneck": Architecture("b", "bottleneck", (1, 1, 1, 2), (2, 3, 4, 5), "deep", 6, 7),
    "vgg": Architecture("c", "vgg", (1, 1, 1, 1), (4, 6, 8, 10), "vgg", 3, 7, stride=16),
}


def network_of(kind: str) -> nn.Module:
    """A network whose norms are not the identity."""
    with seeded(1):
        if kind == "lite":
            lite = pytest.importorskip("timm").create_model("tf_efficientnet_lite0", output_stride=8).eval()
            maps = pytest.importorskip("timm.models").create_feature_extractor(lite, ["blocks.4", "blocks.5"])
            network = Pretrained(kind, maps, lite.pretrained_cfg)
        else:
            network = PSPNet(ARCHITECTURES[kind], 3)
        for norm in (each for each in network.modules() if isinstance(each, nn.BatchNorm2d)):
            for values, least, most in ((norm.weight, 0.5, 1.5), (norm.running_var, 0.5, 2), (norm.bias, -0.3, 0.3)):
                nn.init.uniform_(values, least, most)
            nn.init.uniform_(norm.running_mean, -0.3, 0.3)
    return network.eval()


def error(network: nn.Module, layers: tuple[str, ...] = (), images: torch.Tensor = IMAGES) -> float:
    found, expected = for_inference(network, layers), MultiLayerEncoder(network, layers)
    assert found.encoder is not network and found.channels == expected.channels
    with torch.no_grad():
        a, b = found(images), expected(images)
    assert a.is_contiguous()
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("kind", [*ARCHITECTURES, "lite"])
def test_features_are_those_of_the_network_which_stays_as_it_is(kind) -> None:
    network = network_of(kind)
    before = fingerprint(network)
    assert error(network) < 2e-6 and fingerprint(network) == before
    assert error(network.double(), (), IMAGES.double()) < 1e-12


def test_layers_have_their_names_and_a_convolution_whose_own_output_is_used_stays() -> None:
    network = network_of("bottleneck")
    for layers in (("layer2", "layer3.0"), ("layer1.0.bn1",), ("ppm",)):
        assert error(network, layers) < 2e-6
    assert for_inference(network, ("layer2.0.conv1",)).encoder is network
    assert for_inference(network.train()).encoder is network


def test_openvino_gives_the_same_features_up_to_its_precision_and_they_are_cached_apart(tmp_path, monkeypatch) -> None:
    core, network = pytest.importorskip("openvino").Core(), network_of("basic")
    expected = MultiLayerEncoder(network)(IMAGES)
    devices = {"openvino": (0, ROUNDING), "openvino-bf16": (ROUNDING, 0.1)}
    if "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(ValueError, match="bf16"):
            FeatureExtractor(network, "id", device=devices.popitem()[0]).uncached(())
    for device, (least, most) in devices.items():
        extractor = FeatureExtractor(network, "id", tmp_path, device=device)
        assert least <= (extractor.with_layers(())(IMAGES) - expected).norm() / expected.norm() <= most
        assert list(extractor.uncached(()).encoder.models) == [(57, 89)]  # compiled
        assert (tmp_path / f"id-{device}").is_dir() and extractor.device.type == "cpu"
    for encoder, layers in ((network, ("layer2",)), (lambda images: images, ())):
        with pytest.raises(ValueError, match="OpenVINO"):
            for_inference(encoder, layers, "f32")
    vars(network)["spec"] = "mine:load"  # a user's function, which OpenVINO need not understand
    monkeypatch.setattr(torch.export, "export", Mock(side_effect=RuntimeError("no graph")))
    with pytest.raises(ValueError, match="encoder mine:load: RuntimeError: no graph"):
        for_inference(network, (), "f32")(IMAGES)


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
    fine, coarse = encoder.first(PAIR), encoder(PAIR)
    assert fine.min() < 0  # what the ReLU in place would take away
    several = MultiLayerEncoder(encoder, ["first", "second.1"])
    assert several.channels == (4, 6) and several.layers == ("first", "second.1")
    found = several(PAIR)
    assert torch.equal(found[:, :4], fine)
    torch.testing.assert_close(found[:, 4:], resize(coarse.logit(), (17, 25)), atol=1e-5, rtol=1e-5)
    other = MultiLayerEncoder(encoder, ("second.1", "first"))
    assert other.channels == (6, 4) and torch.equal(other(PAIR), found[:, [4, 5, 6, 7, 8, 9, 0, 1, 2, 3]])


def test_a_single_layer_or_none_keeps_grid_and_bits() -> None:
    plain = MultiLayerEncoder(small())
    assert torch.equal(plain(PAIR), small()(PAIR)) and plain.channels == (6,) and plain.layers == ()
    network = build_encoder("resnet18-mini").eval().requires_grad_(False)
    assert torch.equal(MultiLayerEncoder(network, ["layer3"])(PAIR), network.stage3(PAIR))


def test_the_encoder_is_left_as_it_was() -> None:
    """No hook stays, also after an error; a network in training keeps its running means."""
    encoder = small().train()
    encoder.second.eval()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    several = MultiLayerEncoder(encoder, ["first", "second.0"])
    assert encoder.training and encoder.first[1].training and not encoder.second[0].training
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    several(PAIR)
    with pytest.raises(RuntimeError):
        several(PAIR.double())
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
        MultiLayerEncoder(encoder, names)(PAIR)
    assert not isinstance(encoder, nn.Module) or hooks(encoder) == 0


def test_the_grid_must_stay_the_same_for_images_of_one_size() -> None:
    steps = iter((8, 8, 4, 8, 2))
    several = MultiLayerEncoder(lambda images: images[:, :, :: next(steps)])
    several(PAIR), several(PAIR[..., :33]), several(PAIR)
    with pytest.raises(ValueError, match="17 x 49 cells after .* 5 x 49"):
        several(PAIR)


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

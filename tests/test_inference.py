"""The form for inference gives the features of the network, and leaves the network as it is."""

from unittest.mock import Mock

import pytest
import torch
from torch import nn

from ttilib.encoders.checkpoints import fingerprint
from ttilib.encoders.layers import ROUNDING, MultiLayerEncoder, for_inference
from ttilib.encoders.pretrained import Pretrained
from ttilib.encoders.pspnet import Architecture, PSPNet, seeded
from ttilib.solver.extraction import FeatureExtractor

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

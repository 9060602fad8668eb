"""Networks: tensors named and shaped as released, the grid of cells, and initial weights."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from foreign import TINY, initial, state
from torch import nn
from torchvision.models import VGG16_BN_Weights
from torchvision.models.vgg import cfgs, make_layers

from ttilib.encoders.checkpoints import fingerprint, on_meta_device
from ttilib.encoders.pspnet import ARCHITECTURES, INITIAL, Architecture, PSPNet, Pyramid, build_encoder, resize, seeded
from ttilib.files import digest


@cache
def on_meta(name: str, classes: int = 31) -> PSPNet:
    """Shapes without values: a ResNet-101 in milliseconds."""
    return on_meta_device(ARCHITECTURES[name], classes).eval()


@pytest.mark.parametrize(
    ("name", "count", "numbers", "expected"),
    [
        ("resnet50", 362, 46780187, "e3ff324ddc7bd7ef"), ("resnet101", 668, 65824590, "9d31f56a4a1c1b42"),
        ("vgg16", 123, 19732337, "5e29d67496ab7bb4"), ("vgg16-dilated", 123, 19732337, "5e29d67496ab7bb4"),
    ],
)  # fmt: skip
def test_tensors_are_named_and_shaped_as_released(name: str, count: int, numbers: int, expected: str) -> None:
    """Number of tensors and of values, and the digest of names and shapes, for 31 classes."""
    shapes = {key: list(value.shape) for key, value in on_meta(name).state_dict().items()}
    assert len(shapes) == count and sum(value.numel() for value in on_meta(name).state_dict().values()) == numbers
    assert digest(shapes) == expected


def test_grid_of_cells() -> None:
    for name, size, grid, stage3 in (
        ("resnet18", (100, 64), (13, 8), 256), ("vgg16-dilated", (241, 425), (31, 54), 512),
        ("vgg16", (417, 417), (27, 27), 512),
    ):  # fmt: skip
        network, images = on_meta(name), torch.empty(2, 3, *size, device="meta")
        assert network(images).shape == (2, ARCHITECTURES[name].features, *grid)
        assert network.logits(images).shape == (2, 31, *size)
        assert network.stage3(images).shape[:2] == (2, stage3) == (2, network.architecture.channels(3))


def test_late_stages_are_dilated_not_strided() -> None:
    network = on_meta("resnet50")
    for stage, rate in ((network.layer3, 2), (network.layer4, 4)):
        layers = [m for m in stage.modules() if isinstance(m, nn.Conv2d)]
        found = {(m.kernel_size[0], m.stride[0], m.dilation[0], m.padding[0]) for m in layers}
        assert found == {(1, 1, 1, 0), (3, 1, rate, rate)}
    assert network.layer2[0].conv2.stride == (2, 2)  # on a 3x3, never on a 1x1


@pytest.mark.parametrize(("width", "symmetric"), [(65, True), (64, False)])
def test_cells_lie_on_every_eighth_pixel(width: int, symmetric: bool) -> None:
    """Mirrored filters give a mirrored image mirrored logits, but only if cells span it edge to edge."""
    network = build_encoder(TINY, 2).eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.weight += module.weight.flip(-1)
        images = torch.rand(1, 3, 33, width)
        there, back = network.logits(images), network.logits(images.flip(-1)).flip(-1)
    assert torch.allclose(there, back, rtol=1e-4, atol=1e-4 * there.std().item()) == symmetric


def test_pyramid_adds_the_mean_of_the_image() -> None:
    pyramid, x = Pyramid(3, 1).eval(), torch.rand(1, 3, 4, 5)
    with torch.no_grad():
        pyramid.features[0][1].weight.copy_(torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1))
        out = pyramid(x)
    assert out.shape == (1, 3 + 4, 4, 5) and torch.equal(out[:, :3], x)
    expected = (x.mean((2, 3)) @ torch.tensor([1.0, 2.0, 3.0])) / (1 + 1e-5) ** 0.5  # batch norm as it starts
    torch.testing.assert_close(out[:, 3], expected.view(1, 1, 1).expand(1, 4, 5))
    torch.testing.assert_close(resize(torch.tensor([[[[0.0, 8.0]]]]), (1, 9)).flatten(), torch.arange(9.0))


def test_weights_depend_on_the_seed_alone() -> None:
    before, seeds = torch.get_rng_state(), (4, 4, 2**63 + 5, 0)
    assert len({fingerprint(build_encoder(TINY, 3, seed=seed)) for seed in seeds}) == 3
    with pytest.raises(KeyError), seeded(5):
        raise KeyError(torch.rand(3))
    assert torch.equal(torch.get_rng_state(), before)


def test_convolutions_start_as_he_et_al_2015() -> None:
    layers = [m for m in build_encoder("vgg16", 2).layer4 if isinstance(m, nn.Conv2d)]
    assert not any(m.bias.any() for m in layers)
    assert layers[-1].weight.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)


def test_vgg_computes_what_torchvision_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On 64 pixels no row is incomplete, so the stages are torchvision's layers 0 to 42; and its weights fit."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    with seeded(0):
        published = make_layers(cfgs["D"], batch_norm=True).eval()
        images = torch.rand(1, 3, 64, 64)
    tensors = {f"features.{name}": value for name, value in published.state_dict().items()}
    torch.save(tensors, tmp_path / "checkpoints" / Path(VGG16_BN_Weights.IMAGENET1K_V1.url).name)
    network, dilated = (build_encoder(name, 2, pretrained="imagenet").eval() for name in ("vgg16", "vgg16-dilated"))
    with torch.no_grad():
        assert torch.equal(network.layer4(network.stage3(images)), published[:43](images))
        before = published[:33](images)
        assert torch.equal(dilated.stage3(images), before) and before.shape == (1, 512, 8, 8)
        wide = nn.functional.conv2d(before, tensors["features.34.weight"], tensors["features.34.bias"], 1, 2, 2)
        torch.testing.assert_close(dilated.layer4[0](before), wide)


def narrow(name: str) -> Architecture:
    """The same layers with few channels; VGG's first stage has half of the second's."""
    return replace(ARCHITECTURES[name], widths=(4, 6, 6, 8), pyramid=2, features=4)


@pytest.mark.parametrize(("name", "folder"), [("resnet50", True), ("vgg16-dilated", True), ("resnet18", False)])
def test_initial_weights_fill_the_stages_and_nothing_else(name: str, folder: bool, tmp_path: Path) -> None:
    path = tmp_path / (INITIAL[name] if folder else "weights.pth")
    torch.save(initial(narrow(name)), path, _use_new_zipfile_serialization=not folder)
    network = build_encoder(narrow(name), 3, pretrained=str(tmp_path if folder else path)).state_dict()
    fresh, expected = build_encoder(narrow(name), 3).state_dict(), state(narrow(name), 3)
    for key, value in network.items():
        due = expected[key] if key.startswith("layer") else fresh[key]
        assert value == 0 if key.endswith("num_batches_tracked") else torch.equal(value, due), key

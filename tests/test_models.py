"""Networks: names and shapes as released, the grid they give, and where their first weights come from."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from ttilib.encoders.checkpoints import fingerprint
from ttilib.encoders.pspnet import Architecture, PSPNet, Pyramid, build_encoder, find_architecture, resize, seeded

TINY = Architecture("tiny", "basic", (1, 1, 1, 1), (4, 4, 8, 8), stem="plain", pyramid=2, features=6)


@cache
def on_paper(name: str, classes: int) -> PSPNet:
    """Shapes without numbers: a ResNet-101 in milliseconds."""
    with torch.device("meta"):
        return PSPNet(find_architecture(name), classes).eval()


def norm(prefix: str, channels: int) -> dict[str, tuple[int, ...]]:
    shapes = {f"{prefix}.{name}": (channels,) for name in ("weight", "bias", "running_mean", "running_var")}
    return shapes | {f"{prefix}.num_batches_tracked": ()}


def released_shapes(blocks: tuple[int, ...], classes: int) -> dict[str, tuple[int, ...]]:
    """Every tensor of a released checkpoint, written down from protocol section 3."""
    shapes = {
        "layer0.0.weight": (64, 3, 3, 3),
        "layer0.3.weight": (64, 64, 3, 3),
        "layer0.6.weight": (128, 64, 3, 3),
    }
    shapes |= norm("layer0.1", 64) | norm("layer0.4", 64) | norm("layer0.7", 128)
    channels = 128
    for stage, count in enumerate(blocks, start=1):
        width = 32 * 2**stage
        for i in range(count):
            block = f"layer{stage}.{i}"
            shapes |= {
                f"{block}.conv1.weight": (width, channels, 1, 1),
                f"{block}.conv2.weight": (width, width, 3, 3),
            }
            shapes |= {f"{block}.conv3.weight": (4 * width, width, 1, 1)}
            shapes |= norm(f"{block}.bn1", width) | norm(f"{block}.bn2", width) | norm(f"{block}.bn3", 4 * width)
            if i == 0:
                shapes |= {f"{block}.downsample.0.weight": (4 * width, channels, 1, 1)}
                shapes |= norm(f"{block}.downsample.1", 4 * width)
            channels = 4 * width
    for view in range(4):
        shapes |= {f"ppm.features.{view}.1.weight": (512, 2048, 1, 1)} | norm(f"ppm.features.{view}.2", 512)
    shapes |= {"bottleneck.0.weight": (512, 4096, 3, 3)} | norm("bottleneck.1", 512)
    return shapes | {"classifier.weight": (classes, 512, 1, 1), "classifier.bias": (classes,)}


@pytest.mark.parametrize(("name", "blocks"), [("resnet50", (3, 4, 6, 3)), ("resnet101", (3, 4, 23, 3))])
def test_tensors_are_named_and_shaped_as_released(name: str, blocks: tuple[int, ...]) -> None:
    found = {key: tuple(value.shape) for key, value in on_paper(name, 31).state_dict().items()}
    assert found == released_shapes(blocks, 31)


@pytest.mark.parametrize(
    ("name", "size", "grid"),
    [
        ("resnet50", (241, 425), (31, 54)),
        ("resnet101", (241, 425), (31, 54)),
        ("resnet50-plain", (417, 417), (53, 53)),
        ("resnet18", (417, 417), (53, 53)),
        ("resnet18-mini", (121, 217), (16, 28)),
        ("vgg16-dilated", (417, 417), (53, 53)),
        ("vgg16-dilated", (241, 425), (31, 54)),
    ],
)
def test_sizes_8n_plus_1_give_n_plus_1_cells(name: str, size: tuple[int, int], grid: tuple[int, int]) -> None:
    network, images = on_paper(name, 31), torch.empty(2, 3, *size, device="meta")
    assert network(images).shape == (2, find_architecture(name).features, *grid)
    assert network.logits(images).shape == (2, 31, *size)


def test_other_sizes_round_up() -> None:
    assert on_paper("resnet18", 31)(torch.empty(1, 3, 100, 64, device="meta")).shape[-2:] == (13, 8)


@pytest.mark.parametrize("name", ["resnet50", "resnet18-mini"])
def test_late_stages_are_dilated_not_strided(name: str) -> None:
    network = on_paper(name, 31)
    for stage, rate in ((network.layer3, 2), (network.layer4, 4)):
        convs = [m for m in stage.modules() if isinstance(m, nn.Conv2d)]
        assert all(m.stride == (1, 1) for m in convs)
        wide = [m for m in convs if m.kernel_size == (3, 3)]
        assert wide and all(m.dilation == m.padding == (rate, rate) for m in wide)
        assert all(m.dilation == (1, 1) for m in convs if m.kernel_size == (1, 1))
    first = network.layer2[0]
    assert (first.conv2 if name == "resnet50" else first.conv1).stride == (2, 2)  # on a 3x3, never on a 1x1


@pytest.mark.parametrize(("width", "symmetric"), [(65, True), (57, True), (64, False)])
def test_cells_lie_on_every_eighth_pixel(width: int, symmetric: bool) -> None:
    """Mirrored filters give a mirrored image mirrored scores, but only if cells span it edge to edge."""
    network = build_encoder(TINY, 2).eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.weight += module.weight.flip(-1)
        images = torch.rand(1, 3, 33, width)
        there, back = network.logits(images), network.logits(images.flip(-1)).flip(-1)
    assert torch.allclose(there, back, rtol=1e-4, atol=1e-4 * there.std().item()) == symmetric


def test_pyramid_adds_the_mean_of_the_whole_picture() -> None:
    pyramid = Pyramid(3, 1).eval()
    x = torch.rand(1, 3, 4, 5)
    with torch.no_grad():
        pyramid.features[0][1].weight.copy_(torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1))
        out = pyramid(x)
    assert out.shape == (1, 3 + 4, 4, 5) and torch.equal(out[:, :3], x)
    expected = (x.mean((2, 3)) @ torch.tensor([1.0, 2.0, 3.0])) / (1 + 1e-5) ** 0.5  # batch norm as it starts
    torch.testing.assert_close(out[:, 3], expected.view(1, 1, 1).expand(1, 4, 5))
    assert [pooled[0].output_size for pooled in pyramid.features] == [1, 2, 3, 6]


def test_resize_keeps_corners() -> None:
    out = resize(torch.tensor([[[[0.0, 8.0]]]]), (1, 9))
    torch.testing.assert_close(out.flatten(), torch.arange(9.0))


def test_weights_depend_on_the_seed_alone() -> None:
    before = torch.get_rng_state()
    first = build_encoder(TINY, 3, seed=4)
    torch.rand(7)
    second, other = build_encoder(TINY, 3, seed=4), build_encoder(TINY, 3, seed=5)
    assert fingerprint(first) == fingerprint(second) != fingerprint(other)
    torch.set_rng_state(before)
    build_encoder(TINY, 3)
    assert torch.equal(torch.get_rng_state(), before)


def test_seeded_repeats_itself_even_after_an_error() -> None:
    before = torch.get_rng_state()
    with seeded(2**63 + 5):
        first = torch.rand(3)
    with pytest.raises(KeyError), seeded(2**63 + 5):
        assert torch.equal(torch.rand(3), first)
        raise KeyError
    assert torch.equal(torch.get_rng_state(), before)


# --- VGG ---


def vgg_shapes(classes: int) -> dict[str, tuple[int, ...]]:
    """RePRI's slices of vgg16_bn().features, written down layer by layer: (stage, layer, channels in, out)."""
    convolutions = [
        *((0, 0, 3, 64), (0, 3, 64, 64), (1, 0, 64, 128), (1, 3, 128, 128)),
        *((2, 0, 128, 256), (2, 3, 256, 256), (2, 6, 256, 256)),
        *((3, 0, 256, 512), (3, 3, 512, 512), (3, 6, 512, 512)),
        *((4, 0, 512, 512), (4, 3, 512, 512), (4, 6, 512, 512)),
    ]
    shapes = {}
    for stage, layer, channels, out in convolutions:
        shapes |= {f"layer{stage}.{layer}.weight": (out, channels, 3, 3), f"layer{stage}.{layer}.bias": (out,)}
        shapes |= norm(f"layer{stage}.{layer + 1}", out)
    for view in range(4):
        shapes |= {f"ppm.features.{view}.1.weight": (128, 512, 1, 1)} | norm(f"ppm.features.{view}.2", 128)
    shapes |= {"bottleneck.0.weight": (512, 1024, 3, 3)} | norm("bottleneck.1", 512)
    return shapes | {"classifier.weight": (classes, 512, 1, 1), "classifier.bias": (classes,)}


@pytest.mark.parametrize("name", ["vgg16", "vgg16-dilated"])
def test_vgg_is_cut_as_repri_cuts_it(name: str) -> None:
    assert {key: tuple(value.shape) for key, value in on_paper(name, 16).state_dict().items()} == vgg_shapes(16)


def test_vgg_has_a_grid_of_sixteenths_as_released() -> None:
    network = on_paper("vgg16", 16)
    assert network(torch.empty(2, 3, 417, 417, device="meta")).shape == (2, 512, 27, 27)
    assert network(torch.empty(2, 3, 241, 425, device="meta")).shape == (2, 512, 16, 27)
    assert network.logits(torch.empty(2, 3, 417, 417, device="meta")).shape == (2, 16, 417, 417)


def test_vgg_computes_what_torchvision_computes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On 64 pixels no row is incomplete, so the stages are torchvision's layers 0 to 42; and its weights fit."""
    from torchvision.models import VGG16_BN_Weights
    from torchvision.models.vgg import cfgs, make_layers

    with torch.random.fork_rng():
        published = make_layers(cfgs["D"], batch_norm=True).eval()
        for module in published.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean, std=0.1)
        images = torch.rand(1, 3, 64, 64)
    tensors = {f"features.{name}": value for name, value in published.state_dict().items()}
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    torch.save(tensors, tmp_path / "checkpoints" / Path(VGG16_BN_Weights.IMAGENET1K_V1.url).name)
    network = build_encoder("vgg16", 2, pretrained="imagenet").eval()
    dilated = build_encoder("vgg16-dilated", 2).eval()
    dilated.load_state_dict(network.state_dict())
    with torch.no_grad():
        expected = published[:43](images)
        assert torch.equal(network.layer4(network.stage3(images)), expected)
        before = published[:33](images)
        assert torch.equal(dilated.stage3(images), before) and before.shape == (1, 512, 8, 8)
        torch.testing.assert_close(nn.functional.max_pool2d(before, 2), network.stage3(images))
        wide = nn.functional.conv2d(before, tensors["features.34.weight"], tensors["features.34.bias"], 1, 2, 2)
        torch.testing.assert_close(dilated.layer4[0](before), wide)


# --- stages and training ---


@pytest.mark.parametrize(
    ("name", "channels"), [("resnet50", 1024), ("resnet18", 256), ("resnet18-mini", 64), ("vgg16-dilated", 512)]
)
def test_stage3_is_what_the_last_stage_is_given(name: str, channels: int) -> None:
    network, images = on_paper(name, 31), torch.empty(2, 3, 65, 81, device="meta")
    assert network.architecture.stage3_channels == channels
    assert network.stage3(images).shape == (2, channels, 9, 11)


def test_features_are_those_of_stage3_taken_further() -> None:
    network, images = build_encoder(TINY, 2).eval(), torch.rand(2, 3, 33, 41)
    with torch.no_grad():
        further = network.bottleneck(network.ppm(network.layer4(network.stage3(images))))
        assert torch.equal(network(images), further) and further.abs().sum() > 0


@pytest.mark.parametrize("pictures", [2, 3])
def test_two_pictures_can_be_learned_from(pictures: int) -> None:
    """The released network takes a batch of exactly two for something else."""
    network = build_encoder(TINY, 3).train()
    logits = network.logits(torch.rand(pictures, 3, 33, 33))
    assert logits.shape == (pictures, 3, 33, 33)
    logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


# --- first weights ---


def test_a_fresh_vgg_starts_without_offsets() -> None:
    network = build_encoder("vgg16", 2)
    convolutions = [m for stage in (network.layer0, network.layer4) for m in stage if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 5 and not any(m.bias.any() for m in convolutions)
    assert convolutions[-1].weight.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)


def test_torchvision_weights_fit_the_plain_stem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file as ImageNet weights are published, found in torch.hub's cache, ends up in the right places."""
    from torchvision.models import ResNet18_Weights, resnet18

    with torch.random.fork_rng(), torch.device("cpu"):
        published = resnet18().state_dict()
    name = Path(ResNet18_Weights.IMAGENET1K_V1.url).name
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    torch.save(published, tmp_path / "checkpoints" / name)
    network = build_encoder("resnet18", 2, pretrained="imagenet")
    tensors = network.state_dict()
    assert torch.equal(tensors["layer0.0.weight"], published["conv1.weight"])
    assert torch.equal(tensors["layer0.1.running_var"], published["bn1.running_var"])
    rest = [key for key in published if key.startswith("layer")]
    assert len(rest) == 114 and all(torch.equal(tensors[key], published[key]) for key in rest)


def test_no_imagenet_weights_for_the_deep_stem() -> None:
    with pytest.raises(
        ValueError,
        match="'resnet18-mini' has no ImageNet weights in torchvision: choose one of resnet50-plain",
    ):
        build_encoder("resnet18-mini", pretrained="imagenet")

"""Encoders: names and shapes as released, the grid they give, and getting them from anywhere."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ttilib.networks.architectures import Architecture, find_architecture
from ttilib.networks.checkpoints import fingerprint, load_encoder, load_state, save_encoder, save_state
from ttilib.networks.models import PSPNet, Pyramid, build_encoder, resize, seeded

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
            shapes |= (
                norm(f"{block}.bn1", width) | norm(f"{block}.bn2", width) | norm(f"{block}.bn3", 4 * width)
            )
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
    """Mirrored filters give a mirrored picture mirrored scores, but only if cells span it edge to edge."""
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


def test_torchvision_weights_fit_the_plain_stem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file as ImageNet weights are published, found in torch.hub's cache, ends up in the right places."""
    from torchvision.models import ResNet18_Weights, resnet18

    with torch.random.fork_rng(), torch.device("cpu"):
        published = resnet18().state_dict()
    name = Path(ResNet18_Weights.IMAGENET1K_V1.url).name
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    torch.save(published, tmp_path / "checkpoints" / name)
    network = build_encoder("resnet18", 2, pretrained=True)
    tensors = network.state_dict()
    assert torch.equal(tensors["layer0.0.weight"], published["conv1.weight"])
    assert torch.equal(tensors["layer0.1.running_var"], published["bn1.running_var"])
    rest = [key for key in published if key.startswith("layer")]
    assert len(rest) == 114 and all(torch.equal(tensors[key], published[key]) for key in rest)


def test_no_imagenet_weights_for_the_deep_stem() -> None:
    with pytest.raises(
        ValueError,
        match="'resnet18-mini' has no ImageNet weights in torchvision: ask for one of resnet50-plain",
    ):
        build_encoder("resnet18-mini", pretrained=True)


# --- keeping and finding encoders ---


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    network = build_encoder(TINY, 3, seed=1)
    save_encoder(
        tmp_path,
        network,
        {"corpus": "ytvis", "fold": 2, "base": ["cat", "dog"], "metrics": {"val_miou": 0.5}},
    )
    return tmp_path / "best.safetensors"


def test_a_checkpoint_comes_back_as_it_was(saved: Path) -> None:
    images = torch.rand(2, 3, 33, 41)
    expected = build_encoder(TINY, 3, seed=1).eval()
    for spec in (saved, str(saved), saved.parent):
        encoder = load_encoder(spec)
        assert torch.equal(encoder(images), expected(images)) and encoder(images).shape == (2, 6, 5, 6)
        assert not encoder.training and not any(p.requires_grad for p in encoder.parameters())
    page = json.loads(saved.with_suffix(".json").read_text())
    assert page["architecture"]["features"] == 6 and page["classes"] == 3 and page["base"] == ["cat", "dog"]
    assert page["metrics"] == {"val_miou": 0.5} and page["versions"]["torch"] == torch.__version__
    assert page["fingerprint"] == fingerprint(expected) and re.fullmatch("[0-9a-f]{16}", page["fingerprint"])
    assert sorted(p.name for p in saved.parent.iterdir()) == ["best.json", "best.safetensors"]


def test_a_fingerprint_notices_any_tensor() -> None:
    network = build_encoder(TINY, 3)
    seen = {fingerprint(network)}
    network.bottleneck[1].running_mean[0] += 1e-6
    seen.add(fingerprint(network))
    with torch.no_grad():
        network.classifier.bias[2] += 1
    assert len(seen | {fingerprint(network)}) == 3


def test_a_checkpoint_of_another_architecture_is_refused(saved: Path) -> None:
    with pytest.raises(ValueError, match=r"best.safetensors: holds a 'tiny' encoder, not 'resnet50'"):
        load_encoder(saved, architecture="resnet50")
    page = json.loads(saved.with_suffix(".json").read_text())
    page["architecture"]["features"] = 7
    saved.with_suffix(".json").write_text(json.dumps(page))
    with pytest.raises(
        ValueError, match=r"best.safetensors: tensors are not those of a 'tiny' encoder .*bottleneck"
    ):
        load_encoder(saved)


def test_a_checkpoint_with_changed_weights_is_refused(saved: Path) -> None:
    tensors = load_file(saved)
    tensors["classifier.bias"] += 1
    save_file(tensors, saved)
    with pytest.raises(ValueError, match="differ in fingerprint"):
        load_encoder(saved)


def test_damaged_and_missing_checkpoints_say_so(saved: Path) -> None:
    whole = saved.read_bytes()
    saved.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="tensors are not those"):
        load_encoder(saved)
    saved.with_suffix(".json").write_text("{}")
    with pytest.raises(ValueError, match="best.json: does not describe an encoder"):
        load_encoder(saved)
    saved.with_suffix(".json").unlink()
    with pytest.raises(FileNotFoundError, match="best.json"):
        load_encoder(saved)
    saved.unlink()
    for spec in (saved, saved.parent, saved.parent / "nowhere"):
        with pytest.raises((FileNotFoundError, ValueError), match=str(saved.parent)):
            load_encoder(spec)
    with pytest.raises(ValueError, match=r"last.pt: encoders are kept as .safetensors .* '.pt'"):
        load_encoder(saved.parent / "last.pt")


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("resnet5O", "resnet50"), ("Resnet101", "resnet101"), ("resnet18_mini", "resnet18-mini")],
)
def test_an_unknown_name_gets_a_suggestion(wrong: str, right: str) -> None:
    with pytest.raises(ValueError, match=f"encoder '{wrong}' is not known: did you mean '{right}'"):
        load_encoder(wrong)


def test_a_name_gives_untrained_weights_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="'resnet18-mini' has untrained weights"):
        encoder = load_encoder("resnet18-mini")
    assert encoder(torch.rand(1, 3, 17, 17)).shape == (1, 128, 3, 3)


PLUGIN = """
from __future__ import annotations
from dataclasses import dataclass

@dataclass
class Blocks:
    size: int = 8
    def __call__(self, images):
        from torch.nn.functional import avg_pool2d
        return avg_pool2d(images, self.size, ceil_mode=True)

def load():
    return Blocks()

def number():
    return 5
"""


def test_an_encoder_may_be_a_function_of_a_file_or_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_encoder.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    for spec in (f"{tmp_path}/my_encoder.py:load", "my_encoder:load"):
        assert load_encoder(spec)(torch.ones(1, 3, 17, 9)).shape == (1, 3, 3, 2)
    assert isinstance(load_encoder("torch.nn:Identity"), nn.Identity)


def test_a_wrong_plugin_is_explained(tmp_path: Path) -> None:
    file = tmp_path / "my_encoder.py"
    with pytest.raises(FileNotFoundError, match=r"my_encoder.py: no such file"):
        load_encoder(f"{file}:load")
    file.write_text(PLUGIN)
    with pytest.raises(ValueError, match="has no function 'lood'; did you mean 'load'"):
        load_encoder(f"{file}:lood")
    with pytest.raises(ValueError, match="number: returned a int"):
        load_encoder(f"{file}:number")
    with pytest.raises(ValueError, match="'no_such_package.net' cannot be imported"):
        load_encoder("no_such_package.net:load")


def test_state_files_cannot_run_code(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"network": Trap()}, tmp_path / "last.pt")
    with pytest.raises(ValueError, match="last.pt: not a training state"):
        load_state(tmp_path / "last.pt")
    assert not (tmp_path / "ran").exists()
    save_state(tmp_path / "last.pt", {"step": 3, "tensor": torch.arange(3)})
    assert load_state(tmp_path / "last.pt")["tensor"].tolist() == [0, 1, 2]

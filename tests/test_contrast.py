"""The dense contrastive loss against its construction in full, and the head in front of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ttilib.training.model import TOGETHER, ContrastHead, contrastive, known_cells, pooled


def features(seed: int, size: tuple[int, ...] = (3, 5, 4, 6), dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Two grids of features of any length."""
    rng = np.random.default_rng(seed)
    return [torch.from_numpy(rng.normal(0, 1, size)).to(dtype) for _ in range(2)]


def in_full(first: Tensor, second: Tensor, temperature: float) -> list[list[float]]:
    """Cell by cell: the best match, then all others, divided by the temperature; cross-entropy with the first."""
    rows = []
    for f, g in zip(first.flatten(2), second.flatten(2), strict=True):
        losses = []
        for i in range(f.shape[1]):
            products = [float(f[:, i].dot(g[:, j])) for j in range(g.shape[1])]
            best = products.index(max(products))
            logits = torch.tensor([products[best], *products[:best], *products[best + 1 :]], dtype=f.dtype)
            losses.append(F.cross_entropy(logits[None] / temperature, torch.tensor([0])).item())
        rows.append(losses)
    return rows


@pytest.mark.parametrize("temperature", [0.1, 1.0, 7.0])
def test_the_loss_is_its_construction(temperature: float) -> None:
    first, second = features(0)
    expected = torch.tensor(in_full(first, second, temperature), dtype=torch.float64)
    torch.testing.assert_close(contrastive(first, second, temperature), expected)


def test_by_hand() -> None:
    """Products of cell 0: 2 and 1; of cell 1: 0 and -3. The best match wins by 1 and by 3."""
    first = torch.tensor([[1.0, 0.0], [0.0, -3.0]]).reshape(1, 2, 1, 2)  # cells (1, 0) and (0, -3)
    second = torch.tensor([[2.0, 1.0], [0.0, 1.0]]).reshape(1, 2, 1, 2)  # cells (2, 0) and (1, 1)
    expected = [math.log(1 + math.exp(-1 / 0.5)), math.log(1 + math.exp(-3 / 0.5))]
    assert contrastive(first, second, 0.5)[0].tolist() == pytest.approx(expected, abs=2e-7)


@pytest.mark.parametrize("pairs", [0, 1, TOGETHER, TOGETHER + 1, 2 * TOGETHER + 1])
def test_pairs_do_not_meet(pairs: int) -> None:
    first, second = features(1, (pairs, 3, 2, 2))
    together = contrastive(first, second, 0.3)
    assert together.shape == (pairs, 4)
    for n in range(pairs):
        torch.testing.assert_close(together[n : n + 1], contrastive(first[n : n + 1], second[n : n + 1], 0.3))


def test_one_direction_only_and_lengths_matter() -> None:
    first, second = features(2)
    assert not torch.allclose(contrastive(first, second, 1.0), contrastive(second, first, 1.0))
    torch.testing.assert_close(contrastive(2 * first, second, 1.0), contrastive(first, second, 0.5))


@given(st.integers(0, 10**6), st.floats(0.05, 5))
@settings(max_examples=40, deadline=None)
def test_it_lies_between_certainty_and_chance(seed: int, temperature: float) -> None:
    first, second = features(seed, (2, 3, 3, 4))
    loss = contrastive(first, second, temperature)
    assert (loss >= 0).all() and (loss <= math.log(12) + 1e-9).all()
    shuffled = second.flatten(2)[:, :, torch.from_numpy(np.random.default_rng(seed).permutation(12))]
    torch.testing.assert_close(contrastive(first, shuffled.reshape(second.shape), temperature), loss)
    alike = contrastive(first, torch.ones_like(second), temperature)
    torch.testing.assert_close(alike, torch.full_like(alike, math.log(12)))


def test_gradients_are_true_and_reach_both_frames() -> None:
    first, second = (x.requires_grad_() for x in features(3, (1, 2, 2, 3)))
    assert torch.autograd.gradcheck(lambda a, b: contrastive(a, b, 0.7), (first, second))


def test_a_step_against_the_gradient_makes_matches_clearer() -> None:
    first, second = (x.requires_grad_() for x in features(4))
    loss = contrastive(first, second, 1.0).mean()
    a, b = torch.autograd.grad(loss, (first, second))
    assert contrastive(first - 0.1 * a, second - 0.1 * b, 1.0).mean() < loss


def test_large_products_lose_no_digits() -> None:
    """Raw products of stage-3 features are in the thousands; the loss of a near tie is not."""
    first = torch.tensor([4096.0]).reshape(1, 1, 1, 1).expand(1, 1, 1, 2)
    second = torch.tensor([64.0, 64.0 - 2**-12]).reshape(1, 1, 1, 2)  # products differ by exactly 1
    loss = contrastive(first.contiguous(), second, 0.5)
    torch.testing.assert_close(loss, torch.full((1, 2), math.log(1 + math.exp(-2))), rtol=1e-6, atol=0)
    assert contrastive(first * 1e12, second, 0.1).isfinite().all()


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_single_precision_also_under_autocast(half: torch.dtype) -> None:
    first, second = features(5, dtype=torch.float32)
    narrow = [x.to(half) for x in (first, second)]
    with torch.autocast("cpu", half):
        assert torch.equal(contrastive(first, second, 0.1), contrastive_outside(first, second))
        found = contrastive(*narrow, 0.1)
    assert found.dtype == torch.float32 and torch.equal(found, contrastive_outside(*(x.float() for x in narrow)))


def contrastive_outside(first: Tensor, second: Tensor) -> Tensor:
    """Whatever surrounds the call."""
    with torch.autocast("cpu", enabled=False):
        return contrastive(first, second, 0.1)


# --- cells, pooling, head ---


def test_known_cells_are_those_of_the_nearest_pixel_above_left() -> None:
    known = torch.zeros(2, 4, 6, dtype=torch.bool)
    known[0, 0, 0] = known[0, 2, 3] = True
    known[1, 1, 1] = known[1, 3, 5] = True  # between the cells
    assert known_cells(known, (2, 2)).tolist() == [[True, False, False, True], [False] * 4]
    assert known_cells(known, (2, 3))[0].tolist() == [True, False, False, False, False, False]
    assert known_cells(torch.ones(1, 4, 6, dtype=torch.bool), (8, 9)).all()
    assert torch.equal(known_cells(known, (4, 6)), known.flatten(1))


def test_pooling_takes_means_of_7_by_7_parts() -> None:
    x = torch.arange(14 * 21.0).reshape(1, 1, 14, 21)
    assert pooled(x).shape == (1, 1, 7, 7)
    assert pooled(x)[0, 0, 0, 0] == x[0, 0, :2, :3].mean() and pooled(x)[0, 0, 6, 2] == x[0, 0, 12:, 6:9].mean()
    assert pooled(torch.rand(2, 5, 31, 54)).shape == (2, 5, 7, 7)


def test_the_head_is_named_and_shaped_as_the_released_one() -> None:
    head = ContrastHead(6, 4)
    shapes = {name: tuple(value.shape) for name, value in head.state_dict().items()}
    norm = {f"1.{name}": (4,) for name in ("weight", "bias", "running_mean", "running_var")}
    assert shapes == {"0.weight": (4, 6, 1, 1), "3.weight": (4, 4, 1, 1), **norm, "1.num_batches_tracked": ()}
    assert head(torch.rand(2, 6, 5, 7)).shape == (2, 4, 9, 11)


def test_the_head_computes_what_it_says() -> None:
    """Padded, weighted, normalised, cut at 0, padded, weighted; the outermost ring is 0."""
    head, x = ContrastHead(3, 2).eval(), torch.rand(2, 3, 2, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        head[1].running_mean.copy_(torch.tensor([0.1, -0.2]))
        head[1].bias.copy_(torch.tensor([0.3, -0.1]))
        inner = torch.einsum("oc,nchw->nohw", head[0].weight[:, :, 0, 0], F.pad(x, (1, 1, 1, 1)))
        inner = (inner - head[1].running_mean.view(1, 2, 1, 1)) / math.sqrt(1 + 1e-5) + head[1].bias.view(1, 2, 1, 1)
        expected = torch.einsum("oc,nchw->nohw", head[3].weight[:, :, 0, 0], F.pad(inner.clamp_min(0), (1, 1, 1, 1)))
        torch.testing.assert_close(head(x), expected)
        assert not head(x)[:, :, 0].any() and head(x)[:, :, 1].any()


def test_without_projection_nothing_happens() -> None:
    head, x = ContrastHead(3, 2, project=False), torch.rand(1, 3, 2, 2)
    assert head(x) is x and not head.state_dict()


def test_padded_cells_of_the_head_do_not_disturb_what_is_known() -> None:
    """The grown map is asked for as it is: all its cells count where all of the image is known."""
    grown = ContrastHead(3, 2)(torch.rand(2, 3, 3, 4))
    known = known_cells(torch.ones(2, 17, 25, dtype=torch.bool), tuple(grown.shape[-2:]))
    assert known.shape == contrastive(grown, grown, 0.1).shape == (2, 7 * 8) and known.all()

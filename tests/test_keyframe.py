"""Keyframe refinement: which frame, what it teaches, and that the steps are those of the loss over pixels."""

import pytest
import torch
import torch.nn.functional as F
from tasks import random_task

from ttilib.solver.classifier import Classifier
from ttilib.solver.solver import cell_counts, choose_keyframe, pseudo_mask, refine


def test_the_keyframe_looks_most_like_the_reference():
    query = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])[:, :, None, None]
    pool = torch.ones(3, 1, 1)
    chosen, cosines = choose_keyframe(query, pool, torch.tensor([0.6, 0.8]))
    assert chosen == 1
    assert cosines.tolist() == pytest.approx([0.6, 0.96, 0.8])


def test_a_frame_that_predicts_nothing_is_never_the_keyframe():
    query = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])[:, :, None, None]
    pool = torch.tensor([0.0, 1.0])[:, None, None]
    assert choose_keyframe(query, pool, torch.tensor([1.0, 0.0]))[0] == 1
    assert choose_keyframe(query, torch.zeros(2, 1, 1), torch.tensor([1.0, 0.0]))[0] is None


def test_pseudo_mask_leaves_a_ring_out():
    mask = torch.zeros(30, 40, dtype=torch.bool)
    mask[15, 20] = True
    foreground, counted = pseudo_mask(mask, ring=0.2)  # the diagonal is 50, the ring 10 pixels
    assert torch.equal(foreground, mask)
    rows, columns = torch.meshgrid(torch.arange(30) - 15, torch.arange(40) - 20, indexing="ij")
    squared = rows**2 + columns**2
    assert torch.equal(counted, mask | (squared > 100))


def test_an_empty_mask_teaches_nothing():
    foreground, counted = pseudo_mask(torch.zeros(9, 9, dtype=torch.bool))
    assert not foreground.any() and not counted.any()


def test_cells_count_the_pixels_that_nearest_upsampling_gives_them():
    pixels = torch.rand(25, 33) < 0.5
    cells = torch.arange(4 * 5).view(1, 1, 4, 5).float()
    owner = F.interpolate(cells, size=(25, 33), mode="nearest")[0, 0].long()
    expected = torch.bincount(owner[pixels], minlength=20).view(4, 5).float()
    assert torch.equal(cell_counts(pixels, (4, 5)), expected)


def test_refinement_descends_the_pixel_loss():
    """Two steps against autograd on probabilities upsampled to pixels, in float64."""
    task = random_task(frames=3)
    generator = torch.Generator().manual_seed(5)
    mask = torch.rand(task.size, generator=generator) < 0.3
    counted = mask | (torch.rand(task.size, generator=generator) < 0.5)
    weight = torch.randn(3, 8, generator=generator, dtype=torch.float64)
    bias = torch.randn(3, generator=generator, dtype=torch.float64)
    grid = (4, 5)
    ours = refine(
        Classifier(weight, bias, 6.0), task.query[1], cell_counts(mask, grid), cell_counts(counted, grid),
        task.query_valid, steps=2, learning_rate=0.1,
    )  # fmt: skip
    valid = F.interpolate(task.query_valid[:, None].double(), size=task.size, mode="nearest")[:, 0] * counted
    for _ in range(2):
        weight, bias = weight.detach().requires_grad_(), bias.detach().requires_grad_()
        p = Classifier(weight, bias, 6.0).probabilities(task.query[1].expand(3, -1, -1, -1))
        p = F.interpolate(p[:, None], size=task.size, mode="nearest")[:, 0]
        log = torch.where(mask, p.log(), (1 - p).log())
        loss = (-(log * valid).sum(dim=(1, 2)) / valid.sum(dim=(1, 2))).sum()
        slope, offset = torch.autograd.grad(loss, [weight, bias])
        weight, bias = weight - 0.1 * slope, bias - 0.1 * offset
    torch.testing.assert_close(ours.weight, weight.detach(), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(ours.bias, bias.detach(), rtol=1e-8, atol=1e-10)

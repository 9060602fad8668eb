"""The closed-form gradient is the gradient of the formulas: against autograd, in float64, on random shapes."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tasks import random_task
from torch._subclasses import FakeTensorMode

from ttilib.solver import objective as module
from ttilib.solver.classifier import Classifier, prototype
from ttilib.solver.objective import Objective, Weights
from ttilib.solver.settings import SolverConfig


def both_gradients(objective: Objective, seed: int):
    generator = torch.Generator().manual_seed(seed)
    frames, channels = len(objective.task.query), objective.task.query.shape[1]
    weight = torch.randn(frames, channels, generator=generator, dtype=torch.float64) * 0.3
    bias = torch.randn(frames, generator=generator, dtype=torch.float64)
    classifier = Classifier(weight.requires_grad_(), bias.requires_grad_(), temperature=3.0)
    by_autograd = torch.autograd.grad(objective.terms(classifier).total.sum(), [weight, bias])
    with torch.no_grad():
        return by_autograd, objective.gradient(classifier)


def assert_equal(objective: Objective, seed: int = 0):
    for expected, found in zip(*both_gradients(objective, seed), strict=True):
        assert expected.abs().max() > 0
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)  # the formulas add 1e-10 in logarithms


@settings(max_examples=40)
@given(
    frames=st.integers(1, 7), shots=st.integers(1, 3), channels=st.integers(2, 9),
    grid=st.tuples(st.integers(2, 5), st.integers(2, 5)), seed=st.integers(0, 10**6),
    window=st.integers(2, 5), divisor=st.sampled_from(["batch", "video"]),
    negative=st.sampled_from(["all", "background"]), batch=st.sampled_from([None, 11]), raw=st.booleans(),
    parts=st.tuples(st.sampled_from([0.0, 0.3, 1.0, 2.5]), st.sampled_from([0.0, 0.6, 1.0])),
)  # fmt: skip
def test_gradient_is_that_of_the_formulas(
    frames, shots, channels, grid, seed, window, divisor, negative, batch, raw, parts
):
    task = random_task(frames, shots, channels, grid, seed)
    generator = torch.Generator().manual_seed(seed)
    norm = 0.5 + torch.rand(task.query_valid.shape, generator=generator, dtype=torch.float64) if raw else 1.0
    task = replace(task, query_norm=norm, batch_frames=batch)
    prior = 0.05 + 0.9 * torch.rand(frames, generator=generator, dtype=torch.float64)
    config = SolverConfig(
        divisor=divisor, window=window, negative=negative, local_weight=parts[0], global_weight=parts[1]
    )
    assert_equal(Objective(task, prior, Weights(1.3, 0.7, 0.4, 0.9), config), seed)


def test_chunks_of_frames_do_not_change_the_gradient(monkeypatch):
    objective = Objective(random_task(), torch.full((5,), 0.2, dtype=torch.float64), Weights(1, 1, 1, 1))
    _, at_once = both_gradients(objective, 3)
    monkeypatch.setattr(module, "CACHE_BYTES", 1)
    for found, expected in zip(both_gradients(objective, 3)[1], at_once, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


def test_saturated_probabilities_give_finite_gradients():
    prior = torch.tensor([0.0, 1.0, 0.5, 0.5, 0.5])
    objective = Objective(random_task(dtype=torch.float32), prior, Weights(1, 1, 1, 1))
    for bias in (1e4, -1e4):
        classifier = Classifier(torch.ones(5, 8), torch.full((5,), bias))
        assert all(gradient.isfinite().all() for gradient in objective.gradient(classifier))
        assert objective.terms(classifier).total.isfinite().all()


@pytest.mark.parametrize("negative", ["all", "background"])
def test_everything_stays_on_the_device_of_the_features(negative):
    """On a fake GPU, whose tensors have no values and cannot be used together with those of the CPU."""
    task = random_task()
    with FakeTensorMode():
        fake = {
            name: torch.empty(value.shape, dtype=value.dtype, device="cuda")
            for name, value in vars(task).items() if isinstance(value, torch.Tensor)
        }  # fmt: skip
        task = replace(task, **fake)
        weight, bias, prior = (task.query.new_empty(shape) for shape in ((5, 8), 5, 5))
        objective = Objective(task, prior, Weights(1, 1, 1, 1), SolverConfig(negative=negative))
        classifier = Classifier(weight, bias)
        results = (*objective.gradient(classifier), objective.terms(classifier).total, prototype(task))
    assert all(each.is_cuda for each in results)

"""The start of the optimization: the prototype, and both rules for the bias, against sums over single cells."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tasks import random_task

from ttilib.solver.classifier import Classifier, prototype, start


@pytest.fixture
def task():
    return random_task(frames=6, dtype=torch.float32)


def test_the_start_as_released_is_the_pooled_prototype_and_the_mean_score_with_padding(task):
    foreground = task.support.movedim(1, -1)[task.support_masks & task.support_valid]
    assert len({int(shot.sum()) for shot in task.support_masks & task.support_valid}) == 2  # pooled is not averaged
    torch.testing.assert_close(prototype(task), foreground.mean(dim=0))
    weight = prototype(task).expand(6, -1).contiguous()
    bias = Classifier(weight, torch.zeros(6), 20.0).scores(task.query).mean(dim=(1, 2))
    for found in (start(task), start(task, 20.0, "query-mean"), start(task, midpoint=0.9), start(task, midpoint=None)):
        assert torch.equal(found.weight, weight) and torch.equal(found.bias, bias)


def mean_scores(task, temperature):
    """Mean score of the support's background and of its foreground under the prototype, cell by cell."""
    sums, counts, direction = [0.0, 0.0], [0, 0], prototype(task)
    for k, y, x in task.support_valid.nonzero().tolist():
        side, feature = int(task.support_masks[k, y, x]), task.support[k, :, y, x]
        cosine = sum(a * b for a, b in zip(feature.tolist(), direction.tolist(), strict=True))
        sums[side] += temperature * cosine / (feature.norm() * direction.norm()).item()
        counts[side] += 1
    return [total / count for total, count in zip(sums, counts, strict=True)]


@given(
    st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 6), st.one_of(st.none(), st.floats(0, 1.5)),
    st.sampled_from([5.0, 20.0]),
)  # fmt: skip
def test_the_bias_from_the_support_lies_between_background_and_foreground(seed, shots, frames, midpoint, temperature):
    """b = z0 + midpoint (z1 - z0) for every frame; the weight stays the prototype."""
    task = random_task(frames, shots, seed=seed)
    background, foreground = mean_scores(task, temperature)
    share = 1 / 2 - 1 / (5 * shots) if midpoint is None else midpoint
    found = start(task, temperature, "support-midpoint", midpoint)
    expected = torch.full((frames,), background + share * (foreground - background), dtype=torch.float64)
    torch.testing.assert_close(found.bias, expected, rtol=1e-9, atol=1e-9)
    assert torch.equal(found.weight, prototype(task).expand(frames, -1)) and found.temperature == temperature

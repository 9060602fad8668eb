"""The start of the optimization: the prototype, and both rules for the bias, against sums over single cells."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from tasks import random_task

from ttilib.solver.classifier import Classifier, prototype, start


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
    """b = z0 + midpoint (z1 - z0) for every frame; as released it is the mean score of the query with its padding."""
    task = random_task(frames, shots, seed=seed)
    background, foreground = mean_scores(task, temperature)
    share = 1 / 2 - 1 / (5 * shots) if midpoint is None else midpoint
    found = start(task, temperature, "support-midpoint", midpoint)
    expected = torch.full((frames,), background + share * (foreground - background), dtype=torch.float64)
    torch.testing.assert_close(found.bias, expected, rtol=1e-9, atol=1e-9)
    pooled = task.support.movedim(1, -1)[task.support_masks & task.support_valid].mean(dim=0)  # over all shots
    torch.testing.assert_close(found.weight, pooled.expand(frames, -1))
    released = start(task, temperature, midpoint=midpoint)
    scores = Classifier(found.weight, torch.zeros(frames).double(), temperature).scores(task.query)
    assert torch.equal(released.weight, found.weight) and found.temperature == temperature
    torch.testing.assert_close(released.bias, scores.mean(dim=(1, 2)))

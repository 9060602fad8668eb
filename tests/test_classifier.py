"""The start of the optimization: the prototype, and both rules for the bias, against sums over single cells."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from tasks import random_task

from ttilib.solver.classifier import Classifier, prototype, start


@given(
    st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 6), st.one_of(st.none(), st.floats(0, 1.5)),
    st.sampled_from([5.0, 20.0]),
)  # fmt: skip
def test_the_bias_lies_between_the_background_of_the_support_and_the_best_of_the_query(
    seed, shots, frames, midpoint, temperature
):
    """b = z0 + midpoint (z1 - z0) for every frame; as released it is the mean score of the query with its padding."""
    task = random_task(frames, shots, seed=seed)

    def scores_of(features, chosen):
        return temperature * torch.cosine_similarity(features.movedim(1, -1)[chosen], prototype(task)[None], dim=1)

    background = scores_of(task.support, task.support_valid & ~task.support_masks).mean()
    query = scores_of(task.query, task.query_valid).sort(descending=True).values
    share = 1 / 2 - 1 / (10 * shots) if midpoint is None else midpoint
    found = start(task, temperature, "query-top", midpoint)
    expected = background + share * (query[int(0.02 * len(query))] - background)
    torch.testing.assert_close(found.bias, expected.expand(frames), rtol=1e-9, atol=1e-9)
    pooled = task.support.movedim(1, -1)[task.support_masks & task.support_valid].mean(dim=0)  # over all shots
    torch.testing.assert_close(found.weight, pooled.expand(frames, -1))
    released = start(task, temperature, midpoint=midpoint)
    scores = Classifier(found.weight, torch.zeros(frames).double(), temperature).scores(task.query)
    assert torch.equal(released.weight, found.weight) and found.temperature == temperature
    torch.testing.assert_close(released.bias, scores.mean(dim=(1, 2)))

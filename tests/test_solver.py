"""The optimization: its schedule, what each method depends on, keyframe refinement, and input at the edge."""

from dataclasses import replace

import pytest
import torch
from tasks import random_task

from ttilib.solver import solver
from ttilib.solver.classifier import prototype, start
from ttilib.solver.losses import marginal
from ttilib.solver.settings import CONFIGS, SolverConfig
from ttilib.solver.solver import choose_keyframe, iterate, solve

KEYFRAME = CONFIGS["TTI+keyframe"]


@pytest.fixture
def task():
    return random_task(frames=6, dtype=torch.float32)


def test_as_released_there_are_49_steps_and_one_prior_update_after_the_ninth(task):
    states, solution = list(iterate(task)), solve(task)
    assert [state.step for state in states] == list(range(50))
    for state in states:
        late = state.step >= 9
        assert state.objective.weights == (1.0, 0.5 + late, 0.5, 0.5 * late)
        p = states[9 if late else 0].classifier.probabilities(task.query)
        assert torch.equal(state.prior, marginal(p, task.query_valid))
    assert torch.equal(states[0].classifier.bias, start(task).bias) and len(solution.history) == 50
    assert torch.equal(solution.classifier.weight, states[-1].classifier.weight)


def test_an_oracle_prior_stays_and_switches_the_temporal_terms_off_as_released(task):
    prior = torch.full((6,), 0.25)
    states = list(iterate(task, prior=prior))
    assert all(torch.equal(state.prior, prior) for state in states)
    assert {tuple(state.objective.weights) for state in states} == {(1.0, 0.5, 0.5, 0.0)}
    with_temporal = list(iterate(task, SolverConfig(temporal_start=9), prior))
    assert [state.objective.weights.temporal for state in with_temporal] == [0.0] * 9 + [0.5] * 41
    with pytest.raises(ValueError, match=r"the prior is \[1.5, .*; give a proportion in \[0, 1\] for each of 6"):
        solve(task, prior=6 * prior)


@pytest.mark.parametrize("method", ["fine-tune", "RePRI"])
def test_fine_tune_and_repri_solve_every_frame_on_its_own(task, method):
    alone = solve(replace(task, query=task.query[2:3], query_valid=task.query_valid[2:3]), CONFIGS[method])
    together = solve(task, CONFIGS[method])
    torch.testing.assert_close(together.classifier.weight[2:3], alone.classifier.weight)
    torch.testing.assert_close(together.classifier.bias[2:3], alone.classifier.bias)


def test_every_method_and_every_named_alternative_has_a_result_of_its_own(task):
    task = replace(task, batch_frames=20)
    changed = {"divisor": "video", "negative": "background", "window": 4, "local_weight": 0.0, "global_weight": 0.0}
    configs = [SolverConfig(**{name: value}) for name, value in changed.items()]
    found = [solve(task, config).classifier.weight for config in (*CONFIGS.values(), SolverConfig.frozen(), *configs)]
    for i, one in enumerate(found):
        assert all((one - other).abs().max() > 1e-6 for other in found[:i]), i


@pytest.mark.parametrize("config", [*CONFIGS.values(), SolverConfig.frozen()])
def test_a_vanished_support_is_answered_by_background_or_refused(task, config):
    padding = task.query_valid.clone()
    padding[1] = False
    task = replace(task, support_valid=~task.support_masks & task.support_valid, query_valid=padding)
    found = solve(task, config, torch.full((6,), 0.3) if config.keyframe else None)
    assert not found.probabilities().any() and found.keyframe is None and len(found.history) == 1
    assert all(torch.as_tensor(value).isfinite().all() for value in vars(found.history[0].terms()).values())
    with pytest.raises(ValueError, match=r"test/f0/blob/v0.*image0, image1"):
        solve(task, replace(config, vanished_support="refuse"))


def test_the_keyframe_is_most_similar_to_the_reference_and_has_a_prediction():
    query = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])[:, :, None, None]
    chosen, cosines = choose_keyframe(query, torch.ones(3, 1, 1), torch.tensor([0.6, 0.8]))
    assert chosen == 1 and cosines.tolist() == pytest.approx([0.6, 0.96, 0.8])
    without = torch.tensor([1.0, 0.0, 1.0])[:, None, None]
    assert choose_keyframe(query, without, torch.tensor([0.6, 0.8]))[0] == 2  # without a prediction the cosine is 0
    assert choose_keyframe(query, torch.zeros(3, 1, 1), torch.tensor([1.0, 0.0]))[0] is None


def test_the_reference_is_the_support_or_the_mean_of_the_classifiers(task, monkeypatch):
    """The prediction's features count with their length."""
    found, task = [], replace(task, query_norm=0.5 + torch.rand(task.query_valid.shape))
    choose = lambda query, weight, reference: found.append((weight, reference)) or (None, torch.zeros(6))  # noqa: E731
    monkeypatch.setattr(solver, "choose_keyframe", choose)
    for name in ("support", "global"):
        solve(task, replace(KEYFRAME, keyframe=name))
    (weight, support), (_, mean) = found
    torch.testing.assert_close([support, mean], [prototype(task), solve(task).classifier.weight.mean(dim=0)])
    assert weight.any() and torch.equal(weight, (weight > 0) * task.query_weight)


@pytest.mark.parametrize("config", [KEYFRAME, SolverConfig.frozen()])
def test_a_frame_of_padding_only_is_empty_and_does_not_disturb_the_others(task, config):
    valid, keep = task.query_valid.clone(), [0, 1, 3, 4, 5]
    valid[2] = False
    norm, prior = 0.5 + torch.rand(valid.shape), torch.linspace(0.2, 0.4, 6)
    without = replace(task, query=task.query[keep], query_valid=valid[keep], query_norm=norm[keep])
    for oracle, kept in ((None, None), (prior, prior[keep])):
        found = solve(replace(task, query_valid=valid, query_norm=norm), config, oracle)
        expected = solve(without, config, kept)
        assert not found.masks()[2].any() and found.prior[2] == 0 and found.probabilities().isfinite().all()
        torch.testing.assert_close(found.classifier.weight[keep], expected.classifier.weight)
        assert torch.equal(found.masks()[keep], expected.masks())
    with pytest.raises(ValueError, match="test/f0/blob/v0.*padding"):
        solve(replace(task, query_valid=torch.zeros_like(valid)))

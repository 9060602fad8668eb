"""The descent: its schedule, its presets, and a defined answer for input at the edge."""

from dataclasses import replace

import pytest
import torch
from tasks import random_task

from ttilib.inference.classifier import Classifier, prototype, start
from ttilib.inference.features import oracle_prior
from ttilib.inference.losses import marginal
from ttilib.inference.solver import METHODS, SolverConfig, iterate, solve


@pytest.fixture
def task():
    return random_task(frames=6, dtype=torch.float32)


def test_a_release_schedule_has_49_steps_and_one_prior_update_after_the_ninth(task):
    states = list(iterate(task))
    assert [state.step for state in states] == list(range(50))
    for state in states:
        late = state.step >= 9
        assert state.objective.weights == (1.0, 0.5 + late, 0.5, 0.5 * late)
        p = states[9 if late else 0].classifier.probabilities(task.query)
        assert torch.equal(state.prior, marginal(p, task.query_valid))


def test_solve_is_iterate_with_the_last_state_kept(task):
    solution, states = solve(task), list(iterate(task))
    assert torch.equal(solution.classifier.weight, states[-1].classifier.weight)
    assert torch.equal(solution.classifier.bias, states[-1].classifier.bias)
    assert len(solution.history) == 50


def test_each_step_goes_down_the_objective(task):
    config = SolverConfig.repri()
    totals = [state.terms().total.sum().item() for state in iterate(task, replace(config, learning_rate=0.001))]
    assert all(later < earlier for earlier, later in zip(totals[:9], totals[1:9], strict=False))


@pytest.mark.parametrize("method", ["fine-tune", "RePRI"])
def test_finetune_and_repri_solve_every_frame_by_itself(task, method):
    alone = solve(replace(task, query=task.query[2:3], query_valid=task.query_valid[2:3]), METHODS[method])
    together = solve(task, METHODS[method])
    torch.testing.assert_close(together.classifier.weight[2:3], alone.classifier.weight)
    torch.testing.assert_close(together.classifier.bias[2:3], alone.classifier.bias)


def test_tti_depends_on_the_order_of_the_frames(task):
    order = [0, 3, 1, 5, 2, 4]
    shuffled = replace(task, query=task.query[order], query_valid=task.query_valid[order])
    tti, tti_shuffled = (solve(t, METHODS["TTI"]).classifier.weight for t in (task, shuffled))
    assert (tti[order] - tti_shuffled).abs().max() > 1e-5


def test_methods_differ(task):
    masks = {name: solve(task, config).classifier.weight for name, config in METHODS.items()}
    names = list(masks)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            assert not torch.equal(masks[a], masks[b]), (a, b)


def test_an_oracle_prior_is_kept_and_switches_the_temporal_terms_off_as_released(task):
    prior = torch.full((6,), 0.25)
    states = list(iterate(task, prior=prior))
    assert all(torch.equal(state.prior, prior) for state in states)
    assert all(state.objective.weights.temporal == 0 for state in states)
    assert all(state.objective.weights.kl == 0.5 for state in states)
    asked = list(iterate(task, SolverConfig(temporal_start=9), prior))
    assert [state.objective.weights.temporal for state in asked] == [0.0] * 9 + [0.5] * 41


def test_oracle_noise_is_relative_and_clamped(task):
    truth = torch.zeros(6, *task.size, dtype=torch.bool)
    truth[:, :17] = True
    exact = oracle_prior(truth, task)
    inside = task.query_valid[:, :3].sum(dim=(1, 2)) / task.query_valid.sum(dim=(1, 2))
    torch.testing.assert_close(exact, inside)
    torch.testing.assert_close(oracle_prior(truth, task, -0.5), exact / 2)
    assert (oracle_prior(truth, task, 9.0) == 1).all()


def test_named_alternatives_change_the_result(task):
    released = solve(replace(task, batch_frames=20)).classifier.weight
    for config in (SolverConfig(divisor="video"), SolverConfig(negative="background"), SolverConfig(window=4)):
        assert (solve(replace(task, batch_frames=20), config).classifier.weight - released).abs().max() > 1e-6
    alone, per_video = solve(task).classifier, solve(task, SolverConfig(divisor="video")).classifier
    assert torch.equal(alone.weight, per_video.weight)


def test_the_temporal_term_can_be_taken_apart(task):
    released = solve(task).classifier
    both = solve(task, SolverConfig(local_weight=1.0, global_weight=1.0)).classifier
    assert torch.equal(both.weight, released.weight) and torch.equal(both.bias, released.bias)
    off = solve(task, SolverConfig(local_weight=0.0, global_weight=0.0)).classifier
    repri = solve(task, SolverConfig.repri()).classifier
    torch.testing.assert_close(off.weight, repri.weight)
    found = [repri.weight, released.weight]
    for config in (SolverConfig(local_weight=0.0), SolverConfig(global_weight=0.0), SolverConfig(local_weight=2.0)):
        states = list(iterate(task, config))
        assert {(s.objective.local_weight, s.objective.global_weight) for s in states} == {
            (config.local_weight, config.global_weight)
        }
        found.append(states[-1].classifier.weight)
    for i, a in enumerate(found):
        assert all((a - b).abs().max() > 1e-5 for b in found[i + 1 :]), i


def test_keyframe_criterion(task):
    by_support, by_mean = (solve(task, SolverConfig.tti_keyframe(c)) for c in ("support", "global"))
    assert not torch.equal(by_support.similarity, by_mean.similarity)
    assert by_support.keyframe == int(by_support.similarity.argmax())


@pytest.mark.parametrize("frames", [1, 2])
def test_a_video_shorter_than_the_window_has_no_local_term(frames):
    task = random_task(frames=frames, dtype=torch.float32)
    history = solve(task, SolverConfig.tti_keyframe()).history
    assert all(state.terms().local_temporal.abs().sum() == 0 for state in history)
    assert solve(task).probabilities().isfinite().all()


def test_support_without_foreground_names_the_episode_and_the_images(task):
    empty = replace(task, support_masks=torch.zeros_like(task.support_masks))
    with pytest.raises(ValueError, match=r"test/f0/blob/v0.*image0, image1"):
        solve(empty)


def test_one_empty_support_image_of_two_still_teaches_background(task):
    masks = task.support_masks.clone()
    masks[0] = False
    seen = task.support_valid & masks.any(dim=(1, 2))[:, None, None]
    with_background = solve(replace(task, support_masks=masks)).classifier.weight
    without = solve(replace(task, support_masks=masks, support_valid=seen)).classifier.weight
    assert (with_background - without).abs().max() > 1e-4


def test_a_frame_that_is_all_padding_is_absent_and_does_not_disturb_the_others(task):
    valid = task.query_valid.clone()
    valid[2] = False
    keep = torch.tensor([0, 1, 3, 4, 5])
    padded = solve(replace(task, query_valid=valid), SolverConfig.tti_keyframe())
    without = solve(replace(task, query=task.query[keep], query_valid=valid[keep]), SolverConfig.tti_keyframe())
    assert not padded.masks()[2].any() and padded.prior[2] == 0
    assert padded.probabilities().isfinite().all()
    torch.testing.assert_close(padded.classifier.weight[keep], without.classifier.weight)
    assert torch.equal(padded.masks()[keep], without.masks())
    with pytest.raises(ValueError, match="padding"):
        solve(replace(task, query_valid=torch.zeros_like(valid)))


def test_a_frame_without_the_object_is_solved_like_any_other(task):
    generator = torch.Generator().manual_seed(1)
    background = task.support[~task.support_masks[:, None].expand_as(task.support)].mean()
    query = task.query.clone()
    query[3] = background + 0.01 * torch.randn(query[3].shape, generator=generator)
    query[3] /= query[3].norm(dim=0, keepdim=True)
    assert solve(replace(task, query=query)).probabilities().isfinite().all()


def test_no_prediction_at_all_leaves_nothing_to_refine(task):
    """A prior of zero and no support foreground pull: every frame predicts background."""
    config = replace(SolverConfig.tti_keyframe(), learning_rate=5.0, kl_weight=50.0, temporal_weight=0.0)
    solution = solve(task, config, prior=torch.zeros(6))
    assert not solution.masks().any()
    assert solution.keyframe is None and solution.pseudo_mask is None
    assert solution.probabilities().isfinite().all()


def test_the_start_is_the_prototype_and_the_mean_score(task):
    classifier = start(task)
    foreground = task.support.movedim(1, -1)[task.support_masks & task.support_valid]
    torch.testing.assert_close(prototype(task), foreground.mean(dim=0))
    raw = Classifier(classifier.weight, torch.zeros(6)).scores(task.query)
    torch.testing.assert_close(classifier.bias, raw.mean(dim=(1, 2)))


def test_results_follow_the_inputs_type(task):
    assert solve(random_task(dtype=torch.float64)).probabilities().dtype == torch.float64
    assert solve(task).probabilities().dtype == torch.float32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_cuda_task_is_solved_there_with_the_same_result(task):
    moved = {name: value.to("cuda") for name, value in vars(task).items() if isinstance(value, torch.Tensor)}
    config = SolverConfig.tti_keyframe()
    on_gpu, on_cpu = solve(replace(task, **moved), config), solve(task, config)
    assert on_gpu.classifier.weight.is_cuda
    torch.testing.assert_close(on_gpu.probabilities().cpu(), on_cpu.probabilities(), rtol=0, atol=1e-4)

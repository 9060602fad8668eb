"""The descent: its schedule, its presets, and a defined answer for input at the edge."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tasks import random_task

from ttilib.solver.classifier import Classifier, prototype, start
from ttilib.solver.losses import marginal
from ttilib.solver.settings import CONFIGS, SolverConfig
from ttilib.solver.solver import choose_keyframe, iterate, solve
from ttilib.solver.task import oracle_prior


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
    alone = solve(replace(task, query=task.query[2:3], query_valid=task.query_valid[2:3]), CONFIGS[method])
    together = solve(task, CONFIGS[method])
    torch.testing.assert_close(together.classifier.weight[2:3], alone.classifier.weight)
    torch.testing.assert_close(together.classifier.bias[2:3], alone.classifier.bias)


def test_tti_depends_on_the_order_of_the_frames(task):
    order = [0, 3, 1, 5, 2, 4]
    shuffled = replace(task, query=task.query[order], query_valid=task.query_valid[order])
    tti, tti_shuffled = (solve(t, CONFIGS["TTI"]).classifier.weight for t in (task, shuffled))
    assert (tti[order] - tti_shuffled).abs().max() > 1e-5


def test_methods_differ(task):
    masks = {name: solve(task, config).classifier.weight for name, config in CONFIGS.items()}
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
        assert {(s.objective.config.local_weight, s.objective.config.global_weight) for s in states} == {
            (config.local_weight, config.global_weight)
        }
        found.append(states[-1].classifier.weight)
    for i, a in enumerate(found):
        assert all((a - b).abs().max() > 1e-5 for b in found[i + 1 :]), i


def test_keyframe_criterion(task):
    by_support, by_mean = (solve(task, SolverConfig.tti_keyframe(c)) for c in ("support", "global"))
    assert not torch.equal(by_support.similarity, by_mean.similarity)
    assert by_support.keyframe == int(by_support.similarity.argmax())
    before = solve(task, SolverConfig.tti())
    cells = torch.nn.functional.interpolate(before.masks()[:, None].float(), task.query.shape[-2:])[:, 0]
    for found, reference in ((by_support, prototype(task)), (by_mean, before.classifier.weight.mean(dim=0))):
        _, expected = choose_keyframe(task.query, cells * task.query_valid, reference)
        torch.testing.assert_close(found.similarity, expected)


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


def test_the_start_as_released_is_the_default_to_the_last_bit(task):
    """The mean score of all cells of a frame, padding included; a midpoint changes nothing then."""
    weight = prototype(task).expand(6, -1).contiguous()
    bias = Classifier(weight, torch.zeros(6), 20.0).scores(task.query).mean(dim=(1, 2))
    for found in (start(task), start(task, 20.0, "query-mean"), start(task, midpoint=0.9), start(task, midpoint=None)):
        assert torch.equal(found.weight, weight) and torch.equal(found.bias, bias)
    assert SolverConfig().bias_start == "query-mean" and next(iterate(task)).classifier.bias.equal(bias)
    released, named = solve(task), solve(task, SolverConfig(bias_start="query-mean", midpoint=0.2))
    assert torch.equal(named.classifier.weight, released.classifier.weight)
    assert torch.equal(named.classifier.bias, released.classifier.bias)


def mean_scores(task, temperature=20.0):
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
def test_the_bias_starts_on_the_way_from_background_to_foreground(seed, shots, frames, midpoint, temperature):
    """b = z0 + midpoint (z1 - z0), the same for every frame; the weight stays the prototype."""
    task = random_task(frames, shots, seed=seed)
    background, foreground = mean_scores(task, temperature)
    share = 1 / 2 - 1 / (5 * shots) if midpoint is None else midpoint
    found = start(task, temperature, "support-midpoint", midpoint)
    expected = torch.full((frames,), background + share * (foreground - background), dtype=torch.float64)
    torch.testing.assert_close(found.bias, expected, rtol=1e-9, atol=1e-9)
    assert len(set(found.bias.tolist())) == 1 and found.temperature == temperature
    assert torch.equal(found.weight, prototype(task).expand(frames, -1))


@pytest.mark.parametrize(("shots", "share"), [(1, 0.3), (2, 0.4), (3, 13 / 30), (4, 0.45), (5, 0.46), (6, 7 / 15)])
def test_without_a_midpoint_it_allows_for_how_many_shots_there_are(shots, share):
    task = random_task(shots=shots)
    found, told = (start(task, 20.0, "support-midpoint", midpoint).bias for midpoint in (None, share))
    torch.testing.assert_close(found, told, rtol=1e-12, atol=1e-12)
    assert not torch.equal(found, start(task, 20.0, "support-midpoint").bias)
    half = start(task, 20.0, "support-midpoint", 0.5).bias
    assert torch.equal(half, start(task, 20.0, "support-midpoint").bias)


def test_the_query_has_no_say_in_a_start_from_the_support(task):
    other = random_task(frames=6, dtype=torch.float32, seed=5)
    swapped = replace(task, query=other.query, query_valid=other.query_valid)
    found, again = (start(each, 20.0, "support-midpoint", None).bias for each in (task, swapped))
    assert torch.equal(found, again) and not torch.equal(start(task).bias, start(swapped).bias)
    assert found.dtype == torch.float32 and found.is_contiguous() and found.stride() == (1,)


def test_support_cells_that_do_not_count_have_no_say_either(task):
    support = torch.where(task.support_valid[:, None], task.support, -task.support.roll(1, 1))
    assert not torch.equal(support, task.support)
    found = start(replace(task, support=support), 20.0, "support-midpoint", None).bias
    assert torch.equal(found, start(task, 20.0, "support-midpoint", None).bias)


def test_a_support_without_background_starts_from_its_foreground(task):
    everything = replace(task, support_masks=torch.ones_like(task.support_masks))
    scores = Classifier(prototype(everything)[None], torch.zeros(1)).scores_on(task.support)[:, 0]
    expected = scores[task.support_valid].mean().expand(6)
    for midpoint in (None, 0.0, 0.5, 1.0):
        torch.testing.assert_close(start(everything, 20.0, "support-midpoint", midpoint).bias, expected)
    assert solve(everything, SolverConfig.frozen()).probabilities().isfinite().all()


def test_the_descent_begins_where_the_configuration_says(task):
    for midpoint in (None, 0.1, 0.5):
        config = SolverConfig(bias_start="support-midpoint", midpoint=midpoint, temperature=10.0)
        state, expected = next(iterate(task, config)), start(task, 10.0, "support-midpoint", midpoint)
        assert torch.equal(state.classifier.bias, expected.bias) and state.classifier.temperature == 10.0
        assert torch.equal(state.prior, marginal(expected.probabilities(task.query), task.query_valid))


@pytest.mark.parametrize("oracle", [False, True])
def test_temporal_terms_can_act_from_the_first_step(task, oracle):
    prior = torch.full((6,), 0.25) if oracle else None
    states = list(iterate(task, SolverConfig(temporal_start=0), prior))
    assert {state.objective.weights.temporal for state in states} == {0.5}
    assert [state.objective.weights.kl for state in states] == [0.5 if oracle or n < 9 else 1.5 for n in range(50)]
    released = list(iterate(task, SolverConfig(), prior))
    assert released[0].objective.weights.temporal == 0.0
    assert torch.equal(released[0].classifier.bias, states[0].classifier.bias)
    assert not torch.equal(released[1].classifier.weight, states[1].classifier.weight)


def test_the_solver_for_frozen_encoders_differs_from_the_release_in_three_settings(task):
    changes = {"bias_start": "support-midpoint", "midpoint": None, "temporal_start": 0}
    assert vars(SolverConfig.frozen()) == {**vars(SolverConfig()), **changes}
    assert "frozen" not in CONFIGS  # it is one of the methods only with what is around it
    solution = solve(task, SolverConfig.frozen())
    assert (solution.classifier.weight - solve(task).classifier.weight).abs().max() > 1e-3
    assert len(solution.history) == 50


def test_a_frame_that_is_all_padding_is_absent_under_a_start_from_the_support_too(task):
    valid = task.query_valid.clone()
    valid[2] = False
    keep = [0, 1, 3, 4, 5]
    padded = solve(replace(task, query_valid=valid), SolverConfig.frozen())
    without = solve(replace(task, query=task.query[keep], query_valid=valid[keep]), SolverConfig.frozen())
    assert not padded.masks()[2].any() and torch.equal(padded.masks()[keep], without.masks())


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

"""A method text determines what is solved; anything else is refused with the most similar name."""

import re
from dataclasses import fields, replace
from unittest.mock import Mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tasks import random_task, toy_encoder

from ttilib.episodes.clips import synthetic_clip
from ttilib.solver.classifier import Classifier
from ttilib.solver.edges import grabcut_refine, guided_filter
from ttilib.solver.extraction import FeatureExtractor
from ttilib.solver.methods import FROZEN, METHODS, ORACLE, TransductiveMethod, read_method, refine_masks
from ttilib.solver.settings import CONFIGS, PipelineConfig, SolverConfig
from ttilib.solver.solver import Solution, iterate, solve
from ttilib.solver.task import extract, oracle_prior

SETTINGS = [field.name for part in (SolverConfig, PipelineConfig) for field in fields(part)]
PLAIN = PipelineConfig()


# --- from text ---


@pytest.mark.parametrize("name", CONFIGS)
def test_a_name_alone_is_the_method_of_that_name(name):
    assert read_method(name) is METHODS[name]
    assert METHODS[name] == TransductiveMethod(name, CONFIGS[name], PLAIN)


@pytest.mark.parametrize(
    ("text", "config", "pipeline"),
    [
        ("TTI window=5 temporal_weight=0.5", SolverConfig(window=5, temporal_weight=0.5), PLAIN),
        ("RePRI temporal_weight=None", SolverConfig(), PLAIN),
        ("TTI prior_update=none temporal_start=9", SolverConfig(prior_update=None, temporal_start=9), PLAIN),
        ("TTI divisor=video negative=background", SolverConfig(divisor="video", negative="background"), PLAIN),
        ("TTI layers=layer2+layer3.5 layer_weights=0.7+1", SolverConfig(),
         PipelineConfig(layers=("layer2", "layer3.5"), layer_weights=(0.7, 1.0))),
        ("RePRI guided=0.05 guided_eps=1e-4 cut=0.02", CONFIGS["RePRI"],
         PipelineConfig("none", (), (), 0.05, 1e-4, 0.02)),
        ("frozen centring=none window=5 midpoint=0.5", replace(SolverConfig.frozen(), window=5, midpoint=0.5),
         replace(FROZEN, centring="none")),
    ],
)  # fmt: skip
def test_settings_of_solver_and_pipeline_stand_side_by_side(text, config, pipeline):
    method = read_method(text)
    assert (method.name, method.config, method.pipeline) == (text, config, pipeline)
    for found, expected in ((method.config, config), (method.pipeline, pipeline)):
        assert [type(value) for value in vars(found).values()] == [type(value) for value in vars(expected).values()]


def test_every_setting_can_be_set_to_its_own_value():
    assert len(SETTINGS) == len(set(SETTINGS))  # none belongs to both
    for method in (METHODS["TTI"], METHODS["frozen"]):
        for field in SETTINGS:
            value = (vars(method.config) | vars(method.pipeline))[field]
            text = f"{method.name} {field}={'none' if value in (None, ()) else value}"
            assert read_method(text) == replace(method, name=text)


@given(st.sampled_from(["ce_weight", "kl_weight", "ring", "cut", "layer_weights"]), st.floats(0, 1))
def test_numbers_survive_as_text(field, value):
    method = read_method(f"TTI {field}={value!r}")
    assert (vars(method.config) | vars(method.pipeline))[field] in (value, (value,))


def test_the_name_is_the_text_with_single_spaces():
    method = read_method("  TTI \t window = 5\n steps=7 ")
    assert method.name == "TTI window=5 steps=7" and read_method(method.name) == method


def test_any_method_can_have_an_oracle_prior():
    expected = TransductiveMethod("oracle noise=0.2", ORACLE, PLAIN, "oracle", 0.2)
    assert read_method("oracle noise=0.2") == expected
    text = "frozen prior=oracle noise=-0.5"
    assert read_method(text) == TransductiveMethod(text, SolverConfig.frozen(), FROZEN, "oracle", -0.5)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("tti", r"did you mean TTI\?"),
        ("", "choose one of .*frozen"),
        ("TTI windw=5", r"did you mean window\?"),
        ("TTI window", "'window' is not a setting"),
        ("TTI window=3 window=5", "window is given twice"),
        ("TTI window=2.5", "window=2.5"),
        ("TTI noise=0.1", "noise"),
        ("oracle noise=-1.5", "noise=-1.5"),
    ],
)
def test_other_texts_are_refused_in_one_sentence(text, word):
    with pytest.raises(ValueError, match=f"^method {re.escape(repr(text))}: .*{word}") as caught:
        read_method(text)
    assert "\n" not in str(caught.value)


# --- predict ---


@pytest.mark.parametrize(
    "text", ["TTI+keyframe steps=5", "frozen centring=episode steps=5", "oracle noise=-0.2 steps=5"]
)
def test_predict_extracts_solves_and_refines(text):
    clip, method = synthetic_clip(frames=4, size=(65, 97)), read_method(text)
    found = method.predict(clip, FeatureExtractor(toy_encoder), clip.truth)
    task = FeatureExtractor(toy_encoder).task(clip, method.pipeline)
    solution = solve(task, method.config, oracle_prior(clip.truth, task, -0.2) if method.prior else None)
    assert torch.equal(found.masks, refine_masks(solution, clip, method.pipeline))
    assert found.masks.shape == (4, *clip.size) and found.solution.keyframe == solution.keyframe


@pytest.mark.parametrize("name", [*CONFIGS, "frozen centring=episode"])
def test_only_an_oracle_uses_the_ground_truth(name):
    clip, method = synthetic_clip(frames=3, size=(65, 97)), read_method(f"{name} steps=3")
    found = [
        method.predict(replace(clip, truth=None), FeatureExtractor(toy_encoder), truth).masks
        for truth in (clip.truth, ~clip.truth, None)
    ]
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_an_oracle_without_ground_truth_names_the_episode_before_extraction():
    with pytest.raises(ValueError, match=r"episode synthetic/0: oracle noise=0.2 needs the ground truth"):
        read_method("oracle noise=0.2").predict(synthetic_clip(), FeatureExtractor(Mock(side_effect=AssertionError)))


def test_the_oracle_of_repri_takes_299_steps_towards_the_true_proportion():
    task = random_task(frames=6, grid=(8, 9), dtype=torch.float32, noise=0.9)
    truth = torch.zeros(6, *task.size, dtype=torch.bool)
    truth[:-1, : task.size[0] // 2] = True
    prior = oracle_prior(truth, task)
    states = list(iterate(task, ORACLE, prior))
    assert len(states) == 300 and {tuple(s.objective.weights) for s in states} == {(1.0, 1.0, 0.1, 0.0)}
    without = solve(task, CONFIGS["RePRI"]).history[-1]
    errors = [(state.terms().marginal - prior).abs()[:-1].mean() for state in (states[-1], without)]
    assert errors[0] < 0.9 * errors[1]


# --- after the solver ---


def test_masks_are_refined_by_what_the_pipeline_has():
    """Radii are fractions of the diagonal, which is 70.2 pixels here."""
    clip = synthetic_clip(frames=3, size=(41, 57))
    solution = solve(extract(toy_encoder, clip), SolverConfig(steps=5))
    smooth = {eps: guided_filter(solution.probabilities(), clip.query, 4, eps) > 0.5 for eps in (1e-3, 1e-1)}
    expected = {
        PLAIN: solution.masks(),
        PipelineConfig(guided_eps=0.1): solution.masks(),
        PipelineConfig(guided=0.06): smooth[1e-3],
        PipelineConfig(guided=0.06, guided_eps=0.1): smooth[1e-1],
        PipelineConfig(cut=0.13): grabcut_refine(solution.masks(), clip.query, 9),
        PipelineConfig(guided=0.06, guided_eps=0.1, cut=0.07): grabcut_refine(smooth[1e-1], clip.query, 5),
        PipelineConfig(guided=1e-4): guided_filter(solution.probabilities(), clip.query, 1) > 0.5,  # at least 1 pixel
        PipelineConfig("pool", ("a", "b"), (1.0, 2.0), cut=1e-4): grabcut_refine(solution.masks(), clip.query, 1),
    }
    for pipeline, masks in expected.items():
        assert torch.equal(refine_masks(solution, clip, pipeline), masks), pipeline
    assert torch.equal(refine_masks(solution, clip), solution.masks())
    assert len({masks.numpy().tobytes() for masks in expected.values()}) >= 6


@pytest.mark.parametrize(("size", "pixels"), [((121, 213), 8), ((41, 81), 3)])
def test_radii_scale_with_the_network_size(size, pixels):
    generator = torch.Generator().manual_seed(0)
    scores = 8 * torch.rand(1, 5, 9, generator=generator)
    solution = Solution(Classifier(torch.ones(1, 2), scores.median()[None]), torch.ones(1), scores, size, ())
    clip = replace(synthetic_clip(frames=1, size=size), query=torch.rand(1, 3, *size, generator=generator))
    smooth = guided_filter(solution.probabilities(), clip.query, pixels) > 0.5
    found = refine_masks(solution, clip, PipelineConfig(guided=0.033, cut=0.033))
    assert torch.equal(found, grabcut_refine(smooth, clip.query, pixels))

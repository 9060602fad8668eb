"""A method text determines what is solved; anything else is refused with the most similar name."""

import re
from dataclasses import replace
from unittest.mock import Mock

import pytest
import torch
from tasks import toy_encoder

from ttilib.episodes.clips import synthetic_clip
from ttilib.solver.edges import colour_refine, guided_filter
from ttilib.solver.extraction import FeatureExtractor
from ttilib.solver.methods import FROZEN, METHODS, ORACLE, TransductiveMethod, check_means, read_method, refine_masks
from ttilib.solver.settings import CONFIGS, PipelineConfig, SolverConfig
from ttilib.solver.solver import solve
from ttilib.solver.task import extract, oracle_prior

PLAIN = PipelineConfig()


@pytest.mark.parametrize(
    ("text", "config", "pipeline"),
    [
        ("RePRI temporal_weight=None", SolverConfig(), PLAIN),
        ("TTI prior_update=none temporal_start=9", SolverConfig(prior_update=None, temporal_start=9), PLAIN),
        ("TTI layers=layer2+layer3.5 layer_weights=0.7+1", SolverConfig(),
         PipelineConfig(layers=("layer2", "layer3.5"), layer_weights=(0.7, 1.0))),
        ("RePRI guided=0.05 guided_eps=1e-4 cut=0.02", CONFIGS["RePRI"],
         PipelineConfig(guided=0.05, guided_eps=1e-4, cut=0.02)),
        ("frozen centring=none window=5 midpoint=0.5", replace(SolverConfig.frozen(), window=5, midpoint=0.5),
         replace(FROZEN, centring="none")),
    ],
)  # fmt: skip
def test_settings_of_solver_and_pipeline_stand_side_by_side(text, config, pipeline):
    method = read_method(text)
    assert (method.name, method.config, method.pipeline) == (text, config, pipeline)
    for found, expected in ((method.config, config), (method.pipeline, pipeline)):
        assert [type(value) for value in vars(found).values()] == [type(value) for value in vars(expected).values()]


def test_a_name_alone_is_the_method_and_any_method_can_have_an_oracle_prior():
    assert all(read_method(name) is METHODS[name] for name in METHODS)
    assert all(METHODS[name] == TransductiveMethod(name, config, PLAIN) for name, config in CONFIGS.items())
    assert read_method("oracle noise=0.2") == TransductiveMethod("oracle noise=0.2", ORACLE, PLAIN, "oracle", 0.2)
    method, text = read_method("  frozen \t prior = oracle\n noise=-0.5 "), "frozen prior=oracle noise=-0.5"
    assert method == read_method(text) == TransductiveMethod(text, SolverConfig.frozen(), FROZEN, "oracle", -0.5)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("tti", r"did you mean TTI\?"), ("", "choose one of .*frozen"), ("TTI windw=5", r"did you mean window\?"),
        ("TTI window=3 window=5", "window is given twice"), ("TTI noise=0.1", "noise"),
    ],
)  # fmt: skip
def test_other_texts_are_refused_in_one_sentence(text, word):
    with pytest.raises(ValueError, match=f"^method {re.escape(repr(text))}: .*{word}") as caught:
        read_method(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["TTI+keyframe steps=5", "frozen centring=episode steps=5", "oracle noise=-0.2 steps=5"]
)
def test_predict_extracts_solves_and_refines_and_only_an_oracle_uses_the_ground_truth(text):
    clip, method = synthetic_clip(frames=4, size=(65, 97)), read_method(text)
    found = method.predict(clip, FeatureExtractor(toy_encoder), clip.truth)
    task = FeatureExtractor(toy_encoder).task(clip, method.pipeline)
    solution = solve(task, method.config, oracle_prior(clip.truth, task, -0.2) if method.prior else None)
    assert torch.equal(found.masks, refine_masks(solution, clip, method.pipeline))
    assert found.masks.shape == (4, *clip.size) and found.solution.keyframe == solution.keyframe
    other = method.predict(replace(clip, truth=None), FeatureExtractor(toy_encoder), ~clip.truth).masks
    assert torch.equal(other, found.masks) != (method.prior == "oracle")


def test_what_cannot_be_predicted_names_method_and_episode():
    with pytest.raises(ValueError, match=r"episode synthetic/0: oracle noise=0.2 needs the ground truth"):
        read_method("oracle noise=0.2").predict(synthetic_clip(), FeatureExtractor(Mock(side_effect=AssertionError)))
    with pytest.raises(FloatingPointError, match="method 'TTI steps=2': .*synthetic/0"):
        read_method("TTI steps=2").predict(synthetic_clip(), FeatureExtractor(lambda images: 0 * images))
    check_means("own.means", [METHODS["RePRI"], METHODS["frozen"]])
    with pytest.raises(ValueError, match="own.means: .*RePRI, TTI"):
        check_means("own.means", [METHODS["RePRI"], METHODS["TTI"]])


def test_masks_are_refined_by_what_the_pipeline_has():
    """Radii are fractions of the diagonal, which is 70.2 pixels here."""
    clip = synthetic_clip(frames=3, size=(41, 57))
    solution = solve(extract(toy_encoder, clip), SolverConfig(steps=5))
    p = solution.probabilities()
    smooth = guided_filter(p, clip.query, 4, 0.1)
    expected = {
        PLAIN: solution.masks(),
        PipelineConfig(guided=0.06): guided_filter(solution.probabilities(), clip.query, 4, 1e-3) > 0.5,
        PipelineConfig(guided=0.06, guided_eps=0.1, cut=0.07): colour_refine(smooth, clip.query, 5, 0.1),
        PipelineConfig(guided=1e-4): guided_filter(solution.probabilities(), clip.query, 1) > 0.5,  # at least 1 pixel
        PipelineConfig("pool", ("a", "b"), (1.0, 2.0), cut=1e-4): colour_refine(p, clip.query, 1, 1e-3),
    }
    for pipeline, masks in expected.items():
        assert torch.equal(refine_masks(solution, clip, pipeline), masks), pipeline
    assert len({masks.numpy().tobytes() for masks in expected.values()}) >= 4

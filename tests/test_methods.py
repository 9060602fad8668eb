"""A method's text says exactly what is solved; whatever it cannot mean is refused with the nearest that it can."""

import re
from dataclasses import dataclass, fields, replace
from typing import Literal
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tasks import random_task, toy_encoder

from ttilib.episodes.clips import synthetic_clip
from ttilib.solver.extraction import FeatureExtractor
from ttilib.solver.methods import FROZEN, METHODS, ORACLE, PipelineConfig, TransductiveMethod, read_method, refine_masks
from ttilib.solver.settings import CONFIGS, SolverConfig, check
from ttilib.solver.solver import iterate, solve
from ttilib.solver.task import oracle_prior

SETTINGS = [field.name for part in (SolverConfig, PipelineConfig) for field in fields(part)]


# --- from text ---


@pytest.mark.parametrize("name", CONFIGS)
def test_a_name_alone_is_the_method_of_that_name(name):
    assert read_method(name) is METHODS[name]
    assert METHODS[name] == TransductiveMethod(name, CONFIGS[name])
    assert METHODS[name].recipe == PipelineConfig()


@pytest.mark.parametrize(
    ("text", "config", "recipe"),
    [
        ("TTI window=5 temporal_weight=0.5", SolverConfig(window=5, temporal_weight=0.5), PipelineConfig()),
        ("RePRI temporal_weight=None", SolverConfig(), PipelineConfig()),
        ("TTI prior_update=none temporal_start=9", SolverConfig(prior_update=None, temporal_start=9), PipelineConfig()),
        ("TTI divisor=video negative=background", SolverConfig.as_written(), PipelineConfig()),
        ("TTI+keyframe keyframe=global ring=0", SolverConfig(keyframe="global", ring=0.0), PipelineConfig()),
        ("fine-tune steps=0 learning_rate=1e-3", replace(SolverConfig.finetune(), steps=0, learning_rate=0.001),
         PipelineConfig()),
        ("TTI layers=layer2+layer3.5 layer_weights=0.7+1", SolverConfig(),
         PipelineConfig(layers=("layer2", "layer3.5"), layer_weights=(0.7, 1.0))),
        ("TTI layers=none layer_weights=None", SolverConfig(), PipelineConfig()),
        ("RePRI guided=0.05 guided_eps=1e-4 cut=0.02", SolverConfig.repri(),
         PipelineConfig("none", (), (), 0.05, 1e-4, 0.02)),
        ("frozen centring=none window=5 midpoint=0.5", replace(SolverConfig.frozen(), window=5, midpoint=0.5),
         replace(FROZEN, centring="none")),
        ("frozen bias_start=query-mean temporal_start=none midpoint=0.5", SolverConfig(), FROZEN),
    ],
)  # fmt: skip
def test_settings_of_the_solver_and_of_what_is_around_it_stand_side_by_side(text, config, recipe):
    method = read_method(text)
    assert (method.name, method.config, method.recipe) == (text, config, recipe)
    for found, expected in ((method.config, config), (method.recipe, recipe)):
        assert [type(value) for value in vars(found).values()] == [type(value) for value in vars(expected).values()]
    assert all(type(each) is float for each in method.recipe.layer_weights)


def test_no_setting_belongs_to_both():
    assert len(SETTINGS) == len(set(SETTINGS))


@pytest.mark.parametrize("field", SETTINGS)
def test_every_setting_can_be_set_to_what_it_is(field):
    for base in ("TTI", "frozen"):
        method = METHODS[base]
        value = (vars(method.config) | vars(method.recipe))[field]
        text = f"{base} {field}={'none' if value in (None, ()) else value}"
        assert read_method(text) == replace(method, name=text)


@given(st.sampled_from(["ce_weight", "kl_weight", "ring", "cut", "layer_weights"]), st.floats(0, 1e15))
def test_every_number_written_is_the_number_read(field, value):
    method = read_method(f"TTI {field}={value!r}")
    assert (vars(method.config) | vars(method.recipe))[field] in (value, (value,))


def test_the_name_is_the_text_with_single_spaces_in_its_own_order():
    method = read_method("  TTI \t window = 5\n steps=7 ")
    assert method.name == "TTI window=5 steps=7"
    assert read_method(method.name) == method
    assert read_method("TTI steps=7 window=5").name != method.name


def test_any_method_can_be_an_oracle_and_any_oracle_be_wrong():
    expected = TransductiveMethod("oracle noise=0.2", ORACLE, PipelineConfig(), "oracle", 0.2)
    assert read_method("oracle noise=0.2") == expected
    text = "TTI prior=oracle noise=-0.2 temporal_start=9"
    expected = TransductiveMethod(text, SolverConfig(temporal_start=9), PipelineConfig(), "oracle", -0.2)
    assert read_method(text) == expected
    text = "frozen prior=oracle noise=0.5"
    assert read_method(text) == TransductiveMethod(text, SolverConfig.frozen(), FROZEN, "oracle", 0.5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tti", r"no method 'tti'; did you mean TTI\?"),
        ("", "no method ''; choose one of fine-tune, RePRI, TTI, TTI\\+keyframe, oracle, frozen"),
        ("TTI windw=5", r"no setting 'windw'; did you mean window\?"),
        ("TTI window", "'window' is not a setting"),
        ("TTI window=3 window=5", "window is given twice"),
        ("TTI window=2.5", "window=2.5 is not a whole number"),
        ("TTI window=none", "window=none is not a whole number"),
        ("TTI window=0", "window=0 is too small"),
        ("TTI divisor=none", "divisor=none is not known"),
        ("frozen layers=layer2+", "layers= is not a name"),
        ("frozen cut=", "cut= is not a number"),
        ("TTI noise=0.1", "noise"),
    ],
)
def test_text_that_means_nothing_is_refused_in_one_sentence(text, said):
    with pytest.raises(ValueError, match=f"^method {re.escape(repr(text))}: .*{said}") as caught:
        read_method(text)
    assert "\n" not in str(caught.value)


# --- in code: the same rules ---


@pytest.mark.parametrize(
    ("kind", "wrong", "said"),
    [
        (SolverConfig, {"window": 0}, "window=0 is too small; give a number above 0"),
        (SolverConfig, {"temperature": 0.0}, "temperature=0.0 is too small; give a number above 0"),
        (SolverConfig, {"steps": -1}, "steps=-1 is too small; give 0 or more"),
        (SolverConfig, {"ring": float("nan")}, "ring=nan is not a number"),
        (SolverConfig, {"kl_weight": float("inf")}, "kl_weight=inf is not a number"),
        (PipelineConfig, {"guided": -1}, "guided=-1 is too small; give 0 or more"),
        (PipelineConfig, {"guided_eps": 0}, "guided_eps=0 is too small; give a number above 0"),
        (PipelineConfig, {"layers": ("early", "")}, "layers= is not a name"),
        (PipelineConfig, {"layer_weights": (0.7, -1.0)}, "layer_weights=-1.0 is too small"),
        (TransductiveMethod, {"name": ""}, "name= is not a name"),
        (
            TransductiveMethod,
            {"name": "mine", "prior": "oracle", "noise": -1.5},
            "noise=-1.5 makes proportions negative",
        ),
        (TransductiveMethod, {"name": "mine", "noise": 0.1}, "noise is put on an oracle's prior only"),
    ],
)
def test_values_that_cannot_be_are_refused_where_they_are_given(kind, wrong, said):
    with pytest.raises(ValueError, match=said):
        kind(**wrong)


@dataclass
class Anything:
    """Settings of every kind; not one of the library's, whose types the tests check beforehand."""

    whole: int = 0
    number: float | None = None
    word: Literal["video", "batch"] = "video"
    names: tuple[str, ...] = ()
    other: object = None


def test_values_of_another_type_are_refused():
    check(Anything(3, 2, "batch", ("a",), dict))
    check(Anything(np.int64(3), np.float32(2)))
    for wrong, said in (
        ({"whole": 2.5}, "whole=2.5 is not a whole number"),
        ({"whole": None}, "whole=None is not a whole number"),
        ({"whole": True}, "whole=True is not a whole number"),
        ({"number": "2"}, "number=2 is not a number"),
        ({"word": "vidio"}, r"word=vidio is not known; did you mean video\?"),
        ({"word": None}, "word=None is not known"),
        ({"names": (1,)}, "names=1 is not a name"),
    ):
        with pytest.raises(ValueError, match=said):
            check(Anything(**wrong))


# --- predict ---


@pytest.mark.parametrize(
    "text", ["TTI+keyframe steps=5", "frozen centring=episode steps=5", "oracle noise=-0.2 steps=5"]
)
def test_predict_extracts_solves_and_finishes(text):
    clip, method = synthetic_clip(frames=4, size=(65, 97)), read_method(text)
    found = method.predict(clip, FeatureExtractor(toy_encoder), clip.truth)
    task = FeatureExtractor(toy_encoder).task(clip, method.recipe)
    prior = oracle_prior(clip.truth, task, -0.2) if method.prior else None
    expected = refine_masks(solve(task, method.config, prior), clip, method.recipe)
    assert torch.equal(found.masks, expected) and found.masks.shape == (4, *clip.size)
    assert found.solution.keyframe == solve(task, method.config, prior).keyframe


def test_methods_that_need_the_same_features_extract_them_once_and_count_them_each():
    clips, seen = [synthetic_clip(seed, frames=3, size=(65, 97)) for seed in (0, 1)], []
    extractor = FeatureExtractor(lambda images: seen.append(len(images) * images.any()) or toy_encoder(images))
    counted = []
    for text in ("TTI steps=1", "RePRI steps=1", "TTI centring=episode steps=1", "frozen centring=episode steps=1"):
        before = extractor.seconds
        read_method(text).predict(clips[0], extractor)
        counted.append(extractor.seconds - before)
    assert [n for n in seen if n] == [1, 3] * 3  # two recipes; the second measures a mean as well
    assert counted[0] == pytest.approx(counted[1]) and counted[2] == pytest.approx(counted[3]) and min(counted) > 0
    read_method("TTI steps=1").predict(clips[1], extractor)
    read_method("TTI steps=1").predict(clips[0], extractor)  # only the last clip is remembered
    assert [n for n in seen if n] == [1, 3] * 5


@pytest.mark.parametrize("name", [*CONFIGS, "frozen centring=episode"])
def test_only_an_oracle_comes_near_the_ground_truth(name):
    clip, method = synthetic_clip(frames=3, size=(65, 97)), read_method(f"{name} steps=3")
    found = [
        method.predict(clip, FeatureExtractor(toy_encoder), truth).masks for truth in (clip.truth, ~clip.truth, None)
    ]
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_an_oracle_without_ground_truth_names_the_episode_before_anything_is_extracted():
    with pytest.raises(ValueError, match=r"episode synthetic/0: oracle noise=0.2 needs the ground truth"):
        read_method("oracle noise=0.2").predict(synthetic_clip(), FeatureExtractor(Mock(side_effect=AssertionError)))


# --- the oracle ---


def test_the_oracle_of_repri_is_told_the_truth_and_descends_299_steps():
    assert METHODS["oracle"].prior == "oracle" and METHODS["oracle"].noise == 0.0
    states = list(iterate(random_task(shots=2), ORACLE, torch.full((5,), 0.3, dtype=torch.float64)))
    assert len(states) == 300
    assert {tuple(state.objective.weights) for state in states} == {(1.0, 1.0, 0.1, 0.0)}


def test_the_prior_of_an_oracle_is_the_true_share_of_cells_off_by_the_noise():
    task = replace(random_task(frames=3, grid=(4, 5)), query_valid=torch.ones(3, 4, 5, dtype=torch.bool))
    truth = torch.zeros(3, *task.size, dtype=torch.bool)
    truth[:-1, : task.size[0] // 2] = True
    assert torch.equal(oracle_prior(truth, task), torch.tensor([0.5, 0.5, 0.0]))  # 10 of 20 cells
    torch.testing.assert_close(oracle_prior(truth, task, -0.2), torch.tensor([0.4, 0.4, 0.0]))


def test_an_oracle_finds_the_proportion_it_was_told():
    task = random_task(frames=6, grid=(8, 9), dtype=torch.float32, noise=0.9)
    truth = torch.zeros(6, *task.size, dtype=torch.bool)
    truth[:-1, : task.size[0] // 2] = True
    prior = oracle_prior(truth, task)
    told, alone = solve(task, ORACLE, prior), solve(task, CONFIGS["RePRI"])
    off = [(s.history[-1].terms().marginal - prior).abs()[:-1].mean() for s in (told, alone)]
    assert off[0] < 0.9 * off[1], off

"""A method's text says exactly what is solved; whatever it cannot mean is refused with the nearest that it can."""

from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tasks import random_task

from ttilib.solver.methods import BASES, FROZEN, ORACLE, Method, Recipe, prior_of, read_method
from ttilib.solver.solver import METHODS, SolverConfig, iterate, solve
from ttilib.solver.task import Task


@pytest.mark.parametrize("name", METHODS)
def test_a_base_alone_is_the_method_of_that_name(name):
    assert read_method(name) == Method(name, METHODS[name], oracle=False, noise=0.0)


@pytest.mark.parametrize(
    ("text", "config"),
    [
        ("TTI window=5 temporal_weight=0.5", SolverConfig(window=5, temporal_weight=0.5)),
        ("TTI kl_weight=none", SolverConfig(kl_weight=None)),
        ("RePRI temporal_weight=None", SolverConfig()),
        ("TTI prior_update=none temporal_start=9", SolverConfig(prior_update=None, temporal_start=9)),
        ("TTI divisor=video negative=background", SolverConfig.as_written()),
        ("TTI+keyframe keyframe=global ring=0", SolverConfig(keyframe="global", ring=0.0)),
        ("TTI+keyframe keyframe=none", SolverConfig.tti()),
        ("TTI local_weight=0 global_weight=2", SolverConfig(local_weight=0.0, global_weight=2.0)),
        ("fine-tune steps=0 learning_rate=1e-3", replace(SolverConfig.finetune(), steps=0, learning_rate=0.001)),
    ],
)
def test_settings_take_the_type_of_the_solvers_field(text, config):
    found = read_method(text).config
    assert found == config
    assert [type(value) for value in vars(found).values()] == [type(value) for value in vars(config).values()]


def test_frozen_is_a_solver_and_what_is_around_it():
    assert read_method("frozen") == Method("frozen", SolverConfig.frozen(), oracle=False, noise=0.0, recipe=FROZEN)
    assert FROZEN.centring == "pool" and not FROZEN.layers and FROZEN.guided > 0 and FROZEN.cut > 0
    text = "frozen prior=oracle noise=0.5"
    assert read_method(text) == Method(text, SolverConfig.frozen(), True, 0.5, FROZEN)


@pytest.mark.parametrize("name", [name for name in BASES if name != "frozen"])
def test_around_every_other_base_nothing_is_done(name):
    assert read_method(name).recipe == Recipe()


@pytest.mark.parametrize(
    ("text", "config", "recipe"),
    [
        ("TTI centring=episode", SolverConfig(), Recipe(centring="episode")),
        ("TTI layers=layer2+layer3.5 layer_weights=0.7+1", SolverConfig(),
         Recipe(layers=("layer2", "layer3.5"), layer_weights=(0.7, 1.0))),
        ("TTI layers=bottleneck layer_weights=2", SolverConfig(),
         Recipe(layers=("bottleneck",), layer_weights=(2.0,))),
        ("TTI layers=none layer_weights=None", SolverConfig(), Recipe()),
        ("RePRI guided=0.05 guided_eps=1e-4 cut=0.02", SolverConfig.repri(), Recipe("none", (), (), 0.05, 1e-4, 0.02)),
        ("TTI bias_start=support-midpoint midpoint=0.4 cut=1",
         SolverConfig(bias_start="support-midpoint", midpoint=0.4), Recipe(cut=1.0)),
        ("frozen layers=layer2+layer3 layer_weights=0.7+1 centring=episode guided=0 cut=0", SolverConfig.frozen(),
         Recipe("episode", ("layer2", "layer3"), (0.7, 1.0), 0.0, FROZEN.guided_eps, 0.0)),
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
    assert not {field.name for field in fields(SolverConfig)} & {field.name for field in fields(Recipe)}


@given(st.lists(st.floats(0, 1e15), min_size=1, max_size=4))
def test_weights_of_layers_are_read_as_written(weights):
    assert read_method(f"TTI layer_weights={'+'.join(map(str, weights))}").recipe.layer_weights == tuple(weights)


@pytest.mark.parametrize("field", [field.name for field in fields(Recipe)])
def test_every_field_around_the_solver_can_be_set_to_what_it_is(field):
    for base in ("TTI", "frozen"):
        value = vars(BASES[base][1])[field]
        text = value if isinstance(value, str) else "none" if value == () else str(value)
        assert read_method(f"{base} {field}={text}").recipe == BASES[base][1]


def test_the_name_is_the_text_with_single_spaces_in_its_own_order():
    method = read_method("  TTI \t window = 5\n steps=7 ")
    assert method.name == "TTI window=5 steps=7"
    assert read_method(method.name) == method
    assert read_method("TTI steps=7 window=5").name != method.name


def test_the_oracle_of_repri_is_told_the_truth_and_descends_299_steps():
    method = read_method("oracle")
    assert method.oracle and method.noise == 0.0
    states = list(iterate(random_task(shots=2), method.config, torch.full((5,), 0.3, dtype=torch.float64)))
    assert len(states) == 300
    assert {tuple(state.objective.weights) for state in states} == {(1.0, 1.0, 0.1, 0.0)}


def test_any_base_can_be_an_oracle_and_any_oracle_be_wrong():
    assert read_method("oracle noise=0.2") == Method("oracle noise=0.2", ORACLE, True, 0.2)
    text = "TTI prior=oracle noise=-0.2 temporal_start=9"
    assert read_method(text) == Method(text, SolverConfig(temporal_start=9), True, -0.2)
    assert read_method("oracle prior=oracle") == Method("oracle prior=oracle", ORACLE, True, 0.0)


@given(st.sampled_from(["ce_weight", "kl_weight", "ring", "refine_learning_rate"]), st.floats(0, 1e300))
def test_every_number_written_is_the_number_read(field, value):
    assert vars(read_method(f"TTI {field}={value!r}").config)[field] == value


@pytest.mark.parametrize("field", [field.name for field in fields(SolverConfig)])
def test_every_field_of_the_solver_can_be_set_to_what_it_is(field):
    value = vars(SolverConfig())[field]
    method = read_method(f"TTI {field}={'none' if value is None else value}")
    assert method.config == SolverConfig()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tti", r"no method 'tti'; did you mean TTI\?"),
        ("RePRY window=3", r"no method 'RePRY'; did you mean RePRI\?"),
        ("", "no method ''; choose one of fine-tune, RePRI, TTI, TTI\\+keyframe, oracle, frozen"),
        ("frosen", r"no method 'frosen'; did you mean frozen\?"),
        ("window=5", "no method 'window=5'"),
        ("TTI windw=5", r"no setting 'windw'; did you mean window\?"),
        ("TTI Window=5", r"no setting 'Window'; did you mean window\?"),
        ("TTI qqq=5", "no setting 'qqq'; choose one of temperature, "),
        ("TTI window", "'window' is not a setting; write name=value"),
        ("TTI window=3 window=5", "window is given twice"),
        ("TTI window=2.5", "window=2.5 is not a whole number"),
        ("TTI window=", "window= is not a whole number"),
        ("TTI window=none", "window=none is not a whole number"),
        ("TTI steps=-1", "steps=-1 is too small; give 0 or more"),
        ("TTI window=0", "window=0 is too small; give a number above 0"),
        ("TTI temperature=0", "temperature=0 is too small"),
        ("TTI ring=wide", "ring=wide is not a number"),
        ("TTI ring=nan", "ring=nan is not a number"),
        ("TTI kl_weight=inf", "kl_weight=inf is not a number"),
        ("TTI divisor=vidio", r"divisor=vidio is not known; did you mean video\?"),
        ("TTI divisor=none", "divisor=none is not known"),
        ("TTI prior=true", "prior=true is not known; write prior=oracle"),
        ("TTI noise=0.1", "noise is put on an oracle's prior only"),
        ("oracle noise=much", "noise=much is not a number"),
        ("oracle noise=-1.5", "noise=-1.5 makes proportions negative"),
        ("TTI centring=pol", r"centring=pol is not known; did you mean pool\?"),
        ("TTI centring=None", "centring=None is not known"),
        ("TTI bias_start=support-middle", r"bias_start=support-middle is not known; .*support-midpoint"),
        ("TTI midpoint=-0.1", "midpoint=-0.1 is too small; give 0 or more"),
        ("TTI layer=layer2", r"no setting 'layer'; did you mean layers"),
        ("TTI layer_weights=a", "layer_weights=a is not a number; give one such as layer_weights=0.5"),
        ("TTI layer_weights=1+b", "layer_weights=b is not a number"),
        ("TTI layer_weights=1+", r"layer_weights=1\+ names nothing beside a \+"),
        ("TTI layers=", "layers= names nothing"),
        ("frozen layers=layer2+", r"layers=layer2\+ names nothing beside"),
        ("TTI layer_weights=0.7+-1", "layer_weights=-1 is too small; give 0 or more"),
        ("TTI layer_weights=nan", "layer_weights=nan is not a number"),
        ("frozen cut=-1", "cut=-1 is too small; give 0 or more"),
        ("frozen cut=none", "cut=none is not a number"),
        ("frozen guided=-0.01", "guided=-0.01 is too small; give 0 or more"),
        ("frozen guided_eps=0", "guided_eps=0 is too small; give a number above 0"),
        ("frozen guided_eps=inf", "guided_eps=inf is not a number"),
        ("frozen cut=0 cut=0", "cut is given twice"),
    ],
)
def test_what_it_cannot_mean_is_refused_in_one_sentence(text, said):
    with pytest.raises(ValueError, match=said) as caught:
        read_method(text)
    assert "\n" not in str(caught.value)


def truth_of(task: Task) -> torch.Tensor:
    """An object on the upper half of every frame but the last, which has none."""
    truth = torch.zeros(len(task.query), *task.size, dtype=torch.bool)
    truth[:-1, : task.size[0] // 2] = True
    return truth


def test_the_prior_of_an_oracle_is_the_true_share_of_cells_off_by_the_noise():
    task = replace(random_task(frames=3, grid=(4, 5)), query_valid=torch.ones(3, 4, 5, dtype=torch.bool))
    expected = torch.tensor([0.5, 0.5, 0.0])  # 10 of 20 cells
    assert torch.equal(prior_of(read_method("oracle"), task, truth_of(task)), expected)
    noisy = prior_of(read_method("TTI prior=oracle noise=-0.2"), task, truth_of(task))
    torch.testing.assert_close(noisy, torch.tensor([0.4, 0.4, 0.0]))


@pytest.mark.parametrize("text", [*METHODS, "TTI window=5"])
def test_no_other_method_comes_near_the_truth(text):
    task = random_task()
    assert prior_of(read_method(text), task, truth_of(task)) is None
    assert prior_of(read_method(text), task, None) is None


def test_an_oracle_without_truth_names_the_episode():
    with pytest.raises(ValueError, match=r"episode test/f0/blob/v0: oracle noise=0.2 needs the truth"):
        prior_of(read_method("oracle noise=0.2"), random_task(), None)


def test_an_oracle_finds_the_proportion_it_was_told():
    task = random_task(frames=6, grid=(8, 9), dtype=torch.float32, noise=0.9)
    truth = truth_of(task)
    method = read_method("oracle")
    prior = prior_of(method, task, truth)
    told, alone = solve(task, method.config, prior), solve(task, METHODS["RePRI"])
    off = [(s.history[-1].terms().marginal - prior).abs()[:-1].mean() for s in (told, alone)]
    assert off[0] < 0.9 * off[1], off

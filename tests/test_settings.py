"""The settings of a training run: the released ones, refusals in words, and changes by name."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, asdict, fields, replace
from typing import Any

import pytest

from ttilib.datasets.catalog import DATASETS
from ttilib.encoders.pspnet import ARCHITECTURES
from ttilib.episodes.benchmarks import BENCHMARKS, benchmark
from ttilib.training.config import BASE, CHOICES, LEAK, UNRELATED, ContrastConfig, TrainConfig, changed

RELEASED = {  # dataset: epochs, batch, frames of a clip, every so-manieth; protocol sections 1.3 and 4
    "ytvis": (10, 6, 5, 5),
    "pascal": (100, 12, 0, 1),
    "coco": (20, 12, 0, 1),
    "coco-full": (20, 12, 0, 1),
    "vspw": (10, 6, 0, 1),
}


# --- what was released ---


@pytest.mark.parametrize("corpus", RELEASED)
def test_released_settings(corpus: str) -> None:
    config = TrainConfig.released(corpus)
    assert (config.epochs, config.batch, config.clip_frames, config.every) == RELEASED[corpus]
    assert (config.optimizer, config.learning_rate, config.momentum) == ("sgd", 2.5e-3, 0.9)
    assert (config.schedule, config.last_learning_rate, config.weight_decay) == ("cosine", 1e-6, 1e-4)
    assert (config.loss, config.label_smoothing, config.foreground_weight, config.mixup) == ("ce", 0.1, 1.0, 0.0)
    assert (config.encoder, config.pretrained) == ("resnet50", "initmodel")
    assert (config.new_layers_rate, config.seed) == (1.0, 2020)
    assert (config.precision, config.contrast, config.ema, config.clip_norm) == ("fp32", None, 0.0, 0.0)
    assert (config.accumulate, config.shared_norm, config.validate_every) == (1, True, 1)
    assert config.repeats == (10 if corpus == "ytvis" else 1)


def test_the_defaults_are_the_release_on_youtube_vis() -> None:
    assert TrainConfig() == TrainConfig.released("ytvis")
    contrast = ContrastConfig()
    assert (contrast.temperature, contrast.window, contrast.videos) == (0.1, 2, BASE), "test videos only if asked for"


def test_every_benchmark_has_settings_for_what_it_is_trained_on() -> None:
    for plan in BENCHMARKS.values():
        config = TrainConfig.released(plan.trained_on)
        assert config.validation == "classes" or benchmark(config.validation).query == plan.trained_on
    assert TrainConfig.released("vspw").validation == "minivspw-val", "as the release chose its checkpoints"
    assert {TrainConfig.released(corpus).validation for corpus in set(RELEASED) - {"vspw"}} == {"classes"}


NEVER_TRAINED_ON = {"davis", "minivspw"}


def test_every_dataset_has_settings_or_is_never_trained_on() -> None:
    for name in DATASETS:
        if name in NEVER_TRAINED_ON:
            with pytest.raises(ValueError, match=f"no released settings for '{name}'"):
                TrainConfig.released(name)
        else:
            assert TrainConfig.released(name).epochs > 0, name


def test_a_corpus_without_settings_is_named() -> None:
    with pytest.raises(ValueError, match="no released settings for 'davis'; .* ytvis, pascal, coco, coco-full, vspw"):
        TrainConfig.released("davis")


def test_mini_trains_a_known_small_encoder_from_scratch() -> None:
    config = TrainConfig.mini()
    assert config.encoder in ARCHITECTURES and TrainConfig().encoder in ARCHITECTURES
    assert (config.encoder, config.pretrained, config.contrast) == ("resnet18-mini", "", None)
    assert (config.epochs, config.batch, config.every, config.clip_frames) == (3, 8, 2, 0)
    assert (config.learning_rate, config.weight_decay, config.foreground_weight) == (0.1, 5e-4, 4.0)


# --- refusals ---


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch": 1}, {"batch": 0}, {"epochs": 0}, {"every": 0}, {"repeats": 0}, {"validate_every": -1},
        {"validate_every": 0}, {"clip_frames": -1}, {"mixup": -0.1}, {"clip_norm": -1.0}, {"validation_episodes": -1},
        {"workers": -1}, {"ema": 1.0}, {"ema": -0.1}, {"label_smoothing": 1.0}, {"label_smoothing": -0.1},
        {"step_epochs": 0}, {"milestones": (0,)}, {"milestones": (40, -1)}, {"learning_rate": -1.0}, {"momentum": -0.1},
        {"learning_rate": float("nan")}, {"mixup": float("nan")}, {"label_smoothing": 0.5}, {"foreground_weight": -1.0},
        {"clip_frames": 0, "batch": 6, "accumulate": 4}, {"accumulate": 7}, {"show_every": -1}, {"seed": -1},
    ],
)  # fmt: skip
def test_settings_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"TrainConfig: .*{list(wrong)[-1].replace('accumulate', 'parts')}"):
        TrainConfig(**wrong)


@pytest.mark.parametrize(
    "wrong", [{"window": 1}, {"pairs": 0}, {"every": 0}, {"width": 0}, {"temperature": 0.0}, {"temperature": -1.0}]
)
def test_contrasts_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"ContrastConfig: .*{next(iter(wrong))}"):
        ContrastConfig(**wrong)


def test_the_least_of_everything_is_taken() -> None:
    least = dict(batch=2, epochs=1, every=1, repeats=1, validate_every=1, accumulate=1, clip_frames=0, milestones=())
    assert TrainConfig(**least, ema=0.999, label_smoothing=0.0).batch == 2
    assert ContrastConfig(window=2, pairs=1, every=1, width=1, temperature=1e-3).width == 1


@pytest.mark.parametrize(
    ("setting", "misspelt", "meant"),
    [
        ("optimizer", "sdg", "sgd"), ("optimizer", "adamx", "adam"), ("schedule", "cosinus", "cosine"),
        ("schedule", "multi_step", "multi-step"), ("loss", "ce_iou", "ce+iou"), ("precision", "fp-16", "fp16"),
        ("optimizer", "AdamW", "adamw"), ("optimizer", "SGD", "sgd"), ("precision", "FP16", "fp16"),
    ],
)  # fmt: skip
def test_misspelt_names_are_answered_with_the_nearest(setting: str, misspelt: str, meant: str) -> None:
    with pytest.raises(ValueError, match=rf"^TrainConfig: {setting} '{misspelt}' is not known; did you mean ") as error:
        TrainConfig(**{setting: misspelt})
    assert str(error.value).endswith(f"did you mean {meant}?")


def test_names_like_no_other_are_answered_with_all() -> None:
    with pytest.raises(ValueError, match="optimizer 'quick' is not known; choose one of sgd, adam, adamw"):
        TrainConfig(optimizer="quick")
    with pytest.raises(ValueError, match="ContrastConfig: features 'stage-3' is not known; did you mean stage3"):
        ContrastConfig(features="stage-3")
    with pytest.raises(ValueError, match=f"ContrastConfig: videos 'novel' .*; choose one of base, {LEAK}"):
        ContrastConfig(videos="novel")


def test_every_choice_is_a_setting_with_its_default_among_them() -> None:
    for name, known in CHOICES.items():
        owner = TrainConfig() if name in asdict(TrainConfig()) else ContrastConfig()
        assert getattr(owner, name) in known
        for value in known:
            assert getattr(replace(owner, **{name: value}), name) == value


# --- changes ---


def test_changes_by_name_leave_everything_else() -> None:
    before = TrainConfig()
    after = changed(before, {"epochs": 3, "loss": "ce+iou", "learning_rate": 1, "milestones": [5, 7]})
    assert after == replace(before, epochs=3, loss="ce+iou", learning_rate=1.0, milestones=(5, 7))
    assert isinstance(after.learning_rate, float) and before == TrainConfig()
    assert changed(before, {}) == before and changed(before, {"milestones": 30}).milestones == (30,)
    assert changed(before, {"shared_norm": False}).shared_norm is False


def test_a_change_of_the_contrast_switches_it_on() -> None:
    once = changed(TrainConfig(), {"contrast.weight": 0.5})
    assert once.contrast == ContrastConfig(weight=0.5)
    twice = changed(once, {"contrast.videos": LEAK, "epochs": 2, "contrast.pooled": True})
    assert twice.contrast == ContrastConfig(weight=0.5, videos=LEAK, pooled=True) and twice.epochs == 2
    every = changed(TrainConfig(), {"every": 3})
    assert every.contrast is None and every.every == 3, "a name without the prefix is the run's"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("epoch", "did you mean epochs?"), ("learning_rat", "did you mean learning_rate?"),
        ("contrast.wieght", "did you mean weight?"), ("contrast.epochs", ""),
        ("zzz", "choose one of encoder, pretrained, "), ("temperature", "choose one of "),
    ],
)  # fmt: skip
def test_unknown_names_are_answered_with_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(ValueError) as error:
        changed(TrainConfig(), {name: 1})
    assert str(error.value).startswith(f"setting {name!r} is not known; {hint}")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 2.5), ("epochs", "3"), ("epochs", True), ("learning_rate", "fast"), ("learning_rate", True),
        ("compile", 1), ("loss", 1), ("contrast.temperature", "cold"), ("contrast.pooled", 0), ("seed", None),
    ],
)  # fmt: skip
def test_a_value_of_another_kind_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"setting {name} is {value!r}; give "):
        changed(TrainConfig(), {name: value})


def test_a_change_is_checked_like_any_setting() -> None:
    with pytest.raises(ValueError, match="batch is 1"):
        changed(TrainConfig(), {"batch": 1})
    with pytest.raises(ValueError, match="temperature is 0.0"):
        changed(TrainConfig(), {"contrast.temperature": 0})


# --- as values ---


def test_settings_are_values_that_can_be_written_down() -> None:
    config = TrainConfig(contrast=ContrastConfig())
    assert config == TrainConfig(contrast=ContrastConfig()) and hash(config) == hash(replace(config))
    with pytest.raises(FrozenInstanceError):
        config.epochs = 3
    told = json.loads(json.dumps(asdict(config)))
    told["contrast"], told["milestones"] = ContrastConfig(**told["contrast"]), tuple(told["milestones"])
    assert TrainConfig(**told) == config


def test_settings_without_influence_are_settings() -> None:
    assert set(UNRELATED) <= {field.name for field in fields(TrainConfig)}
    assert set(UNRELATED) == {"workers", "save_seconds", "show_every"}, "anything else changes what is learned"

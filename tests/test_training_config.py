"""Settings of a training run: the released ones, invalid values, and changes by name."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import pytest

from ttilib.datasets.catalog import DATASETS
from ttilib.encoders.pspnet import ARCHITECTURES
from ttilib.episodes.benchmarks import BENCHMARKS, benchmark
from ttilib.training.config import BASE, LEAK, ContrastConfig, TrainConfig, changed

RELEASED = {  # dataset: epochs, batch, frames of a clip, frame stride, repeats; docs/protocol.md 1.3 and 4
    "ytvis": (10, 6, 5, 5, 10), "pascal": (100, 12, 0, 1, 1), "coco": (20, 12, 0, 1, 1),
    "coco-full": (20, 12, 0, 1, 1), "vspw": (10, 6, 0, 1, 1),
}  # fmt: skip


@pytest.mark.parametrize("corpus", RELEASED)
def test_released_settings(corpus: str) -> None:
    config = TrainConfig.released(corpus)
    assert (config.epochs, config.batch, config.clip_frames, config.every, config.repeats) == RELEASED[corpus]
    assert (config.optimizer, config.learning_rate, config.momentum) == ("sgd", 2.5e-3, 0.9)
    assert (config.schedule, config.last_learning_rate, config.weight_decay) == ("cosine", 1e-6, 1e-4)
    assert (config.loss, config.label_smoothing, config.foreground_weight, config.mixup) == ("ce", 0.1, 1.0, 0.0)
    assert (config.encoder, config.pretrained, config.seed) == ("resnet50", "initmodel", 2020)
    assert config.new_layers_rate == config.accumulate == config.validate_every == 1 and config.shared_norm
    assert (config.precision, config.contrast, config.ema, config.clip_norm) == ("fp32", None, 0.0, 0.0)
    assert config.validation == ("minivspw-val" if corpus == "vspw" else "classes")
    contrast = ContrastConfig()
    assert (contrast.temperature, contrast.window, contrast.videos) == (0.1, 2, BASE), "test videos only on request"


def test_every_dataset_has_settings_or_is_never_trained_on() -> None:
    for name in set(DATASETS) - set(RELEASED):
        with pytest.raises(ValueError, match=f"'{name}'.*ytvis"):
            TrainConfig.released(name)
    assert set(DATASETS) - set(RELEASED) == {"davis", "minivspw"}
    for plan in BENCHMARKS.values():
        config = TrainConfig.released(plan.trained_on)
        assert config.validation == "classes" or benchmark(config.validation).query == plan.trained_on
    assert {TrainConfig.mini().encoder, TrainConfig().encoder} <= set(ARCHITECTURES)


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        ({"epochs": 0}, "epochs"), ({"milestones": (40, 0)}, "milestones"), ({"batch": 1}, "batch"),
        ({"learning_rate": float("nan")}, "learning_rate"), ({"mixup": -0.1}, "mixup"), ({"ema": 1.0}, "ema"),
        ({"batch": 6, "accumulate": 4, "clip_frames": 0}, "accumulate"), ({"label_smoothing": 0.5}, "label_smoothing"),
        ({"contrast.window": 1}, "window"), ({"contrast.temperature": 0.0}, "temperature"),
        ({"learning_rat": 1}, "'learning_rat'.*did you mean learning_rate"), ({"contrast.wieght": 1}, "mean weight"),
        ({"contrast.epochs": 1}, "'contrast.epochs'"), ({"contrast": 1}, "'contrast'"),
    ],
)  # fmt: skip
def test_invalid_settings_are_named(wrong: dict[str, Any], found: str) -> None:
    with pytest.raises(ValueError, match=found):
        changed(TrainConfig(), wrong)


@pytest.mark.parametrize(
    ("config", "field", "value", "found"),
    [
        (TrainConfig(), "epochs", 2.5, "whole number"), (TrainConfig(), "epochs", True, "whole number"),
        (TrainConfig(), "optimizer", "sdg", "did you mean sgd"), (TrainConfig(), "compile", 1, "True or False"),
        (ContrastConfig(), "temperature", "cold", "number"), (ContrastConfig(), "pooled", "no", "True or False"),
        (ContrastConfig(), "videos", "novel", LEAK),
    ],
)  # fmt: skip
def test_values_of_another_kind_are_named(config: Any, field: str, value: Any, found: str) -> None:
    object.__setattr__(config, field, value)  # the type checker of the tests would refuse it before the library does
    with pytest.raises(ValueError, match=f"{field}={value}.*{found}"):
        config.__post_init__()


def test_changes_by_name_leave_everything_else() -> None:
    before = TrainConfig()
    after = changed(before, {"epochs": 3, "loss": "ce+iou", "learning_rate": 1, "milestones": [5, 7], "pretrained": ""})
    assert after == replace(before, epochs=3, loss="ce+iou", learning_rate=1.0, milestones=(5, 7), pretrained="")
    assert changed(before, {}) == before and changed(before, {"milestones": 30}).milestones == (30,)
    once = changed(before, {"contrast.weight": 0.5, "every": 3})
    assert once.contrast == ContrastConfig(weight=0.5) and once.every == 3, "a name without the prefix is the run's"
    twice = changed(once, {"contrast.videos": LEAK, "epochs": 2, "contrast.pooled": True})
    assert twice.contrast == ContrastConfig(weight=0.5, videos=LEAK, pooled=True) and twice.epochs == 2
    assert changed(twice, {"contrast": None}).contrast is None
    values = json.loads(json.dumps(asdict(twice)))
    values |= {"contrast": ContrastConfig(**values["contrast"]), "milestones": tuple(values["milestones"])}
    assert TrainConfig(**values) == twice

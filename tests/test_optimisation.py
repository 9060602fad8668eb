"""Steps: which weight belongs to which group, which optimizer steps, and torch's own schedules as the measure."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from ttilib.encoders.pspnet import Architecture, build_encoder
from ttilib.training.config import CHOICES, TrainConfig
from ttilib.training.model import ContrastHead, build_optimizer, parameter_groups, rate

TINY = Architecture("tiny", "basic", (1, 1, 1, 1), (8, 8, 16, 16), stem="plain", pyramid=4, features=16)
CONFIG = TrainConfig(learning_rate=0.01, new_layers_rate=10.0, weight_decay=0.1, epochs=4)


# --- groups ---


def test_every_parameter_is_in_exactly_one_group() -> None:
    network, head = build_encoder(TINY, 3), ContrastHead(16, 4)
    groups = parameter_groups(network, head, CONFIG)
    members = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(members) == sorted(id(p) for p in [*network.parameters(), *head.parameters()])
    assert len(set(members)) == len(members)


def test_the_backbone_goes_by_stages_and_new_layers_at_their_own_rate() -> None:
    network, head = build_encoder(TINY, 3), ContrastHead(16, 4)
    groups = parameter_groups(network, head, CONFIG)
    stages = [network.layer0, network.layer1, network.layer2, network.layer3, network.layer4]
    new = [network.ppm, network.bottleneck, network.classifier, head]
    assert [[id(p) for p in group["params"]] for group in groups] == [
        [id(p) for p in part.parameters()] for part in stages + new
    ]
    assert [group["scale"] for group in groups] == [1.0] * 5 + [10.0] * 4
    assert [group["lr"] for group in groups] == pytest.approx([0.01] * 5 + [0.1] * 4)


def test_without_a_head_or_with_an_empty_one_there_are_eight_groups() -> None:
    network = build_encoder(TINY, 3)
    for head in (None, ContrastHead(16, 4, project=False)):
        assert len(parameter_groups(network, head, CONFIG)) == 8
    assert {group["scale"] for group in parameter_groups(network, None, TrainConfig())} == {1.0}, "as released"


# --- optimizers ---


def stepped(config: TrainConfig, count: int = 3) -> list[torch.Tensor]:
    """A new weight and one of the backbone after some steps along gradients of 1, 2, 3, ..."""
    weights = [torch.nn.Parameter(torch.tensor([2.0], dtype=torch.float64)) for _ in range(2)]
    pairs = zip(weights, (1, 10), strict=True)
    groups = [{"params": [w], "lr": config.learning_rate * scale, "scale": scale} for w, scale in pairs]
    optimizer = build_optimizer(groups, config)
    for step in range(count):
        for weight in weights:
            weight.grad = torch.full_like(weight, step + 1.0)
        optimizer.step()
    return [weight.detach() for weight in weights]


def test_sgd_by_hand() -> None:
    """v = m v + (g + d w); w = w - r (g + d w + m v), for each group at its own rate."""
    for weight, rate_ in zip(stepped(CONFIG), (0.01, 0.1), strict=True):
        w, v = 2.0, 0.0
        for gradient in (1.0, 2.0, 3.0):
            g = gradient + 0.1 * w
            v = 0.9 * v + g
            w -= rate_ * (g + 0.9 * v)
        assert weight.item() == pytest.approx(w, rel=1e-12)


def test_without_momentum_it_is_plain_descent() -> None:
    w = 2.0
    for gradient in (1.0, 2.0):
        w -= 0.01 * (gradient + 0.1 * w)
    assert stepped(replace(CONFIG, momentum=0.0), 2)[0].item() == pytest.approx(w, rel=1e-12)


def test_adam_and_adamw_first_steps_by_hand() -> None:
    """The first step of Adam is the rate times the sign; AdamW shrinks the weight beside it, by r d w."""
    plain, new = stepped(replace(CONFIG, optimizer="adam"), 1)
    assert plain.item() == pytest.approx(2 - 0.01, abs=1e-8) and new.item() == pytest.approx(2 - 0.1, abs=1e-7)
    plain, new = stepped(replace(CONFIG, optimizer="adamw"), 1)
    assert plain.item() == pytest.approx(2 - 0.01 * 0.1 * 2 - 0.01, abs=1e-8)
    assert new.item() == pytest.approx(2 - 0.1 * 0.1 * 2 - 0.1, abs=1e-7)


@pytest.mark.parametrize("name", CHOICES["optimizer"])
def test_every_optimizer_of_the_settings_decays_all_weights_and_keeps_the_scales(name: str) -> None:
    network, config = build_encoder(TINY, 3), replace(CONFIG, optimizer=name)
    optimizer = build_optimizer(parameter_groups(network, ContrastHead(16, 4), config), config)
    assert type(optimizer).__name__.lower() == name
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.1}
    assert [group["scale"] for group in optimizer.param_groups] == [1.0] * 5 + [10.0] * 4
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01] * 5 + [0.1] * 4)
    again = build_optimizer(parameter_groups(network, ContrastHead(16, 4), config), config)
    again.load_state_dict(optimizer.state_dict())
    assert [group["scale"] for group in again.param_groups] == [1.0] * 5 + [10.0] * 4


def test_groups_change_nothing_where_all_rates_are_alike() -> None:
    """Bit for bit what one group of all parameters would learn."""
    config = replace(CONFIG, new_layers_rate=1.0)
    whole, parts = build_encoder(TINY, 3), build_encoder(TINY, 3)
    single = torch.optim.SGD(whole.parameters(), 0.01, 0.9, weight_decay=0.1, nesterov=True)
    grouped = build_optimizer(parameter_groups(parts, None, config), config)
    images = torch.rand(2, 3, 17, 17, generator=torch.Generator().manual_seed(0))
    for network, optimizer in ((whole, single), (parts, grouped)):
        network.eval()
        for _ in range(2):
            optimizer.zero_grad()
            network.logits(images).square().mean().backward()
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parts.parameters(), strict=True))


# --- rates ---


def reference(config: TrainConfig, per_epoch: int) -> list[float]:
    """The learning rates that torch's scheduler gives, stepped as the release steps it."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], config.learning_rate)
    factor, ends = config.decay_factor, list(config.milestones)
    steps = per_epoch * config.epochs
    schedule = {
        "cosine": lambda: lr_scheduler.CosineAnnealingLR(optimizer, steps, config.last_learning_rate),
        "step": lambda: lr_scheduler.StepLR(optimizer, config.step_epochs, factor),
        "multi-step": lambda: lr_scheduler.MultiStepLR(optimizer, ends, factor),
    }[config.schedule]()
    rates = []
    for step in range(1, steps + 1):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        if config.schedule == "cosine" or step % per_epoch == 0:
            schedule.step()
    return rates


@pytest.mark.parametrize("schedule", CHOICES["schedule"])
@given(
    epochs=st.integers(1, 8),
    per_epoch=st.integers(1, 5),
    ends=st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple),
    factor=st.sampled_from([0.1, 0.5, 1.0]),
)
@settings(max_examples=40, deadline=None)
def test_rates_are_those_of_torch(schedule: str, epochs: int, per_epoch: int, ends: tuple, factor: float) -> None:
    config = replace(TrainConfig(), schedule=schedule, epochs=epochs, step_epochs=ends[0], milestones=ends)
    config = replace(config, decay_factor=factor)
    found = [rate(step, per_epoch, config) for step in range(per_epoch * epochs)]
    assert found == pytest.approx(reference(config, per_epoch), rel=1e-9)


def test_half_a_cosine_by_hand() -> None:
    config = TrainConfig(epochs=10)
    assert rate(0, 4, config) == 2.5e-3
    assert rate(20, 4, config) == pytest.approx((2.5e-3 + 1e-6) / 2, rel=1e-9)
    assert rate(40, 4, config) == pytest.approx(1e-6, rel=1e-9), "the last step is one short of it"


def test_steps_by_hand() -> None:
    often = TrainConfig(schedule="step", epochs=100)
    assert [rate(3 * epoch, 3, often) for epoch in (0, 29, 30, 59, 60)] == pytest.approx(
        [2.5e-3, 2.5e-3, 2.5e-4, 2.5e-4, 2.5e-5]
    )
    assert rate(3 * 30 - 1, 3, often) == 2.5e-3, "the last step of epoch 29"
    twice = replace(often, schedule="multi-step", milestones=(40, 70))
    assert [rate(3 * epoch + 2, 3, twice) for epoch in (39, 40, 69, 70, 99)] == pytest.approx(
        [2.5e-3, 2.5e-4, 2.5e-4, 2.5e-5, 2.5e-5]
    )

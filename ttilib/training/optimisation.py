"""How far each weight goes in a step: groups of parameters, the optimizer, and the learning rate over time.

The learning rate is a function of the step alone, so a resumed run has the rate it would have had (the release starts
its schedule anew, quirk Q30). The caller multiplies it by each group's own `scale`.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import nn

from ttilib.training.settings import TrainConfig

BACKBONE = tuple(f"layer{i}" for i in range(5))


def parameter_groups(network: nn.Module, head: nn.Module | None, config: TrainConfig) -> list[dict[str, Any]]:
    """One group per stage of the backbone at the learning rate, one per new layer (and `head`) at its own multiple.

    `scale`: the multiple, 1 or `new_layers_rate`. Takes the network as built, not wrapped or compiled.
    Source: protocol section 4.
    """
    parts = dict(network.named_children()) | ({} if head is None else {"head": head})
    groups = []
    for name, part in parts.items():
        scale = 1.0 if name in BACKBONE else config.new_layers_rate
        groups.append({"params": list(part.parameters()), "lr": config.learning_rate * scale, "scale": scale})
    return [group for group in groups if group["params"]]


def build_optimizer(groups: list[dict[str, Any]], config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer of the settings over `groups`, with the same weight decay on all parameters, as released."""
    nesterov = config.momentum > 0  # torch has no look ahead without momentum
    optimizers = {
        "sgd": partial(torch.optim.SGD, momentum=config.momentum, nesterov=nesterov),
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
    }
    return optimizers[config.optimizer](groups, lr=config.learning_rate, weight_decay=config.weight_decay)


def rate(step: int, per_epoch: int, config: TrainConfig) -> float:
    """Learning rate of a step counted from 0, to be multiplied by each group's scale.

    cosine: half a cosine from `learning_rate`, reaching `last_learning_rate` at the end of the last epoch;
    step: times `decay_factor` after every `step_epochs`; multi-step: times it after each of the `milestones`.
    """
    epoch = step // per_epoch
    if config.schedule == "cosine":
        fall = (1 + math.cos(math.pi * step / (per_epoch * config.epochs))) / 2
        return config.last_learning_rate + (config.learning_rate - config.last_learning_rate) * fall
    if config.schedule == "step":
        passed = epoch // config.step_epochs
    else:
        passed = sum(epoch >= end for end in config.milestones)
    return config.learning_rate * config.decay_factor**passed

"""The cosine classifier that is fitted to an episode: one weight and one bias for every query frame."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ttilib.inference.features import Task

EPSILON = 1e-10  # the release adds it to every division and inside every logarithm


@dataclass(frozen=True)
class Classifier:
    """p(x) = sigmoid(tau cos(f(x), w_t) - b_t), one (w_t, b_t) per frame; tau is the temperature.

    Source: RePRI section 3.2; protocol section 5.1.
    """

    weight: Float[Tensor, "T C"]
    bias: Float[Tensor, " T"]
    temperature: float = 20.0

    def scores(self, features: Float[Tensor, "T C h w"]) -> Float[Tensor, "T h w"]:
        """tau cos(f, w_t) of unit features, before the bias is taken off."""
        direction = F.normalize(self.weight, dim=1)
        cosine = torch.bmm(direction[:, None], features.flatten(2))
        return self.temperature * cosine.view(len(features), *features.shape[2:])

    def probabilities(self, features: Float[Tensor, "T C h w"]) -> Float[Tensor, "T h w"]:
        """Foreground probability in [0, 1] at feature size."""
        return torch.sigmoid(self.scores(features) - self.bias[:, None, None])

    def on_support(self, task: Task) -> Float[Tensor, "K T h w"]:
        """Foreground probability of every support cell under every frame's classifier."""
        direction = F.normalize(self.weight, dim=1)
        cosine = torch.matmul(direction, task.support.flatten(2))
        logits = self.temperature * cosine - self.bias[:, None]
        return torch.sigmoid(logits).unflatten(2, task.support.shape[2:])


def prototype(task: Task) -> Float[Tensor, " C"]:
    """Mean support feature over the foreground cells of all shots together, the classifier's first weight.

    w = sum_i y_i f_i / sum_i y_i.
    Raises ValueError naming the episode and its support images when no cell is foreground.
    Source: protocol section 5.1; the shots are pooled, not averaged one by one.
    """
    foreground = task.support_masks & task.support_valid
    if not foreground.any():
        images = ", ".join(task.support_names) or f"{task.shots} unnamed"
        raise ValueError(
            f"episode {task.name}: no foreground is left in the support ({images}) at feature size "
            f"{tuple(foreground.shape[1:])}; choose support images that show more of the object"
        )
    weights = foreground * torch.as_tensor(task.support_norm, dtype=task.support.dtype)
    total = torch.einsum("kchw,khw->c", task.support, weights)
    return total / (foreground.sum() + EPSILON)


def start(task: Task, temperature: float = 20.0) -> Classifier:
    """The classifier before any step: the prototype for every frame, and a bias at each frame's mean score.

    b_t = mean of tau cos(f, w) over all cells of frame t, padding included as released, which makes the first
    foreground proportion about one half whatever the object's size.
    """
    weight = prototype(task).expand(len(task.query), -1).contiguous()
    raw = Classifier(weight, weight.new_zeros(len(weight)), temperature)
    return Classifier(weight, raw.scores(task.query).mean(dim=(1, 2)), temperature)

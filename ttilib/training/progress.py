"""Where a training run stands: what a step hands to bars, curves and logs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Where a run stands after a step; the last four are there where they were measured."""

    epoch: int  # from 1
    step: int  # from 1, over all epochs
    steps: int  # of the whole run
    loss: float  # of this step's batch
    parts: dict[str, float]  # of the loss, before they are weighted: ce, iou, contrast; in nats
    learning_rate: float  # used in this step
    seconds: float  # of work so far, earlier calls included
    waited: float  # seconds of this step spent waiting for pictures
    eta: float  # seconds still to come
    val_miou: float | None = None
    val_loss: float | None = None  # of held-out pictures, without smoothing; in nats
    train_miou: float | None = None  # of this epoch's pictures as they were trained on
    train_accuracy: float | None = None  # share of pixels
    train_class_accuracy: float | None = None  # the same, class by class

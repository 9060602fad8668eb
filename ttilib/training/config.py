"""Settings of a training run (`TrainConfig`) and of the auxiliary loss on unlabelled videos (`ContrastConfig`)."""

from __future__ import annotations

import typing
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final, Literal

from msgspec import Meta

from ttilib.files import suggest
from ttilib.solver.settings import Positive, Step, check, field_types

UNRELATED = ("workers", "save_seconds", "show_every")  # settings that do not influence the result
Number = Annotated[float, Meta(ge=0, le=1e18)]
BASE: Final = "base"
LEAK: Final = "LEAK-novel-test-videos"


@dataclass(frozen=True)
class ContrastConfig:
    """The auxiliary dense contrastive loss (DCL). Raises ValueError for invalid values.
    Source: docs/protocol.md 4 for values marked "as released".
    """

    videos: Literal["base", "LEAK-novel-test-videos"] = BASE  # LEAK: the query videos of the episodes, as released
    root: str = ""  # VSPW folder: use its videos instead; required for datasets of images
    weight: Number = 0.1  # relative to the supervised loss
    temperature: Annotated[float, Meta(gt=0, le=1e18)] = 0.1  # as released
    features: Literal["stage3", "bottleneck"] = "stage3"
    statistics: Literal["all", "features"] = "all"  # batch norm layers whose running statistics see the unlabelled
    # frames: all, as released, or those before the features
    pooled: bool = False  # average the features to 7 x 7 cells before the head; as released, no effect without
    project: bool = True  # projection head: two 1x1 convolutions, not used in episodes
    width: Annotated[int, Meta(ge=1, le=10**4)] = 128  # channels of the projection head
    window: Annotated[int, Meta(ge=2, le=1000)] = 2  # consecutive frames; the first two are compared, as released
    pairs: Annotated[int, Meta(ge=1, le=1000)] = 1  # windows per labelled sample
    every: Positive = 5  # frame stride

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class TrainConfig:
    """Settings of base training; the defaults are the released ones for YouTube-VIS. Source: docs/protocol.md 4.
    Raises ValueError for invalid values.
    """

    encoder: str = "resnet50"
    pretrained: str = "initmodel"  # folder or file of the released weights; "imagenet": torchvision's; "": random
    epochs: Annotated[int, Meta(ge=1, le=10**6)] = 10  # the limits catch typing errors, before they fill the memory
    batch: Annotated[int, Meta(ge=2, le=10**6)] = 6  # samples per step, summed over all processes
    clip_frames: Annotated[int, Meta(ge=0, le=1000)] = 5  # frames of a sample; 0: frames one by one
    every: Positive = 5  # frame stride
    frame_order: Literal["set", "time"] = "set"  # in which every n-th is taken: of Python's set, as released
    void: Literal["background", "ignored"] = "background"  # label 255 of Pascal's label maps; background as released
    repeats: Annotated[int, Meta(ge=1, le=10**4)] = 10  # clips per video and epoch; only with clip_frames
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"  # sgd with Nesterov momentum
    learning_rate: Number = 2.5e-3  # initial value
    new_layers_rate: Number = 1.0  # learning rate factor of the layers outside the backbone
    schedule: Literal["cosine", "step", "multi-step"] = "cosine"  # cosine: per step; others: times decay_factor
    last_learning_rate: Number = 1e-6  # final value of the cosine schedule
    last_rates: Literal["equal", "scaled"] = "equal"  # for all layers, as released, or times new_layers_rate
    decay_factor: Number = 0.1
    step_epochs: Positive = 30  # step: after every n epochs
    milestones: tuple[Positive, ...] = (40, 70)  # multi-step: after these epochs
    momentum: Number = 0.9
    weight_decay: Number = 1e-4  # on all parameters
    loss: Literal["ce", "iou", "ce+iou"] = "ce"
    label_smoothing: Annotated[float, Meta(ge=0, lt=0.5)] = 0.1  # probability moved from the true class to the others
    foreground_weight: Number = 1.0  # weight of foreground pixels relative to background; 1 as released
    mixup: Number = 0.0  # a of Beta(a, a); 0: no mixup; 0.2 in the release
    contrast: ContrastConfig | None = None  # auxiliary loss on unlabelled videos; None: off
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"  # bf16, fp16: mixed precision
    accumulate: Positive = 1  # gradient accumulation: number of parts of a batch
    clip_norm: Number = 0.0  # maximum norm of the gradient; 0: no limit
    ema: Annotated[float, Meta(ge=0, lt=1)] = 0.0  # decay of the moving average of the weights; 0: no average
    shared_norm: bool = True  # batch norm synchronised over all processes
    compile: bool = False  # torch.compile
    validation: str = "classes"  # mIoU of the base classes; or a benchmark name: its episodes, shortened
    validate_every: Positive = 1  # epochs
    validation_episodes: Step = 0  # maximum; 0: all
    seed: Annotated[int, Meta(ge=0, le=2**32 - 1)] = 2020
    workers: Annotated[int, Meta(ge=0, le=1000)] = 0  # data loader processes
    save_seconds: Number = 300.0  # time between checkpoints
    show_every: Step = 1  # epochs between plots; 0: only the log

    @classmethod
    def released(cls, corpus: str) -> TrainConfig:
        """The released settings for base training on a dataset. Raises ValueError for a dataset without any."""
        images = cls(clip_frames=0, every=1, repeats=1)
        table = {
            "ytvis": cls(),
            "pascal": replace(images, epochs=100, batch=12),
            "coco": replace(images, epochs=20, batch=12),
            "coco-full": replace(images, epochs=20, batch=12),
            "vspw": replace(images, epochs=10, batch=6, validation="minivspw-val"),
        }
        if corpus not in table:
            advice = "take those of TrainConfig.mini (--mini) and change them (-p)"
            raise ValueError(f"no released settings for {corpus!r}, only for {', '.join(table)}; {advice}")
        return table[corpus]

    @classmethod
    def mini(cls) -> TrainConfig:
        """Settings for the synthetic dataset: a small network, trained from scratch in three minutes on two cores."""
        return cls(
            encoder="resnet18-mini",
            pretrained="",
            epochs=3,  # 513 steps; more of them overfit to the few videos
            batch=8,
            clip_frames=0,  # frames of different videos in a batch
            every=2,  # neighbouring frames are nearly identical
            learning_rate=0.1,  # 40 times the default: no pretrained weights to preserve
            weight_decay=5e-4,  # the few videos are easily overfitted
            foreground_weight=4.0,  # otherwise all predictions are background for the first minutes
            save_seconds=20.0,
        )

    def __post_init__(self) -> None:
        check(self)
        if self.accumulate > (self.batch if self.clip_frames > 1 else self.batch // 2):
            found = f"batch={self.batch} with accumulate={self.accumulate}"
            raise ValueError(f"{found} is too small; batch norm needs 2 images or more in each part")


def changed(config: TrainConfig, changes: dict[str, Any]) -> TrainConfig:
    """The configuration with some fields replaced; "contrast.weight" is a field of the contrastive loss.

    Any contrast field switches that loss on, "contrast" None off. Raises ValueError for an unknown name or a wrong
    value.
    """
    known = field_types(TrainConfig) | {f"contrast.{name}": kind for name, kind in field_types(ContrastConfig).items()}
    for name, value in changes.items():
        field = name.removeprefix("contrast.")
        part: Any = config if field == name else config.contrast or ContrastConfig()
        if name not in known or (name == "contrast" and value is not None):
            hint = suggest(name, (each for each in known if each != "contrast"), most=1)
            raise ValueError(f"setting {name!r} is not known; {hint}")
        if typing.get_origin(known[name]) is tuple:
            value = tuple(value) if isinstance(value, list | tuple) else (value,)
        part = replace(part, **{field: value})
        config = part if field == name else replace(config, contrast=part)
    return config

"""Settings of a training run (`TrainConfig`) and of the auxiliary loss on unlabelled videos (`ContrastConfig`)."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from ttilib.files import suggest

UNRELATED = ("workers", "save_seconds", "show_every")  # settings that do not influence the result
KINDS = {int: "a whole number", float: "a number", str: "a word", bool: "True or False", tuple: "whole numbers"}
BASE, LEAK = "base", "LEAK-novel-test-videos"
CHOICES = {
    "optimizer": ("sgd", "adam", "adamw"),
    "schedule": ("cosine", "step", "multi-step"),
    "loss": ("ce", "iou", "ce+iou"),
    "precision": ("fp32", "bf16", "fp16"),
    "features": ("stage3", "bottleneck"),
    "videos": (BASE, LEAK),
}


@dataclass(frozen=True)
class ContrastConfig:
    """The auxiliary dense contrastive loss (DCL). Source: protocol section 4 for values marked "as released"."""

    videos: str = BASE  # or LEAK-novel-test-videos: the query videos of the episodes, as released
    root: str = ""  # VSPW folder: use its videos instead; required for datasets of images
    weight: float = 0.1  # relative to the supervised loss
    temperature: float = 0.1  # as released
    features: str = "stage3"  # or bottleneck
    pooled: bool = False  # average the features to 7 x 7 cells first
    project: bool = True  # projection head: two 1x1 convolutions, not used in episodes
    width: int = 128  # channels of the projection head
    window: int = 2  # consecutive frames at this stride, of which the first two are compared; as released
    pairs: int = 1  # windows per labelled sample
    every: int = 5  # frame stride

    def __post_init__(self) -> None:
        _check_choices(self)
        _check_least(self, 2, "window")
        _check_least(self, 1, "pairs every width")
        _check_least(self, 0, "weight")
        if not self.temperature > 0:
            raise ValueError(f"ContrastConfig: temperature is {self.temperature}; similarities are divided by it")


@dataclass(frozen=True)
class TrainConfig:
    """Settings of base training; the defaults are the released ones for YouTube-VIS. Source: protocol section 4."""

    encoder: str = "resnet50"
    pretrained: str = "initmodel"  # folder or file of the released weights; "imagenet": torchvision's; "": random
    epochs: int = 10  # passes over the dataset
    batch: int = 6  # samples per step, summed over all processes
    clip_frames: int = 5  # frames of a clip, which is one sample; 0: every frame is a sample
    every: int = 5  # frame stride
    repeats: int = 10  # clips per video and epoch; only with clip_frames
    optimizer: str = "sgd"  # with Nesterov momentum; or adam, adamw
    learning_rate: float = 2.5e-3  # initial value
    new_layers_rate: float = 1.0  # learning rate factor of the layers outside the backbone
    schedule: str = "cosine"  # per step; or step, multi-step: times decay_factor after some epochs
    last_learning_rate: float = 1e-6  # final value of the cosine schedule
    decay_factor: float = 0.1
    step_epochs: int = 30  # step: after every n epochs
    milestones: tuple[int, ...] = (40, 70)  # multi-step: after these epochs
    momentum: float = 0.9
    weight_decay: float = 1e-4  # on all parameters
    loss: str = "ce"  # or iou, ce+iou
    label_smoothing: float = 0.1  # probability moved from the true class to the others
    foreground_weight: float = 1.0  # weight of foreground pixels relative to background; 1 as released
    mixup: float = 0.0  # a of Beta(a, a); 0: no mixup; 0.2 in the release
    contrast: ContrastConfig | None = None  # auxiliary loss on unlabelled videos; None: off
    precision: str = "fp32"  # or bf16, fp16: mixed precision
    accumulate: int = 1  # gradient accumulation: number of parts of a batch
    clip_norm: float = 0.0  # maximum norm of the gradient; 0: no limit
    ema: float = 0.0  # decay of the exponential moving average of the weights; 0: no average
    shared_norm: bool = True  # batch norm synchronised over all processes
    compile: bool = False  # torch.compile
    validation: str = "classes"  # mIoU of the base classes; or a benchmark name: its episodes, shortened
    validate_every: int = 1  # epochs
    validation_episodes: int = 0  # maximum; 0: all
    seed: int = 2020
    workers: int = 0  # data loader processes
    save_seconds: float = 300.0  # time between checkpoints
    show_every: int = 1  # epochs between plots; 0: only the log

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
            raise ValueError(f"no released settings for {corpus!r}; base training knows {', '.join(table)}")
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
        _check_choices(self)
        _check_least(self, 1, "epochs every repeats step_epochs accumulate validate_every")
        _check_least(
            self, 0, "clip_frames learning_rate new_layers_rate last_learning_rate decay_factor momentum weight_decay "
            "label_smoothing foreground_weight mixup clip_norm ema validation_episodes seed workers show_every",
        )  # fmt: skip
        if self.batch < 2 or self.accumulate > (self.batch if self.clip_frames > 1 else self.batch // 2):
            found = f"batch is {self.batch} in {self.accumulate} parts"
            raise ValueError(f"TrainConfig: {found}; batch norm needs 2 images or more in each part")
        if self.ema >= 1 or self.label_smoothing >= 0.5:
            raise ValueError("TrainConfig: give an ema below 1 and a label_smoothing below 0.5")
        if any(isinstance(end, bool) or not isinstance(end, int) or end < 1 for end in self.milestones):
            raise ValueError(f"TrainConfig: milestones are {self.milestones}; give whole numbers from 1")


def changed(config: TrainConfig, changes: dict[str, Any]) -> TrainConfig:
    """The configuration with some fields replaced; "contrast.weight" is a field of the contrastive loss.

    Any contrast field switches that loss on, "contrast" None off. Raises ValueError for a wrong name or type.
    """
    for name, value in changes.items():
        if name == "contrast" and value is None:
            config = replace(config, contrast=None)
        elif name.startswith("contrast."):
            config = replace(config, contrast=_replaced(config.contrast or ContrastConfig(), name, value))
        else:
            config = _replaced(config, name, value)
    return config


def _replaced(config: Any, name: str, value: Any) -> Any:
    field = name.removeprefix("contrast.")
    known = {each.name: getattr(config, each.name) for each in fields(config) if each.name != "contrast"}
    if field not in known:
        raise ValueError(f"setting {name!r} is not known; {suggest(field, known, most=1)}")
    now = known[field]
    if isinstance(now, tuple):
        value = tuple(value) if isinstance(value, list | tuple) else (value,)
    elif isinstance(now, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not type(now):
        raise ValueError(f"setting {name} is {value!r}; give {KINDS[type(now)]}, such as {now!r}")
    return replace(config, **{field: value})


def _check_choices(config: Any) -> None:
    for name, known in CHOICES.items():
        value = getattr(config, name, known[0])
        if value not in known:
            hint = suggest(str(value), known, most=1)
            raise ValueError(f"{type(config).__name__}: {name} {value!r} is not known; {hint}")


def _check_least(config: Any, least: int, names: str) -> None:
    """Raise ValueError for a field below `least` or NaN."""
    for name in names.split():
        if not getattr(config, name) >= least:
            raise ValueError(f"{type(config).__name__}: {name} is {getattr(config, name)}; give {least} or more")

"""Every choice of a training run in two frozen dataclasses, and the released choices by corpus.

`TrainConfig` describes the run, `ContrastConfig` the auxiliary contrast on unlabelled videos, if there is one.
`TrainConfig.released(corpus)` is the release's table of settings, `TrainConfig.mini()` trains a small network from
scratch in minutes, `changed` replaces fields by name and knows when a name is misspelt.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from typing import Any

from ttilib.files import meant

UNRELATED = ("workers", "save_seconds", "show_every")  # settings that change how a run proceeds but not what it learns
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
    """The auxiliary dense contrastive loss (DCL). Source: protocol section 4.

    The release fixes temperature and window by default only and publishes no other value; those without a source
    are this project's.
    """

    videos: str = BASE  # or LEAK-novel-test-videos: the very videos that episodes ask about, as released
    root: str = ""  # folder of VSPW, whose videos then serve; stills need it
    weight: float = 0.1  # beside the supervised loss; not published
    temperature: float = 0.1  # the released head's default
    features: str = "stage3"  # or bottleneck
    pooled: bool = False  # averaged over 7 x 7 cells first
    project: bool = True  # through two 1x1 convolutions, which episodes never see
    width: int = 128  # channels of those
    window: int = 2  # consecutive kept frames, of which the first two are compared; as released
    pairs: int = 1  # windows per labelled item; not published
    every: int = 5  # every so-manieth frame of a video is kept; not published

    def __post_init__(self) -> None:
        _check_choices(self)
        _check_least(self, 2, "window")
        _check_least(self, 1, "pairs every width")
        _check_least(self, 0, "weight")
        if not self.temperature > 0:
            raise ValueError(f"ContrastConfig: temperature is {self.temperature}; similarities are divided by it")


@dataclass(frozen=True)
class TrainConfig:
    """How a network is trained; the defaults are the released ones on YouTube-VIS. Source: protocol section 4."""

    encoder: str = "resnet50"
    pretrained: str = "initmodel"  # folder or file of the released start; "imagenet": torchvision's weights; "": none
    epochs: int = 10  # passes over the items
    batch: int = 6  # items per step, over all processes together
    clip_frames: int = 5  # an item is a clip of so many frames of a video; 0: every frame is an item of its own
    every: int = 5  # use every so-manieth frame of a video
    repeats: int = 10  # how often an epoch goes through the videos; clips only
    optimizer: str = "sgd"  # with Nesterov's momentum; or adam, adamw
    learning_rate: float = 2.5e-3  # of the first step
    new_layers_rate: float = 1.0  # times that for pyramid, bottleneck and classifier
    schedule: str = "cosine"  # every step; or step, multi-step: times decay_factor after epochs
    last_learning_rate: float = 1e-6  # where the cosine ends
    decay_factor: float = 0.1
    step_epochs: int = 30  # step: after every so many
    milestones: tuple[int, ...] = (40, 70)  # multi-step: after these
    momentum: float = 0.9
    weight_decay: float = 1e-4  # on all parameters
    loss: str = "ce"  # or iou, ce+iou
    label_smoothing: float = 0.1  # probability taken from the true class and spread over the others
    foreground_weight: float = 1.0  # of a pixel of a class beside one of background; all alike, as released
    mixup: float = 0.0  # a of Beta(a, a), from which pictures are mixed; 0: not mixed; the release's is 0.2
    contrast: ContrastConfig | None = None  # auxiliary loss on unlabelled videos; None: labelled pictures only
    precision: str = "fp32"  # or bf16, fp16: products in half precision
    accumulate: int = 1  # parts in which a batch goes through the network one after the other
    clip_norm: float = 0.0  # length to which a longer gradient is cut; 0: never cut
    ema: float = 0.0  # how much of the averaged weights stays in each step; 0: weights are not averaged
    shared_norm: bool = True  # batch norm over all processes together
    compile: bool = False  # torch.compile
    validation: str = "classes"  # IoU of the base classes; or a benchmark's name: its episodes, solved quickly
    validate_every: int = 1  # epochs
    validation_episodes: int = 0  # at most so many; 0: all
    seed: int = 2020
    workers: int = 0  # processes that read pictures; no influence on the result
    save_seconds: float = 300.0  # at most this much work is lost; no influence on the result
    show_every: int = 1  # epochs between drawings of curves and samples; 0: only the log; no influence on the result

    @classmethod
    def released(cls, corpus: str) -> TrainConfig:
        """The release's settings for base training on a corpus. Raises ValueError for one it has none for."""
        stills = cls(clip_frames=0, every=1, repeats=1)
        table = {
            "ytvis": cls(),
            "pascal": replace(stills, epochs=100, batch=12),
            "coco": replace(stills, epochs=20, batch=12),
            "coco-full": replace(stills, epochs=20, batch=12),
            "vspw": replace(stills, epochs=10, batch=6, validation="minivspw-val"),
        }
        if corpus not in table:
            raise ValueError(f"no released settings for {corpus!r}; base training knows {', '.join(table)}")
        return table[corpus]

    @classmethod
    def mini(cls) -> TrainConfig:
        """For the embedded corpus: a small network learns from scratch in three minutes on two cores."""
        return cls(
            encoder="resnet18-mini",
            pretrained="",
            epochs=3,  # 513 steps; more of them learn the few videos by heart
            batch=8,
            clip_frames=0,  # frames of different videos in a batch
            every=2,  # neighbouring frames are nearly alike
            learning_rate=0.1,  # nothing pretrained is to be kept, so steps can be 40 times longer
            weight_decay=5e-4,  # few videos, easily learned by heart
            foreground_weight=4.0,  # without it the first minutes go into calling everything background
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
            said = f"batch is {self.batch} in {self.accumulate} parts"
            raise ValueError(f"TrainConfig: {said}; batch norm compares pictures, leave 2 or more to each part")
        if self.ema >= 1 or self.label_smoothing >= 0.5:
            raise ValueError("TrainConfig: ema and label_smoothing are shares; give less than 1 and less than 0.5")
        if any(isinstance(end, bool) or not isinstance(end, int) or end < 1 for end in self.milestones):
            raise ValueError(f"TrainConfig: milestones are {self.milestones}; give whole numbers from 1")


def changed(config: TrainConfig, changes: dict[str, Any]) -> TrainConfig:
    """The configuration with some fields replaced; "contrast.weight" is the field of the contrast.

    A change of any contrast field switches the contrast on, "contrast" None switches it off. Raises ValueError for
    an unknown name, with the nearest known one, and for a value of another type.
    """
    for name, value in changes.items():
        inner = name.removeprefix("contrast.")
        if name == "contrast" and value is None:
            config = replace(config, contrast=None)
        elif inner != name:
            config = replace(config, contrast=_replaced(config.contrast or ContrastConfig(), inner, value, name))
        else:
            config = _replaced(config, name, value, name)
    return config


def _replaced(config: Any, field: str, value: Any, name: str) -> Any:
    known = {each.name: getattr(config, each.name) for each in fields(config) if each.name != "contrast"}
    if field not in known:
        prefix = name.removesuffix(field)
        near = get_close_matches(field, known, n=1)
        hint = f"did you mean {prefix}{near[0]}?" if near else f"choose one of {', '.join(prefix + n for n in known)}"
        raise ValueError(f"setting {name!r} is not known; {hint}")
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
            hint = meant(str(value), known, most=1)
            raise ValueError(f"{type(config).__name__}: {name} {value!r} is not known; {hint}")


def _check_least(config: Any, least: int, names: str) -> None:
    """Raise ValueError naming a field below `least`, or one that is no number."""
    for name in names.split():
        if not getattr(config, name) >= least:
            raise ValueError(f"{type(config).__name__}: {name} is {getattr(config, name)}; give {least} or more")

"""The result tables as data: each `Line` of a `Table` is one method with one encoder on one benchmark.

Source: docs/protocol.md 5.5 for the rows of the TTI paper; RePRI's README for pascal, coco and coco2pascal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ttilib.files import look_up

FOUR = ("fine-tune", "RePRI", "TTI", "TTI+keyframe")
TWO = ("RePRI", "oracle")
BASELINES = ("RePRI", "TTI", "TTI+keyframe")


@dataclass(frozen=True)
class Setting:
    """What methods are compared on: the same episodes and features for all.

    `encoder` names the checkpoints, one per fold. `label` replaces the name of the benchmark in rows. `size` is height
    and width of the network input, 0 for the benchmark's own. `seen_classes` allows encoders trained on a novel class.
    """

    benchmark: str
    shots: int
    encoder: str = "resnet50"
    folds: tuple[int, ...] = (0, 1, 2, 3)
    runs: int = 5
    seed: int = 2020
    draws: str = "released"
    label: str = ""
    size: tuple[int, int] = (0, 0)
    seen_classes: bool = False

    @property
    def name(self) -> str:
        """Name of the benchmark in rows and tables."""
        return self.label or self.benchmark


@dataclass(frozen=True)
class Line:
    """A method in a setting, and what the table calls it."""

    setting: Setting
    method: str
    label: str


@dataclass(frozen=True)
class Table:
    """A table, with the baseline for comparisons on identical episodes."""

    name: str
    title: str
    lines: tuple[Line, ...]
    baseline: str = "RePRI"

    @property
    def shown(self) -> str:
        """The method whose episodes are plotted: frozen, TTI, or the last one."""
        methods = [line.method for line in self.lines]
        return next((name for name in ("frozen", "TTI") if name in methods), methods[-1])

    @property
    def settings(self) -> tuple[Setting, ...]:
        """The settings of the lines, each once."""
        return tuple(dict.fromkeys(line.setting for line in self.lines))


def _lines(settings: Iterable[Setting], methods: Sequence[str] | Mapping[str, str]) -> tuple[Line, ...]:
    """Every method in every setting; `methods` may be given by label."""
    labelled = methods if isinstance(methods, Mapping) else {method: method for method in methods}
    return tuple(Line(setting, method, label) for setting in settings for label, method in labelled.items())


def _each(benchmark: str, shots: Sequence[int], encoders: Sequence[str] = ("resnet50",), **more: Any) -> list[Setting]:
    return [Setting(benchmark, k, encoder, **more) for encoder in encoders for k in shots]


YTVIS = (Setting("ytvis-v1", 5),)  # for the ablations
BOTH = ("resnet50", "resnet101")
WITH_DCL = ("RePRI", "TTI+keyframe")  # methods that the release runs with DCL weights
LATER = "temporal_start=9"  # a prior that is never updated never enables the temporal terms of the release

TERMS = {
    "TTI": "TTI",
    "fine-tune": "fine-tune",  # below: CE on the support and one more term; one term alone; all but one
    "CE + KL": "fine-tune kl_weight=none",
    "CE + entropy": "fine-tune entropy_weight=none",
    "CE + local": f"fine-tune temporal_weight=none global_weight=0 {LATER}",
    "CE + global": f"fine-tune temporal_weight=none local_weight=0 {LATER}",
    "KL alone": "RePRI ce_weight=0 entropy_weight=0",
    "entropy alone": "RePRI ce_weight=0 kl_weight=0",
    "local alone": f"fine-tune ce_weight=0 temporal_weight=none global_weight=0 {LATER}",
    "global alone": f"fine-tune ce_weight=0 temporal_weight=none local_weight=0 {LATER}",
    "without CE": "TTI ce_weight=0",
    "without KL": f"TTI kl_weight=0 {LATER}",
    "without entropy": "TTI entropy_weight=0",
    "without local": "TTI local_weight=0",
    "without global": "TTI global_weight=0",
    "RePRI": "RePRI",  # without local and global
}
WINDOWS = {
    "RePRI": "RePRI", "no local term": "TTI local_weight=0",
    **{f"{k} frames": f"TTI window={k}" for k in (2, 3, 5, 7, 9, 11)},
}  # fmt: skip
NOISES = {
    "RePRI": "RePRI", "TTI": "TTI",
    **{f"truth {100 * noise:+.0f}%": f"TTI prior=oracle noise={noise} {LATER}"
       for noise in (-0.5, -0.2, -0.1, 0, 0.1, 0.2, 0.5)},
}  # fmt: skip
STEPS = {"RePRI": "RePRI", **{f"{steps} steps": f"TTI steps={steps}" for steps in (9, 19, 29, 49, 99, 199)}}

FROZEN = {
    "frozen": "frozen",  # below: without one of its parts
    "no centring": "frozen centring=none",
    "episode's mean": "frozen centring=episode",
    "scale 1": "frozen scale=1",
    "query bias": "frozen bias_start=query-mean",
    "midpoint 1/2": "frozen midpoint=0.5",
    "temporal late": "frozen temporal_start=9",
    "no global": "frozen global_weight=0",
    "no cut": "frozen cut=0",
    "no edges": "frozen guided=0 cut=0",
    "TTI": "TTI",  # below: TTI with parts of the frozen configuration
    "TTI centred": "TTI centring=pool",
    "TTI top bias": "TTI bias_start=query-top midpoint=none",
    "TTI centred + top bias": "TTI centring=pool bias_start=query-top midpoint=none",
    "TTI from step 0": "TTI temporal_start=0",
    "TTI edges": "TTI guided=0.033 guided_eps=0.0001 cut=0.033",
}

_ALL = (
    Table(
        "mini", "The synthetic dataset: videos in YouTube-VIS layout, a small network trained from scratch",
        _lines(_each("ytvis-v1", (1, 5), ("resnet18-mini",), folds=(0, 1), runs=2, label="mini-ytvis-v1",
                     size=(121, 217)), FOUR),
    ),
    Table(
        "ytvis-v1", "YouTube-VIS, V1: one support for all videos of a class",
        _lines(_each("ytvis-v1", (5, 1)), FOUR) + _lines(_each("ytvis-v1", (5, 1), ("resnet50-dcl",)), WITH_DCL),
    ),
    Table("ytvis-v2", "YouTube-VIS, V2: support and query sampled anew", _lines(_each("ytvis-v2", (5, 1)), FOUR)),
    Table("pascal2minivspw", "Pascal images to MiniVSPW videos", _lines(_each("pascal2minivspw", (1, 5), BOTH), FOUR),
          "fine-tune"),
    Table("minivspw", "MiniVSPW to MiniVSPW", _lines(_each("minivspw", (1, 5)), BASELINES)),
    Table("pascal", "Pascal-5i", _lines(_each("pascal", (1, 5, 10), BOTH), TWO)),
    Table("pascal-frozen", "Pascal-5i without base training (this project's own)",
          _lines(_each("pascal", (1, 5)), ("RePRI", "frozen"))),
    Table("coco", "COCO-20i", _lines(_each("coco", (1, 5, 10)), TWO)),
    Table("coco2pascal", "COCO-20i encoders on Pascal images",
          _lines(_each("coco2pascal", (1, 5), seen_classes=True), TWO)),
    Table("pascal2davis", "Pascal images to DAVIS videos (this project's own)",
          _lines(_each("pascal2davis", (1, 5)), (*FOUR, "frozen")), "TTI"),
    Table("moving-pascal", "Clips of a camera over Pascal images, to choose settings on (this project's own)",
          _lines(_each("moving-pascal", (1, 5)), FROZEN), "frozen"),
    Table("ablation-frozen", "The configuration for frozen encoders: one part left out, one part alone",
          _lines(_each("pascal2davis", (1, 5)), FROZEN), "frozen"),
    Table("ablation-terms", "Each term of the objective: with the support loss, alone, left out", _lines(YTVIS, TERMS),
          "TTI"),
    Table("ablation-window", "Number of frames whose foreground proportions should agree", _lines(YTVIS, WINDOWS)),
    Table("ablation-prior", "The true foreground proportion as prior, with a relative error", _lines(YTVIS, NOISES)),
    Table("ablation-steps", "Number of descent steps", _lines(YTVIS, STEPS)),
    Table("ablation-shots", "Number of support images", _lines(_each("ytvis-v1", (1, 2, 3, 5, 10)), BASELINES)),
    Table("cost", "Seconds and memory of an episode", _lines(_each("ytvis-v1", (1, 5), BOTH, folds=(0,), runs=1), FOUR),
          "fine-tune"),
)  # fmt: skip

TABLES: dict[str, Table] = {table.name: table for table in _ALL}


def table(name: str) -> Table:
    """The table of that name. Raises ValueError with similar names."""
    return look_up(name, TABLES, "table")


def on_mini(plan: Table) -> Table:
    """The table on synthetic data: small network, 2 folds, at most 2 runs, YouTube-VIS for others, rows "mini-..."."""
    if plan.name == "mini":
        return plan

    def small(setting: Setting) -> Setting:
        name = "ytvis-v1" if setting.benchmark in ("pascal2davis", "moving-pascal") else setting.benchmark
        return replace(
            setting, benchmark=name, encoder="resnet18-mini", folds=(0, 1), runs=min(setting.runs, 2),
            label=setting.label or f"mini-{name}", size=(121, 217),
        )  # fmt: skip

    title = f"{plan.title}, on the synthetic dataset"
    return replace(_with_settings(plan, small), name=f"mini-{plan.name}", title=title)


def changed(plan: Table, **fields: Any) -> Table:
    """The table with fields of all its settings replaced."""
    return _with_settings(plan, lambda setting: replace(setting, **fields))


def _with_settings(plan: Table, change: Callable[[Setting], Setting]) -> Table:
    """The table with changed settings; lines that become equal are merged."""
    lines = (replace(line, setting=change(line.setting)) for line in plan.lines)
    return replace(plan, lines=tuple(dict.fromkeys(lines)))

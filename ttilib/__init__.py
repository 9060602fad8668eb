"""Temporal transductive inference for few-shot video segmentation.

fold -> episode -> clip -> task -> solution -> masks -> score; every name below is one step of that way. A module is
imported when its name is first used, so that `import ttilib` is instant and worker processes need not load torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for editors and type checkers
    from ttilib.datasets.catalog import read_fold
    from ttilib.encoders.checkpoints import load_encoder
    from ttilib.encoders.pspnet import build_encoder
    from ttilib.episodes.benchmarks import BENCHMARKS, draw_episodes, read_benchmark
    from ttilib.episodes.clips import clip_from_files, load_clip, synthetic_clip
    from ttilib.episodes.episode import sample_episodes
    from ttilib.results.metrics import iou, video_consistency
    from ttilib.solver.settings import CONFIGS as METHODS
    from ttilib.solver.settings import SolverConfig
    from ttilib.solver.solver import iterate, solve
    from ttilib.solver.task import Task, extract
    from ttilib.synthetic import generate
    from ttilib.tools.doctor import examine
    from ttilib.training.config import TrainConfig
    from ttilib.training.data import TrainingFrames
    from ttilib.training.train import train

__version__ = "0.1.0"

_MODULES = {
    "datasets.catalog": ("read_fold",),
    "encoders.checkpoints": ("load_encoder",),
    "encoders.pspnet": ("build_encoder",),
    "episodes.benchmarks": ("BENCHMARKS", "draw_episodes", "read_benchmark"),
    "episodes.clips": ("clip_from_files", "load_clip", "synthetic_clip"),
    "episodes.episode": ("sample_episodes",),
    "results.metrics": ("iou", "video_consistency"),
    "solver.settings": ("METHODS", "SolverConfig"),
    "solver.solver": ("iterate", "solve"),
    "solver.task": ("Task", "extract"),
    "synthetic": ("generate",),
    "tools.doctor": ("examine",),
    "training.config": ("TrainConfig",),
    "training.data": ("TrainingFrames",),
    "training.train": ("train",),
}
_RENAMED = {"METHODS": "CONFIGS"}  # configurations of the solver; whole methods are in solver.methods
_WHERE = {name: module for module, names in _MODULES.items() for name in names}
__all__ = sorted(_WHERE)


def __getattr__(name: str) -> object:
    """The public thing of that name, from its module."""
    if name not in _WHERE:
        raise AttributeError(f"ttilib has no {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"ttilib.{_WHERE[name]}"), _RENAMED.get(name, name))


def __dir__() -> list[str]:
    return __all__

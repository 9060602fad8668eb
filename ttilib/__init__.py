"""Temporal transductive inference for few-shot video segmentation: the front door.

fold -> episode -> clip -> task -> solution -> masks -> score; every name below is one step of that way. A room is
opened when its name is first used, so that `import ttilib` is instant and worker processes need not load torch.
"""

from importlib import import_module

_ROOMS = {
    "generate": "synthetic",
    "read_fold": "datasets.catalog",
    "sample_episodes": "episodes.episode",
    "BENCHMARKS": "episodes.benchmarks",
    "read_benchmark": "episodes.benchmarks",
    "draw_episodes": "episodes.benchmarks",
    "examine": "tools.doctor",
    "load_clip": "episodes.clips",
    "clip_from_files": "episodes.clips",
    "synthetic_clip": "episodes.clips",
    "TrainingFrames": "training.data",
    "build_encoder": "encoders.pspnet",
    "load_encoder": "encoders.checkpoints",
    "TrainConfig": "training.config",
    "train": "training.train",
    "Task": "solver.task",
    "extract": "solver.task",
    "SolverConfig": "solver.solver",
    "METHODS": "solver.solver",
    "iterate": "solver.solver",
    "solve": "solver.solver",
    "upsampled_probabilities": "solver.solver",
    "iou": "results.metrics",
    "video_consistency": "results.metrics",
}
__all__ = sorted(_ROOMS)


def __getattr__(name: str) -> object:
    """The public thing of that name, from its room."""
    if name not in _ROOMS:
        raise AttributeError(f"ttilib has no {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"ttilib.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    return __all__

"""Temporal transductive inference for few-shot video segmentation: the front door.

fold -> episode -> clip -> task -> solution -> masks -> score; every name below is one step of that way. A room is
opened when its name is first used, so that `import ttilib` is instant and worker processes need not load torch.
"""

from importlib import import_module

_ROOMS = {
    "generate": "mini",
    "read_fold": "data.lists",
    "sample_episodes": "data.episodes",
    "BENCHMARKS": "data.benchmarks",
    "read_benchmark": "data.benchmarks",
    "draw_episodes": "data.benchmarks",
    "examine": "audit.doctor",
    "load_clip": "data.datasets",
    "clip_from_files": "data.datasets",
    "synthetic_clip": "data.datasets",
    "TrainingFrames": "data.labelled",
    "build_encoder": "networks.models",
    "load_encoder": "networks.checkpoints",
    "TrainConfig": "training.settings",
    "train": "training.train",
    "Task": "inference.features",
    "extract": "inference.features",
    "SolverConfig": "inference.solver",
    "METHODS": "inference.solver",
    "iterate": "inference.solver",
    "solve": "inference.solver",
    "upsampled_probabilities": "inference.solution",
    "iou": "scores.metrics",
    "video_consistency": "scores.consistency",
}
__all__ = sorted(_ROOMS)


def __getattr__(name: str) -> object:
    """The public thing of that name, from its room."""
    if name not in _ROOMS:
        raise AttributeError(f"ttilib has no {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"ttilib.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    return __all__

"""Compare the solver and the metrics with numbers of the released code.

    python tests/golden.py FILE.npz...

prints, per file and quantity, the largest deviation and what is allowed, and exits with 1 if one is larger. A file
golden_*.npz has one synthetic episode, or several videos that the released batched driver solved together, and
everything the release computed from it; its entry `hp` has the settings. A file supports_*.npz has the support images
and masks of one YouTube-VIS episode, and the network input that the release makes of them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ttilib.datasets.transforms import normalise
from ttilib.datasets.youtube_vis import YtvisReader
from ttilib.episodes.clips import Frames
from ttilib.results.metrics import intersection_union, released_video_consistency
from ttilib.solver.solver import SolverConfig, State, solve
from ttilib.solver.task import Task, downsample, unit

IGNORE = 255
#            absolute allowance per quantity; traces are relative
ALLOWED = {"weight": 1e-5, "bias": 1e-5, "prior": 1e-5, "grid probability": 1e-5, "pixel probability": 2e-5,
           "network input": 1e-5, "trace": 1e-4, "consistency": 1e-5, "similarity": 1e-5, "exact": 0.0}  # fmt: skip


def read_episode(path: Path | str) -> dict[str, np.ndarray | dict]:
    """The arrays of a file, `hp` decoded."""
    with np.load(path, allow_pickle=False) as arrays:
        episode = {name: arrays[name] for name in arrays.files}
    return episode | {"hp": json.loads(str(episode["hp"]))}


def config_of(hp: dict) -> SolverConfig:
    """The settings of the release in our words: its step counts start at 1, 'auto' is 1/K."""
    weights = [None if weight == "auto" else float(weight) for weight in hp["weights"]]
    return SolverConfig(
        temperature=hp["temperature"],
        steps=hp["adapt_iter"] - 1,
        learning_rate=hp["lr"],
        ce_weight=weights[0],
        kl_weight=weights[1],
        entropy_weight=weights[2],
        temporal_weight=weights[3],
        prior_update=hp["FB_param_update"][0] - 1 if hp["FB_param_update"] else None,
        window=hp["temporal_window"],
        keyframe=hp["keyframe_criteria"].removeprefix("keyframe_").replace("sprt", "support") if hp["refine"] else None,
        refine_steps=hp["refine_iter"] - 1,
        refine_learning_rate=hp["refine_lr"],
    )


def tasks_of(episode: dict) -> list[tuple[np.ndarray, Task]]:
    """One task per video, with the rows of the batch that are its frames."""
    hp, videos = episode["hp"], np.asarray(episode["hp"]["seqs"])
    tasks = []
    for number, video in enumerate(np.unique(videos)):
        rows = np.flatnonzero(videos == video)
        shots = hp["n_shots_per_seq"][number]
        support, support_norm = unit(torch.from_numpy(episode["f_s"][number, :shots]))
        query, query_norm = unit(torch.from_numpy(episode["f_q"][rows]))
        labels = torch.from_numpy(episode["gt_s"][number, :shots])
        padding = torch.from_numpy(episode["gt_q"][rows]) == IGNORE
        grid = (query.shape[2], query.shape[3])
        tasks.append((rows, Task(
            name=f"{hp['name']}/{video}",
            support=support, support_masks=downsample(labels == 1, grid),
            support_valid=downsample(labels != IGNORE, grid),
            query=query, query_valid=downsample(~padding, grid), size=(padding.shape[1], padding.shape[2]),
            support_norm=1.0 if hp["norm_feat"] else support_norm, query_norm=1.0 if hp["norm_feat"] else query_norm,
            batch_frames=len(videos),
        )))  # fmt: skip
    return tasks


class Report:
    """Largest deviation per quantity over the videos of a file."""

    def __init__(self) -> None:
        self.worst: dict[str, tuple[float, str]] = {}

    def compare(self, name: str, kind: str, ours: Tensor | np.ndarray, theirs: np.ndarray) -> None:
        ours, theirs = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
        if ours.shape != theirs.shape or not theirs.size:
            raise ValueError(f"{name}: we have {ours.shape}, the file {theirs.shape}")
        difference = np.abs(ours - theirs)
        if kind == "trace":  # relative, with a floor where a term is itself a rounding error
            difference = difference / np.maximum(np.abs(theirs), 1e-2)
        largest = float("inf") if np.isnan(difference).any() else float(difference.max())
        self.worst[name] = max(self.worst.get(name, (0.0, kind)), (largest, kind))

    @property
    def failures(self) -> list[str]:
        return [name for name, (value, kind) in self.worst.items() if value > ALLOWED[kind]]

    def __str__(self) -> str:
        lines = []
        for name, (value, kind) in self.worst.items():
            verdict = "ok" if value <= ALLOWED[kind] else "OUT"
            lines.append(f"  {name:<26}{value:10.2e}  allowed {ALLOWED[kind]:.0e}  {verdict}")
        return "\n".join(lines)


def check_traces(report: Report, episode: dict, rows: np.ndarray, history: tuple[State, ...]) -> None:
    """Every term before every step, the bias, and the weights at the steps the file keeps."""
    terms = [state.terms() for state in history[:-1]]
    marginal = torch.stack([term.marginal for term in terms])
    report.compare("trace marginal", "trace", marginal, episode["tr_marg"][:, rows, 1])
    columns = {"ce": "ce", "kl": "kl", "entropy": "ent", "local_temporal": "trepri",
               "global_positive": "pos", "global_negative": "neg"}  # fmt: skip
    on = np.array([state.objective.weights.temporal > 0 for state in history[:-1]])
    for ours, theirs in columns.items():
        values = torch.stack([getattr(term, ours) for term in terms]).numpy()
        steps = on if theirs in ("trepri", "pos", "neg") else np.ones_like(on)
        if steps.any():
            report.compare(f"trace {ours}", "trace", values[steps], episode[f"tr_{theirs}"][steps][:, rows])
    temporal = torch.stack([t.local_temporal + t.global_positive + t.global_negative for t in terms]).numpy()
    report.compare("trace temporal", "trace", temporal * on[:, None], episode["tr_tti"][:, rows])
    bias = torch.stack([state.classifier.bias for state in history[:-1]])
    report.compare("trace bias", "trace", bias, episode["tr_bias"][:, rows])
    snapshots = [step - 1 for step in episode["hp"]["snap_iters"]]
    weights = torch.stack([history[step].classifier.weight for step in snapshots])
    report.compare("weights on the way", "weight", weights, episode["proto_snap"][:, rows])


def check_stage(report: Report, episode: dict, stage: int, rows: np.ndarray, task: Task, solution) -> np.ndarray:
    """Classifier, probabilities and masks after adaptation (1) or refinement (2); returns the masks."""
    classifier, suffix = solution.classifier, "" if stage == 1 else " refined"
    report.compare("weight" + suffix, "weight", classifier.weight, episode[f"proto{stage}"][rows])
    report.compare("bias" + suffix, "bias", classifier.bias, episode[f"bias{stage}"][rows])
    low = classifier.probabilities(task.query)
    report.compare("probability, grid" + suffix, "grid probability", low, episode[f"plow{stage}"][rows])
    full = episode[f"pfull{stage}_q16"][rows] / 65535
    report.compare("probability, pixels" + suffix, "pixel probability", solution.probabilities(), full)
    shape = episode["gt_q"].shape
    bits = np.unpackbits(episode[f"pred{stage}"], count=int(np.prod(shape))).reshape(shape)[rows]
    masks = solution.masks().numpy()
    report.compare("mask pixels" + suffix, "exact", masks, bits)
    return masks


def check_scores(report: Report, episode: dict, masks: np.ndarray) -> None:
    """Intersections, unions and the released consistency loop, on the final masks."""
    labels = episode["gt_q"]
    truth, valid = labels == 1, labels != IGNORE
    intersection, union = intersection_union(masks, truth, valid)
    report.compare("intersection", "exact", intersection, episode["inter"][:, 1])
    report.compare("union", "exact", union, episode["union"][:, 1])
    for k in (3, 5):
        if f"vc{k}" in episode:
            videos = episode["hp"]["seqs"]
            ours = released_video_consistency(masks, truth, valid, videos, k)
            ours = np.array([ours[video] for video in videos])
            report.compare(f"consistency, k={k}", "consistency", ours, episode[f"vc{k}"])


def check_supports(path: Path | str) -> Report:
    """Resize and pad the support images and masks of a file, and compare the network input."""
    report = Report()
    with np.load(path, allow_pickle=False) as arrays:
        shots, size = len(arrays["network_input"]), tuple(int(side) for side in arrays["size"])
        given = [(arrays[f"image_{shot}"], arrays[f"mask_{shot}"]) for shot in range(shots)]
        names = tuple(f"support {shot}" for shot in range(shots))
        images, masks, _ = Frames(names, given.__getitem__, size, YtvisReader.episode_rule).as_support().load_all()
        report.compare("network input", "network input", normalise(images), arrays["network_input"])
        report.compare("network mask", "exact", masks, arrays["network_mask"])
    return report


def check(path: Path | str) -> Report:
    """Compare everything that a file has."""
    with np.load(path, allow_pickle=False) as arrays:
        supports = "network_input" in arrays.files
    return check_supports(path) if supports else check_episode(path)


def check_episode(path: Path | str) -> Report:
    """Solve the episode of a file and compare everything the file has."""
    episode, report = read_episode(path), Report()
    hp, config, labels = episode["hp"], config_of(episode["hp"]), episode["gt_q"]
    masks = np.zeros(labels.shape, dtype=bool)
    for number, (rows, task) in enumerate(tasks_of(episode)):
        oracle = torch.from_numpy(episode["pi0"][rows, 1]) if "oracle" in hp["FB_param_type"] else None
        adapted = solve(task, SolverConfig(**{**vars(config), "keyframe": None}), oracle)
        first, history = adapted.history[0], adapted.history
        report.compare("weight at the start", "weight", first.classifier.weight, episode["proto0"][rows])
        report.compare("bias at the start", "bias", first.classifier.bias, episode["bias0"][rows])
        report.compare("prior at the start", "prior", first.prior, episode["pi0"][rows, 1])
        report.compare("prior at the end", "prior", adapted.prior, episode["pi1"][rows, 1])
        check_traces(report, episode, rows, history)
        masks[rows] = check_stage(report, episode, 1, rows, task, adapted)
        if hp["refine"]:
            refined = solve(task, config, oracle)
            masks[rows] = check_stage(report, episode, 2, rows, task, refined)
            foreground, counted = (part.numpy() for part in refined.pseudo_mask)
            pseudo = np.where(counted, foreground.astype(np.uint8), IGNORE)
            report.compare("keyframe", "exact", np.array(refined.keyframe), episode["keyframe"][number])
            report.compare("similarity", "similarity", refined.similarity, episode["key_cos"][rows])
            report.compare("pseudo-mask pixels", "exact", pseudo, episode["pseudo_gt"][number])
    check_scores(report, episode, masks)
    return report


def main(paths: list[str]) -> int:
    if not paths:
        print(__doc__)
        return 2
    failed = False
    for path in paths:
        report = check(path)
        print(f"{Path(path).name}: {'OUT: ' + ', '.join(report.failures) if report.failures else 'ok'}\n{report}")
        failed |= bool(report.failures)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Compare the solver and the metrics with numbers of the released code.

    python tests/golden.py FILE.npz...

prints, per file and quantity, the largest deviation and what is allowed, and exits with 1 if one is larger. A file
golden_*.npz has one synthetic episode, or several videos that the released batched driver solved together, and
everything the release computed from it; its entry `hp` has the settings. A file supports_*.npz has the support images
and masks of one YouTube-VIS episode, and the network input that the release makes of them.
"""

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


def config_of(hp: dict) -> SolverConfig:
    """The settings of the release in our words: its step counts start at 1, 'auto' is 1/K."""
    weights = [None if weight == "auto" else float(weight) for weight in hp["weights"]]
    return SolverConfig(
        temperature=hp["temperature"], steps=hp["adapt_iter"] - 1, learning_rate=hp["lr"],
        ce_weight=weights[0], kl_weight=weights[1], entropy_weight=weights[2], temporal_weight=weights[3],
        prior_update=hp["FB_param_update"][0] - 1 if hp["FB_param_update"] else None, window=hp["temporal_window"],
        keyframe=hp["keyframe_criteria"].removeprefix("keyframe_").replace("sprt", "support") if hp["refine"] else None,
        refine_steps=hp["refine_iter"] - 1, refine_learning_rate=hp["refine_lr"],
    )  # fmt: skip


def task_of(episode: dict, number: int, video: str, rows: np.ndarray) -> Task:
    """One video; `rows` of the batch are its frames."""
    hp, shots = episode["hp"], episode["hp"]["n_shots_per_seq"][number]
    support, support_norm = unit(torch.from_numpy(episode["f_s"][number, :shots]))
    query, query_norm = unit(torch.from_numpy(episode["f_q"][rows]))
    labels = torch.from_numpy(episode["gt_s"][number, :shots])
    padding = torch.from_numpy(episode["gt_q"][rows]) == IGNORE
    grid = (query.shape[2], query.shape[3])
    return Task(
        name=f"{hp['name']}/{video}", support=support, support_masks=downsample(labels == 1, grid),
        support_valid=downsample(labels != IGNORE, grid), query=query, query_valid=downsample(~padding, grid),
        size=(padding.shape[1], padding.shape[2]), support_norm=1.0 if hp["norm_feat"] else support_norm,
        query_norm=1.0 if hp["norm_feat"] else query_norm, batch_frames=len(hp["seqs"]),
    )  # fmt: skip


class Report:
    """Largest deviation per quantity over the videos of a file."""

    def __init__(self) -> None:
        self.worst: dict[str, tuple[float, str]] = {}

    def compare(self, name: str, kind: str, ours: Tensor | np.ndarray | list, theirs: np.ndarray) -> None:
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
        return "\n".join(
            f"  {name:<26}{value:10.2e}  allowed {ALLOWED[kind]:.0e}  {'OUT' if name in self.failures else 'ok'}"
            for name, (value, kind) in self.worst.items()
        )


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
    weights = torch.stack([history[step - 1].classifier.weight for step in episode["hp"]["snap_iters"]])
    report.compare("weights on the way", "weight", weights, episode["proto_snap"][:, rows])


def check_stage(report: Report, episode: dict, stage: int, rows: np.ndarray, task: Task, solution) -> np.ndarray:
    """Classifier, probabilities and masks after adaptation (1) or refinement (2); returns the masks."""
    classifier, shape, masks = solution.classifier, episode["gt_q"].shape, solution.masks().numpy()
    bits = np.unpackbits(episode[f"pred{stage}"], count=int(np.prod(shape))).reshape(shape)
    for name, kind, ours, theirs in (
        ("weight", "weight", classifier.weight, episode[f"proto{stage}"]),
        ("bias", "bias", classifier.bias, episode[f"bias{stage}"]),
        ("probability, grid", "grid probability", classifier.probabilities(task.query), episode[f"plow{stage}"]),
        ("probability, pixels", "pixel probability", solution.probabilities(), episode[f"pfull{stage}_q16"] / 65535),
        ("mask pixels", "exact", masks, bits),
    ):
        report.compare(name + " refined" * (stage == 2), kind, ours, theirs[rows])
    return masks


def check_scores(report: Report, episode: dict, masks: np.ndarray) -> None:
    """Intersections, unions and the released consistency loop, on the final masks."""
    truth, valid = episode["gt_q"] == 1, episode["gt_q"] != IGNORE
    intersection, union = intersection_union(masks, truth, valid)
    report.compare("intersection", "exact", intersection, episode["inter"][:, 1])
    report.compare("union", "exact", union, episode["union"][:, 1])
    for k in (3, 5):
        if f"vc{k}" in episode:
            videos = episode["hp"]["seqs"]
            ours = released_video_consistency(masks, truth, valid, videos, k)
            report.compare(f"consistency, k={k}", "consistency", [ours[video] for video in videos], episode[f"vc{k}"])


def check_supports(report: Report, arrays: dict) -> None:
    """Resize and pad the support images and masks of a file, and compare the network input."""
    names, size = tuple(map(str, range(len(arrays["network_input"])))), tuple(int(side) for side in arrays["size"])
    given = [(arrays[f"image_{shot}"], arrays[f"mask_{shot}"]) for shot in names]
    images, masks, _ = Frames(names, given.__getitem__, size, YtvisReader.episode_rule).as_support().load_all()
    report.compare("network input", "network input", normalise(images), arrays["network_input"])
    report.compare("network mask", "exact", masks, arrays["network_mask"])


def check(path: Path | str) -> Report:
    """Compare everything that a file has."""
    report = Report()
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    if "network_input" in arrays:
        check_supports(report, arrays)
    else:
        check_episode(report, arrays | {"hp": json.loads(str(arrays["hp"]))})
    return report


def check_episode(report: Report, episode: dict) -> None:
    """Solve the episode of a file and compare everything the file has."""
    hp, config, labels = episode["hp"], config_of(episode["hp"]), episode["gt_q"]
    masks = np.zeros(labels.shape, dtype=bool)
    for number, video in enumerate(np.unique(hp["seqs"])):
        rows = np.flatnonzero(np.asarray(hp["seqs"]) == video)
        task = task_of(episode, number, video, rows)
        oracle = torch.from_numpy(episode["pi0"][rows, 1]) if "oracle" in hp["FB_param_type"] else None
        adapted = solve(task, SolverConfig(**{**vars(config), "keyframe": None}), oracle)
        first = adapted.history[0]
        report.compare("weight at the start", "weight", first.classifier.weight, episode["proto0"][rows])
        report.compare("bias at the start", "bias", first.classifier.bias, episode["bias0"][rows])
        report.compare("prior at the start", "prior", first.prior, episode["pi0"][rows, 1])
        report.compare("prior at the end", "prior", adapted.prior, episode["pi1"][rows, 1])
        check_traces(report, episode, rows, adapted.history)
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


def main(paths: list[str]) -> int:
    if not paths:
        print(__doc__)
        return 2
    failures = []
    for path in paths:
        report = check(path)
        failures += report.failures
        print(f"{Path(path).name}: {'OUT: ' + ', '.join(report.failures) if report.failures else 'ok'}\n{report}")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

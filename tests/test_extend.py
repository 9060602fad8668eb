"""A dataset, an algorithm, a metric and a term of the objective, each added in a few lines outside the library."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from corpora import block, picture, ytvis
from tasks import random_task, toy_encoder

from ttilib.datasets.base import Dataset, ResizeRule, Scan
from ttilib.datasets.catalog import DATASETS, read_fold
from ttilib.datasets.transforms import letterbox
from ttilib.episodes.benchmarks import draw_episodes, read_benchmark
from ttilib.episodes.clips import load_clip, synthetic_clip
from ttilib.episodes.episode import sample_episodes
from ttilib.files import write_json
from ttilib.images import read_image, read_labels, write_image, write_labels
from ttilib.results.evaluation import evaluate
from ttilib.results.metrics import METRICS, Metric
from ttilib.results.tables import score_table
from ttilib.solver.extraction import FeatureExtractor
from ttilib.solver.losses import TERMS, Term
from ttilib.solver.methods import METHODS, Prediction, read_method
from ttilib.solver.settings import PipelineConfig, SolverConfig
from ttilib.solver.solver import iterate, solve


# A whole dataset: images <video>/<frame>.jpg with masks of class ids beside them, and a lists.json with the classes.
class ToyReader:
    episode_rule = training_rule = ResizeRule(letterbox, False)

    def __init__(self, root):
        self.image = lambda frame: read_image(Path(root) / f"{frame}.jpg")
        self.stored = lambda frame: read_labels(Path(root) / f"{frame}.png")
        self.mask = lambda frame, number: (self.stored(frame) == number).astype(np.uint8)
        self.labels = lambda frame, base: sum((self.stored(frame) == n) * np.uint8(k) for k, n in enumerate(base, 1))


def scan_toy(root, table, base, novel, on_error):
    frames = {v: tuple(f"{v}/{f.stem}" for f in sorted((root / v).glob("*.jpg"))) for v in ("a", "b", "c")}
    seen = {f: set(read_labels(root / f"{f}.png").ravel()) for names in frames.values() for f in names}
    shows = {c: {v: tuple(f for f in names if c in seen[f]) for v, names in frames.items()} for c in table["classes"]}
    presence = {c: {v: names for v, names in videos.items() if names} for c, videos in shows.items()}
    return Scan(frames, presence, tuple(frames), ())


def test_a_dataset_is_added_in_a_few_lines(tmp_path, monkeypatch):
    write_json(tmp_path / "lists.json", {"classes": {"7": "duck", "9": "boat"}, "novel": [[7], [9]]})
    for number, video in enumerate(("a", "b", "c")):
        for time in range(2):
            write_image(tmp_path / video / f"{time}.jpg", picture(number + time))
            write_labels(tmp_path / video / f"{time}.png", block(7, 2, 2 + 4 * number, 6, 6))
    with pytest.raises(ValueError, match="'toy' is not known"):
        read_fold("toy", 0, tmp_path)
    monkeypatch.setitem(DATASETS, "toy", Dataset("toy", ToyReader, scan_toy))
    fold = read_fold("toy", 0, tmp_path)
    episodes = sample_episodes(fold, shots=2)
    assert [e.video for e in episodes] == sorted(e.video for e in episodes) == ["a", "b", "c"]
    assert all(e.class_name == "duck" and e.video not in {f[0] for f in e.support} for e in episodes)
    clip = load_clip(episodes[1], tmp_path, size=(36, 64))
    assert clip.query.shape == (2, 3, 36, 64) and clip.support_masks.any()
    assert clip.truth[0, 4:16, 12:24].all() and clip.truth[0].sum() == 12 * 12


@dataclass(frozen=True)
class Nearest:
    """A cell is object if it is nearer to a support cell of the object than to any other."""

    name: str = "nearest"
    pipeline: PipelineConfig = PipelineConfig()
    margin: float = 0.0

    def predict(self, clip, extractor, ground_truth=None):
        task = extractor.task(clip, self.pipeline)
        cosines = torch.einsum("tchw,kcij->thwkij", task.query, task.support)
        inside, outside = cosines[..., task.support_masks].amax(-1), cosines[..., ~task.support_masks].amax(-1)
        cells = (inside > outside + self.margin).float()[:, None]
        return Prediction(torch.nn.functional.interpolate(cells, clip.size)[:, 0] > 0.5)


def test_a_metric_and_an_algorithm_of_ones_own_are_in_the_table(tmp_path, monkeypatch):
    found = Metric("frames found", lambda masks, ground_truth, valid: (masks & ground_truth).any(axis=(1, 2)).mean())
    monkeypatch.setitem(METRICS, "frames found", found)
    monkeypatch.setitem(METHODS, "nearest", Nearest())
    strict = read_method("nearest margin=0.01 centring=episode")
    assert strict == Nearest("nearest margin=0.01 centring=episode", PipelineConfig("episode"), 0.01)
    with pytest.raises(ValueError, match=r"no setting 'margn'; did you mean margin\?"):
        read_method("nearest margn=2")
    data = read_benchmark("ytvis-v1", 0, ytvis(tmp_path, {f"v{n}": [[1], [1], []] for n in range(3)}, classes=4))
    episodes = dict(enumerate(draw_episodes(data, 1)))
    methods = [read_method(text) for text in ("fine-tune steps=3", "nearest")]
    clip, extractor = synthetic_clip(frames=4, size=(65, 97)), FeatureExtractor(toy_encoder)
    masks = methods[1].predict(clip, extractor).masks
    assert (masks & clip.truth).sum() / (masks | clip.truth).sum() > 0.5
    rows = evaluate(episodes, methods, {0: extractor}, {0: data}, (33, 57), "ytvis-v1", "toy")
    table = score_table(rows).set_index("method")
    assert list(table.index) == ["fine-tune steps=3", "nearest"] and (table["episodes"] == len(episodes)).all()
    assert 0 < table.loc["nearest", "frames found"] <= 100 * 2 / 3 + 1e-9 and table.loc["nearest", "mIoU"] > 0


def smoothness(at):
    """Mean squared change of the probability from a cell to the next one below: a term of one's own."""
    return (at.p.diff(dim=1) ** 2).mean(dim=(1, 2))


def test_a_term_of_ones_own_is_a_function_and_an_entry(monkeypatch):
    monkeypatch.setitem(TERMS, "smooth", Term("roughness S", "#882255", r"\sum_i (p_i - p_{i + 1})^2", smoothness))
    task, config = random_task(frames=4), SolverConfig(added_terms=("smooth",), added_weights=(40.0,))
    with pytest.warns(UserWarning, match="smooth.* autograd"):
        history = solve(task, config).history
    values = [state.terms().smooth.mean() for state in history]
    without = [smoothness(state.objective.at(state.classifier)).mean() for state in solve(task).history]
    assert values[0] == without[0] and values[-1] < 0.5 * without[-1]
    with pytest.warns(UserWarning, match="smooth"):
        same = read_method("TTI added_terms=smooth added_weights=40").config
        assert torch.equal(solve(task, same).scores, history[-1].classifier.scores(task.query))


def test_the_gradient_of_an_added_term_is_added_to_that_of_the_others(monkeypatch):
    """A copy of a built-in term, added, counts as much as the same term twice."""
    monkeypatch.setitem(TERMS, "again", TERMS["entropy"])
    task = random_task()
    config = SolverConfig(entropy_weight=0.5, added_terms=("again",), added_weights=(0.25,), steps=1)
    with pytest.warns(UserWarning):
        _, second = iterate(task, config)
    _, expected = iterate(task, SolverConfig(entropy_weight=0.75, steps=1))
    torch.testing.assert_close(second.classifier.weight, expected.classifier.weight)
    torch.testing.assert_close(second.classifier.bias, expected.classifier.bias)

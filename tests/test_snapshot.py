"""Numbers that must not change: the episodes of every benchmark, and an evaluation with fixed, untrained weights.

After an intended change, `python tests/test_snapshot.py` writes reference/snapshot.json again; say why in the commit.
"""

import itertools
from pathlib import Path

import pytest
import torch

import ttilib as tti
from ttilib.datasets.catalog import Fold
from ttilib.episodes.benchmarks import BENCHMARKS, BenchmarkData, draw_episodes
from ttilib.files import digest, read_json, write_json
from ttilib.results.evaluation import evaluate
from ttilib.solver.extraction import FeatureExtractor
from ttilib.solver.methods import read_method

REFERENCE = Path(__file__).resolve().parent / "reference" / "snapshot.json"
# frozen with all its steps is decided by the last digit of untrained features: 1e-7 of them moves its mean by 1e-2
METHODS = ("fine-tune", "RePRI", "TTI", "TTI+keyframe", "oracle noise=0.2", "frozen centring=episode steps=5")
SIZE = (65, 113)


def made_up_fold(dataset: str, form: str) -> Fold:
    """A fold without files: 16 videos of 3 to 6 frames, or 40 images; three novel classes, 1 or 2 in each item."""
    novel, names = (2, 3, 5), {number: f"class {number}" for number in range(1, 6)}
    images = form in ("stills", "cross") and dataset not in ("davis", "moving-pascal")
    items = [f"item{n:02d}" for n in range(40 if images else 16)]
    frames = {v: tuple(f"{v}/{t}" for t in range(1 if images else 3 + n % 4)) for n, v in enumerate(items)}
    shown = {v: (novel[n % 3],) if n % 4 else (novel[n % 3], novel[(n + 1) % 3]) for n, v in enumerate(items)}
    presence = {c: {v: frames[v][: 1 + n % 5] for n, v in enumerate(items) if c in shown[v]} for c in novel}
    return Fold(dataset, 0, names, (1, 4), novel, frames, presence | {1: {}, 4: {}}, (), (), 1, shown)


def manifests() -> dict[str, str]:
    """Number of episodes and digest of their keys, for every benchmark, shots, sampling and run."""
    found = {}
    for name, plan in BENCHMARKS.items():
        query = made_up_fold(plan.query, plan.draws)
        support = query if plan.support == plan.query else made_up_fold(plan.support, "stills")
        data = BenchmarkData(plan, query, support, Path(plan.query), Path(plan.support))
        for shots, draws, run in itertools.product((1, 3), ("released", "independent"), (0, 1)):
            keys = [episode.key for episode in draw_episodes(data, shots, 2020, run, draws)]
            found[f"{name}, {shots} shots, {draws}, run {run}"] = f"{len(keys)} episodes {digest(keys)}"
    return found


def evaluation(root: Path) -> dict[str, dict[str, list[float]]]:
    """Means over four episodes, per method and number of shots, of `soft_of` and `scores_of`."""
    tti.generate(root, classes=4, videos_per_class=4, frames=(5, 6), stills_per_class=(1, 1), workers=1)
    data = tti.read_benchmark("ytvis-v1", 0, root)
    network = tti.build_encoder("resnet18-mini", 4, seed=3).eval()
    extractor, methods, found = FeatureExtractor(network), [Kept(read_method(name)) for name in METHODS], {}
    for shots in (1, 2):
        episodes = dict(enumerate(draw_episodes(data, shots)[:4]))
        rows = list(evaluate(episodes, methods, {0: extractor}, {0: data}, SIZE, "", ""))
        for method in methods:
            scores = [scores_of(row) for row in rows if row["method"] == method.name]
            means = {"soft": torch.tensor(method.soft[-4:]).mean(dim=0), "scores": torch.tensor(scores).mean(dim=0)}
            found[f"{method.name}, {shots} shots"] = {name: mean.tolist() for name, mean in means.items()}
    return found


class Kept:
    """A method that keeps `soft_of` its predictions."""

    def __init__(self, method):
        self.method, self.name, self.pipeline, self.soft = method, method.name, method.pipeline, []

    def predict(self, *arguments):
        found = self.method.predict(*arguments)
        self.soft.append(soft_of(found.solution))
        return found


def soft_of(solution) -> list[float]:
    values = solution.probabilities(), solution.prior, solution.classifier.bias, solution.classifier.weight.norm(dim=1)
    return [float(value.mean()) for value in values]


def scores_of(row) -> list[float]:
    iou, share = row["intersection"] / row["union"], row["predicted"] / (row["frames"] * SIZE[0] * SIZE[1])
    return [value or 0.0 for value in (iou, share, row["j"], row["f"], row["vc_3"], row["released_vc_3"])]


def test_every_benchmark_has_the_same_episodes():
    assert manifests() == read_json(REFERENCE)["episodes"]


def test_an_evaluation_with_fixed_weights_gives_the_same_numbers(world):
    """Another processor may move single pixels across the threshold, so scores have a wider tolerance."""
    found, expected = evaluation(world), read_json(REFERENCE)["evaluation"]
    assert found.keys() == expected.keys()
    for line, values in expected.items():
        assert found[line]["soft"] == pytest.approx(values["soft"], rel=1e-4, abs=1e-5), line
        assert found[line]["scores"] == pytest.approx(values["scores"], abs=2e-3), line


if __name__ == "__main__":
    import tempfile

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write_json(REFERENCE, {"episodes": manifests(), "evaluation": evaluation(Path(folder))})

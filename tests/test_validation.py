"""Validation: values by hand, and episodic validation against the same computed step by step."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path
from unittest.mock import DEFAULT, Mock

import corpora
import numpy as np
import pytest
import torch
from squares import TINY, Squares

from ttilib.encoders.checkpoints import load_encoder
from ttilib.encoders.pspnet import PSPNet, build_encoder
from ttilib.episodes.benchmarks import BenchmarkData, draw_episodes, read_benchmark
from ttilib.episodes.clips import load_clip
from ttilib.episodes.episode import Episode
from ttilib.files import read_json, write_json
from ttilib.solver.methods import METHODS
from ttilib.solver.settings import CONFIGS
from ttilib.solver.solver import solve
from ttilib.solver.task import extract
from ttilib.training import validation
from ttilib.training.config import TrainConfig
from ttilib.training.train import train
from ttilib.training.validation import validate, validate_episodes

SIZE = (33, 57)
SEVEN = TrainConfig(seed=7)


def test_iou_and_loss_of_a_network_that_predicts_class_1_everywhere() -> None:
    """Logits of nothing but the bias: the loss is -log softmax of the true class, however images are batched."""
    network, frames, bias = build_encoder(TINY, 3), Squares(5, seed=3, ignored=4), torch.tensor([0.5, 1.0, -0.5])
    network.classifier.weight.data.zero_()
    network.classifier.bias.data.copy_(bias)
    labels = torch.cat([frames[i][1].flatten() for i in range(5)])
    labels = labels[labels != 255]
    for batch in (1, 2, 5):
        iou, loss = validate(network, frames, batch)
        assert iou.tolist() == pytest.approx([0, (labels == 1).double().mean().item(), 0], rel=1e-9)
        assert loss == pytest.approx(-bias.log_softmax(0)[labels].mean().item(), rel=1e-6)
    assert not network.training


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VSPW's layout: videos of 23 frames that contain two validation classes, and some to train on."""
    root = tmp_path_factory.mktemp("data") / "vspw"
    rng = np.random.default_rng(0)
    masks = {
        f"{n}_{kind}": [corpora.block(kind, *(int(v) for v in rng.integers(1, 5, 2)), 9, 12) for _ in range(23)]
        for n in range(2)
        for kind in (53, 49, 41)
    }
    corpora.vspw(root, masks, train=tuple(name for name in masks if name.endswith("49") and name[0] != "0"))
    table = read_json(root / "lists.json")
    write_json(root / "lists.json", {**table, "base": [[49]], "validation": [[53, 41]], "novel": [[45]]})
    return root


def short_iou(plan: BenchmarkData, episodes: Sequence[Episode], network: PSPNet) -> float:
    """RePRI with one support image on every fifth frame, at most `FRAMES`; mean over classes of pooled I / U."""
    sums = {episode.class_name: torch.zeros(2) for episode in episodes}
    for episode in episodes:
        clip = load_clip(replace(episode, query=episode.query[0:23:5][: validation.FRAMES]), plan.query_root, SIZE)
        masks = solve(extract(network.eval(), clip), CONFIGS["RePRI"]).masks(SIZE)
        sums[episode.class_name] += torch.tensor([int((masks & clip.truth).sum()), int((masks | clip.truth).sum())])
    return float(np.mean([float(i) / (float(u) + 1e-10) for i, u in sums.values()]))


def test_episodic_validation_step_by_step(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every epoch samples its own episodes; a limit takes them from beginning and end, so of several classes."""
    assert validation.FRAMES == 20
    monkeypatch.setattr(validation, "FRAMES", 3)
    network, plan = build_encoder(TINY, 3, seed=1), read_benchmark("minivspw-val", 0, data)
    first, second = (draw_episodes(plan, 1, 7, epoch) for epoch in (0, 1))
    assert first != second and first[0].class_id != first[-1].class_id
    for epoch, limit, episodes in ((0, 0, first), (1, 99, second), (0, 1, first[:1]), (0, 2, [first[0], first[-1]])):
        found = validate_episodes(network.train(), epoch, plan, SIZE, replace(SEVEN, validation_episodes=limit)).miou
        assert found == pytest.approx(short_iou(plan, episodes, network), rel=1e-12) and not network.training


def test_episodes_that_fail_are_reported_and_end_no_training(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, plan = build_encoder(TINY, 3, seed=1), read_benchmark("minivspw-val", 0, data)
    episodes = draw_episodes(plan, 1, 7, 0)
    for failing in (2, len(episodes)):
        errors = [ValueError("a sentence"), KeyError("of any kind"), *[MemoryError()] * failing][:failing]
        method = Mock(predict=Mock(side_effect=chain(errors, repeat(DEFAULT)), wraps=METHODS["RePRI"].predict))
        monkeypatch.setattr(validation, "METHODS", {"RePRI": method})
        with pytest.warns(UserWarning, match=f"{episodes[0].key} is left out .ValueError: a sentence"):
            result = validate_episodes(network, 0, plan, SIZE, SEVEN)
        due = short_iou(plan, episodes[2:], network) if failing == 2 else 0.0
        assert result.failed == failing and result.miou == pytest.approx(due, rel=1e-12)


def test_a_run_may_be_validated_by_episodes(data: Path, tmp_path: Path) -> None:
    settings = {"epochs": 2, "batch": 4, "every": 5, "validation_episodes": 1, "show_every": 0}
    config = replace(TrainConfig.mini(), validation="minivspw-val", **settings)
    plan, fold = read_benchmark("minivspw-val", 0, data), read_benchmark("minivspw", 0, data).query
    assert [p.val_miou for p in train(fold, data, tmp_path, config, SIZE)][-1] is not None
    found = read_json(tmp_path / "best.json")["metrics"]
    expected = validate_episodes(load_encoder(tmp_path), found["epoch"], plan, SIZE, config).miou
    assert found["val_miou"] == pytest.approx(expected)
    with pytest.raises(ValueError, match="minivspw-vall.*did you mean minivspw-val"):
        next(train(fold, data, tmp_path / "other", replace(config, validation="minivspw-vall"), SIZE))

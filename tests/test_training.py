"""Base training: the loss and schedule by hand, and runs that can be killed, continued and trusted."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import corpora
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ttilib.data.lists import Fold, read_fold
from ttilib.networks.architectures import Architecture
from ttilib.networks.checkpoints import load_encoder, load_state
from ttilib.networks.models import build_encoder
from ttilib.networks.runs import cosine_rate
from ttilib.networks.supervision import class_iou, confusion, smoothed_cross_entropy, validate
from ttilib.networks.training import Progress, TrainConfig, batches, fit, train

TINY = Architecture("tiny", "basic", (1, 1, 1, 1), (8, 8, 16, 16), stem="plain", pyramid=4, features=16)
QUICK = TrainConfig(encoder="resnet18-mini", epochs=6, batch=4, every=1, learning_rate=0.05, validate_every=2)
SIZE = (17, 33)


class Squares(Dataset):
    """Red squares are class 1, green ones class 2; from epoch `poisoned` on the pictures hold infinities."""

    def __init__(self, length: int, seed: int, poisoned: int = 999) -> None:
        self.length, self.seed, self.poisoned, self.epoch = length, seed, poisoned, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index >= self.length:
            raise IndexError(index)
        rng = np.random.default_rng([self.seed, self.epoch, index])
        image, labels = rng.normal(0, 0.1, (3, 33, 33)).astype(np.float32), np.zeros((33, 33), np.int64)
        for kind in (1, 2):
            y, x = rng.integers(0, 20, 2)
            labels[y : y + 13, x : x + 13] = kind
        for kind in (1, 2):
            image[kind - 1][labels == kind] += 2
        if self.epoch >= self.poisoned:
            image[:] = np.inf
        return torch.from_numpy(image), torch.from_numpy(labels)


# --- the pieces, by hand ---


def test_smoothed_cross_entropy_by_hand() -> None:
    """True class 0.9, the other two 0.05 each; an ignored pixel does not count."""
    p = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.98, 0.01, 0.01]])
    logits, labels = (
        (p.log() + torch.tensor([[1.0], [2.0], [3.0]])).T.reshape(1, 3, 1, 3),
        torch.tensor([[[0, 2, 255]]]),
    )
    first = -(0.9 * math.log(0.7) + 0.05 * math.log(0.2) + 0.05 * math.log(0.1))
    second = -(0.05 * math.log(0.1) + 0.05 * math.log(0.3) + 0.9 * math.log(0.6))
    loss = smoothed_cross_entropy(logits, labels, 0.1)
    torch.testing.assert_close(loss, torch.tensor((first + second) / 2))
    sharp = smoothed_cross_entropy(logits, labels, 0.0)
    torch.testing.assert_close(sharp, torch.tensor(-(math.log(0.7) + math.log(0.6)) / 2))
    assert smoothed_cross_entropy(logits, torch.full_like(labels, 255), 0.1) == 0
    weighted = smoothed_cross_entropy(logits, labels, 0.1, foreground_weight=3.0)
    torch.testing.assert_close(weighted, torch.tensor((first + 3 * second) / 4))


def test_learning_rate_is_half_a_cosine() -> None:
    config, steps = TrainConfig(), 40
    assert cosine_rate(0, steps, config) == pytest.approx(2.5e-3, rel=1e-12)
    assert cosine_rate(20, steps, config) == pytest.approx((2.5e-3 + 1e-6) / 2, rel=1e-9)
    assert cosine_rate(40, steps, config) == pytest.approx(1e-6, rel=1e-9)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 2.5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps, eta_min=1e-6)
    for step in range(steps):
        assert cosine_rate(step, steps, config) == pytest.approx(schedule.get_last_lr()[0], rel=1e-6)
        optimizer.step()
        schedule.step()


def test_iou_by_hand() -> None:
    labels = torch.tensor([[[0, 0, 1, 1], [2, 255, 1, 0]]])
    found = torch.tensor([[[0, 1, 1, 1], [0, 2, 0, 0]]])
    counts = confusion(found, labels, 4)
    assert counts.tolist() == [[2, 1, 0, 0], [1, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    # background 2 of 5, class 1 2 of 4, class 2 0 of 1, class 3 never seen and counted as 0
    torch.testing.assert_close(class_iou(counts), torch.tensor([0.4, 0.5, 0.0, 0.0], dtype=torch.float64))


def test_validation_of_a_network_that_says_1_everywhere() -> None:
    network, frames = build_encoder(TINY, 3), Squares(5, seed=3)
    with torch.no_grad():
        network.classifier.weight.zero_()
        network.classifier.bias.copy_(torch.tensor([0.0, 1.0, 0.0]))
    share = torch.stack([frames[i][1] == 1 for i in range(5)]).double().mean().item()
    assert validate(network, frames, batch=2).tolist() == pytest.approx([0, share, 0], rel=1e-9)


def test_an_epoch_shows_every_frame_once_in_its_own_order() -> None:
    class Numbers(Squares):
        def __getitem__(self, index: int) -> tuple[int, int]:
            return index, self.epoch

    frames, config = Numbers(11, 0), replace(QUICK, batch=3)
    first, again, other = (
        [numbers.tolist() for numbers, _ in batches(frames, config, epoch)] for epoch in (0, 0, 1)
    )
    assert first == again != other
    shown = sum(first, [])
    assert (
        len(first) == 3 and len(set(shown)) == 9 and set(shown) <= set(range(11)) and shown != sorted(shown)
    )
    rest = list(batches(frames, config, 1, done=2))
    assert [numbers.tolist() for numbers, _ in rest] == other[2:] and rest[0][1].tolist() == [1, 1, 1]


@pytest.mark.parametrize("wrong", [{"batch": 1}, {"epochs": 0}, {"every": 0}, {"validate_every": -1}])
def test_settings_that_make_no_sense(wrong: dict) -> None:
    with pytest.raises(ValueError, match=f"TrainConfig: .*{next(iter(wrong))}"):
        TrainConfig(**wrong)


def test_default_settings_are_the_papers() -> None:
    config = TrainConfig()
    assert (config.encoder, config.batch, config.every, config.seed) == ("resnet50", 30, 5, 2020)
    assert (config.learning_rate, config.last_learning_rate, config.momentum) == (2.5e-3, 1e-6, 0.9)
    assert (config.weight_decay, config.label_smoothing) == (1e-4, 0.1)


# --- whole runs ---


def squares(folder: Path, config: TrainConfig, **poison: int) -> list[Progress]:
    network = build_encoder(TINY, 3, seed=config.seed)
    return list(
        fit(
            network, Squares(24, 0, **poison), Squares(8, 1), folder, config, {"corpus": "squares", "fold": 0}
        )
    )


def log(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_squares_are_learned(tmp_path: Path) -> None:
    config = replace(QUICK, epochs=12, batch=6, learning_rate=0.1, validate_every=4)
    progress = squares(tmp_path, config)
    losses = [p.loss for p in progress]
    assert np.mean(losses[-4:]) < 0.6 * losses[0]
    measured = [(p.epoch, p.val_miou) for p in progress if p.val_miou is not None]
    assert [epoch for epoch, _ in measured] == [4, 8, 12]
    best = max(miou for _, miou in measured)
    assert best > 0.45, "saying background everywhere scores 0.25"
    assert [p.step for p in progress] == list(range(1, 49)) and {p.steps for p in progress} == {48}
    assert progress[0].learning_rate == 0.1 and progress[-1].learning_rate < 0.001
    assert progress[-1].eta == 0 < progress[0].eta and progress[-1].seconds > progress[0].seconds > 0
    encoder, page = load_encoder(tmp_path), json.loads((tmp_path / "best.json").read_text())
    assert (
        page["metrics"]["val_miou"] == best and page["config"]["batch"] == 6 and page["corpus"] == "squares"
    )
    assert validate(encoder, Squares(8, 1)).mean().item() == pytest.approx(best, abs=1e-12)
    assert [row["loss"] for row in log(tmp_path)] == losses


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three base classes in two videos of four frames each: 12 frames to train, 12 to validate."""
    shows = {f"v{c}{n}": [[c]] * 4 for c in (2, 3, 4) for n in "ab"}
    return corpora.ytvis(tmp_path_factory.mktemp("ytvis"), shows)


@pytest.fixture(scope="module")
def fold(data: Path) -> Fold:
    return read_fold("ytvis", 0, data)


@pytest.fixture(scope="module")
def whole(data: Path, fold: Fold, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    assert len(list(train(fold, data, folder, QUICK, SIZE))) == 18
    assert torch.equal(torch.get_rng_state(), before[0]), "training drew from torch's shared generator"
    assert np.random.get_state()[1].tolist() == before[1], "training drew from NumPy's shared generator"
    return folder


CHILD = """
import json, sys
import torch
from ttilib.data.lists import read_fold
from ttilib.networks.training import TrainConfig, train

torch.set_num_threads(1)
root, folder, config = sys.argv[1], sys.argv[2], TrainConfig(**json.loads(sys.argv[3]))
for progress in train(read_fold("ytvis", 0, root), root, folder, config, (17, 33)):
    print(progress.step, flush=True)
"""


def kill_after(step: int, data: Path, folder: Path, config: TrainConfig, repository: Path) -> None:
    """Start a run in a process of its own and end it the hard way."""
    arguments = [sys.executable, "-c", CHILD, str(data), str(folder), json.dumps(vars(config))]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, cwd=repository) as child:
        for line in child.stdout:
            if int(line) >= step:
                child.send_signal(signal.SIGKILL)
                break
        assert child.wait() == -signal.SIGKILL


def test_a_killed_run_ends_like_one_that_was_not(
    data: Path, fold: Fold, whole: Path, tmp_path: Path, repository: Path
) -> None:
    kill_after(5, data, tmp_path, replace(QUICK, save_seconds=1e9), repository)
    first = load_state(tmp_path / "last.pt")["progress"]["step"]
    assert first in (3, 6, 9, 12, 15), "saved at the ends of epochs"
    with open(tmp_path / "log.jsonl", "a") as torn:
        torn.write('{"epoch": 2, "st')
    steps = train(fold, data, tmp_path, replace(QUICK, save_seconds=0.0), SIZE)
    assert next(steps).step == first + 1
    steps.close()  # in the middle of an epoch, saved there
    rest = list(train(fold, data, tmp_path, QUICK, SIZE))
    assert [p.step for p in rest] == list(range(first + 2, 19))
    assert_same_run(tmp_path, whole)


def assert_same_run(folder: Path, other: Path) -> None:
    """Bitwise: weights, momentum, loss curve and the encoder that was kept."""
    states = [load_state(place / "last.pt") for place in (folder, other)]
    tensors = [
        {**state["network"], **{n: b["momentum_buffer"] for n, b in state["optimizer"]["state"].items()}}
        for state in states
    ]
    assert tensors[0].keys() == tensors[1].keys()
    assert all(torch.equal(value, tensors[1][name]) for name, value in tensors[0].items())
    curves = [
        [(r["step"], r["loss"], r["learning_rate"], r["val_miou"]) for r in log(f)] for f in (folder, other)
    ]
    assert curves[0] == curves[1] and len(curves[0]) == 18
    assert (folder / "best.safetensors").read_bytes() == (other / "best.safetensors").read_bytes()


def test_dropout_and_seed_matter(data: Path, fold: Fold, whole: Path, tmp_path: Path) -> None:
    """The comparison above would notice another draw: another seed gives other losses."""
    first = next(train(fold, data, tmp_path, replace(QUICK, seed=7), SIZE))
    assert first.loss != log(whole)[0]["loss"]


@pytest.mark.parametrize("change", [{"foreground_weight": 4.0}, {"label_smoothing": 0.0}])
def test_settings_reach_the_loss(data: Path, fold: Fold, whole: Path, tmp_path: Path, change: dict) -> None:
    assert next(train(fold, data, tmp_path, replace(QUICK, **change), SIZE)).loss != log(whole)[0]["loss"]


def test_processes_that_read_change_nothing(data: Path, fold: Fold, whole: Path, tmp_path: Path) -> None:
    steps = train(fold, data, tmp_path, replace(QUICK, workers=1), SIZE)
    assert [next(steps).loss for _ in range(4)] == [row["loss"] for row in log(whole)[:4]]


def test_a_finished_run_is_left_alone(data: Path, fold: Fold, whole: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in whole.iterdir() if path.name != "log.jsonl"}
    rows = (whole / "log.jsonl").read_text()
    (last,) = train(fold, data, whole, replace(QUICK, save_seconds=1.0), SIZE)
    assert last.step == last.steps == 18 and last.val_miou is not None and last.eta == 0
    assert {
        path.name: path.stat().st_mtime_ns for path in whole.iterdir() if path.name != "log.jsonl"
    } == before
    assert (whole / "log.jsonl").read_text() == rows
    assert set(before) == {"last.pt", "best.safetensors", "best.json"}


def test_the_page_tells_what_the_encoder_knows(whole: Path) -> None:
    page = json.loads((whole / "best.json").read_text())
    assert (page["corpus"], page["fold"], page["base"]) == ("ytvis", 0, ["kind_2", "kind_3", "kind_4"])
    assert page["classes"] == 4 and page["size"] == [17, 33] and page["config"]["learning_rate"] == 0.05


def test_a_folder_of_another_run_is_refused(data: Path, fold: Fold, whole: Path) -> None:
    with pytest.raises(
        ValueError, match=r"last.pt: belongs to a run with learning_rate 0.05, not 0.01; use another"
    ):
        next(train(fold, data, whole, replace(QUICK, learning_rate=0.01), SIZE))
    with pytest.raises(ValueError, match="fold 0, not 1"):
        next(train(read_fold("ytvis", 1, data), data, whole, QUICK, SIZE))
    with pytest.raises(ValueError, match=r"size \[17, 33\], not \[25, 33\]"):
        next(train(fold, data, whole, QUICK, (25, 33)))


def test_too_few_frames_for_a_batch(data: Path, fold: Fold, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="12 frames to train on and 12 to validate are too few for a batch of 13"
    ):
        next(train(fold, data, tmp_path, replace(QUICK, batch=13), SIZE))


def test_a_damaged_state_is_named(data: Path, fold: Fold, tmp_path: Path) -> None:
    (tmp_path / "last.pt").write_bytes(b"half a file")
    with pytest.raises(ValueError, match="last.pt: not a training state that can be read; remove it"):
        next(train(fold, data, tmp_path, QUICK, SIZE))


def test_a_loss_that_is_no_number_stops_and_keeps_what_was_good(tmp_path: Path) -> None:
    config = replace(QUICK, save_seconds=0.0)
    with pytest.raises(FloatingPointError, match=r"the loss of step 13 is nan, .* learning_rate below 0.05"):
        squares(tmp_path, config, poisoned=2)
    state = load_state(tmp_path / "last.pt")
    assert state["progress"]["step"] == 12 and len(log(tmp_path)) == 12
    assert all(value.isfinite().all() for value in state["network"].values() if value.is_floating_point())
    assert load_encoder(tmp_path)(torch.rand(1, 3, 17, 17)).isfinite().all()


def test_the_earlier_of_equal_validations_stays(tmp_path: Path) -> None:
    """With a learning rate of nothing every validation is alike but for batch norm, so fix that too."""
    config = replace(QUICK, epochs=4, learning_rate=0.0, last_learning_rate=0.0, validate_every=1)

    def steps() -> Iterator[Progress]:
        network = build_encoder(TINY, 3)
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 0.0
        return fit(network, Squares(8, 0), Squares(4, 1), tmp_path, config, {})

    began = [p for p, _ in zip(steps(), range(4), strict=False)]
    rows = began + list(steps())  # a resumed run remembers the best so far
    assert [p.step for p in rows] == list(range(1, 9))
    assert len({p.val_miou for p in rows if p.val_miou is not None}) == 1
    assert json.loads((tmp_path / "best.json").read_text())["metrics"]["epoch"] == 1

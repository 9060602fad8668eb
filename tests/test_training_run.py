"""Training runs: killed runs end like others, settings reach the weights, and nothing is lost on an error."""

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, replace
from multiprocessing.synchronize import Event
from pathlib import Path

import corpora
import numpy as np
import pytest
import torch
from squares import QUICK, TINY, Squares, learn
from tasks import FRESH, LIMIT
from torch import Tensor

from ttilib.__main__ import main
from ttilib.datasets.catalog import Fold, read_fold
from ttilib.encoders.checkpoints import load_encoder, load_state
from ttilib.encoders.pspnet import build_encoder
from ttilib.training.config import LEAK, ContrastConfig, TrainConfig
from ttilib.training.run import Progress, Run
from ttilib.training.train import batches, fit, train, unlabelled_pairs
from ttilib.training.validation import ValidationResult, validate

FRAMES = replace(QUICK, batch=4)
CLIPS = replace(QUICK, clip_frames=2, repeats=3, batch=2, epochs=1, validate_every=1)
SIZE = (17, 33)
FILES = {
    "last.pt", "log.jsonl", "best.json", "best.safetensors", "last.json", "last.safetensors", "train.lock",
}  # fmt: skip


def test_an_epoch_has_every_sample_once_in_its_own_order() -> None:
    class Numbers(Squares):
        def __getitem__(self, index: int) -> tuple[int, int]:
            return index, self.epoch

    def numbers(*arguments: int) -> list[list[int]]:
        return [sample.tolist() for (sample, _), _ in batches(Numbers(11, 0), replace(QUICK, batch=3), *arguments)]

    first, other = sum(numbers(0), []), numbers(1)
    assert len(set(first)) == 9 and set(first) <= set(range(11)) and first != sorted(first)
    assert numbers(0) != other and numbers(1, 2) == other[2:]


def log(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_squares_are_learned(tmp_path: Path) -> None:
    progress = list(learn(tmp_path, replace(QUICK, epochs=12, batch=6, learning_rate=0.1, validate_every=4)))
    losses, measured = [p.loss for p in progress], {p.epoch: p for p in progress if p.val_miou is not None}
    assert np.mean(losses[-4:]) < 0.6 * losses[0] and list(measured) == [4, 8, 12]
    best = max(measured.values(), key=lambda p: p.val_miou)
    assert best.val_miou > 0.45, "predicting background everywhere scores 0.25"
    assert [p.step for p in progress] == list(range(1, 49)) and {p.steps for p in progress} == {48}
    assert progress[-1].learning_rate < 0.001 and progress[-1].eta == 0 < progress[0].eta
    iou, loss = validate(load_encoder(tmp_path), Squares(8, 1))
    assert iou.mean().item() == pytest.approx(best.val_miou, abs=1e-12) and loss == pytest.approx(best.val_loss)
    rows = log(tmp_path)
    assert rows == [asdict(p) for p in progress] and losses == [row["parts"]["ce"] for row in rows]
    ends = [row for row in rows if row["train_miou"] is not None]
    assert [row["step"] for row in ends] == list(range(4, 49, 4)), "at the end of every epoch"
    counts = load_state(tmp_path / "last.pt")["counts"].double()
    assert counts.sum() == 24 * 33 * 33, "pixels of the last epoch only"
    assert ends[-1]["train_accuracy"] == pytest.approx(float(counts.trace() / counts.sum()))


def test_plots_change_nothing_in_the_training(tmp_path: Path) -> None:
    config = replace(QUICK, epochs=2, contrast=ContrastConfig(width=4, project=False))
    quiet, shown = (
        [p.loss for p in learn(tmp_path / str(every), replace(config, show_every=every))] for every in (0, 2)
    )
    assert quiet == shown and {path.name for path in (tmp_path / "0").iterdir()} == FILES
    assert {path.name for path in (tmp_path / "2" / "samples").iterdir()} == {"epoch_002.png", "pairs_002.png"}


def test_settings_reach_the_loss_or_the_weights(tmp_path: Path) -> None:
    """What is no part of the loss itself shows in a later one."""
    at_once = {"foreground_weight": 4.0, "label_smoothing": 0.0, "mixup": 0.5, "seed": 7, "accumulate": 2}
    at_once |= {"precision": "bf16"}
    later = {"momentum": 0.0, "weight_decay": 0.1, "clip_norm": 1e-3, "schedule": "step"}
    losses = {}
    for name, value in {"epochs": QUICK.epochs, **at_once, **later}.items():
        with closing(learn(tmp_path / name, replace(QUICK, **{name: value}))) as steps:
            losses[name] = [next(steps).loss for _ in range(3)]
    usual = losses.pop("epochs")  # unchanged
    for name, found in losses.items():
        assert found != usual and np.isfinite(found).all(), name
        assert (found[0] != usual[0]) == (name in at_once), name


def test_averaged_weights_are_the_ones_saved(tmp_path: Path) -> None:
    """With a share of (almost) one the average stays where the run began; running means are averaged as well."""
    list(learn(tmp_path, replace(QUICK, epochs=1, validate_every=1, ema=1 - 1e-9)))
    kept, fresh = load_encoder(tmp_path), build_encoder(TINY, 3, seed=QUICK.seed)
    torch.testing.assert_close(kept.classifier.weight, fresh.classifier.weight.detach(), rtol=0.1, atol=0.02)
    moved = load_state(tmp_path / "last.pt")["learner"]
    for name in ("classifier.weight", "bottleneck.1.running_mean"):
        assert not torch.equal(moved[f"network.{name}"], kept.state_dict()[name])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three base classes in two videos of four frames each: 12 frames to train, 12 to validate; two novel videos."""
    shows = {f"v{c}{n}": [[c]] * 4 for c in (2, 3, 4, 5) for n in "ab"}
    return corpora.ytvis(tmp_path_factory.mktemp("ytvis"), shows)


@pytest.fixture(scope="module")
def fold(data: Path) -> Fold:
    return read_fold("ytvis", 0, data)


@pytest.fixture(scope="module")
def whole(data: Path, fold: Fold, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run, which uses no shared random generator."""
    folder, before = tmp_path_factory.mktemp("whole"), (torch.get_rng_state(), np.random.get_state()[1].tolist())
    assert len(list(train(fold, data, folder, FRAMES, SIZE))) == 18
    metadata = json.loads((folder / "best.json").read_text())
    assert (metadata["corpus"], metadata["fold"], metadata["base"]) == ("ytvis", 0, ["kind_2", "kind_3", "kind_4"])
    assert metadata["classes"] == 4 and metadata["size"] == [17, 33] and metadata["config"]["learning_rate"] == 0.05
    assert torch.equal(torch.get_rng_state(), before[0]) and np.random.get_state()[1].tolist() == before[1]
    return folder


EVERYTHING = replace(
    QUICK, epochs=3, loss="ce+iou", mixup=0.3, accumulate=2, ema=0.5, clip_norm=1.0, optimizer="adamw",
    learning_rate=0.01, contrast=ContrastConfig(width=4),
)  # fmt: skip


def learn_and_die(folder: Path, config: TrainConfig) -> None:
    torch.set_num_threads(1)
    next(progress for progress in learn(folder, config) if progress.step == 8)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_run_ends_like_one_that_was_not(tmp_path: Path) -> None:
    config, killed = EVERYTHING, tmp_path / "killed"
    list(learn(tmp_path / "whole", config))
    child = FRESH.Process(target=learn_and_die, args=(killed, replace(config, save_seconds=1e9)))
    child.start()
    child.join(LIMIT)
    assert child.exitcode == -signal.SIGKILL
    assert load_state(killed / "last.pt")["progress"]["step"] == 6, "saved at the ends of epochs"
    with open(killed / "log.jsonl", "a") as torn:
        torn.write('{"epoch": 2, "st')
    with closing(learn(killed, replace(config, save_seconds=0.0))) as steps:
        assert next(steps).step == 7
    rest = list(learn(killed, config))  # from the middle of an epoch
    assert [p.step for p in rest] == list(range(8, 19))
    assert_same_run(killed, tmp_path / "whole", 18)


def assert_same_run(folder: Path, other: Path, steps: int) -> None:
    """Bitwise: weights, everything the next step depends on, loss curve and the encoder that was kept."""
    states = [load_state(place / "last.pt") for place in (folder, other)]
    tensors = [dict(leaves({k: v for k, v in state.items() if k != "progress"})) for state in states]
    assert tensors[0].keys() == tensors[1].keys() and len(tensors[0]) > 50
    assert all(torch.equal(value, tensors[1][name]) for name, value in tensors[0].items())
    curves = [
        [{k: v for k, v in row.items() if k not in ("seconds", "waited", "eta")} for row in log(f)]
        for f in (folder, other)
    ]
    assert curves[0] == curves[1] and len(curves[0]) == steps
    for name in ("best.safetensors", "last.safetensors"):
        assert (folder / name).read_bytes() == (other / name).read_bytes()


def leaves(value: object, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors inside nested dicts and lists, by where they are."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, f"{name}/{key}")


def test_the_contrast_takes_the_videos_it_names(data: Path, fold: Fold, tmp_path: Path) -> None:
    """Base videos, the novel classes' own, which the metadata file says, or VSPW's beside."""
    for videos, names in (("base", {"v2a", "v3a", "v4a"}), (LEAK, {"v5a", "v5b"})):
        contrast = ContrastConfig(videos=videos, pairs=3, every=1, width=8)
        pairs = unlabelled_pairs(fold, data, SIZE, replace(FRAMES, contrast=contrast))
        assert set(pairs.videos) == names and pairs[0][0].shape == (3, 2, 3, *SIZE)
        list(train(fold, data, tmp_path / videos, replace(CLIPS, contrast=contrast), SIZE))
        metadata = json.loads((tmp_path / videos / "best.json").read_text())
        assert ("novel classes" in metadata.get("leak", "")) == (videos == LEAK)
        assert {"ce", "contrast"} == set(log(tmp_path / videos)[0]["parts"])
    empty = np.zeros((corpora.HEIGHT, corpora.WIDTH), np.uint8)
    corpora.vspw(tmp_path / "vspw", {"a": [empty] * 2, "b": [empty + 41] * 2}, train=("a",))
    pairs = unlabelled_pairs(fold, data, SIZE, replace(FRAMES, contrast=ContrastConfig(root=str(tmp_path), every=1)))
    assert set(pairs.videos) == {"a"}, "b contains a class with the name of a novel one"


def test_only_a_strictly_better_validation_is_the_best(tmp_path: Path) -> None:
    """Nor does a run that was stopped forget how good its best was."""
    config, miou = replace(QUICK, epochs=4, validate_every=1), (0.2, 0.5, 0.5, 0.4)
    data = Squares(24, 0), Squares(8, 1), tmp_path, config, {"corpus": "squares", "fold": 0}

    def run() -> Iterator[Progress]:
        network = build_encoder(TINY, 3)
        return fit(network, *data, validate_epoch=lambda _, epoch: ValidationResult(miou[epoch - 1]))

    (tmp_path / "best.means.safetensors").touch()  # of earlier weights
    with closing(run()) as steps:
        assert [next(steps).step for _ in range(13)][-1] == 13
    assert [progress.step for progress in run()] == list(range(13, 25))
    assert not (tmp_path / "best.means.safetensors").exists()
    best, last = (json.loads((tmp_path / f"{name}.json").read_text())["metrics"] for name in ("best", "last"))
    assert (best["epoch"], best["val_miou"], last["epoch"], last["val_miou"]) == (2, 0.5, 4, 0.4)
    assert log(tmp_path)[11]["val_loss"] is None and log(tmp_path)[11]["val_miou"] == 0.5


def test_a_finished_run_is_left_alone_if_its_encoder_is_there(data: Path, fold: Fold, whole: Path) -> None:
    before = {path.name: path.read_bytes() for path in whole.iterdir()}
    assert set(before) == FILES
    (last,) = train(fold, data, whole, replace(FRAMES, save_seconds=1.0), SIZE)
    assert last.step == last.steps == 18 and last.val_miou is not None and last.eta == 0
    assert {path.name: path.read_bytes() for path in whole.iterdir()} == before
    for name in ("best.safetensors", "best.json"):
        (whole / name).unlink()
        with pytest.raises(ValueError, match=r"best.safetensors: .*gone"):
            next(train(fold, data, whole, FRAMES, SIZE))
        (whole / name).write_bytes(before[name])


def test_a_folder_of_another_run_and_impossible_settings_are_refused(data: Path, fold: Fold, whole: Path) -> None:
    other, turned = "last.pt: belongs to a run with ", replace(fold, base=fold.base[::-1])
    for asked, config, size, found in (
        (fold, replace(FRAMES, learning_rate=0.01), SIZE, f"{other}learning_rate 0.05, not 0.01"),
        (replace(fold, index=1), FRAMES, SIZE, f"{other}fold 0, not 1"),
        (turned, FRAMES, SIZE, rf"{other}base \['kind_2', 'kind_3', 'kind_4'\], not \['kind_4'"),
        (fold, replace(FRAMES, batch=13), SIZE, "12 samples.* batch of 13"),
    ):
        with pytest.raises(ValueError, match=found):
            next(train(asked, data, whole, config, size))
    configs = [replace(QUICK, contrast=ContrastConfig(root=root)) for root in ("here", "there")]
    here, there = (Run(build_encoder(TINY, 3), whole, each, {}, 9, torch.device("cpu")).identity() for each in configs)
    assert here == there, "the data folder may move"


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped after 7 of 12 steps."""
    folder = tmp_path_factory.mktemp("half")
    with closing(learn(folder, HALF)) as steps:
        assert [next(steps).step for _ in range(7)][-1] == 7
    return folder


HALF = replace(QUICK, epochs=2, optimizer="adam", ema=0.5, save_seconds=0.0, validate_every=1)


def continued(folder: Path, other: Path, content: bytes = b"") -> Progress:
    """The next step of a copy of a run, of which the checkpoint may be replaced."""
    shutil.copytree(folder, other)
    if content:
        (other / "last.pt").write_bytes(content)
    with closing(learn(other, HALF)) as steps:
        return next(steps)


def test_a_bit_that_flipped_in_a_checkpoint_is_found(half: Path, tmp_path: Path) -> None:
    """Wherever a tensor is; the archive has checksums. Cut short, it is refused as well."""
    whole, state = (half / "last.pt").read_bytes(), load_state(half / "last.pt")
    tensors = [tensor for _, tensor in leaves(state) if tensor.numel() > 64 and tensor.unique().numel() > 8]
    damaged = [whole[: len(whole) // 2]]
    for bit, tensor in enumerate(tensors[:: len(tensors) // 6]):
        place = whole.index(bytes(tensor.untyped_storage())) + 33 * bit
        damaged.append(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
    for number, content in enumerate(damaged):
        with pytest.raises(ValueError, match=r"last\.pt: .*remove it"):
            continued(half, tmp_path / str(number), content)


def learn_and_wait(folder: Path, config: TrainConfig, begun: Event) -> None:
    next(steps := learn(folder, config))
    begun.set()
    time.sleep(LIMIT)
    steps.close()


def test_only_one_process_trains_into_a_folder(half: Path, tmp_path: Path) -> None:
    """A second one is told by which; a killed one is none, whatever its file says."""
    continued(half, tmp_path / "run")  # a lock that was left
    child = FRESH.Process(target=learn_and_wait, args=(tmp_path / "run", HALF, begun := FRESH.Event()))
    child.start()
    assert begun.wait(LIMIT)
    rows = (tmp_path / "run" / "log.jsonl").read_bytes()
    with pytest.raises(ValueError, match=f"train: in use by process {child.pid} on "):
        next(learn(tmp_path / "run", HALF))
    assert (tmp_path / "run" / "log.jsonl").read_bytes() == rows
    child.kill()
    child.join()
    assert [p.step for p in learn(tmp_path / "run", HALF)][-1] == 12
    assert [row["step"] for row in log(tmp_path / "run")] == list(range(1, 13))


def test_the_command_trains_and_resumes(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`python -m ttilib train`, stopped by Ctrl-C and an error, each said below the bar, and started again."""
    settings = {"batch": 4, "epochs": 2, "encoder": "resnet18-mini", "every": 1, "save_seconds": 0.0, "show_every": 0}
    words = [word for name, value in settings.items() for word in ("-p", name, str(value))]
    run = ["train", "ytvis-v1", "--root", str(data), "--mini", "--size", "17", "33", "--out", str(tmp_path), *words]
    step = Run.training_step
    stops = iter([None, None, KeyboardInterrupt(), None, None, OSError("no space")])

    def stopped(self: Run, *arguments: object) -> Progress:
        if error := next(stops, None):
            raise error
        return step(self, *arguments)

    monkeypatch.setattr(Run, "training_step", stopped)
    for code, found in ((130, "ttilib: stopped; give the same command again"), (2, "ttilib: no space"), (0, "")):
        assert main(run) == code
        lines = capsys.readouterr().err.rstrip("\n").replace("\r", "\n").split("\n")
        assert not found or lines[-1] == found and "loss=" in lines[-2]
    assert [row["step"] for row in log(tmp_path)] == [1, 2, 3, 4, 5, 6]

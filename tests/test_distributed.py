"""Several processes end with the weights of one; a failure of one ends all."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from squares import QUICK, command, learn
from test_training_run import assert_same_run, log
from torch import nn
from torch.utils.data import DistributedSampler

from ttilib.encoders.checkpoints import load_state
from ttilib.training import distributed
from ttilib.training.config import ContrastConfig, TrainConfig

TWO = replace(
    QUICK, epochs=2, validate_every=1, foreground_weight=3.0, accumulate=2, loss="ce+iou",
    contrast=ContrastConfig(width=4),
)  # fmt: skip


OPTIONS = {"double": True, "ignored": 5}


def in_two(folder: Path, config: TrainConfig, **options: int) -> subprocess.CompletedProcess:
    words = command(folder, config, 2, **{**OPTIONS, **options})
    return subprocess.run(words, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of two processes."""
    folder = tmp_path_factory.mktemp("together")
    run = in_two(folder, TWO)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == [str(step) for step in range(1, 13)], "only the first process prints"
    return folder


def test_two_processes_end_with_the_weights_of_one(together: Path, tmp_path: Path) -> None:
    """Images with more and less ignored pixels, pairs, two parts a step: equal but for the order of the sums."""
    list(learn(tmp_path, TWO, **OPTIONS))
    one, two = log(tmp_path), log(together)
    for name in ("loss", "train_miou", "train_accuracy", "val_miou", "val_loss"):
        values = [[row[name] for row in rows if row[name] is not None] for rows in (one, two)]
        assert len(values[0]) in (2, 12)
        np.testing.assert_allclose(values[0], values[1], rtol=1e-10)
    parts = [[row["parts"][name] for row in rows for name in ("ce", "iou", "contrast")] for rows in (one, two)]
    np.testing.assert_allclose(*parts, rtol=1e-10)
    states = [load_state(folder / "last.pt")["learner"] for folder in (tmp_path, together)]
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=1e-9, atol=1e-12)


def test_killed_in_the_middle_two_processes_end_like_two_that_were_not(together: Path, tmp_path: Path) -> None:
    config = replace(TWO, save_seconds=0.0)
    with subprocess.Popen(command(tmp_path, config, 2, **OPTIONS), stdout=subprocess.PIPE, text=True) as child:
        for line in child.stdout:
            if line.strip() == "7":
                child.send_signal(signal.SIGKILL)  # torchrun itself; its processes may live on
                break
        child.wait()
    end_all(str(tmp_path))
    assert 7 <= load_state(tmp_path / "last.pt")["progress"]["step"] < 12
    run = in_two(tmp_path, config)
    assert run.returncode == 0, run.stderr
    assert_same_run(tmp_path, together, 12)


def end_all(word: str) -> None:
    """Kill every process with a word in its command line, and wait until they are gone."""
    for _ in range(100):
        found = [int(path.name) for path in Path("/proc").glob("[0-9]*") if word.encode() in command_line(path)]
        if not found:
            return
        for process in found:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.1)
    raise AssertionError(f"{found} do not end")


def command_line(path: Path) -> bytes:
    """How a process was started; empty if it has ended meanwhile."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return (path / "cmdline").read_bytes()
    return b""


def test_an_error_ends_all_processes(tmp_path: Path) -> None:
    """The loss of the second epoch is not finite: no process waits for ever, and what was saved stays."""
    run = in_two(tmp_path, TWO, poisoned=1)
    assert run.returncode != 0 and "the loss of step 7 is nan" in run.stderr
    assert load_state(tmp_path / "last.pt")["progress"]["step"] == 6
    assert len(log(tmp_path)) == 6


# --- the pieces, in one process ---


@pytest.mark.parametrize("many", [1, 2, 3])
def test_every_sample_is_in_one_share_of_its_part(many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shares of a part are what torch's DistributedSampler divides among the processes, as sets."""
    order, parts = np.random.default_rng(0).permutation(60).reshape(5, 12), 2
    shares = []
    for rank in range(many):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        monkeypatch.setattr(distributed, "count", lambda: many)
        shares.append(distributed.parts_of(order, parts).reshape(5, parts, -1))
    together = np.concatenate(shares, axis=2)
    assert np.array_equal(np.sort(together, 2), np.sort(order.reshape(5, parts, -1), 2))
    samplers = [DistributedSampler(range(12), many, rank, shuffle=False) for rank in range(many)]
    assert {len(list(sampler)) for sampler in samplers} == {shares[0].shape[2] * parts}


def test_shared_batch_norm_alone_is_batch_norm() -> None:
    """Forward, running values and gradients equal torch's own; so do single precision and half precision."""
    x = torch.randn(4, 3, 5, 6, dtype=torch.float64)
    ours, torchs = distributed.SharedBatchNorm(3).double(), nn.BatchNorm2d(3).double()
    for layer in (ours, torchs):
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([1.0, 2.0, 0.5]))
            layer.bias.copy_(torch.tensor([0.1, -0.2, 0.3]))
    results = []
    for layer in (ours, torchs):
        seen = x.clone().requires_grad_()
        out = layer(seen)
        (out**3).sum().backward()
        results.append((out.detach(), seen.grad, layer.weight.grad, layer.running_mean, layer.running_var))
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs)
    assert ours.num_batches_tracked == 1
    assert distributed.SharedBatchNorm(3)(x.bfloat16()).dtype == torch.bfloat16
    torch.testing.assert_close(ours.eval()(x), torchs.eval()(x))


def test_shared_dropout_takes_rows_of_one_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = distributed.SharedDropout(0.5), torch.rand(6, 40, 2, 2) + 1
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(1)
        whole = nn.functional.dropout2d(x, 0.5)
    monkeypatch.setattr(distributed, "count", lambda: 3)
    for rank in range(3):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        with torch.random.fork_rng():
            torch.default_generator.manual_seed(1)
            assert torch.equal(layer.train()(x[2 * rank : 2 * rank + 2]), whole[2 * rank : 2 * rank + 2])
    assert torch.equal(layer.eval()(x), x)

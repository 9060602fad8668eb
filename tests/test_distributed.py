"""Several processes end with the weights of one; a failure of one ends all."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from squares import QUICK, command, learn
from test_training_run import assert_same_run, log

from ttilib.encoders.checkpoints import load_state
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
        next(line for line in child.stdout if line.strip() == "7")
        child.terminate()  # which torchrun hands on; a killed one would leave its processes alive
    assert 7 <= load_state(tmp_path / "last.pt")["progress"]["step"] < 12
    run = in_two(tmp_path, config)
    assert run.returncode == 0, run.stderr
    assert_same_run(tmp_path, together, 12)


def test_an_error_ends_all_processes(tmp_path: Path) -> None:
    """The loss of the second epoch is not finite: no process waits for ever, and what was saved stays."""
    run = in_two(tmp_path, TWO, poisoned=1)
    assert run.returncode != 0 and "the loss of step 7 is nan" in run.stderr
    assert load_state(tmp_path / "last.pt")["progress"]["step"] == 6
    assert len(log(tmp_path)) == 6
    learner = load_state(tmp_path / "last.pt")["learner"].values()
    assert all(value.isfinite().all() for value in learner if value.is_floating_point())

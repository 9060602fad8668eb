"""A failure in one of several processes ends all; continued, they end with the weights of one."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from squares import QUICK, command, learn
from tasks import LIMIT
from test_training_run import log

from ttilib.encoders.checkpoints import load_state
from ttilib.training.config import ContrastConfig, TrainConfig

TWO = replace(
    QUICK, epochs=2, validate_every=1, foreground_weight=3.0, accumulate=2, loss="ce+iou",
    contrast=ContrastConfig(width=4), save_seconds=0.0,
)  # fmt: skip
OPTIONS = {"double": True, "ignored": 5}


def in_two(folder: Path, config: TrainConfig, **options: int) -> subprocess.CompletedProcess:
    words = command(folder, config, 2, **{**OPTIONS, **options})
    return subprocess.run(words, capture_output=True, text=True, timeout=LIMIT)


def test_two_processes_stop_at_an_error_and_end_with_the_weights_of_one(tmp_path: Path) -> None:
    """An infinite image in the middle of the second epoch: neither waits for ever, and every step before it is saved.
    Images with more and less ignored pixels, pairs, two parts a step: equal but for the order of the sums.
    """
    one, two = tmp_path / "one", tmp_path / "two"
    place = np.random.default_rng([TWO.seed, 1]).permutation(24).tolist().index(7) // TWO.batch
    stopped = in_two(two, TWO, poisoned=1)
    assert stopped.returncode != 0 and f"the loss of step {7 + place} is nan" in stopped.stderr
    state = load_state(two / "last.pt")
    assert state["progress"]["step"] == len(log(two)) == 6 + place and 1 <= place <= 4
    assert all(value.isfinite().all() for value in state["learner"].values() if value.is_floating_point())
    rest = in_two(two, TWO)
    assert rest.returncode == 0, rest.stderr
    assert rest.stdout.split() == [str(step) for step in range(7 + place, 13)], "only the first process prints"
    list(learn(one, TWO, **OPTIONS))
    for name in ("loss", "train_miou", "train_accuracy", "val_miou", "val_loss"):
        values = [[row[name] for row in log(folder) if row[name] is not None] for folder in (one, two)]
        assert len(values[0]) in (2, 12)
        np.testing.assert_allclose(*values, rtol=1e-10)
    parts = [[row["parts"][name] for row in log(f) for name in ("ce", "iou", "contrast")] for f in (one, two)]
    np.testing.assert_allclose(*parts, rtol=1e-10)
    states = [load_state(folder / "last.pt")["learner"] for folder in (one, two)]
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=1e-9, atol=1e-12)

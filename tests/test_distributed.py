"""A failure in one of several processes ends all; continued, they end with the weights of one."""

import os
import socket
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from squares import QUICK, learn
from tasks import FRESH, LIMIT
from test_training_run import log

from ttilib.encoders.checkpoints import load_state
from ttilib.training import distributed
from ttilib.training.config import ContrastConfig

TWO = replace(
    QUICK, epochs=2, batch=8, validate_every=1, foreground_weight=3.0, accumulate=2, loss="ce+iou",
    contrast=ContrastConfig(width=4), save_seconds=0.0,
)  # fmt: skip
OPTIONS = {"double": True, "ignored": 5}


def process(rank: int, port: int, folder: Path, options: dict) -> list[int]:
    """The steps that one of two processes has done; torchrun sets these variables."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "test"}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    with distributed.process_group():
        return [progress.step for progress in learn(folder, TWO, **options)]


def in_two(folder: Path, **options: int) -> list[Future]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    with ProcessPoolExecutor(2, FRESH) as pool:
        return [pool.submit(process, rank, port, folder, OPTIONS | options) for rank in (0, 1)]


def test_two_processes_stop_at_an_error_and_end_with_the_weights_of_one(tmp_path: Path) -> None:
    """An infinite image in the middle of the second epoch: neither waits for ever, and every step before it is saved.
    Images with more and less ignored pixels, pairs, two parts a step: equal but for the order of the sums.
    """
    one, two = tmp_path / "one", tmp_path / "two"
    place = np.random.default_rng([TWO.seed, 1]).permutation(24).tolist().index(7) // TWO.batch
    for stopped in in_two(two, poisoned=1):
        with pytest.raises(FloatingPointError, match=f"the loss of step {4 + place} is nan"):
            stopped.result(LIMIT)
    state = load_state(two / "last.pt")
    assert state["progress"]["step"] == len(log(two)) == 3 + place and place >= 1
    assert all(value.isfinite().all() for value in state["learner"].values() if value.is_floating_point())
    assert [rest.result(LIMIT) for rest in in_two(two)] == [list(range(4 + place, 7))] * 2
    list(learn(one, TWO, **OPTIONS))
    for name in ("loss", "train_miou", "train_accuracy", "val_miou", "val_loss"):
        values = [[row[name] for row in log(folder) if row[name] is not None] for folder in (one, two)]
        assert len(values[0]) in (2, 6)
        np.testing.assert_allclose(*values, rtol=1e-10)
    parts = [[row["parts"][name] for row in log(f) for name in ("ce", "iou", "contrast")] for f in (one, two)]
    np.testing.assert_allclose(*parts, rtol=1e-10)
    states = [load_state(folder / "last.pt")["learner"] for folder in (one, two)]
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=1e-9, atol=1e-12)

"""Seconds and megabytes against work whose cost is known: sleeping, and arrays of a chosen size."""

import time

import numpy as np
import pytest
import torch

from ttilib.results import evaluation
from ttilib.results.evaluation import Cost, measured

LINUX = (evaluation.SELF / "clear_refs").exists()


def occupy(megabytes: int) -> np.ndarray:
    """An array of so many MB whose every page is in use."""
    return np.ones(megabytes * 10**6, dtype=np.uint8)


def test_seconds_are_those_of_the_block():
    with measured() as spent:
        time.sleep(0.05)
    assert 0.05 <= spent.seconds < 1.0


@pytest.mark.skipif(not LINUX, reason="the peak of memory is known on Linux only")
def test_memory_is_the_peak_inside_the_block_and_not_what_is_left_or_was_there_before():
    found = []
    for before, inside in ((0, 200), (0, 50), (200, 60)):  # more than malloc keeps for itself, 32 MiB
        held = occupy(before)
        with measured("cpu") as spent:
            occupy(inside)  # given back at once
        found.append(spent.memory_mb - inside)
        del held
    assert all(-2 < more < 25 for more in found), found


@pytest.mark.skipif(not LINUX, reason="the peak of memory is known on Linux only")
def test_memory_that_is_given_back_inside_costs_nothing():
    held = [occupy(200)]
    with measured() as spent:
        held.clear()
        occupy(50)
    assert 0 <= spent.memory_mb < 25


def test_a_block_that_fails_is_measured_and_its_error_is_not_hidden():
    with pytest.raises(ZeroDivisionError), measured() as spent:
        time.sleep(0.01)
        1 / 0  # noqa: B018
    assert spent.seconds >= 0.01 and (spent.memory_mb is not None) == LINUX


def test_unknown_memory_is_none_and_not_zero(tmp_path, monkeypatch):
    with measured("meta") as spent:
        time.sleep(0.01)
    assert spent.memory_mb is None and spent.seconds >= 0.01
    monkeypatch.setattr(evaluation, "SELF", tmp_path / "no such folder")  # as on other systems
    with measured(torch.device("cpu")) as spent:
        occupy(1)
    assert spent == Cost(spent.seconds, None)
    monkeypatch.setattr(evaluation, "SELF", tmp_path)  # the mark can be set back, but nothing is said
    (tmp_path / "status").write_text("Name: python\nVmRSS:\t  lots\n")
    with measured() as spent:
        occupy(1)
    assert spent.memory_mb is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_on_a_graphics_card_work_is_waited_for_and_its_own_memory_counted():
    held = torch.ones(100 * 10**6, dtype=torch.uint8, device="cuda")
    side = torch.rand(4096, 4096, device="cuda")
    with measured("cuda") as idle:
        pass
    with measured("cuda") as spent:
        for _ in range(100):
            side = side @ side / 4096
        torch.ones(200 * 10**6, dtype=torch.uint8, device="cuda")
    begin = time.perf_counter()
    torch.cuda.synchronize()
    assert time.perf_counter() - begin < 0.1 * spent.seconds  # nothing was left to wait for
    assert idle.memory_mb == 0 and 200 <= spent.memory_mb < 500
    del held

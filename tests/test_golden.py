"""The released solver's numbers: some are in reference/, more may be in a folder beside the checkout."""

from pathlib import Path

import numpy as np
import pytest
from golden import check, main

REFERENCE = Path(__file__).resolve().parent / "reference"
BESIDE = REFERENCE.parents[2] / "shared" / "golden"
FILES = {path.stem: path for folder in (BESIDE, REFERENCE) for path in sorted(folder.glob("*.npz"))}


@pytest.mark.parametrize("name", sorted(name for name in FILES if name.startswith("golden")))
def test_every_quantity_is_within_its_allowance(name):
    report = check(FILES[name])
    assert len(report.worst) >= 18
    assert not report.failures, str(report)


@pytest.mark.parametrize("name", sorted(name for name in FILES if name.startswith("supports")))
def test_supports_are_resized_and_padded_as_released(name):
    report = check(FILES[name])
    assert not report.failures, str(report)


def test_the_checker_notices_a_deviation(tmp_path, capsys):
    with np.load(REFERENCE / "golden_0.npz") as arrays:
        changed = {name: arrays[name] for name in arrays.files}
    changed["proto1"] = changed["proto1"] + np.float32(1e-4)
    np.savez(tmp_path / "golden_off.npz", **changed)
    assert main([str(tmp_path / "golden_off.npz")]) == 1
    assert "OUT: weight" in capsys.readouterr().out
    assert main([str(REFERENCE / "golden_0.npz")]) == 0

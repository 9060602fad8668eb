"""The released solver's numbers. The files lie beside the project, not in it; without them this is skipped."""

from pathlib import Path

import numpy as np
import pytest
from golden import check, main

FILES = sorted((Path(__file__).resolve().parent.parent.parent / "shared" / "golden").glob("golden_*.npz"))


@pytest.mark.skipif(not FILES, reason="no files of released numbers beside the checkout (../shared/golden)")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_quantity_is_within_its_allowance(path):
    report = check(path)
    assert len(report.worst) >= 18
    assert not report.failures, str(report)


@pytest.mark.skipif(not FILES, reason="no files of released numbers beside the checkout (../shared/golden)")
def test_the_checker_notices_a_deviation(tmp_path, capsys):
    with np.load(FILES[0]) as arrays:
        changed = {name: arrays[name] for name in arrays.files}
    changed["proto1"] = changed["proto1"] + np.float32(1e-4)
    np.savez(tmp_path / "off.npz", **changed)
    assert main([str(tmp_path / "off.npz")]) == 1
    assert "OUT: weight" in capsys.readouterr().out
    assert main([str(FILES[0])]) == 0

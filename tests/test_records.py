"""Rows and masks come back as written, several writers or a killed one lose nothing, and provenance is exact."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ttilib.files import digest
from ttilib.results import records
from ttilib.results.records import append_masks, append_row, read_masks, read_rows

ROOT = Path(__file__).resolve().parents[1]


# ---- rows ----------------------------------------------------------------------------------------------


def test_rows_come_back_as_plain_json(tmp_path):
    path = tmp_path / "new" / "folder" / "rows.jsonl"
    row = {
        "name": "giant panda/ü", "iou": 0.1 + 0.2, "i": np.int64(3), "f": np.float32(0.5), "b": np.bool_(True),
        "nan": float("nan"), "inf": np.float64("inf"), "tensor": torch.tensor([1.0, float("nan")]),
        "path": Path("a") / "b", 5: (1, 2), "a": {"b": None},
    }  # fmt: skip
    append_row(path, row)
    append_row(path, {"second": 1})
    first = {
        "name": "giant panda/ü", "iou": 0.1 + 0.2, "i": 3, "f": 0.5, "b": True, "nan": None, "inf": None,
        "tensor": [1.0, None], "path": str(Path("a") / "b"), "5": [1, 2], "a": {"b": None},
    }  # fmt: skip
    assert read_rows(path) == [first, {"second": 1}]
    assert path.read_bytes().count(b"\n") == 2 and path.read_bytes().endswith(b"\n")
    with pytest.raises(TypeError, match=r"rows\.jsonl"):
        append_row(path, {"a": 1j})
    assert len(read_rows(path)) == 2
    with pytest.raises(FileNotFoundError, match=r"none\.jsonl"):
        read_rows(tmp_path / "none.jsonl")


LONG = b'{"a": "' + b"x" * 10_000


@pytest.mark.parametrize("torn", [b'{"a": 2, "b": [1,', '{"a": "ü'.encode()[:-1], b"12", LONG])
@pytest.mark.parametrize("before", [b'{"a": 1}\n\n', b""])
def test_an_incomplete_last_line_is_left_out_and_removed(tmp_path, torn, before):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(before + torn)
    first = [{"a": 1}] if before else []
    with pytest.warns(UserWarning, match=r"rows\.jsonl: line"):
        assert read_rows(path) == first
    with pytest.warns(UserWarning, match=f"{len(torn)} bytes"):
        append_row(path, {"a": 3})
    assert path.read_bytes() == before + b'{"a": 3}\n'


def test_a_complete_row_without_line_end_stays_and_a_broken_line_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}')
    append_row(path, {"a": 3})
    assert read_rows(path) == [{"a": 1}, {"a": 2}, {"a": 3}]
    path.write_text('{"a": 1}\n{"a": \n{"a": 3}\n')
    with pytest.raises(ValueError, match=r"rows\.jsonl: line 2"):
        read_rows(path)


# says that it is there, waits for the lock, writes its rows
WRITER = """
import sys
from pathlib import Path
from ttilib.results.records import append_row, file_lock
path, name, count = sys.argv[1:]
Path(f"{path}.{name}").touch()
with file_lock(path):
    for i in range(int(count)):
        append_row(path, {"writer": name, "i": i, "filling": "x" * (i * 97 % 9000)})
"""

# writes half of a row under the lock, says so, and waits to be killed
STUCK = """
import sys, time
from pathlib import Path
from ttilib.results.records import file_lock
with file_lock(sys.argv[1]), open(sys.argv[1], "ab") as file:
    file.write(b'{"writer": "killed", "filling": "xxxxx')
    file.flush()
    Path(sys.argv[1] + ".stuck").touch()
    time.sleep(600)
"""


def start(code, *arguments):
    """Another Python process that can import ttilib."""
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT)


def await_file(path):
    deadline = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} never came"
        time.sleep(0.02)


def test_writers_wait_for_each_other_and_take_over_from_a_killed_one(tmp_path):
    path = tmp_path / "rows.jsonl"
    append_row(path, {"writer": "first", "i": 0})
    stuck = start(STUCK, path)
    try:
        await_file(tmp_path / "rows.jsonl.stuck")
        torn = path.read_bytes()
        waiting = [start(WRITER, path, name, 20) for name in "ab"]
        for name in "ab":
            await_file(tmp_path / f"rows.jsonl.{name}")
        with pytest.raises(subprocess.TimeoutExpired):
            waiting[0].wait(timeout=0.5)
        assert path.read_bytes() == torn
    finally:
        stuck.kill()
        stuck.wait(timeout=120)
    assert [writer.wait(timeout=120) for writer in waiting] == [0, 0]  # the lock died with its holder
    rows = [(row["writer"], row["i"]) for row in read_rows(path)]
    a, b = ([(name, i) for i in range(20)] for name in "ab")
    assert rows in ([("first", 0), *a, *b], [("first", 0), *b, *a])


def test_an_error_releases_the_lock(tmp_path):
    path = tmp_path / "new" / "rows.jsonl"
    for _ in range(2):  # the second would wait for ever
        with pytest.raises(ZeroDivisionError), records.file_lock(str(path)):
            1 / 0  # noqa: B018
    assert not path.exists() and (tmp_path / "new" / "rows.jsonl.lock").exists()


# ---- masks ---------------------------------------------------------------------------------------------


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < 0.4


def named(key="abc", index=0, method="TTI") -> dict:
    return {"key": key, "index": index, "method": method}


@settings(deadline=None, max_examples=25)
@given(
    shape=st.tuples(st.integers(0, 4), st.integers(1, 9), st.integers(1, 9)), seed=st.integers(0, 99),
    fill=st.sampled_from([None, True, False]),
)  # fmt: skip
def test_masks_of_any_size_come_back(tmp_path_factory, shape, seed, fill):
    path = tmp_path_factory.mktemp("masks") / "masks.jsonl"
    masks = noise(seed, *shape) if fill is None else torch.full(shape, fill)
    append_masks(path, named(), masks.numpy() if seed % 2 else masks)
    found = read_masks(path, "abc", 0, "TTI")
    assert found.dtype == torch.bool and torch.equal(found, masks)


def test_each_episode_and_method_has_its_own_masks_and_the_last_line_counts(tmp_path):
    path = tmp_path / "masks.jsonl"
    names = [named(), named(index=1), named(method="RePRI"), named(key="def"), named(key="TTI", method="abc")]
    for seed, name in enumerate(names):
        append_masks(path, name | {"j": 0.5, "made": {}}, noise(seed, 2, 6, 7))
    for seed, name in enumerate(names):
        assert torch.equal(read_masks(path, **name), noise(seed, 2, 6, 7))
    append_masks(path, named(), noise(9, 2, 6, 7))
    assert torch.equal(read_masks(path, **named()), noise(9, 2, 6, 7))
    assert json.loads(path.read_text().splitlines()[0]).keys() == {"key", "index", "method", "size", "frames"}
    with pytest.raises(ValueError, match="'TTY'.*TTI, RePRI"):
        read_masks(path, "abc", 0, "TTY")
    for key, index in (("abd", 0), ("abc", 3), ("", 0)):
        with pytest.raises(ValueError, match=r"masks\.jsonl: no masks"):
            read_masks(path, key, index, "TTI")


def test_only_lines_of_the_episode_are_parsed(tmp_path):
    path = tmp_path / "masks.jsonl"
    append_masks(path, named(), noise(0, 2, 6, 7))
    line = path.read_bytes()
    path.write_bytes(line[:-9] + b"\n" + line.replace(b"abc", b"xyz"))
    with pytest.raises(ValueError, match=r"masks\.jsonl: line 1"):
        read_masks(path, "abc", 0, "TTI")
    assert torch.equal(read_masks(path, "xyz", 0, "TTI"), noise(0, 2, 6, 7))


# ---- provenance ----------------------------------------------------------------------------------------


def test_provenance_is_plain_json_and_never_fails(tmp_path, monkeypatch):
    found = records.provenance()
    assert found["torch"] == torch.__version__ and found["python"] == ".".join(map(str, sys.version_info[:3]))
    append_row(tmp_path / "rows.jsonl", found)
    assert read_rows(tmp_path / "rows.jsonl") == [found]
    monkeypatch.setenv("PATH", str(tmp_path))  # no git, and no such device
    lost = records.provenance(torch.device("cuda", 99))
    assert lost["commit"] is None and lost["modified"] is None
    assert lost["device"] == lost["device_name"] == "cuda:99"


def test_the_commit_is_that_of_a_repository_that_tracks_the_library(tmp_path, monkeypatch):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e@example.org"]
    try:
        subprocess.run([*git, "init", "-q"], check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no git here")
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "another project's"], check=True)
    monkeypatch.setattr(records, "HOME", tmp_path)
    assert records.provenance()["commit"] is None  # installed inside another project
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "records.py").touch()
    subprocess.run([*git, "add", "results"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "ours"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    found = records.provenance()
    assert found["commit"] == head and found["modified"] is False
    (tmp_path / "results" / "records.py").write_text("changed")
    assert records.provenance()["modified"] is True


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of the library's text that may be changed."""
    home = tmp_path / "ttilib"
    shutil.copytree(records.HOME, home, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    monkeypatch.setattr(records, "HOME", home)
    return home


def append(path, text):
    path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")


def test_the_code_digest_covers_what_predicts_masks_and_nothing_else(copy):
    before = records.code_digest()
    for name in (
        "plots/overlays.py", "results/metrics.py", "results/records.py", "results/tables.py", "training/data.py",
        "sweep/study.py", "__init__.py",
    ):  # fmt: skip
        append(copy / name, "\nMORE = 1\n")
    assert records.code_digest() == before
    for name in ("files.py", "datasets/transforms.py", "solver/solver.py", "results/evaluation.py"):
        append(copy / name, "\nMORE = 1\n")
        assert records.code_digest() != before
        before = records.code_digest()


def test_the_digest_ignores_docstrings_and_line_ends_and_follows_imports(copy):
    before = records.code_digest()
    solver = copy / "solver" / "settings.py"
    text = solver.read_text(encoding="utf-8")
    start, end = text.index('"""'), text.index('"""', text.index('"""') + 3)
    solver.write_bytes((text[:start] + '"""Other words.' + text[end:] + "# comment\n").encode().replace(b"\n", b"\r\n"))
    append(copy / "episodes" / "benchmarks.py", '\n"""Words under a constant."""\n')
    (copy / "solver" / "again.py").write_text("MORE = 1\n")
    assert records.code_digest() == before
    append(solver, "\nfrom ttilib.solver import again\n")
    found = records.code_digest()
    (copy / "solver" / "again.py").write_text("MORE = 2\n")
    assert len({before, found, records.code_digest()}) == 3


def test_metrics_have_a_digest_of_their_own(copy):
    before = records.metrics_digest()
    path = copy / "results" / "metrics.py"
    path.write_text(path.read_text(encoding="utf-8").replace("0.008", "0.009"), encoding="utf-8")
    assert records.metrics_digest() != before and records.provenance_fields()["metrics"] != before


def test_equal_work_has_equal_provenance(monkeypatch):
    found = records.provenance_fields("cpu", "beef")
    assert found.keys() == {*records.CARRIED, "code", "metrics", "weights"}
    assert found["code"] == records.code_digest() and found["weights"] == "beef"
    assert digest(found) == digest(records.provenance_fields(torch.device("cpu"), "beef"))
    found["code"] = "changed by its owner"
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    assert records.provenance_fields()["threads"] == 7 and records.provenance_fields()["code"] == records.code_digest()

"""What made a number: the text that matters and no other, versions, commit, machine."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from ttilib.files import digest
from ttilib.results import records


def test_provenance_names_program_and_machine(tmp_path, monkeypatch):
    found = records.provenance()
    assert found["torch"] == torch.__version__ and found["numpy"] == np.__version__
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["device"] == "cpu" and found["time"].endswith("+00:00")
    assert found["commit"] is None or len(found["commit"]) == 40
    records.append_row(tmp_path / "rows.jsonl", found)  # is plain JSON
    assert records.read_rows(tmp_path / "rows.jsonl") == [found]
    monkeypatch.setenv("PATH", str(tmp_path))  # no git, no repository, no such device
    lost = records.provenance(torch.device("cuda", 99))
    assert lost["commit"] is None and lost["modified"] is None
    assert lost["device"] == lost["device_name"] == "cuda:99"


def test_a_checkout_names_its_commit(repository):
    head = subprocess.run(["git", "-C", str(repository), "rev-parse", "HEAD"], capture_output=True, text=True)
    if head.returncode:
        pytest.skip("this copy of the project is no git checkout")
    assert records.provenance()["commit"] == head.stdout.strip()


def test_provenance_does_not_take_a_stranger_s_commit(tmp_path, monkeypatch):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e@example.org"]
    try:
        subprocess.run([*git, "init", "-q"], check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no git here")
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "a stranger's"], check=True)
    monkeypatch.setattr(records, "HOME", tmp_path)
    assert records.provenance()["commit"] is None  # installed inside another project
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "records.py").touch()
    subprocess.run([*git, "add", "results"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "ours"], check=True)
    found = records.provenance()
    assert len(found["commit"]) == 40 and found["modified"] is False
    (tmp_path / "results" / "records.py").write_text("changed")
    assert records.provenance()["modified"] is True


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of the library's text that may be changed."""
    home = tmp_path / "ttilib"
    shutil.copytree(records.HOME, home, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    monkeypatch.setattr(records, "HOME", home)
    return home


@pytest.mark.parametrize(
    "name",
    ["files.py", "datasets/transforms.py", "episodes/episode.py", "encoders/pspnet.py", "solver/solver.py",
     "solver/methods.py", "results/evaluation.py"],
)  # fmt: skip
def test_code_that_makes_numbers_changes_the_digest(copy, name):
    before = records.code_digest()
    assert before == records.code_digest() and len(before) == 16
    path = copy / name
    path.write_text(path.read_text(encoding="utf-8") + "\nMORE = 0\n", encoding="utf-8")
    assert records.code_digest() != before
    found = records.code_digest()
    path.write_text(path.read_text(encoding="utf-8").replace("MORE = 0", "MORE = 1"), encoding="utf-8")
    assert records.code_digest() != found


@pytest.mark.parametrize(
    "name",
    ["plots/overlays.py", "results/metrics.py", "results/records.py", "results/tables.py", "training/data.py",
     "sweep/study.py", "__init__.py"],
)  # fmt: skip
def test_code_that_only_shows_numbers_does_not(copy, name):
    before = records.code_digest()
    path = copy / name
    path.write_text(path.read_text(encoding="utf-8") + "\nMORE = 1\n", encoding="utf-8")
    assert records.code_digest() == before


def test_metrics_have_a_digest_of_their_own(copy):
    before = records.metrics_digest()
    path = copy / "results" / "metrics.py"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("0.008", "0.009"), encoding="utf-8")
    assert records.metrics_digest() != before and records.made()["metrics"] != before


def test_words_and_line_ends_do_not_count_and_a_module_that_is_imported_does(copy):
    before = records.code_digest()
    solver = copy / "solver" / "settings.py"
    text = solver.read_text(encoding="utf-8")
    assert '"""Cross-entropy on the support only."""' in text
    text = text.replace("Cross-entropy on the support only.", "Fit the support.") + "# a comment\n"
    solver.write_bytes(text.encode().replace(b"\n", b"\r\n"))
    assert records.code_digest() == before
    episode = copy / "episodes" / "benchmarks.py"
    episode.write_text(episode.read_text(encoding="utf-8") + '\n"""Words under a constant."""\n', encoding="utf-8")
    assert records.code_digest() == before
    (copy / "solver" / "again.py").write_text("MORE = 1\n")
    assert records.code_digest() == before
    solver.write_text("from ttilib.solver import again\n" + text, encoding="utf-8")
    found = records.code_digest()
    assert found != before
    (copy / "solver" / "again.py").write_text("MORE = 2\n")
    assert records.code_digest() != found


def test_a_row_says_what_made_it_and_equal_work_says_the_same(monkeypatch):
    found = records.made("cpu", "beef")
    assert found.keys() == {
        "ttilib", "torch", "python", "numpy", "cv2", "commit", "device", "device_name", "threads", "code", "metrics",
        "weights",
    }  # fmt: skip
    about = records.provenance("cpu")
    assert {name: found[name] for name in records.CARRIED} == {name: about[name] for name in records.CARRIED}
    assert found["code"] == records.code_digest() and found["weights"] == "beef"
    assert digest(found) == digest(records.made(torch.device("cpu"), "beef"))  # and it is plain JSON
    assert records.made()["weights"] is None and records.made("cpu", "cafe")["weights"] == "cafe"
    found["code"] = "changed by its owner"
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    assert records.made()["threads"] == 7 and records.made()["code"] == records.code_digest()

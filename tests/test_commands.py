"""The commands: what they write, what they print, and how they end."""

import subprocess
import sys
import tempfile

import pytest
import torch
from corpora import block, pascal, vspw, ytvis
from tqdm import tqdm

from ttilib.__main__ import main
from ttilib.encoders.pspnet import build_encoder
from ttilib.episodes.benchmarks import draw_episodes, read_benchmark
from ttilib.episodes.episode import read_episodes
from ttilib.files import read_json
from ttilib.images import write_labels

SHOWS = {f"v{n}": [[1], [1, 2], [2]] for n in range(5)}


@pytest.fixture
def data(tmp_path):
    """A data folder with YouTube-VIS and Pascal layouts."""
    ytvis(tmp_path / "data" / "ytvis", SHOWS, classes=4)
    stills = {f"s{n}": block(1 + n % 2, 1, 2, 8, 9) for n in range(8)}
    pascal(tmp_path / "data" / "pascal", stills, val=tuple(stills)[2:])
    return tmp_path / "data"


def call(*words):
    return main([str(word) for word in words])


def test_a_manifest_from_the_shell_is_what_the_library_draws(data, tmp_path, capsys):
    words = ("episodes", "ytvis-v2", "--root", data, "--shots", 2, "--out", tmp_path / "out")
    assert call(*words) == 0
    path = tmp_path / "out" / "ytvis-v2-f0-2shot-run0.json"
    assert read_episodes(path) == draw_episodes(read_benchmark("ytvis-v2", 0, data), 2)
    assert f"3 episodes in {path}, 0 left out" in capsys.readouterr().out
    assert call(*words, "--limit", 1, "--run", 1) == 0
    (episode,) = read_episodes(tmp_path / "out" / "ytvis-v2-f0-2shot-run1.json")
    assert episode == draw_episodes(read_benchmark("ytvis-v2", 0, data), 2, run=1)[0]


def test_a_broken_picture_or_mask_stops_or_is_left_out_and_counted(data, tmp_path, capsys):
    picture = data / "pascal" / "JPEGImages" / "s4.jpg"
    picture.write_bytes(picture.read_bytes()[:-20])
    write_labels(data / "pascal" / "SegmentationClassAug" / "s5.png", block(77, 0, 0, 3, 3))
    words = ("episodes", "pascal", "--root", data, "--limit", 40, "--out", tmp_path / "out")
    assert call(*words) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "s5.png: label 77 is no class of the table" in said
    assert not (tmp_path / "out").exists()  # nothing half-written
    assert call(*words, "--keep-going") == 0
    said, problems = capsys.readouterr().out, []
    episodes = read_episodes(tmp_path / "out" / "pascal-f0-1shot-run0.json")
    drawn = draw_episodes(read_benchmark("pascal", 0, data, on_error=problems.append), 1)[:40]
    assert episodes == tuple(e for e in drawn if "s4" not in (*e.support, *e.query)) and 0 < len(episodes) < 40
    assert not any("s5" in (*e.support, *e.query) for e in episodes) and len(problems) == 1
    assert f"{40 - len(episodes)} left out" in said and "s4.jpg: image cannot be decoded" in said


def test_the_doctor_ends_with_a_status_and_writes_its_report(data, tmp_path, capsys):
    words = ("doctor", "ytvis-v1", "--root", data, "--folds", 0, "--shots", 1, "--workers", 1)
    assert call(*words, "--report", tmp_path / "report.json") == 0
    assert read_json(tmp_path / "report.json")["benchmark"] == "ytvis-v1"
    (data / "ytvis" / "train" / "JPEGImages" / "v3" / "00005.jpg").write_bytes(b"")
    assert call(*words, "--report", tmp_path / "report.json") == 1
    said, report = capsys.readouterr().out, read_json(tmp_path / "report.json")
    assert "v3/00005.jpg" in said and "empty" in said and not report["ok"] and report["totals"]["error"] == 1
    assert any("v3/00005.jpg" in finding["file"] for finding in report["findings"])


def test_prepare_from_the_shell(tmp_path, capsys):
    vspw(tmp_path / "vspw", {"a": [block(41, 0, 0, 11, 11)] * 3, "t": [block(53, 0, 0, 11, 11)] * 4}, train=("t",))
    assert call("prepare", "minivspw", "--root", tmp_path, "--workers", 1) == 0
    out = capsys.readouterr().out
    assert "labels of 7 masks" in out and "census.json" in out


def test_what_could_not_be_written_is_refused_before_the_work(data, tmp_path, monkeypatch, capsys):
    for name in ("tools.doctor.examine", "training.train.train", "encoders.checkpoints.convert",
                 "solver.extraction.image_folder", "sweep.tasks.papermill.execute_notebook"):  # fmt: skip
        monkeypatch.setattr(f"ttilib.{name}", lambda *_, **__: pytest.fail("the work has begun"))
    (tmp_path / "file").write_text("")
    inside = tmp_path / "file" / "x.safetensors"
    for line in (
        ("doctor", "pascal", "--root", data, "--report", inside), ("run", "notebooks/03_episode.ipynb", inside),
        ("train", "ytvis-v1", "--root", data, "--out", inside), ("convert", "a.pth", inside),
        ("means", data, "--encoder", "resnet18", "--out", inside),
    ):  # fmt: skip
        assert call(*line) == 2 and str(inside) in capsys.readouterr().err


def test_published_weights_from_the_shell(tmp_path, capsys):
    """A file as published, for Pascal fold 1, becomes a checkpoint that knows its classes."""
    tensors = build_encoder("resnet18-mini", 16, seed=3).state_dict()
    torch.save({"epoch": 7, "state_dict": {f"module.{name}": t for name, t in tensors.items()}}, tmp_path / "best.pth")
    words = ("convert", tmp_path / "best.pth", tmp_path / "made.safetensors", "--benchmark")
    assert call(*words, "pascal2minivspw", "--fold", 1) == 0
    page = read_json(tmp_path / "made.json")
    assert (page["corpus"], page["fold"], page["epoch"], page["classes"]) == ("pascal", 1, 7, 16)
    assert page["base"][:6] == ["aeroplane", "bicycle", "bird", "boat", "bottle", "diningtable"]
    capsys.readouterr()
    assert call(*words, "ytvis-v1") == 2
    assert "has 16 classes including background, but 30 base classes" in capsys.readouterr().err


def test_a_python_without_the_packages_is_told_what_to_do(repository):
    command = [sys.executable, "-S", "-m", "ttilib", "mini"]  # -S: without the packages that are installed
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "is not installed" in done.stderr and "make env" in done.stderr


@pytest.mark.parametrize(("error", "status", "word"), [(KeyboardInterrupt, 130, "stopped"), (KeyError, 2, "Key")])
def test_whatever_happens_ends_in_a_sentence_below_the_bar(error, status, word, monkeypatch, tmp_path, capsys):
    def stop(*_, **__):
        bar = tqdm(range(3), "bar", mininterval=0)  # kept alive by the traceback; the end of a loop would close it
        bar.refresh()
        raise error

    monkeypatch.setattr("ttilib.synthetic.generate", stop)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert call("mini") == status
    bar, line, end = capsys.readouterr().err.split("\n")
    assert "bar" in bar and line.startswith("ttilib: ") and word in line and not end
    reports = [path for path in tmp_path.iterdir() if str(path) in line]
    assert len(reports) == (status == 2) and all("in stop" in path.read_text() for path in reports)


def test_a_wrong_place_is_told_before_any_work(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for words, said in (
        (("mini", "--root", tmp_path / "file"), "Not a directory; check the path"),
        (("sweep", "mini", "--dry-run", "--on", "slurmm", "--out", tmp_path / "out"), "did you mean slurm?"),
    ):
        assert call(*words) == 2
        found = capsys.readouterr().err
        assert said in found and "Errno" not in found and found.count("\n") == 1
    assert not (tmp_path / "out").exists()

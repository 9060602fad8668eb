"""Real workers: on this machine, behind a running scheduler, and as jobs of a stand-in for Slurm."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import dask
import psutil
import pytest

from ttilib.sweep import clusters
from ttilib.sweep.clusters import cluster, default_workers, job_options

LIMIT = 180  # seconds after which a test gives up
SBATCH = """
import shutil, subprocess, sys
from pathlib import Path
folder = Path(__file__).parent
job = 1 + len(list(folder.glob("*.sh")))
script = folder / f"{job}.sh"
shutil.copy(sys.argv[-1], script)
with open(folder / f"{job}.out", "w") as out:
    process = subprocess.Popen(["bash", script], stdout=out, stderr=out, start_new_session=True)
(folder / f"{job}.new").write_text(str(process.pid))
(folder / f"{job}.new").rename(folder / f"{job}.pid")
print("Submitted batch job", job)
"""
SCANCEL = """
import os, signal, sys
from pathlib import Path
for job in sys.argv[1:]:
    try:
        os.killpg(int((Path(__file__).parent / f"{job}.pid").read_text()), signal.SIGTERM)
    except ProcessLookupError:
        sys.exit(1)
"""
REFUSES = """
import sys
sys.exit("sbatch: error: invalid partition specified: nowhere")
"""


def eventually(condition):
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.05)


def version():
    return f"code of process {os.getpid()}"


def same_version():
    return "a1b2"


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """A client of two workers on this machine, and their log."""
    folder = tmp_path_factory.mktemp("local")
    with cluster("local", workers=2, threads=3, log_folder=folder) as client:
        yield client, folder / "cluster.log"


def test_local_workers_run_one_task_each_and_are_closed_to_other_machines(local, capfd):
    client, log = local
    assert list(client.nthreads().values()) == [1, 1]
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"):
        assert set(client.run(os.getenv, name).values()) == {"3"}
    limits = client.run(lambda dask_worker: (dask_worker.memory_manager.memory_limit, type(dask_worker.data).__name__))
    assert set(limits.values()) == {(None, "dict")}  # nothing is spilled to disk
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    listening = [c for p in processes for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert len(listening) >= 3 and {c.laddr.ip for c in listening} <= {"127.0.0.1", "::1"}
    client.run(lambda: logging.getLogger("distributed.worker").warning("a worker's warning"))
    logging.getLogger("distributed.scheduler").warning("a scheduler's warning")
    text, out = log.read_text(), capfd.readouterr()
    assert text.count("a worker's warning") == 2 and "a scheduler's warning" in text
    assert "warning" not in out.out + out.err


def test_a_killed_worker_is_replaced_and_its_task_repeated(local, tmp_path):
    client, _ = local

    def block_first(folder):
        first = not any(folder.iterdir())
        (folder / str(os.getpid())).touch()
        if first:
            threading.Event().wait()
        return os.getpid()

    future = client.submit(block_first, tmp_path)
    eventually(lambda: any(tmp_path.iterdir()))
    (victim,) = (int(path.name) for path in tmp_path.iterdir())
    os.kill(victim, signal.SIGKILL)
    assert future.result(timeout=LIMIT) != victim
    client.wait_for_workers(2, timeout=LIMIT)
    assert list(client.run(os.getenv, "OMP_NUM_THREADS").values()) == ["3", "3"]


def test_the_block_ends_with_everything_it_started_even_if_it_raises(tmp_path):
    loggers = [(logging.getLogger(n).handlers, logging.getLogger(n).propagate) for n in clusters.LOGGERS]
    environment, config = dict(os.environ), dask.config.get("distributed.worker.profile.enabled")
    with pytest.raises(ZeroDivisionError), cluster("local", workers=1, log_folder=tmp_path) as client:
        (pid,) = client.run(os.getpid).values()
        (folder,) = client.run(lambda dask_worker: dask_worker.local_directory).values()
        assert Path(folder).is_dir()
        1 / 0  # noqa: B018
    eventually(lambda: not psutil.pid_exists(pid) and not Path(folder).exists())
    assert dask.config.get("distributed.worker.profile.enabled") == config
    assert [(logging.getLogger(n).handlers, logging.getLogger(n).propagate) for n in clusters.LOGGERS] == loggers
    assert [os.environ.get(name) for name in clusters.THREADS] == [environment.get(name) for name in clusters.THREADS]


@pytest.mark.parametrize(("cores", "memory", "expected"), [(8, 64e9, 8), (8, 10e9, 3), (8, 1e9, 1)])
def test_one_worker_per_core_and_3_gb(monkeypatch, cores, memory, expected):
    monkeypatch.setattr(clusters, "cpu_count", lambda: cores)
    monkeypatch.setattr(clusters, "memory_limit", lambda: int(memory))
    assert default_workers() == expected
    assert [env["OMP_NUM_THREADS"] for env in clusters._environments(0, 0, "cpu")] == ["1"] * expected
    assert [env["OMP_NUM_THREADS"] for env in clusters._environments(2, 4, "cpu")] == ["4"] * 2


@pytest.mark.parametrize(
    ("visible", "count", "workers", "expected"),
    [
        (None, 3, 0, ["0", "1", "2"]), ("5,7", 2, 0, ["5", "7"]), ("MIG-a, MIG-b", 2, 3, ["MIG-a", "MIG-b", "MIG-a"]),
        ("0,1,9", 2, 0, ["0", "1"]),  # a name that CUDA does not know ends the list
    ],
)  # fmt: skip
def test_every_worker_has_one_of_the_visible_gpus(monkeypatch, visible, count, workers, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    monkeypatch.setattr(clusters, "cpu_count", lambda: 12)
    found = clusters._environments(workers, 0, "cuda")
    assert [env["CUDA_VISIBLE_DEVICES"] for env in found] == expected
    assert {env["OMP_NUM_THREADS"] for env in found} == {str(12 // len(expected))}


@pytest.mark.parametrize(
    ("error", "word", "arguments"),
    [
        (ValueError, "slurm", {"where": "slrum"}), (ValueError, "tcp://host", {"where": ":80"}),
        (ValueError, "workers=-1", {"workers": -1}), (ValueError, "queue", {"slurm": {"queue": "long"}}),
        (RuntimeError, "GPU", {"device": "cuda"}),
    ],
)  # fmt: skip
def test_wrong_settings_start_nothing(monkeypatch, tmp_path, error, word, arguments):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(error, match=word), cluster(log_folder=tmp_path, **arguments):
        pass


# A running scheduler -----------------------------------------------------------------------------------------------


def test_a_running_scheduler_is_used_and_left_running(local, tmp_path):
    client, _ = local
    for address in (client.scheduler.address, client.scheduler.address.removeprefix("tcp://")):
        with cluster(address, log_folder=tmp_path, expected=same_version) as other:
            assert other.submit(sum, [1, 2]).result() == 3
    assert client.submit(sum, [2, 3]).result() == 5
    with (
        pytest.raises(RuntimeError, match="other code.*code of process"),
        cluster(client.scheduler.address, log_folder=tmp_path, expected=version),
    ):
        pass


@pytest.mark.parametrize("listens", [False, True])
def test_an_address_without_a_scheduler_is_named(monkeypatch, tmp_path, listens):
    monkeypatch.setattr(clusters, "ANSWER_TIMEOUT", 1)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        if listens:
            other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(OSError, match=f"{address}: no scheduler"), cluster(address, log_folder=tmp_path):
            pass


def test_a_scheduler_without_workers_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(clusters, "WORKER_TIMEOUT", 0.5)
    file = tmp_path / "scheduler.json"
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
    command += ["--no-dashboard", "--dashboard-address", "127.0.0.1:0", "--scheduler-file", str(file)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as scheduler:
        try:
            eventually(lambda: file.is_file() and file.stat().st_size)
            address = json.loads(file.read_text())["address"]
            with pytest.raises(RuntimeError, match="no workers"), cluster(address, log_folder=tmp_path):
                pass
            assert scheduler.poll() is None
        finally:
            scheduler.terminate()


# Slurm: the stand-in runs a job's script on this machine; scheduler and workers are real ---------------------------


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Put commands sbatch and scancel in the path; returns their folder."""
    pytest.importorskip("dask_jobqueue")

    def install(sbatch=SBATCH):
        for name, text in (("sbatch", sbatch), ("scancel", SCANCEL)):
            (tmp_path / name).write_text(f"#!{sys.executable}\n{text}")
            (tmp_path / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        return tmp_path

    return install


def test_slurm_jobs_work_and_are_cancelled_at_the_end(slurm, tmp_path, capfd):
    folder = slurm()
    options = {"queue": "long", "cores": "6", "processes": "2", "memory": "7GB", "interface": "lo",
               "job_extra_directives": "--gres=gpu:1 --comment='two words'", "job_script_prologue": "A=1; export A"}
    with cluster("slurm", workers=1, slurm=options, log_folder=tmp_path / "logs") as client:
        client.wait_for_workers(2, timeout=LIMIT)
        assert list(client.nthreads().values()) == [1, 1]  # one task at a time in each, with three threads
        for name, value in (("OMP_NUM_THREADS", "3"), ("A", "1"), ("PWD", os.getcwd())):
            assert set(client.run(os.getenv, name).values()) == {value}
        pids = client.run(os.getpid).values()
    script = (folder / "1.sh").read_text()
    for line in ("-p long", "--cpus-per-task=6", "--mem=7G", "--gres=gpu:1", "--comment=two words"):
        assert f"#SBATCH {line}\n" in script
    eventually(lambda: not any(psutil.pid_exists(pid) for pid in pids))
    out = capfd.readouterr()
    assert out.out + out.err == ""


def test_a_slurm_job_that_ends_is_submitted_again(slurm, tmp_path, monkeypatch):
    folder = slurm()
    monkeypatch.setattr(clusters, "CHECK_INTERVAL", "0.3s")
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "0.5s"}),
        cluster("slurm", slurm={"interface": "lo"}, log_folder=tmp_path / "logs") as client,
    ):
        client.wait_for_workers(1, timeout=LIMIT)
        (pid,) = client.run(os.getpid).values()
        os.killpg(int((folder / "1.pid").read_text()), signal.SIGKILL)  # as at the end of its time
        eventually(lambda: (folder / "2.pid").is_file())
        assert client.submit(os.getpid).result(timeout=LIMIT) != pid


@pytest.mark.parametrize(
    ("error", "word", "options"),
    [(OSError, "invalid partition", {"queue": "nowhere"}), (ValueError, "walltme", {"walltme": "1"}),
     (ValueError, "cores", {"cores": "four"})],
)  # fmt: skip
def test_a_refused_job_says_why_in_one_line(slurm, tmp_path, error, word, options):
    slurm(REFUSES)
    options = {"interface": "lo", **options}
    with pytest.raises(error, match=word) as caught, cluster("slurm", slurm=options, log_folder=tmp_path):
        pass
    assert "\n" not in str(caught.value)


def test_what_slurm_needs_is_named(slurm, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OSError, match="sbatch"), cluster("slurm", log_folder=tmp_path):
        pass
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    with pytest.raises(ModuleNotFoundError, match="cluster"), cluster("slurm", log_folder=tmp_path):
        pass


def test_job_options_come_from_texts():
    assert job_options({}) == {"cores": 1, "memory": "4GB", "processes": 1}
    found = job_options({"cores": "4", "account": "me", "job_script_prologue": "module load cuda ; . env/activate;"})
    assert found == {"cores": 4, "memory": "4GB", "processes": 1, "account": "me",
                     "job_script_prologue": ["module load cuda", ". env/activate"]}  # fmt: skip

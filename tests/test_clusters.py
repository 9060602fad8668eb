"""Real workers: on this machine, behind a running scheduler, and as jobs of a stand-in for Slurm."""

import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

import dask
import psutil
import pytest
from distributed import Client, LocalCluster, Security

from ttilib.sweep import clusters
from ttilib.sweep.clusters import cluster, default_workers, job_options

LIMIT = 300  # seconds after which a test gives up
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


def refused(address):
    """Whether clients with no certificate and with another one are refused."""
    for security in (None, Security.temporary()):
        name = address if security else address.replace("tls:", "tcp:")
        with pytest.raises(OSError), Client(name, security=security, timeout=2, set_as_default=False):
            pass
    return True


def listening():
    """Addresses at which this process and its children can be reached."""
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return [c.laddr.ip for p in processes for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN]


def loggers():
    return [(logging.getLogger(name).handlers, logging.getLogger(name).propagate) for name in clusters.LOGGERS]


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """A client of two workers on this machine, and their log."""
    folder = tmp_path_factory.mktemp("local")
    with cluster("local", workers=2, threads=3, log_folder=folder) as client:
        yield client, folder / "cluster.log"


def test_local_workers_run_one_task_each_for_this_process_only(local, capfd):
    client, log = local
    assert list(client.nthreads().values()) == [1, 1]
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"):
        assert set(client.run(os.getenv, name).values()) == {"3"}
    limits = client.run(lambda dask_worker: (dask_worker.memory_manager.memory_limit, type(dask_worker.data).__name__))
    assert set(limits.values()) == {(None, "dict")}  # nothing is spilled to disk
    assert len(listening()) >= 3 and set(listening()) <= {"127.0.0.1", "::1"}
    client.run(lambda: logging.getLogger("distributed.worker").warning("a worker's warning"))
    logging.getLogger("distributed.scheduler").warning("a scheduler's warning")
    text, out = log.read_text(), capfd.readouterr()
    assert text.count("a worker's warning") == 2 and "a scheduler's warning" in text
    assert "warning" not in out.out + out.err
    (worker, _) = client.nthreads()
    assert refused(client.scheduler.address) and refused(worker)


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


def test_the_block_ends_with_everything_it_started_and_what_a_killed_one_left(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    start = f"ttilib-{socket.gethostname()}"
    for name in (f"{start}-999999999-a", f"{start}-{os.getppid()}-b", "ttilib-elsewhere-999999999-c"):
        (tmp_path / name / "worker").mkdir(parents=True)
    before, environment = loggers(), dict(os.environ)
    config = dask.config.get("distributed.worker.profile.enabled")
    with pytest.raises(ZeroDivisionError), cluster("local", workers=1, log_folder=tmp_path / "logs") as client:
        (pid,) = client.run(os.getpid).values()
        (folder,) = client.run(lambda dask_worker: dask_worker.local_directory).values()
        assert Path(folder).is_dir() and tmp_path in Path(folder).parents
        1 / 0  # noqa: B018
    eventually(lambda: not psutil.pid_exists(pid) and not Path(folder).exists())
    assert {path.name[-1] for path in tmp_path.glob("ttilib-*")} == {"b", "c"}
    assert dask.config.get("distributed.worker.profile.enabled") == config and loggers() == before
    assert [os.environ.get(name) for name in clusters.THREADS] == [environment.get(name) for name in clusters.THREADS]


@pytest.mark.parametrize(("cores", "memory", "expected"), [(8, 64e9, 8), (8, 10e9, 3), (8, 1e9, 1)])
def test_one_worker_per_core_and_3_gb(monkeypatch, cores, memory, expected):
    monkeypatch.setattr(clusters, "cpu_count", lambda: cores)
    monkeypatch.setattr(clusters, "memory_limit", lambda: int(memory))
    assert default_workers() == len(clusters._environments(0, 0, "cpu")) == expected
    assert [env["OMP_NUM_THREADS"] for env in clusters._environments(2, 0, "cpu")] == ["1"] * 2


@pytest.mark.parametrize(
    ("visible", "count", "workers", "expected"),
    [("", 3, 0, "0 1 2"), ("MIG-a, MIG-b", 2, 3, "MIG-a MIG-b MIG-a"), ("0,1,9", 2, 0, "0 1")],
)
def test_every_worker_has_one_of_the_visible_gpus(monkeypatch, visible, count, workers, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)  # a name that CUDA does not know ends the list
    monkeypatch.setattr(clusters, "cpu_count", lambda: 12)
    found = clusters._environments(workers, 0, "cuda")
    assert " ".join(env["CUDA_VISIBLE_DEVICES"] for env in found) == expected
    assert {env["OMP_NUM_THREADS"] for env in found} == {str(12 // len(found))}


@pytest.mark.parametrize(
    ("error", "word", "arguments"),
    [
        (ValueError, "slurm", {"where": "slrum"}), (ValueError, "tcp://host", {"where": "ucx://x:1"}),
        (ValueError, "tcp://host", {"where": "host:65536"}), (ValueError, "certificate", {"where": "tls://x:1"}),
        (ValueError, "workers=-1", {"workers": -1}), (ValueError, "queue", {"slurm": {"queue": "long"}}),
        (RuntimeError, "GPU", {"device": "cuda"}), (ValueError, "--out", {"where": "slurm", "log_folder": "two words"}),
        (ValueError, "processes", {"where": "slurm", "slurm": {"processes": "0"}}),
        (ValueError, "walltme", {"where": "slurm", "slurm": {"walltme": "1"}}),
        (ValueError, "protocol", {"where": "slurm", "slurm": {"protocol": "tcp://"}}),
    ],
)  # fmt: skip
def test_wrong_settings_start_nothing(monkeypatch, tmp_path, error, word, arguments):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=word) as caught, cluster(**{"log_folder": "logs", **arguments}):
        pass
    assert "\n" not in str(caught.value)


# A running scheduler -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["tcp://", "tls://"])
def test_a_running_scheduler_is_used_and_left_running(tmp_path, monkeypatch, protocol):
    monkeypatch.setattr(clusters, "ANSWER_TIMEOUT", LIMIT)
    own = Security.temporary() if protocol == "tls://" else Security()
    found = {"ca-file": own.tls_ca_file, "client.cert": own.tls_client_cert, "client.key": own.tls_client_key}
    with (
        LocalCluster(
            n_workers=0, processes=False, protocol=protocol, security=own, dashboard_address=None
        ) as running,
        dask.config.set({f"distributed.comm.tls.{name}": text for name, text in found.items()}),
    ):
        address = running.scheduler_address
        monkeypatch.setattr(clusters, "WORKER_TIMEOUT", 0.5)
        with pytest.raises(RuntimeError, match="no workers"), cluster(address, log_folder=tmp_path):
            pass
        monkeypatch.setattr(clusters, "WORKER_TIMEOUT", LIMIT)
        running.scale(1)
        with cluster(address.removeprefix("tcp://"), log_folder=tmp_path, expected=lambda: "a1b2") as client:
            assert client.submit(sum, [1, 2]).result(timeout=LIMIT) == 3
        answers = iter(["a", "b"])
        with (
            pytest.raises(RuntimeError, match=r"other code.*\(b, here a\)"),
            cluster(address, log_folder=tmp_path, expected=lambda: next(answers)),
        ):
            pass
        with Client(running) as client:
            assert client.submit(sum, [2, 3]).result(timeout=LIMIT) == 5


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


def test_slurm_jobs_work_are_submitted_again_and_cancelled_at_the_end(slurm, tmp_path, capfd, monkeypatch):
    folder, logs = slurm(), tmp_path / "logs"
    options = {"queue": "long", "cores": "3", "memory": "7GB",
               "job_extra_directives": "--gres=gpu:1 --comment='two words'", "job_script_prologue": "A=1; export A"}
    monkeypatch.setattr(clusters, "CHECK_INTERVAL", "0.3s")
    monkeypatch.setattr(clusters, "get_ip", lambda: "127.0.0.1")  # of a cluster: the address that nodes can reach
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "0.5s"}),
        cluster("slurm", workers=1, slurm=options, log_folder=logs) as client,
    ):
        client.wait_for_workers(1, timeout=LIMIT)
        assert list(client.nthreads().values()) == [1]  # one task at a time, with three threads
        for name, value in (("OMP_NUM_THREADS", "3"), ("A", "1"), ("PWD", os.getcwd())):
            assert set(client.run(os.getenv, name).values()) == {value}
        first = set(client.run(os.getpid).values())
        assert refused(client.scheduler.address)
        assert {c.laddr.ip for c in psutil.Process().net_connections("inet") if c.status == "LISTEN"} == {"127.0.0.1"}
        (key,) = logs.glob("*/key.pem")
        assert key.parent.stat().st_mode & 0o77 == 0
        os.killpg(int((folder / "1.pid").read_text()), signal.SIGKILL)  # as at the end of its time
        eventually(lambda: (folder / "2.pid").is_file())
        assert client.submit(os.getpid).result(timeout=LIMIT) not in first
        pids = client.run(os.getpid).values()
    script = (folder / "1.sh").read_text()
    for line in ("-p long", "--cpus-per-task=3", "--mem=7G", "--gres=gpu:1", "--comment=two words"):
        assert f"#SBATCH {line}\n" in script
    eventually(lambda: not any(psutil.pid_exists(pid) for pid in pids))
    out = capfd.readouterr()
    assert out.out + out.err == "" and not list(logs.glob("ttilib-*"))


def test_what_slurm_needs_and_why_a_job_is_refused_are_said(slurm, tmp_path, monkeypatch):
    slurm(REFUSES)
    options = {"interface": "lo", "queue": "nowhere"}
    with pytest.raises(OSError, match="invalid partition"), cluster("slurm", slurm=options, log_folder=tmp_path):
        pass
    monkeypatch.setenv("PATH", "")
    with pytest.raises(OSError, match="sbatch"), cluster("slurm", slurm={"interface": "lo"}, log_folder=tmp_path):
        pass
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    with pytest.raises(ModuleNotFoundError, match="cluster"), cluster("slurm", log_folder=tmp_path):
        pass


def test_job_options_come_from_texts():
    assert job_options({}) == {"cores": 1, "memory": "4GB", "processes": 1}
    found = job_options({"cores": "4", "account": "me", "job_script_prologue": "module load cuda ; . env/activate;"})
    assert found == {"cores": 4, "memory": "4GB", "processes": 1, "account": "me",
                     "job_script_prologue": ["module load cuda", ". env/activate"]}  # fmt: skip

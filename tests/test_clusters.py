"""Real workers: on this machine, behind a running scheduler, and as jobs of a stand-in for Slurm."""

import logging
import os
import signal
import tempfile
from pathlib import Path

import dask
import psutil
import pytest
from distributed import Client, LocalCluster, Security
from tasks import LIMIT, eventually

from ttilib.sweep import clusters
from ttilib.sweep.clusters import cluster

SBATCH = """#!/bin/bash
folder=$(dirname "$0")
job=$(( $(ls "$folder" | grep -c '\\.sh$') + 1 ))
cp "${@: -1}" "$folder/$job.sh"
setsid bash "$folder/$job.sh" > "$folder/$job.out" 2>&1 &
echo $! > "$folder/$job.new" && mv "$folder/$job.new" "$folder/$job.pid"
echo "Submitted batch job $job"
"""
SCANCEL = """#!/bin/bash
for job in "$@"; do kill -TERM -- "-$(cat "$(dirname "$0")/$job.pid")"; done
"""


def refused(address):
    """Whether clients with no certificate and with another one are refused."""
    for security in (None, Security.temporary()):
        name = address if security else address.replace("tls:", "tcp:")
        with pytest.raises(OSError), Client(name, security=security, timeout=1, set_as_default=False):
            pass
    return True


def listening():
    """Addresses at which this process and its children can be reached."""
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return [c.laddr.ip for p in processes for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN]


def test_local_workers_run_one_task_each_for_this_process_only(tmp_path, capfd):
    with cluster("local", workers=2, threads=3, log_folder=tmp_path) as client:
        assert list(client.nthreads().values()) == [1, 1]
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"):
            assert set(client.run(os.getenv, name).values()) == {"3"}
        assert len(listening()) >= 3 and set(listening()) <= {"127.0.0.1", "::1"}
        client.run(lambda: logging.getLogger("distributed.worker").warning("a worker's warning"))
        logging.getLogger("distributed.scheduler").warning("a scheduler's warning")
        text, out = (tmp_path / "cluster.log").read_text(), capfd.readouterr()
        assert text.count("a worker's warning") == 2 and "a scheduler's warning" in text
        assert "warning" not in out.out + out.err
        assert refused(client.scheduler.address) and refused(next(iter(client.nthreads())))


def test_the_block_ends_with_everything_it_started(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(ZeroDivisionError), cluster("local", workers=1, log_folder=tmp_path / "logs") as client:
        (pid,) = client.run(os.getpid).values()
        (folder,) = client.run(lambda dask_worker: dask_worker.local_directory).values()
        assert Path(folder).is_dir() and tmp_path in Path(folder).parents
        1 / 0  # noqa: B018
    eventually(lambda: not psutil.pid_exists(pid) and not Path(folder).exists())
    assert not list(tmp_path.glob("ttilib-*"))


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
    assert clusters.default_workers("cuda") == count and len(clusters._environments(0, 0, "cuda:1")) == 1


@pytest.mark.parametrize(
    ("error", "word", "arguments"),
    [
        (ValueError, "tcp://host", {"where": "host:65536"}), (ValueError, "certificate", {"where": "tls://x:1"}),
        (ValueError, "walltme", {"where": "slurm", "slurm": {"walltme": "1"}}),
        (ValueError, "protocol", {"where": "slurm", "slurm": {"protocol": "tcp://"}}),
    ],
)  # fmt: skip
def test_wrong_settings_start_nothing(monkeypatch, tmp_path, error, word, arguments):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(error, match=word), cluster(**{"log_folder": tmp_path, **arguments}):
        pass


def test_a_running_scheduler_is_used_and_left_running(tmp_path, monkeypatch):
    monkeypatch.setattr(clusters, "ANSWER_TIMEOUT", LIMIT)
    own = Security.temporary()
    found = {"ca-file": own.tls_ca_file, "client.cert": own.tls_client_cert, "client.key": own.tls_client_key}
    options = {"processes": False, "protocol": "tls://", "security": own, "dashboard_address": None}
    with (
        LocalCluster(n_workers=0, **options) as running,
        dask.config.set({f"distributed.comm.tls.{name}": text for name, text in found.items()}),
    ):
        address = running.scheduler_address
        monkeypatch.setattr(clusters, "WORKER_TIMEOUT", 0.5)
        with pytest.raises(RuntimeError, match="no workers"), cluster(address, log_folder=tmp_path):
            pass
        monkeypatch.setattr(clusters, "WORKER_TIMEOUT", LIMIT)
        running.scale(1)
        with cluster(address, log_folder=tmp_path, expected=lambda: "a") as client:
            assert client.submit(sum, [1, 2]).result(timeout=LIMIT) == 3
        answers = iter(["a", "b"])
        other = cluster(address, log_folder=tmp_path, expected=lambda: next(answers))
        with pytest.raises(RuntimeError, match=r"other code.*\(b, here a\)"), other:
            pass
        with Client(running) as client:
            assert client.submit(sum, [2, 3]).result(timeout=LIMIT) == 5


def test_slurm_jobs_work_are_submitted_again_and_cancelled_at_the_end(tmp_path, capfd, monkeypatch):
    """The stand-in for Slurm runs a job's script on this machine; scheduler and workers are real."""
    pytest.importorskip("dask_jobqueue")
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    logs = tmp_path / "logs"
    options = {"queue": "long", "cores": "3", "memory": "7GB", "job_script_prologue": "A=1; export A",
               "job_extra_directives": "--gres=gpu:1 --comment='two words'"}  # fmt: skip
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
        assert refused(client.scheduler.address) and set(listening()) == {"127.0.0.1"}
        assert [key.parent.stat().st_mode & 0o77 for key in logs.glob("*/key.pem")] == [0]
        os.killpg(int((tmp_path / "1.pid").read_text()), signal.SIGKILL)  # as at the end of its time
        eventually(lambda: (tmp_path / "2.pid").is_file())
        assert client.submit(os.getpid).result(timeout=LIMIT) not in first
        pids = client.run(os.getpid).values()
    script = (tmp_path / "1.sh").read_text()
    for line in ("-p long", "--cpus-per-task=3", "--mem=7G", "--gres=gpu:1", "--comment=two words"):
        assert f"#SBATCH {line}\n" in script
    eventually(lambda: not any(psutil.pid_exists(pid) for pid in pids))
    assert "".join(capfd.readouterr()) == "" and not list(logs.glob("ttilib-*"))

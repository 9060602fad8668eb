"""Real workers: on this machine, behind a running scheduler, and as jobs of a stand-in for Slurm's queue."""

import json
import logging
import os
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import dask
import psutil
import pytest

from ttilib.sweep import clusters
from ttilib.sweep.clusters import cluster, default_workers, job_options

CANCEL = """
import os, signal, sys
from pathlib import Path
folder = Path(__file__).parent
for job in sys.argv[1:]:
    (folder / f"{job}.cancelled").touch()
    try:
        os.killpg(int((folder / f"{job}.pid").read_text()), signal.SIGTERM)
    except ProcessLookupError:
        sys.exit(1)
"""
BATCH = """
import shutil, subprocess, sys
from pathlib import Path
folder = Path(__file__).parent
job = 1 + len(list(folder.glob("*.sh")))
script = folder / f"{job}.sh"
shutil.copy(sys.argv[-1], script)
with open(folder / f"{job}.out", "w") as out:
    process = subprocess.Popen(["bash", script], stdout=out, stderr=out, start_new_session=True)
(folder / f"{job}.pid").write_text(str(process.pid))
print("Submitted batch job", job)
"""
REFUSES = """
import sys
sys.exit("sbatch: error: invalid partition specified: nowhere")
"""


def eventually(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.05)


def environment():
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENCV_FOR_THREADS_NUM", "CUDA_VISIBLE_DEVICES")
    return {name: os.environ.get(name) for name in names}


def version():
    return f"code of process {os.getpid()}"


def same_version():
    return "a1b2"


def complain(text):
    logging.getLogger("distributed.worker").warning(text)


def family():
    return psutil.Process().children(recursive=True)


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    folder = tmp_path_factory.mktemp("local")
    before = dict(os.environ), set(Path(os.getenv("TMPDIR", "/tmp")).glob("ttilib-*"))
    with cluster("local", workers=2, threads=3, log_folder=folder / "logs") as client:
        yield client, folder / "logs" / "cluster.log", before


def test_workers_do_one_task_each_with_as_many_threads_as_said(local):
    client, _, _ = local
    assert list(client.nthreads().values()) == [1, 1]
    for found in client.run(environment).values():
        assert [found["OMP_NUM_THREADS"], found["MKL_NUM_THREADS"], found["OPENCV_FOR_THREADS_NUM"]] == ["3"] * 3
    child = [sys.executable, "-c", "import cv2; print(cv2.getNumThreads())"]
    answer = client.submit(subprocess.run, child, capture_output=True, text=True).result()
    assert answer.stdout.strip() == "3"  # as a notebook's kernel would find it


def test_nothing_is_open_to_other_machines(local):
    client, _, _ = local
    inside = [psutil.Process(), *family()]
    listening = [c for p in inside for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert len(listening) >= 3  # scheduler and two workers
    assert {c.laddr.ip for c in listening} <= {"127.0.0.1", "::1"}


def test_workers_have_no_memory_limit_and_do_not_spill(local):
    client, _, _ = local

    def limits(dask_worker):
        manager = dask_worker.memory_manager
        return manager.memory_limit, manager.memory_spill_fraction, type(dask_worker.data)

    for limit, spill, kind in client.run(limits).values():
        assert limit is None and not spill and kind is dict


def test_warnings_of_workers_and_scheduler_go_to_the_log(local, capfd):
    client, log, _ = local
    client.run(complain, "the worker is unwell")
    logging.getLogger("distributed.scheduler").warning("the scheduler is unwell")
    logging.getLogger("distributed.scheduler").info("nobody wants to know")
    text = log.read_text()
    assert text.count("the worker is unwell") == 2 and "the scheduler is unwell" in text
    assert "nobody" not in text
    out = capfd.readouterr()
    assert "unwell" not in out.out + out.err


def test_a_killed_worker_is_replaced_and_its_task_done_again(local, tmp_path):
    client, _, _ = local
    marks = tmp_path / "marks"
    marks.mkdir()

    def once_slow(folder):
        first = not any(folder.iterdir())
        (folder / str(os.getpid())).touch()
        time.sleep(60 if first else 0)
        return os.getpid()

    before = set(client.run(os.getpid).values())
    future = client.submit(once_slow, marks)
    eventually(lambda: any(marks.iterdir()))
    (victim,) = (int(path.name) for path in marks.iterdir())
    assert victim in before
    os.kill(victim, 9)
    assert future.result(timeout=20) != victim
    client.wait_for_workers(2, timeout=20)
    after = client.run(environment)
    assert len(after) == 2 and all(found["OMP_NUM_THREADS"] == "3" for found in after.values())


def test_the_block_ends_with_everything_it_started(tmp_path):
    before = dict(os.environ)
    loggers = [(logging.getLogger(n).handlers, logging.getLogger(n).propagate) for n in clusters.LOGGERS]
    config = dask.config.get("distributed.worker.memory.spill")
    mine = {p.pid for p in family()}
    with cluster("local", workers=1, log_folder=tmp_path) as client:
        (pid,) = client.run(os.getpid).values()
        (folder,) = client.run(lambda dask_worker: dask_worker.local_directory).values()
        assert Path(folder).is_dir()
        assert pid not in mine
    assert not psutil.pid_exists(pid)
    assert not Path(folder).exists() and not Path(folder).parent.parent.exists()
    assert dask.config.get("distributed.worker.memory.spill") == config
    assert [(logging.getLogger(n).handlers, logging.getLogger(n).propagate) for n in clusters.LOGGERS] == loggers
    changed = {name for name, value in os.environ.items() if before.get(name) != value}
    assert not changed & set(clusters.THREADS)


def test_the_block_ends_even_if_it_raises(tmp_path):
    with pytest.raises(ZeroDivisionError), cluster("local", workers=1, log_folder=tmp_path) as client:
        (pid,) = client.run(os.getpid).values()
        1 / 0  # noqa: B018
    assert not psutil.pid_exists(pid)


@pytest.mark.parametrize(("cores", "memory", "expected"), [(8, 64e9, 8), (8, 10e9, 3), (8, 1e9, 1), (1, 64e9, 1)])
def test_there_is_room_for_a_worker_a_core_with_3_gb_each(monkeypatch, cores, memory, expected):
    monkeypatch.setattr(clusters, "cpu_count", lambda: cores)
    monkeypatch.setattr(clusters, "memory_limit", lambda: int(memory))
    assert default_workers() == expected
    assert len(clusters._environments(0, 0, "cpu")) == expected


def test_room_counts_the_cores_this_process_may_use():
    script = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
    script += "from ttilib.sweep.clusters import default_workers; print(default_workers())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


def test_a_cpu_worker_has_one_thread_unless_told_otherwise():
    for workers, threads, expected in ((1, 0, "1"), (3, 0, "1"), (1, 4, "4")):
        found = clusters._environments(workers, threads, "cpu")
        assert len(found) == workers
        assert all(env["OMP_NUM_THREADS"] == expected and "CUDA_VISIBLE_DEVICES" not in env for env in found)


@pytest.mark.parametrize(
    ("visible", "count", "workers", "expected"),
    [
        (None, 3, 0, ["0", "1", "2"]),
        ("5,7", 2, 0, ["5", "7"]),
        ("MIG-a, MIG-b", 2, 3, ["MIG-a", "MIG-b", "MIG-a"]),
        (None, 4, 2, ["0", "1"]),
        ("0,1,9", 2, 0, ["0", "1"]),  # a name that CUDA does not know ends the list
    ],
)
def test_every_worker_gets_a_gpu_of_those_that_are_visible(monkeypatch, visible, count, workers, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    monkeypatch.setattr(clusters, "cpu_count", lambda: 12)
    found = clusters._environments(workers, 0, "cuda")
    assert [env["CUDA_VISIBLE_DEVICES"] for env in found] == expected
    assert {env["OMP_NUM_THREADS"] for env in found} == {str(12 // len(expected))}


def test_without_a_gpu_nothing_is_started(monkeypatch, tmp_path):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(RuntimeError, match="finds no GPU"), cluster("local", device="cuda", log_folder=tmp_path):
        pass


@pytest.mark.parametrize(
    ("where", "hint"),
    [("locl", "did you mean local"), ("slrum", "did you mean slurm"), ("host", "tcp://host:8786"), (":80", "tcp")],
)
def test_a_place_that_does_not_exist_is_refused(tmp_path, where, hint):
    with pytest.raises(ValueError, match=hint), cluster(where, log_folder=tmp_path):
        pass


def test_settings_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(ValueError, match="workers=-1"), cluster("local", workers=-1, log_folder=tmp_path):
        pass
    with pytest.raises(ValueError, match="queue"), cluster("local", slurm={"queue": "long"}, log_folder=tmp_path):
        pass


# A scheduler that is already there.


def test_a_running_scheduler_is_used_and_left_running(local, tmp_path):
    client, _, _ = local
    address = client.scheduler.address
    for where in (address, address.removeprefix("tcp://")):
        with cluster(where, log_folder=tmp_path, expected=same_version) as other:
            assert other.submit(sum, [1, 2]).result() == 3
    assert client.submit(sum, [2, 3]).result() == 5


def test_workers_with_other_code_are_refused(local, tmp_path):
    client, _, _ = local
    with (
        pytest.raises(RuntimeError, match="2 of 2 workers run other code .*code of process") as caught,
        cluster(client.scheduler.address, log_folder=tmp_path, expected=version),
    ):
        pass
    assert "\n" not in str(caught.value)


def test_a_worker_that_cannot_even_name_its_code_is_refused(local, tmp_path):
    client, _, _ = local
    here = os.getpid()

    def only_here():
        if os.getpid() != here:
            raise ModuleNotFoundError("No module named 'ttilib'")
        return "a1b2"

    with (
        pytest.raises(RuntimeError, match="No module named 'ttilib'"),
        cluster(client.scheduler.address, log_folder=tmp_path, expected=only_here),
    ):
        pass


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_scheduler_that_does_not_answer_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(clusters, "ANSWER", 1)
    address = f"127.0.0.1:{free_port()}"
    begin = time.monotonic()
    about = f"tcp://{address}: no scheduler answers within 1 s"
    with pytest.raises(OSError, match=about), cluster(address, log_folder=tmp_path):
        pass
    assert time.monotonic() - begin < 10


def test_something_else_on_that_port_is_no_scheduler(monkeypatch, tmp_path):
    monkeypatch.setattr(clusters, "ANSWER", 1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(OSError, match="no scheduler answers"), cluster(address, log_folder=tmp_path):
            pass


def test_a_scheduler_without_workers_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(clusters, "ARRIVAL", 0.5)
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
    file = tmp_path / "scheduler.json"
    command += ["--no-dashboard", "--dashboard-address", "127.0.0.1:0", "--scheduler-file", str(file)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as scheduler:
        try:
            eventually(lambda: file.is_file() and file.stat().st_size)
            address = json.loads(file.read_text())["address"]
            about = f"no workers within 0.5 s; .*dask worker {address}"
            with pytest.raises(RuntimeError, match=about), cluster(address, log_folder=tmp_path):
                pass
            assert scheduler.poll() is None
        finally:
            scheduler.terminate()


# Slurm. The stand-in runs a job's script on this machine as soon as it is submitted; scheduler and workers are real.


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    pytest.importorskip("dask_jobqueue")

    def install(sbatch=BATCH, scancel=CANCEL):
        folder = tmp_path / "stand-in"
        folder.mkdir()
        for name, text in (("sbatch", sbatch), ("scancel", scancel)):
            (folder / name).write_text(f"#!{sys.executable}\n{text}")
            (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        return folder

    return install


def test_jobs_of_a_queue_work_and_are_cancelled_at_the_end(stand_in, tmp_path, capfd):
    folder = stand_in()
    options = {"queue": "long", "cores": "3", "memory": "7GB", "interface": "lo", "walltime": "01:00:00"}
    options |= {"job_extra_directives": "--gres=gpu:1 --comment='two words'", "job_script_prologue": "A=1; export A"}
    with cluster("slurm", workers=2, slurm=options, log_folder=tmp_path / "logs") as client:
        client.wait_for_workers(2, timeout=30)
        assert list(client.nthreads().values()) == [1, 1]  # one task at a time, with three threads
        assert set(client.run(os.getenv, "OMP_NUM_THREADS").values()) == {"3"}
        assert set(client.run(os.getenv, "A").values()) == {"1"}
        assert set(client.run(os.getcwd).values()) == {os.getcwd()}
        pids = client.run(os.getpid).values()
        assert sum(client.gather(client.map(abs, range(-5, 0)))) == 15
    script = (folder / "1.sh").read_text()
    wanted = ["-p long", "--cpus-per-task=3", "--mem=7G", "-t 01:00:00", "--gres=gpu:1", "--comment=two words"]
    for line in wanted:
        assert f"#SBATCH {line}\n" in script
    assert sorted(path.name for path in folder.glob("*.cancelled")) == ["1.cancelled", "2.cancelled"]
    eventually(lambda: not any(psutil.pid_exists(pid) for pid in pids))
    out = capfd.readouterr()
    assert out.out + out.err == ""


def test_a_job_that_ends_is_queued_again(stand_in, tmp_path, monkeypatch):
    folder = stand_in()
    monkeypatch.setattr(clusters, "RENEWAL", "0.3s")
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "0.5s"}),
        cluster("slurm", slurm={"interface": "lo"}, log_folder=tmp_path / "logs") as client,
    ):
        client.wait_for_workers(1, timeout=30)
        (pid,) = client.run(os.getpid).values()
        os.killpg(int((folder / "1.pid").read_text()), 9)  # as at the end of its time
        eventually(lambda: (folder / "2.pid").is_file())
        assert client.submit(os.getpid).result(timeout=30) != pid
    assert len(list(folder.glob("*.sh"))) == 2


def test_a_refused_job_says_why(stand_in, tmp_path):
    stand_in(sbatch=REFUSES)
    options = {"queue": "nowhere", "interface": "lo"}
    with (
        pytest.raises(OSError, match="invalid partition specified: nowhere") as caught,
        cluster("slurm", slurm=options, log_folder=tmp_path),
    ):
        pass
    assert "\n" not in str(caught.value)


def test_where_slurm_is_not_it_is_said(stand_in, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OSError, match="sbatch.*where Slurm"), cluster("slurm", log_folder=tmp_path):
        pass


def test_job_options_come_from_texts():
    assert job_options({}) == {"cores": 1, "memory": "4GB", "processes": 1}
    prologue = "module load cuda ; . env/bin/activate;"
    found = job_options({"cores": "4", "account": "me", "job_script_prologue": prologue})
    assert found == {
        "cores": 4, "memory": "4GB", "processes": 1, "account": "me",
        "job_script_prologue": ["module load cuda", ". env/bin/activate"],
    }  # fmt: skip


@pytest.mark.parametrize("options", [{"walltme": "1"}, {"cores": "four"}, {"memory": "much"}])
def test_options_that_jobqueue_refuses_are_one_sentence(stand_in, tmp_path, options):
    stand_in()
    with (
        pytest.raises(ValueError, match=next(iter(options))) as caught,
        cluster("slurm", slurm=options, log_folder=tmp_path),
    ):
        pass
    assert "\n" not in str(caught.value)


def test_without_jobqueue_the_remedy_is_named():
    script = """
        import sys
        sys.modules["dask_jobqueue"] = sys.modules["dask_jobqueue.core"] = None
        from ttilib.sweep.clusters import cluster
        try:
            with cluster("slurm", log_folder=sys.argv[1]):
                pass
        except ModuleNotFoundError as error:
            sys.stdout.write(str(error))
    """
    folder = str(Path(os.getenv("TMPDIR", "/tmp")))
    command = [sys.executable, "-c", textwrap.dedent(script), folder]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 'pip install -e ".[cluster]"' in done.stdout

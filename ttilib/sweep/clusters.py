"""Who does the work: processes of this machine, a scheduler that is already running, or jobs of a Slurm queue.

Every worker does one task at a time. A task starts Jupyter kernels, and these compute; so a worker process needs
no memory limit of its own, and what its children shall know (threads, GPU) stands in its environment.

`cluster` gives a client of any of the three; `room` says how many workers this machine has room for.

What dask has to say, in a file instead of the terminal.

A lost worker or a slow connection is nothing a reader of a progress line can use; it is told in one place, from the
driver and all its local workers.

Jobs of a Slurm queue as workers: what a job asks for, from texts, and the queue itself.

A job is one worker by default, which does one task at a time with all the cores it has booked. A job that the queue
ends, because its time is over for instance, is queued again.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import dask
from dask.system import cpu_count
from distributed import Client, Nanny, Scheduler, SpecCluster, Worker, WorkerPlugin, rpc
from distributed.core import Status
from distributed.system import memory_limit
from tornado.ioloop import PeriodicCallback

from ttilib.files import meant

LOGGERS = (
    "distributed", "distributed.client", "distributed.gc", "tornado", "tornado.application", "asyncio",
    "dask_jobqueue",
)  # fmt: skip


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Append warnings of dask and its event loop to a file inside the block, and keep them off the terminal."""
    file = logging.FileHandler(path, encoding="utf-8", delay=True)
    file.setLevel(logging.WARNING)
    file.setFormatter(logging.Formatter("%(asctime)s %(process)d %(name)s %(levelname)s %(message)s"))
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(logger.handlers, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [file], False
    try:
        yield
    finally:
        for logger, (handlers, propagate) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate
        file.close()


class Quiet(WorkerPlugin):
    """The same in a worker process, for as long as it lives."""

    def __init__(self, path: str) -> None:
        self.path, self.name = path, "quiet"

    def setup(self, worker: Worker) -> None:
        self.logging = logging_to(Path(self.path))
        self.logging.__enter__()


DEFAULTS: dict[str, Any] = {"cores": 1, "memory": "4GB", "processes": 1}
RENEWAL = 30  # seconds between looks at which jobs have ended
NUMBERS = ("cores", "processes", "job_cpu", "death_timeout")
WORDS = ("job_extra_directives", "job_directives_skip", "worker_extra_args")  # several, with spaces between
LINES = ("job_script_prologue",)  # several, with semicolons between
OURS = (  # set here, taken back by jobqueue, or no text
    "self", "scheduler", "name", "nanny", "protocol", "security", "worker_command", "config_name", "project", "extra",
    "job_extra", "env_extra", "header_skip", "log_directory",
)  # fmt: skip


def job_settings(texts: Mapping[str, str]) -> dict[str, Any]:
    """What every job asks for, from NAME=VALUE texts, with one core, 4 GB and one worker if nothing else is said.

    Names are those of `dask_jobqueue.SLURMCluster`: queue, account, cores, memory, walltime, job_extra_directives,
    job_script_prologue, interface and others. Directives and arguments are several words, prologues several
    commands with semicolons between.
    Raises ValueError for an unknown name (with the nearest one) or a number that is none, ModuleNotFoundError
    without dask-jobqueue.
    """
    known = _known()
    settings = dict(DEFAULTS)
    for name, text in texts.items():
        if name not in known:
            raise ValueError(f"Slurm option {name}={text}: there is no such option; {meant(name, known)}")
        settings[name] = _value(name, text)
    return settings


def _known() -> list[str]:
    """Options of a job that are texts or numbers, as jobqueue lists them."""
    try:
        from dask_jobqueue.core import Job
        from dask_jobqueue.slurm import SLURMJob
    except ModuleNotFoundError as error:
        about = "jobs of a Slurm queue need dask-jobqueue, which is not installed"
        raise ModuleNotFoundError(f'{about}; give `pip install -e ".[cluster]"`', name=error.name) from error
    names = [*inspect.signature(SLURMJob.__init__).parameters, *inspect.signature(Job.__init__).parameters]
    return [name for name in dict.fromkeys(names) if name not in (*OURS, "base_class_kwargs")]


def _value(name: str, text: str) -> Any:
    if name in NUMBERS:
        if not text.isdecimal() or int(text) < 1:
            raise ValueError(f"Slurm option {name}={text}: {text!r} is no number from 1; give for example {name}=4")
        return int(text)
    if name in LINES:
        return [line.strip() for line in text.split(";") if line.strip()]
    return shlex.split(text) if name in WORDS else text


@contextmanager
def queue(settings: Mapping[str, Any], jobs: int, environment: Mapping[str, str], log_folder: Path) -> Iterator[Any]:
    """A cluster with `jobs` jobs in the queue, whose output goes to `log_folder`; they are cancelled at the end.

    settings: as `job_settings` gives them. environment: what the jobs' tasks find in theirs.
    Raises OSError if there is no `sbatch` or it refuses a job.
    """
    from dask_jobqueue import SLURMCluster

    for program in ("sbatch", "scancel"):
        if shutil.which(program) is None:
            raise FileNotFoundError(f"{program}: no such program here; start the sweep where Slurm's commands are")
    settings = dict(settings)
    exports = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    prologue = [f"cd {shlex.quote(os.getcwd())}", *exports, *settings.pop("job_script_prologue", [])]
    one_task = ["--nthreads", "1", "--memory-limit", "0", "--no-dashboard"]  # the last of two is the one that counts
    cluster = SLURMCluster(
        **settings | {"worker_extra_args": [*settings.get("worker_extra_args", []), *one_task]},
        job_script_prologue=prologue,
        log_directory=str(log_folder),
        scheduler_options={"dashboard": False, "dashboard_address": ":0"},
        silence_logs=False,
    )
    with cluster:
        try:
            renewal = cluster.sync(_queued, cluster, jobs)
        except RuntimeError as error:
            raise OSError(f"sbatch refused a job ({_reason(error)}); change the Slurm options it names") from error
        try:
            yield cluster
        finally:
            cluster.loop.add_callback(renewal.stop)


async def _queued(cluster: Any, jobs: int) -> PeriodicCallback:
    """Queue the jobs, and from now on queue again those that have come and gone.

    Raises what stopped one from being queued.
    """
    cluster.scale(jobs=jobs)
    try:
        await cluster
        for job in list(cluster.workers.values()):
            await job  # asks once more for one that was refused
    except RuntimeError:
        for job in cluster.workers.values():
            job.status = Status.failed if job.job_id is None else job.status  # or the cluster would not close
        raise
    renewal = PeriodicCallback(partial(cluster.scale, jobs=jobs), 1000 * RENEWAL)
    renewal.start()
    return renewal


def _reason(error: RuntimeError) -> str:
    """What `sbatch` said: the last line of its error output."""
    said = str(error).rpartition("stderr:")[2].split("\n")
    return next((line.strip() for line in reversed(said) if line.strip()), "it did not say why")


PLACES = ("local", "slurm")
NEEDED = 3e9  # bytes that a worker with its kernel takes
LOOPBACK = "127.0.0.1"
ANSWER, ARRIVAL = 10, 60  # seconds: for a scheduler to answer, for its first worker to come
THREADS = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
    "OPENCV_FOR_THREADS_NUM",
)  # fmt: skip
SETTINGS = {
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    "distributed.worker.profile.enabled": False,  # it would stop every thread 100 times a second
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
    "distributed.nanny.pre-spawn-environ": {},  # would be set in this process as well
}


def room() -> int:
    """Workers that this machine has room for: one a core, and 3 GB of memory each; at least one.

    Cores and memory are those this process may use (affinity and control groups count).
    """
    return max(1, min(cpu_count(), int(memory_limit() // NEEDED)))


@contextmanager
def cluster(
    where: str = "local",
    workers: int = 0,
    threads: int = 0,
    device: str = "cpu",
    slurm: Mapping[str, str] | None = None,
    log_folder: Path | str = ".",
    expected: Callable[[], str] | None = None,
) -> Iterator[Client]:
    """A client of workers that do one task at a time each; what was started here ends with the block.

    where: "local" starts `workers` processes (0: as many as there is `room` for; on "cuda" one a GPU), each with
    `threads` threads for torch (0: one on a CPU, so that numbers do not depend on the machine; its share of the
    cores beside a GPU) and reachable from this machine only. "tcp://host:8786" or "host:8786" is a running
    scheduler, which stays. "slurm" queues `workers` jobs (0: one) as `slurm` says, see `ttilib.sweep.slurm`; they
    may wait long, so the client may have no workers yet.
    Warnings of the machinery go to `log_folder`/cluster.log. `expected` names the code by its content; workers of a
    running scheduler must name theirs alike.
    Raises ValueError for a wrong setting, OSError if a scheduler does not answer or a job is refused, RuntimeError
    without a GPU, without workers, or if their code is another.
    """
    place = _place(where)
    if workers < 0 or threads < 0:
        raise ValueError(f"workers={workers}, threads={threads}: give numbers from 0, where 0 chooses for you")
    if slurm and place != "slurm":
        raise ValueError(f"Slurm options were given ({', '.join(slurm)}), but the place is {where!r}; give 'slurm'")
    log_folder = Path(log_folder).resolve()
    log_folder.mkdir(parents=True, exist_ok=True)
    log = log_folder / "cluster.log"
    with ExitStack() as stack:
        stack.enter_context(logging_to(log))
        stack.enter_context(dask.config.set(SETTINGS))
        if place == "local":
            client = stack.enter_context(_local(_environments(workers, threads, device), log))
        elif place == "slurm":
            settings = job_settings(slurm or {})
            share = _share(threads or max(1, settings["cores"] // settings["processes"]))
            jobs = stack.enter_context(queue(settings, max(1, workers), share, log_folder))
            client = stack.enter_context(Client(jobs, set_as_default=False))
        else:
            client = stack.enter_context(_running(place))
            _check_code(client, place, expected)
        yield client


@contextmanager
def _local(environments: list[dict[str, str]], log: Path) -> Iterator[Client]:
    """A client of one new process per environment."""
    with (
        tempfile.TemporaryDirectory(prefix="ttilib-", ignore_cleanup_errors=True) as folder,
        SpecCluster(_workers(environments, folder, log), scheduler=_scheduler()) as processes,
        Client(processes, set_as_default=False) as client,
    ):
        client.wait_for_workers(len(environments))
        yield client


def _place(where: str) -> str:
    """`where`, an address with its protocol."""
    if where in PLACES or "://" in where:
        return where
    host, colon, port = where.rpartition(":")
    if host and colon and port.isdecimal():
        return f"tcp://{where}"
    hint = meant(where, PLACES, "give local, slurm or an address such as tcp://host:8786")
    raise ValueError(f"{where!r}: no such place to run on; {hint}")


def _scheduler() -> dict[str, Any]:
    address = f"{LOOPBACK}:0"
    options = {"host": LOOPBACK, "protocol": "tcp://", "dashboard": False, "dashboard_address": address}
    return {"cls": Scheduler, "options": options}


def _workers(environments: list[dict[str, str]], folder: str, log: Path) -> dict[int, dict[str, Any]]:
    """One process per environment, watched by a nanny that starts another when it dies."""
    common = {
        "nthreads": 1,
        "memory_limit": None,
        "host": LOOPBACK,
        "protocol": "tcp://",
        "local_directory": folder,
        "silence_logs": logging.WARNING,
        "plugins": [Quiet(str(log))],
    }
    return {n: {"cls": Nanny, "options": {**common, "env": env}} for n, env in enumerate(environments)}


def _environments(workers: int, threads: int, device: str) -> list[dict[str, str]]:
    """What each worker's children find in their environment: how many threads to use, and which GPU."""
    if device != "cuda":
        return [_share(threads or 1) for _ in range(workers or room())]
    import torch  # workers read this module too, and need no torch themselves

    given = os.getenv("CUDA_VISIBLE_DEVICES")  # names of GPUs, of which torch counts those that are there
    count = torch.cuda.device_count()
    gpus = [name.strip() for name in given.split(",")][:count] if given else [str(n) for n in range(count)]
    if not gpus:
        raise RuntimeError("device='cuda': torch finds no GPU on this machine; give device='cpu' or another machine")
    workers = workers or len(gpus)
    share = _share(threads or max(1, cpu_count() // workers))
    return [{**share, "CUDA_VISIBLE_DEVICES": gpus[n % len(gpus)]} for n in range(workers)]


def _share(threads: int) -> dict[str, str]:
    """The settings by which numerical libraries learn how many threads they may use."""
    return dict.fromkeys(THREADS, str(threads))


def _running(address: str) -> Client:
    """A client of the scheduler at `address`, once a worker is there."""
    try:  # in a thread, because a notebook's own has a loop already
        with ThreadPoolExecutor(1) as pool:
            pool.submit(asyncio.run, asyncio.wait_for(_identity(address), ANSWER)).result()
        client = Client(address, timeout=ANSWER, set_as_default=False)
    except (OSError, ValueError, TimeoutError, asyncio.TimeoutError) as error:
        advice = "check the address, and that `dask scheduler` runs there and no firewall is between"
        raise OSError(f"{address}: no scheduler answers within {ANSWER} s; {advice}") from error
    try:
        client.wait_for_workers(1, timeout=ARRIVAL)
    except (TimeoutError, asyncio.TimeoutError) as error:
        client.close()
        advice = f"start some with `dask worker {address} --nthreads 1`"
        raise RuntimeError(f"{address}: the scheduler has no workers within {ARRIVAL} s; {advice}") from error
    return client


async def _identity(address: str) -> Any:
    """What the server at `address` says of itself; a client would wait for ever if it says nothing."""
    async with rpc(address) as server:
        return await server.identity()


def _check_code(client: Client, address: str, expected: Callable[[], str] | None) -> None:
    """Refuse workers on which `expected` gives another text than here, or cannot be called."""
    if expected is None:
        return
    here = expected()
    found = client.run(expected, on_error="return")
    other = {worker: str(code) for worker, code in found.items() if code != here}
    if other:
        worker, code = next(iter(other.items()))
        about = f"{len(other)} of {len(found)} workers run other code than this machine"
        advice = "bring all machines to the same version and start the workers again"
        raise RuntimeError(f"{address}: {about} ({worker} has {code}, here is {here}); {advice}")

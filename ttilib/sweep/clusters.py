"""Workers for a sweep: processes of this machine, a scheduler that is already running, or jobs of a Slurm queue.

Every worker does one task at a time. A task starts a Jupyter kernel, and that computes; so a worker process needs no
memory limit of its own, and what its children need (threads, GPU) is in its environment. Warnings of dask go to a file,
because a lost worker or a slow connection is nothing that a reader of a progress bar can use.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import dask
from dask.system import cpu_count
from distributed import Client, Nanny, Scheduler, SpecCluster, Worker, WorkerPlugin, rpc
from distributed.core import Status
from distributed.system import memory_limit

from ttilib.files import meant

WHERE = ("local", "slurm")
NEEDED = 3e9  # bytes that a worker with its kernel takes
LOOPBACK = "127.0.0.1"
ANSWER, ARRIVAL = 10, 60  # seconds: for a scheduler to answer, for its first worker to come
RENEWAL = "30s"  # between looks at which jobs have ended
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
LOGGERS = (
    "distributed", "distributed.client", "distributed.gc", "tornado", "tornado.application", "asyncio",
    "dask_jobqueue",
)  # fmt: skip


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
    scheduler, which stays. "slurm" queues `workers` jobs (0: one) with the options `slurm`, see `job_options`; they
    may wait long, so the client may have no workers yet.
    Warnings of dask go to `log_folder`/cluster.log. `expected` names the code by its content; workers of a running
    scheduler must name theirs alike.
    Raises ValueError for a wrong setting, OSError if a scheduler does not answer or a job is refused, RuntimeError
    without a GPU, without workers, or if their code is another.
    """
    where = _with_protocol(where)
    if workers < 0 or threads < 0:
        raise ValueError(f"workers={workers}, threads={threads}: give numbers from 0, where 0 chooses for you")
    if slurm and where != "slurm":
        raise ValueError(f"Slurm options were given ({', '.join(slurm)}), but not the place; give --on slurm as well")
    log_folder = Path(log_folder).resolve()
    log_folder.mkdir(parents=True, exist_ok=True)
    log = log_folder / "cluster.log"
    with ExitStack() as stack:
        stack.enter_context(logging_to(log))
        stack.enter_context(dask.config.set(SETTINGS))
        if where == "local":
            processes = stack.enter_context(_local(_environments(workers, threads, device), log))
            client = stack.enter_context(Client(processes, set_as_default=False))
            client.wait_for_workers(len(processes.worker_spec))
        elif where == "slurm":
            jobs = stack.enter_context(_queue(job_options(slurm or {}), max(1, workers), threads, log_folder))
            client = stack.enter_context(Client(jobs, set_as_default=False))
        else:
            client = stack.enter_context(_running(where))
            _check_code(client, where, expected)
        yield client


def _with_protocol(where: str) -> str:
    """`where`, an address with its protocol."""
    if where in WHERE or "://" in where:
        return where
    host, _, port = where.rpartition(":")
    if host and port.isdecimal():
        return f"tcp://{where}"
    hint = meant(where, WHERE, "give local, slurm or an address such as tcp://host:8786")
    raise ValueError(f"{where!r}: sweeps do not run there; {hint}")


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


class WorkerLog(WorkerPlugin):
    """The same in a worker process, for as long as it lives."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, "log"

    def setup(self, worker: Worker) -> None:
        self.logging = logging_to(self.path)
        self.logging.__enter__()


@contextmanager
def _local(environments: list[dict[str, str]], log: Path) -> Iterator[SpecCluster]:
    """One new process per environment, watched by a nanny that starts another when it dies."""
    network = {"host": LOOPBACK, "protocol": "tcp://"}
    scheduler = {**network, "dashboard": False, "dashboard_address": f"{LOOPBACK}:0"}
    with tempfile.TemporaryDirectory(prefix="ttilib-", ignore_cleanup_errors=True) as folder:
        common = {
            **network, "nthreads": 1, "memory_limit": None, "local_directory": folder,
            "silence_logs": logging.WARNING, "plugins": [WorkerLog(log)],
        }  # fmt: skip
        workers = {n: {"cls": Nanny, "options": {**common, "env": env}} for n, env in enumerate(environments)}
        with SpecCluster(workers, scheduler={"cls": Scheduler, "options": scheduler}) as processes:
            yield processes


def _environments(workers: int, threads: int, device: str) -> list[dict[str, str]]:
    """What each worker's children find in their environment: how many threads to use, and which GPU."""
    if device != "cuda":
        return [dict.fromkeys(THREADS, str(threads or 1)) for _ in range(workers or room())]
    import torch  # workers read this module too, and need no torch themselves

    given = os.getenv("CUDA_VISIBLE_DEVICES")  # names of GPUs, of which torch counts those that are there
    count = torch.cuda.device_count()
    gpus = [name.strip() for name in given.split(",")][:count] if given else [str(n) for n in range(count)]
    if not gpus:
        raise RuntimeError("device='cuda': torch finds no GPU on this machine; give device='cpu' or another machine")
    workers = workers or len(gpus)
    share = dict.fromkeys(THREADS, str(threads or max(1, cpu_count() // workers)))
    return [{**share, "CUDA_VISIBLE_DEVICES": gpus[n % len(gpus)]} for n in range(workers)]


def _running(address: str) -> Client:
    """A client of the scheduler at `address`, once a worker is there."""

    async def identity() -> Any:  # a client would wait for ever for something that is no scheduler
        async with rpc(address) as server:
            return await server.identity()

    try:  # in a thread, because a notebook's own has a loop already
        with ThreadPoolExecutor(1) as pool:
            pool.submit(lambda: asyncio.run(asyncio.wait_for(identity(), ANSWER))).result()
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


def job_options(texts: Mapping[str, str]) -> dict[str, Any]:
    """Options of `dask_jobqueue.SLURMCluster` from NAME=VALUE texts: queue, account, cores, memory, walltime, ...

    Without any, a job has one core, 4 GB and one worker. Directives and arguments are several words, a prologue
    several commands with semicolons between.
    """
    options: dict[str, Any] = {"cores": 1, "memory": "4GB", "processes": 1}
    for name, text in texts.items():
        if name in ("job_extra_directives", "job_directives_skip", "worker_extra_args"):
            options[name] = shlex.split(text)
        elif name == "job_script_prologue":
            options[name] = [line.strip() for line in text.split(";") if line.strip()]
        else:
            options[name] = int(text) if text.isdecimal() else text
    return options


@contextmanager
def _queue(options: dict[str, Any], jobs: int, threads: int, log_folder: Path) -> Iterator[Any]:
    """A cluster of `jobs` Slurm jobs that write to `log_folder`; a job that ends is queued again until the block ends.

    A job is one worker, which gives its tasks `threads` threads (0: all the cores it has booked).
    """
    try:
        from dask_jobqueue import SLURMCluster
    except ModuleNotFoundError as error:
        about = "jobs of a Slurm queue need dask-jobqueue, which is not installed"
        raise ModuleNotFoundError(f'{about}; give `pip install -e ".[cluster]"`', name=error.name) from error
    try:
        share = threads or max(1, options["cores"] // options["processes"])
        exports = [f"export {name}={share}" for name in THREADS]
        prologue = [f"cd {shlex.quote(os.getcwd())}", *exports, *options.pop("job_script_prologue", [])]
        one_task = ["--nthreads", "1", "--memory-limit", "0", "--no-dashboard"]  # the last of two is what counts
        options["worker_extra_args"] = [*options.get("worker_extra_args", []), *one_task]
        queue = SLURMCluster(
            **options, job_script_prologue=prologue, log_directory=str(log_folder), silence_logs=False,
            scheduler_options={"dashboard": False, "dashboard_address": ":0"},
        )  # fmt: skip
    except (TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"Slurm options {', '.join(options)}: {reason}; see dask_jobqueue.SLURMCluster") from error
    with queue:
        try:
            queue.sync(_submit, queue, jobs)
        except (RuntimeError, OSError) as error:
            reason = str(error).rpartition("stderr:")[2].strip().splitlines() or ["it did not say why"]
            advice = "change the Slurm options that it names, or start the sweep where Slurm's commands are"
            raise OSError(f"sbatch failed ({reason[-1]}); {advice}") from error
        queue.adapt(minimum_jobs=jobs, maximum_jobs=jobs, interval=RENEWAL, wait_count=10**9)
        yield queue


async def _submit(queue: Any, jobs: int) -> None:
    """Queue the jobs; raises what stopped one from being queued."""
    queue.scale(jobs=jobs)
    try:
        await queue
        for job in list(queue.workers.values()):
            await job  # tries one that was refused once more
    except (RuntimeError, OSError):
        for job in queue.workers.values():
            job.status = Status.failed if job.job_id is None else job.status  # or the cluster would not close
        raise

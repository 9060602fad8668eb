"""Dask workers of a sweep: local processes, a running scheduler, or Slurm jobs.

Each worker runs one task at a time in a Jupyter kernel, which inherits its environment (threads, GPU). Schedulers and
workers started here speak TLS with a certificate of this sweep only: dask runs whatever code a client sends.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shlex
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import dask
from dask.system import cpu_count
from distributed import Client, Nanny, Scheduler, Security, SpecCluster, Worker, WorkerPlugin, rpc
from distributed.core import Status
from distributed.system import memory_limit
from distributed.utils import get_ip

from ttilib.files import suggest

WHERE = ("local", "slurm")
ADDRESS = r"((tcp|tls|ws|wss)://)?[^\s/]+:(\d{1,5})"
MAX_WORKERS = MAX_THREADS = 1000
WORKER_BYTES = 3e9  # memory of a worker and its kernel
LOOPBACK = "127.0.0.1"
ANSWER_TIMEOUT, WORKER_TIMEOUT = 10, 60  # seconds: scheduler, first worker
CHECK_INTERVAL = "30s"  # between checks for ended jobs
THREADS = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
    "OPENCV_FOR_THREADS_NUM",
)  # fmt: skip
SETTINGS = {
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    "distributed.worker.profile.enabled": False,  # interrupts every thread 100 times a second
    "distributed.nanny.pre-spawn-environ": {},  # would also change this process
}
LOGGERS = (
    "distributed", "distributed.client", "distributed.gc", "tornado", "tornado.application", "asyncio",
    "dask_jobqueue",
)  # fmt: skip


def default_workers(device: str = "cpu") -> int:
    """Number of workers for this machine, at least one: one per available core and 3 GB of available memory; on "cuda"
    one per GPU; on a GPU named by its number, such as "cuda:1", one.
    """
    if device.startswith("cuda"):
        import torch  # workers import this module and need no torch

        return max(1, torch.cuda.device_count()) if device == "cuda" else 1
    return max(1, min(cpu_count(), int(memory_limit() // WORKER_BYTES)))


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
    """A client of workers that run one task at a time; what was started here ends with the block.

    where "local": `workers` processes (0: `default_workers`; on "cuda" one per GPU) with `threads` torch threads each
    (0: one, so that results do not depend on the machine; on "cuda" a share of the cores). "tcp://host:8786",
    "host:8786", or "tls://host:8786" with the certificate in dask's configuration: a running scheduler, which is not
    stopped. "slurm": `workers` jobs (0: one) with options `slurm`, see `job_options`. Warnings of dask go to
    `log_folder`/cluster.log. `expected` returns a digest of the code, which workers of a running scheduler must share.
    Raises ValueError for a wrong setting, OSError if a scheduler does not answer or a job is refused, RuntimeError
    without a GPU, without workers, or if their code differs.
    """
    where = check_place(where, workers, threads, slurm)
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
            jobs = stack.enter_context(_queue(slurm or {}, max(1, workers), threads, log_folder))
            client = stack.enter_context(Client(jobs, set_as_default=False))
        else:
            client = stack.enter_context(_connect(where))
            if expected is not None:
                _check_code(client, where, expected)
        yield client


def check_place(where: str, workers: int, threads: int, slurm: Mapping[str, str] | None) -> str:
    """`where`, an address with its scheme. Raises ValueError for a setting that `cluster` cannot use."""
    address = re.fullmatch(ADDRESS, where)
    if where not in WHERE and not (address and 0 < int(address[3]) < 2**16):
        hint = suggest(where, WHERE, "give local, slurm or an address such as tcp://host:8786")
        raise ValueError(f"sweeps cannot run on {where!r}; {hint}")
    if not (0 <= workers <= MAX_WORKERS and 0 <= threads <= MAX_THREADS):
        about = f"workers={workers}, threads={threads}"
        raise ValueError(f"{about}: give numbers from 0, which is the default, to {MAX_WORKERS}")
    if slurm and where != "slurm":
        raise ValueError(f"the Slurm options {', '.join(slurm)} need --on slurm; give it as well")
    return f"tcp://{where}" if address and not address[1] else where


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Send warnings of dask and its event loop to a file, not to the terminal."""
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
    """`logging_to` in a worker process, for its lifetime."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, "log"

    def setup(self, worker: Worker) -> None:
        self.logging = logging_to(self.path)
        self.logging.__enter__()


@contextmanager
def _local(environments: list[dict[str, str]], log: Path) -> Iterator[SpecCluster]:
    """One worker process per environment, reachable from this process only; a nanny restarts it when it dies."""
    security = Security.temporary()
    network = {"host": LOOPBACK, "protocol": "tls://", "security": security}
    scheduler = {**network, "dashboard": False, "dashboard_address": f"{LOOPBACK}:0"}
    with tempfile.TemporaryDirectory(prefix="ttilib-", ignore_cleanup_errors=True) as folder:
        common = {
            **network, "nthreads": 1, "memory_limit": None, "local_directory": folder,
            "silence_logs": logging.WARNING, "plugins": [WorkerLog(log)],
        }  # fmt: skip
        workers = {n: {"cls": Nanny, "options": {**common, "env": env}} for n, env in enumerate(environments)}
        with SpecCluster(workers, scheduler={"cls": Scheduler, "options": scheduler}, security=security) as processes:
            yield processes


def _environments(workers: int, threads: int, device: str) -> list[dict[str, str]]:
    """Environment variables of each worker: number of threads, and GPU."""
    if device != "cuda":
        return [dict.fromkeys(THREADS, str(threads or 1)) for _ in range(workers or default_workers(device))]
    import torch  # workers import this module and need no torch

    given = os.getenv("CUDA_VISIBLE_DEVICES")  # names of GPUs; torch counts those present
    count = torch.cuda.device_count()
    gpus = [name.strip() for name in given.split(",")][:count] if given else [str(n) for n in range(count)]
    if not gpus:
        raise RuntimeError("device='cuda': torch finds no GPU on this machine; give device='cpu' or another machine")
    workers = workers or len(gpus)
    share = dict.fromkeys(THREADS, str(threads or max(1, cpu_count() // workers)))
    return [{**share, "CUDA_VISIBLE_DEVICES": gpus[n % len(gpus)]} for n in range(workers)]


def _connect(address: str) -> Client:
    """A client of the scheduler at `address`, once it has a worker."""
    security = Security()  # of dask's configuration
    if address.startswith(("tls:", "wss:")) and not (security.tls_client_cert and security.tls_ca_file):
        raise ValueError(f"{address}: give the certificate in dask's configuration, distributed.comm.tls")

    async def identity() -> Any:  # Client would wait forever for any other server
        async with rpc(address, connection_args=security.get_connection_args("client")) as server:
            return await asyncio.wait_for(server.identity(), ANSWER_TIMEOUT)

    try:  # in a thread: a notebook's thread already has an event loop
        with ThreadPoolExecutor(1) as pool:
            pool.submit(asyncio.run, identity()).result()
        client = Client(address, timeout=ANSWER_TIMEOUT, security=security, set_as_default=False)
    except (OSError, ValueError, TimeoutError, asyncio.TimeoutError) as error:
        advice = "check the address, that `dask scheduler` runs there, the firewall and, with tls, the certificate"
        raise OSError(f"{address}: no scheduler answers within {ANSWER_TIMEOUT} s; {advice}") from error
    try:
        client.wait_for_workers(1, timeout=WORKER_TIMEOUT)
    except (TimeoutError, asyncio.TimeoutError) as error:
        client.close()
        advice = f"start some with `dask worker {address} --nthreads 1`"
        raise RuntimeError(f"{address}: the scheduler has no workers within {WORKER_TIMEOUT} s; {advice}") from error
    return client


def _check_code(client: Client, address: str, expected: Callable[[], str]) -> None:
    here = expected()
    found = client.run(expected, on_error="return")
    for worker, code in found.items():
        if code != here:
            about = f"worker {worker} has other code than this machine ({code}, here {here})"
            raise RuntimeError(f"{address}: {about}; install one version everywhere and restart the workers")


def job_options(texts: Mapping[str, str]) -> dict[str, Any]:
    """Options of `dask_jobqueue.SLURMCluster` from texts; lists are split into words, the prologue at ";"."""
    options: dict[str, Any] = {"cores": 1, "memory": "4GB", "processes": 1}
    for name, text in texts.items():
        if not text or (name in ("cores", "processes") and not re.fullmatch("[1-9][0-9]{0,3}", text)):
            raise ValueError(f"{name} is {text!r}, but a value is needed, and for cores and processes a number from 1")
        if name in ("job_extra_directives", "job_directives_skip", "worker_extra_args"):
            options[name] = shlex.split(text)
        elif name == "job_script_prologue":
            options[name] = [line.strip() for line in text.split(";") if line.strip()]
        else:
            options[name] = int(text) if text.isdecimal() else text
    return options


@contextmanager
def _queue(texts: Mapping[str, str], jobs: int, threads: int, log_folder: Path) -> Iterator[Any]:
    """A cluster of `jobs` Slurm jobs, resubmitted until the block ends; `threads` per task (0: all booked cores).

    The scheduler listens at this machine's address, or at that of the option `interface`. Jobs read the certificate
    from a private folder in `log_folder`.
    """
    try:
        from dask_jobqueue import SLURMCluster
    except ModuleNotFoundError as error:
        about = "Slurm jobs need dask-jobqueue, which is not installed"
        raise ModuleNotFoundError(f'{about}; run `pip install -e ".[cluster]"`', name=error.name) from error
    if re.search(r"[^\w@%+=:,./-]", str(log_folder)):
        raise ValueError(f"{log_folder}: jobs need a path without spaces and special signs; give another --out")
    with ExitStack() as stack:
        temporary = tempfile.TemporaryDirectory(prefix="ttilib-", dir=log_folder, ignore_cleanup_errors=True)
        private = stack.enter_context(temporary)  # for this user only
        try:
            options = job_options(texts)
            share = threads or max(1, options["cores"] // options["processes"])
            exports = [f"export {name}={share}" for name in THREADS]
            options["job_script_prologue"] = [
                f"cd {shlex.quote(os.getcwd())}", *exports, *options.get("job_script_prologue", []),
            ]  # fmt: skip
            one_task = ["--nthreads", "1", "--memory-limit", "0", "--no-dashboard"]  # last, so that they override
            one_task += ["--dashboard-address", f"{LOOPBACK}:0"]
            options["worker_extra_args"] = [*options.get("worker_extra_args", []), *one_task]
            interface = options.get("interface") or dask.config.get("jobqueue.slurm.interface", None)
            here = {"interface": interface} if interface else {"host": get_ip()}
            queue = SLURMCluster(
                **options, log_directory=str(log_folder), silence_logs=False, protocol="tls://",
                security=_certificate(private),
                scheduler_options={**here, "dashboard": False, "dashboard_address": f"{LOOPBACK}:0"},
            )  # fmt: skip
        except (TypeError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"Slurm options {', '.join(texts)}: {reason}; see dask_jobqueue.SLURMCluster") from error
        stack.enter_context(queue)
        try:
            queue.sync(_submit, queue, jobs)
        except (RuntimeError, OSError) as error:
            reason = str(error).rpartition("stderr:")[2].strip().splitlines() or ["without a message"]
            advice = "change the Slurm options that it names, or start the sweep where Slurm is installed"
            raise OSError(f"sbatch failed ({reason[-1]}); {advice}") from error
        queue.adapt(minimum_jobs=jobs, maximum_jobs=jobs, interval=CHECK_INTERVAL, wait_count=10**9)
        yield queue


def _certificate(folder: str) -> Security:
    temporary, paths = Security.temporary(), {}
    for name, text in (("cert", temporary.tls_ca_file), ("key", temporary.tls_client_key)):
        paths[name] = Path(folder) / f"{name}.pem"
        paths[name].write_text(text, encoding="ascii")
    roles = {f"tls_{role}_{name}": str(at) for role in ("scheduler", "worker", "client") for name, at in paths.items()}
    return Security(tls_ca_file=str(paths["cert"]), require_encryption=True, **roles)


async def _submit(queue: Any, jobs: int) -> None:
    """Submit the jobs; raises the error of the first refused one."""
    queue.scale(jobs=jobs)
    try:
        await queue
        for job in list(queue.workers.values()):
            await job  # retries a refused job once
    except (RuntimeError, OSError):
        for job in queue.workers.values():
            job.status = Status.failed if job.job_id is None else job.status  # otherwise the cluster would not close
        raise

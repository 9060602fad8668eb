"""Who does the work: processes of this machine, a scheduler that is already running, or jobs of a Slurm queue.

Every worker does one task at a time. A task starts Jupyter kernels, and these compute; so a worker process needs
no memory limit of its own, and what its children shall know (threads, GPU) stands in its environment.

`cluster` gives a client of any of the three; `room` says how many workers this machine has room for.
"""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import dask
from dask.system import cpu_count
from distributed import Client, Nanny, Scheduler, SpecCluster, rpc
from distributed.system import memory_limit

from ttilib.names import meant
from ttilib.sweep.quiet import Quiet, logging_to
from ttilib.sweep.slurm import job_settings, queue

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

"""Jobs of a Slurm queue as workers: what a job asks for, from texts, and the queue itself.

A job is one worker by default, which does one task at a time with all the cores it has booked. A job that the queue
ends, because its time is over for instance, is queued again.
"""

from __future__ import annotations

import inspect
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from distributed.core import Status
from tornado.ioloop import PeriodicCallback

from ttilib.names import meant

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

"""What handing out tasks costs: milliseconds per task and the driver's memory, against all tasks at once.

    python perf/sweep.py [--tasks 100000] [--workers 2] [--most 10000]

A simulated sweep of trivial tasks goes through `execute` on a local cluster: 1,000 tasks, then ten times as many, up
to `--tasks`. The baseline hands the scheduler all of them at once with `Client.map` and gathers the results; it
runs alternately with `execute` in this process, up to `--most` tasks. The driver holds client and scheduler.
Memory is its resident set (Linux) at the start, half-way and at the end of one sweep; growth from half-way on is
what a longer sweep would go on adding.
"""

from __future__ import annotations

import argparse
import gc
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from distributed import Client

from ttilib.files import digest
from ttilib.sweep.clusters import cluster
from ttilib.sweep.driver import execute
from ttilib.sweep.tasks import Task

COLUMNS = ("tasks", "handed out by", "ms/task", "MB at start", "half-way", "at the end")


def resident() -> float:
    """MB of memory that this process holds."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 1e6


def named(count: int, sweep: str) -> Iterator[Task]:
    """Tasks with keys and parameters like real ones, made when they are needed."""
    for n in range(count):
        parameters = {"benchmark": "ytvis-v1", "fold": n % 4, "shots": 1, "run": n, "out": "outputs/sweep"}
        yield Task(digest(sweep, n), f"task {n}", "notebooks/04_evaluate.ipynb", f"out/{n}.ipynb", parameters, 1.0)


def trivial(task: Task) -> dict[str, object]:
    """Nothing, and what a real task returns of itself."""
    return {"seconds": 0.0, "machine": "here", "name": task.name}


def windowed(client: Client, count: int) -> tuple[float, list[float]]:
    """Seconds and memory of a sweep through `execute`."""
    memory, begin, ended = [resident()], time.perf_counter(), 0
    for outcome in execute(named(count, f"windowed-{count}"), client, trivial):
        assert outcome.error is None, outcome.error
        ended += 1
        if ended == count // 2:
            memory.append(resident())
    assert ended == count
    return time.perf_counter() - begin, [*memory, resident()]


def at_once(client: Client, count: int) -> tuple[float, list[float]]:
    """Seconds and memory of the same with everything given to the scheduler first."""
    memory, begin = [resident()], time.perf_counter()
    tasks = list(named(count, f"once-{count}"))
    futures = client.map(trivial, tasks, key=[f"task-{task.key}-1" for task in tasks])
    memory.append(resident())
    assert len(client.gather(futures)) == count
    return time.perf_counter() - begin, [*memory, resident()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=100_000, help="the longest sweep")
    parser.add_argument("--most", type=int, default=10_000, help="the most tasks that the baseline gets")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    counts = sorted({min(10**power, arguments.tasks) for power in range(3, 9)})
    print(" | ".join(COLUMNS))
    with tempfile.TemporaryDirectory() as logs, cluster("local", arguments.workers, log_folder=logs) as client:
        windowed(client, 100)  # the first tasks load modules on both sides
        for count in counts:
            for name, way in (("execute", windowed), ("Client.map", at_once)):
                if way is windowed or count <= arguments.most:
                    seconds, memory = way(client, count)
                    cells = [str(count), name, f"{1000 * seconds / count:.2f}", *(f"{m:.0f}" for m in memory)]
                    print(" | ".join(cells), flush=True)


if __name__ == "__main__":
    main()

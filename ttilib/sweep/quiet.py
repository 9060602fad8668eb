"""What dask has to say, in a file instead of the terminal.

A lost worker or a slow connection is nothing a reader of a progress line can use; it is told in one place, from the
driver and all its local workers.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distributed import Worker, WorkerPlugin

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

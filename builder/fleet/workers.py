"""Who does the work: a cluster of processes on this machine, which ends with the run, or one that is there.

Dask starts and watches the workers. Ours is that nothing outlives them that they have started.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import dask
from distributed import Client, LocalCluster, Status, Worker, WorkerPlugin

from builder.acquire.cache import scratch
from builder.acquire.tools import end_programs
from builder.errors import ToolError, UsageError

#: what a worker has one of for each cell that it does at once; not asked for where no worker offers any
RESOURCE: Final = "compile"

#: seconds that a scheduler has to answer
ANSWER: Final = 20.0

#: bytes of memory that a worker needs: the compiler, a kernel's tables, two simulated kernels, a guest
WORKER_MEMORY: Final = 3 << 30

#: what is not left to Dask's defaults: results are small
SETTINGS: Final = {
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.profile.enabled": False,
    # How long a machine that is busy may take to begin a worker anew, before it is given up.
    "distributed.deploy.lost-worker-timeout": "5 minutes",
}


@dataclass(frozen=True, slots=True)
class Crew:
    """Who does the work: the workers of the scheduler at `scheduler`, or so many processes of this machine.

    A cell that failed for no reason of its own is tried `retries` times more, one that takes longer than `timeout`
    seconds is ended.
    """

    scheduler: str = ""
    workers: int | None = None
    retries: int = 2
    timeout: float = 1800.0


def local_workers() -> int:
    """How many workers this machine can have: one for each processor, as far as its memory goes."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(len(os.sched_getaffinity(0)), memory // WORKER_MEMORY))


@contextmanager
def _silent() -> Iterator[None]:
    """While Dask's own log is not shown: what it says of a lost scheduler, with tracebacks, we say in a line."""
    names = [name for name in logging.root.manager.loggerDict if name.partition(".")[0] in ("distributed", "tornado")]
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


class EndsWhole(WorkerPlugin):
    """Of a worker that is closed end the programs that its cells run, too: else a compile would outlive it.

    One of the client's `own` is closed by it alone, though at a terminal an interrupt is for all processes, and says
    nothing of what it does: the terminal shows the whole.
    """

    name = "bespoke-ends-whole"

    def __init__(self, own: bool) -> None:
        self._own = own

    def setup(self, worker: Worker) -> None:
        if self._own:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            logging.getLogger("bespoke").addHandler(logging.NullHandler())

    def teardown(self, worker: Worker) -> None:
        if worker.status not in (Status.running, Status.paused):  # and is not only given this plugin once more
            end_programs()


@contextmanager
def crew(how: Crew) -> Iterator[Client]:
    """A client of the scheduler that is there, or of one on this machine, which ends with this block.

    Raises ToolError where there is no scheduler at the address.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_silent())
        stack.enter_context(dask.config.set(SETTINGS))
        if how.scheduler:
            try:
                client = Client(how.scheduler, timeout=ANSWER, set_as_default=False)
            except (OSError, ValueError) as error:
                raise ToolError(f"no scheduler answers: {error}", where=how.scheduler) from error
        else:
            place = str(stack.enter_context(scratch("workers")))
            stack.enter_context(dask.config.set({"temporary-directory": place}))
            cluster = LocalCluster(
                n_workers=how.workers or local_workers(),
                threads_per_worker=1,
                memory_limit=0,
                resources={RESOURCE: 1},
                dashboard_address="127.0.0.1:0",
                local_directory=place,
                silence_logs=logging.CRITICAL,
            )
            client = Client(stack.enter_context(cluster), set_as_default=False)
        stack.enter_context(client)
        try:
            client.register_plugin(EndsWhole(own=not how.scheduler))
        except Exception as error:  # whatever a worker cannot import
            raise ToolError(f"a worker there cannot do this package's work: {error}", where=how.scheduler) from error
        yield client


def check_crew(how: Crew) -> None:
    """UsageError for numbers that cannot be."""
    if how.workers is not None and how.workers < 1:
        raise UsageError("--workers takes a number from 1 on")
    if how.retries < 0:
        raise UsageError("--retries takes a number from 0 on")
    if how.timeout <= 0:
        raise UsageError("--timeout takes a number of seconds above 0")

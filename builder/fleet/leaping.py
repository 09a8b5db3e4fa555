"""The process of a simulation, `python -m builder.fleet.leaping`: its load on standard input, figures on the output.

The clock is installed before Dask is imported. Where the event loop would wait, the clock leaps to the time that it
waits for, unless another thread is at work: then the waiting is real.
"""

from __future__ import annotations

import asyncio
import json
import resource
import selectors
import sys
import time
from collections.abc import Sequence
from typing import Any, Final

_real_time, _real_monotonic, _real_sleep = time.time, time.monotonic, time.sleep


#: what Dask measures of its own process, as a rule many times a second
QUIET: Final = {
    "distributed.admin.tick.interval": "60s",
    "distributed.admin.tick.limit": "1h",
    "distributed.admin.system-monitor.interval": "60s",
    "distributed.worker.memory.monitor-interval": "60s",
    "distributed.scheduler.worker-ttl": None,
}


class _Clock:
    """What would be waited for, in seconds, is added to what the clocks of the machine say."""

    ahead = 0.0


def _install() -> None:
    time.time = lambda: _real_time() + _Clock.ahead
    time.monotonic = lambda: _real_monotonic() + _Clock.ahead


class _LeapingSelector(selectors.DefaultSelector):
    """Waits for nothing but other threads."""

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if ready or timeout is None or timeout <= 0:
            return ready if ready or timeout is not None else super().select(None)
        others = time.process_time() - time.thread_time()
        _real_sleep(0)
        ready = super().select(0)
        if not ready and time.process_time() - time.thread_time() - others < 20e-6:
            _Clock.ahead += timeout
        return ready


async def _simulate(workers: int, sources: Sequence[float], cells: Sequence[Sequence[float]]) -> dict[str, float]:
    # Here, after the clock.
    import dask
    from distributed import Client, LocalCluster, scheduler

    from builder.fleet.workers import RESOURCE, SETTINGS

    async def source(seconds: float) -> float:
        await asyncio.sleep(seconds)
        return seconds

    async def cell(seconds: float, prepared: float) -> float:
        await asyncio.sleep(seconds)
        return prepared

    # Heartbeats take time too, but none of the cells': an hour of them tells no more than a minute.
    scheduler.heartbeat_interval = lambda n: 60.0
    with dask.config.set(SETTINGS | QUIET):
        cluster = LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=False,
            memory_limit=0,
            resources={RESOURCE: 1},
            dashboard_address="127.0.0.1:0",
            asynchronous=True,
        )
        async with cluster, Client(cluster, asynchronous=True, set_as_default=False) as client:
            began, really, computed = time.monotonic(), _real_monotonic(), time.process_time()
            futures = []
            for number, (seconds, own) in enumerate(zip(sources, cells, strict=True)):
                asks = {"resources": {RESOURCE: 1.0}, "pure": False}
                prepared = client.submit(source, seconds, key=f"source-{number}", priority=1000 - number, **asks)
                keys = [f"cell-{number}-{n}" for n in range(len(own))]
                futures += client.map(cell, own, key=keys, prepared=prepared, priority=-number, **asks)
            for future in futures:
                await future.result()
            return {
                "makespan": time.monotonic() - began,
                "busy": time.process_time() - computed,
                "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0,
                "seconds": _real_monotonic() - really,
            }


def main() -> None:
    asked = json.load(sys.stdin)
    _install()
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(_LeapingSelector())) as runner:
        found = runner.run(_simulate(asked["workers"], asked["sources"], asked["cells"]))
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()

"""How a fleet would go: the real scheduler and real workers, with cells that only take their time.

All of them live in one event loop whose clock leaps over what would be waited for: `time` of this process says what
it would be. What the scheduler, the workers and the client compute takes as long as it does, and counts. A simulation
runs in a process of its own, which is begun before Dask is imported: Dask takes the clock for what it finds then.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from builder.errors import ToolError
from builder.fleet.plan import Plan, recorded


@dataclass(frozen=True, slots=True)
class Load:
    """What is to be simulated: for each kernel the seconds that its source takes, and those of each of its cells."""

    sources: tuple[float, ...]
    cells: tuple[tuple[float, ...], ...]

    @property
    def work(self) -> float:
        """Seconds of all of it."""
        return sum(self.sources) + sum(map(sum, self.cells))

    def ideal(self, workers: int) -> float:
        """Seconds below which no schedule goes: the work divided, or a source and the longest cell of it."""
        longest = (source + max(cells, default=0.0) for source, cells in zip(self.sources, self.cells, strict=True))
        return max(self.work / workers, *longest)


@dataclass(frozen=True, slots=True)
class Simulation:
    """What came of it. `makespan` and `ideal` are seconds that would pass, `seconds` those that did; `overhead_ms` is
    what scheduler, workers and client computed for each cell, `memory_mb` the most that the process had."""

    workers: int
    kernels: int
    cells: int
    work: float
    ideal: float
    makespan: float
    overhead_ms: float
    memory_mb: float
    seconds: float

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "ratio": round(self.makespan / self.ideal, 4)}


def load_of(plan: Plan) -> Load:
    """What a plan has to do, by what was measured."""
    by_kernel = {kernel.name: [plan.seconds(o) for o in plan.to_do if o.kernel == kernel] for kernel in plan.kernels}
    waiting = {kernel.name for kernel in plan.unprepared}
    names = [name for name, cells in by_kernel.items() if cells]
    return Load(
        tuple(plan.costs.prepare if name in waiting else 0.1 for name in names),
        tuple(tuple(by_kernel[name]) for name in names),
    )


def synthetic(fixes: int, kernels: int) -> Load:
    """So many fixes for so many kernels, each cell with the seconds of one that was measured on this machine."""
    costs = recorded()
    chosen = random.Random(0)
    return Load(
        (costs.prepare,) * kernels,
        tuple(tuple(chosen.choices(costs.cells, k=fixes)) for _ in range(kernels)),
    )


def simulated(load: Load, workers: int) -> Simulation:
    """Let Dask's scheduler go through the load with so many workers of one cell each."""
    command = [sys.executable, "-m", "builder.fleet.leaping"]
    asked = json.dumps({"workers": workers, "sources": load.sources, "cells": load.cells})
    done = subprocess.run(command, input=asked, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ToolError(f"the simulation failed: {_last(done.stderr.splitlines())}")
    row = json.loads(done.stdout)
    count = sum(map(len, load.cells))
    return Simulation(
        workers=workers,
        kernels=len(load.sources),
        cells=count,
        work=round(load.work, 1),
        ideal=round(load.ideal(workers), 1),
        makespan=round(row["makespan"], 1),
        overhead_ms=round(1000 * row["busy"] / max(count, 1), 3),
        memory_mb=round(row["memory"] / 1e6, 1),
        seconds=round(row["seconds"], 1),
    )


def _last(lines: Sequence[str]) -> str:
    return lines[-1] if lines else "it said nothing"

"""What is to be done: the orders of a fleet, which of them are done, and what the rest will take.

Seconds are those that were measured: of the cells that are done, else of earlier runs on this machine, else those of
one run on two cores.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from builder.acquire.cache import cache_root
from builder.acquire.packages import cached_kernel, installed_kernel
from builder.acquire.whole import write_whole
from builder.fleet.cell import PREPARED_SIZE
from builder.fleet.kernels import FleetKernel, resolve
from builder.fleet.orders import CellResult, Order, code_digest
from builder.fleet.spec import Fleet, FleetFix, PatchText
from builder.fleet.store import Store

#: bytes to download for a kernel and its source
DOWNLOAD: Final = 220_000_000
#: bytes of objects, logs and the module of one cell
CELL_SIZE: Final = 4_000_000


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds: to prepare a kernel, and of cells (all that were measured, for a simulation to draw from)."""

    prepare: float = 60.0
    cells: tuple[float, ...] = (8.0,)

    @property
    def cell(self) -> float:
        """The mean of a cell."""
        return statistics.fmean(self.cells)


#: measurements that are kept of one machine
_MOST: Final = 1000


def recorded() -> Costs:
    """What was measured on this machine before; the usual costs where nothing was."""
    try:
        row = json.loads(_record().read_text())
        return Costs(float(row["prepare"]), tuple(float(cell) for cell in row["cells"]))
    except (OSError, ValueError, TypeError, KeyError):
        return Costs()


def record(results: Iterable[CellResult], prepared: Iterable[float]) -> None:
    """Keep what was measured: seconds of cells that were done, and of kernels that had to be prepared."""
    before = recorded()
    usual = Costs()
    cells = [round(result.seconds, 2) for result in results if result.row.final and result.seconds]
    # A kernel that was there takes no time; that tells nothing of one that is not.
    longest = [seconds for seconds in prepared if seconds > 10.0]
    known = list(before.cells) if before.cells != usual.cells else []
    costs = Costs(
        statistics.fmean(longest) if longest else before.prepare, tuple([*known, *cells][-_MOST:]) or usual.cells
    )
    write_whole(_record(), json.dumps({"prepare": costs.prepare, "cells": costs.cells}))


def _record() -> Path:
    return cache_root() / "fleet" / "costs.json"


@dataclass(frozen=True)
class Plan:
    """All orders of a fleet, kernel by kernel, and the results that are there already, by key."""

    fleet: Fleet
    kernels: tuple[FleetKernel, ...]
    orders: tuple[Order, ...]
    known: Mapping[str, CellResult] = field(default_factory=dict)
    costs: Costs = field(default_factory=Costs)

    @property
    def names(self) -> list[str]:
        """Of the fixes, and of the module of all of them together."""
        together = self.fleet.demands.cumulative
        return [*(fix.name for fix in self.fleet.fixes), *([together] if together else [])]

    @cached_property
    def to_do(self) -> tuple[Order, ...]:
        return tuple(order for order in self.orders if order.key not in self.known)

    def seconds(self, order: Order) -> float:
        """What the cell is likely to take: as the same fix took elsewhere, where that is known."""
        alike = self._by_fix.get(order.fix)
        return statistics.fmean(alike) if alike else self.costs.cell

    @cached_property
    def _by_fix(self) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {}
        for result in self.known.values():
            if result.seconds:
                found.setdefault(result.fix, []).append(result.seconds)
        return found

    @cached_property
    def unprepared(self) -> tuple[FleetKernel, ...]:
        """Kernels with something to do whose source is not in this machine's cache."""
        wanted = {order.kernel.name for order in self.to_do}
        return tuple(kernel for kernel in self.kernels if kernel.name in wanted and not _is_prepared(kernel))

    def estimate(self, workers: int) -> dict[str, Any]:
        """The plan in figures: cells, what is cached, seconds of work and of the run on `workers`, bytes of disk.

        Modules of all fixes together follow from what ships: `cumulative` is their number at most, beside the cells.
        """
        changing = {order.kernel.name for order in self.to_do}
        together = len(changing) if self.fleet.demands.cumulative else 0
        busy = sum(self.seconds(order) for order in self.to_do) + together * self.costs.cell
        busy += len(self.unprepared) * self.costs.prepare
        return {
            "cells": len(self.orders),
            "done": len(self.orders) - len(self.to_do),
            "to_do": len(self.to_do),
            "cumulative": together,
            "kernels": [
                {
                    "kernel": kernel.name,
                    "version": kernel.version,
                    "cached": _is_here(kernel),
                    "prepared": _is_prepared(kernel),
                    "to_do": sum(order.kernel.name == kernel.name for order in self.to_do),
                }
                for kernel in self.kernels
            ],
            "workers": workers,
            "work_seconds": round(busy, 1),
            "seconds": round(busy / workers, 1),
            "download_bytes": sum(not _is_here(kernel) for kernel in self.unprepared) * DOWNLOAD,
            "disk_bytes": len(self.unprepared) * (PREPARED_SIZE + DOWNLOAD) + (len(self.to_do) + together) * CELL_SIZE,
        }


def _is_here(kernel: FleetKernel) -> bool:
    if kernel.sha256:
        return True
    cached = cached_kernel(kernel.release)
    return installed_kernel(kernel.release) is not None or (cached is not None and cached.version == kernel.version)


def _is_prepared(kernel: FleetKernel) -> bool:
    """Whether a source that is prepared for this release, and of this version where it is known, is in the cache."""
    stamps = (cache_root() / "source").glob("*/.bespoke/prepared.json")
    wanted = f"_{kernel.version}_{kernel.release}_" if kernel.version else f"_{kernel.release}_"
    return any(wanted.replace(":", "_") in stamp.parent.parent.name for stamp in stamps)


def make_plan(
    fleet: Fleet, store: Store | None, kernels: tuple[FleetKernel, ...] | None = None, *, again: bool = False
) -> Plan:
    """The plan of a fleet; what is in the `store` is done, unless all is to be done `again`.

    `kernels` are those that were found before; else its words are looked up. Raises InputError as `resolve`.
    """
    kernels = resolve(fleet.kernels) if kernels is None else kernels
    orders = tuple(
        order_for(fleet, kernel, fix, fix.patches_for(kernel.release)) for kernel in kernels for fix in fleet.fixes
    )
    known: dict[str, CellResult] = {}
    for order in orders:
        if not order.patches:
            known[order.key] = CellResult(order.key, order.fix, order.kernel.name, "not-meant")
        elif store is not None and not again and (result := store.get(order)) is not None:
            known[order.key] = result
    return Plan(fleet, kernels, orders, known, recorded())


def order_for(fleet: Fleet, kernel: FleetKernel, fix: FleetFix, patches: tuple[PatchText, ...]) -> Order:
    """The order of one cell."""
    demands = fleet.demands
    return Order(
        fix=fix.name,
        kernel=kernel,
        patches=patches,
        allow=(*demands.allow, *fix.allow),
        replace=demands.replace,
        cpus=demands.cpus,
        trial=demands.trial,
        run=fix.run,
        load=fix.load,
        signer=demands.signer,
        code=code_digest(),
    )


def cumulative_order(plan: Plan, kernel: FleetKernel, results: Iterable[CellResult]) -> Order | None:
    """The order of a kernel's module of all fixes together: those that it can have; None where it can have none."""
    shipped = {result.fix for result in results if result.verdict == "shipped"}
    fixes = [fix for fix in plan.fleet.fixes if fix.name in shipped]
    if not fixes:
        return None
    together = FleetFix(
        plan.fleet.demands.cumulative,
        (),
        allow=tuple(dict.fromkeys(row for fix in fixes for row in fix.allow)),
        run=tuple(dict.fromkeys(row for fix in fixes for row in fix.run)),
        load=tuple(dict.fromkeys(row for fix in fixes for row in fix.load)),
    )
    return order_for(plan.fleet, kernel, together, tuple(p for fix in fixes for p in fix.patches_for(kernel.release)))

"""What a fleet would do, and how it would go on so many workers, as people see it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from builder.report.spelled import one_line


def render_plan(plan: Mapping[str, Any]) -> RenderableType:
    """The figures of a plan (`Plan.estimate`)."""
    table = Table("kernel", "version", "package", "source", "to do", box=None)
    for row in plan["kernels"]:
        here = ("in the cache" if row["cached"] else "to fetch", "prepared" if row["prepared"] else "to prepare")
        table.add_row(row["kernel"], row["version"], *here, str(row["to_do"]))
    return Group(
        table,
        one_line(
            f"{plan['cells']} cells, {plan['done']} of them done, {plan['to_do']} to do{_together(plan['cumulative'])}"
        ),
        one_line(
            f"about {duration(plan['seconds'])} on {plan['workers']} worker{'s' * (plan['workers'] != 1)} "
            f"({duration(plan['work_seconds'])} of work), {plan['download_bytes'] / 1e9:.1f} GB to download, "
            f"{plan['disk_bytes'] / 1e9:.1f} GB of disk"
        ),
    )


def _together(count: int) -> str:
    return f", and a module of all fixes for {count} kernel{'s' * (count != 1)}" if count else ""


def render_simulation(found: Mapping[str, Any]) -> RenderableType:
    """The figures of a simulation (`Simulation.as_json`)."""
    return Group(
        one_line(f"{found['cells']} cells of {found['kernels']} kernels on {found['workers']} workers"),
        one_line(
            f"would take {duration(found['makespan'])}, {found['ratio']:.3f} of the ideal {duration(found['ideal'])}"
        ),
        one_line(
            f"scheduler: {found['overhead_ms']:.2f} ms for each cell, {found['memory_mb']:.0f} MB "
            f"(simulated in {found['seconds']:.0f} s)",
            style="dim",
        ),
    )


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"

"""The table that is shown while a fleet runs: fixes by kernels, or counts where the screen has no room for that."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from builder.fleet.orders import VERDICTS
from builder.fleet.plan import Plan
from builder.report.spelled import one_line

#: what a cell shows while somebody works on it
_WORKING = ("…", "bold blue")


def trouble_line(row: Mapping[str, Any]) -> str:
    """An event that has a reason, in a line: who is tried again, retired or waited for, and why."""
    about = "/".join(row[key] for key in ("kernel", "fix", "worker") if key in row)
    return f"{row['event']}: {about}{': ' * bool(about)}{row['why']}"


class Board:
    """What is known of a run so far; it is told each event, and drawn whenever somebody looks."""

    def __init__(self, plan: Plan, workers: int) -> None:
        self._plan, self._workers = plan, max(workers, 1)
        self._fixes = plan.names
        self._cells: dict[tuple[str, str], str] = {}
        self._left = {(order.fix, order.kernel.name): plan.seconds(order) for order in plan.to_do}
        self._began = time.monotonic()
        self._trouble = ""

    def told(self, row: Mapping[str, Any]) -> None:
        if row["event"] in ("begun", "cell"):
            place = row["fix"], row["kernel"]
            self._cells[place] = row.get("verdict", "")
            if row["event"] == "cell":
                self._left.pop(place, None)

        elif "why" in row:
            self._trouble = trouble_line(row)

    def drawn(self, width: int, height: int) -> RenderableType:
        """The board in so many columns and lines."""
        kernels = [kernel.name for kernel in self._plan.kernels]
        broad = max(map(len, self._fixes)) + sum(len(name) + 2 for name in kernels)
        table = self._matrix(kernels) if broad <= width and len(self._fixes) + 4 <= height else self._counts(kernels)
        counts = Counter(verdict for verdict in self._cells.values() if verdict)
        told = ", ".join(f"{counts[name]} {name}" for name in VERDICTS if counts[name])
        left = sum(self._left.values()) / self._workers
        ended = time.monotonic() - self._began
        lines = [one_line(f"{told or 'nothing yet'} · {ended:.0f} s, about {left:.0f} s to go", style="dim")]
        if self._trouble:
            lines.append(one_line(self._trouble[:width], style="yellow"))
        return Group(table, *lines)

    def _matrix(self, kernels: list[str]) -> Table:
        table = Table("fix", *kernels, box=None, padding=(0, 1))
        for fix in self._fixes:
            table.add_row(fix, *(one_line(self._sign(fix, kernel)) for kernel in kernels))
        return table

    def _sign(self, fix: str, kernel: str) -> tuple[str, str]:
        verdict = self._cells.get((fix, kernel))
        if verdict is None:
            return " ", ""
        return (VERDICTS[verdict].sign, VERDICTS[verdict].style) if verdict else _WORKING

    def _counts(self, kernels: list[str]) -> Table:
        came = set(self._cells.values())
        names = [name for name in VERDICTS if name in came]
        table = Table("kernel", "done", *names, box=None, padding=(0, 1))
        for kernel in kernels:
            counts = Counter(self._cells.get((fix, kernel)) or "" for fix in self._fixes)
            done = sum(n for verdict, n in counts.items() if verdict)
            cells = (one_line((str(counts[name]), VERDICTS[name].style) if counts[name] else "") for name in names)
            table.add_row(kernel, f"{done}/{len(self._fixes)}", *cells)
        return table

"""The kernels that were tried, and what is proven on each, as a table."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table

from builder.supported import STEPS, Proven

NOT_PROVEN = "-"


def render_kernels(rows: Iterable[Proven]) -> Table:
    """A line for each kernel: series, flavour, release, suite, the outcome of each step, the date."""
    table = Table(box=None, pad_edge=False)
    for head in ("series", "flavour", "release", "suite", *STEPS, "on"):
        table.add_column(head, overflow="fold")
    for row in rows:
        steps = (row.steps.get(step, NOT_PROVEN) for step in STEPS)
        table.add_row(row.series, row.flavour, row.release, row.suite, *steps, row.date)
    return table


def markdown(rows: Iterable[Proven]) -> str:
    """The same for the project's pages."""
    heads = ("series", "flavour", "release", "suite", *STEPS, "on")
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for row in rows:
        steps = (row.steps.get(step, NOT_PROVEN) for step in STEPS)
        cells = (row.series, row.flavour, f"`{row.release}`", row.suite, *steps, row.date)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"

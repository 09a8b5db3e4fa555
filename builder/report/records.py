"""What loaded marks have recorded, as people see it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Group
from rich.live import Live

from builder.image.marks import MarkRecord, MarkTotals
from builder.report.spelled import Screen, one_line


def record_line(record: MarkRecord) -> Group:
    """One record: time in seconds, CPU, task, mark, fields."""
    fields = " ".join(f"{name}={shown_value(value)}" for name, value in record.fields.items())
    line = one_line(
        (f"{record.time / 1e9:14.6f}", "dim"),
        f"  [{record.cpu:03d}] {record.comm}-{record.pid}  ",
        (record.mark, "bold"),
        f"  {fields}",
    )
    return Group(line)


def shown_value(value: int | str) -> str:
    """A number as large as an address of the kernel is shown as one."""
    if isinstance(value, str):
        return repr(value)
    return f"{value:#x}" if value >= 1 << 47 else str(value)


_WIDTH = 40


def drawn_totals(screen: Screen, totals: Callable[[], Sequence[MarkTotals]]) -> Live:
    """What marks that add up have seen, drawn again twice a second below what is printed, and gone at the end."""
    return Live(console=screen, refresh_per_second=2, transient=True, get_renderable=lambda: render_totals(totals()))


def render_totals(totals: Sequence[MarkTotals]) -> Group:
    """What each mark has seen, histograms drawn."""
    lines = []
    for row in totals:
        missed = f", {row.missed} missed" if row.missed else ""
        added = f", sum {row.sum}" if row.kind in ("sum", "hist") else ""
        lines.append(one_line((row.mark, "bold"), f"  {row.hits} hits{missed}{added}  ", (row.place, "dim")))
        most = max(row.slots.values(), default=0)
        for slot in range(min(row.slots, default=0), max(row.slots, default=-1) + 1):
            count = row.slots.get(slot, 0)
            low, high = (1 << (slot - 1), (1 << slot) - 1) if slot else (0, 0)
            bar = "@" * -(-count * _WIDTH // most)
            lines.append(one_line(f"  {f'{low}..{high}' if slot else '<= 0':>24} {count:>9} |{bar:<{_WIDTH}}|"))
    return Group(*lines)

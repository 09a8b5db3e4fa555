"""Marks as people and scripts see them: where they stand, what they record, what they did to the code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.text import Text

from builder.acquire.marks.source import MarkedSource
from builder.emit.patched import Patched
from builder.image.marks import MarkRecord, MarkTotals
from builder.report.build import render_build
from builder.report.spelled import one_line


def marks_document(source: MarkedSource) -> list[dict[str, Any]]:
    """A row for each mark: its place as said and as found, its event, its fields with their types in C."""
    return [
        {
            "place": one.mark.place,
            "event": one.event,
            "function": one.spots[0].function.name,
            "file": one.spots[0].source.path,
            "lines": [spot.line for spot in one.spots],
            "kind": one.mark.aggregate or "records",
            "fields": [{"name": f.name, "type": kind} for f, kind in zip(found, types, strict=True)],
        }
        for one, found, types in zip(source.placed, source.fields, source.types, strict=True)
    ]


def render_marks(source: MarkedSource, patched: Patched, path: Path, verbose: bool, following: str) -> Group:
    """Each mark, then the module as any other; the function that changed by them, and what became of its code."""
    assert patched.module is not None
    lines = []
    for row in marks_document(source):
        where = f"{row['file']}:{','.join(map(str, row['lines']))}"
        shown = ", ".join(f"{f['name']} ({f['type']})" for f in row["fields"]) or row["kind"]
        lines.append(
            one_line("  mark     ", (row["event"], "bold"), f"  {where} {row['function']}()  ", (shown, "dim"))
        )
    for pair in patched.module.manifest.redirected:
        marked = "" if pair.name in source.functions else ": a marked function was inlined into it"
        old = pair.old.size if pair.old else 0
        lines.append(
            one_line(f"  changed  {pair.name} ({pair.object}): {old} -> {pair.new_size} bytes{marked}", style="dim")
        )
    documents = [d.as_json() for d in patched.diffs]
    if verbose:
        return Group(*lines, render_build(patched.module.manifest, documents, path, verbose, following))
    title = one_line(("built ", "bold green"), (str(path), "bold"), f"  for {patched.module.manifest.kernel.release}")
    return Group(title, *lines, one_line(f"next: {following}", style="dim"))


def record_line(record: MarkRecord) -> Text:
    """One record: time in seconds, CPU, task, mark, fields."""
    fields = " ".join(f"{name}={_shown(value)}" for name, value in record.fields.items())
    return one_line(
        (f"{record.time / 1e9:14.6f}", "dim"),
        f"  [{record.cpu:03d}] {record.comm}-{record.pid}  ",
        (record.mark, "bold"),
        f"  {fields}",
    )


def _shown(value: int | str) -> str:
    """A number as large as an address of the kernel is shown as one."""
    if isinstance(value, str):
        return repr(value)
    return f"{value:#x}" if value >= 1 << 47 else str(value)


_WIDTH = 40


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

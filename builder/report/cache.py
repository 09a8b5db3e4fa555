"""What the cache holds, as a table."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table

from builder.acquire.room import KINDS, CacheEntry
from builder.report.spelled import one_line


def render_cache(
    place: str, stay: Sequence[CacheEntry], gone: Sequence[CacheEntry], limit: int | None, *, verbose: bool
) -> RenderableType:
    """A line for each kind, or with `verbose` for each entry, the last used first; then what all take together."""
    table = Table(box=None, pad_edge=False)
    for head in ("what", "size", "last used", "", "name" if verbose else "entries"):
        table.add_column(head, overflow="fold", justify="right" if head == "size" else "left")
    groups = [[entry] for entry in reversed(stay)] if verbose else _by_kind(stay)
    for rows in groups:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(max(row.used for row in rows)))
        busy = "in use" if any(row.busy for row in rows) else ""
        name = one_line(rows[0].name) if verbose else str(len(rows))
        table.add_row(KINDS[rows[0].kind], shown_size(sum(row.size for row in rows)), used, busy, name)
    lines = [one_line(f"{place}: {shown_size(sum(row.size for row in stay))}" + _of(limit))]
    if gone:
        lines.append(one_line(f"{len(gone)} taken away: {shown_size(sum(row.size for row in gone))}"))
    return Group(table, *lines)


def _by_kind(entries: Sequence[CacheEntry]) -> list[list[CacheEntry]]:
    found: dict[str, list[CacheEntry]] = {}
    for entry in entries:
        found.setdefault(entry.kind, []).append(entry)
    return sorted(found.values(), key=lambda rows: -sum(row.size for row in rows))


def _of(limit: int | None) -> str:
    return f" of {shown_size(limit)}" if limit is not None else ""


def shown_size(size: int) -> str:
    """Bytes as a person reads them: `512 B`, `1.5 GiB`."""
    amount = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"

"""A built module as people see it: functions, bindings, kept table entries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table

from builder.binary.manifest import Manifest
from builder.report.diff import render_refusals
from builder.report.spelled import one_line


def render_build(
    manifest: Manifest, diffs: Iterable[Mapping[str, Any]], path: Path, verbose: bool, following: str
) -> RenderableType:
    """The functions with their reasons, what they are bound to, and `following`, the command to run next."""
    reasons: dict[str, str] = {}
    warnings: list[Mapping[str, Any]] = []
    fresh: list[str] = []
    for document in diffs:
        reasons.update(document["reasons"])
        warnings += document["warnings"]
        fresh += document["data"]["new"]
    # What only the kernel tells: tracepoints that stay off, say.
    warnings += [row for row in (w.as_json() for w in manifest.warnings) if row not in warnings]
    release = manifest.kernel.release
    title = one_line(("built ", "bold green"), (str(path), "bold"), f"  for {release}")
    parts: list[RenderableType] = [title, _functions(manifest, reasons), _bindings(manifest, verbose)]
    if manifest.special_entries:
        parts.append(_entries(manifest))
    if manifest.sets:
        names = dict.fromkeys(f"{row.name} ({row.object})" for row in manifest.sets)
        parts.append(one_line(f"  put into running variables, and taken back at the end: {', '.join(names)}"))
    if fresh:
        parts.append(
            one_line(f"  data of its own, which starts with its initial value: {', '.join(fresh)}", style="dim")
        )
    parts += render_refusals(warnings, "warning")
    for row in manifest.accepted:
        parts.append(one_line(f"  accepted: {row.code}:{row.symbol}: {row.message}", style="yellow"))
    parts.append(one_line(f"next: {following}", style="dim"))
    return Group(*parts)


def _functions(manifest: Manifest, reasons: Mapping[str, str]) -> RenderableType:
    """A line for each function, its reason below it: reasons are long."""
    lines: list[RenderableType] = []
    for row in manifest.functions:
        size = f"{row.old.size} -> {row.new_size}" if row.old is not None else str(row.new_size)
        called = f", as {row.symbol}" if row.symbol != row.name else ""
        told = (f"  {size} bytes{called}", "dim")
        lines.append(one_line(f"  {row.role:<8} ", (row.name, "bold"), f"  {row.object}", told))
        reason = reasons.get(row.name)
        if reason:
            lines.append(Padding(one_line(reason, style="dim"), (0, 0, 0, 11), expand=False))
    return Group(*lines)


def _bindings(manifest: Manifest, verbose: bool) -> RenderableType:
    rows = Counter((b.object, b.symbol, b.sympos) for b in manifest.bindings)
    if not rows:
        return one_line("  bound to exported symbols only", style="dim")
    table = Table(box=None, padding=(0, 2, 0, 2))
    for column in ("bound to the original", "of", "sympos", "references"):
        table.add_column(column, justify="right" if column in ("sympos", "references") else "left")
    ordered = sorted(rows.items())
    for (owner, symbol, sympos), count in ordered if verbose else ordered[:20]:
        table.add_row(symbol, owner, str(sympos), str(count))
    if len(ordered) > 20 and not verbose:
        table.add_row(f"and {len(ordered) - 20} more (-v)", "", "", "")
    return table


def _entries(manifest: Manifest) -> RenderableType:
    rows = (f"{table} {sum(row.values())}" for table, row in manifest.special_entries.items())
    return one_line("  table entries kept: " + ", ".join(rows), style="dim")

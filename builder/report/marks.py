"""Marks that were built, as people and scripts see them: where they stand, what they did to the code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Group

from builder.acquire.marks.source import MarkedSource
from builder.emit.patched import Patched
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

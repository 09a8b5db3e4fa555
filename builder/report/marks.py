"""Marks that were built, as people and scripts see them: where they stand, what they did to the code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.acquire.marks.place import call_name
from builder.acquire.marks.source import MarkedSource
from builder.compare.effect import effect_of
from builder.emit.patched import Patched

if TYPE_CHECKING:
    from rich.console import Group

    from builder.preflight.marked import MarkCheck


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


def effects_document(source: MarkedSource, patched: Patched) -> list[dict[str, Any]]:
    """A row for each replaced function: what the marks did to its instructions, and whether a mark was put into it, or
    into what was inlined into it."""
    assert patched.module is not None
    rows = []
    for function in patched.module.manifest.redirected:
        pair, atom = next(
            (diff, atom)
            for diff, owner in zip(patched.diffs, (p.owner for p in patched.objects.pairs), strict=True)
            for atom in diff.selection.redirected
            if owner == function.object and atom.name == function.name
        )
        rows.append(
            {
                "function": function.name,
                "object": function.object,
                "inlined": not _is_marked(function.name, source.functions),
                "old_size": function.old.size if function.old else 0,
                "new_size": function.new_size,
                "instructions": asdict(effect_of(pair.comparison, atom)),
            }
        )
    return rows


def _is_marked(name: str, functions: Sequence[str]) -> bool:
    """Whether a compiled function is one that was marked, and not one that such a function was inlined into."""
    return call_name(name.partition(".")[0]) in map(call_name, functions)


def effect_facts(rows: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, str], ...]:
    """The same as a page has it: a term for each function, and what became of its instructions."""
    return tuple((f"{row['function']}()", _effect(row)) for row in rows)


def _effect(row: Mapping[str, Any]) -> str:
    found = row["instructions"]
    told = [f"{found['kept']} instructions kept", f"{found['added']} added"]
    told += [f"{found[what]} {what}" for what in ("moved", "gone") if found[what]]
    return ", ".join(told) + (": a marked function was inlined into it" if row["inlined"] else "")


def render_marks(
    source: MarkedSource,
    patched: Patched,
    effects: Sequence[Mapping[str, Any]],
    path: Path,
    *,
    verbose: bool,
    following: str,
) -> Group:
    """Each mark, then the functions that changed by them and what became of their code, as `effects_document` has it;
    where more is to be said, the module as any other."""
    # Here, for what people are shown is slow to import, and a document needs none of it.
    from rich.console import Group

    from builder.report.build import render_build
    from builder.report.spelled import one_line

    assert patched.module is not None
    lines = []
    for row in marks_document(source):
        where = f"{row['file']}:{','.join(map(str, row['lines']))}"
        shown = ", ".join(f"{f['name']} ({f['type']})" for f in row["fields"]) or row["kind"]
        lines.append(
            one_line("  mark     ", (row["event"], "bold"), f"  {where} {row['function']}()  ", (shown, "dim"))
        )
    for found in effects:
        size = f"{found['old_size']} -> {found['new_size']} bytes"
        text = f"  changed  {found['function']} ({found['object']}): {size}; {_effect(found)}"
        lines.append(one_line(text, style="dim"))
    if verbose:
        documents = [d.as_json() for d in patched.diffs]
        return Group(*lines, render_build(patched.module.manifest, documents, path, verbose, following))
    title = one_line(("built ", "bold green"), (str(path), "bold"), f"  for {patched.module.manifest.kernel.release}")
    return Group(title, *lines, one_line(f"next: {following}", style="dim"))


def render_mark_check(tried: MarkCheck) -> Group:
    """The records of a call in the simulated kernel, and how it ended."""
    from rich.console import Group

    from builder.report.records import shown_value
    from builder.report.spelled import one_line

    lines = [one_line(f"{tried.function}() in the simulated kernel:")]
    for record in tried.records:
        fields = " ".join(f"{name}={shown_value(value)}" for name, value in record.fields.items())
        lines.append(one_line("  ", (record.mark, "bold"), f"  {fields}"))
    if tried.problem:
        lines.append(one_line(f"  it cannot go on there: {tried.problem}", style="yellow"))
    else:
        lines.append(one_line(f"  {len(tried.records)} records; it returned {tried.value}", style="dim"))
    return Group(*lines)

"""Livepatches of a running kernel as people see them: what runs, what lies around, where probes went."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table

from builder.operate.kprobes import Report
from builder.operate.live import OperationOutcome
from builder.operate.planting import Planting
from builder.operate.survey import PatchStatus, Status
from builder.report.records import render_totals
from builder.report.spelled import one_line

_STYLES = {"enabled": "green", "enabling": "yellow", "disabling": "yellow", "replaced": "dim", "disabled": "dim"}


def render_status(status: Status, repaired: Sequence[str] = ()) -> RenderableType:
    """Each livepatch with its functions and probes, then what needs attention."""
    parts: list[RenderableType] = [one_line(f"repaired: {text}", style="green") for text in repaired]
    if not status.patches:
        parts.append(one_line(f"no livepatch on {status.kernel}"))
    for patch in status.patches:
        parts += _patch(patch)
    if status.events:
        table = Table.grid(padding=(0, 2))
        for event in status.events:
            table.add_row(event.event, "enabled" if event.enabled else "disabled", ", ".join(event.places))
        parts += [one_line("events with a place in these versions", style="bold"), Padding(table, (0, 0, 0, 2))]
    parts += [one_line(f"holds the transition up: {task}", style="yellow") for task in status.waiting]
    if status.interrupted is not None:
        text = f"{status.interrupted}: was interrupted; `bespoke status --repair` brings it back"
        parts.append(one_line(text, style="bold red"))
    return Group(*parts)


def _patch(patch: PatchStatus) -> list[RenderableType]:
    style = _STYLES.get(patch.state, "red")
    foreign = "" if patch.phase is not None else "  (not loaded by bespoke)"
    title = one_line((patch.module, "bold"), "  ", (patch.state, style), foreign)
    table = Table.grid(padding=(0, 2))
    for row in patch.functions:
        position = f",{row.sympos}" if row.sympos > 1 else ""
        current = ("runs", "green") if row.current else ("older version", "dim")
        called = one_line(f"as {row.symbol}", style="dim") if row.symbol not in ("", row.name) else ""
        table.add_row(f"{row.object}:{row.name}{position}", one_line(current), called)
    parts: list[RenderableType] = [title, Padding(table, (0, 0, 0, 2))]
    parts += [one_line(f"  probe {row['source']} -> {row['line']}") for row in patch.moved]
    if patch.marks:
        parts.append(Padding(render_totals(patch.marks), (0, 0, 0, 2)))
    return [*parts, *_reports(patch.reports)]


def _reports(rows: Iterable[Mapping[str, str]]) -> list[RenderableType]:
    return [one_line(f"  probe {r['probe']} at {r['place']} stays: {r['message']}", style="yellow") for r in rows]


def render_outcome(outcome: OperationOutcome, verb: str) -> RenderableType:
    """What loading or unloading came to."""
    parts: list[RenderableType] = [
        one_line((outcome.module, "bold"), f" {verb}; the transition took {outcome.seconds:.1f} s")
    ]
    parts += [one_line(f"  probe {row.source} -> {row.line}") for row in outcome.moved]
    return Group(*parts, *_reports(_rows(outcome.reports)))


def render_planting(planting: Planting) -> RenderableType:
    """Where a probe was planted."""
    places = one_line(f"{planting.event}: {', '.join(planting.places)}")
    parts = [places, *_reports(_rows(planting.reports))]
    if not planting.counts:
        parts.append(
            one_line(f"{planting.event} counts nothing: the version that runs has no place of it", style="red")
        )
    return Group(*parts)


def _rows(reports: Iterable[Report]) -> list[Mapping[str, Any]]:
    return [row.as_json() for row in reports]

"""A pre-flight check as people see it: would it load, what is bound to what, what is patched where."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table

from builder.preflight.check import CheckReport
from builder.report.spelled import one_line

MOST_SITES = 20
"""Of one CPU model, unless everything is asked for."""


def render_check(report: CheckReport, *, verbose: bool = False) -> RenderableType:
    """The whole report; `verbose` shows every site."""
    parts: list[RenderableType] = [one_line(f"{report.module} for {report.kernel}", style="bold")]
    if report.replaced:
        parts.append(_table("replaces", ("object", "function", "old", "new"), report.replaced))
    if report.bindings:
        parts.append(_table("bound", ("symbol", "address", "place"), report.bindings))
    if report.cpus:
        parts.append(_passes(report))
    for cpu in report.cpus if verbose else ():
        sites = Table(title=f"sites on {cpu.cpu}", title_justify="left", box=None)
        for head in ("pass", "place", "before", "after"):
            sites.add_column(head, overflow="fold")
        for site, place in zip(cpu.sites, cpu.places, strict=True):
            if len(site.new) <= MOST_SITES:
                sites.add_row(site.step, one_line(place), site.old.hex(" "), site.new.hex(" "))
        parts.append(sites)
    total = sum(report.relocations.values())
    letters = " ".join(report.taints) or "-"
    parts.append(one_line(f"{total} relocations in {len(report.relocations)} sections; taints: {letters}"))
    found = report.lookups
    if found is not None and found.walked and found.relocations + found.functions:
        wanted = f"{found.relocations} symbols and {found.functions} functions of vmlinux"
        cost = f"about {found.seconds:.1f} s to load it"
        parts.append(one_line(f"the kernel walks its {found.walked} symbols for each of {wanted}: {cost}"))
    if report.signature is not None and report.signature.signer:
        how = {"": "by a key that this kernel has not built in", "built in": "verified by a key of the kernel's own",
               "given": "verified by the given certificate"}[report.signature.trusted]  # fmt: skip
        fits = report.signature.refusal is None
        parts.append(one_line(f"signed: {report.signature.signer}" + (f"; {how}" if fits else "")))
    parts += [one_line(f"refused: {f.code}: {f.message} (errno {f.errno})", style="red") for f in report.refusals]
    parts += [one_line(f"problem: {f.code}: {f.message}", style="yellow") for f in report.problems]
    if not report.kernel_accepts:
        parts.append(one_line("the kernel would not load it", style="red"))
    elif report.problems:
        parts.append(one_line("the kernel would load it, and should not", style="yellow"))
    else:
        parts.append(one_line("the kernel would load it; nothing stands against it", style="green"))
    return Group(*parts)


def _table(title: str, columns: tuple[str, ...], rows: tuple[object, ...]) -> Table:
    table = Table(title=title, title_justify="left", box=None)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        assert hasattr(row, "get")
        table.add_row(*(one_line(str(row.get(column, ""))) for column in columns))
    return table


def _passes(report: CheckReport) -> Table:
    """Sites written, by pass and CPU model."""
    table = Table(title="patched sites", title_justify="left", box=None)
    table.add_column("pass")
    for cpu in report.cpus:
        table.add_column(cpu.cpu, justify="right")
    for name in dict.fromkeys(name for cpu in report.cpus for name in cpu.counts):
        table.add_row(name, *(str(cpu.counts.get(name, 0)) for cpu in report.cpus))
    return table

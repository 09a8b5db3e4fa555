"""The comparison with the kernel's own loader as people see it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table

from builder.preflight.differences import ByteDifference
from builder.preflight.fidelity import Fidelity
from builder.report.spelled import one_line

MOST_CAUSES = 10


def render_fidelity(outcomes: Sequence[Fidelity], *, verbose: bool = False) -> RenderableType:
    """One line for each comparison, then every difference by its cause; `verbose` shows each place."""
    title = f"{outcomes[0].release} on {outcomes[0].cpu}, {outcomes[0].smp} CPU" if outcomes else ""
    table = Table(title=title, title_justify="left", box=None)
    for head in ("state", "modules", "identical", "bytes", "text", "guest s", "here s"):
        table.add_column(head, justify="right", no_wrap=True)
    parts: list[RenderableType] = [table]
    for outcome in outcomes:
        table.add_row(
            outcome.state,
            str(outcome.modules),
            one_line(str(outcome.identical), style="green" if outcome.exact else "yellow"),
            f"{outcome.whole.bytes:,}",
            f"{outcome.whole.text_bytes:,}",
            f"{outcome.seconds_guest:.1f}",
            f"{outcome.seconds_simulated:.1f}",
        )
    for outcome in outcomes:
        label = f"{outcome.state}: "
        parts += [one_line(label + text, style="yellow") for text in outcome.state_differences]
        parts += [one_line(f"{label}{name}: {why}", style="red") for name, why in outcome.failed.items()]
        causes = Counter(_cause(d) for d in outcome.differences)
        shown = causes.most_common(None if verbose else MOST_CAUSES)
        parts += [one_line(f"{label}{count} places: {cause}", style="yellow") for cause, count in shown]
        if len(causes) > len(shown):
            parts.append(one_line(f"{label}and {len(causes) - len(shown)} causes more (-v shows them)", style="yellow"))
        for d in outcome.differences if verbose else ():
            ours, theirs = d.ours[:16].hex(" "), d.kernels[:16].hex(" ")
            parts.append(one_line(f"  {d.module} {d.section} {d.symbol}: {ours}, the kernel {theirs}"))
    if outcomes:
        parts.append(
            one_line(f"{len(outcomes[0].refused)} modules were refused by the guest's kernel (no such hardware)")
        )
    return Group(*parts)


def _cause(difference: ByteDifference) -> str:
    if difference.cause:
        return f"{difference.step}: {difference.cause}"
    return f"unexplained in {difference.module} {difference.section} {difference.symbol}"

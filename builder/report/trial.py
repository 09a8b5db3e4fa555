"""A trial as people see it: each step of it, and what came of it."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table

from builder.image.trial import PHASES, CommandRun, Step, TrialReport
from builder.report.records import record_line, render_totals
from builder.report.spelled import many_lines, one_line

MOST_LINES = 40
"""Of a command's output or of the kernel's log, unless everything is asked for."""


def render_trial(report: TrialReport, *, verbose: bool = False, steps: bool = True) -> RenderableType:
    """The whole report. `steps=False` leaves out the steps, where progress has shown them already."""
    parts: list[RenderableType] = []
    if steps:
        parts += [one_line(_title(report), style="bold"), *map(step_line, report.steps)]
    parts += [_command(run, verbose) for run in report.commands if run.answers]
    if report.totals:
        left_out = 0 if verbose else max(0, len(report.records) - MOST_LINES)
        shown = report.records[left_out:]
        parts.append(
            one_line(f"records of its marks{f' (the last {MOST_LINES} of them)' if left_out else ''}", style="bold")
        )
        parts += [*map(record_line, shown), render_totals(report.totals)]
    if report.objects:
        parts.append(one_line(f"patched besides vmlinux: {', '.join(report.objects)}"))
    if report.taints:
        meanings = ", ".join(f"{letter} ({meaning})" for letter, meaning in report.taints.items())
        parts.append(one_line(f"taints: {meanings}"))
    parts += [one_line(f"kernel warning: {text}", style="yellow") for text in report.warnings]
    if report.failure is None:
        if report.untried:
            names = ", ".join(report.untried)
            parts.append(one_line(f"not tried, for this guest does not load it: {names}", style="yellow"))
        parts.append(one_line(f"{report.module}: everything went well, in {report.seconds:.1f} s", style="green"))
    else:
        if report.dmesg:
            log = _shortened(report.dmesg, verbose)
            parts += [one_line("the kernel's log:", style="bold"), Padding(many_lines(log, style="dim"), (0, 0, 0, 2))]
        parts.append(one_line(f"{report.module}: failed at {report.failure}", style="bold red"))
    return Group(*parts)


def _title(report: TrialReport) -> str:
    kaslr = ", KASLR" if report.kaslr else ""
    return f"{report.module} in a guest with {report.kernel} (CPU {report.cpu}{kaslr})"


def step_line(step: Step) -> RenderableType:
    """One step: whether it went well, its seconds, what it was, and what it did not do though the trial went on."""
    sign, note = ("✓", "green") if step.ok else ("✗", "bold red"), ""
    if step.note:
        sign, note = ("-", "yellow"), f" ({step.note})"
    return one_line(sign, f" {step.seconds:6.2f} s  ", step.name, note)


def _command(run: CommandRun, verbose: bool) -> RenderableType:
    """The output of each phase beside its name; with the status where it is not 0."""
    table = Table.grid(padding=(0, 1))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for phase in PHASES:
        if (answer := run.answers.get(phase)) is not None:
            said = many_lines(_shortened(answer.output.rstrip("\n"), verbose))
            if not answer.ok:
                said.append(f"{chr(10) if said.plain else ''}(status {answer.status})", style="yellow")
            table.add_row(f"  {phase}", said)
    return Group(one_line(f"$ {run.command}", style="bold"), table)


def _shortened(text: str, verbose: bool) -> str:
    """The last lines of a text, with a note of what is left out."""
    lines = text.splitlines()
    if verbose or len(lines) <= MOST_LINES:
        return text
    return "\n".join([f"({len(lines) - MOST_LINES} lines before)", *lines[-MOST_LINES:]])

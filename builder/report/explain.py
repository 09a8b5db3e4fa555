"""What the guide says of a code, and the list of all codes, on a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.table import Table

from builder.codes import Code
from builder.guide import GuideSection
from builder.report.spelled import many_lines, one_line


def render_section(section: GuideSection) -> RenderableType:
    """A section as it is written: Markdown is made to be read."""
    return Group(
        one_line((section.code.name, "bold"), f": {section.code.means}"),
        one_line(f"docs/{section.page}", style="dim"),
        "",
        many_lines(section.shown),
    )


def render_codes(codes: Iterable[Code]) -> RenderableType:
    """A line for each code."""
    table = Table(box=None, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column()
    for code in codes:
        table.add_row(code.name, code.means)
    return table

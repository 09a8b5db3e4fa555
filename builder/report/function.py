"""Both versions of one function side by side, on a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table

from builder.compose.outcome import Diff
from builder.errors import UsageError
from builder.report.listing import Line, Listing, Listings
from builder.report.spelled import one_line

_STYLE = {"changed": "yellow", "removed": "red", "added": "green"}
_MARK = {"same": " ", "changed": "~", "removed": "-", "added": "+"}


def render_function(diff: Diff, name: str, *, verbose: bool = False) -> RenderableType:
    """The instructions of the function `name` and of its parts (`.cold`); those that are the same folded, or `verbose`.

    Raises UsageError for a name that no function of the new object has.
    """
    atoms = [a for a in diff.comparison.new.functions if name in a.names or a.name.startswith(f"{name}.cold")]
    if not any(name in atom.names for atom in atoms):
        raise UsageError(f"{diff.new} has no function {name}")
    listings = Listings(diff.comparison, None)
    reasons = diff.as_json()["reasons"]
    parts: list[RenderableType] = []
    for atom in atoms:
        parts += [one_line((atom.name, "bold"), f": {reasons.get(atom.name, 'the same')}")]
        parts += [_table(listings.of(atom), verbose)]
    return Group(*parts)


def _table(listing: Listing, verbose: bool) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    for _ in range(1 + 2 * listing.both):
        table.add_column(overflow="fold", no_wrap=False)
    for stretch in listing.stretches:
        if stretch.folded and not verbose and len(stretch.rows) > 4:
            table.add_row(
                *(["", f"... {len(stretch.rows)} instructions that are the same"] if listing.both else ["..."])
            )
            continue
        for row in stretch.rows:
            style = _STYLE.get(row.kind, "")
            sides = [" ".join(_text(line)) for line in ((row.old, row.new) if listing.both else (row.new,))]
            cells = [_MARK[row.kind], *sides] if listing.both else sides
            table.add_row(*(one_line(cell, style=style) for cell in cells))
    return table


def _text(line: Line | None) -> Iterator[str]:
    if line is not None:
        yield f"{line.offset:#06x}"
        yield line.text
        if line.note:
            yield f"<{line.note}>"

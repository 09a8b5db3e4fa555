"""References from code to an entry of a special table, which has no symbol: that of the code's own warning.

`WARN()` with a text loads the address of its entry in `__bug_table` since v6.19 (__WARN_bug_entry,
arch/x86/include/asm/bug.h), as the trap that follows says by it what to print. The entry has no identity but its
function's: which of the function's entries it is.
"""

from __future__ import annotations

from typing import NamedTuple

from builder.binary import Section, tables
from builder.compare.atoms import Atom
from builder.compare.view import Target, View


class OwnEntry(NamedTuple):
    """An entry that code refers to: the `number`-th of those that `owner` has in its table, from 0."""

    owner: Atom
    number: int
    entry: tables.Entry


def entry_at(view: View, section: Section, offset: int) -> OwnEntry | None:
    """The entry at an offset of a special table, None in any other section and where no function owns it."""
    row = tables.BY_NAME.get(section.name)
    if row is None:
        return None
    for owner, entries in view.owned(row).items():
        for number, entry in enumerate(entries):
            if owner is not None and entry.section == section.index and entry.start <= offset < entry.end:
                return OwnEntry(owner, number, entry)
    return None


def entry_of(view: View, target: Target) -> OwnEntry | None:
    """The entry that a reference leads to."""
    return entry_at(view, target.section, target.place) if target.kind == "section" and target.section else None

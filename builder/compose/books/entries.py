"""Entries of the special tables: of code that stays, and of code without a name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from builder.binary import tables
from builder.compare import Atom, View
from builder.compose.books.rules import Ignored, Note, Pair, left


def entries(pair: Pair) -> Iterator[Note]:
    """Entries of code that stays are the same, those of the derived tables too; entries of code without a name."""
    for row in tables.TABLES:
        before, after = pair.old.owned(row), pair.new.owned(row)
        for owner, entries in after.items():
            if owner is not None and pair.moves(owner):
                continue
            old = before.get(pair.twins[owner] if owner is not None else None, ())
            yield from _same_entries(pair, row, owner, old, entries)
        for old_owner, entries in before.items():
            new_owner = pair.versions.get(old_owner) if old_owner is not None else None
            stays = old_owner is None or (new_owner is not None and not pair.moves(new_owner))
            if stays and new_owner not in after:
                yield from _same_entries(pair, row, new_owner, entries, ())


def _same_entries(
    pair: Pair, row: tables.TableRow, owner: Atom | None, old: Sequence[tables.Entry], new: Sequence[tables.Entry]
) -> Iterator[Note]:
    if owner is not None and not row.derived:
        # The comparison has judged them with their function, all but the lines of the bug table.
        if row.lines and _bytes(pair.old, old) != _bytes(pair.new, new):
            yield Ignored("bug-line", owner.name)
        return
    if owner is not None and _plainly_same(pair, pair.twins[owner], old, owner, new):
        return
    first = [_entry(pair, pair.old, entry) for entry in old]
    second = [_entry(pair, pair.new, entry) for entry in new]
    if first == second or (owner is None and sorted(map(repr, first)) == sorted(map(repr, second))):
        return
    name = owner.name if owner is not None else row.name
    whose = f"of {owner.name}" if owner is not None else "of code without a name"
    yield left(name, row.name, f"entries {whose} in {row.name} differ though the code does not")


def _plainly_same(
    pair: Pair, old: Atom, before: Sequence[tables.Entry], new: Atom, after: Sequence[tables.Entry]
) -> bool:
    """Whether entries with one relocation stand as they are at the same offsets of the same bytes, as most do."""
    if old.section.data[old.entry : old.end] != new.section.data[new.entry : new.end]:
        return False
    return len(before) == len(after) and _spelled(pair.old, old, before) == _spelled(pair.new, new, after)


def _spelled(view: View, owner: Atom, entries: Sequence[tables.Entry]) -> tuple[object, ...]:
    symbols, begin = view.obj.symbols, owner.entry
    sites = [
        (symbols[symbol].value + addend - begin, kind, offset - entry.start)
        for entry in entries
        for offset, kind, symbol, addend in entry.relocations
    ]
    first, last = entries[0], entries[-1]
    in_a_row = first.section == last.section and last.index - first.index == len(entries) - 1  # as most are
    runs = [(first, last)] if in_a_row else [(entry, entry) for entry in entries]
    data = [view.obj.sections[a.section].data[a.start : b.end] for a, b in runs]
    return sites, data, [_paired_bytes(view, a, b) for a, b in runs]


def _entry(pair: Pair, view: View, entry: tables.Entry) -> tuple[object, ...]:
    section = view.obj.sections[entry.section]
    rows = [
        (
            r.offset - entry.start,
            r.type,
            pair.meanings.of_target(view, view.target(r), lines=True, exact=r is entry.site),
        )
        for r in entry.relocations
    ]
    return (view.masked(section, entry.start, entry.end), tuple(rows), _paired_bytes(view, entry, entry))


def _bytes(view: View, entries: Iterable[tables.Entry]) -> list[bytes]:
    return [view.masked(view.obj.sections[entry.section], entry.start, entry.end) for entry in entries]


def _paired_bytes(view: View, first: tables.Entry, last: tables.Entry) -> bytes:
    """What stands beside entries in the table that goes with their own (.orc_unwind beside .orc_unwind_ip)."""
    if not first.table.paired:
        return b""
    section, start, _ = tables.companion(view.obj, first)
    return section.data[start : tables.companion(view.obj, last)[2]]

"""Things that the kernel finds by the name of their section: what of them a change adds, and what becomes of that.

The table is NAMED in builder/binary/tables.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from builder.binary import tables
from builder.compare import Atom, naming
from builder.compose.selection import Selection
from builder.errors import Refusal


def refused(selection: Selection) -> Iterator[Refusal]:
    """Things that would be lost in a module, or do without what the name of their section brings about."""
    lost = [
        (atom, row)
        for atom, row in _added(selection)
        if row.becomes == "refused" or (row.becomes == "with target" and atom not in selection)
    ]
    told = {atom for atom, _ in lost}
    for atom, row in lost:
        if not told.isdisjoint(_behind(selection, atom)):
            continue  # without what it is made from it is nothing, and that is told
        yield Refusal(
            row.code,
            atom.name,
            atom.section.name,
            f"{_which(selection, atom)} is {row.what}: in a livepatch it has no effect",
            row.advice,
            fatal=row.fatal and atom in selection,
        )


def left_out(selection: Selection) -> Iterator[Refusal]:
    """Things that the change does without."""
    for atom, row in _added(selection):
        if row.becomes == "warned":
            yield Refusal(
                row.code,
                atom.name,
                atom.section.name,
                f"{_which(selection, atom)} is {row.what}: it is left out",
                row.advice,
            )


def _which(selection: Selection, atom: Atom) -> str:
    is_new = atom not in selection.comparison.correlation.twins
    return f"the {'new' if is_new else 'changed'} {atom.name} ({atom.section.name})"


def _added(selection: Selection) -> Iterator[tuple[Atom, tables.NamedSection]]:
    """What is new or another in sections that are found by name, and what counts of that.

    Of what each version has of its own (and of lists, whose parts are numbered) that is what there is more of.
    """
    comparison = selection.comparison
    before = Counter(_family(atom) for atom in comparison.old.data)
    for atom in comparison.new.data:
        row = tables.named(atom.section)
        if row is None:
            continue
        if atom in comparison.correlation.twins:
            if not row.is_kept and _differs(selection, atom):
                yield atom, row
        elif naming.is_numbered(atom.name) and before[_family(atom)] > 0:
            before[_family(atom)] -= 1
        else:
            yield atom, row


def _family(atom: Atom) -> tuple[str, str]:
    return naming.family(atom.name), atom.section.name


def _differs(selection: Selection, atom: Atom) -> bool:
    """For data that the comparison does not judge."""
    comparison = selection.comparison
    return not comparison.meanings.is_same_content(comparison.correlation.twins[atom], atom)


def _behind(selection: Selection, atom: Atom) -> Iterator[Atom]:
    """What a datum is made from: all data that it leads to, itself left out."""
    seen, work = {atom}, [atom]
    while work:
        for _, target in selection.view.leads_of(work.pop()):
            other = target.atom
            if other is not None and not other.is_function and other not in seen:
                seen.add(other)
                work.append(other)
                yield other

"""Instruction maps that were made before, of the same two objects by the same program.

To make them is half of what a repeated patch to a header takes, of which dozens of functions travel. A map is kept by
all that it is made of: every section of both objects as it was read, and the text of what makes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from builder.acquire import sums
from builder.compare.atoms import Atom
from builder.compare.comparison import Comparison
from builder.compare.contents import place_of
from builder.compare.instruction_map import FunctionMap, MappedRow, instruction_map

_SMALL: Final = 64
"""Bytes of a function up to which a map is made about as quickly as it is found."""


def kept_map(comparison: Comparison, atom: Atom) -> FunctionMap:
    """`instruction_map` of a function of the new object; found in the cache where it was made before."""
    old = comparison.correlation.twins.get(atom)
    if old is None or max(old.size, atom.size) <= _SMALL:
        return instruction_map(comparison, atom)
    olds = old, *comparison.old_children.get(old, ())
    news = atom, *comparison.children.get(atom, ())
    places = [(part.section.index, part.entry, part.end) for part in (*olds, *news)]
    file = place_of("all", comparison, places)
    known = sums.read_json(file)
    if known is not None:
        found = comparison.maps[atom] = FunctionMap(*(_read(rows, olds, news) for rows in known))
        return found
    made = instruction_map(comparison, atom)
    sums.keep_json(file, [_written(rows, olds, news) for rows in made])
    return made


def _written(rows: Sequence[MappedRow], olds: Sequence[Atom], news: Sequence[Atom]) -> list[tuple[int, ...]]:
    return [(olds.index(row.old_part), row.old_offset, news.index(row.new_part), *row[3:]) for row in rows]


def _read(rows: Sequence[Any], olds: Sequence[Atom], news: Sequence[Atom]) -> tuple[MappedRow, ...]:
    return tuple(MappedRow(olds[old], offset, news[new], *rest) for old, offset, new, *rest in rows)

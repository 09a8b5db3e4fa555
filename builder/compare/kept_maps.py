"""Instruction maps that were made before, of the same two objects by the same program.

To make them is half of what a repeated patch to a header takes, of which dozens of functions travel. They are kept by
all that they are made of: every section of both objects as it was read, and the text of what makes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from builder.acquire import sums
from builder.compare.atoms import Atom
from builder.compare.comparison import Comparison
from builder.compare.contents import place_of
from builder.compare.instruction_map import FunctionMap, MappedRow, instruction_map

_SMALL: Final = 64
"""Bytes of a function up to which a map is made about as quickly as it is found."""


def kept_maps(comparison: Comparison, atoms: Sequence[Atom]) -> Mapping[Atom, FunctionMap]:
    """`instruction_map` of functions of the new object; found in the cache where it was made before."""
    large = [atom for atom in atoms if _is_large(comparison, atom)]
    found: dict[Atom, FunctionMap] = {}
    if large:
        file = place_of("all", comparison, "by the section and offset of the new version")
        known = _known(sums.read_json(file))
        for atom in large:
            if (rows := known.get(_name(atom))) is not None:
                try:
                    found[atom] = _read(comparison, atom, rows)
                except (IndexError, TypeError, ValueError):
                    sums.note_damage(file)
        more = {_name(atom): _written(comparison, atom) for atom in large if atom not in found}
        if more:
            sums.keep_json(file, known | more)
    comparison.maps.update(found)
    return {atom: instruction_map(comparison, atom) for atom in atoms}


def _is_large(comparison: Comparison, atom: Atom) -> bool:
    old = comparison.correlation.twins.get(atom)
    return old is not None and max(old.size, atom.size) > _SMALL


def _known(document: object) -> dict[str, Any]:
    return document if isinstance(document, dict) else {}


def _name(atom: Atom) -> str:
    return f"{atom.section.index}+{atom.entry}"


def _parts(comparison: Comparison, atom: Atom) -> tuple[Sequence[Atom], Sequence[Atom]]:
    """A function's old version and its new one, each with its `.cold` parts."""
    old = comparison.correlation.twins[atom]
    return (old, *comparison.old_children.get(old, ())), (atom, *comparison.children.get(atom, ()))


def _written(comparison: Comparison, atom: Atom) -> list[list[tuple[int, ...]]]:
    olds, news = _parts(comparison, atom)
    return [
        [(olds.index(row.old_part), row.old_offset, news.index(row.new_part), *row[3:]) for row in rows]
        for rows in instruction_map(comparison, atom)
    ]


def _read(comparison: Comparison, atom: Atom, written: Sequence[Any]) -> FunctionMap:
    olds, news = _parts(comparison, atom)
    pairs, points = (
        tuple(MappedRow(olds[old], offset, news[new], *rest) for old, offset, new, *rest in rows) for rows in written
    )
    return FunctionMap(pairs, points)

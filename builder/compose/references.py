"""Where relocations of what travels lead to, with the exact place that is meant."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from builder.binary import Relocation, Section, SectionOffset, tables
from builder.compare import View
from builder.compare.view import Target


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes [start, end) of a section that have no symbol: strings, constants, annexes of functions."""

    section: Section
    start: SectionOffset
    end: SectionOffset


def of_piece(view: View, piece: Piece) -> Iterator[tuple[Relocation, Target]]:
    """Relocations of unnamed bytes and their targets; code is decoded to find what a field is relative to."""
    return view.leads(piece.section, piece.start, piece.end)


def of_entry(view: View, entry: tables.Entry) -> Iterator[tuple[Relocation, Target]]:
    """Relocations of a table entry, its site included."""
    for r in entry.relocations:
        yield r, view.target(r)


def piece_at(view: View, target: Target) -> Piece:
    """The unnamed bytes that a target of kind `section` lies in."""
    assert target.section is not None
    section = target.section
    if section.is_string:
        return Piece(section, *section.string_bounds(target.place))
    start, end = view.piece(section, target.place)
    return Piece(section, start, end)

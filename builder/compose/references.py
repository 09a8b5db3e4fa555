"""Where relocations of what travels lead to, with the exact place that is meant."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from builder.binary import Relocation, Section, tables
from builder.compare import Atom, View
from builder.compare.view import Target


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes [start, end) of a section that have no symbol: strings, constants, annexes of functions."""

    section: Section
    start: int
    end: int


def of_atom(view: View, atom: Atom) -> Iterator[tuple[Relocation, Target]]:
    """Relocations of a function or datum and their targets."""
    for r in view.relocations(atom):
        yield r, view.target(r, view.bias(atom, r))


def of_piece(view: View, piece: Piece) -> Iterator[tuple[Relocation, Target]]:
    """The same for unnamed bytes; code is decoded to find what a field is relative to."""
    rows = view.relocations_in(piece.section.index, piece.start, piece.end)
    if not rows:
        return
    insns = []
    if piece.section.is_exec:
        insns = view.arch.decode(piece.section.data[piece.start : piece.end], piece.start)
    for r in rows:
        row = view.arch.relocations.get(r.type)
        bias = 0
        if insns and row is not None and row.pc_relative:
            holder = next((i for i in insns if i.offset <= r.offset < i.end), None)
            bias = holder.end - r.offset if holder else row.size
        yield r, view.target(r, bias)


def of_entry(view: View, entry: tables.Entry) -> Iterator[tuple[Relocation, Target]]:
    """Relocations of a table entry, its site included."""
    for r in entry.relocations:
        yield r, view.target(r)


def piece_at(view: View, target: Target) -> Piece:
    """The unnamed bytes that a target of kind `section` lies in."""
    assert target.section is not None
    section = target.section
    if section.is_string:
        return Piece(section, *section.string_bounds(target.offset))
    start, end = view.piece(section, target.offset)
    return Piece(section, start, end)

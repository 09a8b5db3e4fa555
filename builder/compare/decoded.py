"""A function's instructions: decoded, numbered, and found by the place of one of their bytes."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter

from builder.arch import Architecture, Instruction
from builder.compare.atoms import Atom


def decoded(arch: Architecture, atom: Atom) -> list[Instruction]:
    return arch.decode(atom.section.data[atom.entry : atom.end], atom.entry)


def ordinals(instructions: Callable[[Atom], list[Instruction]], atom: Atom) -> Mapping[int, int]:
    """Section offset of each instruction, and of the atom's end -> how many that are no NOPs precede it."""
    out: dict[int, int] = {}
    count = 0
    for insn in instructions(atom):
        out[insn.offset] = count
        count += not insn.is_nop
    out[atom.end] = count
    return out


def holder(rows: Sequence[Instruction], offset: int) -> Instruction | None:
    """The instruction whose bytes hold `offset`."""
    at = bisect_right(rows, offset, key=attrgetter("offset")) - 1
    return rows[at] if at >= 0 and offset < rows[at].end else None


def to_the_end(rows: Sequence[Instruction], offset: int, size: int) -> int:
    """Distance from `offset` to the end of the instruction that holds it; `size` where none does."""
    insn = holder(rows, offset)
    return insn.end - offset if insn else size

"""Calls and jumps from one function to another of the same section, which the assembler has resolved itself.

It does so where the callee is static and both stand in a section of their name (`.sched.text`, `.exit.text`): no
relocation is left, and a copy of the code elsewhere would lead nowhere. Here each gets the relocation that it would
have in sections of their own; a short jump one of its own width, which emission gives a long one to lead to.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Collection, Sequence

from builder.arch import Architecture, Instruction
from builder.binary import Relocation, Section, SectionOffset
from builder.compare.atoms import Atom

_FIELD = 4


def resolved(
    arch: Architecture, section: Section, atoms: Sequence[Atom], relocated: Collection[int]
) -> list[Relocation]:
    """Relocations for such branches of a section's `atoms`, which come in order; `relocated` are offsets that have one.

    Of branches to a function's entry only: what leads into the middle of one cannot be led elsewhere.
    """
    functions = [atom for atom in atoms if atom.is_function]
    if len(functions) < 2:
        return []
    entries = {atom.entry: atom for atom in functions}
    starts = [atom.entry for atom in functions]
    data, found = section.data, []
    code: dict[Atom, list[Instruction]] = {}
    for match in _branch(arch).finditer(data):
        field = match.end(1)
        size = _FIELD if match["long"] else 1
        end = field + size
        goal = entries.get(SectionOffset(end + int.from_bytes(data[field:end], "little", signed=True)))
        if goal is None or end > len(data) or field in relocated:
            continue
        at = bisect_right(starts, match.start()) - 1
        user = functions[at] if at >= 0 else None
        if user is None or user is goal or end > user.end:
            continue
        if user not in code:
            code[user] = arch.decode(data[user.entry : user.end], user.entry)
        if any(i.offset == match.start() and i.end == end and i.target == goal.entry for i in code[user]):
            kind = arch.pc32 if match["long"] else arch.pc8
            addend = goal.entry - goal.symbol.value - size
            found.append(Relocation(SectionOffset(field), kind, goal.symbol.index, addend))
    return found


def _branch(arch: Architecture) -> re.Pattern[bytes]:
    """What a branch begins with, before its distance: of four bytes (`long`), or of one; found wherever it begins."""
    code = arch.thunks
    plain = re.escape(bytes((code.call, code.jump[0])))
    long = b"[" + plain + b"]|" + re.escape(code.if_on[:1]) + rb"[\x80-\x8f]"
    return re.compile(b"(?=((?P<long>" + long + b")|" + re.escape(code.short_jump[:1]) + rb"|[\x70-\x7f]))", re.DOTALL)

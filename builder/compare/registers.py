"""Which registers hold the same value at an instruction of the old function and at its counterpart in the new one.

A probe that reads a register can only follow its instruction into the new
version if the register holds there what it held here. That is found by data
flow:

1. In each version, a *definition* of a register is an instruction that writes
   it, or the caller (at the entry of the function). For each instruction find
   the definitions whose value may still be in each register (`Flow.definitions`).
2. Trust all pairs of equal instructions to compute the same.
3. A register is the same at a pair if its definitions in the old version are
   trusted and their counterparts are just its definitions in the new one.
4. A pair that reads what is not the same computes something else: trust it no
   longer, and go back to 3 until nothing changes.

Whatever cannot be followed is never the same: a value that may come from where
only a table leads to, from an instruction without a counterpart, or from the
caller of a clone whose arguments the compiler has chosen.

Sets are masks. In a set of registers they have the bits of
`Architecture.registers`, and the bit after them stands for the slots of the
stack. Sets of definitions are those of `flow.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from builder.compare.flow import CALLER, Flow, defined_by
from builder.compare.unit import UnitLine

Sets = dict[tuple[int, int], int]
"""For an old line and one that it leads to, the registers that hold the same before both."""


def same_registers(
    old: Flow, new: Flow, pairs: Mapping[int, Sequence[int]], points: Mapping[int, Sequence[int]]
) -> tuple[Sets, Sets]:
    """For each old line and each counterpart of it (`pairs`), the set of registers that hold the same before both.

    Then the same for the lines of `points`, from which nothing follows. The slots of the stack are the same where the
    stack pointer is and where all that either version puts on the stack is the same.
    """
    arch = new.arch
    stack, pointer = 1 << len(arch.registers), 1 << arch.registers.index(arch.stack_register)
    before, after = old.definitions, new.definitions
    callers = {1 << k: 1 << k for k in range(CALLER.bit_length())}
    back = {j: i for i, js in pairs.items() for j in js}
    trusted = {i for i, js in pairs.items() if all(old.lines[i].keys[0] == new.lines[j].keys[0] for j in js)}
    while True:
        slots = stack if _same_slots(old.lines, new.lines, back, trusted) else 0
        translation = _Translation({defined_by(i): sum(map(defined_by, pairs[i])) for i in trusted} | callers)

        def sets(rows: Mapping[int, Sequence[int]], to: _Translation = translation, slots: int = slots) -> Sets:
            return {
                (i, j): to.same(before[i][:-1], after[j][:-1], copied=len(js) > 1) | slots
                for i, js in rows.items()
                for j in js
            }

        same = sets(pairs)
        kept = {i for i in trusted if all(_computes_the_same(old.lines[i], same[i, j], slots) for j in pairs[i])}
        if kept == trusted:
            break
        trusted = kept

    def without_pointer(found: Sets) -> Sets:
        return {pair: mask if mask & pointer else mask & ~stack for pair, mask in found.items()}

    return without_pointer(same), without_pointer(sets(points))


def _computes_the_same(line: UnitLine, same: int, slots: int) -> bool:
    """Whether an instruction that is equal in both versions reads the same (what a call returns is its own matter)."""
    if line.insn.is_call:
        return True
    return not line.operation.reads & ~same and (slots > 0 or not line.operation.stack_read)


def _same_slots(old: Sequence[UnitLine], new: Sequence[UnitLine], back: Mapping[int, int], trusted: set[int]) -> bool:
    """Whether all that is put on the stack is the same."""
    return all(i in trusted for i, line in enumerate(old) if line.operation.stack_write) and all(
        back.get(j) in trusted for j, line in enumerate(new) if line.operation.stack_write
    )


class _Translation:
    """Old definitions and their counterparts (`to_new`): which registers hold the same by them."""

    def __init__(self, to_new: Mapping[int, int]) -> None:
        self._to_new = to_new
        self._known: dict[tuple[int, int, bool], bool] = {}
        """Found once: from one line to the next few registers have other definitions."""

    def same(self, before: Sequence[int], after: Sequence[int], *, copied: bool) -> int:
        """The registers whose old definitions (`before`) are, translated, the new ones (`after`).

        Of a definition that has several counterparts, or before one of several (`copied`), not each comes everywhere.
        """
        mask, known = 0, self._known
        for register, (old, new) in enumerate(zip(before, after, strict=True)):
            key = old, new, copied
            found = known.get(key)
            if found is None:
                found = known[key] = self._is_same(old, new, every=not copied)
            mask |= found << register
        return mask

    def _is_same(self, old: int, new: int, *, every: bool) -> bool:
        there, left = 0, old
        while left:
            lowest = left & -left
            found = self._to_new.get(lowest)
            if found is None:
                return False
            there |= found
            every = every and not found & (found - 1)
            left ^= lowest
        return bool(new) and not new & ~there and (not every or there == new)

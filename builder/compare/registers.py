"""Which registers hold the same value at an instruction of the old function and at its counterpart in the new one.

A probe that reads a register can only follow its instruction into the new
version if the register holds there what it held here. That is found by data
flow:

1. In each version, a *definition* of a register is an instruction that writes
   it, or the caller (at the entry of the function). For each instruction find
   the definitions whose value may still be in each register (`_reaching`).
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
stack. In a set of definitions the bits are the caller, the unknown, and then
the lines of the function by their number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from builder.arch import Architecture
from builder.compare.comparison import Comparison
from builder.compare.unit import UnitLine

_CALLER: Final = 1 << 0
_UNKNOWN: Final = 1 << 1
_FIRST_LINE: Final = 2
_OWN_CONVENTION: Final = (".isra", ".constprop", ".part")
"""Clones whose arguments the compiler has chosen, so that they may differ from version to version."""


def same_registers(
    comparison: Comparison, old: Sequence[UnitLine], new: Sequence[UnitLine], pairs: Mapping[int, int]
) -> dict[int, int]:
    """For each old line that has a counterpart (`pairs`), the set of registers that hold the same before both.

    The slots of the stack are the same where the stack pointer is and where
    all that either version puts on the stack is the same.
    """
    arch = comparison.new.arch
    stack, pointer = 1 << len(arch.registers), 1 << arch.registers.index(arch.stack_register)
    before, after = _reaching(old, arch), _reaching(new, arch)
    back = {j: i for i, j in pairs.items()}
    trusted = {i for i, j in pairs.items() if old[i].keys[0] == new[j].keys[0]}
    while True:
        slots = _same_slots(old, new, back, trusted)
        to_new = {_defined_by(i): _defined_by(pairs[i]) for i in trusted} | {_CALLER: _CALLER}
        same = {i: _same(before[i], after[j], to_new) | (stack if slots else 0) for i, j in pairs.items()}
        kept = {i for i in trusted if _computes_the_same(old[i], same[i], slots)}
        if kept == trusted:
            return {i: mask if mask & pointer else mask & ~stack for i, mask in same.items()}
        trusted = kept


def _defined_by(line: int) -> int:
    """The set of definitions that holds one line."""
    return 1 << line + _FIRST_LINE


def _computes_the_same(line: UnitLine, same: int, slots: bool) -> bool:
    """Whether an instruction that is equal in both versions reads the same (what a call returns is its own matter)."""
    if line.insn.is_call:
        return True
    return not line.operation.reads & ~same and (slots or not line.operation.stack_read)


def _same_slots(old: Sequence[UnitLine], new: Sequence[UnitLine], back: Mapping[int, int], trusted: set[int]) -> bool:
    """Whether all that is put on the stack is the same."""
    return all(i in trusted for i, line in enumerate(old) if line.operation.stack_write) and all(
        back.get(j) in trusted for j, line in enumerate(new) if line.operation.stack_write
    )


def _same(before: Sequence[int], after: Sequence[int], to_new: Mapping[int, int]) -> int:
    """The registers whose old definitions (`before`) are, translated, the new ones (`after`)."""
    mask = 0
    for register, left in enumerate(before):
        there = 0
        while left:
            lowest = left & -left
            found = to_new.get(lowest)
            if found is None:
                break
            there |= found
            left ^= lowest
        if not left and there and there == after[register]:
            mask |= 1 << register
    return mask


def _reaching(lines: Sequence[UnitLine], arch: Architecture) -> list[tuple[int, ...]]:
    """Before each line, for each register the definitions that reach it.

    Lines are taken in blocks that are only entered at their first line. What
    reaches the end of a block reaches the blocks that follow, until that adds
    nothing any more.
    """
    if not lines:
        return []
    starts = sorted(_block_starts(lines))
    ends = [*starts[1:], len(lines)]
    number = {start: k for k, start in enumerate(starts)}
    states: list[list[int]] = [[0] * len(arch.registers) for _ in starts]
    given = _UNKNOWN if any(part in lines[0].part.name for part in _OWN_CONVENTION) else _CALLER
    states[0] = [_CALLER if name == arch.stack_register else given for name in arch.registers]
    for k, start in enumerate(starts):
        if lines[start].from_table:
            states[k] = [value | _UNKNOWN for value in states[k]]
    waiting = list(range(len(starts)))[::-1]
    while waiting:
        k = waiting.pop()
        state = states[k]
        for at in range(starts[k], ends[k]):
            state = _after(lines[at], at, state)
        if not any(state):
            continue
        for following in _successors(lines, ends[k] - 1):
            target = number[following]
            merged = [a | b for a, b in zip(states[target], state, strict=True)]
            if merged != states[target]:
                states[target] = merged
                waiting.append(target)
    out: list[tuple[int, ...]] = []
    for k, start in enumerate(starts):
        state = states[k]
        for at in range(start, ends[k]):
            out.append(tuple(state))
            state = _after(lines[at], at, state)
    return out


def _after(line: UnitLine, at: int, state: list[int]) -> list[int]:
    """The definitions behind line number `at`, from those before it."""
    writes = line.operation.writes
    if not writes:
        return state
    out = state.copy()
    while writes:
        lowest = writes & -writes
        out[lowest.bit_length() - 1] = _defined_by(at)
        writes ^= lowest
    return out


def _block_starts(lines: Sequence[UnitLine]) -> set[int]:
    """Where control comes from elsewhere than the line before, or may go elsewhere from that."""
    found = {0}
    for at, line in enumerate(lines):
        if line.target is not None:
            found.add(line.target)
        if line.from_table:
            found.add(at)
        if (line.insn.is_jump or line.insn.ends_block) and at + 1 < len(lines):
            found.add(at + 1)
        if at and line.part is not lines[at - 1].part:
            found.add(at)
    return found


def _successors(lines: Sequence[UnitLine], at: int) -> list[int]:
    """Where control goes after the last line of a block."""
    line = lines[at]
    found = [line.target] if line.insn.is_jump and line.target is not None else []
    if not line.insn.ends_block and at + 1 < len(lines) and lines[at + 1].part is line.part:
        found.append(at + 1)
    return found

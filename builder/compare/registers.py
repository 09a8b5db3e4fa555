"""Which registers hold the same at places that stand for each other: a fetch argument may then follow.

A register holds the same at a pair of places where the definitions that reach
them, on all paths, are pairs too, all of it equal and computed from what holds
the same. What cannot be followed (a place that only a table leads to, an
instruction with no counterpart) holds nothing the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from builder.compare.comparison import Comparison
from builder.compare.unit import Line

COUNT = 16
STACK = 1 << COUNT
"""Beside the masks of registers: the slots of the stack."""
_RSP = 1 << 4
_ENTRY, _UNKNOWN, _FIRST = 1, 2, 2
"""Definitions are bits of a number: the value at the entry, one that nothing is known of, then the lines."""
_OWN_CONVENTION = (".isra", ".constprop", ".part")
"""Clones whose arguments the compiler has chosen, so that they may differ from version to version."""


def same_registers(
    comparison: Comparison, old: Sequence[Line], new: Sequence[Line], pairs: Mapping[int, int]
) -> dict[int, int]:
    """For each old line that has a counterpart, the mask of what holds the same before both."""
    before, after = _reaching(old), _reaching(new)
    exact = {i for i, j in pairs.items() if old[i].keys[0] == new[j].keys[0]}
    back = {j: i for i, j in pairs.items()}
    trusted = set(exact)
    while True:
        slots = _slots(old, new, back, trusted)
        to_new = {1 << i + _FIRST: 1 << pairs[i] + _FIRST for i in trusted} | {_ENTRY: _ENTRY}
        same = {i: _same(before[i], after[j], to_new) | (STACK if slots else 0) for i, j in pairs.items()}
        kept = {i for i in trusted if _is_followed(old[i], same[i], slots)}
        if kept == trusted:
            return {i: mask if mask & _RSP else mask & ~STACK for i, mask in same.items()}
        trusted = kept


def _is_followed(line: Line, same: int, slots: bool) -> bool:
    """Whether an instruction that is equal in both also computes the same; a call gives what that call gives."""
    if line.insn.is_call:
        return True
    return not line.operation.reads & ~same and (slots or not line.operation.stack_read)


def _slots(old: Sequence[Line], new: Sequence[Line], back: Mapping[int, int], trusted: set[int]) -> bool:
    """Whether all that is put on the stack is the same."""
    return all(i in trusted for i, line in enumerate(old) if line.operation.stack_write) and all(
        back.get(j) in trusted for j, line in enumerate(new) if line.operation.stack_write
    )


def _same(before: Sequence[int], after: Sequence[int], to_new: Mapping[int, int]) -> int:
    mask = 0
    for register in range(COUNT):
        left, there = before[register], 0
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


def _reaching(lines: Sequence[Line]) -> list[tuple[int, ...]]:
    """Before each line, the definitions of each register that reach it."""
    if not lines:
        return []
    leaders = sorted(_leaders(lines))
    ends = [*leaders[1:], len(lines)]
    number = {start: k for k, start in enumerate(leaders)}
    entry = _UNKNOWN if any(part in lines[0].part.name for part in _OWN_CONVENTION) else _ENTRY
    states: list[list[int]] = [[0] * COUNT for _ in leaders]
    states[0] = [_ENTRY if 1 << r == _RSP else entry for r in range(COUNT)]
    for k, start in enumerate(leaders):
        if lines[start].from_table:
            states[k] = [value | _UNKNOWN for value in states[k]]
    waiting = list(range(len(leaders)))[::-1]
    while waiting:
        k = waiting.pop()
        state = states[k].copy()
        for at in range(leaders[k], ends[k]):
            _step(lines[at], at, state)
        if not any(state):
            continue
        for following in _successors(lines, ends[k] - 1):
            target = number[following]
            merged = [a | b for a, b in zip(states[target], state, strict=True)]
            if merged != states[target]:
                states[target] = merged
                waiting.append(target)
    out: list[tuple[int, ...]] = []
    for k, start in enumerate(leaders):
        state = states[k].copy()
        for at in range(start, ends[k]):
            out.append(tuple(state))
            _step(lines[at], at, state)
    return out


def _step(line: Line, at: int, state: list[int]) -> None:
    writes = line.operation.writes
    while writes:
        lowest = writes & -writes
        state[lowest.bit_length() - 1] = 1 << at + _FIRST
        writes ^= lowest


def _leaders(lines: Sequence[Line]) -> set[int]:
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


def _successors(lines: Sequence[Line], at: int) -> list[int]:
    """Where control goes after the last line of a block."""
    line = lines[at]
    found = [line.target] if line.insn.is_jump and line.target is not None else []
    if not line.insn.ends_block and at + 1 < len(lines) and lines[at + 1].part is line.part:
        found.append(at + 1)
    return found

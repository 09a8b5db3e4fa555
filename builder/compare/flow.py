"""Where control goes in a function, and where the values that an instruction finds may come from.

Both are asked of the lines of a unit (`unit.py`), which are numbered from 0. The caller is the line `len(lines)`:
control comes from there to the first line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Hashable, Sequence
from functools import cached_property
from typing import Final, NamedTuple

from builder.arch import Architecture
from builder.compare.unit import UnitLine

_COLUMNS: Final = 32
CALLER: Final = (1 << _COLUMNS) - 1
"""The set of what the caller left, a bit for each register by its number."""
UNKNOWN: Final = 1 << _COLUMNS
_FIRST_LINE: Final = _COLUMNS + 1
_OWN_CONVENTION: Final = (".isra", ".constprop", ".part")
"""Clones whose arguments the compiler has chosen, so that they may differ from version to version."""

FALL, TAKEN, TABLE = range(3)


class Edge(NamedTuple):
    """One way out of a line: on to the next in the layout, to the target of a jump, or where a table leads.

    Of a conditional jump and its opposite, the way that one falls is the way that the other is taken.
    """

    kind: int
    to: int


class Flow:
    """Control flow of one unit."""

    def __init__(self, lines: Sequence[UnitLine], arch: Architecture) -> None:
        self.lines = lines
        self.arch = arch
        self.caller = len(lines)
        self.ways: list[tuple[Edge, ...]] = [self._ways(at) for at in range(len(lines))]
        led = {way.to for ways in self.ways for way in ways if way.kind == TABLE}
        stray = (Edge(TABLE, at) for at, line in enumerate(lines) if line.from_table and at not in led)
        self.ways.append((Edge(FALL, 0), *stray) if lines else ())

    def falls_through(self, at: int) -> bool:
        """Whether what follows an instruction in the layout is run next, or may be."""
        lines = self.lines
        return not lines[at].insn.ends_block and at + 1 < len(lines) and lines[at + 1].part is lines[at].part

    def _ways(self, at: int) -> tuple[Edge, ...]:
        line = self.lines[at]
        fall, taken = (TAKEN, FALL) if line.operation.negated else (FALL, TAKEN)
        found = [Edge(fall, at + 1)] if self.falls_through(at) else []
        if line.insn.is_jump and line.target is not None:
            found.append(Edge(taken, line.target))
        return (*found, *(Edge(TABLE, to) for to in line.also))

    def decides(self, at: int) -> bool:
        """Whether what comes next is decided here."""
        line = self.lines[at]
        return len(self.ways[at]) > 1 or (line.insn.is_jump and not line.insn.ends_block) or line.operation.indirect

    @cached_property
    def before(self) -> list[list[int]]:
        """For each line those that lead to it, the caller included."""
        found: list[list[int]] = [[] for _ in self.ways]
        for at, ways in enumerate(self.ways):
            for way in ways:
                found[way.to].append(at)
        return found

    @cached_property
    def definitions(self) -> list[tuple[int, ...]]:
        """Before each line, for each register and at last the flags, the set of definitions that may reach it."""
        return _reaching(self)

    def once(self, level: int) -> dict[Hashable, int]:
        """What is done in one line only, told as closely as `level` says (`UnitLine.keys`), and that line."""
        counts = Counter(line.keys[level] for line in self.lines)
        return {line.keys[level]: at for at, line in enumerate(self.lines) if counts[line.keys[level]] == 1}

    def next_of(self, start: int, known: Container[int]) -> dict[int, bool]:
        """The lines of `known` that control may come to from `start`, itself included, by others only.

        Each with whether one of those others decides on every way there.
        """
        found: dict[int, bool] = {}
        seen: set[tuple[int, bool]] = {(start, False)}
        waiting = [(start, False)]
        while waiting:
            at, decided = waiting.pop()
            if at in known:
                found[at] = found.get(at, True) and decided
                continue
            decided = decided or self.decides(at)
            for way in self.ways[at]:
                if (way.to, decided) not in seen and (way.to, False) not in seen:
                    seen.add((way.to, decided))
                    waiting.append((way.to, decided))
        return found

    def ends(self, at: int) -> bool:
        """Whether the function may be left here."""
        return not self.ways[at] or (at != self.caller and self.lines[at].outside and self.lines[at].insn.is_jump)

    def as_often(self, one: int, other: int) -> bool:
        """Whether no run passes one of two lines more often than the other: they are run in turn."""
        return self._in_turn(one, other) or self._in_turn(other, one)

    def _in_turn(self, first: int, second: int) -> bool:
        return not (
            self._reaches(first, first, or_end=True, without=second)
            or self._reaches(self.caller, second, or_end=False, without=first)
            or self._reaches(second, second, or_end=False, without=first)
        )

    def _reaches(self, start: int, wanted: int, *, or_end: bool, without: int) -> bool:
        """Whether a way from `start` on, that does not pass `without`, comes to a line, or to an end."""
        seen: set[int] = set()
        waiting = [start]
        while waiting:
            at = waiting.pop()
            if or_end and self.ends(at):
                return True
            for way in self.ways[at]:
                if way.to == without or way.to in seen:
                    continue
                if way.to == wanted:
                    return True
                seen.add(way.to)
                waiting.append(way.to)
        return False


def _reaching(flow: Flow) -> list[tuple[int, ...]]:
    """`Flow.definitions`.

    A definition is a line, the caller or something unknown; sets are masks, of the bits of CALLER, UNKNOWN and
    `defined_by(line)`. Lines are taken in blocks that are only entered at their first line. What reaches the end of
    a block reaches the blocks that follow, until that adds nothing any more.
    """
    lines, arch = flow.lines, flow.arch
    if not lines:
        return []
    starts = sorted(_block_starts(flow))
    ends = [*starts[1:], len(lines)]
    number = {start: k for k, start in enumerate(starts)}
    states: list[list[int]] = [[0] * (len(arch.registers) + 1) for _ in starts]
    own = any(part in lines[0].part.name for part in _OWN_CONVENTION)
    given = [UNKNOWN if own and name != arch.stack_register else 1 << k for k, name in enumerate(arch.registers)]
    states[0] = [*given, UNKNOWN]
    for k, start in enumerate(starts):
        if lines[start].from_table:
            states[k] = [value | UNKNOWN for value in states[k]]
    waiting = list(range(len(starts)))[::-1]
    while waiting:
        k = waiting.pop()
        state = states[k]
        for at in range(starts[k], ends[k]):
            state = _after(lines[at], at, state)
        if not any(state):
            continue
        for way in flow.ways[ends[k] - 1]:
            if way.kind == TABLE:
                continue  # the values there are unknown
            target = number[way.to]
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


def defined_by(line: int) -> int:
    """The set of definitions that holds one line."""
    return 1 << line + _FIRST_LINE


def lines_of(definitions: int) -> list[int]:
    """The lines in a set of definitions."""
    found = []
    left = definitions >> _FIRST_LINE
    while left:
        found.append((left & -left).bit_length() - 1)
        left &= left - 1
    return found


def _after(line: UnitLine, at: int, state: list[int]) -> list[int]:
    """The definitions behind line number `at`, from those before it."""
    writes = line.operation.writes
    if not writes and not line.operation.flags_write:
        return state
    out = state.copy()
    if line.operation.flags_write:
        out[-1] = defined_by(at)
    while writes:
        lowest = writes & -writes
        out[lowest.bit_length() - 1] = defined_by(at)
        writes ^= lowest
    return out


def _block_starts(flow: Flow) -> set[int]:
    """Where control comes from elsewhere than the line before, or may go elsewhere from that."""
    found = {0}
    for at, line in enumerate(flow.lines):
        found.update(way.to for way in flow.ways[at] if way.kind != FALL or line.insn.is_jump)
        if line.from_table:
            found.add(at)
        if (line.insn.is_jump or line.insn.ends_block) and at + 1 < len(flow.lines):
            found.add(at + 1)
        if at and line.part is not flow.lines[at - 1].part:
            found.add(at)
    return found

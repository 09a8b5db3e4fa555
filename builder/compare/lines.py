"""Proof that a changed immediate is only a source line number that moved.

An immediate counts as a line number only where it is given to a call that takes a line there: by the callee's
declaration (`line_takers`), or by the callee's format. What goes with a line has to be there too: the file or the
function. And the line has to be the right one, as far as can be told: the line table of both objects puts the call at
just that line, or the source patch moves the one line to the other. All else is a change: a compared constant, or a
number that is merely near, is no line number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import Final

from builder.arch import Instruction
from builder.binary import elf
from builder.compare.dwarf import LineTable
from builder.compare.line_takers import FILE, FORMATS, FUNCTION, MODULE, Taker, conversions, takers_of
from builder.compare.view import Atom, View

_MOST_STEPS: Final = 64
"""Instructions between an argument and the call that it is for, on one way."""
_MOST_WAYS: Final = 16
_SOURCE: Final = re.compile(r"[\w./+-]+\.[chS]")
_FUNCTION_NAMES: Final = ("__func__", "__FUNCTION__", "__PRETTY_FUNCTION__")


@dataclass(frozen=True, slots=True)
class Shift:
    """How a source patch moves the lines of one file (its path in the tree): (old, count, new, count) of each hunk.

    Lines count from 1; those of a hunk that stay are in `kept`, old line -> new line.
    """

    path: str
    hunks: tuple[tuple[int, int, int, int], ...]
    kept: Mapping[int, int] = field(default_factory=dict)

    def moved(self, line: int) -> int | None:
        """Where an old line is in the new file; None for one that the patch removes."""
        offset = 0
        for old, count, new, fresh in self.hunks:
            if line < old:
                break
            if line < old + count:
                return self.kept.get(line)
            offset = new + fresh - old - count
        return line + offset


@dataclass(frozen=True, slots=True)
class _Given:
    """A constant that is given to a call: the function's name, the argument's number, and what goes with it."""

    callee: str
    number: int
    kind: str
    """Of what goes with it: FILE, FUNCTION, MODULE, or nothing."""
    sibling: str
    declared: bool
    """By the callee's declaration, or by a format that calls it a line; else it only stands beside what it is of."""
    call: Instruction


class LineProof:
    """Line tables of both objects, read when first needed; `shifts` is what a source patch moves."""

    def __init__(self, old: View, new: View, shifts: Sequence[Shift] = ()) -> None:
        self.old, self.new = old, new
        self.shifts = tuple(shifts)

    @cached_property
    def _tables(self) -> tuple[LineTable | None, LineTable | None]:
        return LineTable.of(self.old.obj), LineTable.of(self.new.obj)

    @property
    def has_tables(self) -> bool:
        """Whether both objects say which line each instruction is of."""
        return all(table is not None for table in self._tables)

    def source(self, view: View, atom: Atom, offset: int) -> str:
        """`file.c:123` for a section offset, empty without DWARF."""
        table = self._tables[0 if view is self.old else 1]
        found = table.find(atom.section.index, offset) if table else None
        return f"{found[0]}:{found[1]}" if found else ""

    def is_line_number(
        self, old: Atom, a: Instruction, new: Atom, b: Instruction, code_a: bytes, code_b: bytes
    ) -> bool:
        """Whether two encodings differ in one immediate only, and that is a line number on both sides."""
        pair = self._constants(code_a, code_b)
        if pair is None:
            return False
        first, second = given(self.old, old, a, code_a), given(self.new, new, b, code_b)
        if not first or len(first) != len(second):
            return False
        return all(
            _same_kind(x, y) and self._agrees(old, a, x, pair[0], new, b, y, pair[1])
            for x, y in zip(first, second, strict=True)
        )

    def may_be_line_number(
        self, old: Atom, a: Instruction, new: Atom, b: Instruction, code_a: bytes, code_b: bytes
    ) -> bool:
        """Whether the callee takes a line there, or may: what is lacking is the proof that it is the right one."""
        if self._constants(code_a, code_b) is None:
            return False
        return bool(given(self.old, old, a, code_a) and given(self.new, new, b, code_b))

    def _constants(self, code_a: bytes, code_b: bytes) -> tuple[int, int] | None:
        """The two immediates of encodings that differ in nothing else, both of which could be lines."""
        first, second = self.old.arch.immediate(code_a), self.new.arch.immediate(code_b)
        if first is None or second is None or first[0] != second[0]:
            return None
        x, y = first[1], second[1]
        return (x, y) if 0 < x < 1 << 20 and 0 < y < 1 << 20 else None

    def _agrees(
        self, old: Atom, a: Instruction, first: _Given, x: int, new: Atom, b: Instruction, second: _Given, y: int
    ) -> bool:
        """Whether the line tables, or else the source patch, say that these are the lines; a declaration may do."""
        if any(shift.moved(x) == y for shift in self.shifts if _is_of(shift, self.new, second)):
            return True
        if not self.has_tables:
            return first.declared and bool(first.kind) and not self.shifts
        before, after = self._distances(self.old, old, a, first, x), self._distances(self.new, new, b, second, y)
        spans = first.declared and bool(first.kind)
        return any(
            far == near and (not near or spans) for near, far in zip(before, after, strict=True) if near is not None
        )

    def _distances(self, view: View, atom: Atom, insn: Instruction, given: _Given, line: int) -> list[int | None]:
        """How many lines behind that of the call, and of the instruction that loads its argument, `line` lies.

        None where the line belongs to another statement. A call may span several lines: gcc's __LINE__ is where its
        macro begins, clang's where it ends, and without a macro it is where it stands.
        """
        table = self._tables[0 if view is self.old else 1]
        out: list[int | None] = []
        for offset in (given.call.offset, insn.offset):
            found = table.find(atom.section.index, offset) if table else None
            if table is None or found is None or line < found[1]:
                out.append(None)
                continue
            others = table.lines(atom.section.index, found[0])
            out.append(line - found[1] if not any(found[1] < other <= line for other in others) else None)
        return out


def _same_kind(first: _Given, second: _Given) -> bool:
    """Callees of one family, the same argument, and with it the same file or function."""
    return (first.callee, first.number, first.kind, first.sibling, first.declared) == (
        second.callee,
        second.number,
        second.kind,
        second.sibling,
        second.declared,
    )


def _is_of(shift: Shift, view: View, found: _Given) -> bool:
    """Whether a line of this call may be one of the shift's file."""
    if found.kind == FILE:
        return _one_ends_as_the_other(PurePosixPath(shift.path).parts, PurePosixPath(found.sibling).parts)
    name = PurePosixPath(shift.path).name
    return name.endswith(".h") or any(s.type == elf.STT_FILE and s.name == name for s in view.obj.symbols)


def _one_ends_as_the_other(first: tuple[str, ...], second: tuple[str, ...]) -> bool:
    shared = min(len(first), len(second))
    return shared > 0 and first[-shared:] == second[-shared:]


def given(view: View, atom: Atom, insn: Instruction, code: bytes) -> tuple[_Given, ...]:
    """Each call that a constant is given to as a line, on every way from it; empty where one takes no line."""
    register = view.arch.moves_constant_to(code)
    pushed = register is None and view.arch.pushes(code)
    if not pushed and register not in view.arch.argument_registers:
        return ()
    rows = view.instructions(atom)
    start = next((k for k, row in enumerate(rows) if row.offset == insn.offset), len(rows))
    out: dict[_Given, None] = {}
    for way in _ways(view, atom, rows, start, register):
        if way is None:
            return ()
        number = (
            len(view.arch.argument_registers) + _pushes(view, atom, rows, way)
            if pushed
            else view.arch.argument_registers.index(register or "")
        )
        found = _taken(_Call(view, atom, rows, way), number)
        if found is None:
            return ()
        out.setdefault(found)
    return tuple(sorted(out, key=lambda row: row.call.offset))


def _ways(
    view: View, atom: Atom, rows: Sequence[Instruction], start: int, register: str | None
) -> Iterator[tuple[int, ...] | None]:
    """Each way from an instruction to the next call, as indexes of rows; None for one that leads to no call.

    A way on which the register is written again before any call is none: there the constant was not used.
    """
    places = {row.offset: k for k, row in enumerate(rows)}
    waiting: list[tuple[int, ...]] = [(start,)]
    count = 0
    while waiting:
        way = waiting.pop()
        here = rows[way[-1]]
        if here.is_call:
            yield way
            continue
        count += 1
        if len(way) > _MOST_STEPS or count > _MOST_STEPS * _MOST_WAYS:
            yield None
            return
        if len(way) > 1 and register in view.arch.writes(atom.section.data[here.offset : here.end]):
            continue
        following = []
        if here.is_jump:
            goal = places.get(here.target) if here.target is not None else None
            if goal is None or goal in way:
                yield None
                return
            following.append(goal)
        if not here.ends_block:
            following.append(way[-1] + 1)
        if not following or any(k >= len(rows) for k in following):
            yield None
            return
        waiting += [(*way, k) for k in following]


def _pushes(view: View, atom: Atom, rows: Sequence[Instruction], way: tuple[int, ...]) -> int:
    """How many arguments are pushed behind the first instruction of a way: they come before it in the list."""
    return sum(view.arch.pushes(atom.section.data[rows[k].offset : rows[k].end]) for k in way[1:])


class _Call:
    """The call at the end of a way, and what its register arguments were loaded from."""

    def __init__(self, view: View, atom: Atom, rows: Sequence[Instruction], way: tuple[int, ...]) -> None:
        self.view, self.atom, self.rows = view, atom, rows
        self.insn = rows[way[-1]]
        self._way = way

    @cached_property
    def callee(self) -> str:
        """The name of the function, "" for an indirect call."""
        view = self.view
        for r in view.relocations_in(self.atom.section.index, self.insn.offset, self.insn.end):
            target = view.target(r, view.bias(self.atom, r))
            return target.atom.name if target.atom else target.symbol.name
        return ""

    def argument(self, number: int) -> tuple[str, str]:
        """What a register argument is: (kind, text), with kind "text" for other strings, "" for what cannot be told."""
        if not 0 <= number < len(self.view.arch.argument_registers):
            return "", ""
        register = self.view.arch.argument_registers[number]
        for k in self._before():
            row = self.rows[k]
            if register in self.view.arch.writes(self.atom.section.data[row.offset : row.end]):
                return self._loaded(row)
        return "", ""

    def _before(self) -> Iterator[int]:
        """Instructions before the call: back along the way, and before its start up to where another begins."""
        yield from reversed(self._way[:-1])
        for k in range(self._way[0] - 1, max(self._way[0] - _MOST_STEPS, -1), -1):
            if self.rows[k].is_call or self.rows[k].ends_block:
                return
            yield k

    def _loaded(self, row: Instruction) -> tuple[str, str]:
        view = self.view
        relocations = view.relocations_in(self.atom.section.index, row.offset, row.end)
        if len(relocations) != 1:
            return "", ""
        target = view.target(relocations[0], view.bias(self.atom, relocations[0]))
        if target.atom is not None and not target.atom.is_function and not target.offset:
            name = target.atom.name
            if name.split(".")[0] in _FUNCTION_NAMES or name.split(".")[-1] in _FUNCTION_NAMES:
                return FUNCTION, view.code(target.atom).rstrip(b"\0").decode("utf-8", "replace")
            if name.startswith("_acpi_module_name"):
                return MODULE, view.code(target.atom).rstrip(b"\0").decode("utf-8", "replace")
        elif target.section is not None and target.section.is_string:
            text = str(target.section.string_at(target.offset))
            if _SOURCE.fullmatch(text):
                return FILE, text
            return (FUNCTION if text in self._own_names else "text"), text
        return "", ""

    @cached_property
    def _own_names(self) -> frozenset[str]:
        """What `__func__` may be as a plain string: the function's own name and that of any function of the file."""
        return frozenset(name.split(".")[0] for atom in self.view.functions for name in atom.names)


def _taken(call: _Call, number: int) -> _Given | None:
    """What a call takes as argument `number`, if that is a line."""
    for row in takers_of(call.callee):
        if row.line == number and (found := _by_declaration(call, row)) is not None:
            return found
    return _by_format(call, number)


def _by_declaration(call: _Call, row: Taker) -> _Given | None:
    if not row.kind:
        return _Given(call.callee, row.line, "", "", True, call.insn)
    kind, text = call.argument(row.sibling)
    if kind != row.kind or not re.match(row.sources, text.removeprefix("./")):
        return None
    return _Given(call.callee, row.line, kind, text, True, call.insn)


def _by_format(call: _Call, number: int) -> _Given | None:
    """A line that a format prints beside the file or the function: `%s:%d`, `line %d of file %s`."""
    for at in range(min(number, len(call.view.arch.argument_registers))):
        kind, text = call.argument(at)
        if kind != "text" or "%" not in text:
            continue
        kinds = conversions(text)
        place = number - at - 1
        if not 0 <= place < len(kinds) or kinds[place] not in "diu":
            continue
        for beside in (place - 1, place + 1, place - 2, place + 2):
            if 0 <= beside < len(kinds) and kinds[beside] == "s":
                sibling, name = call.argument(at + 1 + beside)
                if sibling in (FILE, FUNCTION):
                    return _Given(call.callee, number, sibling, name, bool(FORMATS.search(text)), call.insn)
    return None

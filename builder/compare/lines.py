"""Proof that a changed immediate is only a source line number that moved.

An immediate counts as a line number only where it is given to a call that takes a line there: by the callee's
declaration (`line_takers`), or by the callee's format. What goes with a line has to be there too: the file or the
function. And the line has to be the right one, as far as can be told: the line table of both objects puts the call at
just that line, or the source patch moves the one line to the other. All else is a change: a compared constant, or a
number that is merely near, is no line number.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final, NamedTuple

from builder.acquire.shifts import Shift
from builder.arch import Instruction
from builder.compare import naming
from builder.compare.atoms import Atom
from builder.compare.calls import Call, given_to
from builder.compare.line_takers import FILE, FORMATS, FUNCTION, MODULE, Taker, conversions, takers_of
from builder.compare.meaning import FILE_LINE
from builder.compare.view import View, may_be_of

if TYPE_CHECKING:
    from builder.compare.dwarf import LineTable

_FUNCTION_NAMES: Final = ("__func__", "__FUNCTION__", "__PRETTY_FUNCTION__")


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


class AskedLine(NamedTuple):
    """A question to the source patch: whether it moves the line `old` to `new` in what may be `file`.

    None stands for the files that the new object is made of, for a call that names none.
    """

    file: str | None
    old: int
    new: int


class LineProof:
    """Line tables of both objects, read when first needed; `shifts` is what a source patch moves.

    `asked` is all that the shifts have been asked, with the answers: other shifts that answer the same prove the same.
    """

    def __init__(self, old: View, new: View, shifts: Sequence[Shift] = ()) -> None:
        self.old, self.new = old, new
        self.shifts = tuple(shifts)
        self.asked: dict[AskedLine, bool] = {}

    @cached_property
    def _tables(self) -> tuple[LineTable | None, LineTable | None]:
        from builder.compare.dwarf import LineTable  # here, for it is slow to import and most pairs need no line

        return LineTable.of(self.old.obj), LineTable.of(self.new.obj)

    @property
    def has_tables(self) -> bool:
        """Whether both objects say which line each instruction is of."""
        return all(table is not None for table in self._tables)

    @property
    def knows_lines(self) -> bool:
        """Whether anything says where lines are: then what nothing proves is a change."""
        return self.has_tables or bool(self.shifts)

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
        first, second = given(self.old, old, a), given(self.new, new, b)
        if not first or len(first) != len(second):
            return False
        return all(
            _same_kind(x, y) and self._agrees(old, a, x, pair[0], new, b, y, pair[1])
            for x, y in zip(first, second, strict=True)
        )

    def is_line_in_text(
        self, old: Atom, a: Instruction, new: Atom, b: Instruction, text_a: bytes, text_b: bytes
    ) -> bool:
        """Whether the numbers behind file names in two texts, which differ in nothing else, are moved lines."""
        for first, second in zip(FILE_LINE.finditer(text_a), FILE_LINE.finditer(text_b), strict=True):
            x, y = (_Given("", -1, FILE, found[1].decode(), True, row) for found, row in ((first, a), (second, b)))
            if first[2] != second[2] and not self._agrees(old, a, x, int(first[2]), new, b, y, int(second[2])):
                return False
        return True

    def may_be_line_number(
        self, old: Atom, a: Instruction, new: Atom, b: Instruction, code_a: bytes, code_b: bytes
    ) -> bool:
        """Whether the callee takes a line there, or may: what is lacking is the proof that it is the right one."""
        if self._constants(code_a, code_b) is None:
            return False
        return bool(given(self.old, old, a) and given(self.new, new, b))

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
        """Whether the line tables, or else the source patch, say that these are the lines; a declaration may do.

        A patch moves other numbers too: of what only a format prints the line tables have the last word, and what it
        writes itself in place of the other number is no line.
        """
        moved = self.moves(AskedLine(second.sibling if second.kind == FILE else None, x, y))
        declared = first.declared and bool(first.kind)
        if not self.has_tables:
            return moved or (declared and not self.shifts)
        before, after = self._distances(self.old, old, a, first, x), self._distances(self.new, new, b, second, y)
        return (moved and declared) or any(
            far == near and (not near or declared or moved)
            for near, far in zip(before, after, strict=True)
            if near is not None
        )

    def moves(self, line: AskedLine) -> bool:
        """Whether the source patch moves a line so, and does not itself write the one number in place of the other."""
        found = self.asked[line] = is_moved(line, self.shifts, self.new.files)
        return found

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
    return replace(first, call=second.call) == second


def is_moved(line: AskedLine, shifts: Sequence[Shift], files: frozenset[str]) -> bool:
    """What `LineProof.moves` answers, of an object whose `View.files` these are."""
    moved = any(shift.moved(line.old) == line.new for shift in shifts if _is_of(shift, files, line.file))
    return moved and not any(shift.writes(line.old, line.new) for shift in shifts)


def _is_of(shift: Shift, files: frozenset[str], file: str | None) -> bool:
    """Whether a line of `file`, or of an object of these files, may be one of the shift's."""
    if file is not None:
        return _one_ends_as_the_other(PurePosixPath(shift.path).parts, PurePosixPath(file).parts)
    return may_be_of(files, shift.path)


def _one_ends_as_the_other(first: tuple[str, ...], second: tuple[str, ...]) -> bool:
    shared = min(len(first), len(second))
    return shared > 0 and first[-shared:] == second[-shared:]


def given(view: View, atom: Atom, insn: Instruction) -> tuple[_Given, ...]:
    """Each call that a constant is given to as a line, on every way from it; empty where one takes no line."""
    found = [_taken(call, number) for call, number in given_to(view, atom, insn)]
    if any(row is None for row in found):
        return ()
    return tuple(sorted({row for row in found if row is not None}, key=lambda row: row.call.offset))


def _sibling(call: Call, number: int) -> tuple[str, str]:
    """What a register argument is: (kind, text), with kind "text" for other strings, "" for what cannot be told."""
    target = call.argument(number)
    if target is None:
        return "", ""
    if target.atom is not None and not target.atom.is_function and not target.offset:
        parts = target.atom.name.split(".")
        text = call.view.code(target.atom).rstrip(b"\0").decode("utf-8", "surrogateescape")
        if parts[0] in _FUNCTION_NAMES or parts[-1] in _FUNCTION_NAMES:
            return FUNCTION, text
        if parts[0] == "_acpi_module_name":
            return MODULE, text
    elif target.section is not None and target.section.is_string:
        text = str(target.section.string_at(target.place))
        if naming.is_source_name(text):
            return FILE, text
        # clang puts __func__ among the other strings
        is_name = any(text == name.split(".")[0] for atom in call.view.functions for name in atom.names)
        return (FUNCTION if is_name else "text"), text
    return "", ""


def _taken(call: Call, number: int) -> _Given | None:
    """What a call takes as argument `number`, if that is a line."""
    for row in takers_of(call.callee):
        if (
            row.line == number
            and (row.local or not call.is_local)
            and (found := _by_declaration(call, row)) is not None
        ):
            return found
    return _by_format(call, number)


def _by_declaration(call: Call, row: Taker) -> _Given | None:
    if not row.kind:
        return _Given(call.callee, row.line, "", "", True, call.insn)
    kind, text = _sibling(call, row.sibling)
    if kind != row.kind or not re.match(row.sources, text.removeprefix("./")):
        return None
    return _Given(call.callee, row.line, kind, text, True, call.insn)


def _by_format(call: Call, number: int) -> _Given | None:
    """A line that a format prints beside the file or the function: `%s:%d`, `line %d of file %s`."""
    for at in range(min(number, len(call.view.arch.argument_registers))):
        kind, text = _sibling(call, at)
        if kind != "text" or "%" not in text:
            continue
        kinds = conversions(text)
        place = number - at - 1
        if not 0 <= place < len(kinds) or kinds[place] not in "diu":
            continue
        for beside in (place - 1, place + 1, place - 2, place + 2):
            if 0 <= beside < len(kinds) and kinds[beside] == "s":
                sibling, name = _sibling(call, at + 1 + beside)
                if sibling in (FILE, FUNCTION):
                    return _Given(call.callee, number, sibling, name, bool(FORMATS.search(text)), call.insn)
    return None

"""Proof that a changed immediate is only a source line number that moved.

An immediate counts as a line number in two cases only: the callee that receives
it is known to take a line in that argument, or the line table of both objects
puts the instruction at just that line. Everything else is a change.
"""

from __future__ import annotations

import re
from functools import cached_property
from itertools import islice
from typing import Final

from builder.arch import Instruction
from builder.compare.dwarf import LineTable
from builder.compare.view import Atom, View

# Callee -> number of the argument that is __LINE__ (kernel declarations, Linux 4.x to 6.12).
_LINE_ARGUMENT: Final = tuple(
    (re.compile(pattern), argument)
    for pattern, argument in (
        (r"__might_(sleep|fault|resched)|___might_sleep", 1),  # include/linux/kernel.h
        (r"__cant_(sleep|migrate)", 1),
        (r"lockdep_rcu_suspicious", 1),  # include/linux/lockdep.h
        (r"warn_slowpath_(null|fmt|fmt_taint)", 1),  # include/asm-generic/bug.h
        (r"__warn_printk", 1),
        (r"__btrfs_(abort_transaction|panic|handle_fs_error|std_error)", 2),  # fs/btrfs/messages.h
        (r"btrfs_assertfail|assertfail(\.constprop\.\d+|\.isra\.\d+)*", 2),
        (r"(xfs_)?(assfail|asswarn)", 3),  # fs/xfs/xfs_message.h
        (r"__ext4_(std_)?error|__ext4_warning|__ext4_msg", 2),  # fs/ext4/ext4.h
        (r"__ext4_(error|warning)_(inode|file)|__ext4_grp_locked_error|__ext4_abort", 2),
        (
            r"__ext4_journal_(start_sb|stop|get_write_access|forget|get_create_access)|__ext4_handle_dirty_\w+",
            1,
        ),
    )
)
# Formats of which an argument is __LINE__: ASSERT_RTNL() of include/linux/rtnetlink.h up to 5.x.
_LINE_FORMAT: Final = ((b"RTNL: assertion failed at %s (%d)", 2), (b"assertion failed at %s:%d", 2))
_PRINTERS: Final = re.compile(r"_?printk|__warn_printk|panic")
# Instructions between a format and the line, and between the line and the call that takes it.
_BEHIND: Final = 12
_AHEAD: Final = 48
# A macro call that spans several lines puts __LINE__ some lines after its statement.
_SPAN: Final = 40


class LineProof:
    """Line tables of both objects, read when first needed."""

    def __init__(self, old: View, new: View) -> None:
        self.old, self.new = old, new

    @cached_property
    def _tables(self) -> tuple[LineTable | None, LineTable | None]:
        return LineTable.of(self.old.obj), LineTable.of(self.new.obj)

    def source(self, view: View, atom: Atom, offset: int) -> str:
        """`file.c:123` for a section offset, empty without DWARF."""
        table = self._tables[0 if view is self.old else 1]
        found = table.find(atom.section.index, offset) if table else None
        return f"{found[0]}:{found[1]}" if found else ""

    def is_line_number(
        self, old: Atom, a: Instruction, new: Atom, b: Instruction, code_a: bytes, code_b: bytes
    ) -> bool:
        """Whether two encodings differ in one immediate only, and that is a line number on both sides."""
        first, second = self.old.arch.immediate(code_a), self.new.arch.immediate(code_b)
        if first is None or second is None or first[0] != second[0]:
            return False
        x, y = first[1], second[1]
        if not (0 < x < 1 << 20 and 0 < y < 1 << 20):
            return False
        if self._by_callee(self.old, old, a, code_a) and self._by_callee(self.new, new, b, code_b):
            return True
        return self._by_table(old, a, x, new, b, y)

    def _by_callee(self, view: View, atom: Atom, insn: Instruction, code: bytes) -> bool:
        register = view.arch.moves_constant_to(code)
        if register is None or register not in view.arch.argument_registers:
            return False
        number = view.arch.argument_registers.index(register)
        rows = view.instructions(atom)
        position = next((k for k, i in enumerate(rows) if i.offset == insn.offset), len(rows))
        formats: set[bytes] = set()
        for row in islice(rows, max(position - _BEHIND, 0), position + _AHEAD):
            after = row.offset > insn.offset
            for r in view.relocations_in(atom.section.index, row.offset, row.end):
                target = view.target(r, view.bias(atom, r))
                if target.section is not None and target.section.is_string and not row.is_call:
                    formats.add(target.section.string_at(target.offset).data)
                elif row.is_call and after:
                    name = target.atom.name if target.atom else target.symbol.name
                    return _takes_line(name, number, formats)
            if after and (row.ends_block or row.is_jump or row.is_call):
                return False
            if after and register in view.arch.writes(atom.section.data[row.offset : row.end]):
                return False
        return False

    def _by_table(self, old: Atom, a: Instruction, x: int, new: Atom, b: Instruction, y: int) -> bool:
        first, second = self._tables
        if first is None or second is None:
            return False
        for (file_a, line_a), (file_b, line_b) in zip(
            self._lines_near(first, self.old, old, a),
            self._lines_near(second, self.new, new, b),
            strict=False,
        ):
            if file_a == file_b and x - line_a == y - line_b and 0 <= x - line_a <= _SPAN:
                return True
        return False

    def _lines_near(self, table: LineTable, view: View, atom: Atom, insn: Instruction) -> list[tuple[str, int]]:
        """Source lines of the instruction itself and of the next call: an argument is loaded for it."""
        rows = view.instructions(atom)
        position = next((k for k, i in enumerate(rows) if i.offset == insn.offset), len(rows))
        out = []
        own = table.find(atom.section.index, insn.offset)
        if own:
            out.append(own)
        for row in islice(rows, position + 1, position + _BEHIND):
            if row.is_call:
                found = table.find(atom.section.index, row.offset)
                if found:
                    out.append(found)
                break
        return out


def _takes_line(callee: str, argument: int, formats: set[bytes]) -> bool:
    if any(argument == number and pattern.fullmatch(callee) for pattern, number in _LINE_ARGUMENT):
        return True
    if not _PRINTERS.fullmatch(callee):
        return False
    return any(number == argument and any(known in text for text in formats) for known, number in _LINE_FORMAT)

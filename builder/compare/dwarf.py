"""Source lines from .debug_line (DWARF 2 to 5, section 6.2), decoded for the sections that are asked about.

In a relocatable object each function's section has a sequence of its own, which
the relocation of its first address names: only that sequence is run.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from operator import itemgetter

from builder.binary import ObjectFile, Relocation, SectionIndex
from builder.compare import dwarf_numbers as dw
from builder.compare.dies import TypesUnknown, addends, content, sleb, uleb

_SKIPPED = {
    dw.DW_FORM_data1: 1, dw.DW_FORM_data2: 2, dw.DW_FORM_data4: 4, dw.DW_FORM_data8: 8, dw.DW_FORM_data16: 16,
}  # fmt: skip
"""Forms of what is told of a file beside its name (its directory, time, size and MD5) -> bytes."""
_END_OF_SEQUENCE = bytes((0, 1, dw.DW_LNE_end_sequence))
_SET_ADDRESS = bytes((0, 1 + 8, dw.DW_LNE_set_address))
"""An extended opcode: zero, how many bytes follow, which it is."""


@dataclass(frozen=True, slots=True)
class _Program:
    """One unit's line program: opcodes in [start, end) of .debug_line; `files` by their number."""

    start: int
    end: int
    files: dict[int, str]
    step: int
    line_base: int
    line_range: int
    operands: bytes


class LineTable:
    """(section index, offset) -> (file name, line)."""

    def __init__(self, obj: ObjectFile) -> None:
        """Raises TypesUnknown, or what malformed input leads to: see `of`."""
        if not obj.little:
            raise TypesUnknown("big-endian debug information")
        self._data = content(obj, ".debug_line")
        self._strings = {
            dw.DW_FORM_line_strp: content(obj, ".debug_line_str"),
            dw.DW_FORM_strp: content(obj, ".debug_str"),
        }
        self._references = addends(obj, ".debug_line")
        self._programs = self._read_programs()
        self._sequences: dict[SectionIndex, list[int]] = {}
        self._addresses: dict[int, tuple[SectionIndex, int]] = {}
        self._decoded: dict[SectionIndex, tuple[list[int], list[tuple[int, str, int]]]] = {}
        for r in obj.relocations_of(obj.by_name[".debug_line"].index):
            self._index(obj, r)

    @classmethod
    def of(cls, obj: ObjectFile) -> LineTable | None:
        """The line table of an object, or None if it has no readable one."""
        if ".debug_line" not in obj.by_name:
            return None
        try:
            return cls(obj)
        except (TypesUnknown, IndexError, KeyError, ValueError, struct.error):
            return None  # lines only ever excuse a difference: without them it stays one

    def find(self, section: SectionIndex, offset: int) -> tuple[str, int] | None:
        """File and line of the instruction at an offset of a section."""
        found = self._rows(section)
        at = bisect_right(found[0], offset) - 1
        if at < 0:
            return None
        _, file, line = found[1][at]
        return (file, line) if line else None

    def lines(self, section: SectionIndex, file: str) -> frozenset[int]:
        """All lines of a file that a section has instructions of."""
        return frozenset(line for _, name, line in self._rows(section)[1] if name == file and line)

    def _rows(self, section: SectionIndex) -> tuple[list[int], list[tuple[int, str, int]]]:
        """The rows (offset, file, line) of a section in order, with their offsets beside them; decoded once."""
        found = self._decoded.get(section)
        if found is None:
            rows: list[tuple[int, str, int]] = []
            try:
                for start in sorted(set(self._sequences.get(section, ()))):
                    rows += self._run(start, section)
            except (IndexError, KeyError, ValueError, struct.error):
                rows = []
            rows.sort(key=itemgetter(0))
            found = self._decoded[section] = ([row[0] for row in rows], rows)
        return found

    def _index(self, obj: ObjectFile, relocation: Relocation) -> None:
        """Note a DW_LNE_set_address: where it leads, and the start of its sequence."""
        at = relocation.offset
        program = next((p for p in self._programs if p.start <= at < p.end), None)
        symbol = obj.symbols[relocation.symbol]
        if program is None or not symbol.is_defined or self._data[at - 3 : at] != _SET_ADDRESS:
            return
        self._addresses[at] = (symbol.shndx, symbol.value + relocation.addend)
        # No row precedes the address, so what ended the last sequence cannot be an operand.
        before = self._data.rfind(_END_OF_SEQUENCE, program.start, at)
        start = before + len(_END_OF_SEQUENCE) if before >= 0 else program.start
        self._sequences.setdefault(symbol.shndx, []).append(start)

    def _run(self, pos: int, section: SectionIndex) -> Iterator[tuple[int, str, int]]:
        """Run one sequence; its rows (offset, file, line) that lie in `section`."""
        program = next(p for p in self._programs if p.start <= pos < p.end)
        data, files, step = self._data, program.files, program.step
        base, span, first = program.line_base, program.line_range, len(program.operands) + 1
        place, address, file, line = -1, 0, 1, 1
        while pos < program.end:
            code = data[pos]
            pos += 1
            if code >= first:
                code -= first
                address += code // span * step
                line += base + code % span
                if place == section:
                    yield address, files.get(file, "?"), line
            elif code == 0:
                size, pos = uleb(data, pos)
                if data[pos] == dw.DW_LNE_end_sequence:
                    if place == section:
                        yield address, "", 0
                    return
                if data[pos] == dw.DW_LNE_set_address:
                    place, address = self._addresses[pos + 1]
                pos += size
            elif code == dw.DW_LNS_copy:
                if place == section:
                    yield address, files.get(file, "?"), line
            elif code == dw.DW_LNS_advance_pc:
                amount, pos = uleb(data, pos)
                address += amount * step
            elif code == dw.DW_LNS_advance_line:
                amount, pos = sleb(data, pos)
                line += amount
            elif code == dw.DW_LNS_set_file:
                file, pos = uleb(data, pos)
            elif code == dw.DW_LNS_const_add_pc:
                address += (255 - first) // span * step
            elif code == dw.DW_LNS_fixed_advance_pc:
                address += int.from_bytes(data[pos : pos + 2], "little")
                pos += 2
            else:
                for _ in range(program.operands[code - 1]):
                    _, pos = uleb(data, pos)

    def _read_programs(self) -> list[_Program]:
        data, pos, out = self._data, 0, []
        while pos < len(data):
            length, version = struct.unpack_from("<IH", data, pos)
            if length >= 0xFFFFFFF0 or version not in (2, 3, 4, 5):
                raise TypesUnknown(f"line table of version {version}")
            end = pos + 4 + length
            at = pos + (8 if version == 5 else 6)
            start = at + 4 + int.from_bytes(data[at : at + 4], "little")
            at += 4
            step = data[at]
            at += 3 if version >= 4 else 2  # minimum length, operations per instruction, default_is_stmt
            line_base, line_range, first = struct.unpack_from("<bBB", data, at)
            operands = data[at + 3 : at + 2 + first]
            at += 2 + first
            files = self._files(at) if version == 5 else self._old_files(at)
            out.append(_Program(start, end, files, step, line_base, line_range, operands))
            pos = end
        return out

    def _files(self, pos: int) -> dict[int, str]:
        """The directory and file tables of version 5; files are numbered from 0."""
        _, pos = self._table(pos)
        names, _ = self._table(pos)
        return dict(enumerate(names))

    def _table(self, pos: int) -> tuple[list[str], int]:
        data = self._data
        formats, pos = data[pos], pos + 1
        columns = []
        for _ in range(formats):
            kind, pos = uleb(data, pos)
            form, pos = uleb(data, pos)
            columns.append((kind, form))
        count, pos = uleb(data, pos)
        names = []
        for _ in range(count):
            name = "?"
            for kind, form in columns:
                start = pos
                if form == dw.DW_FORM_string:
                    pos = data.index(0, pos) + 1
                    text = data[start : pos - 1]
                elif form in self._strings:
                    pos += 4
                    strings = self._strings[form]
                    at = self._references.get(start, int.from_bytes(data[start:pos], "little"))
                    text = strings[at : strings.index(0, at)]
                elif form == dw.DW_FORM_udata:
                    _, pos = uleb(data, pos)
                    text = b""
                elif form in _SKIPPED:
                    pos += _SKIPPED[form]
                    text = b""
                else:
                    raise TypesUnknown(f"file name of form {form:#x}")
                if kind == dw.DW_LNCT_path:
                    name = text.decode("utf-8", "surrogateescape")
            names.append(name)
        return names, pos

    def _old_files(self, pos: int) -> dict[int, str]:
        """The tables of versions 2 to 4; files are numbered from 1."""
        data = self._data
        while data[pos]:
            pos = data.index(0, pos) + 1
        pos += 1
        out: dict[int, str] = {}
        while data[pos]:
            end = data.index(0, pos)
            out[len(out) + 1] = data[pos:end].decode("utf-8", "surrogateescape")
            pos = end + 1
            for _ in range(3):
                _, pos = uleb(data, pos)
        return out

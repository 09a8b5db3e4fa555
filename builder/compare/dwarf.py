"""Source lines from .debug_line (DWARF 2 to 5, section 6.2), decoded for the sections that are asked about.

In a relocatable object each function's section has a sequence of its own, which
the relocation of its first address names: only that sequence is run.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from dataclasses import dataclass

from builder.binary import ObjectFile, Relocation
from builder.compare.dies import TypesUnknown, addends, content, sleb, uleb

_END_OF_SEQUENCE = b"\x00\x01\x01"
_SET_ADDRESS = b"\x00\x09\x02"


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
        self._strings = {0x1F: content(obj, ".debug_line_str"), 0x0E: content(obj, ".debug_str")}
        self._references = addends(obj, ".debug_line")
        self._programs = self._read_programs()
        self._sequences: dict[int, list[int]] = {}
        self._addresses: dict[int, tuple[int, int]] = {}
        self._decoded: dict[int, tuple[list[int], list[tuple[int, str, int]]]] = {}
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

    def find(self, section: int, offset: int) -> tuple[str, int] | None:
        """File and line of the instruction at an offset of a section."""
        found = self._rows(section)
        at = bisect_right(found[0], offset) - 1
        if at < 0:
            return None
        _, file, line = found[1][at]
        return (file, line) if line else None

    def lines(self, section: int, file: str) -> frozenset[int]:
        """All lines of a file that a section has instructions of."""
        return frozenset(line for _, name, line in self._rows(section)[1] if name == file and line)

    def _rows(self, section: int) -> tuple[list[int], list[tuple[int, str, int]]]:
        """The rows (offset, file, line) of a section in order, with their offsets beside them; decoded once."""
        found = self._decoded.get(section)
        if found is None:
            rows: list[tuple[int, str, int]] = []
            try:
                for start in sorted(set(self._sequences.get(section, ()))):
                    self._run(start, section, rows)
            except (IndexError, KeyError, ValueError, struct.error):
                rows = []
            rows.sort(key=lambda row: row[0])
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

    def _run(self, pos: int, section: int, rows: list[tuple[int, str, int]]) -> None:
        """Run one sequence and append its rows (offset, file, line) that lie in `section`."""
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
                    rows.append((address, files.get(file, "?"), line))
            elif code == 0:
                size, pos = uleb(data, pos)
                if data[pos] == 1:
                    if place == section:
                        rows.append((address, "", 0))
                    return
                if data[pos] == 2:
                    place, address = self._addresses[pos + 1]
                pos += size
            elif code == 1:
                if place == section:
                    rows.append((address, files.get(file, "?"), line))
            elif code == 2:
                amount, pos = uleb(data, pos)
                address += amount * step
            elif code == 3:
                amount, pos = sleb(data, pos)
                line += amount
            elif code == 4:
                file, pos = uleb(data, pos)
            elif code == 8:
                address += (255 - first) // span * step
            elif code == 9:
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
                if form == 0x08:
                    pos = data.index(0, pos) + 1
                    text = data[start : pos - 1]
                elif form in self._strings:
                    pos += 4
                    strings = self._strings[form]
                    at = self._references.get(start, int.from_bytes(data[start:pos], "little"))
                    text = strings[at : strings.index(0, at)]
                elif form == 0x0F:
                    _, pos = uleb(data, pos)
                    text = b""
                elif form in (0x0B, 0x05, 0x06, 0x07, 0x1E):
                    pos += {0x0B: 1, 0x05: 2, 0x06: 4, 0x07: 8, 0x1E: 16}[form]
                    text = b""
                else:
                    raise TypesUnknown(f"file name of form {form:#x}")
                if kind == 1:
                    name = text.decode("utf-8", "replace")
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
            out[len(out) + 1] = data[pos:end].decode("utf-8", "replace")
            pos = end + 1
            for _ in range(3):
                _, pos = uleb(data, pos)
        return out

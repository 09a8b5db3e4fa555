"""Entries of .debug_info (DWARF 2 to 5): each abbreviation is compiled once into a reader of its layout.

Attribute and form numbers are those of DWARF 5, section 7.5. What is not
understood ends in `TypesUnknown`, never in a guess.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from builder.binary import ObjectFile, elf

ARRAY, ENUMERATION, MEMBER, POINTER, STRUCTURE, TYPEDEF, UNION = 0x01, 0x04, 0x0D, 0x0F, 0x13, 0x16, 0x17
SUBRANGE, CONST, VARIABLE, VOLATILE, RESTRICT, ATOMIC, COMPILE_UNIT = 0x21, 0x26, 0x34, 0x35, 0x37, 0x47, 0x11

NAME: Final = 0x03
"""DW_AT_name."""

# Form -> bytes, for 32-bit DWARF with 8-byte addresses; forms of variable length are not here.
_FIXED: Final = {
    0x01: 8, 0x05: 2, 0x06: 4, 0x07: 8, 0x0B: 1, 0x0C: 1, 0x0E: 4, 0x10: 4, 0x11: 1, 0x12: 2, 0x13: 4, 0x14: 8,
    0x17: 4, 0x19: 0, 0x1C: 4, 0x1D: 4, 0x1E: 16, 0x1F: 4, 0x20: 8, 0x21: 0, 0x25: 1, 0x26: 2, 0x28: 4, 0x29: 1,
    0x2A: 2, 0x2C: 4, 0x1F20: 4, 0x1F21: 4,
}  # fmt: skip
_LETTER: Final = {1: "B", 2: "H", 4: "I", 8: "Q"}
_STRING, _STRP, _REF_ADDR, _SEC_OFFSET, _IMPLICIT, _PRESENT = 0x08, 0x0E, 0x10, 0x17, 0x21, 0x19
_UNIT_REFS: Final = frozenset({0x11, 0x12, 0x13, 0x14})
_STRX: Final = {0x1A: 0, 0x25: 1, 0x26: 2, 0x28: 4}
_ULEB: Final = frozenset({0x0F, 0x15, 0x1A, 0x1B, 0x22, 0x23})
_EXPRESSIONS: Final = frozenset({0x0A, 0x18})
_ELSEWHERE: Final = frozenset({0x1F, 0x20, 0x1D, 0x1C, 0x1F20, 0x1F21})
"""What lies in another section or file and names no type or field of this one."""
_SLOW: Final = frozenset({_REF_ADDR, _SEC_OFFSET, 0x1E, *_STRX, *_ELSEWHERE})

_NAME, _TYPE, _SIBLING, _VALUE = 0, 2, 3, 1
_SLOTS: Final = {NAME: _NAME, 0x0B: _VALUE, 0x38: _VALUE, 0x49: _TYPE, 0x01: _SIBLING, 0x0D: 4, 0x6B: 5, 0x0C: 6,
                 0x2F: 7, 0x37: 8, 0x02: 9, 0x3C: 10, 0x72: 11, 0x73: 12}  # fmt: skip


class TypesUnknown(Exception):
    """There is no debug information, or it holds something without a rule here."""


class Die(NamedTuple):
    """The attributes of one entry that matter here.

    `name` is bytes, or the offset in .debug_str; `type` and `sibling` are
    offsets in .debug_info; `value` is DW_AT_byte_size or
    DW_AT_data_member_location; `location` the offset of a relocated address in
    .debug_info, or bytes.
    """

    name: bytes | int | None
    value: int | None
    type: int | None
    sibling: int | None
    bit_size: int | None
    data_bit_offset: int | None
    bit_offset: int | None
    upper_bound: int | None
    length: int | None
    location: bytes | int | None
    declaration: int | None
    str_offsets_base: int | None
    addr_base: int | None


class Row(NamedTuple):
    """One attribute of an abbreviation."""

    attribute: int
    form: int
    constant: int


class Plain(NamedTuple):
    """A layout of fixed size whose name, if any, comes first or by reference: read without a `Die`.

    `unpack(data, pos)` gives the values; `type`, `value` and `sibling` are
    indices into them or -1; `constant` is a DW_AT_byte_size in the abbreviation
    itself; `name_at` is where the reference to the name lies (-1: none).
    """

    unpack: Callable[..., tuple[Any, ...]]
    inline: bool
    name_at: int
    type: int
    value: int
    sibling: int
    constant: int


@dataclass(frozen=True, slots=True)
class Plan:
    """One abbreviation. `size` is that of its attributes, an inline name left out; -1 if it varies."""

    tag: int
    children: bool
    rows: tuple[Row, ...]
    size: int
    plain: Plain | None


@dataclass(slots=True)
class Unit:
    """One unit: entries in [first, end) of .debug_info; `start` is what references count from."""

    start: int
    end: int
    first: int
    plans: dict[int, Plan] = field(default_factory=dict)
    str_base: int = 8
    addr_base: int = 8


class Entries:
    """The units of an object's .debug_info and the entries in them."""

    def __init__(self, obj: ObjectFile) -> None:
        if not obj.little:
            raise TypesUnknown("big-endian debug information")
        if ".debug_info" not in obj.by_name or ".debug_abbrev" not in obj.by_name:
            raise TypesUnknown("no debug information")
        self.obj = obj
        self.data = content(obj, ".debug_info")
        self.references = addends(obj, ".debug_info")
        self._abbrev = content(obj, ".debug_abbrev")
        self._string_offsets: dict[int, int] | None = None
        self._tables: dict[int, dict[int, Plan]] = {}
        self.units = self._units()

    def _units(self) -> list[Unit]:
        data, pos, out = self.data, 0, []
        while pos < len(data):
            length, version = struct.unpack_from("<IH", data, pos)
            if length >= 0xFFFFFFF0:
                raise TypesUnknown("64-bit DWARF")
            if version not in (2, 3, 4, 5):
                raise TypesUnknown(f"DWARF version {version}")
            if version == 5:
                size, at = data[pos + 7], pos + 8
                first = at + 4 + {1: 0, 2: 12, 3: 0, 4: 8, 5: 8, 6: 12}[data[pos + 6]]
            else:
                size, at, first = data[pos + 10], pos + 6, pos + 11
            if size != 8:
                raise TypesUnknown(f"addresses of {size} bytes")
            table = self.references.get(at, struct.unpack_from("<I", data, at)[0])
            unit = Unit(pos, pos + 4 + length, first)
            unit.plans = self._plans(table)
            out.append(unit)
            pos = unit.end
        return out

    def unit_of(self, offset: int) -> Unit:
        for unit in self.units:
            if unit.start <= offset < unit.end:
                return unit
        raise TypesUnknown(f"entry {offset:#x} lies outside every unit")

    def at(self, offset: int) -> tuple[Plan, Die, int, Unit]:
        """The abbreviation, attributes, offset after them, and unit of the entry at `offset`."""
        unit = self.units[0] if len(self.units) == 1 else self.unit_of(offset)
        code, pos = uleb(self.data, offset)
        plan = unit.plans[code]
        die, pos = self.read(unit, plan, pos)
        return plan, die, pos, unit

    def read(self, unit: Unit, plan: Plan, pos: int) -> tuple[Die, int]:
        """The attributes that start at `pos`, and the offset after them."""
        slots: list[bytes | int | None] = [None] * len(Die._fields)
        for attribute, form, constant in plan.rows:
            after = self.past_form(form, pos)
            slot = _SLOTS.get(attribute)
            if slot is not None:
                slots[slot] = self._value(unit, form, constant, pos, after)
            pos = after
        return Die(*slots), pos  # type: ignore[arg-type]  # the slots' types follow from the attributes

    def skip(self, plan: Plan, pos: int) -> int:
        """The offset after the attributes that start at `pos`."""
        if plan.size >= 0:
            if plan.plain is not None and plan.plain.inline:
                pos = self.data.index(0, pos) + 1
            return pos + plan.size
        for _, form, _ in plan.rows:
            pos = self.past_form(form, pos)
        return pos

    def past_children(self, unit: Unit, pos: int) -> int:
        """The offset after the children that start at `pos`, where no sibling says it."""
        depth = 1
        while depth:
            code, pos = uleb(self.data, pos)
            if not code:
                depth -= 1
                continue
            plan = unit.plans[code]
            pos = self.skip(plan, pos)
            depth += plan.children
        return pos

    def _value(self, unit: Unit, form: int, constant: int, pos: int, after: int) -> bytes | int | None:
        data = self.data
        if form == _IMPLICIT:
            return constant
        if form == _PRESENT:
            return 1
        if form == _STRING:
            return data[pos : after - 1]
        if form in (_STRP, _REF_ADDR, _SEC_OFFSET):
            return self.references.get(pos, int.from_bytes(data[pos:after], "little"))
        if form in _STRX:
            size = _STRX[form]
            index = int.from_bytes(data[pos:after], "little") if size else uleb(data, pos)[0]
            if self._string_offsets is None:
                self._string_offsets = addends(self.obj, ".debug_str_offsets")
            return self._string_offsets[unit.str_base + 4 * index]
        if form in _ULEB:
            value = uleb(data, pos)[0]
            return value + unit.start if form == 0x15 else value
        if form == 0x0D:
            return sleb(data, pos)[0]
        if form in _EXPRESSIONS:
            size, start = (data[pos], pos + 1) if form == 0x0A else uleb(data, pos)
            return start + 1 if start + 1 in self.references else data[start : start + size]
        if form in _UNIT_REFS:
            return int.from_bytes(data[pos:after], "little") + unit.start
        if form in _ELSEWHERE:
            return None
        if form in _FIXED:
            return int.from_bytes(data[pos:after], "little")
        raise TypesUnknown(f"an attribute of form {form:#x}")

    def past_form(self, form: int, pos: int) -> int:
        """The offset after a value of `form` at `pos`."""
        data = self.data
        size = _FIXED.get(form)
        if size is not None:
            return pos + size
        if form == _STRING:
            return data.index(0, pos) + 1
        if form in _ULEB or form == 0x0D:
            while data[pos] & 0x80:
                pos += 1
            return pos + 1
        if form in (0x09, 0x18):
            size, pos = uleb(data, pos)
            return pos + size
        if form == 0x0A:
            return pos + 1 + data[pos]
        if form in (0x03, 0x04):
            width = 2 if form == 0x03 else 4
            return pos + width + int.from_bytes(data[pos : pos + width], "little")
        if form in (0x27, 0x2B):
            return pos + 3
        raise TypesUnknown(f"an attribute of form {form:#x}")

    def _plans(self, pos: int) -> dict[int, Plan]:
        """The abbreviation table at `pos` of .debug_abbrev."""
        if pos in self._tables:
            return self._tables[pos]
        data = self._abbrev
        plans = self._tables[pos] = {}
        while True:
            code, pos = uleb(data, pos)
            if not code:
                return plans
            tag, pos = uleb(data, pos)
            children = bool(data[pos])
            pos += 1
            rows: list[Row] = []
            while True:
                attribute, pos = uleb(data, pos)
                form, pos = uleb(data, pos)
                constant = 0
                if form == _IMPLICIT:
                    constant, pos = sleb(data, pos)
                if not attribute and not form:
                    break
                rows.append(Row(attribute, form, constant))
            plans[code] = _plan(tag, children, tuple(rows))


def _plan(tag: int, children: bool, rows: tuple[Row, ...]) -> Plan:
    inline = bool(rows) and rows[0].attribute == NAME and rows[0].form == _STRING
    rest = rows[1:] if inline else rows
    if not all(row.form in _FIXED for row in rest):
        return Plan(tag, children, rows, -1, None)
    size = sum(_FIXED[row.form] for row in rest)
    plain = _plain(rest, inline)
    if plain is None and inline:
        return Plan(tag, children, rows, -1, None)
    return Plan(tag, children, rows, size, plain)


def _plain(rows: tuple[Row, ...], inline: bool) -> Plain | None:
    """The quick reader of a layout; None where it holds more than a name, type, value and sibling."""
    letters, at, count, name_at, constant = "<", 0, 0, -1, -1
    index = {_TYPE: -1, _VALUE: -1, _SIBLING: -1}
    for attribute, form, literal in rows:
        size = _FIXED[form]
        slot = _SLOTS.get(attribute)
        if slot == _VALUE and form == _IMPLICIT:
            constant = literal
        elif slot is None or (slot == _NAME and form in _ELSEWHERE):
            letters += f"{size}x"
        elif form in _SLOW:
            return None
        elif slot == _NAME and form == _STRP:
            name_at = at
            letters += f"{size}x"
        elif slot in index and size in _LETTER:
            index[slot] = count
            count += 1
            letters += _LETTER[size]
        else:
            return None
        at += size
    unpack = struct.Struct(letters).unpack_from
    return Plain(unpack, inline, name_at, index[_TYPE], index[_VALUE], index[_SIBLING], constant)


def content(obj: ObjectFile, name: str) -> bytes:
    """A debug section's bytes, decompressed (gABI, "Section Compression"); empty if there is none."""
    section = obj.by_name.get(name)
    if section is None:
        return b""
    if not section.flags & elf.SHF_COMPRESSED:
        return section.data
    import zstandard  # only kernels with CONFIG_DEBUG_INFO_COMPRESSED_ZSTD need it

    kind, _, size, _ = struct.unpack_from("<IIQQ" if obj.little else ">IIQQ", section.data)
    try:
        if kind == 1:
            return zlib.decompress(section.data[24:])
        if kind == 2:
            return zstandard.ZstdDecompressor().decompress(section.data[24:], max_output_size=size)
    except (zlib.error, zstandard.ZstdError) as problem:
        raise TypesUnknown(f"section {name} cannot be decompressed ({problem})") from problem
    raise TypesUnknown(f"section {name} is compressed by method {kind}")


def addends(obj: ObjectFile, name: str) -> dict[int, int]:
    """Offset of each relocation of a debug section -> addend; what it refers to is told by its place."""
    section = obj.by_name.get(name)
    index = obj.rela_of.get(section.index) if section is not None else None
    if index is None or len(obj.sections[index].data) % 24:
        return {}
    words = memoryview(obj.sections[index].data).cast("q")
    return dict(zip(words[0::3].tolist(), words[2::3].tolist(), strict=True))


def uleb(data: bytes, pos: int) -> tuple[int, int]:
    """An unsigned LEB128 number and the offset after it."""
    byte = data[pos]
    if byte < 0x80:
        return byte, pos + 1
    value, shift = 0, 0
    while True:
        byte = data[pos]
        pos += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, pos


def sleb(data: bytes, pos: int) -> tuple[int, int]:
    """A signed LEB128 number and the offset after it."""
    start = pos
    value, pos = uleb(data, pos)
    bits = 7 * (pos - start)
    return (value - (1 << bits) if value >> (bits - 1) & 1 else value), pos

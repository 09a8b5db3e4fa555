"""Entries of .debug_info (DWARF 2 to 5): each abbreviation is compiled once into a reader of its layout.

What is not understood ends in `TypesUnknown`, never in a guess.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from typing import Any, Final, NamedTuple

from builder.binary import ObjectFile, elf, streams
from builder.compare import dwarf_numbers as dw

_SIZES: Final = {
    0: (dw.DW_FORM_flag_present, dw.DW_FORM_implicit_const),
    1: (dw.DW_FORM_data1, dw.DW_FORM_flag, dw.DW_FORM_ref1, dw.DW_FORM_strx1, dw.DW_FORM_addrx1),
    2: (dw.DW_FORM_data2, dw.DW_FORM_ref2, dw.DW_FORM_strx2, dw.DW_FORM_addrx2),
    4: (
        dw.DW_FORM_data4, dw.DW_FORM_strp, dw.DW_FORM_ref_addr, dw.DW_FORM_ref4, dw.DW_FORM_sec_offset,
        dw.DW_FORM_ref_sup4, dw.DW_FORM_strp_sup, dw.DW_FORM_line_strp, dw.DW_FORM_strx4, dw.DW_FORM_addrx4,
        dw.DW_FORM_GNU_ref_alt, dw.DW_FORM_GNU_strp_alt,
    ),
    8: (dw.DW_FORM_addr, dw.DW_FORM_data8, dw.DW_FORM_ref8, dw.DW_FORM_ref_sig8),
    16: (dw.DW_FORM_data16,),
}  # fmt: skip
_FIXED: Final = {form: size for size, forms in _SIZES.items() for form in forms}
"""Form -> bytes, for 32-bit DWARF with 8-byte addresses; forms of variable length are not here."""
_LETTER: Final = {1: "B", 2: "H", 4: "I", 8: "Q"}
_OFFSETS: Final = frozenset({dw.DW_FORM_strp, dw.DW_FORM_ref_addr, dw.DW_FORM_sec_offset})
_UNIT_REFS: Final = frozenset({dw.DW_FORM_ref1, dw.DW_FORM_ref2, dw.DW_FORM_ref4, dw.DW_FORM_ref8})
_STRX: Final = {dw.DW_FORM_strx: 0, dw.DW_FORM_strx1: 1, dw.DW_FORM_strx2: 2, dw.DW_FORM_strx4: 4}
_ULEB: Final = frozenset(
    {
        dw.DW_FORM_udata, dw.DW_FORM_ref_udata, dw.DW_FORM_strx, dw.DW_FORM_addrx, dw.DW_FORM_loclistx,
        dw.DW_FORM_rnglistx,
    }
)  # fmt: skip
_EXPRESSIONS: Final = frozenset({dw.DW_FORM_block1, dw.DW_FORM_exprloc})
_ELSEWHERE: Final = frozenset(
    {
        dw.DW_FORM_line_strp, dw.DW_FORM_ref_sig8, dw.DW_FORM_strp_sup, dw.DW_FORM_ref_sup4, dw.DW_FORM_GNU_ref_alt,
        dw.DW_FORM_GNU_strp_alt,
    }
)  # fmt: skip
"""What lies in another section or file and names no type or field of this one."""
_SLOW: Final = frozenset({dw.DW_FORM_ref_addr, dw.DW_FORM_sec_offset, dw.DW_FORM_data16, *_STRX, *_ELSEWHERE})


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


_SLOTS: Final = {
    attribute: Die._fields.index(field)
    for attribute, field in {
        dw.DW_AT_name: "name",
        dw.DW_AT_byte_size: "value",
        dw.DW_AT_data_member_location: "value",
        dw.DW_AT_type: "type",
        dw.DW_AT_sibling: "sibling",
        dw.DW_AT_bit_size: "bit_size",
        dw.DW_AT_data_bit_offset: "data_bit_offset",
        dw.DW_AT_bit_offset: "bit_offset",
        dw.DW_AT_upper_bound: "upper_bound",
        dw.DW_AT_count: "length",
        dw.DW_AT_location: "location",
        dw.DW_AT_declaration: "declaration",
        dw.DW_AT_str_offsets_base: "str_offsets_base",
        dw.DW_AT_addr_base: "addr_base",
    }.items()
}
"""Attribute -> index of the field of `Die` that holds it."""
_NAME, _VALUE, _TYPE, _SIBLING = map(Die._fields.index, ("name", "value", "type", "sibling"))


class DieRow(NamedTuple):
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


class DiePlan(NamedTuple):
    """One abbreviation. `size` is that of its attributes, an inline name left out; -1 if it varies."""

    tag: int
    children: bool
    rows: tuple[DieRow, ...]
    size: int
    plain: Plain | None


@dataclass(frozen=True, slots=True)
class Unit:
    """One unit: entries in [first, end) of .debug_info; `start` is what references count from.

    `plans` are its abbreviations by their code, `str_base` and `addr_base` where
    its parts of .debug_str_offsets and .debug_addr begin.
    """

    start: int
    end: int
    first: int
    plans: Mapping[int, DiePlan]
    str_base: int = 8
    addr_base: int = 8


_HEADER_MORE: Final = {
    dw.DW_UT_compile: 0, dw.DW_UT_type: 12, dw.DW_UT_partial: 0, dw.DW_UT_skeleton: 8, dw.DW_UT_split_compile: 8,
    dw.DW_UT_split_type: 12,
}  # fmt: skip
"""Bytes of a unit's header behind the offset of its abbreviations (DWARF 5, 7.5.1)."""


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
        self.units = self._units()

    def _units(self) -> list[Unit]:
        data, pos, out = self.data, 0, []
        plans = cache(partial(_plans, content(self.obj, ".debug_abbrev")))
        while pos < len(data):
            length, version = struct.unpack_from("<IH", data, pos)
            if length >= 0xFFFFFFF0:
                raise TypesUnknown("64-bit DWARF")
            if version not in (2, 3, 4, 5):
                raise TypesUnknown(f"DWARF version {version}")
            if version == 5:
                size, at = data[pos + 7], pos + 8
                first = at + 4 + _HEADER_MORE[data[pos + 6]]
            else:
                size, at, first = data[pos + 10], pos + 6, pos + 11
            if size != 8:
                raise TypesUnknown(f"addresses of {size} bytes")
            table = self.references.get(at, struct.unpack_from("<I", data, at)[0])
            out.append(self._with_bases(Unit(pos, pos + 4 + length, first, plans(table))))
            pos = out[-1].end
        return out

    def _with_bases(self, unit: Unit) -> Unit:
        """The unit with the bases that its first entry tells (DWARF 5, 7.26 and 7.27), if it is a whole one."""
        code, pos = uleb(self.data, unit.first)
        if code not in unit.plans or unit.plans[code].tag != dw.DW_TAG_compile_unit:
            return unit
        top, _ = self.read(unit, unit.plans[code], pos)
        strings = unit.str_base if top.str_offsets_base is None else top.str_offsets_base
        return replace(unit, str_base=strings, addr_base=unit.addr_base if top.addr_base is None else top.addr_base)

    @cached_property
    def _string_offsets(self) -> Mapping[int, int]:
        return addends(self.obj, ".debug_str_offsets")

    def unit_of(self, offset: int) -> Unit:
        for unit in self.units:
            if unit.start <= offset < unit.end:
                return unit
        raise TypesUnknown(f"entry {offset:#x} lies outside every unit")

    def at(self, offset: int) -> tuple[DiePlan, Die, int, Unit]:
        """The abbreviation, attributes, offset after them, and unit of the entry at `offset`."""
        unit = self.units[0] if len(self.units) == 1 else self.unit_of(offset)
        code, pos = uleb(self.data, offset)
        plan = unit.plans[code]
        die, pos = self.read(unit, plan, pos)
        return plan, die, pos, unit

    def read(self, unit: Unit, plan: DiePlan, pos: int) -> tuple[Die, int]:
        """The attributes that start at `pos`, and the offset after them."""
        slots: list[bytes | int | None] = [None] * len(Die._fields)
        for attribute, form, constant in plan.rows:
            fixed = _FIXED.get(form)
            after = pos + fixed if fixed is not None else self.past_form(form, pos)
            slot = _SLOTS.get(attribute)
            if slot is not None:
                slots[slot] = self._value(unit, form, constant, pos, after)
            pos = after
        return Die(*slots), pos  # type: ignore[arg-type]  # the slots' types follow from the attributes

    def skip(self, plan: DiePlan, pos: int) -> int:
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
        if form == dw.DW_FORM_implicit_const:
            return constant
        if form == dw.DW_FORM_flag_present:
            return 1
        if form == dw.DW_FORM_string:
            return data[pos : after - 1]
        if form in _OFFSETS:
            return self.references.get(pos, int.from_bytes(data[pos:after], "little"))
        if form in _STRX:
            size = _STRX[form]
            index = int.from_bytes(data[pos:after], "little") if size else uleb(data, pos)[0]
            return self._string_offsets[unit.str_base + 4 * index]
        if form in _ULEB:
            value = uleb(data, pos)[0]
            return value + unit.start if form == dw.DW_FORM_ref_udata else value
        if form == dw.DW_FORM_sdata:
            return sleb(data, pos)[0]
        if form in _EXPRESSIONS:
            size, start = (data[pos], pos + 1) if form == dw.DW_FORM_block1 else uleb(data, pos)
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
        if form == dw.DW_FORM_string:
            return data.index(0, pos) + 1
        if form in _ULEB or form == dw.DW_FORM_sdata:
            while data[pos] & 0x80:
                pos += 1
            return pos + 1
        if form in (dw.DW_FORM_block, dw.DW_FORM_exprloc):
            size, pos = uleb(data, pos)
            return pos + size
        if form == dw.DW_FORM_block1:
            return pos + 1 + data[pos]
        if form in (dw.DW_FORM_block2, dw.DW_FORM_block4):
            width = 2 if form == dw.DW_FORM_block2 else 4
            return pos + width + int.from_bytes(data[pos : pos + width], "little")
        if form in (dw.DW_FORM_strx3, dw.DW_FORM_addrx3):
            return pos + 3
        raise TypesUnknown(f"an attribute of form {form:#x}")


def _plans(data: bytes, pos: int) -> dict[int, DiePlan]:
    """The abbreviation table at `pos` of .debug_abbrev, by code."""
    plans: dict[int, DiePlan] = {}
    while True:
        code, pos = uleb(data, pos)
        if not code:
            return plans
        tag, pos = uleb(data, pos)
        children = bool(data[pos])
        pos += 1
        rows: list[DieRow] = []
        while True:
            # Nearly all fit a byte; `uleb` costs more than they do.
            attribute, form = data[pos], data[pos + 1]
            if attribute < 0x80 and form < 0x80:
                pos += 2
            else:
                attribute, pos = uleb(data, pos)
                form, pos = uleb(data, pos)
            constant = 0
            if form == dw.DW_FORM_implicit_const:
                constant, pos = sleb(data, pos)
            if not attribute and not form:
                break
            rows.append(DieRow(attribute, form, constant))
        plans[code] = _plan(tag, children, tuple(rows))


def _plan(tag: int, children: bool, rows: tuple[DieRow, ...]) -> DiePlan:
    inline = bool(rows) and rows[0].attribute == dw.DW_AT_name and rows[0].form == dw.DW_FORM_string
    rest = rows[1:] if inline else rows
    if not all(row.form in _FIXED for row in rest):
        return DiePlan(tag, children, rows, -1, None)
    size = sum(_FIXED[row.form] for row in rest)
    plain = _plain(rest, inline)
    if plain is None and inline:
        return DiePlan(tag, children, rows, -1, None)
    return DiePlan(tag, children, rows, size, plain)


def _plain(rows: tuple[DieRow, ...], inline: bool) -> Plain | None:
    """The quick reader of a layout; None where it holds more than a name, type, value and sibling."""
    letters, at, count, name_at, constant = "<", 0, 0, -1, -1
    index = {_TYPE: -1, _VALUE: -1, _SIBLING: -1}
    for attribute, form, literal in rows:
        size = _FIXED[form]
        slot = _SLOTS.get(attribute)
        if slot == _VALUE and form == dw.DW_FORM_implicit_const:
            constant = literal
        elif slot is None or (slot == _NAME and form in _ELSEWHERE):
            letters += f"{size}x"
        elif form in _SLOW:
            return None
        elif slot == _NAME and form == dw.DW_FORM_strp:
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
    header = (elf.LITTLE if obj.little else elf.BIG).compressed
    kind, _, size, _ = header.unpack_from(section.data)
    decoder = _COMPRESSIONS.get(kind)
    if decoder is None:
        raise TypesUnknown(f"section {name} is compressed by method {kind}")
    try:
        found = decoder(section.data[header.size :], size)  # the reader has held the size against the bound
    except Exception as problem:  # each library has an exception of its own
        raise TypesUnknown(f"section {name} cannot be decompressed ({problem})") from problem
    if len(found) != size:
        raise TypesUnknown(f"section {name} has another content than the {size} bytes that it tells")
    return found


_COMPRESSIONS: Final = {elf.ELFCOMPRESS_ZLIB: streams.deflated, elf.ELFCOMPRESS_ZSTD: streams.zstd}


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

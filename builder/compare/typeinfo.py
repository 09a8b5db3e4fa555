"""C types of one object from its debug information: structures, their fields, sizes, variables.

Only the top level of each unit is walked (DW_AT_sibling leads past what lies
deeper); the rest is read when it is asked for.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from builder.binary import ObjectFile
from builder.compare import dies
from builder.compare import dwarf_numbers as dw
from builder.compare.dies import Die, DiePlan, Entries, TypesUnknown, Unit, uleb

_WRAPPERS: Final = frozenset(
    {dw.DW_TAG_typedef, dw.DW_TAG_const_type, dw.DW_TAG_volatile_type, dw.DW_TAG_restrict_type, dw.DW_TAG_atomic_type}
)
_AGGREGATES: Final = frozenset({dw.DW_TAG_structure_type, dw.DW_TAG_union_type})
_NO_LIMIT: Final = (None, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF, -1)
"""The upper bound of a flexible array (GNU C writes `[0]` so or leaves it out)."""


class Field(NamedTuple):
    """A member: offset and size in bytes; of a bit-field `bits` are (first bit in the structure, width)."""

    name: str
    offset: int
    size: int
    bits: tuple[int, int] | None
    type: int


# One member for comparison: name, offset, size (or the members, if its type has no name), bits.
Shape = tuple[tuple[object, ...], ...]


class _Known(NamedTuple):
    """What has been read already, by offset: a name, what of a type counts for a layout, a type's size.

    It only saves reading it again: a layout is asked for by each structure that holds it.
    """

    names: dict[int, bytes]
    marks: dict[int, object]
    sizes: dict[int, int]


class TypeInfo:
    """The types of one object; types are named by their offset in .debug_info.

    `defined` maps `struct NAME` and `union NAME` to the offsets of their definitions: those of a
    file, and those within the functions `inside`.
    """

    def __init__(self, obj: ObjectFile, inside: frozenset[str] = frozenset()) -> None:
        """Raises TypesUnknown where there is no debug information or none that is understood."""
        try:
            self._entries = Entries(obj)
            self._inside = inside
            self._strings = dies.content(obj, ".debug_str")
            found = [row for unit in self._entries.units for row in self._defined(unit)]
            self._known = _Known({}, {}, {offset: size for _, offset, size in found})
            self.defined: dict[str, list[int]] = {}
            for name, offset, _ in found:
                if name:
                    self.defined.setdefault(name, []).append(offset)
        except (IndexError, KeyError, struct.error, ValueError) as problem:
            raise TypesUnknown(f"malformed debug information ({problem!r})") from problem

    def name_of(self, name: bytes | int | None) -> str:
        """The text of a `Die.name`; empty for none."""
        if name is None:
            return ""
        if isinstance(name, bytes):
            return name.decode("utf-8", "surrogateescape")
        return self._strings[name : self._strings.index(0, name)].decode("utf-8", "surrogateescape")

    def size(self, offset: int | None) -> int:
        """Size of a type in bytes; 0 for void, functions and what is only declared."""
        if offset is None:
            return 0
        found = self._known.sizes.get(offset)
        if found is None:
            found = self._known.sizes[offset] = self._measure(offset)
        return found

    def _measure(self, offset: int) -> int:
        entries = self._entries
        unit = entries.units[0] if len(entries.units) == 1 else entries.unit_of(offset)
        code, pos = uleb(entries.data, offset)
        plan = unit.plans[code]
        plain = plan.plain
        if plain is not None and not plain.inline:
            if plain.constant >= 0:
                return plain.constant
            if plain.value >= 0:
                return int(plain.unpack(entries.data, pos)[plain.value])
            if plain.type >= 0 and plan.tag in _WRAPPERS:
                return self.size(plain.unpack(entries.data, pos)[plain.type] + unit.start)
        die, _ = entries.read(unit, plan, pos)
        if die.value is not None:
            return die.value
        if plan.tag in _WRAPPERS:
            return self.size(die.type)
        if plan.tag == dw.DW_TAG_pointer_type:
            return 8
        shape = self.array(offset)
        if shape is None:
            return 0
        total = self.size(shape[0])
        for count in shape[1]:
            total *= count
        return total

    def strip(self, offset: int | None) -> int | None:
        """The type under typedefs and qualifiers."""
        while offset is not None:
            plan, die, _, _ = self._entries.at(offset)
            if plan.tag not in _WRAPPERS:
                return offset
            offset = die.type
        return None

    def array(self, offset: int) -> tuple[int | None, tuple[int, ...]] | None:
        """Element type and dimensions if the type is an array; a flexible one has dimension 0."""
        plan, die, pos, unit = self._entries.at(offset)
        if plan.tag != dw.DW_TAG_array_type:
            return None
        counts = []
        for tag, row in self._children(unit, pos) if plan.children else ():
            if tag == dw.DW_TAG_subrange_type:
                bound = row.upper_bound
                counts.append(row.length if row.length is not None else 0 if bound in _NO_LIMIT else (bound or 0) + 1)
        return die.type, tuple(counts)

    def is_aggregate(self, offset: int) -> bool:
        return self._entries.at(offset)[0].tag in _AGGREGATES

    def is_unnamed(self, offset: int) -> bool:
        """Whether the type is a structure or union without a tag, at the top level (gcc) or inside another (clang)."""
        entries = self._entries
        unit = entries.units[0] if len(entries.units) == 1 else entries.unit_of(offset)
        code = entries.data[offset]
        plan = unit.plans[code if code < 0x80 else uleb(entries.data, offset)[0]]
        return plan.tag in _AGGREGATES and not any(row.attribute == dw.DW_AT_name for row in plan.rows)

    def fields(self, aggregate: int) -> tuple[Field, ...]:
        """The members of a structure or union, in order; unnamed ones have an empty name."""
        plan, _, pos, unit = self._entries.at(aggregate)
        if not plan.children:
            return ()
        return tuple(self._field(row) for tag, row in self._children(unit, pos) if tag == dw.DW_TAG_member)

    def _field(self, row: Die) -> Field:
        size = self.size(row.type)
        offset = row.value or 0
        bits = None
        if row.bit_size is not None:
            first = row.data_bit_offset
            if first is None:  # DWARF 2 to 4 count from the other end of the storage unit (DWARF 4, 5.5.6)
                first = offset * 8 + size * 8 - (row.bit_offset or 0) - row.bit_size
            bits, offset, size = (first, row.bit_size), first // 8, -(-row.bit_size // 8)
        return Field(self.name_of(row.name), offset, size, bits, row.type or 0)

    def shape(self, aggregate: int) -> Shape:
        """The members for comparison between objects: equal shapes are equal layouts.

        Written out, not split up: it runs for every member of every structure.
        """
        entries = self._entries
        data, references = entries.data, entries.references
        unit = entries.units[0] if len(entries.units) == 1 else entries.unit_of(aggregate)
        plans, base = unit.plans, unit.start
        code, pos = uleb(data, aggregate)
        pos = entries.skip(plans[code], pos)
        if not plans[code].children:
            return ()
        names, marks, strings = self._known.names, self._known.marks, self._strings
        out: list[tuple[object, ...]] = []
        last = -1  # members mostly have the layout of the one before
        while True:
            code = data[pos]
            if code == last:
                pos += 1
            elif not code:
                return tuple(out)
            else:
                if code >= 0x80:
                    code, pos = uleb(data, pos)
                else:
                    pos += 1
                plan = plans[code]
                plain = plan.plain
                if plain is None or plain.type < 0 or plan.tag != dw.DW_TAG_member:
                    member, pos = self._slow_member(unit, plan, pos)
                    if member is not None:
                        out.append(member)
                    continue
                unpack, inline, name_at, type_at, value_at, _, constant = plain
                size = plan.size
                last = code if code < 0x80 else -1
            name: bytes | None = None
            if inline:
                end = data.index(0, pos)
                name = data[pos:end]
                pos = end + 1
            elif name_at >= 0:
                at = references[pos + name_at]
                name = names.get(at)
                if name is None:
                    name = names[at] = strings[at : strings.index(0, at)]
            values = unpack(data, pos)
            kind = values[type_at] + base
            mark = marks.get(kind)
            if mark is None:
                mark = self._mark(kind)
            value = values[value_at] if value_at >= 0 else max(constant, 0)
            out.append((name, value, mark, None))
            pos += size

    def _slow_member(self, unit: Unit, plan: DiePlan, pos: int) -> tuple[tuple[object, ...] | None, int]:
        """The member at `pos`, if it is one, and the offset after it."""
        die, pos = self._entries.read(unit, plan, pos)
        member = None
        if plan.tag == dw.DW_TAG_member:
            row = self._field(die)
            mark = row.size if row.bits else self._mark(row.type)
            member = (row.name.encode("utf-8", "surrogateescape") or None, row.offset, mark, row.bits)
        if plan.children:
            pos = die.sibling if die.sibling is not None else self._entries.past_children(unit, pos)
        return member, pos

    def _mark(self, offset: int) -> object:
        """What of a member's type counts for the layout: its size, or the members of an unnamed one."""
        marks = self._known.marks
        found = marks.get(offset)
        if found is None:
            found = self.size(offset)
            if self.is_unnamed(offset):
                marks[offset] = found  # an unnamed type cannot hold itself; this guards malformed input
                found = (found, self.shape(offset))
            marks[offset] = found
        return found

    def variables(self) -> Iterator[tuple[Die, Unit]]:
        """Every variable with a location, static locals of functions included."""
        entries = self._entries
        for unit in entries.units:
            pos = unit.first
            while pos < unit.end:
                code = entries.data[pos]
                if code < 0x80:
                    pos += 1
                else:
                    code, pos = uleb(entries.data, pos)
                if not code:
                    continue
                plan = unit.plans[code]
                if plan.tag == dw.DW_TAG_variable:
                    die, pos = entries.read(unit, plan, pos)
                    if die.location is not None:
                        yield die, unit
                else:
                    pos = entries.skip(plan, pos)

    def _children(self, unit: Unit, pos: int) -> Iterator[tuple[int, Die]]:
        entries = self._entries
        while True:
            code, pos = uleb(entries.data, pos)
            if not code:
                return
            plan = unit.plans[code]
            die, pos = entries.read(unit, plan, pos)
            yield plan.tag, die
            if plan.children:
                pos = die.sibling if die.sibling is not None else entries.past_children(unit, pos)

    def _defined(self, unit: Unit) -> Iterator[tuple[str, int, int]]:
        """The structures and unions that a unit defines: `struct NAME` or nothing, offset, size."""
        entries = self._entries
        data, plans, end, references = entries.data, unit.plans, unit.end, entries.references
        code, pos = uleb(data, unit.first)
        if plans[code].tag != dw.DW_TAG_compile_unit:
            return
        pos = entries.skip(plans[code], pos)
        while pos < end:
            start = pos
            code = data[pos]
            pos += 1
            if code >= 0x80:
                code, pos = uleb(data, start)
            if not code:
                continue
            plan = plans[code]
            tag, plain = plan.tag, plan.plain
            aggregate = tag in _AGGREGATES
            if not plan.children and not aggregate:
                pos = pos + plan.size if plan.size >= 0 and not (plain and plain.inline) else entries.skip(plan, pos)
                continue
            if self._inside and tag == dw.DW_TAG_subprogram:
                die, pos = entries.read(unit, plan, pos)
                if self.name_of(die.name) in self._inside:
                    yield from self._local(unit, pos)
                pos = die.sibling if die.sibling is not None else entries.past_children(unit, pos)
            elif plain is None or plain.inline or (plan.children and plain.sibling < 0):
                die, pos = entries.read(unit, plan, pos)
                if aggregate and not die.declaration:
                    yield _title(tag, self.name_of(die.name)), start, die.value or 0
                if plan.children:
                    pos = die.sibling if die.sibling is not None else entries.past_children(unit, pos)
            else:
                values = plain.unpack(data, pos)
                if aggregate:
                    name = self.name_of(references[pos + plain.name_at]) if plain.name_at >= 0 else ""
                    value = values[plain.value] if plain.value >= 0 else max(plain.constant, 0)
                    yield _title(tag, name), start, value
                pos = values[plain.sibling] + unit.start if plan.children else pos + plan.size
            if pos <= start:
                raise TypesUnknown(f"the entry at {start:#x} leads backwards")

    def _local(self, unit: Unit, pos: int) -> Iterator[tuple[str, int, int]]:
        """Those that a function defines, whose children start at `pos`, at any depth."""
        entries, depth = self._entries, 1
        while depth:
            start = pos
            code = entries.data[pos]
            if code < 0x80:
                pos += 1
            else:
                code, pos = uleb(entries.data, pos)
            if not code:
                depth -= 1
                continue
            plan = unit.plans[code]
            if plan.tag in _AGGREGATES:
                die, _ = entries.read(unit, plan, pos)
                if not die.declaration:
                    yield _title(plan.tag, self.name_of(die.name)), start, die.value or 0
            pos = entries.skip(plan, pos)
            depth += plan.children


def _title(tag: int, name: str) -> str:
    kind = "struct" if tag == dw.DW_TAG_structure_type else "union"
    return f"{kind} {name}" if name else ""

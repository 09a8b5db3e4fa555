"""Structures whose layout differs between two objects, and names of the fields of variables.

Live objects keep the layout they were made with: code that was compiled for
another one reads and writes the wrong bytes of them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from builder.binary import ObjectFile, SectionIndex, SectionOffset, Symbol
from builder.compare import dies
from builder.compare import dwarf_numbers as dw
from builder.compare.dies import Die, TypesUnknown, Unit
from builder.compare.typeinfo import Field, TypeInfo

Kind = Literal["added", "removed", "moved", "resized"]
_Place = tuple[SectionIndex, SectionOffset]
"""A section and an offset in it."""


@dataclass(frozen=True, slots=True)
class FieldChange:
    """One field, by its path through unnamed members; offsets and sizes in bytes, None where it is absent."""

    name: str
    kind: Kind
    old_offset: int | None
    new_offset: int | None
    old_size: int | None
    new_size: int | None

    def __str__(self) -> str:
        if self.kind == "added":
            return f"{self.name} is new at {self.new_offset}"
        if self.kind == "removed":
            return f"{self.name} is gone from {self.old_offset}"
        if self.kind == "resized":
            return f"{self.name} at {self.new_offset}: {self.old_size} bytes, now {self.new_size}"
        return f"{self.name} at {self.old_offset}, now at {self.new_offset}"


@dataclass(frozen=True, slots=True)
class StructChange:
    """`name` is `struct NAME` or `union NAME`; sizes in bytes."""

    name: str
    old_size: int
    new_size: int
    fields: tuple[FieldChange, ...]


def struct_changes(old: ObjectFile, new: ObjectFile, inside: frozenset[str] = frozenset()) -> tuple[StructChange, ...]:
    """Structures and unions that both objects define with different layouts, by name; those of functions `inside` too.

    Empty where one of them has no debug information or none that is understood:
    `types_unknown` then gives the reason.
    """
    if _same_information(old, new):
        return ()
    try:
        first, second = TypeInfo(old, inside), TypeInfo(new, inside)
        return tuple(_changes(first, second))
    except TypesUnknown:
        return ()
    except (IndexError, KeyError, struct.error, ValueError, RecursionError):
        return ()  # an entry that leads nowhere: the types are unknown, as `types_unknown` says


def types_unknown(obj: ObjectFile) -> str:
    """Why nothing can be said about the structures of an object; empty if they are known."""
    try:
        types = TypeInfo(obj)
        for offsets in types.defined.values():
            for offset in offsets:
                types.shape(offset)
    except TypesUnknown as reason:
        return str(reason)
    except (IndexError, KeyError, struct.error, ValueError, RecursionError) as problem:
        return f"malformed debug information ({problem!r})"
    return ""


def _same_information(old: ObjectFile, new: ObjectFile) -> bool:
    for name in (".debug_info", ".debug_abbrev", ".debug_str", ".rela.debug_info"):
        a, b = old.by_name.get(name), new.by_name.get(name)
        if (a.data if a else b"") != (b.data if b else b""):
            return False
    return True


def _changes(old: TypeInfo, new: TypeInfo) -> Iterator[StructChange]:
    for name in sorted(old.defined.keys() & new.defined.keys()):
        before, after = old.defined[name], new.defined[name]
        if len(before) == len(after) == 1:
            a, b = before[0], after[0]
            if old.size(a) == new.size(b) and old.shape(a) == new.shape(b):
                continue
            pairs = [(a, b)]
        else:
            # Types of this name in several units or functions: what each side has alone.
            mine = {(old.size(k), old.shape(k)): k for k in before}
            theirs = {(new.size(k), new.shape(k)): k for k in after}
            gone = sorted(mine[shape] for shape in mine.keys() - theirs.keys())
            come = sorted(theirs[shape] for shape in theirs.keys() - mine.keys())
            pairs = [(gone[0], come[0])] if len(gone) == len(come) == 1 else _likest(old, gone, new, come)
        for a, b in pairs:
            fields = tuple(_field_changes(flat_fields(old, a), flat_fields(new, b)))
            if fields or old.size(a) != new.size(b):
                yield StructChange(name, old.size(a), new.size(b), fields)


def _likest(old: TypeInfo, gone: list[int], new: TypeInfo, come: list[int]) -> list[tuple[int, int]]:
    """Types of one name, each with the one that has most of its fields; of equal ones in the order of the source."""
    left, pairs = list(come), []
    for a in gone:
        names = flat_fields(old, a).keys()
        counts = [len(names & flat_fields(new, b).keys()) for b in left]
        if any(counts):
            pairs.append((a, left.pop(counts.index(max(counts)))))
    return pairs


def flat_fields(types: TypeInfo, aggregate: int, prefix: str = "", base: int = 0) -> dict[str, Field]:
    """Path -> field, unnamed structures and unions resolved; offsets from the start of `aggregate`."""
    out: dict[str, Field] = {}
    for row in types.fields(aggregate):
        inner = types.strip(row.type) if row.bits is None else None
        bits = (row.bits[0] + 8 * base, row.bits[1]) if row.bits else None
        if inner is not None and types.is_unnamed(inner):
            path = f"{prefix}{row.name}." if row.name else prefix
            out |= flat_fields(types, inner, path, base + row.offset)
        else:
            out[prefix + row.name] = Field(prefix + row.name, base + row.offset, row.size, bits, row.type)
    return out


def _field_changes(old: dict[str, Field], new: dict[str, Field]) -> Iterator[FieldChange]:
    for name in sorted(old.keys() | new.keys(), key=lambda n: ((new.get(n) or old[n]).offset, n)):
        a, b = old.get(name), new.get(name)
        kind: Kind
        if a is None:
            kind = "added"
        elif b is None:
            kind = "removed"
        elif a.offset != b.offset or (a.bits and b.bits and a.bits[0] != b.bits[0]):
            kind = "moved"
        elif a.size != b.size or a.bits != b.bits:
            kind = "resized"
        else:
            continue
        yield FieldChange(
            name,
            kind,
            a.offset if a else None,
            b.offset if b else None,
            a.size if a else None,
            b.size if b else None,
        )


class Variables:
    """The variables of one object with their types."""

    def __init__(self, obj: ObjectFile) -> None:
        """Raises TypesUnknown."""
        self.types = TypeInfo(obj)
        self._obj = obj
        self._at: dict[_Place, int] = {}
        places = self._places(".debug_info")
        addresses = self._places(".debug_addr")
        for die, unit in self.types.variables():
            place = self._place(die, unit, places, addresses)
            if place is not None and die.type is not None:
                self._at.setdefault(place, die.type)

    def field(self, symbol: Symbol, offset: int) -> str:
        """The path to the innermost field at `offset` of a variable (`ops.release`, `[2].name`); empty if unknown."""
        kind = self._at.get((symbol.shndx, symbol.value))
        return self._path(kind, offset).removeprefix(".") if kind is not None else ""

    def _places(self, name: str) -> dict[int, _Place]:
        """Offset of a relocation in a debug section -> section and offset that it leads to."""
        section = self._obj.by_name.get(name)
        out: dict[int, _Place] = {}
        for r in self._obj.relocations_of(section.index) if section else ():
            symbol = self._obj.symbols[r.symbol]
            if symbol.is_defined:
                out[r.offset] = (symbol.shndx, symbol.value + r.addend)
        return out

    def _place(self, die: Die, unit: Unit, places: dict[int, _Place], addresses: dict[int, _Place]) -> _Place | None:
        if isinstance(die.location, int):
            return places.get(die.location)
        if die.location and die.location[0] == dw.DW_OP_addrx:
            return addresses.get(unit.addr_base + 8 * dies.uleb(die.location, 1)[0])
        return None

    def _path(self, kind: int | None, offset: int) -> str:
        types = self.types
        kind = types.strip(kind)
        if kind is None:
            return ""
        shape = types.array(kind)
        if shape is not None:
            size = types.size(shape[0])
            if not size:
                return ""
            number, rest = divmod(offset, size)
            steps: list[int] = []
            for count in reversed(shape[1][1:]):
                number, step = divmod(number, count or 1)
                steps.append(step)
            steps.append(number)
            return "".join(f"[{k}]" for k in reversed(steps)) + self._path(shape[0], rest)
        if not types.is_aggregate(kind):
            return ""
        for row in types.fields(kind):
            if row.offset <= offset < row.offset + row.size:
                inner = self._path(row.type, offset - row.offset) if row.bits is None else ""
                return f".{row.name}{inner}" if row.name else inner
        return ""


def field_at(obj: ObjectFile, variable: str, offset: int) -> str:
    """As `Variables.field`, by symbol name; empty where nothing is known."""
    symbol = next((s for s in obj.symbols if s.name == variable and s.is_defined), None)
    if symbol is None:
        return ""
    try:
        return Variables(obj).field(symbol, offset)
    except (TypesUnknown, IndexError, KeyError, struct.error, ValueError, RecursionError):
        return ""

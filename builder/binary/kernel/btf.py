"""BTF: the layouts of the kernel's own structures, as the kernel carries them.

Format: Documentation/bpf/btf.rst and include/uapi/linux/btf.h. Types are
numbered from 1 in the order in which they stand; `Index` is made once for an
image (a pass over all types) and kept, so that one layout needs no pass at all.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from builder.binary.kernel.layout import Member, StructLayout
from builder.errors import KernelError

INT, PTR, ARRAY, STRUCT, UNION, ENUM, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT = range(1, 12)
FUNC, FUNC_PROTO, VAR, DATASEC, FLOAT, DECL_TAG, TYPE_TAG, ENUM64 = range(12, 20)

_TYPE: Final = struct.Struct("<III")  # name_off, info, size or type
_MEMBER: Final = struct.Struct("<III")  # name_off, type, offset in bits
_ENUM64: Final = struct.Struct("<III")  # name_off, low, high
_EXTRA: Final = {
    **{kind: (0, 0) for kind in (PTR, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC, FLOAT, TYPE_TAG)},
    **{kind: (4, 0) for kind in (INT, VAR, DECL_TAG)},
    **{kind: (0, 8) for kind in (ENUM, FUNC_PROTO)},
    **{kind: (0, 12) for kind in (STRUCT, UNION, DATASEC, ENUM64)},
    ARRAY: (12, 0),
}
"""Bytes behind the 12 of each type: fixed, and for each of its `vlen` elements."""
_DEEPEST: Final = 1000
"""Typedefs and qualifiers that stand for each other in a row; more are a circle."""
_QUALIFIER: Final = {VOLATILE: "volatile ", CONST: "const ", RESTRICT: "restrict ", TYPE_TAG: ""}


@dataclass(frozen=True, slots=True)
class Index:
    """For type number i + 1: the offset of its name among the strings, and of itself among the types."""

    names: array[int]
    offsets: array[int]


class Btf:
    """The types of one .BTF section."""

    def __init__(self, data: bytes, *, where: str | Path, index: Index | None = None) -> None:
        magic, version, _flags, size, type_at, type_size, string_at, string_size = struct.unpack_from(
            "<HBBIIIII", data.ljust(24, b"\0")
        )
        if magic != 0xEB9F or version != 1:
            raise KernelError(f"its BTF is not of version 1 (magic {magic:#x}, version {version})", where=where)
        if max(type_at + type_size, string_at + string_size) + size > len(data):
            raise KernelError("its BTF is truncated", where=where)
        self.where = where
        self._types = data[size + type_at : size + type_at + type_size]
        self._strings = data[size + string_at : size + string_at + string_size]
        with self._reading("a type"):
            self.index = index or self._make_index()
        self._layouts: dict[int, StructLayout] = {}

    @contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        """While types lead from one to the other: KernelError where one leads nowhere, or round in a circle."""
        try:
            yield
        except (RecursionError, IndexError, ValueError, struct.error) as error:
            raise KernelError(f"its BTF is damaged: {what} leads nowhere ({error})", where=self.where) from None

    def _make_index(self) -> Index:
        names, offsets = array("I"), array("I")
        types, at, end = self._types, 0, len(self._types)
        unpack = _TYPE.unpack_from
        extra = [_EXTRA.get(kind) for kind in range(128)]
        while at < end:
            name, info, _ = unpack(types, at)
            names.append(name)
            offsets.append(at)
            row = extra[info >> 24 & 0x7F]
            if row is None:
                raise KernelError(
                    f"its BTF has a type of unknown kind {info >> 24 & 0x7F} (number {len(names)})",
                    where=self.where,
                )
            at += 12 + row[0] + row[1] * (info & 0xFFFF)
        return Index(names, offsets)

    def _string(self, offset: int) -> str:
        return self._strings[offset : self._strings.index(b"\0", offset)].decode("utf-8", "surrogateescape")

    def _offset_of(self, name: str) -> int:
        """Where a name stands: strings are stored once, so it is one offset. 0 for none, and where there is none."""
        return self._strings.find(b"\0" + name.encode("utf-8", "surrogateescape") + b"\0") + 1 if name else 0

    def _type(self, number: int) -> tuple[int, int, int, int, int]:
        """Name offset, kind, vlen, size or type, and where the elements begin."""
        at = self.index.offsets[number - 1]
        name, info, value = _TYPE.unpack_from(self._types, at)
        return name, info >> 24 & 0x1F, info & 0xFFFF, value, at + 12

    def _named(self, name: str, kinds: tuple[int, ...]) -> Iterator[int]:
        """Numbers of the types of these kinds that are called `name`."""
        wanted = self._offset_of(name)
        if not wanted:
            return
        names, at = self.index.names, -1
        while True:
            try:
                at = names.index(wanted, at + 1)
            except ValueError:
                return
            if self._type(at + 1)[1] in kinds:
                yield at + 1

    def layout(self, name: str) -> StructLayout:
        """The struct or union `name`, or what a typedef of that name stands for.

        Raises KernelError where there is none, or several of different layout.
        """
        with self._reading(f"struct {name}"):
            found = {self._layout(number) for number in self._named(name, (STRUCT, UNION))}
            if not found:
                for number in self._named(name, (TYPEDEF,)):
                    resolved = self._resolve(self._type(number)[3])
                    if self._type(resolved)[1] in (STRUCT, UNION):
                        found.add(self._layout(resolved))
        if len(found) > 1:
            sizes = ", ".join(str(layout.size) for layout in found)
            raise KernelError(f"{len(found)} different structs are called {name} ({sizes} bytes)", where=self.where)
        if not found:
            raise KernelError(f"its BTF has no struct {name}", where=self.where)
        return found.pop()

    def enumerators(self, name: str) -> dict[str, int]:
        """The enumerators of `enum name`; KernelError where there is no such enum."""
        with self._reading(f"enum {name}"):
            for number in self._named(name, (ENUM, ENUM64)):
                return {self._string(at): value for at, value in self._values(number)}
        raise KernelError(f"its BTF has no enum {name}", where=self.where)

    def enumerator(self, name: str) -> int:
        """The value of the enumerator `name` of whatever enum; KernelError where none has it."""
        wanted = self._offset_of(name)
        found: set[int] = set()
        if wanted:
            with self._reading(f"enumerator {name}"):
                for number in range(1, len(self.index.offsets) + 1):
                    if self._type(number)[1] in (ENUM, ENUM64):
                        found.update(value for at, value in self._values(number) if at == wanted)
        if len(found) != 1:
            raise KernelError(f"its BTF has {len(found)} values for an enumerator {name}", where=self.where)
        return found.pop()

    def _values(self, number: int) -> Iterator[tuple[int, int]]:
        _, kind, count, _, at = self._type(number)
        signed = bool(self._types[at - 5] & 0x80)  # kind_flag: bit 31 of info
        if kind == ENUM:
            for name, value in struct.iter_unpack("<Ii" if signed else "<II", self._types[at : at + 8 * count]):
                yield name, value
            return
        for name, low, high in _ENUM64.iter_unpack(self._types[at : at + 12 * count]):
            value = high << 32 | low
            yield name, value - (1 << 64) if signed and high >> 31 else value

    def _resolve(self, number: int) -> int:
        """Past typedefs and qualifiers."""
        for _ in range(_DEEPEST):
            if not number or self._type(number)[1] not in (TYPEDEF, *_QUALIFIER):
                return number
            number = self._type(number)[3]
        raise KernelError(f"its BTF is damaged: type {number} stands for itself", where=self.where)

    def size_of(self, number: int) -> int:
        """Bytes of a type by its number, 0 for void and functions."""
        number = self._resolve(number)
        if not number:
            return 0
        _, kind, _, value, at = self._type(number)
        if kind == PTR:
            return 8
        if kind == ARRAY:
            element, _, count = _TYPE.unpack_from(self._types, at)
            return int(count) * self.size_of(element)
        return value if kind in (INT, STRUCT, UNION, ENUM, FLOAT, ENUM64, DATASEC) else 0

    def type_name(self, number: int) -> str:
        """A type by its number, spelled as in C as far as one line goes."""
        if not number:
            return "void"
        name, kind, _, value, at = self._type(number)
        text = self._string(name)
        if kind in (STRUCT, UNION, ENUM, ENUM64, FWD):
            union = kind == UNION or (kind == FWD and self._types[at - 5] & 0x80)
            word = "union" if union else "enum" if kind in (ENUM, ENUM64) else "struct"
            return f"{word} {text or '{...}'}"
        if kind == PTR:
            target = self.type_name(value)
            return target.replace("()", "(*)()", 1) if target.endswith("()") else f"{target} *".replace("* *", "**")
        if kind == ARRAY:
            element, _, count = _TYPE.unpack_from(self._types, at)
            base, bracket, rest = self.type_name(element).partition("[")
            return f"{base}[{count}]{bracket}{rest}"
        if kind in _QUALIFIER:
            return _QUALIFIER[kind] + self.type_name(value)
        if kind == FUNC_PROTO:
            return f"{self.type_name(value)} ()"
        return text

    def _layout(self, number: int) -> StructLayout:
        known = self._layouts.get(number)
        if known is not None:
            return known
        name, _, count, size, at = self._type(number)
        has_bits = bool(self._types[at - 5] & 0x80)  # kind_flag
        members = []
        for text, kind, place in _MEMBER.iter_unpack(self._types[at : at + 12 * count]):
            bits = place >> 24 if has_bits else 0
            place = place & 0xFFFFFF if has_bits else place
            members.append(self._member(self._string(text), kind, place, bits))
        found = self._layouts[number] = StructLayout(self._string(name), size, tuple(members))
        return found

    def _member(self, name: str, number: int, place: int, bits: int) -> Member:
        resolved, count, size = self._resolve(number), None, self.size_of(number)
        while resolved and self._type(resolved)[1] == ARRAY:  # which ends, as what has a size does
            element, _, length = _TYPE.unpack_from(self._types, self._type(resolved)[4])
            count = length * (1 if count is None else count)
            resolved = self._resolve(element)
        inner = self._layout(resolved) if resolved and self._type(resolved)[1] in (STRUCT, UNION) else None
        text = self.type_name(number)
        if bits:
            return Member(name, place // 8, size, text, place, bits)
        return Member(name, place // 8, size, text, None, None, count, inner)

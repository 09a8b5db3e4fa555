"""The code that runs: a kernel image or a module file, asked for symbols and for what its code refers to.

A `Place` is an address in the image, or section index and offset packed into
one number for a module file, whose sections have no addresses yet. What a
module file takes from elsewhere is an `Extern`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

from builder.arch import EntryMark, Instruction
from builder.binary import Address, ObjectFile, Relocation, SectionIndex, SectionOffset, Symbol, elf, read_object
from builder.binary.kernel import Kernel, read_module_bytes
from builder.binary.module import depends_of, read_modinfo
from builder.compare.contents import content_of_object
from builder.errors import KernelError


class Extern(NamedTuple):
    """A symbol that a module takes from the kernel or another module, with an offset to it."""

    name: str
    offset: int


Place = int | Extern


class RunningSymbol(NamedTuple):
    """`sympos` as livepatch counts: 0 for a unique name, else the rank among equals from 1."""

    name: str
    place: int
    sympos: int
    size: int
    is_weak: bool = False
    is_global: bool = True


class Running(Protocol):
    """What the matcher and the binder ask of running code."""

    name: str

    @property
    def identity(self) -> str:
        """What tells its code and symbols from any others."""

    def named(self, name: str) -> Sequence[RunningSymbol]:
        """All symbols of a name in livepatch's order."""

    def at(self, place: int) -> Sequence[RunningSymbol]:
        """All symbols exactly at a place."""

    def near(self, place: int, count: int) -> frozenset[str]:
        """Names of up to `count` symbols on each side."""

    def beside(self, place: int, name: str) -> frozenset[str]:
        """The FILE symbol that a local symbol stands behind, and all local names there; empty without FILE symbols."""

    def code(self, place: int, size: int) -> bytes:
        """Up to `size` bytes from a place on; fewer where the section ends."""

    def target(self, place: int, insn: Instruction, field: int, size: int, relative: bool) -> Place:
        """Where the constant at `field` of an instruction at `place` leads to."""

    def unmarked(self, mark: EntryMark) -> frozenset[int]:
        """The places whose mark of an entry the kernel takes away."""


class RunningImage:
    """vmlinux, from its image."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.name = "vmlinux"

    @property
    def identity(self) -> str:
        return self.kernel.sha256

    def named(self, name: str) -> Sequence[RunningSymbol]:
        kernel = self.kernel
        return [
            RunningSymbol(name, s.address, kernel.sympos(s), kernel.size_of(s), s.type in "Ww", s.type.isupper())
            for s in kernel.symbols_named(name)
        ]

    def at(self, place: int) -> Sequence[RunningSymbol]:
        kernel = self.kernel
        return [
            RunningSymbol(s.name, s.address, kernel.sympos(s), 0)
            for s in kernel.symbols_in(Address(place), Address(place + 1))
        ]

    def near(self, place: int, count: int) -> frozenset[str]:
        return frozenset(
            s.name for s in self.kernel.symbols_in(Address(place - 64 * count), Address(place + 64 * count))
        )

    def beside(self, place: int, name: str) -> frozenset[str]:
        return frozenset()  # kallsyms has none

    def code(self, place: int, size: int) -> bytes:
        while size > 0:
            try:
                return self.kernel.read(Address(place), size)
            except KernelError:
                size //= 2
        return b""

    def target(self, place: int, insn: Instruction, field: int, size: int, relative: bool) -> Place:
        value = int.from_bytes(self.kernel.read(Address(place + field), size), "little", signed=relative or size < 8)
        if relative:
            return (place + insn.length + value) & (1 << 64) - 1
        return value & (1 << 64) - 1

    def unmarked(self, mark: EntryMark) -> frozenset[int]:
        found, ends = self.kernel.symbols_named(mark.start), self.kernel.symbols_named(mark.end)
        if not found or not ends:
            return frozenset()
        start, size = found[0].address, ends[0].address - found[0].address
        table = self.kernel.read(start, size)
        return frozenset(
            start + at + int.from_bytes(table[at : at + 4], "little", signed=True) for at in range(0, size, 4)
        )


class RunningModule:
    """A module from its `.ko`: sections of a relocatable file."""

    def __init__(self, name: str, obj: ObjectFile) -> None:
        self.name = name
        self.obj = obj

    @cached_property
    def identity(self) -> str:
        return content_of_object(self.obj)

    @classmethod
    def read(cls, name: str, path: Path) -> RunningModule:
        return cls(name, read_object(read_module_bytes(path), name=str(path)))

    @cached_property
    def _named(self) -> dict[str, list[RunningSymbol]]:
        """In symbol-table order, core symbols only (is_core_symbol, kernel/module/kallsyms.c, Linux 6.1)."""
        rows: dict[str, list[Symbol]] = {}
        for symbol in self.obj.symbols:
            if symbol.is_defined and symbol.name and self.obj.sections[symbol.shndx].is_alloc:
                rows.setdefault(symbol.name, []).append(symbol)
        return {
            name: [
                RunningSymbol(
                    name,
                    self.place(s),
                    k if len(row) > 1 else 0,
                    s.size,
                    s.bind == elf.STB_WEAK,
                    s.bind != elf.STB_LOCAL,
                )
                for k, s in enumerate(row, 1)
            ]
            for name, row in rows.items()
        }

    @cached_property
    def _at(self) -> dict[int, list[RunningSymbol]]:
        out: dict[int, list[RunningSymbol]] = {}
        for row in self._named.values():
            for symbol in row:
                out.setdefault(symbol.place, []).append(symbol)
        return out

    @cached_property
    def files(self) -> frozenset[str]:
        """Names of the FILE symbols: which sources the module was made of."""
        return frozenset(s.name for s in self.obj.symbols if s.type == elf.STT_FILE)

    @cached_property
    def depends(self) -> tuple[str, ...]:
        """Modules that must be loaded before this one (`depends=` of .modinfo)."""
        return depends_of(read_modinfo(self.obj))

    def exports(self, name: str) -> bool:
        """Whether the module exports a symbol (`__ksymtab_NAME`, include/linux/export.h)."""
        return f"__ksymtab_{name}" in self._named

    def named(self, name: str) -> Sequence[RunningSymbol]:
        return self._named.get(name, [])

    def at(self, place: int) -> Sequence[RunningSymbol]:
        return self._at.get(place, [])

    def near(self, place: int, count: int) -> frozenset[str]:
        section, _ = _unpacked(place)
        row = sorted((s.place, s.name) for r in self._named.values() for s in r if _unpacked(s.place)[0] == section)
        index = next((k for k, (p, _) in enumerate(row) if p >= place), len(row))
        return frozenset(n for _, n in row[max(index - count, 0) : index + count])

    @cached_property
    def _groups(self) -> Mapping[tuple[int, str], frozenset[str]]:
        return {
            (self.place(symbol), symbol.name): names
            for rows, names in file_groups(self.obj)
            for symbol in rows
            if symbol.is_defined
        }

    def beside(self, place: int, name: str) -> frozenset[str]:
        return self._groups.get((place, name), frozenset())

    def code(self, place: int, size: int) -> bytes:
        section, start = _unpacked(place)
        return self.obj.sections[section].data[start : start + size]

    def place(self, symbol: Symbol) -> int:
        """Where a symbol of this file lies."""
        return _packed(symbol.shndx, symbol.value)

    def place_in(self, section: SectionIndex) -> int:
        """Where a section of this file begins."""
        return _packed(section, SectionOffset(0))

    @cached_property
    def _relocations(self) -> Mapping[int, Relocation]:
        """By place; a livepatch has several tables for one section."""
        tables = ((SectionIndex(self.obj.sections[index].info), rows) for index, rows in self.obj.relocations.items())
        return {_packed(section, r.offset): r for section, rows in tables for r in rows}

    def target(self, place: int, insn: Instruction, field: int, size: int, relative: bool) -> Place:
        relocation = self._relocations.get(place + field)
        bias = insn.length - field if relative else 0
        if relocation is None:
            value = int.from_bytes(self.code(place + field, size), "little", signed=True)
            return place + insn.length + value if relative else value
        symbol = self.obj.symbols[relocation.symbol]
        if not symbol.is_defined:
            return Extern(symbol.name, relocation.addend + bias)
        return self.place(symbol) + relocation.addend + bias

    def unmarked(self, mark: EntryMark) -> frozenset[int]:
        section = self.obj.by_name.get(mark.table)
        if section is None:
            return frozenset()
        rows = self.obj.relocations_of(section.index)
        return frozenset(self.place(self.obj.symbols[r.symbol]) + r.addend for r in rows)


def file_groups(obj: ObjectFile) -> Iterator[tuple[Sequence[Symbol], frozenset[str]]]:
    """The local symbols behind each FILE symbol of a name, and their names with that of the file.

    The linker keeps them together, one group for each object that it was given (gABI, Symbol Table).
    """
    groups: list[list[Symbol]] = []
    for symbol in obj.symbols:
        if symbol.type == elf.STT_FILE:
            groups.append([symbol])
        elif groups and symbol.bind == elf.STB_LOCAL and symbol.type != elf.STT_SECTION:
            groups[-1].append(symbol)
    for rows in groups:
        if rows[0].name:
            yield rows[1:], frozenset(s.name for s in rows if s.name and not s.name.startswith(".L"))


_SPACE = 40  # bits of offset in a packed module place


def _packed(section: SectionIndex, offset: SectionOffset) -> int:
    return (section << _SPACE) + offset


def _unpacked(place: int) -> tuple[SectionIndex, SectionOffset]:
    return SectionIndex(place >> _SPACE), SectionOffset(place & (1 << _SPACE) - 1)

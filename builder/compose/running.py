"""The code that runs: a kernel image or a module file, asked for symbols and for what its code refers to.

A `Place` is an address in the image, or section index and offset packed into
one number for a module file, whose sections have no addresses yet. What a
module file takes from elsewhere is an `Extern`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

from builder.arch import Architecture, Instruction, by_machine
from builder.binary import ObjectFile, Relocation, Symbol, elf, read_object
from builder.binary.kernel import Kernel, read_module_bytes
from builder.errors import KernelError

_SPACE = 40  # bits of offset in a packed module place


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


class Running(Protocol):
    """What the matcher and the binder ask of running code."""

    name: str
    arch: Architecture

    def named(self, name: str) -> Sequence[RunningSymbol]:
        """All symbols of a name in livepatch's order."""

    def at(self, place: int) -> Sequence[RunningSymbol]:
        """All symbols exactly at a place."""

    def near(self, place: int, count: int) -> frozenset[str]:
        """Names of up to `count` symbols on each side."""

    def code(self, place: int, size: int) -> bytes:
        """Up to `size` bytes from a place on; fewer where the section ends."""

    def target(self, place: int, insn: Instruction, field: int, size: int, relative: bool) -> Place:
        """Where the constant at `field` of an instruction at `place` leads to."""


class RunningImage:
    """vmlinux, from its image."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.name = "vmlinux"
        self.arch = by_machine(elf.EM_X86_64, where=str(kernel.path))

    def named(self, name: str) -> Sequence[RunningSymbol]:
        kernel = self.kernel
        return [
            RunningSymbol(name, s.address, kernel.sympos(s), kernel.size_of(s), s.type in "Ww")
            for s in kernel.symbols_named(name)
        ]

    def at(self, place: int) -> Sequence[RunningSymbol]:
        kernel = self.kernel
        return [RunningSymbol(s.name, s.address, kernel.sympos(s), 0) for s in kernel.symbols_in(place, place + 1)]

    def near(self, place: int, count: int) -> frozenset[str]:
        return frozenset(s.name for s in self.kernel.symbols_in(place - 64 * count, place + 64 * count))

    def code(self, place: int, size: int) -> bytes:
        while size > 0:
            try:
                return self.kernel.read(place, size)
            except KernelError:
                size //= 2
        return b""

    def target(self, place: int, insn: Instruction, field: int, size: int, relative: bool) -> Place:
        value = int.from_bytes(self.kernel.read(place + field, size), "little", signed=relative or size < 8)
        if relative:
            return (place + insn.length + value) & (1 << 64) - 1
        return value & (1 << 64) - 1


class RunningModule:
    """A module from its `.ko`: sections of a relocatable file."""

    def __init__(self, name: str, obj: ObjectFile) -> None:
        self.name = name
        self.obj = obj
        self.arch = by_machine(obj.machine, where=obj.name)

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
                    name, s.shndx << _SPACE | s.value, k if len(row) > 1 else 0, s.size, s.bind == elf.STB_WEAK
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
        info = self.obj.by_name.get(".modinfo")
        for field in info.data.split(b"\0") if info else ():
            if field.startswith(b"depends="):
                return tuple(n for n in field[8:].decode().split(",") if n)
        return ()

    def exports(self, name: str) -> bool:
        """Whether the module exports a symbol (`__ksymtab_NAME`, include/linux/export.h)."""
        return f"__ksymtab_{name}" in self._named

    def named(self, name: str) -> Sequence[RunningSymbol]:
        return self._named.get(name, [])

    def at(self, place: int) -> Sequence[RunningSymbol]:
        return self._at.get(place, [])

    def near(self, place: int, count: int) -> frozenset[str]:
        section = place >> _SPACE
        row = sorted((s.place, s.name) for r in self._named.values() for s in r if s.place >> _SPACE == section)
        index = next((k for k, (p, _) in enumerate(row) if p >= place), len(row))
        return frozenset(n for _, n in row[max(index - count, 0) : index + count])

    def code(self, place: int, size: int) -> bytes:
        section = self.obj.sections[place >> _SPACE]
        start = place & (1 << _SPACE) - 1
        return section.data[start : start + size]

    def place(self, symbol: Symbol) -> int:
        """Where a symbol of this file lies."""
        return symbol.shndx << _SPACE | symbol.value

    @cached_property
    def _relocations(self) -> dict[int, dict[int, Relocation]]:
        return {}

    def _relocation_at(self, place: int) -> Relocation | None:
        section = place >> _SPACE
        rows = self._relocations.get(section)
        if rows is None:
            # a livepatch has several tables for one section
            tables = [t for t in self.obj.relocations if self.obj.sections[t].info == section]
            rows = self._relocations[section] = {r.offset: r for t in tables for r in self.obj.relocations[t]}
        return rows.get(place & (1 << _SPACE) - 1)

    def target(self, place: int, insn: Instruction, field: int, size: int, relative: bool) -> Place:
        relocation = self._relocation_at(place + field)
        bias = insn.length - field if relative else 0
        if relocation is None:
            value = int.from_bytes(self.code(place + field, size), "little", signed=True)
            return place + insn.length + value if relative else value
        symbol = self.obj.symbols[relocation.symbol]
        if not symbol.is_defined:
            return Extern(symbol.name, relocation.addend + bias)
        return (symbol.shndx << _SPACE) + symbol.value + relocation.addend + bias

"""The object model: frozen values that hold an ELF file's content, not its layout.

File offsets and string-table offsets are not part of the model; everything
else is, so that `read(write(x)) == x`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from builder.binary import elf


class Relocation(NamedTuple):
    """One RELA entry; `symbol` indexes `ObjectFile.symbols`."""

    offset: int
    type: int
    symbol: int
    addend: int


class Symbol(NamedTuple):
    """One symbol-table entry.

    `shndx` is the full section index (SHN_XINDEX resolved); reserved indices
    have `elf.RESERVED` set, so 0xff20 as a real section cannot be mistaken for
    SHN_LIVEPATCH.
    """

    index: int  # type: ignore[assignment]  # the table's own numbering, not tuple.index
    name: str
    value: int
    size: int
    type: int
    bind: int
    other: int
    shndx: int

    @property
    def is_defined(self) -> bool:
        """In a section of this file."""
        return 0 < self.shndx < elf.RESERVED

    @property
    def is_undefined(self) -> bool:
        """To be found elsewhere (SHN_UNDEF), the null symbol apart."""
        return self.shndx == elf.SHN_UNDEF and self.index != 0

    @property
    def is_function(self) -> bool:
        return self.type == elf.STT_FUNC

    @property
    def is_local(self) -> bool:
        return self.bind == elf.STB_LOCAL

    @property
    def is_section(self) -> bool:
        return self.type == elf.STT_SECTION


@dataclass(frozen=True, slots=True)
class Section:
    """One section; `size` equals `len(data)` except for SHT_NOBITS, whose data is empty."""

    index: int
    name: str
    type: int
    flags: int
    size: int
    data: bytes = field(repr=False)
    link: int = 0
    info: int = 0
    align: int = 1
    entsize: int = 0
    addr: int = 0

    @property
    def is_alloc(self) -> bool:
        return bool(self.flags & elf.SHF_ALLOC)

    @property
    def is_exec(self) -> bool:
        return bool(self.flags & elf.SHF_EXECINSTR)

    @property
    def is_write(self) -> bool:
        return bool(self.flags & elf.SHF_WRITE)

    @property
    def is_string(self) -> bool:
        """NUL-terminated strings that a linker may merge."""
        return self.flags & (elf.SHF_MERGE | elf.SHF_STRINGS) == elf.SHF_MERGE | elf.SHF_STRINGS

    @property
    def is_nobits(self) -> bool:
        return self.type == elf.SHT_NOBITS


@dataclass(frozen=True)
class ObjectFile:
    """An ELF-64 file: header facts, sections, symbols, relocations by RELA section index.

    `sections` include the tables (symtab, strtab, RELA); the data of those is
    what the reader saw, and is made anew by the writer from `symbols` and
    `relocations`.
    """

    name: str
    machine: int
    type: int
    sections: tuple[Section, ...] = field(repr=False)
    symbols: tuple[Symbol, ...] = field(repr=False)
    relocations: Mapping[int, tuple[Relocation, ...]] = field(repr=False)
    flags: int = 0
    entry: int = 0
    osabi: int = 0
    little: bool = True

    @cached_property
    def symtab(self) -> Section | None:
        """The SHT_SYMTAB section, if any."""
        return next((s for s in self.sections if s.type == elf.SHT_SYMTAB), None)

    @cached_property
    def rela_of(self) -> Mapping[int, int]:
        """Index of a section -> index of the RELA section that applies to it."""
        return {
            self.sections[i].info: i for i in self.relocations if not self.sections[i].flags & elf.SHF_RELA_LIVEPATCH
        }

    @cached_property
    def by_name(self) -> Mapping[str, Section]:
        """First section of each name."""
        found: dict[str, Section] = {}
        for section in self.sections:
            found.setdefault(section.name, section)
        return found

    @cached_property
    def symbols_in(self) -> Mapping[int, tuple[Symbol, ...]]:
        """Section index -> its symbols in order of value, the section symbol left out."""
        grouped: dict[int, list[Symbol]] = {}
        for symbol in self.symbols:
            if symbol.is_defined and symbol.type not in (elf.STT_SECTION, elf.STT_FILE):
                grouped.setdefault(symbol.shndx, []).append(symbol)
        return {i: tuple(sorted(row, key=lambda s: (s.value, s.index))) for i, row in grouped.items()}

    def relocations_of(self, section: int) -> tuple[Relocation, ...]:
        """The relocations that apply to a section, in file order; empty if none."""
        rela = self.rela_of.get(section)
        return () if rela is None else self.relocations[rela]

"""The object model: frozen values that hold an ELF file's content, not its layout.

File offsets and string-table offsets are not part of the model; everything
else is, so that `read(write(x)) == x`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from operator import attrgetter
from typing import Final, NamedTuple

from builder.binary import elf
from builder.binary.kinds import SectionIndex, SectionOffset, SymbolIndex
from builder.errors import UnknownError

_ENCODINGS: Final = {1: "utf-8", 2: "utf-16-le", 4: "utf-32-le"}
"""Width of a character in bytes -> what the compiler makes of `""`, `u""` and `U""` (C11, 6.4.5)."""


class Relocation(NamedTuple):
    """One RELA entry; `symbol` indexes `ObjectFile.symbols`. In a linked file `offset` is an address."""

    offset: SectionOffset
    type: int
    symbol: SymbolIndex
    addend: int


class Symbol(NamedTuple):
    """One symbol-table entry; `value` is an address where the symbol is absolute or the file is linked.

    `shndx` is the full section index (SHN_XINDEX resolved); reserved indices
    have `elf.RESERVED` set, so 0xff20 as a real section cannot be mistaken for
    SHN_LIVEPATCH.
    """

    index: SymbolIndex  # type: ignore[assignment]  # the table's own numbering, not tuple.index
    name: str
    value: SectionOffset
    size: int
    type: int
    bind: int
    other: int
    shndx: SectionIndex

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


_VALUE: Final = attrgetter("value")


class String(NamedTuple):
    """A string of characters of `width` bytes, without the zero that ends it; `str()` is for a person."""

    data: bytes
    width: int = 1

    def __str__(self) -> str:
        return self.data.decode(_ENCODINGS[self.width], "replace")


class Section(NamedTuple):
    """One section; `size` equals `len(data)` except for SHT_NOBITS, whose data is empty."""

    index: SectionIndex  # type: ignore[assignment]  # the table's own numbering, not tuple.index
    name: str
    type: int
    flags: int
    size: int
    data: bytes
    link: SectionIndex = SectionIndex(0)
    info: int = 0
    align: int = 1
    entsize: int = 0
    addr: int = 0

    def __repr__(self) -> str:
        return f"<section {self.index} {self.name} of {self.size:#x} bytes>"

    @property
    def alignment(self) -> int:
        """Bytes that it is aligned to: 0 and 1 both say that it is not (gABI, sh_addralign)."""
        return max(self.align, 1)

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
        """Zero-terminated strings that a linker may merge, of characters of `character` bytes."""
        return self.flags & (elf.SHF_MERGE | elf.SHF_STRINGS) == elf.SHF_MERGE | elf.SHF_STRINGS

    @property
    def character(self) -> int:
        """Bytes of one character (gABI, sh_flags: SHF_STRINGS); 1 in a section that is none of strings.

        Raises UnknownError for a width that no compiler has.
        """
        if not self.is_string:
            return 1
        if self.entsize not in _ENCODINGS:
            raise UnknownError(f"section {self.name}: strings of characters of {self.entsize} bytes")
        return self.entsize

    def string_at(self, offset: SectionOffset) -> String:
        """The string at `offset`; what is left of the section if nothing ends it."""
        width = self.character
        return String(self.data[offset : self._terminator(offset, width)], width)

    def string_bounds(self, offset: SectionOffset) -> tuple[SectionOffset, SectionOffset]:
        """Start and end of the string that `offset` lies in, the zero that ends it included."""
        width, offset = self.character, max(offset, SectionOffset(0))
        start, zero = offset, bytes(width)
        while True:
            start = SectionOffset(self.data.rfind(zero, 0, start))
            if start < 0 or not start % width:
                break
            start += width - 1  # a zero that is part of two characters: look before its last byte
        first, last = self.extent
        return start + width if start >= 0 else first, min(self._terminator(offset, width) + width, last)

    def _terminator(self, offset: SectionOffset, width: int) -> SectionOffset:
        """Where the zero character at or after `offset` lies: characters are aligned to their width."""
        zero = bytes(width)
        end = self.data.find(zero, offset)
        while end >= 0 and end % width:
            end = self.data.find(zero, end + 1)
        return SectionOffset(end if end >= 0 else self.size)

    @property
    def extent(self) -> tuple[SectionOffset, SectionOffset]:
        """From its start to its end."""
        return SectionOffset(0), SectionOffset(self.size)

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
    relocations: Mapping[SectionIndex, tuple[Relocation, ...]] = field(repr=False)
    flags: int = 0
    entry: int = 0
    osabi: int = 0
    little: bool = True

    @cached_property
    def symtab(self) -> Section | None:
        """The SHT_SYMTAB section, if any."""
        return next((s for s in self.sections if s.type == elf.SHT_SYMTAB), None)

    @cached_property
    def rela_of(self) -> Mapping[SectionIndex, SectionIndex]:
        """Index of a section -> index of the RELA section that applies to it."""
        return {
            SectionIndex(self.sections[i].info): i
            for i in self.relocations
            if not self.sections[i].flags & elf.SHF_RELA_LIVEPATCH
        }

    @cached_property
    def by_name(self) -> Mapping[str, Section]:
        """First section of each name."""
        found: dict[str, Section] = {}
        for section in self.sections:
            found.setdefault(section.name, section)
        return found

    @cached_property
    def symbols_in(self) -> Mapping[SectionIndex, tuple[Symbol, ...]]:
        """Section index -> its symbols in order of value, the section symbol left out."""
        grouped: dict[SectionIndex, list[Symbol]] = {}
        reserved, unnamed = elf.RESERVED, (elf.STT_SECTION, elf.STT_FILE)
        for symbol in self.symbols:
            if 0 < symbol.shndx < reserved and symbol.type not in unnamed:  # is_defined, as it is asked of all
                grouped.setdefault(symbol.shndx, []).append(symbol)
        # They come in the order of the table, and stay in it where values are equal.
        return {i: tuple(sorted(row, key=_VALUE) if len(row) > 1 else row) for i, row in grouped.items()}

    def relocations_of(self, section: SectionIndex) -> tuple[Relocation, ...]:
        """The relocations that apply to a section, in file order; empty if none."""
        rela = self.rela_of.get(section)
        return () if rela is None else self.relocations[rela]

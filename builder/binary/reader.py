"""The one reader of ELF-64 files (gABI chapter 4).

The record rows are those the writer uses. Relocations are parsed when they are
first asked for: debug information has most of them and is seldom looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import repeat
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, cast

from builder.acquire import bounds
from builder.acquire.bounds import read_input
from builder.binary import elf
from builder.binary.kinds import SectionIndex, SymbolIndex
from builder.binary.objects import ObjectFile, Relocation, Section, Symbol
from builder.errors import InputError

NO_CODE: Final = "holds no code: compile without -flto or with -ffat-lto-objects"
"""What is said of an object that a linker would compile later (slim LTO)."""
_BITCODE: Final = (b"BC\xc0\xde", b"\xde\xc0\x17\x0b")
"""LLVM's, bare and wrapped (docs/BitCodeFormat.rst)."""


class _LazyRelocations(Mapping[SectionIndex, tuple[Relocation, ...]]):
    """RELA section index -> its entries, parsed and checked on first use."""

    def __init__(
        self, name: str, layout: elf.Layout, sections: tuple[Section, ...], symbols: int, *, relocatable: bool
    ) -> None:
        self._name = name
        self._relocatable = relocatable
        self._layout = layout
        self._sections = sections
        self._symbols = symbols
        self._parsed: dict[SectionIndex, tuple[Relocation, ...]] = {}
        self._indices: tuple[SectionIndex, ...] = tuple(s.index for s in sections if s.type == elf.SHT_RELA)

    def __getitem__(self, index: SectionIndex) -> tuple[Relocation, ...]:
        if index not in self._parsed:
            section = self._sections[index]
            if section.type != elf.SHT_RELA:
                raise KeyError(index)
            self._parsed[index] = self._parse(section)
        return self._parsed[index]

    def _parse(self, section: Section) -> tuple[Relocation, ...]:
        row = self._layout.rela
        if section.size % row.size:
            raise InputError(
                f"section {section.name}: size {section.size} is no multiple of {row.size}", where=self._name
            )
        if self._layout.little:
            # tuple.__new__ makes the named tuple without a Python frame for each of thousands of rows.
            rows = tuple(map(tuple.__new__, repeat(Relocation), row.iter_unpack(section.data)))
        else:
            rows = tuple(Relocation(o, t, s, a) for o, s, t, a in row.iter_unpack(section.data))
        if rows and max(map(itemgetter(2), rows)) >= self._symbols:
            entry = next(r for r in rows if r.symbol >= self._symbols)
            raise InputError(
                f"section {section.name}: relocation at {entry.offset:#x} names symbol {entry.symbol} "
                f"of {self._symbols}",
                where=self._name,
            )
        # In a linked file r_offset is an address, in a relocatable one an offset in the section of sh_info.
        target = self._sections[section.info]
        if rows and self._relocatable and max(map(itemgetter(0), rows)) >= target.size:
            entry = next(r for r in rows if r.offset >= target.size)
            raise InputError(
                f"section {section.name}: relocation at {entry.offset:#x} lies outside {target.name} "
                f"of {target.size:#x} bytes",
                where=self._name,
            )
        return rows

    def __iter__(self) -> Iterator[SectionIndex]:
        return iter(self._indices)

    def __len__(self) -> int:
        return len(self._indices)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mapping) and dict(self) == dict(other)

    __hash__ = None  # type: ignore[assignment]


def read_object(source: str | Path | bytes, *, name: str | None = None, relocatable: bool = True) -> ObjectFile:
    """Read an ELF-64 file from a path or from bytes.

    `name` is what errors call it. With `relocatable` anything but ET_REL is
    refused. Raises InputError for what is truncated, inconsistent or of another
    kind; the caller decides about the machine.
    """
    if isinstance(source, bytes):
        data, label = source, name or "<memory>"
    else:
        label = name or str(source)
        data = read_input(Path(source), where=label)
    return _Reader(data, label).read(relocatable)


class _Reader:
    def __init__(self, data: bytes, name: str) -> None:
        self.data = data
        self.name = name
        self.room = bounds.most(len(data))
        """Bytes that may still be made of it."""

    def fail(self, message: str) -> InputError:
        return InputError(message, where=self.name)

    def read(self, relocatable: bool) -> ObjectFile:
        data = self.data
        if not data:
            raise self.fail("is empty")
        if data[:4] in _BITCODE:
            raise self.fail(NO_CODE)
        if data[:4] != b"\x7fELF":
            raise self.fail("is not an ELF file")
        if len(data) < elf.HEADER_SIZE:
            raise self.fail(f"is truncated: {len(data)} bytes, the ELF header needs {elf.HEADER_SIZE}")
        if data[4] != 2:
            raise self.fail("is a 32-bit ELF file; only 64-bit objects are handled")
        if data[5] not in (1, 2):
            raise self.fail(f"has an unknown byte order ({data[5]})")
        self.layout = elf.LITTLE if data[5] == 1 else elf.BIG
        (kind, machine, _, entry, _, shoff, flags, _, _, _, shentsize, shnum, shstrndx) = (
            self.layout.header.unpack_from(data, elf.IDENT)
        )
        if relocatable and kind != elf.ET_REL:
            raise self.fail(f"is not a relocatable object (e_type {kind})")
        sections = self._sections(shoff, shentsize, shnum, shstrndx)
        symbols = self._symbols(sections)
        return ObjectFile(
            name=self.name,
            machine=machine,
            type=kind,
            sections=sections,
            symbols=symbols,
            relocations=_LazyRelocations(
                self.name, self.layout, sections, len(symbols), relocatable=kind == elf.ET_REL
            ),
            flags=flags,
            entry=entry,
            osabi=data[7],
            little=self.layout.little,
        )

    def _sections(self, shoff: int, shentsize: int, shnum: int, shstrndx: int) -> tuple[Section, ...]:
        row = self.layout.section
        data = self.data
        if shoff == 0:
            return ()
        if shentsize != row.size:
            raise self.fail(f"has section headers of {shentsize} bytes, not {row.size}")
        if shoff + row.size > len(data):
            raise self.fail(f"is truncated: section headers at {shoff:#x}, file ends at {len(data):#x}")
        first = row.unpack_from(data, shoff)
        # gABI: counts that do not fit 16 bits are in the null section header.
        count = shnum or first[5]
        names = first[6] if shstrndx == elf.SHN_XINDEX else shstrndx
        end = shoff + count * row.size
        if end > len(data):
            raise self.fail(f"is truncated: section headers end at {end:#x}, file ends at {len(data):#x}")
        headers = list(row.iter_unpack(memoryview(data)[shoff:end]))
        if names >= count:
            raise self.fail(f"names section {names} of {count} as its section-name table")
        self._require_room(headers)
        strings = self._content(headers[names], names)
        out: list[Section] = []
        make = tuple.__new__
        for index, header in cast("Iterable[tuple[SectionIndex, tuple[Any, ...]]]", enumerate(headers)):
            sh_name, kind, flags, addr, _, size, link, info, align, entsize = header
            name = self._string(strings, sh_name, index)
            if not index or kind == elf.SHT_NULL:
                size = 0
            content = self._content(header, index) if index else b""
            if not index:
                link = SectionIndex(0)
            # tuple.__new__, here and below, makes a named tuple without a Python frame for each row.
            out.append(make(Section, (index, name, kind, flags, size, content, link, info, align, entsize, addr)))
        for section in out:
            if section.type in (elf.SHT_RELA, elf.SHT_SYMTAB) and section.link >= count:
                raise self.fail(f"section {section.name} links to section {section.link} of {count}")
            if section.type == elf.SHT_RELA and section.info >= count:
                raise self.fail(f"section {section.name} applies to section {section.info} of {count}")
            if section.type == elf.SHT_REL:
                raise self.fail(f"section {section.name} has relocations without addends (SHT_REL)")
        return tuple(out)

    def _require_room(self, headers: list[tuple[int, ...]]) -> None:
        """What the sections take together, contents that overlap and room for alignment included, is within the bound.

        So nothing that is made of the sections one after the other can be larger.
        """
        for index, (_, kind, flags, _, offset, size, _, _, align, _) in enumerate(headers):
            if not index or kind == elf.SHT_NULL:
                continue
            if align & (align - 1):
                raise self.fail(f"section {index} is aligned to {align:#x} bytes, no power of two")
            if size + align > self.room:
                self._take(size + align, f"section {index} of {size:#x} bytes, aligned to {align:#x},")
            self.room -= size + align
            if flags & elf.SHF_COMPRESSED and kind != elf.SHT_NOBITS:
                if size < self.layout.compressed.size or offset + size > len(self.data):
                    raise self.fail(f"is truncated: section {index} has no room for the header of its compression")
                content = self.layout.compressed.unpack_from(self.data, offset)[2]
                self._take(content, f"section {index}, compressed from {content:#x} bytes,")

    def _take(self, size: int, what: str) -> None:
        """Count what is made of the file; InputError where `what` is too much."""
        self.room -= size
        if self.room < 0:
            raise self.fail(f"with what stands before it, {what} {bounds.beyond(len(self.data))}")

    def _content(self, header: tuple[int, ...], index: int) -> bytes:
        _, kind, _, _, offset, size = header[:6]
        if kind in (elf.SHT_NOBITS, elf.SHT_NULL):
            return b""
        if offset + size > len(self.data):
            raise self.fail(
                f"is truncated: section {index} ends at {offset + size:#x}, file ends at {len(self.data):#x}"
            )
        return self.data[offset : offset + size]

    def _string(self, strings: bytes, offset: int, index: int) -> str:
        """The name of a section."""
        end = strings.find(b"\0", offset)
        if end < 0:
            raise self.fail(f"the name of section {index} lies outside its string table")
        if end - offset > self.room:
            self._take(end - offset, f"the name of section {index}")
        self.room -= end - offset
        return strings[offset:end].decode("utf-8", "surrogateescape")

    def _symbols(self, sections: tuple[Section, ...]) -> tuple[Symbol, ...]:
        tables = [s for s in sections if s.type == elf.SHT_SYMTAB]
        if not tables:
            return ()
        if len(tables) > 1:
            raise self.fail("has more than one symbol table")
        table = tables[0]
        row = self.layout.symbol
        if table.size % row.size:
            raise self.fail(f"section {table.name}: size {table.size} is no multiple of {row.size}")
        strings = sections[table.link].data
        wide = self._wide_indices(sections, table)
        find, count = strings.find, len(sections)
        room, make = self.room, tuple.__new__
        out: list[Symbol] = []
        rows = cast("Iterable[tuple[SymbolIndex, tuple[Any, ...]]]", enumerate(row.iter_unpack(table.data)))
        for index, (st_name, info, other, shndx, value, size) in rows:
            if shndx >= elf.SHN_LORESERVE:
                if shndx == elf.SHN_XINDEX:
                    if index >= len(wide):
                        raise self.fail(f"symbol {index} needs a SHT_SYMTAB_SHNDX entry that is not there")
                    shndx = wide[index]
                    if shndx >= count:
                        raise self.fail(f"symbol {index} lies in section {shndx} of {count}")
                else:
                    shndx |= elf.RESERVED
            elif shndx >= count:
                raise self.fail(f"symbol {index} lies in section {shndx} of {count}")
            end = find(b"\0", st_name)
            if end < 0:
                raise self.fail(f"the name of symbol {index} lies outside its string table")
            room -= end - st_name
            if room < 0:  # many names may be the ends of a long one
                self._take(self.room - room, f"the name of symbol {index}")
            text = strings[st_name:end].decode("utf-8", "surrogateescape")
            out.append(make(Symbol, (index, text, value, size, info & 15, info >> 4, other, shndx)))
        return tuple(out)

    def _wide_indices(self, sections: tuple[Section, ...], table: Section) -> tuple[int, ...]:
        for section in sections:
            if section.type == elf.SHT_SYMTAB_SHNDX and section.link == table.index:
                if section.size % 4:
                    raise self.fail(f"section {section.name}: size {section.size} is no multiple of 4")
                return tuple(i for (i,) in self.layout.word.iter_unpack(section.data))
        return ()

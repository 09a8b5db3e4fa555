"""The one writer of ELF-64 relocatable files: an ObjectFile in, bytes out.

The symbol table, its SHT_SYMTAB_SHNDX companion, both string tables and the
RELA sections are made from the model; everything else is written as it is.
The same model gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable

from builder.binary import elf
from builder.binary.kinds import SectionIndex
from builder.binary.objects import ObjectFile, Section, Symbol
from builder.errors import InputError


class _Strings:
    """A string table in order of first use; equal strings are stored once."""

    def __init__(self) -> None:
        self._offsets: dict[str, int] = {"": 0}
        self._data = bytearray(b"\0")

    def add(self, text: str) -> int:
        offset = self._offsets.get(text)
        if offset is None:
            offset = self._offsets[text] = len(self._data)
            self._data += text.encode("utf-8", "surrogateescape") + b"\0"
        return offset

    def content(self) -> bytes:
        return bytes(self._data)


def write_object(obj: ObjectFile) -> bytes:
    """The bytes of `obj`: header, section contents in index order, section headers.

    Raises InputError when a section index above 0xff00 is used without a
    SHT_SYMTAB_SHNDX section, or when the model lacks a section-name table.
    """
    layout = elf.LITTLE if obj.little else elf.BIG
    names = _Strings()
    symbol_names = _Strings()
    made: dict[SectionIndex, bytes] = {}
    symtab = obj.symtab
    if symtab is not None:
        rows, wide = _symbol_rows(layout, obj.symbols, symbol_names)
        made[symtab.index] = rows
        companion = next((s.index for s in obj.sections if s.type == elf.SHT_SYMTAB_SHNDX), None)
        if companion is not None:
            made[companion] = wide
        elif any(w for (w,) in layout.word.iter_unpack(wide)):
            raise InputError("needs a SHT_SYMTAB_SHNDX section: section indices above 0xff00", where=obj.name)
    for index, entries in obj.relocations.items():
        made[index] = _rela_rows(layout, entries)
    for section in obj.sections:
        names.add(section.name)
    shstrndx = _name_table(obj, symtab)
    if symtab is not None:
        if symtab.link == shstrndx:  # one table for both, as some assemblers write it
            for symbol in obj.symbols:
                names.add(symbol.name)
            rows, wide = _symbol_rows(layout, obj.symbols, names)
            made[symtab.index] = rows
        else:
            made[symtab.link] = symbol_names.content()
    if obj.sections:
        made[shstrndx] = names.content()
    return _lay_out(obj, layout, names, made, shstrndx)


def _symbol_rows(layout: elf.Layout, symbols: Iterable[Symbol], names: _Strings) -> tuple[bytes, bytes]:
    rows = bytearray()
    wide = bytearray()
    for s in symbols:
        if s.shndx & elf.RESERVED:
            shndx, full = s.shndx & 0xFFFF, 0
        elif s.shndx >= elf.SHN_LORESERVE:
            shndx, full = elf.SHN_XINDEX, s.shndx
        else:
            shndx, full = s.shndx, 0
        rows += layout.symbol.pack(names.add(s.name), s.bind << 4 | s.type, s.other, shndx, s.value, s.size)
        wide += layout.word.pack(full)
    return bytes(rows), bytes(wide)


def _rela_rows(layout: elf.Layout, entries: Iterable[tuple[int, int, int, int]]) -> bytes:
    pack = layout.rela.pack
    if layout.little:
        return b"".join(pack(*entry) for entry in entries)
    return b"".join(pack(offset, symbol, kind, addend) for offset, kind, symbol, addend in entries)


def _name_table(obj: ObjectFile, symtab: Section | None) -> SectionIndex:
    """Which STRTAB holds the section names: the one that is not the symbols', last of equals."""
    tables = [s.index for s in obj.sections if s.type == elf.SHT_STRTAB and s.name != ".dynstr"]
    named = [i for i in tables if obj.sections[i].name == ".shstrtab"]
    if named:
        return named[-1]
    others = [i for i in tables if symtab is None or i != symtab.link] or tables
    if not others and obj.sections:
        raise InputError("has no section-name table", where=obj.name)
    return others[-1] if others else SectionIndex(0)


def _lay_out(
    obj: ObjectFile, layout: elf.Layout, names: _Strings, made: dict[SectionIndex, bytes], shstrndx: SectionIndex
) -> bytes:
    out = bytearray(elf.HEADER_SIZE)
    headers = bytearray()
    count = len(obj.sections)
    for section in obj.sections:
        content = made.get(section.index, section.data)
        size = section.size if section.is_nobits else len(content)
        link = section.link
        if section.index == 0:
            size = count if count >= elf.SHN_LORESERVE else 0
            link = shstrndx if shstrndx >= elf.SHN_LORESERVE else SectionIndex(0)
            offset = 0
        else:
            out += bytes(-len(out) % section.alignment)
            offset = len(out)
            out += content
        headers += layout.section.pack(
            names.add(section.name),
            section.type,
            section.flags,
            section.addr,
            offset,
            size,
            link,
            section.info,
            section.align,
            section.entsize,
        )
    shoff = 0
    if obj.sections:
        out += bytes(-len(out) % 8)
        shoff = len(out)
        out += headers
    ident = bytes((0x7F, 0x45, 0x4C, 0x46, 2, 1 if obj.little else 2, 1, obj.osabi)) + bytes(8)
    out[: elf.HEADER_SIZE] = ident + layout.header.pack(
        obj.type,
        obj.machine,
        1,
        obj.entry,
        0,
        shoff,
        obj.flags,
        elf.HEADER_SIZE,
        0,
        0,
        layout.section.size,
        count if count < elf.SHN_LORESERVE else 0,
        shstrndx if shstrndx < elf.SHN_LORESERVE else elf.SHN_XINDEX,
    )
    return bytes(out)

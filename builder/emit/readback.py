"""What was written is read again, by another reader, and must equal what was meant."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from builder.binary import ObjectFile, elf
from builder.errors import BespokeError

if TYPE_CHECKING:
    from elftools.construct.lib.container import Container

_RELA: Final = struct.Struct("<QQq")
"""r_offset, r_info, r_addend (gABI chapter 4, "Relocation")."""
_RESERVED: Final = {"SHN_UNDEF": elf.SHN_UNDEF, "SHN_ABS": elf.SHN_ABS, "SHN_COMMON": elf.SHN_COMMON}
"""Section indices that pyelftools calls by their names."""


class ReadbackError(BespokeError):
    """The written module is not the one that was meant: a defect of this program."""


@dataclass(frozen=True, slots=True)
class _Found:
    """A section that was read: its name, its header and what the file has of it."""

    name: str
    header: Container
    data: bytes


def verify(written: bytes, meant: ObjectFile) -> None:
    """Compare the bytes, as pyelftools reads them, with the model: sections, symbols, relocations."""
    # Here, for only who has made a module needs it; and its structures alone, for its `ELFFile` brings all of DWARF.
    from elftools.common.exceptions import ELFError

    try:
        found, symbols = _read(written)
    except (ELFError, UnicodeDecodeError) as problem:
        raise ReadbackError(f"the written module cannot be read: {problem}", where=meant.name) from problem
    _sections(found, meant)
    _symbols(symbols, meant)
    _relocations(written, found, meant)


def _read(written: bytes) -> tuple[list[_Found], list[tuple[str, Container]]]:
    """The sections, and the symbols by name; ELFError for what cannot be read."""
    from elftools.common.exceptions import ELFError
    from elftools.common.utils import struct_parse
    from elftools.elf.structs import ELFStructs

    stream = io.BytesIO(written)
    structs = ELFStructs(little_endian=True, elfclass=64)
    structs.create_basic_structs()
    header = struct_parse(structs.Elf_Ehdr, stream, 0)
    ident = header["e_ident"]
    if (bytes(ident["EI_MAG"]), ident["EI_CLASS"], ident["EI_DATA"]) != (b"\x7fELF", "ELFCLASS64", "ELFDATA2LSB"):
        raise ELFError(f"no ELF file of 64 bits, least byte first: {written[: elf.IDENT].hex(' ')}")
    structs.create_advanced_structs(header["e_type"], header["e_machine"], header["e_ident"]["EI_OSABI"])
    first, size = header["e_shoff"], header["e_shentsize"]
    rows = [struct_parse(structs.Elf_Shdr, stream, first)] if first else []
    # Of more sections than fit there the number, and where their names are, stand in the first (gABI chapter 4).
    count = header["e_shnum"] or (rows[0]["sh_size"] if rows else 0)
    rows += [struct_parse(structs.Elf_Shdr, stream, first + size * number) for number in range(1, count)]
    if not rows:
        return [], []
    contents = [written[row["sh_offset"] : row["sh_offset"] + row["sh_size"]] for row in rows]
    names = header["e_shstrndx"] if header["e_shstrndx"] != elf.SHN_XINDEX else rows[0]["sh_link"]
    if names >= len(rows):
        raise ELFError(f"the names of the sections are in section {names} of {len(rows)}")
    found = [
        _Found(_text(contents[names], row["sh_name"]), row, data) for row, data in zip(rows, contents, strict=True)
    ]
    symbols = []
    for section in found:
        if section.header["sh_type"] == "SHT_SYMTAB":
            at, each, link = (section.header[key] for key in ("sh_offset", "sh_entsize", "sh_link"))
            if not each or link >= len(rows):
                raise ELFError(f"symbols of {each} bytes, their names in section {link} of {len(rows)}")
            for place in range(at, at + section.header["sh_size"], each):
                row = struct_parse(structs.Elf_Sym, stream, place)
                symbols.append((_text(contents[link], row["st_name"]), row))
    return found, symbols


def _text(strings: bytes, at: int) -> str:
    end = strings.find(b"\0", at)
    return strings[at : end if end >= 0 else None].decode("utf-8", "replace")


def _sections(rows: Sequence[_Found], meant: ObjectFile) -> None:
    if len(rows) != len(meant.sections):
        raise ReadbackError(f"{len(rows)} sections were written, {len(meant.sections)} meant", where=meant.name)
    for section, mine in zip(rows, meant.sections, strict=True):
        made = mine.type in (elf.SHT_SYMTAB, elf.SHT_STRTAB, elf.SHT_RELA)
        header = section.header
        if (
            section.name != _shown(mine.name)
            or header["sh_info"] != mine.info
            or header["sh_link"] != mine.link
            or header["sh_flags"] != mine.flags
            or (mine.index and not made and header["sh_size"] != mine.size)
            or (mine.type in (elf.SHT_PROGBITS, elf.SHT_NOTE) and section.data != mine.data)
        ):
            raise ReadbackError(f"section {mine.index} {mine.name} was not written as meant", where=meant.name)


def _symbols(rows: Sequence[tuple[str, Container]], meant: ObjectFile) -> None:
    if len(rows) != len(meant.symbols):
        raise ReadbackError(f"{len(rows)} symbols were written, {len(meant.symbols)} meant", where=meant.name)
    for (name, symbol), mine in zip(rows, meant.symbols, strict=True):
        section = symbol["st_shndx"]
        place = (symbol["st_value"], symbol["st_size"], _RESERVED.get(section, section))
        if place != (mine.value, mine.size, mine.shndx & 0xFFFF) or (mine.name and name != _shown(mine.name)):
            raise ReadbackError(f"symbol {mine.index} {mine.name} was not written as meant", where=meant.name)


def _shown(name: str) -> str:
    """A name as pyelftools gives it."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _relocations(written: bytes, rows: Sequence[_Found], meant: ObjectFile) -> None:
    """RELA rows straight from the sections that pyelftools located."""
    for index, relocations in meant.relocations.items():
        start, size = rows[index].header["sh_offset"], rows[index].header["sh_size"]
        count, rest = divmod(size, _RELA.size)
        if rest or count != len(relocations) or start + size > len(written):
            raise ReadbackError(f"section {meant.sections[index].name} has {count} relocations", where=meant.name)
        found = _RELA.iter_unpack(written[start : start + size])
        for number, ((offset, info, addend), mine) in enumerate(zip(found, relocations, strict=True)):
            if (offset, info & 0xFFFFFFFF, info >> 32, addend) != tuple(mine):
                raise ReadbackError(
                    f"relocation {number} of {meant.sections[index].name} was not written as meant", where=meant.name
                )

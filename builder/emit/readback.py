"""What was written is read again, by another reader, and must equal what was meant."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from builder.binary import ObjectFile, elf
from builder.errors import BespokeError

if TYPE_CHECKING:
    from elftools.elf.sections import Section

_RELA: Final = struct.Struct("<QQq")
"""r_offset, r_info, r_addend (gABI chapter 4, "Relocation")."""
_RESERVED: Final = {"SHN_UNDEF": elf.SHN_UNDEF, "SHN_ABS": elf.SHN_ABS, "SHN_COMMON": elf.SHN_COMMON}
"""Section indices that pyelftools calls by their names."""


class ReadbackError(BespokeError):
    """The written module is not the one that was meant: a defect of this program."""


def verify(written: bytes, meant: ObjectFile) -> None:
    """Compare the bytes, as pyelftools reads them, with the model: sections, symbols, relocations."""
    # Here, for only who has made a module needs it.
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    try:
        found = list(ELFFile(io.BytesIO(written)).iter_sections())
        _sections(found, meant)
        _symbols(found, meant)
    except (ELFError, UnicodeDecodeError) as problem:
        raise ReadbackError(f"the written module cannot be read: {problem}", where=meant.name) from problem
    _relocations(written, found, meant)


def _sections(rows: Sequence[Section], meant: ObjectFile) -> None:
    if len(rows) != len(meant.sections):
        raise ReadbackError(f"{len(rows)} sections were written, {len(meant.sections)} meant", where=meant.name)
    for section, mine in zip(rows, meant.sections, strict=True):
        made = mine.type in (elf.SHT_SYMTAB, elf.SHT_STRTAB, elf.SHT_RELA)
        if (
            section.name != _shown(mine.name)
            or section["sh_info"] != mine.info
            or section["sh_link"] != mine.link
            or section["sh_flags"] != mine.flags
            or (mine.index and not made and section["sh_size"] != mine.size)
            or (mine.type in (elf.SHT_PROGBITS, elf.SHT_NOTE) and section.data() != mine.data)
        ):
            raise ReadbackError(f"section {mine.index} {mine.name} was not written as meant", where=meant.name)


def _symbols(sections: Sequence[Section], meant: ObjectFile) -> None:
    from elftools.elf.sections import SymbolTableSection

    rows = [row for section in sections if isinstance(section, SymbolTableSection) for row in section.iter_symbols()]
    if len(rows) != len(meant.symbols):
        raise ReadbackError(f"{len(rows)} symbols were written, {len(meant.symbols)} meant", where=meant.name)
    for symbol, mine in zip(rows, meant.symbols, strict=True):
        section = symbol["st_shndx"]
        place = (symbol["st_value"], symbol["st_size"], _RESERVED.get(section, section))
        if place != (mine.value, mine.size, mine.shndx & 0xFFFF) or (mine.name and symbol.name != _shown(mine.name)):
            raise ReadbackError(f"symbol {mine.index} {mine.name} was not written as meant", where=meant.name)


def _shown(name: str) -> str:
    """A name as pyelftools gives it."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _relocations(written: bytes, rows: Sequence[Section], meant: ObjectFile) -> None:
    """RELA rows straight from the sections that pyelftools located."""
    for index, relocations in meant.relocations.items():
        start, size = rows[index]["sh_offset"], rows[index]["sh_size"]
        count, rest = divmod(size, _RELA.size)
        if rest or count != len(relocations) or start + size > len(written):
            raise ReadbackError(f"section {meant.sections[index].name} has {count} relocations", where=meant.name)
        found = _RELA.iter_unpack(written[start : start + size])
        for number, ((offset, info, addend), mine) in enumerate(zip(found, relocations, strict=True)):
            if (offset, info & 0xFFFFFFFF, info >> 32, addend) != tuple(mine):
                raise ReadbackError(
                    f"relocation {number} of {meant.sections[index].name} was not written as meant", where=meant.name
                )

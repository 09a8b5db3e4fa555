"""What was written is read again, by another reader, and must equal what was meant."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from builder.binary import ObjectFile, elf
from builder.errors import BespokeError

if TYPE_CHECKING:
    import lief


class ReadbackError(BespokeError):
    """The written module is not the one that was meant: a defect of this program."""


def verify(written: bytes, meant: ObjectFile) -> None:
    """Compare the bytes, as lief reads them, with the model: sections, symbols, relocations."""
    import lief  # takes longer to load than all of the commands that only look at a kernel

    found = lief.ELF.parse(io.BytesIO(written))
    if found is None:
        raise ReadbackError("the written module cannot be read", where=meant.name)
    _sections(found, meant)
    _symbols(found, meant)
    _relocations(written, found, meant)


def _sections(found: lief.ELF.Binary, meant: ObjectFile) -> None:
    rows = list(found.sections)
    if len(rows) != len(meant.sections):
        raise ReadbackError(f"{len(rows)} sections were written, {len(meant.sections)} meant", where=meant.name)
    for section, mine in zip(rows, meant.sections, strict=True):
        made = mine.type in (elf.SHT_SYMTAB, elf.SHT_STRTAB, elf.SHT_RELA)
        if (
            section.name != mine.name
            or section.information != mine.info
            or section.link != mine.link
            or (mine.index and not made and section.size != mine.size)
            or (mine.type == elf.SHT_PROGBITS and bytes(section.content) != mine.data)
        ):
            raise ReadbackError(f"section {mine.index} {mine.name} was not written as meant", where=meant.name)


def _symbols(found: lief.ELF.Binary, meant: ObjectFile) -> None:
    rows = list(found.symtab_symbols)
    if len(rows) != len(meant.symbols):
        raise ReadbackError(f"{len(rows)} symbols were written, {len(meant.symbols)} meant", where=meant.name)
    for symbol, mine in zip(rows, meant.symbols, strict=True):
        if (symbol.value, symbol.size, symbol.shndx) != (mine.value, mine.size, mine.shndx & 0xFFFF) or (
            mine.name and symbol.name != mine.name
        ):
            raise ReadbackError(f"symbol {mine.index} {mine.name} was not written as meant", where=meant.name)


def _relocations(written: bytes, found: lief.ELF.Binary, meant: ObjectFile) -> None:
    """RELA rows straight from the sections that lief located."""
    rows = list(found.sections)
    for index, relocations in meant.relocations.items():
        section = rows[index]
        content = written[section.file_offset : section.file_offset + section.size]
        count, rest = divmod(len(content), 24)
        if rest or count != len(relocations):
            raise ReadbackError(f"section {meant.sections[index].name} has {count} relocations", where=meant.name)
        for number, mine in enumerate(relocations):
            at = 24 * number
            offset = int.from_bytes(content[at : at + 8], "little")
            info = int.from_bytes(content[at + 8 : at + 16], "little")
            addend = int.from_bytes(content[at + 16 : at + 24], "little", signed=True)
            if (offset, info & 0xFFFFFFFF, info >> 32, addend) != tuple(mine):
                raise ReadbackError(
                    f"relocation {number} of {meant.sections[index].name} was not written as meant", where=meant.name
                )

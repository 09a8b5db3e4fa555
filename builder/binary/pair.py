"""The old and the new object of one change, read and found fit to be compared."""

from __future__ import annotations

from pathlib import Path

from builder.acquire.bounds import read_input
from builder.arch import KNOWN, by_machine
from builder.binary import ObjectFile, elf, read_object
from builder.binary.reader import NO_CODE
from builder.errors import InputError


def read_pair(old: Path, new: Path) -> tuple[ObjectFile, ObjectFile]:
    """Both objects of a pair, of one machine and compiled as the differ needs them."""
    return fit_pair(read_object(old), read_object(new))


def fit_pair(old: ObjectFile, new: ObjectFile) -> tuple[ObjectFile, ObjectFile]:
    """The same of objects in memory."""
    for obj in (old, new):
        by_machine(obj.machine, where=obj.name)
        _require_code(obj)
        _require_function_sections(obj)
    if old.machine != new.machine:
        raise InputError(f"is for another machine than {old.name}", where=new.name)
    return old, new


def is_same_file(old: Path, new: Path) -> bool:
    """Whether the objects of a pair have the same bytes, and look fit to be compared: then nothing can have changed.

    By the headers, and by what a name says of how they were compiled; an object that looks otherwise is to be read.
    Raises InputError for what cannot be read.
    """
    try:
        if old.stat().st_size != new.stat().st_size:
            return False
    except OSError:
        return False  # to be said by who reads it
    data = read_input(old)
    if len(data) < elf.HEADER_SIZE or not data.startswith(_OBJECT) or data != read_input(new):
        return False
    kind, machine, _, _, _, table, _, _, _, _, entry, count, _ = elf.LITTLE.header.unpack_from(data, elf.IDENT)
    fit = kind == elf.ET_REL and machine in KNOWN and b".text." in data and b".gnu.lto_" not in data
    return fit and entry == elf.LITTLE.section.size and _is_whole(data, table, count)


def _is_whole(data: bytes, table: int, count: int) -> bool:
    """Whether the section headers and what they tell of lie in the file: one that was cut off is to be read and named.

    `count` is e_shnum, which is 0 where there are more sections than it can tell (gABI chapter 4): to be read too.
    """
    record = elf.LITTLE.section
    end = table + count * record.size
    if not count or end > len(data):
        return False
    headers = record.iter_unpack(memoryview(data)[table:end])
    return all(kind == elf.SHT_NOBITS or at + size <= len(data) for _, kind, _, _, at, size, *_ in headers)


_OBJECT = b"\x7fELF\x02\x01"
"""ELF, of 64 bits, the low byte first (gABI chapter 4, e_ident)."""


def _require_code(obj: ObjectFile) -> None:
    """Not what a linker would compile later: gcc's intermediate code lies in sections of its own."""
    slim = _SLIM in {symbol.name for symbol in obj.symbols}
    lto = any(name.startswith(".gnu.lto_") for name in obj.by_name)
    if slim or (lto and not any(section.is_alloc and section.size for section in obj.sections)):
        raise InputError(NO_CODE, where=obj.name)


_SLIM = "__gnu_lto_slim"
"""A symbol that gcc puts into objects that hold nothing else (gcc/toplev.cc)."""


def _require_function_sections(obj: ObjectFile) -> None:
    """One section for each function, or branches between functions have no relocation to follow."""
    plain = obj.by_name.get(".text")
    if plain is None or not plain.size:
        return
    functions = [s for s in obj.symbols if s.is_function and s.is_defined]
    if not any(s.shndx == plain.index and s.size for s in functions):
        return
    own = {s.index for s in obj.sections if s.name.startswith(".text.") and s.name != ".text.unlikely"}
    if not any(s.shndx in own for s in functions):
        raise InputError(
            "is compiled without -ffunction-sections: its functions share .text; "
            "compile both objects with -ffunction-sections -fdata-sections",
            where=obj.name,
        )

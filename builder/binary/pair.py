"""The old and the new object of one change, read and found fit to be compared."""

from __future__ import annotations

from pathlib import Path

from builder.arch import by_machine
from builder.binary import ObjectFile, read_object
from builder.binary.reader import NO_CODE
from builder.errors import InputError


def read_pair(old: Path, new: Path) -> tuple[ObjectFile, ObjectFile]:
    """Both objects of a pair, of one machine and compiled as the differ needs them."""
    pair = read_object(old), read_object(new)
    for obj in pair:
        by_machine(obj.machine, where=obj.name)
        _require_code(obj)
        _require_function_sections(obj)
    if pair[0].machine != pair[1].machine:
        raise InputError(f"is for another machine than {old}", where=new)
    return pair


def _require_code(obj: ObjectFile) -> None:
    """Not what a linker would compile later: gcc's intermediate code lies in sections of its own."""
    slim = any(symbol.name == _SLIM for symbol in obj.symbols)
    lto = any(section.name.startswith(".gnu.lto_") for section in obj.sections)
    if slim or (lto and not any(section.is_alloc and section.size for section in obj.sections)):
        raise InputError(NO_CODE, where=obj.name)


_SLIM = "__gnu_lto_slim"
"""A symbol that gcc puts into objects that hold nothing else (gcc/toplev.cc)."""


def _require_function_sections(obj: ObjectFile) -> None:
    """One section for each function, or branches between functions have no relocation to follow."""
    plain = obj.by_name.get(".text")
    functions = [s for s in obj.symbols if s.is_function and s.is_defined]
    if plain is None or not plain.size or not any(s.shndx == plain.index and s.size for s in functions):
        return
    own = {s.index for s in obj.sections if s.name.startswith(".text.") and s.name != ".text.unlikely"}
    if not any(s.shndx in own for s in functions):
        raise InputError(
            "is compiled without -ffunction-sections: its functions share .text; "
            "compile both objects with -ffunction-sections -fdata-sections",
            where=obj.name,
        )

"""The old and the new object of one change, read and found fit to be compared."""

from __future__ import annotations

from pathlib import Path

from builder.arch import by_machine
from builder.binary import ObjectFile, read_object
from builder.errors import InputError


def read_pair(old: Path, new: Path) -> tuple[ObjectFile, ObjectFile]:
    """Both objects of a pair, of one machine and compiled as the differ needs them."""
    pair = read_object(old), read_object(new)
    for obj in pair:
        by_machine(obj.machine, where=obj.name)
        _require_function_sections(obj)
    if pair[0].machine != pair[1].machine:
        raise InputError(f"is for another machine than {old}", where=new)
    return pair


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

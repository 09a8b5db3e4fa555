"""How livepatch names what it is to resolve and write (Documentation/livepatch/module-elf-format.rst).

`.klp.sym.OBJECT.NAME,SYMPOS` is a symbol of OBJECT, `.klp.rela.OBJECT.SECTION` the relocations of SECTION that are
written when OBJECT is loaded. Both are read as the kernel reads them, which asks only for the beginning of a name
(klp_apply_section_relocs and klp_resolve_symbols, kernel/livepatch/core.c, v6.1).
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from builder.binary.names import MODULE_NAME, SYMBOL_NAME
from builder.errors import InputError

VMLINUX: Final = "vmlinux"
_SYMBOL, _SECTION = ".klp.sym.", ".klp.rela."
_OBJECT = rf"([^.]{{1,{MODULE_NAME - 1}}})"
_SYMBOL_FORM = re.compile(rf"{re.escape(_SYMBOL)}{_OBJECT}\.([^,]{{1,{SYMBOL_NAME - 1}}}),(\d+)")
_SECTION_FORM = re.compile(rf"{re.escape(_SECTION)}{_OBJECT}")


class KlpSymbol(NamedTuple):
    """A symbol of an object; `sympos` as livepatch counts: 0 for a unique name, else the rank among equals from 1."""

    object: str
    name: str
    sympos: int


def symbol_name(owner: str, name: str, sympos: int) -> str:
    """The name of the symbol that livepatch resolves to the `sympos`-th `name` of the object `owner`."""
    return f"{_SYMBOL}{owner}.{name},{sympos}"


def section_name(owner: str, target: str) -> str:
    """The name of the section that holds the relocations of section `target` for the time when `owner` is loaded."""
    return f"{_SECTION}{owner}.{target}"


def is_symbol(name: str) -> bool:
    return name.startswith(_SYMBOL)


def is_section(name: str) -> bool:
    return name.startswith(_SECTION)


def parse_symbol(name: str) -> KlpSymbol:
    """The parts of a livepatch symbol's name; InputError for one that the kernel would not take."""
    found = _SYMBOL_FORM.match(name)
    if found is None:
        raise InputError(f"symbol {name} has an incorrectly formatted name")
    return KlpSymbol(found[1], found[2], int(found[3]))


def section_object(name: str) -> str:
    """The object that a section of livepatch relocations waits for; InputError as the kernel refuses a name."""
    found = _SECTION_FORM.match(name)
    if found is None:
        raise InputError(f"section {name} has an incorrectly formatted name")
    return found[1]


def object_named(name: str) -> str | None:
    """The object that a name of either form is about; None for one of neither, or one that names none."""
    try:
        if is_symbol(name):
            return parse_symbol(name).object
        return section_object(name) if is_section(name) else None
    except InputError:
        return None

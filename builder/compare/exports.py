"""What an object exports to modules (include/linux/export.h, v6.1 and v6.12)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from builder.compare.meaning import Meaning, Meanings
from builder.compare.view import View

_ENTRY: Final = "___ksymtab"
"""Begins the name of a section that holds one entry: `___ksymtab[_gpl]+NAME`."""
_LISTED: Final = "__export_symbol_"
"""Begins the name of a symbol in `.export_symbol`, of which modpost makes the entry."""


class ExportSaid(NamedTuple):
    """`licence`: to whom; `content`: what else is said of it (its thing, its namespace)."""

    licence: str
    content: Meaning


def exports(view: View, meanings: Meanings) -> Mapping[str, ExportSaid]:
    """Exported name -> what is said of it."""
    out: dict[str, ExportSaid] = {}
    for section in view.obj.sections:
        if section.name.startswith(_ENTRY):
            kind, _, name = section.name.partition("+")
            content = meanings.bytes_in(view, section, *section.extent, False)
            out[name] = ExportSaid("GPL" if kind.endswith("_gpl") else "all", content)
    for symbol in view.obj.symbols:
        if symbol.name.startswith(_LISTED):
            atom = view.atom_at(symbol.shndx, symbol.value)
            content = (
                ("bytes",) if atom is None else meanings.bytes_in(view, atom.section, symbol.value, atom.end, False)
            )
            out[symbol.name.removeprefix(_LISTED)] = ExportSaid("listed", content)
    return out

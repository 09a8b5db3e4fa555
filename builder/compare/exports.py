"""What an object exports to modules (include/linux/export.h, v6.1 and v6.12)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from builder.binary import Section, SectionOffset
from builder.compare.meaning import Meaning, Meanings
from builder.compare.view import View

_ENTRY: Final = "___ksymtab"
"""Begins the name of a section that holds one entry: `___ksymtab[_gpl]+NAME`."""
_LISTED: Final = "__export_symbol_"
"""Begins the name of a symbol in `.export_symbol`, of which modpost makes the entry."""
_AS_BEFORE: Final = ("as before",)


class ExportSaid(NamedTuple):
    """`licence`: to whom; `content`: what else is said of it (its thing, its namespace)."""

    licence: str
    content: Meaning


class _Place(NamedTuple):
    """Where something is said of an export: bytes [start, end) of a section, None where no byte is."""

    licence: str
    section: Section | None
    start: SectionOffset
    end: SectionOffset


def exports(meanings: Meanings) -> tuple[Mapping[str, ExportSaid], Mapping[str, ExportSaid]]:
    """Exported name -> what the old object says of it, and what the new one does."""
    views = meanings.correlation.old, meanings.correlation.new
    before, after = map(_places, views)
    same = {name for name, place in before.items() if name in after and _is_plain(meanings, place, after[name])}
    old, new = (
        {
            name: ExportSaid(place.licence, _AS_BEFORE if name in same else _content(meanings, view, place))
            for name, place in found.items()
        }
        for view, found in zip(views, (before, after), strict=True)
    )
    return old, new


def _places(view: View) -> dict[str, _Place]:
    out: dict[str, _Place] = {}
    for section in view.obj.sections:
        if section.name.startswith(_ENTRY):
            kind, _, name = section.name.partition("+")
            out[name] = _Place("GPL" if kind.endswith("_gpl") else "all", section, *section.extent)
    for symbol in view.obj.symbols:
        if symbol.name.startswith(_LISTED):
            atom = view.atom_at(symbol.shndx, symbol.value)
            held = (None, symbol.value, symbol.value) if atom is None else (atom.section, symbol.value, atom.end)
            out[symbol.name.removeprefix(_LISTED)] = _Place("listed", *held)
    return out


def _is_plain(meanings: Meanings, old: _Place, new: _Place) -> bool:
    """Whether both plainly say the same, as most do; False says nothing."""
    if old.section is None or new.section is None or old.section.is_nobits or new.section.is_nobits:
        return False
    if old.section.data[old.start : old.end] != new.section.data[new.start : new.end]:
        return False
    views = meanings.correlation.old, meanings.correlation.new
    first, second = (
        view.relocations_in(place.section.index, place.start, place.end)
        for view, place in zip(views, (old, new), strict=True)
        if place.section is not None
    )
    return meanings.plain.stand(old.section, first, second, new.start - old.start)


def _content(meanings: Meanings, view: View, place: _Place) -> Meaning:
    if place.section is None:
        return ("bytes",)
    return meanings.bytes_in(view, place.section, place.start, place.end, False)

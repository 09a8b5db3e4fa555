"""Sections that hold no symbol: strings, constants, pieces of code, tables of no known kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from builder.binary import Relocation, Section, SectionOffset, tables
from builder.compare import View, naming
from builder.compare.meaning import Meaning
from builder.compare.storage import is_private
from builder.compose.books.rules import Ignored, Note, Pair, section_rule
from builder.errors import Refusal

_PAIRED: Final = frozenset(row.paired for row in tables.TABLES if row.paired)


def unnamed(pair: Pair) -> Iterator[Note]:
    """Strings, constants, pieces of code and unknown sections that hold no symbol."""
    before = _without_names(pair.old, pair.old_sections)
    after = _without_names(pair.new, pair.new_sections)
    yield from _own(pair)
    for name in dict.fromkeys((*after, *before)):
        first, second = before.get(name, []), after.get(name, [])
        sample = (second or first)[0]
        is_text = sample.is_string and tables.named(sample) is None
        if not (is_text or tables.is_discarded(name) or _is_pieces(sample)):
            # Nothing else judges what such a section leads to: equal relocations may lead to other texts.
            if _content(pair, pair.old, first) != _content(pair, pair.new, second):
                yield from _another(pair, name, first, second)
        elif _raw(pair.old, first) == _raw(pair.new, second):
            continue
        elif is_text:
            yield from _strings(pair, name, first, second)
        elif tables.is_discarded(name):
            yield Ignored(section_rule(name), name)
        else:
            yield from _pieces(pair, name, first, second)


def _own(pair: Pair) -> Iterator[Note]:
    """Sections that differ in how they stand, and hold nothing but what is discarded or what each version has anew."""
    before, after = pair.old_sections, pair.new_sections
    own = {
        atom.section.name
        for view in (pair.old, pair.new)
        for atom in view.data
        if naming.is_never_paired(atom.name, atom.section.name)
    }
    for name in dict.fromkeys((*after, *before)):
        if name not in own and not tables.is_discarded(name):
            continue
        rows = [(view, of.get(name, [])) for view, of in ((pair.old, before), (pair.new, after))]
        if any(section.is_exec or not section.is_alloc for _, sections in rows for section in sections):
            continue
        held = [(s, view.atoms_in(s.index)) for view, sections in rows for s in sections]
        if not all(naming.is_never_paired(atom.name, name) for _, atoms in held for atom in atoms):
            continue
        named = any(atoms for _, atoms in held)
        if not (named or tables.is_discarded(name)) or _standing(*rows[0]) == _standing(*rows[1]):
            continue
        yield Ignored(section_rule(name) if tables.is_discarded(name) else "own", name)


def _standing(view: View, sections: Iterable[Section]) -> list[object]:
    """Bytes, relocations and symbols of sections as they stand."""
    symbols = [[s[2:7] for s in view.obj.symbols_in.get(section.index, ())] for section in sections]
    return [_raw(view, sections), symbols]


def _content(pair: Pair, view: View, sections: Iterable[Section]) -> list[Meaning]:
    return [pair.meanings.bytes_in(view, section, *section.extent, False) for section in sections]


def _another(pair: Pair, name: str, first: list[Section], second: list[Section]) -> Iterator[Refusal]:
    """A section that has changed, which nothing else judges: of one that only the image can have, what came or went."""
    row = tables.without_effect(name)
    if row is None:
        said = f"section {name} has changed, and what its entries mean is not known"
        symbol = next(iter(_led_to(pair.new, second)), name)
        yield Refusal("unknown-table", symbol, name, said, "add a row for it in builder/binary/tables.py")
        return
    before, after = _led_to(pair.old, first), _led_to(pair.new, second)
    counts = {symbol: (before[symbol], after[symbol]) for symbol in (*after, *before)}
    for symbol in [symbol for symbol, (old, new) in counts.items() if old != new] or [name]:
        of = f" of {symbol}" if symbol != name else ""
        said = f"{name} has other entries{of}, each of which is {row.what}: in a livepatch they have no effect"
        yield Refusal(row.code, symbol, name, said, row.advice, fatal=row.fatal)


def _led_to(view: View, sections: list[Section]) -> Counter[str]:
    """The names of what sections lead to, in that order, and how often each is led to."""
    return Counter(target.atom.name for s in sections for _, target in view.leads(s, *s.extent) if target.atom)


def _strings(pair: Pair, name: str, old: list[Section], new: list[Section]) -> Iterator[Note]:
    """Strings that are referred to are judged where they are; only those that nobody finds are left."""
    for view, sections, others in ((pair.new, new, old), (pair.old, old, new)):
        known = {text for section in others for _, text in _texts(section)}
        for section in sections:
            found = _found(view, section)
            for start, text in _texts(section):
                if text not in known and not any(start <= at <= start + len(text) for at in found):
                    yield Ignored("unreferenced", f"{name}+{start:#x}")


def _pieces(pair: Pair, name: str, old: list[Section], new: list[Section]) -> Iterator[Note]:
    """Unnamed constants and code: those that something leads to are judged there."""
    for view, sections in ((pair.new, new), (pair.old, old)):
        for section in sections:
            cuts = view.cuts.get(section.index, [])
            first = section.size if not cuts else cuts[0] if section.is_exec else 0
            if first > 0 and section.data[:first].strip(b"\0"):
                yield Ignored("unreferenced", f"{name}+0x0")


def _without_names(view: View, found: Mapping[str, list[Section]]) -> dict[str, list[Section]]:
    """Sections in memory that hold no symbol and are no table, by name."""
    return {name: rows for name, rows in found.items() if any(_is_unnamed(view, section) for section in rows)}


def _is_unnamed(view: View, section: Section) -> bool:
    if not section.size or not section.is_alloc or view.atoms_in(section.index) or is_private(section):
        return False
    return section.name not in tables.BY_NAME and section.name not in _PAIRED


def _is_pieces(section: Section) -> bool:
    """Constants and annexes of functions, which are found by the relocations that lead to them."""
    return section.name in tables.ANNEXES or section.name.startswith((".rodata", ".data.rel.ro"))


def _raw(view: View, sections: Iterable[Section]) -> list[object]:
    """Bytes and relocations as they stand, by the names of symbols: equal for what is plainly the same."""
    return [(s.data, s.size, [_spelled(view, r) for r in view.obj.relocations_of(s.index)]) for s in sections]


def _spelled(view: View, r: Relocation) -> tuple[object, ...]:
    symbol = view.obj.symbols[r.symbol]
    name = symbol.name or (view.obj.sections[symbol.shndx].name if symbol.is_defined else "")
    return r.offset, r.type, name, symbol.value, r.addend


def _found(view: View, section: Section) -> list[int]:
    """Where relocations lead to in a section without symbols of its own."""
    out: set[int] = set()
    leading = {s.index for s in view.obj.symbols if s.shndx == section.index}
    for index in view.obj.rela_of if leading else ():
        place = view.obj.sections[index]
        if place.is_alloc and section.index in view.reaches(index):
            for r in view.obj.relocations_of(index):
                if r.symbol in leading:
                    row = view.row(place, r)
                    value = view.obj.symbols[r.symbol].value
                    out.add(value + r.addend + (row.size if row.pc_relative and place.is_exec else 0))
    return sorted(out)


def _texts(section: Section) -> Iterator[tuple[SectionOffset, bytes]]:
    """Each string of a section with its offset, the zero that ends it left out."""
    at, end = section.extent
    while at < end:
        text = section.string_at(at)
        yield at, text.data
        at += len(text.data) + text.width

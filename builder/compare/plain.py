"""References that plainly mean the same in both objects, as most do: seen without decoding and without their meaning.

What is not plain has its meaning compared (`Meanings`), with the same result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from builder.binary import Relocation, Section, SectionIndex, Symbol, SymbolIndex, elf
from builder.compare import naming
from builder.compare.atoms import Atom
from builder.compare.correlate import Correlation
from builder.compare.view import BEHIND

_ELSEWHERE: Final = (elf.SHN_UNDEF, elf.SHN_UNDEF)


class _Twins(NamedTuple):
    """An old and a new thing that are twins; functions that are `alike` have the same bytes."""

    old: Atom
    new: Atom
    alike: bool


class _Texts(NamedTuple):
    """An old and a new section of strings, of the same name."""

    old: Section
    new: Section


class PlainReferences:
    """Relocations of the old object and of the new one under one correlation."""

    def __init__(self, correlation: Correlation) -> None:
        self._correlation = correlation
        self._old, self._new = correlation.old, correlation.new
        self._pairs: dict[tuple[SectionIndex, SectionIndex], _Twins | _Texts | None] = {}
        self._things: dict[tuple[Atom, Atom], _Twins | None] = {}
        self._held_alike: dict[tuple[SectionIndex, SectionIndex], bool] = {}
        self._types = frozenset(self._old.arch.relocations)
        self._symbols: dict[tuple[SymbolIndex, SymbolIndex], bool] = {}

    def stand(self, place: Section, first: Sequence[Relocation], second: Sequence[Relocation], shift: int) -> bool:
        """Whether relocations of equal bytes, such as lie in `place`, plainly are as they were; False says nothing.

        `shift` is how much farther back those of the new object lie. Most lead to what is the same wherever in it
        they lead, which is found once for its symbols.
        """
        if len(first) != len(second):
            return False
        known, types = self._symbols, self._types
        for r, s in zip(first, second, strict=True):  # by number, for the names of fields take as long as all else
            if r[1] != s[1] or s[0] - r[0] != shift or r[1] not in types:
                return False
            same = known.get((r[2], s[2]))
            if same is None:
                same = self.lead_alike(r[2], s[2])
            if not (same and r[3] == s[3]) and not self.agree(place, r, s):
                return False
        return True

    def lead_alike(self, old: SymbolIndex, new: SymbolIndex) -> bool:
        """Whether equal addends to two symbols lead to the same, whatever they are."""
        key = old, new
        if key not in self._symbols:
            self._symbols[key] = self._lead_alike(old, new)
        return self._symbols[key]

    def _lead_alike(self, old: SymbolIndex, new: SymbolIndex) -> bool:
        a, b = self._old.obj.symbols[old], self._new.obj.symbols[new]
        if (a.shndx, b.shndx) == _ELSEWHERE and a.index and b.index:
            return a.name == b.name
        if not (a.is_defined and b.is_defined):
            return False
        pair = self._of_sections(a.shndx, b.shndx)
        if isinstance(pair, _Texts):
            return a.value == b.value and pair.old.data == pair.new.data
        if pair is None and not (_is_named(a) and _is_named(b)):
            return a.value == b.value and self._hold_the_same(a.shndx, b.shndx)
        if pair is None:
            pair = self._of_things(self._old.atom_at(a.shndx, a.value), self._new.atom_at(b.shndx, b.value))
        if pair is None or a.value - pair.old.entry != b.value - pair.new.entry:
            return False
        return pair.alike or not pair.old.is_function

    def _hold_the_same(self, old: SectionIndex, new: SectionIndex) -> bool:
        """Whether two sections hold variables that are twins at the same places: between them a place is its offset."""
        key = old, new
        if key not in self._held_alike:
            first, second = self._old.obj.sections[old], self._new.obj.sections[new]
            olds, news = self._old.atoms_in(old), self._new.atoms_in(new)
            self._held_alike[key] = (
                first.name == second.name
                and first.is_write and second.is_write and not (first.is_exec or second.is_exec)
                and first.size == second.size
                and len(olds) == len(news) > 1
                and all(
                    (a.start, a.entry, a.end) == (b.start, b.entry, b.end) and self._of_things(a, b) is not None
                    for a, b in zip(olds, news, strict=True)
                )
            )  # fmt: skip
        return self._held_alike[key]

    def _of_things(self, old: Atom | None, new: Atom | None) -> _Twins | None:
        if old is None or new is None:
            return None
        if (old, new) not in self._things:
            self._things[old, new] = self._twins(old, new)
        return self._things[old, new]

    def agree(self, place: Section, r: Relocation, s: Relocation) -> bool | None:
        """Whether relocations of one type mean the same, lines included; None where that is not plain.

        In code of equal bytes, or in data of one layout, such as lie in `place`: how far behind the field an
        instruction ends is the same in both, and need not be known.
        """
        row = self._old.arch.relocations.get(r.type)
        if row is None:
            return None
        a, b = self._old.obj.symbols[r.symbol], self._new.obj.symbols[s.symbol]
        key = a.shndx, b.shndx
        if key == _ELSEWHERE and a.index and b.index:
            return a.name == b.name and r.addend == s.addend
        if not (a.is_defined and b.is_defined):
            return None
        pair = self._of_sections(*key)
        if pair is None:
            return self._held(place, r, s)
        least, more = (row.size, BEHIND) if row.pc_relative and place.is_exec else (0, 0)
        x, y = a.value + r.addend + least, b.value + s.addend + least
        if isinstance(pair, _Texts):
            return _same_text(pair, x, y, more) or None
        return self._same_place(pair, x, y)

    def _held(self, place: Section, r: Relocation, s: Relocation) -> bool | None:
        """The same of what leads into sections that hold several things each, if to one of them for certain."""
        row = self._old.arch.relocations[r.type]
        least, more = (row.size, BEHIND) if row.pc_relative and place.is_exec else (0, 0)
        a, b = self._old.target(r, least).atom, self._new.target(s, least).atom
        if a is None or b is None:
            return None
        if more and (
            self._old.target(r, least + more).atom is not a or self._new.target(s, least + more).atom is not b
        ):
            return None
        pair = self._of_things(a, b)
        if pair is None:
            return None
        x = self._old.obj.symbols[r.symbol].value + r.addend + least
        y = self._new.obj.symbols[s.symbol].value + s.addend + least
        return self._same_place(pair, x, y)

    def _same_place(self, pair: _Twins, x: int, y: int) -> bool | None:
        """Whether two offsets lead to the same place of a thing; inside of code it is the instruction that counts."""
        same = x - pair.old.entry == y - pair.new.entry
        if not pair.old.is_function:
            return same
        return True if same and (x == pair.old.entry or pair.alike) else None

    def _of_sections(self, old: SectionIndex, new: SectionIndex) -> _Twins | _Texts | None:
        key = old, new
        if key not in self._pairs:
            self._pairs[key] = self._pair(*key)
        return self._pairs[key]

    def _pair(self, old: SectionIndex, new: SectionIndex) -> _Twins | _Texts | None:
        first, second = self._old.obj.sections[old], self._new.obj.sections[new]
        if first.is_string and second.is_string:
            narrow = first.name == second.name and first.character == second.character == 1
            return _Texts(first, second) if narrow else None
        olds, news = self._old.atoms_in(old), self._new.atoms_in(new)
        if not len(olds) == len(news) == 1:
            return None
        return self._twins(olds[0], news[0])

    def _twins(self, old: Atom, new: Atom) -> _Twins | None:
        if self._correlation.twins.get(new) is not old or old.is_function != new.is_function:
            return None
        if any(naming.is_never_paired(atom.name, atom.section.name) for atom in (old, new)):
            return None  # it means what it says
        if self._correlation.identity(old) != self._correlation.identity(new):
            return None
        code = [atom.section.data[atom.entry : atom.end] if atom.is_function else b"" for atom in (old, new)]
        return _Twins(old, new, code[0] == code[1])


def _is_named(symbol: Symbol) -> bool:
    """Whether a symbol names a thing, whose place is meant even by what leads behind its end."""
    return not (symbol.is_section or naming.is_label(symbol.name))


def _same_text(texts: _Texts, x: int, y: int, more: int) -> bool:
    """Whether the same lies at two offsets and up to `more` bytes behind them, what stands in front included."""
    first, second = texts.old.data, texts.new.data
    if x == y and first == second:
        return True
    if not (0 <= x <= len(first) - more and 0 <= y <= len(second) - more):
        return False
    begins = first.rfind(0, 0, x) + 1, second.rfind(0, 0, y) + 1
    ends = first.find(0, x + more), second.find(0, y + more)
    if x - begins[0] != y - begins[1] or min(ends) < 0:
        return False
    return first[begins[0] : ends[0]] == second[begins[1] : ends[1]]

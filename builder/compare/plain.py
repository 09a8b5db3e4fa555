"""References that plainly mean the same in both objects, as most do: seen without decoding and without their meaning.

What is not plain has its meaning compared (`Meanings`), with the same result.
"""

from __future__ import annotations

from typing import NamedTuple

from builder.binary import Relocation, Section, SectionIndex
from builder.compare import naming
from builder.compare.atoms import Atom
from builder.compare.correlate import Correlation
from builder.compare.view import BEHIND


class _Twins(NamedTuple):
    """The things that are alone in an old and in a new section."""

    old: Atom
    new: Atom


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

    def agree(self, place: Section, r: Relocation, s: Relocation) -> bool | None:
        """Whether relocations of one type mean the same, lines included; None where that is not plain.

        In code of equal bytes, or in data of one layout, such as lie in `place`: how far behind the field an
        instruction ends is the same in both, and need not be known.
        """
        row = self._old.arch.relocations.get(r.type)
        if row is None:
            return None
        a, b = self._old.obj.symbols[r.symbol], self._new.obj.symbols[s.symbol]
        if a.is_undefined and b.is_undefined:
            return a.name == b.name and r.addend == s.addend
        if not (a.is_defined and b.is_defined):
            return None
        key = a.shndx, b.shndx
        if key not in self._pairs:
            self._pairs[key] = self._pair(*key)
        pair = self._pairs[key]
        if pair is None:
            return None
        least, more = (row.size, BEHIND) if row.pc_relative and place.is_exec else (0, 0)
        x, y = a.value + r.addend + least, b.value + s.addend + least
        if isinstance(pair, _Texts):
            return _same_text(pair, x, y, more) or None
        same = x - pair.old.entry == y - pair.new.entry
        if not pair.old.is_function:
            return same
        return True if same and x == pair.old.entry else None  # inside of code it is the instruction that counts

    def _pair(self, old: SectionIndex, new: SectionIndex) -> _Twins | _Texts | None:
        first, second = self._old.obj.sections[old], self._new.obj.sections[new]
        if first.is_string and second.is_string:
            narrow = first.name == second.name and first.character == second.character == 1
            return _Texts(first, second) if narrow else None
        olds, news = self._old.atoms_in(old), self._new.atoms_in(new)
        if not len(olds) == len(news) == 1 or self._correlation.twins.get(news[0]) is not olds[0]:
            return None
        twins = _Twins(olds[0], news[0])
        if any(naming.is_never_paired(atom.name, atom.section.name) for atom in twins):
            return None  # it means what it says
        same = self._correlation.identity(twins.old) == self._correlation.identity(twins.new)
        return twins if same and twins.old.is_function == twins.new.is_function else None


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

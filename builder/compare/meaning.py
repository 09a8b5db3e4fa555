"""What a relocation means, independent of numbers, offsets and section names.

Two relocations are equal when their meanings are: strings by content, code by
function and ordinal of the instruction, statics by correlation, unnamed data
and compiler-made constants by content.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from builder.binary import Relocation, Section, SectionOffset, String
from builder.compare import naming
from builder.compare.atoms import Atom
from builder.compare.correlate import Correlation
from builder.compare.own_entries import entry_at
from builder.compare.plain import PlainReferences
from builder.compare.storage import is_private
from builder.compare.view import Target, View
from builder.errors import UnknownError

Meaning = tuple[object, ...]

FILE_LINE: Final = re.compile(rb"([\w./-]+\.[chSi]):(\d+)")
_SOURCE_LINES: Final = (b".c:", b".h:", b".S:", b".i:")
"""What every match of `FILE_LINE` holds one of."""
_DEPTH: Final = 16
"""How many data without an identity may lead into each other; real ones are a table of tables, or of records."""

Above = tuple[tuple[int, int, int], ...]
"""What is being read: (section, start, end) of the data that led here, the outermost first."""


@dataclass(frozen=True)
class Meanings:
    """Meanings of both objects' relocations under one correlation.

    With `lines` off, `file.c:LINE` inside strings is kept as it is; with it on
    the number is taken out where the file is one of the object's sources, so that
    only moved lines compare equal.
    """

    correlation: Correlation

    def of(self, view: View, place: Atom | None, relocation: Relocation, *, lines: bool, exact: bool = True) -> Meaning:
        """The meaning of one relocation in `place` (None for table entries and unnamed data)."""
        bias = view.bias(place, relocation, exact=exact) if place is not None else 0
        return self.of_target(view, view.target(relocation, bias), lines=lines)

    @cached_property
    def plain(self) -> PlainReferences:
        return PlainReferences(self.correlation)

    def is_same_content(self, old: Atom, new: Atom) -> bool:
        """Whether a datum and its twin say the same, relocated fields left out."""
        if self._is_plainly_same(old, new):
            return True
        return self.content(self.correlation.old, old, False) == self.content(self.correlation.new, new, False)

    def _is_plainly_same(self, old: Atom, new: Atom) -> bool:
        views = self.correlation.old, self.correlation.new
        if old.section.is_nobits or new.section.is_nobits or views[0].code(old) != views[1].code(new):
            return False
        if old.section.is_exec or new.section.is_exec:
            return False
        first, second = views[0].relocations(old), views[1].relocations(new)
        shift = new.start - old.start
        return self.plain.stand(old.section, first, second, shift)

    def of_target(self, view: View, target: Target, *, lines: bool, above: Above = (), exact: bool = False) -> Meaning:
        """What a target means; with `exact` places in code are told apart among NOPs too."""
        if target.kind == "atom":
            assert target.atom is not None
            return self._atom(view, target.atom, target.offset, lines, above, exact)
        if target.kind == "section":
            assert target.section is not None
            return self._unnamed(view, target.section, target.place, lines, above)
        if target.kind == "absolute":
            return ("abs", target.symbol.value + target.offset)
        return ("sym", target.symbol.name, target.offset)

    def _atom(self, view: View, atom: Atom, offset: int, lines: bool, above: Above, exact: bool) -> Meaning:
        if atom.is_function:
            name = self._name(atom)
            if not offset and not exact:
                return ("sym", name, 0)
            ordinal = view.ordinal(atom, atom.entry + offset)
            if ordinal is None:
                return ("code", name, "byte", offset)
            return ("code", name, ordinal, *(view.nop_at(atom, atom.entry + offset) if exact else ()))
        if self._by_content(atom):
            return ("content", offset, self.content(view, atom, lines, above), self._alike(view, atom))
        if naming.is_never_paired(atom.name, atom.section.name):
            return ("own", naming.family(atom.name), offset, self._own(view, atom, lines, above))
        return ("sym", self._name(atom), offset)

    def _name(self, atom: Atom) -> object:
        return self.correlation.identity(atom)

    def _by_content(self, atom: Atom) -> bool:
        """Read-only data with no identity of its own: what it says is all that matters."""
        if atom.section.is_write or atom.is_global:
            return False
        if naming.is_never_paired(atom.name, atom.section.name):
            return True
        return atom not in self.correlation.twins and atom not in self.correlation.versions

    def _alike(self, view: View, atom: Atom) -> int:
        """How many constants of the source say the same: one that became two has another address at each.

        0 for those of the compiler's, which it shares as it likes, and for those that lead elsewhere.
        """
        if not self._is_plain(view, atom):
            return 0
        return self._constants[view][atom.size, view.code(atom)]

    @cached_property
    def _constants(self) -> Mapping[View, Counter[tuple[int, bytes]]]:
        """Of each object: how many plain constants have a size and content."""
        views = (self.correlation.old, self.correlation.new)
        return {v: Counter((a.size, v.code(a)) for a in v.data if self._is_plain(v, a)) for v in views}

    def _is_plain(self, view: View, atom: Atom) -> bool:
        made = naming.is_never_paired(atom.name, atom.section.name) or naming.is_label(atom.name)
        return self._by_content(atom) and not made and not view.relocations(atom)

    def content(self, view: View, atom: Atom, lines: bool, above: Above = ()) -> Meaning:
        """Bytes and relocations of a datum, relocated fields masked out."""
        return self.bytes_in(view, atom.section, atom.start, atom.end, lines, above)

    def _own(self, view: View, atom: Atom, lines: bool, above: Above) -> Meaning:
        """Content of a datum of which each version has its own, without the line that a debug descriptor holds."""
        found = self.content(view, atom, lines, above)
        bits = naming.line_bits(atom.section.name)
        return _without_line(found, bits) if bits else found

    def bytes_in(
        self, view: View, section: Section, start: SectionOffset, end: SectionOffset, lines: bool, above: Above = ()
    ) -> Meaning:
        """Content of [start, end) of a section that is not an atom's code.

        Where data leads back to itself, the content says how many steps back.
        Raises UnknownError where it is nested too deep to be compared.
        """
        if section.is_nobits:
            return ("zero", end - start)
        place = (section.index, start, end)
        if place in above:
            return ("again", len(above) - above.index(place))
        if len(above) >= _DEPTH:
            raise UnknownError(
                f"section {section.name}: the data at {start:#x} is nested deeper than {_DEPTH} levels",
                where=view.obj.name,
            )
        below = (*above, place)
        rows = tuple(
            (r.offset - start, r.type, self.of_target(view, target, lines=lines, above=below))
            for r, target in view.leads(section, start, end)
        )
        return ("bytes", view.masked(section, start, end), rows)

    def _unnamed(self, view: View, section: Section, offset: SectionOffset, lines: bool, above: Above) -> Meaning:
        if not 0 <= offset <= section.size:
            return ("place", section.name, offset)
        if section.is_string:
            text, width = section.string_at(offset)
            # What stands in front can be reached, too: the compiler has referred to the middle.
            front = section.data[section.string_bounds(offset)[0] : offset]
            return ("str", String(_without_lines(view, text) if lines else text, width), *filter(None, (front,)))
        if is_private(section):
            return ("piece", offset, _without_location(self.bytes_in(view, section, *section.extent, lines, above)))
        if (own := entry_at(view, section, offset)) is not None:
            return ("entry", section.name, self._name(own.owner), own.number, offset - own.entry.start)
        if section.is_nobits or section.is_write:
            return ("place", section.name, offset)
        start, end = view.piece(section, offset)
        return ("piece", offset - start, self.bytes_in(view, section, start, end, lines, above))


def _without_lines(view: View, text: bytes) -> bytes:
    """A text without the lines that stand behind the name of the object's own source, or of a header."""

    if not any(end in text for end in _SOURCE_LINES):
        return text  # as most: to look for a word is slow in a long text that has none

    def without(found: re.Match[bytes]) -> bytes:
        return found[1] + b":#" if view.may_be_of(found[1].decode()) else found[0]

    return FILE_LINE.sub(without, text)


def _without_line(content: Meaning, bits: int) -> Meaning:
    """A descriptor whose leading pointers (module, function, file, format) are followed by a line of so many bits."""
    if content[0] != "bytes":
        return content
    _, data, rows = content
    assert isinstance(data, bytes) and isinstance(rows, tuple)
    pointers = {row[0] for row in rows}
    at = next(k for k in range(0, len(data) + 8, 8) if k not in pointers)
    line = int.from_bytes(data[at : at + 4], "little") >> bits << bits
    return ("bytes", data[:at] + line.to_bytes(4, "little") + data[at + 4 :], rows)


def _without_location(content: Meaning) -> Meaning:
    """A datum of UBSAN's without line and column: struct source_location, a file's name first (lib/ubsan.h, v6.1).

    Each version has a datum of its own, whose place in the source is no part of what the code does.
    """
    if content[0] != "bytes":
        return content
    _, data, rows = content
    assert isinstance(data, bytes) and isinstance(rows, tuple)
    names = [str(row[2][1]) for row in rows if row[0] == 0 and row[2][0] == "str"]
    if not names or not naming.is_source_name(names[0]):
        return content
    return ("bytes", data[:8] + data[16:], rows)

"""What a relocation means, independent of numbers, offsets and section names.

Two relocations are equal when their meanings are: strings by content, code by
function and ordinal of the instruction, statics by correlation, unnamed data
and compiler-made constants by content.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from builder.binary import Relocation, Section, String
from builder.compare import naming
from builder.compare.correlate import Correlation
from builder.compare.view import Atom, Target, View
from builder.errors import UnknownError

Meaning = tuple[object, ...]

_FILE_LINE: Final = re.compile(rb"([\w./-]+\.[chSi]):\d+")
_DEPTH: Final = 16
"""How many data without an identity may lead into each other; real ones are a table of tables, or of records."""

Above = tuple[tuple[int, int, int], ...]
"""What is being read: (section, start, end) of the data that led here, the outermost first."""


@dataclass(frozen=True, slots=True)
class Meanings:
    """Meanings of both objects' relocations under one correlation.

    With `lines` off, `file.c:LINE` inside strings is kept as it is; with it on
    the number is taken out, so that only moved lines compare equal.
    """

    correlation: Correlation

    def of(self, view: View, place: Atom | None, relocation: Relocation, *, lines: bool, exact: bool = True) -> Meaning:
        """The meaning of one relocation in `place` (None for table entries and unnamed data)."""
        bias = view.bias(place, relocation, exact=exact) if place is not None else 0
        return self.of_target(view, view.target(relocation, bias), lines=lines)

    def of_target(self, view: View, target: Target, *, lines: bool, above: Above = ()) -> Meaning:
        if target.kind == "atom":
            assert target.atom is not None
            return self._atom(view, target.atom, target.offset, lines, above)
        if target.kind == "section":
            assert target.section is not None
            return self._unnamed(view, target.section, target.offset, lines, above)
        if target.kind == "absolute":
            return ("abs", target.symbol.value + target.offset)
        return ("sym", target.symbol.name, target.offset)

    def _atom(self, view: View, atom: Atom, offset: int, lines: bool, above: Above) -> Meaning:
        if atom.is_function:
            name = self._name(atom)
            if not offset:
                return ("sym", name, 0)
            ordinal = view.ordinal(atom, atom.entry + offset)
            return ("code", name, ordinal) if ordinal is not None else ("code", name, "byte", offset)
        if self._by_content(atom):
            return ("content", offset, self.content(view, atom, lines, above))
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

    def content(self, view: View, atom: Atom, lines: bool, above: Above = ()) -> Meaning:
        """Bytes and relocations of a datum, relocated fields masked out."""
        return self.bytes_in(view, atom.section, atom.start, atom.end, lines, above)

    def _own(self, view: View, atom: Atom, lines: bool, above: Above) -> Meaning:
        """Content of a datum of which each version has its own; a debug descriptor's bytes hold its line."""
        found = self.content(view, atom, lines, above)
        return found[2:] if found[0] == "bytes" and naming.holds_line(atom.section.name) else found

    def bytes_in(self, view: View, section: Section, start: int, end: int, lines: bool, above: Above = ()) -> Meaning:
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

    def _unnamed(self, view: View, section: Section, offset: int, lines: bool, above: Above) -> Meaning:
        if section.is_string:
            text, width = section.string_at(offset)
            return ("str", String(_FILE_LINE.sub(rb"\1:#", text) if lines else text, width))
        if section.is_nobits or section.is_write:
            return ("place", section.name, offset)
        start, end = view.piece(section, offset)
        return ("piece", offset - start, self.bytes_in(view, section, start, end, lines, above))


def is_readonly(section: Section) -> bool:
    """Data that does not change after initialization (.data.rel.ro is writable only to the linker)."""
    return not section.is_write or section.name.startswith(".data.rel.ro")

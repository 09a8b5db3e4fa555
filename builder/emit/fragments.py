"""Fragments: what a bundle carries, cut loose from the objects it came from.

Every fragment is bytes for one output section with references that name what
they lead to, so that the linker needs no more of the input objects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple

from builder.binary import Section, SectionOffset, elf, tables
from builder.compare import Atom
from builder.compare.own_entries import entry_of
from builder.compare.storage import is_readonly
from builder.compare.view import Target, View
from builder.compose import references
from builder.compose.bound import Binding, Bound
from builder.compose.bundle import Bundle
from builder.compose.references import Piece
from builder.emit.glue import SET_ROW
from builder.errors import UnknownError

Key = object

ABSOLUTE: Final[Key] = ("absolute",)
"""What a reference to a number leads to, of a symbol without a section."""


class Reference(NamedTuple):
    """One relocation of a fragment: at `offset`, to a key of this module or to a binding, plus `addend`."""

    offset: int
    type: int
    to: Key | Binding
    addend: int


class Label(NamedTuple):
    """A symbol inside a fragment, or inside the section that the fragment came to lie in."""

    name: str
    offset: int
    size: int
    type: int


class Fragment(NamedTuple):
    """Bytes for the output section `section`; `size` exceeds `data` for zero-filled ones only.

    References to its key mean the byte `entry`: what precedes it is padding of a function.
    """

    key: Key
    section: str
    flags: int
    nobits: bool
    align: int
    entsize: int
    data: bytes
    size: int
    references: tuple[Reference, ...] = ()
    labels: tuple[Label, ...] = ()
    owner: str = ""
    entry_of: str = ""
    entry: int = 0


def cut(bundle: Bundle, number: int) -> list[Fragment]:
    """All fragments of one pair in a fixed order: code, data, pieces, table entries."""
    return list(_Cutter(bundle, number, bundle.pairs[number]).fragments())


class _Cutter:
    def __init__(self, bundle: Bundle, number: int, bound: Bound) -> None:
        self.bundle = bundle
        self.number = number
        self.bound = bound
        self.selection = bound.diff.selection
        self.view: View = self.selection.view

    def fragments(self) -> Iterator[Fragment]:
        for atom in (*self.selection.functions, *self.selection.data):
            yield self._atom(atom)
        for piece in self.selection.pieces:
            yield self._piece(piece)
        if self.bound.sets:
            yield self._sets()
        for atom, entries in self.selection.entries.items():
            for entry in entries:
                if entry not in self.bound.left_out:
                    yield from self._entry(atom, entry)

    def _sets(self) -> Fragment:
        """The words that are exchanged in running variables, as the glue's code reads them: SET_ROW."""
        data, references = b"", []
        for word in self.bound.sets:
            values = ((word.offset, word.variable), word.old, word.new)
            for k, (number, binding) in enumerate(values):
                if binding is not None:
                    references.append(Reference(len(data) + 8 * k, self.view.arch.absolute, binding, number))
            numbers = (0 if binding is not None else number for number, binding in values)
            data += SET_ROW.pack(*numbers, word.width)
        return Fragment(
            key=(self.number, "sets"),
            section=".data",
            flags=elf.SHF_ALLOC | elf.SHF_WRITE,
            nobits=False,
            align=8,
            entsize=0,
            data=data,
            size=len(data),
            references=tuple(references),
        )

    def _atom(self, atom: Atom) -> Fragment:
        name, flags, nobits = _output(atom.section, atom)
        data = b"" if nobits else self._zeroed(atom.section, atom.start, atom.end)
        kind = elf.STT_FUNC if atom.is_function else elf.STT_OBJECT
        return Fragment(
            key=self._key(atom),
            section=name,
            flags=flags,
            nobits=nobits,
            align=_alignment(atom.section, atom.start, atom.end - atom.start),
            entsize=0,
            data=data,
            size=atom.end - atom.start,
            references=self._references(atom, self.view.leads_of(atom), atom.start),
            labels=(Label(self.bundle.symbol(atom), atom.entry - atom.start, atom.end - atom.entry, kind),),
            owner=atom.name,
            entry=atom.entry - atom.start,
        )

    def _piece(self, piece: Piece) -> Fragment:
        name, flags, nobits = _output(piece.section, None)
        return Fragment(
            key=self._key(piece),
            section=name,
            flags=flags,
            nobits=nobits,
            align=piece.section.character if piece.section.is_string else _alignment(piece.section, piece.start),
            entsize=piece.section.character if piece.section.is_string else 0,
            data=self._zeroed(piece.section, piece.start, piece.end),
            size=piece.end - piece.start,
            references=self._references(piece, references.of_piece(self.view, piece), piece.start),
        )

    def _entry(self, atom: Atom, entry: tables.Entry) -> Iterator[Fragment]:
        section = self.view.obj.sections[entry.section]
        yield Fragment(
            key=(self.number, entry),
            section=section.name,
            flags=section.flags & ~(elf.SHF_LINK_ORDER | elf.SHF_GROUP),
            nobits=False,
            align=max(section.alignment, 1 if (entry.end - entry.start) % 4 else 4),
            entsize=section.entsize,
            data=self._zeroed(section, entry.start, entry.end),
            size=entry.end - entry.start,
            references=self._references(entry, references.of_entry(self.view, entry), entry.start),
            owner=atom.name,
            entry_of=section.name,
        )
        if entry.table.paired:
            yield self._paired(atom, entry)

    def _paired(self, atom: Atom, entry: tables.Entry) -> Fragment:
        """The companion of an entry in a table without relocations (.orc_unwind beside .orc_unwind_ip)."""
        section, start, end = tables.companion(self.view.obj, entry)
        return Fragment(
            key=(self.number, entry, "paired"),
            section=section.name,
            flags=section.flags,
            nobits=False,
            align=section.alignment,
            entsize=section.entsize,
            data=section.data[start:end],
            size=end - start,
            owner=atom.name,
            entry_of=section.name,
        )

    def _zeroed(self, section: Section, start: SectionOffset, end: SectionOffset) -> bytes:
        """Bytes with relocated fields cleared: livepatch refuses to relocate what is not zero."""
        return self.view.masked(section, start, end)

    def _references(
        self, place: Atom | Piece | tables.Entry, found: Iterable[tuple[Any, Target]], origin: int
    ) -> tuple[Reference, ...]:
        rows = []
        for r, target in found:
            if r.type == 0 or not self.view.arch.relocations[r.type].size:
                continue  # R_X86_64_NONE marks, it does not relocate
            to, addend = self._destination(place, target, r.addend + self.view.obj.symbols[r.symbol].value)
            rows.append(Reference(r.offset - origin, r.type, to, addend))
        return tuple(rows)

    def _destination(self, place: Atom | Piece | tables.Entry, target: Target, raw: int) -> tuple[Key | Binding, int]:
        """Where a reference leads and the addend relative to that; `raw` is S + A in the input section."""
        if (own := entry_of(self.view, target)) is not None:
            return (self.number, own.entry), raw - own.entry.start
        if target.kind == "section":
            piece = references.piece_at(self.view, target)
            return self._key(piece), raw - piece.start
        if target.kind == "absolute":
            return ABSOLUTE, raw
        if target.kind == "symbol":
            name = target.symbol.name
            given = self.bound.provided.get(name)
            addend = raw - target.symbol.value
            if given is not None:
                return (given[0], given[1]), addend
            return self.bound.names[name], addend
        assert target.atom is not None
        if self.selection.is_local(place, target):
            return self._key(target.atom), raw - target.atom.entry
        return self.bound.atoms[target.atom], raw - target.atom.entry

    def _key(self, item: Atom | Piece) -> Key:
        return (self.number, item)


_PLAIN_DATA: tuple[tuple[str, Callable[[Section], bool]], ...] = (
    (".rodata", is_readonly),
    (".bss", lambda s: s.is_nobits),
    (".data", lambda s: s.is_write),
)


def _output(section: Section, atom: Atom | None) -> tuple[str, int, bool]:
    """Output section of what came from an input section: name, flags, whether without bytes."""
    alloc, write, execute = elf.SHF_ALLOC, elf.SHF_WRITE, elf.SHF_EXECINSTR
    if section.name in tables.ANNEXES:
        return section.name, alloc | execute, False
    row = tables.named(section)
    if row is not None and row.is_kept:
        return row.name, section.flags & (alloc | write | execute), False
    if section.is_exec:
        return ".text", alloc | execute, False
    if section.is_string:
        width = section.character
        return f".rodata.str{width}.{width}", alloc | elf.SHF_MERGE | elf.SHF_STRINGS, False
    for name, fits in _PLAIN_DATA:
        if fits(section):
            return name, alloc | (0 if name == ".rodata" else write), name == ".bss"
    raise UnknownError(f"section {section.name} is neither code nor data")


def _alignment(section: Section, start: int, size: int = 0) -> int:
    """The alignment that the bytes at `start` of a section have had; entries of an array leave no room between them."""
    row = tables.named(section)
    room = size if row is not None and row.array else 0
    align = section.alignment
    while align > 1 and (start % align or room % align):
        align //= 2
    return align

"""Bytes between the things of a section, which no symbol covers."""

from __future__ import annotations

from collections.abc import Iterator

from builder.binary import Section, SectionOffset
from builder.compare import Atom, View
from builder.compose.books.rules import Ignored, Note, Pair, left


def gaps(pair: Pair) -> Iterator[Note]:
    """What lies between, before and behind the things of a section, compared behind its predecessor."""
    for section in pair.new.obj.sections:
        if not pair.new.atoms_in(section.index) or not section.is_alloc or section.is_nobits:
            continue
        for before, start, end in _gaps(pair.new, section):
            data = section.data[start:end]
            if _is_fill(pair, section, data):
                yield from _fill(pair, before, section, start, end)
            elif not _same_gap(pair, before, section, start, end):
                name = before.name if before else section.name
                yield left(name, section.name, f"bytes {data[:16].hex(' ')} at {section.name}+{start:#x} have no name")


def _is_fill(pair: Pair, section: Section, data: bytes) -> bool:
    if section.is_exec:
        arch = pair.new.arch
        rest = data.replace(arch.padding, b"").replace(arch.filler, b"").strip(b"\0")
        return not rest or all(insn.is_nop for insn in arch.decode(data, 0))
    return not data.strip(b"\x00")


def _fill(
    pair: Pair, before: Atom | None, section: Section, start: SectionOffset, end: SectionOffset
) -> Iterator[Note]:
    found = _old_gap(pair, before, section, start)
    if found is not None and found[0].data[found[1] : found[2]] != section.data[start:end]:
        yield Ignored("fill", before.name if before else section.name)


def _old_gap(
    pair: Pair, before: Atom | None, section: Section, start: SectionOffset
) -> tuple[Section, SectionOffset, SectionOffset] | None:
    if before is not None:
        old = pair.twins.get(before)
        if old is None:
            return None
        at = start - before.end + old.end
        return next(((old.section, s, e) for _, s, e in _gaps(pair.old, old.section) if s == at), None)
    for old_section in pair.old.sections_named(section.name):
        for prior, s, e in _gaps(pair.old, old_section):
            if prior is None:
                return old_section, s, e
    return None


def _same_gap(pair: Pair, before: Atom | None, section: Section, start: SectionOffset, end: SectionOffset) -> bool:
    found = _old_gap(pair, before, section, start)
    if found is None:
        return False
    first = pair.meanings.bytes_in(pair.old, found[0], found[1], found[2], False)
    return first == pair.meanings.bytes_in(pair.new, section, start, end, False)


def _gaps(view: View, section: Section) -> Iterator[tuple[Atom | None, SectionOffset, SectionOffset]]:
    """Bytes [start, end) of a section that no atom covers, with the atom in front of them."""
    (reach, end), before = section.extent, None
    for atom in view.atoms_in(section.index):
        if atom.start > reach:
            yield before, reach, atom.start
        if atom.end >= reach:
            reach, before = atom.end, atom
    if reach < end:
        yield before, reach, end

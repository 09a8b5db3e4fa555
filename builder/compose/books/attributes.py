"""Flags, types, entry sizes and alignments of sections; sections that are never loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from builder.binary import Section, tables
from builder.compare import Atom, View, naming
from builder.compose.books.rules import Ignored, Note, Pair, left


def sections(pair: Pair) -> Iterator[Note]:
    """Flags, type and entry size of sections of one name; sections that are never loaded."""
    before, after = pair.old_sections, pair.new_sections
    pairs = {(old.section.index, new.section.index): (old.section, new.section) for new, old in pair.twins.items()}
    paired = {index for _, index in pairs}
    for name, rows in after.items():
        others = before.get(name, [])
        if not any(section.is_alloc for section in (*rows, *others)):
            if [s.data for s in rows] != [s.data for s in others]:
                yield Ignored("not-loaded", name)
            continue
        if others:
            yield from _unpaired_attributes(pair, others, [s for s in rows if s.index not in paired])
    for name, rows in before.items():
        if name not in after and not any(section.is_alloc for section in rows):
            yield Ignored("not-loaded", name)
    for old, new in pairs.values():
        yield from _attributes(pair, old, new)


def _unpaired_attributes(pair: Pair, old: list[Section], rest: list[Section]) -> Iterator[Note]:
    """Sections of one name that hold nothing which is paired: one with one, or several with any of the others."""
    if len(old) == len(rest) == 1:
        yield from _attributes(pair, old[0], rest[0])
        return
    known = {(section.flags, section.type, section.entsize) for section in old}
    for section in rest:
        if (section.flags, section.type, section.entsize) not in known:
            yield left(section.name, section.name, f"no section {section.name} had flags {section.flags:#x}")
    if len(old) != len(rest):
        return  # their entries, and what refers to them, are judged one by one
    if sorted(s.align for s in old) != sorted(s.align for s in rest):
        yield Ignored("alignment", rest[0].name)
    fields = [sorted(_masked(view, s) for s in rows) for view, rows in ((pair.old, old), (pair.new, rest))]
    if fields[0] == fields[1] and sorted(s.data for s in old) != sorted(s.data for s in rest):
        yield Ignored("relocated-field", rest[0].name)


def _attributes(pair: Pair, old: Section, new: Section) -> Iterator[Note]:
    if (old.flags, old.type, old.entsize) != (new.flags, new.type, new.entsize):
        was, now = (f"flags {s.flags:#x}, type {s.type}, entries of {s.entsize}" for s in (old, new))
        if not any(pair.is_judged(atom) for atom in pair.new.atoms_in(new.index)):
            yield left(new.name, new.name, f"section {new.name} had {was}, and has {now}")
        return
    if old.data != new.data and _masked(pair.old, old) == _masked(pair.new, new):
        yield Ignored("relocated-field", new.name)
    if old.align != new.align:
        things = pair.new.atoms_in(new.index)
        others = len(things) != len(pair.old.atoms_in(old.index)) or any(a not in pair.twins for a in things)
        for_others = others and not _aligns_what_stays(pair, things, new.alignment)
        stays = new.align < old.align or for_others or not any(not atom.is_function for atom in things)
        own = len(things) == 1 and naming.is_never_paired(things[0].name, new.name)
        if stays or own or tables.is_discarded(new.name):
            yield Ignored("alignment", new.name)
        elif len(things) > 1:  # one alone is judged in builder/compose/identity.py
            yield left(new.name, new.name, f"section {new.name} was aligned to {old.align}, and is to {new.align}")


def _aligns_what_stays(pair: Pair, things: Sequence[Atom], align: int) -> bool:
    """Whether a section may be aligned more for something that it held before: places are all that tells."""
    fitting = [atom for atom in things if atom.entry % align == 0]
    stay = [atom for atom in fitting if atom in pair.twins]
    return len(stay) == len(fitting) or any(pair.twins[atom].entry != atom.entry for atom in stay)


def _masked(view: View, section: Section) -> bytes:
    return view.masked(section, *section.extent)

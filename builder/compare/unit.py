"""A function and its `.cold` parts as lines: what each instruction does, refers to, and where control goes."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from operator import itemgetter

from builder.arch import Instruction, Operation
from builder.binary import Relocation, SectionIndex, tables
from builder.compare.atoms import Atom
from builder.compare.comparison import Comparison
from builder.compare.meaning import Meaning
from builder.compare.view import View


@dataclass(frozen=True, eq=False)
class UnitLine:
    """One instruction of a unit: what it does, what it refers to, and where control goes (indexes of lines)."""

    part: Atom
    insn: Instruction
    operation: Operation
    meanings: tuple[Meaning, ...]
    target: int | None
    outside: bool
    """Whether a jump leaves the unit."""
    from_table: bool
    """Whether a table leads here: a switch, `goto *p`, the exception or the jump label table."""
    also: tuple[int, ...] = ()
    """Where a table leads from here: a fixup, the other way of a jump label, the cases of a switch."""

    @property
    def offset(self) -> int:
        return self.insn.offset - self.part.entry

    @cached_property
    def keys(self) -> tuple[Hashable, ...]:
        """What is compared at each confidence, the strictest first."""
        loose = (self.operation.form, self.meanings)
        return ((loose, self.operation.registers, self.operation.constants), (loose, self.operation.registers), loose)


def unit(comparison: Comparison, view: View, parts: Sequence[Atom]) -> list[UnitLine]:
    """The instructions of a function and its parts."""
    index: dict[tuple[Atom, int], int] = {}
    found: list[tuple[Atom, Instruction]] = []
    for part in parts:
        for insn in view.instructions(part):
            index[part, insn.offset] = len(found)
            found.append((part, insn))
    tabled, leads = _tabled(view, parts)
    cases = [
        index[place]
        for place in sorted(tabled - {to for ways in leads.values() for to in ways}, key=index.__getitem__)
        if place in index
    ]
    names = {comparison.correlation.identity(part) for part in parts}
    lines = []
    for part, insn in found:
        relocations = view.relocations_at(part, insn)
        code = part.section.data[insn.offset : insn.end]
        target: int | None = None
        at: Atom | None = None
        outside = False
        if insn.target is not None and not relocations:
            at = view.goal(part, insn)
            target = index.get((at if at in parts else part, insn.target))  # type: ignore[arg-type]
            outside = target is None
        meanings: list[Meaning] = []
        for r in relocations:
            meaning = comparison.meanings.of(view, part, r, lines=True)
            to = view.target(r, view.bias(part, r))
            if insn.is_jump and to.atom is not None and to.atom in parts:
                target = index.get((to.atom, to.atom.entry + to.offset))
                meaning = ("inside",)
            elif insn.is_jump:
                outside = True
            meanings.append(_without_ordinals(meaning, names))
        if outside and not relocations:
            meanings.append(("sym", comparison.correlation.identity(at) if at else None))
        operation, place = view.arch.operation(code), (part, insn.offset)
        also = [index[to] for to in leads.get(place, ()) if to in index] + (cases if operation.indirect else [])
        lines.append(UnitLine(part, insn, operation, tuple(meanings), target, outside, place in tabled, tuple(also)))
    return lines


def _without_ordinals(meaning: Meaning, names: set[object]) -> Meaning:
    """A meaning in which places inside the unit are not told apart: they move with the code."""
    if len(meaning) >= 2 and meaning[0] == "code" and isinstance(meaning[1], Hashable) and meaning[1] in names:
        return ("code",)
    return tuple(_without_ordinals(part, names) if isinstance(part, tuple) else part for part in meaning)


_LEADING = frozenset({"__ex_table", "__jump_table"})
"""Special tables whose entries say where control goes; those of the others only say where something is."""


_Place = tuple[Atom, int]


def _tabled(view: View, parts: Sequence[Atom]) -> tuple[set[_Place], dict[_Place, list[_Place]]]:
    """Places inside the unit that data refer to; of those, what special tables lead to, by where they lead from."""
    sections = {part.section.index for part in parts}
    from_data = sorted((row for section in sections for row in _leading_to(view).get(section, ())), key=itemgetter(0))

    def inside(r: Relocation) -> _Place | None:
        symbol = view.obj.symbols[r.symbol]
        if not symbol.is_defined or symbol.shndx not in sections:
            return None
        at = view.atom_at(symbol.shndx, symbol.value + r.addend)
        return (at, symbol.value + r.addend) if at is not None and at in parts else None

    found: set[_Place] = set()
    leads: dict[_Place, list[_Place]] = {}
    for _, r, source in from_data:
        to = inside(r)
        if to is not None and to[1] != to[0].entry:
            found.add(to)
            if source is not None and (place := inside(source)) is not None:
                leads.setdefault(place, []).append(to)
    return found, leads


@lru_cache(maxsize=2)
def _leading_to(view: View) -> Mapping[SectionIndex, list[tuple[int, Relocation, Relocation | None]]]:
    """What `_from_data` finds, each with its place in that order, by the section that it leads to; of the two objects
    that are compared."""
    symbols = view.obj.symbols
    out: dict[SectionIndex, list[tuple[int, Relocation, Relocation | None]]] = {}
    for number, (r, source) in enumerate(_from_data(view)):
        if symbols[r.symbol].is_defined:
            out.setdefault(symbols[r.symbol].shndx, []).append((number, r, source))
    return out


def _from_data(view: View) -> Iterator[tuple[Relocation, Relocation | None]]:
    """Relocations of data; and those of special tables that say where control goes on, each with that of where from."""
    for index, relocations in view.obj.relocations.items():
        place = view.obj.sections[view.obj.sections[index].info]
        if not place.is_alloc or place.is_exec:
            continue
        row = tables.BY_NAME.get(place.name)
        if row is None:
            yield from ((r, None) for r in relocations)
        elif place.name in _LEADING:
            for entry in tables.entries(view.obj, place, row):
                yield from ((r, entry.relocations[0]) for r in entry.relocations[1:])

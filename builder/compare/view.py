"""An object seen as atoms: functions and data with their bytes, relocations and table entries.

An atom is what a symbol covers. With -ffunction-sections and -fdata-sections
that is mostly a whole section; in `.init.text`, `.ref.text` or
`.data..read_mostly` a section holds several.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, cached_property, partial
from itertools import groupby
from operator import attrgetter
from pathlib import PurePosixPath
from typing import Final, Literal, NamedTuple

from builder import arch as architectures
from builder.arch import Instruction, RelocationRow
from builder.binary import (
    ObjectFile,
    Relocation,
    Section,
    SectionIndex,
    SectionOffset,
    Symbol,
    SymbolIndex,
    elf,
    tables,
)
from builder.compare import naming
from builder.compare.atoms import Atom, cut
from builder.compare.branches import resolved
from builder.compare.decoded import decoded, holder, ordinals, to_the_end
from builder.compare.storage import is_private
from builder.errors import UnknownError

BEHIND: Final = 8
"""Bytes of an instruction that may follow a relocated field of it, at most."""

_SYMBOL, _ADDEND = attrgetter("symbol"), attrgetter("addend")


class Target(NamedTuple):
    """Where a relocation leads: into an atom, to an undefined symbol, or to bytes without a symbol."""

    kind: Literal["atom", "symbol", "section", "absolute"]
    atom: Atom | None
    symbol: Symbol
    section: Section | None
    offset: int

    @property
    def name(self) -> str:
        """What it is called: the thing itself, else the symbol that names it; empty for bytes without a name."""
        return self.atom.name if self.atom else self.symbol.name

    @property
    def place(self) -> SectionOffset:
        """Where in its section it leads."""
        return SectionOffset(self.offset) if self.atom is None else self.atom.entry + self.offset


class View:
    """Look-ups over one object; everything is found once and never changed.

    What is asked about one section or function only is found when it is asked
    for: most of an object is never looked into.
    """

    def __init__(self, obj: ObjectFile) -> None:
        self.obj = obj
        self.arch = architectures.by_machine(obj.machine, where=obj.name)
        self._relocations = cache(self._by_offset)
        self.relocations: Callable[[Atom], list[Relocation]] = cache(self._of_atom)
        """The relocations of a function or datum, by offset."""
        self.reaches: Callable[[SectionIndex], frozenset[SectionIndex]] = cache(self._reaches)
        """The sections that the relocations of a section lead into, and itself: most lead nowhere that is asked for."""
        self._decoded = cache(partial(decoded, self.arch))
        self._ordinals = cache(partial(ordinals, self._decoded))
        self._leads = cache(self._leads_of)
        self._targets = cache(self._target)
        self._owned = cache(self._entries_by_owner)
        self.label_owners: Callable[[Atom], tuple[Atom, ...]] = cache(self._label_owners)
        """Functions whose inner addresses a datum holds."""

    def forget(self) -> None:
        """Let go of all that was found, and of the object; nothing may be asked afterwards.

        What is kept leads back to the view: without this only the collector of circles would free it, which takes a
        fifth of the time of a tree.
        """
        vars(self).clear()

    @cached_property
    def _map(self) -> dict[SectionIndex, tuple[list[SectionOffset], list[Atom]]]:
        """Section index -> (starts, atoms), in order."""
        out: dict[SectionIndex, tuple[list[SectionOffset], list[Atom]]] = {}
        padding = self.arch.padding
        for index, symbols in self.obj.symbols_in.items():
            section = self.obj.sections[index]
            if not section.is_alloc or section.is_string or section.name in tables.BY_NAME:
                continue
            atoms = cut(section, symbols, padding)
            if atoms:
                out[index] = ([a.start for a in atoms], atoms)
        return out

    @cached_property
    def atoms(self) -> tuple[Atom, ...]:
        return tuple(a for _, row in self._map.values() for a in row)

    @cached_property
    def functions(self) -> tuple[Atom, ...]:
        return tuple(a for a in self.atoms if a.is_function)

    @cached_property
    def data(self) -> tuple[Atom, ...]:
        return tuple(a for a in self.atoms if not a.is_function)

    @cached_property
    def by_name(self) -> Mapping[str, Atom]:
        """Any symbol name -> its atom, the first one if several have it."""
        out: dict[str, Atom] = {}
        for atom in self.atoms:
            for name in atom.names:
                out.setdefault(name, atom)
        return out

    def atoms_in(self, section: SectionIndex) -> list[Atom]:
        found = self._map.get(section)
        return found[1] if found is not None else []

    def atom_at(self, section: SectionIndex, offset: SectionOffset) -> Atom | None:
        """The atom whose bytes hold `offset`; one past the last atom's end still belongs to it."""
        found = self._map.get(section)
        if found is None:
            return None
        starts, atoms = found
        at = bisect_right(starts, offset) - 1
        if at < 0:
            return None
        atom = atoms[at]
        return atom if offset <= atom.end else None

    def goal(self, atom: Atom, insn: Instruction) -> Atom | None:
        """The atom that a direct branch of a function leads into, where it has no relocation; None for all else."""
        return None if insn.target is None else self.atom_at(atom.section.index, SectionOffset(insn.target))

    def atom_before(self, atom: Atom) -> Atom | None:
        """The atom in front of one in its section."""
        starts, atoms = self._map[atom.section.index]
        at = bisect_left(starts, atom.start) - 1
        return atoms[at] if at >= 0 else None

    def relocations_in(self, section: SectionIndex, start: SectionOffset, end: SectionOffset) -> list[Relocation]:
        """Relocations of a section's bytes [start, end), by offset."""
        offsets, rows = self._relocations(section)
        if not rows:
            return rows
        return rows[bisect_left(offsets, start) : bisect_left(offsets, end)]

    def _by_offset(self, section: SectionIndex) -> tuple[list[SectionOffset], list[Relocation]]:
        """The relocations of a section in the order of their offsets, with the offsets beside them; also those of
        branches that the assembler has resolved itself."""
        rows = sorted(self.obj.relocations_of(section))
        atoms = self.atoms_in(section)
        if len(atoms) > 1 and (found := self.obj.sections[section]).is_exec:
            rows += resolved(self.arch, found, atoms, {r.offset for r in rows})
            rows.sort()
        return [r[0] for r in rows], rows

    def _reaches(self, section: SectionIndex) -> frozenset[SectionIndex]:
        of = self._sections_of
        return frozenset({section, *[of[r[2]] for r in self.obj.relocations_of(section)]})

    @cached_property
    def _sections_of(self) -> list[SectionIndex]:
        """Of each symbol its section."""
        return [symbol.shndx for symbol in self.obj.symbols]

    def _of_atom(self, atom: Atom) -> list[Relocation]:
        return self.relocations_in(atom.section.index, atom.start, atom.end)

    def relocations_at(self, atom: Atom, insn: Instruction) -> list[Relocation]:
        """Relocations of one instruction of a function."""
        return self.relocations_in(atom.section.index, SectionOffset(insn.offset), SectionOffset(insn.end))

    def undefined_names(self, atom: Atom) -> frozenset[str]:
        """Names of the undefined symbols that a function refers to."""
        symbols = (self.obj.symbols[r.symbol] for r in self.relocations(atom))
        return frozenset(symbol.name for symbol in symbols if symbol.is_undefined)

    def code(self, atom: Atom) -> bytes:
        """The atom's bytes, prefix padding included; empty for data without bytes (bss)."""
        return atom.section.data[atom.start : atom.end]

    def instructions(self, atom: Atom) -> list[Instruction]:
        """Decoded from the entry on; offsets are the section's."""
        return self._decoded(atom)

    def ordinal(self, atom: Atom, offset: int) -> int | None:
        """Number of the instruction at a section offset, NOPs not counted; None inside an instruction."""
        return self._ordinals(atom).get(offset)

    def nop_at(self, atom: Atom, offset: int) -> tuple[int, ...]:
        """Tells a NOP from its neighbours: its length, and the how-manieth of that length in its row; () for others."""
        rows = self.instructions(atom)
        at = bisect_left(rows, offset, key=attrgetter("offset"))
        if at == len(rows) or not rows[at].is_nop:
            return ()
        same, k = 0, at - 1
        while k >= 0 and rows[k].is_nop:
            same += rows[k].length == rows[at].length
            k -= 1
        return rows[at].length, same

    def target(self, relocation: Relocation, bias: int = 0) -> Target:
        """What a relocation leads to.

        `bias` is what a PC-relative place adds: the distance from the field to
        the end of its instruction in code, 0 in data.
        """
        return self._targets(relocation.symbol, relocation.addend + bias)

    def _target(self, index: SymbolIndex, addend: int) -> Target:
        symbol = self.obj.symbols[index]
        if not symbol.is_defined:
            kind: Literal["symbol", "absolute"] = "absolute" if symbol.shndx == elf.ABS else "symbol"
            return Target(kind, None, symbol, None, addend)
        offset = SectionOffset(symbol.value + addend)
        section = self.obj.sections[symbol.shndx]
        atom = self._covering(symbol, section, offset)
        if atom is not None:
            return Target("atom", atom, symbol, section, offset - atom.entry)
        return Target("section", None, symbol, section, offset)

    def _covering(self, symbol: Symbol, section: Section, offset: SectionOffset) -> Atom | None:
        """The atom that is meant: the named symbol's own, even for its end or before its start."""
        atoms = self.atoms_in(section.index)
        if len(atoms) == 1:
            return atoms[0]
        if symbol.is_section or naming.is_label(symbol.name):
            return self.atom_at(section.index, offset)
        return self.atom_at(section.index, symbol.value)

    def row(self, section: Section, relocation: Relocation) -> RelocationRow:
        """How wide the relocated field is, and whether it is relative to its place.

        Raises UnknownError for a type that the kernel does not apply.
        """
        found = self.arch.relocations.get(relocation.type)
        if found is None:
            raise UnknownError(
                f"section {section.name}: relocation type {relocation.type} at {relocation.offset:#x} "
                "is not one the kernel applies",
                where=self.obj.name,
            )
        return found

    def bias(self, atom: Atom, relocation: Relocation, *, exact: bool = True) -> int:
        """Distance from a PC-relative field in code to the end of its instruction; 0 elsewhere.

        Unless it is to be `exact`, nothing is decoded: constants behind the field are left out.
        """
        row = self.row(atom.section, relocation)
        if not row.pc_relative or not atom.section.is_exec:
            return 0
        if not exact or relocation.type in self.arch.branch_types:
            return row.size
        return to_the_end(self.instructions(atom), relocation.offset, row.size)

    def reached(self, atom: Atom, relocation: Relocation) -> Atom | None:
        """The atom that a relocation of a function or datum leads into: nothing is decoded where its one end is as
        good as another."""
        row = self.row(atom.section, relocation)
        if row.pc_relative and atom.section.is_exec:
            found = self.target(relocation, row.size).atom
            if found is None or self.target(relocation, row.size + BEHIND).atom is not found:
                found = self.target(relocation, self.bias(atom, relocation)).atom
            return found
        return self.target(relocation).atom

    def instruction_at(self, atom: Atom, offset: int) -> Instruction | None:
        """The instruction whose bytes hold `offset`."""
        return holder(self.instructions(atom), offset)

    def references(self, atom: Atom, insn: Instruction) -> list[tuple[Relocation, Target]]:
        """Relocations of one instruction of a function, and where they lead."""
        return [(r, self.target(r, self.bias(atom, r))) for r in self.relocations_at(atom, insn)]

    def leads_of(self, atom: Atom) -> Sequence[tuple[Relocation, Target]]:
        """Relocations of a function or datum, and where they lead."""
        return self._leads(atom)

    def _leads_of(self, atom: Atom) -> list[tuple[Relocation, Target]]:
        return [(r, self.target(r, self.bias(atom, r))) for r in self.relocations(atom)]

    def leads(self, section: Section, start: SectionOffset, end: SectionOffset) -> Iterator[tuple[Relocation, Target]]:
        """Relocations of bytes [start, end) that are no function, and where they lead."""
        relocations = self.relocations_in(section.index, start, end)
        insns = self.arch.decode(section.data[start:end], start) if relocations and section.is_exec else []
        for r in relocations:
            row = self.row(section, r)
            relative = bool(insns) and row.pc_relative
            yield r, self.target(r, to_the_end(insns, r.offset, row.size) if relative else 0)

    def masked(self, section: Section, start: SectionOffset, end: SectionOffset) -> bytes:
        """Bytes [start, end) of a section with the relocated fields cleared."""
        return self.cleared(section.data[start:end], section, start, self.relocations_in(section.index, start, end))

    def cleared(self, code: bytes, section: Section, start: int, relocations: Sequence[Relocation]) -> bytes:
        """Bytes that stand at `start` of a section, or for what stands there, with those fields cleared."""
        if not relocations:
            return code
        out = bytearray(code)
        known = self.arch.relocations
        for r in relocations:
            at, size = r.offset - start, (known.get(r.type) or self.row(section, r)).size
            out[at : at + size] = bytes(size)
        return bytes(out[: len(code)])

    def entries(self, atom: Atom) -> tuple[tables.Entry, ...]:
        """The special-table entries that a function owns, by table and order."""
        return tuple(entry for row in tables.TABLES for entry in self.owned(row).get(atom, ()))

    @cached_property
    def label_tables(self) -> Mapping[Atom, tuple[Atom, ...]]:
        """Function -> the data that hold addresses inside it: labels of `goto *p`, switch tables with a name."""
        out: dict[Atom, list[Atom]] = {}
        for datum in self.data:
            for function in self.label_owners(datum):
                out.setdefault(function, []).append(datum)
        return {function: tuple(found) for function, found in out.items()}

    @cached_property
    def _code(self) -> frozenset[SectionIndex]:
        """The sections of code."""
        return frozenset(s.index for s in self.obj.sections if s.flags & elf.SHF_EXECINSTR)

    def _label_owners(self, datum: Atom) -> tuple[Atom, ...]:
        if self._code.isdisjoint(self.reaches(datum.section.index)):
            return ()
        rows, code, symbols = self.relocations(datum), self._code, self.obj.symbols
        targets = [self.target(r) for r in rows if symbols[r.symbol].shndx in code]
        return tuple(
            dict.fromkeys(t.atom for t in targets if t.atom is not None and t.atom.is_function and t.offset > 0)
        )

    @cached_property
    def telling(self) -> Mapping[Atom, tuple[tables.Entry, ...]]:
        """Function -> its entries in the tables that say more than the instructions do, by table and order."""
        return _grouped(self.owned(row) for row in tables.TABLES if not row.derived)

    def owned(self, row: tables.TableRow) -> Mapping[Atom | None, tuple[tables.Entry, ...]]:
        """The entries of one table by the function that they belong to; None for code without a symbol."""
        return self._owned(row)

    def _entries_by_owner(self, row: tables.TableRow) -> Mapping[Atom | None, tuple[tables.Entry, ...]]:
        owners: dict[Atom | None, list[tables.Entry]] = {}
        for section in self.sections_named(row.name):
            found, at = tables.entries(self.obj, section, row), 0
            sites = [entry.relocations[0] for entry in found]
            for symbol, group in groupby(sites, _SYMBOL):  # those of one function mostly stand together
                addends = list(map(_ADDEND, group))
                end = at + len(addends)
                reach = self._alone(symbol)
                if reach is not None and reach[0] <= min(addends) and max(addends) <= reach[1]:
                    owners.setdefault(reach[2], []).extend(found[at:end])
                else:
                    for entry in found[at:end]:
                        owners.setdefault(self.owner(entry), []).append(entry)
                at = end
        return {owner: tuple(rows) for owner, rows in owners.items()}

    def _alone(self, index: SymbolIndex) -> tuple[int, int, Atom] | None:
        """The atom that is alone in a symbol's section, and from where to where a symbol's addends lead into it."""
        symbol = self.obj.symbols[index]
        atoms = self.atoms_in(symbol.shndx) if symbol.is_defined else []
        return (atoms[0].start - symbol.value, atoms[0].end - symbol.value, atoms[0]) if len(atoms) == 1 else None

    def owner(self, entry: tables.Entry) -> Atom | None:
        """The atom that an entry's site lies in; None for code without a symbol."""
        symbol = self.obj.symbols[entry.site.symbol]
        if not symbol.is_defined:
            return None
        return self.atom_at(symbol.shndx, symbol.value + entry.site.addend)

    @cached_property
    def _named(self) -> Mapping[str, list[Section]]:
        out: dict[str, list[Section]] = {}
        for section in self.obj.sections:
            out.setdefault(section.name, []).append(section)
        return out

    def may_be_of(self, path: str) -> bool:
        """Whether the object may hold something of a file: of its own source, or of a header."""
        return may_be_of(self.files, path)

    @cached_property
    def files(self) -> frozenset[str]:
        """The names of its sources, without headers; none where they went with the debug information."""
        return frozenset(s.name for s in self.obj.symbols if s.type == elf.STT_FILE and s.name)

    def sections_named(self, name: str) -> Iterable[Section]:
        return self._named.get(name, ())

    @cached_property
    def cuts(self) -> Mapping[SectionIndex, list[SectionOffset]]:
        """Section without symbols -> the offsets that relocations lead to, in order.

        They bound the pieces of annexes (`.fixup`, `.altinstr_aux`) and of
        unnamed read-only data (switch tables).
        """
        out: dict[SectionIndex, set[SectionOffset]] = {}
        unnamed = {s.index for s in self.obj.sections if s.index not in self._map and not s.is_string}
        leading = {s.index for s in self.obj.symbols if s.shndx in unnamed and s.is_defined}
        for rela in self.obj.relocations:
            place = self.obj.sections[self.obj.sections[rela].info]
            if not place.is_alloc or unnamed.isdisjoint(self.reaches(place.index)):
                continue
            code: list[Instruction] = []
            for r in self.obj.relocations[rela]:
                if r.symbol not in leading:
                    continue
                symbol = self.obj.symbols[r.symbol]
                atom = self.atom_at(place.index, r.offset)
                if atom is not None:
                    bias = self.bias(atom, r)
                elif place.is_exec and self.row(place, r).pc_relative:
                    code = code or self.arch.decode(place.data, 0)
                    bias = to_the_end(code, r.offset, self.row(place, r).size)
                else:
                    bias = 0
                out.setdefault(symbol.shndx, set()).add(symbol.value + r.addend + bias)
        return {index: sorted(found) for index, found in out.items()}

    def piece(self, section: Section, offset: SectionOffset) -> tuple[SectionOffset, SectionOffset]:
        """Bounds of the unnamed bytes that `offset` lies in."""
        if is_private(section):
            return section.extent
        if section.entsize and section.flags & elf.SHF_MERGE and not section.is_string:
            start = offset - offset % section.entsize
            return start, min(start + section.entsize, section.extent[1])
        cuts = self.cuts.get(section.index, [])
        at = bisect_right(cuts, offset)
        first, last = section.extent
        # What stands in front of the first place is reached from there; behind another it is a part of that piece.
        start = cuts[at - 1] if at > (not section.is_exec) else first
        end = cuts[at] if at < len(cuts) else last
        return max(start, first), min(end, last)


def _grouped(
    parts: Iterable[Mapping[Atom | None, tuple[tables.Entry, ...]]],
) -> Mapping[Atom, tuple[tables.Entry, ...]]:
    """What each function has in several tables, one table after the other."""
    out: dict[Atom, tuple[tables.Entry, ...]] = {}
    for part in parts:
        for owner, found in part.items():
            if owner is not None:
                out[owner] = out.get(owner, ()) + found
    return out


def may_be_of(files: frozenset[str], path: str) -> bool:
    """Whether an object of these sources may hold something of a file."""
    name = PurePosixPath(path).name
    return name.endswith(".h") or not files or name in files

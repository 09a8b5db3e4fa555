"""The books of a pair, balanced: what of either object no verdict accounts for.

Every thing of the two objects ends as the same, line only, travelling, bound, refused, or ignored by a rule of
`RULES`. The comparison judges functions and data by what they mean, and the selection says what travels. Here
everything else is looked at: symbols, the attributes of sections, bytes without a name, table entries of code that
stays. What differs there and is ignored by no rule is the refusal `unaccounted`: it may be harmless, but nobody has
said so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from builder.binary import Relocation, Section, Symbol, elf, tables
from builder.compare import Atom, View, naming
from builder.compare.meaning import Meaning
from builder.compare.storage import Lifetime, is_private, lifetime
from builder.compose.selection import Selection, is_trampoline
from builder.errors import Refusal

RULES: Final[Mapping[str, str]] = {
    "not-loaded": "a section without SHF_ALLOC is never in memory: debug information, comments, notes of the build",
    "discarded": "read by the build of a kernel, or by the loader of the module that was built, never by running code",
    "start-only": "freed after the start, or run only when the module goes: nothing calls it now",
    "unreferenced": "bytes that no relocation of either object leads to: no code can find them",
    "removed": "what is gone from the source stays in the kernel, and nothing new refers to it",
    "unused": "new, and neither called nor referred to by anything that travels",
    "fill": "what fills the room between things, or runs as nothing: NOPs, INT3 behind code, zeros between data",
    "encoding": "the same operation to the same place, encoded longer or shorter: the original is not replaced for it",
    "bug-line": "the line in an entry of the bug table is only printed",
    "linkage": "static, global or weak: the same thing under the same name, which the linker has bound long ago",
    "symbol-size": "the size of a symbol is a note for tools; what it covers was compared byte by byte",
    "mark": "a relocation of no width (R_X86_64_NONE) marks a place and writes nothing",
    "marker": "a name of the room before a function (__pfx_, __cfi_), which only tools read",
    "own": "made by the compiler for one place (__key, __func__, ...): each version has its own, judged where it is used",
    "relocated-field": "bytes that a relocation with addend writes over (gABI: RELA), whatever they were",
    "symbol-type": "with or without a type, the symbol names the same code",
    "alignment": "the original stays where it is, new code wants it aligned less, or the table is laid anew",
    "author": "the author of the patch has excluded it (KPATCH_IGNORE_FUNCTION, KPATCH_IGNORE_SECTION)",
}
"""Name -> why what it takes cannot matter. `diff --json` lists what each took, under `ignored`."""


@dataclass(frozen=True)
class Books:
    """`ignored`: rule -> what it took, in words; `refusals`: what is left over."""

    ignored: Mapping[str, tuple[str, ...]]
    refusals: tuple[Refusal, ...]


def balance(selection: Selection) -> Books:
    """Balance the books of a pair; what nothing accounts for is a refusal."""
    clerk = _Clerk(selection)
    clerk.sections()
    clerk.symbols()
    clerk.things()
    clerk.gaps()
    clerk.entries()
    clerk.unnamed()
    return Books(
        {rule: tuple(dict.fromkeys(found)) for rule, found in sorted(clerk.ignored.items())},
        tuple(dict.fromkeys(clerk.left)),
    )


class _Clerk:
    """Goes through both objects once; `ignored` and `left` are what it has written down."""

    def __init__(self, selection: Selection) -> None:
        self.selection = selection
        self.comparison = selection.comparison
        self.old, self.new = self.comparison.old, self.comparison.new
        self.twins = self.comparison.correlation.twins
        self.versions = self.comparison.correlation.versions
        self.meanings = self.comparison.meanings
        self.ignored: dict[str, list[str]] = {}
        self.left: list[Refusal] = []

    def ignore(self, rule: str, what: str) -> None:
        assert rule in RULES
        self.ignored.setdefault(rule, []).append(what)

    def leave(self, symbol: str, section: str, what: str) -> None:
        self.left.append(
            Refusal(
                "unaccounted",
                symbol,
                section,
                f"{what}: no rule says what becomes of that",
                "look at what it is; if it cannot matter to running code, accept it",
                fatal=False,
            )
        )

    # Attributes

    def sections(self) -> None:
        """Flags, type and entry size of sections of one name; sections that are never loaded."""
        before, after = _by_name(self.old), _by_name(self.new)
        for name, rows in after.items():
            others = before.get(name, [])
            if not any(section.is_alloc for section in (*rows, *others)):
                if [s.data for s in rows] != [s.data for s in others]:
                    self.ignore("not-loaded", name)
                continue
            if others:
                self._unpaired_attributes(others, rows)
        for name, rows in before.items():
            if name not in after and not any(section.is_alloc for section in rows):
                self.ignore("not-loaded", name)
        pairs = {(old.section.index, new.section.index): (old.section, new.section) for new, old in self.twins.items()}
        for old, new in pairs.values():
            self._attributes(old, new)

    def _unpaired_attributes(self, old: list[Section], new: list[Section]) -> None:
        """Sections of one name that hold nothing which is paired: one with one, or several with any of the others."""
        rest = [section for section in new if not any(atom in self.twins for atom in self.new.atoms_in(section.index))]
        if len(old) == len(rest) == 1:
            self._attributes(old[0], rest[0])
            return
        known = {(section.flags, section.type, section.entsize) for section in old}
        for section in rest:
            if (section.flags, section.type, section.entsize) not in known:
                self.leave(section.name, section.name, f"no section {section.name} had flags {section.flags:#x}")
        if len(old) != len(rest):
            return  # their entries, and what refers to them, are judged one by one
        if sorted(s.align for s in old) != sorted(s.align for s in rest):
            self.ignore("alignment", rest[0].name)
        fields = [sorted(_masked(view, s) for s in rows) for view, rows in ((self.old, old), (self.new, rest))]
        if fields[0] == fields[1] and sorted(s.data for s in old) != sorted(s.data for s in rest):
            self.ignore("relocated-field", rest[0].name)

    def _attributes(self, old: Section, new: Section) -> None:
        if (old.flags, old.type, old.entsize) != (new.flags, new.type, new.entsize):
            was, now = (f"flags {s.flags:#x}, type {s.type}, entries of {s.entsize}" for s in (old, new))
            if not any(self._is_judged(atom) for atom in self.new.atoms_in(new.index)):
                self.leave(new.name, new.name, f"section {new.name} had {was}, and has {now}")
            return
        if old.data != new.data and _masked(self.old, old) == _masked(self.new, new):
            self.ignore("relocated-field", new.name)
        if old.align != new.align:
            things = self.new.atoms_in(new.index)
            changed = len(things) != len(self.old.atoms_in(old.index)) or any(a not in self.twins for a in things)
            stays = new.align < old.align or changed or not any(not atom.is_function for atom in things)
            own = len(things) == 1 and naming.is_never_paired(things[0].name, new.name)
            if stays or own or _discarded(new.name):
                self.ignore("alignment", new.name)
            elif len(things) > 1:  # one alone is judged in builder/compose/identity.py
                self.leave(new.name, new.name, f"section {new.name} was aligned to {old.align}, and is to {new.align}")

    # Symbols

    def symbols(self) -> None:
        """What a name is, beside where it leads (builder/compose/identity.py): type, binding, visibility, size."""
        before, after = _named(self.old), _named(self.new)
        for atom, twin in self.twins.items():
            if naming.is_numbered(atom.symbol.name):
                self._same_notes(atom.name, twin.symbol, atom.symbol)
        for name, first, second in _never_paired(self.old, self.new):
            self._same_notes(name, first, second)
        for name, new in after.items():
            old = before.get(name)
            if old is None or (old.is_undefined and new.is_undefined):
                continue
            if old.is_undefined or new.is_undefined:
                self._defined(name, old, new)
            elif old.is_defined and new.is_defined:
                self._same_symbol(name, old, new)
            elif (old.shndx, old.value) != (new.shndx, new.value):
                self.leave(name, "", f"{name} was {_place(self.old, old)}, and is {_place(self.new, new)}")
        for name, old in before.items():
            if old.is_defined and name not in after and old.type != elf.STT_NOTYPE and not self._is_dropped(old):
                self.ignore("removed", name)

    def _is_dropped(self, symbol: Symbol) -> bool:
        """A removed name of a thing that is judged under another name, or of no thing at all."""
        atom = self.old.atom_at(symbol.shndx, symbol.value)
        return atom is None or atom in self.versions or atom.name != symbol.name

    def _defined(self, name: str, old: Symbol, new: Symbol) -> None:
        """A name that was defined here and elsewhere now, or the other way round."""
        if new.is_undefined:
            self.ignore("removed", name)  # what refers to it refers to another thing, which the comparison sees
        else:
            atom = self.new.atom_at(new.shndx, new.value)
            if atom is None or (atom not in self.selection and not _discarded(atom.section.name)):
                self.ignore("unused", name)

    def _same_symbol(self, name: str, old: Symbol, new: Symbol) -> None:
        a, b = self.old.atom_at(old.shndx, old.value), self.new.atom_at(new.shndx, new.value)
        if (a is None) != (b is None) or (a is not None and b is not None and a.is_function != b.is_function):
            self.leave(name, self.new.obj.sections[new.shndx].name, f"{name} was {_kind(a)}, and is {_kind(b)}")
            return
        if a is None and old.value != new.value and not naming.is_numbered(name):
            section = self.new.obj.sections[new.shndx].name
            if _discarded(section):
                self.ignore("discarded", name)
            elif tables.BY_NAME.get(section) is None:
                self.leave(name, section, f"{name} is at {new.value:#x} of {section}, and was at {old.value:#x}")
        if b is not None and old.value - (a.entry if a else 0) != new.value - b.entry and naming.is_marker(name):
            self.ignore("marker", name)
        self._same_notes(name, old, new)

    def _same_notes(self, name: str, old: Symbol, new: Symbol) -> None:
        """What a symbol says beside its place."""
        if old.type != new.type:
            if {old.type, new.type} <= {elf.STT_FUNC, elf.STT_NOTYPE, elf.STT_OBJECT}:
                self.ignore("symbol-type", name)
            else:
                self.leave(name, "", f"symbol {name} was of type {old.type}, and is of type {new.type}")
        if (old.bind, old.other) != (new.bind, new.other):
            self.ignore("linkage", name)
        a, b = self.old.atom_at(old.shndx, old.value), self.new.atom_at(new.shndx, new.value)
        if old.size != new.size and (a is None or b is None or (a.size == b.size and not self._is_judged(b))):
            self.ignore("symbol-size", name)

    def _is_judged(self, atom: Atom) -> bool:
        """Whether a thing has a verdict of its own that is not "the same"."""
        verdict = self.comparison.functions.get(atom) or self.comparison.data.get(atom)
        return verdict is not None and verdict.is_changed

    # Functions and data

    def things(self) -> None:
        """Each function and datum of both objects: paired, travelling, or taken by a rule."""
        for atom in self.new.atoms:
            if atom in self.twins:
                self._paired(atom, self.twins[atom])
            elif atom not in self.selection:
                self._new(atom)
        own = [
            Counter(
                naming.family(atom.name) for atom in view.data if naming.is_never_paired(atom.name, atom.section.name)
            )
            for view in (self.old, self.new)
        ]
        for name in sorted((own[0] - own[1]) + (own[1] - own[0])):
            self.ignore("own", name)
        for atom in self.old.atoms:
            if atom not in self.versions and not naming.is_never_paired(atom.name, atom.section.name):
                self.ignore("discarded" if _discarded(atom.section.name) else "removed", atom.name)

    def _paired(self, new: Atom, old: Atom) -> None:
        if new.is_function:
            verdict = self.comparison.functions.get(new)
            if verdict is not None and not verdict.is_changed:
                for rule in verdict.excused:
                    self.ignore(rule, new.name)
            elif verdict is not None and new not in self.selection and self.selection.macros.ignores(new):
                self.ignore("author", new.name)
        elif new not in self.comparison.data and not self._same_data(old, new):
            self.ignore(_section_rule(new.section.name), new.name)

    def _same_data(self, old: Atom, new: Atom) -> bool:
        """For data that the comparison does not judge."""
        return self.meanings.content(self.old, old, False) == self.meanings.content(self.new, new, False)

    def _new(self, atom: Atom) -> None:
        if naming.is_never_paired(atom.name, atom.section.name):
            return  # judged by content, where it is used
        if _discarded(atom.section.name):
            self.ignore(_section_rule(atom.section.name), atom.name)
        elif is_trampoline(atom) or naming.cold_parent(atom.name) is not None:
            return  # goes with its key, or its function
        elif atom.is_function and atom.section.is_exec and lifetime(atom.section.name) is not Lifetime.LIVE:
            self.ignore("start-only", atom.name)
        else:
            self.ignore("unused", atom.name)

    # Bytes between things

    def gaps(self) -> None:
        """What lies between, before and behind the things of a section, compared behind its predecessor."""
        for section in self.new.obj.sections:
            if not section.is_alloc or not self.new.atoms_in(section.index) or section.is_nobits:
                continue
            for before, start, end in _gaps(self.new, section):
                data = section.data[start:end]
                if self._is_fill(section, data):
                    self._fill(before, section, start, end)
                elif not self._same_gap(before, section, start, end):
                    name = before.name if before else section.name
                    self.leave(
                        name, section.name, f"bytes {data[:16].hex(' ')} at {section.name}+{start:#x} have no name"
                    )

    def _is_fill(self, section: Section, data: bytes) -> bool:
        if section.is_exec:
            return all(insn.is_nop for insn in self.new.arch.decode(data, 0)) or not data.strip(b"\x00\x90\xcc")
        return not data.strip(b"\x00")

    def _fill(self, before: Atom | None, section: Section, start: int, end: int) -> None:
        found = self._old_gap(before, section, start)
        if found is not None and found[0].data[found[1] : found[2]] != section.data[start:end]:
            self.ignore("fill", before.name if before else section.name)

    def _old_gap(self, before: Atom | None, section: Section, start: int) -> tuple[Section, int, int] | None:
        if before is not None:
            old = self.twins.get(before)
            if old is None:
                return None
            at = start - before.end + old.end
            return next(((old.section, s, e) for _, s, e in _gaps(self.old, old.section) if s == at), None)
        for old_section in self.old.sections_named(section.name):
            for prior, s, e in _gaps(self.old, old_section):
                if prior is None:
                    return old_section, s, e
        return None

    def _same_gap(self, before: Atom | None, section: Section, start: int, end: int) -> bool:
        found = self._old_gap(before, section, start)
        if found is None:
            return False
        first = self.meanings.bytes_in(self.old, found[0], found[1], found[2], False)
        return first == self.meanings.bytes_in(self.new, section, start, end, False)

    # Tables

    def entries(self) -> None:
        """Entries of code that stays are the same, those of the derived tables too; entries of code without a name."""
        for row in tables.TABLES:
            before, after = _owned(self.old, row), _owned(self.new, row)
            for owner, entries in after.items():
                if owner is not None and self._moves(owner):
                    continue
                old = before.get(self.twins[owner] if owner is not None else None, [])
                self._same_entries(row, owner, old, entries)
            for old_owner, entries in before.items():
                new_owner = self.versions.get(old_owner) if old_owner is not None else None
                stays = old_owner is None or (new_owner is not None and not self._moves(new_owner))
                if stays and new_owner not in after:
                    self._same_entries(row, new_owner, entries, [])

    def _moves(self, owner: Atom) -> bool:
        """Whether a function takes its entries along, or has changed."""
        return owner not in self.twins or owner in self.selection or self._is_judged(owner)

    def _same_entries(
        self, row: tables.TableRow, owner: Atom | None, old: list[tables.Entry], new: list[tables.Entry]
    ) -> None:
        if owner is not None and not row.derived:
            # The comparison has judged them with their function, all but the lines of the bug table.
            if row.lines and _bytes(self.old, old) != _bytes(self.new, new):
                self.ignore("bug-line", owner.name)
            return
        first = [self._entry(self.old, entry) for entry in old]
        second = [self._entry(self.new, entry) for entry in new]
        if first == second or (owner is None and sorted(map(repr, first)) == sorted(map(repr, second))):
            return
        name = owner.name if owner is not None else row.name
        whose = f"of {owner.name}" if owner is not None else "of code without a name"
        self.leave(name, row.name, f"entries {whose} in {row.name} differ though the code does not")

    def _entry(self, view: View, entry: tables.Entry) -> tuple[object, ...]:
        section = view.obj.sections[entry.section]
        rows = [
            (r.offset - entry.start, r.type, self.meanings.of_target(view, view.target(r), lines=True, exact=True))
            for r in entry.relocations
        ]
        return (view.masked(section, entry.start, entry.end), tuple(rows), _paired_bytes(view, entry))

    # Sections without names

    def unnamed(self) -> None:
        """Strings, constants, pieces of code and unknown sections that hold no symbol."""
        before = {name: rows for name, rows in _by_name(self.old).items() if any(map(self._is_unnamed_old, rows))}
        after = {name: rows for name, rows in _by_name(self.new).items() if any(map(self._is_unnamed_new, rows))}
        for name in dict.fromkeys((*after, *before)):
            first, second = before.get(name, []), after.get(name, [])
            if _raw(self.old, first) == _raw(self.new, second):
                continue
            sample = (second or first)[0]
            if sample.is_string:
                self._strings(name, first, second)
            elif _discarded(name):
                self.ignore(_section_rule(name), name)
            elif _is_pieces(sample):
                self._pieces(name, first, second)
            elif self._content(self.old, first) != self._content(self.new, second):
                self._unknown(name, second)

    def _is_unnamed_old(self, section: Section) -> bool:
        return _is_unnamed(self.old, section)

    def _is_unnamed_new(self, section: Section) -> bool:
        return _is_unnamed(self.new, section)

    def _content(self, view: View, sections: Iterable[Section]) -> list[Meaning]:
        return [self.meanings.bytes_in(view, section, 0, section.size, False) for section in sections]

    def _unknown(self, name: str, sections: list[Section]) -> None:
        symbol = next((t.atom.name for s in sections for _, t in self.new.leads(s, 0, s.size) if t.atom), name)
        self.left.append(
            Refusal(
                "unknown-table",
                symbol,
                name,
                f"section {name} has changed, and what its entries mean is not known",
                "add a row for it in builder/binary/tables.py",
            )
        )

    def _strings(self, name: str, old: list[Section], new: list[Section]) -> None:
        """Strings that are referred to are judged where they are; only those that nobody finds are left."""
        for view, sections, others in ((self.new, new, old), (self.old, old, new)):
            known = {text for section in others for _, text in _texts(section)}
            for section in sections:
                found = _found(view, section)
                for start, text in _texts(section):
                    if text not in known and not any(start <= at <= start + len(text) for at in found):
                        self.ignore("unreferenced", f"{name}+{start:#x}")

    def _pieces(self, name: str, old: list[Section], new: list[Section]) -> None:
        """Unnamed constants and code: those that something leads to are judged there."""
        for view, sections in ((self.new, new), (self.old, old)):
            for section in sections:
                cuts = view.cuts.get(section.index, [])
                first = cuts[0] if cuts else section.size
                if first > 0 and section.data[:first].strip(b"\0"):
                    self.ignore("unreferenced", f"{name}+0x0")


def _by_name(view: View) -> dict[str, list[Section]]:
    """Sections by name, those left out that the model makes anew: symbol and string tables, relocations."""
    out: dict[str, list[Section]] = {}
    for section in view.obj.sections[1:]:
        if section.type not in (elf.SHT_SYMTAB, elf.SHT_STRTAB, elf.SHT_RELA):
            out.setdefault(section.name, []).append(section)
    return out


def _named(view: View) -> dict[str, Symbol]:
    """Symbols by name, those that have one and are the only ones of it; no sections, files, labels, numbered names."""
    out: dict[str, Symbol] = {}
    double: set[str] = set()
    for symbol in view.obj.symbols:
        if symbol.type in (elf.STT_SECTION, elf.STT_FILE) or not symbol.name or naming.is_label(symbol.name):
            continue
        if symbol.name in out:
            double.add(symbol.name)
        out[symbol.name] = symbol
    return {name: s for name, s in out.items() if name not in double and not naming.is_numbered(name)}


def _never_paired(old: View, new: View) -> Iterator[tuple[str, Symbol, Symbol]]:
    """Symbols of one name whose things each version has of its own."""
    before = {atom.name: atom.symbol for atom in old.data if naming.is_never_paired(atom.name, atom.section.name)}
    for atom in new.data:
        if atom.name in before and naming.is_never_paired(atom.name, atom.section.name):
            yield atom.name, before[atom.name], atom.symbol


def _masked(view: View, section: Section) -> bytes:
    return view.masked(section, 0, section.size)


def _place(view: View, symbol: Symbol) -> str:
    if symbol.is_defined:
        return f"in {view.obj.sections[symbol.shndx].name}"
    return f"the absolute value {symbol.value:#x}" if symbol.shndx == elf.ABS else "of another kind"


def _kind(atom: Atom | None) -> str:
    if atom is None:
        return "no thing of its own"
    return f"{'code' if atom.is_function else 'data'} in {atom.section.name}"


def _discarded(section: str) -> bool:
    return section.startswith(tables.DISCARDED)


def _section_rule(section: str) -> str:
    return "start-only" if lifetime(section) is not Lifetime.LIVE else "discarded"


def _gaps(view: View, section: Section) -> Iterator[tuple[Atom | None, int, int]]:
    """Bytes [start, end) of a section that no atom covers, with the atom in front of them."""
    reach, before = 0, None
    for atom in view.atoms_in(section.index):
        if atom.start > reach:
            yield before, reach, atom.start
        if atom.end >= reach:
            reach, before = atom.end, atom
    if reach < section.size:
        yield before, reach, section.size


def _owned(view: View, row: tables.TableRow) -> dict[Atom | None, list[tables.Entry]]:
    """All entries of a table by the function that they belong to; None for code without a symbol."""
    out: dict[Atom | None, list[tables.Entry]] = {}
    for section in view.sections_named(row.name):
        for entry in tables.entries(view.obj, section, row):
            out.setdefault(view.owner(entry), []).append(entry)
    return out


def _bytes(view: View, entries: Iterable[tables.Entry]) -> list[bytes]:
    return [view.masked(view.obj.sections[entry.section], entry.start, entry.end) for entry in entries]


def _paired_bytes(view: View, entry: tables.Entry) -> bytes:
    """What stands beside an entry in the table that goes with its own (.orc_unwind beside .orc_unwind_ip)."""
    if not entry.table.paired:
        return b""
    section = next(iter(view.sections_named(entry.table.paired)), None)
    count = view.obj.sections[entry.section].size // (entry.end - entry.start)
    if section is None or not count or section.size % count:
        return b""
    stride = section.size // count
    return section.data[entry.index * stride : (entry.index + 1) * stride]


def _is_unnamed(view: View, section: Section) -> bool:
    if not section.is_alloc or not section.size or view.atoms_in(section.index) or is_private(section):
        return False
    paired = {row.paired for row in tables.TABLES if row.paired}
    return section.name not in tables.BY_NAME and section.name not in paired


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
    for place in view.obj.sections:
        if place.is_alloc:
            for r in view.obj.relocations_of(place.index):
                symbol = view.obj.symbols[r.symbol]
                if symbol.shndx == section.index:
                    row = view.row(place, r)
                    out.add(symbol.value + r.addend + (row.size if row.pc_relative and place.is_exec else 0))
    return sorted(out)


def _texts(section: Section) -> Iterator[tuple[int, bytes]]:
    """Each string of a section with its offset, the zero that ends it left out."""
    at = 0
    while at < section.size:
        text = section.string_at(at)
        yield at, text.data
        at += len(text.data) + text.width

"""Comparison of functions: instruction by instruction, relocations by meaning.

Equal bytes with equal relocations decide most functions without decoding. What
is left is decoded: branches compare by the ordinal they lead to, so that jumps
which the assembler relaxed differently are equal; everything else compares by
its encoding with the relocated fields masked out.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace

from builder.acquire.shifts import Shift
from builder.arch import Instruction
from builder.binary import Relocation, tables
from builder.compare import naming
from builder.compare.atoms import Atom
from builder.compare.correlate import Correlation
from builder.compare.lines import LineProof
from builder.compare.meaning import Meaning, Meanings
from builder.compare.verdict import LINES, SAME, Difference, Verdict
from builder.compare.view import Target, View


class CodeComparer:
    """Compares functions of one pair of objects."""

    def __init__(self, correlation: Correlation, meanings: Meanings, shifts: Sequence[Shift] = ()) -> None:
        self.correlation = correlation
        self.meanings = meanings
        self.old, self.new = correlation.old, correlation.new
        self.proof = LineProof(self.old, self.new, shifts)
        self._agreed: dict[tuple[int, int, int, int, int], bool] = {}
        """In equal bytes: (type, old symbol, addend, new symbol, addend) of relocations -> whether they agree."""

    def compare(self, old: Atom, new: Atom) -> Difference:
        """The verdict on a function and its twin, `.cold` parts not included."""
        identical = self._identical(old, new)
        if self._before_entry(self.old, old) != self._before_entry(self.new, new):
            code = Difference(Verdict.CHANGED, f"{new.name} has another hash of its type before its entry (kCFI)")
        else:
            code = SAME if identical else self._by_instruction(old, new)
        if code.is_changed:
            for view, atom in ((self.old, old), (self.new, new)):
                known = view.arch.relocations
                for r in view.relocations(atom):
                    if r.type not in known:
                        view.row(atom.section, r)  # what changed is to travel: nothing unknown in it is passed over
            return code
        entries = self._entries(old, new, identical)
        if entries.is_changed:
            return entries
        tables = self._label_tables(old, new)
        return tables if tables.is_changed else code

    def _identical(self, old: Atom, new: Atom) -> bool:
        """Same bytes, and every relocation the same place, type and meaning."""
        if old.end - old.entry != new.end - new.entry:
            return False
        if old.section.data[old.entry : old.end] != new.section.data[new.entry : new.end]:
            return False
        first, second = self.old.relocations(old), self.new.relocations(new)
        if len(first) != len(second):
            return False
        shift = new.entry - old.entry
        return self.meanings.plain.stand(old.section, first, second, shift) or all(
            r.type == s.type and s.offset - r.offset == shift and self._agree(old, r, new, s)
            for r, s in zip(first, second, strict=True)
        )

    def _agree(self, old: Atom, r: Relocation, new: Atom, s: Relocation) -> bool:
        """Whether relocations of one type in equal bytes mean the same; found out once where they may recur."""
        key = (r.type, r.symbol, r.addend, s.symbol, s.addend)
        found = self._agreed.get(key)
        if found is None:
            found = self.meanings.plain.agree(old.section, r, s)
            if found is not None:
                self._agreed[key] = found
        if found is None:
            anywhere = self._is_told(self.old, old, r) and self._is_told(self.new, new, s)
            found = self._same(old, r, new, s, lines=False, exact=None if not anywhere else False)
            if anywhere:
                self._agreed[key] = found
        return found

    def _is_told(self, view: View, place: Atom, r: Relocation) -> bool:
        """Whether symbol and addend tell what is meant, however far behind the field its instruction ends.

        In equal bytes it ends equally far behind, which is all that counts where the symbol names the datum that is
        meant; in code, strings and unnamed data another place is another thing.
        """
        symbol = view.obj.symbols[r.symbol]
        if not symbol.is_defined:
            return True
        if r.type in view.arch.branch_types or not view.row(place.section, r).pc_relative:
            return True
        if len(view.atoms_in(symbol.shndx)) == 1:
            return True
        if symbol.is_section or naming.is_label(symbol.name):
            return False
        atom = view.atom_at(symbol.shndx, symbol.value)
        return atom is not None and not atom.is_function

    def _same(
        self, old: Atom, r: Relocation, new: Atom, s: Relocation, *, lines: bool, exact: bool | None = None
    ) -> bool:
        a, b = self.old.obj.symbols[r.symbol], self.new.obj.symbols[s.symbol]
        if a.shndx == 0 and b.shndx == 0 and not r.addend - s.addend:
            return a.name == b.name
        return self._meaning(self.old, old, r, lines, exact) == self._meaning(self.new, new, s, lines, exact)

    def _meaning(self, view: View, place: Atom, r: Relocation, lines: bool, exact: bool | None) -> Meaning:
        """Exact where the section holds more than one thing, unless that is said; the field's width elsewhere."""
        if exact is None:
            symbol = view.obj.symbols[r.symbol]
            exact = not (symbol.is_defined and len(view.atoms_in(symbol.shndx)) == 1)
        return self.meanings.of(view, place, r, lines=lines, exact=exact)

    def _by_instruction(self, old: Atom, new: Atom) -> Difference:
        first = [i for i in self.old.instructions(old) if not i.is_nop]
        second = [i for i in self.new.instructions(new) if not i.is_nop]
        rows_a, rows_b = self.old.relocations(old), self.new.relocations(new)
        at_a, at_b = [r.offset for r in rows_a], [r.offset for r in rows_b]
        lines = False
        data_a, data_b = old.section.data, new.section.data
        for a, b in zip(first, second, strict=False):
            begin_a, end_a, begin_b, end_b = a.offset, a.end, b.offset, b.end
            ra = rows_a[bisect_left(at_a, begin_a) : bisect_left(at_a, end_a)]
            rb = rows_b[bisect_left(at_b, begin_b) : bisect_left(at_b, end_b)]
            if not ra and not rb and a.target is None and data_a[begin_a:end_a] == data_b[begin_b:end_b]:
                continue
            verdict = self._instruction(old, a, ra, new, b, rb)
            if verdict is Verdict.CHANGED:
                return Difference(verdict, self._explain(old, a, ra, new, b, rb))
            lines |= verdict is Verdict.LINES
        if len(first) != len(second):
            longer, rows, name = (
                (second, self.new, "added") if len(second) > len(first) else (first, self.old, "removed")
            )
            atom = new if rows is self.new else old
            extra = longer[min(len(first), len(second))]
            return Difference(
                Verdict.CHANGED,
                f"instruction {name} at {atom.name}+{extra.offset - atom.entry:#x}: {self._text(rows, atom, extra)}",
            )
        if any(self._relocates_nop(view, atom) for view, atom in ((self.old, old), (self.new, new))):
            return Difference(Verdict.CHANGED, f"a relocation writes into a NOP of {new.name}")
        excused = self._excused(old, new, first, second)
        return replace(LINES if lines else SAME, excused=excused)

    def _before_entry(self, view: View, atom: Atom) -> list[bytes]:
        """What of the room before an entry is no padding: indirect calls read it where CONFIG_CFI_CLANG is."""
        code = atom.section.data[atom.start : atom.entry]
        padding = view.arch.padding
        rows = view.arch.decode(code, 0) if code != padding * (len(code) // len(padding)) else []
        return [code[row.offset : row.end] for row in rows if not row.is_nop]

    def _relocates_nop(self, view: View, atom: Atom) -> bool:
        """Whether a NOP will be something else once it is relocated."""
        if not any(insn.is_nop for insn in view.instructions(atom)):
            return False
        for r in view.relocations(atom):
            insn = view.instruction_at(atom, r.offset) if view.row(atom.section, r).size else None
            if insn is not None and insn.is_nop:
                return True
        return False

    def _excused(
        self, old: Atom, new: Atom, first: Sequence[Instruction], second: Sequence[Instruction]
    ) -> tuple[str, ...]:
        """What code of one meaning differs in all the same: NOPs, and how an operation is encoded."""
        found = []
        nops = [
            [atom.section.data[i.offset : i.end] for i in view.instructions(atom) if i.is_nop]
            for view, atom in ((self.old, old), (self.new, new))
        ]
        if nops[0] != nops[1]:
            found.append("fill")
        marks, types = [], []
        for view, atom in ((self.old, old), (self.new, new)):
            rows = [(r, view.row(atom.section, r).size) for r in view.relocations(atom)]
            types.append([r.type for r, size in rows if size])
            marks.append(
                [(r.offset - atom.entry, r.addend, view.obj.symbols[r.symbol].name) for r, size in rows if not size]
            )
        if marks[0] != marks[1]:
            found.append("mark")
        if types[0] != types[1] or [i.length for i in first] != [i.length for i in second]:
            found.append("encoding")
        return tuple(found)

    def _instruction(
        self,
        old: Atom,
        a: Instruction,
        ra: Sequence[Relocation],
        new: Atom,
        b: Instruction,
        rb: Sequence[Relocation],
    ) -> Verdict:
        if len(ra) != len(rb):
            return Verdict.CHANGED
        if a.target is not None and not ra:
            return self._branch(old, a, new, b)
        if a.mnemonic != b.mnemonic or (a.length != b.length and ra):
            return Verdict.CHANGED
        lines = False
        for r, s in zip(ra, rb, strict=True):
            if r.type != s.type and not {r.type, s.type} <= self.old.arch.call_types:
                return Verdict.CHANGED
            if r.offset - a.offset != s.offset - b.offset:
                return Verdict.CHANGED
            if not self._same(old, r, new, s, lines=False):
                if not self._same(old, r, new, s, lines=True) or not self._moved_in_text(old, a, r, new, b, s):
                    return Verdict.CHANGED
                lines = True
        code_a, code_b = self._masked(self.old, old, a, ra), self._masked(self.new, new, b, rb)
        if code_a != code_b:
            if not self.proof.is_line_number(old, a, new, b, code_a, code_b):
                return Verdict.CHANGED
            lines = True
        return Verdict.LINES if lines else Verdict.SAME

    def _moved_in_text(
        self, old: Atom, a: Instruction, r: Relocation, new: Atom, b: Instruction, s: Relocation
    ) -> bool:
        """Whether texts that differ in the lines behind file names show lines that moved.

        Of those that data lead to nothing tells the line.
        """
        first, second = self.old.target(r, self.old.bias(old, r)), self.new.target(s, self.new.bias(new, s))
        texts = [t.section.string_at(t.place) for t in (first, second) if t.section is not None and t.section.is_string]
        if len(texts) < 2:
            return not self.proof.knows_lines
        return self.proof.is_line_in_text(old, a, new, b, texts[0].data, texts[1].data)

    def _branch(self, old: Atom, a: Instruction, new: Atom, b: Instruction) -> Verdict:
        """Direct branches inside a section: the same operation to the same ordinal."""
        if b.target is None or a.mnemonic != b.mnemonic or a.target is None:
            return Verdict.CHANGED
        inside = old.entry <= a.target <= old.end and new.entry <= b.target <= new.end
        if inside:
            x = self.old.ordinal(old, a.target)
            same = x is not None and x == self.new.ordinal(new, b.target)
            return Verdict.SAME if same else Verdict.CHANGED
        s, t = self.old.goal(old, a), self.new.goal(new, b)
        if s is None or t is None or self.correlation.twins.get(t) is not s:
            return Verdict.CHANGED
        x, y = self.old.ordinal(s, a.target), self.new.ordinal(t, b.target)
        return Verdict.SAME if x is not None and x == y else Verdict.CHANGED

    def _masked(self, view: View, atom: Atom, insn: Instruction, rows: Sequence[Relocation]) -> bytes:
        return view.cleared(atom.section.data[insn.offset : insn.end], atom.section, insn.offset, rows)

    def _entries(self, old: Atom, new: Atom, identical: bool) -> Difference:
        """Special-table entries of both, in order."""
        first, second = _telling(self.old, old), _telling(self.new, new)
        if not first and not second:
            return SAME
        for a, b in zip(first, second, strict=False):
            if not self._same_entry(old, a, new, b, identical):
                return Difference(Verdict.CHANGED, f"entry {b.index} of {b.table.name} differs")
        if len(first) != len(second):
            names = sorted({e.table.name for e in first} ^ {e.table.name for e in second}) or ["special tables"]
            return Difference(Verdict.CHANGED, f"{len(first)} entries in {', '.join(names)}, now {len(second)}")
        return SAME

    def _label_tables(self, old: Atom, new: Atom) -> Difference:
        """Tables of places inside the function are its content: `goto *p` leads where they say."""
        for table in self.new.label_tables.get(new, ()):
            before = self.correlation.twins.get(table)
            if before is None or before not in self.old.label_tables.get(old, ()):
                return Difference(Verdict.CHANGED, f"{table.name} holds labels of {new.name}, and did not")
            first = self.meanings.content(self.old, before, False)
            if first != self.meanings.content(self.new, table, False):
                return Difference(Verdict.CHANGED, f"{table.name} holds other labels of {new.name}")
        gone = [t for t in self.old.label_tables.get(old, ()) if t not in self.correlation.versions]
        if gone:
            return Difference(Verdict.CHANGED, f"{gone[0].name}, which held labels of {old.name}, is gone")
        return SAME

    def _same_entry(self, old: Atom, a: tables.Entry, new: Atom, b: tables.Entry, identical: bool) -> bool:
        """Equal bytes and relocations of equal meaning; places in identical functions compare by offset."""
        if a.table is not b.table or len(a.relocations) != len(b.relocations):
            return False
        if self._entry_stands(a, b):
            return True
        if self._entry_bytes(self.old, a) != self._entry_bytes(self.new, b):
            return False
        empty = b.length is not None and not self.new.obj.sections[b.section].data[b.length]
        for n, (r, s) in enumerate(zip(a.relocations, b.relocations, strict=True)):
            if n and empty:
                continue  # what has no length is named by where the next one begins
            if r.type != s.type or r.offset - a.start != s.offset - b.start:
                return False
            x, y = self.old.target(r), self.new.target(s)
            if identical and x.atom is old and y.atom is new:
                if x.offset != y.offset:
                    return False
            elif self._entry_target(self.old, x, site=not n) != self._entry_target(self.new, y, site=not n):
                return False
        return True

    def _entry_stands(self, a: tables.Entry, b: tables.Entry) -> bool:
        """Whether an entry is plainly as it was, its site wherever in its code it is."""
        if not self.meanings.plain.lead_alike(a.site.symbol, b.site.symbol):
            return False
        place, other = self.old.obj.sections[a.section], self.new.obj.sections[b.section]
        if place.data[a.start : a.end] != other.data[b.start : b.end]:
            return False
        return self.meanings.plain.stand(place, a.relocations, b.relocations, b.start - a.start)

    def _entry_target(self, view: View, target: Target, *, site: bool) -> Meaning:
        """A site is one instruction, NOPs included; control that goes on at a NOP goes on behind it."""
        return self.meanings.of_target(view, target, lines=True, exact=site)

    def _entry_bytes(self, view: View, entry: tables.Entry) -> bytes:
        """An entry with its relocated fields cleared, and source line numbers, which never count."""
        section = view.obj.sections[entry.section]
        data = view.masked(section, entry.start, entry.end)
        if not entry.table.lines or len(entry.relocations) < 2:
            return data
        # struct bug_entry: the 16-bit line follows the file (include/asm-generic/bug.h); newer ones have a format, too
        file = max(entry.relocations)
        target = view.target(file)
        text = target.section is not None and target.section.is_string and target.section.string_at(target.place)
        if text and not naming.is_source_name(str(text)):
            return data
        last = file.offset + view.row(section, file).size - entry.start
        return data[:last] + bytes(2) + data[last + 2 :]

    def _explain(
        self,
        old: Atom,
        a: Instruction,
        ra: Sequence[Relocation],
        new: Atom,
        b: Instruction,
        rb: Sequence[Relocation],
    ) -> str:
        where = f"{old.name}+{a.offset - old.entry:#x}"
        source = self.proof.source(self.old, old, a.offset)
        after = self.proof.source(self.new, new, b.offset)
        lines = f" ({source if source == after else f'{source} -> {after}'})" if source and after else ""
        code_a, code_b = self._masked(self.old, old, a, ra), self._masked(self.new, new, b, rb)
        if self.proof.may_be_line_number(old, a, new, b, code_a, code_b):
            lines += "; it may be only a source line that moved, which nothing here proves (see --source-diff)"
        return f"at {where}: `{self._text(self.old, old, a)}` -> `{self._text(self.new, new, b)}`{lines}"

    def _text(self, view: View, atom: Atom, insn: Instruction) -> str:
        code = atom.section.data[insn.offset : insn.end]
        text = view.arch.text(code, insn.offset - atom.entry)
        rows = view.relocations_at(atom, insn)
        names = [_describe(self.meanings.of(view, atom, r, lines=False), view, atom, r) for r in rows]
        return text + "".join(f" [{n}]" for n in names)


def _telling(view: View, atom: Atom) -> list[tables.Entry]:
    """Entries that say more than the instructions do, one for each site of a `unique` table."""
    found = view.telling.get(atom)
    if found is None:
        return []
    seen: set[tuple[str, int, int]] = set()
    out = []
    for entry in found:
        key = (entry.table.name, entry.site.symbol, entry.site.addend)
        if entry.table.unique and key in seen:
            continue
        seen.add(key)
        out.append(entry)
    return out


def _describe(meaning: Meaning, view: View, atom: Atom, relocation: Relocation) -> str:
    if meaning[0] == "str":
        return repr(str(meaning[1]))
    target = view.target(relocation, view.bias(atom, relocation))
    return target.name or (target.section.name if target.section else "?")

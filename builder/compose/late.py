"""What is bound correctly and would go wrong all the same.

Two things can. The first is a matter of time. A livepatch for a module M is loaded in this order:

1. The loader writes the ordinary relocations and those of `.klp.rela.vmlinux.*`.
2. module_finalize() reads the special tables of the livepatch and patches its code by them: alternatives,
   jump labels, static calls and so on.
3. When M is there, klp_init_object_loaded() (kernel/livepatch/core.c, v6.1) writes `.klp.rela.M.*`.

A reference to a symbol of M is written in step 3 (`is_late`). Where a table of step 2 holds such a reference, or has
code patched that does, the kernel has used a zero. Such an entry is left out where the new code does without it: a
static call without one goes through the original's trampoline, which the kernel keeps current. Else a thunk stands for
it (builder/compose/thunks.py), or the change is refused. (A relocation for vmlinux, or for a livepatch below, is
written in step 1 and has no such problem.)

The second is about addresses. Where indirect calls must arrive at a mark (ENDBR on x86), the kernel takes the mark away
from functions that nothing points at. New code that points at one would fault when it is called through that pointer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from builder.binary import SectionOffset, tables
from builder.compare import Atom, View
from builder.compare.view import Target
from builder.compose import references
from builder.compose.bound import Binding, Bound
from builder.compose.owner import Objects
from builder.compose.thunks import Thunks
from builder.errors import Refusal


def check(bound: Bound, objects: Objects) -> Bound:
    """`bound` without the entries that must not travel, with warnings of them and what must be refused."""
    checker = _Checker(bound, objects)
    checker.entries()
    checker.sites()
    checker.pointers()
    return replace(
        bound,
        left_out=frozenset(checker.left_out),
        thunks=checker.thunks,
        warnings=tuple(dict.fromkeys(checker.warnings)),
        refusals=tuple(dict.fromkeys(checker.refusals)),
    )


def is_late(binding: Binding | None) -> bool:
    """Whether a relocation is written only when another module is there."""
    return binding is not None and binding.kind == "klp" and binding.patched != "vmlinux"


class _Checker:
    def __init__(self, bound: Bound, objects: Objects) -> None:
        self.bound = bound
        self.objects = objects
        self.selection = bound.diff.selection
        self.view = self.selection.view
        self.left_out: set[tables.Entry] = set()
        self.thunks = Thunks(self.selection)
        self.warnings: list[Refusal] = []
        self.refusals: list[Refusal] = []

    def entries(self) -> None:
        """Keys and targets in tables that are consumed at load."""
        for place, target in self.selection.all_references:
            binding = self.bound.binding(place, target)
            if binding is None or not is_late(binding):
                continue
            if isinstance(place, tables.Entry) and place.table.late:
                self._entry(place, binding)
        for piece in self.selection.pieces:
            if piece.section.name not in tables.ANNEXES:
                continue
            for r, target in references.of_piece(self.view, piece):
                binding = self.bound.binding(piece, target)
                if binding is not None and is_late(binding) and not self.thunks.branch(piece, r.offset):
                    self._refuse_late(piece.section.name, binding)

    def _entry(self, entry: tables.Entry, binding: Binding) -> None:
        table = entry.table.name
        if table == ".static_call_sites":
            self.left_out.add(entry)
        elif table == "__jump_table" and self.thunks.key_test(entry) is not None:
            pass
        elif "__tracepoint_" in binding.name:
            self.left_out.add(entry)
            self.warnings.append(
                Refusal(
                    "entry-dropped",
                    binding.name,
                    table,
                    f"the tracepoint key {binding.name} belongs to module {binding.exporter}, and its site has no room "
                    "for a test of the key: the tracepoint stays off in the new version",
                    "if it is used: trace_printk() in its place, or a probe in the new function (bespoke probe)",
                    fatal=False,
                )
            )
        elif table == "__jump_table":
            self._refuse(
                "static-key-module",
                binding,
                table,
                f"a jump label tests the static key {binding.name}, which module {binding.exporter} owns; the kernel "
                "sets jump labels up before such a key is bound, and the site has no room for a test of the key",
                "use static_key_enabled() on it instead",
            )
        else:
            self._refuse_late(table, binding)

    def sites(self) -> None:
        """Code that the kernel patches at load and whose own operand is bound later."""
        for atom in self.selection.functions:
            late = {
                r.offset: binding
                for r, target in self.view.leads_of(atom)
                if (binding := self.bound.binding(atom, target)) is not None and is_late(binding)
            }
            if not late:
                continue
            for entry in self.selection.entries.get(atom, ()):
                if not entry.table.late or entry in self.left_out:
                    continue
                start, end = self._site(atom, entry)
                for field, hit in late.items():
                    if not start <= field < end:
                        continue
                    if entry.table.if_bound_late == "left out":
                        self.left_out.add(entry)
                    elif entry.table.if_bound_late == "refused" and not self.thunks.branch(atom, field):
                        self._refuse_late(entry.table.name, hit)

    def _site(self, atom: Atom, entry: tables.Entry) -> tuple[SectionOffset, SectionOffset]:
        """Offsets of the code that an entry has patched."""
        start = self.view.obj.symbols[entry.site.symbol].value + entry.site.addend
        if entry.table.length:
            at = entry.start + self.objects.kernel.layout(entry.table.struct).offset_of(entry.table.length)
            return start, start + self.view.obj.sections[entry.section].data[at]
        insn = self.view.instruction_at(atom, start)
        return start, SectionOffset(insn.end) if insn else start + 1

    def pointers(self) -> None:
        """New pointers to originals whose ENDBR the kernel has sealed: an indirect call would fault."""
        mark = self.view.arch.entry_mark
        if not self.objects.kernel.features.has(mark.feature):
            return
        old = self.bound.diff.comparison.old
        pointed = {t.atom for a in old.atoms for t in self._pointers(old, a)}
        for place in (*self.selection.functions, *self.selection.data, *self.selection.sets):
            for target in self._pointers(self.view, place):
                atom = target.atom
                if atom is None or self.bound.binding(place, target) is None:
                    continue
                twin = self.bound.diff.comparison.correlation.twins.get(atom)
                if twin is None or twin in pointed or not atom.is_function:
                    continue
                if not self._may_be_called_indirectly(twin):
                    self.refusals.append(
                        Refusal(
                            "sealed-endbr",
                            atom.name,
                            atom.section.name,
                            f"{place.name} takes the address of {atom.name}, which nothing pointed at before: the "
                            f"kernel has sealed its {mark.name}, and an indirect call of it would fault",
                            "point at a new function that calls it instead",
                        )
                    )

    def _pointers(self, view: View, place: Atom) -> Iterator[Target]:
        """References of a function or datum that take an address rather than call or jump."""
        for r, target in view.leads_of(place):
            if target.atom is None or not target.atom.is_function or target.offset:
                continue
            if place.is_function:
                insn = view.instruction_at(place, r.offset)
                if insn is None or insn.is_call or insn.is_jump:
                    continue
            yield target

    def _may_be_called_indirectly(self, twin: Atom) -> bool:
        """Whether the running function starts with an ENDBR that stays."""
        match = self.bound.matches.get(twin)
        places = [match.place] if match else [s.place for n in twin.names for s in self.bound.owner.named(n)]
        mark, owner = self.view.arch.entry_mark, self.bound.owner
        gone = owner.unmarked(mark)
        return bool(places) and all(owner.code(p, len(mark.code)) == mark.code and p not in gone for p in places)

    def _refuse_late(self, table: str, binding: Binding) -> None:
        self._refuse(
            "late-relocation",
            binding,
            table,
            f"{table} patches code that refers to {binding.name} of module {binding.exporter}, which is bound only "
            "after the kernel has used the table",
            "change the code so that what is patched does not refer to the module's own symbol",
        )

    def _refuse(self, code: str, binding: Binding, section: str, message: str, advice: str) -> None:
        self.refusals.append(Refusal(code, binding.name, section, message, advice))

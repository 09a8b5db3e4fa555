"""Comparison of two objects: a verdict with its reason for every function and datum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from builder.acquire.shifts import Shift
from builder.binary import ObjectFile, tables
from builder.compare import naming
from builder.compare.atoms import Atom
from builder.compare.code import CodeComparer
from builder.compare.correlate import Correlation, correlate
from builder.compare.exports import ExportSaid, exports
from builder.compare.lines import AskedLine, LineProof
from builder.compare.meaning import Meanings
from builder.compare.own_data import crossed
from builder.compare.storage import is_readonly
from builder.compare.verdict import LINES, SAME, Difference, Verdict
from builder.compare.view import View


@dataclass(frozen=True)
class Comparison:
    """Atoms are those of the new object unless the name says otherwise.

    `functions` and `data` hold the verdicts of paired atoms. `children` maps a
    function to its `.cold` parts, which have no verdict of their own: a changed
    part has changed its parent.
    """

    correlation: Correlation
    meanings: Meanings
    functions: Mapping[Atom, Difference]
    data: Mapping[Atom, Difference]
    new_functions: tuple[Atom, ...]
    removed_functions: tuple[Atom, ...]
    new_data: tuple[Atom, ...]
    removed_data: tuple[Atom, ...]
    shifts: tuple[Shift, ...] = ()
    """What the source patch moves, where it was known."""
    asked: Mapping[AskedLine, bool] = field(default_factory=dict, compare=False, repr=False)
    """What it was asked, and the answers."""
    maps: dict[Atom, Any] = field(default_factory=dict, init=False, compare=False, repr=False)
    """What `instruction_map` has found, which is asked for by who writes a module and by who tells of it."""

    @property
    def old(self) -> View:
        return self.correlation.old

    @property
    def new(self) -> View:
        return self.correlation.new

    @cached_property
    def exports(self) -> tuple[Mapping[str, ExportSaid], Mapping[str, ExportSaid]]:
        """What the old object exports, and what the new one does."""
        return exports(self.meanings)

    @cached_property
    def changed(self) -> tuple[Atom, ...]:
        """Functions whose own code changed, in the order of the object."""
        return tuple(a for a, d in self.functions.items() if d.is_changed)

    @cached_property
    def line_only(self) -> tuple[Atom, ...]:
        return tuple(a for a, d in self.functions.items() if d.verdict is Verdict.LINES)

    @cached_property
    def children(self) -> Mapping[Atom, tuple[Atom, ...]]:
        return children_of(self.new)

    @cached_property
    def old_children(self) -> Mapping[Atom, tuple[Atom, ...]]:
        return children_of(self.old)


def children_of(view: View) -> Mapping[Atom, tuple[Atom, ...]]:
    """Function -> its `.cold` parts, found by name and made sure of by a jump between them."""
    out: dict[Atom, list[Atom]] = {}
    for atom in view.functions:
        name = naming.cold_parent(atom.name)
        if name is None:
            continue
        parent = view.by_name.get(name) or _jumping_parent(view, atom)
        if parent is not None:
            out.setdefault(parent, []).append(atom)
    return {parent: tuple(row) for parent, row in out.items()}


def _jumping_parent(view: View, cold: Atom) -> Atom | None:
    """The function whose name the number hides (`foo.isra.0.cold.3`): the one that jumps to the part."""
    family = naming.family(naming.cold_parent(cold.name) or "")
    for atom in view.functions:
        if naming.family(atom.name) == family and any(target.atom is cold for _, target in view.leads_of(atom)):
            return atom
    return None


def compare(old: ObjectFile, new: ObjectFile, *, shifts: Sequence[Shift] = ()) -> Comparison:
    """Compare two relocatable objects of one architecture; `shifts`: what their source patch moves, where known."""
    correlation = correlate(View(old), View(new))
    meanings = Meanings(correlation)
    if _is_the_same(old, new):
        return _unchanged(correlation, meanings)
    comparer = CodeComparer(correlation, meanings, shifts)
    verdicts = {
        atom: comparer.compare(correlation.twins[atom], atom)
        for atom in correlation.new.functions
        if atom in correlation.twins
    }
    verdicts.update(crossed(correlation, [atom for atom, found in verdicts.items() if not found.is_changed]))
    functions = _fold(correlation, verdicts)
    data = {
        atom: _compare_data(correlation, meanings, correlation.twins[atom], atom, comparer.proof)
        for atom in correlation.new.data
        if atom in correlation.twins and counts(atom)
    }
    twins, versions = correlation.twins, correlation.versions
    return Comparison(
        correlation=correlation,
        meanings=meanings,
        functions=functions,
        data=data,
        new_functions=tuple(a for a in correlation.new.functions if a not in twins and not _is_cold(a)),
        removed_functions=tuple(a for a in correlation.old.functions if a not in versions and not _is_cold(a)),
        new_data=tuple(a for a in correlation.new.data if a not in twins and _has_identity(a)),
        removed_data=tuple(a for a in correlation.old.data if a not in versions and _has_identity(a)),
        shifts=tuple(shifts),
        asked=comparer.proof.asked,
    )


def _is_the_same(old: ObjectFile, new: ObjectFile) -> bool:
    """Whether two objects have the same content, as those of a caller that only travels with what it calls."""
    sides = ((side.sections, side.symbols, side.relocations) for side in (old, new))
    return next(sides) == next(sides)


def _unchanged(correlation: Correlation, meanings: Meanings) -> Comparison:
    """What is found of an object and itself; things that nothing tells apart are no new ones."""
    twins = correlation.twins
    return Comparison(
        correlation=correlation,
        meanings=meanings,
        functions={atom: SAME for atom in correlation.new.functions if atom in twins},
        data={atom: SAME for atom in correlation.new.data if atom in twins and counts(atom)},
        new_functions=(),
        removed_functions=(),
        new_data=tuple(a for a in correlation.new.data if a not in twins and _has_identity(a)),
        removed_data=(),
        shifts=(),
    )


def _is_cold(atom: Atom) -> bool:
    return naming.cold_parent(atom.name) is not None


def counts(atom: Atom) -> bool:
    """Whether a datum's content is part of what runs (debug, export and init tables are not)."""
    return not tables.is_discarded(atom.section.name)


def _has_identity(atom: Atom) -> bool:
    return counts(atom) and not naming.is_never_paired(atom.name, atom.section.name)


def _fold(correlation: Correlation, verdicts: dict[Atom, Difference]) -> dict[Atom, Difference]:
    """Give the verdicts of `.cold` parts to their parents."""
    out = {a: d for a, d in verdicts.items() if not _is_cold(a)}
    olds = children_of(correlation.old)
    for parent, parts in children_of(correlation.new).items():
        if parent not in out:
            continue
        for part in parts:
            verdict = verdicts.get(part)
            if verdict is None:
                verdict = Difference(Verdict.CHANGED, f"{part.name} is new")
            excused = tuple(dict.fromkeys((*out[parent].excused, *verdict.excused)))
            if verdict.verdict is not Verdict.SAME and not out[parent].is_changed:
                out[parent] = Difference(verdict.verdict, verdict.reason)
            out[parent] = replace(out[parent], excused=excused)
    for parent, parts in olds.items():
        new = correlation.versions.get(parent)
        gone = [p for p in parts if p not in correlation.versions]
        if new in out and gone and not out[new].is_changed:
            out[new] = Difference(Verdict.CHANGED, f"{gone[0].name} is gone")
    return out


def _compare_data(correlation: Correlation, meanings: Meanings, old: Atom, new: Atom, proof: LineProof) -> Difference:
    """Content of a datum and its twin; label tables belong to their function and are judged with it.

    Where lines are known a number behind a file's name in a text is one that counts: nothing says which line is a
    datum's.
    """
    if old.size != new.size:
        return Difference(Verdict.CHANGED, f"{old.size} bytes, now {new.size}")
    if correlation.new.label_owners(new) or correlation.old.label_owners(old):
        return SAME
    if old.section.is_nobits and new.section.is_nobits:
        return SAME
    if is_readonly(old.section) != is_readonly(new.section):
        return Difference(Verdict.CHANGED, f"moved from {old.section.name} to {new.section.name}")
    if meanings.is_same_content(old, new):
        return SAME
    first = meanings.content(correlation.old, old, False)
    second = meanings.content(correlation.new, new, False)
    without = meanings.content(correlation.old, old, True), meanings.content(correlation.new, new, True)
    if without[0] == without[1] and not proof.knows_lines:
        return LINES
    return Difference(Verdict.CHANGED, _first_difference(correlation, new, first, second))


def _first_difference(
    correlation: Correlation, atom: Atom, first: tuple[object, ...], second: tuple[object, ...]
) -> str:
    """The first place where two contents differ: field (where DWARF names it), old and new value."""
    if first[0] != "bytes" or second[0] != "bytes":
        return f"{first[0]} content, now {second[0]}"
    _, data_a, rows_a = first
    _, data_b, rows_b = second
    assert isinstance(data_a, bytes) and isinstance(data_b, bytes)
    assert isinstance(rows_a, tuple) and isinstance(rows_b, tuple)
    for at in range(min(len(data_a), len(data_b))):
        if data_a[at] != data_b[at]:
            start = at - at % 4
            values = f"{data_a[start : start + 4].hex(' ')} -> {data_b[start : start + 4].hex(' ')}"
            return f"{_field(correlation, atom, at)}: bytes {values}"
    pointers_a, pointers_b = {r[0]: r[2] for r in rows_a}, {r[0]: r[2] for r in rows_b}
    for at in sorted(pointers_a.keys() | pointers_b.keys()):
        x, y = pointers_a.get(at), pointers_b.get(at)
        if x != y:
            return f"{_field(correlation, atom, at)}: {_pointer(correlation, x)} -> {_pointer(correlation, y)}"
    return "content differs"


def _field(correlation: Correlation, atom: Atom, offset: int) -> str:
    from builder.compare.structs import field_at  # here, for it is slow to import and most data are the same

    name = field_at(correlation.new.obj, atom.symbol.name, offset)
    return f"{name} (offset {offset})" if name else f"offset {offset}"


def _pointer(correlation: Correlation, meaning: object) -> str:
    """A pointer's meaning for a person."""
    if not isinstance(meaning, tuple):
        return "none"
    if meaning[0] in ("sym", "code"):
        if isinstance(meaning[1], str):
            return meaning[1]
        for atom in (*correlation.old.atoms, *correlation.new.atoms):
            if correlation.identity(atom) == meaning[1]:
                return atom.name
    if meaning[0] == "str":
        return repr(str(meaning[1]))
    return str(meaning[0])

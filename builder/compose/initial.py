"""Initial values that are put into running variables (`--set`): which bytes differ, and whether that can be done.

A variable of the running kernel keeps the value that it has. With `--set` the module exchanges the words of it that
differ, each by one instruction that finds the old initial value there, before anything is patched; where another
value stands, nothing is changed and the module is not loaded. At the end they are exchanged back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

from builder.compare import Atom, Comparison, View
from builder.compare.storage import is_readonly, kind
from builder.compare.view import Target
from builder.compose.selection import Selection, changed_data
from builder.errors import Allowed, UsageError

WIDEST = 8
"""Bytes of the widest word that is exchanged at once."""


class Value(NamedTuple):
    """What stands in a word: a number, or the address of what `target` is plus `addend`."""

    number: int
    target: Target | None = None
    addend: int = 0


class Word(NamedTuple):
    """`width` bytes at `offset` of a variable, whose initial value was `old` and is `new`."""

    offset: int
    width: int
    old: Value
    new: Value


def why_not(selection: Selection, atom: Atom) -> str:
    """Why the initial value of a variable cannot be put into the running one; empty if it can."""
    comparison = selection.comparison
    old = comparison.correlation.twins[atom]
    what = kind(old.section)
    if is_readonly(old.section) or what in ("per-CPU", "read-only after init", "init", "exit", "decrypted"):
        return f"it is {what}"
    if atom.size != old.size:
        return "its size is another"
    if atom in selection:
        return "the new version travels"
    for word in words(comparison, atom):
        for view, value in ((comparison.old, word.old), (comparison.new, word.new)):
            if value.target is None:
                continue
            if value.target.kind not in ("atom", "symbol"):
                return "its value points at a text or constant, whose place in the running kernel is not known"
            if view is comparison.new and selection.is_local(atom, value.target):
                return f"its new value points at {value.target.name}, which goes away with the module"
    if any(word.width == 0 for word in words(comparison, atom)):
        return "it holds an address that no word can be exchanged with"
    return ""


def with_sets(selection: Selection, allowed: Allowed) -> Selection:
    """The selection with the variables that `allowed` names and whose values can be put into the running ones."""
    if not allowed.sets:
        return selection
    named = (atom for atom, _ in changed_data(selection.comparison, selection.macros) if atom.name in allowed.sets)
    return replace(selection, sets=tuple(atom for atom in named if not why_not(selection, atom)))


def require_sets(selections: Iterable[Selection], allowed: Allowed) -> None:
    """UsageError names a variable that is to be set and whose initial value no pair has changed."""
    found = {a.name for s in selections for a, _ in changed_data(s.comparison, s.macros)}
    for name in sorted(allowed.sets - found):
        raise UsageError(f"--set {name}: no variable of that name has another initial value")


def words(comparison: Comparison, atom: Atom) -> Iterator[Word]:
    """The words of a variable whose initial values differ, as wide as its alignment allows; `width` 0 for an address
    that does not fill one."""
    old = comparison.correlation.twins[atom]
    align = old.section.alignment
    while old.entry % align:
        align //= 2
    first, second = _Content(comparison.old, old), _Content(comparison.new, atom)
    at = 0
    while at < atom.size:
        width = min(WIDEST, align)
        while at % width or at + width > atom.size:
            width //= 2
        before, after = first.value(at, width), second.value(at, width)
        if before is None or after is None:
            yield Word(at, 0, Value(0), Value(0))
        elif not _same(comparison, before, after):
            yield Word(at, width, before, after)
        at += width


class _Content:
    """The initial value of a variable, by words."""

    def __init__(self, view: View, atom: Atom) -> None:
        self.size = atom.size
        nobits = atom.section.is_nobits
        self.data = bytes(atom.size) if nobits else view.masked(atom.section, atom.entry, atom.end)
        self.leads = {r.offset - atom.entry: (r, target) for r, target in view.leads_of(atom)}
        self.wide = {at for at, (r, _) in self.leads.items() if view.row(atom.section, r).size == WIDEST}

    def value(self, at: int, width: int) -> Value | None:
        """None for an address that is not the whole word."""
        here = [place for place in self.leads if at <= place < at + width]
        if not here:
            return Value(int.from_bytes(self.data[at : at + width], "little"))
        if here != [at] or width != WIDEST or at not in self.wide:
            return None
        _, target = self.leads[at]
        return Value(0, target, target.offset)


def _same(comparison: Comparison, old: Value, new: Value) -> bool:
    if old.target is None or new.target is None:
        return old == new
    meanings = comparison.meanings
    return meanings.of_target(comparison.old, old.target, lines=False) == meanings.of_target(
        comparison.new, new.target, lines=False
    )

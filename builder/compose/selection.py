"""Selection: the closure of what must travel, and nothing more.

Changed and new functions travel with their `.cold` parts, the strings and
constants they use, their own statics, the tables that hold addresses inside
them, and their entries in special tables. Everything else is bound to the
original.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property
from typing import Final

from builder.binary import tables
from builder.compare import Atom, Comparison, naming
from builder.compare.own_entries import entry_of
from builder.compare.storage import is_private, is_readonly
from builder.compare.verdict import Difference
from builder.compare.view import Target, View
from builder.compose import constants, exits, references
from builder.compose.macros import Macros, is_author_data
from builder.compose.references import Piece
from builder.compose.traceable import file_has_fentry, has_fentry
from builder.errors import NOTHING, Allowed

RODATA_CHANGED: Final = "rodata-changed"
"""The code of the refusal whose acceptance lets the new data travel."""

MOST_CALLERS: Final = 500
"""More callers than this do not carry one function, unless asked for."""


class Role(Enum):
    """Why a function travels."""

    CHANGED = "changed"
    NEW = "new"
    CHILD = "child"
    CARRIER = "carrier"


@dataclass(frozen=True)
class Selection:
    """What of the new object travels. `redirected` functions replace their originals.

    `carriers` maps a changed function that cannot be redirected to the
    unchanged callers that carry it. `left_out` are changed functions that never run.
    `forced` are callers that travel because the running code calls a copy, with the names of those copies;
    `everywhere` are functions that cannot be redirected and whose callers have been looked for in the running code.
    `sets` are variables whose new initial values are put into the running ones (see `initial`).
    `exits` are functions that run when the patched module is unloaded, the first one by the kernel (see `exits`).
    """

    comparison: Comparison
    functions: Mapping[Atom, Role]
    data: tuple[Atom, ...]
    pieces: tuple[Piece, ...]
    entries: Mapping[Atom, tuple[tables.Entry, ...]]
    redirected: tuple[Atom, ...]
    carriers: Mapping[Atom, tuple[Atom, ...]]
    macros: Macros
    left_out: frozenset[Atom] = frozenset()
    forced: Mapping[Atom, tuple[str, ...]] = field(default_factory=dict)
    everywhere: frozenset[Atom] = frozenset()
    sets: tuple[Atom, ...] = ()
    exits: tuple[Atom, ...] = ()

    @property
    def view(self) -> View:
        return self.comparison.new

    def __contains__(self, atom: Atom) -> bool:
        return atom in self.functions or atom in self._data

    @cached_property
    def _data(self) -> frozenset[Atom]:
        return frozenset(self.data)

    @cached_property
    def _redirected(self) -> frozenset[Atom]:
        return frozenset(self.redirected)

    def is_local(self, place: Atom | Piece | tables.Entry, target: Target) -> bool:
        """Whether a reference stays inside the module.

        The entry of a replaced function is referred to as the original's: a call
        then reaches the newest version, and a stored pointer stays comparable.
        """
        if target.kind == "section":
            return True
        atom = target.atom
        if atom is None or atom not in self:
            return False
        if atom not in self._redirected or target.offset or isinstance(place, tables.Entry):
            return True
        if isinstance(place, Atom) and _goes_with_target(place):
            return True
        return place in self.comparison.children.get(atom, ())

    @property
    def is_empty(self) -> bool:
        return not self.functions and not self.sets

    @cached_property
    def unredirected(self) -> tuple[Atom, ...]:
        """Functions that the kernel has and that travel without being redirected: who calls them must travel too."""
        wanted = (Role.CHANGED, Role.CARRIER)
        led = {*self.redirected, *self.exits}
        return tuple(a for a, role in self.functions.items() if role in wanted and a not in led)

    @cached_property
    def all_references(self) -> tuple[tuple[Atom | Piece | tables.Entry, Target], ...]:
        """Every place that travels, with where its relocations lead."""
        return tuple(self._all_references())

    def _all_references(self) -> Iterator[tuple[Atom | Piece | tables.Entry, Target]]:
        view = self.view
        for atom in (*self.functions, *self.data):
            for _, target in view.leads_of(atom):
                yield atom, target
        for piece in self.pieces:
            for _, target in references.of_piece(view, piece):
                yield piece, target
        for entries in self.entries.values():
            for entry in entries:
                for _, target in references.of_entry(view, entry):
                    yield entry, target


def select(
    comparison: Comparison,
    macros: Macros,
    allowed: Allowed = NOTHING,
    *,
    left_out: frozenset[Atom] = frozenset(),
    forced: Mapping[Atom, tuple[str, ...]] | None = None,
    everywhere: frozenset[Atom] = frozenset(),
    beside: bool = False,
) -> Selection:
    """The closure. Of changed read-only data that is `allowed` the new version travels, with all that use it;
    `left_out` are functions of the new object that never run; `forced` and `everywhere` as in Selection. `beside` says
    that another pair ships."""
    found = _Selector(comparison, macros, allowed, left_out, forced or {}, beside=beside).run()
    return replace(found, everywhere=everywhere)


def changed_data(comparison: Comparison, macros: Macros) -> Iterator[tuple[Atom, Difference]]:
    """The data whose initial value changed, what the author wants ignored left out."""
    for atom, difference in comparison.data.items():
        if difference.is_changed and not macros.ignores(atom) and not is_author_data(atom):
            yield atom, difference


class _Selector:
    def __init__(
        self,
        comparison: Comparison,
        macros: Macros,
        allowed: Allowed,
        left_out: frozenset[Atom],
        forced: Mapping[Atom, tuple[str, ...]],
        *,
        beside: bool,
    ) -> None:
        self.comparison = comparison
        self.view = comparison.new
        self.macros = macros
        self.accepted = frozenset(
            atom
            for atom, _ in changed_data(comparison, macros)
            if (is_readonly(atom.section) and allowed.names(RODATA_CHANGED, atom.name)) or self._is_table(atom)
        )
        self.left_out = left_out
        self.forced = forced
        self.beside = beside
        self.functions: dict[Atom, Role] = {}
        self.data: dict[Atom, None] = {}
        self.pieces: dict[Piece, None] = {}
        self.entries: dict[Atom, tuple[tables.Entry, ...]] = {}
        self.carriers: dict[Atom, list[Atom]] = {}
        self._work: list[Atom | Piece] = []

    def run(self) -> Selection:
        comparison = self.comparison
        for atom in comparison.changed:
            if not self.macros.ignores(atom) and not is_transient(atom) and atom not in self.left_out:
                self._add(atom, Role.CHANGED)
        for atom in comparison.new_functions:
            if not self.macros.ignores(atom) and not is_transient(atom) and not is_trampoline(atom):
                self._add(atom, Role.NEW)
        for atom in self.forced:
            self._add(atom, Role.CARRIER)
        self.data |= dict.fromkeys(self.macros.states)
        self._work += self.macros.states
        self._carry()
        if self._is_for_start_or_end_only():
            self.functions.clear()
            self._work.clear()
        leaving = self._exits()
        self._close()
        order = {a: None for a in self.view.atoms}
        functions = {a: self.functions[a] for a in order if a in self.functions}
        redirected = tuple(
            a
            for a, role in functions.items()
            if role in (Role.CHANGED, Role.CARRIER) and is_redirectable(comparison, a)
        )
        return Selection(
            comparison=comparison,
            functions=functions,
            data=tuple(a for a in order if a in self.data),
            pieces=tuple(sorted(self.pieces, key=lambda p: (p.section.index, p.start))),
            entries={a: self.entries[a] for a in functions if a in self.entries},
            redirected=redirected,
            carriers={a: tuple(row) for a, row in self.carriers.items()},
            macros=self.macros,
            left_out=self.left_out,
            forced=self.forced,
            exits=leaving,
        )

    def _exits(self) -> tuple[Atom, ...]:
        """Exit code of the module that changed, with who leads to it, beside something that ships."""
        comparison = self.comparison
        if not (self.functions or self.beside):
            return ()
        changed = frozenset(a for a in comparison.changed if exits.is_exit(a) and not self.macros.ignores(a))
        found = exits.carried(comparison, changed)
        for atom in found:
            self._add(atom, Role.CHANGED if atom in changed else Role.CARRIER)
        return found

    def _add(self, atom: Atom, role: Role) -> None:
        if atom in self.functions:
            return
        self.functions[atom] = role
        self._work.append(atom)
        for child in self.comparison.children.get(atom, ()):
            self._add(child, Role.CHILD)

    def _is_table(self, atom: Atom) -> bool:
        """Whether the new version of a table can travel with all that use it, for both versions are only read."""
        comparison = self.comparison
        old = comparison.correlation.twins[atom]
        return constants.is_only_read(comparison.old, old) and constants.is_only_read(comparison.new, atom)

    def _is_for_start_or_end_only(self) -> bool:
        """Whether all that would travel are new static functions, and only changed code for start or end calls them."""
        if self.macros.callbacks or not any(is_transient(a) for a in self.comparison.changed):
            return False
        local = all(role is Role.NEW and not atom.is_global for atom, role in self.functions.items())
        return local and not any(not is_transient(c) and c not in self.functions for c in self._users())

    def _users(self) -> Iterator[Atom]:
        """Who refers to what travels."""
        for atom in self.view.atoms:
            if any(target.atom in self.functions for _, target in self.view.leads_of(atom)):
                yield atom

    def _carry(self) -> None:
        """A changed function that cannot be redirected travels with each caller that can."""
        if not file_has_fentry(self.comparison.old):
            return  # no caller in this file could be redirected either
        waiting = [a for a, role in self.functions.items() if role is Role.CHANGED]
        if self.accepted:
            waiting += self._users_of_accepted_data()
        while waiting:
            atom = waiting.pop()
            if is_redirectable(self.comparison, atom) or atom.is_global:
                continue
            for caller in self._callers.get(atom, ()):
                parent = self._parent(caller)
                row = self.carriers.setdefault(atom, [])
                if parent not in row and parent is not atom:
                    row.append(parent)
                if parent not in self.functions and not is_transient(parent) and parent not in self.left_out:
                    self._add(parent, Role.CARRIER)
                    waiting.append(parent)

    @cached_property
    def _callers(self) -> Mapping[Atom, list[Atom]]:
        """Function -> functions with a relocation to its entry."""
        out: dict[Atom, dict[Atom, None]] = {}
        for atom in self.view.functions:
            for _, target in self.view.leads_of(atom):
                if target.atom is not None and target.atom.is_function and target.atom is not atom:
                    out.setdefault(target.atom, {}).setdefault(atom)
        return {callee: list(row) for callee, row in out.items()}

    def _users_of_accepted_data(self) -> list[Atom]:
        found = []
        for atom in self.view.functions:
            if atom not in self.functions and not is_transient(atom) and atom not in self.left_out:
                targets = (t.atom for _, t in self.view.leads_of(atom))
                if not self.accepted.isdisjoint(targets):
                    parent = self._parent(atom)
                    self._add(parent, Role.CARRIER)
                    found.append(parent)
        return found

    def _parent(self, atom: Atom) -> Atom:
        for parent, parts in self.comparison.children.items():
            if atom in parts:
                return parent
        return atom

    def _close(self) -> None:
        while self._work or self._register():
            item = self._work.pop()
            found = references.of_piece(self.view, item) if isinstance(item, Piece) else self.view.leads_of(item)
            for _, target in found:
                self._reach(target)
            if isinstance(item, Atom) and item.is_function:
                self._take_entries(item)

    def _register(self) -> bool:
        """Take the data that announce to the kernel what travels; whether there were any more."""
        found = [
            atom
            for atom in self.view.data
            if _goes_with_target(atom)
            and atom not in self.data
            and any(t.atom in self.functions or t.atom in self.data for _, t in self.view.leads_of(atom))
        ]
        self.data |= dict.fromkeys(found)
        self._work += found
        return bool(found)

    def _take_entries(self, atom: Atom) -> None:
        self.entries[atom] = self.view.entries(atom)
        for entry in self.entries[atom]:
            for r, target in references.of_entry(self.view, entry):
                if r is not entry.site:
                    self._reach(target)

    def _reach(self, target: Target) -> None:
        if entry_of(self.view, target) is not None:
            return  # it travels with the function that owns it
        if target.kind == "section":
            piece = references.piece_at(self.view, target)
            shared = (piece.section.is_write or piece.section.is_nobits) and not is_private(piece.section)
            if piece not in self.pieces and not shared:
                self.pieces[piece] = None
                self._work.append(piece)
            return
        atom = target.atom
        if atom is None or atom in self.functions or atom in self.data:
            return
        if atom.is_function:
            if atom not in self.comparison.correlation.twins:
                self._add(atom, Role.NEW)
        elif self._travels(atom):
            self.data[atom] = None
            self._work.append(atom)

    def _travels(self, atom: Atom) -> bool:
        """New data, statics that each version has of its own, and tables of addresses inside what travels."""
        if atom not in self.comparison.correlation.twins:
            return True
        if any(owner in self.functions for owner in self.view.label_owners(atom)):
            return True
        difference = self.comparison.data.get(atom)
        if difference is None or not difference.is_changed or atom.is_global:
            return False
        return is_readonly(atom.section) or atom in self.accepted


def _goes_with_target(atom: Atom) -> bool:
    """Whether a datum only announces to the kernel what it points at, which nothing but its section's name says."""
    row = tables.named(atom.section)
    return row is not None and row.becomes == "with target"


def is_transient(atom: Atom) -> bool:
    """Code that is gone after boot or that never runs again (`.init.text`, `.exit.text`, `.head.text`)."""
    return atom.section.name.startswith((".init.text", ".exit.text", ".head.text", ".init.", ".exit."))


def is_trampoline(atom: Atom) -> bool:
    """Static-call trampolines and padding symbols belong to their key or function."""
    return atom.section.name == ".static_call.text" or atom.name.startswith("__SCT__") or naming.is_marker(atom.name)


def is_redirectable(comparison: Comparison, atom: Atom) -> bool:
    """Whether calls of the original can be led to the new version (the original must have an ftrace location)."""
    old = comparison.correlation.twins.get(atom)
    return old is not None and has_fentry(comparison.old, old) and not is_transient(atom)

"""Bindings: what every reference to an original resolves to in the running kernel.

Only what vmlinux exports to everybody stays a plain undefined symbol; the rest
becomes `.klp.sym.OBJECT.NAME,SYMPOS` (Documentation/livepatch/module-elf-format.rst).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

from builder.binary import Symbol, klp
from builder.binary.kernel import Kernel
from builder.binary.names import MODULE_NAME, SYMBOL_NAME
from builder.compare import Atom, View, naming
from builder.compare.view import Target
from builder.compose import initial
from builder.compose.below import Earlier, Held
from builder.compose.bound import Binding, Bound, BoundWord
from builder.compose.kept_matches import KeptMatcher
from builder.compose.outcome import Diff
from builder.compose.overridden import is_overridden
from builder.compose.owner import Objects
from builder.compose.running import Running, RunningImage, RunningModule, RunningSymbol, file_groups
from builder.compose.runpre import Match, Matcher
from builder.compose.selection import Role, is_trampoline, is_transient
from builder.errors import Refusal


def bind_pair(
    diff: Diff,
    owner: Running,
    objects: Objects,
    provided: Mapping[str, tuple[int, Atom]] | None = None,
    below: Earlier | None = None,
    kept: Mapping[Atom, Held] | None = None,
) -> Bound:
    """Bind the references of one pair to what runs in `owner`, with everything that stands in the way.

    `provided` are names that other pairs of the module define, each with the pair's number, `kept` new variables that
    the livepatch `below` has already.
    """
    matcher = KeptMatcher(diff.comparison.old, owner)
    bound = _Binder(diff, owner, objects, matcher, provided or {}, below, kept or {}).bind()
    matcher.keep()
    return bound


def find_running(diff: Diff, owner: Running, objects: Objects, old: Atom) -> Match | Refusal:
    """Where a function of the old object runs in `owner`, or why that cannot be told."""
    return _Binder(diff, owner, objects, Matcher(diff.comparison.old, owner), {}, None, {}).find(old)


class _Binder:
    def __init__(
        self,
        diff: Diff,
        owner: Running,
        objects: Objects,
        matcher: Matcher,
        provided: Mapping[str, tuple[int, Atom]],
        below: Earlier | None,
        kept: Mapping[Atom, Held],
    ) -> None:
        self.diff = diff
        self.owner = owner
        self.objects = objects
        self.kernel: Kernel = objects.kernel
        self.provided = provided
        self.refusals: list[Refusal] = []
        self.matches: dict[Atom, Match] = {}
        self._extra: dict[Atom, Match | None] = {}
        self._asking: set[Atom] = set()
        self._matcher = matcher
        self._below = below
        self._kept = kept
        self._matcher_below = Matcher(diff.comparison.old, below.running) if below is not None else self._matcher

    def bind(self) -> Bound:
        self._match_replaced()
        atoms: dict[Atom, Binding | None] = {}
        names: dict[str, Binding | None] = {}
        # Where other code runs, what it is bound to would be told wrongly.
        for target in () if self.refusals else self._originals():
            if target.atom is not None and target.atom not in atoms:
                atoms[target.atom] = self._original(target.atom)
            elif target.atom is None and target.symbol.name not in names:
                names[target.symbol.name] = self._undefined(target.symbol.name)
        sets = () if self.refusals else tuple(self._set_words(atoms))
        return Bound(
            self.diff,
            self.owner,
            self.matches,
            {atom: found for atom, found in atoms.items() if found is not None},
            {name: found for name, found in names.items() if found is not None},
            self.provided,
            sets,
            refusals=tuple(dict.fromkeys(self.refusals)),
        )

    def _set_words(self, atoms: dict[Atom, Binding | None]) -> Iterator[BoundWord]:
        """What is exchanged in running variables; new things that a value leads to are added to `atoms`."""
        comparison = self.diff.comparison
        for atom in self.diff.selection.sets:
            variable = self._original(atom)
            for word in initial.words(comparison, atom):
                if word.new.target is not None and word.new.target.atom is not None:
                    atoms.setdefault(word.new.target.atom, self._original(word.new.target.atom))
                old, new = (self._value(value) for value in (word.old, word.new))
                if variable is not None and old is not None and new is not None:
                    yield BoundWord(atom, variable, word.offset, word.width, old, new)

    def _value(self, value: initial.Value) -> tuple[int, Binding | None] | None:
        """None where it cannot be told, which is refused then."""
        if value.target is None:
            return value.number, None
        atom = value.target.atom
        if atom is None:
            found = self._undefined(value.target.symbol.name)
        else:
            versions = self.diff.comparison.correlation.versions
            new = versions.get(atom, atom)
            found = self._original(new)
            if found is None and (symbol := self._locate(atom)) is not None:
                found = self._klp(symbol)
        return (value.addend, found) if found is not None else None

    # The replaced functions: are they what runs?

    def _match_replaced(self) -> None:
        comparison = self.diff.comparison
        for atom in self.diff.selection.redirected:
            old = comparison.correlation.twins[atom]
            for part in (old, *comparison.old_children.get(old, ())):
                found = self._find_below(part) or self.find(part)
                if isinstance(found, Match):
                    self.matches[part] = found
                elif part is old or self._exists(part):
                    self.refusals.append(found)
                    break  # where the function is another one, so are its parts
        for old in self._absorbed():
            other = self._find_below(old) or self.find(old)
            if isinstance(other, Refusal) and other.code == "run-pre-mismatch" and not is_overridden(old, self.owner):
                self.refusals.append(other)

    def _absorbed(self) -> Iterator[Atom]:
        """Old functions that the new code takes the place of without redirecting them.

        What the compiler now inlines or splits is gone from the new object, what
        has no ftrace location travels with its callers: if other code runs there,
        the new code is made from another source all the same.
        """
        comparison, selection = self.diff.comparison, self.diff.selection
        for atom, role in selection.functions.items():
            if role is not Role.CHILD and atom in comparison.correlation.twins and atom not in selection.redirected:
                yield comparison.correlation.twins[atom]
        replaced = {comparison.correlation.twins[atom] for atom in selection.redirected}
        called = {target.atom for old in replaced for _, target in comparison.old.leads_of(old)}
        for old in comparison.removed_functions:
            if old in called and not is_transient(old) and not is_trampoline(old):
                yield old

    def _find_below(self, atom: Atom) -> Match | Refusal | None:
        """The version of the livepatch below, which is what runs; None where it has none that is this code."""
        if self._below is None:
            return None
        if self._below.brought(atom, self.owner.name):
            return Refusal(
                "function-not-found",
                atom.name,
                atom.section.name,
                f"{atom.name} came with {self._below.name}: there is no original that could be redirected",
                f"build a module that replaces {self._below.name}, from the original objects",
            )
        return self._below.match(atom, self._matcher_below, self.owner.name)

    def _exists(self, atom: Atom) -> bool:
        return any(self.owner.named(name) for name in atom.names)

    def find(self, atom: Atom) -> Match | Refusal:
        """The one running function that matches `atom`, or why there is none."""
        where = f"{self.owner.name} of {self.kernel.release}"
        rows, others = self._matcher.all_of(atom)
        if not rows and not others:
            return Refusal(
                "function-not-found",
                atom.name,
                atom.section.name,
                f"{where} has no function {atom.name}",
                "it was inlined or configured out there, or the objects were built for another kernel",
            )
        if not rows:
            return Refusal(
                "run-pre-mismatch",
                atom.name,
                atom.section.name,
                f"the old {atom.name} is not the code of {where}: {others[0].reason}",
                "build both objects from the source, config and compiler of the kernel that runs",
            )
        rows = self._told_apart(atom, rows)
        if len(rows) > 1:
            return Refusal(
                "ambiguous-symbol",
                atom.name,
                atom.section.name,
                f"{where} has {len(rows)} functions {atom.name} with the same code, like neighbours, and nobody beside "
                "them who tells by calling one or by what else it uses",
                "the kernel's symbol table cannot tell which is meant",
            )
        return rows[0]

    def _told_apart(self, atom: Atom, rows: list[Match]) -> list[Match]:
        """Of functions with equal code, those that the rest of the object does not speak against."""
        if len(rows) < 2 or atom in self._asking:
            return rows
        self._asking.add(atom)
        for means in (self._by_users, self._by_what_they_use, self._by_file, self._by_neighbours):
            rows = means(atom, rows) or rows
            if len(rows) == 1:
                break
        self._asking.discard(atom)
        return rows

    def _by_users(self, atom: Atom, rows: list[Match]) -> list[Match]:
        """Those that the object's other functions, where they run, really refer to."""
        places = {match.solved[atom] for match in self._users(atom)}
        return [row for row in rows if row.place in places]

    def _by_what_they_use(self, atom: Atom, rows: list[Match]) -> list[Match]:
        """Those that refer to the very variables and functions that the object's other functions refer to."""
        for used in dict.fromkeys(used for row in rows for used in row.solved if used is not atom):
            places = {match.solved[used] for match in self._users(used)}
            if len(places) == 1:
                rows = [row for row in rows if row.solved.get(used) in places] or rows
        return rows

    def _by_file(self, atom: Atom, rows: list[Match]) -> list[Match]:
        """Those whose source file has just the local names that this object has."""
        mine = next((names for symbols, names in self._groups if atom.symbol in symbols), None)
        return [row for row in rows if mine and self.owner.beside(row.place, row.name) == mine]

    @cached_property
    def _groups(self) -> Sequence[tuple[Sequence[Symbol], frozenset[str]]]:
        return list(file_groups(self.diff.comparison.old.obj))

    def _users(self, old: Atom) -> Iterator[Match]:
        """Matches of old functions that refer to an atom and tell its place: those found so far, then further ones."""
        view: View = self.diff.comparison.old
        for match in list(self.matches.values()):
            if old in match.solved:
                yield match
        for atom in view.functions:
            if is_transient(atom) or atom in self.matches or atom in self._asking:
                continue
            if not any(t.atom is old for _, t in view.leads_of(atom)):
                continue
            if atom not in self._extra:
                found = self.find(atom)
                if isinstance(found, Refusal) and self._asking:
                    continue  # who asks may be the one who would tell
                self._extra[atom] = found if isinstance(found, Match) else None
            match_there = self._extra[atom]
            if match_there is not None and old in match_there.solved:
                yield match_there

    def _by_neighbours(self, atom: Atom, rows: list[Match]) -> list[Match]:
        """Of equal functions, the one among whose neighbours are most of this object's symbols."""
        mine = {n for a in self.diff.comparison.old.atoms for n in a.names} - set(atom.names)
        scores = [(len(mine & self.owner.near(m.place, 24)), k) for k, m in enumerate(rows)]
        best = max(score for score, _ in scores)
        return [rows[k] for score, k in scores if score == best]

    # References to originals.

    def _originals(self) -> Iterator[Target]:
        selection = self.diff.selection
        for place, target in selection.all_references:
            if target.kind == "absolute" or selection.is_local(place, target):
                continue
            if target.kind != "symbol" or target.symbol.name not in self.provided:
                yield target

    def _original(self, atom: Atom) -> Binding | None:
        """An atom of this object that stays the original."""
        if atom in self._kept:
            return _held(self._kept[atom])
        old = self.diff.comparison.correlation.twins.get(atom)
        if old is None:
            return None
        if (below := self._from_below(old)) is not None:
            return below
        if old.is_global and isinstance(self.owner, RunningImage):
            exported = self._export(old.names)
            if exported is not None:
                return exported
        symbol = self._locate(old)
        if symbol is None:
            return None
        return self._klp(symbol)

    def _from_below(self, old: Atom) -> Binding | None:
        """As the matched code of the livepatch below is bound, or what only that has."""
        if self._below is None:
            return None
        told = {m.externs[old] for m in self.matches.values() if m.since and old in m.externs}
        if len(told) == 1:
            theirs = told.pop()
            if klp.is_symbol(theirs):
                exporter, name, sympos = klp.parse_symbol(theirs)
                patched = "vmlinux" if exporter in ("vmlinux", *self._below.chain) else self.owner.name
                return Binding("klp", name, exporter, patched, sympos)
            return None
        incremental = any(match.since for match in self.matches.values())
        for name in old.names:
            if incremental or not self.owner.named(name):
                held = self._below.holds(name, self.owner.name)
                if held is not None:
                    return _held(held)
        return None

    def _klp(self, symbol: RunningSymbol) -> Binding | None:
        if len(symbol.name) >= SYMBOL_NAME:
            self._refuse("symbol-unresolved", symbol.name, "its name is too long for livepatch", "none")
            return None
        name = self.owner.name
        return Binding("klp", symbol.name, name, name, symbol.sympos)

    def _export(self, names: tuple[str, ...]) -> Binding | None:
        for name in names:
            found = self.kernel.export(name)
            if found is None or found.namespace.startswith("module:"):
                continue
            if self.kernel.features.modversions and len(name) >= MODULE_NAME:
                continue
            return Binding("export", name, crc=found.crc, namespace=found.namespace)
        return None

    def _locate(self, old: Atom) -> RunningSymbol | None:
        """The running symbol of an old atom: by what matched code refers to, else by a unique name."""
        place = self._solved(old)
        if place is not None:
            here = self.owner.at(place)
            exact = [s for s in here if s.name in old.names]
            related = [s for s in here if naming.family(s.name) in {naming.family(n) for n in old.names}]
            if exact or related:
                return (exact or related)[0]
        named = [s for name in old.names for s in self.owner.named(name)]
        places = {s.place for s in named}
        if len(places) == 1:
            return named[0]
        if old.is_function and named:
            found = self.find(old)
            if isinstance(found, Match):
                return next(s for s in named if s.place == found.place)
            self.refusals.append(found)
            return None
        if place is None and named:
            match = self._by_reference(old)
            if match is not None:
                return match
        where = f"{self.owner.name} of {self.kernel.release}"
        if named:
            self._refuse(
                "ambiguous-symbol",
                old.name,
                f"{where} has {len(places)} symbols {old.name}, nothing tells which",
                "the kernel's symbol table cannot tell them apart",
            )
        else:
            self._refuse(
                "symbol-unresolved",
                old.name,
                f"{where} has no symbol {old.name}",
                "the running kernel was built differently, or the symbol was optimised away there",
            )
        return None

    def _solved(self, old: Atom) -> int | None:
        places = {m.solved[old] for m in self.matches.values() if old in m.solved}
        return places.pop() if len(places) == 1 else None

    def _by_reference(self, old: Atom) -> RunningSymbol | None:
        """The symbol at the place that the object's other functions tell."""
        places = {match.solved[old] for match in self._users(old)}
        if len(places) != 1:
            return None
        return next((s for s in self.owner.at(places.pop()) if s.name in old.names), None)

    def _undefined(self, name: str) -> Binding | None:
        """A symbol that the object takes from elsewhere."""
        exported = self._export((name,))
        if isinstance(self.owner, RunningModule):
            own = [symbol for symbol in self.owner.named(name) if symbol.is_global]
            if own:
                return Binding("klp", name, self.owner.name, self.owner.name, own[0].sympos)
            if exported is None:
                for exporter in self._exporters(self.owner, name):
                    return Binding("klp", name, exporter, self.owner.name, 0)
        if exported is not None:
            return exported
        if self._below is not None and not self.owner.named(name):
            held = self._below.holds(name, self.owner.name)
            if held is not None:
                return _held(held)
        rows = self.kernel.symbols_named(name)
        if len(rows) > 1:
            solved = {m.names[name] for m in self.matches.values() if name in m.names}
            rows = tuple(s for s in rows if s.address in solved) or tuple(s for s in rows if s.type.isupper())
        if len(rows) == 1:
            return Binding("klp", name, sympos=self.kernel.sympos(rows[0]))
        problem = "has several symbols" if rows else "has no symbol"
        self._refuse(
            "symbol-unresolved",
            name,
            f"{self.kernel.release} {problem} {name}, and no module that {self.owner.name} depends on exports it",
            "give the module that exports it with --object NAME=PATH, or change the code so that it is not needed",
        )
        return None

    def _exporters(self, module: RunningModule, name: str) -> Iterator[str]:
        """Modules that the owner depends on, and theirs, which export a symbol."""
        seen: set[str] = set()
        waiting = list(module.depends)
        while waiting:
            other = waiting.pop(0).replace("-", "_")
            if other in seen:
                continue
            seen.add(other)
            found = self.objects.module(other)
            if found is None:
                continue
            if found.exports(name):
                yield other
            waiting.extend(found.depends)

    def _refuse(self, code: str, symbol: str, message: str, advice: str) -> None:
        self.refusals.append(Refusal(code, symbol, "", message, advice))


def _held(held: Held) -> Binding:
    """A symbol of the livepatch below, which is there when the module is loaded."""
    return Binding("klp", held.name, held.module, "vmlinux", held.sympos)

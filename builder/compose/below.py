"""An earlier livepatch of ours below the one that is built: its functions run, its new variables hold state.

Its module stays loaded, so what it brought is bound to as `.klp.sym.MODULE.NAME,SYMPOS`,
written when the new module is loaded (kernel/livepatch/core.c, klp_resolve_symbols:
a symbol of a module may stand in a `.klp.rela.vmlinux.` section).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from builder.binary import Symbol, elf, ours, read_object
from builder.binary.manifest import CarriedFunction, Manifest
from builder.compare import Atom, naming
from builder.compose.outcome import Diff
from builder.compose.running import RunningModule
from builder.compose.runpre import Match, Matcher
from builder.errors import InputError, Refusal


@dataclass(frozen=True, slots=True)
class Held:
    """A symbol of the earlier module; `sympos` as livepatch counts."""

    module: str
    name: str
    sympos: int


@dataclass(frozen=True)
class Earlier:
    """The earlier module: what it carries, and its manifest."""

    running: RunningModule
    manifest: Manifest

    @classmethod
    def read(cls, path: Path) -> Earlier:
        """InputError for what is no livepatch of ours."""
        obj = read_object(path)
        manifest = Manifest.within(obj)
        if manifest is None:
            raise InputError("is no livepatch of ours to build on: it has no manifest", where=path)
        return cls(RunningModule(manifest.name, obj), manifest)

    @property
    def name(self) -> str:
        return self.running.name

    @property
    def chain(self) -> tuple[str, ...]:
        """It and what it was itself built on."""
        return (self.name, *self.manifest.on)

    @cached_property
    def _functions(self) -> Mapping[tuple[str, str], CarriedFunction]:
        return {(row.object, row.name): row for row in self.manifest.functions}

    @cached_property
    def state(self) -> Sequence[Symbol]:
        """Its own variables: what is lost when it goes."""
        return [
            symbol
            for symbol in self.running.obj.symbols
            if symbol.is_defined
            and symbol.type == elf.STT_OBJECT
            and self.running.obj.sections[symbol.shndx].is_write
            and not ours.is_glue(symbol.name)
            and not ours.is_of_marks(ours.plain_name(symbol.name))
            and not naming.is_never_paired(ours.plain_name(symbol.name), self.running.obj.sections[symbol.shndx].name)
        ]

    def _held(self, symbol: Symbol) -> Held:
        rows = self.running.named(symbol.name)
        place = self.running.place(symbol)
        return Held(self.name, symbol.name, next(row.sympos for row in rows if row.place == place))

    def holds(self, name: str, owner: str) -> Held | None:
        """What only the earlier module has of that name: its data, or a function that it brought."""
        for symbol in self.running.obj.symbols:
            if ours.plain_name(symbol.name) == name and symbol.is_defined and not ours.is_glue(name):
                row = self._functions.get((owner, name))
                if symbol.type == elf.STT_OBJECT or (row is not None and row.role == "new"):
                    return self._held(symbol)
        return None

    def match(self, atom: Atom, matcher: Matcher, owner: str) -> Match | None:
        """The earlier version of a function, as a match under the name and sympos of the original."""
        for name in atom.names:
            row = self._functions.get((owner, name))
            if row is None or row.old is None or not row.old.name:
                continue
            old = row.old
            for symbol in self.running.named(row.symbol):
                found = matcher.match(atom, symbol.place, name=old.name, sympos=old.sympos, limit=symbol.size)
                if isinstance(found, Match):
                    return replace(found, solved={}, names={}, since=self.name, base=row.symbol)
        return None

    def brought(self, atom: Atom, owner: str) -> bool:
        """Whether a function came with the earlier module, so that no original can be redirected."""
        rows = (self._functions.get((owner, name)) for name in atom.names)
        return any(row is not None and row.role == "new" for row in rows)

    def keep(self, diff: Diff) -> tuple[Diff, Mapping[Atom, Held]]:
        """A diff without the new variables that the earlier module has already, and what they are there."""
        kept: dict[Atom, Held] = {}
        families: dict[tuple[str, int], list[Symbol]] = {}
        for symbol in self.state:
            families.setdefault((naming.family(ours.plain_name(symbol.name)), symbol.size), []).append(symbol)
        selection = diff.selection
        twins = diff.comparison.correlation.twins
        for atom in selection.data:
            rows = families.get((naming.family(atom.name), atom.size), [])
            exact = [symbol for symbol in rows if ours.plain_name(symbol.name) == atom.name] or rows
            if atom not in twins and atom.section.is_write and len(exact) == 1:
                kept[atom] = self._held(exact[0])
        if not kept:
            return diff, {}
        data = tuple(atom for atom in selection.data if atom not in kept)
        return replace(diff, selection=replace(selection, data=data)), kept

    def lost(self) -> list[Refusal]:
        """The refusals of a module that takes the place of the earlier one: state goes with it."""
        return [
            Refusal(
                "replace-loses-state",
                name := ours.plain_name(symbol.name),
                self.running.obj.sections[symbol.shndx].name,
                f"{self.name} keeps state in {name}, which is lost when it is replaced",
                "stack the module on it without --replace, or accept that the variable begins anew",
                fatal=False,
            )
            for symbol in self.state
        ]

"""What a pair is bound to: a binding for each reference to an original, by the symbol that the module has for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from builder.binary import klp, tables
from builder.compare import Atom
from builder.compare.view import Target
from builder.compose.outcome import Diff
from builder.compose.references import Piece
from builder.compose.running import Running
from builder.compose.runpre import Match
from builder.compose.thunks import Thunks
from builder.errors import Refusal


@dataclass(frozen=True, slots=True)
class Binding:
    """`export`: an undefined symbol with its CRC. `klp`: resolved by livepatch.

    `exporter` is the object that the symbol is looked up in, `patched` the one
    at whose loading the relocation is written.
    """

    kind: Literal["export", "klp"]
    name: str
    exporter: str = "vmlinux"
    patched: str = "vmlinux"
    sympos: int = 0
    crc: int | None = None
    namespace: str = ""

    @property
    def symbol(self) -> str:
        """The name that the emitted symbol has."""
        return self.name if self.kind == "export" else klp.symbol_name(self.exporter, self.name, self.sympos)


@dataclass(frozen=True, slots=True)
class BoundWord:
    """A word of a running variable: `old` and `new` are a number, or a binding with what is added to it."""

    atom: Atom
    variable: Binding
    offset: int
    width: int
    old: tuple[int, Binding | None]
    new: tuple[int, Binding | None]


@dataclass(frozen=True)
class Bound:
    """One pair, bound: the owner, the replaced functions found in it, and where references go.

    `atoms` are atoms of the new object that stay originals, `names` undefined symbols. `provided` are undefined
    symbols that another pair of the module defines, with the number of that pair. `sets` are the words of running
    variables that are exchanged.
    `left_out` are table entries that must not travel, `thunks` stand for code that the kernel would patch too early
    (None before anybody has looked). Where there are `refusals`, it is
    incomplete and nothing but those may be taken from it.
    """

    diff: Diff
    owner: Running
    matches: Mapping[Atom, Match]
    atoms: Mapping[Atom, Binding]
    names: Mapping[str, Binding]
    provided: Mapping[str, tuple[int, Atom]] = field(default_factory=dict)
    sets: tuple[BoundWord, ...] = ()
    left_out: frozenset[tables.Entry] = frozenset()
    thunks: Thunks | None = None
    warnings: tuple[Refusal, ...] = ()
    refusals: tuple[Refusal, ...] = ()

    def binding(self, place: Atom | Piece | tables.Entry, target: Target) -> Binding | None:
        """What a reference is bound to; None if it stays inside the module."""
        if target.kind == "symbol":
            return self.names.get(target.symbol.name)
        if target.atom is None or self.diff.selection.is_local(place, target):
            return None
        return self.atoms.get(target.atom)

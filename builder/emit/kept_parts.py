"""Parts that were made before: of the pairs of a cumulative module all but the last bring what they brought then.

Of such a pair neither object is looked into. What was kept stands by all that it is made of: the bytes of both objects,
what was allowed, the kernel's image, the files of the modules that were asked, the text of this program, and what the
source patch answers to what it was asked. It is of a pair by itself: one that others of its module have a say in, by
a name that they bring or a caller that they have, is to be looked at with them.
"""

from __future__ import annotations

import hashlib
import json
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NamedTuple

from builder.acquire import sums
from builder.acquire.bounds import read_input
from builder.acquire.cache import cache_path
from builder.acquire.shifts import Shift
from builder.binary.klp import VMLINUX
from builder.binary.manifest import CarriedFunction, CarriedPart, MapRow, Original, SetWord
from builder.compare.contents import program
from builder.compare.lines import AskedLine, is_moved
from builder.compose.bound import Binding
from builder.compose.bundle import brought_by, symbol_of
from builder.compose.outcome import Diff
from builder.compose.owner import Objects
from builder.emit.fragments import ABSOLUTE, Fragment, Key, Label, Reference
from builder.emit.part import PairPart
from builder.errors import Allowed, Refusal

MAKERS: Final = ("compose", "emit")
"""Where the text stands that makes a part, beside what reads and compares objects."""
_NO_PART: Final = (KeyError, IndexError, TypeError, ValueError, AttributeError)
"""What the reading of a document that is none of these raises."""


class PairNames(NamedTuple):
    """What a pair `brings` for others under a global name, and what it `takes` from wherever it is."""

    brings: frozenset[str]
    takes: frozenset[str]


def names_of(diff: Diff) -> PairNames:
    """Those of a pair."""
    sides = diff.comparison.old, diff.comparison.new
    takes = frozenset(symbol.name for side in sides for symbol in side.obj.symbols if symbol.is_undefined)
    return PairNames(frozenset(name for name, _ in brought_by(diff)), takes)


@dataclass(frozen=True, slots=True)
class KeptPart:
    """What a pair brought, and was told of it; `part` is None where nothing of it travels.

    `symbols` are those of its names that the module's other owners have a say in.
    """

    part: PairPart | None
    document: Mapping[str, Any]
    warnings: tuple[Refusal, ...]
    """Of the diff."""
    names: PairNames
    symbols: Mapping[str, str]

    def as_json(self) -> dict[str, Any]:
        """As `Diff.as_json`."""
        return dict(self.document)

    def fits(self, objects: Objects, owners: Iterable[str]) -> bool:
        """Whether its symbols are called so in a module for these owners too."""
        return all(symbol_of(name, objects, owners) == symbol for name, symbol in self.symbols.items())


@dataclass(frozen=True)
class PartPlace:
    """Where the part of a pair is kept: of its two objects, of whose code `owner` is, under a source patch."""

    old: Path
    new: Path
    owner: str
    shifts: Sequence[Shift]
    allowed: Allowed
    objects: Objects

    @cached_property
    def _key(self) -> str:
        sides = [(path.name, hashlib.sha256(read_input(path)).hexdigest()) for path in (self.old, self.new)]
        asked = bool(self.shifts), sorted(self.allowed.rows), sorted(self.allowed.sets)
        what = program(*MAKERS), sides, asked, self.objects.kernel.sha256, self.owner
        return hashlib.sha256(repr(what).encode()).hexdigest()

    @property
    def _file(self) -> Path:
        return cache_path("maps/parts", self._key[:32])

    def find(self, number: int) -> KeptPart | None:
        """What was kept, its fragments with keys of this number; None where that is nothing, or of something else."""
        if (known := sums.read_json(self._file)) is None:
            return None
        try:
            if known["of"] != self._key:
                raise ValueError("it is of another pair")
            return _read(known, number, self) if self._holds(known) else None
        except _NO_PART:
            sums.note_damage(self._file)
            return None

    def _holds(self, known: Mapping[str, Any]) -> bool:
        """Whether the source patch answers the same, and the modules that were asked have the same files."""
        files = frozenset(known["files"])
        return all(
            is_moved(AskedLine(*line), self.shifts, files) is answer for *line, answer in known["asked"]
        ) and all(self.objects.file_hash(name) == found for name, found in known["modules"])

    def keep(self, diff: Diff, part: PairPart | None) -> None:
        """Keep the part of a pair, None where nothing of it travels; not what another pair has a say in."""
        view, names = diff.comparison.new, names_of(diff)
        keys = {fragment.key: number for number, fragment in enumerate(part.fragments)} if part is not None else {}
        document = diff.as_json()
        del document["old"], document["new"]
        row = {
            "of": self._key,
            "files": sorted(view.files),
            "asked": [[*line, answer] for line, answer in diff.comparison.asked.items()],
            "modules": [[name, self.objects.file_hash(name)] for name in self._modules() if part is not None],
            "document": document,
            "warnings": list(map(astuple, diff.judged.warnings)),
            "brings": sorted(names.brings),
            "takes": sorted(names.takes),
            "symbols": {} if part is None else {n: s for n, s in part.symbols.items() if not self._has(n)},
            "part": None if part is None else _written(part, keys),
        }
        text = json.dumps(row)
        # A path may be another the next time, when nothing else is.
        if not any(json.dumps(str(path))[1:-1] in text for path in (self.old, self.new)):
            sums.keep_json(self._file, row)

    def _has(self, name: str) -> bool:
        """Whether the kernel, or the owner, has such a symbol, whoever else has one."""
        kernel = self.objects.kernel
        return bool(kernel.symbols_named(name) or self.objects.get(self.owner).named(name))

    def _modules(self) -> list[str]:
        """The modules that a pair of the owner may be bound to: the owner itself, and those that it depends on."""
        found: dict[str, None] = {}
        waiting = [] if self.owner == VMLINUX else [self.owner]
        while waiting:
            name = waiting.pop().replace("-", "_")
            if name not in found:
                found[name] = None
                module = self.objects.module(name)
                waiting += module.depends if module is not None else ()
        return list(found)


# A document, and the part that it is of: keys are the numbers of fragments.


def _written(part: PairPart, keys: Mapping[Key, int]) -> dict[str, Any]:
    outside: dict[Key, int] = {}

    def target(to: Key) -> int:
        if to == ABSOLUTE or isinstance(to, Binding):
            return -1 - outside.setdefault(to, len(outside))
        return keys[to]

    rows = []
    for f in part.fragments:
        references = [[r.offset, r.type, target(r.to), r.addend] for r in f.references]
        rows.append([*f[1:6], len(f.data), f.size, references, [list(label) for label in f.labels], *f[10:]])
    return {
        "owner": part.owner,
        "machine": part.machine,
        "data": b64encode(b"".join(f.data for f in part.fragments)).decode(),
        "outside": [list(astuple(to)) if isinstance(to, Binding) else [] for to in outside],
        "fragments": rows,
        "redirected": [[name, sympos, keys[key]] for name, sympos, key in part.redirected],
        "callbacks": [[kind, keys[key]] for kind, key in part.callbacks],
        "sets": None if part.sets is None else keys[part.sets],
        "words": list(map(astuple, part.words)),
        "leaving": None if part.leaving is None else keys[part.leaving],
        "states": part.states,
        "carried": [_function(row) for row in part.carried],
        "accepted": list(map(astuple, part.accepted)),
        "warnings": list(map(astuple, part.warnings)),
        "symbols": dict(part.symbols),
    }


def _function(row: CarriedFunction) -> list[Any]:
    old = None if row.old is None else astuple(row.old)
    parts = [[p.name, p.sympos, p.size, _cells(p.map), _cells(p.points), p.base] for p in row.parts]
    facts = [row.name, row.symbol, row.object, row.role, row.new_size, row.new_hash, old, row.redirected]
    rows = None if row.map is None else _cells(row.map)
    return [*facts, rows, _cells(row.points), row.since, row.base, parts]


def _cells(rows: Iterable[MapRow]) -> list[list[Any]]:
    return [row.as_json() for row in rows]


def _read(known: Mapping[str, Any], number: int, place: PartPlace) -> KeptPart:
    row = known["part"]
    document = {"verdict": known["document"]["verdict"], "old": str(place.old), "new": str(place.new)}
    return KeptPart(
        None if row is None else _part(row, number),
        document | known["document"],
        _refusals(known["warnings"]),
        PairNames(frozenset(known["brings"]), frozenset(known["takes"])),
        known["symbols"],
    )


def _part(row: Mapping[str, Any], number: int) -> PairPart:
    keys: list[Key] = [(number, k) for k in range(len(row["fragments"]))]
    outside = [Binding(*cells) if cells else ABSOLUTE for cells in row["outside"]]
    targets = [*keys, *reversed(outside)]  # those outside count from the end: -1, -2
    content = b64decode(row["data"])
    fragments, at = [], 0
    for key, cells in zip(keys, row["fragments"], strict=True):
        *kind, length, size, references, labels, name, entry_of, entry = cells
        leads = tuple([Reference(offset, how, targets[to], addend) for offset, how, to, addend in references])
        names = tuple([Label(*label) for label in labels])
        fragments.append(
            Fragment._make((key, *kind, content[at : at + length], size, leads, names, name, entry_of, entry))
        )
        at += length
    return PairPart(
        owner=row["owner"],
        machine=row["machine"],
        fragments=tuple(fragments),
        redirected=tuple((name, sympos, keys[k]) for name, sympos, k in row["redirected"]),
        callbacks=tuple((kind, keys[k]) for kind, k in row["callbacks"]),
        sets=None if row["sets"] is None else keys[row["sets"]],
        words=tuple(SetWord(*word) for word in row["words"]),
        leaving=None if row["leaving"] is None else keys[row["leaving"]],
        states=row["states"],
        carried=tuple(_function_again(*cells) for cells in row["carried"]),
        accepted=_refusals(row["accepted"]),
        warnings=_refusals(row["warnings"]),
        symbols=row["symbols"],
    )


def _function_again(
    name: str,
    symbol: str,
    owner: str,
    role: str,
    size: int,
    content: str,
    old: Sequence[Any] | None,
    redirected: bool,
    rows: Sequence[Any] | None,
    points: Sequence[Any],
    since: str,
    base: str,
    parts: Sequence[Any],
) -> CarriedFunction:
    return CarriedFunction(
        name,
        symbol,
        owner,
        role,
        size,
        content,
        None if old is None else Original(*old),
        redirected,
        (),
        None if rows is None else _rows(rows),
        _rows(points),
        since,
        base,
        tuple(CarriedPart(n, sympos, s, _rows(m), _rows(p), b) for n, sympos, s, m, p, b in parts),
    )


def _rows(rows: Iterable[Sequence[Any]]) -> tuple[MapRow, ...]:
    return tuple([MapRow(*row) for row in rows])


def _refusals(rows: Iterable[Sequence[Any]]) -> tuple[Refusal, ...]:
    return tuple(Refusal(*row) for row in rows)

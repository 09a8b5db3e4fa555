"""Parts that were made before: of the pairs of a cumulative module all but the last bring what they brought then.

Of such a pair neither object is looked into. What was kept stands by all that it is made of: the bytes of both objects,
what was allowed, the kernel's image, the files of the modules that were asked, the text of this program, and what the
source patch answers to what it was asked. It is of a pair by itself: one that others of its module have a say in, by
a name that they bring or a caller that they have, is to be looked at with them.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any, Final, NamedTuple

from builder.acquire import sums
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
from builder.emit.fragments import Fragment, Key, Label, Reference
from builder.emit.part import PairPart
from builder.errors import Allowed, Refusal

MAKERS: Final = ("compose", "emit")
"""Where the text stands that makes a part, beside what reads and compares objects."""
_NO_PART: Final = (KeyError, IndexError, TypeError, ValueError, AttributeError, EOFError, pickle.UnpicklingError)
"""What the reading of a file that is none of these raises."""
_PROTOCOL: Final = 5
"""Of pickle."""


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


class _Proof(NamedTuple):
    """What a part stands by beside its key: the source patch's answers to what it was `asked` of a pair of the `files`,
    and the `modules` with the SHA-256 of their files."""

    files: frozenset[str]
    asked: tuple[tuple[AskedLine, bool], ...]
    modules: tuple[tuple[str, str | None], ...]


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
        sides = [(path.name, sums.digest_once(path)) for path in (self.old, self.new)]
        asked = bool(self.shifts), sorted(self.allowed.rows), sorted(self.allowed.sets)
        what = program(*MAKERS), sides, asked, self.objects.kernel.sha256, self.owner
        return hashlib.sha256(repr(what).encode()).hexdigest()

    @property
    def _file(self) -> Path:
        return cache_path("maps/parts", self._key[:32])

    def find(self, number: int) -> KeptPart | None:
        """What was kept, its fragments with keys of this number; None where that is nothing, or of something else."""
        if (written := sums.read_bytes(self._file)) is None:
            return None
        try:
            key, proof, kept = _Reader(BytesIO(written), number).load()
            if key != self._key:
                raise ValueError("it is of another pair")
            return self._named(kept) if self._holds(proof) else None
        except _NO_PART:
            sums.note_damage(self._file)
            return None

    def _named(self, kept: KeptPart) -> KeptPart:
        names = {"verdict": kept.document["verdict"], "old": str(self.old), "new": str(self.new)}
        return replace(kept, document={**names, **kept.document})

    def _holds(self, proof: _Proof) -> bool:
        """Whether the source patch answers the same, and the modules that were asked have the same files."""
        return all(is_moved(line, self.shifts, proof.files) is answer for line, answer in proof.asked) and all(
            self.objects.file_hash(name) == found for name, found in proof.modules
        )

    def keep(self, diff: Diff, part: PairPart | None) -> None:
        """Keep the part of a pair, None where nothing of it travels; not what another pair has a say in."""
        names = self._modules() if part is not None else ()
        proof = _Proof(
            diff.comparison.new.files,
            tuple(diff.comparison.asked.items()),
            tuple((name, self.objects.file_hash(name)) for name in names),
        )
        document = json.loads(json.dumps(diff.as_json()))
        del document["old"], document["new"]
        symbols = {} if part is None else {n: s for n, s in part.symbols.items() if not self._has(n)}
        kept = KeptPart(part, document, diff.judged.warnings, names_of(diff), symbols)
        content = _written(self._key, proof, kept)
        # A path may be another the next time, when nothing else is.
        if not any(str(path).encode("utf-8", "surrogatepass") in content for path in (self.old, self.new)):
            sums.keep_bytes(self._file, content)

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


_KINDS: Final = {
    (kind.__module__, kind.__qualname__): kind
    for kind in (
        *(KeptPart, PairNames, _Proof, AskedLine, PairPart, Fragment, Reference, Label, Binding, Refusal),
        *(SetWord, CarriedFunction, CarriedPart, MapRow, Original),
    )
}
"""What a kept part consists of, beside plain values."""


class _Writer(pickle.Pickler):
    """Writes numbers in place of the keys of fragments, which hold atoms, and so whole objects."""

    def __init__(self, file: BytesIO, keys: Mapping[Key, int]) -> None:
        super().__init__(file, _PROTOCOL)
        self._keys = keys

    def persistent_id(self, value: object) -> int | None:
        return self._keys.get(value) if type(value) is tuple else None

    def reducer_override(self, value: object) -> Any:
        """Nothing is written that is not read again."""
        if (value if isinstance(value, type) else type(value)) not in _KINDS.values():
            raise pickle.PicklingError(f"{value!r} is no value of a part")
        return NotImplemented


class _Reader(pickle.Unpickler):
    """Makes nothing but parts, whatever a file says; the keys are those of pair `number`."""

    def __init__(self, file: BytesIO, number: int) -> None:
        super().__init__(file)
        self._number = number

    def persistent_load(self, key: int) -> Key:
        return self._number, key

    def find_class(self, module: str, name: str) -> type:
        return _KINDS[module, name]


def _written(key: str, proof: _Proof, kept: KeptPart) -> bytes:
    fragments = kept.part.fragments if kept.part is not None else ()
    file = BytesIO()
    _Writer(file, {fragment.key: number for number, fragment in enumerate(fragments)}).dump([key, proof, kept])
    return file.getvalue()

"""The versions of the functions that livepatches of ours carry, and what maps one to the other."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from builder.binary import Address
from builder.binary.manifest import CarriedFunction, Manifest, MapRow


@dataclass(frozen=True, slots=True)
class Mapped:
    """A place in a version: function, offset, confidence 1 to 100, mask of what holds the same there."""

    function: str
    offset: int
    confidence: int
    same: int


@dataclass(frozen=True)
class ProbedFunction:
    """A function of a version, `name` in its module, and the one that it stands for: the `sympos`-th `old` of `object`.

    `since` is the module whose version `base` the map begins at, empty where that is the original. `rows` are the
    places of each offset of that: several, where the version has copies of the instruction. `points` are those of
    offsets whose instruction it does not have for sure: they lead to a place that may be another instruction's too.
    """

    name: str
    size: int
    object: str
    old: str
    sympos: int
    old_size: int
    redirected: bool
    since: str
    base: str
    rows: Mapping[int, tuple[Mapped, ...]] = field(repr=False)
    points: Mapping[int, tuple[Mapped, ...]] = field(default_factory=dict, repr=False)

    def places(self, offset: int) -> tuple[Mapped, ...]:
        """Where an offset is now: at its point, where there is one."""
        return self.points.get(offset) or self.rows.get(offset, ())


@dataclass(frozen=True)
class Version:
    """What one module of ours carries, from its manifest."""

    module: str
    functions: tuple[ProbedFunction, ...]
    ambiguous: frozenset[str] = frozenset()
    """Names that several functions of the module have: `MODULE:NAME` does not say which."""
    late: Mapping[str, frozenset[int]] = field(default_factory=dict)
    """Offsets by function where a probe may stand only when the patched object is there and bound to."""

    @classmethod
    def of(cls, manifest: Manifest) -> Version:
        names = [row.symbol for row in manifest.functions]
        functions = tuple(function for row in manifest.functions for function in _functions(row))
        late = {row.symbol: frozenset(row.late) for row in manifest.functions}
        return cls(manifest.name, functions, frozenset(n for n in names if names.count(n) > 1), late)

    @cached_property
    def _old(self) -> Mapping[tuple[str, str], Sequence[ProbedFunction]]:
        out: dict[tuple[str, str], list[ProbedFunction]] = {}
        for function in self.functions:
            out.setdefault((function.object, function.old), []).append(function)
        return out

    def replacing(self, owner: str, name: str) -> Sequence[ProbedFunction]:
        """The functions that stand for `name` of an object; several where only their sympos differs."""
        return self._old.get((owner, name), ())

    def owner(self, name: str) -> str:
        """The object that a function of the module, or a `.cold` part of one, patches."""
        for function in self.functions:
            places = (row for rows in (*function.rows.values(), *function.points.values()) for row in rows)
            if function.name == name or any(row.function == name for row in places):
                return function.object
        return ""

    def origins(self, name: str, offset: int) -> Iterator[tuple[ProbedFunction, int, bool]]:
        """The places in the older version that a place of this one stands for; whether each is that instruction's."""
        for function in self.functions:
            for own, table in ((True, function.rows), (False, function.points)):
                for at, copies in table.items():
                    if function.places(at) is copies and any(m.function == name and m.offset == offset for m in copies):
                        yield function, at, own


def _functions(row: CarriedFunction) -> Iterator[ProbedFunction]:
    """A function that stands for another, and for the `.cold` parts of that one; none for one that is new."""
    if row.map is None or row.old is None:
        return
    whole = ProbedFunction(
        name=row.symbol,
        size=row.new_size,
        object=row.object,
        old=row.old.name,
        sympos=row.old.sympos,
        old_size=row.old.size,
        redirected=row.redirected,
        since=row.since,
        base=row.base or row.old.name,
        rows=_rows(row.symbol, row.map),
        points=_rows(row.symbol, row.points),
    )
    yield whole
    for part in row.parts:
        yield replace(
            whole,
            old=part.name,
            base=part.base or part.name,
            sympos=part.sympos,
            old_size=part.size,
            redirected=False,
            rows=_rows(row.symbol, part.map),
            points=_rows(row.symbol, part.points),
        )


def _rows(name: str, table: Iterable[MapRow]) -> dict[int, tuple[Mapped, ...]]:
    found: dict[int, tuple[Mapped, ...]] = {}
    for row in table:
        place = Mapped(row.new_part or name, row.new_offset, row.confidence, row.same)
        found[row.old_offset] = (*found.get(row.old_offset, ()), place)
    return found


@dataclass(frozen=True)
class ProbeSymbols:
    """Some names of /proc/kallsyms: (object, name) -> addresses in the kernel's order."""

    addresses: Mapping[tuple[str, str], tuple[Address, ...]]

    @classmethod
    def parse(cls, text: str, wanted: Iterable[str]) -> ProbeSymbols:
        """Only the names in `wanted`."""
        names = "|".join(map(re.escape, sorted(set(wanted))))
        found: dict[tuple[str, str], list[Address]] = {}
        if names:
            # a fifth of a million lines, of which a few are wanted
            for row in re.finditer(rf"^([0-9a-f]+) \S ({names})(?:\t\[(\S+)\])?$", text, re.MULTILINE):
                found.setdefault((row[3] or "vmlinux", row[2]), []).append(Address(row[1], 16))
        return cls({key: tuple(rows) for key, rows in found.items()})

    def lookup(self, module: str | None, name: str) -> Address | None:
        """What kallsyms_lookup_name finds: the image first, then modules; with `module` only there."""
        if module is not None:
            return next(iter(self.addresses.get((module, name), ())), None)
        image = self.addresses.get(("vmlinux", name))
        if image:
            return image[0]
        return next((rows[0] for (_, other), rows in self.addresses.items() if other == name), None)

    def of(self, function: ProbedFunction) -> Address | None:
        """Where the original of a function begins; None while its object is not loaded."""
        rows = self.addresses.get((function.object, function.old), ())
        at = max(function.sympos - 1, 0)
        return rows[at] if at < len(rows) else None

"""Parts: what each pair brings to a module, cut loose from its objects and whole but for its place among the others."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from builder.arch import Architecture
from builder.binary.manifest import CarriedFunction, CarriedPart, MapRow, Original, SetWord
from builder.compare import Atom
from builder.compare.instruction_map import FunctionMap, MappedRow
from builder.compare.kept_maps import kept_maps
from builder.compose.bound import Bound
from builder.compose.bundle import Bundle
from builder.emit import derived, fragments, thunks
from builder.emit.fragments import Fragment, Key
from builder.errors import Refusal


@dataclass(frozen=True, slots=True)
class PairPart:
    """`fragments` are all that is linked of a pair of `owner`, an object of the kernel; the keys are some of theirs.

    `redirected` are the functions of the running object that are redirected, each a name with its sympos, and where to;
    `callbacks` come by their kind, `sets` is where the rows of exchanged `words` lie, `leaving` what a patched module
    runs when it is unloaded, `states` the number of structures by which later livepatches know of this one.
    `carried` is what the manifest says of each function, all but what only the linked module tells. `symbols` are those
    that the module has for what travels, by its names in the object.
    """

    owner: str
    machine: int
    fragments: tuple[Fragment, ...]
    redirected: tuple[tuple[str, int, Key], ...]
    callbacks: tuple[tuple[str, Key], ...]
    sets: Key | None
    words: tuple[SetWord, ...]
    leaving: Key | None
    states: int
    carried: tuple[CarriedFunction, ...]
    accepted: tuple[Refusal, ...]
    warnings: tuple[Refusal, ...]
    symbols: Mapping[str, str]

    @property
    def takes_effect(self) -> bool:
        """Whether it is reason enough for a module."""
        return bool(self.redirected or self.callbacks or self.words)


def part_of(bundle: Bundle, number: int, arch: Architecture) -> PairPart:
    """The part of one of the bundle's pairs."""
    bound = bundle.pairs[number]
    selection, judged = bound.diff.selection, bound.diff.judged
    matches = [(bound.matches[bound.diff.comparison.correlation.twins[a]], a) for a in selection.redirected]
    children = [child for atom in selection.functions for child in bound.diff.comparison.children.get(atom, ())]
    cut = thunks.add(bundle, number, arch, fragments.cut(bundle, number))
    return PairPart(
        owner=bound.owner.name,
        machine=bound.diff.comparison.new.obj.machine,
        fragments=tuple(derived.derive(bundle.kernel, bound, arch, cut)),
        redirected=tuple((match.name, match.sympos, (number, atom)) for match, atom in matches),
        callbacks=tuple((kind, (number, atom)) for kind, atom in selection.macros.callbacks.items()),
        sets=(number, "sets") if bound.sets else None,
        words=tuple(SetWord(bound.owner.name, w.atom.name, w.offset, w.width) for w in bound.sets),
        leaving=(number, selection.exits[0]) if selection.exits else None,
        states=len(selection.macros.states),
        carried=tuple(_carried(bundle, bound)),
        accepted=judged.accepted,
        warnings=(*judged.warnings, *bound.warnings),
        symbols={atom.name: bundle.symbol(atom) for atom in (*selection.functions, *children, *selection.data)},
    )


def _carried(bundle: Bundle, bound: Bound) -> Iterator[CarriedFunction]:
    selection = bound.diff.selection
    twins = bound.diff.comparison.correlation.twins
    mapped = [atom for atom in selection.redirected if twins.get(atom) in bound.matches]
    maps = kept_maps(bound.diff.comparison, mapped)
    for atom, role in selection.functions.items():
        old, original = twins.get(atom), None
        if old is not None:
            original = Original(old.end - old.entry, _hash(bound, old, new=False))
            if (match := bound.matches.get(old)) is not None:
                original = replace(original, name=match.name, sympos=match.sympos)
        row = CarriedFunction(
            name=atom.name,
            symbol=bundle.symbol(atom),
            object=bound.owner.name,
            role=role.value,
            new_size=atom.end - atom.entry,
            new_hash=_hash(bound, atom, new=True),
            old=original,
            redirected=atom in selection.redirected,
        )
        yield _mapped(row, bundle, bound, atom, maps[atom]) if atom in maps else row


def _mapped(row: CarriedFunction, bundle: Bundle, bound: Bound, atom: Atom, found: FunctionMap) -> CarriedFunction:
    """With the map from the version that it takes the place of, and those of that version's `.cold` parts."""
    comparison = bound.diff.comparison
    old = comparison.correlation.twins[atom]
    moved = _moved(bound, atom)
    pairs, points = (_by_part(bundle, atom, rows, moved) for rows in (found.pairs, found.points))
    parts = tuple(
        CarriedPart(
            match.name, match.sympos, part.end - part.entry, pairs.get(part, ()), points.get(part, ()), match.base
        )
        for part in comparison.old_children.get(old, ())
        if (match := bound.matches.get(part)) is not None
    )
    whole = bound.matches[old]
    own = replace(row, map=pairs.get(old, ()), points=points.get(old, ()))
    return replace(own, since=whole.since, base=whole.base, parts=parts)


def _by_part(
    bundle: Bundle, atom: Atom, rows: Iterable[MappedRow], moved: Mapping[Atom, frozenset[int]]
) -> dict[Atom, tuple[MapRow, ...]]:
    """Rows by the part of the old version that they are about; those of a function itself name no new part."""
    out: dict[Atom, tuple[MapRow, ...]] = {}
    for row in rows:
        if row.new_part.entry + row.new_offset in moved[row.new_part]:
            continue
        part = "" if row.new_part is atom else bundle.symbol(row.new_part)
        cells = MapRow(row.old_offset, row.new_offset, row.confidence, row.same, part)
        out[row.old_part] = (*out.get(row.old_part, ()), cells)
    return out


def _moved(bound: Bound, atom: Atom) -> Mapping[Atom, frozenset[int]]:
    """By part of a function, offsets in its section that no probe may stand at: a thunk has what was there."""
    tests = bound.thunks.tests if bound.thunks is not None else {}
    parts = (atom, *bound.diff.comparison.children.get(atom, ()))
    rooms = {part: [room[1:] for test in tests.get(part, ()) for room in test.rooms] for part in parts}
    return {part: frozenset(place for room in rows for place in room) for part, rows in rooms.items()}


def _hash(bound: Bound, atom: Atom, *, new: bool) -> str:
    view = bound.diff.comparison.new if new else bound.diff.comparison.old
    return hashlib.sha256(view.masked(atom.section, atom.entry, atom.end)).hexdigest()

"""A module of several pairs of which each stands for itself: what a pair brought the last time it brings again.

So the tenth fix of a cumulative module costs what the first one did. Pairs that have to do with each other, and
whatever is refused, are looked at together, as `pipeline` does it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from builder.acquire.pairs import ObjectPair
from builder.acquire.patch import PatchObjects
from builder.compose.bundle import bind
from builder.compose.carry import Carried, open_copies
from builder.compose.outcome import Diff
from builder.compose.owner import Objects
from builder.emit import emit, free_module_name, parts_of
from builder.emit.kept_parts import KeptPart, PairNames, PartPlace, names_of
from builder.emit.patched import Patched
from builder.errors import RefusedError
from builder.plan import ModulePlan


class AsItRuns(Protocol):
    """`pipeline.running_parts` of pairs with their owners."""

    def __call__(self, diffs: Sequence[Diff], owners: Sequence[str | None], *, beside: bool = False) -> Carried: ...


def joined(
    found: PatchObjects, objects: Objects, plan: ModulePlan, compare: Callable[[ObjectPair], Diff], as_it_runs: AsItRuns
) -> Patched | None:
    """The module of the objects of source patches, of parts that are kept or made now; None where that cannot be.

    Raises as `pipeline.patch`, but nothing is refused.
    """
    if plan.on is not None or plan.allowed.sets:
        return None
    pairs, allowed, name = found.pairs, plan.allowed, free_module_name(plan.name, objects.kernel)
    places = [PartPlace(p.old, p.new, p.owner, found.shifts, allowed, objects) for p in pairs]
    known = {n: kept for n, place in enumerate(places) if (kept := place.find(~n)) is not None}
    diffs: dict[int, Diff] = {}

    def compared() -> bool:
        """Whether all pairs that are not known stand for themselves."""
        for n, pair in enumerate(pairs):
            if n not in known and n not in diffs:
                diffs[n] = compare(pair)
        return not any(diff.judged.refusals or open_copies(diff) for diff in diffs.values())

    def owners() -> list[str]:
        return list(dict.fromkeys(pairs[n].owner for n in range(len(pairs)) if _ships(known.get(n) or diffs[n])))

    if not compared():
        return None
    unfit = [n for n, kept in known.items() if not kept.fits(objects, owners())]
    known = {n: kept for n, kept in known.items() if n not in unfit}
    if not compared() or not owners():
        return None
    running = as_it_runs([*diffs.values()], [pairs[n].owner for n in diffs], beside=True)
    now = dict(zip(diffs, running.diffs, strict=True))
    if any(not _is_as_before(diffs[n], diff) for n, diff in now.items()) or _are_linked(known, now):
        return None
    shipping = [n for n, diff in now.items() if _ships(diff)]
    try:
        pairs_now = [(now[n], pairs[n].owner) for n in shipping]
        bundle = bind(name, pairs_now, objects, replace=plan.replace, allowed=allowed, beside=owners())
    except RefusedError:
        return None
    made = dict(zip(shipping, parts_of(bundle), strict=True))
    parts = [part for n in range(len(pairs)) if (part := known[n].part if n in known else made.get(n)) is not None]
    if bundle.accepted or not any(part.takes_effect for part in parts):
        return None  # whether that is accepted is asked of all of them
    compiler = found.tree.compiler
    module = emit(replace(bundle, compiler=(compiler.version, *compiler.packages)), parts)
    for n, diff in now.items():
        places[n].keep(diff, made.get(n))
    told = tuple(known.get(n) or now[n] for n in range(len(pairs)))
    return Patched(found, told, module, lambda: as_it_runs([*map(compare, pairs)], [p.owner for p in pairs]).diffs)


def _ships(pair: KeptPart | Diff) -> bool:
    return pair.part is not None if isinstance(pair, KeptPart) else not pair.selection.is_empty


def _is_as_before(diff: Diff, runs: Diff) -> bool:
    """Whether a pair is what it was without a look at what runs, and at the pairs beside it."""
    return runs is diff or (not _ships(diff) and not _ships(runs) and not runs.judged.refusals)


def _are_linked(known: Mapping[int, KeptPart], now: Mapping[int, Diff]) -> bool:
    """Whether a pair takes what another one brings."""
    rows: list[PairNames] = [*(kept.names for kept in known.values()), *map(names_of, now.values())]
    return any(not one.brings.isdisjoint(other.takes) for one in rows for other in rows if one.brings)

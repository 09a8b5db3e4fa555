"""The instruction map: where in the new version of a function each old instruction is now.

Probes follow it into the new version, and the listing puts what it pairs side
by side. Both versions are sequences of lines (`unit.py`: a function, then its
`.cold` parts), which are paired in steps:

1. Align them as a diff does (`alignment.py`): first lines that are equal in everything, then,
   in the gaps between those, lines that differ in constants only, and at last
   lines that do the same with other registers.
2. Pair blocks that moved: a run of lines that each version has just once.
3. Follow branches: where two are paired, so are the lines that they lead to.
4. Hold the pairs against control flow and data flow (`agreement.py`): take back those that only look alike,
   and find the copies that the new version has of a block. So an old line may have several counterparts.
5. Pair what each version has just once, and passes as often, though its order changed.
6. Grade each pair by what is equal, by its data and by its neighbours (`confidence`).
7. For what has no sure counterpart by then, find the same point between its neighbours (`points.py`).

Two instructions are never paired if they do different things or refer to
different things: only constants and registers may differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from heapq import nsmallest
from typing import Final, NamedTuple

from builder.compare.agreement import Agreement, Data
from builder.compare.alignment import LEVELS, Alignment
from builder.compare.atoms import Atom
from builder.compare.comparison import Comparison
from builder.compare.doubt import doubtful
from builder.compare.flow import Flow
from builder.compare.points import points
from builder.compare.registers import same_registers
from builder.compare.unit import unit

_LONELY, _UNSURE, _OTHER, _ELSEWHERE, _DOUBTFUL = 15, 10, 30, 10, 40
"""Taken off where no neighbour is paired beside it; where its data come from what has no counterpart, and not both
neighbours are; where its data come from others; where its branches part; where little speaks for it (`doubt.py`)."""
LEAST: Final = 75
"""A pair of less confidence is as likely wrong as right: a probe does not follow it."""
_POINT: Final = 80
"""Confidence of a point: of a sure pair beside it, less what it is that nothing there does the same."""


class MappedRow(NamedTuple):
    """One pair: the instruction at `old_part` + `old_offset` is now the one at `new_part` + `new_offset`.

    Parts are the function or one of its `.cold` parts, offsets are in bytes from
    the part's entry, `confidence` is 1 to 100. `same` is the set of registers
    that hold the same values there, as `registers.py` numbers them. An old
    instruction in several rows has so many copies in the new version, which together run as often as it.
    """

    old_part: Atom
    old_offset: int
    new_part: Atom
    new_offset: int
    confidence: int
    same: int


class FunctionMap(NamedTuple):
    """What is known of a function: its pairs, and the points of old instructions that are in no sure pair.

    Both are in the old order. An old instruction in neither has no place in the new version.
    """

    pairs: tuple[MappedRow, ...] = ()
    points: tuple[MappedRow, ...] = ()


def instruction_map(comparison: Comparison, atom: Atom) -> FunctionMap:
    """That of a function of the new object (its `.cold` parts included) and its old version; empty without a twin."""
    found: FunctionMap | None = comparison.maps.get(atom)
    if found is None:
        found = comparison.maps[atom] = _function_map(comparison, atom)
    return found


def _function_map(comparison: Comparison, atom: Atom) -> FunctionMap:
    old_atom = comparison.correlation.twins.get(atom)
    if old_atom is None:
        return FunctionMap()
    first = unit(comparison, comparison.old, (old_atom, *comparison.old_children.get(old_atom, ())))
    second = unit(comparison, comparison.new, (atom, *comparison.children.get(atom, ())))
    arch = comparison.new.arch
    old, new = Flow(first, arch), Flow(second, arch)
    agreement = Agreement(old, new, Alignment(first, second).run())
    agreement.settle()
    pairs, doubted = agreement.pairs, doubtful(agreement)
    for i, j in _displaced(old, new, agreement):
        pairs[i] = {j: LEVELS[0]}
    graded = {
        (i, j): max(_graded(agreement, i, j, level) - (_DOUBTFUL if (i, j) in doubted else 0), 1)
        for i, js in pairs.items()
        for j, level in js.items()
    }
    sure = {i: sorted(js) for i, js in pairs.items() if all(graded[i, j] >= LEAST for j in js)}
    opposites = [pair for pair in graded if agreement.opposite(*pair)]
    between = points(old, new, sure) | {i: tuple(sure[i]) for i, _ in opposites if i in sure}
    same, same_there = same_registers(old, new, {i: list(js) for i, js in pairs.items()}, between)
    places = {(i, j): _POINT for i, js in between.items() for j in js}

    def rows(found: Mapping[tuple[int, int], int], same: Mapping[tuple[int, int], int]) -> tuple[MappedRow, ...]:
        return tuple(
            MappedRow(first[i].part, first[i].offset, second[j].part, second[j].offset, confidence, same[i, j])
            for (i, j), confidence in sorted(found.items())
        )

    for pair in opposites:
        del graded[pair]
    return FunctionMap(rows(graded, same), rows(places, same_there))


def _displaced(old: Flow, new: Flow, agreement: Agreement) -> Iterator[tuple[int, int]]:
    """Step 5: what stands in each version once, in another order: run as often as a pair beside it in both."""
    there = new.once(0)
    for key, i in old.once(0).items():
        j = there.get(key)
        line = old.lines[i]
        if j is None or i in agreement.pairs or j in agreement.back or line.insn.is_jump or line.insn.is_nop:
            continue
        single = (a for a, bs in agreement.pairs.items() if len(bs) == 1)
        for a in nsmallest(4, single, key=lambda a, i=i: abs(a - i)):  # type: ignore[misc]
            (b,) = agreement.pairs[a]
            if old.as_often(a, i) and new.as_often(b, j) and agreement.data(i, j) is not Data.OTHER:
                yield i, j
                break


def _graded(agreement: Agreement, i: int, j: int, confidence: int) -> int:
    """Step 6."""
    pairs, old = agreement.pairs, agreement.old.lines
    beside = [(i + d, j + d) for d in (-1, 1) if 0 <= i + d < len(old) and old[i + d].part is old[i].part]
    joined = [b in pairs.get(a, ()) for a, b in beside]
    if not any(joined):
        confidence -= _LONELY
    data = agreement.data(i, j)
    if data is Data.OTHER:
        confidence -= _OTHER
    elif data is Data.UNSURE and not all(joined):
        confidence -= _UNSURE
    a, b = old[i].target, agreement.new.lines[j].target
    if a is not None and b is not None and b not in pairs.get(a, ()) and not agreement.opposite(i, j):
        confidence -= _ELSEWHERE
    return max(confidence, 1)

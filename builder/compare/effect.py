"""What a change did to the instructions of a function, in numbers: what is kept, has moved, is gone, was added."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from builder.compare.atoms import Atom
from builder.compare.comparison import Comparison
from builder.compare.instruction_map import instruction_map
from builder.compare.view import View


@dataclass(frozen=True, slots=True)
class Effect:
    """Numbers of instructions, NOPs left out: `kept` in their order, `moved` to another, `gone`, `added`.

    What stays has a counterpart in the instruction map: it does the same, perhaps with another register or constant.
    """

    kept: int
    moved: int
    gone: int
    added: int


def effect_of(comparison: Comparison, atom: Atom) -> Effect:
    """The effect on a function of the new object, its `.cold` parts included; all is new where it has no twin."""
    old = comparison.correlation.twins.get(atom)
    before = _places(comparison.old, (old, *comparison.old_children.get(old, ()))) if old is not None else {}
    after = _places(comparison.new, (atom, *comparison.children.get(atom, ())))
    first: dict[int, int] = {}
    there: set[int] = set()
    for row in instruction_map(comparison, atom).pairs:
        source, target = before.get((row.old_part, row.old_offset)), after.get((row.new_part, row.new_offset))
        if source is not None and target is not None:
            first.setdefault(source, target)
            there.add(target)
    kept = _longest_rising([first[source] for source in sorted(first)])
    return Effect(kept, len(first) - kept, len(before) - len(first), len(after) - len(there))


def _places(view: View, parts: Sequence[Atom]) -> dict[tuple[Atom, int], int]:
    """The number of each instruction that is no NOP, by its part and offset."""
    places = [(part, insn.offset - part.entry) for part in parts for insn in view.instructions(part) if not insn.is_nop]
    return {place: number for number, place in enumerate(places)}


def _longest_rising(numbers: Sequence[int]) -> int:
    """The length of the longest rising subsequence."""
    ends: list[int] = []
    for number in numbers:
        at = bisect_left(ends, number)
        ends[at : at + 1] = [number]
    return len(ends)

"""The instruction map: where in the new version of a function each old instruction is now.

Probes follow it into the new version, and the listing puts what it pairs side
by side. Both versions are sequences of lines (`unit.py`: a function, then its
`.cold` parts), which are paired in steps:

1. Align them as a diff does: first lines that are equal in everything, then,
   in the gaps between those, lines that differ in constants only, and at last
   lines that do the same with other registers.
2. Pair blocks that moved: a run of lines that each version has just once.
3. Follow branches: where two are paired, so are the lines that they lead to.
4. Take back what control flow speaks against: lines of one old block that are
   far apart in the new version, and blocks that are reached from elsewhere.
5. Grade each pair by what is equal and by its neighbours (`confidence`), and
   drop those below `LEAST`.

Two instructions are never paired if they do different things or refer to
different things: only constants and registers may differ.
"""

from __future__ import annotations

from collections.abc import Container, Hashable, Mapping, Sequence
from typing import NamedTuple

from builder.compare.atoms import Atom
from builder.compare.comparison import Comparison
from builder.compare.registers import same_registers
from builder.compare.sequences import align
from builder.compare.unit import UnitLine, unit

LEVELS = EXACT, CONSTANT, REGISTERS = 100, 90, 75
"""Confidence, of 100, of lines that are equal in everything; in all but constants; in all but those and registers.

A level is an index into these and into `Line.keys`, which is what must be equal.
"""
_MOVED, _LONELY, _ELSEWHERE = 5, 15, 10
"""Taken off where a pair is out of order; where no neighbour is paired beside it; where its branches part."""
LEAST = 75
"""A pair of less confidence is as likely wrong as right, and is no pair."""
_PASSES = ((0, 5), (0, 3), (1, 3), (0, 1), (1, 1), (2, 3), (2, 1))
"""Step 1: level, and how many lines in a row must be equal. What has equal neighbours is paired first."""
_ROUNDS = 4
"""How often steps 3 and 4 are done at most: each may make the other find more."""
_RUN = 3
"""Lines in a row that must be equal, and be the only such, for a block to count as moved."""


class MappedRow(NamedTuple):
    """One pair: the instruction at `old_part` + `old_offset` is now the one at `new_part` + `new_offset`.

    Parts are the function or one of its `.cold` parts, offsets are in bytes from
    the part's entry, `confidence` is LEAST to 100. `same` is the set of registers
    that hold the same values there, as `registers.py` numbers them.
    """

    old_part: Atom
    old_offset: int
    new_part: Atom
    new_offset: int
    confidence: int
    same: int


def instruction_map(comparison: Comparison, atom: Atom) -> tuple[MappedRow, ...]:
    """The pairs of a function of the new object (its `.cold` parts included) and its old version, in the old order.

    An old instruction in none of them has no counterpart. Empty where the function has no twin.
    """
    old_atom = comparison.correlation.twins.get(atom)
    if old_atom is None:
        return ()
    old = unit(comparison, comparison.old, (old_atom, *comparison.old_children.get(old_atom, ())))
    new = unit(comparison, comparison.new, (atom, *comparison.children.get(atom, ())))
    pairs = _Alignment(old, new).run()
    same = same_registers(comparison, old, new, {i: j for i, (j, _) in pairs.items()})
    return tuple(
        MappedRow(old[i].part, old[i].offset, new[j].part, new[j].offset, confidence, same[i])
        for i, (j, confidence) in sorted(pairs.items())
    )


class _Alignment:
    """The steps on two units: `pairs` maps an old line to (new line, confidence), `back` a new line to its old one."""

    def __init__(self, old: list[UnitLine], new: list[UnitLine]) -> None:
        self.old, self.new = old, new
        self.pairs: dict[int, tuple[int, int]] = {}
        self.back: dict[int, int] = {}

    def run(self) -> dict[int, tuple[int, int]]:
        for level, width in _PASSES:
            for olds, news in self._gaps():
                first, second = _windows(self.old, olds, level, width), _windows(self.new, news, level, width)
                for i, j in align(first, second):
                    self._pair(olds[i], news[j], LEVELS[level])
        self._moved()
        for _ in range(_ROUNDS):
            self._follow()
            if not self._torn() + self._contradicted():
                break
        judged = {i: (j, self._judged(i, j, confidence)) for i, (j, confidence) in self.pairs.items()}
        return {i: (j, confidence) for i, (j, confidence) in judged.items() if confidence >= LEAST}

    def _pair(self, i: int, j: int, confidence: int) -> None:
        self.pairs[i] = (j, confidence)
        self.back[j] = i

    def _gaps(self) -> list[tuple[range, range]]:
        """Runs of lines without a pair, old and new, between two pairs."""
        out = []
        i = j = 0
        for left, (right, _) in [*sorted(self.pairs.items()), (len(self.old), (len(self.new), 0))]:
            if left > i and right > j:
                out.append((range(i, left), range(j, right)))
            i, j = left + 1, right + 1
        return out

    def _moved(self) -> None:
        """Step 2: pair what follows and precedes a run of lines that is left just once in each version."""
        for level, confidence in enumerate((EXACT, CONSTANT)):
            olds, news = self._runs(self.old, self.pairs, level), self._runs(self.new, self.back, level)
            for run, (i, count) in olds.items():
                j, other = news.get(run, (0, 0))
                if count == other == 1 and i not in self.pairs and j not in self.back:
                    self._extend(i, j, level, confidence - _MOVED)

    def _runs(
        self, lines: list[UnitLine], taken: Container[int], level: int
    ) -> dict[tuple[Hashable, ...], tuple[int, int]]:
        out: dict[tuple[Hashable, ...], tuple[int, int]] = {}
        for i in range(len(lines) - _RUN + 1):
            if any(k in taken for k in range(i, i + _RUN)):
                continue
            run = tuple(lines[k].keys[level] for k in range(i, i + _RUN))
            first, count = out.get(run, (i, 0))
            out[run] = (first, count + 1)
        return out

    def _extend(self, i: int, j: int, level: int, confidence: int) -> None:
        """Pair two places and what follows and precedes them, as far as it agrees."""
        for step in (1, -1):
            a, b = (i, j) if step > 0 else (i - 1, j - 1)
            while self._free(a, b) and self.old[a].keys[level] == self.new[b].keys[level]:
                self._pair(a, b, confidence)
                a, b = a + step, b + step

    def _free(self, i: int, j: int) -> bool:
        return 0 <= i < len(self.old) and 0 <= j < len(self.new) and i not in self.pairs and j not in self.back

    def _follow(self) -> None:
        """Step 3: where branches are paired, pair their targets and what agrees around those."""
        waiting = sorted(self.pairs)
        while waiting:
            i = waiting.pop()
            a, b = self.old[i].target, self.new[self.pairs[i][0]].target
            if a is None or b is None or not self._free(a, b):
                continue
            before = set(self.pairs)
            for level, confidence in enumerate(LEVELS):
                self._extend(a, b, level, min(self.pairs[i][1], confidence) - _MOVED)
            waiting += [k for k in self.pairs if k not in before]

    def _contradicted(self) -> bool:
        """Step 4: take back the pairs of blocks that only look alike; whether there were any.

        Two blocks that print the same kind of message may be equal. If all paired lines that lead
        to the one lead to another block in the other version, and the other way round, they are two.
        """
        there = {i: j for i, (j, _) in self.pairs.items()}
        into, onto = _branches(self.old), _branches(self.new)
        wrong = [
            i
            for i, j in there.items()
            if i in into
            and _elsewhere(self.old, self.new, there, into, i, j)
            and _elsewhere(self.new, self.old, self.back, onto, j, i)
        ]
        for i in wrong:
            at = i
            while at in self.pairs and (at == i or at not in into):
                del self.back[self.pairs.pop(at)[0]]
                if self.old[at].insn.ends_block:
                    break
                at += 1
        return bool(wrong)

    def _torn(self) -> int:
        """Step 4: mend pairs of two neighbours that the new version cannot run in a row; how many there were.

        An old line that is only entered from the line before it runs as often as that does. So its
        counterpart must be reached from the counterpart of the other, through lines that are new.
        Otherwise the shorter of the two stretches is taken back; a later one is paired again with what
        comes right behind the counterpart of the earlier one, as far as that agrees.
        """
        into = _branches(self.old)
        found = 0
        for i in sorted(self.pairs):
            if i not in self.pairs or i - 1 not in self.pairs or not self._is_only_entered_before(i, into):
                continue
            before = self.pairs[i - 1][0]
            if self._is_reached(before, self.pairs[i][0]):
                continue
            found += 1
            head, tail = self._stretch(i - 1, -1, into), self._stretch(i, 1, into)
            for k in head if len(head) < len(tail) else tail:
                del self.back[self.pairs.pop(k)[0]]
            if len(head) >= len(tail) and self._falls_through(self.new, before):
                for level, confidence in enumerate(LEVELS):
                    self._extend(i, before + 1, level, confidence)
        return found

    def _is_only_entered_before(self, i: int, into: Container[int]) -> bool:
        return i not in into and not self.old[i].from_table and self._falls_through(self.old, i - 1)

    @staticmethod
    def _falls_through(lines: Sequence[UnitLine], at: int) -> bool:
        """Whether what follows an instruction in the layout is run next, or may be."""
        return not lines[at].insn.ends_block and at + 1 < len(lines) and lines[at + 1].part is lines[at].part

    def _stretch(self, i: int, step: int, into: Container[int]) -> list[int]:
        """From `i` on, or back: what is mapped of the block."""
        found = [i]
        while True:
            later = max(i, i + step)
            if not 0 <= i + step < len(self.old) or not self._is_only_entered_before(later, into):
                return found
            i += step
            if i not in self.pairs:
                return found
            found.append(i)

    def _is_reached(self, here: int, there: int) -> bool:
        """Whether control may come from one instruction of the new version to another by unmapped ones only."""
        seen: set[int] = set()
        waiting = [here]
        while waiting:
            at = waiting.pop()
            line = self.new[at]
            following = [line.target] if line.insn.is_jump and line.target is not None else []
            if self._falls_through(self.new, at):
                following.append(at + 1)
            if there in following:
                return True
            waiting += [k for k in following if k not in self.back and k not in seen]
            seen.update(following)
        return False

    def _judged(self, i: int, j: int, confidence: int) -> int:
        beside = [(i + d, j + d) for d in (-1, 1)]
        known = [
            self.pairs.get(a, (-1, 0))[0] == b
            for a, b in beside
            if 0 <= a < len(self.old) and self.old[a].part is self.old[i].part
        ]
        if not any(known):
            confidence -= _LONELY
        a, b = self.old[i].target, self.new[j].target
        if a is not None and b is not None and self.pairs.get(a, (-1, 0))[0] != b:
            confidence -= _ELSEWHERE
        return max(confidence, 1)


def _branches(lines: Sequence[UnitLine]) -> dict[int, list[int]]:
    """Line -> the branches that lead to it."""
    out: dict[int, list[int]] = {}
    for at, line in enumerate(lines):
        if line.target is not None:
            out.setdefault(line.target, []).append(at)
    return out


def _elsewhere(
    here: Sequence[UnitLine],
    other: Sequence[UnitLine],
    pairs: Mapping[int, int],
    into: Mapping[int, list[int]],
    i: int,
    j: int,
) -> bool:
    """Whether something that leads to line `i` is paired, and nothing of it leads to line `j` of the other."""
    ways = [other[pairs[k]].target == j for k in into.get(i, ()) if k in pairs]
    if i - 1 in pairs and here[i - 1].part is here[i].part and not here[i - 1].insn.ends_block:
        ways.append(pairs[i - 1] == j - 1)
    return bool(ways) and not any(ways)


def _windows(lines: Sequence[UnitLine], span: range, level: int, width: int) -> list[Hashable]:
    """For each line of a span, what it and its neighbours are; beyond the span there is nothing."""
    keys = [lines[k].keys[level] for k in span]
    if width == 1:
        return keys
    half = width // 2
    padded: list[Hashable] = [None] * half + keys + [None] * half
    return [tuple(padded[k : k + width]) for k in range(len(keys))]

"""Steps 1 to 3 of the instruction map (`instruction_map.py`): which lines of two units look like counterparts."""

from __future__ import annotations

from collections.abc import Container, Hashable, Sequence
from typing import Final

from builder.compare.sequences import align
from builder.compare.unit import UnitLine

LEVELS = EXACT, CONSTANT, REGISTERS = 100, 90, 75
"""Confidence, of 100, of lines that are equal in everything; in all but constants; in all but those and registers.

A level is an index into these and into `Line.keys`, which is what must be equal.
"""
_MOVED: Final = 5
"""Taken off where a pair is out of order."""
_PASSES: Final = ((0, 5), (0, 3), (1, 3), (0, 1), (1, 1), (2, 3), (2, 1))
"""Step 1: level, and how many lines in a row must be equal. What has equal neighbours is paired first."""
_RUN: Final = 3
"""Lines in a row that must be equal, and be the only such, for a block to count as moved."""


class Alignment:
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
        self._follow()
        return self.pairs

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
            first, second = self.old[i], self.new[self.pairs[i][0]]
            a, b = first.target, second.target
            if first.operation.negated != second.operation.negated or a is None or b is None or not self._free(a, b):
                continue
            before = set(self.pairs)
            for level, confidence in enumerate(LEVELS):
                self._extend(a, b, level, min(self.pairs[i][1], confidence) - _MOVED)
            waiting += [k for k in self.pairs if k not in before]


def _windows(lines: Sequence[UnitLine], span: range, level: int, width: int) -> list[Hashable]:
    """For each line of a span, what it and its neighbours are; beyond the span there is nothing."""
    keys = [lines[k].keys[level] for k in span]
    if width == 1:
        return keys
    half = width // 2
    padded: list[Hashable] = [None] * half + keys + [None] * half
    return [tuple(padded[k : k + width]) for k in range(len(keys))]

"""What control and data say of the pairs of an instruction map: which hold, which do not, and which are missing.

A pair of the alignment holds only where both versions come to it in the same way. That is judged by *steps*: from
a mapped line to the mapped lines that control may come to next, by lines without a counterpart only.

- Each step of the old version must be one of the new version too, from every counterpart of the line, by the same
  way out of it (taken or not). A step that is decided on the way, by a branch without counterpart, may be missing:
  the branch is what changed.
- Each step of the new version must be one of the old version, with the same exception.
- A branch must be decided by the same: its flags come from instructions that are counterparts.
- What a pair reads may not come from instructions that both have counterparts, but other ones.

Where a step is missing, the counterpart may be a copy that the new version has of a block: then the old line has
several counterparts, which together run as often as it. Where two old lines have become one, that one runs more
often than either, and is no counterpart. What still contradicts is taken back, the worst first.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from enum import Enum
from math import inf
from typing import Final, NamedTuple

from builder.compare.alignment import LEVELS
from builder.compare.flow import CALLER, TABLE, UNKNOWN, Flow, defined_by, lines_of

_ROUNDS: Final = 60
_ANCHOR: Final = 2
"""How many steps it is worth that both versions have an instruction with its target just once."""


class Data(Enum):
    """What the values that a pair reads say of it."""

    SAME = "they come from counterparts"
    UNSURE = "they come from what has no counterpart"
    OTHER = "they come from others"


class FlowStep(NamedTuple):
    """From pair `a`, `q` by a way of this kind: what the old and the new version come to next."""

    a: int
    q: int
    kind: int
    old: dict[int, bool]
    new: dict[int, bool]


class Agreement:
    """The pairs of two units while they are judged: `pairs` maps an old line to its new ones and their confidence."""

    def __init__(self, old: Flow, new: Flow, pairs: dict[int, tuple[int, int]]) -> None:
        self.old, self.new = old, new
        self.pairs: dict[int, dict[int, int]] = {i: {j: confidence} for i, (j, confidence) in pairs.items()}
        self.back: dict[int, int] = {j: i for i, (j, _) in pairs.items()}
        self._stack = new.arch.registers.index(new.arch.stack_register)
        self._refused: set[tuple[int, int]] = set()
        self._taken: list[list[tuple[int, int]]] = []
        self._roots: dict[tuple[int, int, int], int] = {}
        self._unique = old.once(2).keys() & new.once(2).keys()

    def settle(self) -> None:
        """Mend, take back and complete the pairs until nothing contradicts any more."""
        for _ in range(_ROUNDS):
            if self._judge_data():
                continue
            if not self._settle_control() and not self._judge_data():
                break
        self._drop_all_contradicted()
        for stretch in reversed(self._taken):
            self._restore(stretch)

    def _restore(self, stretch: list[tuple[int, int]]) -> None:
        """Pair lines again that were taken back while others were wrong.

        Nothing may contradict them now, but fewer lines than they are, which are taken back then.
        """
        free = [(i, j) for i, j in stretch if i not in self.pairs and j not in self.back]
        self._refused -= set(free)
        again = [(i, j) for i, j in free if self._pair(i, j)]
        against = self._contradicting() - set(again) if again else set()
        lost = [(i, j, self.pairs[i][j]) for i, j in against]
        if len(lost) < len(again):
            for i, j, _ in lost:
                self._unpair(i, j)
            if not self._contradicting():
                return
            for i, j, confidence in lost:
                self.pairs.setdefault(i, {})[j] = confidence
                self.back[j] = i
        for i, j in again:
            self._unpair(i, j)

    def _contradicting(self) -> set[tuple[int, int]]:
        """Both ends of what contradicts in control, and what decides by something else."""
        wrong = set(self._misled())
        for step in self.steps():
            missing, added = self.missing(step), self.added(step)
            wrong |= {(i, j) for i in missing for j in self.pairs[i]} | {(self.back[b], b) for b in added}
            wrong |= {(step.a, step.q)} if missing or added else set()
        return wrong - {(self.old.caller, self.new.caller)}

    def opposite(self, i: int, j: int) -> bool:
        """Whether one is a conditional jump and the other its opposite."""
        return self.old.lines[i].operation.negated != self.new.lines[j].operation.negated

    # Steps

    def steps(self) -> Iterator[FlowStep]:
        self.pairs[self.old.caller] = {self.new.caller: 100}
        self.back[self.new.caller] = self.old.caller
        try:
            for a in list(self.pairs):
                for kind in dict.fromkeys(way.kind for way in self.old.ways[a]):
                    before = self._next(self.old, a, kind, self.pairs)
                    for q in self.pairs[a]:
                        yield FlowStep(a, q, kind, before, self._next(self.new, q, kind, self.back))
        finally:
            del self.pairs[self.old.caller], self.back[self.new.caller]

    @staticmethod
    def _next(flow: Flow, at: int, kind: int, known: Container[int]) -> dict[int, bool]:
        out: dict[int, bool] = {}
        for way in flow.ways[at]:
            if way.kind == kind:
                for to, decided in flow.next_of(way.to, known).items():
                    out[to] = out.get(to, True) and decided
        return out

    def missing(self, step: FlowStep) -> list[int]:
        """Old lines that the step should come to in the new version, and does not."""
        there = {self.back[b] for b in step.new}
        return [i for i, decided in step.old.items() if i not in there and not decided]

    def added(self, step: FlowStep) -> list[int]:
        """New lines that the step comes to, and should not."""
        return [b for b, decided in step.new.items() if self.back[b] not in step.old and not decided]

    # Control

    def _settle_control(self) -> bool:
        """One round; whether anything was changed."""
        if self._complete():
            return True
        steps = list(self.steps())
        missing = [(step, i) for step in steps for i in self.missing(step)]
        added = [(step, b) for step in steps for b in self.added(step)]
        if not missing and not added:
            return False
        if self._merged(added):
            return True
        if any([self._find_copy(step, i) for step, i in missing]):
            return True
        self._take_worst(steps, missing, added)
        return True

    def _complete(self) -> bool:
        """Pair what comes right behind a pair on both sides, as far as it is equal."""
        changed = False
        waiting = [(i, j) for i, js in self.pairs.items() for j in js]
        waiting.append((self.old.caller, self.new.caller))
        while waiting:
            i, j = waiting.pop()
            news = {way.kind: way.to for way in self.new.ways[j]}
            for kind, a in self.old.ways[i]:
                b = news.get(kind)
                if b is not None and kind != TABLE and a not in self.pairs and self._pair(a, b):
                    changed = True
                    waiting.append((a, b))
        return changed

    def _pair(self, i: int, j: int) -> bool:
        """Pair two lines where they are equal in something and the new one is free."""
        if j in self.back or (i, j) in self._refused:
            return False
        first, second = self.old.lines[i].keys, self.new.lines[j].keys
        for level, confidence in enumerate(LEVELS):
            if first[level] == second[level]:
                self.pairs.setdefault(i, {})[j] = confidence
                self.back[j] = i
                return True
        return False

    def _unpair(self, i: int, j: int) -> None:
        self._refused.add((i, j))
        del self.back[j]
        del self.pairs[i][j]
        if not self.pairs[i]:
            del self.pairs[i]

    def _find_copy(self, step: FlowStep, i: int) -> bool:
        """Find the line that a step should come to among those without a counterpart, and what follows it."""
        for way in self.new.ways[step.q]:
            if way.kind != step.kind:
                continue
            for b in self._free_from(way.to):
                if not self._pair(i, b):
                    continue
                self._extend(i, b)
                return True
        return False

    def _free_from(self, start: int) -> list[int]:
        """New lines without a counterpart that control comes to from a line by such only, the nearest first."""
        found = [start] if start not in self.back else []
        for at in found:
            found += [way.to for way in self.new.ways[at] if way.to not in self.back and way.to not in found]
        return found

    def _extend(self, i: int, b: int) -> None:
        """Pair what follows a copy as well, to the end of what is alike."""
        while self.old.falls_through(i) and self.new.falls_through(b) and not self.opposite(i, b):
            i, b = i + 1, b + 1
            if not self._pair(i, b):
                break

    def _merged(self, added: list[tuple[FlowStep, int]]) -> bool:
        """Take back pairs of lines that stand for two old ones: something leads to each of the two."""
        found = False
        for step, b in added:
            if b not in self.back or (step.a not in self.pairs and step.a != self.old.caller):
                continue
            i = self.back[b]
            for way in self.old.ways[step.a]:
                if way.kind != step.kind or way.to == i:
                    continue
                if way.to not in self.pairs and self.old.lines[way.to].keys[2] == self.new.lines[b].keys[2]:
                    self._unpair(i, b)
                    self._refused.add((way.to, b))
                    found = True
                    break
        return found

    def _take_worst(
        self, steps: list[FlowStep], missing: list[tuple[FlowStep, int]], added: list[tuple[FlowStep, int]]
    ) -> None:
        """Take back, of the two ends of each step that contradicts, the stretch of lines for which less speaks."""
        group = self.stretches()
        score: dict[int, float] = {}
        members: dict[int, list[tuple[int, int]]] = {}
        for (i, j), number in group.items():
            members.setdefault(number, []).append((i, j))
        for number, rows in members.items():
            anchored = any(self.is_unique(i) for i, _ in rows)
            score[number] = _ANCHOR * anchored + min(len(rows), 8) / 8
        score[-1] = inf  # the caller
        bad: set[tuple[int, int]] = set()
        for step in steps:
            here = group.get((step.a, step.q), -1)
            for b in step.new:
                there = group[self.back[b], b]
                if self.back[b] in step.old and here != there:
                    score[here] += 1
                    score[there] += 1
        for step, i in missing:
            here = group.get((step.a, step.q), -1)
            for j in self.pairs[i]:
                bad.add((here, group[i, j]))
        for step, b in added:
            bad.add((group.get((step.a, step.q), -1), group[self.back[b], b]))
        for here, there in bad:
            score[here] -= 1
            score[there] -= 1
        gone: set[int] = set()
        for here, there in sorted(bad, key=lambda ends: min(score[ends[0]], score[ends[1]])):
            if here in gone or there in gone:
                continue
            gone.add(min(there, here, key=score.__getitem__))
        for number in gone:
            self._taken.append(members[number])
            for i, j in self._taken[-1]:
                self._unpair(i, j)

    def is_unique(self, i: int) -> bool:
        """Whether both versions have an instruction with its target just once."""
        return self.old.lines[i].keys[2] in self._unique and bool(self.old.lines[i].meanings)

    def stretches(self) -> dict[tuple[int, int], int]:
        """Pairs that follow each other without a choice have one number."""
        group: dict[tuple[int, int], int] = {}
        for i in sorted(self.pairs):
            for j in self.pairs[i]:
                before = (i - 1, j - 1)
                joined = (
                    before in group
                    and self.old.falls_through(i - 1)
                    and self.new.falls_through(j - 1)
                    and len(self.old.ways[i - 1]) == 1 == len(self.old.before[i])
                    and len(self.new.before[j]) == 1
                )
                group[i, j] = group[before] if joined else len(group)
        return group

    def _drop_all_contradicted(self) -> None:
        """The last resort: both ends of whatever still contradicts."""
        while wrong := self._contradicting():
            for i, j in wrong:
                self._unpair(i, j)

    # Data

    def _judge_data(self) -> bool:
        """Take back what decides by other values in the other version; whether there was any.

        What only reads them runs as often all the same, and is no more than less sure.
        """
        wrong = self._misled()
        for i, j in wrong:
            self._unpair(i, j)
        return bool(wrong)

    def _misled(self) -> list[tuple[int, int]]:
        """Pairs that decide by other values."""
        found = ((i, j) for i, js in self.pairs.items() if self._decides(i) for j in js)
        return [(i, j) for i, j in found if self.data(i, j) is Data.OTHER]

    def _decides(self, i: int) -> bool:
        """Whether a line is a branch, or does nothing but to set the flags for one."""
        line = self.old.lines[i]
        sets = line.operation.flags_write and not line.operation.writes and not line.insn.is_call
        return line.operation.flags_read or sets

    def data(self, i: int, j: int) -> Data:
        """Whether what an instruction and its counterpart read comes from counterparts."""
        first, second = self.old.lines[i].operation, self.new.lines[j].operation
        if len(first.read_order) != len(second.read_order):
            return Data.UNSURE
        columns = [(a, b) for a, b in zip(first.read_order, second.read_order, strict=True) if a != self._stack]
        if self.old.lines[i].insn.is_call:
            columns = []
        found = {self._origin(i, j, a, b) for a, b in columns}
        if first.flags_read and (self._origin(i, j, -1, -1) is not Data.SAME or not self._same_tests(i)):
            return Data.OTHER  # it decides by something else
        return next((verdict for verdict in (Data.OTHER, Data.UNSURE) if verdict in found), Data.SAME)

    def _origin(self, i: int, j: int, a: int, b: int) -> Data:
        before, after = self._root(0, i, a), self._root(1, j, b)
        there, all_known = before & CALLER, not before & UNKNOWN
        for line in lines_of(before):
            copies = self.pairs.get(line)
            all_known = all_known and copies is not None
            for copy in copies or ():
                there |= defined_by(copy)
        if there and all_known and not after & ~there:
            return Data.SAME
        if self._decides(i) and (after & CALLER & ~before or self._come_from_others(before, after)):
            return Data.OTHER
        if not all_known or after & there:
            return Data.UNSURE
        known = not after & UNKNOWN and all(line in self.back for line in lines_of(after))
        return Data.OTHER if known or self._decides(i) else Data.UNSURE

    def _same_tests(self, i: int) -> bool:
        """Whether what sets the flags that a line reads compares with the same constants; stack slots may move."""
        for line in lines_of(self._root(0, i, -1)):
            first = self.old.lines[line].operation
            for copy in self.pairs.get(line, ()):
                if first.constants != self.new.lines[copy].operation.constants and not first.reads >> self._stack & 1:
                    return False
        return True

    def _come_from_others(self, before: int, after: int) -> bool:
        """Whether a definition in the new version stands for one in the old that is not among those there."""
        olds = (self.back.get(line) for line in lines_of(after))
        return any(i is not None and not before & defined_by(i) for i in olds)

    def _root(self, side: int, at: int, column: int) -> int:
        """The definitions of what a line finds in a register, those of the source where it was only copied."""
        key = side, at, column
        if key not in self._roots:
            flow = (self.old, self.new)[side]
            found, seen, waiting = 0, {(at, column)}, [(at, column)]
            while waiting:
                here, register = waiting.pop()
                left = flow.definitions[here][register]
                for line in lines_of(left):
                    moved = flow.lines[line].operation.moved
                    if moved is not None and moved[1] == register:
                        left &= ~defined_by(line)
                        if (line, moved[0]) not in seen:
                            seen.add((line, moved[0]))
                            waiting.append((line, moved[0]))
                found |= left
            self._roots[key] = found
        return self._roots[key]

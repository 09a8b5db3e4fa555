"""Which pairs of an instruction map too little speaks for, although nothing contradicts them.

Where a branch without a counterpart decides on the way to a pair, control flow says nothing of that, and code is full
of short stretches that look alike. So each stretch (pairs that follow each other without a choice) needs a reason:

- it begins the function, or a stretch that has a reason leads to it, in both versions without a decision on the way;
- it leads in that way to one that has a reason, and is itself come to in the same way in both versions;
- its own lines say enough: what both versions refer to just once, or much that is equal (`_ENOUGH`).

And where from one line each version may come to what the other does not, what lies between has changed in more than
a test: then no reason will do for either but a line that both versions have just once.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Final

from builder.compare.agreement import Agreement
from builder.compare.flow import Flow

_ENOUGH: Final = 4.0
_REFERENCE, _EQUAL, _CONSTANT, _REGISTERS = 2.0, 1.0, 0.6, 0.5
"""What a line says: that it refers to something, in as many places in both versions; that it is equal; that it is but
for constants; for registers too. A jump says nothing."""

_CALLER: Final = -1


def doubtful(agreement: Agreement) -> set[tuple[int, int]]:
    """The pairs of stretches that have no reason."""
    group = agreement.stretches()
    links: defaultdict[int, set[int]] = defaultdict(set)
    entered: defaultdict[int, set[int]] = defaultdict(set)
    uneven, changed = set[int](), set[int]()
    for step in agreement.steps():
        here = group.get((step.a, step.q), _CALLER)
        for b, decided in step.new.items():
            i = agreement.back[b]
            if i not in step.old:
                continue
            if step.old[i] != decided:
                uneven.add(group[i, b])
            elif not decided:
                links[here].add(group[i, b])
                entered[group[i, b]].add(here)
        there = {agreement.back[b] for b in step.new}
        gone, come = step.old.keys() - there, [b for b in step.new if agreement.back[b] not in step.old]
        if gone and come:
            changed |= {group[i, j] for i in gone for j in agreement.pairs[i]}
            changed |= {group[agreement.back[b], b] for b in come}
    members: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
    for pair, number in group.items():
        members[number].append(pair)
    unique = {number for number, rows in members.items() if any(agreement.is_unique(i) for i, _ in rows)}
    changed -= unique
    counts = _counts(agreement.old), _counts(agreement.new)
    telling = {number for number, rows in members.items() if _said(agreement, rows, *counts) >= _ENOUGH}
    waiting = [_CALLER, *unique, *(telling - changed)]
    having = set(waiting)
    while waiting:
        number = waiting.pop()
        for other in (links[number] | (entered[number] - uneven)) - having - changed:
            having.add(other)
            waiting.append(other)
    return {pair for pair, number in group.items() if number not in having}


def _said(agreement: Agreement, rows: Iterable[tuple[int, int]], olds: Counter[object], news: Counter[object]) -> float:
    total = 0.0
    for i, j in rows:
        first, second = agreement.old.lines[i], agreement.new.lines[j]
        if first.insn.is_jump or first.insn.is_nop or not first.operation.registers:
            continue
        if first.meanings:
            total += _REFERENCE if olds[first.keys[2]] == news[first.keys[2]] else 0
        else:
            total += next(
                weight
                for weight, a, b in zip((_EQUAL, _CONSTANT, _REGISTERS), first.keys, second.keys, strict=True)
                if a == b
            )
    return total


def _counts(flow: Flow) -> Counter[object]:
    return Counter(line.keys[2] for line in flow.lines)

"""Alignment of two sequences: what of them stands in the same order on both sides."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from difflib import SequenceMatcher


def align(first: Sequence[Hashable], second: Sequence[Hashable]) -> Iterator[tuple[int, int]]:
    """Pairs of equal elements in order: around those that are unique on both sides, then the longest runs."""
    waiting = [(0, len(first), 0, len(second))]
    while waiting:
        i, i_end, j, j_end = waiting.pop()
        while i < i_end and j < j_end and first[i] == second[j]:
            yield i, j
            i, j = i + 1, j + 1
        while i < i_end and j < j_end and first[i_end - 1] == second[j_end - 1]:
            i_end, j_end = i_end - 1, j_end - 1
            yield i_end, j_end
        if i == i_end or j == j_end:
            continue
        anchors = _anchors(first, second, i, i_end, j, j_end)
        if not anchors:
            blocks = SequenceMatcher(None, first[i:i_end], second[j:j_end], autojunk=False).get_matching_blocks()
            yield from ((i + a + k, j + b + k) for a, b, size in blocks for k in range(size))
            continue
        for a, b in [*anchors, (i_end, j_end)]:
            waiting.append((i, a, j, b))
            if a < i_end:
                yield a, b
            i, j = a + 1, b + 1


def _anchors(
    first: Sequence[Hashable], second: Sequence[Hashable], i: int, i_end: int, j: int, j_end: int
) -> list[tuple[int, int]]:
    """Pairs of what is unique on both sides, in order on both (patience)."""
    once, twice = Counter(first[i:i_end]), Counter(second[j:j_end])
    where = {second[k]: k for k in range(j, j_end) if twice[second[k]] == 1}
    pairs = [(k, where[first[k]]) for k in range(i, i_end) if once[first[k]] == 1 and first[k] in where]
    return rising(pairs)


def rising(pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Of pairs in the order of their first numbers, the most whose second numbers rise too."""
    tails: list[int] = []
    before: list[int] = []
    for k, (_, second) in enumerate(pairs):
        at = bisect_left(tails, second, key=lambda tail: pairs[tail][1])
        before.append(tails[at - 1] if at else -1)
        tails[at : at + 1] = [k]
    chain = []
    k = tails[-1] if tails else -1
    while k >= 0:
        chain.append(pairs[k])
        k = before[k]
    return chain[::-1]

"""The kernel's sort(): a heapsort that is not stable, so its order of equals is its own.

Where no two elements are equal every sort gives the same; only where some are
is the kernel's algorithm followed step by step. v6.10 and earlier take one
element from the heap at a time, later ones two (lib/sort.c, "double-pop").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Compare = Callable[[int, int], int]


def order(keys: Sequence[Any], pairs: bool) -> list[int]:
    """Indices of `keys` as sort() would leave them; `pairs` for the algorithm that takes two at a time."""
    count = len(keys)
    if len(set(keys)) == count:
        return sorted(range(count), key=keys.__getitem__)

    def compare(a: int, b: int) -> int:
        return int(keys[a] > keys[b]) - int(keys[a] < keys[b])

    return heapsort(count, compare, pairs)


def heapsort(count: int, compare: Compare, pairs: bool) -> list[int]:
    """sort_r() over the indices 0..count-1; `compare` is given two indices."""
    heap = list(range(count))
    return _two_at_a_time(heap, compare) if pairs else _one_at_a_time(heap, compare)


def _sift(heap: list[int], top: int, end: int, compare: Compare, favour: int) -> None:
    """Bottom-up: down to a leaf, back up to the place of heap[top], then shift.

    `favour` is what a comparison of two children must reach for the left one to be taken.
    """
    at = top
    while (right := 2 * at + 2) < end:
        at = right - 1 if compare(heap[right - 1], heap[right]) >= favour else right
    if right == end:
        at = right - 1
    while at != top and compare(heap[top], heap[at]) >= 0:
        at = (at - 1) // 2
    place = at
    while at != top:
        at = (at - 1) // 2
        heap[at], heap[place] = heap[place], heap[at]


def _one_at_a_time(heap: list[int], compare: Compare) -> list[int]:
    end, top = len(heap), len(heap) // 2
    if not top:
        return heap
    while True:
        if top:
            top -= 1
        else:
            end -= 1
            if not end:
                return heap
            heap[0], heap[end] = heap[end], heap[0]
        _sift(heap, top, end, compare, 0)


def _two_at_a_time(heap: list[int], compare: Compare) -> list[int]:
    end, top, shift = len(heap), len(heap) // 2, 0
    if not top:
        return heap
    while True:
        if top:
            top -= 1 << shift
        elif end > 3:
            end -= 1
            heap[0], heap[end] = heap[end], heap[0]
            shift = 1 if compare(heap[1], heap[2]) <= 0 else 0
            top = 1 << shift
            end -= 1
            heap[top], heap[end] = heap[end], heap[top]
        else:
            break
        _sift(heap, top, end, compare, 1)
    end -= 1
    heap[0], heap[end] = heap[end], heap[0]
    if end == 2 and compare(heap[0], heap[1]) > 0:
        heap[0], heap[1] = heap[1], heap[0]
    return heap

"""What of two sequences stands in the same order on both sides."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.compare.sequences import align, rising


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("abc", "abc", [(0, 0), (1, 1), (2, 2)]),
        ("abc", "axbc", [(0, 0), (1, 2), (2, 3)]),
        ("aab", "ab", [(0, 0), (2, 1)]),
        ("", "abc", []),
        ("xyz", "abc", []),
        ("abcdef", "abXdYf", [(0, 0), (1, 1), (3, 3), (5, 5)]),
    ],
)
def test_alignment(first: str, second: str, expected: list[tuple[int, int]]) -> None:
    found = sorted(align(first, second))
    assert [(first[i], second[j]) for i, j in found] == [(first[i], second[j]) for i, j in expected]
    assert all(a < c and b < d for (a, b), (c, d) in pairwise(found))


@given(st.permutations(range(7)))
def test_the_most_pairs_that_rise_are_kept(order: list[int]) -> None:
    pairs = list(enumerate(order))
    found = rising(pairs)
    assert set(found) <= set(pairs) and all(a < c and b < d for (a, b), (c, d) in pairwise(found))
    longer = combinations(order, len(found) + 1)
    assert not any(all(a < b for a, b in pairwise(some)) for some in longer)


def test_of_no_pairs_none_rise() -> None:
    assert rising([]) == []

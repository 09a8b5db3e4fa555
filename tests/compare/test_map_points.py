"""Where the map leads for what the new version does not have, and what it takes for too little to be sure.

Of builder/compare/points.py, builder/compare/doubt.py and the tests of conditional jumps and their opposites, on
functions of a few instructions.
"""

from __future__ import annotations

import pytest

from builder.compare import compare
from builder.compare.instruction_map import LEAST, MappedRow, instruction_map
from tests.compare.test_map_rules import written
from tests.support.compiling import Build


def led(build: Build, old: list[str], new: list[str]) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
    """Sure pairs and points: old instruction -> new ones, by number."""
    comparison = compare(build(written(old), language="assembler"), build(written(new), language="assembler"))
    atom = comparison.new.by_name["f"]
    before = [i.offset for i in comparison.old.instructions(comparison.correlation.twins[atom])]
    after = [i.offset for i in comparison.new.instructions(atom)]

    def by_number(rows: tuple[MappedRow, ...]) -> dict[int, list[int]]:
        out: dict[int, list[int]] = {}
        for row in rows:
            if row.confidence >= LEAST:
                out.setdefault(before.index(row.old_offset), []).append(after.index(row.new_offset))
        return out

    found = instruction_map(comparison, atom)
    return by_number(found.pairs), by_number(found.points)


STRAIGHT = ["call one", "movl %eax, %ebx", "call two", "ret"]


@pytest.mark.parametrize(
    ("old", "new", "point"),
    [
        (["pushq %rbp", *STRAIGHT], STRAIGHT, {0: [0]}),  # right before the next neighbour
        ([*STRAIGHT[:2], "notl %ebx", *STRAIGHT[2:]], STRAIGHT, {2: [2]}),
        (
            [*STRAIGHT[:1], "call gone", *STRAIGHT[1:]],
            STRAIGHT,
            {1: [1]},
        ),  # behind the last one, as a call need not return
        (["call gone", *STRAIGHT], STRAIGHT, {}),
        ([*STRAIGHT[:2], "rep movsb", *STRAIGHT[2:]], STRAIGHT, {}),  # a probe there is hit for each byte
        ([*STRAIGHT[:1], "notl %eax", "call gone"], [*STRAIGHT[:1], "rep stosb", *STRAIGHT[1:]], {}),
    ],
)
def test_a_point_lies_between_the_neighbours(
    build: Build, old: list[str], new: list[str], point: dict[int, list[int]]
) -> None:
    assert led(build, old, new)[1] == point


def test_no_point_lies_beyond_a_choice_or_where_control_comes_from_elsewhere(build: Build) -> None:
    old = ["testl %edi, %edi", "je 1f", "notl %eax", "1: call one", "ret"]
    pairs, points = led(build, old, ["call one", "ret"])
    assert pairs == {3: [0], 4: [1]}
    assert points == {}


def test_what_neighbours_have_copies_of_has_as_many_points(build: Build) -> None:
    old = ["testl %edi, %edi", "je 1f", "call left", "1: bswapl %eax", "notl %eax", "call last", "ret"]
    new = [
        "testl %edi, %edi", "je 1f", "call left", "notl %eax", "call last", "ret", "1: notl %eax", "call last", "ret",
    ]  # fmt: skip
    pairs, points = led(build, old, new)
    assert pairs[4] == [3, 6]
    assert points == {3: [3, 6]}


def test_a_jump_and_its_opposite_are_one_decision(build: Build) -> None:
    """They go the same ways, each the other way round; the jump itself is no counterpart, but has its point."""
    old = ["call one", "testl %eax, %eax", "je 1f", "call two", "ret", "1: call three", "ret"]
    new = ["call one", "testl %eax, %eax", "jne 1f", "call three", "ret", "1: call two", "ret"]
    pairs, points = led(build, old, new)
    assert pairs | points == {0: [0], 1: [1], 2: [2], 3: [5], 4: [6], 5: [3], 6: [4]}
    assert 2 in points


def test_a_copy_behind_an_opposite_jump_is_found(build: Build) -> None:
    old = [
        "call one", "testl %eax, %eax", "js 1f", "testl $2, %eax", "je 2f", "1: movl %ebx, %edi", "call three",
        "2: ret",
    ]  # fmt: skip
    new = [
        "call one", "testl %eax, %eax", "js 1f", "testl $2, %eax", "jne 3f", "2: ret", "1: movl %ebx, %edi",
        "call three", "jmp 2b", "3: movl %ebx, %edi", "call three", "jmp 2b",
    ]  # fmt: skip
    assert led(build, old, new)[0][6] == [7, 10]


def test_a_test_of_another_argument_is_another_test(build: Build) -> None:
    old = ["testq %rdi, %rdi", "je 1f", "call one", "1: ret"]
    new = ["testq %rsi, %rsi", "je 1f", "call one", "1: ret"]
    pairs, _ = led(build, old, new)
    assert 0 not in pairs and 1 not in pairs


def test_what_lies_behind_another_test_needs_a_reason(build: Build) -> None:
    """Both versions return in two places, and by what is not told; what both refer to just once is sure."""
    old = ["call one", "cmpl $5, %ebx", "ja 1f", "notl %eax", "ret", "1: call two", "ret"]
    new = ["call one", "btl $5, %ebx", "jb 1f", "notl %eax", "ret", "1: call two", "ret"]
    pairs, points = led(build, old, new)
    assert pairs.keys() == {0, 5, 6} and points.keys() == {1, 2}


def test_tests_in_another_order_run_in_another_number(build: Build) -> None:
    tests = [["testb $1, (%rbx)", "je 1f"], ["testb $2, 8(%rbx)", "je 1f"]]
    end = ["call two", "1: call three", "ret"]
    pairs, _ = led(build, ["call one", *tests[0], *tests[1], *end], ["call one", *tests[1], *tests[0], *end])
    assert pairs.keys() == {0, 1, 5, 6, 7}

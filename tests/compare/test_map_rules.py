"""What the map of instructions may overlook, and what it must not: operation, operands' meaning, order.

Of builder/compare/instruction_map.py, builder/compare/unit.py and builder/compare/registers.py, on functions of a few
instructions.
"""

from __future__ import annotations

import pytest

from builder.compare import compare
from builder.compare.instruction_map import instruction_map
from builder.compare.unit import unit
from tests.support.compiling import Build

OLD = ["movl %edi, %ebx", "addl $5, %ebx", "call there", "movl $3, %ecx", "imull %ecx, %eax", "ret"]


def written(lines: list[str]) -> str:
    body = "\n".join(f"        {line}" for line in lines)
    return f'.section .text.f,"ax",@progbits\n.globl f\n.type f,@function\nf:\n{body}\n.size f, . - f\n'


def mapped(build: Build, old: list[str], new: list[str]) -> dict[int, tuple[int, int, int]]:
    """Old instruction -> (new one, confidence, mask of what is the same there), all by number."""
    comparison = compare(build(written(old), language="assembler"), build(written(new), language="assembler"))
    atom = comparison.new.by_name["f"]
    twin = comparison.correlation.twins[atom]
    before = [i.offset for i in comparison.old.instructions(twin)]
    after = [i.offset for i in comparison.new.instructions(atom)]
    return {
        before.index(row.old_offset): (after.index(row.new_offset), row.confidence, row.same)
        for row in instruction_map(comparison, atom).pairs
    }


def test_the_same_function_is_mapped_whole(build: Build) -> None:
    found = mapped(build, OLD, OLD)
    assert {i: (j, c) for i, (j, c, _) in found.items()} == {i: (i, 100) for i in range(len(OLD))}


@pytest.mark.parametrize(
    ("line", "new", "confidence"),
    [
        (1, "addl $6, %ebx", 90),  # another constant
        (3, "movl $3, %edx", 75),  # another register
        (1, "subl $5, %ebx", None),  # another operation
        (2, "call where", None),  # the operation refers to something else
        (1, "addq $5, %rbx", None),  # another width
        (1, "addl $5, (%rbx)", None),  # memory, not a register
    ],
)
def test_what_may_differ_lowers_the_confidence_and_what_may_not_is_not_mapped(
    build: Build, line: int, new: str, confidence: int | None
) -> None:
    found = mapped(build, OLD, [*OLD[:line], new, *OLD[line + 1 :]])
    assert {i: j for i, (j, *_) in found.items() if i != line} == {i: i for i in range(len(OLD)) if i != line}
    assert (found[line][1] if line in found else None) == confidence


def test_what_is_new_is_mapped_to_nothing(build: Build) -> None:
    found = mapped(build, OLD, [*OLD[:3], "notl %eax", "bswapl %eax", *OLD[3:]])
    assert [j for j, *_ in found.values()] == [0, 1, 2, 5, 6, 7]


def test_a_branch_to_another_place_is_less_sure(build: Build) -> None:
    old = ["testl %edi, %edi", "je 1f", "incl %eax", "1: decl %ecx", "negl %edx", "2: ret"]
    new = [*old[:1], "je 2f", *old[2:]]
    assert mapped(build, old, old)[1][1] == 100
    assert 1 not in mapped(build, old, new) or mapped(build, old, new)[1][1] < 100


def test_a_renamed_register_does_not_hold_the_same(build: Build) -> None:
    """`same` has a bit for each register in the order of its encoding: what is in both versions the value of old."""
    old = ["movl %edi, %ebx", "movl $7, %ecx", "addl %ebx, %ecx", "movl %ecx, %eax", "ret"]
    new = ["movl %edi, %ebx", "movl $7, %edx", "addl %ebx, %edx", "movl %edx, %eax", "ret"]
    ecx, edx, ebx, edi = (1 << number for number in (1, 2, 3, 7))
    found = mapped(build, old, new)
    assert [j for j, *_ in found.values()] == [0, 1, 2, 3, 4]
    assert found[0][2] & (ecx | edx | ebx | edi) == ecx | edx | ebx | edi
    assert found[2][2] & (ebx | edi) == ebx | edi
    assert not found[3][2] & (ecx | edx)


def test_a_unit_says_where_control_goes(build: Build) -> None:
    lines = ["1: incl %eax", "je 2f", "jmp 1b", "2: jmp there"]
    comparison = compare(*(build(written(lines), language="assembler") for _ in range(2)))
    atom = comparison.new.by_name["f"]
    found = unit(comparison, comparison.new, (atom,))
    assert [line.target for line in found] == [None, 3, 0, None]
    assert [line.outside for line in found] == [False, False, False, True]


def copies(build: Build, old: list[str], new: list[str]) -> dict[int, list[int]]:
    """Old instruction -> all its counterparts, by number."""
    comparison = compare(build(written(old), language="assembler"), build(written(new), language="assembler"))
    atom = comparison.new.by_name["f"]
    before = [i.offset for i in comparison.old.instructions(comparison.correlation.twins[atom])]
    after = [i.offset for i in comparison.new.instructions(atom)]
    found: dict[int, list[int]] = {}
    for row in instruction_map(comparison, atom).pairs:
        found.setdefault(before.index(row.old_offset), []).append(after.index(row.new_offset))
    return found


JOINED = ["testl %edi, %edi", "je 1f", "call left", "1: notl %eax", "bswapl %eax", "call last", "ret"]
SPLIT = [
    "testl %edi, %edi", "je 1f", "call left", "notl %eax", "bswapl %eax", "call last", "ret",
    "1: notl %eax", "bswapl %eax", "call last", "ret",
]  # fmt: skip


def test_a_block_that_the_new_version_has_twice_has_both_as_counterparts(build: Build) -> None:
    found = copies(build, JOINED, SPLIT)
    assert found == {0: [0], 1: [1], 2: [2], 3: [3, 7], 4: [4, 8], 5: [5, 9], 6: [6, 10]}


def test_two_blocks_that_have_become_one_have_no_counterpart(build: Build) -> None:
    """What is left of them runs for both, so that a probe there would count too much."""
    assert copies(build, SPLIT, JOINED) == {0: [0], 1: [1], 2: [2]}


def test_a_branch_that_tests_something_else_is_no_counterpart(build: Build) -> None:
    old = ["call one", "testl %eax, %eax", "js 1f", "call two", "1: ret"]
    new = ["call one", "call other", "testl %eax, %eax", "js 1f", "call two", "1: ret"]
    found = copies(build, old, new)
    assert 2 not in found and found[0] == [0] and found[3] == [4]


def test_an_equal_test_before_is_not_taken_for_the_one_that_was_there(build: Build) -> None:
    old = ["call one", "testl %eax, %eax", "js 1f", "call two", "1: ret"]
    new = ["call other", "testl %eax, %eax", "js 1f", *old]
    assert copies(build, old, new) == {i: [i + 3] for i in range(5)}


def test_what_stands_once_and_runs_as_often_is_found_in_another_order(build: Build) -> None:
    old = ["movl there(%rip), %ecx", "movl $7, %edx", "movl $9, %esi", "call one", "ret"]
    new = [*old[1:3], old[0], *old[3:]]
    assert copies(build, old, new) == {0: [2], 1: [0], 2: [1], 3: [3], 4: [4]}


def test_what_stands_once_but_runs_seldom_is_not(build: Build) -> None:
    """In the new version it stands behind a branch."""
    old = ["movl there(%rip), %ecx", "movl $7, %edx", "call one", "ret"]
    new = ["movl $7, %edx", "testl %edi, %edi", "je 1f", "movl there(%rip), %ecx", "1: call one", "ret"]
    assert 0 not in copies(build, old, new)

"""What a change did to a function, in numbers of instructions: kept, moved, gone, added."""

from __future__ import annotations

import pytest

from builder.compare import compare
from builder.compare.effect import Effect, effect_of
from tests.compare.test_map_rules import written
from tests.support.compiling import Build

OLD = ["movl %edi, %ebx", "call one", "movl $3, %ecx", "call two", "imull %ecx, %eax", "ret"]
MARK = ["testb $1, there(%rip)", "jne 9f"]
AWAY = ["9: call emit", "ret"]


def effect(build: Build, old: list[str], new: list[str]) -> Effect:
    comparison = compare(build(written(old), language="assembler"), build(written(new), language="assembler"))
    return effect_of(comparison, comparison.new.by_name["f"])


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (OLD, OLD, Effect(6, 0, 0, 0)),
        (OLD, [*MARK, *OLD, *AWAY], Effect(6, 0, 0, 4)),
        (OLD, [*OLD[:2], *MARK, *OLD[2:], *AWAY], Effect(6, 0, 0, 4)),
        (OLD, [OLD[0], *OLD[2:]], Effect(5, 0, 1, 0)),
        (OLD, ["movl %edi, %ebp", *OLD[1:]], Effect(6, 0, 0, 0)),  # another register is still the same instruction
        (OLD, [OLD[0], "call other", *OLD[2:]], Effect(5, 0, 1, 1)),
        # One is run once in each version, in another order.
        (OLD, [OLD[0], OLD[2], OLD[1], *OLD[3:]], Effect(5, 1, 0, 0)),
        (["nop", *OLD, "nop"], OLD, Effect(6, 0, 0, 0)),  # NOPs do not count
        (OLD, ["nop", *OLD, "nopl (%rax)"], Effect(6, 0, 0, 0)),
    ],
    ids=["same", "mark in front", "mark within", "gone", "register", "another", "moved", "nop gone", "nop added"],
)
def test_each_instruction_is_counted_once(build: Build, old: list[str], new: list[str], expected: Effect) -> None:
    found = effect(build, old, new)
    assert found == expected
    plain = [[line for line in lines if not line.startswith("nop")] for lines in (old, new)]
    assert found.kept + found.moved + found.gone == len(plain[0])
    assert found.kept + found.moved + found.added == len(plain[1])


def test_all_of_a_new_function_is_added(build: Build) -> None:
    old = build(written(OLD), language="assembler")
    added = '.section .text.g,"ax",@progbits\n.globl g\n.type g,@function\ng: notl %edi\nret\n.size g, . - g\n'
    new = build(written(OLD) + added, language="assembler")
    comparison = compare(old, new)
    assert effect_of(comparison, comparison.new.by_name["g"]) == Effect(0, 0, 0, 2)


def test_cold_parts_count_as_their_function(build: Build) -> None:
    """What the compiler moves out of the way goes with the function that it was moved out of."""
    source = """
    extern void rare(int n) __attribute__((cold)); extern int look(int n);
    int f(int n) {{ if (__builtin_expect(n == 7, 0)) {{ rare(n); rare(n + 1); {more} }} return look(n) + 1; }}
    """
    old, new = (build(source.format(more=more), "-freorder-blocks-and-partition") for more in ("", "rare(n + 2);"))
    comparison = compare(old, new)
    atom = comparison.new.by_name["f"]
    assert [part.name for part in comparison.children[atom]] == ["f.cold"]
    found = effect_of(comparison, atom)
    assert found.added >= 1 and found.gone == 0 and found.kept >= 8

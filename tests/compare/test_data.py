"""What counts as a change of data, and what the report says of it."""

from __future__ import annotations

import pytest

from builder.compare import Comparison, compare
from builder.errors import UnknownError
from tests.compare.conftest import Pair, names
from tests.support.compiling import Build

HEAD = "extern int sink(int, ...);\n"


def changed(comparison: Comparison) -> dict[str, str]:
    return {a.name: d.reason for a, d in comparison.data.items() if d.is_changed}


TABLE = (
    HEAD
    + """
struct op {{ long code; int (*call)(int); const char *name; }};
static int one(int x) {{ return sink(x, 1); }}
static int two(int x) {{ return sink(x, 2); }}
static const struct op ops[] = {{ {{ 7, one, "one" }}, {{ {0}, {1}, "{2}" }} }};
static int limit = {3};
int f(int i) {{ return ops[i].call(ops[i].code) + limit++ + two(i); }}
"""
)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ((9, "two", "two", 4), "ops"),
        ((8, "one", "two", 4), "ops"),
        ((8, "two", "second", 4), "ops"),
        ((8, "two", "two", 5), "limit"),
    ],
)
def test_changed_values_name_the_datum(pair: Pair, change: tuple[object, ...], name: str) -> None:
    comparison = pair(TABLE.format(8, "two", "two", 4), TABLE.format(*change))
    assert list(changed(comparison)) == [name]
    assert changed(comparison)[name]
    assert not comparison.changed, "the code is the same"


def test_values_are_shown_old_and_new(pair: Pair) -> None:
    reason = changed(pair(TABLE.format(8, "two", "two", 4), TABLE.format(8, "one", "two", 4)))["ops"]
    assert "two" in reason and "one" in reason


def test_a_pointer_to_a_moved_twin_is_the_same(pair: Pair) -> None:
    old = TABLE.format(8, "two", "two", 4)
    assert changed(pair(old, HEAD + 'int g(int x) { return sink(x, "a new string"); }\n' + old)) == {}


def test_a_grown_table_is_a_change(pair: Pair) -> None:
    frame = HEAD + "static int t[] = {{ 1, 2{} }}; int f(int i) {{ return t[i]++; }}"
    assert list(changed(pair(frame.format(""), frame.format(", 3")))) == ["t"]


def test_data_that_comes_or_goes_is_named(pair: Pair) -> None:
    base = HEAD + "int a; int f(int x) { return sink(x, a++); }"
    more = base + "int b = 3;"
    assert names(pair(base, more).new_data) == ["b"]
    assert names(pair(more, base).removed_data) == ["b"]


def test_several_things_in_one_section_are_judged_apart(pair: Pair) -> None:
    frame = (
        HEAD
        + """
        #define SHARED __attribute__((section(".data..read_mostly")))
        SHARED int first = 1; SHARED int second = {0}; SHARED int third = 3;
        {1}int f(int i) {{ return first++ + second++ + sink(third++); }}
    """
    )
    assert list(changed(pair(frame.format(2, ""), frame.format(4, "")))) == ["second"]
    moved = frame.format(2, "").replace("SHARED int first", "SHARED int zero = 9; SHARED int first")
    comparison = pair(frame.format(2, ""), moved)
    assert changed(comparison) == {} and names(comparison.new_data) == ["zero"]
    assert not comparison.changed


def test_the_section_s_end_is_not_the_next_thing(pair: Pair) -> None:
    """`array + N` as a loop's bound stays with the array, also when the next datum changes places."""
    frame = (
        HEAD
        + """
        #define SHARED __attribute__((section(".data..shared")))
        {}
        int f(void) {{ int n = 0; for (int *p = list; p < list + 4; p++) n += *p; return sink(n, &tail); }}
    """
    )
    old = frame.format("SHARED int list[4] = { 1, 2, 3, 4 }; SHARED int tail = 5;")
    assert not pair(old, old + "\nint unrelated;").changed


def chain(build: Build, length: int, value: int, *, back: bool = False) -> Comparison:
    """A function that refers to unnamed data, each of which leads to the next, the last to a number or to the first."""

    def text(value: int) -> str:
        rows = [f'.section .rodata.c{k},"a"\n.Lc{k}: .quad .Lc{k + 1}\n' for k in range(length - 1)]
        last = f".Lc0, {value}" if back else f"{value}"
        rows.append(f'.section .rodata.c{length - 1},"a"\n.Lc{length - 1}: .quad {last}\n')
        code = "f: movq .Lc0, %rax\n ret\n.size f, .-f\n"
        return "".join(rows) + '.section .text.f,"ax",@progbits\n.globl f\n.type f,@function\n' + code

    # Something that does not count, or both would be one and the same object.
    sides = (text(v) + f'.section .discard.side,"a"\n.quad {side}\n' for side, v in enumerate((1, value)))
    return compare(*(build(source, language="assembler") for source in sides))


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("length", [1, 2, 7, 12])
def test_unnamed_data_counts_however_far_it_lies(build: Build, length: int, back: bool) -> None:
    """Also where it leads back to where it began."""
    assert names(chain(build, length, 2, back=back).changed) == ["f"]
    assert names(chain(build, length, 1, back=back).changed) == []


def test_data_nested_too_deep_is_named(build: Build) -> None:
    """What is not read is not the same."""
    with pytest.raises(UnknownError, match=r"section \.rodata\.c\d+: the data at 0x0 is nested deeper"):
        chain(build, 40, 1)

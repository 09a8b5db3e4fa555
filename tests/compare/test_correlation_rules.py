"""Which thing of the new version is which of the old one, and when nothing tells.

Of builder/compare/correlate.py and builder/compare/naming.py, judged by what becomes of the functions that refer to it.
"""

from __future__ import annotations

import pytest

from builder.compose.outcome import Diff
from builder.pipeline import diff_objects
from tests.support.compiling import Build

HEAD = "extern int sink(int, ...);\n"


def codes(found: Diff) -> set[str]:
    return {refusal.code for refusal in found.judged.refusals}


CLONES = """
        .section .text.{0}.{2}.{1},"ax",@progbits
        .type {0}.{2}.{1},@function
{0}.{2}.{1}: movl ${3}, %eax
        ret
        .size {0}.{2}.{1}, . - {0}.{2}.{1}
"""
CALLER = """
        .section .text.{0},"ax",@progbits
        .globl {0}
        .type {0},@function
{0}:    call {1}
        incl %eax
        ret
        .size {0}, . - {0}
"""


def clones(kind: str, first: tuple[int, int], second: tuple[int, int], one: int, two: int) -> str:
    """Two clones of `h`, each (number, constant), and two callers, each of the clone with that number."""
    return (
        CLONES.format("h", first[0], kind, first[1])
        + CLONES.format("h", second[0], kind, second[1])
        + CALLER.format("one", f"h.{kind}.{one}")
        + CALLER.format("two", f"h.{kind}.{two}")
    )


@pytest.mark.parametrize("kind", ["isra", "constprop", "part"])
def test_clones_that_changed_their_numbers_are_found_by_their_code(build: Build, kind: str) -> None:
    def changed(new: str) -> set[str]:
        found = diff_objects(build(old, language="assembler"), build(new, language="assembler"))
        return set(found.changed)

    old = clones(kind, (0, 10), (1, 20), 0, 1)
    assert changed(clones(kind, (4, 10), (7, 20), 4, 7)) == set()
    assert changed(clones(kind, (0, 20), (1, 10), 1, 0)) == set()
    assert changed(clones(kind, (0, 10), (1, 20), 1, 0)) == {"one", "two"}
    assert changed(clones(kind, (0, 20), (1, 10), 0, 1)) == {"one", "two"}
    assert changed(clones(kind, (0, 10), (1, 21), 0, 1)) == {f"h.{kind}.1"}


def test_more_clones_than_before_are_not_paired_by_guess(build: Build) -> None:
    """Which of the two is the old one cannot be told: whoever calls them changed."""
    old = CLONES.format("h", 0, "isra", 10) + CALLER.format("one", "h.isra.0")
    new = clones("isra", (0, 30), (1, 40), 0, 1)
    found = diff_objects(build(old, language="assembler"), build(new, language="assembler"))
    assert "one" in found.changed
    assert set(found.as_json()["functions"]["new"]) == {"h.isra.0", "h.isra.1", "two"}


def test_a_variable_that_is_renamed_is_another_one(build: Build) -> None:
    """Where nothing but its place is the same, the running state is not handed over."""
    old = HEAD + "static int count; int f(int x) { count += x; return sink(count); }"
    found = diff_objects(build(old), build(old.replace("count", "total")))
    assert found.changed == ("f",) and found.as_json()["data"]["new"] == ["total"]


def test_of_two_variables_with_exchanged_names_each_function_changed(build: Build) -> None:
    old = HEAD + (
        "static int one, two; int f(int x) { one += x; return sink(one); } int g(int x) { two -= x; return sink(two); }"
    )
    new = old.replace("one", "<>").replace("two", "one").replace("<>", "two")
    found = diff_objects(build(old), build(new))
    assert found.changed == ("f", "g") and found.as_json()["data"]["new"] == []


SAME_NAME = HEAD + "int f(int x)\n{{\n    int r = 0;\n{}{}{}    return r;\n}}\n"
FIRST, SECOND = "    { static int n; n += x; r += sink(n); }\n", "    { static int n; n -= 7; r += sink(n, x); }\n"


def test_statics_of_one_name_stay_apart_while_the_code_keeps_its_order(build: Build) -> None:
    old, new = SAME_NAME.format(FIRST, "", SECOND), SAME_NAME.format(FIRST, "    sink(3);\n", SECOND)
    found = diff_objects(build(old), build(new))
    assert found.changed == ("f",) and "static-ambiguous" not in codes(found)
    assert found.as_json()["data"]["new"] == []


@pytest.mark.xfail(strict=True, reason="issue: statics of one name are paired in order, also where their code moved")
def test_statics_of_one_name_whose_code_changed_places_are_ambiguous(build: Build) -> None:
    """Each would go on with the other's value."""
    old, new = SAME_NAME.format(FIRST, "", SECOND), SAME_NAME.format(SECOND, "", FIRST)
    found = diff_objects(build(old, "-pg", "-mfentry"), build(new, "-pg", "-mfentry"))
    assert found.changed == ("f",) and "static-ambiguous" in codes(found)


def test_static_locals_of_other_sizes_are_told_apart(build: Build) -> None:
    wide = "    { static long n; n -= 7; r += sink((int)n, x); }\n"
    old, new = SAME_NAME.format(FIRST, "", wide), SAME_NAME.format(wide, "", FIRST)
    found = diff_objects(build(old), build(new))
    pairs = {a.name.partition(".")[0]: (a.size, o.size) for a, o in found.comparison.correlation.twins.items()}
    assert found.changed == ("f",) and pairs["n"][0] == pairs["n"][1]


@pytest.mark.xfail(strict=True, reason="issue: where the names of a thing lead is not compared")
def test_an_alias_that_leads_elsewhere_is_a_change(build: Build) -> None:
    """Its callers in other files call something else."""
    frame = (
        "int one(int x) {{ return x + 1; }} int two(int x) {{ return x * 3; }}"
        ' int open(int) __attribute__((alias("{}")));'
    )
    found = diff_objects(build(frame.format("one")), build(frame.format("two")))
    assert found.verdict != "unchanged"


def test_an_alias_more_or_less_changes_nothing(build: Build) -> None:
    source = "int one(int x) { return x + 1; }"
    more = source + ' int open(int) __attribute__((alias("one")));'
    for old, new in ((source, more), (more, source)):
        assert diff_objects(build(old), build(new)).changed == ()


@pytest.mark.xfail(strict=True, reason="issue: a variable of the author's is taken for one that a macro made")
@pytest.mark.parametrize("name", ["descriptor", "_rs", "__key", "_entry"])
def test_a_variable_of_a_file_stays_whatever_it_is_called(build: Build, name: str) -> None:
    """What the compiler's macros make per place of use is a static local; this one lives once."""
    old = HEAD + f"static int {name}; void set(int x) {{ {name} = x; }} int f(int x) {{ return sink({name}); }}"
    found = diff_objects(build(old), build(old.replace(f"sink({name})", f"sink({name}) + 1")))
    assert found.changed == ("f",) and found.as_json()["data"]["new"] == []
    assert [name, "object", "local"] in found.originals()


def test_what_each_place_of_use_has_of_its_own_travels(build: Build) -> None:
    old = HEAD + "extern void init(void *); int f(int x) { static char __key; init(&__key); return sink(x); }"
    found = diff_objects(build(old), build(old.replace("sink(x)", "sink(x) + 1")))
    assert found.changed == ("f",)
    assert [a.name.partition(".")[0] for a in found.selection.data] == ["__key"]

"""Names lead to things (builder/compose/identity.py): what is refused because a name means something else now."""

from __future__ import annotations

import pytest

from tests.compose.conftest import Judge, codes, data, roles

HEAD = """
#define percpu __section(".data..percpu")
#define read_mostly __section(".data..read_mostly")
#define ro_after_init __section(".data..ro_after_init")
extern int sink(int, ...);
"""


@pytest.mark.parametrize(
    ("was", "becomes", "refused"),
    [
        ("percpu", "", ["storage-changed"]),
        ("", "percpu", ["storage-changed"]),
        ("read_mostly", "", ["storage-changed"]),
        ("ro_after_init", "", ["storage-changed"]),
        ("", "__attribute__((aligned(128)))", ["storage-changed"]),
        ("__attribute__((aligned(128)))", "", []),
        ("", "", []),
    ],
)
def test_a_variable_of_another_kind_is_not_the_running_one(
    judged: Judge, was: str, becomes: str, refused: list[str]
) -> None:
    frame = HEAD + "KIND int hits = 1; int f(int x) { return sink(hits) + x; }"
    found = judged(frame.replace("KIND", was), (frame.replace("KIND", becomes)).replace("+ x", "+ x + 1"))
    assert [code for code, _ in codes(found)] == refused


@pytest.mark.parametrize("kind", ["percpu", "ro_after_init"])
def test_another_kind_that_the_code_depends_on_cannot_be_accepted(judged: Judge, kind: str) -> None:
    frame = HEAD + "KIND int hits = 1; int f(int x) { return sink(hits++) + x; }"
    found = judged(
        frame.replace("KIND", kind), frame.replace("KIND", "").replace("+ x", "+ x + 1"), allow="storage-changed:hits"
    )
    assert [refusal.code for refusal in found.judged.refusals if refusal.fatal] == ["storage-changed"]


def test_a_function_that_moved_to_other_code_is_said(judged: Judge) -> None:
    old = (
        HEAD + '__section(".sched.text") noinline int slow(int x) { return sink(x); } int f(int x) { return slow(x); }'
    )
    assert codes(judged(old, ('__section(".sched.text") ', ""))) == [("storage-changed", "slow")]
    assert codes(judged(old, ("return slow(x)", "return slow(x + 1)"))) == []


ALIAS = (
    HEAD
    + """
int one(int x) { return sink(x) + 1; }
int two(int x) { return sink(x) * 3; }
int pub(int) __attribute__((alias("one")));
"""
)


def test_an_alias_of_another_function_is_refused(judged: Judge) -> None:
    assert codes(judged(ALIAS, ('alias("one")', 'alias("two")'))) == [("alias-changed", "pub")]


def test_an_alias_of_a_changed_function_ships_with_it(judged: Judge) -> None:
    found = judged(ALIAS, ("sink(x) + 1", "sink(x) + 2"))
    assert codes(found) == [] and roles(found) == {"one": "changed"}


def test_an_alias_that_came_or_went_is_none_of_the_running_code_s(judged: Judge) -> None:
    less = ALIAS.replace("int pub(int)", "int other(int)")
    found = judged(ALIAS, less.replace("+ 1", "+ 2"))
    assert codes(found) == []


SHARED = (
    HEAD
    + """
static read_mostly int after[2] = { 1, 2 };
NEW
static read_mostly int list[4] = { 1, 2, 3 };
int f(void) { int r = 0; for (int *p = list; p != list + 4; p++) r += sink(*p); return r; }
int k(int i) { return after[i]++; }
void s(int i) { list[i]++; }
"""
)


def test_the_end_of_an_array_is_not_what_lies_behind_it(judged: Judge) -> None:
    """New code that walks a list up to the place where another variable begins (gcc puts the last one first)."""
    old = SHARED.replace("NEW", "")
    more = SHARED.replace("NEW", "static read_mostly int extra[2] = { 9, 9 };")
    found = judged(old, more.replace("int r = 0;", "int r = 1; extra[0]++;"))
    assert codes(found) == [("address-ambiguous", "f")]


def test_neighbours_that_stay_neighbours_have_one_address_between_them(judged: Judge) -> None:
    """Where the original of the one ends the original of the other begins: both are the same place."""
    old = SHARED.replace("NEW", "")
    found = judged(old, ("int r = 0;", "int r = 1;"))
    assert codes(found) == [] and roles(found) == {"f": "changed"}
    # What lay elsewhere lies elsewhere in the running kernel: then it matters which is meant.
    extra = "static read_mostly int extra[2] = { 9, 9 };"
    first = SHARED.replace("NEW", "").replace("static read_mostly int after", extra + "static read_mostly int after")
    between = SHARED.replace("NEW", extra).replace("int r = 0;", "int r = 1;")
    use = "int g(void) { return extra[1]++; }"
    assert codes(judged(first + use, between + use)) == [("address-ambiguous", "f")]


def test_a_variable_behind_another_is_read_as_itself(judged: Judge) -> None:
    found = judged(SHARED.replace("NEW", ""), ("return after[i]++", "return after[0]++ + list[i]"))
    assert codes(found) == [] and roles(found) == {"k": "changed"}


INIT = (
    HEAD
    + """
__init noinline int setup(int x) { return sink(x) + 5; }
static int table[4] __section(".init.data") = { 1, 2, 3, 4 };
static const int limits[4] __section(".init.rodata") = { 1, 2, 3, 4 };
__init int start(int i) { return setup(i) + table[i]++ + limits[i]; }
int run(int x) { return sink(x); }
"""
)


def test_a_function_that_leaves_init_travels(judged: Judge) -> None:
    found = judged(
        INIT, ("__init noinline int setup", "noinline int setup"), ("return sink(x); }\n", "return setup(x); }\n")
    )
    assert codes(found) == [] and roles(found) == {"run": "changed", "setup": "new"}


def test_read_only_data_that_leave_init_travel(judged: Judge) -> None:
    found = judged(INIT, (' __section(".init.rodata")', ""), ("return sink(x); }\n", "return sink(limits[x]); }\n"))
    assert codes(found) == [] and "limits" in data(found)


def test_a_variable_that_leaves_init_has_lost_its_value(judged: Judge) -> None:
    found = judged(INIT, (' __section(".init.data")', ""), ("return sink(x); }\n", "return sink(table[x]); }\n"))
    assert ("leaves-init", "table") in codes(found)


@pytest.mark.parametrize("use", ["setup(x)", "sink(table[x])", "sink(x, limits)"])
def test_code_that_stays_must_not_begin_to_use_what_goes(judged: Judge, use: str) -> None:
    found = judged(INIT, ("return sink(x); }\n", f"return {use}; }}\n"), allow="init-reference:*")
    assert [code for code, _ in codes(found)] == ["init-reference"]


def test_code_that_used_it_before_knows_when_it_may(judged: Judge) -> None:
    old = INIT.replace("return sink(x); }\n", "return x ? setup(x) : 0; }\n")
    found = judged(old, ("x ? setup(x) : 0", "x > 1 ? setup(x) : 0"))
    assert codes(found) == [] and roles(found) == {"run": "changed"}


SET = (
    HEAD
    + """
int f(int x) { return sink(x); }
__init int start(int x) { return sink(x, 1); }
int later(int x) { return sink(x, 2); }
"""
)


@pytest.mark.parametrize(
    ("where", "fatal"),
    [("__init int start(int x) {", True), ("int later(int x) {", False)],
)
def test_a_new_variable_that_only_left_out_code_sets_is_never_set(judged: Judge, where: str, fatal: bool) -> None:
    found = judged(
        SET,
        ("int f(int x) { return sink(x);", "static int ready; int f(int x) { return sink(x + ready);"),
        (where, where + " ready = x;"),
        allow="init-changed:start",
    )
    assert [refusal.code for refusal in found.judged.refusals if refusal.fatal] == (["never-set"] if fatal else [])


def test_a_new_variable_whose_address_is_given_away_may_be_set_there(judged: Judge) -> None:
    found = judged(
        SET,
        ("int f(int x) { return sink(x);", "static int ready; int f(int x) { return sink(ready, &ready);"),
        ("__init int start(int x) {", "__init int start(int x) { ready = x;"),
        allow="init-changed:start",
    )
    assert codes(found) == []


GROWN = HEAD + "static int ring[SIZE] = { 1, 1, 1, 1 }; int f(int i) { return ring[i]++ + sink(i); }"


@pytest.mark.parametrize(("sizes", "refused"), [((4, 8), ["data-grown"]), ((8, 4), ["data-changed"]), ((4, 4), [])])
def test_a_variable_that_grew_is_fatal(judged: Judge, sizes: tuple[int, int], refused: list[str]) -> None:
    old, new = (GROWN.replace("SIZE", str(size)) for size in sizes)
    found = judged(old, new.replace("sink(i)", "sink(i + 1)"), allow="data-grown:ring")
    assert [code for code, _ in codes(found)] == refused


THREAD = (
    HEAD
    + """
extern void *kthread_create_on_node(int (*main)(void *), void *data, int node, const char *name, ...);
static noinline int step(int x) { return sink(x); }
static int worker(void *data) { for (;;) step(1); }
static int helper(void *data) { return sink(1); }
int begin(int x) { return kthread_create_on_node(worker, helper, -1, "w/%d", x) != 0; }
"""
)


def test_a_thread_s_main_function_is_never_left(judged: Judge) -> None:
    found = judged(THREAD, ("for (;;) step(1)", "for (;;) sink(step(1), 7)"))
    assert codes(found) == [("never-returns", "worker")]
    accepted = judged(THREAD, ("for (;;) step(1)", "for (;;) sink(step(1), 7)"), allow="never-returns:worker")
    assert codes(accepted) == [] and roles(accepted)["worker"] == "changed"


@pytest.mark.parametrize("change", [("return sink(x)", "return sink(x + 1)"), ("return sink(1)", "return sink(2)")])
def test_what_a_thread_calls_or_is_given_is_left(judged: Judge, change: tuple[str, str]) -> None:
    assert codes(judged(THREAD, change)) == []

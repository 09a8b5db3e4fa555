"""A start that changed beside what ships: what that cannot see is left out and told (builder/compose/apart.py)."""

from __future__ import annotations

import pytest

from tests.compose.conftest import Judge, codes, roles

SOURCE = """
struct thing { long a, b, c; };
extern void *make(int size, int flags), *kept(void);
extern int sink(int, ...);
static __attribute__((always_inline)) inline void made(int size) { struct thing *t = kept(); t->b = size; sink(size); }
static void *cache; static long count;
int take(struct thing *t) { count++; return t->a + 5; }
int other(void) { return sink(3, cache, count); }
int __init begin(void)
{
	struct thing *t = kept();
	if (!t)
		return -1;
	t->c = 77;
	made(5);
	cache = make(16, 0x2000);
	return !cache;
}
"""
LIVE = ("+ 5", "+ 6")
FLAGS = ("-g",)


def test_what_ships_cannot_see_it(judged: Judge) -> None:
    found = judged(SOURCE, LIVE, ("0x2000", "0x4002000"), ("make(16", "make(24"), flags=FLAGS)
    assert codes(found) == [] and roles(found) == {"take": "changed"}
    (told,) = (w for w in found.judged.warnings if w.code == "init-changed")
    assert told.symbol == "begin" and "left out" in told.message and not told.fatal


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ((LIVE, ("return !cache", "sink(1); return !cache")), "it now uses "),
        ((("return sink(3,", "return sink(4,"), ("0x2000", "0x4002000")), "what ships and it both use cache"),
        ((LIVE, ("= 77", "= 78")), "it may be in memory that it looks at"),
        ((LIVE, ("return -1", "return -12")), "it may be in memory that it looks at"),
        ((LIVE, ("cache = make(16", "t->b = 9; cache = make(16")), "it may be in memory that it looks at"),
        ((LIVE, ("if (!t)", "if (t)")), "it may be in memory that it looks at"),
        ((LIVE, ("made(5)", "made(6)")), "it may be in memory that it looks at"),
        ((LIVE, ("long a, b, c", "long a, b, c, d"), ("make(16", "make(24")), "structures changed"),
    ],
    ids=["call", "variable", "store", "result", "another store", "condition", "number that is kept too", "structure"],
)
def test_what_ships_may_see_it(judged: Judge, changes: tuple[tuple[str, str], ...], why: str) -> None:
    found = judged(SOURCE, *changes, flags=FLAGS)
    (refusal,) = found.judged.refusals
    assert (refusal.code, refusal.symbol) == ("init-changed", "begin") and why in refusal.message


def test_without_debug_information_nothing_is_left_out(judged: Judge) -> None:
    assert codes(judged(SOURCE, LIVE, ("0x2000", "0x4002000"))) == [("init-changed", "begin")]


def test_a_part_that_seldom_runs_counts_too(judged: Judge) -> None:
    """What the compiler puts aside (`.cold`) hands on numbers and stores as well."""
    declared = "extern void mark(int) __attribute__((cold));\nint __init begin"
    source = SOURCE.replace("int __init begin", declared)
    source = source.replace("return !cache;", "if (!cache) { mark(5); t->b = 4; sink(2); }\n\treturn 0;")
    assert codes(judged(source, LIVE, ("mark(5)", "mark(6)"), flags=FLAGS)) == []
    assert codes(judged(source, LIVE, ("t->b = 4", "t->b = 8"), flags=FLAGS)) == [("init-changed", "begin")]

"""A start that changed beside what ships: what that cannot see is left out and told (builder/compose/apart.py)."""

from __future__ import annotations

import pytest

from tests.compose.conftest import Judge, codes, roles

SOURCE = """
struct thing { long a, b, c; };
extern void *make(int size, int flags), *kept(void);
extern int sink(int, ...);
static void *cache; static long count;
int take(struct thing *t) { count++; return t->a + 5; }
int other(void) { return sink(3, cache, count); }
int __init begin(void)
{
	struct thing *t = kept();
	if (!t)
		return -1;
	t->c = 77;
	cache = make(16, 0x2000);
	return !cache;
}
"""
LIVE = ("+ 5", "+ 6")
FLAGS = ("-g",)


@pytest.mark.parametrize(
    "change",
    [("0x2000", "0x4002000"), ("= 77", "= 78"), ("return -1", "return -12")],
    ids=["a flag", "a number that is stored", "what it returns"],
)
def test_what_ships_cannot_see_it(judged: Judge, change: tuple[str, str]) -> None:
    found = judged(SOURCE, LIVE, change, flags=FLAGS)
    assert codes(found) == [] and roles(found) == {"take": "changed"}
    (told,) = (w for w in found.judged.warnings if w.code == "init-changed")
    assert told.symbol == "begin" and "left out" in told.message and not told.fatal


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ((LIVE, ("return !cache", "sink(1); return !cache")), "it now uses cache, sink"),
        ((("return sink(3,", "return sink(4,"), ("0x2000", "0x4002000")), "what ships and it both use cache"),
        ((("t->a + 5", "t->c + 5"), ("= 77", "= 78")), "it stores through pointers where what ships may look"),
        ((("t->a + 5", "t->c + 5"), ("return -1", "return -12")), "it stores through pointers where what ships may"),
        ((LIVE, ("a, b, c", "a, b, c, d"), ("make(16", "make(24")), "structures changed"),
        ((LIVE, ("t->c = 77;", "for (long *p = (long *)t; p < (long *)t + 80; p++) *p = 9;")), "begin changed"),
    ],
    ids=["another call", "its variable", "its store", "any of its stores", "a structure", "many stores"],
)
def test_what_ships_may_see_it(judged: Judge, changes: tuple[tuple[str, str], ...], why: str) -> None:
    found = judged(SOURCE, *changes, flags=FLAGS)
    (refusal,) = found.judged.refusals
    assert (refusal.code, refusal.symbol) == ("init-changed", "begin") and why in refusal.message


def test_without_debug_information_nothing_is_left_out(judged: Judge) -> None:
    assert codes(judged(SOURCE, LIVE, ("0x2000", "0x4002000"))) == [("init-changed", "begin")]


def test_a_part_that_seldom_runs_counts_too(judged: Judge) -> None:
    """What the compiler puts aside (`.cold`) stores as well."""
    source = SOURCE.replace(
        "int __init begin", "extern void mark(struct thing *) __attribute__((cold));\nint __init begin"
    )
    source = source.replace("return !cache;", "if (!cache) { mark(t); t->b = 4; sink(2); }\n\treturn 0;")
    seen = judged(source, ("t->a + 5", "t->b + 5"), ("t->b = 4", "t->b = 8"), flags=FLAGS)
    assert codes(seen) == [("init-changed", "begin")]
    unseen = judged(source, LIVE, ("t->b = 4", "t->b = 8"), flags=FLAGS)
    assert codes(unseen) == []

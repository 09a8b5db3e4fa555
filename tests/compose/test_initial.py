"""New initial values for running variables (`--set`), and tables that travel with all that read them.

Of builder/compose/initial.py and builder/compose/constants.py.
"""

from __future__ import annotations

import pytest

from builder.compose.initial import require_sets, words
from builder.compose.outcome import Diff
from builder.errors import Allowed, UsageError
from builder.pipeline import diff_objects
from tests.compose.conftest import Judge, codes, data, roles
from tests.support.compiling import Build

USER = "int get(void) { return limit++; }\n"
LIMIT = "static int limit = 4; " + USER


@pytest.fixture
def put(compiled: Build) -> Judge:
    """`put(names, old, (was, becomes), ...)`: the pair with `--set` of these names, separated by spaces."""

    def made(names: str, old: str, *changes: tuple[str, str]) -> Diff:
        new = old
        for change in changes:
            assert change[0] in new
            new = new.replace(*change)
        return diff_objects(compiled(old), compiled(new), allowed=Allowed.parse([], names.split()))

    return made


def test_a_variable_that_is_set_ships_alone(put: Judge, judged: Judge) -> None:
    found = put("limit", LIMIT, ("= 4", "= 5"))
    assert found.verdict == "changed" and codes(found) == [] and roles(found) == {}
    assert [a.name for a in found.selection.sets] == ["limit"] and data(found) == set()
    (refusal,) = judged(LIMIT, ("= 4", "= 5")).judged.refusals
    assert refusal.code == "data-changed" and "--set limit" in refusal.advice


@pytest.mark.parametrize(
    ("source", "change", "expected"),
    [
        ("long a = 4; ", ("= 4", "= 5"), [(0, 8, 4, 5)]),
        ("int a = 4; ", ("= 4", "= -1"), [(0, 4, 4, 0xFFFFFFFF)]),
        ("short a[3] = {1, 2, 3}; ", ("2", "9"), [(2, 2, 2, 9)]),
        ("char a[8] __attribute__((aligned(8))) = {1}; ", ("1", "7"), [(0, 8, 1, 7)]),
        ("int a; ", ("int a;", "int a = 3;"), [(0, 4, 0, 3)]),
        ("struct { long x, y; int z; } a = {1, 2, 3}; ", ("1, 2, 3", "1, 5, 4"), [(8, 8, 2, 5), (16, 8, 3, 4)]),
    ],
    ids=["long", "int", "short", "bytes", "from zero", "struct"],
)
def test_the_words_that_differ(put: Judge, source: str, change: tuple[str, str], expected: list[object]) -> None:
    """As wide as the alignment allows, so that the whole of what is beside is compared, and nothing behind the end."""
    found = put("a", source + "void *use(void) { return &a; }", change)
    (atom,) = found.selection.sets
    rows = [(w.offset, w.width, w.old.number, w.new.number) for w in words(found.comparison, atom)]
    assert rows == expected


FUNCTIONS = "static noinline int one(int x) { return x + 1; } static noinline int two(int x) { return x + 2; }\n"
HOOK = FUNCTIONS + "int (*hook)(int) = one; int run(int x) { return hook(x) + two(x); }\n"


def test_a_pointer_to_what_stays(put: Judge) -> None:
    found = put("hook", HOOK, ("hook)(int) = one", "hook)(int) = two"))
    (word,) = words(found.comparison, found.selection.sets[0])
    assert word.width == 8 and word.old.target is not None and word.old.target.name == "one"
    assert word.new.target is not None and word.new.target.name == "two"


@pytest.mark.parametrize(
    ("source", "change", "why"),
    [
        (HOOK, ("hook)(int) = one", "hook)(int) = fresh"), "fresh, which goes away with the module"),
        ('const char *hook = "one"; int run(void) { return *hook; }', ('"one"', '"two"'), "a text or constant"),
        ('int hook __section(".data..ro_after_init") = 4; int run(int x) { return hook += x; }', ("= 4", "= 5"),
         "read-only after init"),
        ('int hook __section(".data..percpu") = 4; int run(int x) { return hook += x; }', ("= 4", "= 5"), "per-CPU"),
    ],
    ids=["a new function", "a text", "read-only after init", "per-CPU"],
)  # fmt: skip
def test_what_cannot_be_set(put: Judge, source: str, change: tuple[str, str], why: str) -> None:
    """It stays refused, and the advice says why `--set` does not help."""
    fresh = (FUNCTIONS, FUNCTIONS + "static noinline int fresh(int x) { return x + 7; }\n")
    changes = [change, *([fresh] if "fresh" in change[1] else [])]
    found = put("hook", source, *changes)
    (refusal,) = (r for r in found.judged.refusals if r.code == "data-changed")
    assert found.selection.sets == () and why in refusal.advice


def test_a_name_that_is_none(put: Judge) -> None:
    found = put("limit other", LIMIT, ("= 4", "= 5"))
    with pytest.raises(UsageError, match="--set other"):
        require_sets([found.selection], Allowed.parse([], ["limit", "other"]))
    with pytest.raises(UsageError, match="SYMBOL"):
        Allowed.parse([], ["limit=7"])
    assert Allowed.parse([], ["limit=as built"]).sets == {"limit"}


TABLE = "static const int sizes[] = { 3, 5, 7, 9, 11, 13, 15, 17 };\n"
READS = "int one(int k) { return sizes[k & 7]; } int two(int k) { return sizes[(k >> 3) & 7] + visits; }\n"
PARSE = "int __nla_parse(void *, int, void *, int, const void *, int, void *);\n"
GIVES = PARSE + "int one(void *a, void *b) { return __nla_parse(a, 3, b, 4, sizes, 5, a) + 1; }\n"


@pytest.mark.parametrize("users", ["int visits;" + READS, GIVES], ids=["is read", "is given to who reads it"])
def test_a_table_that_is_only_read_travels_with_all_that_use_it(judged: Judge, users: str) -> None:
    found = judged(TABLE + users, ("7, 9", "7, 8"))
    assert found.verdict == "changed" and codes(found) == [] and data(found) == {"sizes"}
    assert set(roles(found).values()) == {"carrier"} and "one" in roles(found)
    assert "sizes" in found.as_json()["reasons"]["one"]


@pytest.mark.parametrize(
    "users",
    [
        "const int *kept; void one(void) { kept = sizes; }\n",
        "int keep(const int *); int one(void) { return keep(sizes) + 1; }\n",
        "const int *const tables[] = { sizes }; int one(int k) { return tables[k & 1][k]; }\n",
        GIVES.replace("4, sizes, 5, a", "4, b, 5, (void *)sizes"),
    ],
    ids=["stored", "given away", "in a table", "another argument"],
)
def test_a_table_whose_address_may_be_kept_does_not(judged: Judge, users: str) -> None:
    assert codes(judged(TABLE + users, ("7, 9", "7, 8"))) == [("rodata-changed", "sizes")]


def test_a_variable_that_nobody_writes_after_the_start_is_a_table(judged: Judge) -> None:
    table = 'static int size __section(".data..ro_after_init") = 3;\n'
    reads = "int one(int k) { return size + k; }\n"
    found = judged(table + reads, ("= 3", "= 8"))
    assert found.verdict == "changed" and data(found) == {"size"} and roles(found) == {"one": "carrier"}
    written = reads + "int __init begin(int k) { size = k; return 0; }\n"
    assert codes(judged(table + written, ("= 3", "= 8"))) == [("data-changed", "size")]

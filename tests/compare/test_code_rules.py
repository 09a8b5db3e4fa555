"""What may differ in compiled C without a change, and the nearest difference that is one.

Of builder/compare/code.py, builder/compare/meaning.py, builder/compare/naming.py and builder/compare/correlate.py:
each row is one rule that excuses a difference, in both directions.
"""

from __future__ import annotations

import pytest

from builder.errors import BespokeError
from builder.pipeline import diff_objects
from tests.compare.rules import Judgement, Rule, judge_rules, rows
from tests.support.compiling import Build

HEAD = """
extern int sink(int, ...); extern void note(const char *, ...);
struct limit { int interval, burst; }; extern int allowed(struct limit *);
struct descriptor { const char *module, *function, *file, *format; unsigned line : 18, class : 6, flags : 8; };
extern void say(struct descriptor *, int);
struct site { const char *text; int level; }; extern int at(const struct site *);
#define noinline __attribute__((noinline))
"""

RULES = (
    Rule(
        "string_moved",
        'void a~(void) { note("a"); } void f~(void) { note("the message ~"); }',
        ('note("a")', 'note("a~"); note("before the message ~")'),
        ("the message ~", "the messagf ~"),
    ),
    Rule(
        "last_byte_of_a_string",
        'void a~(void) { note("x"); } void f~(void) { note("text of ~ 1"); }',
        ('note("x")', 'note("0 text of ~ 1")'),
        ("~ 1", "~ 2"),
    ),
    Rule(
        "tail_of_a_string",
        'void a~(void) { note("x"); } void f~(void) { note("tail ~"); }',
        ('note("x")', 'note("the tail ~")'),
        ('"tail ~', '"ail ~'),
    ),
    Rule(
        "strings_exchanged",
        'void f~(int x) { note("one ~"); sink(x); note("two ~"); }',
        None,
        ('note("one ~"); sink(x); note("two ~")', 'note("two ~"); sink(x); note("one ~")'),
    ),
    Rule(
        "line_in_a_string",
        'void f~(void) { note("lib/unit.c:12 of ~"); }',
        (":12", ":171"),
        ("unit.c", "unix.c"),
        lines=True,
    ),
    Rule(
        "number_behind_a_line",
        'void f~(void) { note("lib/unit.c:12 of 30 ~"); }',
        (":12", ":13"),
        ("of 30", "of 31"),
        lines=True,
    ),
    Rule("number_in_a_string", 'void f~(void) { note("limit:12 of ~"); }', None, ("12", "13")),
    Rule(
        "static_renumbered",
        "int a~(int x) { return sink(x); } "
        "int f~(int x) { static int one, two; one += x; two -= x; return sink(one); }",
        ("{ return sink(x); }", "{ static int one; one ^= x; return sink(one); }"),
        ("one += x; two -= x", "two += x; one -= x"),
    ),
    Rule(
        "static_is_global",
        "static int v~, w~; int g~(void) { return v~++ + w~--; } int f~(int x) { return sink(x, v~); }",
        ("static int", "int"),
        ("sink(x, v~)", "sink(x, w~)"),
    ),
    Rule(
        "helper_is_global",
        "static noinline int h~(int x) { return sink(x, 1); } static noinline int k~(int x) { return sink(x, 2); }"
        "int g~(int x) { return h~(x) + 2 * k~(x); } int f~(int x) { return h~(x) + 3; }",
        ("static noinline int h~", "noinline int h~"),
        ("return h~(x) + 3", "return k~(x) + 3"),
    ),
    Rule(
        "constant_renamed",
        "#define T table~\nstatic const int T[4] = { 1, 2, 3, 4 };\nint f~(int x) { return sink(T[x]); }\n#undef T\n",
        ("T table~", "T row~"),
        ("T table~\nstatic const int T[4] = { 1, 2, 3, 4 }", "T row~\nstatic const int T[4] = { 1, 2, 3, 5 }"),
    ),
    Rule(
        "renamed_variable",
        "static int v~ = 3; int f~(int x) { v~ += x; return sink(v~); }",
        None,
        ("v~", "w~"),
    ),
    Rule(
        "table_made_by_the_compiler",
        "int a~(int x) { return sink(x); }"
        "int f~(int x) { switch (x) { case 0: return 17; case 1: return 4; case 2: return 99; case 3: return 5;"
        " case 4: return 61; default: return sink(x); } }",
        (
            "{ return sink(x); }",
            "{ switch (x) { case 0: return 1; case 1: return 41; case 2: return 9; case 3: return 55; case 4: return 6;"
            " default: return sink(x); } }",
        ),
        ("return 5;", "return 6;"),
    ),
    Rule(
        "values_of_a_made_table_exchanged",
        "int f~(int x) { switch (x) { case 0: return 17; case 1: return 4; case 2: return 99; case 3: return 5;"
        " case 4: return 61; default: return sink(x); } }",
        None,
        ("case 0: return 17; case 1: return 4;", "case 0: return 4; case 1: return 17;"),
    ),
    Rule(
        "own_rate_limit",
        'void a~(void) { note("a"); }'
        'void f~(void) { static struct limit _rs = { 5, 10 }; if (allowed(&_rs)) note("x"); }',
        ('{ note("a"); }', "{ static struct limit _rs = { 7, 7 }; allowed(&_rs); }"),
        ("{ 5, 10 }", "{ 5, 11 }"),
    ),
    Rule(
        "own_name",
        'void a~(void) { note("a"); } void f~(void) { note(__func__); sink(1); }',
        ('note("a")', "note(__func__)"),
        ("note(__func__)", "note(__func__ + 1)"),
    ),
    Rule(
        "once",
        'void a~(void) { note("a"); }'
        'void f~(void) { static char __attribute__((section(".data.once"))) __already_done, __warned;'
        ' if (!__already_done) { __already_done = 1; note("first"); } sink(__warned); }',
        (
            '{ note("a"); }',
            '{ static char __attribute__((section(".data.once"))) __already_done; if (!__already_done++) note("a"); }',
        ),
        ("if (!__already_done)", "if (!__warned)"),
    ),
    Rule(
        "flag_of_another_place",
        "void f~(int x) { static char __warned; char *of_all = &__warned;"
        ' { static char __warned; if (!__warned && !*of_all) { __warned = 1; note("~"); } } }',
        None,
        ("__warned = 1;", "*of_all = 1;"),
    ),
    Rule(
        "descriptor_of_a_message",
        'void f~(int x) { static struct descriptor __attribute__((section("__dyndbg"), aligned(8)))'
        ' __UNIQUE_ID_ddebug1 = { "unit", "f", "unit.c", "~ is %d", 12, 3, 0 };'
        " if (__UNIQUE_ID_ddebug1.flags & 1) say(&__UNIQUE_ID_ddebug1, x); }",
        ('%d", 12', '%d", 19'),
        ("is %d", "is %u"),
    ),
    Rule(
        "site_of_each_place",
        'void f~(int x) { static const struct site __UNIQUE_ID_site7 = { "~", 4 }; at(&__UNIQUE_ID_site7); }',
        ("ID_site7", "ID_site12"),
        ("4 }", "5 }"),
    ),
    Rule(
        "flags_of_a_descriptor",
        'void f~(int x) { static struct descriptor __attribute__((section("__dyndbg"), aligned(8)))'
        ' __UNIQUE_ID_ddebug1 = { "unit", "f", "unit.c", "~ is %d", 12, 3, 0 };'
        " if (__UNIQUE_ID_ddebug1.flags & 1) say(&__UNIQUE_ID_ddebug1, x); }",
        None,
        ("12, 3, 0", "12, 3, 1"),
    ),
    Rule(
        "one_past_the_end",
        "static int row~[4], next~[4]; int g~(void) { return sink(row~[0]++, next~[0]++); }"
        "int f~(void) { int n = 0; for (int *p = row~; p != row~ + 4; p++) n += sink(*p); return n; }",
        ("static int row~[4], next~[4]", "static int next~[4], row~[4]"),
        ("p != row~ + 4", "p != row~ + 3"),
    ),
    Rule(
        "place_in_a_variable",
        "static struct { int a, b[3]; } v~; int g~(int x) { return v~.a = x; } int f~(int x) { return sink(v~.b[1]); }",
        None,
        ("v~.b[1]", "v~.b[2]"),
    ),
    Rule(
        "symbol_of_elsewhere",
        "extern int e~[], d~[]; int f~(int x) { return sink(e~[2]); }",
        ("extern int e~[], d~[];", "extern int d~[]; extern int e~[9];"),
        ("e~[2]", "e~[3]"),
    ),
    Rule(
        "another_symbol_of_elsewhere",
        "extern int e~[], d~[]; int f~(int x) { return sink(e~[2]); }",
        None,
        ("e~[2]", "d~[2]"),
    ),
)


def chain(name: str, values: list[int]) -> str:
    """A function that uses a constant which points to another, and so on; `name` is what they are called."""
    last = len(values) - 1
    links = [
        f"static const struct link {name}{n} IN_ONE = {{ {f'&{name}{n + 1}' if n < last else 0}, {value} }};"
        for n, value in enumerate(values)
    ]
    head = """
        #define IN_ONE __attribute__((section(".rodata.links")))
        struct link { const struct link *next; int value; }; extern int walk(const struct link *);
    """
    return head + "\n".join(reversed(links)) + f"\nint f(void) {{ return walk(&{name}0) + 1; }}"


@pytest.fixture(scope="module")
def judgement(build_once: Build) -> Judgement:
    return judge_rules(RULES, build_once, HEAD)


@pytest.mark.parametrize("rule", rows(RULES, "excused"))
def test_it_is_excused(judgement: Judgement, rule: Rule) -> None:
    assert judgement.of(rule, judgement.excused) == ("line_only" if rule.lines else "")


@pytest.mark.parametrize("rule", rows(RULES, "real"))
def test_the_nearest_change_is_not(judgement: Judgement, rule: Rule) -> None:
    assert judgement.of(rule, judgement.real) == "changed"


def test_what_renamed_constants_point_to_counts(build: Build) -> None:
    """Constants that only one version has are equal by content, and so is what they lead to."""
    old = build(chain("old", [1, 2, 3, 4]))
    assert diff_objects(old, build(chain("new", [1, 2, 3, 4]))).changed == ()
    assert diff_objects(old, build(chain("new", [1, 2, 3, 5]))).changed == ("f",)
    assert diff_objects(old, build(chain("new", [1, 3, 2, 4]))).changed == ("f",)


def test_content_that_is_nested_deeper_is_not_taken_for_equal(build: Build) -> None:
    """Seen, or an error that says what cannot be told."""
    try:
        found = diff_objects(build(chain("old", list(range(10)))), build(chain("new", [*range(9), 99])))
    except BespokeError as error:
        assert "rodata" in str(error)
    else:
        assert found.changed == ("f",)

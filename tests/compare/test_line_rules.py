"""Where a number is a source line that may move, and where the number beside it is not.

Of builder/compare/lines.py and builder/compare/dwarf.py; the objects have no debug information unless the test says so.
"""

from __future__ import annotations

import pytest

from builder.pipeline import diff_objects
from tests.compare.rules import Judgement, Rule, judge_rules, rows
from tests.support.compiling import Build

HEAD = """
extern int sink(int, ...); extern void report(const char *, int), __warn_printk(const char *, ...);
extern void __might_sleep(const char *, int, int), __cant_migrate(const char *, int);
extern void lockdep_rcu_suspicious(const char *, int, const char *), warn_slowpath_fmt(const char *, int, int);
extern void __ext4_error(void *, const char *, unsigned, int), assfail(void *, const char *, const char *, int, int);
extern void __btrfs_abort_transaction(void *, const char *, unsigned, int, int);
"""
RULES = (
    Rule("sleep", 'void f~(void) { __might_sleep("a.c", 12, 3); sink(1); }', ("12", "13"), ("3)", "4)"), lines=True),
    Rule(
        "preemption", 'void f~(void) { __cant_migrate("a.c", 12); sink(1); }', ("12", "13"), ("a.c", "b.c"), lines=True
    ),
    Rule(
        "rcu",
        'void f~(void) { lockdep_rcu_suspicious("a.c", 12, "m"); sink(1); }',
        ("12", "9"),
        ('"m"', '"n"'),
        lines=True,
    ),
    Rule(
        "warning", 'void f~(void) { warn_slowpath_fmt("a.c", 12, 9); sink(1); }', ("12", "13"), ("9)", "8)"), lines=True
    ),
    Rule(
        "ext4",
        "void f~(void *s) { __ext4_error(s, __func__, 12, 5); sink(1); }",
        ("12", "812"),
        ("5)", "6)"),
        lines=True,
    ),
    Rule(
        "btrfs",
        "void f~(void *t) { __btrfs_abort_transaction(t, __func__, 12, -5, 1); sink(1); }",
        ("12", "13"),
        ("-5", "-6"),
        lines=True,
    ),
    Rule(
        "xfs",
        'void f~(void) { assfail(0, "x", "fs/xfs/a.c", 12, 7); sink(1); }',
        ("12", "13"),
        ("7)", "8)"),
        lines=True,
    ),
    Rule("callee_that_takes_none", 'void f~(void) { report("a.c", 12); sink(1); }', None, ("12", "13")),
    Rule(
        "line_and_callee", 'void f~(void) { __cant_migrate("a.c", 12); sink(1); }', None, ("__cant_migrate", "report")
    ),
    Rule("zero_is_no_line", 'void f~(void) { __might_sleep("a.c", 12, 3); sink(1); }', None, ("12", "0")),
    Rule("too_large_a_line", 'void f~(void) { __might_sleep("a.c", 12, 3); sink(1); }', None, ("12", "1 << 21")),
    Rule("negative_line", 'void f~(void) { __might_sleep("a.c", 12, 3); sink(1); }', None, ("12", "-12")),
    Rule(
        "line_and_another_difference",
        'void f~(int x) { __might_sleep("a.c", 12, 3); sink(x, 5); }',
        None,
        ("12, 3); sink(x, 5", "13, 3); sink(x, 6"),
    ),
    Rule(
        "argument_of_a_format",
        'void f~(int x) { if (x) __warn_printk("bad limit %d ~", 100); sink(1); }',
        None,
        ("100", "200"),
        wrong="the first argument of a warning's format counts as a line",
    ),
)


@pytest.fixture(scope="module")
def judgement(build_once: Build) -> Judgement:
    return judge_rules(RULES, build_once, HEAD)


@pytest.mark.parametrize("rule", rows(RULES, "excused"))
def test_a_line_may_move(judgement: Judgement, rule: Rule) -> None:
    assert judgement.of(rule, judgement.excused) == "line_only"


@pytest.mark.parametrize("rule", rows(RULES, "real"))
def test_the_number_beside_it_may_not(judgement: Judgement, rule: Rule) -> None:
    assert judgement.of(rule, judgement.real) == "changed"


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param(
            "if (x > LINE) sink(1);",
            marks=pytest.mark.xfail(
                strict=True, reason="issue: a compared constant that moves with its line counts as a line"
            ),
        ),
        "sink(x + LINE);",
        "if (x > LINE + 60) sink(1);",
        "if (x > LINE - 3) sink(1);",
    ],
)
def test_a_constant_is_no_line_however_near(build: Build, statement: str) -> None:
    """With debug information: the constant is the number of the line it stands on, and both move by two."""
    frame = "extern int sink(int, ...);\n{}int f(int x)\n{{\n    {}\n    return sink(x, 2);\n}}\n"
    old = frame.format("", statement.replace("LINE", "4"))
    new = frame.format("\n\n", statement.replace("LINE", "6"))
    assert diff_objects(build(old, "-g"), build(new, "-g")).changed == ("f",)

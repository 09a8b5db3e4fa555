"""What proves that a number is a source line (builder/compare/lines.py, line_takers.py), and what does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.acquire.shifts import Shift
from builder.binary import ObjectFile
from builder.compare import compare
from builder.compare.line_takers import TAKERS, conversions, takers_of
from builder.compare.verdict import Verdict
from tests.support.compiling import Build

PRELUDE = """extern int sink(int, ...);
extern void _printk(const char *, ...), __warn_printk(const char *, ...), report(int, const char *, int);
extern void __might_sleep(const char *, int, int), __ext4_msg(int, const char *, int);
extern void __ext4_grp_locked_error(const char *, int, int);
extern void __mlog_printk(void *, const char *, int, const char *, ...);
extern void __ext4_error(void *, const char *, unsigned, int), assfail(void *, const char *, const char *, int);
"""
BODY = "int f(int x)\n{\n    if (x > 77)\n        %s;\n    return sink(x);\n}\n"
MOVED = 3
"""Lines that the new version has in front."""
HERE = PRELUDE.count("\n") + 4
"""The line of the statement in the old version."""


@dataclass(frozen=True)
class Row:
    """A statement (old and new, where `LINE` is the line it stands on) and whether only its line moved."""

    old: str
    new: str
    lines: bool
    flags: tuple[str, ...] = ("-g",)

    def objects(self, build: Build) -> tuple[ObjectFile, ObjectFile]:
        sources = (PRELUDE + BODY % self.old, PRELUDE + "\n" * MOVED + BODY % self.new)
        old, new = (source.replace("LINE", "__LINE__") for source in sources)
        return build(old, *self.flags), build(new, *self.flags)


def same(statement: str, lines: bool, *flags: str) -> Row:
    return Row(statement, statement, lines, flags)


ROWS = {
    "declared, with its file": same('__might_sleep("fs/a.c", LINE, 0)', True, "-g"),
    "declared, with its file, no debug information": same('__might_sleep("fs/a.c", LINE, 0)', True),
    "declared, with its function": same("__mlog_printk(0, __func__, LINE, \"x\")", True, "-g"),
    "declared, on a line of its own": same('__might_sleep("fs/a.c",\n\n LINE, 0)', True, "-g"),
    "printed beside the function": same(r'_printk("[%s:%d] bad %d\n", __func__, LINE, x)', True, "-g"),
    "printed beside the file": same(r'_printk("failed at %s (%d)\n", "net/core/dev.c", LINE)', True, "-g"),
    "printed before the file": same(r'_printk("on line %d of file %s\n", LINE, "fs/dlm/a.c")', True, "-g"),
    "printed in words": same(r'_printk("in %s() at line %d: %s\n", __func__, LINE, "x")', True, "-g"),
    "a format that calls it a line, no debug information": same(
        r'_printk("Assertion failure in %s() at line %d\n", __func__, LINE)', True
    ),
    # What no proof is:
    "a compared constant": Row(f"if (sink(x) > {HERE}) sink(1)", f"if (sink(x) > {HERE + MOVED}) sink(1)", False),
    "given to a function that takes none": Row(f"sink({HERE})", f"sink({HERE + MOVED})", False),
    "an unknown function, beside the function": same("report(1, __func__, LINE)", False, "-g"),
    "declared without its file": Row(f"__might_sleep(0, {HERE}, 0)", f"__might_sleep(0, {HERE + MOVED}, 0)", False),
    "declared in another argument": Row(
        f'__might_sleep("fs/a.c", 1, {HERE})', f'__might_sleep("fs/a.c", 1, {HERE + MOVED})', False
    ),
    "declared, near its line": Row(
        f'__might_sleep("fs/a.c", {HERE + 5}, 0)', f'__might_sleep("fs/a.c", {HERE + 5 + MOVED}, 0)', False
    ),
    "declared, before its line": Row(
        f'__might_sleep("fs/a.c", {HERE - 1}, 0)', f'__might_sleep("fs/a.c", {HERE - 1 + MOVED}, 0)', False
    ),
    "declared, moved by other than its line": Row(
        f'__might_sleep("fs/a.c", {HERE}, 0)', f'__might_sleep("fs/a.c", {HERE + MOVED + 1}, 0)', False
    ),
    "of a function of that name elsewhere": same('assfail(0, "x", "drivers/a.c", LINE)', False, "-g"),
    "no line in __ext4_msg()": Row(f'__ext4_msg(0, "p", {HERE})', f'__ext4_msg(0, "p", {HERE + MOVED})', False),
    "no line behind the one of __ext4_grp_locked_error()": Row(
        f"__ext4_grp_locked_error(__func__, 1, {HERE})", f"__ext4_grp_locked_error(__func__, 1, {HERE + MOVED})", False
    ),
    "an argument of __warn_printk()": Row(r'__warn_printk("%d\n", 100)', r'__warn_printk("%d\n", 200)', False),
    "an argument of __warn_printk(), no debug information": Row(
        r'__warn_printk("%d\n", 100)', r'__warn_printk("%d\n", 103)', False, ()
    ),
    "printed alone": Row(rf'_printk("%d\n", {HERE})', rf'_printk("%d\n", {HERE + MOVED})', False),
    "printed beside another string": Row(
        rf'_printk("%s:%d\n", "bad", {HERE})', rf'_printk("%s:%d\n", "bad", {HERE + MOVED})', False
    ),
    "printed beside the function, another number": Row(
        rf'_printk("%s: %d\n", __func__, {HERE + 2})', rf'_printk("%s: %d\n", __func__, {HERE + 2 + MOVED})', False
    ),
    "printed beside the function, no debug information": same(r'_printk("%s: %d\n", __func__, LINE)', False),
    "printed as a pointer": Row(
        rf'_printk("%s:%p\n", __func__, {HERE})', rf'_printk("%s:%p\n", __func__, {HERE + MOVED})', False
    ),
    "on one of two ways to calls": Row(
        f'x & 1 ? __might_sleep("fs/a.c", {HERE}, 0) : report(1, "a", {HERE})',
        f'x & 1 ? __might_sleep("fs/a.c", {HERE + MOVED}, 0) : report(1, "a", {HERE + MOVED})',
        False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_a_number_is_a_line_only_where_that_is_proven(name: str, build: Build) -> None:
    row = ROWS[name]
    comparison = compare(*row.objects(build))
    found = comparison.functions[comparison.new.by_name["f"]].verdict
    assert found is (Verdict.LINES if row.lines else Verdict.CHANGED)


def patched(path: str) -> Shift:
    """What a patch says that puts the lines in front of the function."""
    at = PRELUDE.count("\n")
    return Shift(path, ((at, 1, at, 1 + MOVED),), {at: at})


SOURCE_ROWS: dict[str, tuple[Row, str, bool]] = {
    "the patch moves it": (same(r'_printk("%s:%d\n", __func__, LINE)', True), "kernel/unit.c", True),
    "a header's patch may": (same(r'_printk("%s:%d\n", __func__, LINE)', True), "include/a.h", True),
    "the patch is of another file": (same(r'_printk("%s:%d\n", __func__, LINE)', True), "kernel/other.c", False),
    "the file is another one": (same(r'_printk("%s:%d\n", "fs/x.c", LINE)', True), "fs/unit.c", False),
    "the patch moves it otherwise": (
        Row(rf'_printk("%s:%d\n", __func__, {HERE})', rf'_printk("%s:%d\n", __func__, {HERE + 1})', True, ()),
        "kernel/unit.c",
        False,
    ),
    "nothing goes with it": (
        Row(f"sink({HERE})", f"sink({HERE + MOVED})", True, ()),
        "kernel/unit.c",
        False,
    ),
}


@pytest.mark.parametrize("name", SOURCE_ROWS)
def test_the_source_patch_is_proof_where_there_is_no_debug_information(name: str, build: Build) -> None:
    row, path, lines = SOURCE_ROWS[name]
    comparison = compare(*row.objects(build), shifts=(patched(path),))
    found = comparison.functions[comparison.new.by_name["f"]].verdict
    assert found is (Verdict.LINES if lines else Verdict.CHANGED)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 4), st.integers(0, 4)), max_size=5), st.integers(1, 40))
def test_a_shift_moves_a_line_as_a_text_moves(edits: list[tuple[int, int, int]], line: int) -> None:
    """Hunks of (unchanged lines before, removed, added): the same by counting and by doing it."""
    old, new, hunks, at = list(range(1, 61)), list[int](), [], 1
    for gap, removed, added in edits:
        new += old[at - 1 : at - 1 + gap]
        at += gap
        hunks.append((at, removed, len(new) + 1, added))
        new += [0] * added
        at += removed
    new += old[at - 1 :]
    expected = new.index(line) + 1 if line in new else None
    assert Shift("a.c", tuple(hunks)).moved(line) == expected


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("%s:%d", "sd"),
        ("100%% of %5.2u at %-*pK", "u*p"),
        ("%.*s %llx %zu %hhd", "*sxud"),
        ("no conversion", ""),
    ],
)
def test_conversions_are_those_of_printk(text: str, kinds: str) -> None:
    assert "".join(conversions(text)) == kinds


def test_each_row_names_functions_and_what_goes_with_the_line_is_another_argument() -> None:
    for row in TAKERS:
        assert row.line != row.sibling and bool(row.kind) == (row.sibling >= 0), row
    names: Callable[[str], list[int]] = lambda callee: [row.line for row in takers_of(callee)]  # noqa: E731
    assert names("__warn_printk") == names("_printk") == names("__ext4_msg") == []
    assert names("__might_sleep") == [1] and names("__ext4_error") == [2] and names("assfail") == [3, 2]

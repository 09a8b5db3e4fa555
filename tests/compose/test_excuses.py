"""What does not stop a change, beside the nearest thing that does.

Of builder/compose/selection.py, builder/compose/refusals.py, builder/compose/references.py,
builder/compose/traceable.py and builder/compose/macros.py.
"""

from __future__ import annotations

import pytest

from builder.acquire.shifts import Shift
from tests.compose.conftest import Judge, codes, roles

QUIET = """
static noinline notrace int quiet(int x) { return x + 40; }
int use(int x) { return quiet(x) + 1; }
static void *const __section("PLACE") __used kept = quiet;
"""


@pytest.mark.parametrize("section", [".discard.addressable", "_kprobe_blacklist", "___ksymtab+quiet", ".kpatch.notes"])
def test_an_address_that_nothing_calls_through_is_no_matter(judged: Judge, section: str) -> None:
    found = judged(QUIET.replace("PLACE", section), ("x + 40", "x + 41"))
    assert codes(found) == [] and roles(found) == {"quiet": "changed", "use": "carrier"}


@pytest.mark.parametrize("section", [".rodata.hooks", ".data..ro_after_init", ".init_array"])
def test_an_address_that_something_may_call_through_is(judged: Judge, section: str) -> None:
    found = judged(QUIET.replace("PLACE", section), ("x + 40", "x + 41"))
    assert codes(found) == [("no-fentry", "quiet")]


@pytest.mark.parametrize(
    ("caller", "refused"),
    [
        ("int use(int x)", False),
        ("notrace int use(int x)", True),
        ("int __init use(int x)", True),
        ("int __exit use(int x)", True),
    ],
)
def test_only_a_caller_that_can_be_redirected_carries(judged: Judge, caller: str, refused: bool) -> None:
    source = f"""
    int beside(int x) {{ return x * 9; }}
    static noinline notrace int quiet(int x) {{ return x + 40; }}
    {caller} {{ return quiet(x) + 1; }}
    """
    assert bool(codes(judged(source, ("x + 40", "x + 41")))) == refused


SIZES = """
static const int sizes[] = { 3, 5, 7, 9, 11, 13, 15, 17 };
int one(int k) { return sizes[k & 7] + 1; }
"""


@pytest.mark.parametrize(
    ("user", "refused"),
    [
        ("int __init begin(int k) { return sizes[k & 3]; }", False),
        ("int late(int k) { return sizes[k & 3]; }", False),
        ("const int *late(int k) { return sizes + k; }", True),
        ("const int *row = &sizes[2];", True),
        ('const int *const __section(".discard.row") __used row = &sizes[2];', False),
    ],
)
def test_read_only_data_may_change_if_all_who_stay_are_gone_or_never_read(
    judged: Judge, user: str, refused: bool
) -> None:
    found = judged(
        SIZES + user,
        ("7, 9", "7, 8"),
        ("+ 1; }\nint" if user.startswith("int") else "+ 1", "+ 2; }\nint" if user.startswith("int") else "+ 2"),
    )
    assert codes(found) == ([("rodata-changed", "sizes")] if refused else [])
    assert roles(found)["one"] == "changed"


def test_what_speaks_to_this_tool_alone_may_change(judged: Judge) -> None:
    source = """
    int f(int x) { return x + 1; }
    int __section(".kpatch.state") note = 3;
    int (*__klp_pre_patch_callback_vmlinux)(int) = f;
    int klp_callback = 3;
    """
    assert codes(judged(source, ("note = 3", "note = 4"), ("x + 1", "x + 2"))) == []
    assert codes(judged(source, ("klp_callback = 3", "klp_callback = 4"))) == [("data-changed", "klp_callback")]


@pytest.mark.parametrize(
    ("function", "travels"),
    [
        ("int __init begin(int x) { return x * 7; }", False),
        ("int __exit finish(int x) { return x * 7; }", False),
        ('int __section(".static_call.text") __SCT__thing(int x) { return x * 7; }', False),
        ('int __section(".text.initial") begin(int x) { return x * 7; }', True),
    ],
)
def test_new_code_that_never_runs_does_not_travel(judged: Judge, function: str, travels: bool) -> None:
    source = "int f(int x) { return x + 1; }\n"
    found = judged(source, source + function)
    assert bool(roles(found)) == travels and codes(found) == []


@pytest.mark.parametrize("section", [".init.text", ".exit.text"])
def test_what_no_longer_is_code_for_start_has_no_original_that_lives(judged: Judge, section: str) -> None:
    source = f"""
    __section("{section}") noinline int setup(int x) {{ return x * 7; }}
    int run(int x) {{ return x + 1; }}
    """
    found = judged(source, (f'__section("{section}") ', ""), ("return x + 1", "return setup(x) + 1"))
    assert "run" in roles(found)
    assert "setup" in roles(found) or codes(found)


def test_a_file_s_own_variable_may_go_and_a_function_s_may_not(judged: Judge) -> None:
    source = "{} int f(int x) {{ {} n += x; return n; }}"
    other = "int f(int x) { return x + 2; }"
    assert codes(judged(source.format("static int n;", ""), other)) == []
    ((code, symbol),) = codes(judged(source.format("", "static int n;"), other))
    assert code == "static-removed" and symbol.startswith("n.")
    constant = "int f(int x) { static const int n[] = { 1, 2, 4, 8 }; return n[x & 3]; }"
    assert codes(judged(constant, other)) == []


UNNAMED = """
__asm__(".section {},\\"{}\\",@progbits\\n.balign 8\\n.Lbytes: .quad 5, 6\\n.text");
int f(int x) {{ int r; __asm__("movl .Lbytes(%%rip), %0" : "=r"(r)); return x + r; }}
"""


@pytest.mark.parametrize(("section", "flags", "refused"), [(".rodata.bytes", "a", False), (".data.bytes", "aw", True)])
def test_bytes_without_a_name_travel_if_nothing_writes_them(
    judged: Judge, section: str, flags: str, refused: bool
) -> None:
    found = judged(UNNAMED.format(section, flags), ("x + r", "x - r"))
    assert codes(found) == ([("unnamed-data", "f")] if refused else [])
    pieces = [piece.section.data[piece.start : piece.end] for piece in found.selection.pieces]
    assert pieces == ([] if refused else [b"\5" + bytes(7) + b"\6" + bytes(7)])


def test_a_datum_of_the_compiler_s_travels(judged: Judge) -> None:
    source = "extern int g(int); int f(int i) { int a[4] = { 1, 2, 3, i }; return g(a[i]); }"
    found = judged(source, ("g(a[i])", "g(a[i]) + 1"), flags=("-fsanitize=bounds",))
    assert codes(found) == [] and found.verdict == "changed"


def test_of_the_strings_only_those_that_are_used_travel(judged: Judge) -> None:
    source = (
        'void f(void) { printk("one\\n"); printk("two\\n"); } void g(void) { printk("three\\n"); printk("two\\n"); }'
    )
    found = judged(source, ('"one\\n"', '"ones\\n"'))
    assert [p.section.data[p.start : p.end] for p in found.selection.pieces] == [b"ones\n\0", b"two\n\0"]


TABLE = """
int f(int x) {{ __asm__ volatile("1: nop\\n.pushsection {},\\"a\\"\\n.long 1b - .\\n.long 5\\n.popsection");
    return x + 60; }}
int g(int x) {{ return x * 3; }}
"""


@pytest.mark.parametrize("section", [".my_fixups", "__strange_table"])
def test_a_table_of_an_unknown_section_matters_where_it_points_at_what_travels(judged: Judge, section: str) -> None:
    source = TABLE.format(section)
    assert codes(judged(source, ("x * 3", "x * 4"))) == []
    assert codes(judged(source, ("x + 60", "x + 61"))) == [("unknown-table", "f")]


@pytest.mark.parametrize("section", [".my_fixups", "__strange_table"])
def test_a_change_of_a_table_of_an_unknown_section_is_seen(judged: Judge, section: str) -> None:
    assert judged(TABLE.format(section), (".long 5", ".long 6")).verdict != "unchanged"


STRUCT = """
struct item { int id; struct item *next; LAST };
int f(struct item *p, int x) { return p->id + x; }
"""


def test_another_layout_is_told_where_something_ships(judged: Judge) -> None:
    old, new = (STRUCT.replace("LAST", text) for text in ("", "long more;"))
    assert judged(old, new, flags=("-g",)).judged.warnings == ()
    (warning,) = judged(old, new.replace("+ x", "- x"), flags=("-g",)).judged.warnings
    assert (warning.code, warning.symbol) == ("struct-layout", "struct item")


def test_what_was_not_compared_without_debug_information_is_told_once(judged: Judge) -> None:
    source = "int f(int x) { return x + 1; } int g(int x) { return x + 2; }"
    changed = source.replace("x +", "x -")
    (warning,) = judged(source, changed).judged.warnings
    assert warning.code == "not-compared" and not warning.fatal
    assert "line numbers and structure layouts" in warning.message and "--source-diff" in warning.advice
    (warning,) = judged(source, changed, shifts=(Shift("fs/x.c", ()),)).judged.warnings
    assert warning.code == "not-compared" and "line numbers" not in warning.message
    assert judged(source, source).judged.warnings == ()
    assert judged(source, changed, flags=("-g",)).judged.warnings == ()


def test_two_structures_of_one_name_that_grow_are_both_told(judged: Judge) -> None:
    source = """
    int f(char *p, int x) { struct own { int a; FIRST } *s = (void *)p; return s->a + x; }
    int g(char *p, int x) { struct own { long b; SECOND } *s = (void *)p; return s->b + x; }
    """
    old = source.replace("FIRST", "").replace("SECOND", "")
    new = source.replace("FIRST", "int more;").replace("SECOND", "int other;").replace("s->a + x", "s->a - x")
    first, second = judged(old, new, flags=("-g",)).judged.warnings
    assert {first.code, second.code} == {"struct-layout"}
    assert {w.message.split(": ")[1].split(" is")[0] for w in (first, second)} == {"more", "other"}


@pytest.mark.parametrize(("section", "told"), [(".sched.text", True), (".text.sched", False)])
def test_a_function_that_leaves_the_scheduler_s_text_is_told(judged: Judge, section: str, told: bool) -> None:
    source = f'int beside(void) {{ return 4; }} int __section("{section}") f(int x) {{ return x + 1; }}'
    found = judged(source, ("x + 1", "x + 2"))
    warned = [w.code for w in found.judged.warnings if w.code != "not-compared"]
    assert warned == (["sched-text"] if told else []) and codes(found) == []


@pytest.mark.parametrize(("name", "code"), [("__vdso_time", "vdso"), ("vdso_time", "no-ftrace-file")])
def test_what_user_space_runs_is_told_from_what_is_only_not_traced(judged: Judge, name: str, code: str) -> None:
    source = f"notrace int {name}(int x) {{ return x + 1; }}"
    assert codes(judged(source, ("x + 1", "x + 2"))) == [(code, name)]


def test_a_new_parameter_is_told(judged: Judge) -> None:
    source = "static int level = 1; int f(int x) { return x + level++; }"
    parameter = """
    struct kernel_param { const char *name; void *argument; };
    static const struct kernel_param __section("__param") __used __param_level = { "level", &level };
    """
    found = judged(source, source.replace("x + level", "x - level") + parameter)
    assert found.verdict == "refused" or [w for w in found.judged.warnings if w.code != "not-compared"]

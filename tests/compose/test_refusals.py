"""Why a change cannot ship: each rule by a change that breaks it, and by one beside it that does not."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from builder.compose.reselect import reselected
from builder.errors import NOTHING, UnknownError
from builder.report.diff import render_diff, render_tree
from tests.compose.conftest import Judge, codes, data, roles

BASE = """
int visits;
static noinline int helper(int x) { return x * 3 + visits; }
int entry(int x) { visits++; return helper(x) + 1; }
"""


def printed(what: RenderableType) -> str:
    console = Console(width=200)
    with console.capture() as shown:
        console.print(what)
    return shown.get()


def the_refusal(found: object, code: str, symbol: str) -> str:
    """The message of the one refusal that there is; every refusal says what can be done."""
    assert codes(found) == [(code, symbol)]  # type: ignore[arg-type]
    (refusal,) = found.judged.refusals  # type: ignore[attr-defined]
    assert refusal.message and refusal.advice and found.verdict == "refused"  # type: ignore[attr-defined]
    return str(refusal.message)


@pytest.mark.parametrize(
    ("where", "code"), [("__init", "init-changed"), ("__exit", "exit-changed")], ids=["init", "exit"]
)
def test_code_that_does_not_run_again(judged: Judge, where: str, code: str) -> None:
    source = BASE + f"int {where} begin(void) {{ return helper(1) + 8; }}"
    found = judged(source, ("+ 8", "+ 9"))
    assert found.verdict == "unchanged" and codes(found) == []
    (warning,) = (w for w in found.judged.warnings if w.code == code)
    assert warning.symbol == "begin" and "nothing of it ships" in warning.message and not warning.fatal
    for shown in (
        render_diff(found.as_json()),
        render_tree({"pairs": [found.as_json() | {"path": "a.o"}], "unpaired": []}),
    ):
        told = printed(shown)
        assert "left out begin" in " ".join(told.split()) and "changed begin" not in told and f"{code}: begin" in told
    both = (("+ 8", "+ 9"), ("x * 3", "x * 4"))
    why = "it may look at what the start has made" if code == "init-changed" else "nothing that ships uses that"
    assert why in the_refusal(judged(source, *both), code, "begin")
    found = judged(source, *both, allow=f"{code}:begin")
    assert found.verdict == "changed" and roles(found) == {"helper": "changed"}
    assert [r.symbol for r in found.judged.accepted] == ["begin"]
    assert codes(judged(source, *both, allow=f"{code}:another")) == [(code, "begin")]


def test_what_shipped_code_misses_of_the_start(judged: Judge) -> None:
    """By what the new version of the start uses, and who of what ships uses that too."""
    source = BASE + "int ready; int take(int x) { return x + 5; } int __init begin(void) { return helper(1); }"
    changes = (("x + 5", "x + 5 + ready"), ("{ return helper(1)", '{ ready = printk("x"); return helper(1)'))
    message = the_refusal(judged(source, *changes), "init-changed", "begin")
    assert "it now uses" in message and "take (ready)" in message and "printk" in message


CHAINED = """
struct link { int value; struct link *next; };
struct link *first = &(struct link){ 1, &(struct link){ 2, 0 } }, *second = &(struct link){ 3, &(struct link){ 4, 0 } };
"""


def test_an_object_and_itself(judged: Judge) -> None:
    """As of a caller that only travels: what nothing tells apart, such as compound literals, is no change."""
    found = judged(BASE + CHAINED, BASE + CHAINED)
    assert (found.verdict, codes(found), found.as_json()["data"]) == ("unchanged", [], {"new": [], "changed": []})


def test_code_for_memory_that_is_plugged_in(judged: Judge) -> None:
    """It travels, and what refers to its new version does not refer to what may be gone."""
    plugged = '__section(".meminit.text") int plug(int x) { return helper(x) + 8; }'
    found = judged(BASE + plugged, ("+ 8", "+ 9"))
    assert codes(found) == [] and roles(found) == {"plug": "changed"}


def test_new_code_that_a_module_throws_away_once_it_is_up(judged: Judge) -> None:
    """It would travel, but is gone when shipped code calls it."""
    late = "static noinline int __init late(int x) { return x * helper(x); }"
    entry = BASE.splitlines()[-1]
    found = judged(BASE, (entry, f"{late} {entry.replace('helper(x)', 'late(x)')}"))
    assert set(codes(found)) == {("init-reference", "late")}


LEAVING = """
int tidy;
static noinline void __exit sweep(void) { tidy = 8; printk("swept"); }
static void __exit end(void) { sweep(); printk("gone"); }
void cleanup_module(void) __attribute__((alias("end")));
"""


def test_the_exit_code_of_a_module_beside_what_ships(judged: Judge) -> None:
    """It travels from the module's own exit function down to what changed; that is told and not refused."""
    both = (("= 8", "= 9"), ("x * 3", "x * 4"))
    found = judged(BASE + LEAVING, *both)
    assert (found.verdict, codes(found)) == ("changed", [])
    assert roles(found) == {"helper": "changed", "sweep": "changed", "end": "carrier"}
    assert [atom.name for atom in found.selection.exits] == ["end", "sweep"]
    assert [atom.name for atom in found.selection.redirected] == ["helper"] and not found.selection.unredirected
    (warning,) = (w for w in found.judged.warnings if w.code == "exit-changed")
    assert "the module's exit leads to the new end" in warning.message
    alone = judged(BASE + LEAVING, both[0])
    assert alone.verdict == "unchanged" and roles(alone) == {}
    beside = reselected(alone, NOTHING, alone=False)  # as where another file of the patch ships something
    assert codes(beside) == [] and roles(beside) == {"sweep": "changed", "end": "carrier"}


@pytest.mark.parametrize(
    "other",
    [
        "void (*const table[])(void) = {sweep};",  # as a driver's remove()
        "void elsewhere(void) { sweep(); }",
    ],
    ids=["table", "live code"],
)
def test_exit_code_that_something_else_leads_to(judged: Judge, other: str) -> None:
    found = judged(BASE + LEAVING + other, ("= 8", "= 9"), ("x * 3", "x * 4"))
    assert codes(found) == [("exit-changed", "sweep")] and roles(found) == {"helper": "changed"}


def test_exit_code_of_what_is_never_unloaded(judged: Judge) -> None:
    built_in = LEAVING.replace('void cleanup_module(void) __attribute__((alias("end")))', "")
    built_in += 'void (*called)(void) __used __section(".exitcall.exit") = end;'
    found = judged(BASE + built_in, ("= 8", "= 9"), ("x * 3", "x * 4"))
    assert (codes(found), roles(found)) == ([], {"helper": "changed"})
    (warning,) = (w for w in found.judged.warnings if w.code == "exit-changed")
    assert "never runs" in warning.message
    beside = reselected(judged(BASE + built_in, ("= 8", "= 9")), NOTHING, alone=False)
    assert codes(beside) == [] and "never runs" in str(beside.judged.warnings)


TOGETHER = """
#define together __attribute__((__section__(".sched.text")))
static noinline together int inner(int x) { printk("inner"); return x * 3; }
together int outer(int x) { return inner(x + 8) + 1; }
"""


def test_branches_that_the_assembler_has_resolved(judged: Judge) -> None:
    """A call has a field that can be led to the original, and a short jump gets a long one that it reaches; not so one
    that is too far from the function's end."""
    found = judged(TOGETHER, ("+ 8", "+ 9"))
    assert codes(found) == [] and roles(found) == {"outer": "changed"}
    (outer,) = found.selection.functions
    assert "inner" in [target.name for _, target in found.selection.view.leads_of(outer)]
    short = TOGETHER.replace("return inner(x + 8) + 1", "TAIL return inner(x + 8)")
    found = judged(short.replace("TAIL", ""), ("+ 8", "+ 9"))
    assert codes(found) == [] and roles(found) == {"outer": "changed"}
    assembly = (
        ".globl outer; .type outer, @function; outer: call __fentry__; movl $8, %eax; jmp inner; .skip FAR, 0x90; ret"
    )
    written = TOGETHER.partition("together int outer")[0].replace("static noinline", "static noinline __used")
    written += f'asm(".pushsection .sched.text, \\"ax\\"; {assembly}; .size outer, . - outer; .popsection");'
    for distance, refused in (("100", []), ("130", [("unaccounted", "outer")])):
        found = judged(written.replace("FAR", distance), ("$8", "$9"), flags=("-fno-toplevel-reorder",))
        assert codes(found) == refused


def test_a_new_initcall(judged: Judge) -> None:
    """Nothing would call it any more; one that was there is nothing new."""
    call = "int __init begin(void) { return helper(1); }"
    call += ' int (*called)(void) __used __section(".initcall6.init") = begin;'
    change = ("x * 3", "x * 4")
    assert "nothing would call it" in the_refusal(judged(BASE, BASE.replace(*change) + call), "init-changed", "begin")
    assert codes(judged(BASE + call, change)) == []


def test_what_only_the_start_calls_ships_nothing_either(judged: Judge) -> None:
    source = BASE + "int __init begin(void) { return helper(1) + 8; }"
    fresh = "static noinline int fresh(int x) { return x * 11; }\n"
    used = ("+ 8", "+ fresh(8)")
    found = judged(source, (BASE, fresh + BASE), used)
    assert found.verdict == "unchanged" and roles(found) == {}
    found = judged(source, (BASE, fresh + BASE), used, ("helper(x) + 1", "helper(x) + fresh(x)"))
    assert found.verdict == "refused" and roles(found) == {"entry": "changed", "fresh": "new"}
    found = judged(source, (BASE, fresh.removeprefix("static ") + BASE), used)
    assert found.verdict == "refused", "another file may call it"


def test_a_changed_init_of_a_variable(judged: Judge) -> None:
    source = BASE + "static int limit = 4; int get(void) { return limit++; }"
    message = the_refusal(judged(source, ("limit = 4", "limit = 5")), "data-changed", "limit")
    assert "4" in message and "5" in message
    found = judged(source, ("limit = 4", "limit = 5"), ("x * 3", "x * 4"), allow="data-changed:limit")
    assert found.verdict == "changed" and data(found) == set()


def test_read_only_data(judged: Judge) -> None:
    source = (
        BASE
        + """
    static const int sizes[] = { 3, 5, 7, 9, 11, 13, 15, 17 };
    int one(int k) { return sizes[k & 7]; }
    const int *two(int k) { return sizes + k; }
    """
    )
    message = the_refusal(judged(source, ("7, 9", "7, 8")), "rodata-changed", "sizes")
    assert "one" in message and "two" in message and "offset 12" in message
    found = judged(source, ("7, 9", "7, 8"), allow="rodata-changed:sizes")
    assert found.verdict == "changed"
    assert roles(found) == {"one": "carrier", "two": "carrier"} and data(found) == {"sizes"}


def test_all_read_only_data_is_accepted_as_each_is(judged: Judge) -> None:
    """`*` ships the new tables too, and carries nothing for a variable: that code has nothing to say of one."""
    source = (
        BASE
        + """
    static const int sizes[] = { 3, 5, 7, 9, 11, 13, 15, 17 };
    static const int steps[] = { 2, 4, 8, 16, 32, 64, 128, 256 };
    static int limit = 4;
    int one(int k) { return sizes[k & 7]; }
    int two(int k) { return steps[k & 7]; }
    int get(int k) { limit += k; return limit * 3; }
    """
    )
    changes = (("7, 9", "7, 8"), ("8, 16", "8, 17"))
    each = judged(source, *changes, allow="rodata-changed:sizes rodata-changed:steps")
    found = judged(source, *changes, allow="rodata-changed:*")
    assert found.verdict == "changed" and codes(found) == []
    assert roles(found) == {"one": "carrier", "two": "carrier"} == roles(each)
    assert data(found) == {"sizes", "steps"} == data(each)
    found = judged(source, *changes, ("limit = 4", "limit = 5"), allow="rodata-changed:* data-changed:limit")
    assert found.verdict == "changed" and set(roles(found)) == {"one", "two"}
    assert [row.symbol for row in found.judged.accepted] == ["limit"]


def test_read_only_data_used_by_what_travels_only(judged: Judge) -> None:
    source = (
        BASE
        + """
    static const int sizes[] = { 3, 5, 7, 9, 11, 13, 15, 17 };
    int one(int k) { return sizes[k & 7] + 1; }
    """
    )
    found = judged(source, ("7, 9", "7, 8"), ("+ 1; }\n    ", "+ 2; }\n    "))
    assert codes(found) == [] and roles(found)["one"] == "changed" and data(found) == {"sizes"}


def test_a_removed_static_local(judged: Judge) -> None:
    source = BASE + "int count(int x) { static int calls; calls += x; return calls; }"
    found = judged(source, ("static int calls; calls += x; return calls;", "return x + 2;"))
    ((code, symbol),) = codes(found)
    assert code == "static-removed" and symbol.startswith("calls.")
    assert (
        judged(
            source, ("static int calls; calls += x; return calls;", "return x + 2;"), allow="static-removed:*"
        ).verdict
        == "changed"
    )


def test_a_static_that_has_another_name(judged: Judge) -> None:
    """Where its value went is said: of a static local in the refusal, of a file's variable in a warning."""
    source = BASE + "int count(int x) { static int calls; calls += x; return calls; }"
    message = the_refusal(judged(source, ("calls", "seen")), "static-removed", "calls.0")
    assert "seen.0 may be its new name" in message and "is lost" in message
    source = BASE + "static int calls; int count(int x) { calls += x; return calls; }"
    found = judged(source, ("calls", "seen"))
    (warning,) = (w for w in found.judged.warnings if w.code == "static-renamed")
    assert warning.symbol == "seen" and "calls" in warning.message and data(found) == {"seen"}
    other = judged(source, ("calls; int", "seen[4]; int"), ("calls += x; return calls", "seen[x] += x; return seen[1]"))
    assert "static-renamed" not in [w.code for w in other.judged.warnings]


def test_a_static_local_that_inlining_took_away(judged: Judge) -> None:
    """The callee that held it is named."""
    source = (
        BASE
        + """
    static INLINE int count(int x) { static int calls; calls += x; return calls; }
    int first(int x) { return count(x) + 1; }
    """
    )
    old = source.replace("INLINE", "noinline")
    new = source.replace("INLINE", "inline __attribute__((always_inline))")
    found = judged(old, new)
    assert found.changed == ("first",)
    assert codes(found) == [] and [row[0].split(".")[0] for row in found.originals()] == ["calls"]


def test_noinstr(judged: Judge) -> None:
    source = BASE + "noinstr int quiet(int x) { return x + 40; }\nint use(int x) { return quiet(x); }"
    assert "quiet" in the_refusal(judged(source, ("x + 40", "x + 41")), "noinstr", "quiet")


def test_notrace_and_global(judged: Judge) -> None:
    source = BASE + "notrace noinline int quiet(int x) { return x + 40; }\nint use(int x) { return quiet(x); }"
    the_refusal(judged(source, ("x + 40", "x + 41")), "no-fentry", "quiet")


def test_notrace_and_its_address_taken(judged: Judge) -> None:
    source = (
        BASE
        + """
    static notrace int quiet(int x) { return x + 40; }
    int (*hook)(int) = quiet;
    """
    )
    assert "address" in the_refusal(judged(source, ("x + 40", "x + 41")), "no-fentry", "quiet")


def test_a_file_without_ftrace(judged: Judge) -> None:
    found = judged(BASE, ("x * 3", "x * 4"), flags=("-fno-profile", "-fno-instrument-functions", "-mno-fentry"))
    assert {code for code, _ in codes(found)} <= {"no-ftrace-file"} and found.verdict == "refused"


def test_labels_that_escape(judged: Judge) -> None:
    source = """
    const void *const *kept;
    int run(const char *program, int x) {
        static const void *labels[] = { &&stop, &&add };
        kept = labels;
        goto *labels[*program];
    add: x += STEP; goto *labels[*++program];
    stop: return x;
    }
    """
    found = judged(source.replace("STEP", "1"), source.replace("STEP", "2"))
    ((code, symbol),) = codes(found)
    assert code == "label-escape" and symbol.startswith("labels")
    assert judged(source.replace("STEP", "1"), source.replace("STEP", "2"), allow=f"label-escape:{symbol}").verdict == (
        "refused"
    )


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("EXPORT_SYMBOL(entry);", "", "not at all"),
        ("EXPORT_SYMBOL(entry);", "EXPORT_SYMBOL_GPL(entry);", "now to GPL"),
        ("EXPORT_SYMBOL_GPL(entry);", "EXPORT_SYMBOL(entry);", "now to all"),
    ],
)
def test_exports(judged: Judge, old: str, new: str, says: str) -> None:
    assert says in the_refusal(judged(BASE + old, BASE + new), "export-changed", "entry")
    # Beside what ships it stays as it is, where what is exported is what it was.
    found = judged(BASE + old, BASE.replace("x * 3", "x * 4") + new)
    assert found.verdict == "changed" and roles(found) == {"helper": "changed"}
    assert "export-changed" in [w.code for w in found.judged.warnings]
    assert says in the_refusal(judged(BASE + old, BASE.replace("+ 1", "+ 2") + new), "export-changed", "entry")
    assert judged(BASE + old, BASE.replace("+ 1", "+ 2") + new, allow="export-changed:entry").verdict == "changed"


def test_a_new_export_is_left_out(judged: Judge) -> None:
    found = judged(BASE, BASE.replace("x * 3", "x * 4") + "EXPORT_SYMBOL_GPL(entry);")
    assert found.verdict == "changed" and [w.code for w in found.judged.warnings] == ["not-compared", "export-added"]
    assert roles(found) == {"helper": "changed"}


def test_comdat(judged: Judge) -> None:
    source = (
        BASE
        + """
    __asm__(".section .text.shared,\\"axG\\",@progbits,shared,comdat\\n.weak shared\\n.type shared,@function\\n"
            "shared: call __fentry__\\nmovl $VALUE, %eax\\nret\\n.size shared, . - shared\\n.text");
    int shared(void);
    int use(void) { return shared(); }
    """
    )
    found = judged(source.replace("VALUE", "1"), source.replace("VALUE", "2"))
    assert ("comdat", "shared") in codes(found)


def test_an_unknown_table(judged: Judge) -> None:
    """A section without symbols that points into what travels stops the build, and is named."""
    source = (
        BASE
        + """
    int odd(int x) { __asm__ volatile("1: nop\\n.pushsection __strange_table,\\"a\\"\\n.long 1b - .\\n.popsection");
        return x + 60; }
    """
    )
    try:
        found = judged(source, ("x + 60", "x + 61"))
    except UnknownError as problem:
        assert "__strange_table" in str(problem)
    else:
        assert codes(found) == [("unknown-table", "odd")]
        assert "__strange_table" in found.judged.refusals[0].message
    assert judged(source, ("x * 3", "x * 4")).verdict == "changed", "it is no matter where it does not point"


def test_all_refusals_come_together(judged: Judge) -> None:
    source = (
        BASE
        + """
    static int limit = 4; int get(void) { return limit++; }
    int __init begin(void) { return 8; }
    noinstr int quiet(int x) { return x + 40; }
    """
    )
    found = judged(source, ("limit = 4", "limit = 5"), ("return 8", "return 9"), ("+ 40", "+ 41"))
    assert codes(found) == [("data-changed", "limit"), ("init-changed", "begin"), ("noinstr", "quiet")]
    assert len(found.as_json()["refusals"]) == 3


def test_what_would_crash_cannot_be_accepted(judged: Judge) -> None:
    source = BASE + "noinstr int quiet(int x) { return x + 40; }"
    for allow in ("noinstr:quiet", "noinstr:*"):
        assert judged(source, ("x + 40", "x + 41"), allow=allow).verdict == "refused"


def test_every_code_is_provoked_somewhere() -> None:
    """A rule without a test goes unnoticed when it stops finding anything; a warning too has a code."""
    tests = Path(__file__).parent.parent
    given = {code for path in (tests.parent / "builder").rglob("*.py") for code in _codes(path.read_text())}
    told = "\n".join(path.read_text() for path in tests.rglob("*.py") if path.name != "test_layers.py")
    assert len(given) > 30
    assert {code for code in given if not re.search(rf"(?<![\w-]){code}(?![\w-])", told)} == set()


def _codes(text: str) -> Iterator[str]:
    """The codes that are written down where a Refusal is made."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Refusal":
            first = node.args[:1] + [word.value for word in node.keywords if word.arg == "code"]
            for part in (part for row in first for part in ast.walk(row)):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.value

"""What travels with a change, and nothing more."""

from __future__ import annotations

import pytest

from builder.compare import Atom
from tests.compose.conftest import Judge, codes, data, roles

TWO = """
static int total = 7;
static noinline int helper(int x) { total += x; return x * 3; }
int entry(int x) { return helper(x) + 1; }
int other(int x) { return helper(x) + 2; }
"""


def test_only_the_changed_function(judged: Judge) -> None:
    found = judged(TWO, ("x * 3", "x * 5"))
    assert found.verdict == "changed" and found.changed == ("helper",)
    assert roles(found) == {"helper": "changed"} and data(found) == set()
    assert found.originals() == [["total", "object", "local"]]


def test_nothing(judged: Judge) -> None:
    found = judged(TWO)
    assert found.verdict == "unchanged" and roles(found) == {} and found.selection.is_empty


def test_a_new_function_and_what_it_uses(judged: Judge) -> None:
    found = judged(
        TWO,
        (
            "int entry(int x) {",
            "static int fresh; static noinline int more(int x) { return fresh += x; }\nint entry(int x) { x = more(x);",
        ),
    )
    assert roles(found) == {"more": "new", "entry": "changed"}
    assert data(found) == {"fresh"}
    assert found.as_json()["data"]["new"] == ["fresh"]
    assert found.originals() == [["helper", "function", "local"]]


def test_new_data_that_refers_to_more(judged: Judge) -> None:
    """The closure goes through data: a table of new strings and functions."""
    found = judged(
        TWO,
        (
            "int entry(int x) {",
            "static noinline int one(int x) { return x - 9; }\n"
            "static int (*volatile table[])(int) = { one, helper };\nint entry(int x) { x = table[x & 1](x);",
        ),
    )
    assert roles(found) == {"one": "new", "entry": "changed"} and data(found) == {"table"}


def test_a_static_local_is_the_old_one(judged: Judge) -> None:
    source = "int count(int x) { static int calls; static int limit = 5; calls++; return calls * x + limit++; }"
    found = judged(source, ("calls * x", "calls + x"))
    assert roles(found) == {"count": "changed"} and data(found) == set()
    assert [row[0].split(".")[0] for row in found.originals()] == ["calls", "limit"]


def test_an_inline_callee_changes_its_callers(judged: Judge) -> None:
    source = """
    static inline __attribute__((always_inline)) int inner(int x) { return x ^ 5; }
    int first(int x) { return inner(x) + 1; }
    int second(int x) { return inner(x) * 7; }
    int third(int x) { return x; }
    """
    found = judged(source, ("x ^ 5", "x ^ 6"))
    assert roles(found) == {"first": "changed", "second": "changed"}


def test_a_function_without_fentry_is_carried_by_its_callers(judged: Judge) -> None:
    source = """
    static noinline notrace int inner(int x) { return x ^ 5; }
    static noinline int middle(int x) { return inner(x) + 1; }
    int entry(int x) { return middle(x) + inner(x * 2); }
    int alone(int x) { return x + 2; }
    """
    found = judged(source, ("x ^ 5", "x ^ 6"))
    assert found.verdict == "changed", codes(found)
    assert roles(found) == {"inner": "changed", "middle": "carrier", "entry": "carrier"}
    assert found.as_json()["carriers"] == {"inner": ["entry", "middle"]}
    assert {a.name for a in found.selection.redirected} == {"middle", "entry"}
    # the carrier's call of the carried function stays in the module, that of another carrier goes by the original
    inside = {
        (p.name, t.atom.name)
        for p, t in found.selection.all_references
        if isinstance(p, Atom) and t.atom is not None and found.selection.is_local(p, t)
    }
    assert {("middle", "inner"), ("entry", "inner")} <= inside and ("entry", "middle") not in inside


def test_carriers_are_found_through_others_that_cannot_be_redirected(judged: Judge) -> None:
    source = """
    static noinline notrace int inner(int x) { return x ^ 5; }
    static noinline notrace int middle(int x) { return inner(x) + 1; }
    int entry(int x) { return middle(x); }
    """
    found = judged(source, ("x ^ 5", "x ^ 6"))
    assert set(roles(found)) == {"inner", "middle", "entry"}
    assert {a.name for a in found.selection.redirected} == {"entry"}


def test_a_cold_part_goes_with_its_parent(judged: Judge) -> None:
    source = """
    __attribute__((cold, noreturn)) void stop(int);
    int entry(int x) { if (__builtin_expect(x == 9, 0)) { printk("nine %d", x); stop(CODE); } return x * 3; }
    """
    found = judged(source.replace("CODE", "3"), source.replace("CODE", "4"), flags=("-O2",))
    assert found.changed == ("entry",)
    if "entry.cold" in roles(found):
        assert roles(found) == {"entry": "changed", "entry.cold": "child"}
        assert found.as_json()["children"] == {"entry": ["entry.cold"]}


def test_label_tables_travel(judged: Judge) -> None:
    source = """
    int run(const char *program, int x) {
        static const void *const labels[] = { &&stop, &&add, &&twice };
        goto *labels[*program];
    add: x += STEP; goto *labels[*++program];
    twice: x *= 2; goto *labels[*++program];
    stop: return x;
    }
    """
    found = judged(source.replace("STEP", "1"), source.replace("STEP", "2"))
    assert found.verdict == "changed", codes(found)
    assert {name.split(".")[0] for name in data(found)} == {"labels"}


def test_a_jump_table_travels(judged: Judge) -> None:
    cases = "".join(f'case {k}: printk("{k}"); return {value};' for k, value in enumerate((3, 9, 27, 4, 11, 8)))
    source = f"int weigh(int k) {{ switch (k) {{ {cases} }} return 0; }}"
    found = judged(source, ("return 27", "return 28"))
    assert roles(found)["weigh"] == "changed" and found.verdict == "changed"
    tables = [piece for piece in found.selection.pieces if not piece.section.is_string]
    assert tables or data(found), "the switch has its table with it"


@pytest.mark.parametrize("kind", ["pre_patch", "post_patch", "pre_unpatch", "post_unpatch", "module_exit"])
def test_callbacks_in_both_spellings(judged: Judge, kind: str) -> None:
    kpatch = f"""
    static int note(void *object) {{ return printk("{kind}"); }}
    static const void *__used __section(".kpatch.callbacks.{kind}") note_pointer = note;
    """
    kernel = f"""
    static int note(void *object) {{ return printk("{kind}"); }}
    __used int (*__klp_{kind}_callback_vmlinux)(void *) = note;
    """
    for spelling in (kpatch, kernel):
        found = judged(TWO, TWO + spelling)
        assert found.verdict == "changed", codes(found)
        assert {k: a.name for k, a in found.selection.macros.callbacks.items()} == {kind: "note"}
        assert roles(found) == {"note": "new"}
        assert data(found) == set(), "what speaks to the tool does not travel"


def test_ignored_functions_and_sections(judged: Judge) -> None:
    ignore = 'static const void *__used __section(".kpatch.ignore.functions") i = helper;'
    found = judged(TWO, TWO.replace("x * 3", "x * 5") + ignore)
    assert found.verdict == "unchanged" and roles(found) == {} and found.changed == ()
    found = judged(TWO, TWO.replace("x * 3", "x * 5").replace("x) + 2", "x) + 4") + ignore)
    assert roles(found) == {"other": "changed"}
    values = 'int __section(".data.values") values[2] = { 1, 2 };\nint *take(void) { return values; }'
    skip = 'static const char *__used __section(".kpatch.ignore.sections") s = ".data.values";'
    assert codes(judged(TWO + values, ("{ 1, 2 }", "{ 1, 3 }"))) == [("data-changed", "values")]
    found = judged(TWO + values, (TWO + values).replace("{ 1, 2 }", "{ 1, 3 }") + skip)
    assert codes(found) == [] and found.verdict == "unchanged"


def test_the_author_s_word_that_both_versions_may_run_is_kept_and_told(judged: Judge) -> None:
    source = "int step(int); void worker(void) { for (;;) step(1); }"
    force = 'static const void *__used __section(".kpatch.force") forced = worker;'
    assert codes(judged(source, ("step(1)", "step(2)"))) == [("never-returns", "worker")]
    found = judged(source, source.replace("step(1)", "step(2)") + force)
    assert codes(found) == [] and [r.symbol for r in found.judged.accepted] == ["worker"]
    (told,) = (row for row in found.judged.warnings if row.code == "never-returns")
    assert told.symbol == "worker" and "KPATCH_FORCE_UNSAFE" in told.message


def test_states_travel_though_nothing_refers_to_them(judged: Judge) -> None:
    state = """
    struct klp_state { unsigned long id; unsigned int version; void *data; };
    static struct klp_state __used __section(".bespoke.states") mine = { 7, 1 };
    """
    found = judged(TWO, TWO.replace("x * 3", "x * 5") + state)
    assert codes(found) == [] and data(found) == {"mine"}


def test_padding_before_a_function_is_no_way_to_redirect_it(judged: Judge) -> None:
    """CONFIG_CALL_PADDING lists every function in __patchable_function_entries, untraceable ones too."""
    source = "static noinline notrace int quiet(int x) { return x * 3; }\nint entry(int x) { return quiet(x) + 1; }\n"
    found = judged(source, ("x * 3", "x * 5"), flags=("-fpatchable-function-entry=16,16",))
    assert roles(found) == {"quiet": "changed", "entry": "carrier"}

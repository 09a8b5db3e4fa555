"""The books of a pair (builder/compose/books/): what each rule takes, and what is beside it and is left over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from builder.binary import ObjectFile, Section, Symbol, elf
from builder.compose.books import RULES, Ignored
from builder.compose.outcome import Diff
from builder.pipeline import diff_objects
from tests.support.compiling import TRACED, Build, builder

SOURCE = r"""
extern int sink(int, ...);
static const char names[2][4] = { "one", "two" };
int limit __attribute__((section(".data..read_mostly"))) = 3;
static int hits;
__attribute__((section(".init.text"))) int start(int x) { return sink(x, 1); }
static const int startup[2] __attribute__((section(".init.rodata"), used)) = { 1, 2 };
__attribute__((noinline)) int f(int x)
{ static int __key; hits += x; return sink(limit, names[x & 1], "a text", &__key); }
int g(int x) { return x ? f(x - 1) + 1 : 0; }
__asm__(".section .rodata.str1.1,\"aMS\",@progbits,1\n.asciz \"nobody finds this\"\n"
        ".section .strange,\"a\"\n.long 7\n"
        ".section .discard.addressable,\"aw\"\n__UNIQUE_ID___addressable_g7: .quad g\n"
        ".section .modinfo,\"a\"\n__UNIQUE_ID_license8: .asciz \"license=GPL\"\n"
        ".section .data.once,\"aw\"\n__already_done.9: .byte 0\n.text\n");
"""
GAPS = r"""
extern int sink(int, ...);
__asm__(".section .sched.text,\"ax\",@progbits\n.globl one\n.type one,@function\none: ret\n.size one, .-one\n"
        ".Lgap: .byte FILL, FILL, FILL\n.globl two\n.type two,@function\ntwo: ret\n.size two, .-two\n.text\n");
int f(int x) { return sink(x); }
"""

Change = Callable[[ObjectFile], ObjectFile]


@pytest.fixture(scope="module")
def made(gcc: str, tmp_path_factory: pytest.TempPathFactory) -> Build:
    return builder(gcc, tmp_path_factory.mktemp("books"), TRACED)


@pytest.fixture(scope="module")
def intact(made: Build) -> ObjectFile:
    return made(SOURCE, "-g")


def section(name: str, change: Callable[[Section], Section]) -> Change:
    """A change of the section of that name."""

    def made(obj: ObjectFile) -> ObjectFile:
        (found,) = [s for s in obj.sections if s.name == name]
        return replace(obj, sections=tuple(change(s) if s is found else s for s in obj.sections))

    return made


def symbol(name: str, change: Callable[[Symbol], Symbol]) -> Change:
    def made(obj: ObjectFile) -> ObjectFile:
        assert any(s.name == name for s in obj.symbols)
        return replace(obj, symbols=tuple(change(s) if s.name == name else s for s in obj.symbols))

    return made


def byte(name: str, at: int, value: int) -> Change:
    def changed(found: Section) -> Section:
        data = bytearray(found.data)
        assert data[at] != value
        data[at] = value
        return found._replace(data=bytes(data))

    return section(name, changed)


def left(found: Diff) -> list[str]:
    return [refusal.symbol for refusal in found.judged.refusals if refusal.code == "unaccounted"]


def test_an_object_and_itself_leave_nothing_over(intact: ObjectFile) -> None:
    found = diff_objects(intact, intact)
    assert found.verdict == "unchanged" and found.judged.ignored == {}
    assert found.as_json()["ignored"] == {}


TAKEN: dict[str, tuple[str, Change]] = {
    "not-loaded": (".debug_line", byte(".debug_line", 40, 0xEE)),
    "start-only": ("startup", byte(".init.rodata", 0, 9)),
    "symbol-size": ("g", symbol("g", lambda s: s._replace(size=s.size - 1))),
    "symbol-type": ("g", symbol("g", lambda s: s._replace(type=elf.STT_NOTYPE))),
    "linkage": ("g", symbol("g", lambda s: s._replace(bind=elf.STB_WEAK))),
    "alignment": (".text.g", section(".text.g", lambda s: s._replace(align=64))),
    "discarded": (".modinfo", byte(".modinfo", 8, ord("L"))),
    "own": (".data.once", byte(".data.once", 0, 1)),
    "relocated-field": ("__mcount_loc", byte("__mcount_loc", 0, 5)),
}

SOURCES: dict[str, tuple[str, str, str, str]] = {
    "removed": ("gone", "HERE", "int gone(int x) { return sink(x, 5); }", ""),
    "unused": ("fresh", "HERE", "", "int fresh = 5;"),
    "bug-line": (
        "warn",
        r"""void warn(void) { __asm__("1: ud2\n.pushsection __bug_table,\"aw\"\n.long 1b-., 2f-.\n.word HERE, 1\n"
        ".popsection\n.pushsection .rodata.str1.1,\"aMS\",@progbits,1\n2: .asciz \"unit.c\"\n.popsection"); }""",
        "5",
        "6",
    ),
    "encoding": ("hop", r'void hop(void) { __asm__ volatile("HERE 1f\nnop\n1:"); }', "jmp", "{disp32} jmp"),
    "mark": ("spot", 'void spot(void) { __asm__ volatile("HEREnop"); }', "", r".reloc ., R_X86_64_NONE, f\n"),
    "marker": (
        "__pfx_f",
        r'__asm__(".globl __pfx_f\n.set __pfx_f, f + HERE\n.type __pfx_f,@function\n.size __pfx_f, 1");',
        "0",
        "1",
    ),
    "author": (
        "spare",
        """int spare(int x) { return sink(x, HERE); }
        void *__ignored __attribute__((section(".kpatch.ignore.functions"), used)) = spare;""",
        "5",
        "6",
    ),
}
"""Rule: what it takes, what is added to the source, and what stands HERE before and after."""


@pytest.mark.parametrize("rule", SOURCES)
def test_a_rule_takes_what_it_names_of_two_sources(made: Build, rule: str) -> None:
    what, added, *versions = SOURCES[rule]
    found = diff_objects(*(made(SOURCE + added.replace("HERE", version)) for version in versions))
    assert found.verdict == "unchanged"
    assert what in found.judged.ignored[rule] and list(found.judged.ignored) == [rule]


@pytest.mark.parametrize("rule", TAKEN)
def test_a_rule_takes_what_it_names(intact: ObjectFile, rule: str) -> None:
    what, change = TAKEN[rule]
    found = diff_objects(intact, change(intact))
    assert found.verdict == "unchanged"
    assert what in found.judged.ignored[rule] and list(found.judged.ignored) == [rule]


def test_what_only_the_build_reads_is_named_wherever_it_leads(intact: ObjectFile) -> None:
    name = "__UNIQUE_ID___addressable_g7"
    (section,) = [s for s in intact.sections if s.name == ".discard.addressable"]
    (row,) = intact.relocations_of(section.index)
    other = next(s.index for s in intact.symbols if s.name == "f")
    for change in (
        symbol(name, lambda s: s._replace(size=4)),
        lambda obj: replace(
            obj, relocations={**obj.relocations, obj.rela_of[section.index]: (row._replace(symbol=other),)}
        ),
    ):
        assert ".discard.addressable" in diff_objects(intact, change(intact)).judged.ignored["discarded"]


def test_bytes_that_nothing_leads_to_are_named(intact: ObjectFile) -> None:
    (strings,) = [s for s in intact.sections if s.name == ".rodata.str1.1" and b"nobody" in s.data]
    found = diff_objects(intact, byte(".rodata.str1.1", strings.data.index(b"nobody"), ord("N"))(intact))
    assert found.verdict == "unchanged" and list(found.judged.ignored) == ["unreferenced"]


REFUSED: dict[str, tuple[str, Change]] = {
    "a flag": ("unaccounted", section(".text.g", lambda s: s._replace(flags=s.flags | elf.SHF_WRITE))),
    "a type": ("unaccounted", symbol("g", lambda s: s._replace(type=10))),
    "code that is data now": ("unaccounted", symbol("g", lambda s: s._replace(type=elf.STT_OBJECT))),
    "a section of no known kind": ("unknown-table", byte(".strange", 0, 8)),
    "an alignment that code may count on": (
        "storage-changed",
        section(".data..read_mostly", lambda s: s._replace(align=64)),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_rule_takes_is_refused(intact: ObjectFile, name: str) -> None:
    code, change = REFUSED[name]
    found = diff_objects(intact, change(intact))
    assert found.verdict == "refused" and code in {refusal.code for refusal in found.judged.refusals}


def test_a_string_that_is_used_is_a_change_and_not_ignored(intact: ObjectFile) -> None:
    (strings,) = [s for s in intact.sections if b"a text" in s.data and s.is_string]
    found = diff_objects(intact, byte(strings.name, strings.data.index(b"a text"), ord("A"))(intact))
    assert found.changed == ("f",)


@pytest.mark.parametrize(("fills", "ignored"), [(("0x90", "0xcc"), True), (("0x90", "0x40"), False)])
def test_only_what_fills_may_stand_between_things(made: Build, fills: tuple[str, str], ignored: bool) -> None:
    old, new = (made(GAPS.replace("FILL", fill)) for fill in fills)
    found = diff_objects(old, new)
    assert (list(found.judged.ignored) == ["fill"]) is ignored
    assert bool(left(found)) is not ignored


def test_nothing_is_ignored_by_a_rule_that_there_is_not(intact: ObjectFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builder.compose.books._STAGES", (lambda _: iter([Ignored("misspelt", "g")]),))
    with pytest.raises(KeyError, match="misspelt"):
        diff_objects(intact, intact)


def test_a_section_may_be_aligned_to_nothing(made: Build) -> None:
    """The old version's to 4 bytes and the new one's to 0, which says the same as 1 (gABI)."""
    data = '__attribute__((section(".data..read_mostly"))) ='
    old = made(f"int a {data} 1; int f(void) {{ return a; }}")
    new = made(f"int a {data} 1; int b {data} 2; int f(void) {{ return a + b; }}")
    assert diff_objects(old, section(".data..read_mostly", lambda s: s._replace(align=0))(new)).comparison.changed


def test_each_rule_is_tried_above() -> None:
    assert set(RULES) == {*TAKEN, *SOURCES, "unreferenced", "fill"}


def test_each_rule_has_its_reason() -> None:
    assert len(RULES) == len(set(RULES.values())) and all(len(reason) > 20 for reason in RULES.values())

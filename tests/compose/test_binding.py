"""What is compared with the running code, what that may differ in, and what references are then bound to.

Of builder/compose/runpre.py, builder/compose/running.py, builder/compose/bindings.py, builder/compose/bundle.py,
builder/compose/owner.py, builder/compose/late.py and builder/compose/below.py. The running code is a module compiled
here; the kernel is the distribution's.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.binary import ObjectFile, read_object
from builder.binary.kernel import Kernel
from builder.compose.below import Earlier
from builder.compose.bound import Bound
from builder.compose.bundle import bind
from builder.compose.outcome import Diff
from builder.compose.owner import Objects
from builder.errors import BespokeError, InputError, RefusedError
from builder.pipeline import ModulePlan, build
from tests.compose.conftest import Judge
from tests.support.kernels import opened

pytestmark = pytest.mark.kernel

Compiled = Callable[..., ObjectFile]
BASE = """
extern int sink(int, ...), _printk(const char *, ...);
static int total = 7; int shared;
static noinline int helper(int x) { total += x; return x * 3; }
int entry(int x) { _printk("entered %d\\n", x); return helper(x) + shared; }
"""
CHANGE = ("+ shared", "- shared")


@pytest.fixture(scope="module")
def kernel(release_61: str) -> Kernel:
    return opened(release_61)


def objects(kernel: Kernel, **modules: ObjectFile) -> Objects:
    """The kernel, and modules by name."""
    return Objects(kernel, {name: Path(obj.name) for name, obj in modules.items()})


def bound(kernel: Kernel, diff: Diff, running: ObjectFile) -> Bound:
    """The pair bound to a module `target` that is the object `running`."""
    return bind("fix", [(diff, "target")], objects(kernel, target=running)).pairs[0]


def refused(kernel: Kernel, diff: Diff, running: ObjectFile) -> list[tuple[str, str]]:
    """Code and symbol of what stands in the way."""
    with pytest.raises(RefusedError) as caught:
        bound(kernel, diff, running)
    return sorted((r.code, r.symbol) for r in caught.value.refusals)


def symbols(found: Bound) -> dict[str, str]:
    """What each original is bound to, by its name in the object."""
    out = {atom.name: binding.symbol for atom, binding in found.atoms.items()}
    return out | {name: binding.symbol for name, binding in found.names.items()}


def test_what_runs_is_what_the_old_object_has(kernel: Kernel, judged: Judge, compiled: Compiled) -> None:
    """Originals of the module by livepatch's symbols, what the kernel exports by name and CRC."""
    found = bound(kernel, judged(BASE, CHANGE), compiled(BASE))
    assert symbols(found) == {
        "helper": ".klp.sym.target.helper,0",
        "shared": ".klp.sym.target.shared,0",
        "_printk": "_printk",
        "__fentry__": "__fentry__",
    }
    assert found.names["_printk"].crc == kernel.exports()["_printk"].crc is not None


def test_what_is_not_exported_is_found_by_livepatch(kernel: Kernel, judged: Judge, compiled: Compiled) -> None:
    source = "int kallsyms_lookup_size_offset(long, long *, long *); int f(int x) { return x; }"
    new = ("return x;", "return kallsyms_lookup_size_offset(x, 0, 0);")
    found = bound(kernel, judged(source, new), compiled(source))
    assert symbols(found)["kallsyms_lookup_size_offset"] == ".klp.sym.vmlinux.kallsyms_lookup_size_offset,0"


def test_what_nobody_has_is_refused_by_name(kernel: Kernel, judged: Judge, compiled: Compiled) -> None:
    source = "int nobody_has_this(int); int f(int x) { return x; }"
    pair = judged(source, ("return x;", "return nobody_has_this(x);"))
    assert refused(kernel, pair, compiled(source)) == [("symbol-unresolved", "nobody_has_this")]


def test_a_module_s_own_function_comes_before_the_kernel_s(kernel: Kernel, judged: Judge, compiled: Compiled) -> None:
    """A name that the module defines in another file is the module's."""
    source = "int strlen(const char *); int f(int x) { return x; }"
    pair = judged(source, ("return x;", 'return strlen("abc" + x);'), flags=("-fno-builtin",))
    running = compiled("int f(int x) { return x; } int strlen(const char *s) { return 4; }", "-fno-builtin")
    assert symbols(bound(kernel, pair, running))["strlen"] == ".klp.sym.target.strlen,0"
    assert symbols(bound(kernel, pair, compiled("int f(int x) { return x; }")))["strlen"] == "strlen"


RUNNING = (
    BASE
    + """
static int other;
int more(int x) { if (x > 3) return sink(x, "text of more"); other ^= x; return sink(other) + 8; }
"""
)
CHANGED = ("+ 8", "+ 9")
SINK = "__attribute__((noipa)) int sink(int x, ...) { return x; }"
"""Of another file of the module."""


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        ("x > 3", "x > 4"),
        ("text of more", "text of mine"),
        ("text of more", "text of mor"),
        ("other ^= x", "total ^= x"),
        ("sink(other)", '_printk("", other)'),
        ("+ 8", "+ 7"),
        ("other ^= x;", ""),
        ("text of more", "text of more and more"),
    ],
)
def test_other_code_that_runs_is_refused(
    kernel: Kernel, judged: Judge, compiled: Compiled, was: str, becomes: str
) -> None:
    assert was in RUNNING
    assert refused(kernel, judged(RUNNING, CHANGED), compiled(RUNNING.replace(was, becomes) + SINK)) == [
        ("run-pre-mismatch", "more")
    ]


@pytest.mark.parametrize(
    "running",
    [
        "static int before; int first(int x) { return before++ + x; }" + RUNNING,
        RUNNING.replace("int shared;", 'int shared; const char *word = "a text before all others";'),
        RUNNING.replace("return x * 3", "return x * 4"),
    ],
    ids=["moved", "strings", "another function"],
)
def test_the_running_code_may_lie_elsewhere_and_beside_others(
    kernel: Kernel, judged: Judge, compiled: Compiled, running: str
) -> None:
    found = bound(kernel, judged(RUNNING, CHANGED), compiled(running + SINK))
    assert symbols(found)["other"] == ".klp.sym.target.other,0"


ASSEMBLER = """
int f(int x) { return x + 5; }
__asm__(".section .text.g,\\"ax\\"\\n.globl g\\n.type g,@function\\ng: call __fentry__\\n"
        "CODE\\n.size g, . - g\\n.text");
"""
PLAIN = "incl %eax\\n1: jmp 2f\\ndecl %eax\\n2: addl $VALUE, %eax\\nret"
LABEL = (
    '\\n.pushsection __jump_table,\\"aw\\"\\n.balign 8\\n.long 1b - ., 2b - .\\n.quad kptr_restrict - .\\n.popsection'
)


@pytest.mark.parametrize(
    ("old", "running", "fits"),
    [
        (PLAIN, PLAIN, True),
        (PLAIN, PLAIN.replace("jmp 2f", "{disp32} jmp 2f"), True),
        (PLAIN, PLAIN.replace("jmp 2f", "jmp 1b"), False),
        (PLAIN, PLAIN.replace("incl %eax", "nopl (%rax)\\nincl %eax\\n.nops 4"), True),
        (PLAIN, PLAIN.replace("1: jmp 2f", "1: .byte 0x66, 0x90"), False),
        (PLAIN + LABEL, PLAIN.replace("1: jmp 2f", "1: .byte 0x66, 0x90"), True),
        (PLAIN + LABEL, PLAIN.replace("1: jmp 2f", "1: xorl %eax, %eax"), False),
        (PLAIN, PLAIN.replace("ret", "notl %eax\\nret"), False),
    ],
    ids=["same", "relaxed", "led elsewhere", "nops", "no jump", "jump label off", "code at a jump label", "longer"],
)
def test_what_the_build_of_a_kernel_may_do_to_code(
    kernel: Kernel, judged: Judge, compiled: Compiled, old: str, running: str, fits: bool
) -> None:
    source = ASSEMBLER.replace("CODE", old)
    pair = judged(source.replace("VALUE", "5"), source.replace("VALUE", "6"))
    assert pair.changed == ("g",)
    there = compiled(ASSEMBLER.replace("CODE", running).replace("VALUE", "5"))
    if fits:
        assert bound(kernel, pair, there).matches
    else:
        assert refused(kernel, pair, there) == [("run-pre-mismatch", "g")]


TWICE = """
extern int sink(int, ...);
int f(int x) { static int n; n += x; return sink(n) + 1; }
int g(int x) { static int n; n -= x; return sink(n, x) + 2; }
"""


def test_of_two_statics_of_one_name_the_code_tells(kernel: Kernel, judged: Judge, compiled: Compiled) -> None:
    for change, name in (("+ 1", "f"), ("+ 2", "g")):
        pair = judged(TWICE, (change, "+ 7"))
        found = bound(kernel, pair, compiled(TWICE + SINK))
        (place,) = {m.place for m in found.matches.values()}
        assert found.owner.at(place)[0].name == name and len(found.atoms) == 1


def test_of_two_functions_of_one_name_the_one_with_this_code_is_meant(
    kernel: Kernel, judged: Judge, compiled: Compiled, gcc: str, tmp_path: Path
) -> None:
    """And livepatch is told which of them it is: their numbers are those of the symbol table."""
    source = "static noinline int h(int x) {{ return x * {0}; }} int user{0}(int x) {{ return h(x) + 1; }}"
    files = [Path(compiled(source.format(number)).name) for number in (5, 6, 7)]
    subprocess.run(["ld", "-r", *files, "-o", "target.o"], cwd=tmp_path, check=True)
    running = read_object(tmp_path / "target.o")
    for number, sympos in ((5, 1), (6, 2), (7, 3)):
        pair = judged(source.format(number), (f"x * {number}", "x * 9"))
        assert pair.changed == ("h",)
        ((_, match),) = bound(kernel, pair, running).matches.items()
        assert (match.name, match.sympos) == ("h", sympos)
    assert refused(kernel, judged(source.format(8), ("x * 8", "x * 9")), running) == [("run-pre-mismatch", "h")]


ALONE = "static noinline __used int h(int x) { return x * 5; }"
USES = "static int count = 1; static noinline __used int h(int x) { return count += x * 5; }"
TOLD: dict[str, tuple[str, str, bool]] = {
    "by who calls it": (
        f"{ALONE} int one(int x) {{ return h(x); }}",
        f"{ALONE} int two(int x) {{ return h(x); }}",
        True,
    ),
    "by who calls those": (
        f"{ALONE} static noinline int use(int x) {{ return h(x) + 1; }} int one(int x) {{ return use(x); }}",
        f"{ALONE} static noinline int use(int x) {{ return h(x) + 1; }} int two(int x) {{ return use(x); }}",
        True,
    ),
    "by what it uses": (
        f"{USES} int one(int x) {{ return count - x; }}",
        f"{USES} int two(int x) {{ return count - x; }}",
        True,
    ),
    "by the other names of its file": (ALONE, f"{ALONE} static noinline __used int more(int x) {{ return x; }}", True),
    "by nothing": (USES, USES, False),
}
"""Two files of a module, each with a function `h` of the same code, and whether anything tells them apart."""


@pytest.mark.parametrize("name", TOLD)
def test_functions_of_one_name_and_code_are_told_apart_or_refused(
    name: str, kernel: Kernel, judged: Judge, compiled: Compiled, tmp_path: Path
) -> None:
    *texts, told = TOLD[name]
    between = "\n".join(f"int filler{k}(int x) {{ return x + {k}; }}" for k in range(30))
    files = [Path(compiled(text).name) for text in (texts[0], between, texts[1])]
    subprocess.run(["ld", "-r", *files, "-o", "target.o"], cwd=tmp_path, check=True)
    running = read_object(tmp_path / "target.o")
    for text, sympos in zip(texts, (1, 2), strict=True):
        pair = judged(text, ("x * 5", "x * 9"))
        if not told:
            assert refused(kernel, pair, running) == [("ambiguous-symbol", "h")]
            continue
        found = bound(kernel, pair, running)
        assert [match.sympos for match in found.matches.values()] == [sympos]
        assert {binding.sympos for binding in found.atoms.values()} <= {sympos}


def test_what_another_file_calls_is_no_static(
    kernel: Kernel, judged: Judge, compiled: Compiled, tmp_path: Path
) -> None:
    source = "int h(int); int f(int x) { return x + 1; }"
    files = [Path(compiled(text).name) for text in (ALONE, ALONE.replace("static", ""), source)]
    subprocess.run(["ld", "-r", *files, "-o", "target.o"], cwd=tmp_path, check=True)
    found = bound(kernel, judged(source, ("x + 1", "h(x)")), read_object(tmp_path / "target.o"))
    assert found.names["h"].sympos == 2


def test_what_follows_from_another_code_is_not_refused_again(kernel: Kernel, judged: Judge, compiled: Compiled) -> None:
    """The `.cold` part of a function that is another one there is another one too."""
    source = """void __attribute__((cold)) bad(int, const char *);
    int f(int x) { if (x > 5) { bad(x, "first"); bad(x + 1, "second"); } return x * 3; }"""
    pair = judged(source, ("x * 3", "x * 7"))
    assert list(pair.comparison.old_children.values()) != []
    running = compiled(source.replace("x * 3", "x * 5").replace("second", "other"))
    assert refused(kernel, pair, running) == [("run-pre-mismatch", "f")]


def test_a_carried_function_must_be_what_runs_too(kernel: Kernel, judged: Judge, compiled: Compiled) -> None:
    source = "static noinline notrace int quiet(int x) { return x + 40; } int use(int x) { return quiet(x) + 1; }"
    pair = judged(source, ("x + 40", "x + 41"))
    assert len(bound(kernel, pair, compiled(source)).matches) == 1
    assert refused(kernel, pair, compiled(source.replace("+ 40", "+ 39"))) == [("run-pre-mismatch", "quiet")]


def test_a_function_that_is_not_there_is_named(kernel: Kernel, judged: Judge, compiled: Compiled) -> None:
    assert refused(kernel, judged(BASE, CHANGE), compiled("int f(int x) { return x; }")) == [
        ("function-not-found", "entry")
    ]


def test_the_owner_is_who_has_the_functions(kernel: Kernel, judged: Judge, compiled: Compiled) -> None:
    source = "int told_by_name(int x) { return x + 1; } int beside(int x) { return x; }"
    pair, there, elsewhere = (
        judged(source, ("x + 1", "x + 2")),
        compiled(source),
        compiled("int beside(int x) { return x; }"),
    )
    (found,) = bind("fix", [(pair, None)], objects(kernel, one=elsewhere, two=there)).pairs
    assert found.owner.name == "two"
    for modules in ({"one": elsewhere}, {}):
        with pytest.raises(RefusedError) as caught:
            bind("fix", [(pair, None)], objects(kernel, **modules))
        assert [r.code for r in caught.value.refusals] == ["owner-ambiguous"]
    with pytest.raises(RefusedError) as caught:
        bind("fix", [(pair, None)], objects(kernel, one=there, two=there))
    assert "one, two" in caught.value.refusals[0].message
    part = compiled("int told_by_name(int x) { return x + 1; }")
    (found,) = bind("fix", [(pair, None)], objects(kernel, one=part, two=there)).pairs
    assert found.owner.name == "two", "all functions decide, not only those that are replaced"
    (found,) = bind("fix", [(pair, None)], objects(kernel, one=part)).pairs
    assert found.owner.name == "one", "where nobody has all"
    other = compiled(source.replace("x + 1", "x + 3"))
    (found,) = bind("fix", [(pair, None)], objects(kernel, one=other, two=there)).pairs
    assert found.owner.name == "two", "then the code that runs"


def test_a_module_has_its_functions_also_where_the_kernel_has_such(
    kernel: Kernel, judged: Judge, compiled: Compiled
) -> None:
    """vmlinux has a static `c_start` too, with other code."""
    source = "int c_start(int x) { return x + 1; }"
    assert kernel.symbols_named("c_start")
    pair = judged(source, ("x + 1", "x + 2"))
    (found,) = bind("fix", [(pair, None)], objects(kernel, mine=compiled(source))).pairs
    assert found.owner.name == "mine"


def test_a_new_function_of_one_file_serves_the_others(kernel: Kernel, judged: Judge, compiled: Compiled) -> None:
    first, second = "int f(int x) { return x; }", "int fresh(int); int g(int x) { return x + 3; }"
    pairs = [
        (judged(first, first + "int fresh(int x) { return x * 9; }"), "target"),
        (judged(second, ("x + 3", "fresh(x)")), "target"),
    ]
    made = bind("fix", pairs, objects(kernel, target=compiled(first + second)))
    assert {name: number for name, (number, _) in made.pairs[1].provided.items()} == {"fresh": 0}
    assert {r.code for bound in made.pairs for r in (*bound.diff.warnings, *bound.warnings)} == {"not-compared"}


FULL = ".rept 70\\npush %%rax\\npop %%rax\\n.endr\\n"
KEY = """
struct key {{ int enabled; }}; {0}
int f(int x) {{
    __asm__ goto("{3}.pushsection {1},\\"aw\\"\\n{2}\\n.popsection" : : : : on);
    return x + 1;
on: return x + 2;
}}
"""
SITE = "1: jmp %l[on]\\n"
NO_ROOM = f"{FULL}1: .byte 0x66, 0x90\\n{FULL}"
JUMP = ".balign 8\\n.long 1b - ., %l[on] - .\\n.quad {} - ."


@pytest.mark.parametrize(
    ("definition", "name", "site", "code"),
    [
        ("struct key name;", "name", NO_ROOM, "static-key-module"),
        ("struct key __tracepoint_name;", "__tracepoint_name", NO_ROOM, "entry-dropped"),
        ("struct key name;", "name", SITE, None),
        ("struct key __tracepoint_name;", "__tracepoint_name", SITE, None),
        ("extern struct key nobody;", "kptr_restrict", NO_ROOM, None),
    ],
    ids=["the module's", "a tracepoint's", "with room", "a tracepoint's with room", "the kernel's"],
)
def test_a_key_must_be_bound_before_the_table_is_used(
    kernel: Kernel, judged: Judge, compiled: Compiled, definition: str, name: str, site: str, code: str | None
) -> None:
    """Or its site must have room for a jump to a test of it."""
    source = KEY.format(definition, "__jump_table", JUMP.format(name), site)
    pair = judged(source, ("x + 1", "x + 5"))
    if code == "static-key-module":
        assert refused(kernel, pair, compiled(source)) == [(code, name)]
    else:
        found = bound(kernel, pair, compiled(source))
        assert [w.code for w in found.warnings] == ([code] if code else [])
        assert len(found.left_out) == (1 if code else 0)


def test_a_static_call_through_the_module_s_own_key_goes_by_its_trampoline(
    kernel: Kernel, judged: Judge, compiled: Compiled
) -> None:
    source = """
    int key, target(int);
    int f(int x) { __asm__("1: call target\\n.pushsection .static_call_sites,\\"aw\\"\\n.long 1b - ., KEY - .\\n"
                           ".popsection"); return x + 1; }
    """
    pair = judged(source.replace("KEY", "key"), ("x + 1", "x + 5"))
    running = compiled(source.replace("KEY", "key") + "int target(int x) { return x; }")
    found = bound(kernel, pair, running)
    assert [entry.table.name for entry in found.left_out] == [".static_call_sites"] and found.warnings == ()
    assert found.names["target"].patched == "target"


@pytest.mark.parametrize(("operand", "late"), [("own", True), ("jiffies", False)])
def test_code_that_is_patched_before_its_operand_is_bound_is_refused(
    kernel: Kernel, judged: Judge, compiled: Compiled, operand: str, late: bool
) -> None:
    """The alternative's replacement and the site itself: both are taken while the module is loaded."""
    source = f"""
    int own;
    int f(int x) {{ __asm__ volatile("661: movl {operand}(%%rip), %%eax\\n662:\\n"
        ".pushsection .altinstructions,\\"a\\"\\n.long 661b - ., 663f - .\\n.word 9\\n.byte 662b - 661b, 2\\n"
        ".popsection\\n.pushsection .altinstr_replacement,\\"ax\\"\\n663: .byte 0x66, 0x90\\n.popsection" : : : "eax");
        return x + 1; }}
    """
    pair = judged(source, ("x + 1", "x + 5"))
    if late:
        assert refused(kernel, pair, compiled(source)) == [("late-relocation", "own")]
    else:
        assert bound(kernel, pair, compiled(source)).matches


SEALED = """
int (*hook)(int);
noinline int inner(int x) {{ return x * 3; }}
int use(int x) {{ return inner(x) + 1; }}
__asm__(".pushsection .ibt_endbr_seal,\\"a\\"\\n.long {} - .\\n.popsection");
"""


@pytest.mark.parametrize(("sealed", "refused_for"), [("inner", [("sealed-endbr", "inner")]), ("use", [])])
def test_a_new_pointer_to_a_function_whose_entry_was_sealed_is_refused(
    release_612: str, judged: Judge, compiled: Compiled, sealed: str, refused_for: list[tuple[str, str]]
) -> None:
    """An indirect call of it would fault where the processor tracks indirect branches."""
    flags = ("-fcf-protection=branch", "-fpatchable-function-entry=16,16")
    source = SEALED.format(sealed)
    pair = judged(source, ("return inner(x) + 1", "hook = inner; return inner(x) + 2"), flags=flags)
    running = compiled(source, *flags)
    if refused_for:
        assert refused(opened(release_612), pair, running) == refused_for
    else:
        assert bound(opened(release_612), pair, running).matches


def test_an_alternative_of_another_kernel_s_form_is_named(kernel: Kernel, judged: Judge, compiled: Compiled) -> None:
    """struct alt_instr has 12 bytes in 6.1; these have 14, as since 6.3."""
    source = """
    int f(int x) { __asm__ volatile("661: .nops 5\\n662:\\n"
        ".pushsection .altinstructions,\\"a\\"\\n.long 661b - ., 663f - .\\n.word 9, 0\\n.byte 5, 2\\n"
        ".popsection\\n.pushsection .altinstr_replacement,\\"ax\\"\\n663: .byte 0x66, 0x90\\n.popsection");
        return x + 1; }
    """
    with pytest.raises(BespokeError, match=r"alt_?instr"):
        build(
            [judged(source, ("x + 1", "x + 5"))],
            objects(kernel, target=compiled(source)),
            ModulePlan("fix"),
            inside="target",
        )


def test_an_earlier_module_is_known_by_its_manifest(
    kernel: Kernel, judged: Judge, compiled: Compiled, tmp_path: Path
) -> None:
    there = compiled(BASE)
    with pytest.raises(InputError, match="no manifest"):
        Earlier.read(Path(there.name))
    new = BASE.replace("+ shared", "+ shared + fresh++").replace("int shared;", "int shared, fresh;")
    targets = objects(kernel, target=there)
    first = build([judged(BASE, new)], targets, ModulePlan("first"), inside="target")
    assert first is not None
    (tmp_path / "first.ko").write_bytes(first.content)
    below = Earlier.read(tmp_path / "first.ko")
    assert below.name == "first" and [s.name for s in below.state if s.name == "fresh"] == ["fresh"]
    assert below.chain == ("first",)
    held = below.holds("fresh", "target")
    assert held is not None and (held.module, held.name) == ("first", "fresh")
    assert below.holds("shared", "target") is None and below.holds("entry", "target") is None


def test_what_an_earlier_module_brought_stays_its_own(
    kernel: Kernel, judged: Judge, compiled: Compiled, tmp_path: Path
) -> None:
    """The second version goes on with the first one's new variable, and begins at the first one's code."""
    new = BASE.replace("+ shared", "+ shared + fresh++").replace("int shared;", "int shared, fresh;")
    targets = objects(kernel, target=compiled(BASE))
    first = build([judged(BASE, new)], targets, ModulePlan("first"), inside="target")
    assert first is not None
    (tmp_path / "first.ko").write_bytes(first.content)
    pair = judged(new, ("fresh++", "fresh--"))
    (found,) = bind("second", [(pair, "target")], targets, below=Earlier.read(tmp_path / "first.ko")).pairs
    assert symbols(found)["fresh"].startswith(".klp.sym.first.fresh,")
    assert [m.since for m in found.matches.values()] == ["first"]
    assert refused(kernel, pair, compiled(BASE)) == [("run-pre-mismatch", "entry")]


def test_a_module_in_which_nothing_takes_effect_is_not_built(kernel: Kernel, judged: Judge, compiled: Compiled) -> None:
    """New functions that nothing calls; with something that is replaced, or a callback, they may come."""
    alone = BASE + "int fresh(int x) { return x * 5; }"
    pair, running = judged(BASE, alone), compiled(BASE)
    assert pair.verdict == "changed" and refused(kernel, pair, running) == [("no-effect", "fresh")]
    assert bound(kernel, judged(BASE, alone.replace(*CHANGE)), running).matches
    called = alone + "int (*__klp_pre_patch_callback_vmlinux)(int) = fresh;"
    assert bound(kernel, judged(BASE, called), running).diff.selection.macros.callbacks

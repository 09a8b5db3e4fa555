"""What the kernel finds by the name of its section: new things in such sections, of builder/compose/registered.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.binary import ObjectFile, read_object
from builder.compose.outcome import Diff
from builder.compose.owner import Objects
from builder.pipeline import ModulePlan, build
from tests.compose.conftest import Judge, codes, data, roles
from tests.support.compiling import Build
from tests.support.kernels import opened

BASE = """
int _printk(const char *, ...);
static noinline int f(int x) { BODY return _printk("") + x + 1; }
int caller(int x) { return f(x) * 3; }
"""

FORMAT = 'static const char *trace_printk_fmt __used __section("__trace_printk_fmt") = "x is %d\\n"; '
TRACING = FORMAT + "_printk(trace_printk_fmt, x);"
MESSAGE = """
struct message { const char *format; unsigned line; long key[4]; };
static struct message __attribute__((aligned(8))) __section("__dyndbg") descriptor = { "x", 5 };
_printk(descriptor.format, descriptor.key[1]++);
"""
DOMAIN = """
struct domain { int gate; } domain;
struct domain *const __section("___srcu_struct_ptrs") __used __srcu_struct_domain = &domain;
"""
ENTER = "_printk(0, domain.gate++);"
NO_PROBE = 'static unsigned long __used __section("_kprobe_blacklist") _kbl_addr_f = (unsigned long)f;'


def warned(found: Diff) -> list[tuple[str, str]]:
    """(code, symbol) of each warning, but that debug information is missing."""
    return [(w.code, w.symbol) for w in found.judged.warnings if w.code != "not-compared"]


def changed(judged: Judge, statements: str, above: str = "", below: str = "", *, allow: str = "") -> Diff:
    return judged(BASE.replace("BODY", ""), above + BASE.replace("BODY", statements) + below, allow=allow)


def emitted(
    judged: Judge, compiled: Build, release: str, statements: str, above: str = "", below: str = ""
) -> ObjectFile:
    """The module of a change to a module `target` that runs the old source."""
    running = compiled(BASE.replace("BODY", ""))
    objects = Objects(opened(release), {"target": Path(running.name)})
    module = build([changed(judged, statements, above, below)], objects, ModulePlan("fix"), inside="target")
    assert module is not None
    return read_object(module.content)


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("statements", "above", "below", "section", "size"),
    [
        (TRACING, "", "", "__trace_printk_fmt", 8),
        (f"{{ {TRACING} }} {{ {TRACING} }}", "", "", "__trace_printk_fmt", 16),
        (MESSAGE, "", "", "__dyndbg", 48),
        (ENTER, DOMAIN, "", "___srcu_struct_ptrs", 8),
        ("x++;", "", NO_PROBE, "_kprobe_blacklist", 8),
        ("counter++;", 'static __section(".data..percpu..shared_aligned") long counter = 7;', "", ".data..percpu", 8),
    ],
)
def test_a_section_keeps_the_name_that_the_kernel_looks_for(
    judged: Judge, compiled: Build, release_61: str, statements: str, above: str, below: str, section: str, size: int
) -> None:
    module = emitted(judged, compiled, release_61, statements, above, below)
    found = module.by_name[section]
    assert found.size == size and found.is_alloc
    assert section == ".data..percpu" or module.relocations_of(found.index)


@pytest.mark.kernel
def test_what_announces_a_replaced_function_means_the_copy(judged: Judge, compiled: Build, release_61: str) -> None:
    """The original has an entry of its own in the kernel's list."""
    module = emitted(judged, compiled, release_61, "x++;", "", NO_PROBE)
    (row,) = module.relocations_of(module.by_name["_kprobe_blacklist"].index)
    symbol = module.symbols[row.symbol]
    assert symbol.is_section and module.sections[symbol.shndx].name == ".text"


@pytest.mark.kernel
def test_code_that_no_probe_may_enter_stays_in_such_a_section(judged: Judge, compiled: Build, release_61: str) -> None:
    above = 'static noinline __section(".kprobes.text") int deep(int x) { return x * 7; }\n'
    module = emitted(judged, compiled, release_61, "x += deep(x);", above)
    (symbol,) = (s for s in module.symbols if s.name.startswith("deep"))
    assert module.sections[symbol.shndx].name == ".kprobes.text"


def test_what_announces_travels_only_with_what_it_announces(judged: Judge) -> None:
    source = DOMAIN + NO_PROBE.join(["static noinline int f(int x);", BASE.replace("BODY", "")])
    assert data(judged(source, ("f(x) * 3", "f(x) * 4"))) == set()
    assert data(judged(source, ("+ 1", "+ 2"))) == {"_kbl_addr_f"}


def test_a_function_that_stays_cannot_be_taken_from_probes(judged: Judge) -> None:
    source = BASE.replace("BODY", "")
    found = judged(source, source.replace("* 3", "* 4") + NO_PROBE)
    assert codes(found) == [("unregistered", "_kbl_addr_f")]


def test_a_changed_format_of_trace_printk_is_the_new_version_s_own(judged: Judge) -> None:
    source = BASE.replace("BODY", TRACING)
    found = judged(source, ("x is", "now x is"))
    assert codes(found) == [] and {name.split(".")[0] for name in data(found)} == {"trace_printk_fmt"}
    assert judged(source, source).verdict == "unchanged"


TRACEPOINT = """
static const char __tpstrtab_step[] __section("__tracepoints_strings") = "step";
struct tracepoint { const char *name; int key; };
struct tracepoint __section("__tracepoints") __tracepoint_step = { __tpstrtab_step };
struct event { struct tracepoint *tp; } event_step = { &__tracepoint_step };
struct event *__used __section("_ftrace_events") __event_step = &event_step;
"""


def test_a_new_tracepoint_is_refused_once(judged: Judge) -> None:
    found = changed(judged, "if (__tracepoint_step.key) _printk(__tracepoint_step.name);", TRACEPOINT)
    assert codes(found) == [("unregistered", "__tracepoint_step")]
    assert not found.judged.refusals[0].fatal
    source = TRACEPOINT + BASE.replace("BODY", "if (__tracepoint_step.key) _printk(__tracepoint_step.name);")
    assert codes(judged(source, ("+ 1", "+ 2"))) == []


@pytest.mark.parametrize(
    ("section", "code", "fatal"),
    [
        ("__dyndbg_classes", "unregistered", False),
        ("_ftrace_eval_map", "unregistered", False),
        ("_error_injection_whitelist", "unregistered", False),
        (".kunit_test_suites", "unregistered", False),
        (".init_array", "unregistered", False),
        (".pci_fixup_final", "unregistered", False),
        ("__a_table_of_ours", "unregistered", False),
    ],
)
def test_an_entry_that_would_be_lost_is_refused(judged: Judge, section: str, code: str, fatal: bool) -> None:
    entry = f'static const long __section("{section}") __used entry = 5;'
    found = changed(judged, "x++;", entry)
    assert [(r.code, r.symbol, r.fatal) for r in found.judged.refusals] == [(code, "entry", fatal)]
    assert codes(changed(judged, "x++;", entry, allow=f"{code}:entry")) == []
    source = entry + BASE.replace("BODY", "")
    assert codes(judged(source, ("+ 1", "+ 2"))) == []


@pytest.mark.parametrize(
    "section", [".data..read_mostly", ".data..cacheline_aligned", ".bss..page_aligned", ".data.own"]
)
def test_plain_storage_travels_wherever_it_is(judged: Judge, section: str) -> None:
    found = changed(judged, "count++;", f'static int __section("{section}") count;')
    assert codes(found) == [] and data(found) == {"count"}


@pytest.mark.parametrize("section", [".data..decrypted", ".bss..decrypted"])
def test_memory_that_is_shared_with_the_host_cannot_come_with_a_module(judged: Judge, section: str) -> None:
    found = changed(judged, "count++;", f'static int __section("{section}") count;')
    assert [(r.code, r.fatal) for r in found.judged.refusals] == [("unregistered", True)]


FIXUP = """
static __attribute__((used)) noinline int g(int x) { return x - 5; }
__asm__(".pushsection .pci_fixup_early,\\"a\\"\\n.balign 16\\n"
    ".short 0x1022, 0x1507\\n.long 0, 0\\n.long f - .\\n"
    ".popsection");
"""


def test_a_fixup_of_pci_devices_stays_the_image_s(judged: Judge) -> None:
    """Its table has no symbols, and leads to the function that is redirected (drivers/pci/quirks.c)."""
    source = BASE.replace("BODY", "") + FIXUP
    found = judged(source, ("+ 1", "+ 2"))
    assert codes(found) == [] and roles(found) == {"f": "changed"}


@pytest.mark.parametrize(
    ("was", "now", "told"),
    [
        ("0x1507", "0x1508", [".pci_fixup_early"]),
        ("f - .", "g - .", ["f", "g"]),
        (".popsection", ".short 1, 2\\n.long 0, 0\\n.long g - .\\n.popsection", ["g"]),
        (".popsection", ".short 1, 2\\n.long 0, 0\\n.long f - .\\n.popsection", ["f"]),
    ],
)
def test_another_fixup_of_pci_devices_is_refused(judged: Judge, was: str, now: str, told: list[str]) -> None:
    source = BASE.replace("BODY", "") + FIXUP
    other = source.replace(was, now).replace("+ 1", "+ 2")
    rows = [("unregistered", symbol) for symbol in told]
    found = judged(source, other)
    assert codes(found) == rows and not any(row.fatal for row in found.judged.refusals)
    assert codes(judged(other, source)) == rows
    allowed = judged(source, other, allow=" ".join(f"unregistered:{symbol}" for symbol in told))
    assert codes(allowed) == [] and roles(allowed) == {"f": "changed"}


IDS = """
__asm__(".pushsection .BTF_ids,\\"a\\"\\n.local ids\\nids:\\n"
    ".local __BTF_ID__func__one__NUMBER\\n.type __BTF_ID__func__one__NUMBER, @object\\n"
    ".size __BTF_ID__func__one__NUMBER, 4\\n__BTF_ID__func__one__NUMBER:\\n.zero 4\\n.popsection");
extern int ids[];
"""


def test_btf_ids_are_the_kernel_s_or_refused(judged: Judge) -> None:
    """Their names have the number of a line; what a new list holds is filled in by the build of the kernel."""
    source = IDS + BASE.replace("BODY", "x += ids[0];")
    found = judged(source.replace("NUMBER", "1017"), source.replace("NUMBER", "1019").replace("+ 1", "+ 2"))
    assert codes(found) == [] and data(found) == set() and roles(found) == {"f": "changed"}
    plain = BASE.replace("BODY", "").replace("+ 1", "+ 3")
    found = judged(plain, source.replace("NUMBER", "1017"))
    assert [(r.code, r.fatal) for r in found.judged.refusals] == [("unregistered", True)]


PARAMETER = """
struct kernel_param { const char *name; int permissions; void *argument; };
static int level = 1;
static const struct kernel_param __section("SECTION") __used __param_level = { "level", 0644, &level };
"""


@pytest.mark.parametrize("section", ["__param", ".init.setup"])
def test_a_parameter_that_is_left_out_is_told(judged: Judge, section: str) -> None:
    parameter = PARAMETER.replace("SECTION", section)
    found = changed(judged, "x += level;", parameter)
    assert codes(found) == [] and warned(found) == [("param-left-out", "__param_level")]
    source = parameter + BASE.replace("BODY", "x += level;")
    assert warned(judged(source, ("+ 1", "+ 2"))) == []
    found = judged(source, ("0644", "0600"), ("+ 1", "+ 2"))
    assert warned(found) == [("param-left-out", "__param_level")]
    assert "the changed __param_level" in found.judged.warnings[-1].message


def test_an_index_of_messages_is_told_to_be_old(judged: Judge) -> None:
    entry = 'static const char *__section(".printk_index") __used _entry_ptr = "TEXT"; _printk("TEXT");'
    found = changed(judged, entry)
    assert codes(found) == [] and [code for code, _ in warned(found)] == ["unregistered"]
    assert warned(judged(BASE.replace("BODY", entry), ("+ 1", "+ 2"))) == []


WAY = """
__asm__(".pushsection .static_call.text,\\"ax\\"\\n.align 4\\n.globl __SCT__way\\n__SCT__way: .byte 0xe9\\n"
    ".long first - (. + 4)\\n.byte 0x0f, 0xb9, 0xcc\\n.type __SCT__way, @function\\n.size __SCT__way, . - __SCT__way\\n"
    ".popsection");
int first(int x) { return x + 100; }
extern int __SCT__way(int);
"""


@pytest.mark.kernel
def test_a_new_static_call_brings_its_trampoline(judged: Judge, compiled: Build, release_61: str) -> None:
    module = emitted(judged, compiled, release_61, "x = __SCT__way(x);", WAY)
    assert module.by_name[".static_call.text"].size == 8
    assert all(symbol.name != "__SCT__way" or symbol.is_defined for symbol in module.symbols)

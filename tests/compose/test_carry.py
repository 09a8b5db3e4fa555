"""A change that cannot be redirected travels with all who call it, wherever they are, and who goes on with the old one
is named. Of builder/compose/carry.py and builder/compose/holders.py; the running code is modules compiled here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import cast

import pytest

from builder.binary import ObjectFile
from builder.compose.carry import Carried, carry
from builder.compose.holders import in_image, in_module
from builder.compose.outcome import Diff
from builder.compose.owner import Objects
from builder.compose.running import RunningModule
from builder.compose.selection import MOST_CALLERS
from builder.errors import Allowed
from tests.compose.conftest import Judge, codes, roles
from tests.support.kernels import opened

Compiled = Callable[..., ObjectFile]

QUIET = "notrace __attribute__((noipa)) int quiet(int x) { return x + 40; }\n"
CHANGE = ("x + 40", "x + 41")
NEAR = "int near(int x) { return quiet(x) * 3; }\n"
FAR = "int quiet(int); int far(int x) { return quiet(x) * 5; }\n"


def running(modules: Mapping[str, ObjectFile]) -> Objects:
    """Modules by name, as a release's tree has them."""
    read = {name: RunningModule(name, obj) for name, obj in modules.items()}

    def using(name: str) -> list[str]:
        return [k for k, m in read.items() if any(s.name == name and not s.is_defined for s in m.obj.symbols)]

    kernel = SimpleNamespace(release="6.1.0-test")
    found = SimpleNamespace(kernel=kernel, get=read.__getitem__, module=read.get, modules_using=using, given={})
    return cast(Objects, found)


def carried(
    pairs: Sequence[tuple[Diff, str]], modules: Mapping[str, ObjectFile], limit: int = MOST_CALLERS, allow: str = ""
) -> Carried:
    return carry(pairs, running(modules), allowed=Allowed.parse(allow.split()), limit=limit)


def same(judged: Judge, source: str) -> Diff:
    return judged(source, source)


def test_callers_in_another_file_of_the_same_object(judged: Judge, compiled: Compiled) -> None:
    """The new version stays where it is, and both callers, which have an ftrace location, are replaced."""
    pairs = [(judged(QUIET + NEAR, CHANGE), "m"), (same(judged, FAR), "m")]
    assert codes(pairs[0][0]) == [("no-fentry", "quiet")] and pairs[1][0].verdict == "unchanged"
    found = carried(pairs, {"m": compiled(QUIET + NEAR + FAR.replace("int quiet(int);", ""))})
    first, second = found.diffs
    assert found.missing == () and [d.verdict for d in found.diffs] == ["changed", "changed"]
    assert roles(first) == {"quiet": "changed", "near": "carrier"} and roles(second) == {"far": "carrier"}
    assert [a.name for d in found.diffs for a in d.selection.redirected] == ["near", "far"]
    assert second.as_json()["carriers"] == {"quiet": ["far"]} and "carries quiet" in second.as_json()["reasons"]["far"]


def test_a_caller_whose_object_is_not_given_is_named(judged: Judge, compiled: Compiled) -> None:
    pairs = [(judged(QUIET + NEAR, CHANGE), "m")]
    modules = {"m": compiled(QUIET + NEAR + FAR.replace("int quiet(int);", ""))}
    found = carried(pairs, modules)
    ((owner, name, _, calls),) = found.missing
    assert (owner, name, calls) == ("m", "far", ("quiet",))
    (refusal,) = found.diffs[0].judged.refusals
    assert (refusal.code, refusal.symbol) == ("no-fentry", "quiet") and "far (m)" in refusal.message
    found = carried(pairs, modules, allow="no-fentry:quiet")
    assert found.diffs[0].verdict == "changed" and [r.symbol for r in found.diffs[0].judged.accepted] == ["quiet"]


def test_a_caller_that_runs_other_code_is_not_the_one_that_is_given(judged: Judge, compiled: Compiled) -> None:
    """A function of that name in a pair counts only where its code is what runs there."""
    pairs = [(judged(QUIET + NEAR, CHANGE), "m"), (same(judged, FAR.replace("* 5", "* 6")), "m")]
    found = carried(pairs, {"m": compiled(QUIET + NEAR + FAR.replace("int quiet(int);", ""))})
    assert [c.name for c in found.missing] == ["far"] and roles(found.diffs[1]) == {}


TABLE = "struct ops { int (*run)(int); }; struct ops table = { quiet };\n"
TAKEN = "int (*hook)(int); void take(void) { hook = quiet; }\n"


@pytest.mark.parametrize(
    ("held", "who", "fatal"),
    [(TABLE, "table of m (.data.table)", False), (TAKEN, "take of m (.text.take, by its code)", True)],
    ids=["a table", "code"],
)
def test_whoever_keeps_the_address_is_named(
    judged: Judge, compiled: Compiled, held: str, who: str, fatal: bool
) -> None:
    """And the direct callers, which could be changed by hand; a copy's address must not be handed out at all."""
    source = QUIET + NEAR + held
    (found,) = carried([(judged(source, CHANGE), "m")], {"m": compiled(source)}).diffs
    (refusal,) = found.judged.refusals
    assert refusal.code == "no-fentry" and who in refusal.message and "near" in refusal.advice
    assert refusal.fatal is fatal and found.verdict == "refused"


def test_tables_of_places_keep_nothing(judged: Judge, compiled: Compiled) -> None:
    """A list for the kernel's own use (where no probe may stand) is no way to call a function."""
    source = QUIET + NEAR + 'static void *listed __used __section("_kprobe_blacklist") = quiet;\n'
    (found,) = carried([(judged(source, CHANGE), "m")], {"m": compiled(source)}).diffs
    assert codes(found) == [] and roles(found) == {"quiet": "changed", "near": "carrier"}


def test_up_to_an_ftrace_location(judged: Judge, compiled: Compiled) -> None:
    """A file without any: its own callers are copies too, until one can be redirected."""
    without = ("-fno-profile", "-fno-instrument-functions", "-mno-fentry")
    middle = QUIET + "__attribute__((noipa)) int middle(int x) { return quiet(x) * 3; }\n"
    last = "int middle(int); int last(int x) { return middle(x) * 5; }\n"
    whole = QUIET + middle.replace(QUIET, "").replace("__attribute__", "notrace __attribute__")
    pairs = [(judged(middle, CHANGE, flags=without), "m"), (same(judged, last), "m")]
    assert {code for code, _ in codes(pairs[0][0])} == {"no-ftrace-file"}
    first, second = carried(pairs, {"m": compiled(whole + last.replace("int middle(int);", ""))}).diffs
    assert codes(first) == [] and roles(first) == {"quiet": "changed", "middle": "carrier"}
    assert roles(second) == {"last": "carrier"} and second.as_json()["carriers"] == {"middle": ["last"]}
    assert [a.name for a in (*first.selection.redirected, *second.selection.redirected)] == ["last"]


def test_a_caller_that_must_not_be_instrumented(judged: Judge, compiled: Compiled) -> None:
    source = QUIET + NEAR + "noinstr int silent(int x) { return quiet(x) - 7; }\n"
    (found,) = carried([(judged(source, CHANGE), "m")], {"m": compiled(source)}).diffs
    assert codes(found) == [("noinstr", "silent")]


EXPORTED = QUIET + NEAR + "EXPORT_SYMBOL(quiet);\n"


def test_an_exported_one_and_the_modules_that_use_it(judged: Judge, compiled: Compiled) -> None:
    """Those of the release are patched too, and what is neither there nor given is warned of."""
    pairs = [(judged(EXPORTED, CHANGE), "m"), (same(judged, FAR), "other")]
    modules = {"m": compiled(EXPORTED), "other": compiled(FAR), "third": compiled("int alone(int x) { return x; }")}
    found = carried(pairs, modules)
    assert [codes(d) for d in found.diffs] == [[], []] and roles(found.diffs[1]) == {"far": "carrier"}
    (warning,) = (w for w in found.diffs[0].judged.warnings if w.code == "exported-copy")
    assert warning.symbol == "quiet" and "--object" in warning.message
    found = carried(pairs[:1], modules)
    assert [(c.owner, c.name) for c in found.missing] == [("other", "far")]


def test_a_module_that_calls_it_when_it_is_loaded(judged: Judge, compiled: Compiled) -> None:
    late = "int quiet(int); int __init begin(void) { return quiet(1) + 3; }\n"
    pairs = [(judged(EXPORTED, CHANGE), "m")]
    found = carried(pairs, {"m": compiled(EXPORTED), "other": compiled(late)})
    (refusal,) = found.diffs[0].judged.refusals
    assert "begin of module other" in refusal.message and not refusal.fatal and found.missing == ()


def test_a_jump_to_a_copy_that_may_sleep(judged: Judge, compiled: Compiled) -> None:
    """It is warned of, in whatever file the jump is; a call is not, nor a jump to what calls nothing."""
    sleeps = QUIET.replace("return x + 40", 'return printk("x") + x + 40')
    jumps = "int near(int x) { return quiet(x); }\n"
    far = "int quiet(int); int far(int x) { return quiet(x + 1); }\n"
    whole = sleeps + jumps + far.replace("int quiet(int);", "")
    found = carried([(judged(sleeps + jumps, CHANGE), "m"), (same(judged, far), "m")], {"m": compiled(whole)})
    told = [(w.code, w.symbol) for d in found.diffs for w in d.judged.warnings if w.code == "copy-by-jump"]
    assert (
        told == [("copy-by-jump", "near"), ("copy-by-jump", "far")]
        and [d.verdict for d in found.diffs] == ["changed"] * 2
    )
    for source in (sleeps + NEAR, QUIET + jumps):
        (diff,) = carried([(judged(source, CHANGE), "m")], {"m": compiled(source)}).diffs
        assert diff.verdict == "changed" and "copy-by-jump" not in [w.code for w in diff.judged.warnings]


def test_more_callers_than_the_limit(judged: Judge, compiled: Compiled) -> None:
    source = QUIET + "".join(f"int near{k}(int x) {{ return quiet(x) * {k + 3}; }}\n" for k in range(4))
    pairs = [(judged(source, CHANGE), "m")]
    assert carried(pairs, {"m": compiled(source)}, 4).diffs[0].verdict == "changed"
    (refusal,) = carried(pairs, {"m": compiled(source)}, 3).diffs[0].judged.refusals
    assert "4 functions" in refusal.message and "limit of 3" in refusal.message


def test_two_functions_of_one_name_and_code_are_told_apart(judged: Judge, compiled: Compiled) -> None:
    """A static function like it, in another file, has callers of its own, which stay."""
    mine = "static " + QUIET + NEAR
    other = mine.replace("near", "elsewhere").replace("x + 40", "x + 90")
    linked = mine + other.replace("quiet", "quiet2")
    (found,) = carried([(judged(mine, CHANGE), "m")], {"m": compiled(linked)}).diffs
    assert codes(found) == [] and roles(found) == {"quiet": "changed", "near": "carrier"}


@pytest.mark.kernel
def test_who_leads_to_a_function_of_the_image(release: str) -> None:
    """Calls from the start are seen as such, padding and numbers that look alike are not."""
    image = Objects(opened(release)).image
    found = {}
    for name in ("task_current_syscall", "memparse", "blk_trace_ioctl", "do_trap"):
        (symbol,) = image.named(name)
        found[name] = {(h.way, h.name, h.section) for h in in_image(image, [symbol.place])}
    assert found["task_current_syscall"] == {("branch", "proc_pid_syscall", ".text")}
    assert {way for way, _, _ in found["memparse"]} == {"branch", "export"}
    assert {section for _, _, section in found["memparse"]} == {".text", ".init.text", "__ksymtab"}
    assert {way for way, _, _ in found["do_trap"]} == {"branch"}, "where no probe may stand is no call"
    assert {(way, section) for way, _, section in found["blk_trace_ioctl"]} == {("branch", ".text")}


def test_every_way_of_leading_to_a_function(compiled: Compiled) -> None:
    """By its place, whatever the symbol's name is that is used; a call of what lies behind it is none."""
    source = """
    notrace noinline int quiet(int x) { return x + 40; }
    notrace noinline int behind(int x) { return x + 41; }
    int calls(int x) { return quiet(x) + 1; }
    int jumps(int x) { return quiet(x); }
    int calls_another(int x) { return behind(x) + 1; }
    int (*hook)(int); void takes(void) { hook = quiet; }
    int (*const table[])(int) = { behind, quiet };
    EXPORT_SYMBOL(quiet);
    """
    one_section = compiled(source, "-fno-function-sections", "-fno-toplevel-reorder")
    for obj in (compiled(source), one_section):
        module = RunningModule("m", obj)
        (quiet,) = module.named("quiet")
        found = {(h.name, h.way) for h in in_module(module, [quiet.place])}
        assert found == {
            ("calls", "branch"),
            ("jumps", "branch"),
            ("takes", "address"),
            ("table", "data"),
            ("__ksymtab_quiet", "export"),
        }

"""A few of the marks of `marks.py`, in one guest; all of them: `python -m tests.guest.marks`."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.acquire.compile import AS_USUAL
from builder.acquire.marks.words import Mark
from builder.acquire.sources import SourceTarget, find_source
from builder.binary.kernel import Kernel
from builder.compose.owner import Objects
from builder.errors import RefusedError
from builder.image.guest import Guest
from builder.image.marks import TRACEFS, parse_record
from builder.marks import mark
from builder.pipeline import ModulePlan, patch
from tests.conftest import needed
from tests.guest.marks import build, run

pytestmark = [pytest.mark.guest, pytest.mark.kernel, pytest.mark.slow]

CHOSEN = (
    *("entry", "return", "struct", "histogram", "count", "enum", "block_module", "stack"),
    *("sum", "limit", "format", "time", "time_between", "system_call", "interrupt", "error_path"),
    *("unseen_unlink", "retval_pointer"),
)


def test_marks_fire_with_the_values_of_the_commands_and_leave_nothing(kernel_61: Kernel) -> None:
    with needed("no source"):
        find_source(None, SourceTarget(kernel_61.release, banner=kernel_61.banner))
    assert run(kernel_61, build(kernel_61, CHOSEN), CHOSEN) == {}


FIX = (
    "--- a/fs/proc/version.c\n+++ b/fs/proc/version.c\n@@ -9,6 +9,8 @@\n \n"
    " static int version_proc_show(struct seq_file *m, void *v)\n {\n+\tstatic unsigned int shown;\n+\tshown++;\n"
    " \tseq_printf(m, linux_proc_banner,\n \t\tutsname()->sysname,\n \t\tutsname()->release,\n"
)
PLACE = "fs/proc/version.c:version_proc_show"


def test_marks_of_a_fix_see_its_variables_and_an_update_takes_their_place(kernel_61: Kernel, tmp_path: Path) -> None:
    """A fix, marks in its version, marks that replace both while it is called: none of them leaves anything."""
    with needed("no source"):
        tree = find_source(None, SourceTarget(kernel_61.release, banner=kernel_61.banner))
    objects, fix, first = Objects(kernel_61), tmp_path / "fix.patch", tmp_path / "marked_fix.ko"
    fix.write_text(FIX)
    fixed = patch([fix], tree, objects, ModulePlan("marked_fix"), AS_USUAL).module
    assert fixed is not None
    first.write_bytes(fixed.content)
    plan = ModulePlan("marks_of_fix", on=first)
    marks = mark([Mark(f"{PLACE}:seq_printf", ("shown",), name="shown")], tree, objects, plan, patches=[fix])
    last = mark(
        [Mark(PLACE, ("m->size",), name="size")], tree, objects, ModulePlan("marks_new", replace=True), armed=True
    )
    assert marks.patched.module is not None and last.patched.module is not None
    with Guest(kernel_61) as guest:
        start, events = guest.mark(), guest.check(f"ls {TRACEFS}/events")
        for module in (fixed, marks.patched.module):
            assert guest.insmod(module.content, module.name).ok
            guest.wait_transition(module.name)
            if module is fixed:
                guest.check("for n in 1 2 3; do cat /proc/version; done")
        instance = f"{TRACEFS}/instances/update"
        guest.check(
            f"mkdir {instance}; echo raw > {instance}/trace_options; echo 1 > {instance}/events/marks_of_fix/enable"
        )
        guest.check("cat /proc/version; cat /proc/version")
        records = list(filter(None, map(parse_record, guest.get(f"{instance}/trace").decode().splitlines())))
        assert [(r.module, r.generation, r.fields) for r in records] == [
            ("marks_of_fix", 2, {"shown": 4}), ("marks_of_fix", 2, {"shown": 5}),
        ]  # fmt: skip
        guest.check("(while :; do cat /proc/version; done) >/tmp/noise 2>&1 & echo $! > /tmp/noisy")
        assert guest.insmod(last.patched.module.content, "marks_new").ok
        guest.wait_transition("marks_new")
        guest.check(f"kill $(cat /tmp/noisy); echo 0 > {instance}/events/marks_of_fix/enable; rmdir {instance}")
        guest.check("rmmod marks_of_fix; rmmod marked_fix; cat /proc/version; cat /proc/version")
        assert int(guest.check(f"grep -c 'size: m_size=' {TRACEFS}/instances/marks_new/trace")) >= 2
        guest.disable_livepatch("marks_new")
        guest.check("rmmod marks_new")
        assert guest.check(f"ls {TRACEFS}/events") == events and guest.check(f"ls {TRACEFS}/instances") == ""
        assert not guest.run(f"ls {TRACEFS}/*.marks").ok and guest.warnings(start) == ()


BAD = [
    (("do_sys_openat2", "nosuch"), "mark-expression", "'nosuch' undeclared", "in scope there: dfd, filename, how"),
    (("do_sys_openat2", "how->none"), "mark-expression", "'struct open_how' has no member named 'none'", "how"),
    (("do_sys_openat2", "dfd->x"), "mark-expression", "invalid type argument of '->' (have 'int')", "dfd"),
    (("do_sys_openat2", "1 + filename->x"), "mark-expression", "at character 13", "filename"),
    (("do_sys_openat2", "%d", "filename"), "mark-format", "expects argument of type 'int'", "cast"),
    (("do_sys_openat2", "%s", "dfd"), "mark-format", "expects argument of type 'char *'", "cast"),
    (("nosuch_function", "x"), "mark-place", "no function nosuch_function() is defined", "FUNCTION%return"),
    (("fs/nosuch.c:17", "x"), "mark-place", "there is no file fs/nosuch.c", "say a path"),
    (("sys/open.c:17", "x"), "mark-place", "there is no file sys/open.c", "did you mean fs/open.c"),
    (("fs/open.c:999999", "x"), "mark-place", "lines", "say one of them"),
    (("fs/open.c:1", "x"), "mark-place", "is in no function", "the nearest that can be marked"),
    (("arch/arm/kernel/setup.c:early_print", "x"), "mark-place", "is no part of this kernel", "configuration"),
    (("start_kernel", "x"), "mark-place", "start_kernel() is __init", "mark a function that calls it"),
    (("init_once", "foo"), "mark-place", "functions init_once()", ".c:init_once"),
    (("do_sys_openat2", "filename[0]"), "mark-expression", "reads through filename: memory of the process", "by %s"),
    (("do_sys_openat2", "%lu", "dfd"), "mark-format", "expects argument of type 'long unsigned int'", "cast"),
    (("do_sys_openat2", "NOSUCH_MACRO(dfd)"), "mark-side-effect", "NOSUCH_MACRO() is called", "--unsafe"),
    (("do_sys_openat2", "min(dfd)"), "mark-expression", "requires 2 arguments", "in scope there"),
    (("do_sys_openat2", "(void)dfd"), "mark-expression", "'(void)dfd', at character 1: void value", "in scope there"),
    (("do_sys_openat2", "größe"), "mark-expression", "'größe' undeclared", "in scope there"),
    (("container_of", "ptr"), "mark-place", "no function container_of() is defined", "what a macro makes by its line"),
    (("do_sys_openat2", "how.flags"), "mark-expression", "is a pointer", "in scope there"),
    (("fs/open.c:do_sys_opena",), "mark-place", "is defined in fs/open.c", "there are do_sys_open"),
    (("fs/open.c:do_sys_openat2+1",), "mark-place", "do_sys_openat2()", "the nearest that can be marked"),
    (("kernel/sched/core.c:5", "x"), "mark-place", "is in no function", "the nearest that can be marked"),
    (("exc_divide_error",), "mark-place", "is DEFINE_IDTENTRY", "mark a function"),
    (("kobject_uevent_env",), "no-ftrace-file", "has no ftrace location", ""),
]  # fmt: skip


@pytest.mark.parametrize("code", ["mark-place", "mark-expression", "mark-format", "mark-side-effect", "no-ftrace-file"])
def test_what_only_the_source_and_the_compiler_tell_is_refused_in_the_users_words(kernel_61: Kernel, code: str) -> None:
    """All of one kind together, as they are told: in one compilation."""
    with needed("no source"):
        tree = find_source(None, SourceTarget(kernel_61.release, banner=kernel_61.banner))
    bad = [row for row in BAD if row[1] == code]
    with pytest.raises(RefusedError) as refused:
        mark([Mark(row[0][0], row[0][1:]) for row in bad], tree, Objects(kernel_61), ModulePlan("refused_marks"))
    told = refused.value.refusals
    for _, _, message, advice in bad:
        assert any(row.code == code and message in row.message and advice in row.advice for row in told), message
    assert not any("__bespoke" in row.message for row in told)

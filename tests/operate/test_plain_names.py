"""While functions are patched, kprobe_events, perf, bpftrace and ftrace find them by their plain names, as before."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.acquire.compile import AS_USUAL
from builder.acquire.source import fetch_source
from builder.compose.owner import Objects
from builder.image.guest import Guest, MachineConfig, Share
from builder.image.machine import KPROBE_EVENTS, TRACING
from builder.pipeline import ModulePlan, patch
from tests.conftest import need, needed
from tests.operate.chroot import MOUNTS, PLACE
from tests.support.kernels import opened

pytestmark = [pytest.mark.guest, pytest.mark.kernel, pytest.mark.long]

SOURCE = "fs/proc/base.c"
FUNCTIONS = {
    "proc_pid_wchan": "wchan",
    "proc_pid_stack": "stack",
    "proc_pid_schedstat": "schedstat",
    "proc_oom_score": "oom_score",
    "proc_pid_limits": "limits",
    "proc_pid_syscall": "syscall",
    "proc_pid_personality": "personality",
    "proc_loginuid_read": "loginuid",
    "proc_sessionid_read": "sessionid",
    "comm_show": "comm",
}
"""Ten functions of one file, each with the file below /proc/PID that runs it when it is read."""
READ = f"for name in {' '.join(FUNCTIONS.values())}; do cat /proc/self/$name; done > /dev/null"
COMM = "cat /proc/self/comm"
SHARED = "kprobe:{0} {{ @kprobe = count(); }} kretprobe:{0} {{ @kretprobe = count(); }}"
TRAMPOLINES = "kfunc:{0} {{ @fentry = count(); }} kretfunc:{0} {{ @fexit = count(); }}"


@pytest.fixture(scope="module")
def module(release: str, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """One instruction more in each of the functions."""
    with needed("no source"):
        tree = fetch_source(release)
    before = (tree.root / SOURCE).read_text()
    head = rf"^static [^\n;={{}}]*?\b(?:{'|'.join(FUNCTIONS)})\([^;{{}}=]*\)\n\{{\n"
    after, count = re.subn(head, r'\g<0>\tasm volatile("pause");\n', before, flags=re.MULTILINE)
    assert count == len(FUNCTIONS)
    rows = difflib.unified_diff(before.splitlines(True), after.splitlines(True), f"a/{SOURCE}", f"b/{SOURCE}")
    place = tmp_path_factory.mktemp("ten") / "ten.patch"
    place.write_text("".join(rows))
    made = patch([place], tree, Objects(opened(release)), ModulePlan("ten"), AS_USUAL)
    assert made.module is not None and set(made.functions) == set(FUNCTIONS)
    return made.module.content


@pytest.fixture(scope="module")
def guest(release: str) -> Iterator[Guest]:
    need("perf", "bpftrace")
    config = MachineConfig(memory_mb=1024)
    with Guest(opened(release), config, shares=[Share(Path("/"), PLACE)]) as running:
        running.check(MOUNTS)
        running.check(f"mount -t tmpfs tmpfs {PLACE}/tmp")
        yield running


def planted(guest: Guest, group: str) -> dict[str, int]:
    """Hits of a probe and of a return probe by the plain name of each function, which has run once."""
    for function in FUNCTIONS:
        guest.check(f"echo 'p:{group}/p_{function} {function}' >> {KPROBE_EVENTS}")
        guest.check(f"echo 'r:{group}/r_{function} {function} $retval' >> {KPROBE_EVENTS}")
    guest.check(f"echo 1 > {TRACING}/events/{group}/enable; {READ}; echo 0 > {TRACING}/events/{group}/enable")
    rows = (line.split() for line in guest.check(f"cat {TRACING}/kprobe_profile").splitlines())
    found = {row[0]: int(row[1]) for row in rows if row}
    guest.check(f": > {KPROBE_EVENTS}")
    return found


def by_perf(guest: Guest) -> dict[str, int]:
    """Hits of what perf has planted by the plain names, while comm_show has run twice and proc_pid_wchan once."""
    run = f"sh -c '{COMM}; {COMM}; cat /proc/self/wchan'"
    script = (
        "perf probe -q -a comm_show && perf probe -q -a proc_pid_wchan%return && "
        f"perf stat -x, -e 'probe:*' -o /tmp/stat {run} && cat /tmp/stat; perf probe -q -d 'probe:*'"
    )
    told = guest.check(f"chroot {PLACE} sh -c {_quoted(script)}", timeout=120)
    rows = re.findall(r"^(\d+),,probe:(\w+)", told, re.MULTILINE)
    return {name: int(count) for count, name in rows}


def by_bpftrace(guest: Guest, program: str) -> dict[str, int]:
    """What a program has counted while comm_show has run once."""
    script = f"bpftrace -e '{program.format('comm_show')}' -c '/usr/bin/{COMM}' 2>&1"
    told = guest.check(f"chroot {PLACE} sh -c {_quoted(script)}", timeout=120)
    return {name: int(count) for name, count in re.findall(r"^@(\w+): (\d+)$", told, re.MULTILINE)}


def _quoted(script: str) -> str:
    return "'" + script.replace("'", "'\\''") + "'"


def traced(guest: Guest) -> list[str]:
    """What the function tracer has seen by the filter `comm_show`, and what that filter holds."""
    guest.check(f"cd {TRACING} && echo comm_show > set_ftrace_filter && echo function > current_tracer")
    said = guest.check(f"{COMM}; cd {TRACING}; cat set_ftrace_filter; grep -o ' comm_show.* <-' trace | sort | uniq -c")
    guest.check(f"cd {TRACING} && echo nop > current_tracer && echo > set_ftrace_filter")
    return said.split("\n")[1:]


def test_each_tool_counts_by_the_plain_name_as_before(guest: Guest, module: bytes) -> None:
    expected = {f"{kind}_{function}": 1 for function in FUNCTIONS for kind in "pr"}
    reads = ("proc_loginuid_read", "proc_sessionid_read")  # once more, for the end of the file
    expected |= {f"{kind}_{function}": 2 for function in reads for kind in "pr"}
    mark = guest.mark()
    before = planted(guest, "before"), traced(guest)
    assert guest.insmod(module, "ten").ok
    guest.wait_transition("ten")
    assert (planted(guest, "with"), traced(guest)) == before
    assert before[0] == expected and before[1][0] == "comm_show"
    assert by_perf(guest) == {"comm_show": 2, "proc_pid_wchan__return": 1}
    assert by_bpftrace(guest, SHARED) == {"kprobe": 1, "kretprobe": 1}
    names = set(re.findall(r" (\w[\w.]*)\t\[ten\]", guest.check("cat /proc/kallsyms")))
    assert {f"{function}.livepatch" for function in FUNCTIONS} <= names and names.isdisjoint(FUNCTIONS)
    # What BPF attaches to the original's ftrace location fires whichever version runs.
    assert by_bpftrace(guest, TRAMPOLINES) == {"fentry": 1, "fexit": 1}
    guest.disable_livepatch("ten")
    assert guest.rmmod("ten").ok
    assert guest.warnings(mark) == ()

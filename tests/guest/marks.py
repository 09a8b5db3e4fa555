"""Marks over the kernel: each must fire in a guest, with the values and counts that the command makes by itself.

    python -m tests.guest.marks [--kernel K] [--only NAME ...]
    python -m tests.guest.marks --kernel 6.12.117+deb13-amd64 --only entry return error_path histogram time

All of them go into one module; what each must record follows from its command alone. The module is taken out again,
and must leave nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from rich.console import Console

from builder.acquire.marks.words import Mark
from builder.acquire.packages import newest_kernel
from builder.acquire.sources import SourceTarget, find_source
from builder.binary.kernel import Kernel
from builder.compose.owner import Objects
from builder.errors import BespokeError
from builder.image.guest import Guest, MachineConfig
from builder.image.marks import SUFFIX, TRACEFS, MarkRecord, MarkTotals, parse_record, parse_totals
from builder.marks import MarkedModule, mark
from builder.pipeline import ModulePlan

MODULE = "campaign_marks"
INSTANCE = f"{TRACEFS}/instances/campaign"

Fields = list[Mapping[str, int | str]]
Verdict = Callable[[Fields, MarkTotals, str], bool]
"""Whether the fields of all records, the totals and the command's output fit together."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A mark, what makes it fire, and what must come of that; `load` is a module to load first."""

    mark: Mark
    command: str
    fits: Verdict
    load: str = ""


def _same(**wanted: int | str) -> Verdict:
    """One record has these fields and no others."""
    return lambda found, totals, said: found.count(wanted) == 1


def _has_run(found: Sequence[object], wanted: Sequence[object]) -> bool:
    """Whether `wanted` stands somewhere in `found`, without anything between: others run the same code."""
    return any(list(found[n : n + len(wanted)]) == list(wanted) for n in range(len(found)))


def _more(said: str) -> int:
    """By how much the numbers of the second line are more than those of the first."""
    first, second = (sum(int(word) for word in line.split() if word.isdigit()) for line in said.splitlines())
    return second - first


TRIALS: dict[str, Trial] = {
    "entry": Trial(
        Mark("do_sys_openat2", ("filename",), "current->pid > 1"), "cat /tmp/entry; :", _same(filename="/tmp/entry")
    ),
    "return": Trial(
        Mark("do_sys_openat2%return", ("filename", "$retval"), "$retval == -ENOTDIR"),
        "cat /proc/version/none; :",
        lambda found, totals, said: found == [{"filename": "/proc/version/none", "retval": -20}],
    ),
    "error_path": Trial(
        Mark("filename_create:'fail:'", ("error", "dentry->d_name.name")),
        "mkdir /tmp/is_there; mkdir /tmp/is_there 2>/tmp/errors; :",
        lambda found, totals, said: found == [{"error": -17, "d_name_name": "is_there"}],
    ),
    "struct": Trial(
        Mark("do_sys_openat2", ("*how",), "how->flags & O_EXCL"),
        "mktemp -p /tmp; :",
        lambda found, totals, said: [(r["how_mode"], r["how_resolve"]) for r in found] == [(0o600, 0)],
    ),
    "loop_body": Trial(
        Mark("count:'++i'", ("i", "max")),
        "/bin/busybox true a b c",
        # Five arguments, then what is in the environment; the most that there may be (fs/exec.c).
        lambda found, totals, said: _has_run([row["i"] for row in found], [0, 1, 2, 3, 4, 0])
        and {row["max"] for row in found} == {0x7FFFFFFF},
    ),
    "string": Trial(
        Mark("__set_task_comm", ('name="%s exec %d"', "buf", "exec"), "!exec"),
        "sh -c 'echo -n marked > /proc/self/comm'",
        _same(buf="marked", exec=0),
    ),
    "static_variable": Trial(
        Mark("copy_process:'nr_threads >= max_threads'", ("nr_threads", "max_threads")),
        "cat /proc/sys/kernel/threads-max /proc/loadavg; sh -c 'true; :' & wait",
        # /proc/loadavg tells how many threads there are: no more than a few come and go meanwhile.
        lambda found, totals, said: len(found) >= 1
        and all(row["max_threads"] == int(said.split()[0]) for row in found)
        and all(abs(int(row["nr_threads"]) - int(said.split()[4].partition("/")[2])) < 8 for row in found),
    ),
    "histogram": Trial(
        Mark("write_null", condition="count >= 1000", aggregate="hist", value="count"),
        "for n in 1000 1000 3000 64000; do dd if=/dev/zero of=/dev/null bs=$n count=1 2>/tmp/errors; done",
        lambda found, totals, said: dict(totals.slots) == {10: 2, 12: 1, 16: 1} and totals.sum == 69000,
    ),
    "count": Trial(
        Mark("write_null%return", condition="$retval == 2000", aggregate="count"),
        "dd if=/dev/zero of=/dev/null bs=2000 count=100 2>/tmp/errors",
        lambda found, totals, said: totals.hits == totals.count == 100,
    ),
    "every": Trial(
        Mark("memory_lseek", ("offset", "orig"), every=2),
        "for n in 1 2 3 4; do dd if=/dev/mem of=/dev/null bs=1 skip=$n count=0 2>/tmp/errors; done",
        lambda found, totals, said: len(found) == (totals.hits + 1) // 2 and totals.hits >= 4,
    ),
    "header_inline": Trial(
        Mark("fs/proc/internal.h:proc_pid", ("inode->i_ino",)),
        "stat -c %i /proc/1/status; cat /proc/1/status > /tmp/status",
        lambda found, totals, said: {"inode_i_ino": int(said)} in found,
    ),
    "static_inlined": Trial(
        Mark("override_release", ("len",)),
        "uname -r",
        lambda found, totals, said: {row["len"] for row in found} == {65}
    ),
    "net": Trial(
        Mark("__sys_socket", ("family", "type", "protocol"), "family == 2"),
        "ifconfig lo 127.0.0.1; :",
        lambda found, totals, said: {"family": 2, "type": 2, "protocol": 0} in found,
    ),
    "mm": Trial(
        Mark("do_brk_flags", ("addr", "len")),
        "/bin/busybox cat /proc/self/maps",
        # What one of them adds ends where the heap does.
        lambda found, totals, said: {
            int(line.split()[0].partition("-")[2], 16) for line in said.splitlines() if line.endswith("[heap]")
        } < {int(row["addr"]) + int(row["len"]) for row in found},
    ),
    "crypto": Trial(
        Mark("crypto/proc.c:c_show", ("alg->cra_driver_name", "alg->cra_priority")),
        "cat /proc/crypto",
        # The last one of a page is shown again on the next (seq_read).
        lambda found, totals, said: {str(row["alg_cra_driver_name"]) for row in found}
        == {line.split(": ")[1] for line in said.splitlines() if line.startswith("driver")},
    ),
    "enum": Trial(
        Mark("kernel_wait4:'wo.wo_type = type'", ("type",)),
        "sh -c 'true & wait; true'",
        lambda found, totals, said: {"type": "PIDTYPE_MAX"} in found,
    ),
    "kernel": Trial(
        Mark("kill_something_info", ("sig", "pid")),
        "kill -0 1",
        lambda found, totals, said: {"sig": 0, "pid": 1} in found,
    ),
    "block_module": Trial(
        Mark("disksize_store:'disksize = PAGE_ALIGN'", ("disksize", "buf")),
        "echo 1M > /sys/block/zram0/disksize; cat /sys/block/zram0/disksize",
        lambda found, totals, said: found == [{"disksize": int(said), "buf": "1M\n"}],
        load="zram",
    ),
    "net_module": Trial(
        Mark("dummy_xmit", ("skb->len", "dev->name")),
        "ifconfig dummy0 10.9.9.9 up; ping -c 1 -W 1 10.9.9.8; :",
        # Heads of Ethernet, IPv4 and ICMP, and 56 bytes
        lambda found, totals, said: {"skb_len": 14 + 20 + 8 + 56, "dev_name": "dummy0"} in found
        and {row["dev_name"] for row in found} == {"dummy0"},
        load="dummy",
    ),
    "sum": Trial(
        Mark("write_null", condition="count == 1500", aggregate="sum", value="count"),
        "dd if=/dev/zero of=/dev/null bs=1500 count=7 2>/tmp/errors",
        lambda found, totals, said: (totals.count, totals.sum) == (7, 7 * 1500) and not found,
    ),
    "limit": Trial(
        Mark("write_null%return", ("$retval",), "$retval == 1700", limit=3),
        "dd if=/dev/zero of=/dev/null bs=1700 count=60 2>/tmp/errors",
        # Of seconds that it took, begun ones included, each has three.
        lambda found, totals, said: totals.hits == 60 == len(found) + totals.missed and len(found) in (3, 6, 9, 12),
    ),
    "format": Trial(
        Mark("vfs_unlink", ("%%d of %pd is %#lx\\n", "dentry", "dentry->d_inode->i_ino")),
        "touch /tmp/known; stat -c %i /tmp/known; rm /tmp/known",
        lambda found, totals, said: {"dentry": "known", "d_inode_i_ino": int(said)} in found,
    ),
    "time": Trial(
        Mark("hrtimer_nanosleep", condition="rqtp == 20000000", aggregate="time", value="current",
             until="hrtimer_nanosleep%return"),
        "for n in 1 2 3 4 5 6 7 8; do usleep 20000 & done; wait",
        lambda found, totals, said: totals.hits == totals.count == 8 == sum(totals.slots.values())
        and totals.sum >= 8 * 20_000_000
        and min(totals.slots) >= 25  # 16.8 ms to 33.5 ms
        and totals.missed == 0,
    ),
    "time_between": Trial(
        Mark("pipe_write", condition="current->comm[0] == 'e'", aggregate="time",
             value="iocb->ki_filp->private_data", until="pipe_read%return", until_value="pipe"),
        "cp /bin/busybox /tmp/echo; /tmp/echo hello | (usleep 400000; cat)",
        lambda found, totals, said: totals.hits == totals.count == 1 and totals.sum >= 200_000_000,
    ),
    "retval_pointer": Trial(
        Mark("get_proc_task_net%return", ("$retval",)),
        "cat /proc/self/net/dev > /tmp/dev; grep ' init_net$' /proc/kallsyms",
        lambda found, totals, said: {row["retval"] for row in found} == {int(said.split()[0], 16)},
    ),
    "system_call": Trial(
        Mark("sys_getpriority%return", ("which", "who", "$retval")),
        "renice -n 3 -p $$; :",
        lambda found, totals, said: bool(found) and {row["which"] for row in found} == {0}
        and {row["retval"] for row in found} <= {20, 17},
    ),
    "interrupt": Trial(
        Mark("__sysvec_apic_timer_interrupt", aggregate="count"),
        "grep LOC: /proc/interrupts; usleep 200000; grep LOC: /proc/interrupts",
        # All that came between, and what came while the mark was on before and behind.
        lambda found, totals, said: 3 <= _more(said) <= totals.count <= _more(said) + 500,
    ),
    # The image's own debug information has no location for these variables there (test_unseen.py).
    "unseen_unlink": Trial(
        Mark("vfs_unlink:'detach_mounts(dentry)'", ("target->i_ino", "target->i_size")),
        "echo -n seen > /tmp/unseen; stat -c %i /tmp/unseen; rm /tmp/unseen",
        lambda found, totals, said: {"target_i_ino": int(said), "target_i_size": 4} in found,
    ),
    "unseen_links": Trial(
        Mark("vfs_unlink:'fsnotify_link_count(target)'", ("target->i_ino", "target->i_nlink")),
        "echo > /tmp/one; ln /tmp/one /tmp/two; stat -c %i /tmp/one; rm /tmp/two; stat -c %h /tmp/one; rm /tmp/one",
        lambda found, totals, said: [
            row["target_i_nlink"] for row in found if row["target_i_ino"] == int(said.split()[0])
        ] == [int(said.split()[1]), 0],
    ),
    "unseen_return": Trial(
        Mark("kill_something_info:'return ret;'", ("sig", "pid", "ret")),
        "kill -0 -99999 2>&1 || kill -0 0",
        lambda found, totals, said: "No such process" in said
        and [row for row in found if row["sig"] == 0]
        == [{"sig": 0, "pid": -99999, "ret": -3}, {"sig": 0, "pid": 0, "ret": 0}],
    ),
    "stack": Trial(
        Mark("read_null", ("count",), stack=True),
        "dd if=/dev/null of=/tmp/x bs=17 count=1 2>/tmp/errors",
        lambda found, totals, said: [row["count"] for row in found] == [17] and "vfs_read" in str(found[0]["stack"]),
    ),
}  # fmt: skip


def build(kernel: Kernel, names: Sequence[str], module: str = MODULE) -> MarkedModule:
    """One module with these trials' marks, each event called as its trial."""
    tree = find_source(None, SourceTarget(kernel.release, banner=kernel.banner))
    marks = [replace(TRIALS[name].mark, name=f"{name}_mark") for name in names]
    return mark(marks, tree, Objects(kernel), ModulePlan(module))


def run(kernel: Kernel, built: MarkedModule, names: Sequence[str], module: str = MODULE) -> dict[str, str]:
    """What is wrong, by trial; the trial `module` is the module itself: what it leaves, and what the kernel says."""
    assert built.patched.module is not None
    wrong: dict[str, str] = {}
    with Guest(kernel, MachineConfig(smp=2)) as guest:
        start = guest.mark()
        for name in names:
            if TRIALS[name].load:
                guest.modprobe(TRIALS[name].load)
        events = guest.check(f"ls {TRACEFS}/events")
        answer = guest.insmod(built.patched.module.content, module)
        if not answer.ok:
            return {"module": f"{answer.output} {guest.dmesg()[-600:]}"}
        guest.wait_transition(module)
        guest.check(f"mkdir {INSTANCE} && echo raw > {INSTANCE}/trace_options")
        for name in names:
            wrong |= _tried(guest, name, module)
        guest.check(f"rmdir {INSTANCE}")
        guest.disable_livepatch(module)
        guest.check(f"rmmod {module}")
        if guest.check(f"ls {TRACEFS}/events") != events or guest.run(f"ls {TRACEFS}/*{SUFFIX}").ok:
            wrong["module"] = "something is left in tracefs"
        if warnings := guest.warnings(start):
            wrong["module"] = f"the kernel warned: {warnings}"
    return wrong


def _tried(guest: Guest, name: str, module: str) -> dict[str, str]:
    event = f"{INSTANCE}/events/{module}/{name}_mark"
    idle = _totals(guest, name, module).hits
    guest.check(f"echo > {INSTANCE}/trace; echo 1 > {event}/enable")
    answer = guest.run(TRIALS[name].command)
    guest.check(f"echo 0 > {event}/enable")
    lines = guest.get(f"{INSTANCE}/trace").decode().splitlines()
    records = [record for record in map(parse_record, lines) if record is not None]
    own = [record for record in records if record.mark == f"{name}_mark"]
    totals = _totals(guest, name, module)
    fields: Fields = [dict(record.fields) for record in own]
    off = guest.run(TRIALS[name].command).ok and _totals(guest, name, module).hits != totals.hits
    if off or idle:
        return {name: "it fires while it is off"}
    if not TRIALS[name].fits(fields, totals, answer.output):
        return {name: f"{_brief(own)} {totals} after: {answer.output[:200]}"}
    return {}


def _totals(guest: Guest, name: str, module: str) -> MarkTotals:
    rows = parse_totals(guest.check(f"cat {TRACEFS}/{module}{SUFFIX}"))
    return next(row for row in rows if row.mark == f"{name}_mark")


def _brief(records: Sequence[MarkRecord]) -> str:
    return f"{len(records)} records: " + "; ".join(str(dict(record.fields)) for record in records[:4])


def main(arguments: Sequence[str]) -> int:
    """Build and try; the exit status is 0 when every mark did what it must."""
    parser = argparse.ArgumentParser(prog="python -m tests.guest.marks", description=__doc__.split("\n")[0])
    parser.add_argument("--kernel", metavar="K", help="image or release (default: the newest 6.1)")
    parser.add_argument("--only", nargs="+", choices=TRIALS, default=list(TRIALS), metavar="NAME")
    options = parser.parse_args(arguments)
    console = Console()
    try:
        kernel = Kernel.open(options.kernel or newest_kernel("6.1"))
        wrong = run(kernel, build(kernel, options.only), options.only)
    except BespokeError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    for name in [*options.only, "module"]:
        otherwise = "as it should be" if wrong.keys() != {"module"} else "not known"
        console.print(f"{name:<16} {wrong.get(name, otherwise)}", markup=False, soft_wrap=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""What a hit of a mark costs beside other ways to record two fields, and what a mark costs that is off.

All in one guest, on the same function (vfs_write), by the same loop of system calls; the guest is emulated, so that
the ratios count and not the nanoseconds. A mark stands in a new version of its function, and to get there costs what
it costs every livepatch: so marks are measured against the same livepatch without one, everything else against the
kernel as it is. And how much CPU it takes from the command to the module.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table

from builder.acquire.compile import AS_USUAL
from builder.acquire.marks.edits import as_patch
from builder.acquire.marks.words import Mark
from builder.acquire.packages import newest_kernel
from builder.acquire.source import SourceTree
from builder.acquire.sources import SourceTarget, find_source
from builder.acquire.tools import run
from builder.binary.kernel import Kernel
from builder.compose.owner import Objects
from builder.errors import BespokeError
from builder.image.guest import Guest, MachineConfig, Share
from builder.image.marks import TRACEFS
from builder.marks import mark
from builder.pipeline import ModulePlan, patch
from tests.conftest import ROOT
from tests.operate.chroot import MOUNTS, PLACE

SERIES = "6.1"
COUNT = 4_000
RUNS = 50
ROUNDS = 3
"""Short runs, and every state again and again: the best of each is one that nothing else on the machine disturbed."""
MODULE = "bench_mark"
PLAIN = "bench_plain"
CHANGED = "fs/read_write.c"
FIRST = b"\tif (!(file->f_mode & FMODE_WRITE))\n\t\treturn -EBADF;\n\tif (!(file->f_mode & FMODE_CAN_WRITE))"
"""How vfs_write begins."""
INSTANCE = f"{TRACEFS}/instances/bench"
PROBE = "vfs_write+5"  # behind the ftrace location
FIELDS = "count=%dx file=%di"
BPFTRACE = "kprobe:vfs_write { @count = arg2; @file = arg0; @hits = count(); }"


def main() -> int:
    console = Console(width=None if sys.stdout.isatty() else 110)
    try:
        kernel = Kernel.open(newest_kernel(SERIES))
        find_source(None, SourceTarget(kernel.release, banner=kernel.banner))
        with console.status("building a mark"):
            seconds = _command(kernel)
        console.print(
            f"bespoke mark, prepared source to module, its objects not compiled before: {seconds:.1f} s of CPU"
        )
        with console.status("measuring in a guest"):
            rows = _measured(kernel)
    except BespokeError as error:
        console.print(f"not measured: {error}", markup=False)
        return 0
    table = Table(title="write(2) of one byte, nanoseconds in an emulated guest", box=None, title_justify="left")
    for title in ("", "each", "to its base", "per hit", "to an optimized kprobe"):
        table.add_column(title, justify="right" if title else "left")
    nothing, optimized = rows["nothing"], rows.get(OPTIMIZED)
    for name, each in rows.items():
        base = rows[LIVEPATCH] if name.startswith("mark") else nothing
        per_hit = each - base
        ratio = f"{per_hit / (optimized - nothing):.2f}" if optimized and name.endswith(_RECORDING) else ""
        table.add_row(name, f"{each:.0f}", f"{each / base:.2f}", f"{per_hit:.0f}", ratio)
    console.print(table)
    return 0


OPTIMIZED = "kprobe event, optimized"
LIVEPATCH = "livepatch without a mark"
_RECORDING = ("function tracer", "optimized", "breakpoint", "ftrace", "bpftrace", "mark, on")


def _command(kernel: Kernel) -> float:
    """CPU seconds of the command, in a cache where the objects of this place have not been compiled."""
    with TemporaryDirectory() as folder:
        expression = f"count + {os.getpid()}"
        words = ["mark", "fs/read_write.c:vfs_write", expression, "--kernel", kernel.release, "-o", f"{folder}/mark.ko"]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "builder", *words], cwd=ROOT, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _measured(kernel: Kernel) -> dict[str, float]:
    """Nanoseconds for each write, by what was done to it."""
    tree = find_source(None, SourceTarget(kernel.release, banner=kernel.banner))
    built = mark([Mark("vfs_write", ("count", "file"))], tree, Objects(kernel), ModulePlan(MODULE)).patched.module
    plain = _plain(tree, kernel)
    assert built is not None
    with Guest(kernel, MachineConfig(memory_mb=2048), shares=[Share(Path("/"), PLACE)]) as guest:
        guest.check(MOUNTS)
        guest.put("/tmp/writes", _program())
        guest.check(f"chmod +x /tmp/writes; mkdir {INSTANCE}")

        def each() -> float:
            said = guest.check(f"for n in $(seq {RUNS}); do /tmp/writes; done", timeout=300)
            return min(map(int, said.split())) / COUNT

        best: dict[str, float] = {}
        for _ in range(ROUNDS):
            for name, state in _states(guest, plain, built.content):
                with state as is_so:
                    if is_so:
                        best[name] = min(each(), best.get(name, inf))
        with suppress(BespokeError):
            best["bpftrace"] = _bpftrace(guest, each)
        return best


def _states(guest: Guest, plain: bytes, marked: bytes) -> Iterator[tuple[str, AbstractContextManager[bool]]]:
    """What is measured, and the guest in that state: whether it could be brought there."""
    yield "nothing", nullcontext(True)
    yield "function tracer", _traced(guest)
    yield "kprobe event, ftrace", _probed(guest, "vfs_write", optimized=False)
    yield "kprobe event, breakpoint", _probed(guest, PROBE, optimized=False)
    yield OPTIMIZED, _probed(guest, PROBE, optimized=True)
    yield LIVEPATCH, _loaded(guest, PLAIN, plain)
    yield "mark, off", _loaded(guest, MODULE, marked)
    yield "mark, on", _loaded(guest, MODULE, marked, recording=True)


def _plain(tree: SourceTree, kernel: Kernel) -> bytes:
    """A livepatch of the same function that does what it did: with an instruction more, that does nothing."""
    before = (tree.root / CHANGED).read_bytes()
    at = before.index(FIRST, before.index(b"\nssize_t vfs_write("))
    after = before[:at] + b'\tasm volatile("nop"); ' + before[at + 1 :]
    with TemporaryDirectory() as folder:
        made = Path(folder) / "plain.patch"
        made.write_text(as_patch({CHANGED: (before, after)}, "nothing"))
        module = patch([made], tree, Objects(kernel), ModulePlan(PLAIN), AS_USUAL).module
    assert module is not None
    return module.content


@contextmanager
def _loaded(guest: Guest, name: str, module: bytes, *, recording: bool = False) -> Iterator[bool]:
    """While a livepatch is in force, and its marks are on where they are `recording`."""
    assert guest.insmod(module, name).ok
    guest.wait_transition(name)
    if recording:
        guest.check(f"echo 1 > {INSTANCE}/events/{name}/enable")
    yield True
    if recording:
        guest.check(f"echo 0 > {INSTANCE}/events/{name}/enable")
    guest.disable_livepatch(name)
    guest.check(f"rmmod {name}")


@contextmanager
def _traced(guest: Guest) -> Iterator[bool]:
    """While each call makes the smallest record that there is, without a field: what a place in the buffer costs."""
    guest.check(f"echo vfs_write > {INSTANCE}/set_ftrace_filter && echo function > {INSTANCE}/current_tracer")
    yield True
    guest.check(f"echo nop > {INSTANCE}/current_tracer; echo > {INSTANCE}/set_ftrace_filter")


@contextmanager
def _probed(guest: Guest, place: str, *, optimized: bool) -> Iterator[bool]:
    """While a kprobe event of two fields is on; whether it is optimized as wanted."""
    guest.check(f"echo {int(optimized)} > /proc/sys/debug/kprobes-optimization")
    guest.check(f"echo 'p:bench/one {place} {FIELDS}' > {TRACEFS}/kprobe_events")
    guest.check(f"echo 1 > {INSTANCE}/events/bench/one/enable; sleep 1")
    yield ("[OPTIMIZED]" in guest.check(f"cat {PLACE}/sys/kernel/debug/kprobes/list")) == optimized
    guest.check(f"echo 0 > {INSTANCE}/events/bench/one/enable; echo > {TRACEFS}/kprobe_events")


def _bpftrace(guest: Guest, each: Callable[[], float]) -> float:
    """With the host's bpftrace in the guest; GuestError where it does not run there."""
    guest.check(f"(chroot {PLACE} bpftrace -e '{BPFTRACE}' > /tmp/said 2>&1 & echo $! > /tmp/tracing)")
    guest.check("for n in $(seq 120); do grep -q Attaching /tmp/said && break; sleep 1; done; sleep 5", timeout=200)
    guest.check("kill -0 $(cat /tmp/tracing)")
    try:
        return each()
    finally:
        guest.check("kill -INT $(cat /tmp/tracing); sleep 2; cat /tmp/said")


def _program() -> bytes:
    with TemporaryDirectory() as folder:
        out = Path(folder) / "writes"
        source = Path(__file__).with_name("writes.c")
        words = ["gcc", "-O2", "-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector", f"-DCOUNT={COUNT}"]
        run([*words, "-o", out, source])
        return out.read_bytes()


if __name__ == "__main__":
    sys.exit(main())

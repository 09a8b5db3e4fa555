"""Update a set of marks many times in a guest, under load, with probes in the same functions: slow, so a command.

    python -m tests.operate.updates [--release R] [--updates 100] [--probes 20]

Each update takes the place of the set before it. Every call of the load is numbered: over all versions together each
mark must have counted all of them, and added up their numbers; each probe must have been hit as often as one call says.
Prints what was counted, and fails if a call was lost or doubled, if anything is left, or if the kernel said anything.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory

from builder.acquire.marks.words import Mark
from builder.acquire.packages import newest_kernel
from builder.acquire.sources import SourceTarget, find_source
from builder.acquire.tools import run
from builder.binary.kernel import Kernel
from builder.compose.owner import Objects
from builder.image.guest import Guest, MachineConfig, Share
from builder.image.machine import KPROBE_EVENTS, TRACING
from builder.image.marks import SUFFIX, TRACEFS, parse_totals
from builder.image.transition import LIVEPATCHES
from builder.marks import mark
from builder.operate.trail import manifest_of
from builder.pipeline import ModulePlan
from tests.operate.chroot import MOUNTS, PLACE, python

COMMAND = "numbered"
LOADS = 2
_PORTION = 10
_WRITES, _READS = "count == 77", "count == 78"
SETS = {
    "marks_even": (
        Mark("write_null", condition=_WRITES, aggregate="sum", value="*ppos", name="write_null"),
        Mark("read_null", condition=_READS, aggregate="sum", value="*ppos", name="read_null"),
        Mark("vfs_write", condition=_WRITES, aggregate="hist", value="*pos", name="vfs_write"),
        Mark("vfs_read%return", condition=_READS, aggregate="sum", value="*pos", name="vfs_read"),
    ),
    "marks_odd": (
        Mark("write_null%return", condition=_WRITES, aggregate="hist", value="*ppos", name="write_null"),
        Mark("read_null%return", condition=_READS, aggregate="sum", value="*ppos", name="read_null"),
        Mark("vfs_write%return", condition=_WRITES, aggregate="sum", value="*pos", name="vfs_write"),
        Mark("vfs_read", condition=_READS, aggregate="hist", value="*pos", name="vfs_read"),
    ),
}
"""The same calls are counted by both, at other lines; the numbers of all versions are added up."""
COUNTING = f'hist:keys=common_type if comm == "{COMMAND}"'
PLANT = f"for e in {TRACING}/events/s/*/; do echo '{COUNTING}' > $e/trigger && echo 1 > $e/enable; done"
UPROOT = f"for e in {TRACING}/events/s/*/; do echo 0 > $e/enable; echo '!{COUNTING}' > $e/trigger; done"
"""The trigger holds its event, too."""
HITS = f"cd {TRACING}/events/s && for e in */; do echo ${{e%/}} $(sed -n 's/.*Hits: //p' $e/hist); done"


def places(modules: Iterable[bytes], count: int) -> list[str]:
    """Places that the map of each module knows, of one function after the other."""
    known = [
        {
            (row.old.name, cells.old_offset)
            for row in manifest_of(module, "module").functions
            if row.map is not None and row.old is not None
            for cells in row.map
            if cells.old_offset
        }
        for module in modules
    ]
    both = sorted(set.intersection(*known))
    names = sorted({name for name, _ in both})
    turns = zip_longest(*([f"{name}+{at}" for own, at in both if own == name] for name in names))
    return [place for place in chain.from_iterable(turns) if place is not None][:count]


def build(kernel: Kernel) -> dict[str, bytes]:
    """Both modules; their marks count from the moment that they are loaded."""
    tree = find_source(None, SourceTarget(kernel.release, banner=kernel.banner))
    out = {}
    for name, marks in SETS.items():
        made = mark(marks, tree, Objects(kernel), ModulePlan(name, replace=True), armed=True).patched.module
        assert made is not None
        out[name] = made.content
    return out


def _program() -> bytes:
    with TemporaryDirectory() as folder:
        out = Path(folder) / "calls"
        run(["gcc", "-O2", "-w", "-o", out, Path(__file__).with_name("calls.c")])
        return out.read_bytes()


class Load:
    """The numbered calls in a guest, by as many processes as `LOADS`."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest

    def start(self) -> None:
        """Begin with number 0."""
        calls = "; ".join(f"chroot {PLACE} /run/calls /run/go /run/n{n} &" for n in range(LOADS)).replace("&;", "&")
        self.guest.check(f"rm -f {PLACE}/run/n*; touch {PLACE}/run/go; ({calls}) > /tmp/load 2>&1")

    def stop(self) -> list[int]:
        """End them all; how many calls each has made."""
        self.guest.check(f"rm {PLACE}/run/go; while pidof {COMMAND}; do sleep 0.1; done", timeout=120)
        return [int(self.guest.check(f"stat -c %s {PLACE}/run/n{n}")) for n in range(LOADS)]


def _updated(guest: Guest, updates: int, probes: int) -> Iterator[tuple[str, Sequence[int]]]:
    """(mark, what a version that went has seen of it)."""
    started = time.monotonic()
    for first in range(1, updates + 1, _PORTION):
        count = min(_PORTION, updates + 1 - first)
        yield from _turns(guest, first, count, probes)
        print(f"{first + count - 1} updates, {time.monotonic() - started:.0f} s", flush=True)


def _turns(guest: Guest, first: int, count: int, probes: int) -> Iterator[tuple[str, Sequence[int]]]:
    words = ("-m", "tests.operate.updating", str(first), str(count), str(probes))
    answer = python(guest, *words, *(f"/run/{name}.ko" for name in SETS), timeout=1200)
    assert answer.ok, answer.output
    for line in answer.output.splitlines():
        if line.startswith("{"):
            yield from json.loads(line)["marks"].items()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--release")
    parser.add_argument("--updates", type=int, default=100)
    parser.add_argument("--probes", type=int, default=20)
    options = parser.parse_args()
    kernel = Kernel.open(options.release or newest_kernel("6.1"))
    modules = build(kernel)
    lines = [f"p:s/p{k} {place}" for k, place in enumerate(places(modules.values(), options.probes))]
    assert len(lines) == options.probes, f"there are {len(lines)} places"
    seen: dict[str, list[int]] = {}

    def add(rows: Iterable[tuple[str, Sequence[int]]]) -> None:
        for name, numbers in rows:
            seen[name] = [a + b for a, b in zip(seen.get(name, [0, 0, 0]), numbers, strict=True)]

    with Guest(kernel, MachineConfig(smp=2, memory_mb=2048), shares=[Share(Path("/"), PLACE)]) as guest:
        guest.check(MOUNTS)
        for name, module in modules.items():
            guest.put(f"{PLACE}/run/{name}.ko", module)
        guest.put(f"{PLACE}/run/calls", _program())
        guest.check(f"chmod +x {PLACE}/run/calls; echo 1 > /sys/kernel/rcu_expedited")
        load, mark_, events = Load(guest), guest.mark(), guest.check(f"ls {TRACEFS}/events")
        guest.check("".join(f"echo '{line}' >> {KPROBE_EVENTS}\n" for line in lines) + PLANT)

        def hits() -> Counter[str]:
            rows = guest.check(HITS).split()
            return Counter({name: int(value) for name, value in zip(rows[::2], rows[1::2], strict=True)})

        load.start()
        guest.check("sleep 2")
        plain, alone = sum(load.stop()), hits()
        each = {name: alone[name] // plain for name in alone}
        odd = [name for name in alone if alone[name] % plain]
        list(_turns(guest, 0, 1, options.probes))
        load.start()
        add(_updated(guest, options.updates, options.probes))
        calls = load.stop()
        last = list(SETS)[options.updates % 2]
        rows = parse_totals(guest.check(f"cat {TRACEFS}/{last}{SUFFIX}"))
        add((row.mark, (row.count, row.sum, row.missed)) for row in rows)
        found = hits() - alone
        assert python(guest, "-m", "builder", "unload", last).ok
        planted = len(guest.check(f"cat {KPROBE_EVENTS}").splitlines())
        guest.check(f"{UPROOT}; echo > {KPROBE_EVENTS}")
        left = guest.check(f"ls {LIVEPATCHES} {TRACEFS}/instances {TRACEFS}; cat /proc/modules; :")
        same, warnings = guest.check(f"ls {TRACEFS}/events") == events, guest.warnings(mark_)
    total, numbers = sum(calls), sum(n * (n - 1) // 2 for n in calls)
    print(f"{options.updates} updates of {len(seen)} marks with {len(lines)} probes under {total} numbered calls")
    wrong = [f"mark {name}: {got} instead of {[total, numbers, 0]}" for name, got in seen.items()
             if got != [total, numbers, 0]]  # fmt: skip
    wrong += [f"probe {name}: not as often in each call" for name in odd]
    wrong += [f"probe {name}: {found[name]} instead of {each[name] * total}" for name in each
              if found[name] != each[name] * total]  # fmt: skip
    wrong += [f"{planted} places planted at the end"] if planted != options.probes else []
    wrong += [f"left behind: {left}"] if "marks_" in left or not same else []
    wrong += [f"the kernel warned: {warnings}"] if warnings else []
    print(f"marks: {len(seen) * total} hits; probes: {sum(found.values())} hits; wrong: {len(wrong)}")
    for row in wrong:
        print(f"  {row}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
